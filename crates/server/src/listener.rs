//! The port: accepts connections and serves HTTP/1 and HTTP/2 on them, with or without TLS.
//!
//! An accept loop of our own, because a server that faces a network needs bounds that the usual one lacks: on the
//! number of connections, and on the time that a client takes to say what it wants.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use axum::extract::ConnectInfo;
use http::Request;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use crate::metrics::Metrics;
use crate::session::{Peer, Refusals};

/// What an HTTP/2 client says first.
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// How a TLS connection begins: a handshake record of some version 3.x.
const TLS_HANDSHAKE: &[u8] = &[0x16, 0x03];
/// Header fields of an HTTP/1 request, and bytes of an HTTP/2 header list.
const HEADERS: usize = 100;
const HEADER_BYTES: u32 = 64 * 1024;
/// How soon a dead HTTP/2 peer is noticed whose kernel says nothing.
const PING: (Duration, Duration) = (Duration::from_secs(20), Duration::from_secs(10));
/// Bytes that a peer may send before we have read them, per stream and per connection.
const WINDOW: (u32, u32) = (1 << 20, 4 << 20);

const COMPLAIN_EVERY: Duration = Duration::from_secs(60);

/// Everything that a connection needs.
pub(crate) struct Listener {
    pub(crate) tls: Option<TlsAcceptor>,
    pub(crate) routes: axum::Router,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) most_connections: u32,
    /// For the TLS handshake and for each request's head.
    pub(crate) header_timeout: Duration,
    /// Ends connections gracefully.
    pub(crate) stop: CancellationToken,
    /// Ends connections.
    pub(crate) kill: CancellationToken,
    pub(crate) tasks: TaskTracker,
    pub(crate) refusals: Refusals,
}

/// Opens the port.
///
/// # Errors
/// When that is not possible; the message names the address and what can be done.
pub(crate) async fn bind(address: &str) -> anyhow::Result<TcpListener> {
    use std::io::ErrorKind::*;
    TcpListener::bind(address).await.map_err(|error| {
        let hint = match error.kind() {
            AddrInUse => "the port is in use: stop the program that has it, or choose another port with `listen`",
            PermissionDenied => "this user may not open that port; ports from 1024 are free to all",
            AddrNotAvailable => "this machine has no such address; 0.0.0.0 or [::] means all that it has",
            _ => "check `listen`",
        };
        anyhow::Error::new(error).context(format!("cannot listen on {address}: {hint}"))
    })
}

impl Listener {
    /// Accepts until told to stop.
    pub(crate) async fn accept(self, port: TcpListener) {
        let listener = Arc::new(self);
        let stop = listener.stop.clone();
        let mut complained: Option<Instant> = None;
        while let Some(accepted) = stop.run_until_cancelled(port.accept()).await {
            match accepted {
                Ok((stream, peer)) => listener.clone().admit(stream, peer),
                Err(error) => {
                    // Usually no file descriptors are left: some connection must end first.
                    if complained.is_none_or(|at| at.elapsed() > COMPLAIN_EVERY) {
                        complained = Some(Instant::now());
                        tracing::error!(%error, "cannot accept connections");
                    }
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    fn admit(self: Arc<Self>, stream: TcpStream, peer: SocketAddr) {
        if self.metrics.open_connections() >= i64::from(self.most_connections) {
            self.metrics.connection_refused();
            if self.refusals.may_log(peer.ip()) {
                tracing::warn!(%peer, limit = self.most_connections, "too many connections: closed a new one");
            }
            return;
        }
        let counted = self.metrics.connection_opened();
        let listener = self.clone();
        self.tasks.spawn(async move {
            let _counted = counted;
            let kill = listener.kill.clone();
            if let Some(Err(error)) = kill.run_until_cancelled(listener.serve(stream, peer)).await {
                tracing::debug!(%peer, error = format!("{error:#}"), "connection ended");
            }
        });
    }

    async fn serve(&self, stream: TcpStream, peer: SocketAddr) -> anyhow::Result<()> {
        stream.set_nodelay(true)?;
        let first = timeout(self.header_timeout, first_bytes(&stream)).await.context("said nothing in time")??;
        let is_tls = first.starts_with(TLS_HANDSHAKE);
        match &self.tls {
            Some(_) if !is_tls => {
                self.complain(peer, "a client spoke plain text to this TLS port: it must use https");
                refuse_plain_text(stream).await
            }
            Some(tls) => {
                let stream = timeout(self.header_timeout, tls.accept(stream)).await.context("TLS handshake")??;
                let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                self.http(stream, peer, is_http2).await
            }
            None if is_tls => {
                self.complain(
                    peer,
                    "a client spoke TLS to this plain-text port: it must use http, or set tls.cert and tls.key",
                );
                Ok(())
            }
            None => self.http(stream, peer, first.starts_with(HTTP2_PREFACE)).await,
        }
    }

    async fn http<S>(&self, stream: S, peer: SocketAddr, is_http2: bool) -> anyhow::Result<()>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(self.header_timeout)
            .max_headers(HEADERS)
            .max_buf_size(HEADER_BYTES as usize);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_header_list_size(HEADER_BYTES)
            .initial_stream_window_size(WINDOW.0)
            .initial_connection_window_size(WINDOW.1)
            .keep_alive_interval(PING.0)
            .keep_alive_timeout(PING.1);
        let builder = if is_http2 { builder.http2_only() } else { builder.http1_only() };
        let routes = self.routes.clone();
        let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(ConnectInfo(peer));
            request.extensions_mut().insert(Peer(peer));
            routes.clone().oneshot(request.map(axum::body::Body::new))
        });
        let connection = builder.serve_connection(TokioIo::new(stream), service);
        tokio::pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = self.stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        ended.map_err(|error| anyhow::anyhow!(error))
    }

    fn complain(&self, peer: SocketAddr, what: &str) {
        if self.refusals.may_log(peer.ip()) {
            tracing::error!(%peer, "{what}");
        }
    }
}

/// What the client says first, without taking it: at least what tells TLS, HTTP/2 and anything else apart.
async fn first_bytes(stream: &TcpStream) -> anyhow::Result<Vec<u8>> {
    let mut bytes = [0; HTTP2_PREFACE.len()];
    loop {
        let count = stream.peek(&mut bytes).await?;
        let seen = &bytes[..count];
        anyhow::ensure!(count > 0, "closed without a word");
        let may_be_more = |whole: &[u8]| count < whole.len() && whole.starts_with(seen);
        if !may_be_more(HTTP2_PREFACE) && !may_be_more(TLS_HANDSHAKE) {
            return Ok(seen.to_vec());
        }
        // Peeking again returns at once with the same bytes until more have come.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn refuse_plain_text(mut stream: TcpStream) -> anyhow::Result<()> {
    let text = "This port speaks TLS. Use https.\n";
    let answer = format!(
        "HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{text}",
        text.len()
    );
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await?;
    Ok(())
}
