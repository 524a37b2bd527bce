//! How fast this machine keeps instances: `cargo run --release -p pendula-store --example store_bench`.
//!
//! Arguments: a directory to work in (on the disk that matters; default the current one), or `--postgres` and the URL of an
//! empty database; and `quick` for the largest batches only, or `tasks` (and how many, default 1000000) for the tasks of one
//! instance.
//!
//! Each instance is inserted as dispatched and ended in a later batch: two durable writes, with all indexes. The first
//! part is one caller with batches of a size, the second many callers with small batches, which share commits. The tasks
//! are one caller with batches of 1,000: all are inserted, then each is placed and ended, as many of one as of the other in
//! each batch; after that comes what is read of them, and their deletion. On PostgreSQL several partitions commit at the same
//! time, as those of several servers do, and the processor time is that of the database.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use pendula_model::app::App;
use pendula_model::change::Change;
use pendula_model::id::IdSequence;
use pendula_model::instance::{Instance, InstanceState, Origin, Payload, Reason, TaskState};
use pendula_model::job::{Job, JobSpec, ScheduleState};
use pendula_model::processor::{Processor, Script};
use pendula_model::task::{Fanout, Phase, Task, TaskRole};
use pendula_model::worker::{BootId, WorkerRef};
use pendula_model::{AppId, Epoch, InstanceId, JobId, PartitionId, Revision, TaskId, Timestamp};
use pendula_store::sqlite::{CommitObserved, Options};
use pendula_store::{Batch, PostgresStore, SqliteStore, Store, TaskFilter, postgres};

const START: Timestamp = Timestamp::from_millis(1_767_225_600_000);

/// A partition with one job.
struct Source {
    partition: PartitionId,
    epoch: Epoch,
    ids: IdSequence,
    jobs: Vec<Job>,
    fired: u64,
}

impl Source {
    async fn new(store: &dyn Store, partition: u16) -> Source {
        let partition = PartitionId(partition);
        let epoch = store.partition_claim(partition, "bench", START).await.expect("claim");
        let last_id = store.partition_load(partition).await.expect("load").last_id;
        let mut ids = IdSequence::new(partition, last_id);
        let app = App {
            id: AppId(ids.next(START)),
            name: format!("app {}", ids.next(START)),
            namespace: "default".to_owned(),
            partition,
            allow_scripts: true,
            created_at: START,
            version: 1,
        };
        let jobs: Vec<_> = (0..20)
            .map(|number| Job {
                id: JobId(ids.next(START)),
                app: app.id,
                spec: Arc::new(JobSpec::new(format!("job {number}"), Processor::Shell(Script::new("true")))),
                revision: Revision(1),
                version: 1,
                schedule: ScheduleState::default(),
                created_at: START,
                updated_at: START,
                deleted_at: None,
            })
            .collect();
        let mut changes = vec![Change::AppInserted(app)];
        changes.extend(jobs.iter().cloned().map(Change::JobInserted));
        store.commit(Batch { partition, epoch, number: 0, changes }).await.expect("commit");
        Source { partition, epoch, ids, jobs, fired: 0 }
    }

