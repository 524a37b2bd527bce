//! Moves a script's output into the log while it runs.

use std::io::PipeReader;
use std::os::fd::OwnedFd;
use std::time::Duration;

use pendula_worker::{Failure, Task};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tokio_util::task::AbortOnDropHandle;

use super::output::{Collected, OutputFilter};

/// Bytes taken from the pipe at once.
const CHUNK_BYTES: usize = 64 * 1024;
/// How long the rest of the output is awaited when no process is left that could write it: somebody outside the tree,
/// who was handed the other end of the pipe, may hold it for ever.
const REST: Duration = Duration::from_secs(5);

/// A running transfer. A slow log slows the script, which waits in its `write`. Dropped, it stops.
pub(super) struct Pump {
    notes: mpsc::Sender<String>,
    transfer: AbortOnDropHandle<Collected>,
}

impl Pump {
    /// Starts to move what `reader` gives into the log of `task`, at most `limit` bytes.
    pub(super) fn start(reader: PipeReader, task: Task, limit: u64) -> std::io::Result<Pump> {
        let pipe = Receiver::from_owned_fd(OwnedFd::from(reader))?;
        let (notes, received) = mpsc::channel(16);
        let transfer = AbortOnDropHandle::new(tokio::spawn(transfer(pipe, task, limit, received)));
        Ok(Pump { notes, transfer })
    }

    /// Puts a line of our own into the log, between lines of the script.
    pub(super) async fn note(&self, text: String) {
        // The transfer ends early only by a panic, which `finish` tells.
        let _ = self.notes.send(text).await;
    }

    /// Moves the rest, once all processes have ended.
    pub(super) async fn finish(self) -> Result<Collected, Failure> {
        drop(self.notes);
        self.transfer.await.map_err(Failure::from_display)
    }
}

async fn transfer(mut pipe: Receiver, task: Task, limit: u64, mut notes: mpsc::Receiver<String>) -> Collected {
    let mut filter = OutputFilter::new(limit);
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut log = Vec::new();
    let mut open = true;
    // Set when all processes have ended.
    let mut deadline: Option<Instant> = None;
    while open || deadline.is_none() {
        tokio::select! {
            biased;
            note = notes.recv(), if deadline.is_none() => match note {
                Some(note) => write_note(&task, &filter, &note).await,
                None => deadline = Some(Instant::now() + REST),
            },
            read = pipe.read(&mut chunk), if open => {
                let Ok(length @ 1..) = read else {
                    open = false;
                    continue;
                };
                let note = filter.feed(&chunk[..length], &mut log);
                task.log().write(&log).await;
                log.clear();
                if let Some(note) = note {
                    write_note(&task, &filter, &note).await;
                }
            }
            () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => open = false,
        }
    }
    let collected = filter.finish();
    if collected.malformed > 0 {
        let count = collected.malformed;
        let note = format!("[pendula] {count} line(s) begin with `::output ` but do not go on as `name=value`");
        task.log().write_line(&note).await;
    }
    collected
}

async fn write_note(task: &Task, filter: &OutputFilter, note: &str) {
    let line_break = if filter.at_line_start() { "" } else { "\n" };
    task.log().write_line(&format!("{line_break}[pendula] {note}")).await;
}
