//! The transport against peers that behave as workers do.

use std::time::Duration;

use pendula_akka::artery::control::Control;
use pendula_akka::artery::{Address, UniqueAddress};
use pendula_akka::kryo::{Dialect, decode};
use pendula_akka::transport::{AskError, Limits, Node, Options, Refused, SendError};
use tokio::time::timeout;

use crate::kryo::vectors;
use crate::peer::{
    Apart, Loopback, Peer, SOON, ToServer, address_of, frame, limits, node, node_with, selection, until,
};

const WITHIN: Duration = Duration::from_secs(5);

#[tokio::test]
async fn a_worker_joins_and_says_something() {
    let (node, mut inbox) = node(limits()).await;
    let worker = Peer::new(7).await;
    let us = address_of(&node);
    let (control, mut ordinary, _back) = worker.join(&node).await;
    for vector in vectors() {
        let padded = [vector.bytes.as_slice(), &[0; 1024]].concat();
        ordinary.send(&worker.message(&us, "", &padded)).await;
        let inbound = inbox.recv().await.unwrap();
        assert_eq!((&inbound.from, inbound.actor.as_str()), (&worker.me.address, "server_actor"));
        assert!(inbound.reply.is_none());
        assert_eq!(*inbound.payload, padded);
        assert_eq!(decode(&inbound.payload), decode(&vector.bytes));
    }
    control.is_open();
    ordinary.is_open();
    until("all was read", node.associations(), |to| to.held() == 0).await;
    assert!(Refused::ALL.into_iter().all(|why| node.associations().counters().refused(why) == 0));
}

/// A worker that dialled a name gets that name back; one number under two names would break it.
#[tokio::test]
async fn we_are_who_the_worker_dialled() {
    let (node, _inbox) = node(limits()).await;
    let port = node.local_addr().port();
    let worker = Peer::new(7).await;
    let by_name = Address::new("oms-server", "localhost", port).unwrap();
    let _control = worker.dial(&node, 1, &by_name).await;
    let mut back = worker.accept().await;
    let first = back.greets(&worker.me.address, &by_name).await;

    let by_ip = Address::new("oms-server", "127.0.0.1", port).unwrap();
    let _other = worker.dial(&node, 1, &by_ip).await;
    let mut other = worker.accept().await;
    let second = other.greets(&worker.me.address, &by_ip).await;
    assert_ne!(first, second);
    assert_eq!(back.message().await, None, "who we were is gone");
}

/// Workers tell who tracks an instance about its tasks, and take that for another worker.
#[tokio::test]
async fn we_are_who_tracks_an_instance_too_under_another_number() {
    let (node, mut inbox) = node(limits()).await;
    let us = address_of(&node);
    let worker = Peer::new(7).await;
    let mut control = worker.dial(&node, 1, &us).await;
    let mut back = worker.accept().await;
    let first = back.greets(&worker.me.address, &us).await;
    control.send(&worker.introduction()).await;

    let tracker = Address::new("oms", "127.0.0.1", node.local_addr().port()).unwrap();
    let mut to_tracker = worker.dial(&node, 1, &tracker).await;
    let Control::HandshakeRsp(second) = back.control().await else { panic!("it is not answered") };
    assert_eq!(second.address, tracker);
    assert_ne!(second.uid, first);
    let asker = format!("{}/temp/x", worker.me.address);
    let question = selection("task_tracker", b"map");
    to_tracker.send(&frame(worker.me.uid, 6, &asker, &format!("{tracker}/"), "", &question)).await;
    let asked = inbox.recv().await.unwrap();
    assert_eq!((&asked.from, asked.actor.as_str()), (&worker.me.address, "task_tracker"));
    node.associations().reply(&asked.reply.unwrap(), &b"done"[..]).await.unwrap();
    let answer = back.message().await.unwrap();
    assert_eq!((answer.uid, answer.recipient, answer.payload), (first, asker, b"done".to_vec()));

    // One name is forgotten by the worker: the other one goes on.
    control.send(&worker.control("a", "", &[&worker.me, &second])).await;
    let greeting = back.next().await.unwrap();
    let anew = UniqueAddress { address: tracker, uid: greeting.uid };
    assert_ne!(anew.uid, second.uid);
    assert_eq!(greeting.control(), Some(Control::HandshakeReq { from: anew, to: worker.me.address.clone() }));
    node.associations().tell(&worker.me.address, "worker", &b"run"[..]).await.unwrap();
    assert_eq!(back.message().await.unwrap().uid, first);
}

