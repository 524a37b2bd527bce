//! Where a worker's session goes: to this server's own sessions, or on to whoever owns the partition of its app.
//!
//! A session that goes on is two streams of bytes that pass through; the owner speaks with the worker. When the owner goes,
//! the session ends, and the worker comes back and is sent to the next one.

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use http_body::Frame;
use pendula_model::PartitionId;
use pendula_wire::v1::worker_service_server::WorkerServiceServer;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::Status;
use tower::ServiceExt;

use super::service::{Peer, Sessions};
use crate::cluster::{Place, Relayed, is_not_owner};
use crate::state::ServerState;

/// How long a worker waits for its app to have an owner before it is told to come again.
const OWNERLESS: Duration = Duration::from_secs(10);

/// What a session needs to find its owner.
#[derive(Clone)]
pub(crate) struct Entry {
    pub(crate) state: ServerState,
    pub(crate) sessions: Sessions,
    pub(crate) service: WorkerServiceServer<Sessions>,
    pub(crate) stop: CancellationToken,
}

/// Serves a session, here or through the owner.
pub(crate) async fn enter(State(entry): State<Arc<Entry>>, request: Request) -> Response {
    let is_relayed = request.extensions().get::<Relayed>().is_some();
    if entry.state.relay.is_none() || is_relayed {
        return entry.here(request).await;
    }
    let Some(peer) = request.extensions().get::<Peer>().copied() else {
        return Status::internal("the listener did not say where the connection comes from").into_http();
    };
    let partition = match entry.sessions.partition_of(peer, request.headers()).await {
        Ok(partition) => partition,
        Err(status) => return status.into_http(),
    };
    entry.at_owner(partition, peer, request).await
}

impl Entry {
    async fn here(&self, request: Request) -> Response {
        match self.service.clone().oneshot(request).await {
            Ok(response) => response.map(Body::new),
            Err(never) => match never {},
        }
    }

    async fn at_owner(&self, partition: PartitionId, peer: Peer, request: Request) -> Response {
        let Some(relay) = &self.state.relay else { return self.here(request).await };
        let deadline = Instant::now() + OWNERLESS;
        let (parts, body) = request.into_parts();
        let body = Unread::new(body);
        let mut why = "no server has the app's partition at the moment";
        loop {
            if self.state.partitions.is_here(partition) {
                return self.here(Request::from_parts(parts, Body::new(body))).await;
            }
            if let Place::There(seat) = relay.member.place(partition) {
                let (method, path) = (parts.method.clone(), parts.uri.path_and_query());
                let sent = relay.send(&seat, method, path, &parts.headers, Some(peer.0), Body::new(body.clone()));
                match sent.await {
                    Ok(answer) if is_not_owner(&answer) => why = "the app's partition moved; connect again at once",
                    Ok(answer) => return answer.map(|body| Body::new(Passing::new(body, self.stop.clone()))),
                    Err(error) => {
                        tracing::debug!(peer = seat.name, %partition, %error, "a worker's session was not taken");
                        why = "the server that owns the app's partition cannot be reached";
                    }
                }
            }
            // What was read of the worker's words is gone: it has to say them again. What was not waits with us, or all
            // workers of a server that crashed would knock until its lease runs out.
            if body.is_read() || Instant::now() >= deadline || self.stop.is_cancelled() {
                relay.member.look();
                tracing::warn!(%partition, why, "a worker's session was not passed on");
                return Status::unavailable(why).into_http();
            }
            relay.member.look_again(deadline).await;
        }
    }
}

/// What a worker says, which can be passed to somebody else as long as nobody has read of it. Clones are the same words, for
/// one reader.
struct Unread {
    words: Arc<Mutex<Option<Body>>>,
    reading: Option<Body>,
}

impl Unread {
    fn new(body: Body) -> Self {
        Unread { words: Arc::new(Mutex::new(Some(body))), reading: None }
    }

    fn is_read(&self) -> bool {
        self.words.lock().expect("nothing panics while it holds this lock").is_none()
    }
}

impl Clone for Unread {
    fn clone(&self) -> Self {
        Unread { words: self.words.clone(), reading: None }
    }
}

impl http_body::Body for Unread {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.reading.is_none() {
            let words = self.words.lock().expect("nothing panics while it holds this lock").take();
            self.reading = words;
        }
        match &mut self.reading {
            Some(body) => Pin::new(body).poll_frame(context),
            None => Poll::Ready(None),
        }
    }
}

/// The owner's side of a session on its way to the worker, until this server stops: then it ends as gRPC wants it.
struct Passing {
    body: Body,
    stopped: Pin<Box<WaitForCancellationFutureOwned>>,
    is_over: bool,
}

impl Passing {
    fn new(body: Body, stop: CancellationToken) -> Self {
        Passing { body, stopped: Box::pin(stop.cancelled_owned()), is_over: false }
    }
}

impl http_body::Body for Passing {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        if self.stopped.as_mut().poll(context).is_ready() {
            self.is_over = true;
            return Poll::Ready(Some(Ok(Frame::trailers(farewell("the server is shutting down")))));
        }
        match Pin::new(&mut self.body).poll_frame(context) {
            // The owner is gone without a word: the worker hears one from us.
            Poll::Ready(Some(Err(_))) => {
                self.is_over = true;
                Poll::Ready(Some(Ok(Frame::trailers(farewell("the owner went away; connect again at once")))))
            }
            polled => polled,
        }
    }
}

fn farewell(why: &'static str) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from(i32::from(tonic::Code::Unavailable)));
    trailers.insert("grpc-message", HeaderValue::from_static(why));
    trailers
}
