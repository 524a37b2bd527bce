//! Several addresses: those that were configured, and those that servers tell of.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use pendula_wire::v1;
use pendula_worker::worker::Timing;
use pendula_worker::{Output, Task, Worker, WorkerBuilder};
use tokio::sync::mpsc;
use tonic::Status;
use tonic::transport::Server;

use crate::server::{FakeServer, Peer, dispatch, held, quick, run, welcome, within};
use crate::tls::{CA, secure};

/// Nobody listens there.
fn dead() -> String {
    format!("http://{}", TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap())
}

/// Takes connections and says nothing, like a process that is stopped or a machine that hangs.
struct Mute(TcpListener);

impl Mute {
    fn new() -> Self {
        Mute(TcpListener::bind("127.0.0.1:0").unwrap())
    }

    fn url(&self) -> String {
        format!("http://{}", self.0.local_addr().unwrap())
    }
}

fn worker(url: &str) -> WorkerBuilder {
    Worker::builder(url).token("secret").timing(quick()).handler("noop", |_: Task| async { Ok(Output::default()) })
}

/// Returns once the worker has read everything said so far, which it shows by running a task.
async fn be_heard(peer: &mut Peer, instance: i64) {
    peer.dispatch(dispatch("noop", instance, 1)).await;
    peer.end_of(held(instance, 1)).await;
    peer.ack(held(instance, 1)).await;
}

fn telling(servers: impl IntoIterator<Item = String>) -> v1::Welcome {
    v1::Welcome { servers: servers.into_iter().collect(), ..welcome() }
}

#[tokio::test]
async fn o_10_a_dead_first_address_costs_little() {
    let mute = Mute::new();
    for first in [dead(), mute.url()] {
        let mut server = FakeServer::start().await;
        let begun = Instant::now();
        let _worker = run(worker(&format!("{first},{}", server.url)));
        let peer = server.accept().await;
        assert!(begun.elapsed() < Duration::from_secs(4), "{first}: {:?}", begun.elapsed());
        // Whoever had us comes first when it is still there.
        let begun = Instant::now();
        peer.hang_up(Status::unavailable("the partition moved")).await;
        let peer = server.accept().await;
        assert!(begun.elapsed() < Duration::from_millis(900), "{first}: {:?}", begun.elapsed());
        // It is gone for a while, and the other one is no better.
        let address = server.address;
        server.stop().await;
        drop(peer);
        let begun = Instant::now();
        let mut server = FakeServer::start_at(address, Server::builder());
        server.accept().await;
        assert!(begun.elapsed() < Duration::from_secs(8), "{first}: {:?}", begun.elapsed());
    }
}

#[tokio::test]
async fn servers_that_were_told_of_are_used_when_the_configured_one_is_gone() {
    let mut balancer = FakeServer::start().await;
    let (mut first, mut second) = (FakeServer::start().await, FakeServer::start().await);
    let _worker = run(worker(&balancer.url));
    let mut peer = balancer.knock().await;
    peer.welcome(telling([first.url.clone(), second.url.clone()])).await;
    be_heard(&mut peer, 1).await;
    let address = balancer.address;
    balancer.stop().await;
    drop(peer);
    let mut peer = first.knock().await;
    assert!(second.is_left_alone(), "one at a time");

    // What is told now replaces what was told then, and the first choice stays the first.
    peer.welcome(telling([second.url.clone()])).await;
    be_heard(&mut peer, 2).await;
    let mut balancer = FakeServer::start_at(address, Server::builder());
    peer.hang_up(Status::unavailable("the server is shutting down")).await;
    let mut peer = balancer.knock().await;
    peer.welcome(telling([second.url.clone()])).await;
    be_heard(&mut peer, 3).await;
    balancer.stop().await;
    drop(peer);
    second.accept().await;
    assert!(first.is_left_alone());
}

