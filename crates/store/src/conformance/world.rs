//! A store with a claimed partition, and short ways to make rows for it.

use std::sync::Arc;
use std::time::Duration;

use pendula_model::app::App;
use pendula_model::change::Change;
use pendula_model::id::IdSequence;
use pendula_model::instance::{Instance, InstanceState, Origin, Reason, StopCause};
use pendula_model::job::{Job, JobSpec, ScheduleState};
use pendula_model::processor::{Processor, Script};
use pendula_model::task::Task;
use pendula_model::worker::{BootId, WorkerRef};
use pendula_model::{AppId, Epoch, InstanceId, JobId, PartitionId, Revision, TaskId, Timestamp};

use crate::port::{Batch, InstanceFilter, JobFilter, Store, StoreError, TaskFilter};

/// 2026-01-01T00:00:00Z.
pub(super) const START: Timestamp = Timestamp::from_millis(1_767_225_600_000);

/// The partition that cases work in.
pub(super) const HOME: PartitionId = PartitionId(3);

pub(super) struct World {
    pub store: Arc<dyn Store>,
    pub partition: PartitionId,
    pub epoch: Epoch,
    ids: IdSequence,
    /// Moves on by a second with each row.
    pub now: Timestamp,
}

impl World {
    pub async fn new(store: Arc<dyn Store>) -> World {
        World::in_partition(store, HOME).await
    }

    pub async fn in_partition(store: Arc<dyn Store>, partition: PartitionId) -> World {
        let epoch = store.partition_claim(partition, "conformance", START).await.expect("the partition exists");
        World { store, partition, epoch, ids: IdSequence::new(partition, 0), now: START }
    }

    pub fn next_id(&mut self) -> i64 {
        self.now = self.now.plus(Duration::from_secs(1));
        self.ids.next(self.now)
    }

    pub fn app(&mut self, name: &str) -> App {
        App {
            id: AppId(self.next_id()),
            name: name.to_owned(),
            namespace: "default".to_owned(),
            partition: self.partition,
            allow_scripts: false,
            created_at: self.now,
            version: 1,
        }
    }

    pub fn job(&mut self, app: &App, name: &str) -> Job {
        Job {
            id: JobId(self.next_id()),
            app: app.id,
            spec: Arc::new(JobSpec::new(name, Processor::Shell(Script::new("true")))),
            revision: Revision(1),
            version: 1,
            schedule: ScheduleState { anchor: self.now, ..ScheduleState::default() },
            created_at: self.now,
            updated_at: self.now,
            deleted_at: None,
        }
    }

    /// A waiting one, fired by hand.
    pub fn instance(&mut self, job: &Job) -> Instance {
        Instance {
            id: InstanceId(self.next_id()),
            app: job.app,
            job: job.id,
            revision: job.revision,
            origin: Origin::Api,
            fire_time: None,
            missed_before: 0,
            rerun_of: None,
            idempotency_key: None,
            params: None,
            priority: 0,
            created_at: self.now,
            due_at: self.now,
            expires_at: None,
            state: InstanceState::Waiting,
            version: 1,
            attempt: 0,
            failures: 0,
            losses: 0,
            worker: None,
            placement: None,
            dispatched_at: None,
            started_at: None,
            ended_at: None,
            stop_cause: None,
            stop_deadline: None,
            reason: None,
            message: None,
            result: None,
        }
    }

    pub async fn try_commit(&self, changes: Vec<Change>) -> Result<(), StoreError> {
        self.store.commit(Batch { partition: self.partition, epoch: self.epoch, number: 0, changes }).await
    }

    pub async fn commit(&self, changes: Vec<Change>) {
        self.try_commit(changes).await.expect("the batch is in order");
    }

    /// Expects a conflict that leaves everything as it was.
    pub async fn refuses(&self, changes: Vec<Change>) {
        let before = self.dump().await;
        let shown = format!("{changes:?}");
        match self.try_commit(changes).await {
            Err(StoreError::Conflict { what }) => assert!(!what.is_empty()),
            other => panic!("{other:?} instead of a conflict, by {shown}"),
        }
        assert_eq!(self.dump().await, before, "a refused batch left something behind: {shown}");
    }

