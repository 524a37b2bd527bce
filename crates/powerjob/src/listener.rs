//! The port: HTTP/1.1 for workers and clients.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use pendula_server::gateway::{Gateway, set_client};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tower::ServiceExt;

use crate::exact_case::ExactCase;
use crate::way::unmark;

/// How long a connection may be idle. Workers drop theirs after 75 s, and lose what they write to one that we dropped
/// first.
pub(crate) const IDLE: Duration = Duration::from_secs(300);
/// Connections at once.
const CONNECTIONS: usize = 20_000;
const HEADERS: usize = 100;
const HEAD_BYTES: usize = 64 << 10;

/// In a response: do not answer, hang up. A worker asks the next server then, while any status but 200 makes it give up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HangUp;

/// Serves until the server stops.
pub(crate) async fn accept(gateway: Gateway, port: TcpListener, routes: Router) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let (stream, peer) = match port.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Usually no file descriptors are left: some connection must end first.
                tracing::warn!(%error, "the PowerJob gateway cannot accept connections");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Ok(place) = room.clone().try_acquire_owned() else { continue };
        let routes = routes.clone();
        gateway.spawn(async move {
            let _place = place;
            if let Err(error) = serve(stream, peer, routes).await {
                tracing::debug!(%peer, %error, "a connection to the PowerJob gateway ended");
            }
        });
    }
}

async fn serve(stream: TcpStream, peer: SocketAddr, routes: Router) -> Result<(), hyper::Error> {
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |mut request: Request<Incoming>| {
        set_client(request.extensions_mut(), peer);
        unmark(request.headers_mut());
        let answer = routes.clone().oneshot(request.map(Body::new));
        async move { keep_or_hang_up(answer.await) }
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE)
        .max_headers(HEADERS)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(TokioIo::new(ExactCase::new(stream)), service)
        .await
}

fn keep_or_hang_up(answer: Result<Response<Body>, Infallible>) -> Result<Response<Body>, std::io::Error> {
    let answer = answer.unwrap_or_else(|never| match never {});
    match answer.extensions().get::<HangUp>() {
        Some(HangUp) => Err(std::io::Error::other("not ready to answer")),
        None => Ok(answer),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A worker gives up for good at any status but 200, and asks the next server when nobody answers.
    #[tokio::test]
    async fn must_1_a_server_that_is_not_ready_says_nothing_and_hangs_up() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let not_ready = || async {
            let mut response = Response::new(Body::from("not yet"));
            response.extensions_mut().insert(HangUp);
            response
        };
        let routes = Router::new()
            .route("/not-ready", axum::routing::get(not_ready))
            .route("/ready", axum::routing::get(|| async { "yes" }));
        let port = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = port.local_addr().unwrap();
        tokio::spawn(async move {
            loop {
                let (stream, peer) = port.accept().await.unwrap();
                let _ = serve(stream, peer, routes.clone()).await;
            }
        });
        for (path, is_answered) in [("not-ready", false), ("ready", true)] {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let request = format!("GET /{path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = Vec::new();
            // A reset says the same as an end.
            let _ = stream.read_to_end(&mut answer).await;
            assert_eq!(!answer.is_empty(), is_answered, "{path}: {}", String::from_utf8_lossy(&answer));
        }
    }

    #[test]
    fn must_9_idle_connections_outlive_the_workers_own_patience() {
        assert!(IDLE > Duration::from_secs(75));
    }
}
