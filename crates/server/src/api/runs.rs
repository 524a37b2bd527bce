//! Running jobs on request: once, many times, or again what ended.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json as JsonAnswer};
use http::{HeaderMap, StatusCode, header};
use pendula_engine::{Command, Reply, RunRequest};
use pendula_model::api::{RetryInstance, RetryOnly, RunJob, RunMany, RunManyResult, RunResult};
use pendula_model::app::App;
use pendula_model::instance::{Instance, Reason, TaskState};
use pendula_model::job::check_params;
use pendula_model::task::TaskRole;
use pendula_model::{AppId, PartitionId, TaskId, Timestamp, duration, limits};

use super::body::{Json, OptionalJson};
use super::guard::JobName;
use super::problem::*;
use super::{DEADLINE, Shared, accepted, unexpected};

/// Runs of one request.
const MOST: usize = 10_000;

/// Runs a job now, or later.
///
/// With an idempotency key, in the header or in the body, the same request can be repeated: it is answered with the
/// instance that the first one made, for as long as that is kept.
#[utoipa::path(post, path = "/api/v1/apps/{app}/jobs/{job}/run", tag = "instances", request_body = Option<RunJob>,
    params(("Idempotency-Key" = Option<String>, Header, description = "1 to 128 bytes, unique within the app.")),
    responses(
        (status = 201, description = "A new instance; it is on disk.", body = RunResult),
        (status = 200, description = "The instance that this idempotency key made earlier.", body = RunResult),
    ))]
pub(super) async fn run_job(
    State(api): State<Shared>,
    Extension(app): Extension<App>,
    Extension(JobName(name)): Extension<JobName>,
    headers: HeaderMap,
    OptionalJson(run): OptionalJson<RunJob>,
) -> Result<Response, ApiError> {
    let key = key(&headers, run.idempotency_key.clone())?;
    let mut request = request(app.id, &name, run, api.now())?;
    request.idempotency_key = key;
    send(&api, app.partition, request).await
}

/// Runs a job many times; each run stands for itself.
#[utoipa::path(post, path = "/api/v1/apps/{app}/jobs/{job}/run-many", tag = "instances", request_body = RunMany,
    responses((status = 200, description = "What became of each, in the order of the request.", body = RunManyResult)))]
pub(super) async fn run_many(
    State(api): State<Shared>,
    Extension(app): Extension<App>,
    Extension(JobName(name)): Extension<JobName>,
    Json(many): Json<RunMany>,
) -> Result<JsonAnswer<RunManyResult>, ApiError> {
    if many.runs.len() > MOST {
        return Err(ApiError::with(&INVALID_VALUE, format!("has {} runs; at most {MOST}", many.runs.len())).at("runs"));
    }
    let now = api.now();
    let mut commands = Vec::with_capacity(many.runs.len());
    let mut refused: Vec<Option<ApiError>> = Vec::with_capacity(many.runs.len());
    for run in many.runs {
        let made = check_key(run.idempotency_key.clone())
            .and_then(|key| Ok(RunRequest { idempotency_key: key, ..request(app.id, &name, run, now)? }));
        refused.push(made.map(|request| commands.push(Command::JobRun(Box::new(request)))).err());
    }
    let mut replies = api.server.partitions.commands(app.partition, commands, DEADLINE).await.into_iter();
    let result = |refused: Option<ApiError>| {
        let outcome = match refused {
            Some(error) => Err(error),
            None => match replies.next() {
                Some(reply) => reply.map_err(ApiError::from).and_then(accepted),
                None => Err(ApiError::new(&INTERNAL)),
            },
        };
        match outcome {
            Ok(Reply::Instance { id, created }) => RunResult { instance: Some(id), created, problem: None },
            Ok(reply) => failed(&unexpected(&reply)),
            Err(error) => failed(&error),
        }
    };
    let runs = refused.into_iter().map(result).collect();
    Ok(JsonAnswer(RunManyResult { runs }))
}

fn failed(error: &ApiError) -> RunResult {
    RunResult { instance: None, created: false, problem: Some(error.to_problem()) }
}

/// Runs again what an ended instance ran: a new instance of the job as it is defined now, with the same parameters.
///
/// With `{"only": "unsuccessful"}` the new instance has just the sub-tasks or shards that did not succeed, and its
/// `reduce` reads the results of the others too, for as long as the earlier instance is kept.
#[utoipa::path(post, path = "/api/v1/instances/{id}/retry", tag = "instances", request_body = Option<RetryInstance>,
    params(("Idempotency-Key" = Option<String>, Header, description = "1 to 128 bytes, unique within the app.")),
    responses(
        (status = 201, description = "The new instance.", body = RunResult),
        (status = 200, description = "The instance that this idempotency key made earlier.", body = RunResult),
    ))]
