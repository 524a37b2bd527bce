//! What a server must do for PowerJob's workers (one test or more for each of the musts), and must not let happen.

use std::sync::Arc;
use std::time::Duration;

use pendula_model::instance::{InstanceState, Reason};
use pendula_model::job::JobSpec;
use pendula_model::policy::{Backoff, Delivery, Retry};
use pendula_model::powerjob::{PowerJob, PowerJobExecuteType::*};
use pendula_model::processor::Processor;
use pendula_model::trigger::Trigger;
use pendula_model::worker::{LabelRule, Minimum};
use pendula_powerjob::Timing;
use serde_json::{Value, json};

use crate::fake::FakeWorker;
use crate::world::{HURRY, World, job, soon, until};

const RUNS: i64 = 3;
const FAILED: i64 = 4;
const DONE: i64 = 5;

async fn worker(world: &World) -> Arc<FakeWorker> {
    let worker = Arc::new(FakeWorker::start(world.gateway.local_addr, "demo").await);
    worker.heartbeat().await;
    worker.beat();
    world.sessions_are(1).await;
    worker
}

#[tokio::test]
async fn must_1_discovery_answers_200_with_three_fields_and_a_bare_number() {
    let world = World::new().await;
    let worker = worker(&world).await;
    let answer = worker.discover("/server/assert?appName=demo").await;
    assert_eq!(answer, json!({ "success": true, "data": world.app.0, "message": null }));
    let answer = worker.discover("/server/assertV2?appName=demo").await;
    assert_eq!(answer["data"], json!({ "appId": world.app.0 }));
    let answer = worker.discover(&format!("/server/acquire?protocol=HTTP&appId={}&currentServer=x", world.app.0)).await;
    assert_eq!(answer["data"], world.gateway.advertised);
    for path in ["/server/assert?appName=other", "/server/acquire?appId=77&protocol=HTTP", "/server/acquire?appId=77"] {
        let answer = worker.discover(path).await;
        assert_eq!(answer["success"], false, "{path}");
        let mut fields: Vec<_> = answer.as_object().unwrap().keys().collect();
        fields.sort();
        assert_eq!(fields, ["data", "message", "success"], "{path}");
    }
}

