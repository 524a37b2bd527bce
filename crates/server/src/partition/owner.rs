//! From a claim to the next: a partition's life on this server.
//!
//! A server that is alone on its store claims all partitions and keeps them. Among others it claims what is due here, as
//! [`Member`] says, and gives it away when it is due elsewhere.
//!
//! A refused commit means that our memory is not what the store has. Then everything about the partition is dropped
//! (callers are told to try again, workers reconnect and announce what they hold) and the next claim begins afresh.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::FutureExt;
use pendula_engine::Settings;
use pendula_model::Epoch;
use pendula_store::{Store, StoreError};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::handle::{CommandError, Mailbox, Message, Standing};
use super::rounds::{Ended, Rounds};
use crate::clock::Clock;
use crate::cluster::Member;
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
    /// Among others on the same store; nothing when we are alone.
    pub(crate) member: Option<Member>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) health: Arc<Health>,
    pub(crate) log_hub: LogHub,
    pub(crate) settings: Settings,
    /// Changes when the wall clock jumped, so that whoever sleeps until a wall time looks again.
    pub(crate) clock_jumps: watch::Receiver<u64>,
    pub(crate) stop: CancellationToken,
    /// Partitions that should be here and are not ready to work.
    pub(crate) missing: AtomicUsize,
}

/// Starts a loop for each mailbox, on `tasks`.
pub(crate) fn start(owner: Arc<Owner>, mailboxes: Vec<Mailbox>, tasks: &TaskTracker) {
    for mailbox in mailboxes {
        // Alone, all of them belong here from the first moment on: who asks early waits.
        let is_alone = owner.member.is_none();
        mailbox.standing.set_here(is_alone);
        let missing = is_alone.then(|| Missing::new(&owner));
        tasks.spawn(keep(owner.clone(), mailbox, missing));
    }
}

/// Why a partition is not here any more.
enum Gone {
    /// The server stops.
    Stopped,
    /// It is due elsewhere, or somebody else has it.
    Elsewhere,
    /// Its memory was worth nothing; it is to be read again.
    Refused(StoreError),
}

