//! Calls to workers.

use std::net::SocketAddr;
use std::time::Duration;

use pendula_akka::kryo::Class;
use pendula_akka::transport::Associations;
use pendula_model::worker::BootId;
use pendula_server::Gateway;
use pendula_server::gateway::Lost;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::time::Instant;

use crate::akka;
use crate::messages::{AboutInstance, AskResponse, ServerScheduleJobReq, TaskTrackerStartTaskReq};
use crate::on_behalf::{self, Asked};
use crate::way::Way;

/// Who is alive is connected to within this.
const CONNECT: Duration = Duration::from_secs(3);
/// A worker answers within this, or it does not.
const ANSWER: Duration = Duration::from_secs(5);
/// The same for a call that another server makes.
const CARRIED: Duration = Duration::from_secs(7);
/// Workers drop idle connections after 300 s.
const IDLE: Duration = Duration::from_secs(60);

/// Why a call was not answered with 200.
#[derive(Debug, thiserror::Error, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
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

/// What a worker is called for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Order {
    RunJob,
    StopInstance,
    QueryStatus,
    StartTask,
    StopTasks,
}

impl Order {
    fn path(self) -> &'static str {
        match self {
            Order::RunJob => "/worker/runJob",
            Order::StopInstance => "/worker/stopInstance",
            Order::QueryStatus => "/worker/queryInstanceStatus",
            Order::StartTask => "/processorTracker/startTask",
            Order::StopTasks => "/processorTracker/stopInstance",
        }
    }

    /// Its message over Akka.
    fn class(self) -> Class {
        match self {
            Order::RunJob => Class::ServerScheduleJobReq,
            Order::StopInstance => Class::ServerStopInstanceReq,
            Order::QueryStatus => Class::ServerQueryInstanceStatusReq,
            Order::StartTask => Class::TaskTrackerStartTaskReq,
            Order::StopTasks => Class::TaskTrackerStopInstanceReq,
        }
    }
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
    /// The way to other servers, which call where this one cannot.
    gateway: Gateway,
}

impl Dialer {
    pub(crate) fn new(gateway: Gateway, akka: Option<Associations>) -> anyhow::Result<Self> {
        let client = reqwest::Client::builder()
            .http1_only()
            // Never by way of a proxy, nor to where an answer points: only what the gate allows is called.
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT)
            .timeout(ANSWER)
            .pool_idle_timeout(IDLE)
            .build()?;
        Ok(Dialer { client, akka, gateway })
    }

    pub(crate) async fn run_job(&self, way: &Way, request: &ServerScheduleJobReq) -> Result<(), CallError> {
        self.call(way, Order::RunJob, request).await.map(drop)
    }

    pub(crate) async fn stop_instance(&self, way: &Way, instance: i64) -> Result<(), CallError> {
        self.call(way, Order::StopInstance, &AboutInstance { instance_id: instance }).await.map(drop)
    }

    pub(crate) async fn start_task(&self, way: &Way, request: &TaskTrackerStartTaskReq) -> Result<(), CallError> {
        self.call(way, Order::StartTask, request).await.map(drop)
    }

    /// Ends all tasks of the instance that the server gave the worker.
    pub(crate) async fn stop_tasks(&self, way: &Way, instance: i64) -> Result<(), CallError> {
        self.call(way, Order::StopTasks, &AboutInstance { instance_id: instance }).await.map(drop)
    }

    /// Whether the worker has a tracker for the instance.
    pub(crate) async fn is_tracked(&self, way: &Way, instance: i64) -> Result<Tracked, CallError> {
        let answer = self.call(way, Order::QueryStatus, &AboutInstance { instance_id: instance }).await?;
        let answer = serde_json::from_value::<AskResponse>(answer);
        let answer = answer.map_err(|error| CallError::NoAnswer(error.to_string()))?;
        match (answer.success, answer.message) {
            (true, _) => Ok(Tracked::Yes),
            (false, Some(message)) if message.to_lowercase().contains("can't find tasktracker") => Ok(Tracked::No),
            (false, message) => Err(CallError::NoAnswer(message.unwrap_or_default())),
        }
    }

    /// Calls once. Returns what a question was answered; of anything else nothing.
    pub(crate) async fn call(&self, way: &Way, order: Order, message: &impl Serialize) -> Result<Value, CallError> {
        match way {
            Way::Http(to) => self.post(*to, order, message).await,
            Way::Akka(worker, spoken) if order == Order::QueryStatus => {
                akka::ask(self.akka.as_ref(), worker, order.class(), message, *spoken).await
            }
            Way::Akka(worker, spoken) => {
                akka::tell(self.akka.as_ref(), worker, order.class(), message, *spoken).await.map(|()| Value::Null)
            }
            Way::Through { carrier, app, worker, spoken } => {
                let (app, worker) = (app.to_string(), worker.to_string());
                self.have_called(*carrier, &Asked { app, worker, spoken: *spoken, order, message }).await
            }
        }
    }

    async fn post(&self, to: SocketAddr, order: Order, message: &impl Serialize) -> Result<Value, CallError> {
        let body = serde_json::to_vec(message).expect("plain data becomes JSON");
        let url = format!("http://{to}{}", order.path());
        let request = self.client.post(url).header("content-type", "application/json");
        let answer = request.body(body).send().await.map_err(failed)?;
        let status = answer.status().as_u16();
        if status != 200 {
            return Err(CallError::Status(status));
        }
        let answer = answer.bytes().await.map_err(failed)?;
        match order {
            Order::QueryStatus => {
                serde_json::from_slice(&answer).map_err(|error| CallError::NoAnswer(error.to_string()))
            }
            _ => Ok(Value::Null),
        }
    }

    /// Has another server call.
    async fn have_called(&self, carrier: BootId, asked: &Asked<impl Serialize>) -> Result<Value, CallError> {
        let body = serde_json::to_vec(asked).expect("plain data becomes JSON").into();
        match self.gateway.ask_peer(carrier, on_behalf::PATH, body, Instant::now() + CARRIED).await {
            Ok(answer) => serde_json::from_slice::<Result<Value, CallError>>(&answer)
                .unwrap_or_else(|error| Err(CallError::NoAnswer(error.to_string()))),
            Err(Lost::NotSent(why)) => Err(CallError::NotSent(format!("the server that it talks to: {why}"))),
            Err(Lost::NoAnswer(why)) => Err(CallError::NoAnswer(format!("the server that it talks to: {why}"))),
        }
    }
}

fn failed(error: reqwest::Error) -> CallError {
    let why = std::error::Error::source(&error).map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"));
    if error.is_connect() { CallError::NotSent(why) } else { CallError::NoAnswer(why) }
}
