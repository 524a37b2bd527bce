//! Instances with many tasks, as they are shown and what can be done to them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::body::Body;
use http::{Method, header};
use http_body_util::BodyExt;
use pendula_model::api::LogEvent;
use pendula_model::instance::{InstanceState, Payload, Reason, TaskState};
use pendula_model::mode::{ExecutionMode, Map};
use pendula_model::policy::Backoff;
use pendula_model::{InstanceId, TaskId};
use pendula_worker::{Failure, Output, SubTask, Task, TaskRole};
use serde_json::{Value, json};
use tokio::sync::{Notify, Semaphore};
use tower::ServiceExt;

use super::logs::follow_at;
use super::{Site, request};
use crate::world::{start, until};

fn map_reduce(tolerate: u64) -> ExecutionMode {
    serde_json::from_value(json!({ "map_reduce": { "tolerate": tolerate } })).expect("a mode")
}

/// Emits five sub-tasks, of which two fail, and counts the results.
async fn work(task: Task) -> Result<Output, Failure> {
    match task.role() {
        Some(TaskRole::Root) => {
            task.log_line("emitting");
            let tasks = vec![
                SubTask::text("a.txt", "one"),
                SubTask::json("b.json", &json!({ "n": 2 }))?,
                SubTask::new("c.bin", Payload { content_type: "image/png".into(), bytes: vec![0, 255, 1] }),
                SubTask::named("Bad-1"),
                SubTask::named("bad-2"),
            ];
            task.map(tasks).await?;
            Ok(Output::text("emitted"))
        }
        Some(TaskRole::Reduce) => {
            let (mut results, mut seen) = (task.results()?, Vec::new());
            while let Some(result) = results.next().await? {
                let bytes = result.result.map_or(0, |result| result.bytes.len());
                seen.push(json!([result.task, result.name, result.outcome.to_string(), bytes]));
            }
            Output::json(&seen)
        }
        _ if task.task_name().to_lowercase().starts_with("bad") => {
            task.log_line("this will not do");
            Err(Failure::new(Reason::EXIT_CODE, "no good").without_retry())
        }
        _ => {
            let (content_type, bytes) = (task.input_content_type().to_owned(), task.input().to_vec());
            Ok(Output::default().with_result(Payload { content_type, bytes }))
        }
    }
}

async fn ended_map(tolerate: u64) -> (Site, InstanceId, crate::world::Running) {
    let site = Site::new().await;
    let worker = start(site.world.worker().slots(4).handler("map", work));
    site.world.job("map", |spec| spec.mode = map_reduce(tolerate)).await;
    let id = site.world.run("map").await;
    site.world.ended(id).await;
    (site, id, worker)
}

