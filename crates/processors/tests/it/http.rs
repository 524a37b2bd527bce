//! Requests against a server of our own, which the policy must permit first.

use std::collections::HashMap;
use std::net::SocketAddr;

use pendula_processors::http::HttpHandler;
use pendula_processors::http::egress::EgressPolicy;
use pendula_worker::testing::TestTask;
use pendula_worker::{Failure, Handler, Output};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Answers each path with its text, written as it goes over the wire; `{request}` in it is the request.
struct Server {
    address: SocketAddr,
}

impl Server {
    async fn start(answers: &[(&str, &str)]) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let answers: HashMap<String, String> =
            answers.iter().map(|(path, answer)| (path.to_string(), answer.to_string())).collect();
        tokio::spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                tokio::spawn(answer(connection, answers.clone()));
            }
        });
        Server { address }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }
}

async fn answer(mut connection: TcpStream, answers: HashMap<String, String>) {
    let mut request = Vec::new();
    let head_end = loop {
        let mut chunk = [0; 4096];
        let Ok(length @ 1..) = connection.read(&mut chunk).await else { return };
        request.extend_from_slice(&chunk[..length]);
        if let Some(end) = request.windows(4).position(|window| window == b"\r\n\r\n") {
            break end + 4;
        }
    };
    let head = String::from_utf8_lossy(&request[..head_end]).to_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).map_or(0, |n| n.parse().unwrap());
    while request.len() < head_end + length {
        let mut chunk = [0; 4096];
        let Ok(length @ 1..) = connection.read(&mut chunk).await else { return };
        request.extend_from_slice(&chunk[..length]);
    }
    let request = String::from_utf8_lossy(&request).into_owned();
    let path = request.split(' ').nth(1).unwrap_or_default().split('?').next().unwrap_or_default();
    let Some(answer) = answers.get(path) else {
        let _ = connection.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n").await;
        return;
    };
    if answer == "never" {
        // Holds the connection open until the client gives up.
        let _ = connection.read(&mut [0; 1]).await;
        return;
    }
    let answer = answer.replace("{request}", &request);
    let _ = connection.write_all(answer.as_bytes()).await;
}

fn ok(content_type: &str, body: &str) -> String {
    // The end of the connection ends the body.
    format!("HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\nConnection: close\r\n\r\n{body}")
}

