//! A cluster under load while everything that can break breaks. `CHAOS_SECONDS` says for how long (default: each event
//! once; `make soak`: 300), `CHAOS_RATE` how many runs are asked for per second, `CHAOS_SEED` which history.

mod prober;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use pendula_client::{Client, InstanceFilter, RunKey};
use pendula_e2e::process::eventually;
use pendula_e2e::{Noter, Ring, all_instances, notes};
use pendula_model::api::{InstanceView, RunJob};
use pendula_model::instance::InstanceState;
use pendula_model::job::JobSpec;
use pendula_model::mode::{Broadcast, ExecutionMode, Map};
use pendula_model::policy::Delivery;
use pendula_model::processor::{Handler, Processor};
use pendula_model::trigger::{Misfire, Trigger};
use pendula_model::{InstanceId, Timestamp};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rustix::process::Signal;

use self::prober::{Done, Prober};

const APPS: [&str; 4] = ["north", "east", "south", "west"];
/// Who ask for runs, per app.
const SUBMITTERS: usize = 4;
/// By which we see for how long nothing fired.
const BEAT: Duration = Duration::from_millis(100);
/// Everything is to be well again by then, on a machine that does other things too.
const WELL_WITHIN: Duration = Duration::from_secs(60);

fn from_environment<T: std::str::FromStr>(name: &str, default: T) -> T {
    std::env::var(name).ok().map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

/// What breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// SIGKILL of the server that owns most; it is started again at the end.
    KillBusiest,
    /// SIGSTOP of it for longer than its lease, then SIGCONT.
    FreezeBusiest,
    /// SIGTERM, and a start when it is gone.
    RestartGracefully,
    KillWorker,
    RestartAll,
    CrashDatabase,
    /// Nobody reaches the database for ten seconds.
    DatabaseAway,
    /// The database does what it is told, and its answers are lost.
    AnswersLost,
}

const EVENTS: [Event; 8] = [
    Event::KillBusiest,
    Event::FreezeBusiest,
    Event::RestartGracefully,
    Event::KillWorker,
    Event::RestartAll,
    Event::CrashDatabase,
    Event::DatabaseAway,
    Event::AnswersLost,
];

impl Event {
    async fn happen(self, ring: &mut Ring, workers: &mut [Noter], dice: &mut StdRng) {
        match self {
            Event::KillBusiest => {
                let place = ring.busiest().await;
                ring.servers[place].kill();
                tokio::time::sleep(Duration::from_secs(8)).await;
                ring.servers[place].launch();
            }
            Event::FreezeBusiest => {
                let place = ring.busiest().await;
                ring.servers[place].signal(Signal::STOP);
                tokio::time::sleep(Duration::from_secs(20)).await;
                ring.servers[place].signal(Signal::CONT);
            }
            Event::RestartGracefully => {
                let place = ring.busiest().await;
                ring.servers[place].stop().await;
                ring.servers[place].launch();
            }
            Event::KillWorker => {
                let worker = dice.random_range(0..workers.len());
                workers[worker].kill_and_restart();
            }
            Event::RestartAll => {
                for server in &mut ring.servers {
                    server.kill();
                }
                for server in &mut ring.servers {
                    server.launch();
                }
            }
            Event::CrashDatabase => ring.postgres.restart_immediately(),
            Event::DatabaseAway => {
                ring.network.unplug();
                tokio::time::sleep(Duration::from_secs(10)).await;
                ring.network.plug_in();
                ring.network.cut();
            }
            Event::AnswersLost => {
                ring.network.swallow(pendula_e2e::proxy::Way::ToWorker);
                eventually("an answer is lost", WELL_WITHIN, || async {
                    (ring.network.swallowed(pendula_e2e::proxy::Way::ToWorker) > 0).then_some(())
                })
                .await;
                ring.network.cut();
            }
        }
        for place in ring.running() {
            ring.servers[place].ready().await;
        }
        ring.settled().await;
    }
}

