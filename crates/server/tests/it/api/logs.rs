//! Logs: read in pieces, followed, downloaded.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use axum::body::Body;
use futures::StreamExt;
use http::{Method, header};
use pendula_model::InstanceId;
use pendula_model::api::LogEvent;
use pendula_model::instance::Reason;
use pendula_model::policy::Backoff;
use pendula_store::logs::{LogAppend, LogKey};
use pendula_worker::{Failure, Output, Task};
use serde_json::json;
use tokio::sync::Notify;
use tower::ServiceExt;

use super::{Answer, Site, job, request};
use crate::world::{soon, start};

/// An instance without a worker, whose first attempt's log is written by the test itself.
async fn instance(site: &Site) -> InstanceId {
    site.post("/api/v1/apps/demo/jobs", &job("a")).await.expect(201);
    let run = site.post("/api/v1/apps/demo/jobs/a/run", &json!({ "delay": "1h" })).await.expect(201);
    run["instance"].as_str().unwrap().parse().unwrap()
}

async fn append(site: &Site, instance: InstanceId, offset: u64, data: &[u8], end: bool) {
    let key = LogKey { app: site.world.app, instance, attempt: 1, task: 0 };
    let piece = LogAppend { key, offset, data: data.to_vec(), end };
    site.world.server().state().logs.append(vec![piece]).await.expect("the log is written");
}

async fn log(site: &Site, instance: InstanceId, query: &str) -> Answer {
    site.get(&format!("/api/v1/instances/{instance}/logs{query}")).await
}

/// Events of a stream, with their ids, until it closes or `enough`.
async fn follow(
    site: &Site,
    instance: InstanceId,
    last_id: Option<&str>,
    enough: impl FnMut(&LogEvent) -> bool,
) -> Vec<(String, LogEvent)> {
    follow_at(site, &format!("/api/v1/instances/{instance}/logs?follow=true"), last_id, enough).await
}

/// The same, of any stream.
pub(super) async fn follow_at(
    site: &Site,
    path: &str,
    last_id: Option<&str>,
    mut enough: impl FnMut(&LogEvent) -> bool,
) -> Vec<(String, LogEvent)> {
    let mut request = request(Method::GET, path).header(header::AUTHORIZATION, format!("Bearer {}", site.token));
    if let Some(id) = last_id {
        request = request.header("last-event-id", id);
    }
    let response = site.router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    assert_eq!(
        (response.status().as_u16(), &response.headers()[header::CONTENT_TYPE]),
        (200, &"text/event-stream".parse().unwrap())
    );
    let mut body = response.into_body().into_data_stream();
    let (mut text, mut events) = (String::new(), Vec::new());
    soon("the stream goes on", async {
        while let Some(bytes) = body.next().await {
            text += std::str::from_utf8(&bytes.unwrap()).unwrap();
            while let Some((event, rest)) = text.split_once("\n\n") {
                let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
                if let Some(data) = field("data:") {
                    let read: LogEvent = serde_json::from_str(data).unwrap();
                    let name = serde_json::to_value(&read).unwrap()["event"].clone();
                    assert_eq!(field("event:"), name.as_str());
                    events.push((field("id:").expect("an id").to_owned(), read));
                }
                text = rest.to_owned();
                if events.last().is_some_and(|(_, event)| enough(event)) {
                    return;
                }
            }
        }
    })
    .await;
    events
}

fn text(events: &[(String, LogEvent)]) -> String {
    let texts = events.iter().filter_map(|(_, event)| match event {
        LogEvent::Log { attempt, data, .. } => Some(format!("{attempt}>{data}")),
        LogEvent::Gap { bytes, .. } => Some(format!("[{bytes}]")),
        _ => None,
    });
    texts.collect()
}

#[tokio::test]
async fn a_log_is_read_in_pieces_with_its_gaps() {
    let site = Site::new().await;
    let id = instance(&site).await;
    let empty = log(&site, id, "").await.expect(200);
    assert_eq!((&empty["data"], &empty["next_offset"], &empty["end"]), (&json!(""), &json!(0), &json!(false)));
    append(&site, id, 0, "één\nzwei\n".as_bytes(), false).await;
    append(&site, id, 20, b"after\n", true).await;
    let all = log(&site, id, "").await.expect(200);
    assert_eq!(
        (&all["data"], &all["next_offset"], &all["end"]),
        (&json!("één\nzwei\nafter\n"), &json!(26), &json!(true))
    );
    assert_eq!(all["gaps"], json!([{ "offset": 11, "bytes": 9 }]));
    let (mut pieces, mut offset) = (String::new(), 0);
    loop {
        let piece = log(&site, id, &format!("?limit=1&offset={offset}")).await.expect(200);
        pieces += piece["data"].as_str().unwrap();
        assert!(piece["next_offset"].as_u64().unwrap() > offset, "it makes progress: {piece}");
        offset = piece["next_offset"].as_u64().unwrap();
        if piece["end"] == true {
            break;
        }
    }
    assert_eq!(pieces, "één\nzwei\nafter\n");
    let tail = log(&site, id, "?tail=2").await.expect(200);
    assert_eq!((&tail["data"], &tail["offset"]), (&json!("zwei\nafter\n"), &json!(6)));
    for query in ["?limit=0", "?limit=9999999", "?tail=0", "?tail=1&offset=1", "?offset=-1", "?follow=perhaps"] {
        log(&site, id, query).await.refused(400, "invalid_query");
    }
    log(&site, id, "?attempt=2").await.refused(404, "attempt_not_found");
    let far = log(&site, id, &format!("?offset={}", u64::MAX)).await.expect(200);
    assert_eq!(far["data"], "");
}

