//! Workers, as their partition knows them.

use axum::extract::State;
use axum::{Extension, Json as JsonAnswer};
use http::StatusCode;
use pendula_engine::{Command, Reply};
use pendula_model::api::{PageOf, WorkerView};
use pendula_model::app::App;

use super::body::Query;
use super::guard::WorkerName;
use super::page::{Paging, page_of};
use super::problem::ApiError;
use super::{Shared, unexpected, views};

/// The live workers of an app, by name.
#[utoipa::path(get, path = "/api/v1/apps/{app}/workers", tag = "workers", params(Paging),
    responses((status = 200, description = "A page of them.", body = PageOf<WorkerView>)))]
pub(super) async fn list_workers(
    State(api): State<Shared>,
    Extension(app): Extension<App>,
    Query(paging): Query<Paging>,
) -> Result<JsonAnswer<PageOf<WorkerView>>, ApiError> {
    match api.command(app.partition, Command::WorkerList { app: app.id }).await? {
        Reply::Workers(workers) => {
            let workers = workers.into_iter().map(views::worker).collect();
            // Two processes may have one name; their boot ids tell them apart.
            page_of("workers", workers, &paging, |worker| format!("{}\0{}", worker.name, worker.boot)).map(JsonAnswer)
        }
        reply => Err(unexpected(&reply)),
    }
}

/// Asks a worker to take nothing new, finish what it has and exit.
#[utoipa::path(post, path = "/api/v1/apps/{app}/workers/{worker}/drain", tag = "workers",
    responses((status = 202, description = "It was asked to.")))]
pub(super) async fn drain_worker(
    State(api): State<Shared>,
    Extension(app): Extension<App>,
    Extension(WorkerName(worker)): Extension<WorkerName>,
) -> Result<StatusCode, ApiError> {
    api.command(app.partition, Command::WorkerDrain { app: app.id, worker }).await?;
    Ok(StatusCode::ACCEPTED)
}
