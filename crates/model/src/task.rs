//! Tasks: the pieces of an instance that run on many workers, and how far all of them are.
//!
//! A standalone instance's only task is part of its row ([`crate::instance`]). Every other mode keeps a row per task, and
//! one [`Fanout`] that counts them, so that nobody ever has to.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::id::InstanceId;
use crate::instance::{Payload, Reason, TaskState, words};
use crate::time::Timestamp;
use crate::worker::WorkerRef;

/// Which task of an instance. 0 is the first one: the only one of a standalone instance, the root of a map, the `pre` of a
/// broadcast, the shard with index 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TaskId(pub u64);

impl TaskId {
    pub const ROOT: TaskId = TaskId(0);

    /// The one after it.
    pub fn next(self) -> TaskId {
        TaskId(self.0 + 1)
    }
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl FromStr for TaskId {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(TaskId)
    }
}

/// One task of one instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskKey {
    pub instance: InstanceId,
    pub task: TaskId,
}

impl TaskKey {
    /// The first task of an instance.
    pub fn root(instance: InstanceId) -> Self {
        TaskKey { instance, task: TaskId::ROOT }
    }
}

impl fmt::Display for TaskKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.instance, self.task)
    }
}

/// One try of one task: what a worker holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AttemptKey {
    pub instance: InstanceId,
    pub task: TaskId,
    /// From 1.
    pub attempt: u32,
}

impl AttemptKey {
    pub fn new(key: TaskKey, attempt: u32) -> Self {
        AttemptKey { instance: key.instance, task: key.task, attempt }
    }

    /// A try of the first task of an instance.
    pub fn root(instance: InstanceId, attempt: u32) -> Self {
        AttemptKey { instance, task: TaskId::ROOT, attempt }
    }

    /// Without the number of the try.
    pub fn key(self) -> TaskKey {
        TaskKey { instance: self.instance, task: self.task }
    }
}

words!(
    /// What a task is for.
    TaskRole {
        /// The first task of a map, which emits the others.
        Root = "root" / 1,
        /// Emitted by the root or by another of these.
        Sub = "sub" / 2,
        /// The part of a broadcast that runs on one certain worker.
        Target = "target" / 3,
        /// A fixed share of the work; its index is its number.
        Shard = "shard" / 4,
        /// Before a broadcast, on one worker.
        Pre = "pre" / 5,
        /// After a broadcast, on one worker, with all outcomes.
        Post = "post" / 6,
        /// After a map, with all results.
        Reduce = "reduce" / 7,
    }
);

impl TaskRole {
    /// Whether it is one of those that [`TaskCounts`] counts, and not the frame around them.
    pub const fn is_counted(self) -> bool {
        matches!(self, TaskRole::Sub | TaskRole::Target | TaskRole::Shard)
    }

    /// Whether its handler may emit sub-tasks.
    pub const fn may_map(self) -> bool {
        matches!(self, TaskRole::Root | TaskRole::Sub)
    }

    /// Whether its handler may read what the others left.
    pub const fn may_read_results(self) -> bool {
        matches!(self, TaskRole::Post | TaskRole::Reduce)
    }
}

impl TaskState {
    /// Whether nothing but a retry by a user moves it any more.
    pub const fn is_ended(self) -> bool {
        matches!(self, TaskState::Failed | TaskState::Succeeded | TaskState::Lost | TaskState::Stopped)
    }

    /// Whether a worker has it.
    pub const fn is_placed(self) -> bool {
        matches!(self, TaskState::Dispatched | TaskState::Running)
    }
}

/// One task of an instance with many, as it is stored.
#[derive(Clone, Debug, PartialEq)]
pub struct Task {
    pub instance: InstanceId,
    pub id: TaskId,
    pub role: TaskRole,
    /// The task that emitted it.
    pub parent: Option<TaskId>,
    /// Given by who emitted it, for people; the worker's name for a target. At most
    /// [`crate::limits::TASK_NAME_BYTES`], may be empty.
    pub name: Arc<str>,
    /// Given by who emitted it; at most [`crate::limits::TASK_INPUT_BYTES`].
    pub input: Option<Arc<Payload>>,
    /// The worker that it is bound to: it runs there or nowhere.
    pub target: Option<WorkerRef>,

    pub state: TaskState,
    /// Of the row; each write expects the one before.
    pub version: u32,
    /// The number of the current or latest try, from 1; 0 before the first.
    pub attempt: u32,
    /// Tries that failed.
    pub failures: u32,
    /// Tries that were lost with their worker.
    pub losses: u32,
    /// Sub-tasks that it emitted and that were accepted.
    pub emitted: u64,
    /// Not to be dispatched before.
    pub due_at: Timestamp,
    /// Who has, or had, the latest attempt.
    pub worker: Option<WorkerRef>,
    /// Why that worker, as JSON; kept for the frame's tasks and for shards, not for each of a million.
    pub placement: Option<Arc<str>>,
    pub dispatched_at: Option<Timestamp>,
    pub started_at: Option<Timestamp>,
    pub ended_at: Option<Timestamp>,
    /// Of an ended one: why. Of a waiting one: what the last attempt ended with.
    pub reason: Option<Reason>,
    /// For people; at most [`crate::limits::MESSAGE_BYTES`].
    pub message: Option<Arc<str>>,
    /// At most [`crate::limits::TASK_RESULT_BYTES`].
    pub result: Option<Arc<Payload>>,
}

