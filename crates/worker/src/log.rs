//! A task's log, from the handler to the session.
//!
//! Bytes become UTF-8 on the way in, wait in a bounded buffer until the server has them on disk, and are sent again
//! after a reconnect. What had to be dropped is counted and shows up in the stored log as a gap, never silently.

mod buffer;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use pendula_wire::frame::LOG_CHUNK_BYTES;
use tokio::sync::Notify;

pub(crate) use buffer::{Chunk, LogBuffer};

use crate::event::Event;
use crate::task::TaskState;

/// How long a writer waits for a connected server that acknowledges nothing, before it drops instead.
const STALL: Duration = Duration::from_secs(30);

/// What all logs of a worker share.
#[derive(Debug)]
pub(crate) struct LogShare {
    /// Bytes that one attempt may have unacknowledged.
    pub(crate) per_attempt: usize,
    /// Bytes that all attempts together may have unacknowledged.
    pub(crate) total: usize,
    used: AtomicUsize,
    connected: AtomicBool,
}

impl LogShare {
    pub(crate) fn new(per_attempt: usize, total: usize) -> Arc<Self> {
        let (used, connected) = (AtomicUsize::new(0), AtomicBool::new(false));
        Arc::new(LogShare { per_attempt, total, used, connected })
    }

    /// Whether writers wait for room (connected) or drop (not). After `false`, wake them with [`LogWriter::wake`].
    pub(crate) fn set_connected(&self, connected: bool) {
        self.connected.store(connected, Ordering::Release);
    }
}

/// What a log above its bound does.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Full {
    Refuse,
    DropOldest,
}

/// Where the log of one task is written. Shared by all clones of the task.
///
/// The log is UTF-8: other bytes become U+FFFD. A character that is split between two calls is put together again.
/// Unacknowledged bytes are bounded per attempt (1 MiB unless configured) and per worker (64 MiB).
#[derive(Debug)]
pub struct LogWriter {
    buffer: Mutex<LogBuffer>,
    share: Arc<LogShare>,
    room: Notify,
    /// The task that this log is of, set right after both were made.
    task: OnceLock<Weak<TaskState>>,
}

impl LogWriter {
    pub(crate) fn new(share: Arc<LogShare>) -> Self {
        LogWriter { buffer: Mutex::default(), share, room: Notify::new(), task: OnceLock::new() }
    }

    pub(crate) fn attach(&self, task: &Arc<TaskState>) {
        self.task.get_or_init(|| Arc::downgrade(task));
    }

    /// Appends bytes. While the worker is connected and the bound is reached, waits until the server has stored enough
    /// (at most half a minute without any progress). While it is not connected, drops the oldest bytes instead, so
    /// that work goes on without a server.
    pub async fn write(&self, bytes: impl AsRef<[u8]>) {
        for piece in bytes.as_ref().chunks(LOG_CHUNK_BYTES) {
            self.write_piece(&[piece]).await;
        }
    }

    /// Appends `line` and a line feed: see [`LogWriter::write`]. Lines of up to 64 KiB are not torn apart by others.
    pub async fn write_line(&self, line: &str) {
        if line.len() < LOG_CHUNK_BYTES {
            self.write_piece(&[line.as_bytes(), b"\n"]).await;
        } else {
            self.write(line).await;
            self.write("\n").await;
        }
    }

    /// Appends bytes without waiting. Above the bound the oldest bytes are dropped, connected or not.
    pub fn push(&self, bytes: impl AsRef<[u8]>) {
        self.append(&[bytes.as_ref()], Full::DropOldest);
    }

    /// Appends `line` and a line feed without waiting: see [`LogWriter::push`].
    pub fn push_line(&self, line: &str) {
        self.append(&[line.as_bytes(), b"\n"], Full::DropOldest);
    }

    async fn write_piece(&self, parts: &[&[u8]]) {
        loop {
            // Enabled before the state is read, so that a wake-up in between is not missed.
            let mut room = std::pin::pin!(self.room.notified());
            room.as_mut().enable();
            if self.append(parts, Full::Refuse) {
                return;
            }
            let killed = || self.task.get().and_then(Weak::upgrade).is_some_and(|task| task.stop.is_killed());
            let connected = self.share.connected.load(Ordering::Acquire);
            if !connected || killed() || tokio::time::timeout(STALL, room).await.is_err() {
                self.append(parts, Full::DropOldest);
                return;
            }
        }
    }

