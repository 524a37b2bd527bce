//! The tasks of an instance: finding them, looking at them, trying them again.

use std::time::Duration;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json as JsonAnswer};
use http::{HeaderName, HeaderValue, header};
use pendula_engine::{Command, Reply};
use pendula_model::TaskId;
use pendula_model::api::{PageOf, RetriedTasks, RetryTasks, TaskDetail, TaskView};
use pendula_model::instance::{Instance, Payload, TaskState};
use pendula_store::TaskFilter;
use serde::Deserialize;
use tokio::time::Instant;
use utoipa::IntoParams;

use super::body::{OptionalJson, Query};
use super::guard::TaskNumber;
use super::page::{self, Limit};
use super::problem::*;
use super::{Shared, task_views, unexpected};

/// Tasks that one request may name.
const NAMED: usize = 10_000;
/// How long a request goes on with the next ones of all; the caller is told how many are left.
const LONGEST: Duration = Duration::from_secs(5);

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct WhichTasks {
    /// Only those in one of these states, separated by commas. Of an ended instance, what never ran is `stopped`.
    #[param(example = "failed,lost")]
    state: Option<String>,
    /// Only those whose name contains this, ignoring ASCII case.
    name: Option<String>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
    /// Items of a page: 1 to 1,000. Default 50.
    #[serde(default)]
    #[param(value_type = Option<u32>)]
    limit: Limit,
}

/// The tasks of an instance, in order of their numbers; a standalone one has just the task 0.
#[utoipa::path(get, path = "/api/v1/instances/{id}/tasks", tag = "tasks", params(WhichTasks),
    responses((status = 200, description = "A page of them.", body = PageOf<TaskView>)))]
pub(super) async fn list_tasks(
    State(api): State<Shared>,
    Extension(instance): Extension<Instance>,
    Query(which): Query<WhichTasks>,
) -> Result<JsonAnswer<PageOf<TaskView>>, ApiError> {
    let states = page::words::<TaskState>("state", which.state.as_deref())?;
    let from = page::after::<TaskId>("tasks", which.cursor.as_deref())?.unwrap_or_default();
    let store = &*api.server.store;
    if is_alone(&api, &instance).await? {
        let root = task_views::root_task(&instance);
        let is_named = which.name.is_none_or(|part| root.name.contains(&part.to_ascii_lowercase()));
        let is_meant = is_named && (states.is_empty() || states.contains(&root.state)) && from == TaskId::ROOT;
        return Ok(JsonAnswer(PageOf { items: is_meant.then_some(root).into_iter().collect(), next_cursor: None }));
    }
    let limit = which.limit.get();
    let filter = TaskFilter { instance: instance.id, states, name_contains: which.name, from, limit };
    let found = store.tasks(filter).await?;
    let next_cursor = found.items.last().filter(|_| found.more).map(|last| page::cursor("tasks", last.id.next()));
    let items = found.items.iter().map(task_views::task).collect();
    Ok(JsonAnswer(PageOf { items, next_cursor }))
}

/// Whether the instance itself is all that there is.
async fn is_alone(api: &Shared, instance: &Instance) -> Result<bool, ApiError> {
    let store = &*api.server.store;
    if store.fanout(instance.id).await?.is_some() {
        return Ok(false);
    }
    // One with many tasks has none before it begins.
    let names = api.names.of(store, std::slice::from_ref(instance)).await?;
    Ok(names.mode(instance) == "standalone")
}

/// One task: its input and result, all its attempts and where they ran.
#[utoipa::path(get, path = "/api/v1/instances/{id}/tasks/{task}", tag = "tasks",
    responses((status = 200, description = "The task.", body = TaskDetail)))]
pub(super) async fn show_task(
    State(api): State<Shared>,
    Extension(instance): Extension<Instance>,
    Extension(TaskNumber(id)): Extension<TaskNumber>,
) -> Result<JsonAnswer<TaskDetail>, ApiError> {
    let store = &*api.server.store;
    let row = store.task(instance.id, id).await?;
    if row.is_none() && !(id == TaskId::ROOT && is_alone(&api, &instance).await?) {
        return Err(ApiError::new(&TASK_NOT_FOUND));
    }
    let past = store.past_attempts(instance.id, id).await?;
    Ok(JsonAnswer(match row {
        Some(row) => task_views::task_detail(&row, past),
        None => task_views::root_task_detail(&instance, past),
    }))
}

