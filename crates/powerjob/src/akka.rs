//! Workers over Akka, answered by what answers them over HTTP.
//!
//! A message is read in whichever dialect it was written, becomes the JSON that the same worker would have posted, goes
//! through the routes of the HTTP transport with a mark of its dialect, and the answer goes back in that dialect. So a
//! worker over Akka is one like all others, on this server or carried to another.
//!
//! What is said to a worker is for the process that spoke so, whichever server it spoke to: another one at its address is told
//! nothing until it has said something itself.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use http::{Request, header};
use pendula_akka::artery::{Address, UniqueAddress};
use pendula_akka::kryo::{Class, Dialect, Message, decode, encode};
use pendula_akka::transport::{AskError, Associations, Gate as AkkaGate, Inbound, Node, Refused, SendError};
use pendula_model::InstanceId;
use pendula_server::gateway::{Reading, Value as Shown, set_client};
use serde::Serialize;
use serde_json::Value;
use tokio::sync::{Semaphore, mpsc};
use tower::ServiceExt;

use crate::dial::CallError;
use crate::gate::Gate;
use crate::run::Shared;
use crate::way::Spoken;

/// The actor that workers talk to.
const SERVER: &str = "server_actor";
/// The one that they take for a worker's who tracks an instance.
const TASK_TRACKER: &str = "task_tracker";
/// The one of theirs that takes everything from a server.
const WORKER: &str = "worker";
/// The one that takes everything from who tracks an instance.
const PROCESSOR_TRACKER: &str = "processor_tracker";
/// Messages that are worked on at once. Each takes as long as the store does.
const AT_ONCE: usize = 256;
/// Longest answer.
const ANSWER: usize = 1 << 20;
/// A worker answers within this, or it does not.
const PATIENCE: Duration = Duration::from_secs(5);

/// Answers what workers say for as long as the server does not stop.
pub(crate) async fn serve(shared: Shared, node: Node, mut inbox: mpsc::Receiver<Inbound>, routes: Router) {
    let places = Arc::new(Semaphore::new(AT_ONCE));
    while let Some(inbound) = inbox.recv().await {
        let Ok(place) = places.clone().acquire_owned().await else { break };
        let (shared, routes, to) = (shared.clone(), routes.clone(), node.associations().clone());
        shared.clone().gateway.spawn(async move {
            let _place = place;
            answer(&shared, routes, &to, inbound).await;
        });
    }
}

async fn answer(shared: &Shared, routes: Router, to: &Associations, inbound: Inbound) {
    let Inbound { from, process, peer, actor, reply, payload } = inbound;
    if actor != SERVER && actor != TASK_TRACKER {
        return shared.complain(peer, &format!("{from} talks to the actor {actor}, which is not here"));
    }
    let read = decode(&payload);
    drop(payload);
    let (message, dialect) = match read {
        Ok(read) => read,
        // Never guessed at, and never half understood: what the worker runs goes on.
        Err(error) => return shared.complain(peer, &format!("a message of {from} cannot be read: {error}")),
    };
    let Some(path) = path(&actor, message.class()) else {
        return shared.complain(peer, &format!("{from} sent a {:?}, which is no message for {actor}", message.class()));
    };
    let mut json = message.to_json();
    if let Err(why) = complete(shared, &message, &from, &mut json).await {
        return shared.complain(peer, &why);
    }
    let answer = post(routes, path, &json, Spoken { dialect, process }, peer).await;
    let Some(reply) = reply else { return };
    // Whoever hears nothing asks again.
    let Some(answer) = answer else { return };
    match Message::from_json(Class::AskResponse, &answer) {
        Ok(answer) => {
            if let Err(error) = to.reply(&reply, encode(&answer, dialect)).await {
                tracing::debug!(worker = %from, %error, "a PowerJob worker did not get its answer");
            }
        }
        Err(error) => tracing::error!(%error, "an answer for a PowerJob worker is none"),
    }
}

fn path(actor: &str, class: Class) -> Option<&'static str> {
    Some(match (actor, class) {
        (SERVER, Class::WorkerHeartbeat) => "/server/workerHeartbeat",
        (SERVER, Class::WorkerLogReportReq) => "/server/reportLog",
        (SERVER, Class::TaskTrackerReportInstanceStatusReq) => "/server/reportInstanceStatus",
        (SERVER, Class::WorkerQueryExecutorClusterReq) => "/server/queryJobCluster",
        (SERVER, Class::WorkerNeedDeployContainerRequest) => "/server/queryContainer",
        (TASK_TRACKER, Class::ProcessorReportTaskStatusReq) => "/taskTracker/reportTaskStatus",
        (TASK_TRACKER, Class::ProcessorTrackerStatusReportReq) => "/taskTracker/reportProcessorTrackerStatus",
        (TASK_TRACKER, Class::ProcessorMapTaskRequest) => "/taskTracker/mapTask",
        _ => return None,
    })
}

/// Who of a worker takes it.
fn actor(class: Class) -> &'static str {
    match class {
        Class::TaskTrackerStartTaskReq | Class::TaskTrackerStopInstanceReq => PROCESSOR_TRACKER,
        _ => WORKER,
    }
}

