//! Broadcasts that the server tracks: each worker runs its piece as an instance of its own.

use std::collections::BTreeMap;
use std::sync::Arc;

use pendula_model::instance::{InstanceState, Reason, TaskState};
use pendula_model::job::JobSpec;
use pendula_model::mode::{Broadcast, ExecutionMode, Map};
use pendula_model::powerjob::PowerJobExecuteType::{self, Standalone};
use pendula_model::task::Task;
use pendula_model::{InstanceId, TaskId};
use pendula_store::TaskFilter;
use serde_json::json;

use crate::fake::FakeWorker;
use crate::world::{World, job, soon, until};

const RUNS: i64 = 3;
const FAILED: i64 = 4;
const DONE: i64 = 5;

async fn fleet(world: &World, count: usize) -> Vec<Arc<FakeWorker>> {
    let mut workers = Vec::new();
    for _ in 0..count {
        let worker = Arc::new(FakeWorker::start(world.gateway.local_addr, "demo").await);
        worker.heartbeat().await;
        worker.beat();
        workers.push(worker);
    }
    world.sessions_are(count).await;
    workers
}

fn everywhere(settings: Broadcast) -> JobSpec {
    JobSpec { mode: ExecutionMode::Broadcast(settings), ..job("E", Standalone) }
}

async fn tasks(world: &World, id: InstanceId) -> BTreeMap<String, Task> {
    let filter = TaskFilter { instance: id, states: Vec::new(), name_contains: None, from: TaskId::ROOT, limit: 100 };
    let page = world.store().tasks(filter).await.expect("the store answers");
    page.items.into_iter().filter_map(|task| Some((task.target.as_ref()?.name.to_string(), task))).collect()
}

async fn others_got_nothing(workers: &[Arc<FakeWorker>]) {
    for worker in workers {
        let unread = worker.unread().await;
        assert!(!unread.contains(&"runJob".to_owned()), "{unread:?}");
    }
}

#[tokio::test]
async fn s2_1_each_worker_runs_a_tracked_broadcast_once_and_a_lost_piece_goes_nowhere() {
    let world = World::new().await;
    let workers = fleet(&world, 3).await;
    world.apply(everywhere(Broadcast::default())).await;
    let id = world.run("E").await;
    for worker in &workers {
        let message = worker.received("runJob").await;
        assert_eq!((&message["instanceId"], &message["executeType"]), (&json!(id.0), &json!("STANDALONE")));
        worker.report(id.0, RUNS, (1000, 2000), None).await;
    }
    workers[0].report(id.0, DONE, (1000, 3000), Some("one")).await;
    workers[2].stop_beating();
    workers[1].report(id.0, DONE, (1000, 3000), Some("two")).await;
    let row = world.ended(id).await;
    assert_eq!(row.state, InstanceState::Failed);
    let found = tasks(&world, id).await;
    let states: Vec<_> =
        workers.iter().map(|worker| (found[&worker.address].state, found[&worker.address].attempt)).collect();
    assert_eq!(states, [(TaskState::Succeeded, 1), (TaskState::Succeeded, 1), (TaskState::Lost, 1)]);
    others_got_nothing(&workers).await;
    // It comes back with its end, which nobody waits for any more.
    workers[2].heartbeat().await;
    until("it is taken", async || {
        workers[2].report(id.0, DONE, (1000, 9000), None).await == json!({ "success": true })
    })
    .await;
    assert_eq!(tasks(&world, id).await[&workers[2].address].state, TaskState::Lost);
}

#[tokio::test]
async fn s2_2_a_swallowed_dispatch_is_lost_and_a_swallowed_answer_is_not() {
    let world = World::new().await;
    let workers = fleet(&world, 3).await;
    workers[0].ignore(true);
    workers[1].be_mute(true);
    world.apply(everywhere(Broadcast::default())).await;
    let id = world.run("E").await;
    for worker in &workers {
        worker.received("runJob").await;
    }
    workers[2].report(id.0, DONE, (1000, 3000), None).await;
    until("it is lost", async || tasks(&world, id).await[&workers[0].address].state == TaskState::Lost).await;
    // It has it, as it says when it is asked.
    until("it runs", async || tasks(&world, id).await[&workers[1].address].state == TaskState::Running).await;
    workers[1].report(id.0, DONE, (1000, 9000), None).await;
    let row = world.ended(id).await;
    assert_eq!(row.state, InstanceState::Failed);
    let found = tasks(&world, id).await;
    assert!(found.values().all(|task| task.attempt == 1), "{found:?}");
    assert_eq!(found[&workers[1].address].state, TaskState::Succeeded);
    others_got_nothing(&workers).await;
}

#[tokio::test]
async fn a_lost_piece_is_sent_to_the_same_worker_again_where_the_job_says_so() {
    let world = World::new().await;
    let workers = fleet(&world, 2).await;
    workers[0].ignore(true);
    world.apply(everywhere(Broadcast { rerun_on_same_worker: true, ..Broadcast::default() })).await;
    let id = world.run("E").await;
    workers[0].received("runJob").await;
    workers[0].ignore(false);
    workers[1].received("runJob").await;
    workers[1].report(id.0, DONE, (1000, 3000), None).await;
    workers[0].received("runJob").await;
    workers[0].report(id.0, DONE, (1000, 3000), None).await;
    let row = world.ended(id).await;
    assert_eq!(row.state, InstanceState::Succeeded);
    assert_eq!(tasks(&world, id).await[&workers[0].address].attempt, 2);
    others_got_nothing(&workers).await;
}