/// The result of a task, byte by byte as it left it.
#[utoipa::path(get, path = "/api/v1/instances/{id}/tasks/{task}/result", tag = "tasks",
    responses((status = 200, description = "The bytes, with the content type that the task gave them.", body = String,
        content_type = "application/octet-stream")))]
pub(super) async fn read_result(
    State(api): State<Shared>,
    Extension(instance): Extension<Instance>,
    Extension(TaskNumber(id)): Extension<TaskNumber>,
) -> Result<Response, ApiError> {
    let result = match api.server.store.task(instance.id, id).await? {
        Some(row) => row.result.map(std::sync::Arc::unwrap_or_clone),
        None if id == TaskId::ROOT && is_alone(&api, &instance).await? => instance.result.clone(),
        None => return Err(ApiError::new(&TASK_NOT_FOUND)),
    };
    let Payload { content_type, bytes } = result.ok_or_else(|| ApiError::new(&RESULT_NOT_FOUND))?;
    // It is somebody's data, and no page of ours: no browser shows it, runs it, or guesses what it is.
    let headers = [
        (header::CONTENT_TYPE, media_type(&content_type)),
        (header::CONTENT_DISPOSITION, text(&format!("attachment; filename=\"{}-{id}\"", instance.id))),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (HeaderName::from_static("content-security-policy"), HeaderValue::from_static("sandbox; default-src 'none'")),
    ];
    Ok((headers, bytes).into_response())
}

/// The content type as a header, if it can be one.
fn media_type(content_type: &str) -> HeaderValue {
    let is_plain = content_type.contains('/') && content_type.bytes().all(|byte| (0x20..0x7f).contains(&byte));
    text(if is_plain { content_type } else { "application/octet-stream" })
}

fn text(value: &str) -> HeaderValue {
    HeaderValue::from_str(value).unwrap_or_else(|_| HeaderValue::from_static("application/octet-stream"))
}

/// Lets tasks of an active instance that failed or were lost wait for another try.
///
/// Those that are named, or all of them. Of very many, one request takes as many as it can in some seconds: `left` says
/// whether to ask again. Tasks of an instance that has ended are run again by its `retry`.
#[utoipa::path(post, path = "/api/v1/instances/{id}/tasks/retry", tag = "tasks", request_body = Option<RetryTasks>,
    responses((status = 200, description = "How many wait again.", body = RetriedTasks)))]
pub(super) async fn retry_tasks(
    State(api): State<Shared>,
    Extension(instance): Extension<Instance>,
    OptionalJson(retry): OptionalJson<RetryTasks>,
) -> Result<JsonAnswer<RetriedTasks>, ApiError> {
    if retry.tasks.len() > NAMED {
        let why = format!("has {} tasks; at most {NAMED}, or none for all", retry.tasks.len());
        return Err(ApiError::with(&INVALID_VALUE, why).at("tasks"));
    }
    let begun = Instant::now();
    // No more than there are now: those that fail again meanwhile are for the next request.
    let most = unsuccessful(&api, &instance).await?;
    let mut retried = 0;
    loop {
        let command = Command::TasksRetry { instance: instance.id, tasks: retry.tasks.clone() };
        let count = match api.command(instance.id.partition(), command).await? {
            Reply::Retried(count) => count as u64,
            reply => return Err(unexpected(&reply)),
        };
        retried += count;
        if !retry.tasks.is_empty() || count == 0 || retried >= most || begun.elapsed() > LONGEST {
            break;
        }
    }
    Ok(JsonAnswer(RetriedTasks { retried, left: unsuccessful(&api, &instance).await? }))
}

/// Tasks that stand as failed or lost.
async fn unsuccessful(api: &Shared, instance: &Instance) -> Result<u64, ApiError> {
    let fanout = api.server.store.fanout(instance.id).await?;
    Ok(fanout.map_or(0, |fanout| fanout.counts.failed + fanout.counts.lost))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_types_of_others_become_headers_or_plain_bytes() {
        for (given, sent) in [
            ("text/csv; charset=utf-8", "text/csv; charset=utf-8"),
            ("", "application/octet-stream"),
            ("no type", "application/octet-stream"),
            ("text/html\r\nset-cookie: a=b", "application/octet-stream"),
            ("text/é", "application/octet-stream"),
        ] {
            assert_eq!(media_type(given), sent, "{given:?}");
        }
    }
}
