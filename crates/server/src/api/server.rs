//! The server itself: whether it lives, is ready, how it does; who the caller is; the API's own description.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json as JsonAnswer};
use http::{StatusCode, header};
use pendula_model::Timestamp;
use pendula_model::api::{ListenerView, NextFires, StatusView, StoreView, WhoAmI};
use pendula_model::trigger::Trigger;
use pendula_schedule::Plan;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::body::{Json, Query};
use super::page::Limit;
use super::problem::ApiError;
use super::{Shared, views};
use crate::auth::Principal;
use crate::config::Database;
use crate::metrics::Metrics;

/// Whether the process lives. Says nothing about whether it can work.
#[utoipa::path(get, path = "/livez", tag = "server", responses((status = 200, description = "It does.", body = String)))]
pub(super) async fn livez() -> &'static str {
    "ok\n"
}

/// Answer of `/readyz`.
#[derive(Serialize, ToSchema)]
pub(super) struct Readiness {
    ready: bool,
    /// What keeps the server from being ready, or should worry somebody.
    problems: Vec<String>,
}

/// Whether the server can take requests now, and if not, why.
#[utoipa::path(get, path = "/readyz", tag = "server", responses(
    (status = 200, description = "It can.", body = Readiness),
    (status = 503, description = "It cannot.", body = Readiness),
))]
pub(super) async fn readyz(State(api): State<Shared>) -> Response {
    let ready = api.server.health.is_ready();
    let mut problems = api.server.health.problems();
    problems.extend(api.server.listeners.all().iter().filter(|listener| is_exposed(listener)).map(|listener| {
        format!("listener {}: tokens and logs travel in the clear, because it has no TLS", listener.name)
    }));
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, JsonAnswer(Readiness { ready, problems })).into_response()
}

/// Whether others than this machine may listen in.
fn is_exposed(listener: &ListenerView) -> bool {
    let is_local = listener.address.parse::<SocketAddr>().is_ok_and(|address| address.ip().is_loopback());
    !listener.tls && !is_local
}

/// All metrics, in the OpenMetrics text format.
#[utoipa::path(get, path = "/metrics", tag = "server", responses(
    (status = 200, description = "The metrics.", body = String, content_type = "application/openmetrics-text")
))]
pub(super) async fn metrics(State(api): State<Shared>) -> Response {
    ([(header::CONTENT_TYPE, Metrics::CONTENT_TYPE)], api.server.metrics.encode()).into_response()
}

/// This document.
#[utoipa::path(get, path = "/api/openapi.json", tag = "server", responses(
    (status = 200, description = "OpenAPI 3.1.", body = Object)
))]
pub(super) async fn openapi(State(api): State<Shared>) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], api.openapi.clone()).into_response()
}

/// Who the caller is.
#[utoipa::path(get, path = "/api/v1/whoami", tag = "server", responses((status = 200, description = "You.", body = WhoAmI)))]
pub(super) async fn whoami(
    State(api): State<Shared>,
    Extension(caller): Extension<Arc<Principal>>,
) -> Result<JsonAnswer<WhoAmI>, ApiError> {
    let names = api.names.of_apps(&*api.server.store, caller.only_app().into_iter().collect()).await?;
    Ok(JsonAnswer(WhoAmI {
        token: caller.name.clone(),
        kind: views::token_kind(&caller.scope),
        app: caller.only_app().map(|app| names.app(app)),
    }))
}

/// The server's health in detail.
#[utoipa::path(get, path = "/api/v1/status", tag = "server", responses((status = 200, description = "How it does.", body = StatusView)))]
pub(super) async fn status(State(api): State<Shared>) -> Result<JsonAnswer<StatusView>, ApiError> {
    overview(&api).await.map(JsonAnswer)
}

/// What this server says of itself.
pub(super) async fn overview(api: &Shared) -> Result<StatusView, ApiError> {
    let server = &api.server;
    let store = server.store.status().await?;
    let partitions = server.partitions.status();
    let mut problems = server.health.problems();
    problems.extend(store.faults.iter().map(|fault| format!("store: {fault}")));
    problems.extend(server.config.warnings.iter().map(|warning| format!("config: {warning}")));
    let kind = match server.config.database {
        Database::Sqlite { .. } => "sqlite",
        Database::Postgres(_) => "postgres",
    };
    Ok(StatusView {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        started_at: server.started_at,
        now: api.now(),
        ready: server.health.is_ready(),
        problems,
        listeners: server.listeners.all(),
        store: StoreView { kind: kind.to_owned(), schema: store.schema, bytes: store.bytes },
        partitions_owned: partitions.owned,
        partitions_total: partitions.total,
        workers: u32::try_from(partitions.gauges.sessions).unwrap_or(u32::MAX),
        active_instances: (partitions.gauges.waiting + partitions.gauges.placed) as u64,
        loops: server.health.loops(api.now()).into_iter().map(|(name, age)| (name, age.as_secs_f64())).collect(),
    })
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct WhichFires {
    /// How many: 1 to 1,000. Default 10.
    #[param(value_type = Option<u32>)]
    count: Option<Limit>,
    /// Only those later than this. Default: now.
    after: Option<Timestamp>,
}

impl WhichFires {
    pub(super) fn count(&self) -> usize {
        self.count.map_or(10, Limit::get)
    }

    pub(super) fn after(&self, now: Timestamp) -> Timestamp {
        self.after.unwrap_or(now)
    }
}

/// When a trigger would fire if it were saved now.
#[utoipa::path(post, path = "/api/v1/preview", tag = "jobs", params(WhichFires), request_body = Trigger,
    responses((status = 200, description = "Its next fires.", body = NextFires)))]
pub(super) async fn preview(
    State(api): State<Shared>,
    Query(which): Query<WhichFires>,
    Json(trigger): Json<Trigger>,
) -> Result<JsonAnswer<NextFires>, ApiError> {
    let now = api.now();
    let plan = Plan::compile(&trigger, now)?;
    plan.check_future(now)?;
    // The first fire may be this very moment.
    let after = which.after.unwrap_or(now.minus(std::time::Duration::from_micros(1)));
    Ok(JsonAnswer(fires(&trigger, &plan, after, which.count())))
}

/// The next fires of a plan, with a word on why there are no more.
pub(super) fn fires(trigger: &Trigger, plan: &Plan, after: Timestamp, count: usize) -> NextFires {
    let fires = plan.preview(after, count);
    let note = match fires.len() {
        _ if plan.waits_for_end() => Some("each later fire follows the end of the instance before it".to_owned()),
        0 => Some("the trigger does not fire after that any more".to_owned()),
        found if found < count => Some("the trigger does not fire more often".to_owned()),
        _ => None,
    };
    NextFires { timezone: trigger.timezone.clone(), fires, note }
}
