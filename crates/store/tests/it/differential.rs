//! Any history, in order or not, is accepted and refused alike by all stores, and leaves the same rows.

use std::sync::Arc;
use std::time::Duration;

use pendula_model::app::App;
use pendula_model::change::{Change, Gap};
use pendula_model::instance::{Instance, InstanceState, Origin, PastAttempt, Payload, Reason, StopCause, TaskState};
use pendula_model::job::{Job, JobSpec, ScheduleState};
use pendula_model::processor::{Processor, Script};
use pendula_model::task::{Fanout, Phase, Task, TaskCounts, TaskRole};
use pendula_model::worker::{BootId, WorkerRef};
use pendula_model::{AppId, Epoch, InstanceId, JobId, Revision, TaskId, Timestamp};
use pendula_store::sqlite::{Options, Synchronous};
use pendula_store::{
    Batch, InstanceFilter, JobFilter, MemoryStore, PostgresStore, SqliteStore, Store, StoreError, TaskFilter, postgres,
};
use pendula_testdb::Postgres;
use proptest::prelude::*;
use tracing::span;

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
        idempotency_key: (4..6).contains(&number).then(|| "key".into()),
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

/// Sometimes lawless: counts that do not add up.
fn fanout(number: u8, version: u8, choice: u8, other: u8) -> Fanout {
    let instance = InstanceId(id(3, number));
    let counts = TaskCounts { total: choice.into(), waiting: choice.into(), ..TaskCounts::default() };
    let counts = TaskCounts { lost: u64::from(choice == 3 && other == 3), ..counts };
    Fanout {
        version: version.into(),
        counts,
        next_task: TaskId(other.into()),
        rate_milli: choice.into(),
        ..Fanout::new(instance, Phase::Main)
    }
}

/// What was given with it follows from its number. Sometimes lawless: placed without a worker, or bound elsewhere.
fn task(number: u8, part: u8, version: u8, state: u8, choice: u8) -> Task {
    let state = TaskState::ALL[usize::from(state + choice) % TaskState::ALL.len()];
    let role = TaskRole::ALL[usize::from(part + 1) % TaskRole::ALL.len()];
    let is_odd = choice == 3 && part == 1;
    let worker = |name: &str| Some(WorkerRef { name: name.into(), boot: BootId(choice.into()) });
    let target = if part == 1 { worker(if is_odd { "other" } else { "w" }) } else { None };
    Task {
        target,
        input: (part == 2).then(|| Arc::new(Payload::json("[]"))),
        state,
        version: version.into(),
        attempt: u32::from(state.is_placed()),
        failures: choice.into(),
        emitted: choice.into(),
        worker: if state.is_placed() != is_odd { worker("w") } else { None },
        ended_at: state.is_ended().then_some(START),
        result: (choice == 1).then(|| Arc::new(Payload::json("{}"))),
        ..Task::new(InstanceId(id(3, number)), TaskId(part.into()), role, format!("part {part}").into(), START)
    }
}

