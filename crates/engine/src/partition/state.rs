//! What a partition remembers.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use pendula_model::app::App;
use pendula_model::instance::{Instance, InstanceState};
use pendula_model::job::{Job, JobSpec};
use pendula_model::worker::{TASKS, WorkerInfo, WorkerRef, WorkerSelector};
use pendula_model::{AppId, InstanceId, JobId, Revision, SessionId, TaskKey, Timestamp};
use pendula_schedule::Plan;

use super::ready::{FairClock, Item, ReadyQueue};
use super::spread::Spread;

/// Order among what waits for a job's limit: priority first, then who was due first.
pub(super) type QueueKey = (Reverse<i8>, Timestamp, InstanceId);

/// What one moment in the future is for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    /// Schedules beyond the look-ahead must be read.
    Window,
    Trigger(JobId),
    Instance(InstanceId),
    Task(TaskKey),
    /// A worker that is away has been so for too long.
    Away(AppId, WorkerRef),
}

pub(super) struct AppEntry {
    pub app: App,
    pub name: Arc<str>,
    /// Ready instances by what they demand of a worker.
    pub classes: BTreeMap<ClassId, Class>,
    pub next_class: u32,
    /// By which the jobs of the app take turns.
    pub fair: FairClock,
    /// Instances with ready tasks that none of the workers with a free slot may take, because of limits of their own.
    pub gated: BTreeSet<InstanceId>,
}

impl AppEntry {
    pub fn new(app: App) -> Self {
        AppEntry {
            name: app.name.as_str().into(),
            app,
            classes: BTreeMap::new(),
            next_class: 0,
            fair: FairClock::default(),
            gated: BTreeSet::new(),
        }
    }

    pub fn ready(&self) -> usize {
        self.classes.values().map(|class| class.ready.len()).sum()
    }

    /// The class of a definition, made when it is the first of its kind.
    pub fn class_of(&mut self, spec: &JobSpec) -> ClassId {
        let has_tasks = spec.mode.has_tasks();
        let is_it = |class: &Class| {
            class.processor == spec.processor.offered_as()
                && class.selector == spec.workers
                && class.has_tasks == has_tasks
        };
        let known = self.classes.iter().find(|(_, class)| is_it(class));
        if let Some((id, _)) = known {
            return *id;
        }
        let id = ClassId(self.next_class);
        self.next_class += 1;
        let class = Class {
            processor: spec.processor.offered_as().into_owned(),
            selector: spec.workers.clone(),
            has_tasks,
            ready: ReadyQueue::default(),
            turn: None,
        };
        self.classes.insert(id, class);
        id
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct ClassId(u32);

/// Instances that any worker with a certain processor and certain labels can take.
pub(super) struct Class {
    pub processor: String,
    pub selector: WorkerSelector,
    pub has_tasks: bool,
    pub ready: ReadyQueue,
    /// Whom `round_robin` chose last.
    pub turn: Option<SessionId>,
}

impl Class {
    /// Why a worker cannot take instances of this class at all, or `None` if it can.
    pub fn mismatch(&self, info: &WorkerInfo) -> Option<String> {
        if !info.offers(&self.processor) {
            return Some(format!("does not offer the processor {}", self.processor));
        }
        if self.has_tasks && !info.capabilities.iter().any(|capability| capability == TASKS) {
            return Some("its version cannot run parts of an instance; upgrade it".to_owned());
        }
        self.selector.mismatch(info)
    }
}

/// A revision of a job that some active instance, or its trigger, runs.
pub(super) struct Definition {
    pub revision: Revision,
    pub spec: Arc<JobSpec>,
    pub class: ClassId,
}

pub(super) struct JobEntry {
    pub job: Job,
    /// None: no trigger, or one that no longer compiles.
    pub plan: Option<Plan>,
    /// The fire for which a timer is set.
    pub armed: Option<Timestamp>,
    /// Kept in memory until the cache is swept, so that a read under way cannot bring it back.
    pub deleted: bool,
    /// Revisions in use.
    pub definitions: HashMap<Revision, Arc<Definition>>,
    /// Active instances under the limit: ready, placed, or between two attempts.
    pub admitted: BTreeSet<InstanceId>,
    /// Active instances that wait for the limit.
    pub queue: BTreeSet<QueueKey>,
    /// Active instances that wait for their time.
    pub delayed: usize,
    /// Active instances that the trigger made.
    pub triggered: usize,
    /// Whether it was already said that no worker can run it.
    pub no_worker_told: bool,
}

impl JobEntry {
    pub fn active(&self) -> usize {
        self.admitted.len() + self.queue.len() + self.delayed
    }
}

/// Whether an instance's row must be written at the end of the current input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dirty {
    Clean,
    New,
    Changed,
}

/// Where an active instance waits, if it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// For its time; not counted under the limit yet.
    Delayed,
    /// For the job's limit.
    Queued,
    /// For the end of a back-off; keeps its place under the limit.
    BackOff,
    /// For a free slot.
    Ready,
    /// With a worker.
    Placed,
}

