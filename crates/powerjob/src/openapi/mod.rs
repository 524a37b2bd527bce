//! PowerJob's OpenAPI, as its Java clients speak it.
//!
//! A client sees its own app's jobs with PowerJob's processors and their instances, and nothing else: whoever overhears
//! its secret on the way can run no script on a native worker. `auth` says who calls, [`call`] who answers.

mod answer;
mod auth;
pub(crate) mod fields;
mod instances;
mod jobs;
mod known;
pub(crate) mod saved;

use std::time::Duration;

use axum::Router;
use axum::body::to_bytes;
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use http::{StatusCode, header};
use pendula_engine::{Command, Reply};
use pendula_model::AppId;
use pendula_server::gateway::Owner;
use serde_json::{Value, json};
use tokio::time::Instant;

use answer::{Refused, answer, of_introduction};
use fields::Fields;
pub(crate) use known::KnownClients;

use crate::run::Shared;
use crate::transport::client_ip;

const BODY: usize = 2 << 20;
/// Clients since 5.1.0 give up after 2 s.
const ANSWER: Duration = Duration::from_millis(1_800);

pub(crate) fn routes(shared: Shared) -> Router {
    Router::new().route("/openApi/{call}", post(call)).with_state(shared)
}

/// What a call has.
pub(super) struct Call {
    shared: Shared,
    app: AppId,
    /// The number that the client has for its app, and expects to see.
    shown: i64,
    fields: Fields,
}

async fn call(State(shared): State<Shared>, Path(name): Path<String>, request: Request) -> Response {
    let peer = client_ip(&request);
    let (parts, body) = request.into_parts();
    let Ok(body) = to_bytes(body, BODY).await else { return StatusCode::PAYLOAD_TOO_LARGE.into_response() };
    let kind = parts.headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let fields = Fields::read(kind, &body);
    match name.as_str() {
        "assert" => return of_introduction(introduce_old(&shared, peer, &fields).await),
        "authApp" => return of_introduction(introduce(&shared, peer, &fields).await),
        _ => {}
    }
    let app = match auth::caller(&shared, peer, &name, &parts.headers, &fields).await {
        Ok(app) => app,
        Err(refused) => return answer(Err(refused)),
    };
    let shown = fields.long("appId").or_else(|| fields.long("appIdEq")).unwrap_or(app.0);
    // What only reads is read here: the store is everybody's.
    if name.starts_with("fetch") || name.starts_with("query") || name == "exportJob" {
        return answer(carry_out(&name, &Call { shared, app, shown, fields }).await);
    }
    match shared.gateway.find_owner(app.partition(), parts, body, false, Instant::now() + ANSWER).await {
        Owner::Answered(answered) if answered.status().is_success() => answered,
        Owner::Answered(_) => answer(Err(Refused::new("the owner of the app does not answer; try again"))),
        Owner::Here(_) => answer(carry_out(&name, &Call { shared, app, shown, fields }).await),
    }
}

async fn introduce_old(shared: &Shared, peer: std::net::IpAddr, fields: &Fields) -> Result<Value, Refused> {
    let name = fields.text("appName").unwrap_or_default();
    let password = fields.text("password").unwrap_or_default();
    let md5 = auth::md5_of(&password, None)?;
    match auth::password(shared, peer, &name, &md5).await {
        Ok((app, secret)) => {
            shared.known_clients.note(peer, app, secret.id);
            Ok(auth::secret_number(&secret).into())
        }
        Err(_) => Err(Refused::new("PowerJobException: password error!")),
    }
}

async fn introduce(shared: &Shared, peer: std::net::IpAddr, fields: &Fields) -> Result<Value, Refused> {
    let name = fields.text("appName").unwrap_or_default();
    let password = fields.text("encryptedPassword").unwrap_or_default();
    let md5 = auth::md5_of(&password, fields.text("encryptType").as_deref())?;
    let (app, secret) = auth::password(shared, peer, &name, &md5).await?;
    let token = auth::access_token(&secret, shared.gateway.server().clock.now());
    Ok(json!({ "appId": app.0, "token": token, "extra": null }))
}

async fn carry_out(name: &str, call: &Call) -> Result<Value, Refused> {
    match name {
        "saveJob" => jobs::save(call).await,
        "copyJob" => jobs::copy(call).await,
        "exportJob" => jobs::export(call).await,
        "fetchJob" => jobs::fetch(call).await,
        "fetchAllJob" => jobs::fetch_all(call).await,
        "queryJob" => jobs::query(call).await,
        "disableJob" => jobs::enable(call, false).await,
        "enableJob" => jobs::enable(call, true).await,
        "deleteJob" => jobs::delete(call).await,
        "runJob" => jobs::run(call).await,
        "stopInstance" => instances::stop(call).await,
        "cancelInstance" => instances::cancel(call).await,
        "retryInstance" => instances::retry(call).await,
        "fetchInstanceStatus" => instances::status(call).await,
        "fetchInstanceInfo" => instances::info_of(call).await,
        "queryInstance" => instances::query(call).await,
        "saveWorkflow"
        | "copyWorkflow"
        | "addWorkflowNode"
        | "fetchWorkflow"
        | "disableWorkflow"
        | "enableWorkflow"
        | "deleteWorkflow"
        | "runWorkflow"
        | "stopWfInstance"
        | "retryWfInstance"
        | "markWorkflowNodeAsSuccess"
        | "fetchWfInstanceInfo" => Err(Refused::new("UnsupportedOperationException: workflows are not served yet")),
        _ => Err(Refused::new(format!("there is no call {name}"))),
    }
}

impl Call {
    async fn command(&self, command: Command) -> Result<Reply, Refused> {
        let partitions = &self.shared.gateway.server().partitions;
        match partitions.command(self.app.partition(), command, ANSWER).await? {
            Reply::Refused(refusal) => Err(refusal.into()),
            reply => Ok(reply),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn must_10_a_client_has_its_answer_before_it_gives_up() {
        assert!(ANSWER < Duration::from_secs(2));
    }
}