#[tokio::test]
async fn two_workers_know_us_by_different_numbers() {
    let (node, _inbox) = node(limits()).await;
    let us = address_of(&node);
    let mut numbers = Vec::new();
    for uid in [7, 8] {
        let worker = Peer::new(uid).await;
        let _control = worker.dial(&node, 1, &us).await;
        numbers.push(worker.accept().await.greets(&worker.me.address, &us).await);
    }
    assert_ne!(numbers[0], numbers[1]);
}

#[tokio::test]
async fn questions_are_answered_in_both_directions() {
    let (node, mut inbox) = node(limits()).await;
    let worker = Peer::new(7).await;
    let us = address_of(&node);
    let (_control, mut ordinary, mut back) = worker.join(&node).await;

    let literal = format!("{}/temp/_user_server_actor$a+~", worker.me.address);
    ordinary.send(&worker.message(&us, &literal, b"question")).await;
    let inbound = inbox.recv().await.unwrap();
    let reply = inbound.reply.expect("it waits for an answer");
    assert_eq!(reply.worker(), &worker.me.address);
    node.associations().reply(&reply, &b"answer"[..]).await.unwrap();
    let answer = back.message().await.unwrap();
    assert_eq!((answer.serializer, &answer.recipient, &answer.payload[..]), (277_777, &literal, &b"answer"[..]));

    let asked = node.associations().ask(&worker.me.address, "worker", &b"question"[..], SOON);
    let answers = async {
        let question = back.message().await.unwrap();
        assert_eq!(question.recipient, format!("{}/", worker.me.address));
        assert_eq!(question.payload, selection("worker", b"question"));
        assert!(question.sender.starts_with(&format!("{us}/temp/")), "{}", question.sender);
        let sender = "akka://oms@127.0.0.1:1/user/worker/$a#-118921073";
        ordinary.send(&frame(7, 277_777, sender, &question.sender, "", b"answer")).await;
        // Twice is too often.
        ordinary.send(&frame(7, 277_777, sender, &question.sender, "", b"answer")).await;
    };
    let (answer, ()) = tokio::join!(asked, answers);
    assert_eq!(*answer.unwrap(), *b"answer");
    until("the second answer is late", node.associations(), |to| to.counters().refused(Refused::LateAnswer) == 1).await;
}

#[tokio::test]
async fn a_question_without_an_answer_ends_in_time_and_leaves_nothing() {
    let (node, _inbox) = node(Limits { asks: 1, ..limits() }).await;
    let worker = Peer::new(7).await;
    let (_control, _ordinary, mut back) = worker.join(&node).await;
    let to = node.associations();
    let short = Duration::from_millis(50);
    assert_eq!(to.ask(&worker.me.address, "worker", &b"?"[..], short).await.unwrap_err(), AskError::NoAnswer(short));

    // Who does not wait any more leaves nothing either.
    let mut asked = Box::pin(to.ask(&worker.me.address, "worker", &b"?"[..], SOON));
    tokio::select! {
        _ = &mut asked => panic!("nobody answers"),
        _ = async { back.message().await; back.message().await } => {}
    }
    assert_eq!(to.ask(&worker.me.address, "worker", &b"?"[..], short).await.unwrap_err(), AskError::TooMany);
    drop(asked);
    assert_eq!(to.ask(&worker.me.address, "worker", &b"?"[..], short).await.unwrap_err(), AskError::NoAnswer(short));
}

