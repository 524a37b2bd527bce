//! The shell of a partition under one epoch, as the server has it: take inputs, let the engine decide, commit, and only
//! then perform.
//!
//! One commit is under way at a time; what is decided meanwhile gathers in one open batch. Every step may be the last
//! one before a crash, or the one before which the server stands still. Where servers share the store, nothing leaves
//! without a commit: what was decided without a change is proved by an empty one, because an owner that was superseded
//! while it stood still knows nothing of it, and would tell others what is not true any more.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use pendula_engine::{Dispatch, Effect, Input, Output, Partition, ReplyTo, Settings};
use pendula_model::change::Change;
use pendula_model::instance::{Instance, InstanceState};
use pendula_model::snapshot::Snapshot;
use pendula_model::task::TaskRole;
use pendula_model::{Epoch, PartitionId, SessionId, Timestamp};
use pendula_store::{Batch, StoreError};

use crate::asking::Op;
use crate::breakage::Breakage;
use crate::faults::Point;
use crate::network::ToWorker;
use crate::reads::Reading;
use crate::server::{Life, Step};
use crate::telling;
use crate::trace::trace;
use crate::world::{Event, MILLI, World};

/// What a clock that is merely being adjusted does not do.
const SMALLEST_JUMP: Duration = Duration::from_secs(1);

/// One owner of a partition, from its claim to its end.
pub(crate) struct Owner {
    pub(crate) life: Life,
    pub(crate) partition: PartitionId,
    pub(crate) epoch: Epoch,
    pub(crate) engine: Partition,
    time: OwnerTime,
    /// Decided, and not yet handed to the store.
    pub(crate) open: Output,
    under_way: Option<UnderWay>,
    /// The last batch that was handed to the store.
    batches: u64,
    /// What follows from commits that returned, and is not done yet.
    performing: VecDeque<Effect>,
    /// Live sessions and the connections behind them.
    pub(crate) sessions: BTreeMap<SessionId, u32>,
    /// Who waits for replies, and which server asked for them.
    pub(crate) callers: BTreeMap<u64, Life>,
    /// It is handed over, to this server if it has one in mind.
    pub(crate) closing: Option<Option<usize>>,
    wake_at: Option<u64>,
    /// Whether it was told that the store is away after a batch that was written nevertheless.
    misled: bool,
}

/// A batch that the store has not answered for.
struct UnderWay {
    batch: Rc<Batch>,
    effects: Vec<Effect>,
}

impl Owner {
    /// The engine's time at its latest input.
    pub(crate) fn now(&self) -> Timestamp {
        self.time.now
    }

    /// Whether it has nothing in hand.
    pub(crate) fn is_idle(&self) -> bool {
        self.is_quiet() && self.open.effects.is_empty() && self.performing.is_empty()
    }

    /// Whether nothing that it decided is unwritten.
    pub(crate) fn is_quiet(&self) -> bool {
        self.under_way.is_none() && self.open.changes.is_empty()
    }
}

/// The wall clock, made to never go back: after a jump back it runs at half speed until the wall has caught up.
struct OwnerTime {
    now: Timestamp,
    read_at: u64,
    /// By how much it went ahead of the time that passed, since the engine was told.
    jumped: Duration,
}

impl OwnerTime {
    fn now(&mut self, real: u64, wall: Timestamp) -> Timestamp {
        let passed = Duration::from_micros(real - self.read_at);
        if wall >= self.now {
            let ahead = wall.since(self.now).saturating_sub(passed);
            if ahead > SMALLEST_JUMP {
                self.jumped += ahead;
            }
            self.now = wall;
            self.read_at = real;
        } else if passed.as_micros() > 1 {
            self.now = self.now.plus(passed / 2);
            self.read_at = real;
        }
        self.now
    }
}

