//! Requests and sessions on their way to another server.
//!
//! They travel as they came, over HTTP/2 to the port that the other server has for everybody, with one header more that
//! says that a peer sends them and which process it means ([`PeerKey`]). Who gets one does not pass it on again: it is
//! either at its owner, or told so and asked for again with a newer view.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use axum::body::Body;
use axum::extract::{ConnectInfo, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures::future::join_all;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use pendula_model::worker::BootId;
use pendula_store::Seat;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::task::JoinSet;

use super::member::Member;
use super::tokens::PeerKey;
use crate::health::Health;
use crate::metrics::Metrics;
use crate::session::Peer;

/// By it a server knows a peer.
const SHOWN: HeaderName = HeaderName::from_static("pendula-peer");
/// The process that sends, by its boot id.
const CARRIER: HeaderName = HeaderName::from_static("pendula-carrier");
/// Where the request came from first.
const CLIENT: HeaderName = HeaderName::from_static("pendula-client");
/// In an answer: not the owner, and nothing was done.
pub(crate) const NOT_OWNER: HeaderName = HeaderName::from_static("pendula-not-owner");
/// Where a peer says that something moved.
const LOOK: &str = "/peer/look";
/// Whoever is alive is connected to within this.
const CONNECT: Duration = Duration::from_secs(1);
/// A peer that does not answer a ping for so long is dead, or as good as.
const PING: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(2));
/// How often peers are looked at.
const WATCH: Duration = Duration::from_secs(3);
/// Bytes on their way to or from one peer, per stream and in all.
const WINDOW: (u32, u32) = (1 << 20, 16 << 20);
/// Headers that belong to one connection.
const OF_THE_CONNECTION: [HeaderName; 6] = [
    header::CONNECTION,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::TE,
    header::HOST,
    HeaderName::from_static("keep-alive"),
];

/// A request that a peer sent: it is answered here or not at all.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Relayed {
    /// The process that sent it, if it said so.
    pub(crate) by: Option<BootId>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Lost {
    /// The request was not sent.
    #[error("it cannot be reached: {0}")]
    NotSent(String),
    /// It was sent, and nobody knows what became of it.
    #[error("the connection broke: {0}")]
    NoAnswer(String),
}

/// The way to the other servers. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Relay {
    pub(crate) member: Member,
    key: PeerKey,
    client: Client<HttpsConnector<HttpConnector>, Body>,
    metrics: Arc<Metrics>,
}