/// After a start of the server: nobody dialled it yet.
#[tokio::test]
async fn the_server_may_begin() {
    let (node, mut inbox) = node(limits()).await;
    let worker = Peer::new(7).await;
    let asked = node.associations().ask(&worker.me.address, "worker", &b"question"[..], SOON);
    let answers = async {
        let mut back = worker.accept().await;
        let advertised = Address::new("oms-server", "server.test", 10086).unwrap();
        let greeting = back.next().await.unwrap();
        let from = UniqueAddress { address: advertised.clone(), uid: greeting.uid };
        assert_eq!(greeting.control(), Some(Control::HandshakeReq { from, to: worker.me.address.clone() }));
        let question = back.message().await.unwrap();
        assert!(question.sender.starts_with("akka://oms-server@server.test:10086/temp/"));
        // It may answer before it says who it is, if it remembers to have said so to who was here before us.
        let mut ordinary = ToServer::dial(&node, 2).await;
        ordinary.send(&frame(7, 277_777, "", &question.sender, "", b"answer")).await;
        (back, ordinary)
    };
    let (answer, (mut back, mut ordinary)) = tokio::join!(asked, answers);
    assert_eq!(*answer.unwrap(), *b"answer");
    let advertised = Address::new("oms-server", "server.test", 10086).unwrap();
    ordinary.send(&worker.message(&advertised, "", b"first")).await;
    ordinary.send(&worker.message(&advertised, "", b"second")).await;
    // It answers the greeting on its other connection: from then on it is known.
    let mut control = ToServer::dial(&node, 1).await;
    control.send(&worker.introduction()).await;
    until("it was read", node.associations(), |to| to.counters().received() == 4).await;
    ordinary.send(&worker.message(&advertised, "", b"third")).await;
    for said in ["first", "second", "third"] {
        assert_eq!(*inbox.recv().await.unwrap().payload, *said.as_bytes());
    }
    // The same connection, the same number: nothing was begun anew.
    ordinary.send(&worker.handshake(&advertised)).await;
    assert!(matches!(back.control().await, Control::HandshakeReq { .. } | Control::HandshakeRsp(_)));
}

/// What a worker says before it says who it is waits for that, and not for long.
#[tokio::test]
async fn what_comes_too_early_waits() {
    let (node, mut inbox) = node(limits()).await;
    let us = address_of(&node);
    let worker = Peer::new(7).await;
    let mut ordinary = ToServer::dial(&node, 2).await;
    for number in 0..20_u8 {
        ordinary.send(&worker.message(&us, "", &[number])).await;
    }
    ordinary.send(&worker.handshake(&us)).await;
    for number in 4..20 {
        assert_eq!(*inbox.recv().await.unwrap().payload, [number]);
    }
    assert_eq!(node.associations().counters().refused(Refused::Stranger), 4);

    // Nor does the end of a connection leave anything behind.
    let mut ordinary = ToServer::dial(&node, 2).await;
    ordinary.send(&Peer::new(9).await.message(&us, "", b"never")).await;
    drop(ordinary);
    let to = node.associations();
    until("it is dropped", to, |to| to.counters().refused(Refused::Stranger) == 5 && to.held() == 0).await;
    // Whom we did not greet cannot answer a greeting.
    let mut control = ToServer::dial(&node, 1).await;
    control.send(&frame(9, 17, "", "", "e", b"")).await;
    control.send(&Peer::new(9).await.control("e", "", &[])).await;
    let stranger = Peer::new(10).await;
    control.send(&stranger.introduction()).await;
    until("it is refused", to, |to| to.counters().refused(Refused::Handshake) == 1).await;
}

