//! The primary database dies, and a standby takes its place.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use pendula_client::{Client, RunKey};
use pendula_e2e::binary::pendula;
use pendula_e2e::process::eventually;
use pendula_e2e::{Noter, Proxy, Ring};
use pendula_model::InstanceId;
use pendula_model::api::RunJob;
use pendula_model::instance::InstanceState;
use pendula_model::job::JobSpec;
use pendula_model::processor::{Handler, Processor};
use pendula_testdb::Postgres;

const SOON: Duration = Duration::from_secs(60);

async fn submit(clients: Vec<Client>, stop: Arc<AtomicBool>) -> Vec<InstanceId> {
    let mut acknowledged = Vec::new();
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let key = format!("key-{number}");
        let id = loop {
            let client = &clients[number % clients.len()];
            match client.job_run("demo", "quick", &RunJob::default(), RunKey::Given(&key)).await {
                Ok(result) => break result.instance.expect("an accepted run names its instance"),
                Err(error) if error.is_retryable() => tokio::time::sleep(Duration::from_millis(20)).await,
                Err(error) => panic!("{error}"),
            }
        };
        acknowledged.push(id);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    acknowledged
}

/// The primary replicates synchronously and is killed; the standby is promoted. The servers know both addresses.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_promoted_standby_has_all_that_was_acknowledged_and_is_found() {
    let primary = Postgres::start();
    let url = primary.database();
    let standby = primary.standby();
    let both = format!("127.0.0.1:{},127.0.0.1:{}/", primary.port(), standby.port());
    let database = url.replace(&format!("127.0.0.1:{}/", primary.port()), &both);
    assert!(database.contains(&both), "{database}");
    let network = Proxy::start(primary.port()).await;
    let ring = Ring::start_on(primary, network, database, 2, &["--set", "partitions=4"], &pendula()).await;
    let token = ring.app("demo").await;
    let quick = Processor::Handler(Handler { name: "note".to_owned(), config: None });
    ring.client(0).job_create("demo", &JobSpec::new("quick", quick)).await.expect("the job is valid");
    let program = Path::new(env!("CARGO_BIN_EXE_pendula-e2e-noter"));
    let worker = Noter::start(program, &ring.urls(), "demo", &token, "w1", ring.directory());
    let stop = Arc::new(AtomicBool::new(false));
    let submitter = tokio::spawn(submit(vec![ring.client(0), ring.client(1)], stop.clone()));
    tokio::time::sleep(Duration::from_secs(3)).await;

    ring.postgres.kill();
    let killed = Instant::now();
    standby.promote();
    println!("promoted {:?} after the kill", killed.elapsed());
    ring.settled().await;
    println!("all partitions served {:?} after the kill", killed.elapsed());
    tokio::time::sleep(Duration::from_secs(3)).await;
    stop.store(true, Ordering::Relaxed);
    let acknowledged = submitter.await.expect("no panic");
    assert!(acknowledged.len() > 20, "{}", acknowledged.len());
    let client = ring.client(1);
    for id in &acknowledged {
        eventually("it succeeds", SOON, || async {
            let view = client.instance_fetch(*id).await.expect("acknowledged, so it is there");
            (view.state == InstanceState::Succeeded).then_some(())
        })
        .await;
    }
    let notes = worker.notes();
    assert!(notes.values().all(|count| *count == 1), "an attempt ran twice");
    let ran: std::collections::BTreeSet<InstanceId> = notes.keys().map(|(instance, ..)| *instance).collect();
    assert!(acknowledged.iter().all(|id| ran.contains(id)));
    println!("{} acknowledged before, during and after", acknowledged.len());
}
