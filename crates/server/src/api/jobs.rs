//! Jobs: their definitions, when they fire, what became of missed fires.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json as JsonAnswer};
use http::{HeaderMap, StatusCode, header};
use pendula_engine::{Command, Reply};
use pendula_model::api::{GapList, JobView, NextFires, PageOf, RevisionView};
use pendula_model::app::App;
use pendula_model::job::{Job, JobSpec};
use pendula_schedule::Plan;
use pendula_store::JobFilter;
use serde::Deserialize;
use utoipa::IntoParams;

use super::body::{Json, Query};
use super::guard::JobName;
use super::page::{self, Limit};
use super::problem::*;
use super::server::{WhichFires, fires};
use super::{Shared, unexpected, views};

/// Revisions and gaps that are shown at most: the latest ones.
const HISTORY: usize = 1000;

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct WhichJobs {
    /// Only names that contain this, ignoring ASCII case.
    contains: Option<String>,
    /// Only those that are enabled, or only those that are not.
    enabled: Option<bool>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
    /// Items of a page: 1 to 1,000. Default 50.
    #[serde(default)]
    #[param(value_type = Option<u32>)]
    limit: Limit,
}

/// The jobs of an app, by name.
#[utoipa::path(get, path = "/api/v1/apps/{app}/jobs", tag = "jobs", params(WhichJobs),
    responses((status = 200, description = "A page of them.", body = PageOf<JobView>)))]
pub(super) async fn list_jobs(
    State(api): State<Shared>,
    Extension(app): Extension<App>,
    Query(which): Query<WhichJobs>,
) -> Result<JsonAnswer<PageOf<JobView>>, ApiError> {
    let after: Option<String> = page::after("jobs", which.cursor.as_deref())?;
    let filter = JobFilter {
        app: Some(app.id),
        name_contains: which.contains,
        enabled: which.enabled,
        after: after.map(|name| (app.id, name)),
        limit: which.limit.get(),
    };
    let found = api.server.store.jobs(filter).await?;
    let last = found.items.last().filter(|_| found.more);
    let next_cursor = last.map(|job| page::cursor("jobs", &job.spec.name));
    let items = found.items.into_iter().map(|job| views::job(&app.name, job)).collect();
    Ok(JsonAnswer(PageOf { items, next_cursor }))
}

/// Creates a job.
#[utoipa::path(post, path = "/api/v1/apps/{app}/jobs", tag = "jobs", request_body = JobSpec,
    responses((status = 201, description = "It was created.", body = JobView)))]
pub(super) async fn create_job(
    State(api): State<Shared>,
    Extension(app): Extension<App>,
    Json(spec): Json<JobSpec>,
) -> Result<Response, ApiError> {
    save(&api, app, spec, Some(0)).await
}

/// One job.
#[utoipa::path(get, path = "/api/v1/apps/{app}/jobs/{job}", tag = "jobs",
    responses((status = 200, description = "The job; its version is in `ETag` too.", body = JobView)))]
pub(super) async fn show_job(
    State(api): State<Shared>,
    Extension(app): Extension<App>,
    Extension(JobName(name)): Extension<JobName>,
) -> Result<Response, ApiError> {
    let job = find(&api, &app, &name).await?;
    Ok(shown(&app, job, StatusCode::OK))
}

/// Creates a job, or replaces its definition.
///
/// With `If-Match: "VERSION"` it replaces only that version; with `If-None-Match: *` it only creates.
#[utoipa::path(put, path = "/api/v1/apps/{app}/jobs/{job}", tag = "jobs", request_body = JobSpec,
    params(
        ("If-Match" = Option<String>, Header, description = "The version that was read, in quotes; `*` for any."),
        ("If-None-Match" = Option<String>, Header, description = "`*`: the job must not exist."),
    ),
    responses(
        (status = 200, description = "It was replaced, or is like that already.", body = JobView),
        (status = 201, description = "It was created.", body = JobView),
    ))]
