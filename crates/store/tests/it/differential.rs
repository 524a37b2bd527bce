//! Any history, in order or not, is accepted and refused alike by both stores, and leaves the same rows.

use std::sync::Arc;
use std::time::Duration;

use pendula_model::app::App;
use pendula_model::change::{Change, Gap};
use pendula_model::instance::{Instance, InstanceState, Origin, PastAttempt, Reason, StopCause, TaskState};
use pendula_model::job::{Job, JobSpec, ScheduleState};
use pendula_model::processor::{Processor, Script};
use pendula_model::worker::{BootId, WorkerRef};
use pendula_model::{AppId, Epoch, InstanceId, JobId, Revision, Timestamp};
use pendula_store::sqlite::{Options, Synchronous};
use pendula_store::{Batch, InstanceFilter, JobFilter, MemoryStore, SqliteStore, Store, StoreError};
use proptest::prelude::*;

use crate::rows::{HOME, START};

/// One random step: what, on which row, and three small choices.
type Step = (u8, u8, u8, u8, u8);

fn id(kind: i64, number: u8) -> i64 {
    (1 << 40) | (kind << 23) | (i64::from(HOME.0) << 12) | i64::from(number)
}

fn at(choice: u8) -> Option<Timestamp> {
    (choice > 0).then(|| START.plus(Duration::from_secs(choice.into())))
}

fn app(number: u8, version: u8) -> App {
    App {
        id: AppId(id(1, number)),
        name: format!("app {number}"),
        namespace: "n".to_owned(),
        partition: HOME,
        allow_scripts: version.is_multiple_of(2),
        created_at: START,
        version: version.into(),
    }
}

/// Names overlap between jobs, and revisions between definitions.
fn job(number: u8, version: u8, name: u8, revision: u8) -> Job {
    let mut spec = JobSpec::new(format!("job {name}"), Processor::Shell(Script::new("true")));
    spec.enabled = version != 2;
    let next_fire = if spec.enabled { at(revision) } else { None };
    Job {
        id: JobId(id(2, number)),
        app: AppId(id(1, number % 2)),
        spec: Arc::new(spec),
        revision: Revision(u32::from(revision) + 1),
        version: version.into(),
        schedule: ScheduleState { next_fire, ..ScheduleState::default() },
        created_at: START,
        updated_at: START,
        deleted_at: None,
    }
}

/// Sometimes lawless: placed without a worker, ended without an end.
fn instance(number: u8, version: u8, state: u8, choice: u8) -> Instance {
    let state = InstanceState::ALL[usize::from(state) % InstanceState::ALL.len()];
    let is_odd = choice == 3 && number == 0;
    let owner = JobId(id(2, number % 3));
    Instance {
        id: InstanceId(id(3, number)),
        app: AppId(id(1, number % 3 % 2)),
        job: owner,
        revision: Revision(1 + u32::from(number == 4)),
        origin: Origin::Trigger,
        fire_time: at(number / 2),
        missed_before: 0,
        rerun_of: None,
        idempotency_key: (number >= 4).then(|| "key".into()),
        params: None,
        priority: 0,
        created_at: START,
        due_at: START,
        expires_at: None,
        state,
        version: version.into(),
        attempt: u32::from(state.is_placed()),
        failures: choice.into(),
        losses: 0,
        worker: (state.is_placed() != is_odd).then(|| WorkerRef { name: "w".into(), boot: BootId(1) }),
        placement: None,
        dispatched_at: None,
        started_at: None,
        ended_at: (state.is_ended() != is_odd).then_some(START),
        stop_cause: (state == InstanceState::Stopping).then_some(StopCause::User),
        stop_deadline: None,
        reason: None,
        message: None,
        result: None,
    }
}

