//! A partition, its time, what it has written, and what it wanted done: everything commits at once and nothing gets lost
//! unless a script says so.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use pendula_engine::effect::{Observation, Refusal};
use pendula_engine::input::{Outcome, WorkerHello};
use pendula_engine::{
    Command, Dispatch, Effect, Fact, Input, Mapping, Need, NewTask, Output, Partition, Reply, ReplyTo, Report,
    ReportEvent, RunRequest, Settings,
};
use pendula_model::change::{Change, Gap};
use pendula_model::instance::{Instance, InstanceState, PastAttempt, Payload, Reason, TaskState};
use pendula_model::job::{Job, JobSpec};
use pendula_model::processor::{Handler, Processor};
use pendula_model::snapshot::Snapshot;
use pendula_model::task::{Fanout, Task, TaskRole};
use pendula_model::trigger::Trigger;
use pendula_model::worker::{BootId, HostMetrics, WorkerInfo, WorkerRef};
use pendula_model::{
    AppId, AttemptKey, InstanceId, JobId, PartitionId, Revision, SessionId, TaskId, TaskKey, Timestamp,
};

/// A job that a worker from [`Script::worker`] can run.
pub fn job(name: &str) -> JobSpec {
    JobSpec::new(name, Processor::Handler(Handler { name: "a".to_owned(), config: None }))
}

pub fn fires(name: &str, trigger: Trigger) -> JobSpec {
    JobSpec { trigger: Some(trigger), ..job(name) }
}

pub fn every(millis: u64) -> Trigger {
    Trigger { fixed_rate: Some(Duration::from_millis(millis)), ..Trigger::default() }
}

pub fn after_end(millis: u64) -> Trigger {
    Trigger { fixed_delay: Some(Duration::from_millis(millis)), ..Trigger::default() }
}

pub const SECOND: Duration = Duration::from_secs(1);

pub struct Script {
    pub partition: Partition,
    pub now: Timestamp,
    pub app: AppId,
    pub settings: Settings,
    /// The store.
    pub jobs: BTreeMap<JobId, Job>,
    pub rows: BTreeMap<InstanceId, Instance>,
    pub gaps: BTreeMap<JobId, Vec<Gap>>,
    pub past: Vec<PastAttempt>,
    pub fanouts: BTreeMap<InstanceId, Fanout>,
    pub tasks: BTreeMap<TaskKey, Task>,
    fires: BTreeSet<(JobId, Timestamp)>,
    specs: BTreeMap<(JobId, Revision), Arc<JobSpec>>,
    apps: BTreeMap<AppId, pendula_model::app::App>,
    /// What was wanted since it was last taken.
    pub dispatches: Vec<Dispatch>,
    pub stops: Vec<(SessionId, InstanceId, u32, bool)>,
    pub acks: Vec<(InstanceId, u32)>,
    pub task_stops: Vec<(SessionId, AttemptKey, bool)>,
    /// Answers to what tasks emitted.
    pub mapped: Vec<(AttemptKey, Result<u64, String>)>,
    /// Reads of waiting tasks wait until a script answers them.
    pub hold_tasks: bool,
    pub held_tasks: Vec<(InstanceId, TaskId, usize)>,
    pub welcomes: Vec<(SessionId, Vec<(InstanceId, u32)>)>,
    pub closed: Vec<SessionId>,
    pub drains: Vec<SessionId>,
    pub observed: Vec<Observation>,
    pub changes: Vec<Change>,
    replies: BTreeMap<u64, Reply>,
    next_reply: u64,
    next_session: u64,
    /// Reads of single things wait until a script answers them.
    pub hold_reads: bool,
    pub held_reads: Vec<Need>,
    /// The same for schedules.
    pub hold_schedules: bool,
    pub held_schedules: Option<Timestamp>,
}

impl Script {
    pub fn new() -> Self {
        Self::with(Settings::default())
    }

