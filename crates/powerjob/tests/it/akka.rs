//! Workers over Akka are workers like all others.

use std::sync::Arc;

use pendula_akka::kryo::{Class, Dialect, Message, encode};
use pendula_model::InstanceId;
use pendula_model::instance::InstanceState;
use pendula_model::job::JobSpec;
use pendula_model::powerjob::PowerJobExecuteType::{MapReduce, Standalone};
use pendula_model::worker::LabelRule;
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

use crate::fake::FakeWorker;
use crate::fake_akka::{AkkaWorker, acquire, shown};
use crate::world::{HURRY, PATIENCE, World, job, until};

async fn world() -> World {
    World::with(&["powerjob.allow=demo=127.0.0.0/8", "powerjob.akka.listen=127.0.0.1:0"], HURRY).await
}

fn for_tag(name: &str, tag: &str, execute_type: pendula_model::powerjob::PowerJobExecuteType) -> JobSpec {
    let mut spec = job(name, execute_type);
    spec.workers.labels.insert("tag".to_owned(), LabelRule::Is(tag.to_owned()));
    spec
}

/// A worker that beats, and an instance that it runs.
async fn with_one_running(world: &World, dialect: Dialect) -> (AkkaWorker, InstanceId) {
    let mut worker = AkkaWorker::start(world, dialect).await;
    worker.beat(None);
    world.sessions_are(1).await;
    world.apply(job("a", Standalone)).await;
    let id = world.run("a").await;
    worker.received(Class::ServerScheduleJobReq).await;
    worker.report(id.0, 3, "").await;
    until("it is said to run", async || world.instance(id).await.state == InstanceState::Running).await;
    (worker, id)
}

#[tokio::test]
async fn s5_1_each_protocol_has_its_port_in_any_spelling() {
    let world = world().await;
    let (_, akka) = world.gateway.akka.clone().expect("it is served");
    for spelling in ["AKKA", "akka", "Akka", "%20akka%20", "AKKA,", ""] {
        assert_eq!(acquire(&world, spelling).await["data"], akka, "{spelling:?}");
    }
    for spelling in ["HTTP", "http", "HTTP,http"] {
        assert_eq!(acquire(&world, spelling).await["data"], world.gateway.advertised, "{spelling}");
    }
    assert_eq!(acquire(&world, "HTTP,AKKA").await["success"], false);
    let without = World::new().await;
    let refused = acquire(&without, "AKKA").await;
    assert!(
        refused["message"].as_str().is_some_and(|why| why.contains("set the worker's protocol to HTTP")),
        "{refused}"
    );
}

#[tokio::test]
async fn s1_2_both_dialects_run_and_stop_what_they_are_told() {
    for dialect in [Dialect::Plain, Dialect::Named] {
        let world = world().await;
        let mut worker = AkkaWorker::start(&world, dialect).await;
        worker.beat(None);
        world.sessions_are(1).await;
        world.apply(job("a", Standalone)).await;
        let id = world.run("a").await;
        let told = worker.received(Class::ServerScheduleJobReq).await;
        assert_eq!((&told["instanceId"], &told["processorInfo"]), (&id.0.into(), &"com.acme.a".into()));
        assert_eq!(told["allWorkerAddress"], json!([worker.me.host_and_port()]));
        worker.report(id.0, 3, "").await;
        until("it is said to run", async || world.instance(id).await.state == InstanceState::Running).await;
        let lines = json!({
            "workerAddress": worker.me.host_and_port(),
            "instanceLogContents": [{ "instanceId": id.0, "logTime": 1, "logLevel": 2, "logContent": "你好 😀" }],
        });
        worker.say(Class::WorkerLogReportReq, &lines).await;
        until("the line is there", async || world.log(id, 1).await.contains("你好 😀")).await;
        worker.report(id.0, 5, "好").await;
        assert_eq!(world.ended(id).await.state, InstanceState::Succeeded);

        let id = world.run("a").await;
        worker.received(Class::ServerScheduleJobReq).await;
        worker.report(id.0, 3, "").await;
        let stop = pendula_engine::Command::InstanceStop { instance: id };
        world.command(stop).await;
        assert_eq!(worker.received(Class::ServerStopInstanceReq).await["instanceId"], id.0);
        assert_eq!(world.ended(id).await.state, InstanceState::Stopped);
    }
}

