//! The messages and their fields, in wire order: sorted by name, as Java sorts.
//!
//! The same for all versions from 4.0.0 to 5.1.1, except that fields were added; those carry `later`.

/// A message, or a part of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Class {
    /// A worker lives; told every 10 or 15 seconds.
    WorkerHeartbeat,
    /// Lines of instances' logs; told.
    WorkerLogReportReq,
    /// How an instance is; told while it runs, asked at its end.
    TaskTrackerReportInstanceStatusReq,
    /// Who may take tasks of a job; asked.
    WorkerQueryExecutorClusterReq,
    /// Where the jar of a container is; asked.
    WorkerNeedDeployContainerRequest,
    /// Run an instance and track it; told.
    ServerScheduleJobReq,
    /// Stop an instance; told.
    ServerStopInstanceReq,
    /// How an instance is; asked.
    ServerQueryInstanceStatusReq,
    /// Load a container; told.
    ServerDeployContainerRequest,
    /// Forget a container; told.
    ServerDestroyContainerRequest,
    /// Run a task of an instance; told by who tracks that.
    TaskTrackerStartTaskReq,
    /// End all tasks of an instance; told by who tracks it.
    TaskTrackerStopInstanceReq,
    /// How a task is; told or asked of who tracks it.
    ProcessorReportTaskStatusReq,
    /// How a worker's tracker of tasks is; told.
    ProcessorTrackerStatusReportReq,
    /// A task emits others; asked.
    ProcessorMapTaskRequest,
    /// The answer to whatever is asked.
    AskResponse,
    /// Part of a heartbeat.
    DeployedContainerInfo,
    /// Part of a heartbeat.
    SystemMetrics,
    /// Part of a log report.
    InstanceLogContent,
    /// Part of an order to run a task.
    InstanceInfo,
    /// Part of what a task emits.
    SubTask,
}

/// What a field holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `boolean`
    Bool,
    /// `int`
    Int,
    /// `long`
    Long,
    /// `double`
    Double,
    /// `Integer`: may be null, as may all that follow.
    BoxedInt,
    /// `Long`
    BoxedLong,
    /// `String`
    Text,
    /// `byte[]`
    Bytes,
    /// `List<String>`
    Texts,
    /// `Map<String, String>`
    TextMap,
    /// One object.
    Bean(Class),
    /// `List` of objects.
    Beans(Class),
}

/// A field of a class.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// What it is called in Java and in the named dialect.
    pub name: &'static str,
    /// What it is called in the JSON of the HTTP protocol.
    pub json: &'static str,
    /// What it holds.
    pub kind: Kind,
    /// It came after 4.0: the plain dialect does not have it.
    pub later: bool,
}

const fn field(name: &'static str, kind: Kind) -> Field {
    Field { name, json: name, kind, later: false }
}

const fn later(name: &'static str, kind: Kind) -> Field {
    Field { name, json: name, kind, later: true }
}

use Kind::{Bean, Beans, Bool, BoxedInt, BoxedLong, Bytes, Double, Int, Long, Text, TextMap, Texts};

const WORKER_HEARTBEAT: &[Field] = &[
    field("appId", BoxedLong),
    field("appName", Text),
    field("client", Text),
    field("containerInfos", Beans(Class::DeployedContainerInfo)),
    field("extra", Text),
    field("heartbeatTime", Long),
    later("heavyTaskTrackerNum", Int),
    Field { name: "isOverload", json: "overload", kind: Bool, later: true },
    later("lightTaskTrackerNum", Int),
    field("protocol", Text),
    field("systemMetrics", Bean(Class::SystemMetrics)),
    field("tag", Text),
    field("version", Text),
    field("workerAddress", Text),
];

const WORKER_LOG_REPORT_REQ: &[Field] =
    &[field("instanceLogContents", Beans(Class::InstanceLogContent)), field("workerAddress", Text)];

const TASK_TRACKER_REPORT_INSTANCE_STATUS_REQ: &[Field] = &[
    later("alertContent", Text),
    later("appId", BoxedLong),
    field("appendedWfContext", TextMap),
    later("endTime", BoxedLong),
    field("failedTaskNum", Long),
    field("instanceId", BoxedLong),
    field("instanceStatus", Int),
    field("jobId", BoxedLong),
    later("needAlert", Bool),
    field("reportTime", Long),
    field("result", Text),
    field("sourceAddress", Text),
    field("startTime", Long),
    field("succeedTaskNum", Long),
    field("totalTaskNum", Long),
    field("wfInstanceId", BoxedLong),
];