impl Relay {
    /// `ca` has the certificates that peers' certificates are checked with, in PEM; without it the system's are used.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub(crate) fn new(member: Member, key: PeerKey, ca: Option<&Path>, metrics: Arc<Metrics>) -> anyhow::Result<Self> {
        let mut roots = rustls::RootCertStore::empty();
        match ca {
            Some(file) => {
                let certificates = CertificateDer::pem_file_iter(file)
                    .and_then(Iterator::collect::<Result<Vec<_>, _>>)
                    .with_context(|| format!("reading {}", file.display()))?;
                let (added, _) = roots.add_parsable_certificates(certificates);
                anyhow::ensure!(added > 0, "{} has no certificate", file.display());
            }
            None => drop(roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs)),
        }
        // Named, because several could be linked into the program, and then none would be chosen.
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_nodelay(true);
        http.set_connect_timeout(Some(CONNECT));
        let connector = hyper_rustls::HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http2()
            .wrap_connector(http);
        let client = Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .http2_only(true)
            .http2_keep_alive_interval(PING.0)
            .http2_keep_alive_timeout(PING.1)
            .http2_keep_alive_while_idle(true)
            .http2_initial_stream_window_size(WINDOW.0)
            .http2_initial_connection_window_size(WINDOW.1)
            .build(connector);
        Ok(Relay { member, key, client, metrics })
    }

    /// Sends a request on to the process that `to` is. Returns its answer, of which the body is still to come.
    pub(crate) async fn send(
        &self,
        to: &Seat,
        method: Method,
        path: Option<&PathAndQuery>,
        headers: &HeaderMap,
        client: Option<SocketAddr>,
        body: Body,
    ) -> Result<Response, Lost> {
        let not_sent = |error: &dyn std::fmt::Display| Lost::NotSent(error.to_string());
        let path = path.map_or("/", PathAndQuery::as_str);
        let uri: Uri = format!("{}{path}", to.address).parse().map_err(|error| not_sent(&error))?;
        let mut request = Request::new(body);
        *request.method_mut() = method;
        *request.uri_mut() = uri;
        let kept = request.headers_mut();
        for (name, value) in headers.iter().filter(|(name, _)| !OF_THE_CONNECTION.contains(name)) {
            kept.append(name, value.clone());
        }
        // gRPC asks for it, and HTTP/2 allows it with this value alone.
        if let Some(te) = headers.get(header::TE).filter(|te| *te == "trailers") {
            kept.insert(header::TE, te.clone());
        }
        kept.insert(SHOWN, HeaderValue::from_str(&self.key.token(to.boot)).expect("it is hexadecimal"));
        kept.insert(CARRIER, HeaderValue::from_str(&self.member.boot().to_string()).expect("it is hexadecimal"));
        if let Some(client) = client {
            kept.insert(CLIENT, HeaderValue::from_str(&client.to_string()).expect("an address is plain"));
        }
        match self.client.request(request).await {
            Ok(answer) => {
                self.metrics.relayed("answered");
                Ok(answer.map(Body::new))
            }
            Err(error) if error.is_connect() => {
                self.metrics.relayed("unreachable");
                Err(Lost::NotSent(chain(&error)))
            }
            Err(error) => {
                self.metrics.relayed("lost");
                Err(Lost::NoAnswer(chain(&error)))
            }
        }
    }

    /// Tells everybody else to look, for ever, whenever something moved.
    pub(crate) async fn tell_of_moves(self) {
        let mut told = JoinSet::new();
        loop {
            self.member.moved().await;
            while told.try_join_next().is_some() {}
            let Some((view, _)) = self.member.view() else { continue };
            let others =
                view.servers.iter().filter(|server| server.is_alive() && server.seat.boot != self.member.boot());
            for server in others {
                let (relay, seat) = (self.clone(), server.seat.clone());
                told.spawn(async move {
                    let (path, headers) = (PathAndQuery::from_static(LOOK), HeaderMap::new());
                    let sent = relay.send(&seat, Method::POST, Some(&path), &headers, None, Body::empty());
                    // Who does not hear it looks by itself within a second.
                    match tokio::time::timeout(CONNECT, sent).await {
                        Ok(Ok(_)) => {}
                        Ok(Err(error)) => tracing::debug!(peer = seat.name, %error, "a peer was not told of a move"),
                        Err(_) => tracing::debug!(peer = seat.name, "a peer was not told of a move in time"),
                    }
                });
            }
        }
    }

    /// Looks whether every other server answers, for ever: what one does not reach, requests through it do not reach
    /// either, and somebody should know before they need it.
    pub(crate) async fn watch_peers(self, health: Arc<Health>) {
        let mut troubled: BTreeSet<String> = BTreeSet::new();
        loop {
            tokio::time::sleep(WATCH).await;
            let Some((view, _)) = self.member.view() else { continue };
            let others =
                view.servers.iter().filter(|server| server.is_alive() && server.seat.boot != self.member.boot());
            let asked = others.map(|server| async {
                let (path, headers) = (PathAndQuery::from_static("/livez"), HeaderMap::new());
                let sent = self.send(&server.seat, Method::GET, Some(&path), &headers, None, Body::empty());
                let answer = tokio::time::timeout(WATCH, sent).await;
                let problem = match answer {
                    Ok(Ok(answer)) if answer.status().is_success() => None,
                    Ok(Ok(answer)) => Some(format!("it answers {}", answer.status())),
                    Ok(Err(error)) => Some(error.to_string()),
                    Err(_) => Some(format!("no answer within {} s", WATCH.as_secs())),
                };
                (format!("peer {}", server.seat.name), problem)
            });
            let found = join_all(asked).await;
            for (part, problem) in &found {
                if let Some(problem) = problem {
                    health.worrying(part, format!("what it owns cannot be reached through this server: {problem}"));
                }
            }
            let now: BTreeSet<String> = found.into_iter().filter_map(|(part, problem)| problem.map(|_| part)).collect();
            troubled.difference(&now).for_each(|part| health.recovered(part));
            troubled = now;
        }
    }

    fn is_me(&self, shown: &HeaderValue) -> bool {
        self.key.accepts(self.member.boot(), shown.as_bytes())
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// Stands before all routes: who claims to be a peer must mean this process and prove it.
pub(crate) async fn admit(State(relay): State<Arc<Relay>>, mut request: Request, next: Next) -> Response {
    let headers = request.headers_mut();
    let (shown, client, carrier) = (headers.remove(SHOWN), headers.remove(CLIENT), headers.remove(CARRIER));
    let Some(shown) = shown else { return next.run(request).await };
    if !relay.is_me(&shown) {
        // Most likely it means an earlier process that had this address.
        return (StatusCode::MISDIRECTED_REQUEST, [(NOT_OWNER, "another process")]).into_response();
    }
    if request.uri().path() == LOOK {
        relay.member.look();
        return StatusCode::NO_CONTENT.into_response();
    }
    let client = client.and_then(|client| client.to_str().ok()?.parse::<SocketAddr>().ok());
    if let Some(client) = client {
        request.extensions_mut().insert(ConnectInfo(client));
        request.extensions_mut().insert(Peer(client));
    }
    let by = carrier.and_then(|boot| u64::from_str_radix(boot.to_str().ok()?, 16).ok()).map(BootId);
    request.extensions_mut().insert(Relayed { by });
    next.run(request).await
}

/// Whether an answer says that nothing was done, because the partition is elsewhere.
pub(crate) fn is_not_owner(answer: &Response) -> bool {
    answer.headers().contains_key(NOT_OWNER)
}