    fn fire(&mut self) -> Instance {
        self.fired += 1;
        let job = &self.jobs[self.fired as usize % self.jobs.len()];
        let at = START.plus(Duration::from_micros(self.fired));
        Instance {
            id: InstanceId(self.ids.next(at)),
            app: job.app,
            job: job.id,
            revision: job.revision,
            origin: Origin::Trigger,
            fire_time: Some(at),
            missed_before: 0,
            rerun_of: None,
            idempotency_key: None,
            params: None,
            priority: 0,
            created_at: at,
            due_at: at,
            expires_at: None,
            state: InstanceState::Dispatched,
            version: 1,
            attempt: 1,
            failures: 0,
            losses: 0,
            worker: Some(WorkerRef { name: "worker-1".into(), boot: BootId(u64::MAX / 3) }),
            placement: Some(r#"{"strategy":"least_loaded","eligible":3}"#.into()),
            dispatched_at: Some(at),
            started_at: None,
            ended_at: None,
            stop_cause: None,
            stop_deadline: None,
            reason: None,
            message: None,
            result: None,
        }
    }

    fn batch(&self, changes: Vec<Change>) -> Batch {
        Batch { partition: self.partition, epoch: self.epoch, number: 0, changes }
    }
}

fn inserts(instances: &[Instance]) -> Vec<Change> {
    let insert =
        |instance: &Instance| Change::InstanceInserted { instance: Box::new(instance.clone()), prune_at: None };
    instances.iter().map(insert).collect()
}

fn ends(instances: Vec<Instance>, state: InstanceState) -> Vec<Change> {
    let end = |mut instance: Instance| {
        let at = instance.created_at.plus(Duration::from_millis(3));
        instance.state = state;
        instance.version += 1;
        instance.started_at = Some(at);
        instance.ended_at = Some(at);
        instance.reason = (state == InstanceState::Failed).then_some(Reason::EXIT_CODE);
        Change::InstanceEnded { instance: Box::new(instance), prune_at: at.plus(Duration::from_secs(2_592_000)) }
    };
    instances.into_iter().map(end).collect()
}

fn percentile(sorted: &[Duration], of_hundred: usize) -> Duration {
    sorted[(sorted.len() * of_hundred / 100).min(sorted.len() - 1)]
}

/// Processor time that the writing thread has used, or the database's processes on this machine.
fn writer_time() -> Duration {
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|process| {
        let name = std::fs::read_to_string(process.path().join("comm")).ok()?;
        let times = std::fs::read_to_string(process.path().join("schedstat")).ok()?;
        (name.trim() == "postgres").then(|| times.split(' ').next()?.parse::<u64>().ok())?
    });
    thread_time() + Duration::from_nanos(processes.sum())
}

fn thread_time() -> Duration {
    let nanos = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten().filter_map(|thread| {
        let name = std::fs::read_to_string(thread.path().join("comm")).ok()?;
        let times = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
        (name.trim() == "store-writer").then(|| times.split(' ').next()?.parse::<u64>().ok())?
    });
    Duration::from_nanos(nanos.sum())
}

/// One caller: batches of `size`, the ends of one together with the inserts of the next, until `total` are over.
async fn one_caller(store: &dyn Store, size: usize, total: usize, state: InstanceState) {
    let mut source = Source::new(store, 0).await;
    let mut times = Vec::new();
    let mut last: Vec<Instance> = Vec::new();
    let begun = Instant::now();
    let used = writer_time();
    let mut busy = Duration::ZERO;
    for _ in 0..total / size {
        let next: Vec<_> = (0..size).map(|_| source.fire()).collect();
        let mut changes = ends(std::mem::replace(&mut last, next), state);
        changes.extend(inserts(&last));
        let batch = source.batch(changes);
        let committing = Instant::now();
        store.commit(batch).await.expect("commit");
        times.push(committing.elapsed());
        busy += committing.elapsed();
    }
    times.sort();
    println!(
        "{size:>5} per batch, {state:<9}  {:>8.0}/s with making them, {:>8.0}/s in the store, {:.1} us CPU each   \
         commit p50 {:.2?} p99 {:.2?} max {:.2?}",
        total as f64 / begun.elapsed().as_secs_f64(),
        total as f64 / busy.as_secs_f64(),
        (writer_time() - used).as_secs_f64() * 1e6 / total as f64,
        percentile(&times, 50),
        percentile(&times, 99),
        times[times.len() - 1],
    );
}