pub(super) async fn put_job(
    State(api): State<Shared>,
    Extension(app): Extension<App>,
    Extension(JobName(name)): Extension<JobName>,
    headers: HeaderMap,
    Json(spec): Json<JobSpec>,
) -> Result<Response, ApiError> {
    if spec.name != name {
        return Err(
            ApiError::with(&INVALID_VALUE, "differs from the name in the path; a job keeps its name").at("name")
        );
    }
    let expected = match expectation(&headers)? {
        Expectation::None => None,
        Expectation::Version(version) => Some(version),
        Expectation::Absent => Some(0),
        Expectation::Present => {
            let job = api.server.store.job_by_name(app.id, &name).await?;
            let job = job.ok_or_else(|| ApiError::with(&VERSION_MISMATCH, "there is no such job to replace"))?;
            Some(job.version)
        }
    };
    match save(&api, app, spec, expected).await {
        // `If-None-Match` is a condition, and a failed condition has its own status.
        Err(error) if expected == Some(0) && error.code == &JOB_EXISTS => {
            Err(ApiError::with(&VERSION_MISMATCH, "a job of this name exists"))
        }
        result => result,
    }
}

enum Expectation {
    None,
    Version(u64),
    Present,
    Absent,
}

fn expectation(headers: &HeaderMap) -> Result<Expectation, ApiError> {
    let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or("").trim().to_owned());
    match (text("if-match"), text("if-none-match")) {
        (None, None) => Ok(Expectation::None),
        (Some(all), None) if all == "*" => Ok(Expectation::Present),
        (None, Some(all)) if all == "*" => Ok(Expectation::Absent),
        (Some(version), None) => {
            let bare = version.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(&version);
            match bare.parse() {
                Ok(version) if version > 0 => Ok(Expectation::Version(version)),
                _ => Err(ApiError::with(&INVALID_HEADER, "write the version in quotes, as \"3\"").at("If-Match")),
            }
        }
        (None, Some(_)) => Err(ApiError::with(&INVALID_HEADER, "only `*` is supported").at("If-None-Match")),
        (Some(_), Some(_)) => Err(ApiError::with(&INVALID_HEADER, "excludes `If-None-Match`").at("If-Match")),
    }
}

/// Deletes a job. What waits is canceled, what runs may finish; its history stays until it is pruned.
#[utoipa::path(delete, path = "/api/v1/apps/{app}/jobs/{job}", tag = "jobs", responses((status = 204, description = "It is gone.")))]
pub(super) async fn delete_job(
    State(api): State<Shared>,
    Extension(app): Extension<App>,
    Extension(JobName(name)): Extension<JobName>,
) -> Result<StatusCode, ApiError> {
    api.command(app.partition, Command::JobDelete { app: app.id, name }).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Lets the trigger of a job fire, from now on.
#[utoipa::path(post, path = "/api/v1/apps/{app}/jobs/{job}/enable", tag = "jobs",
    responses((status = 200, description = "The job as it is now.", body = JobView)))]
pub(super) async fn enable_job(
    State(api): State<Shared>,
    Extension(app): Extension<App>,
    Extension(JobName(name)): Extension<JobName>,
) -> Result<Response, ApiError> {
    switch(&api, app, name, true).await
}

/// Keeps the trigger of a job from firing: when this is answered, no later fire time makes an instance.
#[utoipa::path(post, path = "/api/v1/apps/{app}/jobs/{job}/disable", tag = "jobs",
    responses((status = 200, description = "The job as it is now.", body = JobView)))]
pub(super) async fn disable_job(
    State(api): State<Shared>,
    Extension(app): Extension<App>,
    Extension(JobName(name)): Extension<JobName>,
) -> Result<Response, ApiError> {
    switch(&api, app, name, false).await
}

async fn switch(api: &Shared, app: App, name: String, enabled: bool) -> Result<Response, ApiError> {
    match api.command(app.partition, Command::JobEnable { app: app.id, name, enabled }).await? {
        Reply::Job { job, .. } => Ok(shown(&app, *job, StatusCode::OK)),
        reply => Err(unexpected(&reply)),
    }
}

/// When a job fires next.
#[utoipa::path(get, path = "/api/v1/apps/{app}/jobs/{job}/next", tag = "jobs", params(WhichFires),
    responses((status = 200, description = "Its next fires.", body = NextFires)))]
