//! Why an instance or a task waits, where it runs and why there, or how it ended.

use axum::extract::State;
use axum::{Extension, Json as JsonAnswer};
use pendula_engine::effect::Refusal;
use pendula_engine::{Command, Reply};
use pendula_model::TaskId;
use pendula_model::instance::Instance;
use pendula_model::task::Task;
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::IntoParams;

use super::body::Query;
use super::problem::*;
use super::{DEADLINE, Shared, task_views, unexpected, views};

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct What {
    /// Only this task of it.
    #[param(value_type = Option<u64>)]
    task: Option<TaskId>,
}

/// Why an instance, or one of its tasks, waits, where it runs and why there, or how it ended.
///
/// `why` and `hint` are sentences for people: the reason, and what can be done about it. The rest is for tools: `state`,
/// and where it applies `candidates` (each worker with what speaks against it), `placement`, `tasks`, `progress`.
#[utoipa::path(get, path = "/api/v1/instances/{id}/explain", tag = "instances", params(What),
    responses((status = 200, description = "`why` is for people, the rest for tools.", body = Object)))]
pub(super) async fn explain_instance(
    State(api): State<Shared>,
    Extension(instance): Extension<Instance>,
    Query(what): Query<What>,
) -> Result<JsonAnswer<Value>, ApiError> {
    let store = &*api.server.store;
    let mut task = None;
    if let Some(id) = what.task {
        match store.task(instance.id, id).await? {
            Some(row) if row.state.is_ended() => {
                return Ok(JsonAnswer(how_the_task_ended(&instance, &row)));
            }
            Some(row) => task = Some(row.id),
            // The only task of a standalone instance is the instance.
            None if id == TaskId::ROOT && store.fanout(instance.id).await?.is_none() => {}
            None => return Err(ApiError::new(&TASK_NOT_FOUND)),
        }
    }
    if instance.state.is_ended() {
        return how_it_ended(&api, &instance).await.map(JsonAnswer);
    }
    let command = Command::InstanceExplain { instance: instance.id, task };
    match api.server.partitions.command(instance.id.partition(), command, DEADLINE).await? {
        Reply::Explanation(json) => match serde_json::from_str(&json) {
            Ok(explanation) => Ok(JsonAnswer(explanation)),
            Err(error) => {
                tracing::error!(%error, "the engine's explanation is no JSON");
                Err(ApiError::new(&INTERNAL))
            }
        },
        // It ended between our look at the store and the engine's at its memory.
        Reply::Refused(Refusal::NotActive) => {
            let ended = store.instance(instance.id).await?.ok_or_else(|| ApiError::new(&INSTANCE_NOT_FOUND))?;
            let row = match task {
                Some(id) => store.task(instance.id, id).await?,
                None => None,
            };
            match row {
                Some(row) => Ok(JsonAnswer(how_the_task_ended(&ended, &row))),
                None => how_it_ended(&api, &ended).await.map(JsonAnswer),
            }
        }
        Reply::Refused(refusal) => Err(refusal.into()),
        reply => Err(unexpected(&reply)),
    }
}

async fn how_it_ended(api: &Shared, instance: &Instance) -> Result<Value, ApiError> {
    let fanout = api.server.store.fanout(instance.id).await?;
    let reason = instance.reason.as_ref().map(ToString::to_string);
    let worker = instance.worker.as_ref().map(|worker| worker.name.to_string());
    let mut told = json!({
        "instance": instance.id,
        "state": instance.state,
        "why": why_ended(instance.state.as_str(), reason.as_deref(), instance.message.as_deref(), worker.as_deref()),
        "reason": reason,
        "message": instance.message.as_deref(),
        "worker": worker,
        "placement": views::placement(instance.placement.as_deref()),
    });
    if let Some(fanout) = fanout {
        let tasks = task_views::tasks(&fanout, instance);
        if tasks.counts.failed + tasks.counts.lost > 0 {
            told["hint"] = json!("look at the tasks that failed or were lost; `retry` can run just those again");
        }
        told["tasks"] = json!(tasks);
    }
    Ok(told)
}

fn how_the_task_ended(instance: &Instance, task: &Task) -> Value {
    let reason = task.reason.as_ref().map(ToString::to_string);
    let worker = task.worker.as_ref().map(|worker| worker.name.to_string());
    json!({
        "instance": instance.id,
        "task": task.id,
        "state": instance.state,
        "task_state": task.state,
        "task_attempt": task.attempt,
        "why": why_ended(task.state.as_str(), reason.as_deref(), task.message.as_deref(), worker.as_deref()),
        "reason": reason,
        "message": task.message.as_deref(),
        "worker": worker,
        "placement": views::placement(task.placement.as_deref()),
    })
}

/// One sentence: how, where and why.
fn why_ended(state: &str, reason: Option<&str>, message: Option<&str>, worker: Option<&str>) -> String {
    let place = worker.map(|worker| format!(" on worker {worker}")).unwrap_or_default();
    let cause = reason.map(|reason| format!(", because of {reason}")).unwrap_or_default();
    let said = message.map(|message| format!(": {}", message.lines().next().unwrap_or_default())).unwrap_or_default();
    format!("it ended {state}{place}{cause}{said}")
}