#[tokio::test]
async fn a_worker_that_was_started_anew_is_dialled_anew() {
    let (node, mut inbox) = node(limits()).await;
    let us = address_of(&node);
    let old = Peer::new(7).await;
    let late = old.handshake(&us);
    // It was killed: its connections are half open, and nothing says so.
    let (mut old_control, mut old_ordinary, mut old_back) = old.join(&node).await;
    let to = node.associations().clone();
    let address = old.me.address.clone();
    let asked = tokio::spawn({
        let (to, address) = (to.clone(), address.clone());
        async move { to.ask(&address, "worker", &b"question"[..], SOON).await }
    });
    assert!(old_back.message().await.is_some());

    let new = old.restarted(8);
    let mut control = new.dial(&node, 1, &us).await;
    let mut back = new.accept().await;
    back.greets(&address, &us).await;
    assert_eq!(old_back.message().await, None);
    assert_eq!(asked.await.unwrap().unwrap_err(), AskError::Restarted);

    // What the old process said is still its, and its late handshake takes nothing back.
    old_ordinary.send(&frame(7, 6, "", &format!("{us}/"), "", &selection("server_actor", b"late report"))).await;
    assert_eq!(*inbox.recv().await.unwrap().payload, *b"late report");
    old_control.send(&late).await;
    until("the late handshake is refused", &to, |to| to.counters().refused(Refused::Handshake) == 1).await;
    to.tell(&address, "worker", &b"run"[..]).await.unwrap();
    assert_eq!(back.message().await.unwrap().payload, selection("worker", b"run"));
    control.send(&new.handshake(&us)).await;
    assert!(matches!(back.control().await, Control::HandshakeReq { .. } | Control::HandshakeRsp(_)));
}

/// What is there now may read a message otherwise than who it is for: it hears nothing.
#[tokio::test]
async fn what_is_for_one_process_is_not_said_to_the_next() {
    let (node, _inbox) = node(limits()).await;
    let us = address_of(&node);
    let to = node.associations().clone();
    let old = Peer::new(7).await;
    let before = old.me.clone();
    let (control, ordinary, mut back) = old.join(&node).await;
    to.tell(&before, "worker", &b"run"[..]).await.unwrap();
    assert_eq!(back.message().await.unwrap().payload, selection("worker", b"run"));
    drop((control, ordinary, back));
    until("the end is seen", &to, |to| !to.is_connected(&before.address)).await;

    // It listens, and did not say yet that it is there.
    let new = old.restarted(8);
    let told = tokio::spawn({
        let (to, before) = (to.clone(), before.clone());
        async move { to.tell(&before, "worker", &b"stop"[..]).await }
    });
    let mut back = new.accept().await;
    assert!(matches!(back.control().await, Control::HandshakeReq { from, .. } if from.address == us));
    let mut control = ToServer::dial(&node, 1).await;
    control.send(&new.introduction()).await;
    assert_eq!(told.await.unwrap(), Err(SendError::Replaced));
    // From now on that is known.
    assert_eq!(to.tell(&before, "worker", &b"stop"[..]).await, Err(SendError::Replaced));
    let asked = to.ask(&before, "worker", &b"?"[..], WITHIN).await;
    assert_eq!(asked.unwrap_err(), AskError::Send(SendError::Replaced));
    to.tell(&new.me, "worker", &b"first"[..]).await.unwrap();
    assert_eq!(back.message().await.unwrap().payload, selection("worker", b"first"));
}

/// A worker talks to one server, and another one that calls it hears from that one what it said.
#[tokio::test]
async fn a_process_that_others_heard_of_is_looked_for() {
    let (node, _inbox) = node(limits()).await;
    let to = node.associations().clone();
    let old = Peer::new(7).await;
    // Its machine froze: nothing says that it is gone.
    let (_control, _ordinary, mut old_back) = old.join(&node).await;
    to.tell(&old.me, "worker", &b"run"[..]).await.unwrap();
    assert_eq!(old_back.message().await.unwrap().payload, selection("worker", b"run"));

    let new = old.restarted(8);
    let (me, asked) = (new.me.clone(), to.clone());
    let asked = tokio::spawn(async move { asked.ask(&me, "worker", &b"question"[..], SOON).await });
    let mut back = new.accept().await;
    assert!(matches!(back.control().await, Control::HandshakeReq { .. }));
    let mut control = ToServer::dial(&node, 1).await;
    control.send(&new.introduction()).await;
    let question = back.message().await.unwrap();
    assert_eq!(question.payload, selection("worker", b"question"));
    control.send(&frame(8, 277_777, "", &question.sender, "", b"answer")).await;
    assert_eq!(*asked.await.unwrap().unwrap(), *b"answer");
    assert_eq!(old_back.message().await, None);
}

