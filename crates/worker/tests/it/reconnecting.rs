//! Connections that break, servers that refuse, and work that goes on.

use std::sync::Arc;
use std::time::Duration;

use pendula_wire::v1::{self, Outcome};
use pendula_worker::worker::Timing;
use pendula_worker::{Output, Task, Worker, WorkerError};
use tokio::sync::{Notify, mpsc};
use tonic::Status;

use crate::server::{FakeServer, builder, dispatch, held, quick, run, welcome, within};

#[tokio::test]
async fn running_and_finished_attempts_are_announced_and_ends_told_again() {
    let mut server = FakeServer::start().await;
    let go = Arc::new(Notify::new());
    let (ended, mut ends) = mpsc::unbounded_channel();
    let _worker = run(builder(&server).handler("waits", {
        let go = go.clone();
        move |task: Task| {
            let (go, ended) = (go.clone(), ended.clone());
            async move {
                if task.instance().0 == 1 {
                    go.notified().await;
                }
                ended.send(task.instance().0).unwrap();
                Ok(Output::text("kept"))
            }
        }
    }));
    let mut peer = server.accept().await;
    peer.dispatch(dispatch("waits", 1, 1)).await;
    peer.dispatch(dispatch("waits", 2, 1)).await;
    peer.end_of(held(2, 1)).await;
    peer.hang_up(Status::unavailable("restart")).await;

    let mut peer = server.knock().await;
    assert_eq!((peer.hello.running.as_slice(), peer.hello.finished.as_slice()), (&[held(1, 1)][..], &[held(2, 1)][..]));
    // It ends while the session is being made.
    assert_eq!(within(ends.recv()).await, Some(2));
    go.notify_one();
    assert_eq!(within(ends.recv()).await, Some(1));
    peer.welcome(welcome()).await;
    let mut told = [peer.report().await.task.unwrap().instance, peer.report().await.task.unwrap().instance];
    told.sort_unstable();
    assert_eq!(told, [1, 2]);
}

#[tokio::test]
async fn what_the_welcome_takes_away_is_aborted_silently() {
    let mut server = FakeServer::start().await;
    let (dropped, mut drops) = mpsc::unbounded_channel::<i64>();
    let _worker = run(builder(&server).handler("waits", move |task: Task| {
        let dropped = dropped.clone();
        async move {
            task.killed().await;
            dropped.send(task.instance().0).unwrap();
            Ok(Output::default())
        }
    }));
    let mut peer = server.accept().await;
    peer.dispatch(dispatch("waits", 1, 1)).await;
    peer.dispatch(dispatch("unknown", 2, 1)).await;
    peer.end_of(held(2, 1)).await;
    peer.hang_up(Status::unavailable("restart")).await;
    let mut peer = server.knock().await;
    peer.welcome(v1::Welcome { abort: vec![held(1, 1), held(2, 1)], ..welcome() }).await;
    assert_eq!(within(drops.recv()).await, Some(1));
    peer.dispatch(dispatch("unknown", 3, 1)).await;
    peer.end_of(held(3, 1)).await;
    peer.hang_up(Status::unavailable("restart")).await;
    let hello = server.knock().await.hello;
    assert_eq!((hello.running, hello.finished), (vec![], vec![held(3, 1)]));
}

/// A revoked token takes the work away, too, after a while in which it might have been a mistake.
#[tokio::test]
async fn sec_4_a_worker_that_stays_shut_out_aborts_what_it_runs() {
    let mut server = FakeServer::start().await;
    let (dropped, mut drops) = mpsc::unbounded_channel::<i64>();
    let timing = Timing { unauthorized_abort: Duration::from_millis(50), ..quick() };
    let _worker = run(builder(&server).timing(timing).handler("waits", move |task: Task| {
        let dropped = dropped.clone();
        async move {
            task.killed().await;
            dropped.send(task.instance().0).unwrap();
            Ok(Output::default())
        }
    }));
    let mut peer = server.accept().await;
    peer.dispatch(dispatch("waits", 1, 1)).await;
    peer.dispatch(dispatch("unknown", 2, 1)).await;
    peer.end_of(held(2, 1)).await;
    let revoked = Status::unauthenticated("unknown token");
    *server.refusal.lock().unwrap() = Some(revoked.clone());
    peer.hang_up(revoked).await;
    assert_eq!(within(drops.recv()).await, Some(1));
    *server.refusal.lock().unwrap() = None;
    assert_eq!(server.accept().await.hello.running, []);
}