    pub fn with(settings: Settings) -> Self {
        let now = "2026-11-21T08:00:00Z".parse().expect("a time");
        let nothing = Snapshot {
            partition: PartitionId(0),
            last_id: 0,
            apps: Vec::new(),
            jobs: Vec::new(),
            revisions: Vec::new(),
            instances: Vec::new(),
            fanouts: Vec::new(),
            tasks: Vec::new(),
            broken: Vec::new(),
        };
        let mut out = Output::default();
        let partition = Partition::restore(now, 1, settings.clone(), nothing, &mut out);
        let mut script = Script {
            partition,
            now,
            app: AppId(1),
            settings,
            jobs: BTreeMap::new(),
            rows: BTreeMap::new(),
            gaps: BTreeMap::new(),
            past: Vec::new(),
            fanouts: BTreeMap::new(),
            tasks: BTreeMap::new(),
            fires: BTreeSet::new(),
            specs: BTreeMap::new(),
            apps: BTreeMap::new(),
            dispatches: Vec::new(),
            stops: Vec::new(),
            acks: Vec::new(),
            task_stops: Vec::new(),
            mapped: Vec::new(),
            hold_tasks: false,
            held_tasks: Vec::new(),
            welcomes: Vec::new(),
            closed: Vec::new(),
            drains: Vec::new(),
            observed: Vec::new(),
            changes: Vec::new(),
            replies: BTreeMap::new(),
            next_reply: 0,
            next_session: 0,
            hold_reads: false,
            held_reads: Vec::new(),
            hold_schedules: false,
            held_schedules: None,
        };
        script.absorb(out);
        script.app = script.new_app("app");
        script
    }

    pub fn new_app(&mut self, name: &str) -> AppId {
        let create = Command::AppCreate { name: name.into(), namespace: "default".into(), allow_scripts: false };
        match self.command(create) {
            Reply::App(app) => app.id,
            other => panic!("{other:?}"),
        }
    }

    // What happens.

    pub fn input(&mut self, input: Input) {
        let mut out = Output::default();
        self.partition.handle(self.now, input, &mut out);
        self.absorb(out);
    }

    /// Commits, then performs.
    fn absorb(&mut self, out: Output) {
        for change in out.changes {
            self.write(&change);
            self.changes.push(change);
        }
        for effect in out.effects {
            match effect {
                Effect::Reply { to, reply } => drop(self.replies.insert(to.0, reply)),
                Effect::Dispatch(dispatch) => self.dispatches.push(*dispatch),
                Effect::Stop { session, attempt, abandon, .. } if self.fanouts.contains_key(&attempt.instance) => {
                    self.task_stops.push((session, attempt, abandon));
                }
                Effect::Stop { session, attempt, abandon, .. } => {
                    self.stops.push((session, attempt.instance, attempt.attempt, abandon));
                }
                Effect::Ack { attempt, .. } => self.acks.push((attempt.instance, attempt.attempt)),
                Effect::Mapped { attempt, reply, .. } => self.mapped.push((attempt, reply)),
                Effect::LoadTasks { instance, from, limit, .. } if self.hold_tasks => {
                    self.held_tasks.push((instance, from, limit));
                }
                Effect::LoadTasks { instance, from, limit, .. } => self.answer_tasks(instance, from, limit),
                Effect::Welcome { session, abort } => {
                    let abort = abort.into_iter().map(|attempt| (attempt.instance, attempt.attempt)).collect();
                    self.welcomes.push((session, abort));
                }
                Effect::Drain { session } => self.drains.push(session),
                Effect::Close { session, .. } => self.closed.push(session),
                Effect::Load(needs) if self.hold_reads => self.held_reads.extend(needs),
                Effect::Load(needs) => needs.into_iter().for_each(|need| self.answer(need)),
                Effect::LoadSchedules { until } if self.hold_schedules => self.held_schedules = Some(until),
                Effect::LoadSchedules { until } => self.answer_schedules(until),
                Effect::Observed(observation) => self.observed.push(observation),
            }
        }
    }

    /// Reads waiting tasks, and tells the engine.
    pub fn answer_tasks(&mut self, instance: InstanceId, from: TaskId, limit: usize) {
        let waits = |task: &&Task| {
            let fresh = task.state == TaskState::Waiting && task.attempt == 0 && task.target.is_none();
            task.instance == instance && task.id >= from && fresh
        };
        let tasks: Vec<Task> = self.tasks.values().filter(waits).take(limit).cloned().collect();
        let complete = tasks.len() < limit;
        self.input(Input::TasksLoaded { instance, from, tasks, complete });
    }

    pub fn answer_schedules(&mut self, until: Timestamp) {
        let due = |job: &&Job| job.deleted_at.is_none() && job.schedule.next_fire.is_some_and(|next| next < until);
        let jobs = self.jobs.values().filter(due).cloned().collect();
        self.input(Input::SchedulesLoaded { until, jobs });
    }

