//! Who gets in, and what those who do not authenticate can do.

use std::sync::Arc;

use serde_json::json;

use crate::fake::FakeWorker;
use crate::world::{HURRY, World};

#[tokio::test]
async fn sec_4_an_app_that_is_not_named_accepts_nobody_and_says_what_to_do() {
    let world = World::with(&["powerjob.allow=other=127.0.0.0/8"], HURRY).await;
    let url = |path: &str| format!("http://{}/server/{path}", world.gateway.local_addr);
    let answer: serde_json::Value = reqwest::get(url("assert?appName=demo")).await.unwrap().json().await.unwrap();
    assert_eq!(answer["success"], false);
    assert!(answer["message"].as_str().unwrap().contains("powerjob.allow"), "{answer}");
    let heartbeat = json!({
        "workerAddress": "127.0.0.1:1", "appName": "demo", "appId": world.app.0, "protocol": "HTTP", "version": "5.1.1",
    });
    let sent = reqwest::Client::new().post(url("workerHeartbeat")).body(heartbeat.to_string()).send().await.unwrap();
    assert_eq!(sent.status(), 200);
    assert_eq!(world.server().state().partitions.status().gauges.sessions, 0);
}

#[tokio::test]
async fn sec_4_the_gateway_calls_nobody_outside_of_the_apps_networks() {
    let world = World::new().await;
    let worker = FakeWorker::start(world.gateway.local_addr, "demo").await;
    for address in ["169.254.169.254:80", "10.0.0.1:27777", "127.0.0.1", "[::1]:27777", "x'; drop table:1"] {
        let mut message = worker.heartbeat_message();
        message["workerAddress"] = address.into();
        let (status, _) = worker.post("workerHeartbeat", message.to_string()).await;
        assert_eq!(status, 200, "{address}");
    }
    assert_eq!(world.server().state().partitions.status().gauges.sessions, 0);
    let answer = worker.discover("/server/checkConnectivity?targetIp=169.254.169.254&targetPort=80").await;
    assert_eq!(answer, json!({ "success": true, "data": false, "message": null }));
}

#[tokio::test]
async fn a_worker_about_to_listen_learns_whether_it_can_be_reached() {
    use tokio::io::AsyncWriteExt;
    let world = World::new().await;
    let worker = FakeWorker::start(world.gateway.local_addr, "demo").await;
    for (answer, reached) in [(&b"pong"[..], true), (b"PONG\r\n", true), (b"no", false)] {
        let port = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let number = port.local_addr().unwrap().port();
        let listening = tokio::spawn(async move {
            let (mut stream, _) = port.accept().await.unwrap();
            stream.write_all(answer).await.unwrap();
        });
        let path = format!("/server/checkConnectivity?targetIp=127.0.0.1&targetPort={number}");
        assert_eq!(worker.discover(&path).await["data"], reached);
        listening.await.unwrap();
    }
}

#[tokio::test]
async fn sec_4_a_worker_cannot_end_what_is_anothers_or_another_apps() {
    let world = World::new().await;
    let one = Arc::new(FakeWorker::start(world.gateway.local_addr, "demo").await);
    one.heartbeat().await;
    world.sessions_are(1).await;
    world.apply(crate::world::job("A", pendula_model::powerjob::PowerJobExecuteType::Standalone)).await;
    let id = world.run("A").await;
    one.received("runJob").await;
    let two = Arc::new(FakeWorker::start(world.gateway.local_addr, "demo").await);
    two.heartbeat().await;
    world.sessions_are(2).await;
    // Acknowledged, because it would be repeated else; and ignored.
    assert_eq!(two.report(id.0, 5, (1, 2), Some("forged")).await, json!({ "success": true }));
    assert!(!world.instance(id).await.state.is_ended());
    let mut message = one.report_message(id.0, 5, (1, 2), Some("forged"));
    message["appId"] = (world.app.0 + (1 << 40)).into();
    let (_, answer) = one.post("reportInstanceStatus", message.to_string()).await;
    assert_eq!(answer["success"], false);
    assert!(!world.instance(id).await.state.is_ended());
}

#[tokio::test]
async fn s1_8_rubbish_is_refused_and_hurts_nobody() {
    let world = World::new().await;
    let worker = Arc::new(FakeWorker::start(world.gateway.local_addr, "demo").await);
    worker.heartbeat().await;
    worker.beat();
    world.sessions_are(1).await;
    let deep = "[".repeat(1_000_000);
    let nested = format!(r#"{{"appId":{},"systemMetrics":{deep}"#, world.app.0);
    for body in
        ["", "null", "[]", "\u{0}\u{1}", r#"{"appId":"#, r#"{"appId":"x"}"#, r#"{"appId":1e400}"#, &deep, &nested]
    {
        for path in ["workerHeartbeat", "reportInstanceStatus", "reportLog", "queryJobCluster", "queryContainer"] {
            let (status, _) = worker.post(path, body.to_owned()).await;
            assert!(matches!(status, 200 | 400), "{path}: {status}");
        }
    }
    let (status, _) = worker.post("reportLog", vec![b'x'; 9 << 20]).await;
    assert_eq!(status, 413);
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    for bytes in [&b"\x16\x03\x01\x02\x00rubbish"[..], b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &[0xff; 64]] {
        let mut stream = tokio::net::TcpStream::connect(world.gateway.local_addr).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
    }
    world.apply(crate::world::job("A", pendula_model::powerjob::PowerJobExecuteType::Standalone)).await;
    let id = world.run("A").await;
    worker.received("runJob").await;
    assert_eq!(worker.report(id.0, 5, (1, 2), None).await, json!({ "success": true }));
}