/// Many callers, each with batches of `size`.
async fn many_callers(store: Arc<SqliteStore>, observed: &Mutex<Vec<CommitObserved>>, callers: u16, size: usize) {
    let rounds = 2_000 / size;
    let mut sources = Vec::new();
    for partition in 0..callers {
        sources.push(Source::new(&*store, partition).await);
    }
    observed.lock().expect("no panic").clear();
    let begun = Instant::now();
    let used = writer_time();
    let mut tasks = Vec::new();
    for mut source in sources {
        let store = store.clone();
        tasks.push(tokio::spawn(async move {
            let mut times = Vec::new();
            for _ in 0..rounds {
                let fired: Vec<_> = (0..size).map(|_| source.fire()).collect();
                for changes in [inserts(&fired), ends(fired, InstanceState::Succeeded)] {
                    let committing = Instant::now();
                    store.commit(source.batch(changes)).await.expect("commit");
                    times.push(committing.elapsed());
                }
            }
            times
        }));
    }
    let mut times = Vec::new();
    for task in tasks {
        times.extend(task.await.expect("no panic"));
    }
    times.sort();
    let total = (rounds * size * usize::from(callers)) as f64;
    let rate = total / begun.elapsed().as_secs_f64();
    let cpu = (writer_time() - used).as_secs_f64() * 1e6 / total;
    let observed = observed.lock().expect("no panic");
    let changes: usize = observed.iter().map(|commit| commit.changes).sum();
    println!(
        "{callers:>5} callers, {size} per batch  {rate:>8.0}/s, {cpu:.1} us CPU each   answer p50 {:.2?} p99 {:.2?} max {:.2?}, {:.0} changes per commit",
        percentile(&times, 50),
        percentile(&times, 99),
        times[times.len() - 1],
        changes as f64 / observed.len() as f64,
    );
}

/// Rows of tasks in one batch.
const TASK_BATCH: usize = 1_000;

fn new_task(instance: InstanceId, number: u64) -> Task {
    let input = Payload::json(format!("{{\"from\":{number},\"to\":{}}}", number + 1));
    Task {
        parent: Some(TaskId::ROOT),
        input: Some(Arc::new(input)),
        ..Task::new(instance, TaskId(number), TaskRole::Sub, format!("part-{number}").into(), START)
    }
}

fn placed(task: Task) -> Task {
    let worker = Some(WorkerRef { name: format!("worker-{}", task.id.0 % 2).into(), boot: BootId(u64::MAX / 3) });
    let at = START.plus(Duration::from_micros(task.id.0));
    Task { state: TaskState::Dispatched, version: 2, attempt: 1, worker, dispatched_at: Some(at), ..task }
}

/// One of a hundred fails.
fn over(task: Task) -> Task {
    let at = task.dispatched_at.map(|at| at.plus(Duration::from_millis(3)));
    let is_bad = task.id.0.is_multiple_of(100);
    Task {
        state: if is_bad { TaskState::Failed } else { TaskState::Succeeded },
        version: 3,
        reason: is_bad.then_some(Reason::EXIT_CODE),
        result: Some(Arc::new(Payload::json(format!("{{\"count\":{}}}", task.id)))),
        started_at: at,
        ended_at: at,
        ..task
    }
}

/// How long commits of a kind took together.
struct Pace {
    begun: Instant,
    used: Duration,
    busy: Duration,
    rows: usize,
}

impl Pace {
    fn new() -> Pace {
        Pace { begun: Instant::now(), used: writer_time(), busy: Duration::ZERO, rows: 0 }
    }

    async fn commit(&mut self, store: &dyn Store, source: &Source, mut changes: Vec<Change>, fanout: &mut Fanout) {
        fanout.version += 1;
        changes.push(Change::FanoutUpdated(fanout.clone()));
        let committing = Instant::now();
        store.commit(source.batch(changes)).await.expect("commit");
        self.busy += committing.elapsed();
    }

    fn tell(&self, what: &str) {
        println!(
            "{what:<30} {:>8.0}/s with making them, {:>8.0}/s in the store, {:.1} us CPU each",
            self.rows as f64 / self.begun.elapsed().as_secs_f64(),
            self.rows as f64 / self.busy.as_secs_f64(),
            (writer_time() - self.used).as_secs_f64() * 1e6 / self.rows as f64,
        );
    }
}