impl World {
    /// Restores what was read; the new owner's number.
    pub(crate) fn new_owner(&mut self, life: Life, epoch: Epoch, snapshot: Snapshot) -> u32 {
        self.audit.restored(epoch, &snapshot);
        let mut snapshot = snapshot;
        if self.breakage == Some(Breakage::StopsForgotten) {
            let stopping = |row: &&mut Instance| row.state == InstanceState::Stopping;
            snapshot.instances.iter_mut().filter(stopping).for_each(|row| row.state = InstanceState::Running);
        }
        let wall = self.wall_of(life.server);
        self.latest = self.latest.max(wall);
        let partition = snapshot.partition;
        let mut open = Output::default();
        let seed = self.dice.next();
        let engine = Partition::restore(wall, seed, self.settings.clone(), snapshot, &mut open);
        let number = self.next_owner;
        self.next_owner += 1;
        let owner = Owner {
            life,
            partition,
            epoch,
            engine,
            time: OwnerTime { now: wall, read_at: self.now, jumped: Duration::ZERO },
            open,
            under_way: None,
            batches: 0,
            performing: VecDeque::new(),
            sessions: BTreeMap::new(),
            callers: BTreeMap::new(),
            closing: None,
            wake_at: None,
            misled: false,
        };
        self.owners.insert(number, owner);
        if self.audit.newest_epoch(partition) == epoch
            && let Some(since) = self.unserved.remove(&partition)
        {
            self.longest_gap = self.longest_gap.max(self.now - since);
        }
        trace!(self, "owner {number} on s{} restored {partition} under {epoch:?}", life.server);
        number
    }

    /// An owner is no more.
    pub(crate) fn forget_owner(&mut self, number: u32) -> Option<Owner> {
        let owner = self.owners.remove(&number)?;
        if self.audit.newest_epoch(owner.partition) == owner.epoch {
            self.unserved.entry(owner.partition).or_insert(self.now);
        }
        Some(owner)
    }

    /// One step of an owner: whether it is done now. What it must do when its server wakes up is `again`.
    fn owner_steps(&mut self, number: u32, again: impl FnOnce() -> Event) -> bool {
        let Some(server) = self.owners.get(&number).map(|owner| owner.life.server) else { return false };
        match self.step(server) {
            Step::Goes => true,
            Step::Died => false,
            Step::StandsStill => {
                self.servers[server].go_on_with(again());
                false
            }
        }
    }

    /// Whether an owner may commit and perform. If its server's lease is over, everything there is.
    fn owner_acts(&mut self, number: u32) -> bool {
        let Some(Owner { life, partition, epoch, .. }) = self.owners.get(&number) else { return false };
        let (life, partition, epoch) = (*life, *partition, *epoch);
        if self.acts(life.server) {
            self.audit.acts(partition, epoch);
            return true;
        }
        self.lapse(life, "its lease was found to be over");
        false
    }

    /// Lets an owner take one input.
    pub(crate) fn decide(&mut self, number: u32, input: Input) {
        if self.owners.get(&number).is_none_or(|owner| owner.closing.is_some()) {
            // Workers tell the next owner again what this one does not take.
            return;
        }
        let mut input = Some(input);
        if !self.owner_steps(number, || Event::Answer(number, Box::new(input.take().expect("it is taken once")))) {
            return;
        }
        let Some(input) = input else { return };
        let real = self.now;
        let Some(owner) = self.owners.get(&number) else { return };
        let wall = self.wall_of(owner.life.server);
        let Some(owner) = self.owners.get_mut(&number) else { return };
        let now = owner.time.now(real, wall);
        self.latest = self.latest.max(now);
        if self.trace.is_on() && !matches!(input, Input::WorkerAlive { .. } | Input::Tick) {
            trace!(self, "owner {number} at {now} takes {}", telling::input(&input));
        }
        let Some(owner) = self.owners.get_mut(&number) else { return };
        let (changes, effects) = (owner.open.changes.len(), owner.open.effects.len());
        let by = std::mem::take(&mut owner.time.jumped);
        if !by.is_zero() && self.breakage != Some(Breakage::ClockJumpsUntold) {
            owner.engine.handle(now, Input::ClockJumped { by }, &mut owner.open);
        }
        owner.engine.handle(now, input, &mut owner.open);
        if self.trace.is_on() {
            let owner = &self.owners[&number];
            let decided: Vec<String> = owner.open.changes[changes..].iter().map(telling::change).collect();
            for change in decided {
                trace!(self, "  decides {change}");
            }
        }
        self.perform_too_early(number, effects);
        self.go_on(number);
        self.set_alarm(number);
    }

