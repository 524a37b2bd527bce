//! The state of one partition and the order in which an input is worked off.
//!
//! | file | what it decides |
//! |---|---|
//! | [`commands`] | what users ask for: apps, jobs, runs, stops |
//! | [`jobs`] | the cache of definitions, and parking what needs one from the store |
//! | [`firing`] | triggers: the look-ahead window, fires, misfires |
//! | [`admission`] | concurrency limits |
//! | [`ready`] | who is next: priority, aging, fair shares |
//! | [`dispatch`], [`choice`] | who gets a free slot, and which worker's, and why |
//! | [`attempts`] | reports, retries, stops, ends of instances |
//! | [`fanout`] | instances with many tasks: how they begin, their phases, how they end |
//! | [`tasks`] | one task of those: placed, ended, lost, tried again |
//! | [`mapping`] | sub-tasks that tasks emit, and retries that users ask for |
//! | [`spread`] | what is in memory of them |
//! | [`sessions`] | workers that come, speak and go |
//! | [`restore`] | a new owner's first state |
//! | [`explain`] | why an instance waits or where it runs |

mod admission;
mod attempts;
mod choice;
mod commands;
mod dispatch;
mod explain;
mod fanout;
mod firing;
mod jobs;
mod mapping;
mod ready;
mod restore;
mod sessions;
mod spread;
mod state;
mod tasks;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use pendula_model::change::Change;
use pendula_model::id::IdSequence;
use pendula_model::worker::WorkerRef;
use pendula_model::{AppId, InstanceId, JobId, PartitionId, SessionId, TaskKey, Timestamp};

use crate::effect::{Effect, Observation, Reply, ReplyTo};
use crate::input::{Command, Fact, Input, Need};
use spread::Spread;
use state::{Active, AppEntry, Away, Dirty, JobEntry, Random, Session, Timer, Window};

/// What handling an input led to. The caller drains it, or lets several inputs add to one batch.
#[derive(Debug, Default)]
pub struct Output {
    pub changes: Vec<Change>,
    pub effects: Vec<Effect>,
}

/// Times and bounds that the operator may change.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How far ahead schedules are kept in memory. Default 15 s.
    pub look_ahead: Duration,
    /// How long work waits for its worker to reconnect before it is lost. Default 10 s.
    pub lost_after: Duration,
    /// The same after this owner took over, when all workers have to reconnect. Default 30 s.
    pub adoption_grace: Duration,
    /// A fire later than this is a misfire. Default 10 s, which is more than a takeover lasts.
    pub misfire_after: Duration,
    /// How long ended instances are kept unless the job says otherwise. Default 30 days.
    pub retention: Duration,
    /// Active instances that the partition holds in memory at most. Default 2,000,000.
    pub max_active: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            look_ahead: Duration::from_secs(15),
            lost_after: Duration::from_secs(10),
            adoption_grace: Duration::from_secs(30),
            misfire_after: Duration::from_secs(10),
            retention: Duration::from_secs(30 * 86_400),
            max_active: 2_000_000,
        }
    }
}

/// Numbers for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gauges {
    /// Active instances that wait, for a time, a limit or a worker.
    pub waiting: usize,
    /// Of those, the ones that could start now if a worker had a slot.
    pub ready: usize,
    pub placed: usize,
    /// Tasks with a worker, of instances with many.
    pub tasks_placed: usize,
    pub sessions: usize,
    pub slots: usize,
    pub jobs_in_memory: usize,
}

/// How many due timers one input works off, so that a storm of fires becomes several batches, the first of which is on
/// its way to workers while the last is still being decided.
const TIMERS_PER_INPUT: usize = 2_000;

/// See the crate's documentation for the calling contract.
pub struct Partition {
    id: PartitionId,
    settings: Settings,
    ids: IdSequence,
    random: Random,
    now: Timestamp,