#[tokio::test]
async fn s1_8_workers_of_every_speech_serve_one_app() {
    let world = world().await;
    let mut plain = AkkaWorker::start(&world, Dialect::Plain).await;
    let mut named = AkkaWorker::start(&world, Dialect::Named).await;
    let http = Arc::new(FakeWorker::start_as(world.gateway.local_addr, "demo", "5.1.1", Some("http")).await);
    plain.beat(Some("plain"));
    named.beat(Some("named"));
    http.beat();
    world.sessions_are(3).await;
    for tag in ["plain", "named", "http"] {
        world.apply(for_tag(tag, tag, MapReduce)).await;
    }
    let ids = [world.run("plain").await, world.run("named").await, world.run("http").await];
    // Each shares its work with whom it can talk to.
    for (worker, id) in [(&plain, ids[0]), (&named, ids[1])] {
        let told = worker.received(Class::ServerScheduleJobReq).await;
        assert_eq!(
            (&told["instanceId"], &told["allWorkerAddress"]),
            (&id.0.into(), &json!([worker.me.host_and_port()]))
        );
        worker.report(id.0, 5, "").await;
    }
    let told = http.received("runJob").await;
    assert_eq!(told["allWorkerAddress"], json!([http.address]));
    http.report(ids[2].0, 5, (1, 2), None).await;
    for id in ids {
        assert_eq!(world.ended(id).await.state, InstanceState::Succeeded);
    }
}

#[tokio::test]
async fn s5_2_a_worker_may_speak_something_else_after_its_next_start() {
    let world = world().await;
    let mut worker = AkkaWorker::start(&world, Dialect::Plain).await;
    worker.beat(None);
    world.sessions_are(1).await;
    world.apply(job("a", Standalone)).await;
    let at = worker.me.port();
    worker.close().await;
    let port = TcpListener::bind(("127.0.0.1", at)).await.expect("it is free");
    let worker = AkkaWorker::start_at(world.gateway.local_addr, world.app, port, Dialect::Named).await;
    // It has more memory now, by which we know that it was heard.
    let mut spec = job("a", Standalone);
    spec.workers.min.memory = Some("3GiB".parse().expect("a size"));
    world.apply(spec).await;
    let id = world.run("a").await;
    let mut heartbeat = worker.heartbeat_message(None);
    heartbeat["systemMetrics"]["jvmMaxMemory"] = 4.0.into();
    worker.say(Class::WorkerHeartbeat, &heartbeat).await;
    // The session is the same, and what it is told is in the dialect that it speaks now: anything else would panic there.
    worker.received(Class::ServerScheduleJobReq).await;
    worker.report(id.0, 5, "").await;
    assert_eq!(world.ended(id).await.state, InstanceState::Succeeded);
    world.sessions_are(1).await;
}

/// Between its first moment and its first word nobody knows how the next process at an address speaks.
#[tokio::test]
async fn s5_2_who_is_there_next_hears_nothing_until_it_has_spoken() {
    let world = world().await;
    let (worker, id) = with_one_running(&world, Dialect::Plain).await;
    let at = worker.me.port();
    worker.close().await;
    let port = TcpListener::bind(("127.0.0.1", at)).await.expect("it is free");
    let mut worker = AkkaWorker::start_at(world.gateway.local_addr, world.app, port, Dialect::Named).await;
    world.command(pendula_engine::Command::InstanceStop { instance: id }).await;
    let heard = worker.to().clone();
    until("the server comes and says who it is", async || heard.counters().received() > 0).await;
    // Anything that was said together with that would have been in the dialect of the old one, at which this one panics.
    worker.beat(None);
    assert_eq!(world.ended(id).await.state, InstanceState::Stopped);
    let id = world.run("a").await;
    assert_eq!(worker.received(Class::ServerScheduleJobReq).await["instanceId"], id.0);
    worker.report(id.0, 5, "").await;
    assert_eq!(world.ended(id).await.state, InstanceState::Succeeded);
    world.sessions_are(1).await;
}