pub(super) async fn next_fires(
    State(api): State<Shared>,
    Extension(app): Extension<App>,
    Extension(JobName(name)): Extension<JobName>,
    Query(which): Query<WhichFires>,
) -> Result<JsonAnswer<NextFires>, ApiError> {
    let job = find(&api, &app, &name).await?;
    let none = |timezone: &str, note: &str| {
        JsonAnswer(NextFires { timezone: timezone.to_owned(), fires: Vec::new(), note: Some(note.to_owned()) })
    };
    let Some(trigger) = &job.spec.trigger else {
        return Ok(none("UTC", "the job has no trigger; it runs when it is asked to"));
    };
    if !job.spec.enabled {
        return Ok(none(&trigger.timezone, "the job is disabled"));
    }
    let plan = Plan::compile(trigger, job.schedule.anchor)?;
    if plan.waits_for_end() {
        let Some(next) = job.schedule.next_fire else {
            return Ok(none(&trigger.timezone, "the next fire follows the end of the instance that is under way"));
        };
        let note = Some("each later fire follows the end of the instance before it".to_owned());
        return Ok(JsonAnswer(NextFires { timezone: trigger.timezone.clone(), fires: vec![next], note }));
    }
    Ok(JsonAnswer(fires(trigger, &plan, which.after(api.now()), which.count())))
}

/// The definitions that a job had, newest first.
#[utoipa::path(get, path = "/api/v1/apps/{app}/jobs/{job}/revisions", tag = "jobs",
    responses((status = 200, description = "At most the latest 1,000.", body = PageOf<RevisionView>)))]
pub(super) async fn list_revisions(
    State(api): State<Shared>,
    Extension(app): Extension<App>,
    Extension(JobName(name)): Extension<JobName>,
) -> Result<JsonAnswer<PageOf<RevisionView>>, ApiError> {
    let job = find(&api, &app, &name).await?;
    let revisions = api.server.store.job_revisions(job.id, HISTORY).await?;
    let view = |(revision, saved_at, spec): (pendula_model::Revision, _, Arc<JobSpec>)| RevisionView {
        revision: revision.0,
        saved_at,
        spec: (*spec).clone(),
    };
    Ok(JsonAnswer(PageOf { items: revisions.into_iter().map(view).collect(), next_cursor: None }))
}

/// Fire times of a job that passed without an instance, newest first.
#[utoipa::path(get, path = "/api/v1/apps/{app}/jobs/{job}/gaps", tag = "jobs",
    responses((status = 200, description = "At most the latest 1,000.", body = GapList)))]
pub(super) async fn list_gaps(
    State(api): State<Shared>,
    Extension(app): Extension<App>,
    Extension(JobName(name)): Extension<JobName>,
) -> Result<JsonAnswer<GapList>, ApiError> {
    let job = find(&api, &app, &name).await?;
    Ok(JsonAnswer(GapList { gaps: api.server.store.job_gaps(job.id, HISTORY).await? }))
}

/// A job by its name in a path.
pub(super) async fn find(api: &Shared, app: &App, name: &str) -> Result<Job, ApiError> {
    api.server.store.job_by_name(app.id, name).await?.ok_or_else(|| ApiError::new(&JOB_NOT_FOUND))
}

async fn save(api: &Shared, app: App, spec: JobSpec, expected_version: Option<u64>) -> Result<Response, ApiError> {
    let command = Command::JobApply { app: app.id, spec: Arc::new(spec), expected_version };
    match api.command(app.partition, command).await? {
        Reply::Job { job, created } => {
            let status = if created { StatusCode::CREATED } else { StatusCode::OK };
            Ok(shown(&app, *job, status))
        }
        reply => Err(unexpected(&reply)),
    }
}

fn shown(app: &App, job: Job, status: StatusCode) -> Response {
    let etag = format!("\"{}\"", job.version);
    let location =
        format!("/api/v1/apps/{}/jobs/{}", views::path_segment(&app.name), views::path_segment(&job.spec.name));
    let body = JsonAnswer(views::job(&app.name, job));
    if status == StatusCode::CREATED {
        (status, [(header::ETAG, etag), (header::LOCATION, location)], body).into_response()
    } else {
        (status, [(header::ETAG, etag)], body).into_response()
    }
}
