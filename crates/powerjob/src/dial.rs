//! Calls to workers.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;

use crate::messages::{AboutInstance, AskResponse, ServerScheduleJobReq, TaskTrackerStartTaskReq};

/// Who is alive is connected to within this.
const CONNECT: Duration = Duration::from_secs(3);
/// A worker answers within this, or it does not.
const ANSWER: Duration = Duration::from_secs(5);
/// Workers drop idle connections after 300 s.
const IDLE: Duration = Duration::from_secs(60);

/// Why a call was not answered with 200.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    /// Nothing of it arrived.
    #[error("it cannot be reached: {0}")]
    NotSent(String),
    /// It may have arrived.
    #[error("it did not answer: {0}")]
    NoAnswer(String),
    /// It arrived, and nothing came of it.
    #[error("it answered with status {0}")]
    Status(u16),
}

/// What a worker knows of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tracked {
    Yes,
    No,
}

/// Calls any worker. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Dialer {
    client: reqwest::Client,
}

impl Dialer {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let client = reqwest::Client::builder()
            .http1_only()
            // Never by way of a proxy, nor to where an answer points: only what the gate allows is called.
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT)
            .timeout(ANSWER)
            .pool_idle_timeout(IDLE)
            .build()?;
        Ok(Dialer { client })
    }

    pub(crate) async fn run_job(&self, to: SocketAddr, request: &ServerScheduleJobReq) -> Result<(), CallError> {
        self.post(to, "/worker/runJob", request).await.map(drop)
    }

    pub(crate) async fn stop_instance(&self, to: SocketAddr, instance: i64) -> Result<(), CallError> {
        self.post(to, "/worker/stopInstance", &AboutInstance { instance_id: instance }).await.map(drop)
    }

    pub(crate) async fn start_task(&self, to: SocketAddr, request: &TaskTrackerStartTaskReq) -> Result<(), CallError> {
        self.post(to, "/processorTracker/startTask", request).await.map(drop)
    }

    /// Ends all tasks of the instance that the server gave the worker.
    pub(crate) async fn stop_tasks(&self, to: SocketAddr, instance: i64) -> Result<(), CallError> {
        self.post(to, "/processorTracker/stopInstance", &AboutInstance { instance_id: instance }).await.map(drop)
    }

    /// Whether the worker has a tracker for the instance.
    pub(crate) async fn is_tracked(&self, to: SocketAddr, instance: i64) -> Result<Tracked, CallError> {
        let body = self.post(to, "/worker/queryInstanceStatus", &AboutInstance { instance_id: instance }).await?;
        let answer: AskResponse =
            serde_json::from_slice(&body).map_err(|error| CallError::NoAnswer(error.to_string()))?;
        match (answer.success, answer.message) {
            (true, _) => Ok(Tracked::Yes),
            (false, Some(message)) if message.to_lowercase().contains("can't find tasktracker") => Ok(Tracked::No),
            (false, message) => Err(CallError::NoAnswer(message.unwrap_or_default())),
        }
    }

    async fn post(&self, to: SocketAddr, path: &str, message: &impl Serialize) -> Result<Bytes, CallError> {
        let body = serde_json::to_vec(message).expect("plain data becomes JSON");
        let request = self.client.post(format!("http://{to}{path}")).header("content-type", "application/json");
        let answer = request.body(body).send().await.map_err(failed)?;
        let status = answer.status().as_u16();
        if status != 200 {
            return Err(CallError::Status(status));
        }
        answer.bytes().await.map_err(failed)
    }
}

fn failed(error: reqwest::Error) -> CallError {
    let why = std::error::Error::source(&error).map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"));
    if error.is_connect() { CallError::NotSent(why) } else { CallError::NoAnswer(why) }
}
