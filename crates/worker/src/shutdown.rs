//! How a worker is told to end.

use tokio::sync::watch;

/// Tells a worker to end, in two steps. Clones are the same switch; a worker whose switch nobody holds goes on.
#[derive(Clone, Debug)]
pub struct Shutdown {
    step: watch::Sender<Step>,
}

/// How urgent it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Step {
    Serve,
    Drain,
    Now,
}

impl Default for Shutdown {
    fn default() -> Self {
        Self::new()
    }
}

impl Shutdown {
    /// A switch that only code operates.
    pub fn new() -> Self {
        Shutdown { step: watch::Sender::new(Step::Serve) }
    }

    /// Drains on the first SIGTERM or SIGINT (Ctrl-C) of the process, exits at once on the second. Must be called
    /// inside a tokio runtime. From then on these signals do not end the process by themselves.
    pub fn on_signals() -> Self {
        let shutdown = Self::new();
        let listener = shutdown.clone();
        tokio::spawn(async move {
            if let Err(error) = listener.listen().await {
                tracing::warn!(%error, "signals cannot be received; the worker ends only by force");
            }
        });
        shutdown
    }

    /// Drains when `signal` completes.
    pub fn when(signal: impl Future<Output = ()> + Send + 'static) -> Self {
        let shutdown = Self::new();
        let listener = shutdown.clone();
        tokio::spawn(async move {
            signal.await;
            listener.drain();
        });
        shutdown
    }

    /// Asks the worker to take nothing new, to finish or hand back what runs, and to return.
    pub fn drain(&self) {
        self.raise(Step::Drain);
    }

    /// Asks the worker to return at once, whatever runs.
    pub fn now(&self) {
        self.raise(Step::Now);
    }

    fn raise(&self, step: Step) {
        self.step.send_if_modified(|current| {
            let raised = *current < step;
            *current = step.max(*current);
            raised
        });
    }

    pub(crate) fn watch(&self) -> watch::Receiver<Step> {
        self.step.subscribe()
    }

    #[cfg(unix)]
    async fn listen(&self) -> std::io::Result<()> {
        use tokio::signal::unix::{SignalKind, signal};
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        for step in [Step::Drain, Step::Now] {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            self.raise(step);
        }
        Ok(())
    }

    #[cfg(not(unix))]
    async fn listen(&self) -> std::io::Result<()> {
        for step in [Step::Drain, Step::Now] {
            tokio::signal::ctrl_c().await?;
            self.raise(step);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_only_becomes_more_urgent() {
        let shutdown = Shutdown::new();
        let watch = shutdown.watch();
        shutdown.now();
        shutdown.drain();
        assert_eq!(*watch.borrow(), Step::Now);
    }
}