async fn send(allow: &[&str], definition: Value) -> (Result<Output, Failure>, String) {
    let (task, probe) = TestTask::new("http").config(definition.to_string()).params(r#"{"q":"a b"}"#).build();
    let policy = EgressPolicy { allow: allow.iter().map(|rule| rule.parse().unwrap()).collect() };
    let outcome = HttpHandler::new(policy).unwrap().run(task).await;
    (outcome, probe.log_text())
}

fn reason(outcome: &Result<Output, Failure>) -> &str {
    outcome.as_ref().expect_err("the attempt fails").reason.as_str()
}

fn result(payload: Option<pendula_worker::Payload>) -> Value {
    serde_json::from_slice(&payload.unwrap().bytes).unwrap()
}

const LOCAL: &[&str] = &["127.0.0.1"];

#[tokio::test]
async fn a_request_is_sent_judged_logged_and_kept() {
    let answer = ok("application/json", r#"{"code": 0, "list": [1]}"#);
    let server = Server::start(&[("/api", &answer), ("/echo", &ok("text/plain", "{request}"))]).await;
    let definition = json!({
        "url": server.url("/api?q=${params.q}"), "success": { "body": "json.code == 0 && json.list contains 1" }
    });
    let (outcome, log) = send(LOCAL, definition).await;
    let kept = result(outcome.unwrap().result);
    assert_eq!((&kept["status"], &kept["body"]["code"]), (&json!(200), &json!(0)));
    assert!(log.contains("/api?q=a%20b\n200 (application/json, 24 bytes") && log.contains("\"list\""), "{log}");

    let definition = json!({
        "url": server.url("/echo"), "method": "PUT", "headers": { "X-Day": "${params.q}" }, "body": "{\"q\": ${params.q}}"
    });
    let (outcome, _) = send(LOCAL, definition).await;
    let kept = result(outcome.unwrap().result);
    let request = kept["body"].as_str().unwrap().to_lowercase();
    assert!(
        request.starts_with("put /echo http/1.1\r\n") && request.ends_with("\r\n\r\n{\"q\": \"a b\"}"),
        "{request}"
    );
    assert!(request.contains("x-day: a b\r\n") && request.contains("content-type: application/json\r\n"));
    assert!(request.contains("user-agent: pendula/"));
}

#[tokio::test]
async fn status_and_body_rules_decide() {
    let server = Server::start(&[("/text", &ok("text/html", "<h1>error</h1>"))]).await;
    let (outcome, _) = send(LOCAL, json!({ "url": server.url("/missing") })).await;
    assert_eq!(reason(&outcome), "http_status");
    assert_eq!(result(outcome.unwrap_err().result)["status"], 404);
    let definition = json!({ "url": server.url("/missing"), "success": { "status": ["200-299", "404"] } });
    assert!(send(LOCAL, definition).await.0.is_ok());
    for rule in ["!(body contains \"error\")", "json.code == 0", "status"] {
        let (outcome, _) = send(LOCAL, json!({ "url": server.url("/text"), "success": { "body": rule } })).await;
        assert_eq!(reason(&outcome), "body_rule", "{rule}");
    }
    let (outcome, _) = send(LOCAL, json!({ "url": server.url("/text"), "success": { "body": "status ==" } })).await;
    assert_eq!(reason(&outcome), "invalid_definition");
}

#[tokio::test]
async fn sec_9_addresses_are_refused_by_default_before_a_byte_is_sent() {
    let server = Server::start(&[("/", &ok("text/plain", "reached"))]).await;
    let port = server.address.port();
    for host in [
        "127.0.0.1",
        "localhost",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0177.0.0.1",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "0.0.0.0",
        "169.254.169.254",
        "[fd00:ec2::254]",
        "10.0.0.1",
    ] {
        let (outcome, log) = send(&[], json!({ "url": format!("http://{host}:{port}/") })).await;
        assert_eq!(reason(&outcome), "egress_denied", "{host}: {outcome:?}");
        assert!(!outcome.unwrap_err().retry && !log.contains("reached"));
    }
}

#[tokio::test]
async fn sec_9_a_name_is_judged_by_where_it_leads() {
    let server = Server::start(&[("/", &ok("text/plain", "reached"))]).await;
    let definition = json!({ "url": format!("http://localhost:{}/", server.address.port()) });
    let (outcome, _) = send(&[], definition.clone()).await;
    assert_eq!(reason(&outcome), "egress_denied");
    assert!(outcome.unwrap_err().message.contains("loopback"));
    assert!(send(&["127.0.0.1"], definition.clone()).await.0.is_ok());
    assert!(send(&["localhost"], definition).await.0.is_ok());
}

#[tokio::test]
async fn sec_9_each_redirect_is_checked() {
    let server = Server::start(&[
        ("/metadata", "HTTP/1.1 302 Found\r\nLocation: http://169.254.169.254/latest/\r\nContent-Length: 0\r\n\r\n"),
        ("/name", "HTTP/1.1 302 Found\r\nLocation: http://localhost:1/\r\nContent-Length: 0\r\n\r\n"),
        ("/hex", "HTTP/1.1 307 Moved\r\nLocation: http://0xa9fea9fe/\r\nContent-Length: 0\r\n\r\n"),
        ("/file", "HTTP/1.1 302 Found\r\nLocation: file:///etc/passwd\r\nContent-Length: 0\r\n\r\n"),
        ("/loop", "HTTP/1.1 302 Found\r\nLocation: /loop\r\nContent-Length: 0\r\n\r\n"),
        ("/fine", "HTTP/1.1 303 See Other\r\nLocation: /end\r\nContent-Length: 0\r\n\r\n"),
        ("/end", &ok("text/plain", "{request}")),
    ])
    .await;
    // The first step is permitted as an address, so that only the second one can be what is refused.
    let only_this = [format!("{}/32", server.address.ip())];
    let allow: Vec<&str> = only_this.iter().map(String::as_str).collect();
    for path in ["/metadata", "/hex", "/file"] {
        let (outcome, _) = send(&allow, json!({ "url": server.url(path) })).await;
        assert_eq!(reason(&outcome), "egress_denied", "{path}");
    }
    let (outcome, log) = send(&allow, json!({ "url": server.url("/loop"), "redirects": 3 })).await;
    assert_eq!((reason(&outcome), log.matches("GET").count()), ("http_redirects", 4));
    let definition = json!({ "url": server.url("/fine"), "method": "POST", "body": "x" });
    let kept = result(send(&allow, definition).await.0.unwrap().result);
    assert!(kept["body"].as_str().unwrap().starts_with("GET /end"));
}

#[tokio::test]
async fn sec_14_bodies_and_waits_are_bounded() {
    let announced = "HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n".to_owned() + &"x".repeat(5000);
    let server = Server::start(&[
        ("/announced", &announced),
        ("/endless", &ok("text/plain", &"x".repeat(5000))),
        ("/never", "never"),
        ("/broken", "HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nshort"),
        ("/large", &ok("text/plain", &"x".repeat(100_000))),
    ])
    .await;
    for path in ["/announced", "/endless"] {
        let (outcome, _) = send(LOCAL, json!({ "url": server.url(path), "max_body": 4999 })).await;
        assert_eq!(reason(&outcome), "http_body", "{path}");
    }
    assert!(send(LOCAL, json!({ "url": server.url("/endless"), "max_body": 5000 })).await.0.is_ok());
    let (outcome, _) = send(LOCAL, json!({ "url": server.url("/never"), "timeout": "100ms" })).await;
    assert_eq!(reason(&outcome), "http_timeout");
    let (outcome, _) = send(LOCAL, json!({ "url": server.url("/broken") })).await;
    assert_eq!(reason(&outcome), "http_body");
    let (outcome, log) = send(LOCAL, json!({ "url": server.url("/large") })).await;
    let kept = result(outcome.unwrap().result);
    assert_eq!((kept.get("body"), &kept["body_bytes"]), (None, &json!(100_000)));
    assert!(log.len() < 67_000 && log.contains("the body is cut"));
}

#[tokio::test]
async fn nobody_there_is_a_failure_to_connect() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let (outcome, _) = send(LOCAL, json!({ "url": format!("http://{address}/") })).await;
    assert_eq!(reason(&outcome), "http_connect");
}

#[tokio::test]
async fn stop_aborts_the_request() {
    let server = Server::start(&[("/never", "never")]).await;
    let definition = json!({ "url": server.url("/never") });
    let (task, probe) = TestTask::new("http").config(definition.to_string()).build();
    let handler = HttpHandler::new(EgressPolicy { allow: vec!["127.0.0.1".parse().unwrap()] }).unwrap();
    let running = tokio::spawn(async move { handler.run(task).await });
    probe.cancel();
    assert!(running.await.unwrap().is_err());
}