const WORKER_QUERY_EXECUTOR_CLUSTER_REQ: &[Field] = &[field("appId", BoxedLong), field("jobId", BoxedLong)];

const CONTAINER_ID: &[Field] = &[field("containerId", BoxedLong)];

const SERVER_SCHEDULE_JOB_REQ: &[Field] = &[
    later("advancedRuntimeConfig", Text),
    later("alarmConfig", Text),
    field("allWorkerAddress", Texts),
    field("executeType", Text),
    field("instanceId", BoxedLong),
    field("instanceParams", Text),
    field("instanceTimeoutMS", Long),
    field("jobId", BoxedLong),
    field("jobParams", Text),
    later("logConfig", Text),
    field("maxInstanceNum", BoxedInt),
    later("maxWorkerCount", BoxedInt),
    field("processorInfo", Text),
    field("processorType", Text),
    field("taskRetryNum", Int),
    field("threadConcurrency", Int),
    field("timeExpression", Text),
    field("timeExpressionType", Text),
    field("wfInstanceId", BoxedLong),
];

const SERVER_STOP_INSTANCE_REQ: &[Field] = &[field("instanceId", BoxedLong)];

const SERVER_QUERY_INSTANCE_STATUS_REQ: &[Field] = &[later("customQuery", Text), field("instanceId", BoxedLong)];

const SERVER_DEPLOY_CONTAINER_REQUEST: &[Field] = &[
    field("containerId", BoxedLong),
    field("containerName", Text),
    field("downloadURL", Text),
    field("version", Text),
];

const TASK_TRACKER_START_TASK_REQ: &[Field] = &[
    field("instanceInfo", Bean(Class::InstanceInfo)),
    later("logConfig", Text),
    field("subInstanceId", Long),
    field("taskContent", Bytes),
    field("taskCurrentRetryNums", Int),
    field("taskId", Text),
    field("taskName", Text),
    field("taskTrackerAddress", Text),
];

const TASK_TRACKER_STOP_INSTANCE_REQ: &[Field] = &[field("instanceId", BoxedLong), field("type", Text)];

const PROCESSOR_REPORT_TASK_STATUS_REQ: &[Field] = &[
    field("appendedWfContext", TextMap),
    field("cmd", BoxedInt),
    field("instanceId", BoxedLong),
    field("reportTime", Long),
    field("result", Text),
    field("status", Int),
    field("subInstanceId", BoxedLong),
    field("taskId", Text),
];

const PROCESSOR_TRACKER_STATUS_REPORT_REQ: &[Field] = &[
    field("address", Text),
    field("instanceId", BoxedLong),
    field("remainTaskNum", Long),
    field("time", Long),
    field("type", Int),
];

const PROCESSOR_MAP_TASK_REQUEST: &[Field] = &[
    field("instanceId", BoxedLong),
    field("subInstanceId", BoxedLong),
    field("subTasks", Beans(Class::SubTask)),
    field("taskName", Text),
];

const INSTANCE_INFO: &[Field] = &[
    field("executeType", Text),
    field("instanceId", BoxedLong),
    field("instanceParams", Text),
    field("instanceTimeoutMS", Long),
    field("jobId", BoxedLong),
    field("jobParams", Text),
    later("logConfig", Text),
    field("processorInfo", Text),
    field("processorType", Text),
    field("taskRetryNum", Int),
    field("threadConcurrency", Int),
    field("timeExpressionType", Int),
    field("wfInstanceId", BoxedLong),
];

const SUB_TASK: &[Field] = &[field("taskContent", Bytes), field("taskId", Text)];

const ASK_RESPONSE: &[Field] = &[field("data", Bytes), field("message", Text), field("success", Bool)];

const DEPLOYED_CONTAINER_INFO: &[Field] = &[
    field("containerId", BoxedLong),
    field("deployedTime", Long),
    field("version", Text),
    field("workerAddress", Text),
];

