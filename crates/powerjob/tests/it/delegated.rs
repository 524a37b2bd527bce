//! Instances that a worker spreads by itself.

use std::sync::Arc;

use pendula_model::instance::InstanceState;
use pendula_model::powerjob::PowerJobExecuteType::*;
use serde_json::json;

use crate::fake::FakeWorker;
use crate::world::{HURRY, World, job};

#[tokio::test]
async fn a_broadcast_is_one_attempt_on_its_tracker_which_gets_all_that_may_take_part_itself_first() {
    let world = World::new().await;
    let mut workers = Vec::new();
    for version in ["4.3.0", "4.3.9", "5.1.1"] {
        let worker = Arc::new(FakeWorker::start_as(world.gateway.local_addr, "demo", version, None).await);
        worker.heartbeat().await;
        worker.beat();
        workers.push(worker);
    }
    world.sessions_are(3).await;
    let kinds = [
        ("B", Broadcast, "BROADCAST", 3),
        ("M", Map, "MAP", 3),
        ("R", MapReduce, "MAP_REDUCE", 3),
        // Nobody else takes part.
        ("S", Standalone, "STANDALONE", 1),
    ];
    for (name, execute_type, word, count) in kinds {
        world.apply(job(name, execute_type)).await;
        let id = world.run(name).await;
        crate::world::until("somebody has it", async || world.instance(id).await.worker.is_some()).await;
        let tracker = world.instance(id).await.worker.expect("just seen").name;
        let tracker = workers.iter().find(|worker| *worker.address == *tracker).expect("one of ours");
        let message = tracker.received("runJob").await;
        assert_eq!(message["executeType"], word);
        let all = message["allWorkerAddress"].as_array().unwrap();
        assert_eq!((all.len(), &all[0]), (count, &json!(tracker.address)));
        let mut report = tracker.report_message(id.0, 3, (1000, 2000), None);
        report["totalTaskNum"] = 100_000.into();
        report["succeedTaskNum"] = 40_000.into();
        report["failedTaskNum"] = 10_000.into();
        tracker.post("reportInstanceStatus", report.to_string()).await;
        let explain = pendula_engine::Command::InstanceExplain { instance: id, task: None };
        let pendula_engine::Reply::Explanation(text) = world.command(explain).await else { panic!("an explanation") };
        assert!(
            text.contains("40000 succeeded and 10000 failed of 100000 tasks") || text.contains("running"),
            "{text}"
        );
        tracker.report(id.0, 5, (1000, 3000), Some("total:100000")).await;
        let row = world.ended(id).await;
        assert_eq!((row.state, row.attempt), (InstanceState::Succeeded, 1));
    }
}

/// A server that just began knows only the workers that found it already, and a broadcast goes to those that it names.
#[tokio::test]
async fn a_broadcast_waits_until_all_workers_can_have_found_a_new_server() {
    let timing = pendula_powerjob::Timing { settle: std::time::Duration::from_secs(1), ..HURRY };
    let world = World::with(&["powerjob.allow=demo=127.0.0.0/8"], timing).await;
    let early = Arc::new(FakeWorker::start(world.gateway.local_addr, "demo").await);
    early.heartbeat().await;
    early.beat();
    world.sessions_are(1).await;
    world.apply(job("B", Broadcast)).await;
    world.apply(job("A", Standalone)).await;
    let (id, stopped) = (world.run("B").await, world.run("B").await);
    crate::world::until("it has both", async || {
        let placed = async |id| world.instance(id).await.state.is_placed();
        placed(id).await && placed(stopped).await
    })
    .await;
    // One that is stopped meanwhile never reaches anybody; what is no broadcast does not wait.
    world.command(pendula_engine::Command::InstanceStop { instance: stopped }).await;
    assert_eq!(world.ended(stopped).await.state, InstanceState::Stopped);
    let single = world.run("A").await;
    assert_eq!(early.received("runJob").await["instanceId"], single.0);
    let late = Arc::new(FakeWorker::start(world.gateway.local_addr, "demo").await);
    late.heartbeat().await;
    late.beat();
    let message = early.received("runJob").await;
    assert_eq!(message["instanceId"], id.0);
    assert_eq!(message["allWorkerAddress"], json!([early.address, late.address]));
    early.report(id.0, 5, (1000, 3000), None).await;
    assert_eq!(world.ended(id).await.attempt, 1);
    assert!(!early.unread().await.contains(&"runJob".to_owned()));
}
