//! One history: its clock, its queue of what happens next, and all that takes part.

use std::collections::BTreeMap;
use std::sync::Arc;

use pendula_engine::input::Outcome;
use pendula_engine::{Command, Input, Need, Reply, Settings};
use pendula_model::job::JobSpec;
use pendula_model::{AttemptKey, InstanceId, TaskId, Timestamp};

use crate::audit::{Audit, Violation};
use crate::breakage::Breakage;
use crate::dice::Dice;
use crate::faults::{Fault, Profile};
use crate::network::{Connection, ToServer, ToWorker};
use crate::owner::{Owner, settings};
use crate::reads::Reading;
use crate::store::SimStore;
use crate::trace::{Trace, trace};
use crate::user::Users;
use crate::worker::Worker;

pub(crate) const MILLI: u64 = 1_000;
pub(crate) const SECOND: u64 = 1_000_000;
/// What the wall clock shows at the beginning: 2026-11-21T08:00:00Z.
const BEGINNING: i64 = 1_795_248_000_000_000;
/// Events after which a history is taken to go round in circles.
const MOST_EVENTS: u64 = 1_000_000;

/// Something that is going to happen.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    StartOwner,
    LeaseOver(u32),
    Alarm(u32),
    Write(u32),
    Written(u32),
    Read(u32, Vec<Need>),
    ReadSchedules(u32, Reading),
    ReadTasks(u32, InstanceId, TaskId, usize),
    Answer(u32, Input),

    ToWorker(u32, ToWorker),
    ToServer(u32, ToServer),
    WorkerSeesClose(u32),
    ServerSeesClose(u32),
    Silence(u32),

    StartWorker(usize),
    Dial(usize, u64),
    WorkerTick(usize, u64),
    HandlerEnds(usize, u64, AttemptKey, Outcome),
    StartedDue(usize, u64, AttemptKey),
    Emits(usize, u64, AttemptKey),
    HandBack(usize, u64),
    WorkerLeaves(usize, u64),

    UserActs,
    Request(u64),
    ReplyArrives(u64, Box<Reply>),
    AskAgain(u64),

    Trouble,
}

impl Event {
    /// The owner that it happens to, and which may stand still.
    fn owner(&self, connections: &BTreeMap<u32, Connection>, current: Option<u32>) -> Option<u32> {
        match self {
            Event::Alarm(owner) | Event::Written(owner) | Event::Answer(owner, _) => Some(*owner),
            Event::ToServer(connection, _) | Event::ServerSeesClose(connection) | Event::Silence(connection) => {
                Some(connections.get(connection)?.owner)
            }
            Event::Request(_) => current,
            _ => None,
        }
    }

    /// The worker that it happens to, and which may be paused.
    fn worker(&self, connections: &BTreeMap<u32, Connection>) -> Option<(usize, u64)> {
        match self {
            Event::ToWorker(connection, _) | Event::WorkerSeesClose(connection) => {
                let connection = connections.get(connection)?;
                Some((connection.worker, connection.boot))
            }
            Event::Dial(worker, boot)
            | Event::WorkerTick(worker, boot)
            | Event::HandlerEnds(worker, boot, ..)
            | Event::StartedDue(worker, boot, _)
            | Event::Emits(worker, boot, _)
            | Event::HandBack(worker, boot)
            | Event::WorkerLeaves(worker, boot) => Some((*worker, *boot)),
            _ => None,
        }
    }
}

pub(crate) struct World {
    /// Microseconds since the beginning; what no clock in the history shows.
    pub(crate) now: u64,
    queue: BTreeMap<(u64, u64), Event>,
    serial: u64,
    pub(crate) dice: Dice,
    pub(crate) profile: Profile,
    pub(crate) breakage: Option<Breakage>,
    pub(crate) settings: Settings,
    /// By how much the server's wall clock is wrong.
    wall_offset: i64,
    /// The latest that anybody took it to be.
    pub(crate) latest: Timestamp,

    pub(crate) store: SimStore,
    pub(crate) owners: BTreeMap<u32, Owner>,
    /// The one that the store knows as the owner, if it is up.
    pub(crate) current: Option<u32>,
    pub(crate) next_owner: u32,
    /// Steps of owners so far, and the one before which the current owner dies.
    pub(crate) steps: u64,
    /// Steps until everything was repaired.
    pub(crate) steps_lived: u64,
    pub(crate) crash_in: Option<u32>,
    pub(crate) lose_answer: bool,
    pub(crate) doubt_answer: bool,

    pub(crate) connections: BTreeMap<u32, Connection>,
    pub(crate) next_connection: u32,
    pub(crate) workers: Vec<Worker>,
    pub(crate) next_boot: u64,
    pub(crate) users: Users,

    pub(crate) audit: Audit,
    pub(crate) trace: Trace,
    /// Set when everything was repaired: from here on nothing goes wrong any more.
    pub(crate) healed: bool,
}