impl Task {
    /// A task that nobody has touched yet.
    pub fn new(instance: InstanceId, id: TaskId, role: TaskRole, name: Arc<str>, due_at: Timestamp) -> Self {
        Task {
            instance,
            id,
            role,
            parent: None,
            name,
            input: None,
            target: None,
            state: TaskState::Waiting,
            version: 1,
            attempt: 0,
            failures: 0,
            losses: 0,
            emitted: 0,
            due_at,
            worker: None,
            placement: None,
            dispatched_at: None,
            started_at: None,
            ended_at: None,
            reason: None,
            message: None,
            result: None,
        }
    }

    pub fn key(&self) -> TaskKey {
        TaskKey { instance: self.instance, task: self.id }
    }

    /// Bytes that it needs in memory besides its own size.
    pub fn bytes(&self) -> usize {
        let payload = |payload: &Option<Arc<Payload>>| payload.as_ref().map_or(0, |payload| payload.bytes.len());
        payload(&self.input) + payload(&self.result) + self.name.len()
    }

    /// Whether a new owner must know it to go on: a worker has it, or it waits for more than a free slot. What was never
    /// placed and may go anywhere is read when there is room for it.
    pub fn is_under_way(&self) -> bool {
        match self.state {
            TaskState::Dispatched | TaskState::Running => true,
            TaskState::Waiting => self.attempt > 0 || self.target.is_some(),
            _ => false,
        }
    }
}

words!(
    /// How far an instance with many tasks is.
    Phase {
        /// The `pre` of a broadcast runs.
        Before = "before" / 1,
        /// The tasks proper run.
        Main = "main" / 2,
        /// The `post` of a broadcast, or the `reduce`, runs.
        After = "after" / 3,
    }
);

/// The tasks proper by state; the frame around them (root, pre, post, reduce) is not counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TaskCounts {
    pub total: u64,
    /// Never placed, or between two tries.
    pub waiting: u64,
    /// With a worker.
    pub running: u64,
    pub succeeded: u64,
    pub failed: u64,
    pub lost: u64,
    pub stopped: u64,
}

impl TaskCounts {
    /// Those that nothing moves any more.
    pub fn ended(&self) -> u64 {
        self.succeeded + self.failed + self.lost + self.stopped
    }

    /// The counter of a state.
    pub fn of(&mut self, state: TaskState) -> &mut u64 {
        match state {
            TaskState::Waiting => &mut self.waiting,
            TaskState::Dispatched | TaskState::Running => &mut self.running,
            TaskState::Failed => &mut self.failed,
            TaskState::Succeeded => &mut self.succeeded,
            TaskState::Lost => &mut self.lost,
            TaskState::Stopped => &mut self.stopped,
        }
    }

    /// What an ended instance shows: what still waited when it ended never ran.
    pub fn settled(self) -> Self {
        TaskCounts { waiting: 0, running: 0, stopped: self.stopped + self.waiting + self.running, ..self }
    }
}

/// How an instance became tasks and how far they are: one row for each instance that is not standalone.
#[derive(Clone, Debug, PartialEq)]
pub struct Fanout {
    pub instance: InstanceId,
    /// Of the row; each write expects the one before.
    pub version: u32,
    pub phase: Phase,
    pub counts: TaskCounts,
    /// The number that the next task gets.
    pub next_task: TaskId,
    /// All tasks below it were placed at least once, or are bound to a worker: where a new owner begins to read.
    pub next_waiting: TaskId,
    /// The instance whose unsuccessful tasks this one repeats; its successes count as this one's for `reduce`.
    pub base: Option<InstanceId>,
    /// Of a broadcast: which workers there were when it began, chosen or not and why, as JSON. Frozen.
    pub targets: Option<Arc<str>>,
    /// Tasks that ended per 1,000 seconds, lately; measured over some seconds.
    pub rate_milli: u64,
}

impl Fanout {
    pub fn new(instance: InstanceId, phase: Phase) -> Self {
        Fanout {
            instance,
            version: 1,
            phase,
            counts: TaskCounts::default(),
            next_task: TaskId::ROOT,
            next_waiting: TaskId::ROOT,
            base: None,
            targets: None,
            rate_milli: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_codes_of_tasks_lead_back() {
        for role in TaskRole::ALL {
            assert_eq!((role.as_str().parse(), TaskRole::from_code(role.code())), (Ok(*role), Some(*role)));
        }
        for phase in Phase::ALL {
            assert_eq!((phase.as_str().parse(), Phase::from_code(phase.code())), (Ok(*phase), Some(*phase)));
        }
    }

    #[test]
    fn what_waited_when_an_instance_ended_never_ran() {
        let counts = TaskCounts { total: 9, waiting: 3, running: 1, succeeded: 4, failed: 1, ..TaskCounts::default() };
        let settled = counts.settled();
        assert_eq!((settled.stopped, settled.ended(), settled.waiting), (4, 9, 0));
    }
}