/// Adds what workers that old do not say, and refuses what does not fit together.
async fn complete(shared: &Shared, message: &Message, from: &Address, json: &mut Value) -> Result<(), String> {
    match message.class() {
        // It is called where Akka has it, and known to others by what its heartbeat says.
        Class::WorkerHeartbeat if message.get("workerAddress").as_text() != Some(&from.host_and_port()) => {
            let said = message.get("workerAddress").as_text().unwrap_or_default();
            Err(format!(
                "a worker says that it is {said}, and its Akka that it is {from}: both must be the same address, at \
                 which this server reaches it"
            ))
        }
        // Reports say so from 4.1.1 on.
        Class::TaskTrackerReportInstanceStatusReq if message.get("appId").as_long().is_none_or(|id| id <= 0) => {
            let instance = InstanceId(message.get("instanceId").as_long().unwrap_or_default());
            let row = shared.gateway.server().store.instance(instance).await;
            if let Ok(Some(row)) = row {
                json["appId"] = row.app.0.into();
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

/// What the HTTP transport says to it; nothing when that is nothing.
async fn post(routes: Router, path: &'static str, json: &Value, spoken: Spoken, peer: IpAddr) -> Option<Value> {
    let mut request = Request::post(path)
        .header(header::CONTENT_TYPE, "application/json")
        .body(Body::from(json.to_string()))
        .expect("a path and a header that are constant");
    spoken.mark(request.headers_mut());
    set_client(request.extensions_mut(), SocketAddr::new(peer, 0));
    let response = routes.oneshot(request).await.unwrap_or_else(|never| match never {});
    if !response.status().is_success() {
        return None;
    }
    let body = to_bytes(response.into_body(), ANSWER).await.ok()?;
    serde_json::from_slice(&body).ok()
}

/// What the transport counts, for the server's metrics.
pub(crate) fn readings(to: &Associations) -> Vec<Reading> {
    let counters = to.counters();
    let reading = |name, help, value| Reading { name, help, value };
    let refused = Refused::ALL.map(|why| (why.as_str(), counters.refused(why))).to_vec();
    vec![
        reading("akka_frames_received", "Frames that workers sent over Akka", Shown::Counter(counters.received())),
        reading("akka_messages_sent", "Messages that workers were sent over Akka", Shown::Counter(counters.sent())),
        reading("akka_dialled", "Connections made to workers over Akka", Shown::Counter(counters.dialled())),
        reading("akka_refused", "What was not taken over Akka, by reason", Shown::Counters("reason", refused)),
        reading("akka_connections", "Connections that workers have over Akka", Shown::Gauge(to.connections())),
        reading("akka_associations", "Workers that are talked to over Akka", Shown::Gauge(to.count())),
        reading("akka_held", "What was received over Akka and not worked off", Shown::Bytes(to.held())),
    ]
}

#[async_trait::async_trait]
impl AkkaGate for Gate {
    fn admits(&self, peer: IpAddr) -> bool {
        self.may_probe(peer, peer)
    }

    async fn target(&self, worker: &Address, peer: Option<IpAddr>) -> Result<SocketAddr, String> {
        let found: Vec<SocketAddr> = match worker.host().parse::<IpAddr>() {
            Ok(ip) => vec![SocketAddr::new(ip, worker.port())],
            Err(_) => tokio::net::lookup_host((worker.host(), worker.port()))
                .await
                .map_err(|error| format!("{} cannot be resolved: {error}", worker.host()))?
                .collect(),
        };
        let is_near = |target: &SocketAddr| self.may_probe(peer.unwrap_or(target.ip()), target.ip());
        let refuse =
            || format!("{worker} is in no network that `powerjob.allow` lists together with where it called from");
        found.first().filter(|_| found.iter().all(is_near)).copied().ok_or_else(refuse)
    }
}

/// Tells a worker something: the process that spoke so.
pub(crate) async fn tell(
    to: Option<&Associations>,
    worker: &Address,
    class: Class,
    message: &impl Serialize,
    spoken: Spoken,
) -> Result<(), CallError> {
    let (to, worker) = (to.ok_or_else(not_served)?, process(worker, spoken));
    to.tell(&worker, actor(class), payload(class, message, spoken.dialect)?).await.map_err(not_told)
}

/// Asks a worker something: the process that spoke so. The answer as JSON.
pub(crate) async fn ask(
    to: Option<&Associations>,
    worker: &Address,
    class: Class,
    message: &impl Serialize,
    spoken: Spoken,
) -> Result<Value, CallError> {
    let (to, worker) = (to.ok_or_else(not_served)?, process(worker, spoken));
    let asked = to.ask(&worker, actor(class), payload(class, message, spoken.dialect)?, PATIENCE).await;
    let answer = asked.map_err(|error| match error {
        AskError::Send(error) => not_told(error),
        other => CallError::NoAnswer(other.to_string()),
    })?;
    let (answer, _) = decode(&answer).map_err(|error| CallError::NoAnswer(error.to_string()))?;
    Ok(answer.to_json())
}

fn process(worker: &Address, spoken: Spoken) -> UniqueAddress {
    UniqueAddress { address: worker.clone(), uid: spoken.process }
}

fn payload(class: Class, message: &impl Serialize, dialect: Dialect) -> Result<Vec<u8>, CallError> {
    let json = serde_json::to_value(message).expect("plain data becomes JSON");
    let message = Message::from_json(class, &json).map_err(|error| CallError::NotSent(error.to_string()))?;
    Ok(encode(&message, dialect))
}

fn not_told(error: SendError) -> CallError {
    match error {
        SendError::Unsure(why) => CallError::NoAnswer(why),
        other => CallError::NotSent(other.to_string()),
    }
}

fn not_served() -> CallError {
    CallError::NotSent("this server has no port for Akka: set `powerjob.akka.listen`".to_owned())
}
