//! What is refused, with the field and a reason that helps.

use std::time::Duration;

use pendula_model::Timestamp;
use pendula_model::trigger::{CronDialect, DailyWindow, DstGap, Trigger};
use pendula_schedule::Plan;
use proptest::prelude::*;

use crate::{at, cron, plan};

fn refused(trigger: &Trigger, field: &str, message: &str) {
    let error = Plan::compile(trigger, Timestamp::from_micros(0)).expect_err(&format!("{trigger:?} must be refused"));
    assert_eq!(error.field, field, "{error}");
    assert!(error.message.contains(message), "{error}");
}

#[test]
fn exactly_one_kind() {
    refused(&Trigger::default(), "trigger", "give one of cron, fixed_rate");
    let two = Trigger { at: Some(at("2026-11-21T10:00:00Z")), ..cron("@daily", "UTC") };
    refused(&two, "trigger", "has cron and at");
    let dialect = Trigger { dialect: Some(CronDialect::Unix), delay: Some(Duration::ZERO), ..Trigger::default() };
    refused(&dialect, "trigger.dialect", "only a `cron`");
}

#[test]
fn cron_expressions() {
    for (expression, message) in [
        ("0 0 0 30 2 ?", "`0 0 0 30 2 ?` no day of any year"),
        ("0 0 31 4,6 *", "no day of any year"),
        ("0 0 0 29 2 ? 2027", "no day of any year"),
        ("0 0 12 ? 2 6#5 2031", "no day of any year"),
        ("* * * *", "has 4 fields"),
        ("61 * * * *", "minute `61`: 61 is not between 0 and 59"),
        ("0 0 * * mon-funday", "day-of-week `MON-FUNDAY` is not understood; allowed are 0 to 7, SUN to SAT"),
        ("0 0 ? * 1", "quartz dialect"),
        ("0 0 L * *", "quartz dialect"),
        ("0 0 * * 5-1", "a range goes up"),
        ("*/0 * * * *", "a step"),
        ("0 0 0 ? * ?", "only one of day-of-month and day-of-week"),
        ("0 0 0 ? * 6#6", "#1 to #5"),
        ("0 0 0 L-31 * ?", "at most 30 days"),
        ("0 0 0 1 1 ? 2100", "year `2100`: 2100 is not between 1970 and 2099"),
        ("@reboot", "is not a time"),
        ("@every 5m", "fixed_rate"),
        ("@fortnightly", "@yearly"),
        ("", "has 0 fields"),
        ("0 0 0 1 1 ? 99999999999999999999", "is not understood"),
        (&"1,".repeat(600), "at most 1000"),
    ] {
        refused(&cron(expression, "UTC"), "trigger.cron", message);
    }
    let quartz = |expression: &str| Trigger { dialect: Some(CronDialect::Quartz), ..cron(expression, "UTC") };
    refused(&quartz("@daily"), "trigger.cron", "unix dialect");
    refused(&quartz("0 0 * * *"), "trigger.cron", "the quartz dialect has 6 or 7");
    let never = Trigger { dst_gap: DstGap::Skip, ..cron("0 10 0 1 1 ? 1986", "Asia/Kathmandu") };
    refused(&never, "trigger.cron", "the clocks skip");
}

#[test]
fn zones_limits_and_bounds() {
    refused(&cron("@daily", "Europe/Berln"), "trigger.timezone", "did you mean `Europe/Berlin`?");
    let every = |every| Trigger { fixed_rate: Some(every), ..Trigger::default() };
    refused(&every(Duration::from_millis(99)), "trigger.fixed_rate", "`99ms` is not between 100ms and 3650d");
    refused(&every(Duration::MAX), "trigger.fixed_rate", "is not between");
    let delay = Trigger { fixed_delay: Some(Duration::ZERO), ..Trigger::default() };
    refused(&delay, "trigger.fixed_delay", "`0s` is not between");
    for limit in [0, 10_001] {
        refused(
            &Trigger { misfire_limit: limit, ..cron("@daily", "UTC") },
            "trigger.misfire_limit",
            "between 1 and 10000",
        );
    }
    let reversed = Trigger {
        start: Some(at("2027-01-01T00:00:00Z")),
        end: Some(at("2026-01-01T00:00:00Z")),
        ..cron("@daily", "UTC")
    };
    refused(&reversed, "trigger.end", "is before `start`");
    let outside =
        Trigger { at: Some(at("2028-01-01T00:00:00Z")), end: Some(at("2026-01-01T00:00:00Z")), ..Trigger::default() };
    refused(&outside, "trigger.at", "outside of `start` and `end`");
}

