//! From a claim to the next: a partition's life on this server.
//!
//! A refused commit means that our memory is not what the store has. Then everything about the partition is dropped
//! (callers are told to try again, workers reconnect and announce what they hold) and the next claim begins afresh.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::FutureExt;
use pendula_engine::Settings;
use pendula_store::{Store, StoreError};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::handle::{CommandError, Mailbox, Message, Standing};
use super::rounds::{Ended, Rounds};
use crate::clock::Clock;
use crate::health::Health;
use crate::logs::LogHub;
use crate::metrics::Metrics;

/// The first pause before a partition is claimed again; doubled each time up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// A partition that was well for so long starts with the first pause again.
const WELL_AFTER: Duration = Duration::from_secs(60);
/// What callers and workers are told at the end.
const STOPPING: &str = "the server is shutting down";

/// What all partitions of a server share.
pub(crate) struct Owner {
    /// Who we are, in the store's record of owners.
    pub(crate) name: String,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) health: Arc<Health>,
    pub(crate) log_hub: LogHub,
    pub(crate) settings: Settings,
    /// Changes when the wall clock jumped, so that whoever sleeps until a wall time looks again.
    pub(crate) clock_jumps: watch::Receiver<u64>,
    pub(crate) stop: CancellationToken,
    /// Partitions that are not ready to work.
    pub(crate) missing: AtomicUsize,
}

/// Starts a loop for each mailbox, on `tasks`.
pub(crate) fn start(owner: Arc<Owner>, mailboxes: Vec<Mailbox>, tasks: &TaskTracker) {
    owner.missing.store(mailboxes.len(), Ordering::Release);
    owner.health.not_yet("partitions", "they are being loaded");
    for mailbox in mailboxes {
        tasks.spawn(keep(owner.clone(), mailbox));
    }
}

/// Owns one partition until the server stops.
async fn keep(owner: Arc<Owner>, mut mailbox: Mailbox) {
    let partition = mailbox.partition;
    let mut pause = FIRST_PAUSE;
    loop {
        let since = Instant::now();
        // A panic is a bug of ours, and is kept to the partition that met it.
        match AssertUnwindSafe(own(&owner, &mut mailbox)).catch_unwind().await {
            Ok(Ended::Stopped) => break,
            Ok(Ended::Refused(error)) => tell(&error, &mailbox),
            Err(panic) => {
                let what = panic.downcast_ref::<String>().map(String::as_str);
                let what = what.or_else(|| panic.downcast_ref::<&str>().copied());
                tracing::error!(%partition, what, "a partition panicked; reading it again");
            }
        }
        owner.metrics.partition_reloaded();
        if since.elapsed() >= WELL_AFTER {
            pause = FIRST_PAUSE;
        }
        if owner.stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
            break;
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
    refuse_what_waits(&mut mailbox);
    tracing::debug!(%partition, "partition stopped");
}

/// One claim and what follows it.
async fn own(owner: &Arc<Owner>, mailbox: &mut Mailbox) -> Ended {
    let Some(mut rounds) = owner.stop.run_until_cancelled(claim(owner, mailbox)).await else { return Ended::Stopped };
    let _owned = Owned::new(owner, mailbox.standing.clone());
    let ended = rounds.run(mailbox).await;
    if let Ended::Stopped = ended {
        rounds.let_go(STOPPING, &tonic::Status::unavailable(STOPPING));
    }
    ended
}

/// Shows that the partition is owned, for as long as it lives.
struct Owned<'a> {
    owner: &'a Owner,
    standing: Arc<Standing>,
}

impl<'a> Owned<'a> {
    fn new(owner: &'a Owner, standing: Arc<Standing>) -> Self {
        standing.set_owned(true);
        if owner.missing.fetch_sub(1, Ordering::AcqRel) == 1 {
            owner.health.recovered("partitions");
        }
        Owned { owner, standing }
    }
}

impl Drop for Owned<'_> {
    fn drop(&mut self) {
        self.standing.set_owned(false);
        self.owner.missing.fetch_add(1, Ordering::AcqRel);
        self.owner.health.not_yet("partitions", "some are being read again");
    }
}

async fn claim(owner: &Arc<Owner>, mailbox: &Mailbox) -> Rounds {
    let partition = mailbox.partition;
    let claimed = owner.insist("claiming a partition", || async {
        let started = Instant::now();
        let epoch = owner.store.partition_claim(partition, &owner.name, owner.clock.now()).await?;
        owner.metrics.store_took("claim", started.elapsed());
        let started = Instant::now();
        let snapshot = owner.store.partition_load(partition).await?;
        owner.metrics.store_took("load", started.elapsed());
        Ok((epoch, snapshot))
    });
    let (epoch, snapshot) = claimed.await;
    tracing::debug!(
        %partition,
        epoch = epoch.0,
        active = snapshot.instances.len(),
        broken = snapshot.broken.len(),
        "partition claimed"
    );
    Rounds::new(owner.clone(), epoch, snapshot, mailbox.standing.clone())
}

impl Owner {
    /// Repeats a read until it succeeds, ever more slowly. What depends on it waits; whoever waits for that is told by
    /// their deadline.
    pub(super) async fn insist<T, F: Future<Output = Result<T, StoreError>>>(
        &self,
        what: &str,
        read: impl Fn() -> F,
    ) -> T {
        let mut pause = FIRST_PAUSE;
        loop {
            match read().await {
                Ok(found) => {
                    if pause > FIRST_PAUSE {
                        self.health.recovered("store");
                    }
                    return found;
                }
                Err(error) => {
                    self.health.broken("store", format!("{what}: {error}"));
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }
}

/// Conflicts cannot come from outside while the lease is ours: they are bugs, here or in what wrote the database.
fn tell(error: &StoreError, mailbox: &Mailbox) {
    let partition = mailbox.partition;
    match error {
        StoreError::Unavailable { .. } => tracing::warn!(%partition, %error, "what was decided last is not on disk"),
        StoreError::Fenced { .. } => tracing::warn!(%partition, %error, "partition lost; claiming it again"),
        _ => tracing::error!(%partition, %error, "a commit was refused; reading the partition again"),
    }
}

/// Nothing new comes in any more; who is still in the queue learns so.
fn refuse_what_waits(mailbox: &mut Mailbox) {
    mailbox.inbox.close();
    let stopping = || CommandError::unavailable(STOPPING);
    while let Some(message) = mailbox.taken.pop_front().or_else(|| mailbox.inbox.try_recv().ok()) {
        match message {
            Message::Command { answer, .. } => drop(answer.send(Err(stopping()))),
            Message::Commands { commands, answer } => {
                let _ = answer.send(vec![Err(stopping()); commands.len()]);
            }
            Message::Connected { outbox, .. } => outbox.close(tonic::Status::unavailable(STOPPING)),
            Message::Input(_) | Message::Much { .. } => {}
        }
    }
}
