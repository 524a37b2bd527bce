//! The loop of one partition: take inputs, let the engine decide, commit, perform.
//!
//! One commit is under way at a time. While it is, the engine goes on deciding, and what it decides gathers in one open
//! batch that is handed over the moment the commit returns. More than one commit under way would gain nothing (the
//! store writes them one after the other) and could lose something: if the first failed because the disk was full for a
//! moment and the second did not, decisions would be on disk out of order.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use pendula_engine::{Effect, Gauges, Input, Output, Partition};
use pendula_model::snapshot::Snapshot;
use pendula_model::{Epoch, PartitionId, SessionId};
use pendula_store::{Batch, StoreError};
use pendula_wire::map::MapAnswer;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::followers::{Followers, Moved, moved};
use super::gathered::Gathered;
use super::handle::{CommandError, Mailbox, Message, Standing};
use super::load;
use super::owner::Owner;
use super::replies::Replies;
use super::time::PartitionTime;
use crate::metrics::Tick;
use crate::session::{Outbox, Parcel};
use crate::telemetry;

/// Messages taken from the inbox at once. Between two takings the loop looks at its commit and its timers.
const TAKEN_AT_ONCE: usize = 256;
/// Effects that may gather while a commit is under way; beyond, inputs have to wait. For the rest see [`Gathered`].
const EFFECTS: usize = 32_768;
/// Even a loop without anything to do shows this often that it lives.
const LONGEST_SLEEP: Duration = Duration::from_secs(10);
/// How often the gauges and the last tick are brought up to date, at most.
const SHOWN_EVERY: Duration = Duration::from_millis(50);
/// How often the store is asked to try a batch again, at first and at most.
const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

/// A store that is away for less than this is waited for; after it, callers are told at once.
const HICCUP: Duration = Duration::from_secs(1);

/// What workers are told when they should connect again.
const MOVED: &str = "the partition moved; connect again at once";

/// Why the loop came to its end.
pub(super) enum Ended {
    /// As it was told; everything decided is committed and performed.
    Stopped,
    /// The lease ran out, or somebody else has the partition: what is in memory may be stale, and nothing more of it may be
    /// done.
    LeaseOver,
    /// A commit was refused, or the store is damaged: what is in memory is worth nothing.
    Refused(StoreError),
}

/// One partition under one epoch.
pub(super) struct Rounds {
    owner: Arc<Owner>,
    partition: PartitionId,
    epoch: Epoch,
    tick: Tick,
    /// The number of the last batch that was handed over.
    batches: u64,
    /// Not before this is anything shown again.
    show_next: Instant,
    engine: Partition,
    time: PartitionTime,
    replies: Replies,
    sessions: HashMap<SessionId, Arc<Outbox>>,
    standing: Arc<Standing>,
    /// Decided, and not yet handed to the store.
    open: Output,
    gathered: Gathered,
    commit: Option<UnderWay>,
    loads: JoinSet<Input>,
    /// What the current round has for each session.
    parcels: HashMap<SessionId, Parcel>,
    followers: Followers,
}

/// A commit that has not returned, and what follows it.
struct UnderWay {
    result: Pin<Box<dyn Future<Output = Result<(), StoreError>> + Send>>,
    effects: Vec<Effect>,
    moved: Vec<Moved>,
    since: Instant,
}

impl Rounds {
    pub(super) fn new(owner: Arc<Owner>, epoch: Epoch, snapshot: Snapshot, standing: Arc<Standing>) -> Self {
        let mut time = PartitionTime::new(owner.clock.clone());
        let mut open = Output::default();
        let partition = snapshot.partition;
        let settings = owner.settings.clone();
        let name = format!("partition/{partition}");
        let tick = owner.metrics.tick(&name);
        owner.health.watch(&name, tick.clone());
        let followers = Followers::new(owner.log_hub.clone());
        let engine = Partition::restore(time.now(), rand::random(), settings, snapshot, &mut open);
        Rounds {
            owner,
            partition,
            epoch,
            tick,
            batches: 0,
            show_next: Instant::now(),
            engine,
            time,
            replies: Replies::default(),
            sessions: HashMap::new(),
            standing,
            open,
            gathered: Gathered::default(),
            commit: None,
            loads: JoinSet::new(),
            parcels: HashMap::new(),
            followers,
        }
    }