    /// What some breakages do not wait with.
    fn perform_too_early(&mut self, number: u32, from: usize) {
        let early: fn(&Effect) -> bool = match self.breakage {
            Some(Breakage::DispatchBeforeCommit) => |effect| matches!(effect, Effect::Dispatch(_)),
            Some(Breakage::ReplyBeforeCommit) => |effect| matches!(effect, Effect::Reply { .. }),
            Some(Breakage::AckBeforeCommit) => |effect| matches!(effect, Effect::Ack { .. }),
            _ => return,
        };
        let Some(owner) = self.owners.get_mut(&number) else { return };
        let late = owner.open.effects.split_off(from);
        let (early, late): (Vec<_>, Vec<_>) = late.into_iter().partition(early);
        owner.open.effects.extend(late);
        for effect in early {
            self.perform(number, effect);
        }
    }

    /// Hands over and performs whatever can be.
    pub(crate) fn go_on(&mut self, number: u32) {
        self.go_on_from(number, false);
    }

    /// The same; with `is_checked` the first step was begun, and its lease looked at, before the server stood still.
    pub(crate) fn go_on_from(&mut self, number: u32, mut is_checked: bool) {
        let proves = self.profile.is_cluster() && !self.breakage.is_some_and(Breakage::proves_nothing);
        let out_of_order = self.breakage == Some(Breakage::EffectsOutOfOrder);
        loop {
            let Some(owner) = self.owners.get_mut(&number) else { return };
            while matches!(owner.performing.front(), Some(Effect::Observed(_))) {
                owner.performing.pop_front();
            }
            let waits = owner.under_way.is_some();
            let nothing_left = owner.performing.is_empty();
            if nothing_left && (waits || (owner.open.changes.is_empty() && owner.open.effects.is_empty())) {
                break;
            }
            if !is_checked && !self.owner_acts(number) {
                return;
            }
            is_checked = false;
            let Some(owner) = self.owners.get_mut(&number) else { return };
            // The store first, so that it can work while effects are performed; but effects keep their order.
            let has_changes = !owner.open.changes.is_empty();
            if !waits && (has_changes || nothing_left) {
                if has_changes || (proves && owner.open.effects.iter().any(Effect::says_something)) {
                    if !self.owner_steps(number, || Event::GoOn(number, true)) {
                        return;
                    }
                    self.hand_over(number);
                } else {
                    owner.performing.extend(std::mem::take(&mut owner.open.effects));
                }
            } else if out_of_order && !waits && !owner.open.effects.is_empty() {
                let first = std::mem::take(&mut owner.open.effects);
                first.into_iter().rev().for_each(|effect| owner.performing.push_front(effect));
            } else {
                if !self.owner_steps(number, || Event::GoOn(number, true)) {
                    return;
                }
                let Some(effect) = self.owners.get_mut(&number).and_then(|owner| owner.performing.pop_front()) else {
                    return;
                };
                self.perform(number, effect);
            }
        }
        self.close_if_done(number);
    }

    /// Gives the store what was decided.
    fn hand_over(&mut self, number: u32) {
        let Some(owner) = self.owners.get_mut(&number) else { return };
        let Output { mut changes, effects } = std::mem::take(&mut owner.open);
        owner.misled = false;
        owner.batches += 1;
        if let Some(breakage) = self.breakage {
            breakage.spoil(&mut changes);
        }
        let batch = Batch { partition: owner.partition, epoch: owner.epoch, number: owner.batches, changes };
        owner.under_way = Some(UnderWay { batch: Rc::new(batch), effects });
        self.write(number);
    }

    fn write(&mut self, number: u32) {
        let Some(Owner { life, under_way: Some(under_way), .. }) = self.owners.get(&number) else { return };
        let op = Op::Commit { owner: number, batch: under_way.batch.clone() };
        self.ask_store(*life, op);
    }

    /// The same batch once more: nobody knows whether the store has it.
    pub(crate) fn write_again(&mut self, number: u32, batch: u64) {
        let waits = |owner: &Owner| owner.under_way.as_ref().is_some_and(|under_way| under_way.batch.number == batch);
        if self.owners.get(&number).is_some_and(waits) && self.owner_acts(number) {
            self.write(number);
        }
    }