#[tokio::test]
async fn who_does_not_say_who_it_is_is_greeted_again_and_told_nothing() {
    let (node, _inbox) = node(limits()).await;
    let to = node.associations().clone();
    let worker = Peer::new(7).await;
    let told = tokio::spawn({
        let (to, me) = (to.clone(), worker.me.clone());
        async move { to.tell(&me, "worker", &b"run"[..]).await }
    });
    let mut back = worker.accept().await;
    for _ in 0..2 {
        assert!(matches!(back.control().await, Control::HandshakeReq { .. }));
    }
    let mut control = ToServer::dial(&node, 1).await;
    control.send(&worker.introduction()).await;
    assert_eq!(back.message().await.unwrap().payload, selection("worker", b"run"));
    assert_eq!(told.await.unwrap(), Ok(()));
    drop((control, back));

    let (hasty, _inbox) = self::node(Limits { introduce: Duration::from_millis(100), ..limits() }).await;
    let told = hasty.associations().tell(&worker.me, "worker", &b"run"[..]);
    let seen = async {
        let mut back = worker.accept().await;
        assert!(matches!(back.control().await, Control::HandshakeReq { .. }));
        assert_eq!(back.message().await, None);
    };
    let (told, ()) = tokio::join!(told, seen);
    assert_eq!(told, Err(SendError::NotSent("it does not say who it is".to_owned())));
}

/// The answer to our first greeting got lost long ago, and nobody minded until now.
#[tokio::test]
async fn who_was_not_asked_for_long_is_asked_before_it_is_given_up() {
    let introduce = Duration::from_millis(1500);
    let (node, _inbox) = node(Limits { introduce, ..limits() }).await;
    let us = address_of(&node);
    let worker = Peer::new(7).await;
    let mut control = worker.dial(&node, 1, &us).await;
    let mut back = worker.accept().await;
    back.greets(&worker.me.address, &us).await;
    tokio::time::sleep(introduce + Duration::from_millis(100)).await;
    let told = tokio::spawn({
        let (to, me) = (node.associations().clone(), worker.me.clone());
        async move { to.tell(&me, "worker", &b"run"[..]).await }
    });
    assert!(matches!(back.control().await, Control::HandshakeReq { .. }));
    control.send(&worker.introduction()).await;
    assert_eq!(back.message().await.unwrap().payload, selection("worker", b"run"));
    assert_eq!(told.await.unwrap(), Ok(()));
}

/// Everybody who is let in may claim to be anybody; who has a worker's place is the only one to be told what is for it.
#[tokio::test]
async fn who_cannot_be_a_worker_does_not_take_its_place() {
    let (node, mut inbox) = node_with(limits(), Apart).await;
    let us = address_of(&node);
    let worker = Peer::new(7).await;
    let (_control, mut ordinary, mut back) = worker.join(&node).await;
    let to = node.associations();
    to.tell(&worker.me.address, "worker", &b"one"[..]).await.unwrap();
    back.message().await.unwrap();

    let mut liar = ToServer::dial_from(&node, "127.0.0.2").await;
    let mut claimed = Peer::new(9).await;
    claimed.me.address = worker.me.address.clone();
    liar.send(b"AKKA\x01").await;
    liar.send(&claimed.handshake(&us)).await;
    liar.send(&claimed.introduction()).await;
    until("both are refused", to, |to| to.counters().refused(Refused::Handshake) == 2).await;

    ordinary.send(&worker.message(&us, "", b"heartbeat")).await;
    let inbound = inbox.recv().await.unwrap();
    assert_eq!((&inbound.from, inbound.process), (&worker.me.address, 7));
    to.tell(&worker.me, "worker", &b"two"[..]).await.unwrap();
    assert_eq!(back.message().await.unwrap().payload, selection("worker", b"two"));
}