fn handler(job: &str, name: &str) -> JobSpec {
    JobSpec::new(job, Processor::Handler(Handler { name: name.to_owned(), config: None }))
}

fn fires(trigger: Trigger, job: JobSpec) -> JobSpec {
    let trigger = Trigger { misfire: Misfire::FireAll, misfire_limit: 10_000, ..trigger };
    JobSpec { trigger: Some(trigger), ..job }
}

/// The jobs of each app.
fn jobs() -> Vec<JobSpec> {
    let each_second = || Trigger { cron: Some("* * * * * ?".to_owned()), ..Trigger::default() };
    let beat = Trigger { fixed_rate: Some(BEAT), ..Trigger::default() };
    let each_five_seconds = || Trigger { fixed_rate: Some(Duration::from_secs(5)), ..Trigger::default() };
    vec![
        fires(each_second(), handler("tick", "note")),
        fires(each_second(), JobSpec { delivery: Delivery::AtMostOnce, ..handler("tick-once", "linger") }),
        fires(beat, handler("beat", "note")),
        fires(
            each_five_seconds(),
            JobSpec { mode: ExecutionMode::Broadcast(Broadcast::default()), ..handler("everywhere", "note") },
        ),
        fires(
            each_five_seconds(),
            JobSpec {
                mode: ExecutionMode::Map(Map::default()),
                params: serde_json::Map::from_iter([("tasks".to_owned(), 40.into())]),
                ..handler("spread", "spread")
            },
        ),
        handler("quick", "note"),
        handler("slow", "linger"),
        JobSpec { delivery: Delivery::AtMostOnce, ..handler("once", "note") },
    ]
}

/// What those who do everything else run: longer than it takes to follow and stop it.
fn probed() -> JobSpec {
    JobSpec {
        params: serde_json::Map::from_iter([("millis".to_owned(), 60_000.into())]),
        ..handler("probed", "linger")
    }
}

/// One that asks for runs through all servers in turn, and repeats each request until it is answered.
struct Submitter {
    clients: Vec<Client>,
    app: &'static str,
    name: String,
    /// From one request to the next, if they are answered by then.
    pace: Duration,
    stop: Arc<AtomicBool>,
    /// Answers that were neither an acknowledgement nor typed and retryable.
    untyped: Arc<AtomicUsize>,
}