const SYSTEM_METRICS: &[Field] = &[
    field("cpuLoad", Double),
    field("cpuProcessors", Int),
    field("diskTotal", Double),
    field("diskUsage", Double),
    field("diskUsed", Double),
    field("extra", Text),
    field("jvmMaxMemory", Double),
    field("jvmMemoryUsage", Double),
    field("jvmUsedMemory", Double),
    field("score", Int),
];

const INSTANCE_LOG_CONTENT: &[Field] =
    &[field("instanceId", Long), field("logContent", Text), field("logLevel", Int), field("logTime", Long)];

impl Class {
    /// What travels by itself.
    pub const MESSAGES: [Class; 16] = [
        Class::WorkerHeartbeat,
        Class::WorkerLogReportReq,
        Class::TaskTrackerReportInstanceStatusReq,
        Class::WorkerQueryExecutorClusterReq,
        Class::WorkerNeedDeployContainerRequest,
        Class::ServerScheduleJobReq,
        Class::ServerStopInstanceReq,
        Class::ServerQueryInstanceStatusReq,
        Class::ServerDeployContainerRequest,
        Class::ServerDestroyContainerRequest,
        Class::TaskTrackerStartTaskReq,
        Class::TaskTrackerStopInstanceReq,
        Class::ProcessorReportTaskStatusReq,
        Class::ProcessorTrackerStatusReportReq,
        Class::ProcessorMapTaskRequest,
        Class::AskResponse,
    ];

    /// What travels inside of messages.
    pub const PARTS: [Class; 5] = [
        Class::DeployedContainerInfo,
        Class::SystemMetrics,
        Class::InstanceLogContent,
        Class::InstanceInfo,
        Class::SubTask,
    ];

    /// The class that the wire calls so, if it is one of these.
    pub fn by_name(name: &str) -> Option<Class> {
        Class::MESSAGES.into_iter().chain(Class::PARTS).find(|class| class.name() == name)
    }

    /// What the wire calls it.
    pub fn name(self) -> &'static str {
        match self {
            Class::WorkerHeartbeat => "tech.powerjob.common.request.WorkerHeartbeat",
            Class::WorkerLogReportReq => "tech.powerjob.common.request.WorkerLogReportReq",
            Class::TaskTrackerReportInstanceStatusReq => {
                "tech.powerjob.common.request.TaskTrackerReportInstanceStatusReq"
            }
            Class::WorkerQueryExecutorClusterReq => "tech.powerjob.common.request.WorkerQueryExecutorClusterReq",
            Class::WorkerNeedDeployContainerRequest => "tech.powerjob.common.request.WorkerNeedDeployContainerRequest",
            Class::ServerScheduleJobReq => "tech.powerjob.common.request.ServerScheduleJobReq",
            Class::ServerStopInstanceReq => "tech.powerjob.common.request.ServerStopInstanceReq",
            Class::ServerQueryInstanceStatusReq => "tech.powerjob.common.request.ServerQueryInstanceStatusReq",
            Class::ServerDeployContainerRequest => "tech.powerjob.common.request.ServerDeployContainerRequest",
            Class::ServerDestroyContainerRequest => "tech.powerjob.common.request.ServerDestroyContainerRequest",
            Class::TaskTrackerStartTaskReq => "tech.powerjob.worker.pojo.request.TaskTrackerStartTaskReq",
            Class::TaskTrackerStopInstanceReq => "tech.powerjob.worker.pojo.request.TaskTrackerStopInstanceReq",
            Class::ProcessorReportTaskStatusReq => "tech.powerjob.worker.pojo.request.ProcessorReportTaskStatusReq",
            Class::ProcessorTrackerStatusReportReq => {
                "tech.powerjob.worker.pojo.request.ProcessorTrackerStatusReportReq"
            }
            Class::ProcessorMapTaskRequest => "tech.powerjob.worker.pojo.request.ProcessorMapTaskRequest",
            Class::AskResponse => "tech.powerjob.common.response.AskResponse",
            Class::DeployedContainerInfo => "tech.powerjob.common.model.DeployedContainerInfo",
            Class::SystemMetrics => "tech.powerjob.common.model.SystemMetrics",
            Class::InstanceLogContent => "tech.powerjob.common.model.InstanceLogContent",
            Class::InstanceInfo => "tech.powerjob.worker.pojo.model.InstanceInfo",
            Class::SubTask => "tech.powerjob.worker.pojo.request.ProcessorMapTaskRequest$SubTask",
        }
    }

    /// Its fields in wire order.
    pub fn fields(self) -> &'static [Field] {
        match self {
            Class::WorkerHeartbeat => WORKER_HEARTBEAT,
            Class::WorkerLogReportReq => WORKER_LOG_REPORT_REQ,
            Class::TaskTrackerReportInstanceStatusReq => TASK_TRACKER_REPORT_INSTANCE_STATUS_REQ,
            Class::WorkerQueryExecutorClusterReq => WORKER_QUERY_EXECUTOR_CLUSTER_REQ,
            Class::WorkerNeedDeployContainerRequest | Class::ServerDestroyContainerRequest => CONTAINER_ID,
            Class::ServerScheduleJobReq => SERVER_SCHEDULE_JOB_REQ,
            Class::ServerStopInstanceReq => SERVER_STOP_INSTANCE_REQ,
            Class::ServerQueryInstanceStatusReq => SERVER_QUERY_INSTANCE_STATUS_REQ,
            Class::ServerDeployContainerRequest => SERVER_DEPLOY_CONTAINER_REQUEST,
            Class::TaskTrackerStartTaskReq => TASK_TRACKER_START_TASK_REQ,
            Class::TaskTrackerStopInstanceReq => TASK_TRACKER_STOP_INSTANCE_REQ,
            Class::ProcessorReportTaskStatusReq => PROCESSOR_REPORT_TASK_STATUS_REQ,
            Class::ProcessorTrackerStatusReportReq => PROCESSOR_TRACKER_STATUS_REPORT_REQ,
            Class::ProcessorMapTaskRequest => PROCESSOR_MAP_TASK_REQUEST,
            Class::AskResponse => ASK_RESPONSE,
            Class::DeployedContainerInfo => DEPLOYED_CONTAINER_INFO,
            Class::SystemMetrics => SYSTEM_METRICS,
            Class::InstanceLogContent => INSTANCE_LOG_CONTENT,
            Class::InstanceInfo => INSTANCE_INFO,
            Class::SubTask => SUB_TASK,
        }
    }

    /// Where the field of that name stands in [`Class::fields`].
    pub fn position(self, name: &str) -> Option<usize> {
        self.fields().binary_search_by(|field| field.name.cmp(name)).ok()
    }
}

