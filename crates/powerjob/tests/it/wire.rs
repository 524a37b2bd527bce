//! Messages from peers that are older, newer, or wrong.

use std::sync::Arc;
use std::time::Duration;

use pendula_model::instance::InstanceState;
use pendula_model::powerjob::PowerJobExecuteType::Standalone;
use pendula_store::InstanceFilter;
use serde_json::{Value, json};

use crate::fake::FakeWorker;
use crate::world::{World, job, until};

async fn worker(world: &World, version: &'static str) -> Arc<FakeWorker> {
    let worker = Arc::new(FakeWorker::start_as(world.gateway.local_addr, "demo", version, None).await);
    worker.heartbeat().await;
    worker.beat();
    worker
}

#[tokio::test]
async fn s1_3_what_is_unknown_is_ignored_and_what_cannot_be_read_changes_nothing() {
    let world = World::new().await;
    let worker = worker(&world, "5.1.1").await;
    world.sessions_are(1).await;
    world.apply(job("A", Standalone)).await;
    let id = world.run("A").await;
    worker.received("runJob").await;

    // States that do not exist yet are none of those that do.
    for status in [0, 1, 2, 6, 7, 99, i64::MAX] {
        let (code, _) =
            worker.post("reportInstanceStatus", worker.report_message(id.0, status, (1, 2), None).to_string()).await;
        assert_eq!(code, 200, "{status}");
    }
    assert_eq!(world.instance(id).await.state, InstanceState::Dispatched);

    // Fields that are gone, numbers too big for what they were, texts that are something else.
    let mut gone = worker.report_message(id.0, 5, (1, 2), None);
    gone.as_object_mut().unwrap().remove("instanceId");
    worker.post("reportInstanceStatus", gone.to_string()).await;
    for (field, value) in [
        ("instanceId", json!({ "high": 1, "low": 2 })),
        ("instanceId", json!(1e300)),
        ("instanceStatus", json!([5])),
        ("instanceStatus", json!("done")),
        ("result", json!({ "base64": "eA==" })),
        ("sourceAddress", json!(["127.0.0.1:1"])),
    ] {
        let mut message = worker.report_message(id.0, 5, (1, 2), None);
        message[field] = value;
        let (code, answer) = worker.post("reportInstanceStatus", message.to_string()).await;
        assert_eq!((code, answer), (400, Value::Null), "{field}");
    }
    let (code, _) = worker.post("workerRetires", "{}").await;
    assert_eq!(code, 404);
    assert_eq!(world.instance(id).await.state, InstanceState::Dispatched);

    // The same end in another order, with texts for numbers and things that nobody knows.
    let text = format!(
        r#"{{"future":{{"a":[1,{{"b":null}}]}},"reportTime":"9","sourceAddress":"{}","startTime":"1","result":"x",
            "instanceStatus":"5","instanceId":"{}","jobId":1.0,"appId":"{}","needAlert":"maybe"}}"#,
        worker.address, id.0, world.app.0
    );
    let (code, answer) = worker.post("reportInstanceStatus", text).await;
    assert_eq!((code, answer), (200, json!({ "success": true })));
    assert_eq!(world.instance(id).await.state, InstanceState::Succeeded);
}

#[tokio::test]
async fn s1_5_a_peer_of_another_age_is_served_or_told_why_not_and_its_work_goes_on() {
    let world = World::new().await;
    // Newer than anything that we know of.
    let newer = worker(&world, "9.9.9").await;
    world.sessions_are(1).await;
    world.apply(job("A", Standalone)).await;
    let id = world.run("A").await;
    newer.received("runJob").await;
    newer.report(id.0, 3, (1000, 2000), None).await;
    until("it runs", async || world.instance(id).await.state == InstanceState::Running).await;

    // Older than protocol names, or with one that is not served: refused with a remedy before it begins.
    let answer = newer.discover(&format!("/server/acquire?appId={}", world.app.0)).await;
    assert!(answer["message"].as_str().unwrap().contains("set the worker's protocol to HTTP"), "{answer}");
    let mut other = newer.heartbeat_message();
    other["workerAddress"] = "127.0.0.1:9".into();
    for protocol in [json!("AKKA"), json!("QUIC"), Value::Null] {
        other["protocol"] = protocol;
        let (code, _) = newer.post("workerHeartbeat", other.to_string()).await;
        assert_eq!(code, 200);
    }
    assert_eq!(world.server().state().partitions.status().gauges.sessions, 1);

    // Nor does it disturb what runs on a worker that says so of itself all of a sudden.
    let mut same = newer.heartbeat_message();
    same["protocol"] = "QUIC".into();
    newer.post("workerHeartbeat", same.to_string()).await;
    assert_eq!(newer.report(id.0, 5, (1000, 3000), Some("x")).await, json!({ "success": true }));
    let row = world.instance(id).await;
    assert_eq!((row.state, row.attempt), (InstanceState::Succeeded, 1));
}

/// Workers of one version are replaced by those of another while a job fires all the time.
#[tokio::test]
async fn s5_3_workers_are_replaced_under_load_and_every_fire_runs_once() {
    let world = World::new().await;
    let every = Duration::from_millis(100);
    let runs = Arc::new(std::sync::Mutex::new(Vec::new()));
    let serve = |worker: Arc<FakeWorker>| {
        let runs = runs.clone();
        tokio::spawn(async move {
            loop {
                let id = worker.received("runJob").await["instanceId"].as_i64().expect("a number");
                runs.lock().expect("no panic").push(id);
                worker.report(id, 5, (1000, 2000), None).await;
            }
        })
    };
    let old = worker(&world, "4.3.6").await;
    world.sessions_are(1).await;
    let serving = serve(old.clone());
    let mut spec = job("A", Standalone);
    spec.trigger =
        Some(pendula_model::trigger::Trigger { fixed_rate: Some(every), ..pendula_model::trigger::Trigger::default() });
    let saved = world.apply(spec).await;
    let ran = async |count: usize| until("it fires", async || runs.lock().expect("no panic").len() >= count).await;
    ran(10).await;
    let new = worker(&world, "5.1.1").await;
    let _serving = serve(new);
    world.sessions_are(2).await;
    ran(20).await;
    // It takes nothing new, finishes, and goes; its last heartbeat is not its last word.
    old.stop_beating();
    let mut last = old.heartbeat_message();
    last["overload"] = true.into();
    old.post("workerHeartbeat", last.to_string()).await;
    ran(30).await;
    serving.abort();
    drop(old);
    ran(60).await;
    let disable = pendula_engine::Command::JobEnable { app: world.app, name: "A".to_owned(), enabled: false };
    world.command(disable).await;
    let filter = || InstanceFilter { job: Some(saved.id), limit: 1000, ..InstanceFilter::default() };
    let rows = async || world.store().instances(filter()).await.expect("the store answers").items;
    until("all of them end", async || rows().await.iter().all(|row| row.state.is_ended())).await;
    let rows = rows().await;
    let mut runs = runs.lock().expect("no panic").clone();
    runs.sort_unstable();
    let mut fired: Vec<_> = rows.iter().map(|row| row.id.0).collect();
    fired.sort_unstable();
    assert_eq!(runs, fired, "each fire ran once");
    assert!(rows.iter().all(|row| row.state == InstanceState::Succeeded));
    let mut times: Vec<_> = rows.iter().filter_map(|row| Some(row.fire_time?.as_millis())).collect();
    times.sort_unstable();
    assert!(times.windows(2).all(|pair| pair[1] - pair[0] == 100), "none is missing: {times:?}");
}
