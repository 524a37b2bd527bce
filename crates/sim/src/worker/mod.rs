//! A worker with the admission rules of the SDK: it takes newer attempts only and each once, keeps results until they
//! are acknowledged, tells what it has when it connects, and obeys.

mod handlers;
mod mapping;

use std::collections::{BTreeMap, BTreeSet};

use pendula_engine::Dispatch;
use pendula_engine::input::{Outcome, WorkerHello};
use pendula_model::instance::Reason;
use pendula_model::worker::{BootId, HostMetrics, TASKS, WorkerInfo, WorkerRef};
use pendula_model::{AppId, AttemptKey, PartitionId, SessionId, TaskKey};

use handlers::KILL_MOMENT;
use mapping::Emission;
pub(crate) use mapping::{REFUSED, position_of};

use crate::breakage::Breakage;
use crate::network::{ToServer, ToWorker};
use crate::trace::trace;
use crate::world::{Event, MILLI, SECOND, World};

const HEARTBEAT: u64 = 2 * SECOND;
/// A result that was not acknowledged is told again after so long.
const REPORT_AGAIN: u64 = 10 * SECOND;

pub(crate) struct Worker {
    name: String,
    rank: usize,
    app: AppId,
    processors: Vec<String>,
    labels: BTreeMap<String, String>,
    slots: u32,
    pub(crate) boot: u64,
    pub(crate) alive: bool,
    pub(crate) paused_until: u64,
    link: Link,
    entries: BTreeMap<TaskKey, Entry>,
    /// Abandoned attempts whose handlers are not gone yet.
    dying: BTreeSet<AttemptKey>,
    /// Ended and acknowledged.
    recent: BTreeMap<TaskKey, u32>,
    seen: u64,
    draining: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Link {
    None,
    Dialling(u32),
    Up(u32),
}

struct Entry {
    attempt: u32,
    phase: Phase,
}

enum Phase {
    /// For an older attempt to be gone.
    Waiting(Box<Dispatch>),
    Running {
        since: u64,
        timeout: Option<u64>,
        grace: u64,
        cause: Option<Cause>,
        /// Sub-tasks that it emits.
        emission: Option<Box<Emission>>,
    },
    Finished {
        outcome: Outcome,
        sent_at: Option<u64>,
        ran: bool,
    },
}

/// Who wants an attempt to end early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    Server,
    Timeout,
    Drain,
}

impl Worker {
    /// The worker `rank` of an app.
    pub(crate) fn new(rank: usize, app: AppId, slots: u32) -> Self {
        // All can run `a`, one of them `b`; each is in a zone of its own.
        let processors = if rank == 0 { vec!["a".to_owned(), "b".to_owned()] } else { vec!["a".to_owned()] };
        let zone = ["x", "y", "z"][rank % 3].to_owned();
        Worker {
            name: format!("w{rank}"),
            rank,
            app,
            processors,
            labels: BTreeMap::from([("zone".to_owned(), zone)]),
            slots,
            boot: 0,
            alive: false,
            paused_until: 0,
            link: Link::None,
            entries: BTreeMap::new(),
            dying: BTreeSet::new(),
            recent: BTreeMap::new(),
            seen: 0,
            draining: false,
        }
    }

    pub(crate) fn reference(&self, boot: u64) -> WorkerRef {
        WorkerRef { name: self.name.as_str().into(), boot: BootId(boot) }
    }

    /// Whether it is alive as this process.
    pub(crate) fn is(&self, boot: u64) -> bool {
        self.alive && self.boot == boot
    }

    pub(crate) fn is_connected(&self) -> bool {
        matches!(self.link, Link::Up(_))
    }

    fn held(&self, wanted: impl Fn(&Phase) -> bool) -> Vec<AttemptKey> {
        let entries = self.entries.iter().filter(|(_, entry)| wanted(&entry.phase));
        entries.map(|(key, entry)| AttemptKey::new(*key, entry.attempt)).collect()
    }