    /// Runs until it is told to stop, the lease is over, or a commit is refused.
    pub(super) async fn run(&mut self, mailbox: &mut Mailbox, stop: &CancellationToken) -> Ended {
        let mut clock_jumps = self.owner.clock_jumps.clone();
        let mut messages = Vec::new();
        let timer = tokio::time::sleep(Duration::ZERO);
        tokio::pin!(timer);
        loop {
            // Whatever the process slept through: nothing is begun and nothing leaves under a lease that is over.
            if !self.owner.may_act() {
                return Ended::LeaseOver;
            }
            self.hand_over().await;
            self.show();
            let stopping = stop.is_cancelled();
            if stopping && self.commit.is_none() {
                return Ended::Stopped;
            }
            let deciding = self.has_room() && !stopping;
            let wakeup = self.wakeup();
            if timer.deadline() != wakeup {
                timer.as_mut().reset(wakeup);
            }
            tokio::select! {
                biased;
                result = settled(&mut self.commit) => {
                    let done = self.commit.take().expect("only what is under way settles");
                    if let Err(error) = result {
                        return Ended::Refused(error);
                    }
                    if !self.owner.may_act() {
                        return Ended::LeaseOver;
                    }
                    // The store first: it can work while effects are performed. But effects that need no commit were
                    // decided after those of this one, and wait until these are performed.
                    if !self.open.changes.is_empty() {
                        self.hand_over().await;
                    }
                    self.perform(done.effects);
                    self.followers.publish(done.moved);
                }
                () = stop.cancelled(), if !stopping => {}
                () = &mut timer, if deciding => self.decide(Input::Tick),
                Some(loaded) = self.loads.join_next(), if deciding => match loaded {
                    Ok(input) => self.decide(input),
                    Err(error) => tracing::error!(%error, "a read for the engine panicked"),
                },
                () = std::future::ready(()), if deciding && !mailbox.taken.is_empty() => {
                    // One message may bring thousands of tasks.
                    while self.has_room() && let Some(message) = mailbox.taken.pop_front() {
                        self.take(message);
                    }
                }
                taken = mailbox.inbox.recv_many(&mut messages, TAKEN_AT_ONCE), if deciding => {
                    if taken == 0 {
                        // Nobody is left who could send anything: the server was dropped.
                        stop.cancel();
                    }
                    mailbox.taken.extend(messages.drain(..));
                }
                Ok(()) = clock_jumps.changed() => {}
            }
        }
    }

    /// Lets go of callers, who are to try again, and of workers, who are to connect again.
    pub(super) fn let_go(&mut self, why: &CommandError, farewell: &tonic::Status) {
        self.count(Gauges::default());
        for outbox in self.sessions.values() {
            outbox.close(farewell.clone());
        }
        self.replies.fail_all(why);
    }

    /// The same when it is somebody else's now. What a commit that is under way becomes, nobody here will learn.
    pub(super) fn let_others_have_it(&mut self) {
        let why = if self.commit.is_some() { CommandError::Unknown } else { CommandError::NotHere };
        self.let_go(&why, &tonic::Status::aborted(MOVED));
    }

