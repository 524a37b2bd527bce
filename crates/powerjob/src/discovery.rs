//! Where workers learn who they are and where to go.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use axum::extract::{Query, Request, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::HeaderName;
use pendula_model::AppId;
use pendula_server::config::PowerJobProtocol;
use pendula_server::gateway::{Owner, is_carried};
use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use crate::listener::HangUp;
use crate::messages::ResultDto;
use crate::run::Shared;
use crate::transport::{client_ip, json};

/// A worker's own patience is 5 s.
const ANSWER: Duration = Duration::from_secs(4);
/// In what an owner says to another server about where its worker should go: not here.
const NOT_SERVED: HeaderName = HeaderName::from_static("pendula-powerjob-not-served");
const PROBE_CONNECT: Duration = Duration::from_secs(1);
const PROBE_ANSWER: Duration = Duration::from_secs(2);

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct AppName {
    #[serde(default)]
    app_name: String,
}

/// The number of an app. Bare, because workers before 4.3.6 read it as text.
pub(crate) async fn assert(State(shared): State<Shared>, Query(asked): Query<AppName>, request: Request) -> Response {
    match app_id(&shared, &asked.app_name, client_ip(&request)).await {
        Ok(Some(answer)) => json(&answer),
        Ok(None) => json(&no_such_app(&asked.app_name)),
        // Not now; another server may know.
        Err(()) => hang_up(),
    }
}

/// The same, as servers since 4.3.6 have it.
pub(crate) async fn assert_v2(
    State(shared): State<Shared>,
    Query(asked): Query<AppName>,
    request: Request,
) -> Response {
    match app_id(&shared, &asked.app_name, client_ip(&request)).await {
        Ok(Some(ResultDto { success: true, data, .. })) => json(&ResultDto::of(serde_json::json!({ "appId": data }))),
        Ok(Some(answer)) => json(&answer),
        Ok(None) => json(&no_such_app(&asked.app_name)),
        Err(()) => hang_up(),
    }
}

async fn app_id(shared: &Shared, name: &str, peer: IpAddr) -> Result<Option<ResultDto>, ()> {
    if let Err(closed) = shared.gate.admit(name, peer) {
        shared.complain(peer, &closed);
        return Ok(Some(ResultDto::refused(closed.to_string())));
    }
    match shared.gateway.server().store.app_by_name(name).await {
        Ok(app) => Ok(app.map(|app| ResultDto::of(app.id.0))),
        Err(error) => {
            tracing::warn!(%error, "a PowerJob worker asked for its app, and the store did not answer");
            Err(())
        }
    }
}

fn no_such_app(name: &str) -> ResultDto {
    ResultDto::refused(format!("app({name}) is not registered! Create it first: pendula app create"))
}

fn hang_up() -> Response {
    let mut response = Response::default();
    response.extensions_mut().insert(HangUp);
    response
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Acquire {
    #[serde(default)]
    app_id: Option<String>,
    #[serde(default)]
    protocol: Option<String>,
}

/// The address of the server that owns the app: that answers, whoever was asked. Where the owner does not serve what the
/// worker speaks, or does not let it in, it is the one that was asked.
pub(crate) async fn acquire(State(shared): State<Shared>, Query(asked): Query<Acquire>, request: Request) -> Response {
    // That we do not serve the worker is nothing to tell it when another server asks, which may.
    let is_carried = is_carried(request.extensions());
    let advertised = match advertised(&shared, asked.protocol.as_deref()) {
        Ok(advertised) => Ok(advertised),
        Err(why) if is_carried => Err(why),
        Err(why) => return json(&ResultDto::refused(why)),
    };
    let peer = client_ip(&request);
    let id = asked.app_id.as_deref().and_then(|id| id.trim().parse::<i64>().ok()).filter(|id| *id > 0);
    let Some(id) = id.map(AppId) else {
        // A worker that is allowed to begin without its app (4.3.2 and later) asks again once it knows it.
        return json(&advertised.map_or_else(ResultDto::refused, ResultDto::of));
    };
    let app = match shared.app(id).await {
        Ok(Some(app)) => app,
        Ok(None) => return json(&ResultDto::refused(format!("can't find app by id: {id}"))),
        Err(_) => return hang_up(),
    };
    let advertised = match shared.gate.admit(&app.name, peer) {
        Ok(()) => advertised,
        Err(closed) if is_carried => Err(closed.to_string()),
        Err(closed) => {
            shared.complain(peer, &closed);
            return json(&ResultDto::refused(closed.to_string()));
        }
    };
    let (parts, _) = request.into_parts();
    let deadline = Instant::now() + ANSWER;
    match shared.gateway.find_owner(id.partition(), parts, Bytes::new(), true, deadline).await {
        Owner::Here(_) => match advertised {
            Ok(advertised) => json(&ResultDto::of(advertised)),
            Err(why) => ([(NOT_SERVED, "true")], json(&ResultDto::refused(why))).into_response(),
        },
        Owner::Answered(answer) if answer.headers().contains_key(NOT_SERVED) => {
            json(&advertised.map_or_else(ResultDto::refused, ResultDto::of))
        }
        Owner::Answered(answer) => answer,
    }
}

/// Where a worker that asks for `protocol` finds this server.
fn advertised<'a>(shared: &'a Shared, protocol: Option<&str>) -> Result<&'a str, String> {
    let asked = protocol.map(str::trim).filter(|protocol| !protocol.is_empty()).unwrap_or("AKKA");
    if let ([PowerJobProtocol::Akka], Some(advertised)) =
        (PowerJobProtocol::list(asked)?.as_slice(), &shared.akka_advertised)
    {
        return Ok(advertised);
    }
    speaks_http(protocol)?;
    shared.advertised.as_deref().ok_or_else(|| "this server has no port for PowerJob's workers".to_owned())
}

