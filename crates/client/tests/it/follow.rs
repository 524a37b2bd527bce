use std::time::Duration;

use pendula_client::{Client, ClientError, FollowOptions};
use pendula_model::api::LogEvent;
use pendula_model::instance::InstanceState;
use pendula_model::{InstanceId, TaskId};

use crate::canned::{Canned, events, json, problem};

const ID: InstanceId = InstanceId(42);

async fn collect(server: &Canned, options: FollowOptions) -> (String, Option<InstanceState>, Option<ClientError>) {
    let client = Client::new(&server.address, "secret").expect("an address");
    let mut follow = client.follow(ID, options);
    let (mut text, mut end) = (String::new(), None);
    while let Some(event) = follow.next().await {
        match event {
            Ok(LogEvent::Log { data, .. }) => text.push_str(&data),
            Ok(LogEvent::Gap { bytes, .. }) => text.push_str(&format!("<{bytes} lost>")),
            Ok(LogEvent::CutOff { .. }) => text.push_str("<cut off>"),
            Ok(LogEvent::State { .. }) => {}
            Ok(LogEvent::Tasks { tasks }) => {
                text.push_str(&format!("<{} of {}>", tasks.counts.succeeded, tasks.counts.total))
            }
            Ok(LogEvent::End { state, .. }) => end = Some(state),
            Err(error) => return (text, end, Some(error)),
        }
    }
    (text, end, None)
}

#[tokio::test]
async fn a_lost_connection_is_resumed_and_no_byte_comes_twice() {
    let server = Canned::start(vec![
        events(&[
            ("state", r#"{"event":"state","state":"running","attempt":1,"worker":"w"}"#),
            ("log", r#"{"event":"log","attempt":1,"offset":0,"data":"one "}"#),
            ("log\nid: 1:8", r#"{"event":"log","attempt":1,"offset":4,"data":"two "}"#),
        ]),
        json(
            "503 Service Unavailable",
            r#"{"type":"t","title":"starting","status":503,"code":"not_ready","retryable":true}"#,
        ),
        events(&[
            // The server went back further than asked, and knows an event that we do not.
            ("log", r#"{"attempt":1,"offset":4,"data":"two three "}"#),
            ("fireworks", r#"{"event":"fireworks"}"#),
            ("gap", r#"{"attempt":2,"offset":0,"bytes":3}"#),
            ("log", r#"{"attempt":2,"offset":3,"data":"four"}"#),
            ("end", r#"{"state":"succeeded"}"#),
        ]),
    ])
    .await;
    let (text, end, error) = collect(&server, FollowOptions::default()).await;
    assert!(error.is_none(), "{error:?}");
    assert_eq!(text, "one two three <3 lost>four");
    assert_eq!(end, Some(InstanceState::Succeeded));
    let requests = server.requests();
    assert!(requests[0].starts_with("GET /api/v1/instances/42/logs?follow=true HTTP"), "{}", requests[0]);
    assert!(requests[0].contains("authorization: Bearer secret"));
    assert!(requests[2].contains("last-event-id: 1:8"), "{}", requests[2]);
}

/// As when the owner of an instance crashes: the stream breaks, its server is gone, another one does not know yet who has
/// the partition, and then everything goes on.
#[tokio::test]
async fn s4_a_followed_log_survives_a_takeover() {
    let begin = events(&[("log\nid: 1:4", r#"{"attempt":1,"offset":0,"data":"one "}"#)]);
    let mut first = Canned::start(vec![begin]).await;
    let rest = events(&[
        ("log\nid: 1:8", r#"{"attempt":1,"offset":0,"data":"one two "}"#),
        ("end", r#"{"state":"succeeded"}"#),
    ]);
    let no_owner = problem("503 Service Unavailable", "no_owner", true);
    let answers = vec![
        no_owner.clone(),
        String::new(),
        problem("503 Service Unavailable", "unavailable", true),
        json("502 Bad Gateway", "<html>"),
        no_owner,
        events(&[]),
        rest,
    ];
    let second = Canned::start(answers).await;
    let client = Client::new(&format!("{},{}", first.address, second.address), "secret").expect("addresses");
    let mut follow = client.follow(ID, FollowOptions::default());
    let mut text = String::new();
    let end = loop {
        match follow.next().await.expect("it goes on") {
            Ok(LogEvent::Log { data, .. }) => text.push_str(&data),
            Ok(LogEvent::End { state, .. }) => break state,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!((end, text.as_str()), (InstanceState::Succeeded, "one two "));
    first.over().await;
    for request in second.requests() {
        assert!(request.contains("last-event-id: 1:4"), "{request}");
    }
}

#[tokio::test]
async fn text_that_was_repaired_is_placed_by_its_id() {
    let server = Canned::start(vec![events(&[
        // One byte that is no UTF-8 became three.
        ("log\nid: 1:3", r#"{"attempt":1,"offset":0,"data":"a\ufffdb"}"#),
        ("log\nid: 1:5", r#"{"attempt":1,"offset":3,"data":"cd"}"#),
        ("log\nid: 1:5", r#"{"attempt":1,"offset":3,"data":"cd"}"#),
        ("end", r#"{"state":"failed"}"#),
    ])])
    .await;
    let (text, end, _) = collect(&server, FollowOptions::default()).await;
    assert_eq!((text.as_str(), end), ("a\u{fffd}bcd", Some(InstanceState::Failed)));
}

#[tokio::test]
async fn a_refusal_is_final_and_silence_ends_with_patience() {
    let refused = json("404 Not Found", r#"{"type":"t","title":"no such instance","status":404,"code":"not_found"}"#);
    let server = Canned::start(vec![refused]).await;
    let (_, _, error) = collect(&server, FollowOptions::default()).await;
    assert_eq!(error.expect("refused").code(), Some("not_found"));

    let server = Canned::start(vec![events(&[])]).await;
    let options = FollowOptions { patience: Duration::from_millis(250), ..FollowOptions::default() };
    let (_, _, error) = collect(&server, options).await;
    assert!(matches!(error, Some(ClientError::Unreachable { .. })), "{error:?}");
}

#[tokio::test]
async fn the_progress_of_many_tasks_comes_with_the_log_and_a_task_can_be_followed_alone() {
    let tasks = r#"{"tasks":{"total":9,"waiting":4,"running":1,"succeeded":4,"failed":0,"lost":0,"stopped":0,"phase":"main","rate":2.5,"estimate":null}}"#;
    let server = Canned::start(vec![events(&[
        ("tasks", tasks),
        ("log", r#"{"attempt":1,"offset":0,"data":"a"}"#),
        ("end", r#"{"state":"succeeded"}"#),
    ])])
    .await;
    let options = FollowOptions { task: Some(TaskId(7)), ..FollowOptions::default() };
    let (text, end, error) = collect(&server, options).await;
    assert_eq!((text.as_str(), end), ("<4 of 9>a", Some(InstanceState::Succeeded)), "{error:?}");
    assert!(server.requests()[0].starts_with("GET /api/v1/instances/42/logs?follow=true&task=7 HTTP"));
}