    /// Appends all parts together and tells the loop. Returns whether it did.
    fn append(&self, parts: &[&[u8]], full: Full) -> bool {
        let mut buffer = self.lock();
        let before = buffer.unacked();
        let others = self.share.used.load(Ordering::Relaxed).saturating_sub(before);
        let bound = self.share.per_attempt.min(self.share.total.saturating_sub(others));
        // One piece always fits, or a small total would hold up everybody for ever.
        let fits = before == 0 || before + parts.iter().map(|part| part.len()).sum::<usize>() <= bound;
        if !fits && full == Full::Refuse {
            return false;
        }
        for part in parts {
            buffer.append(part);
        }
        if full == Full::DropOldest && buffer.unacked() > bound {
            buffer.drop_oldest(bound);
        }
        self.account(before, buffer.unacked());
        let is_news = buffer.has_unsent() && buffer.announce();
        drop(buffer);
        if is_news {
            self.announce();
        }
        true
    }

    fn announce(&self) {
        if let Some(task) = self.task.get().and_then(Weak::upgrade) {
            // Nobody listens only when the worker is gone.
            let _ = task.events.send(Event::Logged(task.clone()));
        }
    }

    fn account(&self, before: usize, after: usize) {
        if after >= before {
            self.share.used.fetch_add(after - before, Ordering::Relaxed);
        } else {
            self.share.used.fetch_sub(before - after, Ordering::Relaxed);
        }
    }

    fn lock(&self) -> MutexGuard<'_, LogBuffer> {
        self.buffer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // What follows is the loop's side.

    /// The next piece to send, if there is one. Once there is none, the next write announces itself again.
    pub(crate) fn next_chunk(&self) -> Option<Chunk> {
        let mut buffer = self.lock();
        let before = buffer.unacked();
        let chunk = buffer.next_chunk();
        self.account(before, buffer.unacked());
        chunk
    }

    /// The server has everything before `offset` on disk.
    pub(crate) fn acknowledge(&self, offset: u64) {
        let mut buffer = self.lock();
        let before = buffer.unacked();
        buffer.acknowledge(offset);
        self.account(before, buffer.unacked());
        drop(buffer);
        self.wake();
    }

    /// The connection is gone: what is not acknowledged is to be sent again.
    pub(crate) fn rewind(&self) {
        self.lock().rewind();
    }

    /// Nothing more will be written. Returns whether anything ever was.
    pub(crate) fn finish(&self) -> bool {
        let mut buffer = self.lock();
        let before = buffer.unacked();
        buffer.finish();
        self.account(before, buffer.unacked());
        !buffer.is_empty()
    }

    /// Whether something is to be sent, the end mark included.
    pub(crate) fn has_unsent(&self) -> bool {
        self.lock().has_unsent()
    }

    /// Whether it has ended and the server has all of it.
    pub(crate) fn is_settled(&self) -> bool {
        self.lock().is_settled()
    }

    /// Lets waiting writers look again.
    pub(crate) fn wake(&self) {
        self.room.notify_waiters();
    }
}

impl Drop for LogWriter {
    fn drop(&mut self) {
        let unacked = self.lock().unacked();
        self.account(unacked, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: usize = 1024;

    #[test]
    fn what_all_logs_use_is_counted_exactly() {
        let share = LogShare::new(256 * KIB, 512 * KIB);
        let logs: Vec<_> = (0..4).map(|_| LogWriter::new(share.clone())).collect();
        let used = || share.used.load(Ordering::Relaxed);
        for round in 0..200 {
            let log = &logs[round % 4];
            log.push("x".repeat(round * 397));
            assert!(used() <= 512 * KIB + 64 * KIB, "{}", used());
            if round % 3 == 0 {
                while let Some(chunk) = log.next_chunk() {
                    log.acknowledge(chunk.offset + chunk.data.len() as u64 / 2);
                }
                log.rewind();
            }
        }
        logs[0].finish();
        assert_eq!(used(), logs.iter().map(|log| log.lock().unacked()).sum::<usize>());
        drop(logs);
        assert_eq!(used(), 0);
    }

    #[tokio::test]
    async fn a_writer_waits_for_room_only_while_connected() {
        let share = LogShare::new(128 * KIB, 128 * KIB);
        share.set_connected(true);
        let log = Arc::new(LogWriter::new(share.clone()));
        log.write("x".repeat(100 * KIB)).await;
        let writer = tokio::spawn({
            let log = log.clone();
            async move { log.write("y".repeat(60 * KIB)).await }
        });
        tokio::task::yield_now().await;
        assert!(!writer.is_finished());
        share.set_connected(false);
        log.wake();
        writer.await.unwrap();
        let first = log.next_chunk().unwrap();
        assert!(first.lost_before > 0 && first.offset == first.lost_before);
    }
}
