//! A job as PowerJob's clients write it, and ours: there and back.

use std::time::Duration;

use pendula_model::Timestamp;
use pendula_model::job::{Job, JobSpec};
use pendula_model::mode::ExecutionMode;
use pendula_model::policy::{Backoff, Concurrency, Overflow, Retry};
use pendula_model::powerjob::{PowerJob, PowerJobExecuteType, PowerJobType};
use pendula_model::processor::Processor;
use pendula_model::trigger::{CronDialect, DailyWindow, Trigger, Weekday};
use pendula_model::worker::{Bytes, LabelRule, Minimum, Strategy, WorkerSelector};
use serde_json::{Map, Value, json};

use super::answer::Refused;
use super::fields::{Fields, as_long};

/// Between a failure and the next attempt, as in PowerJob.
const RETRY_AFTER: Duration = Duration::from_secs(10);
/// Of what fires at a rate or with a delay.
const LONGEST_RATE_MILLIS: i64 = 120_000;
const GIGABYTE: f64 = 1_073_741_824.0;

/// Reads an enum's name or number.
fn word<T: Copy>(fields: &Fields, name: &str, words: &[(&str, i64, T)]) -> Result<Option<T>, Refused> {
    let Some(value) = fields.text(name) else { return Ok(None) };
    let found =
        words.iter().find(|(word, code, _)| word.eq_ignore_ascii_case(value.trim()) || code.to_string() == value);
    let allowed = || words.iter().map(|(word, ..)| *word).collect::<Vec<_>>().join(", ");
    match found {
        Some((.., meant)) => Ok(Some(*meant)),
        None => {
            Err(Refused::new(format!("IllegalArgumentException: {name} {value} is not served; allowed: {}", allowed())))
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    Asked,
    Cron,
    Rate,
    Delay,
    Workflow,
    Daily,
}

const WHEN: [(&str, i64, When); 6] = [
    ("API", 1, When::Asked),
    ("CRON", 2, When::Cron),
    ("FIXED_RATE", 3, When::Rate),
    ("FIXED_DELAY", 4, When::Delay),
    ("WORKFLOW", 5, When::Workflow),
    ("DAILY_TIME_INTERVAL", 11, When::Daily),
];
const EXECUTE: [(&str, i64, PowerJobExecuteType); 4] = [
    ("STANDALONE", 1, PowerJobExecuteType::Standalone),
    ("BROADCAST", 2, PowerJobExecuteType::Broadcast),
    ("MAP_REDUCE", 3, PowerJobExecuteType::MapReduce),
    ("MAP", 4, PowerJobExecuteType::Map),
];
const KINDS: [(&str, i64, PowerJobType); 2] =
    [("BUILT_IN", 1, PowerJobType::BuiltIn), ("EXTERNAL", 4, PowerJobType::External)];

/// A definition from the fields of a `SaveJobInfoRequest`. `zone` is the one that its times are in.
pub(super) fn read(fields: &Fields, zone: &str) -> Result<JobSpec, Refused> {
    definition(fields, zone, LONGEST_RATE_MILLIS)
}

/// The same with another bound of rates and delays.
pub(crate) fn definition(fields: &Fields, zone: &str, longest_rate_millis: i64) -> Result<JobSpec, Refused> {
    let required = |name: &str| {
        let empty = || Refused::new(format!("IllegalArgumentException: {name} can't be empty"));
        fields.text(name).filter(|text| !text.trim().is_empty()).ok_or_else(empty)
    };
    let missing = |name: &str| Refused::new(format!("IllegalArgumentException: {name} can't be empty"));
    let name = required("jobName")?;
    let info = required("processorInfo")?;
    let execute_type = word(fields, "executeType", &EXECUTE)?.ok_or_else(|| missing("executeType"))?;
    let kind = word(fields, "processorType", &KINDS)?.ok_or_else(|| missing("processorType"))?;
    let when = word(fields, "timeExpressionType", &WHEN)?.ok_or_else(|| missing("timeExpressionType"))?;
    let natural = |name: &str, default: i64| {
        u32::try_from(fields.long(name).unwrap_or(default)).map_err(|_| Refused::new(format!("{name} is out of range")))
    };
    let text_of = |name: &str| fields.object(name).map(|object| Value::Object(object).to_string());
    let powerjob = PowerJob {
        kind,
        execute_type,
        job_params: fields.text("jobParams"),
        thread_concurrency: natural("concurrency", 5)?.clamp(1, 1000),
        task_retries: natural("taskRetryNum", 0)?,
        max_workers: natural("maxWorkerCount", 0)?,
        log_config: text_of("logConfig"),
        advanced_runtime_config: text_of("advancedRuntimeConfig"),
        ..PowerJob::new(info)
    };
    let mut spec = JobSpec::new(name.trim(), Processor::PowerJob(powerjob));
    spec.description = fields.text("jobDescription").unwrap_or_default();
    spec.trigger = trigger(fields, when, zone, longest_rate_millis)?;
    spec.enabled = fields.flag("enable").unwrap_or(true);
    if let Some(limit) = Some(natural("maxInstanceNum", 0)?).filter(|limit| *limit > 0) {
        spec.concurrency = Concurrency { limit: Some(limit), overflow: Overflow::Fail, ..Concurrency::default() };
    }
    let timeout = fields.long("instanceTimeLimit").unwrap_or(0).max(0);
    spec.timeout = (timeout > 0).then(|| Duration::from_millis(timeout as u64));
    let attempts = natural("instanceRetryNum", 0)?.saturating_add(1);
    if attempts > 1 {
        spec.retry = Retry { attempts, backoff: Backoff::Fixed(RETRY_AFTER), ..Retry::default() };
    }
    spec.workers = selector(fields)?;
    Ok(spec)
}

fn trigger(fields: &Fields, when: When, zone: &str, longest_rate_millis: i64) -> Result<Option<Trigger>, Refused> {
    let expression = fields.text("timeExpression").unwrap_or_default();
    let invalid = || Refused::new(format!("IllegalArgumentException: invalid timeExpression! ({expression})"));
    let timezone = zone.to_owned();
    let mut trigger = match when {
        When::Asked | When::Workflow => return Ok(None),
        When::Cron if expression.trim().is_empty() => return Err(invalid()),
        When::Cron => Trigger {
            cron: Some(expression.trim().to_owned()),
            dialect: Some(CronDialect::Quartz),
            timezone,
            ..Trigger::default()
        },
        When::Rate | When::Delay => {
            let millis: i64 = expression.trim().parse().map_err(|_| invalid())?;
            let what = if when == When::Rate { "rate" } else { "delay" };
            if millis <= 0 {
                return Err(Refused::new(format!("IllegalArgumentException: the {what} must be greater than 0 ms")));
            }
            if millis > longest_rate_millis {
                let message = format!("IllegalArgumentException: the {what} must be less than {longest_rate_millis}ms");
                return Err(Refused::new(message));
            }
            let every = Some(Duration::from_millis(millis as u64));
            match when {
                When::Rate => Trigger { fixed_rate: every, ..Trigger::default() },
                _ => Trigger { fixed_delay: every, ..Trigger::default() },
            }
        }
        When::Daily => {
            let daily: Map<String, Value> = serde_json::from_str(&expression).map_err(|_| invalid())?;
            Trigger { daily_window: Some(daily_window(&daily).ok_or_else(invalid)?), timezone, ..Trigger::default() }
        }
    };
    if let Some(life) = fields.object("lifeCycle") {
        let at = |name: &str| life.get(name).and_then(as_long).filter(|at| *at > 0).map(Timestamp::from_millis);
        (trigger.start, trigger.end) = (at("start"), at("end"));
    }
    Ok(Some(trigger))
}

const WEEK: [Weekday; 7] =
    [Weekday::Mon, Weekday::Tue, Weekday::Wed, Weekday::Thu, Weekday::Fri, Weekday::Sat, Weekday::Sun];

fn daily_window(daily: &Map<String, Value>) -> Option<DailyWindow> {
    let number = as_long(daily.get("interval")?).filter(|number| *number > 0)? as u64;
    let unit = daily.get("intervalUnit").and_then(Value::as_str).unwrap_or("SECONDS");
    let every = match unit.to_ascii_uppercase().as_str() {
        "MILLISECONDS" => Duration::from_millis(number),
        "SECONDS" => Duration::from_secs(number),
        "MINUTES" => Duration::from_secs(number.checked_mul(60)?),
        "HOURS" => Duration::from_secs(number.checked_mul(3600)?),
        "DAYS" => Duration::from_secs(number.checked_mul(86_400)?),
        _ => return None,
    };
    let days = daily.get("daysOfWeek").and_then(Value::as_array).cloned().unwrap_or_default();
    let day = |value: &Value| WEEK.get(usize::try_from(as_long(value)? - 1).ok()?).copied();
    let text = |name: &str| daily.get(name).and_then(Value::as_str).map(str::to_owned);
    Some(DailyWindow {
        every,
        from: text("startTimeOfDay").unwrap_or_else(|| "00:00:00".to_owned()),
        to: text("endTimeOfDay").unwrap_or_else(|| "24:00".to_owned()),
        weekdays: days.iter().map(day).collect::<Option<_>>()?,
    })
}

fn selector(fields: &Fields) -> Result<WorkerSelector, Refused> {
    let mut selector = WorkerSelector::default();
    let designated = fields.text("designatedWorkers").unwrap_or_default();
    let named: Vec<String> =
        designated.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect();
    let is_address = |name: &&String| name.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    match named.iter().filter(is_address).count() {
        0 if named.is_empty() => {}
        0 => drop(selector.labels.insert("tag".to_owned(), LabelRule::In(named))),
        addresses if addresses == named.len() => selector.names = named,
        _ => {
            let message = "IllegalArgumentException: designatedWorkers names addresses and tags; use either";
            return Err(Refused::new(message));
        }
    }
    let positive = |name: &str| fields.double(name).filter(|number| *number > 0.0);
    let bytes = |name: &str| positive(name).map(|gigabytes| Bytes((gigabytes * GIGABYTE) as u64));
    selector.min =
        Minimum { cpu: positive("minCpuCores"), memory: bytes("minMemorySpace"), disk: bytes("minDiskSpace") };
    // SPECIFY only prefers some trackers, and takes any when none is there.
    let strategies = [
        ("HEALTH_FIRST", 1, Strategy::LeastLoaded),
        ("RANDOM", 2, Strategy::Random),
        ("SPECIFY", 11, Strategy::Random),
    ];
    if let Some(value) = fields.text("dispatchStrategy") {
        let found = strategies
            .into_iter()
            .find(|(word, code, _)| word.eq_ignore_ascii_case(value.trim()) || code.to_string() == value);
        selector.strategy = found.map_or(Strategy::LeastLoaded, |(.., strategy)| strategy);
    }
    Ok(selector)
}

/// What is the same in both forms in which jobs are shown. `names` says whether enums are words or numbers.
fn common(spec: &JobSpec, powerjob: &PowerJob, names: bool) -> Map<String, Value> {
    let pick = |word: &str, code: i64| if names { Value::from(word) } else { Value::from(code) };
    let (when, expression) = time_expression(spec.trigger.as_ref());
    let find = |words: &[(&str, i64, When)]| {
        words.iter().find(|(.., meant)| *meant == when).map(|(word, code, _)| pick(word, *code))
    };
    // A broadcast is one for clients, whoever tracks it.
    let executed = if is_tracked(spec) { PowerJobExecuteType::Broadcast } else { powerjob.execute_type };
    let execute = EXECUTE.iter().find(|(.., meant)| *meant == executed).map(|(word, code, _)| pick(word, *code));
    let kind = KINDS.iter().find(|(.., meant)| *meant == powerjob.kind).map(|(word, code, _)| pick(word, *code));
    let names_of = |rule: Option<&LabelRule>| match rule {
        Some(LabelRule::In(tags)) => Some(tags.join(",")),
        Some(LabelRule::Is(tag)) => Some(tag.clone()),
        _ => None,
    };
    let designated = match spec.workers.names.is_empty() {
        true => names_of(spec.workers.labels.get("tag")),
        false => Some(spec.workers.names.join(",")),
    };
    let gigabytes = |bytes: Option<Bytes>| bytes.map_or(0.0, |bytes| bytes.0 as f64 / GIGABYTE);
    let object = |text: &Option<String>| text.as_ref().and_then(|text| serde_json::from_str::<Value>(text).ok());
    let strategy = if spec.workers.strategy == Strategy::Random { pick("RANDOM", 2) } else { pick("HEALTH_FIRST", 1) };
    let shown = json!({
        "jobName": spec.name,
        "jobDescription": spec.description,
        "jobParams": powerjob.job_params,
        "timeExpressionType": find(&WHEN),
        "timeExpression": expression,
        "executeType": execute,
        "processorType": kind,
        "processorInfo": powerjob.info,
        "maxInstanceNum": spec.concurrency.limit.unwrap_or(0),
        "concurrency": powerjob.thread_concurrency,
        "instanceTimeLimit": spec.timeout.map_or(0, |timeout| timeout.as_millis() as u64),
        "instanceRetryNum": spec.retry.attempts.saturating_sub(1),
        "taskRetryNum": powerjob.task_retries,
        "minCpuCores": spec.workers.min.cpu.unwrap_or(0.0),
        "minMemorySpace": gigabytes(spec.workers.min.memory),
        "minDiskSpace": gigabytes(spec.workers.min.disk),
        "designatedWorkers": designated,
        "maxWorkerCount": powerjob.max_workers,
        "dispatchStrategy": strategy,
        "logConfig": object(&powerjob.log_config),
        "advancedRuntimeConfig": object(&powerjob.advanced_runtime_config),
    });
    match shown {
        Value::Object(shown) => shown,
        _ => unreachable!("an object was written"),
    }
}

fn is_tracked(spec: &JobSpec) -> bool {
    matches!(spec.mode, ExecutionMode::Broadcast(_))
}

/// A broadcast that the server tracks stays one when a client saves it again.
pub(super) fn keep_tracked(spec: &mut JobSpec, old: &JobSpec) {
    if let Processor::PowerJob(powerjob) = &mut spec.processor
        && is_tracked(old)
        && powerjob.execute_type == PowerJobExecuteType::Broadcast
    {
        powerjob.execute_type = PowerJobExecuteType::Standalone;
        spec.mode = old.mode.clone();
    }
}

fn time_expression(trigger: Option<&Trigger>) -> (When, Option<String>) {
    let Some(trigger) = trigger else { return (When::Asked, None) };
    if let Some(cron) = &trigger.cron {
        return (When::Cron, Some(cron.clone()));
    }
    if let Some(every) = trigger.fixed_rate {
        return (When::Rate, Some(every.as_millis().to_string()));
    }
    if let Some(every) = trigger.fixed_delay {
        return (When::Delay, Some(every.as_millis().to_string()));
    }
    if let Some(window) = &trigger.daily_window {
        let day = |day: &Weekday| WEEK.iter().position(|of| of == day).map(|index| index + 1);
        let days: Vec<_> = window.weekdays.iter().filter_map(day).collect();
        let (interval, unit) = match window.every.as_millis() % 1000 {
            0 => (window.every.as_secs(), "SECONDS"),
            _ => (window.every.as_millis() as u64, "MILLISECONDS"),
        };
        let text = json!({
            "interval": interval, "intervalUnit": unit, "startTimeOfDay": window.from, "endTimeOfDay": window.to,
            "daysOfWeek": days,
        });
        return (When::Daily, Some(text.to_string()));
    }
    (When::Asked, None)
}

fn life_cycle(spec: &JobSpec) -> Option<Value> {
    let trigger = spec.trigger.as_ref()?;
    let at = |at: Option<Timestamp>| at.map(Timestamp::as_millis);
    (trigger.start.is_some() || trigger.end.is_some())
        .then(|| json!({ "start": at(trigger.start), "end": at(trigger.end) }))
}

/// As `exportJob` gives it, to be saved elsewhere.
pub(super) fn request(spec: &JobSpec, powerjob: &PowerJob, app: i64, name: String) -> Value {
    let mut shown = common(spec, powerjob, true);
    shown.insert("jobName".to_owned(), name.into());
    shown.insert("appId".to_owned(), app.into());
    shown.insert("enable".to_owned(), spec.enabled.into());
    shown.insert("lifeCycle".to_owned(), life_cycle(spec).into());
    Value::Object(shown)
}

/// A `JobInfoDTO`.
pub(super) fn info(job: &Job, powerjob: &PowerJob, app: i64) -> Value {
    let status = match (job.deleted_at, job.spec.enabled) {
        (Some(_), _) => 99,
        (None, true) => 1,
        (None, false) => 2,
    };
    let mut shown = common(&job.spec, powerjob, false);
    let own = json!({
        "id": job.id.0,
        "appId": app,
        "status": status,
        "nextTriggerTime": job.schedule.next_fire.map(Timestamp::as_millis),
        "gmtCreate": date(job.created_at),
        "gmtModified": date(job.updated_at),
        "lifecycle": life_cycle(&job.spec).map(|life| life.to_string()),
    });
    if let Value::Object(own) = own {
        shown.extend(own);
    }
    Value::Object(shown)
}

/// As a Java server writes a date.
pub(super) fn date(at: Timestamp) -> String {
    let at = jiff::Timestamp::from_millisecond(at.as_millis()).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    at.strftime("%Y-%m-%dT%H:%M:%S%.3f+00:00").to_string()
}

/// The zone in which PowerJob's servers read times: the machine's.
pub(super) fn zone() -> String {
    jiff::tz::TimeZone::system().iana_name().unwrap_or("UTC").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(json: &Value) -> Fields {
        Fields::read("application/json", json.to_string().as_bytes())
    }

    fn example() -> Value {
        json!({
            "jobName": "nightly", "appId": 3, "timeExpressionType": "CRON", "timeExpression": "0 0 3 * * ?",
            "executeType": "MAP_REDUCE", "processorType": "BUILT_IN", "processorInfo": "com.acme.NightlyJob",
            "jobParams": "full", "maxInstanceNum": 1, "concurrency": 7, "instanceTimeLimit": 60_000,
            "instanceRetryNum": 2, "taskRetryNum": 1, "minCpuCores": 1.5, "minMemorySpace": 2.0, "minDiskSpace": 0.0,
            "enable": false, "designatedWorkers": "blue, green", "maxWorkerCount": 3, "dispatchStrategy": "RANDOM",
            "lifeCycle": { "start": 1_761_000_000_000_i64, "end": 1_762_000_000_000_i64 },
            "logConfig": { "type": 1, "level": 2 },
        })
    }

    #[test]
    fn what_is_exported_and_saved_again_is_the_same_job() {
        let spec = read(&fields(&example()), "Asia/Shanghai").unwrap();
        spec.validate().unwrap();
        assert_eq!(spec.retry.attempts, 3);
        assert_eq!(spec.trigger.as_ref().unwrap().timezone, "Asia/Shanghai");
        let Processor::PowerJob(powerjob) = &spec.processor else { panic!() };
        let exported = request(&spec, powerjob, 3, "nightly".to_owned());
        let again = read(&fields(&exported), "Asia/Shanghai").unwrap();
        assert_eq!(again, spec);
    }

    #[test]
    fn a_broadcast_that_the_server_tracks_stays_one_when_it_is_saved_again() {
        let mut example = example();
        example["executeType"] = "STANDALONE".into();
        let mut spec = read(&fields(&example), "UTC").unwrap();
        spec.mode = ExecutionMode::Broadcast(Default::default());
        spec.validate().unwrap();
        let Processor::PowerJob(powerjob) = &spec.processor else { panic!() };
        let exported = request(&spec, powerjob, 3, "nightly".to_owned());
        assert_eq!(exported["executeType"], "BROADCAST");
        let mut again = read(&fields(&exported), "UTC").unwrap();
        keep_tracked(&mut again, &spec);
        assert_eq!((&again.mode, &again.processor), (&spec.mode, &spec.processor));
        // What it is made into is what it becomes.
        let mut map = exported.clone();
        map["executeType"] = "MAP".into();
        let mut other = read(&fields(&map), "UTC").unwrap();
        keep_tracked(&mut other, &spec);
        other.validate().unwrap();
        assert_eq!(other.mode, ExecutionMode::Standalone);
    }

    #[test]
    fn every_time_expression_has_its_trigger() {
        let daily = r#"{"interval":30,"intervalUnit":"MINUTES","startTimeOfDay":"08:00:00","endTimeOfDay":"20:30:00","daysOfWeek":[1,7]}"#;
        for (kind, expression) in [
            ("API", ""),
            ("WORKFLOW", ""),
            ("FIXED_RATE", "1000"),
            ("FIXED_DELAY", "1000"),
            ("DAILY_TIME_INTERVAL", daily),
        ] {
            let mut example = example();
            example["timeExpressionType"] = kind.into();
            example["timeExpression"] = expression.into();
            let spec = read(&fields(&example), "UTC").unwrap();
            assert_eq!(spec.trigger.is_none(), expression.is_empty(), "{kind}");
            if let Some(window) = spec.trigger.and_then(|trigger| trigger.daily_window) {
                assert_eq!(
                    (window.every, window.weekdays),
                    (Duration::from_secs(1800), vec![Weekday::Mon, Weekday::Sun])
                );
            }
        }
        for (kind, expression) in [("FIXED_RATE", "0"), ("FIXED_DELAY", "200000"), ("CRON", ""), ("SOLAR", "x")] {
            let mut example = example();
            example["timeExpressionType"] = kind.into();
            example["timeExpression"] = expression.into();
            assert!(read(&fields(&example), "UTC").is_err(), "{kind} {expression}");
        }
    }

    #[test]
    fn sec_4_no_script_can_be_saved() {
        for kind in ["SHELL", "PYTHON", "2", "3"] {
            let mut example = example();
            example["processorType"] = kind.into();
            assert!(read(&fields(&example), "UTC").is_err(), "{kind}");
        }
    }
}