    apps: BTreeMap<AppId, AppEntry>,
    jobs: HashMap<JobId, JobEntry>,
    /// What is known of names: a job, or that there is none.
    names: HashMap<(AppId, String), Option<JobId>>,
    /// What is known of idempotency keys.
    keys: HashMap<(AppId, Arc<str>), Option<InstanceId>>,
    /// Commands that wait for something to be read.
    parked: HashMap<Need, Vec<(Command, ReplyTo)>>,
    /// What was read for the commands that are being carried out now, and is of no use to others.
    answers: HashMap<Need, Fact>,

    instances: HashMap<InstanceId, Active>,
    sessions: BTreeMap<SessionId, Session>,
    /// Workers that hold work and whose connection is gone.
    away: BTreeMap<(AppId, WorkerRef), Away>,

    timers: BTreeSet<(Timestamp, Timer)>,
    window: Window,
    /// Instances that the current input touched, in order.
    touched: Vec<InstanceId>,
    /// Instances that the current input made ready.
    made_ready: Vec<InstanceId>,
    /// Instances with many tasks that may go on.
    to_begin: Vec<InstanceId>,
    /// Waiting tasks whose worker turned out to be gone.
    gone_targets: Vec<TaskKey>,
    /// Broadcasts under way.
    broadcasts: BTreeSet<InstanceId>,
    /// Tasks that workers have, of instances with many; and such instances of which a task was ever placed.
    tasks_placed: usize,
    spreads_running: usize,
    /// From when on PowerJob's workers have come back: they look for their server each 10 s, and beat as often.
    slow_workers_known_at: Timestamp,
    /// From when on most workers that come back after a takeover have done so, and when we wait for no more of them.
    workers_known_at: Timestamp,
    adopting_until: Timestamp,
    /// Apps in which something became ready or a slot became free.
    pumpable: BTreeSet<AppId>,
}

impl Partition {
    /// Takes one input.
    pub fn handle(&mut self, now: Timestamp, input: Input, out: &mut Output) {
        debug_assert!(now >= self.now, "the caller promised that time does not go back");
        self.now = self.now.max(now);
        match input {
            Input::Tick => {}
            Input::ClockJumped { by } => self.on_clock_jumped(by),
            Input::Command { command, reply_to } => self.on_command(command, reply_to, out),
            Input::Loaded(facts) => self.on_loaded(facts, out),
            Input::SchedulesLoaded { until, jobs } => self.on_schedules_loaded(until, jobs),
            Input::WorkerConnected(hello) => self.on_worker_connected(*hello, out),
            Input::WorkerDisconnected { session } => self.on_worker_disconnected(session, out),
            Input::WorkerAlive { session, dispatches_seen, held, metrics } => {
                self.on_worker_alive(session, dispatches_seen, &held, metrics, out);
            }
            Input::WorkerDraining { session } => self.on_worker_draining(session),
            Input::Mapped { session, maps } => self.on_mapped(session, maps, out),
            Input::TasksLoaded { instance, from, tasks, complete } => {
                self.on_tasks_loaded(instance, from, tasks, complete, out);
            }
            Input::Reported { session, reports } => self.on_reported(session, reports, out),
        }
        self.settle(out);
    }

    /// When [`Input::Tick`] is due next.
    pub fn next_wakeup(&self) -> Option<Timestamp> {
        self.timers.first().map(|(at, _)| *at)
    }

    pub fn gauges(&self) -> Gauges {
        let held = self.sessions.values().map(|session| session.held.len());
        let held: usize = held.chain(self.away.values().map(|away| away.held.len())).sum();
        let placed = held - self.tasks_placed + self.spreads_running;
        Gauges {
            waiting: self.instances.len() - placed,
            ready: self.apps.values().map(AppEntry::ready).sum(),
            placed,
            tasks_placed: self.tasks_placed,
            sessions: self.sessions.len(),
            slots: self.sessions.values().map(|session| session.info.slots as usize).sum(),
            jobs_in_memory: self.jobs.len(),
        }
    }

