//! Calls to workers that another server asks for.
//!
//! The server that owns an app calls the app's workers itself where it can. Where it has no port for what a worker speaks,
//! or its `powerjob.allow` does not list the worker, it asks the server to which the worker talks.

use axum::body::to_bytes;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::dial::{CallError, Order};
use crate::run::Shared;
use crate::transport::{BODY, json, unreadable};
use crate::way::{Spoken, Way};

/// Where it is asked for. A route for peers alone.
pub(crate) const PATH: &str = "/call";

/// One call.
#[derive(Serialize, Deserialize)]
pub(crate) struct Asked<M> {
    pub(crate) app: String,
    /// As the worker names itself.
    pub(crate) worker: String,
    /// How it spoke, over Akka.
    pub(crate) spoken: Option<Spoken>,
    pub(crate) order: Order,
    pub(crate) message: M,
}

/// Makes a call. 200 with what came of it, whatever that was; any other status: nothing was done.
pub(crate) async fn call(State(shared): State<Shared>, request: Request) -> Response {
    let Ok(body) = to_bytes(request.into_body(), BODY).await else {
        return StatusCode::PAYLOAD_TOO_LARGE.into_response();
    };
    match serde_json::from_slice(&body) {
        Ok(asked) => json(&made(&shared, asked).await),
        Err(error) => unreadable(&error),
    }
}

async fn made(shared: &Shared, asked: Asked<Value>) -> Result<Value, CallError> {
    let Asked { app, worker, spoken, order, mut message } = asked;
    let way = Way::own(&shared.gate, &app, &worker, spoken).await;
    let way = way.map_err(|closed| CallError::NotSent(closed.to_string()))?;
    if order == Order::StartTask {
        // It reports to whom it talks.
        message["taskTrackerAddress"] = shared.around.reports_to(way.speech()).into();
    }
    shared.around.dialer.call(&way, order, &message).await
}
