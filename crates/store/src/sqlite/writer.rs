//! The one writing thread, which commits what many callers ask for in one transaction.
//!
//! It takes what is queued, without waiting for more: while one commit syncs, the next group gathers. Within a group
//! each write succeeds or fails by itself; a caller is answered after the commit that made its write durable.

use std::sync::Arc;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rusqlite::Connection;
use tokio::sync::oneshot;

use super::checkpoint::Checkpoints;
use super::error::OrStoreError;
use crate::port::StoreError;

/// Changes after which a group is closed, so that a commit stays short.
const GROUP_CHANGES: usize = 4_000;

/// One commit, for metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommitObserved {
    /// Callers whose writes went into it.
    pub writes: usize,
    /// Changes in them.
    pub changes: usize,
    /// From the first statement to the end of the sync.
    pub took: Duration,
    /// Whether the commit as a whole failed (single writes may be refused in one that did not).
    pub failed: bool,
}

/// Called on the writing thread after each commit: must be quick.
pub type CommitObserver = Arc<dyn Fn(CommitObserved) + Send + Sync>;

/// A write in the queue.
trait Write: Send {
    fn changes(&self) -> usize;
    /// Does the work inside of the open transaction. May be called again after a rollback.
    fn apply(&mut self, db: &Connection) -> Result<(), StoreError>;
    /// Tells the caller; `failed` overrules what `apply` said.
    fn answer(self: Box<Self>, failed: Option<StoreError>);
}

struct Task<T, F> {
    changes: usize,
    work: F,
    outcome: Result<T, StoreError>,
    reply: oneshot::Sender<Result<T, StoreError>>,
}

impl<T: Send, F: FnMut(&Connection) -> Result<T, StoreError> + Send> Write for Task<T, F> {
    fn changes(&self) -> usize {
        self.changes
    }

    fn apply(&mut self, db: &Connection) -> Result<(), StoreError> {
        self.outcome = (self.work)(db);
        self.outcome.as_ref().map(|_| ()).map_err(StoreError::clone)
    }

    fn answer(self: Box<Self>, failed: Option<StoreError>) {
        // A caller that went away does not need the answer.
        let _ = self.reply.send(failed.map_or(self.outcome, Err));
    }
}

/// A handle on the thread; dropping it ends the thread after what is queued.
pub(crate) struct Writer {
    queue: Option<mpsc::Sender<Box<dyn Write>>>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// Starts the thread, which owns `db` from here on; `beside` is a second connection to the same file, for
    /// [`Checkpoints`].
    pub fn spawn(
        name: &str,
        mut db: Connection,
        beside: Connection,
        observer: Option<CommitObserver>,
    ) -> Result<Writer, StoreError> {
        let mut checkpoints = Checkpoints::spawn(name, &mut db, beside)?;
        let (queue, inbox) = mpsc::channel::<Box<dyn Write>>();
        let run = move || {
            let mut group = Vec::new();
            while let Ok(first) = inbox.recv() {
                let mut changes = first.changes();
                group.push(first);
                while changes < GROUP_CHANGES
                    && let Ok(next) = inbox.try_recv()
                {
                    changes += next.changes();
                    group.push(next);
                }
                let begun = Instant::now();
                let (failures, failed) = commit_group(&db, &mut group);
                if let Some(observe) = &observer {
                    observe(CommitObserved { writes: group.len(), changes, took: begun.elapsed(), failed });
                }
                for (write, failure) in group.drain(..).zip(failures) {
                    write.answer(failure);
                }
                checkpoints.after_commit(&db);
            }
            checkpoints.finish(&db);
        };
        let thread = thread::Builder::new().name(name.to_owned()).spawn(run);
        let thread = thread.map_err(|error| StoreError::Unavailable { why: format!("no thread: {error}") })?;
        Ok(Writer { queue: Some(queue), thread: Some(thread) })
    }

    /// Queues `work` (of about `changes` changes) and waits until it is durable or refused. `work` runs inside of a
    /// transaction shared with others; what it wrote is taken back when it fails. It may run more than once.
    pub async fn run<T, F>(&self, changes: usize, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnMut(&Connection) -> Result<T, StoreError> + Send + 'static,
    {
        let stopped = || StoreError::Unavailable { why: "the writing thread has stopped".to_owned() };
        let (reply, answer) = oneshot::channel();
        let task = Task { changes, work, outcome: Err(stopped()), reply };
        self.queue.as_ref().ok_or_else(stopped)?.send(Box::new(task)).map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the writing thread of the store panicked");
        }
    }
}

/// Writes the group in one transaction. Returns what to tell each caller instead of the outcome of its own work, and
/// whether the transaction failed as a whole.
fn commit_group(db: &Connection, group: &mut [Box<dyn Write>]) -> (Vec<Option<StoreError>>, bool) {
    // Refusals are rare, savepoints are not free: first without.
    let mut applied = transaction(db, || group.iter_mut().try_for_each(|write| write.apply(db)));
    if applied.is_err() && group.len() > 1 {
        applied = transaction(db, || group.iter_mut().try_for_each(|write| apply_isolated(db, write.as_mut())));
    }
    match applied {
        Ok(()) => (vec![None; group.len()], false),
        // Alone in its group: its own refusal, or that of the commit, is the answer.
        Err(error) => {
            let whole =
                !matches!(error, StoreError::Conflict { .. } | StoreError::Fenced { .. } | StoreError::Exists { .. });
            (vec![Some(error); group.len()], whole)
        }
    }
}

/// Runs `work` in a transaction, which is rolled back when it or the commit fails.
fn transaction(db: &Connection, work: impl FnOnce() -> Result<(), StoreError>) -> Result<(), StoreError> {
    execute(db, "BEGIN IMMEDIATE")?;
    let outcome = work().and_then(|()| execute(db, "COMMIT"));
    if outcome.is_err() && !db.is_autocommit() {
        // On some errors SQLite rolled back by itself; if it cannot at all, the next BEGIN says so.
        let _ = execute(db, "ROLLBACK");
    }
    outcome
}

/// Applies one write of several. A refusal takes back its own work only and is kept for its caller.
fn apply_isolated(db: &Connection, write: &mut dyn Write) -> Result<(), StoreError> {
    execute(db, "SAVEPOINT one_write")?;
    if let Err(error) = write.apply(db) {
        if db.is_autocommit() {
            // SQLite gave up the whole transaction (full disk, failing medium), and with it what others wrote.
            return Err(error);
        }
        execute(db, "ROLLBACK TO one_write")?;
    }
    execute(db, "RELEASE one_write")
}

fn execute(db: &Connection, sql: &str) -> Result<(), StoreError> {
    db.prepare_cached(sql).and_then(|mut statement| statement.execute([])).map(drop).or_store_error()
}
