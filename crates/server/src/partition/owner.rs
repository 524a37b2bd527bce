//! From a claim to the next: a partition's life on this server.
//!
//! A refused commit means that our memory is not what the store has. Then everything about the partition is dropped
//! (callers are told to try again, workers reconnect and announce what they hold) and the next claim begins afresh.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use pendula_engine::Settings;
use pendula_store::{Store, StoreError};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::handle::{CommandError, Mailbox, Message};
use super::load::insist;
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
    owner.health.broken("partitions", "they are being loaded");
    for mailbox in mailboxes {
        tasks.spawn(keep(owner.clone(), mailbox));
    }
}

/// Owns one partition until the server stops.
async fn keep(owner: Arc<Owner>, mut mailbox: Mailbox) {
    let partition = mailbox.partition;
    let mut pause = FIRST_PAUSE;
    loop {
        let stop = owner.stop.clone();
        let Some(mut rounds) = stop.run_until_cancelled(claim(&owner, &mailbox)).await else { break };
        owner.has(&mailbox, true);
        let since = Instant::now();
        let ended = rounds.run(&mut mailbox).await;
        owner.has(&mailbox, false);
        match ended {
            Ended::Stopped => {
                rounds.give_up(STOPPING, &tonic::Status::unavailable(STOPPING));
                break;
            }
            Ended::Refused(error) => {
                owner.metrics.partition_reloaded();
                tell(&error, &mailbox);
                let farewell = tonic::Status::aborted("the partition moved; connect again at once");
                rounds.give_up("its state is being read again", &farewell);
            }
        }
        if since.elapsed() >= WELL_AFTER {
            pause = FIRST_PAUSE;
        }
        if stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
            break;
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
    refuse_what_waits(&mut mailbox);
    tracing::debug!(%partition, "partition stopped");
}

async fn claim(owner: &Arc<Owner>, mailbox: &Mailbox) -> Rounds {
    let partition = mailbox.partition;
    let (epoch, snapshot) = insist("claiming a partition", || async {
        let started = Instant::now();
        let epoch = owner.store.partition_claim(partition, &owner.name, owner.clock.now()).await?;
        owner.metrics.store_took("claim", started.elapsed());
        let started = Instant::now();
        let snapshot = owner.store.partition_load(partition).await?;
        owner.metrics.store_took("load", started.elapsed());
        Ok((epoch, snapshot))
    })
    .await;
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
    fn has(&self, mailbox: &Mailbox, owned: bool) {
        mailbox.standing.set_owned(owned);
        let missing = if owned {
            self.missing.fetch_sub(1, Ordering::AcqRel) - 1
        } else {
            self.missing.fetch_add(1, Ordering::AcqRel) + 1
        };
        if missing == 0 {
            self.health.recovered("partitions");
        } else {
            self.health.broken("partitions", "some are being loaded");
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
    while let Ok(message) = mailbox.inbox.try_recv() {
        match message {
            Message::Command { answer, .. } => drop(answer.send(Err(stopping()))),
            Message::Commands { commands, answer } => {
                let _ = answer.send(vec![Err(stopping()); commands.len()]);
            }
            Message::Connected { outbox, .. } => outbox.close(tonic::Status::unavailable(STOPPING)),
            Message::Input(_) => {}
        }
    }
}
