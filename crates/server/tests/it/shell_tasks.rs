//! What passes over a session about instances with many tasks, and what does not.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use pendula_engine::{Command, Reply};
use pendula_model::instance::{InstanceState, Reason};
use pendula_model::job::JobSpec;
use pendula_model::limits;
use pendula_model::token::Scope;
use pendula_model::{InstanceId, TaskId};
use pendula_wire::v1;
use pendula_wire::v1::to_server::Message as Say;
use pendula_wire::v1::to_worker::Message as Hear;
use pendula_worker::{Output, Payload, SubTask, Task, TaskRole};
use serde_json::json;
use tokio::sync::Notify;

use crate::shell_sessions::{Raw, hello};
use crate::world::{PATIENCE, Running, World, soon, start};

/// A worker made by hand that offers `processor` and knows of tasks.
async fn raw(world: &World, token: &str, processor: &str) -> Raw {
    let hello = v1::Hello { processors: vec![processor.to_owned()], capabilities: vec!["tasks".to_owned()], ..hello() };
    let mut raw = Raw::open(&world.url(), Some(token), None, hello).await.expect("it is let in");
    assert!(matches!(raw.next().await, Ok(Hear::Welcome(_))));
    raw
}

async fn mode(world: &World, job: &str, mode: serde_json::Value) {
    let edit = |spec: &mut JobSpec| spec.mode = serde_json::from_value(mode).expect("a mode");
    world.job(job, edit).await;
}

/// Waits for messages of a kind; what else is said meanwhile does not matter.
async fn hear<T>(raw: &mut Raw, what: &str, mut pick: impl FnMut(Hear) -> Option<T>) -> T {
    loop {
        let said = raw.next().await.unwrap_or_else(|status| panic!("waited for {what}, but {status:?}"));
        if let Some(found) = pick(said) {
            return found;
        }
    }
}

async fn dispatches(raw: &mut Raw) -> Vec<v1::Dispatch> {
    hear(raw, "dispatches", |said| match said {
        Hear::Dispatches(v1::Dispatches { dispatches }) => Some(dispatches),
        _ => None,
    })
    .await
}

async fn replies(raw: &mut Raw) -> Vec<v1::MapReply> {
    hear(raw, "replies", |said| match said {
        Hear::Maps(v1::MapReplies { replies }) => Some(replies),
        _ => None,
    })
    .await
}

async fn pages(raw: &mut Raw) -> Vec<v1::ResultPage> {
    hear(raw, "pages", |said| match said {
        Hear::Results(v1::ResultPages { pages }) => Some(pages),
        _ => None,
    })
    .await
}

fn map(task: v1::Held, first: u64, names: &[&str]) -> Say {
    let sub = |name: &&str| v1::SubTask { name: (*name).to_owned(), ..v1::SubTask::default() };
    let request = v1::MapRequest { task: Some(task), first, tasks: names.iter().map(sub).collect() };
    Say::Maps(v1::MapRequests { requests: vec![request] })
}

fn read(task: v1::Held, requests: impl IntoIterator<Item = (u64, u64)>) -> Say {
    let request = |(request, from)| v1::ResultRequest { task: Some(task), request, from };
    Say::Results(v1::ResultRequests { requests: requests.into_iter().map(request).collect() })
}

fn succeeded(task: v1::Held, bytes: usize) -> Say {
    let result = vec![b'x'; bytes].into();
    let ended = v1::Ended { outcome: 1, result, running_micros: 1, ..v1::Ended::default() };
    let report = v1::Report { task: Some(task), event: Some(v1::report::Event::Ended(ended)) };
    Say::Reports(v1::Reports { reports: vec![report] })
}

