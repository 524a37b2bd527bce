//! Everything that can happen to a partition.

use std::sync::Arc;
use std::time::Duration;

use pendula_model::instance::{Payload, Reason};
use pendula_model::job::{Job, JobSpec};
use pendula_model::task::{Fanout, Task};
use pendula_model::worker::{HostMetrics, WorkerInfo};
use pendula_model::{AppId, AttemptKey, InstanceId, JobId, SessionId, TaskId, Timestamp};

use crate::effect::ReplyTo;

/// One thing that happened.
#[derive(Clone, Debug)]
pub enum Input {
    /// Time passed; sent when [`Partition::next_wakeup`](crate::Partition::next_wakeup) has come.
    Tick,
    /// The clock went ahead by this much without that time having passed (it was set, or the machine slept): what is
    /// measured as a duration goes on as if it had not. Without it, timeouts and graces would run out at once.
    ClockJumped { by: Duration },
    /// Somebody asks for something and waits for the [`Reply`](crate::Reply).
    Command { command: Command, reply_to: ReplyTo },
    /// What [`Effect::Load`](crate::Effect::Load) asked for.
    Loaded(Vec<Fact>),
    /// The jobs whose next fire lies before `until`: what [`Effect::LoadSchedules`](crate::Effect::LoadSchedules)
    /// asked for. All of them; pages are put together by the caller.
    SchedulesLoaded { until: Timestamp, jobs: Vec<Job> },
    /// A worker of `app` opened a session and authenticated.
    WorkerConnected(Box<WorkerHello>),
    /// Its connection is gone, or was silent for too long.
    WorkerDisconnected { session: SessionId },
    /// A heartbeat: all attempts that the worker holds, and the last dispatch that it saw.
    WorkerAlive { session: SessionId, dispatches_seen: u64, held: Vec<AttemptKey>, metrics: Option<HostMetrics> },
    /// The worker takes nothing new.
    WorkerDraining { session: SessionId },
    /// News of attempts, from the worker behind `session`.
    Reported { session: SessionId, reports: Vec<Report> },
    /// Running tasks of the worker behind `session` emitted sub-tasks. Each is answered by one
    /// [`Effect::Mapped`](crate::Effect::Mapped).
    Mapped { session: SessionId, maps: Vec<Mapping> },
    /// What [`Effect::LoadTasks`](crate::Effect::LoadTasks) asked for; `complete` when there was nothing beyond.
    TasksLoaded { instance: InstanceId, from: TaskId, tasks: Vec<Task>, complete: bool },
}

/// Sub-tasks that a running task emitted.
#[derive(Clone, Debug)]
pub struct Mapping {
    pub attempt: AttemptKey,
    /// Position of the first of them among all that the task emits, from 0.
    pub first: u64,
    pub tasks: Vec<NewTask>,
}

/// One sub-task, checked for size.
#[derive(Clone, Debug)]
pub struct NewTask {
    pub name: Arc<str>,
    pub input: Option<Arc<Payload>>,
}

/// A worker's first words.
#[derive(Clone, Debug)]
pub struct WorkerHello {
    pub session: SessionId,
    pub app: AppId,
    pub info: WorkerInfo,
    /// Attempts that it runs.
    pub running: Vec<AttemptKey>,
    /// Attempts that ended there and whose reports follow.
    pub finished: Vec<AttemptKey>,
}

/// What users ask of a partition. Every command is answered once, after its commit.
#[derive(Clone, Debug)]
pub enum Command {
    AppCreate {
        name: String,
        namespace: String,
        allow_scripts: bool,
    },
    AppUpdate {
        app: AppId,
        allow_scripts: bool,
    },
    /// Refused while the app has jobs.
    AppDelete {
        app: AppId,
    },

    /// Creates the job, or replaces the definition of the one of that name. With `expected_version`, only that version
    /// is replaced; with `Some(0)` the job must not exist.
    JobApply {
        app: AppId,
        spec: Arc<JobSpec>,
        expected_version: Option<u64>,
    },
    JobEnable {
        app: AppId,
        name: String,
        enabled: bool,
    },
    JobDelete {
        app: AppId,
        name: String,
    },
    JobRun(Box<RunRequest>),

    /// Ends a waiting instance as `canceled`; refused once a worker has it.
    InstanceCancel {
        instance: InstanceId,
    },
    /// Cancels a waiting instance, stops one that a worker has.
    InstanceStop {
        instance: InstanceId,
    },

