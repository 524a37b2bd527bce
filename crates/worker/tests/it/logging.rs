//! Logs: before the end, again after a break, marked where something is missing.

use std::sync::Arc;

use pendula_wire::v1::{self, Outcome};
use pendula_worker::{Output, Task};
use tokio::sync::Notify;
use tonic::Status;

use crate::server::{FakeServer, builder, dispatch, held, run};

fn chunk(offset: u64, data: &str, lost_before: u64, end: bool) -> v1::LogChunk {
    v1::LogChunk { task: Some(held(1, 1)), offset, data: data.as_bytes().to_vec().into(), lost_before, end }
}

#[tokio::test]
async fn a_log_is_complete_before_its_attempt_ends() {
    let mut server = FakeServer::start().await;
    let go = Arc::new(Notify::new());
    let _worker = run(builder(&server).handler("logs", {
        let go = go.clone();
        move |task: Task| {
            let go = go.clone();
            async move {
                task.log_line("one");
                go.notified().await;
                task.log().write("zw€i\n".as_bytes()).await;
                Ok(Output::default())
            }
        }
    }));
    let mut peer = server.accept().await;
    peer.dispatch(dispatch("logs", 1, 1)).await;
    assert_eq!(peer.log().await, [chunk(0, "one\n", 0, false)]);
    go.notify_one();
    assert_eq!(peer.log().await, [chunk(4, "zw€i\n", 0, true)]);
    assert_eq!(peer.end_of(held(1, 1)).await.outcome(), Outcome::Succeeded);
}

#[tokio::test]
async fn what_was_not_acknowledged_is_sent_again_before_the_end() {
    let mut server = FakeServer::start().await;
    let go = Arc::new(Notify::new());
    let _worker = run(builder(&server).handler("logs", {
        let go = go.clone();
        move |task: Task| {
            let go = go.clone();
            async move {
                task.log_line("one");
                go.notified().await;
                task.log_line("two");
                go.notified().await;
                Ok(Output::default())
            }
        }
    }));
    let mut peer = server.accept().await;
    peer.dispatch(dispatch("logs", 1, 1)).await;
    assert_eq!(peer.log().await, [chunk(0, "one\n", 0, false)]);
    peer.ack_log(held(1, 1), 4).await;
    go.notify_one();
    assert_eq!(peer.log().await, [chunk(4, "two\n", 0, false)]);
    peer.hang_up(Status::unavailable("restart")).await;

    let mut peer = server.accept().await;
    assert_eq!(peer.log().await, [chunk(4, "two\n", 0, false)]);
    go.notify_one();
    assert_eq!(peer.log().await, [chunk(8, "", 0, true)]);
    peer.end_of(held(1, 1)).await;
    peer.hang_up(Status::unavailable("restart")).await;

    // Neither the log's end nor the attempt's is acknowledged: both come again, in that order.
    let mut peer = server.accept().await;
    assert_eq!(peer.log().await, [chunk(4, "two\n", 0, true)]);
    peer.end_of(held(1, 1)).await;
    peer.ack_log(held(1, 1), 8).await;
    peer.ack(held(1, 1)).await;
    peer.be_heard().await;
    peer.hang_up(Status::unavailable("restart")).await;
    assert_eq!(server.knock().await.hello.finished, []);
}

#[tokio::test]
async fn o_9_what_was_dropped_while_disconnected_is_marked() {
    const BOUND: usize = 128 * 1024;
    let mut server = FakeServer::start().await;
    let (go, wrote) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let _worker = run(builder(&server).log_bytes(BOUND, BOUND).handler("logs", {
        let (go, wrote) = (go.clone(), wrote.clone());
        move |task: Task| {
            let (go, wrote) = (go.clone(), wrote.clone());
            async move {
                task.log_line("begin");
                go.notified().await;
                for n in 0..100_000 {
                    task.log().write_line(&format!("line {n:06}")).await;
                }
                wrote.notify_one();
                Ok(Output::default())
            }
        }
    }));
    let mut peer = server.accept().await;
    peer.dispatch(dispatch("logs", 1, 1)).await;
    assert_eq!(peer.log().await, [chunk(0, "begin\n", 0, false)]);
    peer.ack_log(held(1, 1), 6).await;
    peer.be_heard().await;
    peer.hang_up(Status::unavailable("restart")).await;
    let mut peer = server.knock().await;
    go.notify_one();
    wrote.notified().await;
    peer.welcome(crate::server::welcome()).await;

    let (mut stored, mut lost, mut end) = (6_u64, 0, false);
    let mut text = String::new();
    while !end {
        for chunk in peer.log().await {
            assert_eq!(chunk.offset, stored + chunk.lost_before, "offsets count what was lost");
            lost += chunk.lost_before;
            stored = chunk.offset + chunk.data.len() as u64;
            text.push_str(std::str::from_utf8(&chunk.data).unwrap());
            end = chunk.end;
        }
    }
    assert_eq!(stored, 6 + 100_000 * 12);
    assert_eq!(lost + text.len() as u64, 100_000 * 12);
    assert!(text.len() <= BOUND && text.len() > BOUND / 2 && text.ends_with("line 099999\n"), "{}", text.len());
    peer.end_of(held(1, 1)).await;
}

#[tokio::test]
async fn while_connected_a_writer_waits_and_loses_nothing() {
    const BOUND: usize = 128 * 1024;
    let mut server = FakeServer::start().await;
    let _worker = run(builder(&server).log_bytes(BOUND, BOUND).handler("logs", |task: Task| async move {
        for n in 0..100_000 {
            task.log().write_line(&format!("line {n:06}")).await;
        }
        Ok(Output::default())
    }));
    let mut peer = server.accept().await;
    peer.dispatch(dispatch("logs", 1, 1)).await;
    let (mut stored, mut end) = (0_u64, false);
    while !end {
        for chunk in peer.log().await {
            assert_eq!((chunk.offset, chunk.lost_before), (stored, 0));
            stored += chunk.data.len() as u64;
            end = chunk.end;
        }
        peer.ack_log(held(1, 1), stored).await;
    }
    assert_eq!(stored, 100_000 * 12);
    peer.end_of(held(1, 1)).await;
}
