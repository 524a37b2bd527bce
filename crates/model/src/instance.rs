//! Instances: one firing of a job each, and the attempts made at it.
//!
//! A standalone instance has exactly one task; its state is part of the instance, so that a small instance costs two
//! durable writes in its life. An instance with many tasks ([`crate::task`]) has none of a worker's in its row: its
//! `attempt` is 1 from the first dispatch on, and its `worker` stays empty.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::id::{AppId, InstanceId, JobId, Revision};
use crate::task::TaskId;
use crate::time::Timestamp;
use crate::worker::WorkerRef;

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal / $code:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, ::serde::Serialize, ::serde::Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum $name { $($(#[$variant_doc])* $variant,)+ }

        impl $name {
            /// Every value, in order.
            pub const ALL: &[$name] = &[$($name::$variant),+];

            /// The word used in SQL, API, CLI and console.
            pub const fn as_str(self) -> &'static str {
                match self { $($name::$variant => $word),+ }
            }

            /// The number stored in databases.
            pub const fn code(self) -> u8 {
                match self { $($name::$variant => $code),+ }
            }

            /// The value stored as `code`, if there is one.
            pub const fn from_code(code: u8) -> Option<Self> {
                match code { $($code => Some($name::$variant),)+ _ => None }
            }
        }

        impl ::std::fmt::Display for $name {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl ::std::str::FromStr for $name {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, String> {
                match text {
                    $($word => Ok($name::$variant),)+
                    _ => {
                        let allowed: Vec<_> = Self::ALL.iter().map(|value| value.as_str()).collect();
                        Err(format!("`{text}` is unknown; allowed: {}", allowed.join(", ")))
                    }
                }
            }
        }
    };
}

pub(crate) use words;

words!(
    /// Where an instance stands. The engine alone moves it; ended states are never left.
    InstanceState {
        /// Not with any worker: due later, queued behind a limit, or nobody has a free slot.
        Waiting = "waiting" / 1,
        /// Committed to a worker, whose word that it runs has not been recorded.
        Dispatched = "dispatched" / 2,
        /// The worker said that it runs; of an instance with many tasks: one of them was given to a worker.
        Running = "running" / 3,
        /// Asked to stop, by a user, a timeout or a replacement; the worker has yet to confirm.
        Stopping = "stopping" / 6,
        /// Ended: out of attempts, or never able to run.
        Failed = "failed" / 4,
        /// Ended well.
        Succeeded = "succeeded" / 5,
        /// Ended before it started.
        Canceled = "canceled" / 9,
        /// Ended because somebody stopped it.
        Stopped = "stopped" / 10,
    }
);

impl InstanceState {
    /// Whether nothing may move it any more.
    pub const fn is_ended(self) -> bool {
        use InstanceState::*;
        matches!(self, Failed | Succeeded | Canceled | Stopped)
    }

    /// Whether a worker has it.
    pub const fn is_placed(self) -> bool {
        use InstanceState::*;
        matches!(self, Dispatched | Running | Stopping)
    }
}

words!(
    /// Where one task stands.
    TaskState {
        Waiting = "waiting" / 1,
        Dispatched = "dispatched" / 2,
        Running = "running" / 3,
        Failed = "failed" / 4,
        Succeeded = "succeeded" / 5,
        /// Its worker vanished and nobody knows how it ended.
        Lost = "lost" / 7,
        Stopped = "stopped" / 10,
    }
);

words!(
    /// Why an instance exists.
    Origin {
        Trigger = "trigger" / 1,
        Api = "api" / 2,
        /// Somebody ran an ended instance again.
        Rerun = "rerun" / 3,
    }
);

words!(
    /// Why an attempt is being stopped.
    StopCause {
        User = "user" / 1,
        Timeout = "timeout" / 2,
        /// A newer instance took its place under a concurrency limit.
        Replaced = "replaced" / 3,
        /// One of its tasks ended in a way that leaves the others without a purpose.
        Failure = "failure" / 4,
    }
);

/// A machine-readable word for why something ended: `[a-z][a-z0-9_]*`, at most 40 characters.
///
/// The engine's own are constants here; workers may add others (`exit_code`, `http_status`, …).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Reason(Cow<'static, str>);

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $word:literal;)+) => {
        impl Reason {
            $($(#[$doc])* pub const $name: Reason = Reason(Cow::Borrowed($word));)+
        }
    };
}

reasons! {
    /// The attempt ran longer than the job allows.
    TIMEOUT = "timeout";
    /// It waited longer than the job allows.
    EXPIRED = "expired";
    /// Its worker vanished and the job must not run twice, or ran out of reruns.
    WORKER_LOST = "worker_lost";
    /// Its worker gave it back while shutting down.
    WORKER_DRAINED = "worker_drained";
    /// A user asked for it.
    BY_USER = "by_user";
    /// The worker did not confirm the stop in time; the work may still be going on there.
    STOP_UNCONFIRMED = "stop_unconfirmed";
    /// The job was at its limit and says `fail`.
    CONCURRENCY_LIMIT = "concurrency_limit";
    /// The job was at its limit and says `skip`, or its queue was full.
    SKIPPED = "skipped";
    /// A newer instance took its place.
    REPLACED = "replaced";
    /// The job was deleted while it waited.
    JOB_DELETED = "job_deleted";
    /// The app may not run scripts.
    SCRIPTS_NOT_ALLOWED = "scripts_not_allowed";
    /// The worker does not have the processor that it offered.
    PROCESSOR_MISSING = "processor_missing";
    /// No worker that is connected may run it.
    NO_WORKER = "no_worker";
    /// Every worker of a broadcast vanished.
    ALL_TARGETS_LOST = "all_targets_lost";
    /// More tasks failed than the mode tolerates, or fewer succeeded than it demands.
    TASKS_FAILED = "tasks_failed";
    /// The task that emits the others failed.
    ROOT_FAILED = "root_failed";
    /// The task before the others failed.
    PRE_FAILED = "pre_failed";
    /// The task after the others failed.
    POST_FAILED = "post_failed";
    /// The task that reads all results failed.
    REDUCE_FAILED = "reduce_failed";
    /// The instance ended before it was its turn.
    INSTANCE_ENDED = "instance_ended";
    /// The worker could not take it (no free slot, draining); it was sent elsewhere.
    REJECTED = "rejected";
    /// The stored row could not be read; it was set aside.
    QUARANTINED = "quarantined";
    /// The code said that it failed, without saying more.
    FAILED = "failed";
    /// The handler panicked.
    PANICKED = "panicked";
    /// The worker stopped it on its own account.
    STOPPED_BY_WORKER = "stopped_by_worker";
    /// A script ended with a code that does not mean success.
    EXIT_CODE = "exit_code";
    /// A script was ended by a signal that we did not send.
    SIGNAL = "signal";
    /// The definition cannot be run: a bad template, address or setting.
    INVALID_DEFINITION = "invalid_definition";
}

impl Reason {
    /// A reason from a worker: characters outside the alphabet become `_`, and it is cut to its length.
    pub fn from_wire(word: &str) -> Reason {
        let mut clean: String =
            word.chars().take(40).map(|c| if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { '_' }).collect();
        if !clean.starts_with(|c: char| c.is_ascii_lowercase()) {
            clean = format!("failed{}{clean}", if clean.is_empty() { "" } else { "_" });
        }
        Reason(Cow::Owned(clean))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// Bytes that users exchange through us, with their content type; opaque to the platform.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payload {
    pub content_type: String,
    pub bytes: Vec<u8>,
}

impl Payload {
    pub fn json(text: impl Into<String>) -> Self {
        Payload { content_type: "application/json".to_owned(), bytes: text.into().into_bytes() }
    }
}

/// One firing of a job.
#[derive(Clone, Debug, PartialEq)]
pub struct Instance {
    pub id: InstanceId,
    pub app: AppId,
    pub job: JobId,
    /// The revision of the job that runs, frozen when it was fired.
    pub revision: Revision,
    pub origin: Origin,
    /// The nominal time of the trigger. `(job, fire_time)` is unique.
    pub fire_time: Option<Timestamp>,
    /// Fire times that passed unserved just before this one, which it makes up for.
    pub missed_before: u32,
    /// The ended instance that this one repeats.
    pub rerun_of: Option<InstanceId>,
    /// Unique within the app.
    pub idempotency_key: Option<Arc<str>>,
    /// A JSON object; none means the definition's own.
    pub params: Option<Arc<str>>,
    pub priority: i8,
    pub created_at: Timestamp,
    /// Not to be dispatched before: a delay that the caller asked for, or the end of a back-off.
    pub due_at: Timestamp,
    /// When waiting ends in failure.
    pub expires_at: Option<Timestamp>,

    pub state: InstanceState,
    /// Of the row; each write expects the one before.
    pub version: u32,
    /// The number of the current or latest try, from 1; 0 before the first. The fencing token on the wire: it grows
    /// with each placement, also when a worker hands back what it never started.
    pub attempt: u32,
    /// Tries that failed, which [`crate::policy::Retry::attempts`] limits.
    pub failures: u32,
    /// Tries that were lost with their worker.
    pub losses: u32,
    /// Who has, or had, the latest attempt.
    pub worker: Option<WorkerRef>,
    /// Why that worker, as JSON: see the engine's `placement`.
    pub placement: Option<Arc<str>>,
    pub dispatched_at: Option<Timestamp>,
    pub started_at: Option<Timestamp>,
    pub ended_at: Option<Timestamp>,
    /// Set while `stopping`.
    pub stop_cause: Option<StopCause>,
    /// When an unconfirmed stop is given up.
    pub stop_deadline: Option<Timestamp>,
    /// Of an ended one: why. Of a waiting one: what the last attempt ended with.
    pub reason: Option<Reason>,
    /// For people; at most [`crate::limits::MESSAGE_BYTES`].
    pub message: Option<Arc<str>>,
    pub result: Option<Payload>,
}

impl Instance {
    /// The state of its one task, which says more than the instance's when a worker was lost.
    pub fn task_state(&self) -> TaskState {
        match self.state {
            InstanceState::Waiting => TaskState::Waiting,
            InstanceState::Dispatched => TaskState::Dispatched,
            InstanceState::Running | InstanceState::Stopping => TaskState::Running,
            InstanceState::Succeeded => TaskState::Succeeded,
            InstanceState::Canceled => TaskState::Stopped,
            InstanceState::Failed if self.reason == Some(Reason::WORKER_LOST) => TaskState::Lost,
            InstanceState::Failed => TaskState::Failed,
            InstanceState::Stopped => TaskState::Stopped,
        }
    }
}

/// A try that is over, when another one follows it. The last try is part of the [`Instance`], or of its
/// [`Task`](crate::task::Task).
#[derive(Clone, Debug, PartialEq)]
pub struct PastAttempt {
    pub instance: InstanceId,
    pub task: TaskId,
    pub attempt: u32,
    pub state: TaskState,
    pub worker: Option<WorkerRef>,
    pub placement: Option<Arc<str>>,
    pub dispatched_at: Option<Timestamp>,
    pub started_at: Option<Timestamp>,
    pub ended_at: Timestamp,
    pub reason: Reason,
    pub message: Option<Arc<str>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_codes_lead_back() {
        for state in InstanceState::ALL {
            assert_eq!(state.as_str().parse(), Ok(*state));
            assert_eq!(InstanceState::from_code(state.code()), Some(*state));
            assert!(!(state.is_ended() && state.is_placed()));
        }
        assert_eq!(InstanceState::from_code(0), None);
        assert!("done".parse::<InstanceState>().unwrap_err().contains("succeeded"));
    }

    #[test]
    fn reasons_from_workers_are_tamed() {
        assert_eq!(Reason::from_wire("exit_code").as_str(), "exit_code");
        assert_eq!(Reason::from_wire("Robert'); DROP").as_str(), "failed__obert________");
        assert_eq!(Reason::from_wire("").as_str(), "failed");
    }
}
