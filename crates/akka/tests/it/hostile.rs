//! Peers that do not behave.

use std::time::Duration;

use pendula_akka::transport::{Limits, Refused};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use tokio::io::AsyncWriteExt;

use crate::kryo::vectors;
use crate::peer::{Peer, ToServer, address_of, frame, limits, node, selection, until};

#[tokio::test]
async fn s1_8_who_does_not_speak_artery_is_hung_up_on() {
    let short = Duration::from_millis(200);
    let (node, _inbox) = node(Limits { first_frame: short, whole_frame: short, ..limits() }).await;
    let worker = Peer::new(7).await;
    let us = address_of(&node);
    let greeting = worker.handshake(&us);
    let head = |length: u32| [&b"AKKA\x02"[..], &length.to_le_bytes()].concat();
    let cases: [(&str, Vec<u8>); 9] = [
        ("another protocol", b"GET / HTTP/1.1\r\n\r\n".to_vec()),
        ("TLS", vec![0x16, 3, 1, 2, 0, 1]),
        ("another stream", b"AKKA\x04".to_vec()),
        ("nothing", Vec::new()),
        ("half a preamble", b"AKK".to_vec()),
        ("a frame of 4 GiB", head(u32::MAX)),
        ("a frame over the limit", head((4 << 20) + 1)),
        ("no envelope", [&head(3)[..], b"abc"].concat()),
        ("half a frame", [&b"AKKA\x01"[..], &greeting[..40]].concat()),
    ];
    for (number, (what, bytes)) in cases.iter().enumerate() {
        let mut stream = ToServer::dial_from(&node, "127.0.0.1").await;
        stream.send(bytes).await;
        stream.is_closed().await;
        let broken = |to: &pendula_akka::transport::Associations| {
            to.counters().refused(Refused::Broken) + to.counters().refused(Refused::TooLarge)
        };
        until(what, node.associations(), |to| broken(to) == number as u64 + 1).await;
    }
    // One that is whole and then silent is a worker's.
    let quiet = worker.dial(&node, 1, &us).await;
    let mut back = worker.accept().await;
    back.greets(&worker.me.address, &us).await;
    tokio::time::sleep(2 * short).await;
    quiet.is_open();
    until("nothing is kept", node.associations(), |to| (to.connections(), to.held()) == (1, 0)).await;
}

#[tokio::test]
async fn one_peer_does_not_take_all_connections() {
    let (node, mut inbox) = node(Limits { connections: 20, connections_per_peer: 10, ..limits() }).await;
    let mut flood = Vec::new();
    for _ in 0..30 {
        flood.push(ToServer::dial_from(&node, "127.0.0.2").await);
    }
    let to = node.associations();
    until("the rest is refused", to, |to| to.counters().refused(Refused::Connection) == 20).await;
    assert_eq!(to.connections(), 10);
    let worker = Peer::new(7).await;
    let (_control, mut ordinary, _back) = worker.join(&node).await;
    ordinary.send(&worker.message(&address_of(&node), "", b"heartbeat")).await;
    assert_eq!(*inbox.recv().await.unwrap().payload, *b"heartbeat");
    drop(flood);
    until("their places are free again", to, |to| to.connections() == 2).await;
}

/// Nobody takes what a worker says, and it says a lot: what is held stays within its limit.
#[tokio::test]
async fn a_flood_is_held_back() {
    let limits = Limits { inbox: 1024, held: 2 << 20, held_per_peer: 1 << 20, frame: 256 << 10, ..limits() };
    let limits = Limits { queue_bytes: 1 << 20, ..limits };
    let (node, mut inbox) = node(limits).await;
    let us = address_of(&node);
    let to = node.associations();
    let flooder = Peer::new(7).await;
    let mut stream = ToServer::dial_from(&node, "127.0.0.2").await;
    stream.send(b"AKKA\x02").await;
    stream.send(&flooder.handshake(&us)).await;
    let message = flooder.message(&us, "", &vec![1; 200_000]);
    let mut most = 0;
    loop {
        let written = stream.stream.write_all(&message).await;
        most = most.max(to.held());
        if written.is_err() {
            break;
        }
    }
    assert!(most <= 1 << 20, "{most} bytes were held for one peer");
    until("it was hung up on", to, |to| to.counters().refused(Refused::TooLarge) == 1).await;

    // Others have room, and what was said before is there.
    let worker = Peer::new(8).await;
    let (_control, mut ordinary, _back) = worker.join(&node).await;
    ordinary.send(&worker.message(&us, "", b"heartbeat")).await;
    while *inbox.recv().await.unwrap().payload != *b"heartbeat" {}
    until("nothing is held", to, |to| to.held() == 0).await;
}