/// It was stopped in order, and its port answers no more; then it comes back.
#[tokio::test]
async fn a_worker_that_is_away_is_said_to_be_and_reached_when_it_is_back() {
    let (node, _inbox) = node(limits()).await;
    let us = address_of(&node);
    let worker = Peer::new(7).await;
    let (address, at) = (worker.me.address.clone(), worker.me.address.port());
    let joined = worker.join(&node).await;
    drop((joined, worker));
    let to = node.associations();
    until("the end is seen", to, |to| !to.is_connected(&address)).await;
    assert!(matches!(to.tell(&address, "worker", &b"run"[..]).await, Err(SendError::NotSent(_))));

    let port = tokio::net::TcpListener::bind(("127.0.0.1", at)).await.unwrap();
    let worker = Peer::at(port, 8);
    let _control = worker.dial(&node, 1, &us).await;
    let mut back = worker.accept().await;
    back.greets(&address, &us).await;
    to.tell(&address, "worker", &b"run"[..]).await.unwrap();
    assert_eq!(back.message().await.unwrap().payload, selection("worker", b"run"));
}

#[tokio::test]
async fn a_worker_that_lost_only_our_connection_is_dialled_again() {
    let (node, _inbox) = node(limits()).await;
    let worker = Peer::new(7).await;
    let us = address_of(&node);
    let (_control, _ordinary, back) = worker.join(&node).await;
    drop(back);
    let to = node.associations();
    until("the end is seen", to, |to| !to.is_connected(&worker.me.address)).await;
    to.tell(&worker.me.address, "worker", &b"run"[..]).await.unwrap();
    let mut back = worker.accept().await;
    assert!(matches!(back.control().await, Control::HandshakeReq { from, .. } if from.address == us));
    assert_eq!(back.message().await.unwrap().payload, selection("worker", b"run"));
}

#[tokio::test]
async fn who_quarantined_us_gets_to_know_us_anew() {
    let (node, _inbox) = node(limits()).await;
    let us = address_of(&node);
    let worker = Peer::new(7).await;
    let mut control = worker.dial(&node, 1, &us).await;
    let mut back = worker.accept().await;
    let number = back.greets(&worker.me.address, &us).await;
    let ours = UniqueAddress { address: us.clone(), uid: number };
    // Of another's word nothing comes.
    let other = Peer::new(9).await;
    let mut others = other.dial(&node, 1, &us).await;
    others.send(&other.control("a", "", &[&worker.me, &ours])).await;
    until("it is refused", node.associations(), |to| to.counters().refused(Refused::Stranger) == 1).await;

    control.send(&worker.control("a", "", &[&worker.me, &ours])).await;
    let mut anew = worker.accept().await;
    let greeting = anew.next().await.unwrap();
    assert!(matches!(greeting.control(), Some(Control::HandshakeReq { from, .. }) if from.address == us));
    assert_ne!(greeting.uid, number);
    assert_eq!(back.message().await, None);
}

#[tokio::test]
async fn a_worker_that_stops_hears_that_we_know() {
    let (node, _inbox) = node(limits()).await;
    let worker = Peer::new(7).await;
    let (mut control, mut ordinary, mut back) = worker.join(&node).await;
    let literal = format!("{}/system/remoteFlushOnShutdown#-852547920", worker.me.address);
    for stream in [&mut control, &mut ordinary] {
        stream.send(&worker.control("b", &literal, &[&worker.me])).await;
        let ack = loop {
            let received = back.next().await.unwrap();
            if let Some(Control::TerminatingAck(from)) = received.control() {
                break (from, received.recipient);
            }
        };
        assert_eq!(ack, (UniqueAddress { address: address_of(&node), uid: ack.0.uid }, literal.clone()));
    }
}

#[tokio::test]
async fn who_we_are_is_said_again_each_second() {
    let (node, _inbox) = node(limits()).await;
    let worker = Peer::new(7).await;
    let (_control, _ordinary, mut back) = worker.join(&node).await;
    let to = node.associations();
    for _ in 0..3 {
        to.tell(&worker.me.address, "worker", &b"soon"[..]).await.unwrap();
    }
    tokio::time::sleep(Duration::from_millis(1050)).await;
    to.tell(&worker.me.address, "worker", &b"later"[..]).await.unwrap();
    let mut said = Vec::new();
    while said.last() != Some(&b'l') {
        let received = back.next().await.unwrap();
        match received.control() {
            Some(Control::HandshakeReq { .. }) => said.push(b'h'),
            Some(_) => {}
            // Behind the key and the length.
            None => said.push(received.payload[2]),
        }
    }
    assert_eq!(String::from_utf8_lossy(&said), "ssshl");
}

