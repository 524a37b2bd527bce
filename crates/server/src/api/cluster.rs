//! The servers on one store, and who owns what.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json as JsonAnswer};
use futures::future::join_all;
use http::uri::PathAndQuery;
use http::{HeaderMap, Method, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use pendula_model::api::{ClusterOverview, PartitionView, ReachView, ServerView, StatusView};
use pendula_model::worker::BootId;
use pendula_store::{ClusterView, Seat, Seated};
use serde::Deserialize;
use tokio::time::{Instant, timeout};
use utoipa::IntoParams;

use super::body::Query;
use super::guard::ServerName;
use super::problem::*;
use super::{Shared, server};
use crate::cluster::{Relay, Relayed};

/// How long a server is given to say how it does.
const PATIENCE: Duration = Duration::from_secs(2);
/// Bytes of what it says.
const STATUS_BYTES: usize = 1 << 20;

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Through {
    /// The server that looks at the others, by name or boot id. Default: the one that is asked.
    from: Option<String>,
}

/// Servers, what each says of itself, how one of them reaches the others, and who owns each partition.
#[utoipa::path(get, path = "/api/v1/cluster", tag = "server", params(Through), responses((status = 200, description = "All of it.", body = ClusterOverview)))]
pub(super) async fn show_cluster(
    State(api): State<Shared>,
    Query(through): Query<Through>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let Some(relay) = &api.server.relay else { return alone(&api).await.map(IntoResponse::into_response) };
    let (view, age) = relay.member.view().ok_or_else(|| ApiError::new(&UNAVAILABLE))?;
    if let Some(from) = &through.from {
        let seat = find(&view, from)?;
        if seat.boot != relay.member.boot() {
            return carry(relay, &seat, Method::GET, "/api/v1/cluster".to_owned(), &headers).await;
        }
    }
    let asked = view.servers.iter().map(|server| ask(&api, relay, server, &headers));
    let answers = join_all(asked).await;
    let mut owned: BTreeMap<BootId, u32> = BTreeMap::new();
    for owner in view.holdings.iter().filter_map(|holding| holding.owner) {
        *owned.entry(owner).or_default() += 1;
    }
    let servers = view.servers.iter().zip(answers).map(|(server, (reach, status))| ServerView {
        name: server.seat.name.clone(),
        boot: shown(server.seat.boot),
        address: server.seat.address.clone(),
        version: server.seat.version.clone(),
        joined_at: server.joined_at,
        lease_seconds: server.expires_in.saturating_sub(age).as_secs_f64(),
        draining: server.is_leaving,
        skew_seconds: server.skew_micros as f64 / 1e6,
        partitions: owned.get(&server.seat.boot).copied().unwrap_or(0),
        reach,
        status,
    });
    let name_of = |boot: BootId| {
        let server = view.servers.iter().find(|server| server.seat.boot == boot);
        server.map_or_else(|| shown(boot), |server| server.seat.name.clone())
    };
    let partitions = view.holdings.iter().map(|holding| PartitionView {
        partition: holding.partition.0,
        owner: holding.owner.map(name_of),
        boot: holding.owner.map(shown),
        epoch: holding.epoch.0,
        since: holding.since,
    });
    let overview = ClusterOverview {
        shared: true,
        seen_from: relay.member.seat().name.clone(),
        seen_seconds_ago: age.as_secs_f64(),
        partitions: partitions.collect(),
        servers: servers.collect(),
    };
    Ok(JsonAnswer(overview).into_response())
}

/// Has a server give its partitions to others and take none. It goes on serving requests and passing sessions on.
#[utoipa::path(post, path = "/api/v1/cluster/servers/{server}/drain", tag = "server",
    responses((status = 202, description = "It was told to.")))]
pub(super) async fn drain_server(
    State(api): State<Shared>,
    Extension(ServerName(server)): Extension<ServerName>,
    relayed: Option<Extension<Relayed>>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    set_draining(&api, &server, Method::POST, true, relayed.is_some(), &headers).await
}

/// Has a server that was drained take partitions again.
#[utoipa::path(delete, path = "/api/v1/cluster/servers/{server}/drain", tag = "server",
    responses((status = 202, description = "It was told to.")))]
pub(super) async fn undrain_server(
    State(api): State<Shared>,
    Extension(ServerName(server)): Extension<ServerName>,
    relayed: Option<Extension<Relayed>>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    set_draining(&api, &server, Method::DELETE, false, relayed.is_some(), &headers).await
}