#[tokio::test]
async fn a_restarted_server_adopts_the_pieces_of_a_broadcast() {
    let mut world = World::new().await;
    let workers = fleet(&world, 3).await;
    world.apply(everywhere(Broadcast::default())).await;
    let id = world.run("E").await;
    for worker in &workers {
        worker.received("runJob").await;
        worker.report(id.0, RUNS, (1000, 2000), None).await;
    }
    let run = async |world: &World, address: &str| tasks(world, id).await[address].state == TaskState::Running;
    until("all run", async || {
        run(&world, &workers[0].address).await
            && run(&world, &workers[1].address).await
            && run(&world, &workers[2].address).await
    })
    .await;
    world.restart().await;
    for worker in &workers {
        soon("the report is taken", async {
            while worker.report(id.0, DONE, (1000, 3000), Some("done")).await != json!({ "success": true }) {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        })
        .await;
    }
    let row = world.ended(id).await;
    assert_eq!(row.state, InstanceState::Succeeded);
    assert!(tasks(&world, id).await.values().all(|task| task.attempt == 1));
    others_got_nothing(&workers).await;
}

#[tokio::test]
async fn a_worker_without_the_class_fails_its_piece_and_each_has_a_log_of_its_own() {
    let world = World::new().await;
    let workers = fleet(&world, 2).await;
    world.apply(everywhere(Broadcast::default())).await;
    let id = world.run("E").await;
    for worker in &workers {
        worker.received("runJob").await;
    }
    for worker in &workers {
        let line = json!({ "instanceId": id.0, "logTime": 1_761_000_001_000_i64, "logLevel": 2, "logContent": worker.address });
        let message = json!({ "workerAddress": worker.address, "instanceLogContents": [line] });
        worker.post("reportLog", message.to_string()).await;
    }
    let why = "init TaskTracker failed, reason: java.lang.ClassNotFoundException: com.acme.E";
    workers[0].report(id.0, FAILED, (1000, 1000), Some(why)).await;
    workers[1].report(id.0, DONE, (1000, 2000), None).await;
    let row = world.ended(id).await;
    assert_eq!(row.state, InstanceState::Failed);
    let found = tasks(&world, id).await;
    let failed = &found[&workers[0].address];
    assert_eq!((failed.state, failed.reason.clone()), (TaskState::Failed, Some(Reason::PROCESSOR_MISSING)));
    assert_eq!(found[&workers[1].address].state, TaskState::Succeeded);
    for worker in &workers {
        let task = u32::try_from(found[&worker.address].id.0).unwrap();
        let log = world.log_of(id, task, 1).await;
        assert!(log.ends_with(&format!("INFO {}\n", worker.address)), "{log}");
        assert_eq!(log.lines().count(), 1, "{log}");
    }
    others_got_nothing(&workers).await;
}

#[tokio::test]
async fn a_stopped_broadcast_ends_when_no_worker_has_it_any_more() {
    let world = World::new().await;
    let workers = fleet(&world, 2).await;
    workers[1].be_stubborn(true);
    world.apply(everywhere(Broadcast::default())).await;
    let id = world.run("E").await;
    for worker in &workers {
        worker.received("runJob").await;
        worker.report(id.0, RUNS, (1000, 2000), None).await;
    }
    world.command(pendula_engine::Command::InstanceStop { instance: id }).await;
    for worker in &workers {
        worker.received("stopInstance").await;
    }
    until("one has stopped", async || tasks(&world, id).await[&workers[0].address].state == TaskState::Stopped).await;
    assert_eq!(world.instance(id).await.state, InstanceState::Stopping);
    workers[1].forget(id.0);
    let row = world.ended(id).await;
    assert_eq!((row.state, row.reason), (InstanceState::Stopped, Some(Reason::BY_USER)));
}

#[test]
fn what_a_server_cannot_track_is_refused_with_what_can() {
    let refused = |spec: JobSpec| spec.validate().unwrap_err().to_string();
    everywhere(Broadcast::default()).validate().unwrap();
    let with = |execute_type: PowerJobExecuteType, settings| JobSpec {
        mode: ExecutionMode::Broadcast(settings),
        ..job("E", execute_type)
    };
    for (spec, says) in [
        (with(PowerJobExecuteType::Broadcast, Broadcast::default()), "leave one of them out"),
        (with(PowerJobExecuteType::MapReduce, Broadcast::default()), "leave one of them out"),
        (with(Standalone, Broadcast { pre: true, ..Broadcast::default() }), "without pre and post"),
        (with(Standalone, Broadcast { post: true, ..Broadcast::default() }), "without pre and post"),
        (JobSpec { mode: ExecutionMode::Map(Map::default()), ..job("E", Standalone) }, "per_worker"),
        (JobSpec { mode: ExecutionMode::MapReduce(Map::default()), ..job("E", Standalone) }, "as broadcast or map"),
    ] {
        let said = refused(spec);
        assert!(said.contains(says), "{said}");
    }
}