impl Submitter {
    async fn run(self) -> Vec<(String, InstanceId)> {
        let mut acknowledged = Vec::new();
        let mut next = 0;
        for number in 0.. {
            if self.stop.load(Ordering::Relaxed) {
                break;
            }
            let job = ["quick", "once", "quick", "slow"][number % 4];
            let key = format!("{}-{number}", self.name);
            let next_at = tokio::time::Instant::now() + self.pace;
            let instance = loop {
                next += 1;
                let client = &self.clients[next % self.clients.len()];
                match client.job_run(self.app, job, &RunJob::default(), RunKey::Given(&key)).await {
                    Ok(result) => break result.instance.expect("an accepted run names its instance"),
                    Err(error) if error.is_retryable() => tokio::time::sleep(Duration::from_millis(20)).await,
                    Err(error) => {
                        println!("{}: {error}", self.name);
                        self.untyped.fetch_add(1, Ordering::Relaxed);
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                }
            };
            acknowledged.push((key, instance));
            tokio::time::sleep_until(next_at).await;
        }
        acknowledged
    }
}

async fn nothing_is_active(client: &Client) {
    let states =
        vec![InstanceState::Waiting, InstanceState::Dispatched, InstanceState::Running, InstanceState::Stopping];
    let active = InstanceFilter { states, limit: Some(1), ..InstanceFilter::default() };
    let none = || async { client.instance_list(&active).await.ok()?.items.is_empty().then_some(()) };
    eventually("everything has ended", Duration::from_secs(180), none).await;
}

/// Servers, workers, jobs and those who ask for runs.
struct Load {
    ring: Ring,
    workers: Vec<Noter>,
    stop: Arc<AtomicBool>,
    untyped: Arc<AtomicUsize>,
    submitters: Vec<tokio::task::JoinHandle<Vec<(String, InstanceId)>>>,
    probers: Vec<tokio::task::JoinHandle<Done>>,
    begun: Instant,
}

impl Load {
    /// `rate` runs per second in all, on servers that are there.
    async fn start(ring: Ring, rate: u32) -> Load {
        let mut workers = Vec::new();
        for app in APPS {
            let token = ring.app(app).await;
            for job in jobs().into_iter().chain([probed()]) {
                ring.client(1).job_create(app, &job).await.expect("the job is valid");
            }
            let program = Path::new(env!("CARGO_BIN_EXE_pendula-e2e-noter"));
            for name in ["w1", "w2"] {
                workers.push(Noter::start(program, &ring.urls(), app, &token, name, ring.directory()));
            }
        }
        let (stop, untyped) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let clients: Vec<Client> = (0..3).map(|place| ring.client(place)).collect();
        // What fires by itself is about twelve a second and app.
        let asked = rate.saturating_sub(48).max(4);
        let each = (APPS.len() * SUBMITTERS) as u32;
        let submitters = APPS.iter().flat_map(|app| (0..SUBMITTERS).map(move |number| (*app, number)));
        let submitters = submitters.map(|(app, number)| {
            let (clients, stop, untyped) = (clients.clone(), stop.clone(), untyped.clone());
            let (name, pace) = (format!("{app}-{number}"), Duration::from_secs(1) * each / asked);
            tokio::spawn(Submitter { clients, app, name, pace, stop, untyped }.run())
        });
        let submitters = submitters.collect();
        // Each server is asked about an app that it may own, and about one that it may not.
        let probers = clients.iter().enumerate().flat_map(|(place, client)| {
            [0, 1].map(|more| {
                let (client, app) = (client.clone(), APPS[place + more]);
                let (stop, untyped) = (stop.clone(), untyped.clone());
                let name = format!("prober of {app} at {place}");
                tokio::spawn(Prober { client, app, name, stop, untyped, done: Done::default() }.run())
            })
        });
        let probers = probers.collect();
        Load { ring, workers, stop, untyped, submitters, probers, begun: Instant::now() }
    }

