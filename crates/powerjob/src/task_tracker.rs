//! What workers tell whoever tracks an instance, where that is the server.
//!
//! None of it says of which app it is; the instance does.

use std::time::Duration;

use axum::extract::{Request, State};
use axum::response::Response;
use pendula_model::InstanceId;
use serde::de::DeserializeOwned;
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::messages::*;
use crate::run::Shared;
use crate::tasks;
use crate::transport::{Arrived, Here, arrive, empty, json};
use crate::workers::Told;

/// It was idle, and is gone.
const GONE: i64 = 1;
/// Whoever emits sub-tasks waits 5 s for the answer.
const ON_DISK_WITHIN: Duration = Duration::from_millis(4500);

pub(crate) async fn report_task_status(State(shared): State<Shared>, request: Request) -> Response {
    let about = |report: &ProcessorReportTaskStatusReq| InstanceId(report.instance_id);
    let found = of_instance(&shared, request, about).await;
    let Ok(Here { message: report, app, .. }) = found else { return found.err().unwrap_or_default() };
    let is_final = matches!(report.status, task_status::FAILED | task_status::SUCCEEDED);
    let done = || if is_final { json(&AskResponse::done()) } else { empty() };
    let again = |why: &str| if is_final { json(&AskResponse::refused(why)) } else { empty() };
    // What was never sent from here nobody waits for.
    let Some(key) = tasks::attempt(report.instance_id, &report.task_id) else { return done() };
    let Some((_, known)) = shared.around.workers.find_task(key).filter(|(of, _)| *of == app.id) else {
        // Its worker's session may not be there yet: the worker repeats the report until then.
        return match shared.gateway.server().store.task(key.instance, key.task).await {
            Ok(Some(task)) if task.attempt == key.attempt && !task.state.is_ended() => again("not connected yet"),
            Ok(_) => done(),
            Err(_) => again("the store cannot be read now"),
        };
    };
    let (answer, answered) = oneshot::channel();
    if known.told.send(Told::TaskStatus { key, report: Box::new(report), answer }).await.is_err() {
        return again("the worker's session just ended");
    }
    match timeout(shared.around.timing.answer_within, answered).await {
        Ok(Ok(true)) => done(),
        _ => again("it is not on disk yet"),
    }
}

pub(crate) async fn report_processor_tracker_status(State(shared): State<Shared>, request: Request) -> Response {
    let about = |report: &ProcessorTrackerStatusReportReq| InstanceId(report.instance_id);
    let found = of_instance(&shared, request, about).await;
    let Ok(Here { message: report, app, .. }) = found else { return found.err().unwrap_or_default() };
    if let Some(known) = shared.around.workers.find(app.id, &report.address) {
        let (instance, is_gone) = (InstanceId(report.instance_id), report.kind == GONE);
        let _ = known.told.send(Told::TrackerStatus { instance, is_gone }).await;
    }
    empty()
}

pub(crate) async fn map_task(State(shared): State<Shared>, request: Request) -> Response {
    let about = |request: &ProcessorMapTaskRequest| InstanceId(request.instance_id);
    let found = of_instance(&shared, request, about).await;
    let Ok(Here { message, app, .. }) = found else { return found.err().unwrap_or_default() };
    let sub_tasks = match tasks::sub_tasks(message) {
        Ok(sub_tasks) => sub_tasks,
        Err(why) => {
            tracing::warn!(app = app.name, why, "sub-tasks of a PowerJob processor were refused");
            return json(&AskResponse::refused(why));
        }
    };
    let found = shared.around.workers.find_task(sub_tasks.parent).filter(|(of, _)| *of == app.id);
    let Some((_, known)) = found else { return json(&AskResponse::refused("nobody waits for this task")) };
    let (answer, answered) = oneshot::channel();
    let told = known.told.send(Told::SubTasks { sub_tasks, answer }).await;
    match timeout(ON_DISK_WITHIN, answered).await {
        Ok(Ok(true)) if told.is_ok() => json(&AskResponse::done()),
        _ => json(&AskResponse::refused("the sub-tasks are not on disk")),
    }
}

/// Has the owner of the instance's app answer.
async fn of_instance<T: DeserializeOwned>(
    shared: &Shared,
    request: Request,
    about: impl Fn(&T) -> InstanceId,
) -> Result<Here<T>, Response> {
    let arrived: Arrived<T> = arrive(request).await?;
    let row = shared.gateway.server().store.instance(about(&arrived.message)).await;
    let app = row.ok().flatten().map(|row| row.app);
    arrived.at_owner_of(shared, app).await
}