    /// Takes the worker out of dispatch and asks it to finish and exit.
    WorkerDrain {
        app: AppId,
        worker: String,
    },
    /// The live workers of an app.
    WorkerList {
        app: AppId,
    },
    /// Lets tasks of an active instance that failed or were lost wait for another try: those named, or all when none is
    /// named. Answered with how many.
    TasksRetry {
        instance: InstanceId,
        tasks: Vec<TaskId>,
    },
    /// Why an active instance, or one of its tasks, waits, or where it runs and why there.
    InstanceExplain {
        instance: InstanceId,
        task: Option<TaskId>,
    },
}

impl Command {
    /// Whether it only asks, so that its answer waits for no commit of its own.
    pub fn only_asks(&self) -> bool {
        matches!(self, Command::WorkerList { .. } | Command::InstanceExplain { .. })
    }
}

/// One more instance of a job, asked for by name.
#[derive(Clone, Debug)]
pub struct RunRequest {
    pub app: AppId,
    pub job: String,
    /// A JSON object whose keys override the definition's parameters, already checked for size.
    pub params: Option<serde_json::Map<String, serde_json::Value>>,
    /// Not before this time.
    pub due_at: Option<Timestamp>,
    /// The same key within the app answers with the same instance for as long as that is kept.
    pub idempotency_key: Option<Arc<str>>,
    pub rerun_of: Option<InstanceId>,
    /// Of the one that it repeats, only the tasks that did not succeed. Ignored without `rerun_of`; refused where that
    /// has no such tasks, or has not ended.
    pub only_unsuccessful: bool,
    pub priority: Option<i8>,
}

/// Something that the engine must know from the store before it can go on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Need {
    JobById(JobId),
    /// A job that is not deleted.
    JobByName(AppId, String),
    /// The instance that was made with an idempotency key.
    Idempotency(AppId, Arc<str>),
    /// How far an ended instance with many tasks came.
    Fanout(InstanceId),
    /// Tasks that ended without success: those named, or all (at most 10,000) when none is named. `asked` tells questions
    /// apart, because the answer to an older one may be outdated.
    UnsuccessfulTasks {
        instance: InstanceId,
        tasks: Vec<TaskId>,
        asked: u64,
    },
}

/// The answer to a [`Need`].
#[derive(Clone, Debug)]
pub enum Fact {
    Job {
        need: Need,
        job: Option<Job>,
    },
    Idempotency {
        need: Need,
        instance: Option<InstanceId>,
    },
    Fanout {
        need: Need,
        /// With whether the instance has ended.
        fanout: Option<(Fanout, bool)>,
    },
    Tasks {
        need: Need,
        tasks: Vec<Task>,
    },
    /// What is stored makes no sense; asking again would not help.
    Unreadable {
        need: Need,
        why: String,
    },
}

/// News of one attempt.
#[derive(Clone, Debug)]
pub struct Report {
    pub attempt: AttemptKey,
    pub event: ReportEvent,
}

#[derive(Clone, Debug)]
pub enum ReportEvent {
    /// It runs, since `started_at` (by our clock, from the duration that the worker told).
    Started {
        started_at: Timestamp,
    },
    /// It is over.
    Ended {
        outcome: Outcome,
        message: Option<Arc<str>>,
        result: Option<Payload>,
        started_at: Option<Timestamp>,
    },
    Progress {
        per_mille: u32,
        message: Option<Arc<str>>,
    },
}

/// How an attempt ended, as the worker says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Succeeded,
    /// `final_` failures are not retried.
    Failed {
        reason: Reason,
        final_: bool,
    },
    Stopped,
    /// It never started.
    Rejected {
        reason: Reason,
    },
    /// It started, and was given up because the worker shuts down.
    HandedBack,
    /// The worker is there and does not know it any more; whether it ran nobody can tell. Said by gateways to workers that
    /// keep no reports.
    Lost,
}

/// A live worker, for listings.
#[derive(Clone, Debug)]
pub struct WorkerStatus {
    pub session: SessionId,
    pub info: WorkerInfo,
    pub running: u32,
    pub draining: bool,
    pub connected_at: Timestamp,
    pub last_heard: Timestamp,
    /// False while we wait for it to reconnect.
    pub connected: bool,
}
