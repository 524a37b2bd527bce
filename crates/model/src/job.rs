//! Jobs: what to run, when, how, within which limits.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::id::{AppId, JobId, Revision};
use crate::invalid::Invalid;
use crate::limits;
use crate::mode::ExecutionMode;
use crate::policy::{Concurrency, Delivery, Retry};
use crate::processor::Processor;
use crate::time::Timestamp;
use crate::trigger::Trigger;
use crate::worker::WorkerSelector;

/// The definition of a job, as it stands in a definitions file, in the REST API and in the store.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct JobSpec {
    /// Unique within its app.
    pub name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// When it fires; without one it runs only when asked to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trigger: Option<Trigger>,
    pub processor: Processor,
    /// How an instance becomes tasks: a word, or a word with settings.
    #[serde(default, skip_serializing_if = "is_default")]
    pub mode: ExecutionMode,
    /// A JSON object; a run may override single keys.
    #[serde(default, skip_serializing_if = "serde_json::Map::is_empty")]
    #[cfg_attr(feature = "openapi", schema(value_type = Object))]
    pub params: serde_json::Map<String, serde_json::Value>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub concurrency: Concurrency,
    #[serde(default, skip_serializing_if = "is_default")]
    pub retry: Retry,
    /// Longest run of one attempt, from dispatch; of an instance with many tasks, from its first dispatch to its end.
    /// None means no limit.
    #[serde(default, with = "crate::duration::option", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub timeout: Option<Duration>,
    /// Longest wait for a worker, from the fire time; then the instance ends `failed` with reason `expired`.
    #[serde(default, with = "crate::duration::option", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub expire_after: Option<Duration>,
    /// Time between the polite and the forced stop of an attempt. Default 10 s, at most 1 h.
    #[serde(default, with = "crate::duration::option", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub stop_grace: Option<Duration>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub delivery: Delivery,
    #[serde(default, skip_serializing_if = "WorkerSelector::is_empty")]
    pub workers: WorkerSelector,
    /// Higher goes first among what waits for the same workers. -100 to 100, default 0.
    #[serde(default, skip_serializing_if = "is_default")]
    pub priority: i8,
    /// Share of free slots among the jobs of an app that wait for the same workers. 1 (default) to 1,000.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub weight: u32,
    /// How long ended instances are kept; default is the server's.
    #[serde(default, with = "crate::duration::option", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub retention: Option<Duration>,
    /// Whether the trigger fires. A disabled job can still be run by hand.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub enabled: bool,
}

/// Default of [`JobSpec::stop_grace`].
pub const STOP_GRACE: Duration = Duration::from_secs(10);

impl JobSpec {
    /// A job that runs when asked to, with defaults for everything else.
    pub fn new(name: impl Into<String>, processor: Processor) -> Self {
        JobSpec {
            name: name.into(),
            description: String::new(),
            trigger: None,
            processor,
            mode: ExecutionMode::default(),
            params: serde_json::Map::new(),
            concurrency: Concurrency::default(),
            retry: Retry::default(),
            timeout: None,
            expire_after: None,
            stop_grace: None,
            delivery: Delivery::default(),
            workers: WorkerSelector::default(),
            priority: 0,
            weight: 1,
            retention: None,
            enabled: true,
        }
    }

    /// Time between the polite and the forced stop.
    pub fn stop_grace(&self) -> Duration {
        self.stop_grace.unwrap_or(STOP_GRACE)
    }

