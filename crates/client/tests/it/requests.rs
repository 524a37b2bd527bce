use pendula_client::{Client, ClientError, RunKey, TaskFilter};
use pendula_model::api::{RunJob, TokenCreate, TokenKind};
use pendula_model::instance::TaskState;
use pendula_model::{InstanceId, TaskId};

use crate::canned::{Canned, json};

#[tokio::test]
async fn names_are_encoded_and_the_key_travels() {
    let answer = json("200 OK", r#"{"instance":"7","created":true}"#);
    let server = Canned::start(vec![answer.clone(), answer]).await;
    let client = Client::new(&server.address, "secret").expect("an address");
    let key = RunKey::Given("k-1");
    let run = client.job_run("my app", "日报?x#y", &RunJob::default(), key).await.expect("answered");
    assert_eq!(run.instance.map(|id| id.0), Some(7));
    client.job_run("a", "..", &RunJob::default(), RunKey::Random).await.expect("answered");
    let requests = server.requests();
    let path = "/api/v1/apps/my%20app/jobs/%E6%97%A5%E6%8A%A5%3Fx%23y/run";
    assert!(requests[0].starts_with(&format!("POST {path} HTTP/1.1")), "{}", requests[0]);
    assert!(requests[0].contains("idempotency-key: k-1"), "{}", requests[0]);
    assert!(!requests[1].contains("idempotency-key"), "{}", requests[1]);
}

#[tokio::test]
async fn each_kind_of_failure_is_told_apart() {
    let problem = r#"{"type":"t","title":"refused","status":422,"code":"invalid","detail":"is empty","field":"name"}"#;
    let server = Canned::start(vec![
        json("422 Unprocessable Entity", problem),
        json("200 OK", r#"{"hello":"stranger"}"#),
        json("404 Not Found", "nothing here"),
        json("502 Bad Gateway", "<html>"),
    ])
    .await;
    let client = Client::new(&server.address, "secret").expect("an address");
    let create = TokenCreate { name: String::new(), kind: TokenKind::Admin, app: None, expires_in: None };
    let refused = client.token_create(&create).await.expect_err("refused");
    assert_eq!((refused.code(), refused.to_string().as_str()), (Some("invalid"), "name: is empty"));
    for expect in ["missing field `token`", "is this a Pendula server?"] {
        let stranger = client.whoami().await.expect_err("no answer of ours");
        assert!(
            matches!(stranger, ClientError::Protocol { .. }) && stranger.to_string().contains(expect),
            "{stranger}"
        );
    }
    assert!(client.whoami().await.expect_err("a gateway").is_retryable());
    let away = client.whoami().await.expect_err("nobody listens");
    assert!(matches!(away, ClientError::Unreachable { maybe_sent: false, .. }), "{away:?}");
    assert!(away.to_string().contains("refused"), "{away}");
}

#[test]
fn a_file_without_certificates_is_no_authority() {
    let built = Client::builder("https://localhost").authority("not a certificate").build();
    assert!(matches!(built.err(), Some(ClientError::Address(_))));
}

#[tokio::test]
async fn a_server_that_is_not_ready_says_why() {
    let body = r#"{"ready":false,"problems":["store: the disk is full"]}"#;
    let server = Canned::start(vec![json("503 Service Unavailable", body)]).await;
    let client = Client::new(&server.address, "secret").expect("an address");
    let error = client.readyz().await.expect_err("not ready").to_string();
    assert!(error.contains("the disk is full"), "{error}");
}

#[tokio::test]
async fn tasks_are_asked_for_by_number_state_and_name() {
    let task = r#"{"instance":"42","task":7,"role":"sub","parent":0,"name":"b.txt","state":"lost","attempt":2,
        "input":{"content_type":"text/plain","text":"b"},"emitted":3}"#;
    let server = Canned::start(vec![
        json("200 OK", &format!(r#"{{"items":[{task}],"next_cursor":"c"}}"#)),
        json("200 OK", task),
        json("200 OK", "a,b"),
        json("200 OK", r#"{"retried":10000,"left":5}"#),
        json("201 Created", r#"{"instance":"43","created":true}"#),
        json("200 OK", r#"{"why":"it waits"}"#),
    ])
    .await;
    let client = Client::new(&server.address, "secret").expect("an address");
    let (id, seven) = (InstanceId(42), TaskId(7));
    let states = vec![TaskState::Failed, TaskState::Lost];
    let filter = TaskFilter { states, name: Some("b.".to_owned()), limit: Some(9), ..TaskFilter::default() };
    let page = client.instance_tasks(id, &filter).await.expect("a page");
    assert_eq!((page.items[0].task, page.items[0].state), (seven, TaskState::Lost));
    let detail = client.task_fetch(id, seven).await.expect("a task");
    assert_eq!((detail.task.parent, detail.emitted), (Some(TaskId::ROOT), 3));
    let result = client.task_result(id, seven).await.expect("bytes");
    assert_eq!((&*result.content_type, &*result.bytes), ("application/json", &b"a,b"[..]));
    let again = client.tasks_retry(id, vec![seven]).await.expect("a count");
    assert_eq!((again.retried, again.left), (10_000, 5));
    client.instance_retry_unsuccessful(id, RunKey::Given("k")).await.expect("a new instance");
    client.instance_explain(id, Some(seven)).await.expect("an explanation");
    let requests = server.requests();
    for (request, part) in [
        (0, "GET /api/v1/instances/42/tasks?state=failed%2Clost&name=b.&limit=9 HTTP"),
        (1, "GET /api/v1/instances/42/tasks/7 HTTP"),
        (2, "GET /api/v1/instances/42/tasks/7/result HTTP"),
        (3, r#"{"tasks":[7]}"#),
        (4, r#"{"only":"unsuccessful"}"#),
        (4, "idempotency-key: k"),
        (5, "GET /api/v1/instances/42/explain?task=7 HTTP"),
    ] {
        assert!(requests[request].contains(part), "no {part:?} in {}", requests[request]);
    }
}
