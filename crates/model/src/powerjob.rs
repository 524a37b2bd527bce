//! What a PowerJob worker runs. The words are PowerJob's own, because those who use them know them from there.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::invalid::Invalid;
use crate::mode::ExecutionMode;

/// Tasks of one instance that a worker takes at once at most, running and queued: its queue has room for 128.
const PER_WORKER: u32 = 100;

const SHORTEST_REPEAT: Duration = Duration::from_millis(50);

/// Offered by every PowerJob worker: it stands for all names that begin so.
pub const OFFERED: &str = "powerjob:*";

/// A processor in a PowerJob worker: `{ powerjob: { info: com.example.Nightly, execute_type: BROADCAST } }`.
///
/// One worker tracks the whole instance, by itself and with the others of its app, as PowerJob's workers do: for us it is
/// one attempt on that worker, and the job's `mode` is `standalone` whatever `execute_type` says. Or the server tracks it:
/// then `mode` is `broadcast` (a `STANDALONE` processor on each worker) or `map` (a processor that emits sub-tasks, each
/// of which is a task of ours), and `execute_type` is left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PowerJob {
    #[serde(default, rename = "type", skip_serializing_if = "is_default")]
    pub kind: PowerJobType,
    /// Of `BUILT_IN`: the name of a class or of a Spring bean, or `bean#handler`. Of `EXTERNAL`: `container#class`.
    pub info: String,
    #[serde(default, skip_serializing_if = "is_default")]
    pub execute_type: PowerJobExecuteType,
    /// What the processor gets as its job's parameters; without it, the job's `params` as JSON unless there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job_params: Option<String>,
    /// Threads per worker for sub-tasks. 1 to 1,000, default 5.
    #[serde(default = "five", skip_serializing_if = "is_five")]
    pub thread_concurrency: u32,
    /// How often the worker itself repeats a task of the instance that failed. At most 1,000, default 0.
    #[serde(default, skip_serializing_if = "is_default")]
    pub task_retries: u32,
    /// Workers that one instance uses at most; 0 (default) means all.
    #[serde(default, skip_serializing_if = "is_default")]
    pub max_workers: u32,
    /// The worker that tracks the instance runs the processor again and again, and the instance lasts until it is stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_worker: Option<InWorker>,
    /// PowerJob's `logConfig`, as JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_config: Option<String>,
    /// PowerJob's `advancedRuntimeConfig`, as JSON; workers before 4.3.8 and 5.0.0-beta never see it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advanced_runtime_config: Option<String>,
}

/// Where the processor's code is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum PowerJobType {
    /// In the worker.
    #[default]
    BuiltIn,
    /// In a container that the worker fetches.
    External,
}

/// PowerJob's FIXED_RATE and FIXED_DELAY, as its workers do them: by themselves, each 5 s or more whatever is asked for, and
/// without a trace of single runs here. One of the two; at least 50 ms.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct InWorker {
    #[serde(with = "crate::duration::option", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub fixed_rate: Option<Duration>,
    #[serde(with = "crate::duration::option", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub fixed_delay: Option<Duration>,
}

/// How the worker that tracks an instance spreads it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum PowerJobExecuteType {
    #[default]
    Standalone,
    Broadcast,
    Map,
    MapReduce,
}

impl PowerJob {
    /// A standalone processor in the worker, with defaults.
    pub fn new(info: impl Into<String>) -> Self {
        PowerJob {
            kind: PowerJobType::BuiltIn,
            info: info.into(),
            execute_type: PowerJobExecuteType::Standalone,
            job_params: None,
            thread_concurrency: five(),
            task_retries: 0,
            max_workers: 0,
            in_worker: None,
            log_config: None,
            advanced_runtime_config: None,
        }
    }

    /// The name that a worker must offer: [`OFFERED`] stands for it.
    pub fn offered_as(&self) -> String {
        format!("powerjob:{}", self.info)
    }

    /// Whether a job of this mode can be run, and what to do if not.
    pub(crate) fn validate_mode(&self, mode: &ExecutionMode) -> Result<(), Invalid> {
        let refuse = |field, message: &str| Err(Invalid::new(field, message));
        if mode.has_tasks() && self.in_worker.is_some() {
            return refuse(
                "mode",
                "what repeats in its worker is tracked there: leave one of `mode` and `in_worker` out",
            );
        }
        if mode.has_tasks() && self.execute_type != PowerJobExecuteType::Standalone {
            let message = "either a PowerJob worker spreads the instance, as `execute_type` of the processor says, or the \
                           server does, as `mode` says: leave one of them out";
            return refuse("mode", message);
        }
        match mode {
            ExecutionMode::Standalone => Ok(()),
            ExecutionMode::Broadcast(frame) if frame.pre || frame.post => {
                refuse("mode", "PowerJob's processors are broadcast without pre and post")
            }
            ExecutionMode::Broadcast(_) => Ok(()),
            ExecutionMode::Map(map) if map.per_worker.is_none_or(|most| most > PER_WORKER) => {
                let message =
                    format!("PowerJob's workers drop what their queue has no room for: set it to {PER_WORKER} or less");
                refuse("mode.per_worker", &message)
            }
            ExecutionMode::Map(_) => Ok(()),
            _ => {
                let message = "the server tracks PowerJob's processors as broadcast or map: set `execute_type` of the processor \
                               instead, and leave `mode` out";
                refuse("mode", message)
            }
        }
    }

