//! `/instances/{id}/tasks`: the tasks of an instance.

use bytes::Bytes;
use pendula_model::api::{PageOf, RetriedTasks, RetryTasks, TaskDetail, TaskView};
use pendula_model::instance::TaskState;
use pendula_model::{InstanceId, TaskId};
use reqwest::Method;

use crate::connection::Client;
use crate::error::ClientError;

/// Which tasks of an instance a listing shows; what is left out does not restrict it.
#[derive(Clone, Debug, Default)]
pub struct TaskFilter {
    /// Any of these; empty means all.
    pub states: Vec<TaskState>,
    /// Part of the name.
    pub name: Option<String>,
    /// `next_cursor` of the page before.
    pub cursor: Option<String>,
    /// Rows of the page; the server has a default and a maximum.
    pub limit: Option<u32>,
}

/// What a task left, as it left it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskBytes {
    pub content_type: String,
    pub bytes: Bytes,
}

impl Client {
    /// One page of an instance's tasks, in order of their numbers.
    pub async fn instance_tasks(&self, id: InstanceId, filter: &TaskFilter) -> Result<PageOf<TaskView>, ClientError> {
        let states: Vec<_> = filter.states.iter().map(|state| state.as_str()).collect();
        let states = (!states.is_empty()).then(|| states.join(","));
        let request = self
            .request(Method::GET, &["instances", &id.to_string(), "tasks"])
            .query(&[("state", &states), ("name", &filter.name), ("cursor", &filter.cursor)])
            .query(&[("limit", filter.limit)]);
        self.json(request).await
    }

    /// One task with its input, result and attempts.
    pub async fn task_fetch(&self, id: InstanceId, task: TaskId) -> Result<TaskDetail, ClientError> {
        self.get(&["instances", &id.to_string(), "tasks", &task.to_string()]).await
    }

    /// The result of a task, byte by byte.
    pub async fn task_result(&self, id: InstanceId, task: TaskId) -> Result<TaskBytes, ClientError> {
        let path = ["instances", &id.to_string(), "tasks", &task.to_string(), "result"];
        let (headers, bytes) = self.fetch(self.request(Method::GET, &path)).await?;
        let content_type = headers.get(http::header::CONTENT_TYPE);
        let content_type = content_type.and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
        Ok(TaskBytes { content_type, bytes })
    }

    /// Lets tasks of an active instance that failed or were lost wait for another try: those named, at most 10,000, or
    /// all when none is named. Of very many it takes as many as it can in some seconds; the answer says whether some are
    /// left.
    pub async fn tasks_retry(&self, id: InstanceId, tasks: Vec<TaskId>) -> Result<RetriedTasks, ClientError> {
        self.post(&["instances", &id.to_string(), "tasks", "retry"], &RetryTasks { tasks }).await
    }
}
