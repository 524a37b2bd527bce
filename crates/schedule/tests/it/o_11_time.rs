//! Scenario O-11: time. Clock changes zone by zone are in `dst`, the golden table in `golden`.

use std::time::Duration;

use pendula_model::trigger::{DailyWindow, Trigger, Weekday};
use pendula_schedule::Plan;

use crate::{at, cron, local_fires, plan};

/// The fires after `after`, without the offset of UTC.
fn utc(expression: &str, after: &str, count: usize) -> Vec<String> {
    let fires = local_fires(&cron(expression, "UTC"), after, count);
    fires.into_iter().map(|fire| fire.trim_end_matches("+00:00").to_owned()).collect()
}

#[test]
fn o_11_a_skipped_time_of_day_still_fires_once() {
    let expected = ["2026-03-29T03:00:00+02:00", "2026-03-30T02:30:00+02:00"];
    assert_eq!(local_fires(&cron("0 30 2 * * ?", "Europe/Berlin"), "2026-03-28T12:00:00Z", 2), expected);
}

#[test]
fn o_11_a_repeated_time_of_day_fires_once() {
    let expected = ["2026-11-01T01:30:00-04:00", "2026-11-02T01:30:00-05:00"];
    assert_eq!(local_fires(&cron("0 30 1 * * ?", "America/New_York"), "2026-10-31T12:00:00Z", 2), expected);
}

#[test]
fn o_11_every_seven_minutes_begins_anew_each_hour() {
    let expected = ["2026-11-21T10:49:00", "2026-11-21T10:56:00", "2026-11-21T11:00:00", "2026-11-21T11:07:00"];
    assert_eq!(utc("*/7 * * * *", "2026-11-21T10:45:00Z", 4), expected);
}

#[test]
fn o_11_month_ends_and_leap_days() {
    assert_eq!(utc("0 0 0 31 * ?", "2026-01-31T00:00:00Z", 2), ["2026-03-31T00:00:00", "2026-05-31T00:00:00"]);
    assert_eq!(utc("0 0 0 L * ?", "2028-01-31T00:00:00Z", 2), ["2028-02-29T00:00:00", "2028-03-31T00:00:00"]);
    assert_eq!(utc("0 0 29 2 *", "2096-02-29T00:00:00Z", 2), ["2104-02-29T00:00:00", "2108-02-29T00:00:00"]);
}

#[test]
fn o_11_l_w_and_nth() {
    // 2026-02-15 is a Sunday, 2026-02-28 a Saturday.
    assert_eq!(utc("0 0 0 15W * ?", "2026-02-01T00:00:00Z", 1), ["2026-02-16T00:00:00"]);
    assert_eq!(utc("0 0 0 LW * ?", "2026-02-01T00:00:00Z", 1), ["2026-02-27T00:00:00"]);
    assert_eq!(utc("0 0 0 1W * ?", "2026-07-31T00:00:00Z", 1), ["2026-08-03T00:00:00"]);
    assert_eq!(utc("0 0 0 31W * ?", "2027-03-31T12:00:00Z", 1), ["2027-05-31T00:00:00"]);
    assert_eq!(
        utc("0 0 0 ? * MON#1,WED#3", "2026-02-01T00:00:00Z", 3),
        ["2026-02-02T00:00:00", "2026-02-18T00:00:00", "2026-03-02T00:00:00"]
    );
    assert_eq!(utc("0 0 0 ? * FRIL,2L", "2026-02-01T00:00:00Z", 2), ["2026-02-23T00:00:00", "2026-02-27T00:00:00"]);
}

#[test]
fn o_11_both_day_fields() {
    // Quartz dialect: Friday the 13th.
    assert_eq!(
        utc("0 0 0 13 * FRI", "2026-01-01T00:00:00Z", 3),
        ["2026-02-13T00:00:00", "2026-03-13T00:00:00", "2026-11-13T00:00:00"]
    );
    // Unix dialect: the 13th, and Fridays.
    assert_eq!(
        utc("0 0 13 * 5", "2026-01-01T00:00:00Z", 3),
        ["2026-01-02T00:00:00", "2026-01-09T00:00:00", "2026-01-13T00:00:00"]
    );
    // …unless one of them starts with `*`: Mondays on odd days.
    assert_eq!(utc("0 0 */2 * 1", "2026-01-01T00:00:00Z", 2), ["2026-01-05T00:00:00", "2026-01-19T00:00:00"]);
}

#[test]
fn o_11_years_end() {
    assert_eq!(
        utc("0 0 0 1 1 ? 2027/30", "2026-01-01T00:00:00Z", 9),
        ["2027-01-01T00:00:00", "2057-01-01T00:00:00", "2087-01-01T00:00:00"]
    );
    assert_eq!(utc("59 59 23 31 12 ? 2099", "2026-01-01T00:00:00Z", 9), ["2099-12-31T23:59:59"]);
}