/// It is stopped (SIGSTOP) or its machine froze: it accepts what fits into the system's buffers, and no more.
#[tokio::test]
async fn a_frozen_worker_costs_no_more_than_its_queue() {
    let limits = Limits { write: Duration::from_millis(500), queue: 8, ..limits() };
    let (node, _inbox) = node(limits).await;
    let frozen = Peer::new(7).await;
    let to = node.associations().clone();
    let mut waiting = tokio::task::JoinSet::new();
    for _ in 0..64 {
        let (to, address) = (to.clone(), frozen.me.address.clone());
        waiting.spawn(async move { to.tell(&address, "worker", vec![1; 1 << 20]).await });
    }
    let (mut full, mut unsure) = (0, 0);
    while let Some(ended) = timeout(SOON, waiting.join_next()).await.expect("all end in time") {
        match ended.unwrap() {
            Ok(()) => {}
            Err(SendError::Full) => full += 1,
            Err(SendError::Unsure(_)) => unsure += 1,
            Err(other) => panic!("{other}"),
        }
    }
    assert!(full >= 50, "{full} found the queue full");
    assert!(unsure >= 1, "what stuck in the middle may have arrived");

    // Meanwhile others are served.
    let worker = Peer::new(8).await;
    let (_control, _ordinary, mut back) = worker.join(&node).await;
    to.tell(&worker.me.address, "worker", &b"run"[..]).await.unwrap();
    assert_eq!(back.message().await.unwrap().payload, selection("worker", b"run"));
}

#[tokio::test]
async fn a_message_that_nobody_waits_for_any_more_is_not_sent() {
    let (node, _inbox) = node(Limits { write: SOON, ..limits() }).await;
    let worker = Peer::new(7).await;
    let to = node.associations();
    let mut stuck = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let (to, address) = (to.clone(), worker.me.address.clone());
        stuck.spawn(async move { to.tell(&address, "worker", vec![1; 4_000_000]).await });
    }
    // The worker reads nothing yet, so that this waits.
    let mut back = worker.accept().await;
    let taken_back = timeout(Duration::from_millis(100), to.tell(&worker.me.address, "worker", &b"back"[..])).await;
    assert!(taken_back.is_err());
    let told = to.tell(&worker.me.address, "worker", &b"run"[..]);
    let read = async {
        loop {
            let received = back.message().await.unwrap();
            if received.payload.len() < 1000 {
                return received.payload;
            }
        }
    };
    let (told, first) = tokio::join!(told, read);
    told.unwrap();
    assert_eq!(first, selection("worker", b"run"));
}

#[tokio::test]
async fn whom_the_gate_refuses_is_neither_let_in_nor_dialled() {
    let (node, mut inbox) = node(limits()).await;
    let us = address_of(&node);
    let to = node.associations();
    let far = Address::of_worker("192.0.2.1:27777").unwrap();
    let refused = to.tell(&far, "worker", &b"run"[..]).await;
    assert_eq!(refused, Err(SendError::NotSent("it is not on this machine".to_owned())));

    let mut liar = Peer::new(7).await;
    liar.me.address = Address::of_worker("192.0.2.2:27777").unwrap();
    let mut stream = liar.dial(&node, 2, &us).await;
    stream.send(&liar.message(&us, "", b"heartbeat")).await;
    until("it is refused", to, |to| to.counters().refused(Refused::Handshake) == 1).await;
    assert_eq!(to.count(), 1, "only whom we asked for ourselves");
    stream.is_open();
    drop(stream);
    until("what it said is refused", to, |to| to.counters().refused(Refused::Stranger) == 1).await;
    assert!(inbox.try_recv().is_err());

    // Nor is anybody let in who looks for somebody else.
    let worker = Peer::new(8).await;
    let _stream = worker.dial(&node, 2, &Address::new("other", "127.0.0.1", 1).unwrap()).await;
    until("it is refused", to, |to| to.counters().refused(Refused::Handshake) == 2).await;
}