#[tokio::test(flavor = "multi_thread")]
async fn sec_4_nobody_emits_or_reads_for_a_task_that_is_not_its_own() {
    let world = World::new().await;
    mode(&world, "map", json!("map_reduce")).await;
    let (began, may_end) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (handler_began, handler_may_end) = (began.clone(), may_end.clone());
    let _worker = start(world.worker().handler("map", move |_: Task| {
        let (began, may_end) = (handler_began.clone(), handler_may_end.clone());
        async move {
            began.notify_one();
            may_end.notified().await;
            Ok(Output::default())
        }
    }));
    let instance = world.run("map").await;
    soon("the root begins", began.notified()).await;
    let create = Command::AppCreate { name: "other".into(), namespace: "default".into(), allow_scripts: false };
    let partitions = &world.server().state().partitions;
    let reply = partitions.command(partitions.of_app_name("other"), create, PATIENCE).await;
    let Ok(Reply::App(other)) = reply else { panic!("{reply:?}") };
    let scope = Scope::Worker { app: other.id };
    let (_, secret) = world.server().state().auth.create("evil", scope, None).await.expect("a token");
    for token in [secret.reveal(), &world.worker_token] {
        let mut evil = raw(&world, token, "nothing").await;
        let root = v1::Held::root(instance, 1);
        evil.say(map(root, 0, &["forged"])).await;
        let refused = replies(&mut evil).await;
        assert!(refused.len() == 1 && refused[0].task == Some(root) && !refused[0].refusal.is_empty(), "{refused:?}");
        evil.say(read(root, [(7, 0)])).await;
        let refused = pages(&mut evil).await;
        assert!(refused[0].request == 7 && !refused[0].refusal.is_empty(), "{refused:?}");
        assert!(refused[0].results.is_empty());
    }
    let fanout = world.server().state().store.fanout(instance).await.unwrap().expect("it has begun");
    assert_eq!(fanout.counts.total, 0);
    // One after the other: the root, and the reduce of nothing.
    may_end.notify_one();
    soon("the reduce begins", began.notified()).await;
    may_end.notify_one();
    assert_eq!(world.ended(instance).await.state, InstanceState::Succeeded);
}