/// Classes of lists that workers write, and how; others are refused.
pub(super) fn list_form(name: &str) -> Option<ListForm> {
    match name {
        "java.util.ArrayList"
        | "java.util.LinkedList"
        | "java.util.Vector"
        | "java.util.Arrays$ArrayList"
        | "java.util.concurrent.CopyOnWriteArrayList" => Some(ListForm::Counted),
        "java.util.Collections$EmptyList" => Some(ListForm::Empty),
        "java.util.Collections$SingletonList" => Some(ListForm::One),
        _ => None,
    }
}

/// Classes of maps that workers write, and how.
pub(super) fn map_form(name: &str) -> Option<MapForm> {
    match name {
        "java.util.HashMap"
        | "java.util.LinkedHashMap"
        | "java.util.Hashtable"
        | "java.util.concurrent.ConcurrentHashMap" => Some(MapForm::Counted),
        "java.util.Collections$EmptyMap" => Some(MapForm::Empty),
        _ => None,
    }
}

#[derive(Clone, Copy)]
pub(super) enum ListForm {
    Counted,
    Empty,
    One,
}

#[derive(Clone, Copy)]
pub(super) enum MapForm {
    Counted,
    Empty,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_in_wire_order_and_found_by_name() {
        for class in Class::MESSAGES.into_iter().chain(Class::PARTS) {
            assert!(class.fields().is_sorted_by(|a, b| a.name < b.name), "{class:?}");
            assert_eq!(Class::by_name(class.name()), Some(class));
            for (place, field) in class.fields().iter().enumerate() {
                assert_eq!(class.position(field.name), Some(place));
            }
        }
    }

    /// What tells the dialects apart leans on it: see `dialect.rs`.
    #[test]
    fn the_first_plain_field_of_every_message_may_be_null() {
        for class in Class::MESSAGES {
            let first = class.fields().iter().find(|field| !field.later).expect("there is one");
            assert!(!matches!(first.kind, Bool | Int | Long | Double), "{class:?}");
        }
    }
}