    /// A batch reaches the store, whatever became of its owner.
    pub(crate) fn commit_at_store(
        &mut self,
        life: Life,
        number: u32,
        batch: &Batch,
    ) -> (Option<Point>, Result<(), StoreError>) {
        if self.breakage == Some(Breakage::FireInTwoSteps) {
            return (None, self.commit_in_two_steps(life, batch));
        }
        let misled = self.owners.get(&number).is_some_and(|owner| owner.misled);
        let is_numbered = self.profile.is_cluster();
        let result = self.store.commit(batch, is_numbered, self.breakage, &mut self.dice);
        let mut point = None;
        match &result {
            Ok(()) => {
                let is_blind = self.breakage == Some(Breakage::EndedRowsWritten);
                if self.audit.committed(batch, is_blind) {
                    point = Some(if batch.number == 1 { Point::FirstCommit } else { Point::Commit });
                }
                trace!(self, "owner {number} committed {} changes", batch.changes.len());
            }
            Err(StoreError::Fenced { .. }) => {
                trace!(self, "owner {number} is fenced");
                self.audit.counts.fenced += 1;
            }
            Err(error) if !misled && self.breakage.is_none_or(|broken| broken == Breakage::CommitUnnumbered) => {
                self.audit.breaks("commits_are_accepted", || format!("owner {number}: {error}"));
            }
            Err(error) => trace!(self, "owner {number}: {error}"),
        }
        if !self.profile.is_cluster() && result.is_ok() && std::mem::take(&mut self.doubt_answer) {
            if let Some(owner) = self.owners.get_mut(&number) {
                owner.misled = true;
            }
            return (point, Err(StoreError::Unavailable { why: "so it says".to_owned() }));
        }
        (point, result)
    }

    /// Instances first, triggers after: what the old schedulers did.
    fn commit_in_two_steps(&mut self, life: Life, batch: &Batch) -> Result<(), StoreError> {
        let is_advance = |change: &Change| matches!(change, Change::ScheduleAdvanced { .. });
        let (advances, others): (Vec<_>, Vec<_>) = batch.changes.iter().cloned().partition(is_advance);
        for part in [&others, &advances] {
            let half = Batch { changes: part.clone(), ..batch.clone() };
            self.store.commit(&half, false, self.breakage, &mut self.dice)?;
            if self.step(life.server) != Step::Goes {
                self.audit.fired_only(&others);
                return Ok(());
            }
        }
        self.audit.committed(batch, false);
        Ok(())
    }

    /// The store's word on a batch.
    pub(crate) fn settled(&mut self, number: u32, batch: u64, result: Result<(), StoreError>) {
        let Some(owner) = self.owners.get_mut(&number) else { return };
        if owner.under_way.as_ref().is_none_or(|under_way| under_way.batch.number != batch) {
            return;
        }
        match result {
            Err(StoreError::Unavailable { .. }) => self.after(250 * MILLI, Event::WriteAgain(number, batch)),
            Err(StoreError::Fenced { .. }) if self.breakage == Some(Breakage::FencedIgnored) => self.written(number),
            Err(_) => self.drop_owner(number, "its commit was refused"),
            Ok(()) if !self.profile.is_cluster() && std::mem::take(&mut self.lose_answer) => {
                self.drop_owner(number, "it never heard of its commit");
            }
            Ok(()) => self.written(number),
        }
    }

    /// The batch under way is on disk.
    fn written(&mut self, number: u32) {
        let Some(owner) = self.owners.get_mut(&number) else { return };
        let Some(done) = owner.under_way.take() else { return };
        owner.performing.extend(done.effects);
        self.go_on(number);
    }