pub(super) async fn retry_instance(
    State(api): State<Shared>,
    Extension(instance): Extension<Instance>,
    headers: HeaderMap,
    OptionalJson(retry): OptionalJson<RetryInstance>,
) -> Result<Response, ApiError> {
    if !instance.state.is_ended() {
        return Err(ApiError::with(&INSTANCE_ACTIVE, format!("it is {}", instance.state)));
    }
    let only_unsuccessful = retry.only == Some(RetryOnly::Unsuccessful);
    if only_unsuccessful {
        check_complete(&api, &instance).await?;
    }
    let job = api.server.store.job_by_id(instance.job).await?;
    let job = job.filter(|job| job.deleted_at.is_none()).ok_or_else(|| ApiError::new(&JOB_DELETED))?;
    let params = match instance.params.as_deref().map(serde_json::from_str).transpose() {
        Ok(params) => params,
        Err(error) => {
            tracing::error!(instance = %instance.id, %error, "stored parameters are no JSON object");
            return Err(ApiError::new(&STORE_DAMAGED));
        }
    };
    let request = RunRequest {
        app: instance.app,
        job: job.spec.name.clone(),
        params,
        due_at: None,
        idempotency_key: key(&headers, None)?,
        rerun_of: Some(instance.id),
        only_unsuccessful,
        priority: Some(instance.priority),
    };
    send(&api, instance.id.partition(), request).await
}

/// Refuses to repeat the unsuccessful tasks of an instance whose tasks were never all made: the rest would be missing.
async fn check_complete(api: &Shared, instance: &Instance) -> Result<(), ApiError> {
    let refuse = |what: &str| {
        let why = format!("{what}, so some of its tasks were never made; run all of it again");
        Err(ApiError::with(&NOTHING_TO_RETRY, why))
    };
    match &instance.reason {
        Some(reason) if *reason == Reason::PRE_FAILED => return refuse("the task before the others failed"),
        Some(reason) if *reason == Reason::ROOT_FAILED => return refuse("the task that emits the others failed"),
        _ => {}
    }
    match api.server.store.task(instance.id, TaskId::ROOT).await? {
        Some(root) if root.role == TaskRole::Root && root.state != TaskState::Succeeded => {
            refuse("the task that emits the others did not come to its end")
        }
        _ => Ok(()),
    }
}

async fn send(api: &Shared, partition: PartitionId, request: RunRequest) -> Result<Response, ApiError> {
    match api.command(partition, Command::JobRun(Box::new(request))).await? {
        Reply::Instance { id, created } => {
            let status = if created { StatusCode::CREATED } else { StatusCode::OK };
            let location = format!("/api/v1/instances/{id}");
            let result = RunResult { instance: Some(id), created, problem: None };
            Ok((status, [(header::LOCATION, location)], JsonAnswer(result)).into_response())
        }
        reply => Err(unexpected(&reply)),
    }
}

/// Everything but the idempotency key.
fn request(app: AppId, job: &str, run: RunJob, now: Timestamp) -> Result<RunRequest, ApiError> {
    if let Some(params) = &run.params {
        check_params(params)?;
    }
    let due_at = match (&run.delay, run.due_at) {
        (Some(_), Some(_)) => return Err(ApiError::with(&INVALID_VALUE, "excludes `due_at`").at("delay")),
        (Some(delay), None) => {
            let delay =
                duration::parse(delay).map_err(|message| ApiError::with(&INVALID_VALUE, message).at("delay"))?;
            Some(now.plus(delay))
        }
        (None, due_at) => due_at,
    };
    if run.priority.is_some_and(|priority| !(-100..=100).contains(&priority)) {
        return Err(ApiError::with(&INVALID_VALUE, "-100 to 100 are allowed").at("priority"));
    }
    Ok(RunRequest {
        app,
        job: job.to_owned(),
        params: run.params,
        due_at,
        idempotency_key: None,
        rerun_of: None,
        only_unsuccessful: false,
        priority: run.priority,
    })
}

/// The idempotency key from wherever the caller wrote it.
fn key(headers: &HeaderMap, in_body: Option<String>) -> Result<Option<Arc<str>>, ApiError> {
    let in_header = match headers.get("idempotency-key") {
        None => None,
        Some(value) => {
            let text = value.to_str().map_err(|_| bad_key("visible ASCII characters are allowed in the header"))?;
            Some(text.to_owned())
        }
    };
    match (in_header, in_body) {
        (Some(header), Some(body)) if header != body => Err(bad_key("the header and the body have different ones")),
        (header, body) => check_key(header.or(body)),
    }
}

fn check_key(key: Option<String>) -> Result<Option<Arc<str>>, ApiError> {
    match key {
        Some(key) if key.is_empty() || key.len() > limits::IDEMPOTENCY_KEY_BYTES => {
            Err(bad_key(format!("has {} bytes; 1 to {} are allowed", key.len(), limits::IDEMPOTENCY_KEY_BYTES)))
        }
        key => Ok(key.map(Arc::from)),
    }
}

fn bad_key(message: impl Into<String>) -> ApiError {
    ApiError::with(&INVALID_VALUE, message).at("idempotency_key")
}
