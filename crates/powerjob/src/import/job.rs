//! A row of `job_info` as a definition.

use std::time::Duration;

use pendula_model::Timestamp;
use pendula_model::job::JobSpec;
use pendula_model::processor::Processor;
use pendula_model::trigger::Trigger;
use pendula_schedule::Plan as Schedule;
use serde_json::{Map, Value};

use super::names::Named;
use super::plan::{Fate, Options};
use super::source::Row;
use crate::openapi::fields::Fields;
use crate::openapi::saved;

/// PowerJob looks for what is due about so often, and fires nothing more often.
const LOOK: Duration = Duration::from_secs(15);
/// Fires that are looked at to see how near to each other they are.
const LOOKED_AT: usize = 20;
/// The longest rate or delay, in milliseconds. PowerJob's own bound can be raised; what is saved there was allowed.
const LONGEST_RATE_MILLIS: i64 = 3650 * 86_400_000;
/// Where PowerJob's official processors are.
const OFFICIAL: &str = "tech.powerjob.official.processors.";

/// Columns and the fields of the request with which a client saves a job.
const FIELDS: [(&str, &str); 24] = [
    ("job_name", "jobName"),
    ("job_description", "jobDescription"),
    ("job_params", "jobParams"),
    ("time_expression_type", "timeExpressionType"),
    ("time_expression", "timeExpression"),
    ("execute_type", "executeType"),
    ("processor_type", "processorType"),
    ("processor_info", "processorInfo"),
    ("max_instance_num", "maxInstanceNum"),
    ("concurrency", "concurrency"),
    ("instance_time_limit", "instanceTimeLimit"),
    ("instance_retry_num", "instanceRetryNum"),
    ("task_retry_num", "taskRetryNum"),
    ("min_cpu_cores", "minCpuCores"),
    ("min_memory_space", "minMemorySpace"),
    ("min_disk_space", "minDiskSpace"),
    ("designated_workers", "designatedWorkers"),
    ("max_worker_count", "maxWorkerCount"),
    ("dispatch_strategy", "dispatchStrategy"),
    ("dispatch_strategy_config", "dispatchStrategyConfig"),
    ("lifecycle", "lifeCycle"),
    ("log_config", "logConfig"),
    ("advanced_runtime_config", "advancedRuntimeConfig"),
    ("tag", "tag"),
];

/// Numbers that PowerJob lets be negative.
const NATURAL: [&str; 6] = [
    "max_instance_num",
    "concurrency",
    "instance_time_limit",
    "instance_retry_num",
    "task_retry_num",
    "max_worker_count",
];

/// Decides about a job that was not deleted.
pub(super) fn fate(row: &Row, named: Named, options: &Options, now: Timestamp) -> Fate {
    match definition(row, named, options, now) {
        Ok((spec, notes)) => Fate::Imported { spec: Box::new(spec), notes },
        Err(fate) => fate,
    }
}

fn definition(row: &Row, named: Named, options: &Options, now: Timestamp) -> Result<(JobSpec, Vec<String>), Fate> {
    let unsupported = |why: &str| Err(Fate::Unsupported { why: why.to_owned() });
    let broken = |why: String| Fate::Broken { why };
    match row.long("processor_type") {
        Some(kind @ (2 | 3)) => {
            let kind = if kind == 2 { "SHELL" } else { "PYTHON" };
            return unsupported(&format!(
                "processor type {kind} is from before PowerJob 4.0, and no worker since runs it; make it a job with the official \
                 script processor there, or with a `{}` processor here",
                kind.to_lowercase()
            ));
        }
        Some(1 | 4) => {}
        other => return Err(broken(format!("its processor type is {}", shown(other)))),
    }
    let mut notes: Vec<String> =
        named.why.map(|why| format!("named `{}` here: {why}", named.name)).into_iter().collect();
    let mut fields = Map::new();
    for (column, field) in FIELDS {
        if let Some(text) = row.0.get(column) {
            fields.insert(field.to_owned(), Value::from(text.as_str()));
        }
    }
    for column in NATURAL {
        if row.long(column).is_some_and(|number| number < 0) {
            notes.push(format!("{column} is {}: read as its default", row.0[column]));
            let (_, field) = FIELDS.iter().find(|(of, _)| *of == column).expect("they are among the fields");
            fields.remove(*field);
        }
    }
    for column in ["lifecycle", "log_config", "advanced_runtime_config"] {
        let is_object = |text: &str| serde_json::from_str::<Map<String, Value>>(text).is_ok();
        if row.text(column).is_some_and(|text| text.trim() != "null" && !is_object(text)) {
            return Err(broken(format!("its {column} is no JSON object: {}", cut(&row.0[column]))));
        }
    }
    fields.insert("jobName".to_owned(), named.name.into());
    let enabled = row.long("status") == Some(1);
    fields.insert("enable".to_owned(), (enabled && options.enabled).into());
    if let Some(why) = mixed_designation(row) {
        return unsupported(why);
    }

    let read = saved::definition(&Fields::of(fields), &options.timezone, LONGEST_RATE_MILLIS);
    let mut spec = read.map_err(|refused| {
        let why = refused.message();
        broken(why.strip_prefix("IllegalArgumentException: ").unwrap_or(why).to_owned())
    })?;
    if let Some(window) = spec.trigger.as_ref().and_then(|trigger| trigger.daily_window.as_ref())
        && window.from == window.to
    {
        return unsupported("its daily window begins and ends at the same time of day; a cron says that better");
    }
    spec.validate().map_err(|invalid| broken(invalid.to_string()))?;
    schedule(&mut spec, row, &mut notes, now).map_err(broken)?;
    without_equivalent(row, &spec, &mut notes);
    if !matches!(row.long("status"), Some(1 | 2)) {
        notes.push(format!("its status is {}: saved disabled", shown(row.long("status"))));
    }
    Ok((spec, notes))
}

