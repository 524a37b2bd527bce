//! Maps that the server tracks: each task goes to a worker's processors by itself.

use std::sync::Arc;
use std::time::Duration;

use pendula_model::InstanceId;
use pendula_model::TaskId;
use pendula_model::instance::{InstanceState, TaskState};
use pendula_model::job::JobSpec;
use pendula_model::mode::{ExecutionMode, Map};
use pendula_model::policy::{Delivery, Retry};
use pendula_model::powerjob::PowerJobExecuteType;
use pendula_model::task::Task;
use pendula_powerjob::Timing;
use pendula_store::TaskFilter;
use serde_json::{Value, json};

use crate::fake::FakeWorker;
use crate::world::{HURRY, World, job, until};

const RECEIVED: i64 = 3;
const RUNS: i64 = 4;
const FAILED: i64 = 5;
const DONE: i64 = 6;

fn split() -> JobSpec {
    let mode = ExecutionMode::Map(Map { per_worker: Some(10), ..Map::default() });
    JobSpec { mode, ..job("Split", PowerJobExecuteType::Standalone) }
}

async fn worker(world: &World) -> Arc<FakeWorker> {
    let worker = Arc::new(FakeWorker::start(world.gateway.local_addr, "demo").await);
    worker.heartbeat().await;
    worker.beat();
    worker
}

/// As a processor's thread reports it; the answer.
async fn report(worker: &FakeWorker, task: &Value, status: i64, result: &str) -> Value {
    let message = json!({
        "instanceId": task["instanceInfo"]["instanceId"], "subInstanceId": task["subInstanceId"], "taskId": task["taskId"],
        "status": status, "result": result, "reportTime": 1_761_000_000_123_i64, "cmd": null, "appendedWfContext": null,
    });
    worker.post_to("taskTracker/reportTaskStatus", message.to_string()).await.1
}

/// Emits `contents`, counted from `first`.
async fn emit(worker: &FakeWorker, task: &Value, first: usize, contents: &[&str]) -> Value {
    let id = task["taskId"].as_str().expect("a text");
    let sub_task =
        |(number, content): (usize, &&str)| json!({ "taskId": format!("{id}.{number}"), "taskContent": content });
    let sub_tasks: Vec<_> = (first..).zip(contents).map(sub_task).collect();
    let message = json!({
        "instanceId": task["instanceInfo"]["instanceId"], "subInstanceId": task["subInstanceId"], "taskName": "SHARD",
        "subTasks": sub_tasks,
    });
    worker.post_to("taskTracker/mapTask", message.to_string()).await.1
}

async fn of_tracker(worker: &FakeWorker, id: InstanceId, kind: i64) {
    let message = json!({
        "type": kind, "instanceId": id.0, "time": 1_761_000_000_123_i64, "remainTaskNum": 0, "address": worker.address,
    });
    let (status, _) = worker.post_to("taskTracker/reportProcessorTrackerStatus", message.to_string()).await;
    assert_eq!(status, 200);
}

async fn tasks(world: &World, id: InstanceId) -> Vec<Task> {
    let filter = TaskFilter { instance: id, states: Vec::new(), name_contains: None, from: TaskId::ROOT, limit: 100 };
    world.store().tasks(filter).await.expect("the store answers").items
}

fn ok() -> Value {
    json!({ "success": true })
}

/// Nobody can be asked about a single task, and who had it is gone.
#[tokio::test]
async fn what_a_process_had_is_lost_as_soon_as_another_one_has_its_place() {
    // Silence alone is no reason here.
    let timing = Timing { lost_after: Duration::from_secs(3600), ..HURRY };
    let world = World::with(&["powerjob.allow=demo=127.0.0.0/8"], timing).await;
    let mut worker = FakeWorker::start(world.gateway.local_addr, "demo").await;
    worker.heartbeat().await;
    world.sessions_are(1).await;
    world.apply(split()).await;
    let id = world.run("Split").await;
    let root = worker.received("startTask").await;
    assert_eq!(report(&worker, &root, RUNS, "").await, Value::Null);
    until("it runs", async || tasks(&world, id).await.iter().any(|task| task.state == TaskState::Running)).await;
    worker.version = "5.1.2";
    worker.heartbeat().await;
    let again = worker.received("startTask").await;
    assert_ne!(again["taskId"], root["taskId"], "another attempt");
    assert_eq!(report(&worker, &again, DONE, "").await, ok());
    assert_eq!(world.ended(id).await.state, InstanceState::Succeeded);
}