#[test]
fn windows() {
    let window = |from: &str, to: &str, every| Trigger {
        daily_window: Some(DailyWindow { every, from: from.to_owned(), to: to.to_owned(), weekdays: Vec::new() }),
        ..Trigger::default()
    };
    let minute = Duration::from_secs(60);
    refused(&window("8:00", "12:00", minute), "trigger.daily_window.from", "`8:00` is not a time of day");
    refused(&window("24:00", "12:00", minute), "trigger.daily_window.from", "before 24:00");
    for wrong in ["25:00", "24:00:01", "12:60", "12:00:60", "12", "12:00:00:00", "-1:00", ""] {
        refused(&window("08:00", wrong, minute), "trigger.daily_window.to", "is not a time of day");
    }
    refused(&window("08:00", "12:00", Duration::from_millis(1)), "trigger.daily_window.every", "is not between");
    refused(&window("08:00", "12:00", 1441 * minute), "trigger.daily_window.every", "at most 1d");
    plan(&window("00:00", "24:00", minute));
}

#[test]
fn what_will_not_fire_any_more_is_refused_when_saved_but_loads() {
    let now = at("2026-11-21T10:00:00Z");
    let check = |trigger: Trigger| plan(&trigger).check_future(now).map_err(|error| error.to_string());
    let one_off = |time: &str| Trigger { at: Some(at(time)), ..Trigger::default() };
    assert!(
        check(one_off("2026-11-21T09:58:59Z")).unwrap_err().starts_with("trigger.at: 2026-11-21T09:58:59Z has passed")
    );
    assert_eq!(check(one_off("2026-11-21T09:59:00Z")), Ok(()));
    assert!(check(cron("0 0 0 1 1 ? 2026", "UTC")).unwrap_err().contains("does not fire after"));
    let ended = Trigger { end: Some(at("2026-11-21T23:00:00Z")), ..cron("@daily", "UTC") };
    assert!(check(ended).unwrap_err().contains("and its `end`"));
    let delay_ended = Trigger {
        fixed_delay: Some(Duration::from_secs(1)),
        end: Some(at("2026-01-01T00:00:00Z")),
        ..Trigger::default()
    };
    assert!(check(delay_ended).is_err());
    assert_eq!(check(cron("0 0 0 29 2 ?", "UTC")), Ok(()));
    assert_eq!(check(Trigger { fixed_delay: Some(Duration::from_secs(1)), ..Trigger::default() }), Ok(()));
}

proptest! {
    /// Whatever is written, the answer is a plan that can be asked or a refusal.
    #[test]
    fn no_text_breaks_the_parser(
        noise in "[0-9*/,LW#?@A-Za-z\u{e9} -]{0,40}",
        fields in proptest::collection::vec("[0-9*/,LW#?-]{1,6}|\\*|\\?|[0-9]{1,2}|[A-Z]{3}[L#-]?[0-9]?", 5..8),
    ) {
        for expression in [noise, fields.join(" ")] {
            if let Ok(plan) = Plan::compile(&cron(&expression, "Europe/Berlin"), at("2026-01-01T00:00:00Z")) {
                for edge in [Timestamp::MIN, at("2026-01-01T00:00:00Z"), Timestamp::MAX] {
                    let fires = plan.preview(edge, 3);
                    prop_assert!(fires.is_sorted() && plan.last_until(edge).is_none_or(|last| last <= edge));
                }
            }
        }
    }
}
