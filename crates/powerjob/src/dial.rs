//! Calls to workers.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use pendula_akka::kryo::Class;
use pendula_akka::transport::Associations;
use serde::Serialize;

use crate::akka;
use crate::messages::{AboutInstance, AskResponse, ServerScheduleJobReq, TaskTrackerStartTaskReq};
use crate::way::Way;

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
    /// The way to workers over Akka, where that is served.
    akka: Option<Associations>,
}

impl Dialer {
    pub(crate) fn new(akka: Option<Associations>) -> anyhow::Result<Self> {
        let client = reqwest::Client::builder()
            .http1_only()
            // Never by way of a proxy, nor to where an answer points: only what the gate allows is called.
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT)
            .timeout(ANSWER)
            .pool_idle_timeout(IDLE)
            .build()?;
        Ok(Dialer { client, akka })
    }

    pub(crate) async fn run_job(&self, way: &Way, request: &ServerScheduleJobReq) -> Result<(), CallError> {
        self.tell(way, "/worker/runJob", Class::ServerScheduleJobReq, request).await
    }

    pub(crate) async fn stop_instance(&self, way: &Way, instance: i64) -> Result<(), CallError> {
        let about = AboutInstance { instance_id: instance };
        self.tell(way, "/worker/stopInstance", Class::ServerStopInstanceReq, &about).await
    }

    pub(crate) async fn start_task(&self, way: &Way, request: &TaskTrackerStartTaskReq) -> Result<(), CallError> {
        self.post(http_only(way)?, "/processorTracker/startTask", request).await.map(drop)
    }

    /// Ends all tasks of the instance that the server gave the worker.
    pub(crate) async fn stop_tasks(&self, way: &Way, instance: i64) -> Result<(), CallError> {
        let about = AboutInstance { instance_id: instance };
        self.post(http_only(way)?, "/processorTracker/stopInstance", &about).await.map(drop)
    }

    /// Whether the worker has a tracker for the instance.
    pub(crate) async fn is_tracked(&self, way: &Way, instance: i64) -> Result<Tracked, CallError> {
        let about = AboutInstance { instance_id: instance };
        let answer = match way {
            Way::Http(to) => serde_json::from_slice(&self.post(*to, "/worker/queryInstanceStatus", &about).await?),
            Way::Akka(worker, spoken) => {
                let class = Class::ServerQueryInstanceStatusReq;
                serde_json::from_value(akka::ask(self.akka.as_ref(), worker, class, &about, *spoken).await?)
            }
        };
        let answer: AskResponse = answer.map_err(|error| CallError::NoAnswer(error.to_string()))?;
        match (answer.success, answer.message) {
            (true, _) => Ok(Tracked::Yes),
            (false, Some(message)) if message.to_lowercase().contains("can't find tasktracker") => Ok(Tracked::No),
            (false, message) => Err(CallError::NoAnswer(message.unwrap_or_default())),
        }
    }

    async fn tell(&self, way: &Way, path: &str, class: Class, message: &impl Serialize) -> Result<(), CallError> {
        match way {
            Way::Http(to) => self.post(*to, path, message).await.map(drop),
            Way::Akka(worker, spoken) => akka::tell(self.akka.as_ref(), worker, class, message, *spoken).await,
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

/// Tasks that the server tracks go over HTTP.
fn http_only(way: &Way) -> Result<SocketAddr, CallError> {
    match way {
        Way::Http(to) => Ok(*to),
        Way::Akka(..) => Err(CallError::NotSent("it speaks Akka, and this goes over HTTP".to_owned())),
    }
}

fn failed(error: reqwest::Error) -> CallError {
    let why = std::error::Error::source(&error).map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"));
    if error.is_connect() { CallError::NotSent(why) } else { CallError::NoAnswer(why) }
}