impl World {
    pub(crate) fn new(seed: u64, profile: Profile, breakage: Option<Breakage>, traced: bool) -> Self {
        let mut dice = Dice::new(seed);
        let settings = settings(&mut dice);
        let audit = Audit::of(&profile);
        World {
            now: 0,
            queue: BTreeMap::new(),
            serial: 0,
            dice,
            profile,
            breakage,
            settings,
            wall_offset: 0,
            latest: Timestamp::MIN,
            store: SimStore::new(),
            owners: BTreeMap::new(),
            current: None,
            next_owner: 1,
            steps: 0,
            steps_lived: 0,
            crash_in: None,
            lose_answer: false,
            doubt_answer: false,
            connections: BTreeMap::new(),
            next_connection: 1,
            workers: Vec::new(),
            next_boot: 0,
            users: Users::default(),
            audit,
            trace: Trace::new(traced),
            healed: false,
        }
    }

    /// What the server's clock shows.
    pub(crate) fn wall(&self) -> Timestamp {
        Timestamp::from_micros(BEGINNING + self.now as i64 + self.wall_offset)
    }

    pub(crate) fn at(&mut self, at: u64, event: Event) {
        self.serial += 1;
        self.queue.insert((at.max(self.now), self.serial), event);
    }

    pub(crate) fn after(&mut self, micros: u64, event: Event) {
        self.at(self.now.saturating_add(micros), event);
    }

    /// An owner, an app, workers.
    pub(crate) fn set_up(&mut self) {
        self.healed = true;
        self.start_owner();
        self.ask(Command::AppCreate { name: "app".into(), namespace: "default".into(), allow_scripts: false });
        self.run_until(5 * SECOND, |world| world.users.app.is_some());
        let Some(app) = self.users.app else { return };
        for number in 0..self.profile.workers {
            let slots = self.dice.between(self.profile.slots.0, self.profile.slots.1) as u32;
            self.workers.push(Worker::new(number, app, slots));
            let late = self.dice.below(3 * SECOND);
            self.after(late, Event::StartWorker(number));
        }
        self.healed = false;
    }

    /// Users who want only this, all at once; returns once they were answered.
    pub(crate) fn apply(&mut self, jobs: Vec<JobSpec>) {
        let Some(app) = self.users.app else { return };
        self.healed = true;
        for spec in jobs {
            self.ask(Command::JobApply { app, spec: Arc::new(spec), expected_version: Some(0) });
        }
        let end = self.now + 60 * SECOND;
        self.run_until(end, |world| world.users.unanswered == 0);
        self.healed = false;
    }

    /// Nothing goes wrong but one crash, `crash_in` steps from now.
    pub(crate) fn live_until_crash(&mut self, crash_in: Option<u32>) {
        self.crash_in = crash_in;
        self.steps = 0;
        let end = self.now + self.profile.length.as_micros() as u64;
        self.run_until(end, |_| false);
    }

    /// The part in which things go wrong.
    pub(crate) fn live(&mut self) {
        self.after(0, Event::UserActs);
        let first = self.pause_between_faults();
        self.after(first, Event::Trouble);
        let end = self.now + self.profile.length.as_micros() as u64;
        self.run_until(end, |_| false);
    }

    /// Lets time pass until `until`, or until `done`. Whether the history may go on.
    pub(crate) fn run_until(&mut self, until: u64, done: impl Fn(&World) -> bool) -> bool {
        while self.audit.violation().is_none() && !done(self) {
            let Some(((at, _), _)) = self.queue.first_key_value() else { break };
            if *at > until {
                break;
            }
            let ((at, _), event) = self.queue.pop_first().expect("just seen");
            self.now = at;
            self.happen(event);
            if self.serial > MOST_EVENTS {
                self.audit.breaks("nothing_stuck", || "the history goes round in circles".to_owned());
            }
        }
        if self.audit.violation().is_none() && !done(self) {
            self.now = until.max(self.now);
        }
        self.audit.violation().is_none()
    }

