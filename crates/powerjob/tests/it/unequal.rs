//! Servers of one cluster with different settings for the gateway (S5-6).

use std::sync::Arc;

use pendula_akka::kryo::{Class, Dialect};
use pendula_engine::Command;
use pendula_model::InstanceId;
use pendula_model::instance::InstanceState;
use pendula_model::job::JobSpec;
use pendula_model::mode::{ExecutionMode, Map};
use pendula_model::powerjob::PowerJobExecuteType::Standalone;
use pendula_store::Store;
use pendula_store::logs::{LogKey, LogStore};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::cluster::{BOTH, HTTP, Ring};
use crate::fake::FakeWorker;
use crate::fake_akka::{AkkaWorker, acquire_from};
use crate::world::{job, until};

const NONE: &[&str] = &[];

async fn sessions_are(ring: &Ring, count: usize) {
    until("workers connect or leave", async || ring.server(0).state().partitions.status().gauges.sessions == count)
        .await;
}

/// A map: its tasks are reported to the server that called the worker.
fn split() -> JobSpec {
    let mode = ExecutionMode::Map(Map { per_worker: Some(10), ..Map::default() });
    JobSpec { mode, ..job("Split", Standalone) }
}

/// The server that owns the app does so all the time.
async fn assert_not_moved(ring: &Ring) {
    assert_eq!(ring.owner(), Some(0));
    let view = ring.store.cluster().expect("a shared store").view().await.expect("the store answers");
    assert_eq!(view.holdings[0].epoch.0, 1, "the partition was claimed again");
}

#[tokio::test]
async fn s5_6_an_owner_without_a_port_for_akka_has_its_workers_called_through_one_that_has() {
    for dialect in [Dialect::Named, Dialect::Plain] {
        let (ring, app) = Ring::unequal(&[HTTP, BOTH]).await;
        let (_, akka) = ring.powerjob(1).akka.clone().expect("it is served");
        for _ in 0..3 {
            assert_eq!(acquire_from(ring.gateway(0), app, "AKKA").await["success"], false);
            assert_eq!(acquire_from(ring.gateway(1), app, "AKKA").await["data"], akka);
            let http = ring.gateway(0).to_string();
            assert_eq!(acquire_from(ring.gateway(1), app, "HTTP").await["data"], http, "the owner serves that");
        }
        let port = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let mut worker = AkkaWorker::start_at(ring.gateway(1), app, port, dialect).await;
        worker.beat(None);
        sessions_are(&ring, 1).await;

        ring.apply(app, job("a", Standalone)).await;
        let id = ring.run(app, "a").await;
        let told = worker.received(Class::ServerScheduleJobReq).await;
        assert_eq!(
            (&told["instanceId"], &told["allWorkerAddress"]),
            (&id.0.into(), &json!([worker.me.host_and_port()]))
        );
        worker.report(id.0, 3, "").await;
        ring.is(id, InstanceState::Running).await;
        let lines = json!({
            "workerAddress": worker.me.host_and_port(),
            "instanceLogContents": [{ "instanceId": id.0, "logTime": 1, "logLevel": 2, "logContent": "from afar" }],
        });
        worker.say(Class::WorkerLogReportReq, &lines).await;
        let log = LogKey { app, instance: id, attempt: 1, task: 0 };
        until("the line is there", async || {
            let part = ring.logs.read(log, 0, 1 << 20).await.expect("the log store answers");
            String::from_utf8_lossy(&part.data).contains("from afar")
        })
        .await;
        worker.report(id.0, 5, "good").await;
        assert_eq!(ring.is(id, InstanceState::Succeeded).await.attempt, 1);

        // It says nothing of this one: that it runs the owner can only know by asking.
        let id = ring.run(app, "a").await;
        worker.received(Class::ServerScheduleJobReq).await;
        ring.is(id, InstanceState::Running).await;
        ring.command(Command::InstanceStop { instance: id }).await;
        assert_eq!(worker.received(Class::ServerStopInstanceReq).await["instanceId"], id.0);
        ring.is(id, InstanceState::Stopped).await;
        assert_not_moved(&ring).await;
    }
}

