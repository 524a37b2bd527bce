//! Servers that are starved, databases that are looked at, and what an idle cluster writes.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use pendula_client::{Client, RunKey};
use pendula_e2e::process::eventually;
use pendula_e2e::{Noter, Ring, all_instances};
use pendula_model::api::RunJob;
use pendula_model::job::JobSpec;
use pendula_model::processor::{Handler, Processor};
use pendula_model::trigger::{Misfire, Trigger};
use pendula_model::{InstanceId, Timestamp};
use rustix::process::Signal;

const SOON: Duration = Duration::from_secs(60);

fn note(name: &str) -> JobSpec {
    JobSpec::new(name, Processor::Handler(Handler { name: "note".to_owned(), config: None }))
}

fn noter(ring: &Ring, app: &str, token: &str, name: &str) -> Noter {
    Noter::start(Path::new(env!("CARGO_BIN_EXE_pendula-e2e-noter")), &ring.urls(), app, token, name, ring.directory())
}

/// An app whose partition `place` owns.
async fn app_of(ring: &Ring, place: usize) -> String {
    let overview = ring.client(place).cluster(None).await.expect("it tells who owns what");
    let partitions = overview.partitions.len() as u16;
    let name = ring.servers[place].name();
    (0..1000)
        .map(|number| format!("app-{number}"))
        .find(|app| {
            let partition = pendula_model::PartitionId::of_app(app, partitions);
            let holding = overview.partitions.iter().find(|holding| holding.partition == partition.0);
            holding.is_some_and(|holding| holding.owner.as_deref() == Some(&*name))
        })
        .expect("it owns something")
}

/// When each fire was made, by its time.
async fn fires(client: &Client, app: &str, job: &str) -> Vec<(Timestamp, Timestamp)> {
    let views = all_instances(client, app, job).await;
    let mut found: Vec<_> =
        views.into_iter().map(|view| (view.fire_time.expect("a trigger made it"), view.created_at)).collect();
    found.sort();
    found
}

/// S4-13: a server that gets a tenth of the processor that it needs, while everybody asks it for more. It may lose what
/// it owns to others; nothing that it acknowledged is lost, no fire is missed, and the others do not suffer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s4_13_a_starved_owner_loses_nothing_and_others_do_not_suffer() {
    const STARVED_FOR: Duration = Duration::from_secs(15);
    let ring = Ring::start_with(2, &["--set", "partitions=8"]).await;
    let (starved, well) = (0, 1);
    let (slow, fast) = (app_of(&ring, starved).await, app_of(&ring, well).await);
    let mut workers = Vec::new();
    for app in [&slow, &fast] {
        let token = ring.app(app).await;
        workers.push(noter(&ring, app, &token, "w1"));
        let beat = Trigger {
            fixed_rate: Some(Duration::from_millis(200)),
            misfire: Misfire::FireAll,
            misfire_limit: 10_000,
            ..Trigger::default()
        };
        ring.client(well).job_create(app, &JobSpec { trigger: Some(beat), ..note("beat") }).await.expect("a new job");
        ring.client(well).job_create(app, &note("asked")).await.expect("a new job");
    }
    let stop = Arc::new(AtomicBool::new(false));
    let askers: Vec<_> = (0..32)
        .map(|number| {
            let (client, app, stop) = (ring.client(starved), slow.clone(), stop.clone());
            tokio::spawn(ask(client, app, number, stop))
        })
        .collect();
    let begun = Instant::now();
    let mut slowest = Duration::ZERO;
    let mut looked_at = Instant::now();
    while begun.elapsed() < STARVED_FOR {
        // A tenth of the time it runs.
        ring.servers[starved].signal(Signal::STOP);
        tokio::time::sleep(Duration::from_millis(180)).await;
        ring.servers[starved].signal(Signal::CONT);
        tokio::time::sleep(Duration::from_millis(20)).await;
        if looked_at.elapsed() >= Duration::from_secs(1) {
            looked_at = Instant::now();
            let client = ring.client(well);
            client.job_run(&fast, "asked", &RunJob::default(), RunKey::Random).await.expect("the other one answers");
            slowest = slowest.max(looked_at.elapsed());
        }
    }
    stop.store(true, Ordering::Relaxed);
    let mut acknowledged = Vec::new();
    for asker in askers {
        acknowledged.extend(asker.await.expect("only retryable errors"));
    }
    let client = ring.client(well);
    ring.settled().await;
    for app in [&slow, &fast] {
        client.job_disable(app, "beat").await.expect("disabling works");
    }
    for id in &acknowledged {
        eventually("what was acknowledged ends", SOON, || async {
            client.instance_fetch(*id).await.ok().filter(|view| view.state.is_ended()).map(drop)
        })
        .await;
    }
    let mut latest = Vec::new();
    for app in [&slow, &fast] {
        let fires = fires(&client, app, "beat").await;
        for pair in fires.windows(2) {
            assert_eq!(pair[1].0.since(pair[0].0), Duration::from_millis(200), "{app}: after {}", pair[0].0);
        }
        assert!(client.job_gaps(app, "beat").await.expect("gaps are readable").gaps.is_empty());
        latest.push(fires.iter().map(|(due, made)| made.since(*due)).max().expect("it fired"));
    }
    println!(
        "{} acknowledged by the starved one; fires at most {:?} late there and {:?} elsewhere; the other answered within {slowest:?}",
        acknowledged.len(),
        latest[0],
        latest[1]
    );
    assert!(!acknowledged.is_empty());
    assert!(slowest < Duration::from_secs(5), "{slowest:?}");
}