    /// Checks all that needs no calendar; `schedule::Plan::compile` checks the trigger.
    pub fn validate(&self) -> Result<(), Invalid> {
        limits::check_name("name", &self.name)?;
        if self.description.len() > limits::MESSAGE_BYTES {
            return Err(Invalid::new("description", format!("longer than {} bytes", limits::MESSAGE_BYTES)));
        }
        self.processor.validate().map_err(|e| e.inside("processor"))?;
        self.concurrency.validate().map_err(|e| e.inside("concurrency"))?;
        self.retry.validate().map_err(|e| e.inside("retry"))?;
        self.workers.validate().map_err(|e| e.inside("workers"))?;
        self.mode.validate().map_err(|e| e.inside("mode"))?;
        let maps = matches!(self.mode, ExecutionMode::Map(_) | ExecutionMode::MapReduce(_));
        if maps && matches!(self.processor, Processor::Http(_)) {
            let message = "an http request cannot emit sub-tasks; use shell, python or a handler";
            return Err(Invalid::new("mode", message));
        }
        if let Processor::PowerJob(powerjob) = &self.processor {
            powerjob.validate_mode(&self.mode)?;
        }
        if self.delivery == Delivery::AtMostOnce && self.retry.attempts > 1 {
            let message = "an at_most_once job never starts twice; set it to 1 or use at_least_once";
            return Err(Invalid::new("retry.attempts", message));
        }
        let second = Duration::from_millis(1);
        let year = Duration::from_secs(366 * 86_400);
        for (field, value, longest) in [
            ("timeout", self.timeout, year),
            ("expire_after", self.expire_after, year),
            ("stop_grace", self.stop_grace, Duration::from_secs(3600)),
            ("retention", self.retention, year * 100),
        ] {
            if value.is_some_and(|value| value < second || value > longest) {
                let longest = crate::duration::format(longest);
                return Err(Invalid::new(field, format!("must lie between 1ms and {longest}")));
            }
        }
        if !(-100..=100).contains(&self.priority) {
            return Err(Invalid::new("priority", format!("{} is not allowed; -100 to 100", self.priority)));
        }
        if !(1..=1000).contains(&self.weight) {
            return Err(Invalid::new("weight", format!("{} is not allowed; 1 to 1000", self.weight)));
        }
        check_params(&self.params)?;
        let bytes = serde_json::to_vec(self).map(|json| json.len()).unwrap_or(usize::MAX);
        if bytes > limits::DEFINITION_BYTES {
            let message = format!("the definition has {bytes} bytes; at most {}", limits::DEFINITION_BYTES);
            return Err(Invalid::new("", message));
        }
        Ok(())
    }

    /// Whether `other` runs the same: equal but for `enabled`, which makes no new revision.
    pub fn runs_like(&self, other: &JobSpec) -> bool {
        JobSpec { enabled: true, ..self.clone() } == JobSpec { enabled: true, ..other.clone() }
    }
}

/// Refuses parameters that are too large or cannot become environment variables' values.
pub fn check_params(params: &serde_json::Map<String, serde_json::Value>) -> Result<(), Invalid> {
    let bytes = serde_json::to_vec(params).map(|json| json.len()).unwrap_or(usize::MAX);
    if bytes > limits::PARAMS_BYTES {
        return Err(Invalid::new("params", format!("{bytes} bytes as JSON; at most {}", limits::PARAMS_BYTES)));
    }
    Ok(())
}

/// A saved job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Job {
    pub id: JobId,
    pub app: AppId,
    pub spec: Arc<JobSpec>,
    /// Of what runs; instances keep the one that they were fired with.
    pub revision: Revision,
    /// Of the row's definition; each edit expects the one that it read.
    pub version: u64,
    pub schedule: ScheduleState,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    /// Set once the job was deleted, while history still refers to it.
    #[serde(default)]
    pub deleted_at: Option<Timestamp>,
}

/// Where a job's trigger stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScheduleState {
    /// When the trigger was saved (or enabled again): what rates and delays count from.
    pub anchor: Timestamp,
    /// The next fire time; none when disabled, without trigger, finished, or (fixed delay) while an instance runs.
    pub next_fire: Option<Timestamp>,
    /// The latest fire time that made an instance.
    pub last_fire: Option<Timestamp>,
    /// Fire times that passed without an instance since the trigger was saved.
    pub missed: u64,
}

fn one() -> u32 {
    1
}

fn is_one(number: &u32) -> bool {
    *number == 1
}

fn yes() -> bool {
    true
}

fn is_yes(value: &bool) -> bool {
    *value
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_design_example_is_read_and_valid() {
        let json = r#"{
            "name": "nightly-report",
            "trigger": { "cron": "0 30 2 * * ?", "timezone": "Asia/Shanghai", "misfire": "fire_once" },
            "processor": { "shell": "./report.sh --day ${fire_time | date('yyyy-MM-dd')}" },
            "mode": "standalone",
            "concurrency": { "limit": 1, "overflow": "queue" },
            "retry": { "attempts": 3, "backoff": { "exponential": { "initial": "5s", "max": "5m" } } },
            "timeout": "30m",
            "delivery": "at_least_once",
            "workers": { "labels": { "zone": "a" } }
        }"#;
        let spec: JobSpec = serde_json::from_str(json).unwrap();
        spec.validate().unwrap();
        let again: JobSpec = serde_json::from_str(&serde_json::to_string(&spec).unwrap()).unwrap();
        assert_eq!(again, spec);
    }

    #[test]
    fn at_most_once_excludes_retries() {
        let mut spec = JobSpec::new("a", Processor::Shell(crate::processor::Script::new("ls")));
        spec.delivery = Delivery::AtMostOnce;
        spec.retry.attempts = 2;
        assert_eq!(spec.validate().unwrap_err().field, "retry.attempts");
    }
}