    /// Reads what was asked for, and tells the engine.
    pub fn answer(&mut self, need: Need) {
        let fact = self.fact(need);
        self.input(Input::Loaded(vec![fact]));
    }

    /// What the store has on it.
    pub fn fact(&self, need: Need) -> Fact {
        match &need {
            Need::JobById(id) => Fact::Job { job: self.jobs.get(id).cloned(), need },
            Need::JobByName(app, name) => {
                let named = |job: &&Job| job.app == *app && job.spec.name == *name && job.deleted_at.is_none();
                Fact::Job { job: self.jobs.values().find(named).cloned(), need }
            }
            Need::Idempotency(app, key) => {
                let keyed = |row: &&Instance| row.app == *app && row.idempotency_key.as_ref() == Some(key);
                Fact::Idempotency { instance: self.rows.values().find(keyed).map(|row| row.id), need }
            }
            Need::Fanout(id) => {
                let fanout = self.fanouts.get(id).map(|fanout| (fanout.clone(), self.rows[id].state.is_ended()));
                Fact::Fanout { fanout, need }
            }
            Need::UnsuccessfulTasks { instance, tasks, .. } => {
                let is_meant = |task: &&Task| {
                    let unsuccessful = matches!(task.state, TaskState::Failed | TaskState::Lost);
                    task.instance == *instance && unsuccessful && (tasks.is_empty() || tasks.contains(&task.id))
                };
                Fact::Tasks { tasks: self.tasks.values().filter(is_meant).cloned().collect(), need }
            }
        }
    }

    fn write(&mut self, change: &Change) {
        match change {
            Change::AppInserted(app) | Change::AppUpdated(app) => drop(self.apps.insert(app.id, app.clone())),
            Change::AppDeleted(id) => drop(self.apps.remove(id)),
            Change::JobInserted(job) | Change::JobUpdated(job) => {
                self.specs.insert((job.id, job.revision), job.spec.clone());
                self.jobs.insert(job.id, job.clone());
            }
            Change::JobDeleted { id, at, .. } => {
                let job = self.jobs.get_mut(id).expect("it exists");
                job.deleted_at = Some(*at);
                job.schedule.next_fire = None;
            }
            Change::ScheduleAdvanced { job, expected_next, schedule } => {
                let job = self.jobs.get_mut(job).expect("it exists");
                assert_eq!(job.schedule.next_fire, *expected_next, "the trigger is where the engine thinks");
                job.schedule = schedule.clone();
            }
            Change::GapRecorded { job, gap } => self.gaps.entry(*job).or_default().push(gap.clone()),
            Change::InstanceInserted { instance, .. } => {
                if let Some(at) = instance.fire_time {
                    assert!(self.fires.insert((instance.job, at)), "one fire, one row: {instance:?}");
                }
                assert!(self.rows.insert(instance.id, (**instance).clone()).is_none(), "ids are new");
            }
            Change::InstanceUpdated(instance) | Change::InstanceEnded { instance, .. } => {
                let before = self.rows.insert(instance.id, (**instance).clone()).expect("it exists");
                assert!(!before.state.is_ended(), "what ended stays as it is: {before:?} became {instance:?}");
                assert_eq!(before.version + 1, instance.version);
            }
            Change::InstanceQuarantined { id, at, .. } => {
                if let Some(row) = self.rows.get_mut(id) {
                    (row.state, row.ended_at, row.reason) =
                        (InstanceState::Failed, Some(*at), Some(Reason::QUARANTINED));
                }
            }
            Change::AttemptEnded(past) => self.past.push(past.clone()),
            Change::FanoutInserted(fanout) => {
                assert!(!self.rows[&fanout.instance].state.is_ended(), "an ended instance gets no tasks");
                assert!(self.fanouts.insert(fanout.instance, fanout.clone()).is_none(), "it begins once");
            }
            Change::FanoutUpdated(fanout) => {
                let before = self.fanouts.insert(fanout.instance, fanout.clone()).expect("it has begun");
                assert_eq!(before.version + 1, fanout.version);
            }
            Change::TasksInserted(tasks) => {
                for task in tasks {
                    assert!(!task.state.is_ended(), "new tasks have not ended: {task:?}");
                    assert!(self.tasks.insert(task.key(), task.clone()).is_none(), "numbers are new: {task:?}");
                }
            }
            Change::TasksCopied { from, to, at, count } => {
                let copied = self.tasks.values().filter(|task| {
                    task.instance == *from && task.role.is_counted() && task.state != TaskState::Succeeded
                });
                let copied: Vec<Task> = copied
                    .map(|task| Task {
                        input: task.input.clone(),
                        parent: task.parent,
                        emitted: task.emitted,
                        target: task.target.clone(),
                        ..Task::new(*to, task.id, task.role, task.name.clone(), *at)
                    })
                    .collect();
                assert_eq!(copied.len() as u64, *count);
                self.tasks.extend(copied.into_iter().map(|task| (task.key(), task)));
            }
            Change::TaskUpdated(task) => {
                let before = self.tasks.insert(task.key(), (**task).clone()).expect("it exists");
                assert_eq!(before.version + 1, task.version, "{before:?} became {task:?}");
                assert!(
                    !before.state.is_ended() || !task.state.is_ended(),
                    "only a retry moves what ended: {before:?} became {task:?}"
                );
                if let Some(target) = &before.target {
                    assert_eq!(Some(&target.name), task.target.as_ref().map(|target| &target.name), "bound is bound");
                    if let Some(worker) = &task.worker {
                        assert_eq!(Some(worker), task.target.as_ref(), "it ran where it is bound to: {task:?}");
                    }
                }
            }
        }
    }

