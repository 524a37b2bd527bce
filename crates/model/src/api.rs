//! The REST API's JSON, shared by server, client and CLI. Field names are public and only ever added to.
//!
//! With the feature `openapi` each type also describes itself for the OpenAPI document.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::change::Gap;
use crate::id::{AppId, InstanceId, JobId, TokenId};
use crate::instance::{InstanceState, Origin, StopCause, TaskState};
use crate::job::JobSpec;
use crate::task::{Phase, TaskCounts, TaskId, TaskRole};
use crate::time::Timestamp;
use crate::worker::HostMetrics;

/// A page of a listing; pass `next_cursor` back as `cursor` for the following one.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PageOf<T> {
    pub items: Vec<T>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct AppView {
    pub id: AppId,
    pub name: String,
    pub namespace: String,
    pub partition: u16,
    pub allow_scripts: bool,
    pub created_at: Timestamp,
    pub version: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct AppCreate {
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    #[serde(default)]
    pub allow_scripts: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct AppUpdate {
    pub allow_scripts: bool,
}

/// A saved job: its definition and where it stands.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct JobView {
    pub id: JobId,
    /// Name of the app.
    pub app: String,
    pub spec: JobSpec,
    pub revision: u32,
    /// Send it back in `If-Match` to edit only what you read.
    pub version: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_fire: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_fire: Option<Timestamp>,
    /// Fire times that passed without an instance since the trigger was saved.
    pub missed: u64,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

/// `POST /apps/{app}/apply`: create or update jobs by name, as a plan or for real.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ApplyRequest {
    pub jobs: Vec<JobSpec>,
    /// Only say what would happen.
    #[serde(default)]
    pub dry_run: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ApplyResult {
    pub jobs: Vec<AppliedJob>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct AppliedJob {
    pub name: String,
    pub action: ApplyAction,
    /// Why it was refused; the others are applied all the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<Problem>,
    /// The definition before, when there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<JobSpec>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum ApplyAction {
    Created,
    Updated,
    Unchanged,
    Refused,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RunJob {
    /// Overrides single keys of the definition's parameters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<Object>))]
    pub params: Option<serde_json::Map<String, serde_json::Value>>,
    /// Start this long from now, as `30s`; or at a time with `due_at`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub due_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<i8>,
    /// Also accepted as the `Idempotency-Key` header.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<String>,
}

/// `POST /apps/{app}/jobs/{job}/run-many`: up to 10,000 runs in one request.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RunMany {
    pub runs: Vec<RunJob>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RunManyResult {
    /// In the order of the request.
    pub runs: Vec<RunResult>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RunResult {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<InstanceId>,
    /// False when the idempotency key was known: the earlier instance is meant.
    pub created: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<Problem>,
}

/// `POST /instances/{id}/retry`: what of it to run again. An empty body means all of it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RetryInstance {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub only: Option<RetryOnly>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum RetryOnly {
    /// The sub-tasks or shards that did not succeed; `reduce` reads the results of the others too.
    Unsuccessful,
}

/// `POST /instances/{id}/tasks/retry`: which tasks of an active instance to try again.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RetryTasks {
    /// At most 10,000; none means all that failed or were lost.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<u64>))]
    pub tasks: Vec<TaskId>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RetriedTasks {
    /// Tasks that wait for another try now.
    pub retried: u64,
    /// Tasks that stand as failed or lost after that. Where all were meant and some are left, ask again.
    pub left: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct NextFires {
    pub timezone: String,
    pub fires: Vec<Timestamp>,
    /// Why there are none, or fewer than asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RevisionView {
    pub revision: u32,
    pub saved_at: Timestamp,
    pub spec: JobSpec,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct GapList {
    pub gaps: Vec<Gap>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct InstanceView {
    pub id: InstanceId,
    pub app: String,
    pub job: String,
    pub job_id: JobId,
    pub revision: u32,
    /// How it becomes tasks: `standalone`, `broadcast`, `sharded`, `map` or `map_reduce`.
    #[serde(default = "standalone")]
    pub mode: String,
    pub origin: Origin,
    pub state: InstanceState,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fire_time: Option<Timestamp>,
    /// Earlier fire times that this instance makes up for.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub missed_before: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rerun_of: Option<InstanceId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<String>,
    pub priority: i8,
    pub created_at: Timestamp,
    pub due_at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
    pub attempt: u32,
    pub failures: u32,
    pub losses: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_cause: Option<StopCause>,
    /// Name of the worker that has, or had, the latest attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<String>,
    /// The run's own parameters; absent when it uses the definition's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<Object>))]
    pub params: Option<serde_json::Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<ResultView>,
    /// How far its tasks are, once a mode with many has made them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tasks: Option<TasksView>,
    /// All attempts, oldest first; only when one instance is asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attempts: Vec<AttemptView>,
}

/// How far the tasks of an instance are. Those around them (the root of a map, `pre`, `post`, `reduce`) are not counted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TasksView {
    #[serde(flatten)]
    pub counts: TaskCounts,
    /// `before` (the `pre` of a broadcast runs), `main`, or `after` (`post` or `reduce` runs).
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub phase: Phase,
    /// Tasks that ended per second: lately, or over the whole of an instance that ended.
    pub rate: f64,
    /// Seconds until those that are known have ended, at that rate; null when nobody can tell.
    #[serde(default)]
    pub estimate: Option<f64>,
    /// Of a broadcast: the workers that there were when it began, each with what spoke against it. Only when one instance
    /// is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<Object>))]
    pub targets: Option<serde_json::Value>,
}

/// What a task left behind, or was given: `json` where it is JSON, `text` where it is text, else `base64`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ResultView {
    pub content_type: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<Object>))]
    pub json: Option<serde_json::Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base64: Option<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct AttemptView {
    pub attempt: u32,
    pub state: TaskState,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<String>,
    /// Which process of that name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker_boot: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dispatched_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
    /// Why that worker: the chosen one, and each other with what spoke against it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<Object>))]
    pub placement: Option<serde_json::Value>,
}

/// One task of an instance; a standalone one has just the task 0, `root`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TaskView {
    /// Its number within the instance, from 0.
    #[cfg_attr(feature = "openapi", schema(value_type = u64))]
    pub task: TaskId,
    /// What it is for: `root`, `sub`, `target`, `shard`, `pre`, `post` or `reduce`; absent for a standalone instance's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub role: Option<TaskRole>,
    /// The task that emitted it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<u64>))]
    pub parent: Option<TaskId>,
    /// Given by who emitted it; the worker's name for a `target`.
    pub name: String,
    pub state: TaskState,
    pub attempt: u32,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub failures: u32,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub losses: u32,
    /// Name of the worker that has, or had, the latest attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<String>,
    /// Name of the worker that it is bound to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub due_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// One task with all that belongs to it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TaskDetail {
    pub instance: InstanceId,
    #[serde(flatten)]
    pub task: TaskView,
    /// Sub-tasks that it emitted.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub emitted: u64,
    /// Given by who emitted it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<ResultView>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<ResultView>,
    /// All attempts, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attempts: Vec<AttemptView>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct WorkerView {
    pub name: String,
    pub boot: String,
    pub address: String,
    pub version: String,
    pub processors: Vec<String>,
    pub labels: BTreeMap<String, String>,
    pub slots: u32,
    pub running: u32,
    /// `connected`, `draining`, or `away` while its reconnection is awaited.
    pub state: String,
    pub connected_at: Timestamp,
    pub last_heard: Timestamp,
    pub metrics: HostMetrics,
}

/// A piece of a log. `data` is text; `gaps` lists what is missing in it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LogView {
    pub attempt: u32,
    pub offset: u64,
    pub data: String,
    pub next_offset: u64,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gaps: Vec<LogGap>,
    /// Whether nothing follows any more.
    pub end: bool,
    /// The attempt is over, but its log has no end: the worker vanished with the rest.
    #[serde(default, skip_serializing_if = "is_false")]
    pub cut_off: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LogGap {
    pub offset: u64,
    pub bytes: u64,
}

/// Events of `GET /instances/{id}/logs?follow=true` (server-sent events; the event name is the variant's). With `task=N`
/// the events `state` and `end` speak of that task.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum LogEvent {
    /// More text of an attempt.
    Log { attempt: u32, offset: u64, data: String },
    /// Text that was lost.
    Gap { attempt: u32, offset: u64, bytes: u64 },
    /// The attempt is over, but its log has no end: the worker vanished with what came after `offset`.
    CutOff { attempt: u32, offset: u64 },
    /// The instance's state changed (also sent first).
    State {
        state: InstanceState,
        attempt: u32,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        worker: Option<String>,
    },
    /// Tasks of an instance with many moved (also sent first); several times a second at most.
    Tasks { tasks: TasksView },
    /// It ended and its log is complete; the stream closes.
    End {
        state: InstanceState,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        message: Option<String>,
    },
}

impl LogEvent {
    /// Every event's name.
    pub const NAMES: [&str; 6] = ["log", "gap", "cut_off", "state", "tasks", "end"];

    /// The name that the event has in the stream.
    pub fn name(&self) -> &'static str {
        match self {
            LogEvent::Log { .. } => "log",
            LogEvent::Gap { .. } => "gap",
            LogEvent::CutOff { .. } => "cut_off",
            LogEvent::State { .. } => "state",
            LogEvent::Tasks { .. } => "tasks",
            LogEvent::End { .. } => "end",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum TokenKind {
    Admin,
    App,
    Worker,
    /// Reads `/metrics` and nothing else.
    Metrics,
    /// The password of one app's clients of PowerJob's OpenAPI, and nothing else.
    Powerjob,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TokenCreate {
    pub name: String,
    pub kind: TokenKind,
    /// Name of the app, for kinds `app`, `worker` and `powerjob`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app: Option<String>,
    /// As `90d`; none means that it does not expire.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_in: Option<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TokenView {
    pub id: TokenId,
    pub name: String,
    pub kind: TokenKind,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app: Option<String>,
    pub created_at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// The secret; only in the answer to its creation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
}

/// Who the caller is.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct WhoAmI {
    pub token: String,
    pub kind: TokenKind,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app: Option<String>,
}

/// `GET /status`: the server's health in detail, for `doctor`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct StatusView {
    pub version: String,
    pub started_at: Timestamp,
    /// The server's clock, for measuring skew.
    pub now: Timestamp,
    pub ready: bool,
    /// What keeps it from being ready, or should worry somebody.
    pub problems: Vec<String>,
    pub listeners: Vec<ListenerView>,
    pub store: StoreView,
    pub partitions_owned: u32,
    pub partitions_total: u32,
    pub workers: u32,
    pub active_instances: u64,
    /// Seconds since each background loop last completed a round.
    pub loops: BTreeMap<String, f64>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ListenerView {
    pub name: String,
    pub address: String,
    pub tls: bool,
    pub authenticated: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct StoreView {
    pub kind: String,
    pub schema: u32,
    pub bytes: u64,
}

/// The servers on one store, and who owns what.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ClusterOverview {
    /// False for a server that is alone on its store; then there are no leases.
    pub shared: bool,
    /// The server that looked.
    pub seen_from: String,
    pub seen_seconds_ago: f64,
    pub servers: Vec<ServerView>,
    pub partitions: Vec<PartitionView>,
}

/// A server among others.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ServerView {
    pub name: String,
    /// Of this process; another one of the same name has another.
    pub boot: String,
    /// Where the others reach it.
    pub address: String,
    pub version: String,
    pub joined_at: Timestamp,
    /// What is left of its lease; 0 when it has run out.
    pub lease_seconds: f64,
    /// It gives its partitions away and takes none.
    pub draining: bool,
    /// By how much its clock is ahead of the store's.
    pub skew_seconds: f64,
    /// How many it owns.
    pub partitions: u32,
    pub reach: ReachView,
    /// What it says of itself, if it answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<StatusView>,
}

/// How one server reaches another.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ReachView {
    pub reached: bool,
    pub milliseconds: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// Whose a partition is.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PartitionView {
    pub partition: u16,
    /// The owner's name; none while nobody has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot: Option<String>,
    pub epoch: i64,
    pub since: Timestamp,
}

/// An error, as RFC 9457 has it (`application/problem+json`).
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Problem {
    /// `about:blank` is not used: each code has its address, `urn:pendula:problem:CODE`.
    #[serde(rename = "type")]
    pub kind: String,
    pub title: String,
    pub status: u16,
    /// Stable word for programs.
    pub code: String,
    /// What was wrong with this very request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// The field that was refused, as a dotted path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// Whether the same request may succeed later.
    #[serde(default)]
    pub retryable: bool,
}

fn standalone() -> String {
    "standalone".to_owned()
}

fn is_false(flag: &bool) -> bool {
    !flag
}

fn is_zero<T: Default + PartialEq>(number: &T) -> bool {
    *number == T::default()
}