async fn set_draining(
    api: &Shared,
    server: &str,
    method: Method,
    draining: bool,
    is_relayed: bool,
    headers: &HeaderMap,
) -> Result<Response, ApiError> {
    let Some(relay) = &api.server.relay else {
        return Err(ApiError::with(&NOT_SHARED, "this server is alone on its database; stop it instead"));
    };
    let (view, _) = relay.member.view().ok_or_else(|| ApiError::new(&UNAVAILABLE))?;
    let seat = find(&view, server)?;
    if seat.boot == relay.member.boot() {
        relay.member.set_leaving(draining);
        tracing::info!(draining, "asked to give partitions away, or to take some again");
        return Ok(StatusCode::ACCEPTED.into_response());
    }
    if is_relayed {
        return Err(ApiError::new(&SERVER_NOT_FOUND));
    }
    carry(relay, &seat, method, format!("/api/v1/cluster/servers/{}/drain", shown(seat.boot)), headers).await
}

/// A server by its name or boot id, of those that are alive.
fn find(view: &ClusterView, named: &str) -> Result<Seat, ApiError> {
    let is_meant =
        |server: &&Seated| server.is_alive() && (server.seat.name == named || shown(server.seat.boot) == named);
    let mut found = view.servers.iter().filter(is_meant);
    match (found.next(), found.next()) {
        (Some(server), None) => Ok(server.seat.clone()),
        (None, _) => Err(ApiError::new(&SERVER_NOT_FOUND)),
        (Some(_), Some(_)) => {
            let detail = "several servers have this name; name one by its boot id";
            Err(ApiError::with(&SERVER_NOT_FOUND, detail))
        }
    }
}

/// Has another server answer with what the caller may see there.
async fn carry(
    relay: &Relay,
    seat: &Seat,
    method: Method,
    path: String,
    headers: &HeaderMap,
) -> Result<Response, ApiError> {
    let unreachable = |why: String| ApiError::with(&UNAVAILABLE, format!("{} does not answer: {why}", seat.name));
    let path: PathAndQuery = path.parse().map_err(|_| ApiError::new(&INTERNAL))?;
    let credential = credential(headers);
    let sent = relay.send(seat, method, Some(&path), &credential, None, Body::empty());
    match timeout(PATIENCE, sent).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(unreachable(error.to_string())),
        Err(_) => Err(unreachable(format!("not within {} s", PATIENCE.as_secs()))),
    }
}

/// How a server is reached from here, and what it says of itself.
async fn ask(api: &Shared, relay: &Relay, server: &Seated, headers: &HeaderMap) -> (ReachView, Option<StatusView>) {
    let begun = Instant::now();
    let reach = |problem: Option<String>| ReachView {
        reached: problem.is_none(),
        milliseconds: begun.elapsed().as_secs_f64() * 1e3,
        problem,
    };
    if !server.is_alive() {
        return (reach(Some("its lease has run out".to_owned())), None);
    }
    if server.seat.boot == relay.member.boot() {
        let status = server::overview(api).await.ok();
        return (ReachView { milliseconds: 0.0, ..reach(None) }, status);
    }
    let path = PathAndQuery::from_static("/api/v1/status");
    let credential = credential(headers);
    let asked = async {
        let sent = relay.send(&server.seat, Method::GET, Some(&path), &credential, None, Body::empty());
        let answer = sent.await.map_err(|error| error.to_string())?;
        if answer.status() != StatusCode::OK {
            return Err(format!("it answers {}", answer.status()));
        }
        let body = Limited::new(answer.into_body(), STATUS_BYTES).collect().await.map_err(|error| error.to_string())?;
        serde_json::from_slice::<StatusView>(&body.to_bytes()).map_err(|error| error.to_string())
    };
    match timeout(PATIENCE, asked).await {
        Ok(Ok(status)) => (reach(None), Some(status)),
        Ok(Err(why)) => (reach(Some(why)), None),
        Err(_) => (reach(Some(format!("no answer within {} s", PATIENCE.as_secs()))), None),
    }
}

/// The caller's credential alone.
fn credential(headers: &HeaderMap) -> HeaderMap {
    let of = headers.get(header::AUTHORIZATION).map(|value| (header::AUTHORIZATION, value.clone()));
    of.into_iter().collect()
}

/// A boot id as people and paths write it.
fn shown(boot: BootId) -> String {
    format!("{:016x}", boot.0)
}

/// The same for a server that is alone on its store.
async fn alone(api: &Shared) -> Result<JsonAnswer<ClusterOverview>, ApiError> {
    let status = server::overview(api).await?;
    let name = api.server.listeners.all().first().map(|listener| listener.address.clone()).unwrap_or_default();
    let server = ServerView {
        name: name.clone(),
        boot: String::new(),
        address: name.clone(),
        version: status.version.clone(),
        joined_at: status.started_at,
        lease_seconds: 0.0,
        draining: false,
        skew_seconds: 0.0,
        partitions: status.partitions_owned,
        reach: ReachView { reached: true, milliseconds: 0.0, problem: None },
        status: Some(status),
    };
    let overview = ClusterOverview {
        shared: false,
        seen_from: name,
        seen_seconds_ago: 0.0,
        servers: vec![server],
        partitions: Vec::new(),
    };
    Ok(JsonAnswer(overview))
}