#[tokio::test]
async fn a_map_is_spread_by_the_server_and_every_task_is_ours() {
    let world = World::new().await;
    let worker = worker(&world).await;
    world.sessions_are(1).await;
    world.apply(split()).await;
    let id = world.run("Split").await;
    let root = worker.received("startTask").await;
    let info = &root["instanceInfo"];
    assert_eq!((&root["taskName"], &info["executeType"]), (&json!("OMS_ROOT_TASK"), &json!("MAP")));
    assert_eq!(root["taskTrackerAddress"], json!(world.gateway.advertised));
    // A code here; and with 0 the worker would end at once.
    assert_eq!((&info["timeExpressionType"], &info["processorInfo"]), (&json!(1), &json!("com.acme.Split")));
    assert_eq!(info["instanceTimeoutMS"], json!(2_147_483_647));
    assert_eq!(report(&worker, &root, RECEIVED, "").await, Value::Null);
    report(&worker, &root, RUNS, "").await;
    // "AQID" and zeros: what is at the end may mean something.
    let contents = ["AQIDAAAA", "AQIEAAAA", "AQIFAAAA"];
    assert_eq!(emit(&worker, &root, 0, &contents[..2]).await, ok());
    // The answer was lost: again, and with more.
    assert_eq!(emit(&worker, &root, 0, &contents[..2]).await, ok());
    assert_eq!(emit(&worker, &root, 2, &contents[2..]).await, ok());
    assert_eq!(report(&worker, &root, DONE, "split").await, ok());
    let mut got = Vec::new();
    for _ in 0..3 {
        let task = worker.received("startTask").await;
        assert_eq!(task["taskName"], json!("SHARD"));
        got.push(task["taskContent"].as_str().expect("bytes as text").to_owned());
        report(&worker, &task, RUNS, "").await;
        assert_eq!(report(&worker, &task, DONE, "ok").await, ok());
        // It did not hear that.
        assert_eq!(report(&worker, &task, DONE, "ok").await, ok());
    }
    got.sort();
    assert_eq!(got, contents);
    let row = world.ended(id).await;
    assert_eq!(row.state, InstanceState::Succeeded);
    let tasks = tasks(&world, id).await;
    assert!(tasks.iter().all(|task| task.state == TaskState::Succeeded && task.attempt == 1), "{tasks:?}");
    assert_eq!(tasks.len(), 4);
    // The worker keeps no threads for it.
    assert_eq!(worker.received("stopTasks").await["instanceId"], json!(id.0));
}

#[tokio::test]
async fn what_a_worker_lost_runs_again_only_where_the_job_says_so() {
    let world = World::new().await;
    let worker = worker(&world).await;
    world.sessions_are(1).await;
    for (delivery, expected) in [(Delivery::AtLeastOnce, TaskState::Succeeded), (Delivery::AtMostOnce, TaskState::Lost)]
    {
        world.apply(JobSpec { delivery, ..split() }).await;
        let id = world.run("Split").await;
        let root = worker.received("startTask").await;
        report(&worker, &root, RUNS, "").await;
        emit(&worker, &root, 0, &["AQID"]).await;
        report(&worker, &root, DONE, "").await;
        let first = worker.received("startTask").await;
        report(&worker, &first, RUNS, "").await;
        // Alive; and then it says that it has nothing.
        of_tracker(&worker, id, 2).await;
        until("it runs", async || tasks(&world, id).await[1].state == TaskState::Running).await;
        of_tracker(&worker, id, 1).await;
        if delivery == Delivery::AtLeastOnce {
            let second = worker.received("startTask").await;
            assert_ne!(second["taskId"], first["taskId"]);
            // News of the first try move nothing any more.
            assert_eq!(report(&worker, &first, FAILED, "late").await, ok());
            assert_eq!(report(&worker, &second, DONE, "").await, ok());
        }
        world.ended(id).await;
        assert_eq!(tasks(&world, id).await[1].state, expected);
    }
}

