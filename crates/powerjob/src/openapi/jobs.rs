//! Calls about jobs.

use std::sync::Arc;

use pendula_engine::effect::Refusal;
use pendula_engine::{Command, Reply, RunRequest};
use pendula_model::job::{Job, JobSpec};
use pendula_model::powerjob::PowerJob;
use pendula_model::processor::Processor;
use pendula_model::{InstanceId, JobId};
use pendula_store::JobFilter;
use serde_json::{Value, json};

use super::answer::Refused;
use super::{Call, saved};
use crate::translate::INSTANCE_PARAMS;

/// Jobs per page of what is read.
const PAGE: usize = 500;

/// The job that a call is about: the app's own, with a processor of PowerJob's.
async fn named(call: &Call, field: &str) -> Result<Job, Refused> {
    let id = call.fields.long(field).unwrap_or(0);
    let absent = || Refused::new(format!("IllegalArgumentException: can't find job by jobId: {id}"));
    let job = call.shared.gateway.server().store.job_by_id(JobId(id)).await?.ok_or_else(absent)?;
    if job.app != call.app {
        let message =
            format!("IllegalArgumentException: this job is not belong to the app whose appId is {}", call.shown);
        return Err(Refused::new(message));
    }
    processor(&job.spec).is_some().then_some(job).ok_or_else(absent)
}

fn processor(spec: &JobSpec) -> Option<&PowerJob> {
    match &spec.processor {
        Processor::PowerJob(powerjob) => Some(powerjob),
        _ => None,
    }
}

fn shown(call: &Call, job: &Job) -> Option<Value> {
    Some(saved::info(job, processor(&job.spec)?, call.shown))
}

pub(super) async fn save(call: &Call) -> Result<Value, Refused> {
    let mut spec = saved::read(&call.fields, &saved::zone())?;
    let expected = if call.fields.long("id").is_some() {
        let old = named(call, "id").await?;
        if old.spec.name != spec.name {
            let message =
                "IllegalArgumentException: a job is known by its name, which cannot be changed; save a new one";
            return Err(Refused::new(message));
        }
        saved::keep_tracked(&mut spec, &old.spec);
        // What clients cannot say stays as it was.
        spec.delivery = old.spec.delivery;
        spec.priority = old.spec.priority;
        spec.weight = old.spec.weight;
        spec.retention = old.spec.retention;
        None
    } else {
        Some(0)
    };
    apply(call, spec, expected).await
}

async fn apply(call: &Call, spec: JobSpec, expected_version: Option<u64>) -> Result<Value, Refused> {
    let name = spec.name.clone();
    let apply = Command::JobApply { app: call.app, spec: Arc::new(spec), expected_version };
    let partitions = &call.shared.gateway.server().partitions;
    match partitions.command(call.app.partition(), apply, super::ANSWER).await? {
        Reply::Job { job, .. } => Ok(job.id.0.into()),
        Reply::Refused(Refusal::VersionMismatch { .. }) => Err(Refused::new(format!(
            "IllegalArgumentException: a job of the name {name} exists; give its id to edit it"
        ))),
        Reply::Refused(refusal) => Err(refusal.into()),
        _ => Err(Refused::new("the job was not saved")),
    }
}

pub(super) async fn copy(call: &Call) -> Result<Value, Refused> {
    let job = named(call, "jobId").await?;
    let name = format!("{}_COPY", job.spec.name);
    apply(call, JobSpec { name, ..(*job.spec).clone() }, Some(0)).await
}

pub(super) async fn export(call: &Call) -> Result<Value, Refused> {
    let job = named(call, "jobId").await?;
    let now = call.shared.gateway.server().clock.now();
    let name = format!("{}_EXPORT_{}", job.spec.name, now.as_millis());
    let powerjob = processor(&job.spec).expect("only these are found");
    Ok(saved::request(&job.spec, powerjob, call.shown, name))
}

pub(super) async fn fetch(call: &Call) -> Result<Value, Refused> {
    let job = named(call, "jobId").await?;
    shown(call, &job).ok_or_else(|| Refused::new("no such job"))
}

