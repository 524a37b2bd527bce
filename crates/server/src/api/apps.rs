//! Apps.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json as JsonAnswer};
use http::{StatusCode, header};
use pendula_engine::{Command, Reply};
use pendula_model::api::{AppCreate, AppUpdate, AppView, PageOf};
use pendula_model::app::App;
use pendula_store::JobFilter;

use super::body::{Json, Query};
use super::page::{Paging, page_of};
use super::problem::*;
use super::{Shared, unexpected, views};
use crate::auth::Principal;

/// The apps that the caller may see, by name.
#[utoipa::path(get, path = "/api/v1/apps", tag = "apps", params(Paging),
    responses((status = 200, description = "A page of them.", body = PageOf<AppView>)))]
pub(super) async fn list_apps(
    State(api): State<Shared>,
    Extension(caller): Extension<Arc<Principal>>,
    Query(paging): Query<Paging>,
) -> Result<JsonAnswer<PageOf<AppView>>, ApiError> {
    let apps = match caller.only_app() {
        Some(own) => api.server.store.app_by_id(own).await?.into_iter().collect(),
        None => api.server.store.apps().await?,
    };
    let apps = apps.into_iter().map(views::app).collect();
    page_of("apps", apps, &paging, |app| app.name.clone()).map(JsonAnswer)
}

/// Creates an app.
#[utoipa::path(post, path = "/api/v1/apps", tag = "apps", request_body = AppCreate,
    responses((status = 201, description = "It was created.", body = AppView)))]
pub(super) async fn create_app(State(api): State<Shared>, Json(app): Json<AppCreate>) -> Result<Response, ApiError> {
    let AppCreate { name, namespace, allow_scripts } = app;
    let namespace = namespace.unwrap_or_else(|| "default".to_owned());
    let partition = api.server.partitions.of_app_name(&name);
    match api.command(partition, Command::AppCreate { name, namespace, allow_scripts }).await? {
        Reply::App(app) => {
            let location = format!("/api/v1/apps/{}", views::path_segment(&app.name));
            Ok((StatusCode::CREATED, [(header::LOCATION, location)], JsonAnswer(views::app(app))).into_response())
        }
        reply => Err(unexpected(&reply)),
    }
}

/// One app.
#[utoipa::path(get, path = "/api/v1/apps/{app}", tag = "apps",
    responses((status = 200, description = "The app.", body = AppView)))]
pub(super) async fn show_app(Extension(app): Extension<App>) -> JsonAnswer<AppView> {
    JsonAnswer(views::app(app))
}

/// Allows scripts in an app, or forbids them.
#[utoipa::path(patch, path = "/api/v1/apps/{app}", tag = "apps", request_body = AppUpdate,
    responses((status = 200, description = "The app as it is now.", body = AppView)))]
pub(super) async fn update_app(
    State(api): State<Shared>,
    Extension(app): Extension<App>,
    Json(update): Json<AppUpdate>,
) -> Result<JsonAnswer<AppView>, ApiError> {
    let command = Command::AppUpdate { app: app.id, allow_scripts: update.allow_scripts };
    match api.command(app.partition, command).await? {
        Reply::App(app) => Ok(JsonAnswer(views::app(app))),
        reply => Err(unexpected(&reply)),
    }
}

/// Deletes an app that has no jobs, with its tokens.
#[utoipa::path(delete, path = "/api/v1/apps/{app}", tag = "apps", responses((status = 204, description = "It is gone.")))]
pub(super) async fn delete_app(
    State(api): State<Shared>,
    Extension(app): Extension<App>,
) -> Result<StatusCode, ApiError> {
    // The engine has only some jobs in memory, and the store refuses what slips through in between.
    let filter = JobFilter { app: Some(app.id), limit: 1, ..JobFilter::default() };
    if !api.server.store.jobs(filter).await?.items.is_empty() {
        return Err(ApiError::new(&APP_NOT_EMPTY));
    }
    api.command(app.partition, Command::AppDelete { app: app.id }).await?;
    api.server.auth.app_deleted(app.id);
    Ok(StatusCode::NO_CONTENT)
}