/// Whether a worker that asks for `protocol` can be served over HTTP; none means the oldest one, AKKA.
pub(crate) fn speaks_http(protocol: Option<&str>) -> Result<(), String> {
    let asked = protocol.map(str::trim).filter(|protocol| !protocol.is_empty()).unwrap_or("AKKA");
    match PowerJobProtocol::list(asked)?.as_slice() {
        [PowerJobProtocol::Http] => Ok(()),
        _ => Err(format!("protocol {asked} is not served here: set the worker's protocol to HTTP")),
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Probe {
    #[serde(default)]
    target_ip: String,
    #[serde(default)]
    target_port: String,
}

/// Whether a worker can be reached where it is about to listen. Only within the networks of one app.
pub(crate) async fn check_connectivity(
    State(shared): State<Shared>,
    Query(asked): Query<Probe>,
    request: Request,
) -> Response {
    let peer = client_ip(&request);
    let target = asked.target_ip.trim().parse::<IpAddr>().ok().zip(asked.target_port.trim().parse::<u16>().ok());
    let allowed = target.filter(|(ip, port)| *port != 0 && shared.gate.may_probe(peer, *ip));
    let Some(target) = allowed.map(SocketAddr::from) else { return json(&ResultDto::of(false)) };
    // Few at once: it is for workers that start, and not for looking around.
    let Ok(_place) = shared.probes.try_acquire() else { return json(&ResultDto::of(false)) };
    json(&ResultDto::of(answers_pong(target).await.unwrap_or(false)))
}

async fn answers_pong(target: SocketAddr) -> Option<bool> {
    let mut stream = timeout(PROBE_CONNECT, TcpStream::connect(target)).await.ok()?.ok()?;
    let talk = async {
        // It may have answered and hung up before this is sent.
        let _ = stream.write_all(b"ping").await;
        let mut line = Vec::new();
        let mut buffer = [0; 16];
        while line.len() < 16 && !line.contains(&b'\n') {
            match stream.read(&mut buffer).await {
                Ok(0) | Err(_) => break,
                Ok(count) => line.extend_from_slice(&buffer[..count]),
            }
        }
        String::from_utf8_lossy(&line).trim().eq_ignore_ascii_case("pong")
    };
    timeout(PROBE_ANSWER, talk).await.ok()
}

/// For people who look whether somebody is there.
pub(crate) async fn hello() -> Response {
    json(&ResultDto::of("this is Pendula's gateway for PowerJob")).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s5_1_every_spelling_of_a_protocol_is_the_same() {
        for protocol in ["http", "HTTP", "Http", " http", "HTTP,http", "HTTP,", "HTTP\u{ff0c}http"] {
            assert_eq!(speaks_http(Some(protocol)), Ok(()), "{protocol:?}");
        }
        for protocol in [None, Some(""), Some("AKKA"), Some("akka"), Some("HTTP,AKKA")] {
            assert!(speaks_http(protocol).unwrap_err().contains("set the worker's protocol to HTTP"), "{protocol:?}");
        }
        assert!(speaks_http(Some("htp")).unwrap_err().contains("allowed: HTTP, AKKA"));
    }
}
