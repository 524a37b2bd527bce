//! Between the engine's words and PowerJob's.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use pendula_engine::{Dispatch, Report, ReportEvent, input};
use pendula_model::instance::{Payload, Reason};
use pendula_model::job::JobSpec;
use pendula_model::powerjob::{InWorker, OFFERED, PowerJob};
use pendula_model::worker::{BootId, HostMetrics, TASKS, WorkerInfo, WorkerRef};
use pendula_model::{AttemptKey, Timestamp, limits};

use crate::messages::{
    ServerScheduleJobReq, SystemMetrics, TaskTrackerReportInstanceStatusReq, WorkerHeartbeat, status,
};
use crate::version::Family;

/// Instances that a worker runs at once at most: what it takes by itself unless it was configured otherwise. It says when
/// it has too many, and how many that are is its own affair.
const SLOTS: u32 = 1024;
/// Of a run's parameters, the one that a processor gets as they are, as its instance's parameters.
pub(crate) const INSTANCE_PARAMS: &str = "instance_params";

/// Who a worker is. It does not say when it began, so its address has to do, and has to lead to the same on every server:
/// by it a new owner knows what the worker has. That another process has the address now shows when it is asked about its
/// work.
pub(crate) fn worker_ref(address: &str) -> WorkerRef {
    let hash = address
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    WorkerRef { name: address.into(), boot: BootId((hash >> 1).max(1)) }
}

pub(crate) fn worker_info(heartbeat: &WorkerHeartbeat) -> WorkerInfo {
    let mut labels = BTreeMap::new();
    if let Some(tag) = heartbeat.tag.as_deref().filter(|tag| !tag.is_empty() && tag.len() <= 1024) {
        labels.insert("tag".to_owned(), tag.to_owned());
    }
    let version = heartbeat.version.as_deref().unwrap_or("UNKNOWN");
    WorkerInfo {
        worker: worker_ref(&heartbeat.worker_address),
        version: format!("powerjob {}", limits::cut(version, 40)),
        processors: vec![OFFERED.to_owned()],
        labels,
        slots: SLOTS,
        capabilities: vec![TASKS.to_owned()],
        address: heartbeat.worker_address.clone(),
        metrics: heartbeat.system_metrics.as_ref().map(metrics).unwrap_or_default(),
    }
}

pub(crate) fn metrics(told: &SystemMetrics) -> HostMetrics {
    // What is no number is unknown, and counts as nothing.
    let bytes = |gigabytes: f64| if gigabytes > 0.0 { (gigabytes * f64::from(1 << 30)) as u64 } else { 0 };
    let cores = |number: f64| if number > 0.0 && number.is_finite() { number } else { 0.0 };
    HostMetrics {
        cpu_cores: told.cpu_processors.clamp(0, 1 << 20) as f64,
        cpu_used: cores(told.cpu_load),
        memory_bytes: bytes(told.jvm_max_memory),
        memory_used_bytes: bytes(told.jvm_used_memory),
        disk_bytes: bytes(told.disk_total),
        disk_used_bytes: bytes(told.disk_used),
    }
}

/// What a worker is told to run. `all` are the workers that may take part, the tracker first.
pub(crate) fn schedule(
    dispatch: &Dispatch,
    powerjob: &PowerJob,
    all: Vec<String>,
    family: Family,
) -> ServerScheduleJobReq {
    let spec: &JobSpec = &dispatch.spec;
    let job_params = job_params(spec, powerjob);
    let (time_expression_type, time_expression) = time_expression(spec, powerjob);
    ServerScheduleJobReq {
        all_worker_address: all,
        max_worker_count: Some(powerjob.max_workers),
        job_id: dispatch.job.0,
        instance_id: dispatch.instance.0,
        execute_type: powerjob.execute_type,
        processor_type: powerjob.kind,
        processor_info: powerjob.info.clone(),
        instance_timeout_ms: spec.timeout.map_or(0, |timeout| timeout.as_millis().clamp(1, 1 << 62) as i64),
        job_params,
        instance_params: dispatch.params.as_deref().map(instance_params),
        thread_concurrency: powerjob.thread_concurrency,
        task_retry_num: powerjob.task_retries,
        time_expression_type,
        time_expression,
        max_instance_num: Some(0),
        log_config: powerjob.log_config.clone(),
        advanced_runtime_config: match family {
            Family::Strict => None,
            Family::Lenient => powerjob.advanced_runtime_config.clone(),
        },
    }
}

/// For a worker it is a label, except that it fires by itself what has a fixed rate or delay; and 4.3.0 does not know a daily
/// window. So it is told of what it shall do itself, and of cron.
fn time_expression(spec: &JobSpec, powerjob: &PowerJob) -> (&'static str, Option<String>) {
    let millis = |time: Duration| Some(time.as_millis().to_string());
    match &powerjob.in_worker {
        Some(InWorker { fixed_rate: Some(time), .. }) => ("FIXED_RATE", millis(*time)),
        Some(InWorker { fixed_delay: Some(time), .. }) => ("FIXED_DELAY", millis(*time)),
        _ => match spec.trigger.as_ref().and_then(|trigger| trigger.cron.clone()) {
            Some(cron) => ("CRON", Some(cron)),
            None => ("API", None),
        },
    }
}