    /// Lets time pass, with every timer at its time.
    pub fn pass(&mut self, time: Duration) {
        let end = self.now.plus(time);
        while let Some(next) = self.partition.next_wakeup().filter(|next| *next <= end) {
            self.now = self.now.max(next);
            self.input(Input::Tick);
        }
        self.now = end;
    }

    /// The server is down for a while, and comes back with what the store has.
    pub fn restart(&mut self, downtime: Duration) {
        self.now = self.now.plus(downtime);
        self.restart_with(|_| {});
    }

    pub fn restart_with(&mut self, spoil: impl FnOnce(&mut Snapshot)) {
        let instances: Vec<_> = self.rows.values().filter(|row| !row.state.is_ended()).cloned().collect();
        let used: BTreeSet<_> = instances.iter().map(|row| row.job).collect();
        let revisions = instances.iter().map(|row| (row.job, row.revision));
        let revisions = revisions.map(|(job, revision)| (job, revision, self.specs[&(job, revision)].clone()));
        let last_id = self.rows.keys().map(|id| id.0).chain(self.jobs.keys().map(|id| id.0)).chain([self.app.0]).max();
        let mut snapshot = Snapshot {
            partition: PartitionId(0),
            last_id: last_id.unwrap_or(0),
            apps: self.apps.values().cloned().collect(),
            jobs: used.iter().map(|id| self.jobs[id].clone()).collect(),
            revisions: revisions.collect(),
            fanouts: instances.iter().filter_map(|row| self.fanouts.get(&row.id)).cloned().collect(),
            tasks: self
                .tasks
                .values()
                .filter(|task| task.is_under_way() && !self.rows[&task.instance].state.is_ended())
                .cloned()
                .collect(),
            instances,
            broken: Vec::new(),
        };
        spoil(&mut snapshot);
        let mut out = Output::default();
        self.partition = Partition::restore(self.now, 2, self.settings.clone(), snapshot, &mut out);
        self.absorb(out);
    }

    // What users do.

    pub fn command(&mut self, command: Command) -> Reply {
        let number = self.send(command);
        self.replies.remove(&number).expect("every command is answered")
    }

    /// Without waiting for the answer.
    pub fn send(&mut self, command: Command) -> u64 {
        self.next_reply += 1;
        self.input(Input::Command { command, reply_to: ReplyTo(self.next_reply) });
        self.next_reply
    }

    pub fn reply(&mut self, number: u64) -> Option<Reply> {
        self.replies.remove(&number)
    }

    pub fn apply(&mut self, spec: JobSpec) -> Job {
        let command = Command::JobApply { app: self.app, spec: Arc::new(spec), expected_version: None };
        match self.command(command) {
            Reply::Job { job, .. } => *job,
            other => panic!("{other:?}"),
        }
    }

    pub fn enable(&mut self, name: &str, enabled: bool) -> Reply {
        self.command(Command::JobEnable { app: self.app, name: name.into(), enabled })
    }

