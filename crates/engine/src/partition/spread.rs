//! What a partition remembers of an instance with many tasks: those under way, and a window of those that wait. The rest
//! is in the store and comes when there is room, so that a million tasks cost no more memory than some thousands.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use pendula_model::instance::{InstanceState, StopCause, TaskState};
use pendula_model::task::{Fanout, Phase, Task, TaskCounts};
use pendula_model::worker::WorkerRef;
use pendula_model::{InstanceId, SessionId, TaskId, Timestamp};

use super::state::Dirty;

/// Waiting tasks of one instance in memory at most, and bytes of their inputs. Below half of either, more is read.
pub(super) const WINDOW: usize = 8_192;
pub(super) const WINDOW_BYTES: usize = 32 << 20;
/// How long the rate is measured at least before it is told.
const RATE_OVER: Duration = Duration::from_secs(2);

/// See the [module](self).
pub(super) struct Spread {
    pub row: Fanout,
    pub dirty: Dirty,
    /// Tasks in memory, none of them ended.
    pub live: BTreeMap<TaskId, LiveTask>,
    /// Of those: what waits for any worker, never placed.
    pub fresh: BTreeSet<TaskId>,
    /// The same, tried before.
    pub again: BTreeSet<TaskId>,
    /// Bytes in `live`.
    pub bytes: usize,
    /// From here on, tasks that were never placed are in the store alone.
    pub unread: Option<TaskId>,
    /// A read from the first is under way; the second is what the next task's number was when it was asked for.
    pub reading: Option<(TaskId, TaskId)>,
    /// Tasks with each worker.
    pub on_worker: BTreeMap<WorkerRef, u32>,
    /// Whether it stands in its class's ready queue.
    pub queued: bool,
    /// Of a broadcast: the workers that were chosen when it began, for whom tasks are made once `pre` is over.
    pub frozen: Vec<WorkerRef>,
    /// Of a broadcast: names of the workers that have, or had, a task.
    pub joined: BTreeSet<Arc<str>>,
    /// Lost tasks that wait for a worker of this name.
    pub orphans: BTreeMap<Arc<str>, BTreeSet<TaskId>>,
    /// Stops that no worker confirmed.
    pub unconfirmed: u32,
    /// The instance ends with this very input: the end of a task leads to nothing more.
    pub closing: bool,
    /// Grows with each retry by a user, so that what was read before is known to be old.
    pub retries: u64,
    /// To be inserted at the end of the current input: those in memory by number, the others as they are.
    pub created: Vec<Written>,
    /// Tasks of another instance that this one repeats, to be copied with the insert.
    pub copied: Option<(InstanceId, u64)>,
    /// To be updated at the end of the current input: ended ones as they are.
    pub changed: Vec<Written>,
    /// Ended since it was told last.
    pub ended: TaskCounts,
    /// When the rate was measured last, and how many had ended then.
    pub measured: (Timestamp, u64),
}

/// A task to be written: one in memory, or one that is not (any more).
pub(super) enum Written {
    Live(TaskId),
    Row(Box<Task>),
}

/// A task that is under way or next.
pub(super) struct LiveTask {
    pub row: Task,
    pub dirty: Dirty,
    /// The live session of its worker.
    pub session: Option<SessionId>,
    pub sequence: u64,
    pub sent_at: Timestamp,
    /// Time by which the clock jumped ahead since its current wait or attempt began.
    pub allowance: Duration,
    pub timer: Option<Timestamp>,
    /// It is being stopped alone, until then at the latest.
    pub stopping: Option<(StopCause, Timestamp)>,
    pub progress: Option<(u32, Option<Arc<str>>)>,
}

impl LiveTask {
    pub fn new(row: Task, dirty: Dirty, now: Timestamp) -> Self {
        LiveTask {
            row,
            dirty,
            session: None,
            sequence: 0,
            sent_at: now,
            allowance: Duration::ZERO,
            timer: None,
            stopping: None,
            progress: None,
        }
    }

    /// Its state in the words of the state machine, which knows `stopping` too.
    pub fn standing(&self, instance: InstanceState) -> InstanceState {
        match self.row.state {
            TaskState::Waiting => InstanceState::Waiting,
            _ if self.stopping.is_some() || instance == InstanceState::Stopping => InstanceState::Stopping,
            TaskState::Dispatched => InstanceState::Dispatched,
            _ => InstanceState::Running,
        }
    }

