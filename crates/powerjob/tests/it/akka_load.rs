//! Many workers over Akka, and for long. Workers and server are one process here: what it uses is used by both.

use std::collections::HashMap;
use std::env;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pendula_akka::kryo::{Class, Dialect};
use pendula_model::instance::InstanceState;
use pendula_model::powerjob::PowerJobExecuteType::Standalone;
use pendula_powerjob::Timing;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::fake_akka::{AkkaWorker, shown};
use crate::world::{World, job};

/// As real ones do.
const HEARTBEATS: Duration = Duration::from_secs(10);

/// What is done to the server.
struct Load {
    workers: usize,
    /// Dispatches per second, over all.
    rate: u32,
    length: Duration,
}

/// What was seen. Memory is that of the process, in bytes, after a third of the time and at its end.
struct Seen {
    at_a_third: u64,
    at_the_end: u64,
}

/// How often each instance was ordered to run.
type Orders = Arc<Mutex<HashMap<i64, u32>>>;

async fn workers(world: &World, count: usize) -> Vec<AkkaWorker> {
    let mut workers = Vec::new();
    for number in 0..count {
        let dialect = if number % 2 == 0 { Dialect::Plain } else { Dialect::Named };
        let mut worker = AkkaWorker::start(world, dialect).await;
        worker.beat_every(HEARTBEATS, None);
        workers.push(worker);
    }
    world.sessions_are(count).await;
    workers
}

/// Runs what it is told to, and tells so.
async fn work(worker: Arc<AkkaWorker>, orders: Orders) {
    let mut running = JoinSet::new();
    loop {
        tokio::select! {
            message = worker.next() => {
                // Reports overtake each other: a worker that seems to go on with what ended is told to stop it.
                if message.class() != Class::ServerScheduleJobReq {
                    continue;
                }
                let instance = message.get("instanceId").as_long().expect("about an instance");
                *orders.lock().expect("no panic").entry(instance).or_default() += 1;
                let worker = worker.clone();
                running.spawn(async move {
                    worker.report(instance, 3, "").await;
                    worker.report(instance, 5, "done").await;
                });
            }
            Some(ended) = running.join_next() => ended.expect("what it reports is taken"),
        }
    }
}

async fn run(load: Load) -> Seen {
    let Load { workers: count, rate, length } = load;
    let world = Arc::new(world().await);
    let total = length.as_secs() as usize * rate as usize;
    let orders: Orders = Arc::new(Mutex::new(HashMap::with_capacity(2 * total)));
    let mut serving = JoinSet::new();
    for worker in workers(&world, count).await {
        serving.spawn(work(Arc::new(worker), orders.clone()));
    }
    world.apply(job("a", Standalone)).await;

    let began = Instant::now();
    let mut ticks = interval(Duration::from_secs(1) / rate);
    // A moment in which the machine does something else is made up for.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let (mut ids, mut starting) = (Vec::with_capacity(total), JoinSet::new());
    let (mut at_a_third, mut late) = (None, Duration::ZERO);
    for _ in 0..total {
        late = late.max(ticks.tick().await.elapsed());
        let world = world.clone();
        starting.spawn(async move { world.run("a").await });
        while let Some(started) = starting.try_join_next() {
            ids.push(started.expect("it is started"));
        }
        if at_a_third.is_none() && began.elapsed() >= length / 3 {
            at_a_third = Some(resident());
        }
    }
    while let Some(started) = starting.join_next().await {
        ids.push(started.expect("it is started"));
    }
    let (took, at_the_end) = (began.elapsed(), resident());

    let mut waited = Vec::with_capacity(total);
    for id in &ids {
        let row = world.ended(*id).await;
        assert_eq!((row.state, row.attempt), (InstanceState::Succeeded, 1), "{id}");
        let (from, to) = (row.dispatched_at.expect("it ran"), row.ended_at.expect("it ended"));
        waited.push((to.as_micros() - from.as_micros()) as f64 / 1000.0);
    }
    waited.sort_unstable_by(f64::total_cmp);
    let percentile = |of: usize| waited[(waited.len() - 1) * of / 100];
    let (associations, connections) = (shown(&world, "associations"), shown(&world, "connections"));
    let (held, at_a_third) = (shown(&world, "held_bytes"), at_a_third.unwrap_or(at_the_end));
    println!(
        "{count} workers over Akka, both dialects, in one process with the server:\n\
         {} instances in {:.1} s, {:.1} each second; from the order to the end {:.1} ms (p50), {:.1} ms (p99)\n\
         by up to {:.1} ms the runs were asked for too late, because this machine was busy\n\
         memory {} KiB after a third of the time, {} KiB at the end\n\
         {associations} associations, {connections} connections, {held} bytes held",
        ids.len(),
        took.as_secs_f64(),
        ids.len() as f64 / took.as_secs_f64(),
        percentile(50),
        percentile(99),
        late.as_secs_f64() * 1000.0,
        at_a_third >> 10,
        at_the_end >> 10,
    );
    let orders = orders.lock().expect("no panic");
    assert_eq!((ids.len(), orders.len()), (total, total));
    let twice: Vec<_> = orders.iter().filter(|(_, times)| **times != 1).collect();
    assert!(twice.is_empty(), "ordered more than once: {twice:?}");
    // These write over one connection each; real ones over two.
    assert_eq!((associations, connections, held), (count as u64, count as u64, 0));
    assert!(serving.try_join_next().is_none(), "all workers live");
    Seen { at_a_third, at_the_end }
}

