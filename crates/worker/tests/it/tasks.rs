//! Instances with many tasks: what each task knows, what it emits, what it reads.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::{StreamExt, stream};
use pendula_wire::v1::{self, Outcome};
use pendula_worker::{
    Failure, Handler, Output, Payload, Shard, SubTask, Task, TaskId, TaskOutcome, TaskResult, TaskRole,
};
use tokio::sync::{Notify, mpsc};
use tonic::Status;

use crate::server::{FakeServer, Peer, Running, builder, dispatch, held, part, run, welcome, within};

fn root() -> v1::Held {
    held(1, 1)
}

fn numbered(range: std::ops::Range<u64>) -> impl Iterator<Item = SubTask> {
    range.map(|n| SubTask::text(format!("part {n}"), n.to_string()))
}

/// A worker whose `work` is `handler`, and its session.
async fn at_work(handler: impl Handler) -> (FakeServer, Running, Peer) {
    let mut server = FakeServer::start().await;
    let worker = run(builder(&server).handler("work", handler));
    let peer = server.accept().await;
    (server, worker, peer)
}

/// The positions of the sub-tasks of the next requests, which must tell their position in their input.
async fn positions(peer: &mut Peer) -> Vec<std::ops::Range<u64>> {
    let requests = peer.maps().await;
    let ranges = requests.iter().map(|request| {
        for (n, task) in request.tasks.iter().enumerate() {
            assert_eq!(task.input, (request.first + n as u64).to_string());
        }
        request.first..request.first + request.tasks.len() as u64
    });
    ranges.collect()
}

/// The same, of all requests until one ends there.
async fn positions_until(peer: &mut Peer, end: u64) -> Vec<std::ops::Range<u64>> {
    let mut all: Vec<std::ops::Range<u64>> = Vec::new();
    while all.last().is_none_or(|last| last.end < end) {
        all.extend(positions(peer).await);
    }
    all
}

#[tokio::test]
async fn a_task_knows_its_role_its_input_and_its_shard() {
    let (saw, mut seen) = mpsc::unbounded_channel();
    let (_server, _worker, mut peer) = at_work(move |task: Task| {
        let saw = saw.clone();
        async move {
            let input: Option<Vec<u8>> = task.input_json()?;
            let about = (task.role(), task.task_id(), task.task_name().to_owned(), task.shard(), task.emitted());
            saw.send((about, input, task.input_content_type().to_owned())).unwrap();
            Ok(Output::default())
        }
    })
    .await;
    let whole = ((None, TaskId(0), String::new(), None, 0), None, String::new());
    peer.dispatch(dispatch("work", 1, 1)).await;
    assert_eq!(within(seen.recv()).await, Some(whole));
    let task = v1::Held { instance: 2, attempt: 3, task: 7 };
    let dispatch = v1::Dispatch {
        task_name: "share".to_owned(),
        input: "[1,2]".into(),
        input_content_type: "application/json".to_owned(),
        shard_index: 7,
        shard_total: 8,
        emitted: 5,
        ..part(TaskRole::Shard, "work", task)
    };
    peer.dispatch(dispatch).await;
    let shard = Some(Shard { index: 7, total: 8 });
    let about = (Some(TaskRole::Shard), TaskId(7), "share".to_owned(), shard, 5);
    assert_eq!(within(seen.recv()).await, Some((about, Some(vec![1, 2]), "application/json".to_owned())));
}

#[tokio::test]
async fn tasks_of_one_instance_run_side_by_side_and_a_newer_try_replaces_only_its_own() {
    let (started, mut starts) = mpsc::unbounded_channel();
    let (_server, _worker, mut peer) = at_work(move |task: Task| {
        let started = started.clone();
        async move {
            started.send((task.task_id().0, task.attempt())).unwrap();
            task.cancelled().await;
            Ok(Output::default())
        }
    })
    .await;
    for (task, attempt) in [(1, 1), (2, 1), (2, 2)] {
        peer.dispatch(part(TaskRole::Sub, "work", v1::Held { instance: 1, attempt, task })).await;
        assert_eq!(within(starts.recv()).await, Some((task, attempt)));
    }
    // Of both tasks the newest try runs, and an older one is not heard of again.
    peer.dispatch(part(TaskRole::Sub, "work", v1::Held { instance: 1, attempt: 1, task: 2 })).await;
    for (task, attempt) in [(2, 2), (1, 1)] {
        let task = v1::Held { instance: 1, attempt, task };
        peer.stop(task, 60_000, false).await;
        assert_eq!(peer.end_of(task).await.outcome(), Outcome::Stopped);
    }
}