#[test]
fn o_11_there_is_no_second_sixty() {
    assert!(Plan::compile(&cron("60 59 23 31 12 ?", "UTC"), at("2026-01-01T00:00:00Z")).is_err());
}

#[test]
fn o_11_start_and_end_are_included() {
    let bounded = Trigger {
        start: Some(at("2026-11-21T10:00:00Z")),
        end: Some(at("2026-11-21T12:00:00Z")),
        ..cron("@hourly", "UTC")
    };
    let expected = ["2026-11-21T10:00:00+00:00", "2026-11-21T11:00:00+00:00", "2026-11-21T12:00:00+00:00"];
    assert_eq!(local_fires(&bounded, "2026-01-01T00:00:00Z", 9), expected);
    assert_eq!(plan(&bounded).first(), bounded.start);
}

#[test]
fn o_11_windows_reach_across_midnight_and_end_inclusively() {
    let window = DailyWindow {
        every: Duration::from_secs(4 * 3600),
        from: "20:00".to_owned(),
        to: "04:00".to_owned(),
        weekdays: vec![Weekday::Fri],
    };
    let trigger = Trigger { daily_window: Some(window), timezone: "Asia/Shanghai".to_owned(), ..Trigger::default() };
    let expected = [
        "2026-11-20T20:00:00+08:00",
        "2026-11-21T00:00:00+08:00",
        "2026-11-21T04:00:00+08:00",
        "2026-11-27T20:00:00+08:00",
    ];
    assert_eq!(local_fires(&trigger, "2026-11-18T00:00:00Z", 4), expected);
}

#[test]
fn o_11_rates_and_delays_count_from_the_anchor() {
    let anchor = at("2026-11-21T10:00:00.25Z");
    let rate = Trigger { fixed_rate: Some(Duration::from_millis(100)), ..Trigger::default() };
    let rate = Plan::compile(&rate, anchor).unwrap();
    assert_eq!(rate.first(), Some(anchor));
    assert_eq!(rate.next_after(at("2026-11-21T10:00:01Z")), Some(at("2026-11-21T10:00:01.05Z")));

    let delay = Trigger { delay: Some(Duration::from_secs(90)), ..Trigger::default() };
    let delay = Plan::compile(&delay, anchor).unwrap();
    assert_eq!(delay.preview(anchor, 3), [at("2026-11-21T10:01:30.25Z")]);

    // A start in the past: the rate keeps its grid, and nothing from before it was saved is due.
    let aligned = Trigger {
        fixed_rate: Some(Duration::from_secs(60)),
        start: Some(at("2020-01-01T00:00:00Z")),
        ..Trigger::default()
    };
    assert_eq!(Plan::compile(&aligned, anchor).unwrap().first(), Some(at("2026-11-21T10:01:00Z")));

    let pause = Trigger {
        fixed_delay: Some(Duration::from_secs(5)),
        end: Some(at("2026-11-21T11:00:00Z")),
        ..Trigger::default()
    };
    let pause = Plan::compile(&pause, anchor).unwrap();
    assert_eq!((pause.first(), pause.waits_for_end()), (Some(anchor), true));
    assert_eq!(pause.next_after_end(at("2026-11-21T10:59:55Z")), Some(at("2026-11-21T11:00:00Z")));
    assert_eq!(pause.next_after_end(at("2026-11-21T10:59:56Z")), None);
}

#[test]
fn o_11_preview_is_what_then_happens() {
    for expression in ["*/7 * * * *", "0 30 2 * * ?", "0 0 0 LW * ?", "30 1 * * 0"] {
        let plan = plan(&cron(expression, "Australia/Lord_Howe"));
        let mut now = at("2025-03-01T00:00:00Z");
        for promised in plan.preview(now, 500) {
            now = plan.next_after(now).unwrap();
            assert_eq!(now, promised);
        }
    }
}

/// Fires depend on the trigger's zone, not on that of the machine (XXL-JOB #2764).
#[test]
fn o_11_the_zone_of_the_machine_changes_nothing() {
    let this = std::env::current_exe().expect("the test binary knows itself");
    for zone in ["Asia/Tokyo", "America/Caracas", "Pacific/Apia"] {
        let test = "golden::unix_dialect_agrees_with_debian_cron";
        let run =
            std::process::Command::new(&this).args(["--exact", test]).env("TZ", zone).output().expect("it starts");
        let said = String::from_utf8_lossy(&run.stdout);
        assert!(run.status.success() && said.contains("1 passed"), "TZ={zone}: {said}");
    }
}
