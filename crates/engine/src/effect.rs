//! Everything that a partition can ask for, once what justifies it is committed.

use std::sync::Arc;

use pendula_model::app::App;
use pendula_model::instance::{InstanceState, Payload, Reason, StopCause};
use pendula_model::job::{Job, JobSpec};
use pendula_model::task::{TaskCounts, TaskRole};
use pendula_model::{AttemptKey, InstanceId, JobId, Revision, SessionId, TaskId, Timestamp};
use std::time::Duration;

use crate::input::{Need, WorkerStatus};

/// Which caller waits for a reply; the shell's own number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ReplyTo(pub u64);

#[derive(Clone, Debug)]
pub enum Effect {
    /// Answer a command.
    Reply { to: ReplyTo, reply: Reply },
    /// Send work to a worker.
    Dispatch(Box<Dispatch>),
    /// Ask a worker to stop an attempt; `abandon` means that it is not its own any more.
    Stop { session: SessionId, attempt: AttemptKey, grace: Duration, abandon: bool },
    /// Tell a worker that the end of an attempt is on disk.
    Ack { session: SessionId, attempt: AttemptKey },
    /// Tell a worker how many sub-tasks of a running task are on disk, or why no more will be.
    Mapped { session: SessionId, attempt: AttemptKey, reply: Result<u64, String> },
    /// Answer a worker's hello; the session may be used from here on.
    Welcome { session: SessionId, abort: Vec<AttemptKey> },
    /// Ask a worker to finish and exit.
    Drain { session: SessionId },
    /// Close a session that is of no use any more.
    Close { session: SessionId, why: &'static str },
    /// Read from the store and come back with [`Input::Loaded`](crate::Input::Loaded).
    Load(Vec<Need>),
    /// Read all jobs whose next fire lies before `until` and come back with
    /// [`Input::SchedulesLoaded`](crate::Input::SchedulesLoaded).
    LoadSchedules { until: Timestamp },
    /// Read tasks of an instance that were never placed, from `from` on, at most `limit` and about `bytes` of them, and
    /// come back with [`Input::TasksLoaded`](crate::Input::TasksLoaded).
    LoadTasks { instance: InstanceId, from: TaskId, limit: usize, bytes: usize },
    /// For metrics and logs; nothing depends on it.
    Observed(Observation),
}

impl Effect {
    /// Whether it tells anybody something that must be true, so that an owner that was superseded unawares must not do it.
    /// Reads are of no harm, and who asks what is in memory is told just that.
    pub fn says_something(&self) -> bool {
        !matches!(
            self,
            Effect::Reply { reply: Reply::Workers(_) | Reply::Explanation(_), .. }
                | Effect::Load(_)
                | Effect::LoadSchedules { .. }
                | Effect::LoadTasks { .. }
                | Effect::Observed(_)
        )
    }
}

/// What a worker needs to run an attempt.
#[derive(Clone, Debug)]
pub struct Dispatch {
    pub session: SessionId,
    /// Counts the dispatches of the session from 1.
    pub sequence: u64,
    pub instance: InstanceId,
    pub task: TaskId,
    pub attempt: u32,
    pub job: JobId,
    pub revision: Revision,
    pub spec: Arc<JobSpec>,
    /// A JSON object; none means the definition's own.
    pub params: Option<Arc<str>>,
    pub fire_time: Option<Timestamp>,
    pub created_at: Timestamp,
    pub failures: u32,
    pub app_name: Arc<str>,
    /// Of an instance with many tasks: which one this is.
    pub part: Option<Box<Part>>,
}

/// One task of an instance with many.
#[derive(Clone, Debug)]
pub struct Part {
    pub role: TaskRole,
    pub name: Arc<str>,
    pub input: Option<Arc<Payload>>,
    /// Index and total, of a shard.
    pub shard: Option<(u32, u32)>,
    /// Sub-tasks that earlier tries of it emitted and that were accepted.
    pub emitted: u64,
}

impl Dispatch {
    /// The attempt that it is about.
    pub fn key(&self) -> AttemptKey {
        AttemptKey { instance: self.instance, task: self.task, attempt: self.attempt }
    }
}

/// The answer to a command.
#[derive(Clone, Debug)]
pub enum Reply {
    App(App),
    Job {
        job: Box<Job>,
        created: bool,
    },
    /// An instance, new or (same idempotency key) earlier.
    Instance {
        id: InstanceId,
        created: bool,
    },
    Done,
    /// How many tasks wait for another try.
    Retried(usize),
    Workers(Vec<WorkerStatus>),
    /// JSON for people and tools: see [`crate::partition`].
    Explanation(String),
    Refused(Refusal),
}

/// Why a command was not carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("no such {0}")]
    NotFound(&'static str),
    #[error("{what} `{name}` already exists")]
    Exists { what: &'static str, name: String },
    /// The definition was edited meanwhile.
    #[error("expected version {expected}, but it is {found}; read it again and repeat the edit")]
    VersionMismatch { expected: u64, found: u64 },
    #[error("{0}")]
    Invalid(#[from] pendula_model::Invalid),
    #[error("the app does not allow scripts; an administrator can with `pendula app update NAME --allow-scripts true`")]
    ScriptsNotAllowed,
    #[error("the app still has jobs")]
    AppNotEmpty,
    /// The instance is not active here: the caller looks whether it ever was.
    #[error("the instance has ended, or never was")]
    NotActive,
    /// `cancel` of what a worker already has.
    #[error("the instance is {0}: a worker has it; use stop")]
    AlreadyStarted(InstanceState),
    /// What was asked to be tried again cannot be.
    #[error("nothing can be tried again: {0}")]
    NoRetry(&'static str),
    /// What is stored of it makes no sense.
    #[error("what is stored of it cannot be read: {0}")]
    Unreadable(String),
    /// Too many instances wait; the caller may try again later.
    #[error("the server is at its limit of {0} active instances; try again later")]
    Overloaded(usize),
}

/// What happened, for metrics, logs and (later) alerts.
#[derive(Clone, Debug)]
pub enum Observation {
    /// A trigger fired, this much after its fire time.
    Fired {
        lateness: Duration,
    },
    /// Fire times passed without an instance.
    Missed {
        job: JobId,
        count: u64,
    },
    /// An attempt left for a worker, this long after it was due.
    Dispatched {
        waited: Duration,
    },
    Ended {
        instance: InstanceId,
        job: JobId,
        state: InstanceState,
        reason: Option<Reason>,
        duration: Duration,
    },
    AttemptFailed {
        instance: InstanceId,
        attempt: u32,
        reason: Reason,
    },
    StopRequested {
        instance: InstanceId,
        cause: StopCause,
    },
    /// Nothing that is connected may run it; said once per job until it changes.
    NoWorker {
        job: JobId,
        why: String,
    },
    WorkerConnected {
        worker: String,
    },
    WorkerLost {
        worker: String,
        attempts: usize,
    },
    /// A stored row made no sense and was set aside.
    Quarantined {
        instance: InstanceId,
        why: String,
    },
    Progress {
        instance: InstanceId,
        attempt: u32,
        per_mille: u32,
        message: Option<Arc<str>>,
    },
    /// Tasks of an instance with many ended since this was told last: so many in each way.
    TasksEnded {
        instance: InstanceId,
        since: TaskCounts,
    },
}