/// Owns one partition until the server stops, whenever it is due here.
async fn keep(owner: Arc<Owner>, mut mailbox: Mailbox, mut missing: Option<Missing>) {
    let partition = mailbox.partition;
    let mut pause = FIRST_PAUSE;
    while let Some(seen) = due(&owner, &mut mailbox).await {
        mailbox.standing.set_here(true);
        let missing = missing.take().unwrap_or_else(|| Missing::new(&owner));
        let since = Instant::now();
        // A panic is a bug of ours, and is kept to the partition that met it.
        match AssertUnwindSafe(own(&owner, &mut mailbox, seen, missing)).catch_unwind().await {
            Ok(Gone::Stopped) => break,
            Ok(Gone::Elsewhere) => {
                mailbox.standing.set_here(false);
                refuse_what_waits(&mut mailbox, &CommandError::NotHere);
                // Whatever of it still waited for the store went with it; who still waits says so again.
                owner.health.recovered("store");
                pause = FIRST_PAUSE;
                continue;
            }
            Ok(Gone::Refused(error)) => tell(&error, &mailbox),
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
        let _missing = Missing::new(&owner);
        if owner.stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
            break;
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
    // Among others, they have it.
    mailbox.standing.set_here(owner.member.is_none());
    mailbox.inbox.close();
    refuse_what_waits(&mut mailbox, &CommandError::unavailable(STOPPING));
    tracing::debug!(%partition, "partition stopped");
}

/// Waits until the partition is to be claimed, with the epoch that it was seen under; nothing when the server stops. What
/// comes in meanwhile was sent a moment too late.
async fn due(owner: &Owner, mailbox: &mut Mailbox) -> Option<Epoch> {
    let Some(member) = &owner.member else { return (!owner.stop.is_cancelled()).then_some(Epoch(0)) };
    loop {
        tokio::select! {
            biased;
            () = owner.stop.cancelled() => return None,
            seen = member.due(mailbox.partition) => return Some(seen),
            message = mailbox.inbox.recv() => refuse(message?, &CommandError::NotHere),
        }
    }
}

/// One claim and what follows it.
async fn own(owner: &Arc<Owner>, mailbox: &mut Mailbox, seen: Epoch, missing: Missing) -> Gone {
    let partition = mailbox.partition;
    let claimed = owner.stop.run_until_cancelled(claim(owner, mailbox, seen)).await;
    let Some(claimed) = claimed else { return Gone::Stopped };
    let Some((mut rounds, epoch)) = claimed else { return Gone::Elsewhere };
    let owned = Owned::new(mailbox.standing.clone(), missing);
    let ended = match &owner.member {
        None => rounds.run(mailbox, &owner.stop).await,
        Some(member) => while_due(owner, member, &mut rounds, mailbox, epoch).await,
    };
    match ended {
        Ended::Stopped if owner.stop.is_cancelled() => {
            rounds.let_go(&CommandError::unavailable(STOPPING), &tonic::Status::unavailable(STOPPING));
            Gone::Stopped
        }
        Ended::Stopped => {
            if let Some(member) = &owner.member
                && let Err(error) = member.release(partition, epoch).await
            {
                // It is claimed by others when our lease is over, or by us if it is due here again.
                tracing::warn!(%partition, %error, "the partition could not be released");
            }
            drop(owned);
            rounds.let_others_have_it();
            tracing::debug!(%partition, "partition given away");
            Gone::Elsewhere
        }
        Ended::LeaseOver => {
            rounds.let_others_have_it();
            tracing::warn!(%partition, "partition dropped: the lease is over, or another server has it");
            Gone::Elsewhere
        }
        Ended::Refused(error @ StoreError::Fenced { .. }) if owner.member.is_some() => {
            tell(&error, mailbox);
            rounds.let_others_have_it();
            Gone::Elsewhere
        }
        Ended::Refused(error) => Gone::Refused(error),
    }
}

/// Runs for as long as the partition is due here and the lease holds.
async fn while_due(owner: &Owner, member: &Member, rounds: &mut Rounds, mailbox: &mut Mailbox, epoch: Epoch) -> Ended {
    let tenure = owner.stop.child_token();
    let mut undue = std::pin::pin!(member.undue(mailbox.partition, epoch));
    let mut over = std::pin::pin!(member.lease().over());
    let mut run = std::pin::pin!(rounds.run(mailbox, &tenure));
    loop {
        tokio::select! {
            biased;
            () = &mut over => return Ended::LeaseOver,
            is_gone = &mut undue, if !tenure.is_cancelled() => {
                if is_gone {
                    return Ended::LeaseOver;
                }
                tenure.cancel();
            }
            ended = &mut run => return ended,
        }
    }
}

/// Shows that a partition should be here and is not, for as long as it lives.
struct Missing {
    owner: Arc<Owner>,
}

impl Missing {
    fn new(owner: &Arc<Owner>) -> Self {
        owner.missing.fetch_add(1, Ordering::AcqRel);
        owner.health.not_yet("partitions", "some are being read");
        Missing { owner: owner.clone() }
    }
}

impl Drop for Missing {
    fn drop(&mut self) {
        if self.owner.missing.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.owner.health.recovered("partitions");
        }
    }
}

/// Shows that the partition is owned, for as long as it lives.
struct Owned {
    standing: Arc<Standing>,
}

impl Owned {
    fn new(standing: Arc<Standing>, missing: Missing) -> Self {
        standing.set_owned(true);
        drop(missing);
        Owned { standing }
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        self.standing.set_owned(false);
    }
}

/// Claims the partition and reads it; nothing when somebody else was faster.
async fn claim(owner: &Arc<Owner>, mailbox: &Mailbox, seen: Epoch) -> Option<(Rounds, Epoch)> {
    let partition = mailbox.partition;
    let epoch = match &owner.member {
        None => {
            let claimed = owner.insist("claiming a partition", || async {
                let started = Instant::now();
                let epoch = owner.store.partition_claim(partition, &owner.name, owner.clock.now()).await?;
                owner.metrics.store_took("claim", started.elapsed());
                Ok(epoch)
            });
            claimed.await
        }
        Some(member) => {
            let started = Instant::now();
            let claimed = member.claim(partition, seen).await;
            owner.metrics.store_took("claim", started.elapsed());
            match claimed {
                Ok(Some(epoch)) => epoch,
                not_had => {
                    if let Err(error) = not_had {
                        tracing::warn!(%partition, %error, "the partition could not be claimed");
                    }
                    // Not before somebody looked again, or the same answer would come at once.
                    member.look();
                    member.news().await;
                    return None;
                }
            }
        }
    };
    let loaded = owner.insist("reading a partition", || async {
        let started = Instant::now();
        let snapshot = owner.store.partition_load(partition).await?;
        owner.metrics.store_took("load", started.elapsed());
        Ok(snapshot)
    });
    let snapshot = match &owner.member {
        None => loaded.await,
        Some(member) => tokio::select! {
            snapshot = loaded => snapshot,
            () = member.lease().over() => return None,
        },
    };
    tracing::debug!(
        %partition,
        epoch = epoch.0,
        active = snapshot.instances.len(),
        broken = snapshot.broken.len(),
        "partition claimed"
    );
    Some((Rounds::new(owner.clone(), epoch, snapshot, mailbox.standing.clone()), epoch))
}

impl Owner {
    /// Whether this server may act on what it owns at this very moment.
    pub(super) fn may_act(&self) -> bool {
        self.member.as_ref().is_none_or(|member| member.lease().holds())
    }

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
        StoreError::Fenced { .. } => tracing::warn!(%partition, %error, "partition lost"),
        _ => tracing::error!(%partition, %error, "a commit was refused; reading the partition again"),
    }
}

/// Who is still in the queue learns that it is served by nobody here.
fn refuse_what_waits(mailbox: &mut Mailbox, why: &CommandError) {
    while let Some(message) = mailbox.taken.pop_front().or_else(|| mailbox.inbox.try_recv().ok()) {
        refuse(message, why);
    }
}

fn refuse(message: Message, why: &CommandError) {
    match message {
        Message::Command { answer, .. } => drop(answer.send(Err(why.clone()))),
        Message::Commands { commands, answer } => drop(answer.send(vec![Err(why.clone()); commands.len()])),
        Message::Connected { outbox, .. } => outbox.close(tonic::Status::unavailable(why.to_string())),
        Message::Input(_) | Message::Much { .. } => {}
    }
}
