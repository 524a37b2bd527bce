//! A worker that speaks the protocol as the real ones do, as far as the tests need it.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use http::StatusCode;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc};

use crate::world::soon;

pub struct FakeWorker {
    pub address: String,
    gateway: Mutex<SocketAddr>,
    pub app: i64,
    inner: Arc<Inner>,
    received: tokio::sync::Mutex<mpsc::UnboundedReceiver<(String, Value)>>,
    http: reqwest::Client,
    beating: Mutex<Option<tokio::task::JoinHandle<()>>>,
    serving: tokio::task::JoinHandle<()>,
    end: Arc<Notify>,
    pub version: &'static str,
    pub tag: Option<&'static str>,
}

#[derive(Default)]
struct Inner {
    sender: Option<mpsc::UnboundedSender<(String, Value)>>,
    trackers: Mutex<HashSet<i64>>,
    /// Answers `runJob` with this status, and does nothing.
    refuses: Mutex<Option<u16>>,
    /// Takes `runJob` and forgets it.
    ignores: Mutex<bool>,
    /// Takes `runJob` and does not answer.
    mute: Mutex<bool>,
    /// Goes on after a stop.
    stubborn: Mutex<bool>,
    /// How often it was asked about an instance.
    asked: AtomicUsize,
}

impl Drop for FakeWorker {
    fn drop(&mut self) {
        self.serving.abort();
        self.stop_beating();
    }
}

impl FakeWorker {
    /// Listens, and finds its app and its server as a real one does.
    pub async fn start(gateway: SocketAddr, app: &str) -> FakeWorker {
        FakeWorker::start_as(gateway, app, "5.1.1", None).await
    }

    pub async fn start_as(
        gateway: SocketAddr,
        app: &str,
        version: &'static str,
        tag: Option<&'static str>,
    ) -> FakeWorker {
        let port = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        FakeWorker::start_on(port, gateway, app, version, tag).await
    }

    pub async fn start_on(
        port: TcpListener,
        gateway: SocketAddr,
        app: &str,
        version: &'static str,
        tag: Option<&'static str>,
    ) -> FakeWorker {
        let address = port.local_addr().expect("it is bound").to_string();
        let (sender, received) = mpsc::unbounded_channel();
        let inner = Arc::new(Inner { sender: Some(sender), ..Inner::default() });
        let routes = Router::new()
            .route("/worker/runJob", post(run_job))
            .route("/worker/stopInstance", post(stop_instance))
            .route("/worker/queryInstanceStatus", post(query_status))
            .route("/processorTracker/startTask", post(start_task))
            .route("/processorTracker/stopInstance", post(stop_tasks))
            .with_state(inner.clone());
        let end = Arc::new(Notify::new());
        let ended = end.clone();
        let serving = tokio::spawn(async move {
            let serve = axum::serve(port, routes).with_graceful_shutdown(async move { ended.notified().await });
            serve.await.expect("it serves");
        });
        let http = reqwest::Client::builder().http1_only().no_proxy().build().expect("a client");
        let mut worker = FakeWorker {
            address,
            gateway: Mutex::new(gateway),
            app: 0,
            inner,
            received: tokio::sync::Mutex::new(received),
            http,
            beating: Mutex::new(None),
            serving,
            end,
            version,
            tag,
        };
        worker.app =
            worker.discover(&format!("/server/assert?appName={app}")).await["data"].as_i64().expect("a number");
        let path = format!("/server/acquire?appId={}&protocol=HTTP", worker.app);
        let server = worker.discover(&path).await["data"].as_str().expect("an address").to_owned();
        worker.go_to(server.parse().expect("an address of this machine"));
        worker
    }

    pub async fn discover(&self, path: &str) -> Value {
        let url = format!("http://{}{path}", self.gateway());
        let answer = self.http.get(url).send().await.expect("the gateway answers");
        assert_eq!(answer.status(), 200);
        answer.json().await.expect("discovery answers JSON")
    }