    /// The attempt, if it is the one in hand.
    fn entry(&mut self, key: AttemptKey) -> Option<&mut Phase> {
        self.entries.get_mut(&key.key()).filter(|entry| entry.attempt == key.attempt).map(|entry| &mut entry.phase)
    }

    fn newest(&self, key: TaskKey) -> Option<u32> {
        let entry = self.entries.get(&key).map(|entry| entry.attempt);
        let dying = self.dying_of(key).next_back().map(|dying| dying.attempt);
        entry.max(dying).max(self.recent.get(&key).copied())
    }

    fn is_dying(&self, key: TaskKey) -> bool {
        self.dying_of(key).next().is_some()
    }

    fn dying_of(&self, key: TaskKey) -> impl DoubleEndedIterator<Item = &AttemptKey> {
        self.dying.range(AttemptKey::new(key, 0)..=AttemptKey::new(key, u32::MAX))
    }

    fn occupied(&self) -> usize {
        let running = self.entries.values().filter(|entry| matches!(entry.phase, Phase::Running { .. })).count();
        running + self.dying.len()
    }
}

impl World {
    pub(crate) fn start_worker(&mut self, number: usize) {
        if self.workers[number].alive {
            return;
        }
        self.next_boot += 1;
        let boot = self.next_boot;
        let Worker { rank, app, slots, .. } = self.workers[number];
        self.workers[number] = Worker { boot, alive: true, ..Worker::new(rank, app, slots) };
        self.audit.process_started(self.workers[number].reference(boot), slots);
        trace!(self, "worker w{number} starts as {boot}");
        self.dial(number, boot);
        self.after(HEARTBEAT, Event::WorkerTick(number, boot));
    }

    pub(crate) fn kill_worker(&mut self, number: usize) {
        if !self.workers[number].alive {
            return;
        }
        trace!(self, "worker w{number} is killed");
        let process = (number, self.workers[number].boot);
        self.audit.process_gone(process);
        self.exit(number);
    }

    /// The process is gone, and what it ran with it.
    fn exit(&mut self, number: usize) {
        let worker = &mut self.workers[number];
        worker.alive = false;
        worker.paused_until = 0;
        let process = (number, worker.boot);
        let link = std::mem::replace(&mut worker.link, Link::None);
        self.audit.process_gone(process);
        if let Link::Dialling(connection) | Link::Up(connection) = link {
            self.worker_closes(connection);
        }
        let longest = self.profile.workers_return.as_micros() as u64;
        let back = if self.healed { 500 * MILLI } else { self.dice.between(200 * MILLI, longest) };
        self.after(back, Event::StartWorker(number));
    }

    pub(crate) fn dial(&mut self, number: usize, boot: u64) {
        if !self.workers[number].is(boot) || self.workers[number].link != Link::None {
            return;
        }
        let Some(connection) = self.connect(number) else {
            let pause = self.dice.between(50 * MILLI, if self.healed { 500 * MILLI } else { 3 * SECOND });
            self.after(pause, Event::Dial(number, boot));
            return;
        };
        let forgets = self.breakage == Some(Breakage::WorkerForgetsRunning);
        let boasts = self.breakage == Some(Breakage::SlotsOverstated);
        let worker = &mut self.workers[number];
        worker.link = Link::Dialling(connection);
        let running = worker.held(|phase| !forgets && !matches!(phase, Phase::Finished { .. }));
        let hello = WorkerHello {
            session: SessionId(0),
            app: worker.app,
            info: WorkerInfo {
                worker: worker.reference(boot),
                version: "sim".to_owned(),
                processors: worker.processors.clone(),
                labels: worker.labels.clone(),
                slots: worker.slots + u32::from(boasts),
                capabilities: vec![TASKS.to_owned()],
                address: String::new(),
                metrics: HostMetrics::default(),
            },
            running,
            finished: worker.held(|phase| matches!(phase, Phase::Finished { .. })),
        };
        self.send_to_server(connection, ToServer::Hello(Box::new(hello)));
    }