async fn all(call: &Call) -> Result<Vec<Job>, Refused> {
    let mut found = Vec::new();
    let mut after = None;
    loop {
        let filter = JobFilter { app: Some(call.app), after, limit: PAGE, ..JobFilter::default() };
        let page = call.shared.gateway.server().store.jobs(filter).await?;
        after = page.items.last().map(|job| (job.app, job.spec.name.clone()));
        found.extend(page.items.into_iter().filter(|job| processor(&job.spec).is_some()));
        if !page.more {
            return Ok(found);
        }
    }
}

pub(super) async fn fetch_all(call: &Call) -> Result<Value, Refused> {
    Ok(all(call).await?.iter().filter_map(|job| shown(call, job)).collect())
}

pub(super) async fn query(call: &Call) -> Result<Value, Refused> {
    let shown = all(call).await?.into_iter().filter_map(|job| shown(call, &job));
    Ok(shown.filter(|job| matches(call, job)).collect())
}

/// Whether a job is asked for. Fields of the question are a field of the job and what it must be.
fn matches(call: &Call, job: &Value) -> bool {
    let fields = &call.fields;
    let number = |name: &str| job[name].as_i64();
    let text = |name: &str| job[name].as_str().unwrap_or_default();
    let same = |asked: &str, name: &str| fields.text(asked).is_none_or(|asked| asked == text(name));
    let like =
        |asked: &str, name: &str| fields.text(asked).is_none_or(|asked| text(name).contains(asked.trim_matches('%')));
    let among = |asked: &str, name: &str| {
        fields.longs(asked).is_none_or(|asked| number(name).is_some_and(|number| asked.contains(&number)))
    };
    let below =
        |asked: &str, name: &str| fields.long(asked).is_none_or(|asked| number(name).is_some_and(|n| n < asked));
    let above =
        |asked: &str, name: &str| fields.long(asked).is_none_or(|asked| number(name).is_some_and(|n| n > asked));
    fields.long("idEq").is_none_or(|id| number("id") == Some(id))
        && below("idLt", "id")
        && above("idGt", "id")
        && same("jobNameEq", "jobName")
        && like("jobNameLike", "jobName")
        && like("jobDescriptionLike", "jobDescription")
        && like("jobParamsLike", "jobParams")
        && among("timeExpressionTypeIn", "timeExpressionType")
        && among("executeTypeIn", "executeType")
        && among("processorTypeIn", "processorType")
        && same("processorInfoEq", "processorInfo")
        && like("processorInfoLike", "processorInfo")
        && among("statusIn", "status")
        && above("nextTriggerTimeGt", "nextTriggerTime")
        && below("nextTriggerTimeLt", "nextTriggerTime")
}

pub(super) async fn enable(call: &Call, enabled: bool) -> Result<Value, Refused> {
    let job = named(call, "jobId").await?;
    call.command(Command::JobEnable { app: call.app, name: job.spec.name.clone(), enabled }).await?;
    Ok(Value::Null)
}

pub(super) async fn delete(call: &Call) -> Result<Value, Refused> {
    let job = named(call, "jobId").await?;
    call.command(Command::JobDelete { app: call.app, name: job.spec.name.clone() }).await?;
    Ok(Value::Null)
}

pub(super) async fn run(call: &Call) -> Result<Value, Refused> {
    let job = named(call, "jobId").await?;
    let delay = call.fields.long("delay").unwrap_or(0).max(0) as u64;
    let now = call.shared.gateway.server().clock.now();
    let params = call.fields.text("instanceParams").filter(|text| !text.is_empty());
    let params = params.map(|text| json!({ INSTANCE_PARAMS: text }).as_object().cloned().unwrap_or_default());
    let due_at = (delay > 0).then(|| now.plus(std::time::Duration::from_millis(delay)));
    run_again(call, &job, params, due_at, None).await.map(|id| id.0.into())
}

pub(super) async fn run_again(
    call: &Call,
    job: &Job,
    params: Option<serde_json::Map<String, Value>>,
    due_at: Option<pendula_model::Timestamp>,
    rerun_of: Option<InstanceId>,
) -> Result<InstanceId, Refused> {
    let run = RunRequest {
        app: call.app,
        job: job.spec.name.clone(),
        params,
        due_at,
        idempotency_key: None,
        rerun_of,
        only_unsuccessful: false,
        priority: None,
    };
    match call.command(Command::JobRun(Box::new(run))).await? {
        Reply::Instance { id, .. } => Ok(id),
        _ => Err(Refused::new("the job was not run")),
    }
}