#[tokio::test]
async fn metrics_tell_what_the_transport_does() {
    let world = world().await;
    let shown = |name: &str| shown(&world, name);
    let gauges = || ["associations", "connections", "held_bytes"].map(shown);
    assert_eq!((gauges(), shown("frames_received_total"), shown("dialled_total")), ([0; 3], 0, 0));
    let mut worker = AkkaWorker::start(&world, Dialect::Plain).await;
    worker.beat(None);
    world.sessions_are(1).await;
    world.apply(job("a", Standalone)).await;
    let id = world.run("a").await;
    worker.received(Class::ServerScheduleJobReq).await;
    worker.report(id.0, 5, "").await;
    world.ended(id).await;
    // Its fake writes over one connection, and real ones over two.
    assert_eq!((gauges()[..2].to_vec(), shown("dialled_total")), (vec![1, 1], 1));
    assert!(shown("frames_received_total") >= 3, "a greeting, a heartbeat, a report");
    assert!(shown("messages_sent_total") >= 2, "an order, and the answer to the report");
    for reason in ["connection", "broken", "too_large", "handshake", "stranger", "unknown", "late_answer"] {
        assert_eq!(shown(&format!("refused_total{{reason=\"{reason}\"}}")), 0, "{reason}");
    }
    let at = world.gateway.akka.as_ref().expect("it is served").0;
    let mut stranger = tokio::net::TcpStream::connect(at).await.expect("it listens");
    stranger.write_all(b"GET / HTTP/1.1\r\n\r\n").await.expect("it is written");
    until("it is refused", async || shown("refused_total{reason=\"broken\"}") == 1).await;
    worker.close().await;
    until("its connections are gone", async || gauges()[1] == 0).await;
}

#[tokio::test]
async fn s5_3_a_server_that_starts_again_takes_over_what_runs() {
    for dialect in [Dialect::Plain, Dialect::Named] {
        let mut world = world().await;
        let (worker, id) = with_one_running(&world, dialect).await;
        world.restart().await;
        world.sessions_are(1).await;
        worker.report(id.0, 5, "").await;
        let ended = world.ended(id).await;
        assert_eq!((ended.state, ended.attempt), (InstanceState::Succeeded, 1));
    }
}

#[tokio::test]
async fn s5_6_what_cannot_be_read_changes_nothing() {
    let world = world().await;
    let (worker, id) = with_one_running(&world, Dialect::Plain).await;
    // Half of one dialect and half of the other, noise, a message for workers, one of somebody else's name.
    let heartbeat = Message::from_json(Class::WorkerHeartbeat, &worker.heartbeat_message(None)).expect("it fits");
    let named = encode(&heartbeat, Dialect::Named);
    let plain = encode(&heartbeat, Dialect::Plain);
    let head = Class::WorkerHeartbeat.name().len() + 3;
    let mixed = [&named[..head + 20], &plain[head..]].concat();
    let stop = Message::from_json(Class::ServerStopInstanceReq, &json!({ "instanceId": id.0 })).expect("it fits");
    let mut other = worker.heartbeat_message(None);
    other["workerAddress"] = "127.0.0.1:9".into();
    let other = encode(&Message::from_json(Class::WorkerHeartbeat, &other).expect("it fits"), Dialect::Plain);
    for payload in [mixed, b"noise".to_vec(), encode(&stop, Dialect::Named), other] {
        let to = worker.to();
        to.tell(&worker.server, "server_actor", payload).await.expect("it is written");
    }
    until("each is counted", async || {
        let metrics = world.server().state().metrics.encode();
        metrics.lines().any(|line| line == "pendula_gateway_refused_total{listener=\"powerjob\"} 4")
    })
    .await;
    worker.report(id.0, 5, "").await;
    assert_eq!(world.ended(id).await.state, InstanceState::Succeeded);
    world.sessions_are(1).await;
    assert!(worker.trackers.lock().expect("no panic").is_empty(), "within {PATIENCE:?}");
}