pub(crate) fn job_params(spec: &JobSpec, powerjob: &PowerJob) -> Option<String> {
    powerjob.job_params.clone().or_else(|| {
        let json = || serde_json::to_string(&spec.params).expect("a map with text keys becomes JSON");
        (!spec.params.is_empty()).then(json)
    })
}

/// PowerJob's are a text; ours are an object, of which one key may be that text.
pub(crate) fn instance_params(params: &str) -> String {
    let object = serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(params).ok();
    match object.as_ref().and_then(|object| object.get(INSTANCE_PARAMS)) {
        Some(serde_json::Value::String(text)) => text.clone(),
        _ => params.to_owned(),
    }
}

/// Since when it runs, by our clock: only differences of the worker's are used.
fn started_at(now: Timestamp, report: &TaskTrackerReportInstanceStatusReq) -> Timestamp {
    let ran = report.report_time.saturating_sub(report.start_time);
    if report.start_time <= 0 || ran < 0 { now } else { now.minus(Duration::from_millis(ran as u64)) }
}

pub(crate) fn started(now: Timestamp, attempt: AttemptKey, report: &TaskTrackerReportInstanceStatusReq) -> Report {
    Report { attempt, event: ReportEvent::Started { started_at: started_at(now, report) } }
}

pub(crate) fn progress(attempt: AttemptKey, report: &TaskTrackerReportInstanceStatusReq) -> Report {
    let (total, succeeded, failed) = (report.total_task_num, report.succeed_task_num, report.failed_task_num);
    let ended = succeeded.saturating_add(failed).clamp(0, total.max(0));
    let per_mille = if total > 0 { (i128::from(ended) * 1000 / i128::from(total)) as u32 } else { 0 };
    let message: Arc<str> = format!("{succeeded} succeeded and {failed} failed of {total} tasks").into();
    Report { attempt, event: ReportEvent::Progress { per_mille, message: Some(message) } }
}

/// The end that a worker reported of an attempt at a processor of that class.
pub(crate) fn ended(
    now: Timestamp,
    attempt: AttemptKey,
    report: &TaskTrackerReportInstanceStatusReq,
    class: Option<&str>,
) -> Report {
    let text = report.result.as_deref().unwrap_or_default();
    let started_at = Some(started_at(now, report));
    let event = if report.instance_status == status::SUCCEEDED {
        let bytes = limits::cut(text, limits::RESULT_BYTES).into_bytes();
        let result = Some(Payload { content_type: "text/plain; charset=utf-8".to_owned(), bytes });
        let result = result.filter(|result| !result.bytes.is_empty());
        ReportEvent::Ended { outcome: input::Outcome::Succeeded, message: None, result, started_at }
    } else {
        let outcome = failure(text, class);
        // It did not start there.
        let started_at = started_at.filter(|_| !matches!(outcome, input::Outcome::Rejected { .. }));
        let message = Some(limits::cut(text, limits::MESSAGE_BYTES).into());
        ReportEvent::Ended { outcome, message, result: None, started_at }
    };
    Report { attempt, event }
}

/// A worker says why only in words.
fn failure(text: &str, class: Option<&str>) -> input::Outcome {
    let lower = text.to_ascii_lowercase();
    let failed = |reason| input::Outcome::Failed { reason, final_: false };
    if lower.starts_with("init tasktracker failed") {
        return match names_a_missing_processor(text) {
            true => input::Outcome::Rejected { reason: Reason::PROCESSOR_MISSING },
            false => failed(Reason::from_wire("tracker_not_created")),
        };
    }
    // Before 4.3 it says no more than that, and a processor that itself lacks a class would say the same of another one.
    if text.strip_prefix("ClassNotFoundException: ").is_some_and(|lacks| Some(lacks) == class) {
        return input::Outcome::Rejected { reason: Reason::PROCESSOR_MISSING };
    }
    if lower.starts_with("instance execute timeout") {
        return failed(Reason::TIMEOUT);
    }
    failed(Reason::FAILED)
}

/// The same of work that is bound to its worker: what that lacks it will lack the next time too.
pub(crate) fn for_good(mut report: Report) -> Report {
    if let ReportEvent::Ended { outcome, .. } = &mut report.event
        && let input::Outcome::Rejected { reason } = outcome
        && *reason == Reason::PROCESSOR_MISSING
    {
        *outcome = input::Outcome::Failed { reason: Reason::PROCESSOR_MISSING, final_: true };
    }
    report
}

/// Whether a worker's words mean that it has no such class or bean.
pub(crate) fn names_a_missing_processor(text: &str) -> bool {
    let lower = text.to_ascii_lowercase();
    let words = ["classnotfound", "can't find processor", "fetch processor", "load processor", "no such bean"];
    words.iter().any(|words| lower.contains(words))
}

/// An end that we know of, and the worker does not report.
pub(crate) fn ended_as(attempt: AttemptKey, outcome: input::Outcome, message: &str) -> Report {
    let message = (!message.is_empty()).then(|| limits::cut(message, limits::MESSAGE_BYTES).into());
    Report { attempt, event: ReportEvent::Ended { outcome, message, result: None, started_at: None } }
}