    pub(crate) fn validate(&self) -> Result<(), Invalid> {
        if self.info.trim().is_empty() || self.info.len() > 1024 || self.info.contains(char::is_control) {
            return Err(Invalid::new("info", "write the name of a class or bean, of at most 1024 bytes"));
        }
        if self.kind == PowerJobType::External && !self.info.contains('#') {
            return Err(Invalid::new("info", "write container#class for an EXTERNAL processor"));
        }
        if !(1..=1000).contains(&self.thread_concurrency) {
            return Err(Invalid::new("thread_concurrency", "must lie between 1 and 1000"));
        }
        if self.task_retries > 1000 {
            return Err(Invalid::new("task_retries", "at most 1000"));
        }
        if let Some(InWorker { fixed_rate, fixed_delay }) = &self.in_worker {
            let shortest = fixed_rate.or(*fixed_delay);
            if fixed_rate.is_some() == fixed_delay.is_some() {
                return Err(Invalid::new("in_worker", "write either fixed_rate or fixed_delay"));
            }
            if shortest.is_some_and(|time| time < SHORTEST_REPEAT) {
                return Err(Invalid::new("in_worker", "a worker takes no less than 50ms"));
            }
        }
        for (field, text) in
            [("log_config", &self.log_config), ("advanced_runtime_config", &self.advanced_runtime_config)]
        {
            let is_object =
                |text: &String| serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(text).is_ok();
            if text.as_ref().is_some_and(|text| !is_object(text)) {
                return Err(Invalid::new(field, "must be a JSON object, as text"));
            }
        }
        Ok(())
    }
}

fn five() -> u32 {
    5
}

fn is_five(number: &u32) -> bool {
    *number == five()
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::JobSpec;
    use crate::processor::Processor;

    #[test]
    fn powerjobs_words_are_read_and_written_back() {
        let json = r#"{"powerjob":{"info":"com.acme.Nightly","execute_type":"MAP_REDUCE","task_retries":1}}"#;
        let processor: Processor = serde_json::from_str(json).unwrap();
        processor.validate().unwrap();
        assert_eq!(serde_json::to_string(&processor).unwrap(), json);
        let Processor::PowerJob(powerjob) = processor else { panic!("{json}") };
        assert_eq!(powerjob.offered_as(), "powerjob:com.acme.Nightly");
    }

    #[test]
    fn what_no_worker_could_run_is_refused_with_its_field() {
        for (json, field) in [
            (r#"{"powerjob":{"info":" "}}"#, "powerjob.info"),
            (r#"{"powerjob":{"info":"com.acme.A","type":"EXTERNAL"}}"#, "powerjob.info"),
            (r#"{"powerjob":{"info":"a","thread_concurrency":0}}"#, "powerjob.thread_concurrency"),
            (r#"{"powerjob":{"info":"a","log_config":"x"}}"#, "powerjob.log_config"),
            (r#"{"powerjob":{"info":"a","in_worker":{}}}"#, "powerjob.in_worker"),
            (r#"{"powerjob":{"info":"a","in_worker":{"fixed_rate":"1s","fixed_delay":"1s"}}}"#, "powerjob.in_worker"),
            (r#"{"powerjob":{"info":"a","in_worker":{"fixed_delay":"10ms"}}}"#, "powerjob.in_worker"),
        ] {
            let processor: Processor = serde_json::from_str(json).unwrap();
            assert_eq!(processor.validate().unwrap_err().field, field, "{json}");
        }
        let mut spec = JobSpec::new("a", Processor::PowerJob(PowerJob::new("com.acme.A")));
        spec.validate().unwrap();
        for (mode, field) in [
            (r#""broadcast""#, None),
            (r#"{"map":{"per_worker":100}}"#, None),
            (r#"{"broadcast":{"pre":true}}"#, Some("mode")),
            (r#""map""#, Some("mode.per_worker")),
            (r#"{"map":{"per_worker":101}}"#, Some("mode.per_worker")),
            (r#""map_reduce""#, Some("mode")),
            (r#"{"sharded":{"total":2}}"#, Some("mode")),
        ] {
            spec.mode = serde_json::from_str(mode).unwrap();
            assert_eq!(spec.validate().err().map(|error| error.field), field.map(str::to_owned), "{mode}");
        }
        let map = PowerJob { execute_type: PowerJobExecuteType::Map, ..PowerJob::new("com.acme.A") };
        let spec = JobSpec {
            mode: serde_json::from_str(r#""broadcast""#).unwrap(),
            ..JobSpec::new("a", Processor::PowerJob(map))
        };
        assert_eq!(spec.validate().unwrap_err().field, "mode");
    }
}