    /// A worker that was not welcomed tries elsewhere.
    pub(crate) fn dial_overdue(&mut self, connection: u32) {
        let Some(known) = self.connections.get(&connection) else { return };
        if self.workers[known.worker].link == Link::Dialling(connection) {
            self.worker_sees_close(connection);
        }
    }

    pub(crate) fn worker_sees_close(&mut self, connection: u32) {
        let Some(known) = self.connections.get(&connection) else { return };
        let (number, boot) = (known.worker, known.boot);
        self.worker_closes(connection);
        let worker = &mut self.workers[number];
        let ours = worker.link == Link::Up(connection) || worker.link == Link::Dialling(connection);
        if !worker.is(boot) || !ours {
            return;
        }
        worker.link = Link::None;
        for entry in worker.entries.values_mut() {
            if let Phase::Finished { sent_at, .. } = &mut entry.phase {
                *sent_at = None;
            }
        }
        let pause = self.dice.between(MILLI, if self.healed { 100 * MILLI } else { 2 * SECOND });
        self.after(pause, Event::Dial(number, boot));
    }

    pub(crate) fn worker_takes(&mut self, number: usize, connection: u32, message: ToWorker) {
        let worker = &mut self.workers[number];
        if let ToWorker::Welcome { abort } = message {
            if worker.link != Link::Dialling(connection) {
                return;
            }
            worker.link = Link::Up(connection);
            worker.seen = 0;
            for attempt in abort {
                self.give_up(number, attempt);
            }
            let finished = self.workers[number].held(|phase| matches!(phase, Phase::Finished { .. }));
            for key in finished {
                self.report_end(number, key);
            }
            if self.workers[number].draining {
                self.send_to_server(connection, ToServer::Draining);
            }
            self.emit_again(number);
            return;
        }
        if worker.link != Link::Up(connection) {
            return;
        }
        match message {
            ToWorker::Welcome { .. } => {}
            ToWorker::Dispatch(dispatch) => self.dispatched(number, dispatch),
            ToWorker::Stop { attempt, abandon: true, .. } => self.give_up(number, attempt),
            ToWorker::Stop { attempt, grace, .. } => {
                self.stopped(number, attempt, grace.as_micros() as u64);
            }
            ToWorker::Ack { attempt } => {
                if matches!(worker.entry(attempt), Some(Phase::Finished { .. })) {
                    let reference = worker.reference(worker.boot);
                    self.audit.given_up(attempt, &reference);
                    let worker = &mut self.workers[number];
                    worker.entries.remove(&attempt.key());
                    worker.recent.insert(attempt.key(), attempt.attempt);
                }
            }
            ToWorker::Mapped { attempt, reply } => self.mapped(number, attempt, reply),
            ToWorker::Drain => self.drain(number),
        }
    }

    fn dispatched(&mut self, number: usize, dispatch: Box<Dispatch>) {
        let attempt = dispatch.key();
        let key = attempt.key();
        let admits_all = self.breakage == Some(Breakage::WorkerAdmitsAll);
        let worker = &mut self.workers[number];
        worker.seen = worker.seen.max(dispatch.sequence);
        if !admits_all {
            match worker.newest(key) {
                Some(newest) if newest > attempt.attempt => return,
                Some(newest) if newest == attempt.attempt => return self.report_end(number, attempt),
                _ => {}
            }
            self.abandon(number, key);
        }
        let worker = &mut self.workers[number];
        let waits = worker.is_dying(key);
        if worker.draining || (!waits && worker.occupied() >= worker.slots as usize) {
            return self.finish(number, attempt, Outcome::Rejected { reason: Reason::REJECTED }, false);
        }
        if waits {
            worker.entries.insert(key, Entry { attempt: attempt.attempt, phase: Phase::Waiting(dispatch) });
        } else {
            self.start_handler(number, &dispatch);
        }
    }