    pub fn run_request(&self, name: &str) -> RunRequest {
        RunRequest {
            app: self.app,
            job: name.into(),
            params: None,
            due_at: None,
            idempotency_key: None,
            rerun_of: None,
            only_unsuccessful: false,
            priority: None,
        }
    }

    pub fn run(&mut self, name: &str) -> InstanceId {
        let request = self.run_request(name);
        self.run_as(request)
    }

    pub fn run_as(&mut self, request: RunRequest) -> InstanceId {
        match self.command(Command::JobRun(Box::new(request))) {
            Reply::Instance { id, .. } => id,
            other => panic!("{other:?}"),
        }
    }

    pub fn stop(&mut self, instance: InstanceId) -> Reply {
        self.command(Command::InstanceStop { instance })
    }

    pub fn cancel(&mut self, instance: InstanceId) -> Reply {
        self.command(Command::InstanceCancel { instance })
    }

    pub fn explain(&mut self, instance: InstanceId) -> serde_json::Value {
        match self.command(Command::InstanceExplain { instance, task: None }) {
            Reply::Explanation(text) => serde_json::from_str(&text).expect("an explanation is JSON"),
            other => panic!("{other:?}"),
        }
    }

    // What workers do.

    pub fn hello(&mut self, name: &str, boot: u64, slots: u32) -> WorkerHello {
        self.next_session += 1;
        WorkerHello {
            session: SessionId(self.next_session),
            app: self.app,
            info: WorkerInfo {
                worker: WorkerRef { name: name.into(), boot: BootId(boot) },
                version: "1".into(),
                processors: vec!["a".into()],
                labels: BTreeMap::new(),
                slots,
                capabilities: vec![pendula_model::worker::TASKS.to_owned()],
                address: String::new(),
                metrics: HostMetrics::default(),
            },
            running: Vec::new(),
            finished: Vec::new(),
        }
    }

    pub fn connect(&mut self, hello: WorkerHello) -> SessionId {
        let session = hello.session;
        self.input(Input::WorkerConnected(Box::new(hello)));
        session
    }

    /// A worker named `name`, of its first boot, that has nothing in hand.
    pub fn worker(&mut self, name: &str, slots: u32) -> SessionId {
        let hello = self.hello(name, 1, slots);
        self.connect(hello)
    }

    pub fn disconnect(&mut self, session: SessionId) {
        self.input(Input::WorkerDisconnected { session });
    }

    pub fn alive(&mut self, session: SessionId, dispatches_seen: u64, held: &[(InstanceId, u32)]) {
        let held = held.iter().map(|(instance, attempt)| AttemptKey::root(*instance, *attempt)).collect();
        self.input(Input::WorkerAlive { session, dispatches_seen, held, metrics: None });
    }

    pub fn report(&mut self, session: SessionId, instance: InstanceId, attempt: u32, event: ReportEvent) {
        let attempt = AttemptKey::root(instance, attempt);
        self.input(Input::Reported { session, reports: vec![Report { attempt, event }] });
    }

    // Tasks of instances with many.

    pub fn explain_task(&mut self, instance: InstanceId, task: u64) -> serde_json::Value {
        match self.command(Command::InstanceExplain { instance, task: Some(TaskId(task)) }) {
            Reply::Explanation(text) => serde_json::from_str(&text).expect("an explanation is JSON"),
            other => panic!("{other:?}"),
        }
    }

    /// What was dispatched of such instances since the last call, in order.
    pub fn tasks_dispatched(&mut self) -> Vec<(SessionId, AttemptKey)> {
        self.dispatches.drain(..).map(|d| (d.session, d.key())).collect()
    }

    /// The numbers of the tasks that were dispatched to each session since the last call.
    pub fn numbers_dispatched(&mut self, session: SessionId) -> Vec<u64> {
        let (ours, others) = self.dispatches.drain(..).partition(|d: &Dispatch| d.session == session);
        self.dispatches = others;
        ours.iter().map(|d| d.task.0).collect()
    }

    pub fn task(&self, instance: InstanceId, task: u64) -> &Task {
        &self.tasks[&TaskKey { instance, task: TaskId(task) }]
    }

    pub fn task_states(&self, instance: InstanceId) -> Vec<TaskState> {
        self.tasks.values().filter(|task| task.instance == instance).map(|task| task.state).collect()
    }

