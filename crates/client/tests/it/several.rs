//! Several servers, and servers that cannot serve at the moment.

use std::time::{Duration, Instant};

use pendula_client::{Client, ClientError, RunKey};
use pendula_model::InstanceId;
use pendula_model::api::{RunJob, TokenCreate, TokenKind};

use crate::canned::{Canned, json, problem};

const BUSY: &str = "503 Service Unavailable";
const RUN: &str = r#"{"instance":"7","created":true}"#;

fn dead() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    format!("http://{}", listener.local_addr().expect("bound"))
}

fn client(addresses: &str, patience: Duration) -> Client {
    Client::builder(addresses).token("secret").patience(patience).build().expect("addresses")
}

fn apps() -> String {
    json("200 OK", r#"{"items":[]}"#)
}

#[tokio::test]
async fn the_next_is_asked_when_one_cannot_be_reached_and_then_stayed_with() {
    let mut first = Canned::start(vec![apps()]).await;
    let second = Canned::start(vec![apps(), apps(), json("201 Created", RUN)]).await;
    let servers = format!("{}, {} ,{}", dead(), first.address, second.address);
    let client = Client::new(&servers, "secret").expect("addresses");
    assert_eq!(client.addresses().len(), 3);
    client.app_list().await.expect("the first answers");
    first.over().await;
    for _ in 0..2 {
        client.app_list().await.expect("the second answers");
    }
    // Nothing was sent where nobody listens, so whatever it is can go elsewhere.
    client.job_run("a b", "j", &RunJob::default(), RunKey::Random).await.expect("somebody answers");
    assert_eq!((first.requests().len(), second.requests().len()), (1, 3));
    assert!(second.requests()[2].starts_with("POST /api/v1/apps/a%20b/jobs/j/run HTTP"), "{}", second.requests()[2]);
}

#[tokio::test]
async fn when_none_can_be_reached_all_are_named() {
    let (a, b) = (dead(), dead());
    let error = client(&format!("{a},{b}"), Duration::from_secs(60)).app_list().await.expect_err("nobody listens");
    assert!(matches!(error, ClientError::Unreachable { maybe_sent: false, .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.contains(&a) && text.contains(&b) && text.matches("refused").count() == 2, "{text}");
}

#[tokio::test]
async fn what_may_be_repeated_survives_a_takeover() {
    let passing = || {
        vec![
            problem(BUSY, "no_owner", true),
            // Closed without an answer.
            String::new(),
            problem(BUSY, "unavailable", true),
        ]
    };
    let answers = |last: &str| [passing(), vec![json("200 OK", last)]].concat();
    let patience = Duration::from_secs(60);
    let server = Canned::start(answers(r#"{"items":[]}"#)).await;
    client(&server.address, patience).app_list().await.expect("a read");
    let server = Canned::start(answers(RUN)).await;
    let run = client(&server.address, patience).job_run("a", "j", &RunJob::default(), RunKey::Given("k")).await;
    run.expect("what has a key");
    assert!(server.requests().iter().all(|request| request.contains("idempotency-key: k")));
    let server = Canned::start(answers(RUN)).await;
    let again = client(&server.address, patience).instance_retry(InstanceId(7), RunKey::Given("k")).await;
    again.expect("what has a key");
    for stops in [true, false] {
        let server = Canned::start(answers("{}")).await;
        let client = client(&server.address, patience);
        let done = match stops {
            true => client.instance_stop(InstanceId(7)).await,
            false => client.instance_cancel(InstanceId(7)).await,
        };
        // The last answer is no instance, but it came.
        assert!(matches!(done, Err(ClientError::Protocol { .. })), "{done:?}");
        assert_eq!(server.requests().len(), 4);
    }
}

#[tokio::test]
async fn what_may_not_be_repeated_is_not() {
    let create = TokenCreate { name: "t".to_owned(), kind: TokenKind::Admin, app: None, expires_in: None };
    for (answer, patience, tries) in [
        (problem(BUSY, "unavailable", true), 60, 1),
        (problem(BUSY, "owner_lost", true), 60, 1),
        (String::new(), 60, 1),
        // Nothing was done.
        (problem(BUSY, "not_owner", true), 60, 2),
        (problem(BUSY, "not_owner", true), 0, 1),
    ] {
        let server = Canned::start(vec![answer.clone(), answer]).await;
        let client = client(&server.address, Duration::from_secs(patience));
        client.token_create(&create).await.expect_err("it is refused");
        assert_eq!(server.requests().len(), tries);
    }
    for answer in [problem(BUSY, "overloaded", true), problem("422 Unprocessable Content", "invalid_value", false)] {
        let server = Canned::start(vec![answer.clone(), answer]).await;
        client(&server.address, Duration::from_secs(60)).app_list().await.expect_err("it is refused");
        assert_eq!(server.requests().len(), 1);
    }
}

#[tokio::test]
async fn patience_ends() {
    let server = Canned::start(vec![problem(BUSY, "no_owner", true); 100]).await;
    let begun = Instant::now();
    let error = client(&server.address, Duration::from_millis(700)).app_list().await.expect_err("nobody has it");
    assert_eq!(error.code(), Some("no_owner"));
    let tries = server.requests().len();
    assert!((2..5).contains(&tries) && begun.elapsed() < Duration::from_secs(5), "{tries} in {:?}", begun.elapsed());
}

/// One that is there but of no use is not asked again first.
#[tokio::test]
async fn a_server_that_cannot_serve_is_passed_over() {
    let sick = Canned::start(vec![problem(BUSY, "unavailable", true); 9]).await;
    let well = Canned::start(vec![apps(), apps()]).await;
    let client = client(&format!("{},{}", sick.address, well.address), Duration::from_secs(60));
    for _ in 0..2 {
        client.app_list().await.expect("the other one serves");
    }
    assert_eq!((sick.requests().len(), well.requests().len()), (1, 2));
}