    fn stopped(&mut self, number: usize, attempt: AttemptKey, grace: u64) {
        if self.workers[number].entry(attempt).is_some() {
            self.ask_to_stop(number, attempt, Cause::Server, grace);
        }
    }

    /// The server says that an attempt is not this worker's any more.
    fn give_up(&mut self, number: usize, attempt: AttemptKey) {
        let worker = &mut self.workers[number];
        if worker.entry(attempt).is_none() {
            return;
        }
        let reference = worker.reference(worker.boot);
        self.audit.given_up(attempt, &reference);
        self.abandon(number, attempt.key());
    }

    /// Heartbeats, repeated reports, timeouts while nobody else can see to them.
    pub(crate) fn worker_tick(&mut self, number: usize) {
        let now = self.now;
        let worker = &self.workers[number];
        let boot = worker.boot;
        self.after(HEARTBEAT, Event::WorkerTick(number, boot));
        let worker = &self.workers[number];
        let Link::Up(connection) = worker.link else {
            let late = |entry: &Entry| match entry.phase {
                Phase::Running { since, timeout: Some(timeout), grace, cause: None, .. } if now - since >= timeout => {
                    Some(grace)
                }
                _ => None,
            };
            let late: Vec<_> = worker
                .entries
                .iter()
                .filter_map(|(key, e)| Some((AttemptKey::new(*key, e.attempt), late(e)?)))
                .collect();
            for (key, grace) in late {
                self.ask_to_stop(number, key, Cause::Timeout, grace);
            }
            return;
        };
        let again = worker.held(|phase| match phase {
            Phase::Finished { sent_at, .. } => sent_at.is_none_or(|sent_at| now - sent_at >= REPORT_AGAIN),
            _ => false,
        });
        let (seen, held) = (worker.seen, worker.held(|_| true));
        self.send_to_server(connection, ToServer::Alive { seen, held });
        for key in again {
            self.report_end(number, key);
        }
        self.emit_overdue(number);
    }

    /// Takes nothing new, and leaves within a budget.
    pub(crate) fn drain(&mut self, number: usize) {
        let worker = &mut self.workers[number];
        if !worker.alive || worker.draining {
            return;
        }
        worker.draining = true;
        let (boot, link) = (worker.boot, worker.link);
        self.audit.process_leaves(boot);
        trace!(self, "worker w{number} drains");
        if let Link::Up(connection) = link {
            self.send_to_server(connection, ToServer::Draining);
        }
        let budget = self.dice.between(SECOND, 4 * SECOND);
        self.after(budget, Event::HandBack(number, boot));
    }

    pub(crate) fn hand_back(&mut self, number: usize) {
        let boot = self.workers[number].boot;
        let left = self.workers[number].held(|phase| !matches!(phase, Phase::Finished { .. }));
        for key in left {
            match &self.workers[number].entries[&key.key()].phase {
                Phase::Running { grace, .. } => {
                    let grace = (*grace).min(2 * SECOND);
                    self.ask_to_stop(number, key, Cause::Drain, grace);
                }
                _ => self.finish(number, key, Outcome::Rejected { reason: Reason::REJECTED }, false),
            }
        }
        let farewell = self.dice.between(3 * SECOND + KILL_MOMENT, 6 * SECOND);
        self.after(farewell, Event::WorkerLeaves(number, boot));
    }

    pub(crate) fn worker_leaves(&mut self, number: usize) {
        trace!(self, "worker w{number} leaves");
        self.exit(number);
    }

    /// Workers that have a session.
    pub(crate) fn connected_workers(&self, partition: PartitionId) -> usize {
        let of_app = self.workers.iter().filter(|worker| worker.app.partition() == partition);
        of_app.filter(|worker| worker.is_connected()).count()
    }
}
