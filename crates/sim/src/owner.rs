//! The shell of a partition, as the server has it: take inputs, let the engine decide, commit, and only then perform.
//!
//! One commit is under way at a time; what is decided meanwhile gathers in one open batch. Every step may be the last
//! one before a crash.

use std::collections::BTreeMap;
use std::time::Duration;

use pendula_engine::{Dispatch, Effect, Input, Output, Partition, ReplyTo, Settings};
use pendula_model::change::Change;
use pendula_model::task::TaskRole;
use pendula_model::{Epoch, SessionId, Timestamp};
use pendula_store::StoreError;

use crate::breakage::Breakage;
use crate::network::ToWorker;
use crate::reads::Reading;
use crate::telling;
use crate::trace::trace;
use crate::world::{Event, MILLI, SECOND, World};

/// After a takeover the lease of the former owner is over so much later, and it stops on its own.
const LEASE: u64 = 4 * SECOND;
/// What a clock that is merely being adjusted does not do.
const SMALLEST_JUMP: Duration = Duration::from_secs(1);

/// One owner of the partition, from its claim to its end.
pub(crate) struct Owner {
    pub(crate) epoch: Epoch,
    pub(crate) engine: Partition,
    time: OwnerTime,
    /// Decided, and not yet handed to the store.
    pub(crate) open: Output,
    pub(crate) under_way: Option<Output>,
    /// Live sessions and the connections behind them.
    pub(crate) sessions: BTreeMap<SessionId, u32>,
    pub(crate) stalled_until: u64,
    wake_at: Option<u64>,
    /// Whether it was told that the store is away after a batch that was written nevertheless.
    misled: bool,
}

