//! One history: its clock, its queue of what happens next, and all that takes part.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use pendula_engine::input::Outcome;
use pendula_engine::{Command, Input, Need, Reply, Settings};
use pendula_model::job::JobSpec;
use pendula_model::snapshot::Snapshot;
use pendula_model::{AttemptKey, Epoch, InstanceId, PartitionId, TaskId, Timestamp};

use crate::asking::{Answer, Asked};
use crate::audit::{Audit, Violation};
use crate::breakage::Breakage;
use crate::dice::Dice;
use crate::faults::{FailPoint, Fault, Misfortune, Move, Point, Profile};
use crate::network::{Connection, ToServer, ToWorker};
use crate::owner::{Owner, settings};
use crate::reads::Reading;
use crate::routing::Wish;
use crate::server::{Life, Server};
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
    Boot(usize),
    Retire(usize),
    /// A process that was asked to shut down has had time enough.
    Exit(Life),
    Wakes(Life),
    Beat(Life),
    LeaseOver(Life),
    AtStore(u64),
    FromStore(u64, Answer),
    Overdue(u64),
    TakeAgain(Life),
    LoadAgain(Life, PartitionId, Epoch),
    Serve(Life, PartitionId, Epoch, Box<Snapshot>),
    ReleaseAgain(Life, PartitionId, Epoch),
    Told(usize, PartitionId, Epoch),
    Close(u32, Option<usize>),

    Alarm(u32),
    GoOn(u32, bool),
    WriteAgain(u32, u64),
    Read(u32, Vec<Need>),
    ReadSchedules(u32, Reading),
    ReadTasks(u32, InstanceId, TaskId, usize),
    Answer(u32, Box<Input>),

    ToWorker(u32, ToWorker),
    ToServer(u32, ToServer),
    WorkerSeesClose(u32),
    ServerSeesClose(u32),
    Silence(u32),
    DialOverdue(u32),
    PingOverdue(u32, usize),

    StartWorker(usize),
    Dial(usize, u64),
    WorkerTick(usize, u64),
    HandlerEnds(usize, u64, AttemptKey, Outcome),
    StartedDue(usize, u64, AttemptKey),
    Emits(usize, u64, AttemptKey),
    HandBack(usize, u64),
    WorkerLeaves(usize, u64),

    UserActs,
    Request(u64, usize),
    Route(Wish),
    PassedOn(Wish, Life),
    ReplyArrives(u64, Life, Option<Box<Reply>>),
    AskAgain(u64, u32),

    Trouble,
}

impl Event {
    /// The server process that must live for it to happen, if it needs one.
    fn life(&self) -> Option<Life> {
        match self {
            Event::Exit(life)
            | Event::Beat(life)
            | Event::LeaseOver(life)
            | Event::TakeAgain(life)
            | Event::LoadAgain(life, ..)
            | Event::Serve(life, ..)
            | Event::ReleaseAgain(life, ..) => Some(*life),
            _ => None,
        }
    }