/// Handshakes cost nothing that grows, however many there are and whoever they say they are from.
#[tokio::test]
async fn a_flood_of_handshakes_is_held_back() {
    let (node, _inbox) = node(Limits { associations: 10, ..limits() }).await;
    let us = address_of(&node);
    let to = node.associations();
    let mut stream = ToServer::dial(&node, 1).await;
    let mut stranger = Peer::new(7).await;
    for port in 1..=500_u16 {
        stranger.me.address = pendula_akka::artery::Address::new("oms", "127.0.0.1", port).unwrap();
        stream.send(&stranger.handshake(&us)).await;
    }
    until("the rest is refused", to, |to| to.counters().refused(Refused::Handshake) == 490).await;
    assert_eq!(to.count(), 10);
    // One that is known may say it as often as it likes, under as many numbers.
    for uid in 0..500 {
        stranger.me.uid = uid;
        stranger.me.address = pendula_akka::artery::Address::new("oms", "127.0.0.1", 1).unwrap();
        stream.send(&stranger.handshake(&us)).await;
    }
    until("all were read", to, |to| to.counters().received() == 1000).await;
    stream.is_open();
}

/// Random and broken streams through the whole reader, with the codec behind it.
#[tokio::test]
async fn s1_8_noise_breaks_nothing() {
    const STREAMS: usize = 300;
    let quick = Duration::from_millis(50);
    let (node, mut inbox) = node(Limits { first_frame: quick, whole_frame: quick, connect: quick, ..limits() }).await;
    let us = address_of(&node);
    let worker = Peer::new(7).await;
    let good: Vec<Vec<u8>> = vectors()
        .iter()
        .map(|vector| worker.message(&us, "", &vector.bytes))
        .chain([
            worker.handshake(&us),
            worker.control("a", "", &[&worker.me, &worker.me]),
            worker.control("b", "akka://oms@127.0.0.1:1/x", &[&worker.me]),
            worker.control("e", "", &[&worker.me]),
            worker.control("f", "", &[&worker.me]),
            frame(7, 277_777, "", &format!("{us}/temp/x"), "", b"x"),
            frame(7, 6, "", "", "", &selection("friend_actor", b"x")),
            frame(7, 22, "", "", "", b"x"),
        ])
        .collect();
    let changes = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8);
    let strategy = (prop::collection::vec(prop::sample::select(good), 1..12), changes, any::<bool>());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[7; 32]);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);

    let read = tokio::spawn(async move {
        let (mut read, mut refused) = (0, 0);
        while let Some(inbound) = inbox.recv().await {
            match pendula_akka::kryo::decode(&inbound.payload) {
                Ok(_) => read += 1,
                Err(_) => refused += 1,
            }
        }
        (read, refused)
    });
    let mut most = 0;
    for _ in 0..STREAMS {
        let (frames, changes, greets) = strategy.new_tree(&mut runner).expect("a stream").current();
        let mut bytes = b"AKKA\x02".to_vec();
        if greets {
            bytes.extend(worker.handshake(&us));
        }
        bytes.extend(frames.concat());
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let mut stream = ToServer::dial_from(&node, "127.0.0.1").await;
        // It may hang up before all is written.
        let _ = stream.stream.write_all(&bytes).await;
        most = most.max(node.associations().held());
    }
    until("all ended", node.associations(), |to| (to.connections(), to.held()) == (0, 0)).await;
    assert!(most < 1 << 20, "{most} bytes were held");
    node.close().await;
    let (read, refused) = read.await.expect("nothing panicked");
    assert!(read > 200 && refused > 5, "{read} were read and {refused} refused: the noise is no test");
}
