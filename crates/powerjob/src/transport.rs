//! What workers send.
//!
//! They want status 200 and nothing else; most of them write no content type, and the older ones write every null.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::request::Parts;
use http::{Extensions, StatusCode, header};
use pendula_model::app::App;
use pendula_model::worker::BootId;
use pendula_model::{AppId, InstanceId, JobId};
use pendula_server::gateway::{Owner, carrier_of, client_of, is_carried};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use crate::discovery::speaks_http;
use crate::gate::Closed;
use crate::messages::*;
use crate::run::Shared;
use crate::session::{self, Identity};
use crate::translate;
use crate::way::{Speech, Spoken, Way};
use crate::workers::Told;

/// Longest message. Logs come in twenties, each as long as its author liked.
pub(crate) const BODY: usize = 8 << 20;
/// A worker's own patience is 5 s.
const CARRY: Duration = Duration::from_secs(4);

pub(crate) async fn heartbeat(State(shared): State<Shared>, request: Request) -> Response {
    let spoken = Spoken::of(request.headers());
    let found = at_owner(&shared, request, |heartbeat: &WorkerHeartbeat| Some(AppId(heartbeat.app_id))).await;
    let Ok(Here { message: mut heartbeat, app, peer, carrier }) = found else { return found.err().unwrap_or_default() };
    if let (None, Err(why)) = (spoken, speaks_http(heartbeat.protocol.as_deref())) {
        shared.complain(peer, &why);
        return empty();
    }
    if heartbeat.app_name != app.name && !heartbeat.app_name.is_empty() {
        shared.complain(peer, &format!("a worker of app({}) gave the number of app({})", heartbeat.app_name, app.name));
        return empty();
    }
    let way = match Way::to(&shared, &app.name, &heartbeat.worker_address, spoken, carrier).await {
        Ok(way) => way,
        Err(why) => {
            shared.complain(peer, &why);
            return empty();
        }
    };
    heartbeat.way = Some(way.clone());
    let info = translate::worker_info(&heartbeat);
    match shared.around.workers.heard(app.id, &heartbeat, info) {
        Ok(known) => drop(known.told.send(Told::Heartbeat(Box::new(heartbeat))).await),
        Err((number, told)) => {
            let most = shared.gateway.server().config.limits.sessions as usize;
            let address = heartbeat.worker_address.as_str().into();
            let who = Identity { app: app.id, address, way, number };
            if shared.around.workers.count() > most {
                shared.around.workers.forget(app.id, &who.address, number);
                shared.complain(peer, &format!("the server is at its limit of {most} workers"));
                return empty();
            }
            shared.gateway.spawn(session::run(shared.around.clone(), who, heartbeat, told));
        }
    }
    empty()
}

pub(crate) async fn report_instance_status(State(shared): State<Shared>, request: Request) -> Response {
    let app_of = |report: &TaskTrackerReportInstanceStatusReq| Some(AppId(report.app_id));
    let found = at_owner(&shared, request, app_of).await;
    let Ok(Here { message: report, app, .. }) = found else { return found.err().unwrap_or_default() };
    let is_final = matches!(report.instance_status, status::SUCCEEDED | status::FAILED);
    let forget = || if is_final { json(&AskResponse::done()) } else { empty() };
    let again = |why: &str| if is_final { json(&AskResponse::refused(why)) } else { empty() };
    let Some(known) = shared.around.workers.find(app.id, &report.source_address) else {
        // Its next heartbeat brings it back, and the worker repeats the report until then: unless nobody waits for it.
        return match shared.gateway.server().store.instance(InstanceId(report.instance_id)).await {
            Ok(Some(row)) if row.app == app.id && !row.state.is_ended() => again("the worker is not connected yet"),
            Ok(_) => forget(),
            Err(_) => again("the store cannot be read now"),
        };
    };
    let (answer, answered) = oneshot::channel();
    let told = Told::Report { report: Box::new(report), answer };
    if known.told.send(told).await.is_err() {
        return again("the worker's session just ended");
    }
    match timeout(shared.around.timing.answer_within, answered).await {
        Ok(Ok(true)) => forget(),
        _ => again("it is not on disk yet"),
    }
}

pub(crate) async fn report_log(State(shared): State<Shared>, request: Request) -> Response {
    // It does not say whose it is; its instances do.
    let peer = client_ip(&request);
    let (parts, body) = request.into_parts();
    let Ok(body) = to_bytes(body, BODY).await else { return StatusCode::PAYLOAD_TOO_LARGE.into_response() };
    let message: WorkerLogReportReq = match serde_json::from_slice(&body) {
        Ok(message) => message,
        Err(error) => return unreadable(&error),
    };
    let Some(first) = message.instance_log_contents.first() else { return empty() };
    let instance = InstanceId(first.instance_id);
    let Ok(Some(row)) = shared.gateway.server().store.instance(instance).await else { return empty() };
    let Ok(Some(app)) = shared.app(row.app).await else { return empty() };
    if let Err(closed) = admit(&shared, &app.name, &parts.extensions) {
        shared.complain(peer, &closed);
        return empty();
    }
    match shared.gateway.find_owner(row.app.partition(), parts, body, false, Instant::now() + CARRY).await {
        Owner::Here(_) => {
            let WorkerLogReportReq { worker_address, instance_log_contents } = message;
            shared.around.log_lines.append(app.id, &worker_address, instance_log_contents).await;
            empty()
        }
        Owner::Answered(_) => empty(),
    }
}