    /// Whether more may be decided while a commit is under way.
    fn has_room(&self) -> bool {
        self.gathered.has_room() && self.open.effects.len() < EFFECTS
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Much { input, share } => {
                self.decide(input);
                drop(share);
            }
            Message::Input(input) => {
                if let Input::WorkerDisconnected { session } = &input {
                    self.sessions.remove(session);
                }
                self.decide(input);
            }
            Message::Connected { hello, outbox } => {
                self.sessions.insert(hello.session, outbox);
                self.decide(Input::WorkerConnected(hello));
            }
            // Who gave up does not want it done any more.
            Message::Command { answer, .. } if answer.is_closed() => {}
            Message::Command { command, answer } => {
                if let Some(refusal) = self.cannot_write().filter(|_| !command.only_asks()) {
                    drop(answer.send(Err(refusal)));
                    return;
                }
                let reply_to = self.replies.expect(answer);
                self.decide(Input::Command { command, reply_to });
            }
            Message::Commands { answer, .. } if answer.is_closed() => {}
            Message::Commands { commands, answer } if commands.is_empty() => drop(answer.send(Vec::new())),
            Message::Commands { commands, answer } => {
                if let Some(refusal) = self.cannot_write() {
                    drop(answer.send(vec![Err(refusal); commands.len()]));
                    return;
                }
                let numbers = self.replies.expect_group(commands.len(), answer);
                for (command, reply_to) in commands.into_iter().zip(numbers) {
                    self.decide(Input::Command { command, reply_to });
                }
            }
        }
    }

    /// Callers are told at once while the store is away, instead of waiting for a commit that nobody can promise.
    fn cannot_write(&self) -> Option<CommandError> {
        let stuck = self.commit.as_ref().is_some_and(|commit| commit.since.elapsed() > HICCUP);
        let why = self.owner.health.why_broken("store").filter(|_| stuck)?;
        Some(CommandError::unavailable(format!("the store cannot be written: {why}")))
    }

    fn decide(&mut self, input: Input) {
        let now = self.time.now();
        if let Some(by) = self.time.take_jump() {
            self.engine.handle(now, Input::ClockJumped { by }, &mut self.open);
        }
        self.engine.handle(now, input, &mut self.open);
        self.gathered.count(&self.open.changes);
    }

    /// Gives the store what was decided, if it has nothing of ours in hand. What needs no commit is performed at once.
    async fn hand_over(&mut self) {
        if self.commit.is_some() {
            return;
        }
        // Among others, an empty commit proves that the partition is still ours: an owner that was superseded while its
        // machine stood still, its clocks with it, would tell what is not true any more.
        let proves = self.owner.member.is_some() && self.open.effects.iter().any(Effect::says_something);
        if self.open.changes.is_empty() && !proves {
            let effects = std::mem::take(&mut self.open.effects);
            self.perform(effects);
            return;
        }
        let Output { changes, effects } = std::mem::take(&mut self.open);
        self.gathered = Gathered::default();
        let moved = changes.iter().filter_map(moved).collect();
        self.batches += 1;
        let batch = Batch { partition: self.partition, epoch: self.epoch, number: self.batches, changes };
        let mut result: Pin<Box<dyn Future<Output = _> + Send>> = Box::pin(commit(self.owner.clone(), batch));
        // Polled once now, so that the store works while the engine goes on.
        if let Poll::Ready(settled) = futures::poll!(result.as_mut()) {
            result = Box::pin(std::future::ready(settled));
        }
        self.commit = Some(UnderWay { result, effects, moved, since: Instant::now() });
    }

    /// When the loop must look up again.
    fn wakeup(&mut self) -> Instant {
        let now = Instant::now();
        // What this round did is shown soon, and then the loop may sleep.
        let latest = if now < self.show_next { self.show_next } else { now + LONGEST_SLEEP };
        let latest = self.followers.next().map_or(latest, |tell| latest.min(tell));
        match self.engine.next_wakeup() {
            Some(at) => self.time.instant(at).min(latest),
            None => latest,
        }
    }

    fn perform(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Reply { to, reply } => self.replies.answer(to, Ok(reply)),
                Effect::Dispatch(dispatch) => {
                    telemetry::dispatched(&dispatch);
                    self.parcel(dispatch.session).dispatches.push(dispatch);
                }
                Effect::Stop { session, attempt, grace, abandon } => {
                    self.parcel(session).stops.push((attempt, grace, abandon));
                }
                Effect::Ack { session, attempt } => self.parcel(session).acks.push(attempt),
                Effect::Mapped { session, attempt, reply } => {
                    self.parcel(session).mapped.push(MapAnswer { attempt, reply });
                }
                Effect::Welcome { session, abort } => self.parcel(session).welcome = Some(abort),
                Effect::Drain { session } => self.parcel(session).drain = true,
                Effect::Close { session, why } => {
                    if let Some(outbox) = self.sessions.get(&session) {
                        outbox.close(tonic::Status::aborted(why));
                    }
                }
                Effect::Load(needs) => {
                    self.loads.spawn(load::facts(self.owner.clone(), needs));
                }
                Effect::LoadSchedules { until } => {
                    self.loads.spawn(load::schedules(self.owner.clone(), self.partition, until));
                }
                Effect::LoadTasks { instance, from, limit, bytes } => {
                    self.loads.spawn(load::tasks(self.owner.clone(), instance, from, limit, bytes));
                }
                Effect::Observed(observation) => {
                    self.owner.metrics.observe(&observation);
                    telemetry::observed(&observation);
                }
            }
        }
        for (session, parcel) in self.parcels.drain() {
            // A session that is gone needs nothing: its worker announces what it holds when it comes back.
            if let Some(outbox) = self.sessions.get(&session) {
                outbox.put(parcel);
            }
        }
    }

    fn parcel(&mut self, session: SessionId) -> &mut Parcel {
        self.parcels.entry(session).or_default()
    }

    /// Lets others see that the loop lives and what it holds; not in every round of a busy loop.
    fn show(&mut self) {
        self.followers.tell();
        let now = Instant::now();
        if now < self.show_next {
            return;
        }
        self.show_next = now + SHOWN_EVERY;
        self.count(self.engine.gauges());
        self.tick.at(self.time.now());
    }

    fn count(&self, gauges: Gauges) {
        let before = self.standing.set_gauges(gauges);
        self.owner.metrics.gauges_moved(&before, &gauges);
    }
}

/// However it ends, nobody keeps waiting for it.
impl Drop for Rounds {
    fn drop(&mut self) {
        self.owner.health.forget(&format!("partition/{}", self.partition));
        let farewell = tonic::Status::aborted(MOVED);
        self.let_go(&CommandError::unavailable("its state is being read again"), &farewell);
    }
}

/// Waits for the commit that is under way; for ever if there is none.
async fn settled(commit: &mut Option<UnderWay>) -> Result<(), StoreError> {
    match commit {
        Some(commit) => commit.result.as_mut().await,
        None => std::future::pending().await,
    }
}

/// Commits one batch, trying again for as long as the store is away.
async fn commit(owner: Arc<Owner>, batch: Batch) -> Result<(), StoreError> {
    let changes = batch.changes.len();
    let started = Instant::now();
    let mut pause = RETRY.0;
    loop {
        match owner.store.commit(batch.clone()).await {
            Ok(()) => {
                if pause > RETRY.0 {
                    owner.health.recovered("store");
                }
                owner.metrics.committed(changes, started.elapsed());
                return Ok(());
            }
            Err(StoreError::Unavailable { why }) => {
                owner.metrics.commit_retried();
                owner.health.broken("store", why);
                // While the server stops nobody may be there to free a disk: workers keep their reports.
                if owner.stop.is_cancelled() && started.elapsed() > RETRY.1 {
                    return Err(StoreError::Unavailable { why: "the server stopped before it came back".to_owned() });
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(RETRY.1);
            }
            Err(error) => return Err(error),
        }
    }
}
