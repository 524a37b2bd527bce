//! What travels between a server and PowerJob's workers, field by field.
//!
//! What we read tolerates unknown fields, nulls and numbers as texts. What we write leaves nulls out, and has no field that
//! a worker of the strict family (see `version.rs`) does not know.

use pendula_model::powerjob::{PowerJobExecuteType, PowerJobType};
use serde::{Deserialize, Serialize};

use crate::json;
use crate::way::Way;

/// `POST /server/workerHeartbeat`: a worker lives.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkerHeartbeat {
    #[serde(default, deserialize_with = "json::or_default")]
    pub worker_address: String,
    #[serde(default, deserialize_with = "json::or_default")]
    pub app_name: String,
    #[serde(default, deserialize_with = "json::long")]
    pub app_id: i64,
    #[serde(default, deserialize_with = "json::long")]
    pub heartbeat_time: i64,
    #[serde(default)]
    pub version: Option<String>,
    #[serde(default)]
    pub protocol: Option<String>,
    #[serde(default)]
    pub tag: Option<String>,
    /// It takes no more instances now.
    #[serde(default, deserialize_with = "json::flag")]
    pub overload: bool,
    #[serde(default, deserialize_with = "json::long")]
    pub light_task_tracker_num: i64,
    #[serde(default, deserialize_with = "json::long")]
    pub heavy_task_tracker_num: i64,
    #[serde(default)]
    pub system_metrics: Option<SystemMetrics>,
    /// How the worker is spoken to: found out from how this came.
    #[serde(skip)]
    pub(crate) way: Option<Way>,
}

/// Load of a worker's machine; memory and disk in GB.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SystemMetrics {
    #[serde(default, deserialize_with = "json::long")]
    pub cpu_processors: i64,
    /// Negative when unknown.
    #[serde(default, deserialize_with = "json::double")]
    pub cpu_load: f64,
    #[serde(default, deserialize_with = "json::double")]
    pub jvm_used_memory: f64,
    #[serde(default, deserialize_with = "json::double")]
    pub jvm_max_memory: f64,
    #[serde(default, deserialize_with = "json::double")]
    pub disk_used: f64,
    #[serde(default, deserialize_with = "json::double")]
    pub disk_total: f64,
}

/// `POST /server/reportLog`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkerLogReportReq {
    #[serde(default, deserialize_with = "json::or_default")]
    pub worker_address: String,
    #[serde(default, deserialize_with = "json::or_default")]
    pub instance_log_contents: Vec<InstanceLogContent>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InstanceLogContent {
    #[serde(default, deserialize_with = "json::long")]
    pub instance_id: i64,
    /// By the worker's clock.
    #[serde(default, deserialize_with = "json::long")]
    pub log_time: i64,
    #[serde(default, deserialize_with = "json::long")]
    pub log_level: i64,
    #[serde(default, deserialize_with = "json::or_default")]
    pub log_content: String,
}

/// `POST /server/reportInstanceStatus`: from time to time, and at the end.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TaskTrackerReportInstanceStatusReq {
    #[serde(default, deserialize_with = "json::long")]
    pub app_id: i64,
    #[serde(default, deserialize_with = "json::long")]
    pub job_id: i64,
    #[serde(default, deserialize_with = "json::long")]
    pub instance_id: i64,
    /// 3 runs, 4 failed, 5 succeeded.
    #[serde(default, deserialize_with = "json::long")]
    pub instance_status: i64,
    #[serde(default)]
    pub result: Option<String>,
    #[serde(default, deserialize_with = "json::long")]
    pub total_task_num: i64,
    #[serde(default, deserialize_with = "json::long")]
    pub succeed_task_num: i64,
    #[serde(default, deserialize_with = "json::long")]
    pub failed_task_num: i64,
    /// When the worker made its tracker, by its clock.
    #[serde(default, deserialize_with = "json::long")]
    pub start_time: i64,
    #[serde(default, deserialize_with = "json::optional_long")]
    pub end_time: Option<i64>,
    #[serde(default, deserialize_with = "json::long")]
    pub report_time: i64,
    #[serde(default, deserialize_with = "json::or_default")]
    pub source_address: String,
}

/// `InstanceStatus` codes that workers send.
pub mod status {
    pub const RUNNING: i64 = 3;
    pub const FAILED: i64 = 4;
    pub const SUCCEEDED: i64 = 5;
}

/// `POST /server/queryJobCluster`: who else may take tasks of a job.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkerQueryExecutorClusterReq {
    #[serde(default, deserialize_with = "json::long")]
    pub app_id: i64,
    #[serde(default, deserialize_with = "json::long")]
    pub job_id: i64,
}

/// `POST /server/queryContainer`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkerNeedDeployContainerRequest {
    #[serde(default, deserialize_with = "json::long")]
    pub container_id: i64,
}