    /// Ends it, waits until nothing is active, and checks everything. Returns when which beat was made, per app.
    async fn check(self) -> Vec<Vec<(Timestamp, Timestamp)>> {
        let Load { ring, workers, stop, untyped, submitters, probers, begun } = self;
        stop.store(true, Ordering::Relaxed);
        let mut done = Done::default();
        for prober in probers {
            done.add(prober.await.expect("no prober panicked"));
        }
        done.print();
        done.verify();
        let mut acknowledged = BTreeMap::new();
        for submitter in submitters {
            acknowledged.extend(submitter.await.expect("no submitter panicked").into_iter().map(|(key, id)| (id, key)));
        }
        let client = ring.client(2);
        for app in APPS {
            for job in jobs().iter().filter(|job| job.trigger.is_some()) {
                client.job_disable(app, &job.name).await.expect("disabling works");
            }
        }
        nothing_is_active(&client).await;

        let notes = notes::together(&workers);
        let twice: Vec<_> = notes.iter().filter(|(_, count)| **count > 1).collect();
        assert!(twice.is_empty(), "attempts that ran twice: {twice:?}");
        let mut attempts: BTreeMap<(InstanceId, u64), u32> = BTreeMap::new();
        for (instance, task, _) in notes.keys() {
            *attempts.entry((*instance, *task)).or_default() += 1;
        }
        let mut beats: Vec<Vec<(Timestamp, Timestamp)>> = Vec::new();
        let mut known = BTreeSet::new();
        let (mut fired, mut lost) = (0, 0);
        for app in APPS {
            for job in jobs() {
                let views = all_instances(&client, app, &job.name).await;
                for view in &views {
                    known.insert(view.id);
                    check_outcome(view, &job, &attempts, &mut lost);
                }
                let Some(trigger) = &job.trigger else {
                    let keys: BTreeSet<_> = views.iter().map(|view| view.idempotency_key.clone()).collect();
                    assert_eq!(keys.len(), views.len(), "{app}/{}: one instance per key", job.name);
                    continue;
                };
                let every = trigger.fixed_rate.unwrap_or(Duration::from_secs(1));
                let mut times: Vec<_> =
                    views.iter().map(|view| (view.fire_time.expect("a trigger made it"), view.created_at)).collect();
                times.sort();
                for pair in times.windows(2) {
                    let apart = pair[1].0.since(pair[0].0);
                    assert_eq!(apart, every, "{app}/{}: a fire is missing or doubled after {}", job.name, pair[0].0);
                }
                let gaps = client.job_gaps(app, &job.name).await.expect("gaps are readable").gaps;
                assert!(gaps.is_empty(), "{app}/{}: {gaps:?}", job.name);
                fired += times.len();
                if job.name == "beat" {
                    beats.push(times);
                }
            }
        }
        for app in APPS {
            for view in all_instances(&client, app, "probed").await {
                known.insert(view.id);
                let is_over =
                    matches!(view.state, InstanceState::Stopped | InstanceState::Canceled | InstanceState::Succeeded);
                assert!(is_over, "{view:?}");
            }
        }
        for (id, key) in &acknowledged {
            assert!(known.contains(id), "acknowledged instance {id} ({key}) is gone");
        }
        let unknown: Vec<_> = notes.keys().filter(|(instance, ..)| !known.contains(instance)).collect();
        assert!(unknown.is_empty(), "ran and is not in the store: {unknown:?}");
        println!(
            "{} acknowledged, {} instances, {fired} fires without a gap, {} executions, {lost} at-most-once lost, {:.0} s",
            acknowledged.len(),
            known.len(),
            notes.len(),
            begun.elapsed().as_secs_f64()
        );
        let deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()";
        assert_eq!(ring.postgres.query(ring.database(), deadlocks).trim(), "0", "deadlocks since the database started");
        assert_eq!(untyped.load(Ordering::Relaxed), 0, "errors that are no typed, retryable ones");
        beats
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_loses_and_doubles_nothing_whatever_breaks() {
    let seed: u64 = from_environment("CHAOS_SEED", rand::random::<u32>().into());
    let rate: u32 = from_environment("CHAOS_RATE", 100);
    let seconds: u64 = from_environment("CHAOS_SECONDS", 0);
    println!("CHAOS_SEED={seed} CHAOS_RATE={rate} CHAOS_SECONDS={seconds}");
    let mut dice = StdRng::seed_from_u64(seed);
    let mut load = Load::start(Ring::start_with(3, &["--set", "partitions=16"]).await, rate).await;
    let mut happened: Vec<(Event, Timestamp, Timestamp)> = Vec::new();
    let mut epochs = Epochs::default();
    loop {
        let mut events = EVENTS;
        events.shuffle(&mut dice);
        for event in events {
            tokio::time::sleep(Duration::from_millis(dice.random_range(500..2000))).await;
            let from = now();
            println!("{:6.1} s {event:?}", load.begun.elapsed().as_secs_f64());
            event.happen(&mut load.ring, &mut load.workers, &mut dice).await;
            epochs.look(&load.ring);
            happened.push((event, from, now()));
        }
        if load.begun.elapsed() >= Duration::from_secs(seconds) {
            break;
        }
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let beats = load.check().await;
    print_gaps(&happened, &beats);
}

/// S1-6: servers are upgraded one by one under load, and one of them is rolled back. `PENDULA_OLD_BIN` is the binary before the
/// upgrade; without it the same one is restarted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s1_6_a_rolling_upgrade_under_load_loses_and_doubles_nothing() {
    let (old, new) = (pendula_e2e::binary::old_pendula(), pendula_e2e::binary::pendula());
    println!("from {} to {}", old.display(), new.display());
    let ring = Ring::start_as(3, &["--set", "partitions=16"], &old).await;
    let mut load = Load::start(ring, 100).await;
    let mut happened = Vec::new();
    for (place, program) in [(0, &new), (1, &new), (2, &new), (1, &old), (1, &new)] {
        let from = now();
        let server = &mut load.ring.servers[place];
        server.stop().await;
        server.set_program(program);
        server.launch();
        server.ready().await;
        load.ring.settled().await;
        happened.push((Event::RestartGracefully, from, now()));
    }
    let beats = load.check().await;
    print_gaps(&happened, &beats);
}

/// Ended as its definition allows, and ran as often as that says.
fn check_outcome(view: &InstanceView, job: &JobSpec, attempts: &BTreeMap<(InstanceId, u64), u32>, lost: &mut usize) {
    let runs = attempts.get(&(view.id, 0)).copied().unwrap_or(0);
    let is_once = job.delivery == Delivery::AtMostOnce;
    let is_broadcast = matches!(job.mode, ExecutionMode::Broadcast(_));
    match view.state {
        InstanceState::Succeeded => assert!(runs >= 1 || is_broadcast, "succeeded and never ran: {view:?}"),
        // A worker was killed: what may run once only is lost then, and so is what was bound to it.
        InstanceState::Failed if is_once && view.reason.as_deref() == Some("worker_lost") => *lost += 1,
        InstanceState::Failed if is_broadcast => {}
        _ => panic!("{}: {view:?}", job.name),
    }
    assert!(!is_once || runs <= 1, "at most once, and ran {runs} times: {view:?}");
}

/// Epochs only grow, and so do the numbers of batches under one.
#[derive(Default)]
struct Epochs(BTreeMap<u16, (i64, i64)>);

impl Epochs {
    fn look(&mut self, ring: &Ring) {
        let rows = ring.postgres.query(ring.database(), "SELECT id, epoch, batch FROM partition ORDER BY id");
        for row in rows.lines() {
            let columns: Vec<i64> = row.split('|').map(|text| text.parse().expect("numbers")).collect();
            let [id, epoch, batch] = columns[..] else { panic!("{row}") };
            let before = self.0.insert(id as u16, (epoch, batch));
            assert!(before.is_none_or(|before| before <= (epoch, batch)), "{before:?} and then {row}");
        }
    }
}

/// For how long nothing fired in an app, per kind of event.
fn print_gaps(happened: &[(Event, Timestamp, Timestamp)], beats: &[Vec<(Timestamp, Timestamp)>]) {
    let mut gaps: BTreeMap<Event, Vec<Duration>> = BTreeMap::new();
    for (event, from, to) in happened {
        for app in beats {
            let mut made: Vec<Timestamp> = app.iter().map(|(_, created)| *created).collect();
            made.sort();
            let longest = made
                .windows(2)
                .filter(|pair| pair[1] > *from && pair[0] < *to)
                .map(|pair| pair[1].since(pair[0]))
                .max();
            gaps.entry(*event).or_default().extend(longest);
        }
    }
    println!("time without fires, per app and event, at a beat of {} ms", BEAT.as_millis());
    println!("{:<18} {:>5} {:>9} {:>9} {:>9}", "event", "count", "p50 ms", "p99 ms", "worst ms");
    for (event, mut gaps) in gaps {
        gaps.sort();
        let at = |share: f64| gaps[((gaps.len() - 1) as f64 * share).round() as usize].as_millis();
        let name = format!("{event:?}");
        println!("{name:<18} {:>5} {:>9} {:>9} {:>9}", gaps.len(), at(0.5), at(0.99), at(1.0));
    }
}

fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    Timestamp::from_micros(since.as_micros() as i64)
}
