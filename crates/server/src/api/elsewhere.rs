//! Requests for what another server owns: sent on to it, and asked for again when it moved.

use axum::body::Body;
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, Method};
use pendula_model::PartitionId;
use pendula_store::Seat;
use tokio::time::{Instant, timeout_at};

use super::problem::*;
use super::{DEADLINE, Shared, body};
use crate::cluster::{Lost, Place, Relay, Relayed, is_not_owner};
use crate::session::Peer;

/// Which of a route's requests must be answered by the owner of the partition that its path leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AtOwner {
    /// None: the store has all that they need.
    None,
    All,
    /// Those that follow something live.
    Following,
}

impl AtOwner {
    pub(super) fn holds(self, request: &Request) -> bool {
        let follows = || request.uri().query().is_some_and(|query| query.split('&').any(|pair| pair == "follow=true"));
        match self {
            AtOwner::None => false,
            AtOwner::All => true,
            AtOwner::Following => follows(),
        }
    }
}

/// Has the owner answer, wherever it is: that of `partition`, or of the app that the body is going to name.
/// `repeatable`: doing it twice comes to the same.
pub(super) async fn answer(
    api: &Shared,
    partition: Option<PartitionId>,
    repeatable: bool,
    body_bytes: usize,
    request: Request,
    next: Next,
) -> Response {
    let Some(relay) = api.server.relay.clone() else { return next.run(request).await };
    if request.extensions().get::<Relayed>().is_some() {
        let is_here = partition.is_none_or(|partition| api.server.partitions.is_here(partition));
        return if is_here { next.run(request).await } else { ApiError::new(&NOT_OWNER).into_response() };
    }
    let deadline = Instant::now() + DEADLINE;
    let (parts, body) = request.into_parts();
    let body = match body::whole(body, body_bytes).await {
        Ok(body) => body,
        Err(error) => return error.into_response(),
    };
    let Some(partition) = partition.or_else(|| named_by(api, &body)) else {
        // The handler says what is wrong with the body.
        return next.run(Request::from_parts(parts, Body::from(body))).await;
    };
    let errand = Errand { relay, parts, body, repeatable };
    loop {
        let answer = if api.server.partitions.is_here(partition) {
            next.clone().run(errand.request()).await
        } else {
            match errand.relay.member.place(partition) {
                Place::There(seat) => errand.carry(partition, &seat, deadline).await,
                Place::Nobody => ApiError::new(&NOT_OWNER).into_response(),
            }
        };
        if !is_not_owner(&answer) {
            return answer;
        }
        // Of a server that stops nobody sees who takes over.
        if errand.relay.member.has_left() {
            return ApiError::new(&NO_OWNER).into_response();
        }
        errand.relay.member.look_again(deadline).await;
        if Instant::now() >= deadline {
            return ApiError::new(&NO_OWNER).into_response();
        }
    }
}

/// The partition of the app that a body is about to create.
fn named_by(api: &Shared, body: &[u8]) -> Option<PartitionId> {
    #[derive(serde::Deserialize)]
    struct Named {
        name: String,
    }
    let named: Named = serde_json::from_slice(body).ok()?;
    Some(api.server.partitions.of_app_name(&named.name))
}

/// A request that may have to be sent more than once.
struct Errand {
    relay: Relay,
    parts: Parts,
    body: Bytes,
    repeatable: bool,
}

impl Errand {
    fn request(&self) -> Request {
        Request::from_parts(self.parts.clone(), Body::from(self.body.clone()))
    }

    /// One try.
    async fn carry(&self, partition: PartitionId, to: &Seat, deadline: Instant) -> Response {
        let client = self.parts.extensions.get::<Peer>().map(|peer| peer.0);
        let (method, path) = (self.parts.method.clone(), self.parts.uri.path_and_query());
        let sent = self.relay.send(to, method, path, &self.parts.headers, client, Body::from(self.body.clone()));
        let lost = tokio::select! {
            answer = timeout_at(deadline, sent) => match answer {
                Ok(Ok(answer)) => return answer,
                Ok(Err(lost)) => lost,
                Err(_) => return ApiError::new(&TIMEOUT).into_response(),
            },
            // Whoever took the partition over may know what became of it.
            () = self.is_not_there_any_more(partition, to) => Lost::NoAnswer("the partition moved".to_owned()),
        };
        tracing::debug!(peer = to.name, %partition, error = %lost, "a request was not answered by the owner");
        match lost {
            Lost::NoAnswer(_) if !self.repeatable => ApiError::new(&OWNER_LOST).into_response(),
            _ => ApiError::new(&NOT_OWNER).into_response(),
        }
    }

    async fn is_not_there_any_more(&self, partition: PartitionId, seat: &Seat) {
        loop {
            self.relay.member.news().await;
            match self.relay.member.place(partition) {
                Place::There(now) if now.boot == seat.boot => {}
                // It may just be about to give it away, and answers still.
                Place::Nobody => {}
                Place::There(_) => return,
            }
        }
    }
}

/// Whether a request can be sent again when nobody knows what became of it.
pub(super) fn is_repeatable(method: &Method, headers: &HeaderMap, is_idempotent: bool) -> bool {
    is_idempotent || matches!(*method, Method::GET | Method::HEAD) || headers.contains_key("idempotency-key")
}
