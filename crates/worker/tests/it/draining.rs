//! How a worker ends.

use std::sync::Arc;
use std::time::Duration;

use pendula_wire::v1::{self, Outcome, to_server, to_worker};
use pendula_worker::{Output, Shutdown, Task};
use tokio::sync::Notify;

use crate::server::{FakeServer, Peer, builder, dispatch, held, run};

/// Until the worker said that it drains. Reports that come meanwhile are acknowledged.
async fn drains(peer: &mut Peer) {
    loop {
        match peer.hear().await.expect("the session is open") {
            to_server::Message::Draining(_) => return,
            to_server::Message::Reports(reports) => {
                for report in reports.reports {
                    peer.ack(report.task.unwrap()).await;
                }
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn the_first_signal_finishes_what_runs_and_refuses_what_comes() {
    let mut server = FakeServer::start().await;
    let go = Arc::new(Notify::new());
    let worker = run(builder(&server).handler("waits", {
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
    peer.be_heard().await;
    worker.shutdown.drain();
    drains(&mut peer).await;
    peer.dispatch(dispatch("waits", 2, 1)).await;
    assert_eq!(peer.end_of(held(2, 1)).await.outcome(), Outcome::Rejected);
    go.notify_one();
    assert_eq!(peer.end_of(held(1, 1)).await.outcome(), Outcome::Succeeded);
    peer.ack(held(1, 1)).await;
    peer.ack(held(2, 1)).await;
    assert!(peer.hear().await.is_none(), "nothing is left to say");
    let summary = worker.result().await.unwrap();
    assert_eq!((summary.succeeded, summary.rejected, summary.unacknowledged, summary.still_running), (1, 2, 0, 0));
}

#[tokio::test]
async fn what_exceeds_the_budget_is_handed_back() {
    let mut server = FakeServer::start().await;
    let worker = run(builder(&server)
        .drain_budget(Duration::from_millis(50))
        .handler("stubborn", |_: Task| std::future::pending())
        .handler("listens", |task: Task| async move {
            task.cancelled().await;
            Ok(Output::default())
        }));
    let mut peer = server.accept().await;
    peer.dispatch(dispatch("stubborn", 1, 1)).await;
    peer.dispatch(dispatch("listens", 2, 1)).await;
    peer.be_heard().await;
    worker.shutdown.drain();
    drains(&mut peer).await;
    for task in [held(2, 1), held(1, 1)] {
        let ended = peer.end_of(task).await;
        assert_eq!((ended.outcome(), ended.reason.as_str()), (Outcome::HandedBack, "worker_drained"));
        peer.ack(task).await;
    }
    assert_eq!(worker.result().await.unwrap().handed_back, 2);
}

#[tokio::test]
async fn a_server_may_ask_for_it() {
    let mut server = FakeServer::start().await;
    let worker = run(builder(&server).handler("stubborn", |_: Task| std::future::pending()));
    let mut peer = server.accept().await;
    peer.dispatch(dispatch("stubborn", 1, 1)).await;
    peer.say(to_worker::Message::Drain(v1::DrainRequest { budget_millis: 1 })).await;
    drains(&mut peer).await;
    assert_eq!(peer.end_of(held(1, 1)).await.outcome(), Outcome::HandedBack);
    peer.ack(held(1, 1)).await;
    assert_eq!(worker.result().await.unwrap().handed_back, 1);
}

#[tokio::test]
async fn a_second_signal_does_not_wait() {
    let mut server = FakeServer::start().await;
    let worker = run(builder(&server).handler("stubborn", |_: Task| std::future::pending()));
    let mut peer = server.accept().await;
    peer.dispatch(dispatch("stubborn", 1, 1)).await;
    peer.be_heard().await;
    worker.shutdown.drain();
    drains(&mut peer).await;
    worker.shutdown.now();
    assert!(peer.hear().await.is_none());
    let summary = worker.result().await.unwrap();
    assert_eq!((summary.handed_back, summary.still_running), (0, 0));
}

#[tokio::test]
async fn a_server_that_does_not_acknowledge_is_not_waited_for_long() {
    let mut server = FakeServer::start().await;
    let worker = run(builder(&server).handler("noop", |_: Task| async { Ok(Output::default()) }));
    let mut peer = server.accept().await;
    peer.dispatch(dispatch("noop", 1, 1)).await;
    peer.end_of(held(1, 1)).await;
    worker.shutdown.drain();
    assert_eq!(worker.result().await.unwrap().unacknowledged, 1);
}

#[tokio::test]
async fn draining_is_said_again_to_the_next_server() {
    let mut server = FakeServer::start().await;
    let worker = run(builder(&server).handler("stubborn", |_: Task| std::future::pending()));
    let mut peer = server.accept().await;
    peer.dispatch(dispatch("stubborn", 1, 1)).await;
    peer.be_heard().await;
    worker.shutdown.drain();
    drains(&mut peer).await;
    peer.hang_up(tonic::Status::unavailable("restart")).await;
    let mut peer = server.accept().await;
    assert_eq!(peer.hello.running, [held(1, 1)]);
    drains(&mut peer).await;
}

#[tokio::test]
async fn a_worker_without_a_server_leaves_too() {
    let server = FakeServer::start().await;
    let builder = builder(&server);
    drop(server);
    let worker = builder.handler("noop", |_: Task| async { Ok(Output::default()) }).build().unwrap();
    let summary = crate::server::within(worker.run(Shutdown::when(async {}))).await.unwrap();
    assert_eq!(summary, pendula_worker::Summary::default());
}
