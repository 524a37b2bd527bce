//! Moving the write-ahead log into the database file, beside the writing thread.
//!
//! Most of the work, thousands of scattered pages and their sync, happens on a connection of its own while commits go on.
//! The writing thread then moves the little that came meanwhile, after which the log starts again from its beginning.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use rusqlite::Connection;

use super::error::{OrStoreError, store_error};
use crate::port::StoreError;

/// Pages of the log (4 KiB each) after which it is moved.
const PAGES: u32 = 4_000;

/// Pages that must come before it is tried again, when a reader held old pages the last time.
const RETRY_PAGES: u32 = 1_000;

/// The writing thread's side.
pub(super) struct Checkpoints {
    /// Pages in the log, as of the last commit.
    pages: Arc<AtomicU32>,
    /// Pages at which the next round begins.
    begin_at: u32,
    is_running: bool,
    is_done: Arc<AtomicBool>,
    wake: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Checkpoints {
    /// Takes over from SQLite's own checkpoints, which happen inside of a commit while callers wait. `beside` is a
    /// second connection to the file that `db` writes.
    pub fn spawn(name: &str, db: &mut Connection, beside: Connection) -> Result<Checkpoints, StoreError> {
        let pages = Arc::new(AtomicU32::new(0));
        let seen = pages.clone();
        let hook = move |_: &mut rusqlite::hooks::Wal, pages: std::ffi::c_int| {
            seen.store(pages.unsigned_abs(), Ordering::Relaxed);
            Ok(())
        };
        db.wal_hook(Some(hook)).or_store_error()?;
        let (wake, inbox) = mpsc::channel();
        let is_done = Arc::new(AtomicBool::new(false));
        let done = is_done.clone();
        let run = move || {
            while inbox.recv().is_ok() {
                checkpoint(&beside, "PASSIVE");
                done.store(true, Ordering::Release);
            }
        };
        let thread = thread::Builder::new().name(format!("{name}-checkpoint")).spawn(run);
        let thread = thread.map_err(|error| StoreError::Unavailable { why: format!("no thread: {error}") })?;
        let (wake, thread) = (Some(wake), Some(thread));
        Ok(Checkpoints { pages, begin_at: PAGES, is_running: false, is_done, wake, thread })
    }

    /// To be called by the writing thread between two transactions.
    pub fn after_commit(&mut self, db: &Connection) {
        if self.is_running {
            if self.is_done.swap(false, Ordering::Acquire) {
                self.is_running = false;
                let is_complete = checkpoint(db, "PASSIVE");
                let pages = self.pages.load(Ordering::Relaxed);
                self.begin_at = if is_complete { PAGES } else { pages + RETRY_PAGES };
                if is_complete {
                    self.pages.store(0, Ordering::Relaxed);
                }
            }
        } else if self.pages.load(Ordering::Relaxed) >= self.begin_at {
            // It cannot have gone while we hold the sender.
            self.is_running = self.wake.as_ref().is_some_and(|wake| wake.send(()).is_ok());
        }
    }

    /// Ends the thread and empties the log.
    pub fn finish(mut self, db: &Connection) {
        self.wake = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the checkpointing thread of the store panicked");
        }
        checkpoint(db, "TRUNCATE");
    }
}

/// Whether the whole log is in the database file. What fails here is tried again later; nothing is lost by it.
fn checkpoint(db: &Connection, mode: &str) -> bool {
    let mut is_complete = false;
    let done = db.pragma(None, "wal_checkpoint", mode, |row| {
        let (in_log, moved): (i64, i64) = (row.get(1)?, row.get(2)?);
        is_complete = in_log == moved;
        Ok(())
    });
    if let Err(error) = done.map_err(store_error) {
        tracing::warn!(%error, "the write-ahead log could not be moved into the database file");
    }
    is_complete
}