#[tokio::test]
async fn who_is_silent_for_long_is_forgotten() {
    let (node, _inbox) = node(Limits { idle: Duration::from_millis(300), ..limits() }).await;
    let worker = Peer::new(7).await;
    let (control, ordinary, mut back) = worker.join(&node).await;
    until("it is forgotten", node.associations(), |to| to.count() == 0).await;
    assert_eq!(back.message().await, None);
    // Its own connections are its affair.
    control.is_open();
    ordinary.is_open();
    // And what we have to say finds the way again.
    node.associations().tell(&worker.me.address, "worker", &b"run"[..]).await.unwrap();
    assert!(worker.accept().await.message().await.is_some());
}

#[tokio::test]
async fn closing_ends_everything() {
    let (node, mut inbox) = node(limits()).await;
    let worker = Peer::new(7).await;
    let (mut control, mut ordinary, mut back) = worker.join(&node).await;
    let to = node.associations().clone();
    timeout(SOON, node.close()).await.expect("all tasks end");
    control.is_closed().await;
    ordinary.is_closed().await;
    assert_eq!(back.message().await, None);
    assert!(inbox.recv().await.is_none());
    assert!(to.tell(&worker.me.address, "worker", &b"run"[..]).await.is_err());
    assert!(matches!(to.ask(&worker.me.address, "worker", &b"?"[..], WITHIN).await, Err(AskError::Send(_))));
}

/// A gateway reads what workers say with the codec and answers in the dialect of the question.
#[tokio::test]
async fn an_answer_is_in_the_dialect_of_its_question() {
    let (node, mut inbox) = node(limits()).await;
    let worker = Peer::new(7).await;
    let us = address_of(&node);
    let (_control, mut ordinary, mut back) = worker.join(&node).await;
    let literal = format!("{}/temp/_user_server_actor$a", worker.me.address);
    for vector in vectors() {
        ordinary.send(&worker.message(&us, &literal, &vector.bytes)).await;
        let inbound = inbox.recv().await.unwrap();
        let (_, dialect) = decode(&inbound.payload).unwrap();
        let done = vectors().into_iter().find(|known| decode(&known.bytes).unwrap().1 == dialect).unwrap();
        let (message, _) = decode(&done.bytes).unwrap();
        let answer = pendula_akka::kryo::encode(&message, dialect);
        node.associations().reply(&inbound.reply.unwrap(), answer).await.unwrap();
        assert_eq!(back.message().await.unwrap().payload, done.bytes);
        assert!(matches!(dialect, Dialect::Plain | Dialect::Named));
    }
}

/// A node can be a worker, for who needs many of them.
#[tokio::test]
async fn a_node_may_be_a_worker() {
    let (server, mut said) = node(limits()).await;
    let us = address_of(&server);
    let port = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let me = Address::new("oms", "127.0.0.1", port.local_addr().unwrap().port()).unwrap();
    let options = Options { advertised: me.clone(), tracks: false, limits: limits() };
    let (worker, mut told) = Node::start(port, options, std::sync::Arc::new(Loopback)).unwrap();

    worker.associations().tell(&us, "server_actor", &b"heartbeat"[..]).await.unwrap();
    let heartbeat = said.recv().await.unwrap();
    assert_eq!((&heartbeat.from, &*heartbeat.payload), (&me, &b"heartbeat"[..]));
    let asked = server.associations().ask(&me, "worker", &b"question"[..], SOON);
    let answers = async {
        let question = told.recv().await.unwrap();
        assert_eq!(question.from, us);
        worker.associations().reply(&question.reply.unwrap(), &b"answer"[..]).await.unwrap();
    };
    let (answer, ()) = tokio::join!(asked, answers);
    assert_eq!(*answer.unwrap(), *b"answer");
}