    /// When something must happen to it though nobody speaks.
    pub fn deadline(&self, timeout: Option<Duration>) -> Option<Timestamp> {
        match (self.row.state, self.stopping) {
            (TaskState::Waiting, _) => Some(self.row.due_at.plus(self.allowance)),
            (_, Some((_, deadline))) => Some(deadline.plus(self.allowance)),
            _ => Some(self.row.dispatched_at?.plus(timeout?).plus(self.allowance)),
        }
    }
}

impl Spread {
    pub fn new(row: Fanout, dirty: Dirty, now: Timestamp) -> Self {
        let ended = row.counts.ended();
        Spread {
            row,
            dirty,
            live: BTreeMap::new(),
            fresh: BTreeSet::new(),
            again: BTreeSet::new(),
            bytes: 0,
            unread: None,
            reading: None,
            on_worker: BTreeMap::new(),
            queued: false,
            frozen: Vec::new(),
            joined: BTreeSet::new(),
            orphans: BTreeMap::new(),
            unconfirmed: 0,
            closing: false,
            retries: 0,
            created: Vec::new(),
            copied: None,
            changed: Vec::new(),
            ended: TaskCounts::default(),
            measured: (now, ended),
        }
    }

    /// The next unbound task that waits for a slot.
    pub fn next_ready(&self) -> Option<TaskId> {
        self.again.first().or(self.fresh.first()).copied()
    }

    pub fn has_room(&self) -> bool {
        self.live.len() < WINDOW && self.bytes < WINDOW_BYTES
    }

    /// Whether more should be read now.
    pub fn wants_more(&self) -> bool {
        self.reading.is_none()
            && self.unread.is_some()
            && self.fresh.len() < WINDOW / 2
            && self.live.len() < WINDOW
            && self.bytes < WINDOW_BYTES / 2
    }

    /// All tasks below it were placed, or are bound.
    pub fn next_waiting(&self) -> TaskId {
        self.fresh.first().copied().or(self.unread).unwrap_or(self.row.next_task)
    }

    /// Whether no task is left that could still run.
    pub fn is_exhausted(&self) -> bool {
        self.live.is_empty() && self.unread.is_none() && self.row.counts.waiting + self.row.counts.running == 0
    }

    /// Whether a task is with a worker.
    pub fn has_placed(&self) -> bool {
        !self.on_worker.is_empty()
    }

    /// Whether one more task may run on this worker.
    pub fn admits(&self, worker: &WorkerRef, per_worker: Option<u32>, max_workers: Option<u32>) -> bool {
        match self.on_worker.get(worker) {
            Some(tasks) => per_worker.is_none_or(|most| *tasks < most),
            None => max_workers.is_none_or(|most| self.on_worker.len() < most as usize),
        }
    }

    pub fn insert_live(&mut self, task: LiveTask) {
        self.bytes += task.row.bytes();
        self.live.insert(task.row.id, task);
    }

    pub fn remove_live(&mut self, id: TaskId) -> Option<LiveTask> {
        let task = self.live.remove(&id)?;
        self.bytes = self.bytes.saturating_sub(task.row.bytes());
        self.fresh.remove(&id);
        self.again.remove(&id);
        Some(task)
    }

    /// Moves a counted task between two counters.
    pub fn count(&mut self, from: TaskState, to: TaskState) {
        *self.row.counts.of(from) -= 1;
        *self.row.counts.of(to) += 1;
        if to.is_ended() {
            *self.ended.of(to) += 1;
        }
        self.touch();
    }

    pub fn touch(&mut self) {
        if self.dirty == Dirty::Clean {
            self.dirty = Dirty::Changed;
        }
    }

    pub fn set_phase(&mut self, phase: Phase) {
        self.row.phase = phase;
        self.touch();
    }

    /// A task in memory is to be written.
    pub fn touch_task(&mut self, id: TaskId) {
        if let Some(task) = self.live.get_mut(&id)
            && task.dirty == Dirty::Clean
        {
            task.dirty = Dirty::Changed;
            self.changed.push(Written::Live(id));
        }
    }

    /// Brings the measured rate up to date.
    pub fn measure(&mut self, now: Timestamp) {
        let over = now.since(self.measured.0);
        if over >= RATE_OVER {
            let ended = self.row.counts.ended();
            let since = u128::from(ended.saturating_sub(self.measured.1));
            self.row.rate_milli = (since * 1_000_000_000 / over.as_micros()) as u64;
            self.measured = (now, ended);
        }
    }
}