#[tokio::test]
async fn a_download_has_every_byte_and_marks_what_was_lost() {
    let site = Site::new().await;
    let id = instance(&site).await;
    let line = "0123456789 and so on, and so on, and so on\n";
    let large = line.repeat(50_000);
    for (number, piece) in large.as_bytes().chunks(1 << 20).enumerate() {
        append(&site, id, (number as u64) << 20, piece, false).await;
    }
    append(&site, id, large.len() as u64 + 7, b"end\n", true).await;
    let answer = site.get(&format!("/api/v1/instances/{id}/logs/download")).await;
    assert_eq!(answer.headers[header::CONTENT_TYPE], "text/plain; charset=utf-8");
    assert_eq!(answer.headers[header::CONTENT_DISPOSITION], format!("attachment; filename=\"{id}-1.log\""));
    assert_eq!(answer.status, 200);
    assert!(answer.text.starts_with(&large) && answer.text.len() < large.len() + 100);
    assert_eq!(&answer.text[large.len()..], "\n[7 bytes of the log were lost here]\nend\n");
}

#[tokio::test]
async fn a_follower_sees_both_attempts_as_they_come_and_the_end() {
    let site = Site::new().await;
    let (tries, said) = (Arc::new(AtomicU32::new(0)), Arc::new(Notify::new()));
    let handler = {
        let said = said.clone();
        move |task: Task| {
            let (tries, said) = (tries.clone(), said.clone());
            async move {
                let number = tries.fetch_add(1, Ordering::SeqCst) + 1;
                task.log_line(format!("try {number} begins"));
                // Goes on when the follower has seen that.
                said.notified().await;
                task.log_line("and ends");
                if number == 1 { Err(Failure::new(Reason::EXIT_CODE, "once more")) } else { Ok(Output::default()) }
            }
        }
    };
    let _worker = start(site.world.worker().handler("twice", handler));
    site.world
        .job("twice", |spec| {
            spec.retry.attempts = 2;
            spec.retry.backoff = Backoff::Fixed(Duration::from_millis(1));
        })
        .await;
    let id = site.world.run("twice").await;
    let events = follow(&site, id, None, |event| {
        if matches!(event, LogEvent::Log { data, .. } if data.contains("begins")) {
            said.notify_one();
        }
        false
    })
    .await;
    assert_eq!(text(&events), "1>try 1 begins\n1>and ends\n2>try 2 begins\n2>and ends\n");
    assert!(matches!(events[0].1, LogEvent::State { .. }), "{events:?}");
    let Some((_, LogEvent::End { state, .. })) = events.last() else { panic!("{events:?}") };
    assert_eq!(state.as_str(), "succeeded");

    // From any event on, the rest follows, nothing twice.
    for (position, (last, event)) in events.iter().enumerate() {
        if matches!(event, LogEvent::End { .. }) {
            continue;
        }
        let rest = follow(&site, id, Some(last), |_| false).await;
        let (rest, expected) =
            (text(&rest).replace(['1', '2', '>'], ""), text(&events[position + 1..]).replace(['1', '2', '>'], ""));
        assert_eq!(rest, expected, "after {last}");
    }
    let bad = request(Method::GET, &format!("/api/v1/instances/{id}/logs?follow=true"))
        .header(header::AUTHORIZATION, format!("Bearer {}", site.token))
        .header("last-event-id", "nonsense");
    site.send(bad.body(Body::empty()).unwrap()).await.refused(400, "invalid_header");
}

#[tokio::test]
async fn nobody_waits_for_the_log_of_a_task_that_prints_nothing() {
    let site = Site::new().await;
    let _worker = start(site.world.worker().handler("silent", |_: Task| async { Ok(Output::default()) }));
    site.world.job("silent", |_| {}).await;
    site.world.sessions_are(1).await;
    let began = std::time::Instant::now();
    let id = site.world.run("silent").await;
    let events = follow(&site, id, None, |_| false).await;
    assert!(matches!(events.last().unwrap().1, LogEvent::End { .. }));
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
}

#[tokio::test]
async fn following_ends_with_a_cancel_and_with_the_token() {
    let site = Arc::new(Site::new().await);
    let id = instance(&site).await;
    let (first, told) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let follower = tokio::spawn({
        let (site, first) = (site.clone(), first.clone());
        async move {
            follow(&site, id, None, |_| {
                first.notify_one();
                false
            })
            .await
        }
    });
    soon("the follower is there", first.notified()).await;
    site.post(&format!("/api/v1/instances/{id}/cancel"), &serde_json::Value::Null).await.expect(200);
    let events = follower.await.unwrap();
    assert!(
        matches!(&events.last().unwrap().1, LogEvent::End { state, .. } if state.as_str() == "canceled"),
        "{events:?}"
    );

    let run = site.post("/api/v1/apps/demo/jobs/a/run", &json!({ "delay": "1h" })).await.expect(201);
    let id: InstanceId = run["instance"].as_str().unwrap().parse().unwrap();
    let follower = tokio::spawn({
        let (site, told) = (site.clone(), told.clone());
        async move {
            follow(&site, id, None, |_| {
                told.notify_one();
                false
            })
            .await
        }
    });
    soon("the follower is there", told.notified()).await;
    let principal = site.auth().authenticate(Some(&format!("Bearer {}", site.token))).await.unwrap();
    assert!(site.auth().revoke(principal.token_id).await.unwrap());
    let events = soon("the stream closes", follower).await.unwrap();
    assert!(!events.iter().any(|(_, event)| matches!(event, LogEvent::End { .. })), "{events:?}");
}