fn names(page: &Value) -> Vec<&str> {
    page["items"].as_array().expect("a page").iter().map(|task| task["name"].as_str().expect("a name")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_map_reduce_shows_how_far_it_is_and_each_of_its_tasks() {
    let (site, id, _worker) = ended_map(2).await;
    let path = format!("/api/v1/instances/{id}");
    let view = site.get(&path).await.expect(200);
    assert_eq!((&view["mode"], &view["state"]), (&json!("map_reduce"), &json!("succeeded")), "{view}");
    let tasks = &view["tasks"];
    for (field, expect) in [("total", 5), ("succeeded", 3), ("failed", 2), ("waiting", 0), ("running", 0)] {
        assert_eq!(tasks[field], expect, "{tasks}");
    }
    assert_eq!((&tasks["phase"], &tasks["estimate"], view.get("attempts")), (&json!("after"), &Value::Null, None));
    assert!(tasks["rate"].as_f64().expect("a number") > 0.0, "{tasks}");
    let outcomes = view["result"]["json"].as_array().expect("what reduce left");
    assert_eq!(outcomes.len(), 5);
    assert_eq!((&outcomes[0], &outcomes[3]), (&json!([1, "a.txt", "succeeded", 3]), &json!([4, "Bad-1", "failed", 0])));
    let listed = site.get("/api/v1/instances?app=demo").await.expect(200);
    assert_eq!((&listed["items"][0]["tasks"]["total"], &listed["items"][0]["mode"]), (&json!(5), &json!("map_reduce")));

    let list = async |query: &str| site.get(&format!("{path}/tasks?{query}")).await.expect(200);
    assert_eq!(names(&list("name=bad").await), ["Bad-1", "bad-2"]);
    assert_eq!(names(&list("state=succeeded&name=.txt").await), ["a.txt"]);
    let failed = list("state=failed,lost").await;
    let first = &failed["items"][0];
    assert_eq!((&first["task"], &first["role"], &first["parent"]), (&json!(4), &json!("sub"), &json!(0)));
    assert_eq!(
        (&first["reason"], &first["message"], &first["worker"]),
        (&json!("exit_code"), &json!("no good"), &json!("w1"))
    );
    let (mut roles, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = list(&format!("limit=3{cursor}")).await;
        roles.extend(page["items"].as_array().unwrap().iter().map(|task| task["role"].as_str().unwrap().to_owned()));
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(roles, ["root", "sub", "sub", "sub", "sub", "sub", "reduce"]);
    for query in ["state=done", "limit=0", "cursor=x", "names=a"] {
        let code = site.get(&format!("{path}/tasks?{query}")).await.code();
        assert!(["invalid_query", "invalid_cursor"].contains(&code.as_str()), "{query}: {code}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_is_read_with_input_result_attempts_and_log() {
    let (site, id, _worker) = ended_map(2).await;
    let path = format!("/api/v1/instances/{id}");
    let task = async |number: u64| site.get(&format!("{path}/tasks/{number}")).await.expect(200);
    let (text, structured, binary, failed) = (task(1).await, task(2).await, task(3).await, task(4).await);
    assert_eq!((&text["input"]["text"], &text["result"]["text"]), (&json!("one"), &json!("one")));
    assert_eq!((&structured["input"]["json"], &structured["result"]["json"]), (&json!({ "n": 2 }), &json!({ "n": 2 })));
    assert_eq!((&binary["result"]["base64"], &binary["result"]["content_type"]), (&json!("AP8B"), &json!("image/png")));
    assert_eq!(
        (&failed["attempts"][0]["state"], &failed["attempts"][0]["reason"]),
        (&json!("failed"), &json!("exit_code"))
    );
    assert_eq!((&task(0).await["emitted"], &task(0).await["message"]), (&json!(5), &json!("emitted")));

    let raw = async |number: u64| {
        let get = request(Method::GET, &format!("{path}/tasks/{number}/result"))
            .header(header::AUTHORIZATION, format!("Bearer {}", site.token));
        site.router.clone().oneshot(get.body(Body::empty()).unwrap()).await.unwrap()
    };
    let answer = raw(3).await;
    let headers = answer.headers().clone();
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes()[..], [0, 255, 1]);
    for (name, value) in [
        ("content-type", "image/png"),
        ("x-content-type-options", "nosniff"),
        ("content-security-policy", "sandbox; default-src 'none'"),
        ("content-disposition", &format!("attachment; filename=\"{id}-3\"")),
    ] {
        assert_eq!(headers[name], value);
    }
    site.get(&format!("{path}/tasks/4/result")).await.refused(404, "result_not_found");
    for number in ["7", "99999999999999999999", "x", "-1"] {
        site.get(&format!("{path}/tasks/{number}")).await.refused(404, "task_not_found");
    }

    let log = async |query: &str| site.get(&format!("{path}/logs?{query}")).await;
    // Logs come apart from reports, and may come later.
    for query in ["", "task=4", "task=5"] {
        until("the log is there", async || log(query).await.expect(200)["end"] == true).await;
    }
    assert_eq!(log("").await.expect(200)["data"], "emitting\n");
    assert_eq!(log("task=4").await.expect(200)["data"], "this will not do\n");
    log("task=7").await.refused(404, "task_not_found");
    log("task=4&attempt=2").await.refused(404, "attempt_not_found");
    let file = site.get(&format!("{path}/logs/download?task=5")).await;
    assert_eq!(file.text, "this will not do\n");
    assert_eq!(file.headers[header::CONTENT_DISPOSITION], format!("attachment; filename=\"{id}-5-1.log\""));
}

#[tokio::test(flavor = "multi_thread")]
async fn why_something_ended_is_answered_for_the_instance_and_for_each_task() {
    let (site, id, _worker) = ended_map(0).await;
    let why = async |query: &str| site.get(&format!("/api/v1/instances/{id}/explain{query}")).await;
    let whole = why("").await.expect(200);
    assert_eq!((&whole["reason"], &whole["tasks"]["failed"]), (&json!("tasks_failed"), &json!(2)));
    assert!(whole["hint"].as_str().unwrap().contains("retry"), "{whole}");
    let task = why("?task=4").await.expect(200);
    assert_eq!((&task["task_state"], &task["worker"]), (&json!("failed"), &json!("w1")));
    assert_eq!(task["why"], "it ended failed on worker w1, because of exit_code: no good");
    why("?task=7").await.refused(404, "task_not_found");
    why("?task=x").await.refused(400, "invalid_query");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_did_not_succeed_is_repeated_alone_and_reduce_reads_the_rest_too() {
    let site = Site::new().await;
    let is_mended = Arc::new(AtomicBool::new(false));
    let mended = is_mended.clone();
    let handler = move |task: Task| {
        let is_bad = task.task_name().to_lowercase().starts_with("bad");
        let mended = is_bad && mended.load(Ordering::SeqCst);
        async move { if mended { Ok(Output::text("good now")) } else { work(task).await } }
    };
    let _worker = start(site.world.worker().slots(4).handler("map", handler));
    site.world.job("map", |spec| spec.mode = map_reduce(0)).await;
    let first = site.world.run("map").await;
    assert_eq!(site.world.ended(first).await.reason, Some(Reason::TASKS_FAILED));
    let retry = async |id: InstanceId| {
        let run = site.post(&format!("/api/v1/instances/{id}/retry"), &json!({ "only": "unsuccessful" })).await;
        run.expect(201)["instance"].as_str().unwrap().parse::<InstanceId>().unwrap()
    };
    // It fails again, so that the second repetition has a chain behind it.
    let second = retry(first).await;
    assert_eq!(site.world.ended(second).await.state, InstanceState::Failed);
    is_mended.store(true, Ordering::SeqCst);
    let third = retry(second).await;
    assert_eq!(site.world.ended(third).await.state, InstanceState::Succeeded);
    let view = site.get(&format!("/api/v1/instances/{third}")).await.expect(200);
    assert_eq!((&view["tasks"]["total"], &view["rerun_of"]), (&json!(2), &json!(second)), "{view}");
    let mut read: Vec<_> = view["result"]["json"].as_array().unwrap().clone();
    read.sort_by_key(|result| result[0].as_u64());
    let read: Vec<_> = read.iter().map(|result| (result[0].clone(), result[2].clone())).collect();
    assert_eq!(read, (1..=5).map(|task| (json!(task), json!("succeeded"))).collect::<Vec<_>>());

    let path = format!("/api/v1/instances/{third}/retry");
    site.post(&path, &json!({ "only": "some" })).await.refused(400, "invalid_body");
    site.post(&path, &Value::Null).await.expect(201);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_map_whose_root_failed_is_repeated_as_a_whole_or_not_at_all() {
    let site = Site::new().await;
    let handler = |task: Task| async move {
        match task.role() {
            Some(TaskRole::Root) => {
                task.map([SubTask::named("made")]).await?;
                Err(Failure::new(Reason::EXIT_CODE, "half way").without_retry())
            }
            _ => Ok(Output::default()),
        }
    };
    let _worker = start(site.world.worker().slots(4).handler("map", handler));
    site.world.job("map", |spec| spec.mode = ExecutionMode::Map(Map::default())).await;
    site.world.job("alone", |_| {}).await;
    let id = site.world.run("map").await;
    assert_eq!(site.world.ended(id).await.reason, Some(Reason::ROOT_FAILED));
    let path = format!("/api/v1/instances/{id}");
    let problem = site.post(&format!("{path}/retry"), &json!({ "only": "unsuccessful" })).await;
    let problem = problem.refused(409, "nothing_to_retry");
    assert!(problem["detail"].as_str().unwrap().contains("run all of it again"), "{problem}");
    site.post(&format!("{path}/tasks/retry"), &json!({})).await.refused(409, "instance_ended");
    site.post(&format!("{path}/retry"), &json!({})).await.expect(201);

    let alone = site.post("/api/v1/apps/demo/jobs/alone/run", &json!({ "delay": "1h" })).await.expect(201);
    let path = format!("/api/v1/instances/{}", alone["instance"].as_str().unwrap());
    site.post(&format!("{path}/tasks/retry"), &json!({})).await.refused(409, "nothing_to_retry");
    let many = json!({ "tasks": vec![1; 10_001] });
    site.post(&format!("{path}/tasks/retry"), &many).await.refused(422, "invalid_value");
}

/// A sharded job of three whose middle shard fails until it is mended, while the others wait.
struct Shards {
    site: Site,
    id: InstanceId,
    is_mended: Arc<AtomicBool>,
    may_end: Arc<Semaphore>,
    _worker: crate::world::Running,
}

async fn shards() -> Shards {
    let site = Site::new().await;
    let (is_mended, may_end) = (Arc::new(AtomicBool::new(false)), Arc::new(Semaphore::new(0)));
    let (mended, gate) = (is_mended.clone(), may_end.clone());
    let handler = move |task: Task| {
        let (mended, gate) = (mended.clone(), gate.clone());
        async move {
            let index = task.shard().map(|shard| shard.index);
            task.log_line(format!("shard {index:?}"));
            if index == Some(1) && !mended.load(Ordering::SeqCst) {
                return Err(Failure::new(Reason::EXIT_CODE, "not yet").without_retry());
            }
            gate.acquire().await.expect("nobody closes it").forget();
            Ok(Output::default())
        }
    };
    let _worker = start(site.world.worker().slots(4).handler("sharded", handler));
    let mode = serde_json::from_value(json!({ "sharded": 3 })).expect("a mode");
    site.world.job("sharded", |spec| spec.mode = mode).await;
    let id = site.world.run("sharded").await;
    let store = site.world.server().state().store.clone();
    until("one shard fails and two run", async || {
        let counts = store.fanout(id).await.unwrap().map(|fanout| fanout.counts);
        counts.is_some_and(|counts| counts.failed == 1 && counts.running == 2)
    })
    .await;
    Shards { site, id, is_mended, may_end, _worker }
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_tasks_of_an_active_instance_are_tried_again() {
    let Shards { site, id, is_mended, may_end, _worker } = shards().await;
    let path = format!("/api/v1/instances/{id}/tasks/retry");
    let none = site.post(&path, &json!({ "tasks": [0, 2, 77] })).await.expect(200);
    assert_eq!(none, json!({ "retried": 0, "left": 1 }), "what runs or does not exist is left alone");
    is_mended.store(true, Ordering::SeqCst);
    let all = site.call(Method::POST, &path, Some(&site.token), None).await.expect(200);
    assert_eq!(all, json!({ "retried": 1, "left": 0 }));
    may_end.add_permits(3);
    assert_eq!(site.world.ended(id).await.state, InstanceState::Succeeded);
    let shard = site.get(&format!("/api/v1/instances/{id}/tasks/1")).await.expect(200);
    assert_eq!((&shard["attempt"], &shard["state"]), (&json!(2), &json!("succeeded")), "{shard}");
    let metrics = || site.world.server().state().metrics.encode();
    until("the metrics have them", async || {
        metrics().contains(r#"pendula_tasks_ended_total{state="succeeded"} 3"#)
            && metrics().contains(r#"pendula_tasks_ended_total{state="failed"} 1"#)
            && metrics().contains("pendula_tasks_running 0")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_is_followed_to_its_own_end_and_the_instance_with_its_progress() {
    let Shards { site, id, may_end, _worker, .. } = shards().await;
    let stream = |query: &str| format!("/api/v1/instances/{id}/logs?follow=true{query}");
    let failed = follow_at(&site, &stream("&task=1"), None, |_| false).await;
    let text: String = failed
        .iter()
        .filter_map(|(_, event)| match event {
            LogEvent::Log { data, .. } => Some(data.as_str()),
            _ => None,
        })
        .collect();
    assert_eq!(text, "shard Some(1)\n");
    let Some((_, LogEvent::End { state, reason, .. })) = failed.last() else { panic!("{failed:?}") };
    assert_eq!((*state, reason.as_deref()), (InstanceState::Failed, Some("exit_code")));

    let (released, path) = (Notify::new(), stream(""));
    let events = tokio::join!(
        follow_at(&site, &path, None, |event| {
            if matches!(event, LogEvent::Tasks { tasks } if tasks.counts.running == 2) {
                released.notify_one();
            }
            false
        }),
        async {
            released.notified().await;
            may_end.add_permits(2);
        }
    )
    .0;
    let told = events.iter().filter_map(|(_, event)| match event {
        LogEvent::Tasks { tasks } => Some((tasks.counts.running, tasks.counts.succeeded)),
        _ => None,
    });
    let told: Vec<_> = told.collect();
    assert_eq!((told.first(), told.last()), (Some(&(2, 0)), Some(&(0, 2))), "{events:?}");
    assert!(matches!(events.last(), Some((_, LogEvent::End { state: InstanceState::Failed, .. }))), "{events:?}");
    let store = &site.world.server().state().store;
    assert_eq!(store.task(id, TaskId(1)).await.unwrap().map(|task| task.state), Some(TaskState::Failed));
}

#[tokio::test(flavor = "multi_thread")]
async fn why_a_task_waits_or_runs_is_asked_of_the_partition() {
    let Shards { site, id, may_end, _worker, .. } = shards().await;
    let why = async |query: &str| site.get(&format!("/api/v1/instances/{id}/explain{query}")).await.expect(200);
    let whole = why("").await;
    assert_eq!((&whole["tasks"]["running"], &whole["workers"][0]["worker"]), (&json!(2), &json!("w1")), "{whole}");
    let running = why("?task=0").await;
    assert_eq!((&running["task"], &running["worker"]), (&json!(0), &json!("w1")), "{running}");
    let ended = why("?task=1").await;
    assert_eq!((&ended["task_state"], &ended["state"]), (&json!("failed"), &json!("running")), "{ended}");
    may_end.add_permits(2);
    site.world.ended(id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broadcast_shows_its_frozen_targets_in_its_own_view_alone() {
    let site = Site::new().await;
    let noop = |_: Task| async { Ok(Output::default()) };
    let _one = start(site.world.worker().name("a").handler("rotate", noop).label("zone", "x"));
    let _two = start(site.world.worker().name("b").handler("rotate", noop));
    site.world.sessions_are(2).await;
    site.world
        .job("rotate", |spec| {
            spec.mode = serde_json::from_value(json!("broadcast")).expect("a mode");
            spec.workers = serde_json::from_value(json!({ "labels": { "zone": "x" } })).expect("a selector");
        })
        .await;
    let id = site.world.run("rotate").await;
    assert_eq!(site.world.ended(id).await.state, InstanceState::Succeeded);
    let view = site.get(&format!("/api/v1/instances/{id}")).await.expect(200);
    let targets = view["tasks"]["targets"]["workers"].as_array().expect("the list");
    let rejected = |name: &str| {
        let target = targets.iter().find(|target| target["worker"] == name).expect("listed");
        target["rejected"].as_str().map(str::to_owned)
    };
    assert_eq!(rejected("a"), None);
    assert!(rejected("b").is_some_and(|why| why.contains("zone")), "{targets:?}");
    let listed = site.get("/api/v1/instances").await.expect(200);
    assert_eq!((&listed["items"][0]["tasks"]["total"], listed["items"][0]["tasks"].get("targets")), (&json!(1), None));
    let task = site.get(&format!("/api/v1/instances/{id}/tasks/0")).await.expect(200);
    assert_eq!((&task["role"], &task["target"], &task["name"]), (&json!("target"), &json!("a"), &json!("a")));
}

#[tokio::test]
async fn a_mode_is_that_of_the_revision_and_what_has_not_begun_has_no_tasks() {
    let site = Site::new().await;
    let save = async |mode: Value| {
        let job = json!({ "name": "j", "processor": { "handler": "h" }, "mode": mode }).to_string();
        site.call(Method::PUT, "/api/v1/apps/demo/jobs/j", Some(&site.admin), Some(job)).await
    };
    let run = async || {
        let run = site.post("/api/v1/apps/demo/jobs/j/run", &json!({ "delay": "1h" })).await.expect(201);
        format!("/api/v1/instances/{}", run["instance"].as_str().unwrap())
    };
    save(json!({ "sharded": 2 })).await.expect(201);
    let sharded = run().await;
    save(json!("map")).await.expect(200);
    save(json!("standalone")).await.expect(200);
    let alone = run().await;
    for (path, mode, roots) in [(&sharded, "sharded", 0), (&alone, "standalone", 1)] {
        let view = site.get(path).await.expect(200);
        assert_eq!((&view["mode"], view.get("tasks")), (&json!(mode), None));
        let tasks = site.get(&format!("{path}/tasks")).await.expect(200);
        assert_eq!(tasks["items"].as_array().unwrap().len(), roots, "{mode}: {tasks}");
    }
    let root = site.get(&format!("{alone}/tasks/0")).await.expect(200);
    assert_eq!((&root["name"], &root["state"], root.get("role")), (&json!("root"), &json!("waiting"), None));
    assert_eq!(names(&site.get(&format!("{alone}/tasks?name=ROO&state=waiting")).await.expect(200)), ["root"]);
    assert_eq!(names(&site.get(&format!("{alone}/tasks?state=failed")).await.expect(200)), [""; 0]);
    site.get(&format!("{alone}/tasks/1")).await.refused(404, "task_not_found");
    site.get(&format!("{sharded}/tasks/0")).await.refused(404, "task_not_found");
    let refused = save(json!({ "map": { "per_worker": 0 } })).await.refused(422, "invalid_value");
    assert_eq!(refused["field"], "mode.map.per_worker");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_try_of_a_root_has_its_log_though_the_instance_counts_one() {
    let site = Site::new().await;
    let handler = |task: Task| async move {
        task.log_line(format!("try {}", task.attempt()));
        if task.attempt() == 1 { Err(Failure::new(Reason::EXIT_CODE, "once more")) } else { Ok(Output::default()) }
    };
    let _worker = start(site.world.worker().slots(4).handler("map", handler));
    site.world
        .job("map", |spec| {
            spec.mode = ExecutionMode::Map(Map::default());
            spec.retry.attempts = 2;
            spec.retry.backoff = Backoff::Fixed(Duration::from_millis(1));
        })
        .await;
    let id = site.world.run("map").await;
    let ended = site.world.ended(id).await;
    assert_eq!((ended.state, ended.attempt), (InstanceState::Succeeded, 1));
    for (query, text) in [("attempt=1", "try 1\n"), ("attempt=2", "try 2\n"), ("", "try 2\n")] {
        let log = async || site.get(&format!("/api/v1/instances/{id}/logs?{query}")).await.expect(200);
        until("the log is there", async || log().await["data"] == text).await;
    }
    let root = site.get(&format!("/api/v1/instances/{id}/tasks/0")).await.expect(200);
    let states: Vec<_> = root["attempts"].as_array().unwrap().iter().map(|attempt| attempt["state"].clone()).collect();
    assert_eq!(states, ["failed", "succeeded"]);
}
