//! A partition, its time, what it has written, and what it wanted done: everything commits at once and nothing gets lost
//! unless a script says so.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use pendula_engine::effect::{Observation, Refusal};
use pendula_engine::input::{Outcome, WorkerHello};
use pendula_engine::{
    Command, Dispatch, Effect, Fact, Input, Need, Output, Partition, Reply, ReplyTo, Report, ReportEvent, RunRequest,
    Settings,
};
use pendula_model::change::{Change, Gap};
use pendula_model::instance::{Instance, InstanceState, PastAttempt, Reason};
use pendula_model::job::{Job, JobSpec};
use pendula_model::processor::{Handler, Processor};
use pendula_model::snapshot::Snapshot;
use pendula_model::trigger::Trigger;
use pendula_model::worker::{BootId, HostMetrics, WorkerInfo, WorkerRef};
use pendula_model::{AppId, InstanceId, JobId, PartitionId, Revision, SessionId, Timestamp};

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
    fires: BTreeSet<(JobId, Timestamp)>,
    specs: BTreeMap<(JobId, Revision), Arc<JobSpec>>,
    apps: BTreeMap<AppId, pendula_model::app::App>,
    /// What was wanted since it was last taken.
    pub dispatches: Vec<Dispatch>,
    pub stops: Vec<(SessionId, InstanceId, u32, bool)>,
    pub acks: Vec<(InstanceId, u32)>,
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
            fires: BTreeSet::new(),
            specs: BTreeMap::new(),
            apps: BTreeMap::new(),
            dispatches: Vec::new(),
            stops: Vec::new(),
            acks: Vec::new(),
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
                Effect::Stop { session, instance, attempt, abandon, .. } => {
                    self.stops.push((session, instance, attempt, abandon));
                }
                Effect::Ack { instance, attempt, .. } => self.acks.push((instance, attempt)),
                Effect::Welcome { session, abort } => self.welcomes.push((session, abort)),
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
        match self.command(Command::InstanceExplain { instance }) {
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
        self.input(Input::WorkerAlive { session, dispatches_seen, held: held.to_vec(), metrics: None });
    }

    pub fn report(&mut self, session: SessionId, instance: InstanceId, attempt: u32, event: ReportEvent) {
        self.input(Input::Reported { session, reports: vec![Report { instance, attempt, event }] });
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
