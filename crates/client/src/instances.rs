//! `/instances` and their logs.

use bytes::Bytes;
use futures::{Stream, StreamExt};
use pendula_model::api::{InstanceView, LogView, PageOf, RetryInstance, RetryOnly, RunResult};
use pendula_model::instance::InstanceState;
use pendula_model::{InstanceId, TaskId, Timestamp};
use reqwest::Method;

use crate::connection::Client;
use crate::error::ClientError;
use crate::jobs::RunKey;

/// Which instances a listing shows; what is left out does not restrict it.
#[derive(Clone, Debug, Default)]
pub struct InstanceFilter {
    pub app: Option<String>,
    pub job: Option<String>,
    /// Any of these; empty means all.
    pub states: Vec<InstanceState>,
    /// Created at or after.
    pub from: Option<Timestamp>,
    /// Created before.
    pub before: Option<Timestamp>,
    /// `next_cursor` of the page before.
    pub cursor: Option<String>,
    /// Rows of the page; the server has a default and a maximum.
    pub limit: Option<u32>,
}

/// A piece of a log.
#[derive(Clone, Copy, Debug, Default)]
pub struct LogRange {
    /// Default: 0, the only task of a standalone instance.
    pub task: Option<TaskId>,
    /// Default: the latest.
    pub attempt: Option<u32>,
    /// Bytes to skip.
    pub offset: Option<u64>,
    /// Bytes to read, at most 1 MiB.
    pub limit: Option<u64>,
    /// Only the last so many lines, at most 10,000; excludes `offset`.
    pub tail: Option<u32>,
}

impl Client {
    /// One page of instances, newest first.
    pub async fn instance_list(&self, filter: &InstanceFilter) -> Result<PageOf<InstanceView>, ClientError> {
        let states: Vec<_> = filter.states.iter().map(|state| state.as_str()).collect();
        let states = (!states.is_empty()).then(|| states.join(","));
        let request = self
            .request(Method::GET, &["instances"])
            .query(&[("app", &filter.app), ("job", &filter.job), ("state", &states), ("cursor", &filter.cursor)])
            .query(&[("from", filter.from), ("before", filter.before)])
            .query(&[("limit", filter.limit)]);
        self.json(request).await
    }

    /// One instance with its attempts.
    pub async fn instance_fetch(&self, id: InstanceId) -> Result<InstanceView, ClientError> {
        self.get(&["instances", &id.to_string()]).await
    }

    /// Why it, or one of its tasks, waits, where it runs and why there, or how it ended. `why` and `hint` are for people,
    /// the rest for tools.
    pub async fn instance_explain(
        &self,
        id: InstanceId,
        task: Option<TaskId>,
    ) -> Result<serde_json::Value, ClientError> {
        let request = self.request(Method::GET, &["instances", &id.to_string(), "explain"]);
        self.json(request.query(&[("task", task)])).await
    }

    /// Stops what runs, cancels what waits; the answer is the instance as it is then.
    pub async fn instance_stop(&self, id: InstanceId) -> Result<InstanceView, ClientError> {
        self.json(self.request(Method::POST, &["instances", &id.to_string(), "stop"]).repeatable()).await
    }

    /// Cancels it, if no worker has it yet.
    pub async fn instance_cancel(&self, id: InstanceId) -> Result<InstanceView, ClientError> {
        self.json(self.request(Method::POST, &["instances", &id.to_string(), "cancel"]).repeatable()).await
    }

    /// Runs an ended instance again, as a new one.
    pub async fn instance_retry(&self, id: InstanceId, key: RunKey<'_>) -> Result<RunResult, ClientError> {
        self.retry(id, RetryInstance::default(), key).await
    }

    /// Runs those sub-tasks or shards of an ended instance again that did not succeed, as a new instance.
    pub async fn instance_retry_unsuccessful(&self, id: InstanceId, key: RunKey<'_>) -> Result<RunResult, ClientError> {
        self.retry(id, RetryInstance { only: Some(RetryOnly::Unsuccessful) }, key).await
    }

    async fn retry(&self, id: InstanceId, what: RetryInstance, key: RunKey<'_>) -> Result<RunResult, ClientError> {
        let mut request = self.request(Method::POST, &["instances", &id.to_string(), "retry"]);
        if what.only.is_some() {
            request = request.json(&what);
        }
        if let RunKey::Given(key) = key {
            request = request.key(key);
        }
        self.json(request).await
    }

    pub async fn log_fetch(&self, id: InstanceId, range: LogRange) -> Result<LogView, ClientError> {
        let request = self
            .request(Method::GET, &["instances", &id.to_string(), "logs"])
            .query(&[("task", range.task)])
            .query(&[("attempt", range.attempt)])
            .query(&[("offset", range.offset), ("limit", range.limit)])
            .query(&[("tail", range.tail)]);
        self.json(request).await
    }

    /// The whole log of an attempt (default: the latest) of a task (default: the first) as it was written.
    pub async fn log_download(
        &self,
        id: InstanceId,
        task: Option<TaskId>,
        attempt: Option<u32>,
    ) -> Result<impl Stream<Item = Result<Bytes, ClientError>> + use<>, ClientError> {
        let request = self
            .request(Method::GET, &["instances", &id.to_string(), "logs", "download"])
            .query(&[("task", task)])
            .query(&[("attempt", attempt)]);
        let response = self.send(request).await?;
        let client = self.clone();
        Ok(response.bytes_stream().map(move |chunk| chunk.map_err(|error| client.broke(&error))))
    }
}