/// The tasks of one instance, from their insertion to their deletion.
async fn tasks_of_one(store: &dyn Store, total: usize) {
    let mut source = Source::new(store, 0).await;
    let instance = Instance { state: InstanceState::Running, worker: None, ..source.fire() };
    let mut fanout = Fanout::new(instance.id, Phase::Main);
    let begin = [inserts(std::slice::from_ref(&instance)), vec![Change::FanoutInserted(fanout.clone())]].concat();
    store.commit(source.batch(begin)).await.expect("commit");

    let mut pace = Pace::new();
    for first in (0..total as u64).step_by(TASK_BATCH) {
        let tasks: Vec<_> = (first..first + TASK_BATCH as u64).map(|number| new_task(instance.id, number)).collect();
        (fanout.counts.total, fanout.counts.waiting) =
            (fanout.counts.total + tasks.len() as u64, fanout.counts.waiting + tasks.len() as u64);
        fanout.next_task = TaskId(first + TASK_BATCH as u64);
        pace.rows += tasks.len();
        pace.commit(store, &source, vec![Change::TasksInserted(tasks)], &mut fanout).await;
    }
    pace.tell("tasks inserted");
    println!("{:>30} MB on disk", (store.status().await.expect("status").bytes as f64 / 1e6).round());

    let mut pace = Pace::new();
    let (mut running, mut next) = (Vec::new(), TaskId::ROOT);
    loop {
        let read = Instant::now();
        let fresh = store.tasks_waiting(instance.id, next, TASK_BATCH / 2, usize::MAX).await.expect("tasks");
        pace.begun += read.elapsed();
        let ended: Vec<_> = std::mem::take(&mut running).into_iter().map(over).collect();
        if fresh.is_empty() && ended.is_empty() {
            break;
        }
        next = fresh.last().map_or(next, |task| task.id.next());
        running = fresh.into_iter().map(placed).collect();
        let counts = &mut fanout.counts;
        for task in &ended {
            *counts.of(task.state) += 1;
        }
        (counts.waiting, counts.running) = (counts.waiting - running.len() as u64, running.len() as u64);
        fanout.next_waiting = next;
        pace.rows += running.len() + ended.len();
        let changes = running.iter().cloned().chain(ended).map(|task| Change::TaskUpdated(Box::new(task))).collect();
        pace.commit(store, &source, changes, &mut fanout).await;
    }
    pace.tell("tasks placed or ended");

    let reading = Instant::now();
    let (mut from, mut results) = (TaskId::ROOT, 0);
    while let page = store.task_results(instance.id, from, 1_000, 1 << 20).await.expect("results")
        && let Some(last) = page.last()
    {
        from = last.id.next();
        results += page.len();
    }
    println!("{results} results read at {:.0}/s", results as f64 / reading.elapsed().as_secs_f64());
    let filter = TaskFilter {
        instance: instance.id,
        states: vec![TaskState::Failed],
        name_contains: None,
        from: TaskId(total as u64 / 2),
        limit: 100,
    };
    let by_name = TaskFilter { states: Vec::new(), name_contains: Some("no such".to_owned()), ..filter.clone() };
    for (what, filter) in [("100 failed ones", filter), ("a name that half of them lack", by_name)] {
        let listing = Instant::now();
        let found = store.tasks(filter).await.expect("tasks").items.len();
        println!("{what}: {found} listed in {:.2?}", listing.elapsed());
    }
    let loading = Instant::now();
    let snapshot = store.partition_load(source.partition).await.expect("load");
    println!("partition loaded with {} tasks in {:.2?}", snapshot.tasks.len(), loading.elapsed());

    let ending = Instant::now();
    store.commit(source.batch(ends(vec![instance.clone()], InstanceState::Failed))).await.expect("commit");
    println!("instance ended in {:.2?}", ending.elapsed());
    let again = Instance { state: InstanceState::Running, worker: None, ..source.fire() };
    let count = fanout.counts.total - fanout.counts.succeeded;
    let copy = Change::TasksCopied { from: instance.id, to: again.id, at: START, count };
    let fanout = Fanout { next_task: fanout.next_task, ..Fanout::new(again.id, Phase::Main) };
    let begin = [inserts(&[again]), vec![Change::FanoutInserted(fanout), copy]].concat();
    let copying = Instant::now();
    store.commit(source.batch(begin)).await.expect("commit");
    println!("{count} unsuccessful ones copied in {:.2?}", copying.elapsed());
}