/// The change of a step. Versions are often those that `stored` waits for, or the rows would hardly ever move.
fn change(stored: &MemoryStore, (kind, number, a, b, c): Step) -> Change {
    // Tasks gather in few instances, so that they meet.
    let number = if (16..26).contains(&kind) && number < 6 { number % 2 } else { number };
    let next = |version: Option<u32>| version.map_or(1, |version| if c == 3 { c.into() } else { version + 1 });
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
        13 => {
            let version = next(stored.instance_sync(InstanceId(id(3, number))).map(|row| row.version));
            Change::InstanceUpdated(Box::new(Instance { version, ..instance(number, 1, b, c) }))
        }
        14 => {
            let version = next(stored.instance_sync(InstanceId(id(3, number))).map(|row| row.version));
            let instance = Box::new(Instance { version, ..instance(number, 1, 4 + b, c) });
            Change::InstanceEnded { instance, prune_at }
        }
        15 => Change::InstanceQuarantined { id: InstanceId(id(3, number)), at: START, why: "why".to_owned(), prune_at },
        16 => Change::FanoutInserted(fanout(number, 1, b, c)),
        17 => {
            let before = stored.fanout_sync(InstanceId(id(3, number)));
            Change::FanoutUpdated(Fanout { version: next(before.map(|row| row.version)), ..fanout(number, a, b, c) })
        }
        18..=20 => {
            // Not always in order, and one of four has ended.
            let new = |part, state: u8| task(number, part, 1, if state == 3 { 3 } else { 0 }, state % 3);
            Change::TasksInserted(vec![new(a + 4, b), new(a + 4 + b, c)])
        }
        21 => {
            let from = InstanceId(id(3, 3 * a.min(1)));
            let mut count = 0;
            stored.for_each_task(|task| {
                let is_meant = task.instance == from && task.role.is_counted() && task.state != TaskState::Succeeded;
                count += u64::from(is_meant);
            });
            Change::TasksCopied { from, to: InstanceId(id(3, number)), at: START, count: count + u64::from(c == 3) }
        }
        22..=25 => {
            let before = stored.task_sync(InstanceId(id(3, number)), TaskId(a.into()));
            let version = next(before.map(|row| row.version));
            Change::TaskUpdated(Box::new(Task { version, ..task(number, a, 1, b, c) }))
        }
        _ => Change::AttemptEnded(PastAttempt {
            instance: InstanceId(id(3, number)),
            task: TaskId(b.into()),
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

/// What all must agree on: not the words of a refusal.
fn outcome(result: Result<(), StoreError>) -> &'static str {
    match result {
        Ok(()) => "done",
        Err(StoreError::Conflict { .. }) => "conflict",
        Err(StoreError::Fenced { .. }) => "fenced",
        Err(other) => panic!("{other:?}"),
    }
}

/// All that the port shows of these histories.
pub async fn dump(store: &dyn Store) -> String {
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
        let id = instance.id;
        text += &format!("{instance:?}\n{:?}\n", store.fanout(id).await.unwrap());
        text += &format!("{:?}\n", store.tasks_waiting(id, TaskId(1), 2, 1).await.unwrap());
        text += &format!("{:?}\n", store.task_results(id, TaskId::ROOT, 2, 100).await.unwrap());
        for states in [vec![], vec![TaskState::Waiting], vec![TaskState::Stopped, TaskState::Failed]] {
            let filter = TaskFilter { instance: id, states, name_contains: None, from: TaskId::ROOT, limit: 4 };
            let page = store.tasks(filter).await.unwrap();
            text += &format!("{page:?}\n");
            for task in page.items {
                text += &format!("{:?}\n", store.task(id, task.id).await.unwrap());
            }
        }
        for task in (0..4).map(TaskId) {
            text += &format!("{:?}\n", store.past_attempts(id, task).await.unwrap());
        }
    }
    text
}

/// Rows that histories begin with.
fn beginning() -> Vec<Change> {
    vec![
        Change::AppInserted(app(0, 1)),
        Change::AppInserted(app(1, 1)),
        Change::JobInserted(job(0, 1, 0, 0)),
        Change::JobInserted(job(1, 1, 1, 0)),
        Change::InstanceInserted { instance: Box::new(instance(0, 1, 0, 0)), prune_at: None },
        Change::InstanceInserted { instance: Box::new(instance(1, 1, 0, 0)), prune_at: None },
        Change::FanoutInserted(fanout(0, 1, 0, 0)),
        Change::FanoutInserted(fanout(1, 1, 0, 0)),
        Change::TasksInserted((0..4).map(|part| task(1, part, 1, 0, 0)).collect()),
        // One that others can repeat.
        Change::InstanceInserted { instance: Box::new(instance(3, 1, 0, 0)), prune_at: None },
        Change::FanoutInserted(fanout(3, 1, 0, 0)),
        Change::TasksInserted((0..4).map(|part| task(3, part, 1, 0, 0)).collect()),
        Change::TaskUpdated(Box::new(task(3, 2, 2, 3, 0))),
        Change::TaskUpdated(Box::new(task(3, 3, 2, 4, 0))),
        Change::InstanceEnded { instance: Box::new(instance(3, 2, 4, 0)), prune_at: Timestamp::MAX },
    ]
}

async fn commit(store: &dyn Store, changes: &[Change]) -> &'static str {
    // Every one is claimed once.
    let batch = Batch { partition: HOME, epoch: Epoch(1), number: 0, changes: changes.to_vec() };
    outcome(store.commit(batch).await)
}

async fn begin(stores: &[&dyn Store]) {
    for store in stores {
        assert_eq!(store.partition_claim(HOME, "test", START).await.unwrap(), Epoch(1));
        assert_eq!(commit(*store, &beginning()).await, "done");
    }
}