#[tokio::test]
async fn a_role_of_the_future_is_not_guessed() {
    let (_server, _worker, mut peer) = at_work(|_: Task| async { Ok(Output::default()) }).await;
    peer.dispatch(v1::Dispatch { role: 99, ..dispatch("work", 1, 1) }).await;
    let ended = peer.end_of(held(1, 1)).await;
    assert_eq!((ended.outcome(), ended.reason.as_str(), ended.r#final), (Outcome::Failed, "invalid_definition", true));
    assert!(ended.message.contains("role: 99"), "{}", ended.message);
}

#[tokio::test]
async fn one_task_of_many_may_leave_a_larger_result_than_a_whole_instance() {
    let (_server, _worker, mut peer) = at_work(|_: Task| async {
        Ok(Output::default().with_result(Payload { content_type: "a/b".to_owned(), bytes: vec![b'x'; 1 << 20] }))
    })
    .await;
    let task = v1::Held { instance: 1, attempt: 1, task: 3 };
    peer.dispatch(part(TaskRole::Sub, "work", task)).await;
    let ended = peer.end_of(task).await;
    assert_eq!((ended.outcome(), ended.result.len()), (Outcome::Succeeded, 1 << 20));
    peer.dispatch(dispatch("work", 2, 1)).await;
    assert_eq!(peer.end_of(held(2, 1)).await.reason, "result_too_large");
}

#[tokio::test]
async fn a_map_takes_as_much_as_the_server_stores_and_ends_when_all_is_stored() {
    let taken = Arc::new(AtomicU64::new(0));
    let (_server, _worker, mut peer) = at_work({
        let taken = taken.clone();
        move |task: Task| {
            let taken = taken.clone();
            async move {
                let counted = |_: &SubTask| {
                    taken.fetch_add(1, Ordering::Relaxed);
                };
                task.map(numbered(0..6500).inspect(counted)).await?;
                Ok(Output::text("all are stored"))
            }
        }
    })
    .await;
    peer.dispatch(part(TaskRole::Root, "work", root())).await;
    assert_eq!(positions_until(&mut peer, 4000).await, [0..1000, 1000..2000, 2000..3000, 3000..4000]);
    // Nothing more comes before an answer, and nothing more than the next request is taken from the iterator.
    peer.be_heard().await;
    assert_eq!(taken.load(Ordering::Relaxed), 5000);
    peer.answer_map(root(), 1000, "").await;
    assert_eq!(positions(&mut peer).await, vec![4000..5000]);
    for emitted in [2000, 3000, 4000, 5000] {
        peer.answer_map(root(), emitted, "").await;
    }
    assert_eq!(positions_until(&mut peer, 6500).await, [5000..6000, 6000..6500]);
    peer.answer_map(root(), 6000, "").await;
    peer.be_heard().await;
    peer.answer_map(root(), 6500, "").await;
    assert_eq!(peer.end_of(root()).await.message, "all are stored");
}

#[tokio::test]
async fn large_inputs_make_small_requests() {
    let (_server, _worker, mut peer) = at_work(|task: Task| async move {
        let input = Payload { content_type: String::new(), bytes: vec![0; 250_000] };
        task.map((0..12).map(|_| SubTask::new("", input.clone()))).await?;
        Ok(Output::default())
    })
    .await;
    peer.dispatch(part(TaskRole::Root, "work", root())).await;
    let mut emitted = 0;
    while emitted < 12 {
        for request in peer.maps().await {
            assert!(request.tasks.len() <= 5, "{}", request.tasks.len());
            emitted += request.tasks.len() as u64;
            peer.answer_map(root(), emitted, "").await;
        }
    }
    assert_eq!(peer.end_of(root()).await.outcome(), Outcome::Succeeded);
}

#[tokio::test]
async fn what_comes_slowly_is_on_its_way_at_once() {
    let (give, given) = mpsc::unbounded_channel::<u64>();
    let given = Arc::new(tokio::sync::Mutex::new(given));
    let (_server, _worker, mut peer) = at_work(move |task: Task| {
        let given = given.clone();
        async move {
            let mut given = given.lock().await;
            let tasks = stream::poll_fn(move |context| given.poll_recv(context));
            task.map_stream(tasks.map(|n| SubTask::json("", &n))).await?;
            Ok(Output::default())
        }
    })
    .await;
    peer.dispatch(part(TaskRole::Root, "work", root())).await;
    give.send(0).unwrap();
    assert_eq!(positions(&mut peer).await, vec![0..1]);
    // While one is on its way, others gather.
    give.send(1).unwrap();
    give.send(2).unwrap();
    peer.be_heard().await;
    peer.answer_map(root(), 1, "").await;
    assert_eq!(positions(&mut peer).await, vec![1..3]);
    drop(give);
    peer.answer_map(root(), 3, "").await;
    assert_eq!(peer.end_of(root()).await.outcome(), Outcome::Succeeded);
}

#[tokio::test]
async fn s2_unanswered_sub_tasks_are_sent_again_after_a_reconnect() {
    let (mut server, _worker, mut peer) = at_work(|task: Task| async move {
        task.map(numbered(0..2500)).await?;
        Ok(Output::default())
    })
    .await;
    peer.dispatch(part(TaskRole::Root, "work", root())).await;
    positions_until(&mut peer, 2500).await;
    peer.answer_map(root(), 1000, "").await;
    peer.be_heard().await;
    peer.hang_up(Status::unavailable("restart")).await;

    let mut peer = server.knock().await;
    assert_eq!(peer.hello.running, [root()]);
    peer.welcome(welcome()).await;
    assert_eq!(positions_until(&mut peer, 2500).await, [1000..2000, 2000..2500]);
    // The server had stored them: what was sent again is skipped there.
    peer.answer_map(root(), 2500, "").await;
    peer.answer_map(root(), 2500, "").await;
    assert_eq!(peer.end_of(root()).await.outcome(), Outcome::Succeeded);
}

#[tokio::test]
async fn another_try_emits_only_what_is_new() {
    let (_server, _worker, mut peer) = at_work(|task: Task| async move {
        task.map(numbered(0..1200)).await?;
        let rows: Vec<u64> = (1200..3000).collect();
        task.map(rows.iter().map(|row| SubTask::json("", row))).await?;
        Ok(Output::default())
    })
    .await;
    peer.dispatch(v1::Dispatch { emitted: 2500, ..part(TaskRole::Root, "work", held(1, 2)) }).await;
    assert_eq!(positions(&mut peer).await, vec![2500..3000]);
    peer.answer_map(held(1, 2), 3000, "").await;
    assert_eq!(peer.end_of(held(1, 2)).await.outcome(), Outcome::Succeeded);
}

#[tokio::test]
async fn calls_at_the_same_time_do_not_mix() {
    let (_server, _worker, mut peer) = at_work(|task: Task| async move {
        let (one, two) = tokio::join!(task.map(numbered(0..1500)), task.map(numbered(1500..1600)));
        one.and(two)?;
        Ok(Output::default())
    })
    .await;
    peer.dispatch(part(TaskRole::Sub, "work", root())).await;
    assert_eq!(positions_until(&mut peer, 1500).await, [0..1000, 1000..1500]);
    peer.answer_map(root(), 1000, "").await;
    peer.answer_map(root(), 1500, "").await;
    assert_eq!(positions(&mut peer).await, vec![1500..1600]);
    peer.answer_map(root(), 1600, "").await;
    assert_eq!(peer.end_of(root()).await.outcome(), Outcome::Succeeded);
}

#[tokio::test]
async fn a_refusal_fails_the_call_and_all_that_follow() {
    let (_server, _worker, mut peer) = at_work(|task: Task| async move {
        let failure = task.map(numbered(0..1500)).await.unwrap_err();
        assert_eq!(task.map(numbered(1500..1501)).await, Err(failure.clone()));
        Err(failure)
    })
    .await;
    peer.dispatch(part(TaskRole::Root, "work", root())).await;
    positions_until(&mut peer, 1500).await;
    peer.answer_map(root(), 0, "this instance has 100000000 tasks; at most 100000000").await;
    // To nobody any more.
    peer.answer_map(root(), 0, "what would leave a hole").await;
    let ended = peer.end_of(root()).await;
    assert_eq!((ended.reason.as_str(), ended.r#final), ("map_refused", true));
    assert!(ended.message.contains("100000000 tasks"), "{}", ended.message);
}

#[tokio::test]
async fn what_cannot_be_a_sub_task_is_refused_before_it_travels() {
    let (_server, _worker, mut peer) = at_work(|task: Task| async move {
        let large = Payload { content_type: String::new(), bytes: vec![0; 256 * 1024 + 1] };
        let kind: String = task.params_json()?;
        match kind.as_str() {
            "large" => task.map(numbered(0..2).chain([SubTask::new("the third", large)])).await?,
            "name" => task.map([SubTask::named("a\nb")]).await?,
            _ => task.map([Err(Failure::from_display("no such row"))] as [Result<SubTask, Failure>; 1]).await?,
        }
        Ok(Output::default())
    })
    .await;
    for (n, (role, kind, part_of_message)) in [
        (Some(TaskRole::Root), "large", "sub-task 3 (\"the third\"): input: 262145 bytes"),
        (Some(TaskRole::Sub), "name", "sub-task 1 (\"a\\nb\"): name: the control character"),
        (Some(TaskRole::Root), "own", "no such row"),
        (Some(TaskRole::Shard), "name", "a task with role shard cannot emit"),
        (None, "name", "must be `map` or `map_reduce`"),
    ]
    .into_iter()
    .enumerate()
    {
        let at = held(n as i64 + 1, 1);
        let params = format!("{kind:?}").into();
        let role = role.map_or(0, |role| v1::TaskRole::from(role).into());
        peer.dispatch(v1::Dispatch { role, params, ..dispatch("work", at.instance, 1) }).await;
        let ended = peer.end_of(at).await;
        assert_eq!((ended.outcome(), ended.r#final), (Outcome::Failed, kind != "own"));
        assert!(ended.message.contains(part_of_message), "{}", ended.message);
    }
}

#[tokio::test]
async fn a_server_without_the_capability_gets_no_questions() {
    let mut server = FakeServer::start().await;
    let _worker = run(builder(&server).handler("work", |task: Task| async move {
        match task.role() {
            Some(TaskRole::Reduce) => drop(task.results()?.next().await?),
            _ => task.map(numbered(0..10)).await?,
        }
        Ok(Output::default())
    }));
    let mut peer = server.knock().await;
    peer.welcome(v1::Welcome { capabilities: Vec::new(), ..welcome() }).await;
    for (instance, role) in [(1, TaskRole::Root), (2, TaskRole::Reduce)] {
        peer.dispatch(part(role, "work", held(instance, 1))).await;
        let ended = peer.end_of(held(instance, 1)).await;
        assert_eq!((ended.reason.as_str(), ended.r#final), ("server_too_old", false));
    }
}

#[tokio::test]
async fn a_stop_ends_what_waits_for_the_server() {
    let (told, mut tells) = mpsc::unbounded_channel();
    let (_server, _worker, mut peer) = at_work(move |task: Task| {
        let told = told.clone();
        async move {
            let failure = match task.role() {
                Some(TaskRole::Root) => task.map(numbered(0..10)).await.unwrap_err(),
                _ => task.results()?.next().await.unwrap_err(),
            };
            told.send(failure.message.clone()).unwrap();
            Err(failure)
        }
    })
    .await;
    peer.dispatch(part(TaskRole::Root, "work", held(1, 1))).await;
    peer.maps().await;
    peer.dispatch(part(TaskRole::Post, "work", held(2, 1))).await;
    peer.wish().await;
    for instance in [1, 2] {
        peer.stop(held(instance, 1), 60_000, false).await;
        assert_eq!(peer.end_of(held(instance, 1)).await.outcome(), Outcome::Stopped);
        assert!(within(tells.recv()).await.unwrap().contains("asked to stop"));
    }
}

fn result(task: u64) -> v1::TaskResult {
    v1::TaskResult {
        task,
        name: format!("part {task}"),
        outcome: v1::TaskOutcome::Succeeded.into(),
        result: task.to_string().into(),
        content_type: "text/plain".to_owned(),
        worker: "w1".to_owned(),
        ..v1::TaskResult::default()
    }
}

/// Sends each result that it reads, and the end, when it is let go on.
fn reader(read: mpsc::UnboundedSender<Option<TaskResult>>, go: Arc<Notify>) -> impl Handler {
    move |task: Task| {
        let (read, go) = (read.clone(), go.clone());
        async move {
            let mut results = task.results()?;
            loop {
                go.notified().await;
                let result = results.next().await?;
                let is_end = result.is_none();
                read.send(result).unwrap();
                if is_end {
                    return Ok(Output::default());
                }
            }
        }
    }
}

#[tokio::test]
async fn results_come_in_pages_of_which_one_is_fetched_ahead() {
    let (read, mut reads) = mpsc::unbounded_channel();
    let go = Arc::new(Notify::new());
    let (mut server, _worker, mut peer) = at_work(reader(read, go.clone())).await;
    peer.dispatch(part(TaskRole::Reduce, "work", root())).await;
    // Nothing is asked before somebody reads.
    peer.be_heard().await;
    go.notify_one();
    let wish = peer.wish().await;
    assert_eq!((wish.task, wish.from), (Some(root()), 0));
    peer.show(wish, v1::ResultPage { results: vec![result(1), result(2)], next: 3, ..Default::default() }).await;
    let first = within(reads.recv()).await.unwrap().unwrap();
    assert_eq!((first.task, first.outcome, first.worker.as_deref()), (TaskId(1), TaskOutcome::Succeeded, Some("w1")));
    assert_eq!(first.result.unwrap().bytes, b"1");
    assert_eq!(peer.wish().await.from, 3);
    // The session breaks while the next page is on its way.
    peer.hang_up(Status::unavailable("restart")).await;
    let mut peer = server.accept().await;
    let wish = peer.wish().await;
    assert_eq!(wish.from, 3);
    let page = |results, next| v1::ResultPage { results, next, ..Default::default() };
    peer.show(v1::ResultRequest { request: 99, ..wish }, page(vec![result(77)], 78)).await;
    peer.show(wish, page(Vec::new(), 9)).await;
    go.notify_one();
    assert_eq!(within(reads.recv()).await.unwrap().unwrap().task, TaskId(2));
    // The page was empty, so that the one after it is wanted.
    go.notify_one();
    let wish = peer.wish().await;
    assert_eq!(wish.from, 9);
    let unknown = v1::TaskResult { outcome: 77, ..result(9) };
    peer.show(wish, v1::ResultPage { end: true, ..page(vec![unknown], 0) }).await;
    assert_eq!(within(reads.recv()).await.unwrap().unwrap().outcome, TaskOutcome::Unknown(77));
    go.notify_one();
    assert_eq!(within(reads.recv()).await, Some(None));
    assert_eq!(peer.end_of(root()).await.outcome(), Outcome::Succeeded);
}

#[tokio::test]
async fn results_that_cannot_be_read_are_an_error() {
    let (_server, _worker, mut peer) = at_work(|task: Task| async move {
        task.results()?.next().await?;
        Ok(Output::default())
    })
    .await;
    for (n, (page, message)) in [
        (v1::ResultPage { refusal: "this try is over".to_owned(), ..Default::default() }, "this try is over"),
        (v1::ResultPage { results: vec![v1::TaskResult::default()], end: true, ..Default::default() }, "outcome"),
        (v1::ResultPage::default(), "next"),
    ]
    .into_iter()
    .enumerate()
    {
        let at = held(n as i64 + 1, 1);
        peer.dispatch(part(TaskRole::Post, "work", at)).await;
        let wish = peer.wish().await;
        peer.show(wish, page).await;
        let ended = peer.end_of(at).await;
        assert_eq!(ended.reason, "results_refused");
        assert!(ended.message.contains(message), "{}", ended.message);
    }
    peer.dispatch(part(TaskRole::Sub, "work", held(9, 1))).await;
    assert!(peer.end_of(held(9, 1)).await.message.contains("`reduce` and `post` can"));
}