/// So many partitions at once, each with batches like those of one caller, until `total` instances are over.
async fn partitions_at_once(store: &Arc<PostgresStore>, partitions: u16, size: usize, total: usize) {
    let rounds = total / size / usize::from(partitions);
    let mut sources = Vec::new();
    for partition in 0..partitions {
        sources.push(Source::new(&**store, partition).await);
    }
    let (begun, used) = (Instant::now(), writer_time());
    let mut tasks = Vec::new();
    for mut source in sources {
        let store = store.clone();
        tasks.push(tokio::spawn(async move {
            let mut times = Vec::new();
            let mut last: Vec<Instance> = Vec::new();
            for round in 0..=rounds {
                let fresh = if round < rounds { size } else { 0 };
                let next: Vec<_> = (0..fresh).map(|_| source.fire()).collect();
                let mut changes = ends(std::mem::replace(&mut last, next), InstanceState::Succeeded);
                changes.extend(inserts(&last));
                let batch = source.batch(changes);
                let committing = Instant::now();
                store.commit(batch).await.expect("commit");
                times.push(committing.elapsed());
            }
            times
        }));
    }
    let mut times = Vec::new();
    for task in tasks {
        times.extend(task.await.expect("no panic"));
    }
    times.sort();
    let total = (rounds * size * usize::from(partitions)) as f64;
    let rate = total / begun.elapsed().as_secs_f64();
    println!(
        "{partitions:>3} partitions, {size:>5} of each per batch  {rate:>8.0} instances/s, {:>8.0} writes/s, {:.1} us CPU per \
         instance   commit p50 {:.2?} p99 {:.2?} max {:.2?}",
        2.0 * rate,
        (writer_time() - used).as_secs_f64() * 1e6 / total,
        percentile(&times, 50),
        percentile(&times, 99),
        times[times.len() - 1],
    );
}

async fn on_postgres(url: &str, what: Option<&str>, total: Option<usize>) {
    let store = PostgresStore::open(url, postgres::Options::default()).await.expect("open");
    let store = Arc::new(store);
    match what {
        Some("quick") => return partitions_at_once(&store, 1, 1000, 300_000).await,
        Some("tasks") => {
            tasks_of_one(&*store, total.unwrap_or(1_000_000)).await;
            return prune_all(&*store).await;
        }
        _ => {}
    }
    for partitions in [1, 4] {
        for (size, total) in [(1, 4_000), (10, 40_000), (100, 200_000), (1000, 400_000), (4000, 400_000)] {
            partitions_at_once(&store, partitions, size, total).await;
        }
    }
    prune_all(&*store).await;
}

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [flag, url, rest @ ..] = &arguments[..]
        && flag == "--postgres"
    {
        let total = rest.get(1).map(|total| total.parse().expect("a number of tasks"));
        return on_postgres(url, rest.first().map(String::as_str), total).await;
    }
    let directory =
        tempfile::tempdir_in(std::env::args().nth(1).unwrap_or_else(|| ".".to_owned())).expect("a directory");
    let observed = Arc::new(Mutex::new(Vec::new()));
    let seen = observed.clone();
    let observer: pendula_store::sqlite::CommitObserver =
        Arc::new(move |commit| seen.lock().expect("no panic").push(commit));
    let options = Options { observer: Some(observer), ..Options::default() };
    let store = Arc::new(SqliteStore::open(directory.path(), options).expect("open"));
    match std::env::args().nth(2).as_deref() {
        Some("quick") => return one_caller(&*store, 1000, 400_000, InstanceState::Succeeded).await,
        Some("tasks") => {
            let total = std::env::args().nth(3).map_or(1_000_000, |total| total.parse().expect("a number of tasks"));
            tasks_of_one(&*store, total).await;
            return prune_all(&*store).await;
        }
        _ => {}
    }
    for (size, total) in [(1, 3_000), (10, 20_000), (100, 100_000), (1000, 400_000)] {
        one_caller(&*store, size, total, InstanceState::Succeeded).await;
    }
    one_caller(&*store, 1000, 200_000, InstanceState::Failed).await;
    for (callers, size) in [(1, 1), (16, 1), (64, 1), (64, 20)] {
        many_callers(store.clone(), &observed, callers, size).await;
    }
    prune_all(&*store).await;
}

async fn prune_all(store: &dyn Store) {
    let begun = Instant::now();
    let mut pruned = 0;
    while let gone = store.prune(Timestamp::MAX, 1000).await.expect("prune")
        && !gone.is_empty()
    {
        pruned += gone.len();
    }
    println!("pruned {pruned} in {:.2?}, at {:.0}/s", begun.elapsed(), pruned as f64 / begun.elapsed().as_secs_f64());
    println!("{:.0} MB on disk", store.status().await.expect("status").bytes as f64 / 1e6);
}
