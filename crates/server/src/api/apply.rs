//! Definitions kept elsewhere (in Git, in another scheduler), brought here by name.

use std::collections::HashSet;
use std::sync::Arc;

use axum::extract::State;
use axum::{Extension, Json as JsonAnswer};
use futures::{StreamExt, TryStreamExt, stream};
use pendula_engine::{Command, Reply};
use pendula_model::Timestamp;
use pendula_model::api::{AppliedJob, ApplyAction, ApplyRequest, ApplyResult};
use pendula_model::app::App;
use pendula_model::job::{Job, JobSpec};
use pendula_schedule::Plan;

use super::body::Json;
use super::problem::*;
use super::{DEADLINE, Shared, accepted, unexpected};

/// Jobs of one request.
const MOST: usize = 10_000;
/// Reads at the same time.
const AT_ONCE: usize = 16;

/// Creates or updates jobs by name, or only says what that would do.
///
/// Each job stands for itself: what is refused leaves the others alone. What was edited between the plan and its
/// execution is refused with `version_mismatch` instead of overwritten. Jobs that are not named stay as they are.
#[utoipa::path(post, path = "/api/v1/apps/{app}/apply", tag = "jobs", request_body = ApplyRequest,
    responses((status = 200, description = "What became, or would become, of each, in the order of the request.", body = ApplyResult)))]
pub(super) async fn apply_jobs(
    State(api): State<Shared>,
    Extension(app): Extension<App>,
    Json(request): Json<ApplyRequest>,
) -> Result<JsonAnswer<ApplyResult>, ApiError> {
    if request.jobs.len() > MOST {
        return Err(
            ApiError::with(&INVALID_VALUE, format!("has {} jobs; at most {MOST}", request.jobs.len())).at("jobs")
        );
    }
    check_unique(&request.jobs)?;
    let specs: Vec<_> = request.jobs.into_iter().map(Arc::new).collect();
    let reads: Vec<_> = specs.iter().map(|spec| api.server.store.job_by_name(app.id, &spec.name)).collect();
    let found: Vec<Option<Job>> = stream::iter(reads).buffered(AT_ONCE).try_collect().await?;
    let now = api.now();
    let mut planned: Vec<AppliedJob> =
        specs.iter().zip(&found).map(|(spec, found)| plan(&app, spec, found.as_ref(), now)).collect();
    if !request.dry_run {
        carry_out(&api, &app, &specs, &found, &mut planned).await?;
    }
    Ok(JsonAnswer(ApplyResult { jobs: planned }))
}

fn check_unique(jobs: &[JobSpec]) -> Result<(), ApiError> {
    let mut names = HashSet::with_capacity(jobs.len());
    match jobs.iter().position(|job| !names.insert(&job.name)) {
        Some(position) => {
            Err(ApiError::with(&INVALID_VALUE, "is the name of an earlier one too")
                .at(format!("jobs[{position}].name")))
        }
        None => Ok(()),
    }
}

/// What will become of a job, as far as can be told from here; the engine checks the same again.
fn plan(app: &App, spec: &JobSpec, found: Option<&Job>, now: Timestamp) -> AppliedJob {
    let outcome = check(app, spec, found, now).map(|()| match found {
        None => ApplyAction::Created,
        Some(job) if *job.spec == *spec => ApplyAction::Unchanged,
        Some(_) => ApplyAction::Updated,
    });
    let before = found.map(|job| (*job.spec).clone());
    match outcome {
        Ok(action) => AppliedJob { name: spec.name.clone(), action, problem: None, before },
        Err(error) => refused(&spec.name, before, &error),
    }
}

fn check(app: &App, spec: &JobSpec, found: Option<&Job>, now: Timestamp) -> Result<(), ApiError> {
    if found.is_some_and(|job| *job.spec == *spec) {
        return Ok(());
    }
    spec.validate()?;
    if spec.processor.is_script() && !app.allow_scripts {
        return Err(ApiError::new(&SCRIPTS_NOT_ALLOWED));
    }
    let same_schedule = |job: &Job| job.spec.trigger == spec.trigger && job.spec.enabled == spec.enabled;
    if let Some(trigger) = spec.trigger.as_ref().filter(|_| !found.is_some_and(same_schedule)) {
        let plan = Plan::compile(trigger, now)?;
        if spec.enabled {
            plan.check_future(now)?;
        }
    }
    Ok(())
}

/// Sends what the plan says to the partition and corrects the plan by what really happened.
async fn carry_out(
    api: &Shared,
    app: &App,
    specs: &[Arc<JobSpec>],
    found: &[Option<Job>],
    planned: &mut [AppliedJob],
) -> Result<(), ApiError> {
    let changing = |job: &AppliedJob| matches!(job.action, ApplyAction::Created | ApplyAction::Updated);
    let positions: Vec<usize> = (0..planned.len()).filter(|position| changing(&planned[*position])).collect();
    let command = |position: &usize| Command::JobApply {
        app: app.id,
        spec: specs[*position].clone(),
        expected_version: Some(found[*position].as_ref().map_or(0, |job| job.version)),
    };
    let commands = positions.iter().map(command).collect();
    let replies = api.server.partitions.commands(app.partition, commands, DEADLINE).await;
    for (position, reply) in positions.into_iter().zip(replies) {
        let outcome = match reply.map_err(ApiError::from).and_then(accepted) {
            Ok(Reply::Job { created, .. }) => Ok(if created { ApplyAction::Created } else { ApplyAction::Updated }),
            Ok(reply) => Err(unexpected(&reply)),
            Err(error) => Err(error),
        };
        let job = &mut planned[position];
        match outcome {
            Ok(action) => job.action = action,
            Err(error) => *job = refused(&job.name, job.before.take(), &error),
        }
    }
    Ok(())
}

fn refused(name: &str, before: Option<JobSpec>, error: &ApiError) -> AppliedJob {
    AppliedJob { name: name.to_owned(), action: ApplyAction::Refused, problem: Some(error.to_problem()), before }
}
