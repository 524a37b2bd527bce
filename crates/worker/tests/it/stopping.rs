//! Asked to stop, forced to stop, abandoned.

use std::time::Duration;

use pendula_wire::v1::{self, Outcome};
use pendula_worker::{Output, Task};
use tokio::sync::mpsc;

use crate::server::{FakeServer, builder, dispatch, held, run, within};

/// Says when it is dropped.
struct Guard(mpsc::UnboundedSender<&'static str>);

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.send("dropped");
    }
}

#[tokio::test]
async fn a_task_that_listens_stops_and_counts_as_stopped_whatever_it_returns() {
    let mut server = FakeServer::start().await;
    let _worker = run(builder(&server).handler("listens", |task: Task| async move {
        task.cancelled().await;
        assert!(task.is_cancelled());
        Ok(Output::text("cleaned up"))
    }));
    let mut peer = server.accept().await;
    peer.dispatch(dispatch("listens", 1, 1)).await;
    peer.stop(held(1, 1), 60_000, false).await;
    let ended = peer.end_of(held(1, 1)).await;
    assert_eq!((ended.outcome(), ended.message.as_str()), (Outcome::Stopped, "cleaned up"));
}

#[tokio::test]
async fn a_task_that_does_not_listen_is_killed_after_the_grace_and_then_dropped() {
    let mut server = FakeServer::start().await;
    let (say, mut said) = mpsc::unbounded_channel();
    let _worker = run(builder(&server).handler("stubborn", move |task: Task| {
        let say = say.clone();
        async move {
            let _guard = Guard(say.clone());
            task.cancelled().await;
            say.send("cancelled").unwrap();
            task.killed().await;
            say.send("killed").unwrap();
            std::future::pending().await
        }
    }));
    let mut peer = server.accept().await;
    peer.dispatch(dispatch("stubborn", 1, 1)).await;
    peer.stop(held(1, 1), 50, false).await;
    assert_eq!(peer.end_of(held(1, 1)).await.outcome(), Outcome::Stopped);
    for expect in ["cancelled", "killed", "dropped"] {
        assert_eq!(said.try_recv(), Ok(expect), "all of it came before the report");
    }
}

#[tokio::test]
async fn an_abandoned_attempt_is_dropped_without_a_word_and_a_newer_one_waits_for_that() {
    let mut server = FakeServer::start().await;
    let (say, mut said) = mpsc::unbounded_channel();
    let _worker = run(builder(&server).handler("once", move |task: Task| {
        let say = say.clone();
        async move {
            if task.attempt() == 2 {
                say.send("second").unwrap();
                return Ok(Output::default());
            }
            let _guard = Guard(say.clone());
            say.send("first").unwrap();
            std::future::pending().await
        }
    }));
    let mut peer = server.accept().await;
    peer.dispatch(dispatch("once", 1, 1)).await;
    assert_eq!(within(said.recv()).await, Some("first"));
    peer.stop(held(1, 1), 0, true).await;
    peer.dispatch(dispatch("once", 1, 2)).await;
    assert_eq!(peer.end_of(held(1, 2)).await.outcome(), Outcome::Succeeded);
    assert_eq!((said.try_recv(), said.try_recv()), (Ok("dropped"), Ok("second")));
}

#[tokio::test]
async fn without_a_server_the_worker_keeps_the_timeout_itself() {
    let mut server = FakeServer::start().await;
    let _worker = run(builder(&server).handler("listens", |task: Task| async move {
        task.cancelled().await;
        Ok(Output::default())
    }));
    let mut peer = server.accept().await;
    let timeout_millis = Duration::from_millis(50).as_millis() as u64;
    peer.dispatch(v1::Dispatch { timeout_millis, ..dispatch("listens", 1, 1) }).await;
    peer.be_heard().await;
    *server.refusal.lock().unwrap() = Some(tonic::Status::unavailable("away"));
    peer.hang_up(tonic::Status::unavailable("away")).await;
    // While nobody is there, it ends.
    let mut peer = loop {
        server.refused().await;
        *server.refusal.lock().unwrap() = None;
        let peer = server.accept().await;
        if peer.hello.running.is_empty() {
            break peer;
        }
        *server.refusal.lock().unwrap() = Some(tonic::Status::unavailable("away"));
        peer.hang_up(tonic::Status::unavailable("away")).await;
    };
    loop {
        let report = peer.report().await;
        if report.task == Some(held(1, 1)) {
            let Some(v1::report::Event::Ended(ended)) = report.event else { panic!("{report:?}") };
            assert_eq!((ended.outcome(), ended.reason.as_str()), (Outcome::Failed, "timeout"));
            break;
        }
    }
}