#[tokio::test]
async fn s5_6_an_owner_without_a_gateway_serves_what_others_hear() {
    let (ring, app) = Ring::unequal(&[NONE, HTTP]).await;
    let worker = Arc::new(FakeWorker::start(ring.gateway(1), "demo").await);
    assert_eq!(worker.gateway(), ring.gateway(1));
    worker.beat();
    sessions_are(&ring, 1).await;

    ring.apply(app, job("A", Standalone)).await;
    let id = ring.run(app, "A").await;
    worker.received("runJob").await;
    assert_eq!(worker.report(id.0, 5, (1000, 2000), None).await, json!({ "success": true }));
    ring.is(id, InstanceState::Succeeded).await;

    // What the worker answers is what came of it.
    worker.refuse(Some(500));
    let id = ring.run(app, "A").await;
    let failed = ring.is(id, InstanceState::Failed).await;
    assert_eq!(failed.reason.expect("one").as_str(), "refused_by_worker");
    worker.refuse(None);

    // Tasks that the server tracks are reported to the server that called.
    ring.apply(app, split()).await;
    let id = ring.run(app, "Split").await;
    let root = worker.received("startTask").await;
    assert_eq!(root["taskTrackerAddress"], json!(ring.gateway(1).to_string()));
    let done = json!({
        "instanceId": id.0, "subInstanceId": root["subInstanceId"], "taskId": root["taskId"], "status": 6, "result": "ok",
    });
    let (_, answer) = worker.post_to("taskTracker/reportTaskStatus", done.to_string()).await;
    assert_eq!(answer, json!({ "success": true }));
    ring.is(id, InstanceState::Succeeded).await;
    assert_not_moved(&ring).await;
}

#[tokio::test]
async fn s5_6_lists_of_networks_may_differ() {
    let elsewhere = ["powerjob.allow=demo=10.9.0.0/16", HTTP[1]];
    let (ring, app) = Ring::unequal(&[&elsewhere, HTTP]).await;
    let here = ring.gateway(1).to_string();
    for _ in 0..3 {
        let refused = acquire_from(ring.gateway(0), app, "HTTP").await;
        assert!(refused["message"].as_str().is_some_and(|why| why.contains("powerjob.allow")), "{refused}");
        assert_eq!(acquire_from(ring.gateway(1), app, "HTTP").await["data"], here);
    }
    let worker = Arc::new(FakeWorker::start(ring.gateway(1), "demo").await);
    worker.beat();
    sessions_are(&ring, 1).await;
    ring.apply(app, job("A", Standalone)).await;
    let id = ring.run(app, "A").await;
    worker.received("runJob").await;
    worker.report(id.0, 5, (1000, 2000), None).await;
    ring.is(id, InstanceState::Succeeded).await;
    // Nothing outside of its list is called by the owner.
    ring.apply(app, split()).await;
    ring.run(app, "Split").await;
    assert_eq!(worker.received("startTask").await["taskTrackerAddress"], json!(here));
    // What comes to the owner itself is let in by its own list.
    worker.go_to(ring.gateway(0));
    let refused = worker.report(id.0, 5, (1000, 2000), None).await;
    assert!(refused["message"].as_str().is_some_and(|why| why.contains("powerjob.allow")), "{refused}");
}

#[tokio::test]
async fn s5_6_an_owner_that_can_calls_a_worker_itself_whoever_heard_it() {
    let (ring, app) = Ring::unequal(&[HTTP, HTTP]).await;
    let worker = Arc::new(FakeWorker::start(ring.gateway(1), "demo").await);
    assert_eq!(worker.gateway(), ring.gateway(0));
    worker.go_to(ring.gateway(1));
    worker.beat();
    sessions_are(&ring, 1).await;
    ring.apply(app, split()).await;
    ring.run(app, "Split").await;
    assert_eq!(worker.received("startTask").await["taskTrackerAddress"], json!(ring.gateway(0).to_string()));
}

