//! The REST API: `/api/v1`, `/livez`, `/readyz`, `/metrics`.
//!
//! Follow a request: [`routes`] declares it, [`guard`] decides who may make it and finds what its path names, the
//! handler (in the file of its resource) reads the store or sends a command to the partition, and [`problem`] has all
//! errors. Reads go to the store, never through the engine; changes go to the engine, never to the store (but for
//! tokens, which no partition owns).

mod apply;
mod apps;
mod body;
mod cluster;
mod elsewhere;
mod explain;
mod follow;
mod guard;
mod instances;
mod jobs;
mod log_download;
mod logs;
mod names;
mod page;
mod problem;
mod refusals;
mod routes;
mod runs;
mod server;
mod task_views;
mod tasks;
mod tokens;
mod views;
mod workers;

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use axum::response::{IntoResponse, Response};
use http::{HeaderName, HeaderValue, header};
use pendula_engine::{Command, Reply};
use pendula_model::PartitionId;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::set_header::SetResponseHeaderLayer;

pub use guard::Guard;
pub use problem::{ApiError, CODES, Code};
pub use routes::{RouteInfo, document, inventory};

use crate::state::ServerState;
use problem::{INTERNAL, METHOD_NOT_ALLOWED, NO_SUCH_ROUTE};

/// How long a request waits for its command to be committed.
const DEADLINE: Duration = Duration::from_secs(10);

/// What handlers share.
struct Api {
    server: ServerState,
    names: names::Names,
    /// The OpenAPI document as JSON.
    openapi: bytes::Bytes,
}

type Shared = Arc<Api>;

/// The whole API. Expects the peer's address as a `ConnectInfo<SocketAddr>` extension of each request; without it, all
/// peers share one allowance of failed authentications.
pub fn router(state: ServerState) -> axum::Router {
    let openapi = serde_json::to_vec(&document()).expect("the document is plain JSON").into();
    let api = Arc::new(Api { server: state, names: names::Names::default(), openapi });
    let header =
        |name: HeaderName, value| SetResponseHeaderLayer::if_not_present(name, HeaderValue::from_static(value));
    routes::router(&api)
        .fallback(async || ApiError::new(&NO_SUCH_ROUTE))
        .method_not_allowed_fallback(async || ApiError::new(&METHOD_NOT_ALLOWED))
        .layer(CatchPanicLayer::custom(on_panic))
        .layer(header(header::X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .layer(header(header::CACHE_CONTROL, "no-store"))
        .with_state(api)
}

fn on_panic(panic: Box<dyn Any + Send>) -> Response {
    let what = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    tracing::error!(what, "a request handler panicked");
    ApiError::new(&INTERNAL).into_response()
}

impl Api {
    /// Has a partition carry out a command. Returns when it is committed.
    async fn command(&self, partition: PartitionId, command: Command) -> Result<Reply, ApiError> {
        accepted(self.server.partitions.command(partition, command, DEADLINE).await?)
    }

    fn now(&self) -> pendula_model::Timestamp {
        self.server.clock.now()
    }
}

fn accepted(reply: Reply) -> Result<Reply, ApiError> {
    match reply {
        Reply::Refused(refusal) => Err(refusal.into()),
        reply => Ok(reply),
    }
}

/// The engine answered another question than the one asked.
fn unexpected(reply: &Reply) -> ApiError {
    tracing::error!(?reply, "the engine's reply does not fit the command");
    ApiError::new(&INTERNAL)
}