#[tokio::test]
async fn s1_5_a_refused_version_fails_no_work() {
    let mut server = FakeServer::start().await;
    let go = Arc::new(Notify::new());
    let _worker = run(builder(&server).handler("waits", {
        let go = go.clone();
        move |_: Task| {
            let go = go.clone();
            async move {
                go.notified().await;
                Ok(Output::default())
            }
        }
    }));
    let mut peer = server.accept().await;
    peer.dispatch(dispatch("waits", 1, 1)).await;
    peer.dispatch(dispatch("unknown", 2, 1)).await;
    peer.end_of(held(2, 1)).await;
    for status in [
        Status::from(pendula_wire::version::VersionRefused { worker_min: 1, worker_max: 1 }),
        Status::unauthenticated("unknown token"),
    ] {
        *server.refusal.lock().unwrap() = Some(status.clone());
        peer.hang_up(status).await;
        server.refused().await;
        server.refused().await;
        *server.refusal.lock().unwrap() = None;
        peer = server.accept().await;
        assert_eq!(peer.hello.running, [held(1, 1)]);
    }
    let again = peer.report().await;
    assert_eq!(again.task, Some(held(2, 1)));
    go.notify_one();
    assert_eq!(peer.end_of(held(1, 1)).await.outcome(), Outcome::Succeeded);
}

#[tokio::test]
async fn a_welcome_that_makes_no_sense_is_refused() {
    let mut server = FakeServer::start().await;
    let _worker = run(builder(&server).handler("noop", |_: Task| async { Ok(Output::default()) }));
    let mut peer = server.knock().await;
    peer.welcome(v1::Welcome { protocol: 9, ..welcome() }).await;
    assert!(peer.hear().await.is_none());
    server.accept().await;
}

#[tokio::test]
async fn a_silent_server_is_given_up() {
    let mut server = FakeServer::start().await;
    let _worker = run(builder(&server).handler("noop", |_: Task| async { Ok(Output::default()) }));
    let mut silent = server.knock().await;
    silent.welcome(v1::Welcome { heartbeat_millis: 20, silence_millis: 100, ..welcome() }).await;
    let mut peer = server.accept().await;
    peer.dispatch(dispatch("noop", 1, 1)).await;
    peer.end_of(held(1, 1)).await;
}

#[tokio::test]
async fn a_server_that_answers_heartbeats_is_not_silent() {
    let mut server = FakeServer::start().await;
    let _worker = run(builder(&server).handler("noop", |_: Task| async { Ok(Output::default()) }));
    let mut peer = server.knock().await;
    peer.welcome(v1::Welcome { heartbeat_millis: 50, silence_millis: 400, ..welcome() }).await;
    for _ in 0..12 {
        peer.heartbeat().await;
        peer.say(v1::to_worker::Message::Acks(v1::Acks::default())).await;
    }
    peer.dispatch(dispatch("noop", 1, 1)).await;
    peer.heartbeat().await;
}

#[tokio::test]
async fn a_worker_with_limited_patience_says_why_it_gave_up() {
    let dead = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let builder = Worker::builder(format!("http://{dead}")).timing(quick()).give_up_after(Duration::from_millis(100));
    let worker = run(builder.handler("noop", |_: Task| async { Ok(Output::default()) }));
    let error = worker.result().await.unwrap_err();
    assert!(matches!(&error, WorkerError::Unreachable(_, why) if why.contains("cannot be reached")), "{error}");
}

#[test]
fn settings_that_no_server_would_accept_are_refused_at_once() {
    let noop = |_: Task| async { Ok(Output::default()) };
    let builder = || Worker::builder("http://127.0.0.1:1").name("w");
    for (builder, setting) in [
        (builder(), "handler"),
        (builder().handler("a", noop).handler("a", noop), "handler"),
        (builder().handler("a/b", noop), "handler"),
        (builder().handler("a", noop).slots(0), "slots"),
        (builder().handler("a", noop).name(""), "name"),
        (builder().handler("a", noop).app(" "), "app"),
        (builder().handler("a", noop).label("", "x"), "label"),
        (builder().handler("a", noop).server("nowhere"), "server"),
        (builder().handler("a", noop).token("a\nb"), "token"),
        (builder().handler("a", noop).log_bytes(1, 1), "log_bytes"),
    ] {
        let error = builder.build().err().expect(setting);
        assert!(error.to_string().starts_with(&format!("{setting}:")), "{setting}: {error}");
    }
}