#[tokio::test]
async fn s5_6_the_server_between_stops_and_the_worker_goes_on_through_a_third() {
    let (mut ring, app) = Ring::unequal(&[NONE, HTTP, HTTP]).await;
    let worker = Arc::new(FakeWorker::start(ring.gateway(1), "demo").await);
    worker.beat();
    sessions_are(&ring, 1).await;
    ring.apply(app, job("A", Standalone)).await;
    let running = ring.run(app, "A").await;
    assert_eq!(worker.received("runJob").await["instanceId"], running.0);
    worker.report(running.0, 3, (1000, 2000), None).await;
    ring.is(running, InstanceState::Running).await;

    let (server, _) = ring.servers[1].take().expect("it runs");
    server.stop().await;
    // The owner cannot reach the worker now: what is due waits, and what runs runs.
    let waiting = ring.run(app, "A").await;
    worker.go_to(ring.gateway(2));
    assert_eq!(worker.received("runJob").await["instanceId"], waiting.0, "what ran is not run again");
    worker.report(waiting.0, 5, (3000, 4000), None).await;
    ring.is(waiting, InstanceState::Succeeded).await;
    // It is asked through the new one.
    worker.received("queryInstanceStatus").await;
    worker.report(running.0, 5, (1000, 9000), Some("at last")).await;
    let row = ring.is(running, InstanceState::Succeeded).await;
    assert_eq!(row.attempt, 1);
    assert!(!worker.unread().await.contains(&"runJob".to_owned()));
    sessions_are(&ring, 1).await;
    assert_not_moved(&ring).await;
}

/// Nobody knows whether the worker got it: it is asked, and not told again.
#[tokio::test]
async fn s5_6_a_call_that_a_server_took_with_it_is_not_made_again() {
    let (mut ring, app) = Ring::unequal(&[NONE, HTTP, HTTP]).await;
    let worker = Arc::new(FakeWorker::start(ring.gateway(1), "demo").await);
    worker.beat();
    sessions_are(&ring, 1).await;
    ring.apply(app, job("A", Standalone)).await;
    worker.be_mute(true);
    let id = ring.run(app, "A").await;
    worker.received("runJob").await;
    // As if it were killed.
    drop(ring.servers[1].take());
    worker.be_mute(false);
    worker.go_to(ring.gateway(2));
    ring.is(id, InstanceState::Running).await;
    worker.report(id.0, 5, (1000, 9000), None).await;
    assert_eq!(ring.is(id, InstanceState::Succeeded).await.attempt, 1);
    assert!(!worker.unread().await.contains(&"runJob".to_owned()));
}

#[tokio::test]
async fn s5_6_an_owner_without_a_gateway_carries_out_what_clients_ask() {
    let (ring, app) = Ring::unequal(&[NONE, HTTP]).await;
    let job = ring.apply(app, job("A", Standalone)).await;
    let auth = &ring.server(1).state().auth;
    let (_, secret) = auth.create_for_powerjob("clients", app, None).await.expect("a new secret");
    let http = reqwest::Client::builder().no_proxy().build().expect("a client");
    let call = async |path: &str, body: String| -> Value {
        let request = http.post(format!("http://{}/openApi/{path}", ring.gateway(1)));
        let request = request.header("content-type", "application/x-www-form-urlencoded").body(body);
        request.send().await.expect("the gateway answers").json().await.expect("JSON")
    };
    let known = call("assert", format!("appName=demo&password={}", secret.reveal())).await;
    let shown = known["data"].as_i64().unwrap_or_else(|| panic!("{known}"));
    let run = call("runJob", format!("appId={shown}&jobId={}", job.id.0)).await;
    let id = InstanceId(run["data"].as_i64().unwrap_or_else(|| panic!("{run}")));
    assert_eq!(ring.instance(id).await.job, job.id);
    assert_not_moved(&ring).await;
}
