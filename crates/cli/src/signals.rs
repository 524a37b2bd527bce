//! The signals that end a process: the first asks, the second insists.

use tokio::signal::unix::{SignalKind, signal};

/// Exit code of a process that was told twice, as a shell has it for SIGINT.
const INSISTED: i32 = 130;

/// Resolves on the first SIGTERM or SIGINT. A second one exits the process at once.
///
/// # Errors
/// When the system does not let us receive signals.
pub fn once_then_exit() -> std::io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let (asked, first) = tokio::sync::oneshot::channel();
    tokio::spawn(async move {
        let mut next = async || {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        next().await;
        // Nobody listens any more when the work ended by itself.
        let _ = asked.send(());
        next().await;
        eprintln!("pendula: told twice, exiting at once");
        std::process::exit(INSISTED);
    });
    Ok(async move {
        // The sender lives as long as the process.
        let _ = first.await;
    })
}