    /// Where it says everything, from now on.
    pub fn go_to(&self, gateway: SocketAddr) {
        *self.gateway.lock().expect("no panic") = gateway;
    }

    pub fn gateway(&self) -> SocketAddr {
        *self.gateway.lock().expect("no panic")
    }

    /// Sends a message as it is; returns what came back.
    pub async fn post(&self, path: &str, body: impl Into<reqwest::Body>) -> (u16, Value) {
        // Without a content type, as 4.3.0.
        self.post_to(&format!("server/{path}"), body).await
    }

    /// The same to any path.
    pub async fn post_to(&self, path: &str, body: impl Into<reqwest::Body>) -> (u16, Value) {
        let url = format!("http://{}/{path}", self.gateway());
        let answer = self.http.post(url).body(body).send().await.expect("the gateway answers");
        let status = answer.status().as_u16();
        let text = answer.text().await.expect("a body");
        (status, serde_json::from_str(&text).unwrap_or(Value::Null))
    }

    pub fn heartbeat_message(&self) -> Value {
        json!({
            "workerAddress": self.address, "appName": "demo", "appId": self.app, "heartbeatTime": 1_761_000_000_123_i64,
            "containerInfos": [], "version": self.version, "protocol": "HTTP", "tag": self.tag, "client": "KingPenguin",
            "extra": null, "overload": false, "lightTaskTrackerNum": self.trackers().len(), "heavyTaskTrackerNum": 0,
            "systemMetrics": {
                "cpuProcessors": 4, "cpuLoad": 0.52, "jvmUsedMemory": 0.21, "jvmMaxMemory": 1.94, "jvmMemoryUsage": 0.1,
                "diskUsed": 31.2, "diskTotal": 96.7, "diskUsage": "NaN", "score": 6, "extra": null,
            },
        })
    }

    pub async fn heartbeat(&self) {
        let (status, _) = self.post("workerHeartbeat", self.heartbeat_message().to_string()).await;
        assert_eq!(status, 200);
    }