#[tokio::test(flavor = "multi_thread")]
async fn results_come_in_small_pages_and_a_flood_of_questions_is_answered_in_order() {
    const LARGE: usize = 600_000;
    let world = World::new().await;
    mode(&world, "map", json!("map_reduce")).await;
    let mut worker = raw(&world, &world.worker_token, "map").await;
    let instance = world.run("map").await;
    let root = dispatches(&mut worker).await.remove(0);
    assert_eq!((root.role(), root.emitted), (v1::TaskRole::Root, 0));
    let held = root.task.expect("its attempt");
    worker.say(map(held, 1, &["too early"])).await;
    assert!(!replies(&mut worker).await[0].refusal.is_empty());
    worker.say(map(held, 0, &["a\nb"])).await;
    assert!(replies(&mut worker).await[0].refusal.contains("name"));
    // What was accepted is not made twice.
    worker.say(map(held, 0, &["a", "b", "c"])).await;
    worker.say(map(held, 0, &["a", "b", "c"])).await;
    let (mut subs, mut accepted) = (Vec::new(), Vec::new());
    hear(&mut worker, "three sub-tasks and two replies", |said| {
        match said {
            Hear::Dispatches(v1::Dispatches { dispatches }) => subs.extend(dispatches),
            Hear::Maps(v1::MapReplies { replies }) => accepted.extend(replies),
            _ => {}
        }
        (subs.len() >= 3 && accepted.len() >= 2).then_some(())
    })
    .await;
    assert!(accepted.iter().all(|reply| (reply.emitted, reply.refusal.as_str()) == (3, "")), "{accepted:?}");
    for sub in &subs {
        assert_eq!(sub.role(), v1::TaskRole::Sub);
        worker.say(succeeded(sub.task.expect("its attempt"), LARGE)).await;
    }
    worker.say(succeeded(held, 0)).await;
    let reduce = dispatches(&mut worker).await.remove(0);
    assert_eq!(reduce.role(), v1::TaskRole::Reduce);
    let held = reduce.task.expect("its attempt");

    const QUESTIONS: u64 = 30;
    worker.say(read(held, (1..=QUESTIONS).map(|request| (request, 0)))).await;
    let mut answered = Vec::new();
    while answered.len() < QUESTIONS as usize {
        for page in pages(&mut worker).await {
            let tasks: Vec<_> = page.results.iter().map(|result| (result.task, result.result.len())).collect();
            assert_eq!((tasks, page.next, page.end), (vec![(1, LARGE)], 2, false));
            answered.push(page.request);
        }
    }
    assert_eq!(answered, (1..=QUESTIONS).collect::<Vec<_>>());
    let (mut from, mut names, mut end) = (0, Vec::new(), false);
    while !end {
        worker.say(read(held, [(99, from)])).await;
        let page = pages(&mut worker).await.remove(0);
        assert_eq!(page.refusal, "");
        names.extend(page.results.into_iter().map(|result| result.name));
        (from, end) = (page.next, page.end);
    }
    assert_eq!(names, ["a", "b", "c"]);
    // There is no such repetition, and no such attempt.
    worker.say(read(held, [(1, 1 << 56)])).await;
    assert!(!pages(&mut worker).await[0].refusal.is_empty());
    worker.say(read(v1::Held { attempt: 2, ..held }, [(1, 0)])).await;
    assert!(!pages(&mut worker).await[0].refusal.is_empty());
    worker.say(succeeded(held, 0)).await;
    assert_eq!(world.ended(instance).await.state, InstanceState::Succeeded);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_may_be_large_for_one_task_of_many_and_not_for_an_instance() {
    let world = World::new().await;
    let bytes = limits::RESULT_BYTES + 1;
    mode(&world, "alone", json!("standalone")).await;
    mode(&world, "shards", json!({ "sharded": 1 })).await;
    let mut results = Vec::new();
    for job in ["alone", "shards"] {
        let mut worker = raw(&world, &world.worker_token, job).await;
        let instance: InstanceId = world.run(job).await;
        let task = dispatches(&mut worker).await.remove(0).task.expect("its attempt");
        worker.say(succeeded(task, bytes)).await;
        let ended = world.ended(instance).await;
        let stored = world.server().state().store.task(instance, TaskId::ROOT).await.unwrap();
        let kept = stored.and_then(|task| task.result.clone()).map_or(0, |result| result.bytes.len());
        results.push((ended.state, ended.reason, kept));
    }
    let too_large = Some(Reason::from_wire("result_too_large"));
    assert_eq!(results, [(InstanceState::Failed, too_large, 0), (InstanceState::Succeeded, None, bytes)]);
}

/// A map of `count` sub-tasks with inputs of so many bytes. Counts how often each runs.
struct Counted {
    runs: Arc<Mutex<HashMap<TaskId, u32>>>,
    /// Told when half of them ran.
    half: Arc<Notify>,
}

impl Counted {
    fn start(world: &World, slots: u32, count: usize, bytes: usize) -> (Counted, Running) {
        let (runs, half) = (Arc::<Mutex<HashMap<TaskId, u32>>>::default(), Arc::new(Notify::new()));
        let (counted, told) = (runs.clone(), half.clone());
        let handler = move |task: Task| {
            let (counted, told) = (counted.clone(), told.clone());
            async move {
                if task.role() == Some(TaskRole::Root) {
                    let input = || Payload { content_type: "text/plain".into(), bytes: vec![b'x'; bytes] };
                    task.map((0..count).map(|number| SubTask::new(number.to_string(), input()))).await?;
                } else {
                    let mut runs = counted.lock().expect("no handler panics");
                    assert_eq!(task.input().len(), bytes);
                    *runs.entry(task.task_id()).or_default() += 1;
                    if runs.len() == count / 2 {
                        told.notify_one();
                    }
                }
                Ok(Output::default())
            }
        };
        let worker = start(world.worker().slots(slots).handler("map", handler));
        (Counted { runs, half }, worker)
    }

    /// How many ran, and how many runs that were.
    fn totals(&self) -> (usize, u32) {
        let runs = self.runs.lock().expect("no handler panics");
        (runs.len(), runs.values().sum())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn more_tasks_than_are_kept_in_memory_all_run_once() {
    // By number, and by the bytes of their inputs.
    for (count, bytes) in [(10_000, 1), (600, 64 * 1024)] {
        let world = World::new().await;
        mode(&world, "map", json!("map")).await;
        let (counted, _worker) = Counted::start(&world, 400, count, bytes);
        let instance = world.run("map").await;
        let ended = world.ended(instance).await;
        assert_eq!((ended.state, counted.totals()), (InstanceState::Succeeded, (count, count as u32)), "{ended:?}");
        let fanout = world.server().state().store.fanout(instance).await.unwrap().expect("it had tasks");
        assert_eq!((fanout.counts.total, fanout.counts.succeeded), (count as u64, count as u64));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_in_the_middle_of_a_map_costs_no_task() {
    const COUNT: usize = 10_000;
    const SLOTS: u32 = 50;
    let mut world = World::new().await;
    mode(&world, "map", json!("map")).await;
    let (counted, _worker) = Counted::start(&world, SLOTS, COUNT, 1);
    let instance = world.run("map").await;
    soon("half of them ran", counted.half.notified()).await;
    world.stop().await;
    world.start().await;
    let ended = world.ended(instance).await;
    assert_eq!(ended.state, InstanceState::Succeeded, "{ended:?}");
    // The worker kept what ended meanwhile, so nothing ran twice either.
    assert_eq!(counted.totals(), (COUNT, COUNT as u32));
}