async fn compare(batches: Vec<(bool, Vec<Step>)>) {
    let directory = tempfile::tempdir().unwrap();
    let options = Options { partitions: 8, synchronous: Synchronous::Normal, readers: 1, ..Options::default() };
    let sqlite = SqliteStore::open(directory.path(), options).unwrap();
    let memory = MemoryStore::new(8);
    begin(&[&sqlite, &memory]).await;
    for (prunes, steps) in batches {
        let changes: Vec<_> = steps.into_iter().map(|step| change(&memory, step)).collect();
        let theirs = commit(&memory, &changes).await;
        assert_eq!(commit(&sqlite, &changes).await, theirs, "{changes:?}");
        if prunes {
            let now = START.plus(Duration::from_secs(3));
            assert_eq!(sqlite.prune(now, 2).await.unwrap(), memory.prune(now, 2).await.unwrap());
        }
        assert_eq!(dump(&sqlite).await, dump(&memory).await, "after {changes:?}");
    }
}

/// Long batches of changes that fit together, with many steps of the same rows, and the same with one that does not fit.
async fn compare_long(postgres: &dyn Store, batches: Vec<(bool, Vec<Step>)>) {
    let memory = MemoryStore::new(8);
    // Takes change by change, to see whether it fits behind the others of its batch.
    let ahead = MemoryStore::new(8);
    begin(&[postgres, &memory, &ahead]).await;
    for (prunes, steps) in batches {
        let mut changes = Vec::new();
        let mut misfit = None;
        for step in steps {
            let change = change(&ahead, step);
            match commit(&ahead, std::slice::from_ref(&change)).await {
                "done" => changes.push(change),
                _ => misfit = Some((changes.len(), change)),
            }
        }
        if let Some((at, misfit)) = misfit {
            let mut with = changes.clone();
            with.insert(at, misfit);
            assert_eq!(commit(&memory, &with).await, "conflict", "{with:?}");
            assert_eq!(commit(postgres, &with).await, "conflict", "{with:?}");
        }
        assert_eq!(commit(&memory, &changes).await, "done", "{changes:?}");
        assert_eq!(commit(postgres, &changes).await, "done", "{changes:?}");
        if prunes {
            let now = START.plus(Duration::from_secs(3));
            let gone = memory.prune(now, 2).await.unwrap();
            assert_eq!(ahead.prune(now, 2).await.unwrap(), gone);
            assert_eq!(postgres.prune(now, 2).await.unwrap(), gone);
        }
        assert_eq!(dump(postgres).await, dump(&memory).await, "after {changes:?}");
    }
}

/// Fills a new store with what so many random steps leave, each accepted or not. The same for each store.
pub async fn fill(store: &dyn Store, steps: u64) {
    let memory = MemoryStore::new(8);
    begin(&[store, &memory]).await;
    let mut state = 1_u64;
    // Splitmix.
    let mut next = |below: u64| {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % below) as u8
    };
    for _ in 0..steps {
        let change = change(&memory, (next(27), next(20), next(4), next(4), next(4)));
        let theirs = commit(&memory, std::slice::from_ref(&change)).await;
        assert_eq!(commit(store, &[change]).await, theirs);
    }
}

/// Panics at warnings: a batch that is accepted only change by change was put together wrongly.
struct NoWarnings;

impl tracing::Subscriber for NoWarnings {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() <= tracing::Level::WARN && metadata.target().ends_with("postgres::commit")
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        panic!("{event:?}");
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

fn run(future: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tracing::subscriber::with_default(NoWarnings, || runtime.block_on(future));
}

/// Histories of up to so many batches of up to so many steps of that many rows of a kind.
fn histories(batches: usize, steps: usize, numbers: u8) -> impl Strategy<Value = Vec<(bool, Vec<Step>)>> {
    let step = (0..27_u8, 0..numbers, 0..4_u8, 0..4_u8, 0..4_u8);
    prop::collection::vec((prop::bool::weighted(0.1), prop::collection::vec(step, 1..steps)), 1..batches)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn sqlite_and_memory_agree(batches in histories(60, 3, 6)) {
        run(compare(batches));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn postgres_and_memory_agree(batches in histories(12, 120, 20)) {
        run(async {
            let options = postgres::Options { partitions: 8, ..postgres::Options::default() };
            let store = PostgresStore::open(&Postgres::shared().database(), options).await.unwrap();
            compare_long(&store, batches).await;
        });
    }
}