/// What has to be known of when it fires.
fn schedule(spec: &mut JobSpec, row: &Row, notes: &mut Vec<String>, now: Timestamp) -> Result<(), String> {
    let Some(trigger) = spec.trigger.clone() else {
        if row.long("time_expression_type") == Some(5) {
            notes.push("a node of workflows, which are not there yet: it runs only when asked to".to_owned());
        }
        if row.text("lifecycle").is_some_and(says_something) {
            notes.push("its lifecycle means nothing without a schedule".to_owned());
        }
        return Ok(());
    };
    let schedule = Schedule::compile(&trigger, now).map_err(|invalid| invalid.to_string())?;
    if spec.enabled && schedule.check_future(now).is_err() {
        spec.enabled = false;
        let end = trigger.end.map(|end| format!(" (its lifecycle ends at {end})")).unwrap_or_default();
        notes.push(format!("saved disabled, because it does not fire any more{end}"));
    }
    if trigger.fixed_delay.is_some() {
        notes.push("fires exactly so long after the end; PowerJob sees an end only every 5 to 15 s".to_owned());
    }
    if trigger.daily_window.is_some() {
        notes.push("counted from the beginning of the window, not from when it was saved".to_owned());
    }
    if is_dense(&trigger, &schedule, now) {
        notes.push(format!("fires as written; PowerJob fires it every {} s at most", LOOK.as_secs()));
    }
    Ok(())
}

/// Whether it fires more often than PowerJob would. Rates are not looked at: there they are a worker's matter.
fn is_dense(trigger: &Trigger, schedule: &Schedule, now: Timestamp) -> bool {
    if trigger.cron.is_none() && trigger.daily_window.is_none() {
        return false;
    }
    let fires = schedule.preview(now, LOOKED_AT);
    fires.windows(2).any(|pair| pair[0].plus(LOOK) > pair[1])
}

/// What is not kept, or runs somewhere else than one may think.
fn without_equivalent(row: &Row, spec: &JobSpec, notes: &mut Vec<String>) {
    let Processor::PowerJob(powerjob) = &spec.processor else { return };
    if let Some(class) = powerjob.info.strip_prefix(OFFICIAL) {
        let class = class.rsplit('.').next().unwrap_or(class);
        let own = match class {
            "ShellProcessor" => "; on native workers it would be `shell`",
            "PythonProcessor" => "; on native workers it would be `python`",
            "HttpProcessor" => "; on native workers it would be `http`",
            _ => "",
        };
        notes.push(format!("PowerJob's official {class} stays one: it runs in a Java worker that has it{own}"));
    }
    if row.long("processor_type") == Some(4) {
        notes.push("containers are not served yet: it fails when it runs".to_owned());
    }
    if let Some(threads) = row.long("concurrency").filter(|threads| *threads >= 0 && !(1..=1000).contains(threads)) {
        notes.push(format!("its concurrency of {threads} becomes {}", powerjob.thread_concurrency));
    }
    if row.long("dispatch_strategy") == Some(11) {
        let config =
            row.text("dispatch_strategy_config").map(|config| format!(" ({})", cut(config))).unwrap_or_default();
        notes.push(format!(
            "SPECIFY{config} becomes `random`: it only prefers workers; to allow no others, name them in `workers`"
        ));
    }
    if row.text("alarm_config").is_some_and(says_something) {
        notes.push("alarm settings have no equivalent yet".to_owned());
    }
    if row.text("notify_user_ids").is_some_and(|users| users != "[]") {
        notes.push("users to notify have no equivalent yet".to_owned());
    }
    for column in ["tag", "extra"] {
        if let Some(text) = row.text(column) {
            notes.push(format!("its {column} is not kept: {}", cut(text)));
        }
    }
}

/// An entry of `designated_workers` is an address or a tag there; here the two are different rules, which cannot be joined
/// by "or".
fn mixed_designation(row: &Row) -> Option<&'static str> {
    let entries = row.text("designated_workers")?.split(',').map(str::trim).filter(|entry| !entry.is_empty());
    let is_address = |entry: &str| entry.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    let (mut addresses, mut tags) = (0, 0);
    entries.for_each(|entry| if is_address(entry) { addresses += 1 } else { tags += 1 });
    (addresses > 0 && tags > 0)
        .then_some("its designated workers are addresses and tags; only one of the two can be meant here")
}

/// Whether an object has a number that is not zero.
fn says_something(object: &str) -> bool {
    let object: Map<String, Value> = serde_json::from_str(object).unwrap_or_default();
    object.values().any(|value| value.as_f64().is_some_and(|number| number != 0.0))
}

fn shown(number: Option<i64>) -> String {
    number.map_or_else(|| "missing".to_owned(), |number| number.to_string())
}

fn cut(text: &str) -> String {
    pendula_model::limits::cut(text, 200)
}

#[cfg(test)]
mod tests;