#[tokio::test]
async fn a_failed_task_is_tried_again_and_its_failure_is_the_workers_words() {
    let world = World::new().await;
    let worker = worker(&world).await;
    world.sessions_are(1).await;
    let retry = Retry { attempts: 2, ..Retry::default() };
    world.apply(JobSpec { retry, ..split() }).await;
    let id = world.run("Split").await;
    for attempt in 1..=2 {
        let root = worker.received("startTask").await;
        assert_eq!(root["taskCurrentRetryNums"], json!(attempt - 1));
        report(&worker, &root, RUNS, "").await;
        assert_eq!(report(&worker, &root, FAILED, "no luck").await, ok());
    }
    let row = world.ended(id).await;
    assert_eq!(row.state, InstanceState::Failed);
    let root = &tasks(&world, id).await[0];
    assert_eq!((root.state, root.message.as_deref()), (TaskState::Failed, Some("no luck")));
}

#[tokio::test]
async fn a_stop_ends_all_of_it_on_the_worker() {
    let world = World::new().await;
    let worker = worker(&world).await;
    world.sessions_are(1).await;
    world.apply(split()).await;
    let id = world.run("Split").await;
    let root = worker.received("startTask").await;
    report(&worker, &root, RUNS, "").await;
    until("it runs", async || world.instance(id).await.state == InstanceState::Running).await;
    world.command(pendula_engine::Command::InstanceStop { instance: id }).await;
    assert_eq!(worker.received("stopTasks").await["instanceId"], json!(id.0));
    assert_eq!(world.ended(id).await.state, InstanceState::Stopped);
    // Who goes on emitting is refused, and throws.
    assert_ne!(emit(&worker, &root, 0, &["AQID"]).await["success"], json!(true));
}

/// A new owner knows from the store what the worker has. Its end arrives there, because workers repeat it.
#[tokio::test]
async fn a_restarted_server_takes_over_what_runs_without_a_second_run() {
    let mut world = World::new().await;
    let worker = worker(&world).await;
    world.sessions_are(1).await;
    world.apply(split()).await;
    let id = world.run("Split").await;
    let root = worker.received("startTask").await;
    report(&worker, &root, RUNS, "").await;
    emit(&worker, &root, 0, &["AQID"]).await;
    report(&worker, &root, DONE, "").await;
    let task = worker.received("startTask").await;
    report(&worker, &task, RUNS, "").await;
    until("it runs", async || tasks(&world, id).await[1].state == TaskState::Running).await;
    world.restart().await;
    until("it is taken", async || report(&worker, &task, DONE, "").await == ok()).await;
    assert_eq!(world.ended(id).await.state, InstanceState::Succeeded);
    let tasks = tasks(&world, id).await;
    assert!(tasks.iter().all(|task| task.attempt == 1), "{tasks:?}");
}

#[tokio::test]
async fn strange_reports_change_nothing() {
    let world = World::new().await;
    let worker = worker(&world).await;
    world.sessions_are(1).await;
    world.apply(split()).await;
    let id = world.run("Split").await;
    let root = worker.received("startTask").await;
    report(&worker, &root, RUNS, "").await;
    let with_id = |id: &str| {
        let mut other = root.clone();
        other["taskId"] = json!(id);
        other
    };
    for strange in ["", "0", "0-7", "99-1", "0.1.2", "x", "-1"] {
        report(&worker, &with_id(strange), DONE, "").await;
        assert_ne!(emit(&worker, &with_id(strange), 0, &["AQID"]).await["success"], json!(true), "{strange}");
    }
    // A gap would lose sub-tasks.
    assert_ne!(emit(&worker, &root, 5, &["AQID"]).await["success"], json!(true));
    assert_eq!(world.instance(id).await.state, InstanceState::Running);
    assert_eq!(tasks(&world, id).await.len(), 1);
}