    /// Heartbeats from now on, in the background.
    pub fn beat(self: &Arc<Self>) {
        let worker = Arc::downgrade(self);
        let beating = tokio::spawn(async move {
            while let Some(worker) = worker.upgrade() {
                let url = format!("http://{}/server/workerHeartbeat", worker.gateway());
                // While the server is away nobody answers.
                let _ = worker.http.post(url).body(worker.heartbeat_message().to_string()).send().await;
                drop(worker);
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
        *self.beating.lock().expect("no panic") = Some(beating);
    }

    pub fn stop_beating(&self) {
        if let Some(beating) = self.beating.lock().expect("no panic").take() {
            beating.abort();
        }
    }

    /// Hangs up and lets its port go.
    pub async fn die(&self) {
        self.stop_beating();
        self.end.notify_one();
        crate::world::until("its port is free", async || self.serving.is_finished()).await;
    }

    /// The next message to `path`; others before it are dropped.
    pub async fn received(&self, path: &str) -> Value {
        let mut received = self.received.lock().await;
        soon(path, async {
            loop {
                let (to, message) = received.recv().await.expect("the worker lives");
                if to == path {
                    return message;
                }
            }
        })
        .await
    }

    /// All that came and was not looked at.
    pub async fn unread(&self) -> Vec<String> {
        let mut received = self.received.lock().await;
        std::iter::from_fn(|| received.try_recv().ok()).map(|(path, _)| path).collect()
    }

    pub fn report_message(&self, instance: i64, status: i64, times: (i64, i64), result: Option<&str>) -> Value {
        let (start, report) = times;
        let done = i64::from(status == 5);
        json!({
            "appId": self.app, "jobId": 1, "instanceId": instance, "wfInstanceId": null, "appendedWfContext": null,
            "instanceStatus": status, "result": result, "totalTaskNum": 1, "succeedTaskNum": done, "failedTaskNum": 0,
            "startTime": start, "endTime": null, "reportTime": report, "sourceAddress": self.address,
            "needAlert": false, "alertContent": null, "somethingNew": { "deep": [1, 2] },
        })
    }

    /// Reports; a final report that is accepted destroys the tracker.
    pub async fn report(&self, instance: i64, status: i64, times: (i64, i64), result: Option<&str>) -> Value {
        let message = self.report_message(instance, status, times, result);
        let (code, answer) = self.post("reportInstanceStatus", message.to_string()).await;
        assert_eq!(code, 200);
        if answer["success"] == true {
            self.forget(instance);
        }
        answer
    }

    /// How often it was asked about an instance.
    pub fn asked(&self) -> usize {
        self.inner.asked.load(Ordering::SeqCst)
    }

    pub fn forget(&self, instance: i64) {
        self.inner.trackers.lock().expect("no panic").remove(&instance);
    }

    pub fn trackers(&self) -> HashSet<i64> {
        self.inner.trackers.lock().expect("no panic").clone()
    }

    pub fn refuse(&self, status: Option<u16>) {
        *self.inner.refuses.lock().expect("no panic") = status;
    }

    pub fn ignore(&self, ignores: bool) {
        *self.inner.ignores.lock().expect("no panic") = ignores;
    }

    pub fn be_mute(&self, mute: bool) {
        *self.inner.mute.lock().expect("no panic") = mute;
    }

    pub fn be_stubborn(&self, stubborn: bool) {
        *self.inner.stubborn.lock().expect("no panic") = stubborn;
    }
}

type Shared = State<Arc<Inner>>;

fn note(inner: &Inner, path: &str, body: &str) -> (i64, Value) {
    let message: Value = serde_json::from_str(body).expect("the server writes JSON");
    let instance = message["instanceId"].as_i64().expect("about an instance");
    if let Some(sender) = &inner.sender {
        let _ = sender.send((path.to_owned(), message.clone()));
    }
    (instance, message)
}

async fn run_job(State(inner): Shared, body: String) -> Response {
    let (instance, _) = note(&inner, "runJob", &body);
    if let Some(status) = *inner.refuses.lock().expect("no panic") {
        return StatusCode::from_u16(status).expect("a status").into_response();
    }
    if !*inner.ignores.lock().expect("no panic") {
        inner.trackers.lock().expect("no panic").insert(instance);
    }
    let is_mute = *inner.mute.lock().expect("no panic");
    if is_mute {
        std::future::pending::<()>().await;
    }
    StatusCode::OK.into_response()
}

async fn start_task(State(inner): Shared, body: String) -> Response {
    let message: Value = serde_json::from_str(&body).expect("the server writes JSON");
    if let Some(sender) = &inner.sender {
        let _ = sender.send(("startTask".to_owned(), message));
    }
    match *inner.refuses.lock().expect("no panic") {
        Some(status) => StatusCode::from_u16(status).expect("a status").into_response(),
        None => StatusCode::OK.into_response(),
    }
}

async fn stop_tasks(State(inner): Shared, body: String) -> Response {
    note(&inner, "stopTasks", &body);
    StatusCode::OK.into_response()
}

async fn stop_instance(State(inner): Shared, body: String) -> Response {
    let (instance, _) = note(&inner, "stopInstance", &body);
    if !*inner.stubborn.lock().expect("no panic") {
        inner.trackers.lock().expect("no panic").remove(&instance);
    }
    StatusCode::OK.into_response()
}

async fn query_status(State(inner): Shared, body: String) -> Response {
    inner.asked.fetch_add(1, Ordering::SeqCst);
    let (instance, _) = note(&inner, "queryInstanceStatus", &body);
    let known = inner.trackers.lock().expect("no panic").contains(&instance);
    let answer = match known {
        true => json!({ "success": true, "data": "eyJzdGF0dXMiOjN9" }),
        false => json!({ "success": false, "message": "can't find TaskTracker" }),
    };
    axum::Json(answer).into_response()
}