fn change((kind, number, a, b, c): Step) -> Change {
    let prune_at = START.plus(Duration::from_secs(b.into()));
    match kind {
        0 => Change::AppInserted(app(number % 2, 1)),
        1 => Change::AppUpdated(app(number % 2, a)),
        2 => Change::AppDeleted(AppId(id(1, number % 2))),
        3 | 4 => Change::JobInserted(job(number % 3, 1, a, 0)),
        5 | 6 => Change::JobUpdated(job(number % 3, a + 1, b, c)),
        7 => Change::JobDeleted { id: JobId(id(2, number % 3)), version: a.into(), at: START },
        8 => Change::ScheduleAdvanced {
            job: JobId(id(2, number % 3)),
            expected_next: at(a),
            schedule: ScheduleState { next_fire: at(b), last_fire: at(a), ..ScheduleState::default() },
        },
        9 => Change::GapRecorded {
            job: JobId(id(2, number % 3)),
            gap: Gap { from: START, to: START, count: a.into(), noticed_at: START },
        },
        10..=12 => {
            let instance = Box::new(instance(number, 1, a, c));
            let prune_at = instance.state.is_ended().then_some(prune_at);
            Change::InstanceInserted { instance, prune_at }
        }
        13 => Change::InstanceUpdated(Box::new(instance(number, a, b, c))),
        14 => Change::InstanceEnded { instance: Box::new(instance(number, a, 4 + b, c)), prune_at },
        15 => Change::InstanceQuarantined { id: InstanceId(id(3, number)), at: START, why: "why".to_owned(), prune_at },
        _ => Change::AttemptEnded(PastAttempt {
            instance: InstanceId(id(3, number)),
            attempt: u32::from(a) + 1,
            state: TaskState::Failed,
            worker: None,
            placement: None,
            dispatched_at: None,
            started_at: None,
            ended_at: START,
            reason: Reason::FAILED,
            message: None,
        }),
    }
}

/// What both must agree on: not the words of a refusal.
fn outcome(result: Result<(), StoreError>) -> &'static str {
    match result {
        Ok(()) => "done",
        Err(StoreError::Conflict { .. }) => "conflict",
        Err(StoreError::Fenced { .. }) => "fenced",
        Err(other) => panic!("{other:?}"),
    }
}

async fn dump(store: &dyn Store) -> String {
    let instances = InstanceFilter { limit: 100, ..InstanceFilter::default() };
    let instances = store.instances(instances).await.unwrap().items;
    let mut text = format!("{:?}\n{:?}\n", store.apps().await.unwrap(), store.partition_load(HOME).await.unwrap());
    text += &format!("{:?}\n", store.jobs(JobFilter { limit: 100, ..JobFilter::default() }).await.unwrap());
    text += &format!("{:?}\n", store.jobs_due(HOME, Timestamp::MAX, None, 100).await.unwrap());
    for number in 0..3 {
        let job = JobId(id(2, number));
        text += &format!("{:?}\n", store.job_by_id(job).await.unwrap());
        text += &format!("{:?}\n", store.job_revisions(job, 100).await.unwrap());
        text += &format!("{:?}\n", store.job_gaps(job, 100).await.unwrap());
    }
    for instance in instances {
        text += &format!("{instance:?}\n{:?}\n", store.past_attempts(instance.id).await.unwrap());
    }
    text
}

async fn compare(batches: Vec<(bool, Vec<Step>)>) {
    let directory = tempfile::tempdir().unwrap();
    let options = Options { partitions: 8, synchronous: Synchronous::Normal, readers: 1, ..Options::default() };
    let sqlite = SqliteStore::open(directory.path(), options).unwrap();
    let memory = MemoryStore::new(8);
    let mut epoch = Epoch(0);
    for store in [&sqlite as &dyn Store, &memory] {
        epoch = store.partition_claim(HOME, "test", START).await.unwrap();
        let changes = vec![
            Change::AppInserted(app(0, 1)),
            Change::AppInserted(app(1, 1)),
            Change::JobInserted(job(0, 1, 0, 0)),
            Change::JobInserted(job(1, 1, 1, 0)),
        ];
        store.commit(Batch { partition: HOME, epoch, changes }).await.unwrap();
    }
    for (prunes, steps) in batches {
        let changes: Vec<_> = steps.into_iter().map(change).collect();
        let batch = Batch { partition: HOME, epoch, changes };
        let shown = format!("{batch:?}");
        let theirs = outcome(memory.commit(batch.clone()).await);
        assert_eq!(outcome(sqlite.commit(batch).await), theirs, "{shown}");
        if prunes {
            let now = START.plus(Duration::from_secs(3));
            assert_eq!(sqlite.prune(now, 2).await.unwrap(), memory.prune(now, 2).await.unwrap());
        }
        assert_eq!(dump(&sqlite).await, dump(&memory).await, "after {shown}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn both_stores_agree(
        batches in prop::collection::vec(
            (prop::bool::weighted(0.1), prop::collection::vec((0..17_u8, 0..6_u8, 0..4_u8, 0..4_u8, 0..4_u8), 1..4)),
            1..60,
        )
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(compare(batches));
    }
}