    /// The servers that it happens to, or that it passes, in order: any of them may stand still.
    fn servers(&self, world: &World) -> [Option<usize>; 2] {
        let owner = |owner: &u32| world.owners.get(owner).map(|owner| owner.life.server);
        match self {
            Event::Retire(server) | Event::Told(server, ..) | Event::Request(_, server) => [Some(*server), None],
            Event::FromStore(asked, _) | Event::Overdue(asked) => [world.asker(*asked), None],
            Event::Close(number, _)
            | Event::Alarm(number)
            | Event::GoOn(number, _)
            | Event::WriteAgain(number, _)
            | Event::Answer(number, _) => [owner(number), None],
            Event::Route(wish) => [Some(wish.taken_by.server), None],
            Event::PassedOn(_, to) => [Some(to.server), None],
            Event::ReplyArrives(_, caller, _) => [Some(caller.server), None],
            Event::ToServer(id, _) => {
                let Some(connection) = world.connections.get(id) else { return [None; 2] };
                [Some(connection.entry.server), connection.relay.map(|relay| relay.server)]
            }
            Event::ServerSeesClose(id) | Event::Silence(id) => {
                let Some(connection) = world.connections.get(id) else { return [None; 2] };
                [Some(connection.relay.unwrap_or(connection.entry).server), None]
            }
            Event::ToWorker(id, _) => {
                let Some(connection) = world.connections.get(id) else { return [None; 2] };
                // What its owner itself wrote to it is on its way already.
                [connection.relay.map(|_| connection.entry.server), None]
            }
            _ => [self.life().map(|life| life.server), None],
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
    /// Time that went by while nobody looked, in microseconds.
    pub(crate) skipped: i64,
    /// By how much the store's clock is ahead.
    store_offset: i64,
    /// The latest that any server took it to be.
    pub(crate) latest: Timestamp,

    pub(crate) store: SimStore,
    /// What is under way to the store, or back.
    pub(crate) asked: BTreeMap<u64, Asked>,
    pub(crate) next_asked: u64,
    pub(crate) servers: Vec<Server>,
    pub(crate) next_life: u64,
    /// Where servers will be hit.
    pub(crate) ambushes: Vec<FailPoint>,
    pub(crate) owners: BTreeMap<u32, Owner>,
    pub(crate) next_owner: u32,
    /// Partitions whose owner is gone, and since when; and the longest that it took until there was another.
    pub(crate) unserved: BTreeMap<PartitionId, u64>,
    pub(crate) longest_gap: u64,
    /// Steps of servers so far.
    pub(crate) steps: u64,
    /// Steps until everything was repaired.
    pub(crate) steps_lived: u64,
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
        let audit = Audit::of(&profile, breakage);
        World {
            now: 0,
            queue: BTreeMap::new(),
            serial: 0,
            dice,
            breakage,
            settings,
            skipped: 0,
            store_offset: 0,
            latest: Timestamp::MIN,
            store: SimStore::new(profile.partitions),
            asked: BTreeMap::new(),
            next_asked: 1,
            servers: (0..profile.servers).map(|_| Server::new(profile.partitions)).collect(),
            next_life: 0,
            ambushes: Vec::new(),
            owners: BTreeMap::new(),
            next_owner: 1,
            unserved: BTreeMap::new(),
            longest_gap: 0,
            steps: 0,
            steps_lived: 0,
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
            profile,
        }
    }

    /// What a clock that is right shows.
    pub(crate) fn wall(&self) -> Timestamp {
        Timestamp::from_micros(BEGINNING + self.now as i64 + self.skipped)
    }

    /// What the store's clock shows.
    pub(crate) fn store_clock(&self) -> Timestamp {
        Timestamp::from_micros(self.wall().as_micros() + self.store_offset)
    }

    pub(crate) fn at(&mut self, at: u64, event: Event) {
        self.serial += 1;
        self.queue.insert((at.max(self.now), self.serial), event);
    }

    pub(crate) fn after(&mut self, micros: u64, event: Event) {
        self.at(self.now.saturating_add(micros), event);
    }

    /// Servers, apps, workers.
    pub(crate) fn set_up(&mut self) {
        self.healed = true;
        for server in 0..self.servers.len() {
            self.set_clocks(server);
            let late = self.dice.below(100 * MILLI);
            self.after(if server == 0 { 0 } else { late }, Event::Boot(server));
        }
        for partition in (0..self.profile.partitions).map(PartitionId) {
            let name = self.app_name(partition);
            self.ask(Command::AppCreate { name, namespace: "default".into(), allow_scripts: false });
        }
        let all = usize::from(self.profile.partitions);
        self.run_until(20 * SECOND, |world| world.users.apps.len() == all);
        for rank in 0..self.profile.workers {
            for app in self.users.apps.clone() {
                let slots = self.dice.between(self.profile.slots.0, self.profile.slots.1) as u32;
                let number = self.workers.len();
                self.workers.push(Worker::new(rank, app, slots));
                let late = self.dice.below(3 * SECOND);
                self.after(late, Event::StartWorker(number));
            }
        }
        self.healed = false;
    }

    /// The first name that belongs to a partition.
    fn app_name(&self, partition: PartitionId) -> String {
        let names = std::iter::once("app".to_owned()).chain((0..).map(|number| format!("app{number}")));
        let mut fitting = names.filter(|name| PartitionId::of_app(name, self.profile.partitions) == partition);
        fitting.next().expect("names do not end")
    }

    /// Users who want only this, all at once; returns once they were answered.
    pub(crate) fn apply(&mut self, jobs: Vec<JobSpec>) {
        let Some(app) = self.users.apps.first().copied() else { return };
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
        self.servers[0].misfortune = crash_in.map(|steps| (steps, Misfortune::Crash));
        self.steps = 0;
        let end = self.now + self.profile.length.as_micros() as u64;
        self.run_until(end, |_| false);
    }

    /// Nothing goes wrong but that the partition moves, and what waits for servers on their way.
    pub(crate) fn live_through(&mut self, moves: Move, ambushes: &[FailPoint]) {
        self.longest_gap = 0;
        if ambushes.iter().any(|ambush| matches!(ambush.what, Misfortune::Suspend(_))) {
            self.audit.leases_may_fail();
        }
        self.ambushes = ambushes.to_vec();
        let first = self.owners.iter().next().map(|(number, owner)| (*number, owner.life.server));
        let Some((owner, server)) = first else { return };
        match moves {
            Move::Crash => self.servers[server].misfortune = Some((0, Misfortune::Crash)),
            Move::Stall(length) => self.servers[server].misfortune = Some((0, Misfortune::Stall(length))),
            Move::Restart => self.after(0, Event::Retire(server)),
            Move::HandOver => self.after(0, Event::Close(owner, Some((server + 1) % self.servers.len()))),
        }
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

    pub(crate) fn happen(&mut self, event: Event) {
        if event.life().is_some_and(|life| !self.lives(life)) {
            return;
        }
        for server in event.servers(self).into_iter().flatten() {
            if self.servers[server].stands_still(self.now) {
                return self.servers[server].hold_up(event);
            }
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
            Event::Boot(server) => self.boot_server(server),
            Event::Retire(server) => self.retire_server(server),
            Event::Exit(life) => self.kill_server(life.server),
            Event::Wakes(life) => self.wakes(life),
            Event::Beat(life) => self.beat(life),
            Event::LeaseOver(life) => self.lease_over(life),
            Event::AtStore(asked) => self.at_store(asked),
            Event::FromStore(asked, answer) => self.store_answers(asked, answer),
            Event::Overdue(asked) => self.overdue(asked),
            Event::TakeAgain(life) => self.take_again(life),
            Event::LoadAgain(life, partition, epoch) => self.load_again(life, partition, epoch),
            Event::Serve(life, partition, epoch, snapshot) => self.serve(life, partition, epoch, snapshot),
            Event::ReleaseAgain(life, partition, epoch) => self.release_again(life, partition, epoch),
            Event::Told(server, partition, epoch) => self.told(server, partition, epoch),
            Event::Close(owner, successor) => self.close_owner(owner, successor),
            Event::Alarm(owner) => self.alarm(owner),
            Event::GoOn(owner, is_checked) => self.go_on_from(owner, is_checked),
            Event::WriteAgain(owner, batch) => self.write_again(owner, batch),
            Event::Read(owner, needs) => self.read(owner, needs),
            Event::ReadSchedules(owner, reading) => self.read_schedules(owner, reading),
            Event::ReadTasks(owner, instance, from, limit) => self.read_tasks(owner, instance, from, limit),
            Event::Answer(owner, input) => self.decide(owner, *input),
            Event::ToWorker(connection, message) => self.arrives_at_worker(connection, message),
            Event::ToServer(connection, message) => self.arrives_at_server(connection, message),
            Event::WorkerSeesClose(connection) => self.worker_sees_close(connection),
            Event::ServerSeesClose(connection) => self.server_loses(connection),
            Event::Silence(connection) => self.silence(connection),
            Event::DialOverdue(connection) => self.dial_overdue(connection),
            Event::PingOverdue(connection, server) => self.ping_overdue(connection, server),
            Event::StartWorker(worker) => self.start_worker(worker),
            Event::Dial(worker, boot) => self.dial(worker, boot),
            Event::WorkerTick(worker, _) => self.worker_tick(worker),
            Event::HandlerEnds(worker, _, key, outcome) => self.handler_ends(worker, key, outcome),
            Event::StartedDue(worker, _, key) => self.started_due(worker, key),
            Event::Emits(worker, _, key) => self.emits(worker, key),
            Event::HandBack(worker, _) => self.hand_back(worker),
            Event::WorkerLeaves(worker, _) => self.worker_leaves(worker),
            Event::UserActs => self.user_acts(),
            Event::Request(number, server) => self.request_arrives(number, server),
            Event::Route(wish) => self.route(wish),
            Event::PassedOn(wish, to) => self.passed_on(wish, to),
            Event::ReplyArrives(number, caller, reply) => self.reply_arrives(number, caller, reply.map(|reply| *reply)),
            Event::AskAgain(number, tries) => self.ask_again(number, tries),
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
            Fault::Crash => {
                let steps = self.dice.below(12) as u32;
                let server = self.some_server();
                self.servers[server].misfortune = Some((steps, Misfortune::Crash));
            }
            Fault::Stall if !self.profile.is_cluster() => {
                let length = self.dice.between(SECOND, 9 * SECOND);
                self.stand_still(0, length);
            }
            Fault::Stall => {
                let (steps, server) = (self.dice.below(12) as u32, self.some_server());
                let length = self.long_while();
                self.servers[server].misfortune = Some((steps, Misfortune::Stall(length)));
            }
            Fault::Suspend => {
                let (steps, server) = (self.dice.below(12) as u32, self.some_server());
                let length = self.long_while();
                self.servers[server].misfortune = Some((steps, Misfortune::Suspend(length)));
            }
            Fault::Ambush => {
                let (point, length) = (*self.dice.pick(&Point::ALL), self.long_while());
                let may_stall = self.profile.may(Fault::Stall);
                let what = match self.dice.below(4) {
                    0 if may_stall => Misfortune::Stall(length),
                    1 => Misfortune::Deaf,
                    _ => Misfortune::Crash,
                };
                self.lie_in_wait(FailPoint { point, nth: 1, what, steps: None });
                if self.dice.chance(500) {
                    // Or nobody would take anything.
                    self.suffer(Fault::HandOver);
                }
            }
            Fault::Restart => {
                let server = self.some_server();
                self.after(0, Event::Retire(server));
            }
            Fault::HandOver => self.move_some(),
            Fault::StoreAway => {
                let until = self.now + self.dice.between(500 * MILLI, 12 * SECOND);
                self.store.goes_away(until);
            }
            Fault::AnswerLost | Fault::AnswerUncertain if self.profile.is_cluster() => {
                let server = self.some_server();
                self.servers[server].deaf = true;
            }
            Fault::AnswerLost => self.lose_answer = true,
            Fault::AnswerUncertain => self.doubt_answer = true,
            Fault::Slow => {
                let server = self.some_server();
                self.servers[server].slow_until = self.now + self.dice.between(SECOND, 10 * SECOND);
            }
            Fault::CutFromStore => {
                let server = self.some_server();
                self.servers[server].no_store_until = self.now + self.dice.between(500 * MILLI, 15 * SECOND);
            }
            Fault::CutFromWorkers => {
                let server = self.some_server();
                self.servers[server].no_workers_until = self.now + self.dice.between(SECOND, 20 * SECOND);
                self.cut(server, true);
            }
            Fault::CutFromPeers => {
                let server = self.some_server();
                self.servers[server].no_peers_until = self.now + self.dice.between(SECOND, 20 * SECOND);
                self.cut(server, false);
            }
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
            Fault::StoreClock => {
                let by = self.dice.below(8 * SECOND) as i64 - 4 * SECOND as i64;
                self.store_offset += by;
            }
            Fault::Outage => {
                let length = match self.dice.below(3) {
                    0 => 60 * SECOND,
                    1 => 600 * SECOND,
                    _ => 3 * 86_400 * SECOND,
                };
                self.kill_server(0);
                // The world goes on without us; what it does meanwhile is of no interest.
                self.skipped += length as i64;
            }
        }
    }

    /// How long somebody stands still: mostly about as long as a lease.
    fn long_while(&mut self) -> Duration {
        let micros = match self.dice.below(10) {
            0..3 => self.dice.below(3 * SECOND),
            3..8 => self.dice.between(3 * SECOND, 15 * SECOND),
            _ => self.dice.between(15 * SECOND, 60 * SECOND),
        };
        Duration::from_micros(micros)
    }

    fn clock_jumps(&mut self, direction: i64) {
        let longest = *self.dice.pick(&[2 * SECOND, 30 * SECOND, 3600 * SECOND]);
        let server = self.dice.below(self.servers.len() as u64) as usize;
        let by = direction * self.dice.below(longest) as i64;
        self.wall_jumps(server, by);
    }

    pub(crate) fn violation(&self) -> Option<&Violation> {
        self.audit.violation()
    }
}