#[tokio::test]
async fn must_2_messages_are_read_as_every_version_writes_them_and_answered_with_200() {
    let world = World::new().await;
    let worker = Arc::new(FakeWorker::start(world.gateway.local_addr, "demo").await);
    let mut message = worker.heartbeat_message();
    message["appId"] = world.app.0.to_string().into();
    message["systemMetrics"]["cpuLoad"] = "NaN".into();
    message["systemMetrics"]["jvmUsedMemory"] = "Infinity".into();
    message["overload"] = Value::Null;
    message["aNewField"] = json!([{ "x": 1 }]);
    let (status, answer) = worker.post("workerHeartbeat", message.to_string()).await;
    assert_eq!((status, answer), (200, Value::Null));
    world.sessions_are(1).await;
    let (status, _) = worker.post("reportLog", r#"{"workerAddress":"a:1","instanceLogContents":null}"#).await;
    assert_eq!(status, 200);
    // A worker that waits for its app.
    message["appId"] = (-1).into();
    let (status, _) = worker.post("workerHeartbeat", message.to_string()).await;
    assert_eq!(status, 200);
}

#[tokio::test]
async fn must_3_nothing_is_sent_that_an_old_worker_does_not_know() {
    let known = [
        "allWorkerAddress",
        "maxWorkerCount",
        "jobId",
        "wfInstanceId",
        "instanceId",
        "executeType",
        "processorType",
        "processorInfo",
        "instanceTimeoutMS",
        "jobParams",
        "instanceParams",
        "threadConcurrency",
        "taskRetryNum",
        "timeExpressionType",
        "timeExpression",
        "maxInstanceNum",
        "alarmConfig",
        "logConfig",
    ];
    for (version, sees_it) in
        [("4.3.0", false), ("4.3.7", false), ("5.0.0-beta", false), ("UNKNOWN", false), ("5.1.1", true)]
    {
        let world = World::new().await;
        let worker = Arc::new(FakeWorker::start_as(world.gateway.local_addr, "demo", version, None).await);
        worker.heartbeat().await;
        world.sessions_are(1).await;
        let advanced_runtime_config = Some(r#"{"taskTrackerBehavior":11}"#.to_owned());
        let powerjob = PowerJob { advanced_runtime_config, ..PowerJob::new("com.acme.A") };
        world.apply(pendula_model::job::JobSpec::new("a", Processor::PowerJob(powerjob))).await;
        world.run("a").await;
        let message = worker.received("runJob").await;
        let fields = message.as_object().unwrap();
        assert!(fields.values().all(|value| !value.is_null()), "{message}");
        let unknown: Vec<_> = fields.keys().filter(|field| !known.contains(&field.as_str())).collect();
        assert_eq!(unknown.is_empty(), !sees_it, "{version}: {unknown:?}");
    }
}

#[tokio::test]
async fn must_4_the_dispatch_is_on_disk_before_it_is_sent_and_the_result_may_overtake_its_answer() {
    let world = World::new().await;
    let worker = worker(&world).await;
    world.apply(job("A", Standalone)).await;
    let id = world.run("A").await;
    worker.received("runJob").await;
    let row = world.instance(id).await;
    assert!(row.state.is_placed());
    assert_eq!(row.worker.map(|worker| worker.name.to_string()), Some(worker.address.clone()));
    // The one final message of a short job, perhaps before our call returned.
    let answer = worker.report(id.0, DONE, (1000, 1001), Some("42 rows")).await;
    assert_eq!(answer, json!({ "success": true }));
    // It was on disk when that was said.
    let row = world.instance(id).await;
    assert_eq!(row.state, InstanceState::Succeeded);
    assert_eq!(row.result.map(|result| result.bytes), Some(b"42 rows".to_vec()));
}

#[tokio::test]
async fn must_5_every_final_report_is_answered_with_success_and_moves_nothing_that_ended() {
    let world = World::new().await;
    let worker = worker(&world).await;
    world.apply(job("A", Standalone)).await;
    let id = world.run("A").await;
    worker.received("runJob").await;
    worker.report(id.0, DONE, (1000, 1001), Some("first")).await;
    for (status, times) in [(DONE, (1000, 1001)), (DONE, (1000, 9001)), (FAILED, (1000, 9002)), (FAILED, (5000, 9003))]
    {
        assert_eq!(worker.report(id.0, status, times, Some("late")).await, json!({ "success": true }));
    }
    // Of an instance that never was, and of another app's.
    assert_eq!(worker.report(77, DONE, (1, 2), None).await, json!({ "success": true }));
    assert_eq!(worker.report(id.0, RUNS, (1000, 9004), None).await, Value::Null);
    let row = world.instance(id).await;
    assert_eq!((row.state, row.attempt), (InstanceState::Succeeded, 1));
    assert_eq!(row.result.map(|result| result.bytes), Some(b"first".to_vec()));
}

#[tokio::test]
async fn must_6_a_stop_ends_by_itself_and_late_news_do_not_undo_it() {
    let world = World::new().await;
    let worker = worker(&world).await;
    world.apply(job("A", Standalone)).await;
    let id = world.run("A").await;
    worker.received("runJob").await;
    worker.report(id.0, RUNS, (1000, 2000), None).await;
    until("it runs", async || world.instance(id).await.state == InstanceState::Running).await;
    world.command(pendula_engine::Command::InstanceStop { instance: id }).await;
    worker.received("stopInstance").await;
    // The worker never says a word about it.
    let row = world.ended(id).await;
    assert_eq!((row.state, row.reason), (InstanceState::Stopped, Some(Reason::BY_USER)));
    for status in [RUNS, FAILED, DONE] {
        worker.report(id.0, status, (1000, 3000), Some("late")).await;
    }
    assert_eq!(world.instance(id).await.state, InstanceState::Stopped);
    // It goes on, and is told again.
    worker.received("stopInstance").await;
}

#[tokio::test]
async fn must_6_a_stop_counts_when_the_worker_has_no_tracker_any_more() {
    let world = World::new().await;
    let worker = worker(&world).await;
    worker.be_stubborn(true);
    world.apply(job("A", Standalone)).await;
    let id = world.run("A").await;
    worker.received("runJob").await;
    world.command(pendula_engine::Command::InstanceStop { instance: id }).await;
    worker.received("stopInstance").await;
    worker.received("queryInstanceStatus").await;
    worker.received("queryInstanceStatus").await;
    assert_eq!(world.instance(id).await.state, InstanceState::Stopping);
    // The thread noticed at last that it was interrupted.
    worker.forget(id.0);
    let row = world.ended(id).await;
    assert_eq!((row.state, row.reason), (InstanceState::Stopped, Some(Reason::BY_USER)));
}

#[tokio::test]
async fn must_6_a_timeout_is_the_servers() {
    let world = World::new().await;
    let worker = worker(&world).await;
    let mut spec = job("A", Standalone);
    spec.timeout = Some(Duration::from_millis(200));
    spec.stop_grace = Some(Duration::from_millis(1));
    world.apply(spec).await;
    let id = world.run("A").await;
    let message = worker.received("runJob").await;
    assert_eq!(message["instanceTimeoutMS"], 200);
    worker.received("stopInstance").await;
    let row = world.ended(id).await;
    assert_eq!((row.state, row.reason), (InstanceState::Failed, Some(Reason::TIMEOUT)));
}

#[tokio::test]
async fn must_7_names_are_valid_for_the_oldest_worker_and_firing_is_ours() {
    let world = World::new().await;
    let worker = worker(&world).await;
    let daily = json!({ "every": "1h", "from": "00:00", "to": "24:00" });
    let triggers = [
        (None, "API", None),
        (Some(Trigger { cron: Some("0 0 3 * * ?".into()), ..Trigger::default() }), "CRON", Some("0 0 3 * * ?")),
        (Some(Trigger { fixed_rate: Some(Duration::from_secs(3600)), ..Trigger::default() }), "API", None),
        (Some(Trigger { fixed_delay: Some(Duration::from_secs(3600)), ..Trigger::default() }), "API", None),
        (Some(Trigger { daily_window: serde_json::from_value(daily).unwrap(), ..Trigger::default() }), "API", None),
    ];
    for (number, (trigger, kind, expression)) in triggers.into_iter().enumerate() {
        let name = format!("job{number}");
        let mut spec = job(&name, MapReduce);
        spec.trigger = trigger;
        spec.enabled = false;
        world.apply(spec).await;
        let id = world.run(&name).await;
        let message = worker.received("runJob").await;
        assert_eq!(message["timeExpressionType"], kind);
        assert_eq!(message["timeExpression"].as_str(), expression);
        assert_eq!(message["executeType"], "MAP_REDUCE");
        assert_eq!(message["processorType"], "BUILT_IN");
        assert_eq!(message["allWorkerAddress"], json!([worker.address]));
        assert_eq!(message["instanceId"], id.0);
        worker.report(id.0, DONE, (1, 2), None).await;
    }
    // Unless it is asked to fire by itself.
    for (repeat, kind) in [("fixed_rate", "FIXED_RATE"), ("fixed_delay", "FIXED_DELAY")] {
        let processor = json!({ "powerjob": { "info": "com.acme.A", "in_worker": { repeat: "5s" } } });
        world.apply(JobSpec::new(repeat, serde_json::from_value(processor).unwrap())).await;
        let id = world.run(repeat).await;
        let message = worker.received("runJob").await;
        assert_eq!((&message["timeExpressionType"], &message["timeExpression"]), (&json!(kind), &json!("5000")));
        assert_eq!(message["maxInstanceNum"], 0, "without it there is no tracker");
        worker.report(id.0, DONE, (1, 2), None).await;
    }
}

#[tokio::test]
async fn must_8_a_tracker_learns_who_may_take_tasks_and_containers_are_refused_cleanly() {
    let world = World::new().await;
    let one = worker(&world).await;
    let two = Arc::new(FakeWorker::start_as(world.gateway.local_addr, "demo", "4.3.6", Some("blue")).await);
    two.heartbeat().await;
    two.beat();
    world.sessions_are(2).await;
    let mut spec = job("A", Map);
    let saved = world.apply(spec.clone()).await;
    let ask = async |job: i64| {
        let (_, answer) = one.post("queryJobCluster", json!({ "appId": world.app.0, "jobId": job }).to_string()).await;
        answer
    };
    let addresses = |answer: &Value| -> Vec<String> {
        use base64::Engine;
        let text = answer["data"].as_str().expect("data");
        assert!(!text.contains(['=', '+', '/']), "{text}");
        let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(text).expect("base64url");
        serde_json::from_slice(&bytes).expect("a list")
    };
    let mut both = vec![one.address.clone(), two.address.clone()];
    both.sort();
    assert_eq!(addresses(&ask(saved.id.0).await), both);
    spec.workers.labels.insert("tag".to_owned(), LabelRule::Is("blue".to_owned()));
    world.apply(spec.clone()).await;
    assert_eq!(addresses(&ask(saved.id.0).await), std::slice::from_ref(&two.address));
    spec.workers.min = Minimum { memory: Some(pendula_model::worker::Bytes(1 << 40)), ..Minimum::default() };
    world.apply(spec).await;
    assert!(addresses(&ask(saved.id.0).await).is_empty());
    assert_eq!(ask(77).await, json!({ "success": false, "message": "can't find jobInfo by jobId: 77" }));
    let (status, answer) = one.post("queryContainer", r#"{"containerId":9}"#).await;
    assert_eq!((status, answer["success"].as_bool()), (200, Some(false)));
}

#[test]
fn must_12_nobody_is_given_up_before_two_of_its_reports_can_be_missing() {
    let timing = pendula_powerjob::Timing::default();
    assert!(timing.silent >= Duration::from_secs(60));
    assert!(timing.lost_after >= Duration::from_secs(60));
    // A worker waits for 5 s for the answer to its final report.
    assert!(timing.answer_within < Duration::from_secs(5));
}

#[tokio::test]
async fn must_11_akka_is_refused_with_a_remedy() {
    let world = World::new().await;
    let worker = worker(&world).await;
    for protocol in ["&protocol=AKKA", "", "&protocol="] {
        let answer = worker.discover(&format!("/server/acquire?appId={}{protocol}", world.app.0)).await;
        assert_eq!(answer["success"], false);
        assert!(answer["message"].as_str().unwrap().contains("set the worker's protocol to HTTP"), "{answer}");
    }
    let answer = worker.discover(&format!("/server/acquire?appId={}&protocol=http", world.app.0)).await;
    assert_eq!(answer["success"], true);
}

#[tokio::test]
async fn must_12_a_silent_worker_is_gone_and_its_work_runs_elsewhere() {
    let world = World::new().await;
    let one = worker(&world).await;
    world.apply(job("A", Standalone)).await;
    let id = world.run("A").await;
    one.received("runJob").await;
    one.report(id.0, RUNS, (1000, 2000), None).await;
    one.stop_beating();
    let two = Arc::new(FakeWorker::start(world.gateway.local_addr, "demo").await);
    two.heartbeat().await;
    two.beat();
    two.received("runJob").await;
    two.report(id.0, DONE, (1000, 2000), Some("two")).await;
    let row = world.ended(id).await;
    assert_eq!((row.attempt, row.losses), (2, 1));
    // It comes back, with an end that nobody waits for any more.
    one.heartbeat().await;
    until("it is back", async || one.report(id.0, DONE, (1000, 9000), Some("one")).await == json!({ "success": true }))
        .await;
    assert_eq!(world.instance(id).await.result.map(|result| result.bytes), Some(b"two".to_vec()));
}

#[tokio::test]
async fn must_12_an_instance_that_its_worker_does_not_know_is_lost_and_at_most_once_holds() {
    for (delivery, reruns) in [(Delivery::AtMostOnce, false), (Delivery::AtLeastOnce, true)] {
        let world = World::new().await;
        let worker = worker(&world).await;
        let mut spec = job("A", Standalone);
        spec.delivery = delivery;
        world.apply(spec).await;
        let id = world.run("A").await;
        worker.received("runJob").await;
        worker.report(id.0, RUNS, (1000, 2000), None).await;
        // As after a restart of the process on the same address.
        worker.forget(id.0);
        if reruns {
            worker.received("runJob").await;
            assert_eq!(world.instance(id).await.attempt, 2);
            // Attempt 1 comes late, of a tracker that is not the second's.
            worker.report(id.0, DONE, (1000, 2500), Some("one")).await;
            worker.report(id.0, DONE, (3000, 3500), Some("two")).await;
            assert_eq!(world.ended(id).await.result.map(|result| result.bytes), Some(b"two".to_vec()));
        } else {
            let row = world.ended(id).await;
            assert_eq!((row.state, row.reason), (InstanceState::Failed, Some(Reason::WORKER_LOST)));
        }
    }
}

#[tokio::test]
async fn a_dispatch_that_a_worker_ignores_is_noticed() {
    let world = World::new().await;
    let worker = worker(&world).await;
    worker.ignore(true);
    world.apply(job("A", Standalone)).await;
    let id = world.run("A").await;
    worker.received("runJob").await;
    worker.received("queryInstanceStatus").await;
    worker.ignore(false);
    worker.received("runJob").await;
    worker.report(id.0, DONE, (1000, 2000), None).await;
    assert_eq!(world.ended(id).await.state, InstanceState::Succeeded);
}

#[tokio::test]
async fn a_worker_that_cannot_read_the_message_fails_the_attempt_and_the_job_is_tried_again() {
    let world = World::new().await;
    let worker = worker(&world).await;
    worker.refuse(Some(500));
    let mut spec = job("A", Standalone);
    spec.retry = Retry { attempts: 2, backoff: Backoff::Fixed(Duration::from_millis(1)), ..Retry::default() };
    world.apply(spec).await;
    let id = world.run("A").await;
    worker.received("runJob").await;
    worker.received("runJob").await;
    let row = world.ended(id).await;
    assert_eq!(row.reason.map(|reason| reason.to_string()), Some("refused_by_worker".to_owned()));
}

#[tokio::test]
async fn a_processor_that_a_worker_lacks_is_looked_for_elsewhere_and_its_other_jobs_still_reach_it() {
    // The second is what workers before 4.3 say.
    let words = [
        "init TaskTracker failed, reason: java.lang.ClassNotFoundException: com.acme.A",
        "ClassNotFoundException: com.acme.A",
    ];
    for why in words {
        is_looked_for_elsewhere(why).await;
    }
}

async fn is_looked_for_elsewhere(why: &str) {
    let world = World::new().await;
    let one = worker(&world).await;
    world.apply(job("A", Standalone)).await;
    world.apply(job("B", Standalone)).await;
    let id = world.run("A").await;
    one.received("runJob").await;
    one.forget(id.0);
    one.report(id.0, FAILED, (1000, 1000), Some(why)).await;
    let two = Arc::new(FakeWorker::start(world.gateway.local_addr, "demo").await);
    two.heartbeat().await;
    two.beat();
    two.received("runJob").await;
    two.report(id.0, DONE, (1000, 2000), None).await;
    assert_eq!(world.ended(id).await.state, InstanceState::Succeeded);
    two.stop_beating();
    world.sessions_are(1).await;
    let id = world.run("B").await;
    assert_eq!(one.received("runJob").await["processorInfo"], "com.acme.B");
    one.report(id.0, DONE, (3000, 4000), None).await;
}

/// Its address is all that says who a worker is, and another process may have it sooner than the old one is missed.
#[tokio::test]
async fn a_worker_that_began_anew_as_another_version_with_another_tag_is_known_as_that() {
    let world = World::new().await;
    let mut worker = FakeWorker::start_as(world.gateway.local_addr, "demo", "4.3.6", Some("old")).await;
    worker.heartbeat().await;
    world.sessions_are(1).await;
    let mut spec = job("A", Standalone);
    spec.workers.labels.insert("tag".to_owned(), LabelRule::Is("new".to_owned()));
    world.apply(spec).await;
    let id = world.run("A").await;
    (worker.version, worker.tag) = ("5.1.1", Some("new"));
    worker.heartbeat().await;
    worker.received("runJob").await;
    worker.report(id.0, DONE, (1000, 1000), None).await;
    assert_eq!(world.ended(id).await.state, InstanceState::Succeeded);
    world.sessions_are(1).await;
}

/// An order may reach it before its first heartbeat reaches us, and it may not have begun when it is asked.
#[tokio::test]
async fn what_a_worker_that_began_anew_does_not_know_yet_is_not_lost_at_once() {
    let timing = Timing { ask_again: Duration::from_secs(5), ..HURRY };
    let world = World::with(&["powerjob.allow=demo=127.0.0.0/8"], timing).await;
    let mut worker = FakeWorker::start(world.gateway.local_addr, "demo").await;
    worker.heartbeat().await;
    world.sessions_are(1).await;
    world.apply(job("A", Standalone)).await;
    let id = world.run("A").await;
    worker.received("runJob").await;
    worker.report(id.0, RUNS, (1000, 1010), None).await;
    until("it runs", async || world.instance(id).await.state == InstanceState::Running).await;
    worker.forget(id.0);
    let before = worker.asked();
    worker.version = "5.1.2";
    worker.heartbeat().await;
    until("it is asked", async || worker.asked() > before).await;
    world.sessions_are(1).await;
    worker.report(id.0, DONE, (1000, 1100), None).await;
    let row = world.ended(id).await;
    assert_eq!((row.state, row.attempt), (InstanceState::Succeeded, 1));
}

/// Only servers say of a message that it came over Akka.
#[tokio::test]
async fn s1_5_who_claims_over_http_to_speak_akka_is_not_believed() {
    let world = World::new().await;
    let worker = FakeWorker::start(world.gateway.local_addr, "demo").await;
    let client = reqwest::Client::builder().no_proxy().build().expect("a client");
    let url = format!("http://{}/server/workerHeartbeat", world.gateway.local_addr);
    let heartbeat = client.post(url).header("pendula-powerjob-spoken", "named 7");
    let sent = heartbeat.body(worker.heartbeat_message().to_string()).send().await;
    assert_eq!(sent.expect("it answers").status(), 200);
    world.sessions_are(1).await;
    world.apply(job("A", Standalone)).await;
    let id = world.run("A").await;
    assert_eq!(worker.received("runJob").await["instanceId"], id.0);
}

/// How workers are replaced one by one: nothing is lost with one that has nothing.
#[tokio::test]
async fn a_drained_worker_gets_nothing_more_until_another_process_has_its_place() {
    // Nobody is missed for being silent here.
    let timing = Timing { silent: Duration::from_secs(3600), ..HURRY };
    let world = World::with(&["powerjob.allow=demo=127.0.0.0/8"], timing).await;
    let old = worker(&world).await;
    world.apply(job("A", Standalone)).await;
    let running = world.run("A").await;
    old.received("runJob").await;
    let drain = pendula_engine::Command::WorkerDrain { app: world.app, worker: old.address.clone() };
    world.command(drain).await;
    let waiting = world.run("A").await;
    // It is the same session still, and ends what it has.
    old.heartbeat().await;
    old.report(running.0, DONE, (1000, 1100), None).await;
    assert_eq!(world.ended(running).await.state, InstanceState::Succeeded);
    assert_eq!(world.instance(waiting).await.state, InstanceState::Waiting);

    old.die().await;
    world.sessions_are(0).await;
    let port = tokio::net::TcpListener::bind(&old.address).await.expect("it is free");
    let gateway = world.gateway.local_addr;
    let new = Arc::new(FakeWorker::start_on(port, gateway, "demo", "5.1.1", None).await);
    new.heartbeat().await;
    assert_eq!(new.received("runJob").await["instanceId"], waiting.0);
    new.report(waiting.0, DONE, (2000, 2100), None).await;
    assert_eq!(world.ended(waiting).await.state, InstanceState::Succeeded);
}

#[tokio::test]
async fn a_processor_that_itself_lacks_a_class_has_failed() {
    let world = World::new().await;
    let worker = worker(&world).await;
    world.apply(job("A", Standalone)).await;
    let id = world.run("A").await;
    worker.received("runJob").await;
    worker.report(id.0, FAILED, (1000, 1000), Some("ClassNotFoundException: com.acme.Driver")).await;
    assert_eq!(world.ended(id).await.state, InstanceState::Failed);
}

#[tokio::test]
async fn a_failed_attempt_is_retried_on_the_same_worker_and_repeats_of_its_end_are_not_taken_for_the_next_ones() {
    let world = World::new().await;
    let worker = worker(&world).await;
    let mut spec = job("A", Standalone);
    spec.retry = Retry { attempts: 2, backoff: Backoff::Fixed(Duration::from_millis(1)), ..Retry::default() };
    world.apply(spec).await;
    let id = world.run("A").await;
    worker.received("runJob").await;
    worker.report(id.0, FAILED, (1000, 2000), Some("no rows")).await;
    worker.received("runJob").await;
    // The same end, sent again with another time: the tracker is the old one.
    worker.report(id.0, FAILED, (1000, 2500), Some("no rows")).await;
    assert!(world.instance(id).await.state.is_placed());
    worker.report(id.0, DONE, (3000, 3500), Some("rows")).await;
    let row = world.ended(id).await;
    // While the worker still had the first tracker, it refused: that is another attempt, and no failure.
    assert_eq!((row.state, row.failures), (InstanceState::Succeeded, 1));
}

#[tokio::test]
async fn parameters_arrive_as_texts() {
    let world = World::new().await;
    let worker = worker(&world).await;
    let mut spec = job("A", Standalone);
    spec.params = json!({ "day": "today" }).as_object().unwrap().clone();
    world.apply(spec.clone()).await;
    let id = world.run_with("A", Some(json!({ "instance_params": "raw text" }))).await;
    let message = worker.received("runJob").await;
    assert_eq!(message["instanceParams"], "raw text");
    assert_eq!(message["jobParams"], r#"{"day":"today"}"#);
    worker.report(id.0, DONE, (1, 2), None).await;
    let Processor::PowerJob(powerjob) = &mut spec.processor else { panic!() };
    powerjob.job_params = Some("full".to_owned());
    world.apply(spec).await;
    world.run("A").await;
    let message = worker.received("runJob").await;
    assert_eq!((&message["jobParams"], message.get("instanceParams")), (&json!("full"), None));
}

#[tokio::test]
async fn lines_are_in_the_attempts_log_also_those_that_come_after_its_end() {
    let world = World::new().await;
    let worker = worker(&world).await;
    world.apply(job("A", Standalone)).await;
    let id = world.run("A").await;
    worker.received("runJob").await;
    let line = |text: &str| {
        let line = json!({ "instanceId": id.0, "logTime": 1_761_000_001_000_i64, "logLevel": 4, "logContent": text });
        json!({ "workerAddress": worker.address, "instanceLogContents": [line] }).to_string()
    };
    worker.post("reportLog", line("one")).await;
    worker.report(id.0, DONE, (1000, 2000), None).await;
    worker.post("reportLog", line("two\n  at line 2")).await;
    let address = &worker.address;
    let expected = format!(
        "2025-10-20 22:40:01.000 [{address}] ERROR one\n2025-10-20 22:40:01.000 [{address}] ERROR two\n  at line 2\n"
    );
    assert_eq!(world.log(id, 1).await, expected);
}

#[tokio::test]
async fn a_restarted_server_adopts_what_workers_have_and_runs_nothing_twice() {
    let mut world = World::new().await;
    let worker = worker(&world).await;
    let mut spec = job("A", Standalone);
    spec.delivery = Delivery::AtMostOnce;
    world.apply(spec).await;
    let (runs, ends) = (world.run("A").await, world.run("A").await);
    worker.received("runJob").await;
    worker.received("runJob").await;
    worker.report(runs.0, RUNS, (1000, 2000), None).await;
    until("it runs", async || world.instance(runs).await.state == InstanceState::Running).await;
    world.restart().await;
    // One ended meanwhile, and is reported until somebody takes it.
    soon("the report is taken", async {
        while worker.report(ends.0, DONE, (1000, 3000), Some("meanwhile")).await != json!({ "success": true }) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    worker.report(runs.0, DONE, (1000, 4000), Some("at last")).await;
    for (id, result) in [(runs, "at last"), (ends, "meanwhile")] {
        let row = world.ended(id).await;
        assert_eq!((row.state, row.attempt), (InstanceState::Succeeded, 1));
        assert_eq!(row.result.map(|result| result.bytes), Some(result.as_bytes().to_vec()));
    }
    let again = worker.unread().await.into_iter().filter(|path| path == "runJob").count();
    assert_eq!(again, 0);
}
