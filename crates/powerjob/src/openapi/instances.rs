//! Calls about instances.

use pendula_engine::Command;
use pendula_model::instance::{Instance, InstanceState, Payload};
use pendula_model::processor::Processor;
use pendula_model::{InstanceId, JobId, Timestamp};
use pendula_store::InstanceFilter;
use serde_json::{Value, json};

use super::answer::Refused;
use super::{Call, jobs, saved};
use crate::translate::instance_params;

/// Instances per page of what is read, and the most that a query counts.
const PAGE: usize = 500;
const COUNTED: usize = 10_000;

/// PowerJob's number of a state.
fn code(state: InstanceState) -> i64 {
    match state {
        InstanceState::Stopping => i64::from(InstanceState::Running.code()),
        other => i64::from(other.code()),
    }
}

async fn named(call: &Call) -> Result<Instance, Refused> {
    let id = call.fields.long("instanceId").unwrap_or(0);
    let absent = || Refused::new(format!("IllegalArgumentException: can't find instance by instanceId: {id}"));
    let store = &call.shared.gateway.server().store;
    let row = store.instance(InstanceId(id)).await?.ok_or_else(absent)?;
    if row.app != call.app {
        let message =
            format!("IllegalArgumentException: instance is not belong to the app whose appId is {}", call.shown);
        return Err(Refused::new(message));
    }
    let job = store.job_by_id(row.job).await?;
    let is_powerjobs = job.is_some_and(|job| matches!(job.spec.processor, Processor::PowerJob(_)));
    is_powerjobs.then_some(row).ok_or_else(absent)
}

fn info(call: &Call, row: &Instance) -> Value {
    let text = |payload: &Payload| String::from_utf8_lossy(&payload.bytes).into_owned();
    let result = row.result.as_ref().map(text).or_else(|| row.message.as_deref().map(str::to_owned));
    let result = result.or_else(|| row.reason.as_ref().map(ToString::to_string));
    let millis = |at: Option<Timestamp>| at.map(Timestamp::as_millis);
    json!({
        "jobId": row.job.0,
        "appId": call.shown,
        "instanceId": row.id.0,
        "wfInstanceId": null,
        "jobParams": null,
        "instanceParams": row.params.as_deref().map(instance_params),
        "status": code(row.state),
        "type": 1,
        "result": result,
        "expectedTriggerTime": row.fire_time.unwrap_or(row.due_at).as_millis(),
        "actualTriggerTime": millis(row.dispatched_at),
        "finishedTime": millis(row.ended_at),
        "taskTrackerAddress": row.worker.as_ref().map(|worker| worker.name.to_string()),
        "runningTimes": row.attempt,
        "gmtCreate": saved::date(row.created_at),
        "gmtModified": saved::date(row.ended_at.or(row.started_at).or(row.dispatched_at).unwrap_or(row.created_at)),
    })
}

pub(super) async fn stop(call: &Call) -> Result<Value, Refused> {
    let row = named(call).await?;
    if row.state.is_ended() {
        return Err(Refused::new("IllegalArgumentException: can't stop finished instance!"));
    }
    call.command(Command::InstanceStop { instance: row.id }).await?;
    Ok(Value::Null)
}

pub(super) async fn cancel(call: &Call) -> Result<Value, Refused> {
    let row = named(call).await?;
    if row.state != InstanceState::Waiting {
        return Err(Refused::new("PowerJobException: instance already up and running"));
    }
    call.command(Command::InstanceCancel { instance: row.id }).await?;
    Ok(Value::Null)
}

/// An ended instance stays as it is: the job runs again as a new one, with the same parameters.
pub(super) async fn retry(call: &Call) -> Result<Value, Refused> {
    let row = named(call).await?;
    if !row.state.is_ended() {
        return Err(Refused::new("PowerJobException: execution has not finished yet"));
    }
    let absent = || Refused::new(format!("IllegalArgumentException: can't find job by jobId: {}", row.job));
    let job = call.shared.gateway.server().store.job_by_id(row.job).await?.ok_or_else(absent)?;
    jobs::run_again(call, &job, None, None, Some(row.id)).await?;
    Ok(Value::Null)
}

pub(super) async fn status(call: &Call) -> Result<Value, Refused> {
    Ok(code(named(call).await?.state).into())
}

pub(super) async fn info_of(call: &Call) -> Result<Value, Refused> {
    Ok(info(call, &named(call).await?))
}

/// A page of instances, oldest first as a Java server has them, or newest first where that is asked for.
pub(super) async fn query(call: &Call) -> Result<Value, Refused> {
    let fields = &call.fields;
    let index = usize::try_from(fields.long("index").unwrap_or(0)).unwrap_or(0);
    let size = usize::try_from(fields.long("pageSize").unwrap_or(10)).unwrap_or(10).clamp(1, 1000);
    let codes = fields.longs("statusIn").unwrap_or_default();
    let is_asked = |state: &&InstanceState| codes.contains(&code(**state));
    let states: Vec<InstanceState> = InstanceState::ALL.iter().filter(is_asked).copied().collect();
    let before = fields.long("instanceIdLt").map(InstanceId);
    let at = |name: &str| fields.long(name).map(Timestamp::from_millis);
    let mut filter = InstanceFilter {
        app: Some(call.app),
        job: fields.long("jobIdEq").map(JobId),
        states,
        created_from: at("gmtCreateGt"),
        created_before: at("gmtCreateLt"),
        before,
        limit: PAGE,
    };
    let mut found = Vec::new();
    loop {
        let page = call.shared.gateway.server().store.instances(filter.clone()).await?;
        filter.before = page.items.last().map(|row| row.id);
        let equal = fields.long("instanceIdEq");
        let above = fields.long("instanceIdGt");
        let is_asked = |row: &Instance| equal.is_none_or(|id| row.id.0 == id) && above.is_none_or(|id| row.id.0 > id);
        found.extend(page.items.into_iter().filter(is_asked));
        if !page.more || found.len() >= COUNTED {
            break;
        }
    }
    if fields.flag("asc").unwrap_or(true) {
        found.reverse();
    }
    let total = found.len();
    let data: Vec<Value> = found.iter().skip(index * size).take(size).map(|row| info(call, row)).collect();
    Ok(
        json!({ "index": index, "pageSize": size, "totalPages": total.div_ceil(size), "totalItems": total, "data": data }),
    )
}