    /// Works off due timers, fills free slots, and writes down what was touched.
    fn settle(&mut self, out: &mut Output) {
        for _ in 0..TIMERS_PER_INPUT {
            match self.timers.first() {
                Some((at, _)) if *at <= self.now => {
                    let (_, timer) = self.timers.pop_first().expect("just seen");
                    self.on_timer(timer, out);
                }
                _ => break,
            }
        }
        while let Some(key) = self.gone_targets.pop() {
            self.lose_task(key, "its worker is gone", out);
        }
        self.pump(out);
        self.flush(out);
    }

    fn on_timer(&mut self, timer: Timer, out: &mut Output) {
        match timer {
            Timer::Window => self.open_window(out),
            Timer::Trigger(job) => self.on_trigger_due(job, out),
            Timer::Instance(instance) => self.on_instance_timer(instance, out),
            Timer::Task(task) => self.on_task_timer(task, out),
            Timer::Away(app, worker) => self.on_away_too_long(app, worker, out),
        }
    }

    /// Every duration under way gets the time back that did not pass.
    fn on_clock_jumped(&mut self, by: Duration) {
        let ids: Vec<_> = self.instances.keys().copied().collect();
        for id in ids {
            let active = self.instances.get_mut(&id).expect("just listed");
            active.allowance += by;
            active.sent_at = active.sent_at.plus(by);
            let mut tasks = Vec::new();
            if let Some(Spread { live, orphans, .. }) = active.spread.as_deref_mut() {
                for (id, task) in live {
                    // What waits for a time goes on when the clock shows it; an orphan's patience is a duration.
                    if task.row.state.is_placed() || orphans.values().any(|orphans| orphans.contains(id)) {
                        task.allowance += by;
                        task.sent_at = task.sent_at.plus(by);
                        tasks.extend(task.timer.map(|_| task.row.key()));
                    }
                }
            }
            self.rearm(id);
            tasks.into_iter().for_each(|key| self.rearm_task(key));
        }
        for ((app, worker), away) in &mut self.away {
            let later = away.deadline.plus(by);
            self.timers.remove(&(away.deadline, Timer::Away(*app, worker.clone())));
            self.timers.insert((later, Timer::Away(*app, worker.clone())));
            away.deadline = later;
        }
    }

    /// Marks an instance whose row changed, to be written by [`Partition::flush`].
    fn touch(&mut self, id: InstanceId) {
        if let Some(active) = self.instances.get_mut(&id)
            && active.dirty == Dirty::Clean
        {
            active.dirty = Dirty::Changed;
            self.list(id);
        }
    }

    /// Marks an instance of which something is to be written: itself, or its tasks.
    fn list(&mut self, id: InstanceId) {
        if let Some(active) = self.instances.get_mut(&id)
            && !std::mem::replace(&mut active.listed, true)
        {
            self.touched.push(id);
        }
    }

    /// One change per touched instance, whatever happened to it on the way: an instance that found a free slot is
    /// inserted already dispatched.
    fn flush(&mut self, out: &mut Output) {
        let mut touched = std::mem::take(&mut self.touched);
        for id in touched.drain(..) {
            if let Some(active) = self.instances.get_mut(&id) {
                active.listed = false;
                self.write(id, out);
                self.rearm(id);
            }
        }
        self.touched = touched;
    }

    /// Writes down what was touched of one instance.
    fn write(&mut self, id: InstanceId, out: &mut Output) {
        let Some(active) = self.instances.get_mut(&id) else { return };
        match std::mem::replace(&mut active.dirty, Dirty::Clean) {
            Dirty::Clean => {}
            Dirty::New => {
                let instance = Box::new(active.row.clone());
                out.changes.push(Change::InstanceInserted { instance, prune_at: None });
            }
            Dirty::Changed => {
                active.row.version += 1;
                out.changes.push(Change::InstanceUpdated(Box::new(active.row.clone())));
            }
        }
        self.write_spread(id, out);
    }

    fn reply(&self, to: ReplyTo, reply: Reply, out: &mut Output) {
        out.effects.push(Effect::Reply { to, reply });
    }

    fn observe(&self, observation: Observation, out: &mut Output) {
        out.effects.push(Effect::Observed(observation));
    }
}