    fn happen(&mut self, event: Event) {
        if let Some(owner) = event.owner(&self.connections, self.current)
            && let Some(stalled) = self.owners.get(&owner).map(|owner| owner.stalled_until)
            && stalled > self.now
        {
            return self.at(stalled, event);
        }
        if let Some((worker, boot)) = event.worker(&self.connections) {
            let worker = &self.workers[worker];
            if worker.is(boot) && worker.paused_until > self.now {
                let paused_until = worker.paused_until;
                return self.at(paused_until, event);
            }
            if !worker.is(boot) {
                return;
            }
        }
        match event {
            Event::StartOwner => self.start_owner(),
            Event::LeaseOver(owner) => {
                if self.current != Some(owner) {
                    self.drop_owner(owner, "its lease is over");
                }
            }
            Event::Alarm(owner) => self.alarm(owner),
            Event::Write(owner) => self.write(owner),
            Event::Written(owner) => self.written(owner),
            Event::Read(owner, needs) => self.read(owner, needs),
            Event::ReadSchedules(owner, reading) => self.read_schedules(owner, reading),
            Event::ReadTasks(owner, instance, from, limit) => self.read_tasks(owner, instance, from, limit),
            Event::Answer(owner, input) => self.decide(owner, input),
            Event::ToWorker(connection, message) => self.arrives_at_worker(connection, message),
            Event::ToServer(connection, message) => self.arrives_at_server(connection, message),
            Event::WorkerSeesClose(connection) => self.worker_sees_close(connection),
            Event::ServerSeesClose(connection) => self.server_loses(connection),
            Event::Silence(connection) => self.silence(connection),
            Event::StartWorker(worker) => self.start_worker(worker),
            Event::Dial(worker, boot) => self.dial(worker, boot),
            Event::WorkerTick(worker, _) => self.worker_tick(worker),
            Event::HandlerEnds(worker, _, key, outcome) => self.handler_ends(worker, key, outcome),
            Event::StartedDue(worker, _, key) => self.started_due(worker, key),
            Event::Emits(worker, _, key) => self.emits(worker, key),
            Event::HandBack(worker, _) => self.hand_back(worker),
            Event::WorkerLeaves(worker, _) => self.worker_leaves(worker),
            Event::UserActs => self.user_acts(),
            Event::Request(number) => self.request_arrives(number),
            Event::ReplyArrives(number, reply) => self.reply_arrives(number, *reply),
            Event::AskAgain(number) => self.send_request(number),
            Event::Trouble => self.trouble(),
        }
    }

    fn pause_between_faults(&mut self) -> u64 {
        let mean = self.profile.fault_every.as_micros() as u64;
        self.dice.below(2 * mean)
    }

    fn trouble(&mut self) {
        if self.healed {
            return;
        }
        let pause = self.pause_between_faults();
        self.after(pause, Event::Trouble);
        if let Some(fault) = self.dice.weighted(self.profile.faults) {
            self.suffer(fault);
        }
    }

    pub(crate) fn suffer(&mut self, fault: Fault) {
        trace!(self, "fault: {fault:?}");
        let number = self.dice.below(self.workers.len() as u64) as usize;
        match fault {
            Fault::Crash => self.crash_in = Some(self.dice.below(12) as u32),
            Fault::Takeover => self.take_over(),
            Fault::Stall => {
                let until = self.now + self.dice.between(SECOND, 9 * SECOND);
                if let Some(owner) = self.current.and_then(|owner| self.owners.get_mut(&owner)) {
                    owner.stalled_until = until;
                }
            }
            Fault::StoreAway => {
                let until = self.now + self.dice.between(500 * MILLI, 12 * SECOND);
                self.store.goes_away(until);
            }
            Fault::AnswerLost => self.lose_answer = true,
            Fault::AnswerUncertain => self.doubt_answer = true,
            Fault::KillWorker => self.kill_worker(number),
            Fault::PauseWorker => {
                let until = self.now + self.dice.between(2 * SECOND, 30 * SECOND);
                self.workers[number].paused_until = until;
            }
            Fault::RetireWorker => self.drain(number),
            Fault::BreakConnection => self.break_connection(false),
            Fault::HalfOpen => self.break_connection(true),
            Fault::ClockForward => self.clock_jumps(1),
            Fault::ClockBack => self.clock_jumps(-1),
            Fault::Outage => {
                let length = match self.dice.below(3) {
                    0 => 60 * SECOND,
                    1 => 600 * SECOND,
                    _ => 3 * 86_400 * SECOND,
                };
                if let Some(owner) = self.current {
                    self.drop_owner(owner, "outage");
                }
                // The world goes on without us; what it does meanwhile is of no interest.
                self.wall_offset += length as i64;
            }
        }
    }

    fn clock_jumps(&mut self, direction: i64) {
        let longest = *self.dice.pick(&[2 * SECOND, 30 * SECOND, 3600 * SECOND]);
        self.latest = self.latest.max(self.wall());
        self.wall_offset += direction * self.dice.below(longest) as i64;
        // The shell notices jumps and looks up.
        let owners: Vec<u32> = self.owners.keys().copied().collect();
        for owner in owners {
            self.after(0, Event::Alarm(owner));
        }
    }

    /// The clock shows at least what it ever showed, so that nothing waits for it.
    pub(crate) fn set_clock_right(&mut self) {
        let behind = self.latest.as_micros() - self.wall().as_micros();
        self.wall_offset += behind.max(0);
    }

    pub(crate) fn violation(&self) -> Option<&Violation> {
        self.audit.violation()
    }
}
