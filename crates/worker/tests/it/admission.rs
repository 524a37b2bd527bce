//! What is run, what is refused, what is told.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use pendula_wire::v1::report::Event;
use pendula_wire::v1::{self, Outcome, to_worker};
use pendula_worker::worker::Timing;
use pendula_worker::{Failure, Output, Payload, Reason, Task};
use tokio::sync::{Notify, mpsc};

use crate::server::{FakeServer, builder, dispatch, held, quick, run, welcome};

#[tokio::test]
async fn a_task_gets_what_was_dispatched_and_its_result_is_kept_until_acknowledged() {
    let mut server = FakeServer::start().await;
    let (saw, mut seen) = mpsc::unbounded_channel();
    let _worker = run(builder(&server).label("zone", "a").handler("echo", move |task: Task| {
        let saw = saw.clone();
        async move {
            let params: serde_json::Value = task.params_json()?;
            let config: Option<u8> = task.config_json()?;
            let names = (task.app().to_owned(), task.job().to_owned(), task.revision(), task.timezone().to_owned());
            saw.send((params.clone(), config, names, task.fire_time().as_micros())).unwrap();
            Ok(Output::json(&params)?.with_message("echoed"))
        }
    }));
    let mut peer = server.accept().await;
    assert_eq!(peer.metadata.get("authorization").unwrap(), "Bearer secret");
    assert_eq!(peer.metadata.get(pendula_wire::APP_METADATA).unwrap(), "demo");
    let hello = peer.hello.clone();
    assert_eq!((hello.protocol_min, hello.protocol_max, hello.slots), (1, 1, 4));
    assert_eq!((hello.name.as_str(), hello.processors), ("w1", vec!["echo".to_owned()]));
    assert!(hello.boot_id != 0 && hello.metrics.unwrap().cpu_cores > 0.0 && hello.labels["zone"] == "a");

    let params = br#"{"a":1}"#.as_slice().into();
    peer.dispatch(v1::Dispatch { params, fire_time_micros: 5, ..dispatch("echo", 1, 1) }).await;
    let ended = peer.end_of(held(1, 1)).await;
    assert_eq!((ended.outcome(), ended.message.as_str()), (Outcome::Succeeded, "echoed"));
    assert_eq!((&ended.result[..], ended.result_content_type.as_str()), (&br#"{"a":1}"#[..], "application/json"));
    assert!(ended.running_micros > 0);
    let names = ("demo".to_owned(), "job".to_owned(), 3, "UTC".to_owned());
    assert_eq!(seen.recv().await.unwrap(), (serde_json::json!({ "a": 1 }), None, names, 5));

    peer.hang_up(tonic::Status::unavailable("restart")).await;
    let mut peer = server.accept().await;
    assert_eq!((peer.hello.finished.as_slice(), peer.hello.boot_id), ([held(1, 1)].as_slice(), hello.boot_id));
    assert_eq!(peer.end_of(held(1, 1)).await.result, ended.result);
    peer.ack(held(1, 1)).await;
    // Everything on a session is in order, so this end says that the acknowledgement was heard.
    peer.dispatch(dispatch("echo", 2, 1)).await;
    peer.end_of(held(2, 1)).await;
    peer.hang_up(tonic::Status::unavailable("restart")).await;
    assert_eq!(server.accept().await.hello.finished, [held(2, 1)]);
}

#[tokio::test]
async fn failures_and_panics_are_told_apart() {
    let mut server = FakeServer::start().await;
    let _worker = run(builder(&server)
        .handler("fails", |_: Task| async {
            Err(Failure::new(Reason::EXIT_CODE, "code 3").without_retry().with_result(Payload::json("{}")))
        })
        .handler("errs", |_: Task| async {
            let port: u16 = "x".parse()?;
            Ok(Output::text(port.to_string()))
        })
        .handler("panics", |task: Task| async move { panic!("no such {}", task.job()) })
        .handler("panics_early", |task: Task| {
            assert!(task.attempt() > 1, "at once");
            async { Ok(Output::default()) }
        }));
    let mut peer = server.accept().await;
    for (n, (processor, reason, message, is_final)) in [
        ("fails", "exit_code", "code 3", true),
        ("errs", "failed", "invalid digit found in string", false),
        ("panics", "panicked", "no such job", false),
        ("panics_early", "panicked", "at once", false),
    ]
    .into_iter()
    .enumerate()
    {
        let task = held(n as i64 + 1, 1);
        peer.dispatch(dispatch(processor, task.instance, 1)).await;
        let ended = peer.end_of(task).await;
        assert_eq!(ended.outcome(), Outcome::Failed);
        assert_eq!((ended.reason.as_str(), ended.message.as_str(), ended.r#final), (reason, message, is_final));
    }
}

#[tokio::test]
async fn slots_are_a_hard_limit_and_duplicates_do_not_run() {
    let mut server = FakeServer::start().await;
    let (runs, go) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
    let _worker = run(builder(&server).slots(2).handler("waits", {
        let (runs, go) = (runs.clone(), go.clone());
        move |_: Task| {
            let (runs, go) = (runs.clone(), go.clone());
            async move {
                runs.fetch_add(1, Ordering::SeqCst);
                go.notified().await;
                Ok(Output::default())
            }
        }
    }));
    let mut peer = server.accept().await;
    for (instance, attempt) in [(1, 1), (2, 7), (1, 1), (2, 6), (3, 1)] {
        peer.dispatch(dispatch("waits", instance, attempt)).await;
    }
    let ended = peer.end_of(held(3, 1)).await;
    assert_eq!((ended.outcome(), ended.reason.as_str(), ended.running_micros), (Outcome::Rejected, "rejected", 0));
    go.notify_one();
    let first = peer.report().await.task.unwrap();
    // Ended but not acknowledged: told again, not run again.
    peer.dispatch(dispatch("waits", first.instance, first.attempt)).await;
    peer.end_of(first).await;
    // Acknowledged: not even that.
    peer.ack(first).await;
    peer.dispatch(dispatch("waits", first.instance, first.attempt)).await;
    go.notify_one();
    let second = peer.report().await.task.unwrap();
    assert_ne!(first, second);
    assert_eq!(runs.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn s1_8_nonsense_is_refused_or_ignored_and_the_session_goes_on() {
    let mut server = FakeServer::start().await;
    let _worker = run(builder(&server).handler("noop", |_: Task| async { Ok(Output::default()) }));
    let mut peer = server.accept().await;
    peer.dispatch(v1::Dispatch::default()).await;
    peer.dispatch(v1::Dispatch { task: Some(held(-5, 0)), ..v1::Dispatch::default() }).await;
    peer.say(to_worker::Message::Stops(v1::Stops { stops: vec![v1::Stop::default()] })).await;
    peer.stop(held(99, 1), 0, false).await;
    peer.ack(v1::Held::default()).await;
    peer.ack_log(held(99, 1), u64::MAX).await;
    peer.welcome(welcome()).await;
    peer.dispatch(dispatch("", 1, 1)).await;
    assert_eq!(peer.end_of(held(1, 1)).await.reason, "invalid_definition");
    peer.dispatch(dispatch("unheard_of", 2, 1)).await;
    let ended = peer.end_of(held(2, 1)).await;
    assert_eq!((ended.outcome(), ended.reason.as_str()), (Outcome::Rejected, "processor_missing"));
    peer.dispatch(dispatch("noop", 3, 1)).await;
    assert_eq!(peer.end_of(held(3, 1)).await.outcome(), Outcome::Succeeded);
}

#[tokio::test]
async fn a_long_task_says_that_it_started_and_how_far_it_is() {
    let mut server = FakeServer::start().await;
    let go = Arc::new(Notify::new());
    let timing = Timing { started_after: Duration::from_millis(1), ..quick() };
    let _worker = run(builder(&server).timing(timing).handler("works", {
        let go = go.clone();
        move |task: Task| {
            let go = go.clone();
            async move {
                go.notified().await;
                for n in 0..=500 {
                    task.progress(n, "counting");
                }
                go.notified().await;
                Ok(Output::default())
            }
        }
    }));
    let mut peer = server.accept().await;
    peer.dispatch(dispatch("works", 1, 1)).await;
    assert!(matches!(peer.report().await.event, Some(Event::Started(started)) if started.running_micros >= 1000));
    go.notify_one();
    let Some(Event::Progress(progress)) = peer.report().await.event else { panic!("no progress") };
    assert_eq!((progress.per_mille, progress.message.as_str()), (500, "counting"));
    go.notify_one();
    assert_eq!(peer.end_of(held(1, 1)).await.outcome(), Outcome::Succeeded);
}

#[tokio::test]
async fn heartbeats_name_all_that_is_held() {
    let mut server = FakeServer::start().await;
    let _worker = run(builder(&server)
        .handler("waits", |_: Task| std::future::pending())
        .handler("noop", |_: Task| async { Ok(Output::default()) }));
    let mut peer = server.knock().await;
    peer.welcome(v1::Welcome { heartbeat_millis: 20, ..welcome() }).await;
    peer.dispatch(dispatch("waits", 1, 1)).await;
    peer.dispatch(dispatch("noop", 2, 1)).await;
    let heartbeat = loop {
        let heartbeat = peer.heartbeat().await;
        if heartbeat.dispatches_seen == 2 {
            break heartbeat;
        }
    };
    let mut held_now = heartbeat.held;
    held_now.sort_by_key(|held| held.instance);
    assert_eq!(held_now, [held(1, 1), held(2, 1)]);
    assert!(heartbeat.metrics.unwrap().memory_bytes > 0);
    peer.ack(held(2, 1)).await;
    while peer.heartbeat().await.held != [held(1, 1)] {}
}
