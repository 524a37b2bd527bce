use std::time::Duration;

use pendula_model::policy::Overflow;
use pendula_model::powerjob::{PowerJobExecuteType, PowerJobType};
use pendula_model::worker::{LabelRule, Strategy};

use super::*;

const NOW: i64 = 1_780_000_000_000;

fn row(columns: &[(&str, &str)]) -> Row {
    let usual = [
        ("id", "7"),
        ("app_id", "1"),
        ("job_name", "nightly"),
        ("status", "1"),
        ("time_expression_type", "2"),
        ("time_expression", "0 0 3 * * ?"),
        ("execute_type", "1"),
        ("processor_type", "1"),
        ("processor_info", "com.acme.Nightly"),
        ("max_instance_num", "0"),
        ("concurrency", "5"),
        ("alarm_config", r#"{"alertThreshold":0,"statisticWindowLen":0,"silenceWindowLen":0}"#),
    ];
    Row(usual.iter().chain(columns).map(|(column, text)| ((*column).to_owned(), (*text).to_owned())).collect())
}

fn options() -> Options {
    Options { timezone: "Asia/Shanghai".to_owned(), enabled: true, apps: Vec::new() }
}

fn of(columns: &[(&str, &str)]) -> Fate {
    let named = Named { name: "nightly".to_owned(), why: None };
    fate(&row(columns), named, &options(), Timestamp::from_millis(NOW))
}

fn imported(columns: &[(&str, &str)]) -> (JobSpec, Vec<String>) {
    match of(columns) {
        Fate::Imported { spec, notes } => (*spec, notes),
        other => panic!("{columns:?}: {other:?}"),
    }
}

#[test]
fn every_field_that_maps_is_there() {
    let (spec, notes) = imported(&[
        ("job_description", "all"),
        ("job_params", "a=b"),
        ("execute_type", "3"),
        ("max_instance_num", "2"),
        ("concurrency", "9"),
        ("instance_time_limit", "60000"),
        ("instance_retry_num", "2"),
        ("task_retry_num", "1"),
        ("min_cpu_cores", "1.5E0"),
        ("min_memory_space", "2"),
        ("min_disk_space", "0.0"),
        ("designated_workers", "blue,green"),
        ("max_worker_count", "4"),
        ("dispatch_strategy", "2"),
        ("lifecycle", r#"{"start":1790000000000,"end":1800000000000}"#),
        ("log_config", r#"{"type":2,"level":3}"#),
        ("advanced_runtime_config", r#"{"taskTrackerBehavior":11}"#),
    ]);
    assert_eq!(notes, [""; 0]);
    let Processor::PowerJob(powerjob) = &spec.processor else { panic!("{spec:?}") };
    assert_eq!((powerjob.kind, powerjob.execute_type), (PowerJobType::BuiltIn, PowerJobExecuteType::MapReduce));
    assert_eq!((powerjob.thread_concurrency, powerjob.task_retries, powerjob.max_workers), (9, 1, 4));
    assert_eq!((powerjob.job_params.as_deref(), spec.description.as_str()), (Some("a=b"), "all"));
    assert!(powerjob.log_config.is_some() && powerjob.advanced_runtime_config.is_some());
    assert_eq!((spec.concurrency.limit, spec.concurrency.overflow), (Some(2), Overflow::Fail));
    assert_eq!((spec.timeout, spec.retry.attempts), (Some(Duration::from_secs(60)), 3));
    assert_eq!((spec.workers.min.cpu, spec.workers.min.memory.unwrap().0), (Some(1.5), 2 << 30));
    assert_eq!(spec.workers.labels["tag"], LabelRule::In(vec!["blue".to_owned(), "green".to_owned()]));
    assert_eq!(spec.workers.strategy, Strategy::Random);
    let trigger = spec.trigger.unwrap();
    assert_eq!((trigger.timezone.as_str(), trigger.cron.as_deref()), ("Asia/Shanghai", Some("0 0 3 * * ?")));
    assert_eq!(trigger.start.unwrap().as_millis(), 1_790_000_000_000);
    assert!(spec.enabled);
}

#[test]
fn every_time_expression_has_its_schedule() {
    let daily = r#"{"interval":30,"intervalUnit":"MINUTES","startTimeOfDay":"08:00:00","endTimeOfDay":"20:00:00","daysOfWeek":[1]}"#;
    let cases = [
        ("1", "", "asked"),
        ("2", "0 */5 * * * ?", "cron"),
        ("3", "1000", "rate"),
        ("3", "600000", "rate"),
        ("4", "2500", "delay"),
        ("5", "", "asked"),
        ("11", daily, "window"),
    ];
    for (kind, expression, expect) in cases {
        let (spec, notes) = imported(&[("time_expression_type", kind), ("time_expression", expression)]);
        let found = match spec.trigger {
            None => "asked",
            Some(Trigger { cron: Some(_), .. }) => "cron",
            Some(Trigger { fixed_rate: Some(_), .. }) => "rate",
            Some(Trigger { fixed_delay: Some(_), .. }) => "delay",
            Some(Trigger { daily_window: Some(_), .. }) => "window",
            Some(_) => "else",
        };
        assert_eq!(found, expect, "{kind} {expression}");
        let explained = matches!(kind, "4" | "5" | "11");
        assert_eq!(!notes.is_empty(), explained, "{kind}: {notes:?}");
    }
    // More often than PowerJob would.
    let (_, notes) = imported(&[("time_expression", "*/5 * * * * ?")]);
    assert!(notes[0].contains("every 15 s"), "{notes:?}");
}

#[test]
fn what_cannot_be_read_is_broken_and_what_is_not_there_unsupported() {
    for (columns, is_broken, part) in [
        (&[("time_expression", "0 0 25 * * ?")][..], true, "trigger.cron"),
        (&[("time_expression", "")], true, "invalid timeExpression"),
        (&[("time_expression_type", "3"), ("time_expression", "soon")], true, "soon"),
        (&[("time_expression_type", "3"), ("time_expression", "60")], true, "fixed_rate"),
        (&[("time_expression_type", "11"), ("time_expression", "{}")], true, "invalid timeExpression"),
        (&[("time_expression_type", "42")], true, "42"),
        (&[("execute_type", "9")], true, "executeType"),
        (&[("processor_type", "7")], true, "processor type is 7"),
        (&[("processor_info", "")], true, "processorInfo"),
        (&[("lifecycle", "soon")], true, "lifecycle"),
        (&[("processor_type", "2")], false, "SHELL"),
        (&[("processor_type", "3")], false, "PYTHON"),
        (&[("designated_workers", "blue,10.0.0.1:27777")], false, "addresses and tags"),
        (
            &[
                ("time_expression_type", "11"),
                ("time_expression", r#"{"interval":1,"startTimeOfDay":"08:00:00","endTimeOfDay":"08:00:00"}"#),
            ],
            false,
            "daily window",
        ),
    ] {
        let (found, why) = match of(columns) {
            Fate::Broken { why } => (true, why),
            Fate::Unsupported { why } => (false, why),
            Fate::Imported { spec, .. } => panic!("{columns:?}: {spec:?}"),
        };
        assert_eq!(found, is_broken, "{why}");
        assert!(why.contains(part), "no {part:?} in {why}");
        assert!(!why.contains("Exception"), "{why}");
    }
}

#[test]
fn what_is_different_or_lost_is_said() {
    for (columns, part) in [
        (&[("processor_info", "tech.powerjob.official.processors.impl.script.ShellProcessor")][..], "`shell`"),
        (&[("processor_info", "tech.powerjob.official.processors.impl.HttpProcessor")], "`http`"),
        (&[("processor_type", "4"), ("processor_info", "3#com.acme.A")], "containers"),
        (&[("concurrency", "5000")], "5000 becomes 1000"),
        (&[("instance_retry_num", "-1")], "instance_retry_num is -1"),
        (&[("dispatch_strategy", "11"), ("dispatch_strategy_config", "tagIn:blue")], "tagIn:blue"),
        (&[("alarm_config", r#"{"alertThreshold":1,"statisticWindowLen":60,"silenceWindowLen":300}"#)], "alarm"),
        (&[("notify_user_ids", "1,2")], "users to notify"),
        (&[("tag", "finance")], "finance"),
        (&[("extra", "x")], "extra"),
        (&[("time_expression_type", "1"), ("lifecycle", r#"{"start":1,"end":2}"#)], "lifecycle"),
        (&[("status", "17")], "status is 17"),
    ] {
        let (_, notes) = imported(columns);
        assert!(notes.len() == 1 && notes[0].contains(part), "no {part:?} in {notes:?}");
    }
}

#[test]
fn what_does_not_fire_any_more_is_saved_disabled() {
    for columns in
        [&[("lifecycle", r#"{"start":1,"end":1700000000000}"#)][..], &[("time_expression", "0 0 3 1 1 ? 2020")]]
    {
        let (spec, notes) = imported(columns);
        assert!(!spec.enabled && spec.trigger.is_some() && notes[0].contains("any more"), "{notes:?}");
    }
    let (spec, notes) = imported(&[("status", "2"), ("time_expression", "0 0 3 1 1 ? 2020")]);
    assert!(!spec.enabled && notes.is_empty(), "{notes:?}");
}
