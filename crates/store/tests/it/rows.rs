//! Rows for tests that look at the database from outside.

use std::path::Path;
use std::sync::Arc;

use pendula_model::app::App;
use pendula_model::change::Change;
use pendula_model::id::IdSequence;
use pendula_model::instance::{Instance, InstanceState, Origin, Payload, TaskState};
use pendula_model::job::{Job, JobSpec, ScheduleState};
use pendula_model::processor::{Processor, Script};
use pendula_model::task::{Fanout, Phase, Task, TaskCounts, TaskRole};
use pendula_model::worker::{BootId, WorkerRef};
use pendula_model::{AppId, Epoch, InstanceId, JobId, PartitionId, Revision, TaskId, Timestamp};
use pendula_store::sqlite::Options;
use pendula_store::{Batch, SqliteStore, Store, StoreError};

/// 2026-01-01T00:00:00Z.
pub const START: Timestamp = Timestamp::from_millis(1_767_225_600_000);

pub const HOME: PartitionId = PartitionId(3);

pub fn open(directory: &Path) -> SqliteStore {
    try_open(directory).expect("the directory can be opened")
}

pub fn try_open(directory: &Path) -> Result<SqliteStore, StoreError> {
    SqliteStore::open(directory, Options { partitions: 8, ..Options::default() })
}

/// A connection behind the store's back.
pub fn behind(directory: &Path) -> rusqlite::Connection {
    let db = rusqlite::Connection::open(directory.join("state.db")).expect("the file exists");
    db.busy_timeout(std::time::Duration::from_secs(10)).expect("a timeout can be set");
    // Not a pragma of the file: what the store refuses can be written here.
    db.execute_batch("PRAGMA ignore_check_constraints = ON; PRAGMA foreign_keys = OFF;").expect("pragmas");
    db
}

/// The owner of a partition with one app.
pub struct Owner {
    pub epoch: Epoch,
    pub ids: IdSequence,
    pub app: AppId,
}

impl Owner {
    pub async fn new(store: &dyn Store) -> Owner {
        let epoch = store.partition_claim(HOME, "test", START).await.expect("the partition exists");
        let last_id = store.partition_load(HOME).await.expect("it can be loaded").last_id;
        let mut ids = IdSequence::new(HOME, last_id);
        let app = App {
            id: AppId(ids.next(START)),
            name: format!("app {last_id}"),
            namespace: "default".to_owned(),
            partition: HOME,
            allow_scripts: false,
            created_at: START,
            version: 1,
        };
        let owner = Owner { epoch, ids, app: app.id };
        owner.commit(store, vec![Change::AppInserted(app)]).await.expect("a new app");
        owner
    }

    pub async fn commit(&self, store: &dyn Store, changes: Vec<Change>) -> Result<(), StoreError> {
        store.commit(Batch { partition: HOME, epoch: self.epoch, number: 0, changes }).await
    }

    /// Stores a job that is due at `START`.
    pub async fn job(&mut self, store: &dyn Store, name: &str) -> Job {
        let job = Job {
            id: JobId(self.ids.next(START)),
            app: self.app,
            spec: Arc::new(JobSpec::new(name, Processor::Shell(Script::new("true")))),
            revision: Revision(1),
            version: 1,
            schedule: ScheduleState { next_fire: Some(START), ..ScheduleState::default() },
            created_at: START,
            updated_at: START,
            deleted_at: None,
        };
        self.commit(store, vec![Change::JobInserted(job.clone())]).await.expect("a new job");
        job
    }

    /// A running one, with something in each column that may be damaged.
    pub fn running(&mut self, job: &Job) -> Instance {
        Instance {
            id: InstanceId(self.ids.next(START)),
            app: job.app,
            job: job.id,
            revision: job.revision,
            origin: Origin::Api,
            fire_time: None,
            missed_before: 0,
            rerun_of: None,
            idempotency_key: None,
            params: Some("{}".into()),
            priority: 0,
            created_at: START,
            due_at: START,
            expires_at: None,
            state: InstanceState::Running,
            version: 1,
            attempt: 1,
            failures: 0,
            losses: 0,
            worker: Some(WorkerRef { name: "w".into(), boot: BootId(1) }),
            placement: Some("{}".into()),
            dispatched_at: Some(START),
            started_at: Some(START),
            ended_at: None,
            stop_cause: None,
            stop_deadline: None,
            reason: None,
            message: Some("m".into()),
            result: None,
        }
    }
}

impl Owner {
    /// Stores an instance with three tasks: one that runs between two that wait.
    pub async fn with_tasks(&self, store: &dyn Store, instance: &Instance) -> Vec<Task> {
        let task = |number: u64| Task {
            input: Some(Arc::new(Payload::json("[]"))),
            ..Task::new(instance.id, TaskId(number), TaskRole::Sub, "part".into(), START)
        };
        let worker = Some(WorkerRef { name: "w".into(), boot: BootId(1) });
        let running = Task { state: TaskState::Running, attempt: 1, worker, ..task(1) };
        let tasks = vec![task(0), running, task(2)];
        let fanout = Fanout {
            counts: TaskCounts { total: 3, waiting: 2, running: 1, ..TaskCounts::default() },
            next_task: TaskId(3),
            targets: Some("{}".into()),
            ..Fanout::new(instance.id, Phase::Main)
        };
        let changes = vec![inserted(instance), Change::FanoutInserted(fanout), Change::TasksInserted(tasks.clone())];
        self.commit(store, changes).await.expect("a new instance with tasks");
        tasks
    }
}

pub fn inserted(instance: &Instance) -> Change {
    Change::InstanceInserted { instance: Box::new(instance.clone()), prune_at: None }
}

pub fn succeeded(instance: &Instance) -> Change {
    let mut over = instance.clone();
    over.state = InstanceState::Succeeded;
    over.version += 1;
    over.ended_at = Some(START);
    Change::InstanceEnded { instance: Box::new(over), prune_at: START }
}