async fn world() -> World {
    // A cache of the database's that fills up would look as if something were kept for ever.
    let set = ["powerjob.allow=demo=127.0.0.0/8", "powerjob.akka.listen=127.0.0.1:0", "database_cache=1MiB"];
    World::with(&set, Timing::default()).await
}

/// A worker here has five descriptors.
fn may_open_many_files() {
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).expect("a process may raise its own soft limit");
}

/// Bytes of this process in memory.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/statm").expect("Linux says it");
    let pages: u64 = status.split(' ').nth(1).and_then(|pages| pages.parse().ok()).expect("a number");
    pages * rustix::param::page_size() as u64
}

fn is_flat(Seen { at_a_third, at_the_end }: &Seen) {
    let most = at_a_third + at_a_third / 10 + (8 << 20);
    assert!(*at_the_end <= most, "memory grew from {at_a_third} to {at_the_end} bytes");
}

fn seconds(variable: &str, default: u64) -> Duration {
    Duration::from_secs(env::var(variable).map_or(default, |text| text.parse().expect("seconds")))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s5_2_ten_workers_over_akka_at_fifty_dispatches_each_second() {
    // Other tests use the memory of this process too.
    run(Load { workers: 10, rate: 50, length: Duration::from_secs(5) }).await;
}

/// `make soak`, or `cargo test --release -p pendula-powerjob --test it -- --ignored --nocapture two_hundred_workers`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes AKKA_SECONDS, 60 if not said otherwise, and the process for itself"]
async fn s5_2_two_hundred_workers_over_akka_at_a_hundred_dispatches_each_second() {
    may_open_many_files();
    let seen = run(Load { workers: 200, rate: 100, length: seconds("AKKA_SECONDS", 60) }).await;
    is_flat(&seen);
}

/// `make soak`, or `cargo test --release -p pendula-powerjob --test it -- --ignored --nocapture idle_workers`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes AKKA_IDLE_SECONDS, 300 if not said otherwise, and the process for itself"]
async fn o_14_idle_workers_over_akka_cost_nothing_more_as_time_passes() {
    let (world, length) = (world().await, seconds("AKKA_IDLE_SECONDS", 300));
    let workers = workers(&world, 20).await;
    let counts = || ["associations", "connections", "held_bytes"].map(|name| shown(&world, name));
    let before = (counts(), shown(&world, "dialled_total"));
    // Time is what this is about.
    tokio::time::sleep(length / 3).await;
    let at_a_third = resident();
    tokio::time::sleep(length - length / 3).await;
    let (at_the_end, heard) = (resident(), shown(&world, "frames_received_total"));
    println!(
        "20 idle workers over Akka for {} s, in one process with the server: {heard} frames received,\n\
         memory {} KiB after a third of the time, {} KiB at the end; associations, connections, bytes held: {:?}",
        length.as_secs(),
        at_a_third >> 10,
        at_the_end >> 10,
        counts(),
    );
    assert_eq!(before, (counts(), shown(&world, "dialled_total")), "nobody was dialled anew");
    assert_eq!(counts(), [20, 20, 0]);
    assert_eq!(world.server().state().partitions.status().gauges.sessions, workers.len());
    assert!(heard >= 20 * (length.as_secs() / HEARTBEATS.as_secs()), "heartbeats came");
    is_flat(&Seen { at_a_third, at_the_end });
}