/// Whoever was reached and said "not now" is asked again soon; nobody else is, for it would be no use.
#[tokio::test]
async fn after_a_partition_moved_the_same_address_is_dialled_at_once() {
    let mut balancer = FakeServer::start().await;
    let other = FakeServer::start().await;
    // Pauses that grow would be noticed.
    let timing = Timing { reconnect_first: Duration::from_millis(40), ..quick() };
    let timing = Timing { reconnect_max: Duration::from_secs(3600), ..timing };
    let _worker = run(worker(&balancer.url).timing(timing));
    let mut peer = balancer.knock().await;
    peer.welcome(telling([other.url.clone()])).await;
    be_heard(&mut peer, 4).await;
    let begun = Instant::now();
    let moved = Status::unavailable("the app's partition moved; connect again at once");
    *balancer.refusal.lock().unwrap() = Some(moved.clone());
    peer.hang_up(Status::aborted("closed by the partition")).await;
    for _ in 0..6 {
        balancer.refused().await;
    }
    *balancer.refusal.lock().unwrap() = None;
    balancer.knock().await;
    assert!(other.is_left_alone());
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn addresses_that_lead_nowhere_hardly_delay_a_reconnect() {
    let mutes: Vec<Mute> = (0..20).map(|_| Mute::new()).collect();
    let mut balancer = FakeServer::start().await;
    let _worker = run(worker(&balancer.url));
    let mut peer = balancer.knock().await;
    peer.welcome(telling(mutes.iter().map(Mute::url))).await;
    be_heard(&mut peer, 5).await;
    let address = balancer.address;
    balancer.stop().await;
    drop(peer);
    // One of those that lead nowhere was dialled: the worker is on its way.
    let listener = tokio::net::TcpListener::from_std({
        mutes[0].0.set_nonblocking(true).unwrap();
        mutes[0].0.try_clone().unwrap()
    });
    let (_mute, _) = within(listener.unwrap().accept()).await.unwrap();
    let begun = Instant::now();
    let mut balancer = FakeServer::start_at(address, Server::builder());
    balancer.accept().await;
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn sec_4_a_token_that_travels_by_tls_is_not_sent_without() {
    let mut server = FakeServer::start_with(secure()).await;
    let plain = FakeServer::start().await;
    let mut other = FakeServer::start_with(secure()).await;
    let https = |server: &FakeServer| server.url.replace("http://", "https://");
    let _worker = run(worker(&https(&server)).tls_domain("pendula.test").ca_certificate(CA));
    let mut peer = server.knock().await;
    peer.welcome(telling([plain.url.clone(), https(&other)])).await;
    be_heard(&mut peer, 6).await;
    server.stop().await;
    drop(peer);
    let peer = other.accept().await;
    assert_eq!(peer.metadata.get("authorization").unwrap(), "Bearer secret");
    assert!(plain.is_left_alone());
}

/// That others cannot be reached is no sign that the token is good.
#[tokio::test]
async fn sec_4_a_dead_address_does_not_keep_the_work_of_a_worker_that_was_shut_out() {
    let mut server = FakeServer::start().await;
    let (dropped, mut drops) = mpsc::unbounded_channel::<i64>();
    let timing = Timing { unauthorized_abort: Duration::from_millis(50), ..quick() };
    let url = format!("{},{}", server.url, dead());
    let _worker = run(worker(&url).timing(timing).handler("waits", move |task: Task| {
        let dropped = dropped.clone();
        async move {
            task.killed().await;
            dropped.send(task.instance().0).unwrap();
            Ok(Output::default())
        }
    }));
    let mut peer = server.accept().await;
    peer.dispatch(dispatch("waits", 1, 1)).await;
    be_heard(&mut peer, 7).await;
    let revoked = Status::unauthenticated("unknown token");
    *server.refusal.lock().unwrap() = Some(revoked.clone());
    peer.hang_up(revoked).await;
    assert_eq!(within(drops.recv()).await, Some(1));
    *server.refusal.lock().unwrap() = None;
    assert_eq!(server.accept().await.hello.running, [] as [v1::Held; 0]);
}