/// Asks for runs until it is told to stop; what it was promised.
async fn ask(client: Client, app: String, number: usize, stop: Arc<AtomicBool>) -> Vec<InstanceId> {
    let mut promised = Vec::new();
    for run in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let key = format!("{number}-{run}");
        match client.job_run(&app, "asked", &RunJob::default(), RunKey::Given(&key)).await {
            Ok(result) => promised.push(result.instance.expect("it has an id")),
            Err(error) => assert!(error.is_retryable(), "{error}"),
        }
    }
    promised
}

/// O-8: heartbeats of workers write no row, whatever their number. Servers renew their leases, and that is all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn o_8_heartbeats_write_nothing() {
    /// Of each worker, one in three seconds.
    const BEATS: usize = 4;
    let ring = Ring::start(1).await;
    let token = ring.app("demo").await;
    let names = ["w1", "w2", "w3", "w4", "w5", "w6"];
    let _workers: Vec<_> = names.iter().map(|name| noter(&ring, "demo", &token, name)).collect();
    let client = ring.client(0);
    let all = || async {
        let workers = client.worker_list("demo").await.ok()?;
        let heard: Vec<_> = workers.iter().map(|worker| worker.last_heard).collect();
        (heard.len() == names.len()).then_some(heard)
    };
    let mut heard = eventually("all are connected", SOON, all).await;
    let mut before = versions(&ring);
    for _ in 0..BEATS {
        heard = eventually("all were heard again", SOON, || async {
            let now = all().await?;
            now.iter().zip(&heard).all(|(now, before)| now > before).then_some(now)
        })
        .await;
    }
    let mut after = versions(&ring);
    let leases = [&mut before, &mut after].map(|tables| tables.remove("server").expect("the table of servers"));
    assert_eq!(before, after, "tables other than that of servers");
    assert_ne!(leases[0], leases[1], "the lease was renewed, and that is seen");
}

/// Which versions of rows there are, by table.
fn versions(ring: &Ring) -> BTreeMap<String, String> {
    let sql = "SELECT string_agg(format('SELECT %L, md5(string_agg(ctid::text || xmin, '','' ORDER BY ctid)) FROM %I', \
               relname, relname), ' UNION ALL ') FROM pg_stat_user_tables";
    let all = ring.postgres.query(ring.database(), sql);
    let rows = ring.postgres.query(ring.database(), all.trim());
    let row = |line: &str| {
        let (table, versions) = line.split_once('|').expect("two columns");
        (table.to_owned(), versions.to_owned())
    };
    rows.lines().map(row).collect()
}

/// S4-14: partitions whose owner has no lease are counted as long as there are any. A drained server that is left alone
/// does not take them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s4_14_partitions_without_an_owner_are_counted_until_there_is_none() {
    let mut ring = Ring::start_with(2, &["--set", "partitions=8"]).await;
    let (left, killed) = (0, 1);
    let client = ring.client(left);
    client.server_drain(&ring.servers[left].name()).await.expect("it is drained");
    let all_at = |place: usize| {
        let (client, ring) = (client.clone(), &ring);
        async move { (ring.owned(&client.cluster(None).await.ok()?, place) == 8).then_some(()) }
    };
    eventually("the other one has all", SOON, || all_at(killed)).await;
    unserved(&ring, left, 0.0).await;
    ring.servers[killed].kill();
    unserved(&ring, left, 8.0).await;
    client.server_undrain(&ring.servers[left].name()).await.expect("it takes part again");
    unserved(&ring, left, 0.0).await;
}

async fn unserved(ring: &Ring, place: usize, expected: f64) {
    eventually("so many partitions have no owner", SOON, || async {
        metric(ring, place, "pendula_partitions_unserved").await.filter(|count| *count == expected)
    })
    .await;
}

async fn metric(ring: &Ring, place: usize, name: &str) -> Option<f64> {
    let url = format!("{}/metrics", ring.servers[place].url());
    let text = reqwest::Client::new().get(url).bearer_auth(&ring.token).send().await.ok()?.text().await.ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    line.rsplit(' ').next()?.parse().ok()
}