    pub fn end_task(&mut self, session: SessionId, instance: InstanceId, task: u64, outcome: Outcome) {
        let attempt = AttemptKey::new(self.task(instance, task).key(), self.task(instance, task).attempt);
        self.end_attempt(session, attempt, outcome);
    }

    pub fn end_attempt(&mut self, session: SessionId, attempt: AttemptKey, outcome: Outcome) {
        let result = (outcome == Outcome::Succeeded).then(|| Payload::json("1"));
        let event = ReportEvent::Ended { outcome, message: None, result, started_at: None };
        self.input(Input::Reported { session, reports: vec![Report { attempt, event }] });
    }

    /// All that was dispatched to anyone succeeds, and what follows from that, until nothing follows. Returns how often
    /// each role was run.
    pub fn finish_tasks(&mut self) -> BTreeMap<TaskRole, usize> {
        let mut roles = BTreeMap::new();
        while !self.dispatches.is_empty() {
            for dispatch in std::mem::take(&mut self.dispatches) {
                let part = dispatch.part.as_ref().expect("a task of an instance with many");
                *roles.entry(part.role).or_default() += 1;
                self.end_attempt(dispatch.session, dispatch.key(), Outcome::Succeeded);
            }
        }
        roles
    }

    /// A running task emits `count` sub-tasks, named by their positions from `first` on.
    pub fn map(&mut self, session: SessionId, attempt: AttemptKey, first: u64, count: u64) -> Result<u64, String> {
        let tasks = (first..first + count).map(|position| NewTask {
            name: position.to_string().into(),
            input: Some(Arc::new(Payload::json(position.to_string()))),
        });
        let mapping = Mapping { attempt, first, tasks: tasks.collect() };
        self.input(Input::Mapped { session, maps: vec![mapping] });
        let (answered, reply) = self.mapped.pop().expect("every map is answered");
        assert_eq!(answered, attempt);
        reply
    }

    pub fn started(&mut self, session: SessionId, instance: InstanceId, attempt: u32) {
        let started_at = self.now;
        self.report(session, instance, attempt, ReportEvent::Started { started_at });
    }

    pub fn ended(&mut self, session: SessionId, instance: InstanceId, attempt: u32, outcome: Outcome) {
        self.report(session, instance, attempt, ended(outcome));
    }

    /// The current attempt of an instance ends at the worker that has it.
    pub fn end(&mut self, session: SessionId, instance: InstanceId, outcome: Outcome) {
        let attempt = self.rows[&instance].attempt;
        self.ended(session, instance, attempt, outcome);
    }

    /// All that was dispatched to `session` succeeds, and what follows from that.
    pub fn end_all(&mut self, session: SessionId) {
        loop {
            let dispatches = self.dispatched();
            if dispatches.is_empty() {
                return;
            }
            for (to, instance, attempt) in dispatches {
                assert_eq!(to, session);
                self.ended(session, instance, attempt, Outcome::Succeeded);
            }
        }
    }

    // What can be seen.

    pub fn state(&self, instance: InstanceId) -> InstanceState {
        self.rows[&instance].state
    }

    pub fn reason(&self, instance: InstanceId) -> Option<Reason> {
        self.rows[&instance].reason.clone()
    }

    pub fn attempt(&self, instance: InstanceId) -> u32 {
        self.rows[&instance].attempt
    }

    /// The instances of a job, in order.
    pub fn instances(&self, job: JobId) -> Vec<InstanceId> {
        self.rows.values().filter(|row| row.job == job).map(|row| row.id).collect()
    }

    pub fn states(&self, job: JobId) -> Vec<InstanceState> {
        self.instances(job).into_iter().map(|id| self.state(id)).collect()
    }

    /// The dispatches since the last call.
    pub fn dispatched(&mut self) -> Vec<(SessionId, InstanceId, u32)> {
        self.dispatches.drain(..).map(|d| (d.session, d.instance, d.attempt)).collect()
    }

    pub fn missed(&self) -> u64 {
        self.gaps.values().flatten().map(|gap| gap.count).sum()
    }
}

pub fn ended(outcome: Outcome) -> ReportEvent {
    ReportEvent::Ended { outcome, message: None, result: None, started_at: None }
}

pub fn failed() -> Outcome {
    Outcome::Failed { reason: Reason::EXIT_CODE, final_: false }
}

pub fn refusal(reply: Reply) -> Refusal {
    match reply {
        Reply::Refused(refusal) => refusal,
        other => panic!("granted: {other:?}"),
    }
}