/// `POST /worker/runJob`: run an instance and track it.
#[derive(Clone, Debug, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ServerScheduleJobReq {
    pub all_worker_address: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_worker_count: Option<u32>,
    pub job_id: i64,
    pub instance_id: i64,
    pub execute_type: PowerJobExecuteType,
    pub processor_type: PowerJobType,
    pub processor_info: String,
    /// Milliseconds; 0 is unlimited.
    #[serde(rename = "instanceTimeoutMS")]
    pub instance_timeout_ms: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job_params: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance_params: Option<String>,
    pub thread_concurrency: u32,
    pub task_retry_num: u32,
    pub time_expression_type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time_expression: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_instance_num: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_config: Option<String>,
    /// Never to the strict family.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advanced_runtime_config: Option<String>,
}

/// `POST /processorTracker/startTask`: run one task of an instance that the server tracks.
#[derive(Clone, Debug, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct TaskTrackerStartTaskReq {
    /// Where the worker reports to, as `host:port`.
    pub task_tracker_address: String,
    pub instance_info: InstanceInfo,
    pub task_id: String,
    pub task_name: String,
    #[serde(with = "json::bytes", skip_serializing_if = "Option::is_none")]
    pub task_content: Option<Vec<u8>>,
    pub task_current_retry_nums: u32,
    pub sub_instance_id: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_config: Option<String>,
}

/// The instance of such a task. `advancedRuntimeConfig` is for whoever tracks an instance, and is left out.
#[derive(Clone, Debug, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct InstanceInfo {
    pub job_id: i64,
    pub instance_id: i64,
    pub execute_type: PowerJobExecuteType,
    pub processor_type: PowerJobType,
    pub processor_info: String,
    /// A code here, and not a name.
    pub time_expression_type: i32,
    /// Milliseconds, more than 0: with 0 the worker ends at once.
    #[serde(rename = "instanceTimeoutMS")]
    pub instance_timeout_ms: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job_params: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance_params: Option<String>,
    pub thread_concurrency: u32,
    pub task_retry_num: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_config: Option<String>,
}

/// `POST /taskTracker/reportTaskStatus`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProcessorReportTaskStatusReq {
    #[serde(default, deserialize_with = "json::long")]
    pub instance_id: i64,
    #[serde(default, deserialize_with = "json::or_default")]
    pub task_id: String,
    #[serde(default, deserialize_with = "json::long")]
    pub status: i64,
    #[serde(default)]
    pub result: Option<String>,
}

/// `TaskStatus` codes that workers send.
pub mod task_status {
    pub const RUNNING: i64 = 4;
    pub const FAILED: i64 = 5;
    pub const SUCCEEDED: i64 = 6;
}

/// `POST /taskTracker/reportProcessorTrackerStatus`: each 10 s, and at its end.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProcessorTrackerStatusReportReq {
    /// 1: it was idle and ended itself.
    #[serde(default, rename = "type", deserialize_with = "json::long")]
    pub kind: i64,
    #[serde(default, deserialize_with = "json::long")]
    pub instance_id: i64,
    #[serde(default, deserialize_with = "json::or_default")]
    pub address: String,
}

/// `POST /taskTracker/mapTask`: sub-tasks that a running task emits.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProcessorMapTaskRequest {
    #[serde(default, deserialize_with = "json::long")]
    pub instance_id: i64,
    #[serde(default, deserialize_with = "json::or_default")]
    pub task_name: String,
    #[serde(default, deserialize_with = "json::or_default")]
    pub sub_tasks: Vec<SubTask>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SubTask {
    #[serde(default, deserialize_with = "json::or_default")]
    pub task_id: String,
    #[serde(default, deserialize_with = "json::bytes::deserialize")]
    pub task_content: Option<Vec<u8>>,
}

/// `POST /worker/stopInstance`, `POST /worker/queryInstanceStatus` and `POST /processorTracker/stopInstance`.
#[derive(Clone, Copy, Debug, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct AboutInstance {
    pub instance_id: i64,
}

/// The answer to whatever wants one.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
pub struct AskResponse {
    #[serde(default, deserialize_with = "json::flag")]
    pub success: bool,
    #[serde(default, with = "json::bytes", skip_serializing_if = "Option::is_none")]
    pub data: Option<Vec<u8>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

impl AskResponse {
    pub fn done() -> Self {
        AskResponse { success: true, ..AskResponse::default() }
    }

    pub fn with(data: &impl Serialize) -> Self {
        let data = serde_json::to_vec(data).expect("plain data becomes JSON");
        AskResponse { success: true, data: Some(data), message: None }
    }

    pub fn refused(message: impl Into<String>) -> Self {
        AskResponse { success: false, data: None, message: Some(message.into()) }
    }
}

/// The answer of discovery and of the OpenAPI. Nothing but these three: old workers refuse more.
#[derive(Clone, Debug, Serialize)]
pub struct ResultDto {
    pub success: bool,
    pub data: serde_json::Value,
    pub message: Option<String>,
}

impl ResultDto {
    pub fn of(data: impl Into<serde_json::Value>) -> Self {
        ResultDto { success: true, data: data.into(), message: None }
    }

    pub fn refused(message: impl Into<String>) -> Self {
        ResultDto { success: false, data: serde_json::Value::Null, message: Some(message.into()) }
    }
}