/// An instance under way.
pub(super) struct Active {
    pub row: Instance,
    pub definition: Arc<Definition>,
    pub place: Place,
    pub dirty: Dirty,
    /// Whether it stands in the list of what the current input touched.
    pub listed: bool,
    pub timer: Option<Timestamp>,
    /// Of a broadcast: not to begin before, because workers may still be on their way back.
    pub hold_until: Option<Timestamp>,
    /// Its tasks, once it has begun; none for a standalone instance.
    pub spread: Option<Box<Spread>>,
    /// The live session of its worker.
    pub session: Option<SessionId>,
    /// The number of the dispatch message, and when it or the latest stop message was sent.
    pub sequence: u64,
    pub sent_at: Timestamp,
    /// Time by which the clock jumped ahead since its current wait, attempt or stop began.
    pub allowance: Duration,
    pub progress: Option<(u32, Option<Arc<str>>)>,
}

impl Active {
    pub fn queue_key(&self) -> QueueKey {
        (Reverse(self.row.priority), self.row.due_at, self.row.id)
    }

    /// As what it stands in the ready queue.
    pub fn item(&self) -> Item {
        let Instance { id, job, priority, due_at, .. } = self.row;
        Item { job, instance: id, priority, due_at }
    }

    pub fn has_tasks(&self) -> bool {
        self.definition.spec.mode.has_tasks()
    }

    /// Whether an attempt may have begun: what makes it stop rather than be canceled.
    pub fn ever_started(&self) -> bool {
        self.row.state.is_placed() || self.row.failures > 0 || self.row.losses > 0
    }

    /// A moment that a worker told, moved to between the dispatch and now. (A clock that went back over a restart puts
    /// the dispatch into the future.)
    pub fn within_attempt(&self, at: Timestamp, now: Timestamp) -> Timestamp {
        let earliest = self.row.dispatched_at.unwrap_or(now).min(now);
        at.clamp(earliest, now)
    }

    /// When something must happen to it though nobody speaks.
    pub fn deadline(&self, now: Timestamp) -> Option<Timestamp> {
        match self.row.state {
            InstanceState::Waiting => {
                let expiry = self.row.expires_at.filter(|_| !self.ever_started()).map(|at| at.plus(self.allowance));
                let due = matches!(self.place, Place::Delayed | Place::BackOff).then_some(self.row.due_at.max(now));
                let held = self.hold_until.map(|until| until.max(now));
                [expiry, due, held].into_iter().flatten().min()
            }
            InstanceState::Dispatched | InstanceState::Running => {
                let timeout = self.definition.spec.timeout?;
                Some(self.row.dispatched_at?.plus(timeout).plus(self.allowance))
            }
            InstanceState::Stopping => Some(self.row.stop_deadline?.plus(self.allowance)),
            _ => None,
        }
    }
}

/// A connected worker.
pub(super) struct Session {
    pub id: SessionId,
    pub app: AppId,
    pub info: WorkerInfo,
    pub connected_at: Timestamp,
    pub last_heard: Timestamp,
    pub draining: bool,
    /// What it has, as far as we know.
    pub held: BTreeSet<TaskKey>,
    /// What is bound to it and waits for a slot.
    pub bound: BTreeSet<TaskKey>,
    /// Dispatch messages sent so far.
    pub sequence: u64,
    /// Which classes it can take, as far as it was asked.
    pub eligible: HashMap<ClassId, bool>,
}

impl Session {
    pub fn free(&self) -> usize {
        if self.draining { 0 } else { (self.info.slots as usize).saturating_sub(self.held.len()) }
    }
}

/// A worker whose connection is gone, and which may come back.
#[derive(Default)]
pub(super) struct Away {
    pub held: BTreeSet<TaskKey>,
    /// What is bound to it and was not given to it yet.
    pub bound: BTreeSet<TaskKey>,
    pub deadline: Timestamp,
    /// Unknown after a restart of the server.
    pub last: Option<(WorkerInfo, Timestamp, Timestamp)>,
    /// It said that it takes nothing new before it went.
    pub draining: bool,
}

/// Which fires are in memory.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Window {
    /// All fires before this time are armed.
    pub until: Timestamp,
    /// A read up to this time is under way.
    pub loading: Option<Timestamp>,
}

/// SplitMix64: small, fast, and the same on every machine, as the simulator needs it.
pub(super) struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}
