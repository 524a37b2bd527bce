//! Instances: finding them, looking at them, ending them.

use std::collections::HashMap;
use std::sync::Arc;

use axum::extract::State;
use axum::{Extension, Json as JsonAnswer};
use pendula_engine::Command;
use pendula_model::api::{InstanceView, PageOf};
use pendula_model::instance::{Instance, InstanceState};
use pendula_model::{AppId, InstanceId, JobId, TaskId, Timestamp};
use pendula_store::InstanceFilter;
use serde::Deserialize;
use utoipa::IntoParams;

use super::body::Query;
use super::page::{self, Limit};
use super::problem::*;
use super::{Shared, task_views, views};
use crate::auth::{Permission, Principal};

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct WhichInstances {
    /// Only those of this app.
    app: Option<String>,
    /// Only those of this job of that app.
    job: Option<String>,
    /// Only those in one of these states, separated by commas.
    #[param(example = "waiting,running")]
    state: Option<String>,
    /// Only those created at this time or later.
    from: Option<Timestamp>,
    /// Only those created before this time.
    before: Option<Timestamp>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
    /// Items of a page: 1 to 1,000. Default 50.
    #[serde(default)]
    #[param(value_type = Option<u32>)]
    limit: Limit,
}

/// Instances, newest first.
#[utoipa::path(get, path = "/api/v1/instances", tag = "instances", params(WhichInstances),
    responses((status = 200, description = "A page of them.", body = PageOf<InstanceView>)))]
pub(super) async fn list_instances(
    State(api): State<Shared>,
    Extension(caller): Extension<Arc<Principal>>,
    Query(which): Query<WhichInstances>,
) -> Result<JsonAnswer<PageOf<InstanceView>>, ApiError> {
    let (app, job) = scope(&api, &caller, &which).await?;
    let filter = InstanceFilter {
        app,
        job,
        states: page::words::<InstanceState>("state", which.state.as_deref())?,
        created_from: which.from,
        created_before: which.before,
        before: page::after::<InstanceId>("instances", which.cursor.as_deref())?,
        limit: which.limit.get(),
    };
    let store = &*api.server.store;
    let found = store.instances(filter).await?;
    let names = api.names.of(store, &found.items).await?;
    let next_cursor = found.items.last().filter(|_| found.more).map(|last| page::cursor("instances", last.id));
    let fanouts = store.fanouts(found.items.iter().map(|instance| instance.id).collect()).await?;
    let fanouts: HashMap<InstanceId, _> = fanouts.into_iter().map(|fanout| (fanout.instance, fanout)).collect();
    let view = |instance: &Instance| views::instance(&names, instance, fanouts.get(&instance.id));
    let items = found.items.iter().map(view).collect();
    Ok(JsonAnswer(PageOf { items, next_cursor }))
}

/// The app and job that the filters name, within what the caller may see.
async fn scope(
    api: &Shared,
    caller: &Principal,
    which: &WhichInstances,
) -> Result<(Option<AppId>, Option<JobId>), ApiError> {
    let store = &api.server.store;
    let app = match &which.app {
        None => caller.only_app(),
        Some(name) => {
            let app = store.app_by_name(name).await?;
            let seen = app.filter(|app| caller.may(Permission::View, Some(app.id)));
            Some(seen.ok_or_else(|| ApiError::new(&APP_NOT_FOUND))?.id)
        }
    };
    let job = match (&which.job, app) {
        (None, _) => None,
        (Some(_), None) => return Err(ApiError::with(&INVALID_QUERY, "needs `app` beside it").at("job")),
        (Some(name), Some(app)) => {
            let job = store.job_by_name(app, name).await?;
            Some(job.ok_or_else(|| ApiError::new(&JOB_NOT_FOUND))?.id)
        }
    };
    Ok((app, job))
}

/// One instance: with all its attempts and why each went to its worker, or with how far its tasks are.
#[utoipa::path(get, path = "/api/v1/instances/{id}", tag = "instances",
    responses((status = 200, description = "The instance.", body = InstanceView)))]
pub(super) async fn show_instance(
    State(api): State<Shared>,
    Extension(instance): Extension<Instance>,
) -> Result<JsonAnswer<InstanceView>, ApiError> {
    view(&api, &instance).await.map(JsonAnswer)
}

async fn view(api: &Shared, instance: &Instance) -> Result<InstanceView, ApiError> {
    let store = &*api.server.store;
    let names = api.names.of(store, std::slice::from_ref(instance)).await?;
    let fanout = store.fanout(instance.id).await?;
    let mut view = views::instance(&names, instance, fanout.as_ref());
    match &fanout {
        // Tries are its tasks'.
        Some(fanout) => {
            let targets = task_views::targets(fanout);
            view.tasks = view.tasks.map(|tasks| pendula_model::api::TasksView { targets, ..tasks });
        }
        None => {
            let past = store.past_attempts(instance.id, TaskId::ROOT).await?;
            view.attempts = views::attempts(instance, past);
        }
    }
    Ok(view)
}

/// Ends an instance: one that waits at once, one that a worker has when the worker confirms.
#[utoipa::path(post, path = "/api/v1/instances/{id}/stop", tag = "instances",
    responses((status = 200, description = "The instance as it is now: `stopping`, or ended.", body = InstanceView)))]
pub(super) async fn stop_instance(
    State(api): State<Shared>,
    Extension(instance): Extension<Instance>,
) -> Result<JsonAnswer<InstanceView>, ApiError> {
    end(&api, &instance, Command::InstanceStop { instance: instance.id }).await
}

/// Ends an instance that no worker has yet.
#[utoipa::path(post, path = "/api/v1/instances/{id}/cancel", tag = "instances",
    responses((status = 200, description = "The instance as it is now: `canceled`.", body = InstanceView)))]
pub(super) async fn cancel_instance(
    State(api): State<Shared>,
    Extension(instance): Extension<Instance>,
) -> Result<JsonAnswer<InstanceView>, ApiError> {
    end(&api, &instance, Command::InstanceCancel { instance: instance.id }).await
}

async fn end(api: &Shared, instance: &Instance, command: Command) -> Result<JsonAnswer<InstanceView>, ApiError> {
    api.command(instance.id.partition(), command).await?;
    // Retention may be shorter than this request.
    let now = api.server.store.instance(instance.id).await?;
    view(api, now.as_ref().unwrap_or(instance)).await.map(JsonAnswer)
}