impl Owner {
    /// The engine's time at its latest input.
    pub(crate) fn now(&self) -> Timestamp {
        self.time.now
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
    /// Claims the partition and restores it from the store.
    pub(crate) fn start_owner(&mut self) {
        if self.current.is_some() {
            return;
        }
        if self.store.is_away(self.now) {
            self.after(200 * MILLI, Event::StartOwner);
            return;
        }
        let epoch = self.store.claim();
        trace!(self, "owner claims {epoch:?}");
        if self.crashes_here() {
            let pause = self.restart_pause();
            self.after(pause, Event::StartOwner);
            return;
        }
        let snapshot = self.store.load();
        self.audit.counts.restores += 1;
        let wall = self.wall();
        let mut open = Output::default();
        let seed = self.dice.next();
        let engine = Partition::restore(wall, seed, self.settings.clone(), snapshot, &mut open);
        let number = self.next_owner;
        self.next_owner += 1;
        let owner = Owner {
            epoch,
            engine,
            time: OwnerTime { now: wall, read_at: self.now, jumped: Duration::ZERO },
            open,
            under_way: None,
            sessions: BTreeMap::new(),
            stalled_until: 0,
            wake_at: None,
            misled: false,
        };
        self.owners.insert(number, owner);
        self.current = Some(number);
        trace!(self, "owner {number} restored");
        if self.step(number) {
            self.hand_over(number);
            self.set_alarm(number);
        }
    }

    /// Takes the partition from the owner that has it, which does not know yet and goes on for a while.
    pub(crate) fn take_over(&mut self) {
        let Some(former) = self.current.take() else { return };
        trace!(self, "owner {former} is superseded");
        self.after(LEASE, Event::LeaseOver(former));
        self.start_owner();
        if self.current.is_none() {
            let pause = self.restart_pause();
            self.after(pause, Event::StartOwner);
        }
    }

    /// An owner is gone; its connections break.
    pub(crate) fn drop_owner(&mut self, number: u32, why: &str) {
        if self.owners.remove(&number).is_none() {
            return;
        }
        trace!(self, "owner {number} is gone: {why}");
        let connections: Vec<u32> =
            self.connections.iter().filter(|(_, connection)| connection.owner == number).map(|(id, _)| *id).collect();
        for connection in connections {
            self.server_closes(connection);
        }
        if self.current == Some(number) {
            self.current = None;
            let pause = self.restart_pause();
            self.after(pause, Event::StartOwner);
        }
    }

    fn restart_pause(&mut self) -> u64 {
        self.dice.between(50 * MILLI, 1500 * MILLI)
    }

    /// One step of an owner: whether it lives to do it.
    pub(crate) fn step(&mut self, number: u32) -> bool {
        if self.current == Some(number) && self.crashes_here() {
            self.drop_owner(number, "crash");
        }
        self.owners.contains_key(&number)
    }

    /// Counts down to the planned crash.
    fn crashes_here(&mut self) -> bool {
        self.steps += 1;
        match self.crash_in {
            Some(0) => {
                self.crash_in = None;
                self.audit.counts.crashes += 1;
                true
            }
            Some(left) => {
                self.crash_in = Some(left - 1);
                false
            }
            None => false,
        }
    }

    /// Lets an owner take one input.
    pub(crate) fn decide(&mut self, number: u32, input: Input) {
        if !self.step(number) {
            return;
        }
        let wall = self.wall();
        let real = self.now;
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
        self.hand_over(number);
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

    /// Gives the store what was decided, if it has nothing of this owner in hand. What needs no commit is performed.
    fn hand_over(&mut self, number: u32) {
        let Some(owner) = self.owners.get_mut(&number) else { return };
        if owner.under_way.is_some() {
            return;
        }
        if owner.open.changes.is_empty() {
            let effects = std::mem::take(&mut owner.open.effects);
            return self.perform_all(number, effects);
        }
        let mut batch = std::mem::take(&mut owner.open);
        owner.misled = false;
        if let Some(breakage) = self.breakage {
            breakage.spoil(&mut batch.changes);
        }
        owner.under_way = Some(batch);
        let takes = self.store_takes();
        self.after(takes, Event::Write(number));
    }

    /// The batch under way reaches the store.
    pub(crate) fn write(&mut self, number: u32) {
        if !self.step(number) {
            return;
        }
        if self.store.is_away(self.now) {
            self.after(250 * MILLI, Event::Write(number));
            return;
        }
        let Some(Owner { under_way: Some(batch), epoch, misled, .. }) = self.owners.get(&number) else { return };
        let (epoch, misled) = (*epoch, *misled);
        let is_blind = self.breakage == Some(Breakage::EndedRowsWritten);
        let by_the_owner = self.store.is_current(epoch) || is_blind;
        if self.breakage == Some(Breakage::FireInTwoSteps) {
            return self.write_in_two_steps(number);
        }
        let result = self.store.commit(epoch, &batch.changes, self.breakage, &mut self.dice);
        match &result {
            Ok(()) => {
                self.audit.committed(&batch.changes, by_the_owner);
                trace!(self, "owner {number} committed {} changes", batch.changes.len());
            }
            Err(StoreError::Fenced { .. }) => {
                trace!(self, "owner {number} is fenced");
                self.audit.counts.fenced += 1;
            }
            Err(error) if !misled && self.breakage.is_none() => {
                self.audit.breaks("commits_are_accepted", || format!("owner {number}: {error}"));
            }
            Err(error) => trace!(self, "owner {number}: {error}"),
        }
        if !self.step(number) {
            return;
        }
        let takes = self.store_takes();
        match result {
            Ok(()) if std::mem::take(&mut self.lose_answer) => self.drop_owner(number, "it never heard of its commit"),
            Ok(()) if std::mem::take(&mut self.doubt_answer) => {
                self.owners.get_mut(&number).expect("it has just written").misled = true;
                self.after(250 * MILLI, Event::Write(number));
            }
            Ok(()) => self.after(takes, Event::Written(number)),
            Err(StoreError::Fenced { .. }) if self.breakage == Some(Breakage::FencedIgnored) => {
                self.after(takes, Event::Written(number));
            }
            Err(_) => self.drop_owner(number, "its commit was refused"),
        }
    }

    /// Instances first, triggers after: what the old schedulers did.
    fn write_in_two_steps(&mut self, number: u32) {
        let Some(Owner { under_way: Some(batch), epoch, .. }) = self.owners.get(&number) else { return };
        let (epoch, changes) = (*epoch, batch.changes.clone());
        let is_advance = |change: &Change| matches!(change, Change::ScheduleAdvanced { .. });
        let (advances, others): (Vec<_>, Vec<_>) = changes.into_iter().partition(is_advance);
        for part in [&others, &advances] {
            if self.store.commit(epoch, part, self.breakage, &mut self.dice).is_err() {
                return self.drop_owner(number, "its commit was refused");
            }
            if !self.step(number) {
                return self.audit.fired_only(&others);
            }
        }
        let Some(Owner { under_way: Some(batch), .. }) = self.owners.get(&number) else { return };
        self.audit.committed(&batch.changes, true);
        self.after(0, Event::Written(number));
    }

    /// The store's word that the batch is on disk.
    pub(crate) fn written(&mut self, number: u32) {
        if !self.step(number) {
            return;
        }
        let Some(done) = self.owners.get_mut(&number).and_then(|owner| owner.under_way.take()) else { return };
        // The store first, so that it can work while effects are performed; but effects keep their order.
        let has_changes = self.owners.get(&number).is_some_and(|owner| !owner.open.changes.is_empty());
        if has_changes || self.breakage == Some(Breakage::EffectsOutOfOrder) {
            self.hand_over(number);
        }
        self.perform_all(number, done.effects);
        self.hand_over(number);
    }

    fn perform_all(&mut self, number: u32, effects: Vec<Effect>) {
        for effect in effects {
            if matches!(effect, Effect::Observed(_)) {
                continue;
            }
            if !self.step(number) {
                return;
            }
            self.perform(number, effect);
        }
    }

    fn perform(&mut self, number: u32, effect: Effect) {
        trace!(self, "owner {number} performs {}", telling::effect(&effect));
        self.audit.speaks(&effect);
        let Some(owner) = self.owners.get(&number) else { return };
        let connection = |session: SessionId| owner.sessions.get(&session).copied();
        match effect {
            Effect::Reply { to: ReplyTo(number), reply } => self.reply_leaves(number, reply),
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
    fn set_alarm(&mut self, number: u32) {
        let wall = self.wall();
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