pub(crate) async fn query_job_cluster(State(shared): State<Shared>, request: Request) -> Response {
    let speech = Speech::of(request.headers());
    let app_of = |query: &WorkerQueryExecutorClusterReq| Some(AppId(query.app_id));
    let found = at_owner(&shared, request, app_of).await;
    let Ok(Here { message: query, app, .. }) = found else { return found.err().unwrap_or_default() };
    match shared.gateway.server().store.job_by_id(JobId(query.job_id)).await {
        Ok(Some(job)) if job.app == app.id => {
            json(&AskResponse::with(&shared.around.workers.cluster_of(app.id, &job.spec, speech, None, true)))
        }
        Ok(Some(_)) => json(&AskResponse::refused("Permission Denied!")),
        Ok(None) => json(&AskResponse::refused(format!("can't find jobInfo by jobId: {}", query.job_id))),
        Err(_) => json(&AskResponse::refused("the store cannot be read now")),
    }
}

/// Containers are not there yet; who asks for one is told so, and the instance fails with that text.
pub(crate) async fn query_container(request: Request) -> Response {
    let Ok(body) = to_bytes(request.into_body(), BODY).await else {
        return StatusCode::PAYLOAD_TOO_LARGE.into_response();
    };
    match serde_json::from_slice::<WorkerNeedDeployContainerRequest>(&body) {
        Ok(WorkerNeedDeployContainerRequest { container_id }) => {
            let message = format!("can't find container by id: {container_id} (this server has no containers yet)");
            json(&AskResponse::refused(message))
        }
        Err(error) => unreadable(&error),
    }
}

/// A message at the owner of its app, from where it may come.
pub(crate) struct Here<T> {
    pub(crate) message: T,
    pub(crate) app: App,
    peer: IpAddr,
    /// The server that carried it here, if that was so.
    carrier: Option<BootId>,
}

/// Reads a message and has the owner of its app answer it: that may be another server, whose answer is the error then.
async fn at_owner<T: DeserializeOwned>(
    shared: &Shared,
    request: Request,
    app_of: impl Fn(&T) -> Option<AppId>,
) -> Result<Here<T>, Response> {
    let arrived: Arrived<T> = arrive(request).await?;
    let id = app_of(&arrived.message);
    arrived.at_owner_of(shared, id).await
}

/// A message that was read.
pub(crate) struct Arrived<T> {
    pub(crate) message: T,
    parts: Parts,
    body: Bytes,
}

pub(crate) async fn arrive<T: DeserializeOwned>(request: Request) -> Result<Arrived<T>, Response> {
    let (parts, body) = request.into_parts();
    let body = read(body).await?;
    let message: T = serde_json::from_slice(&body).map_err(|error| unreadable(&error))?;
    Ok(Arrived { message, parts, body })
}

impl<T> Arrived<T> {
    /// Has the owner of the app answer, if it is one.
    pub(crate) async fn at_owner_of(self, shared: &Shared, id: Option<AppId>) -> Result<Here<T>, Response> {
        let Arrived { message, parts, body } = self;
        let peer = ip_of(&parts.extensions);
        // A worker that does not know its app yet says -1.
        let id = id.filter(|id| id.0 > 0).ok_or_else(empty)?;
        let app = match shared.app(id).await {
            Ok(Some(app)) => app,
            Ok(None) => return Err(json(&AskResponse::refused(format!("can't find app by id: {id}")))),
            Err(_) => return Err(json(&AskResponse::refused("the store cannot be read now"))),
        };
        if let Err(closed) = admit(shared, &app.name, &parts.extensions) {
            shared.complain(peer, &closed);
            return Err(json(&AskResponse::refused(closed.to_string())));
        }
        let carrier = carrier_of(&parts.extensions);
        match shared.gateway.find_owner(id.partition(), parts, body, true, Instant::now() + CARRY).await {
            Owner::Here(_) => Ok(Here { message, app, peer, carrier }),
            Owner::Answered(answer) => Err(answer),
        }
    }
}

/// Whether a request about `app` may come from where it came from. Servers trust each other to have asked that: they may have
/// different lists.
fn admit(shared: &Shared, app: &str, extensions: &Extensions) -> Result<(), Closed> {
    if is_carried(extensions) { Ok(()) } else { shared.gate.admit(app, ip_of(extensions)) }
}

async fn read(body: Body) -> Read<Bytes> {
    to_bytes(body, BODY).await.map_err(|_| StatusCode::PAYLOAD_TOO_LARGE.into_response())
}

type Read<T> = Result<T, Response>;

pub(crate) fn unreadable(error: &serde_json::Error) -> Response {
    (StatusCode::BAD_REQUEST, format!("the message cannot be read: {error}\n")).into_response()
}

/// Where the request came from. The listener always says; whoever does not is nobody.
pub(crate) fn client_ip(request: &Request) -> IpAddr {
    ip_of(request.extensions())
}

fn ip_of(extensions: &Extensions) -> IpAddr {
    client_of(extensions).map_or(Ipv4Addr::UNSPECIFIED.into(), |peer| peer.ip().to_canonical())
}

/// 200 and nothing, which is what a worker wants to hear.
pub(crate) fn empty() -> Response {
    Response::default()
}

pub(crate) fn json(answer: &impl Serialize) -> Response {
    let body = serde_json::to_vec(answer).expect("plain data becomes JSON");
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}