    /// All that the port shows, as text.
    pub async fn dump(&self) -> String {
        let store = &self.store;
        let everything = InstanceFilter { limit: usize::MAX, ..InstanceFilter::default() };
        let instances = store.instances(everything).await.expect("instances").items;
        let jobs = store.jobs(JobFilter { limit: usize::MAX, ..JobFilter::default() }).await.expect("jobs").items;
        let mut text = format!("{:?}\n", store.partition_load(self.partition).await.expect("snapshot"));
        text += &format!("{:?}\n", store.apps().await.expect("apps"));
        text += &format!("{:?}\n", store.tokens().await.expect("tokens"));
        text +=
            &format!("{:?}\n", store.jobs_due(self.partition, Timestamp::MAX, None, usize::MAX).await.expect("due"));
        for job in jobs {
            text += &format!("{job:?}\n");
            text += &format!("{:?}\n", store.job_revisions(job.id, usize::MAX).await.expect("revisions"));
            text += &format!("{:?}\n", store.job_gaps(job.id, usize::MAX).await.expect("gaps"));
        }
        for instance in instances {
            text += &format!("{instance:?}\n{:?}\n", self.tasks(instance.id).await);
            text += &format!("{:?}\n", store.fanout(instance.id).await.expect("fanout"));
            let of_root = store.past_attempts(instance.id, TaskId::ROOT).await.expect("past attempts");
            text += &format!("{of_root:?}\n");
            for task in self.tasks(instance.id).await.iter().filter(|task| task.id > TaskId::ROOT) {
                text += &format!("{:?}\n", store.past_attempts(instance.id, task.id).await.expect("past attempts"));
            }
        }
        text
    }

    /// All tasks of an instance with all that belongs to them.
    pub async fn tasks(&self, instance: InstanceId) -> Vec<Task> {
        let (states, name_contains, from, limit) = (Vec::new(), None, TaskId::ROOT, usize::MAX);
        let filter = TaskFilter { instance, states, name_contains, from, limit };
        let mut tasks = Vec::new();
        for listed in self.store.tasks(filter).await.expect("tasks").items {
            let task = self.store.task(instance, listed.id).await.expect("a listed task can be read");
            let task = task.expect("a listed task exists");
            assert_eq!(listed, Task { input: None, result: None, ..task.clone() });
            tasks.push(task);
        }
        tasks
    }

    /// Commits an app with one job.
    pub async fn with_job(&mut self) -> (App, Job) {
        let app = self.app("demo");
        let job = self.job(&app, "job");
        self.commit(vec![Change::AppInserted(app.clone()), Change::JobInserted(job.clone())]).await;
        (app, job)
    }
}

pub(super) fn worker() -> WorkerRef {
    WorkerRef { name: "w1".into(), boot: BootId(u64::MAX - 1) }
}

/// A new active row.
pub(super) fn inserted(instance: &Instance) -> Change {
    Change::InstanceInserted { instance: Box::new(instance.clone()), prune_at: None }
}

pub(super) fn updated(instance: &Instance) -> Change {
    Change::InstanceUpdated(Box::new(instance.clone()))
}

/// Kept for an hour.
pub(super) fn ended(instance: &Instance) -> Change {
    let prune_at = instance.ended_at.unwrap_or(START).plus(Duration::from_secs(3600));
    Change::InstanceEnded { instance: Box::new(instance.clone()), prune_at }
}

/// The next version of `instance`, in another state.
pub(super) fn moved(instance: &Instance, state: InstanceState) -> Instance {
    let mut next = Instance { state, version: instance.version + 1, ..instance.clone() };
    let at = instance.created_at.plus(Duration::from_secs(10));
    if state == InstanceState::Dispatched {
        next.attempt += 1;
        next.dispatched_at = Some(at);
    }
    if state.is_placed() && next.worker.is_none() {
        next.worker = Some(worker());
        next.attempt = next.attempt.max(1);
    }
    next.stop_cause = (state == InstanceState::Stopping).then_some(StopCause::User);
    next.ended_at = state.is_ended().then_some(at);
    next.reason = (state == InstanceState::Failed).then_some(Reason::EXIT_CODE);
    next
}