    fn perform(&mut self, number: u32, effect: Effect) {
        trace!(self, "owner {number} performs {}", telling::effect(&effect));
        self.audit.speaks(&effect);
        let Some(owner) = self.owners.get(&number) else { return };
        if effect.says_something() {
            self.audit.performs(owner.partition, owner.epoch, owner.life.boot);
        }
        let connection = |session: SessionId| owner.sessions.get(&session).copied();
        match effect {
            Effect::Reply { to: ReplyTo(request), reply } => self.reply_leaves(number, request, reply),
            Effect::Dispatch(dispatch) => {
                let Some(connection) = connection(dispatch.session) else { return };
                self.dispatch(number, dispatch, connection);
            }
            Effect::Stop { session, attempt, grace, abandon } => {
                let Some(connection) = connection(session) else { return };
                self.send_to_worker(connection, ToWorker::Stop { attempt, grace, abandon });
            }
            Effect::Ack { session, attempt } => {
                let connection = connection(session);
                self.audit.end_acknowledged(attempt);
                if let Some(connection) = connection {
                    self.send_to_worker(connection, ToWorker::Ack { attempt });
                }
            }
            Effect::Mapped { session, attempt, reply } => {
                let connection = connection(session);
                self.audit.mapped(attempt, &reply);
                if let Some(connection) = connection {
                    self.send_to_worker(connection, ToWorker::Mapped { attempt, reply });
                }
            }
            Effect::Welcome { session, abort } => {
                let Some(connection) = connection(session) else { return };
                self.send_to_worker(connection, ToWorker::Welcome { abort });
            }
            Effect::Drain { session } => {
                let Some(connection) = connection(session) else { return };
                self.send_to_worker(connection, ToWorker::Drain);
            }
            Effect::Close { session, .. } => {
                if let Some(connection) = connection(session) {
                    self.server_closes(connection);
                }
            }
            Effect::Load(needs) => {
                let takes = self.store_takes();
                self.after(takes, Event::Read(number, needs));
            }
            Effect::LoadSchedules { until } => {
                let takes = self.store_takes();
                self.after(takes, Event::ReadSchedules(number, Reading { until, jobs: Vec::new() }));
            }
            Effect::LoadTasks { instance, from, limit, .. } => {
                let takes = self.store_takes();
                let few = self.dice.between(1, 8) as usize;
                let limit = if self.dice.chance(500) { limit.min(few) } else { limit };
                self.after(takes, Event::ReadTasks(number, instance, from, limit));
            }
            Effect::Observed(_) => {}
        }
    }

    /// Work leaves for the worker behind a connection; or for another one, when that is what is broken.
    fn dispatch(&mut self, number: u32, mut dispatch: Box<Dispatch>, mut connection: u32) {
        let role = dispatch.part.as_ref().map(|part| part.role);
        let goes_astray = self.breakage == Some(Breakage::TargetsMove) && role == Some(TaskRole::Target);
        if goes_astray && dispatch.attempt > 1 {
            let mut others = self.owners[&number].sessions.values().filter(|other| **other != connection);
            connection = others.next_back().copied().unwrap_or(connection);
        } else {
            let worker = self.process_behind(connection);
            self.audit.dispatched(&dispatch, &worker);
        }
        match (self.breakage, &mut dispatch.part) {
            (Some(Breakage::ShardsMixedUp), Some(part)) => {
                part.shard = part.shard.map(|(index, total)| ((index + 1) % total, total));
            }
            (Some(Breakage::InputsForgotten), Some(part)) => part.input = None,
            _ => {}
        }
        self.send_to_worker(connection, ToWorker::Dispatch(dispatch));
    }

    /// Sees to it that the owner looks up when its engine wants to.
    pub(crate) fn set_alarm(&mut self, number: u32) {
        let Some(owner) = self.owners.get(&number) else { return };
        let wall = self.wall_of(owner.life.server);
        let real = self.now;
        let Some(owner) = self.owners.get_mut(&number) else { return };
        let Some(at) = owner.engine.next_wakeup() else { return };
        let now = owner.time.now(real, wall);
        let due = real + at.since(now).as_micros() as u64;
        if owner.wake_at.is_some_and(|earlier| earlier <= due && earlier >= real) {
            return;
        }
        owner.wake_at = Some(due);
        self.at(due, Event::Alarm(number));
    }

    pub(crate) fn alarm(&mut self, number: u32) {
        if let Some(owner) = self.owners.get_mut(&number) {
            owner.wake_at = None;
            self.decide(number, Input::Tick);
        }
    }

    pub(crate) fn store_takes(&mut self) -> u64 {
        let longest = self.profile.store_takes.as_micros() as u64;
        if self.healed || self.dice.chance(500) { self.dice.below(200) } else { self.dice.below(longest) }
    }
}

/// Times of the engine: the defaults, or shorter ones so that their ends are met more often.
pub(crate) fn settings(dice: &mut crate::dice::Dice) -> Settings {
    let mut settings = Settings::default();
    if dice.chance(500) {
        settings.look_ahead = Duration::from_millis(dice.between(500, 4000));
    }
    if dice.chance(300) {
        settings.misfire_after = Duration::from_millis(dice.between(100, 2000));
    }
    settings
}
