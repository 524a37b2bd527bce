//! What each policy does where clocks change, derived by hand from the zones' rules.

use std::time::Duration;

use pendula_model::trigger::{DailyWindow, DstGap, DstOverlap, Trigger};

use crate::{cron, local_fires};

const SKIP: DstGap = DstGap::Skip;
const NEXT: DstGap = DstGap::NextValid;
const AUTO: DstOverlap = DstOverlap::Auto;
const FIRST: DstOverlap = DstOverlap::First;
const BOTH: DstOverlap = DstOverlap::Both;

fn check(trigger: Trigger, gap: DstGap, overlap: DstOverlap, after: &str, expected: &[&str]) {
    let trigger = Trigger { dst_gap: gap, dst_overlap: overlap, ..trigger };
    assert_eq!(local_fires(&trigger, after, expected.len()), expected, "{trigger:?}");
}

fn window(every: &str, from: &str, to: &str, zone: &str) -> Trigger {
    let every = pendula_model::duration::parse(every).expect("tests write durations");
    let window = DailyWindow { every, from: from.to_owned(), to: to.to_owned(), weekdays: Vec::new() };
    Trigger { daily_window: Some(window), timezone: zone.to_owned(), ..Trigger::default() }
}

/// Berlin, 2026-03-29: at 01:00Z clocks go from 02:00+01 to 03:00+02.
#[test]
fn berlin_gap() {
    let after = "2026-03-28T12:00:00Z";
    let daily = || cron("30 2 * * *", "Europe/Berlin");
    check(daily(), NEXT, AUTO, after, &["2026-03-29T03:00:00+02:00", "2026-03-30T02:30:00+02:00"]);
    check(daily(), SKIP, AUTO, after, &["2026-03-30T02:30:00+02:00", "2026-03-31T02:30:00+02:00"]);
    // The edges: 01:59:59 happens, 03:00 happens, 02:00 and 02:59:59 do not.
    let edges = || cron("59 59 1,2 * * ?", "Europe/Berlin");
    check(
        edges(),
        NEXT,
        AUTO,
        after,
        &["2026-03-29T01:59:59+01:00", "2026-03-29T03:00:00+02:00", "2026-03-30T01:59:59+02:00"],
    );
    check(edges(), SKIP, AUTO, after, &["2026-03-29T01:59:59+01:00", "2026-03-30T01:59:59+02:00"]);
    // Several skipped times make one fire; so does one together with a regular fire at the end of the gap.
    let several = cron("0,20,40 2 * * *", "Europe/Berlin");
    check(several, NEXT, AUTO, after, &["2026-03-29T03:00:00+02:00", "2026-03-30T02:00:00+02:00"]);
    let touching = cron("0 2,3 * * *", "Europe/Berlin");
    check(
        touching,
        NEXT,
        AUTO,
        after,
        &["2026-03-29T03:00:00+02:00", "2026-03-30T02:00:00+02:00", "2026-03-30T03:00:00+02:00"],
    );
    // All hours: the one that was not there is not made up for.
    let hourly = cron("15 * * * *", "Europe/Berlin");
    let expected = ["2026-03-29T00:15:00+01:00", "2026-03-29T01:15:00+01:00", "2026-03-29T03:15:00+02:00"];
    check(hourly, NEXT, AUTO, "2026-03-28T23:00:00Z", &expected);
}

/// Berlin, 2026-10-25: at 01:00Z clocks go from 03:00+02 to 02:00+01.
#[test]
fn berlin_overlap() {
    let after = "2026-10-24T12:00:00Z";
    let daily = || cron("30 2 * * *", "Europe/Berlin");
    let once = ["2026-10-25T02:30:00+02:00", "2026-10-26T02:30:00+01:00"];
    check(daily(), NEXT, AUTO, after, &once);
    check(daily(), NEXT, FIRST, after, &once);
    let twice = ["2026-10-25T02:30:00+02:00", "2026-10-25T02:30:00+01:00", "2026-10-26T02:30:00+01:00"];
    check(daily(), NEXT, BOTH, after, &twice);

    let half_hourly = || cron("*/30 * * * *", "Europe/Berlin");
    let after = "2026-10-24T23:45:00Z";
    let kept_pace = [
        "2026-10-25T02:00:00+02:00",
        "2026-10-25T02:30:00+02:00",
        "2026-10-25T02:00:00+01:00",
        "2026-10-25T02:30:00+01:00",
        "2026-10-25T03:00:00+01:00",
    ];
    check(half_hourly(), NEXT, AUTO, after, &kept_pace);
    check(half_hourly(), NEXT, BOTH, after, &kept_pace);
    let paused = ["2026-10-25T02:00:00+02:00", "2026-10-25T02:30:00+02:00", "2026-10-25T03:00:00+01:00"];
    check(half_hourly(), NEXT, FIRST, after, &paused);

    // Asked in the middle of the second pass.
    check(
        half_hourly(),
        NEXT,
        AUTO,
        "2026-10-25T01:10:00Z",
        &["2026-10-25T02:30:00+01:00", "2026-10-25T03:00:00+01:00"],
    );
    check(half_hourly(), NEXT, FIRST, "2026-10-25T01:10:00Z", &["2026-10-25T03:00:00+01:00"]);
    // Hours by name: once per time on the clock, also with many minutes.
    let named = cron("*/20 2 * * *", "Europe/Berlin");
    let expected = ["2026-10-25T02:40:00+02:00", "2026-10-26T02:00:00+01:00"];
    check(named, NEXT, AUTO, "2026-10-25T00:30:00Z", &expected);
}

/// New York, 2026: 03-08 at 07:00Z from 02:00-05 to 03:00-04, 11-01 at 06:00Z from 02:00-04 to 01:00-05.
#[test]
fn new_york() {
    let gap = cron("0 30 2 ? * SUN", "America/New_York");
    check(gap, NEXT, AUTO, "2026-03-07T12:00:00Z", &["2026-03-08T03:00:00-04:00", "2026-03-15T02:30:00-04:00"]);
    let overlap = || cron("0 30 1 * * ?", "America/New_York");
    let after = "2026-10-31T12:00:00Z";
    check(overlap(), NEXT, AUTO, after, &["2026-11-01T01:30:00-04:00", "2026-11-02T01:30:00-05:00"]);
    check(
        overlap(),
        NEXT,
        BOTH,
        after,
        &["2026-11-01T01:30:00-04:00", "2026-11-01T01:30:00-05:00", "2026-11-02T01:30:00-05:00"],
    );
}

/// Santiago, 2025: 04-06 at 03:00Z from 00:00-03 to 23:00-04 of the day before, 09-07 at 04:00Z from 00:00-04 to 01:00-03.
#[test]
fn santiago_changes_at_midnight() {
    let midnight = || cron("@daily", "America/Santiago");
    let after = "2025-09-06T12:00:00Z";
    check(midnight(), NEXT, AUTO, after, &["2025-09-07T01:00:00-03:00", "2025-09-08T00:00:00-03:00"]);
    check(midnight(), SKIP, AUTO, after, &["2025-09-08T00:00:00-03:00"]);
    let late = || cron("30 23 * * *", "America/Santiago");
    let after = "2025-04-05T12:00:00Z";
    check(late(), NEXT, AUTO, after, &["2025-04-05T23:30:00-03:00", "2025-04-06T23:30:00-04:00"]);
    check(
        late(),
        NEXT,
        BOTH,
        after,
        &["2025-04-05T23:30:00-03:00", "2025-04-05T23:30:00-04:00", "2025-04-06T23:30:00-04:00"],
    );
    // Midnight after the repeated hour happens once.
    check(midnight(), NEXT, BOTH, after, &["2025-04-06T00:00:00-04:00", "2025-04-07T00:00:00-04:00"]);
}

/// Lord Howe, 2025: half an hour. 04-06 from 02:00+11 to 01:30+10:30, 10-05 from 02:00+10:30 to 02:30+11.
#[test]
fn lord_howe_shifts_by_half_an_hour() {
    let zone = "Australia/Lord_Howe";
    check(
        cron("15 2 * * *", zone),
        NEXT,
        AUTO,
        "2025-10-04T02:00:00Z",
        &["2025-10-05T02:30:00+11:00", "2025-10-06T02:15:00+11:00"],
    );
    let after = "2025-04-05T02:00:00Z";
    check(cron("45 1 * * *", zone), NEXT, AUTO, after, &["2025-04-06T01:45:00+11:00", "2025-04-07T01:45:00+10:30"]);
    check(cron("45 1 * * *", zone), NEXT, BOTH, after, &["2025-04-06T01:45:00+11:00", "2025-04-06T01:45:00+10:30"]);
    let quarters = [
        "2025-04-06T01:30:00+11:00",
        "2025-04-06T01:45:00+11:00",
        "2025-04-06T01:30:00+10:30",
        "2025-04-06T01:45:00+10:30",
        "2025-04-06T02:00:00+10:30",
    ];
    check(cron("*/15 * * * *", zone), NEXT, AUTO, "2025-04-05T14:20:00Z", &quarters);
}

/// Kathmandu: +05:45, without daylight saving time; at the beginning of 1986 from 00:00+05:30 to 00:15+05:45.
#[test]
fn kathmandu_is_a_quarter_hour_off() {
    let zone = "Asia/Kathmandu";
    check(cron("45 5 * * *", zone), NEXT, AUTO, "2026-01-01T00:00:00Z", &["2026-01-02T05:45:00+05:45"]);
    check(
        cron("10 0 * * *", zone),
        NEXT,
        AUTO,
        "1985-12-31T12:00:00Z",
        &["1986-01-01T00:15:00+05:45", "1986-01-02T00:10:00+05:45"],
    );
}

/// Apia skipped Friday, 2011-12-30: at 10:00Z clocks went from 2011-12-30T00:00-10 to 2011-12-31T00:00+14.
#[test]
fn apia_skipped_a_day() {
    let daily = || cron("0 10 * * *", "Pacific/Apia");
    let after = "2011-12-29T12:00:00Z";
    let made_up = ["2011-12-29T10:00:00-10:00", "2011-12-31T00:00:00+14:00", "2011-12-31T10:00:00+14:00"];
    check(daily(), NEXT, AUTO, after, &made_up);
    check(daily(), SKIP, AUTO, after, &["2011-12-29T10:00:00-10:00", "2011-12-31T10:00:00+14:00"]);
    let fridays = cron("0 10 * * fri", "Pacific/Apia");
    check(fridays, NEXT, AUTO, after, &["2011-12-31T00:00:00+14:00", "2012-01-06T10:00:00+14:00"]);
}

#[test]
fn windows_follow_the_same_policies() {
    let berlin = "Europe/Berlin";
    let night = || window("1h", "22:00", "06:00", berlin);
    let expected = ["2026-03-29T01:00:00+01:00", "2026-03-29T03:00:00+02:00", "2026-03-29T04:00:00+02:00"];
    check(night(), NEXT, AUTO, "2026-03-28T23:30:00Z", &expected);
    let pace = ["2026-10-25T02:00:00+02:00", "2026-10-25T02:00:00+01:00", "2026-10-25T03:00:00+01:00"];
    check(night(), NEXT, AUTO, "2026-10-24T23:30:00Z", &pace);
    check(night(), NEXT, FIRST, "2026-10-24T23:30:00Z", &[pace[0], pace[2]]);
    // 22:00, 23:30, 01:00, 02:30: an interval of more than an hour names times of the day.
    let sparse = window("90m", "22:00", "06:00", berlin);
    check(sparse, NEXT, AUTO, "2026-10-24T23:30:00Z", &["2026-10-25T02:30:00+02:00", "2026-10-25T04:00:00+01:00"]);
    // A window that lies in the gap as a whole fires once, at its end.
    let swallowed = || window("10m", "02:00", "02:50", berlin);
    check(swallowed(), NEXT, AUTO, "2026-03-28T12:00:00Z", &["2026-03-29T03:00:00+02:00", "2026-03-30T02:00:00+02:00"]);
    check(swallowed(), SKIP, AUTO, "2026-03-28T12:00:00Z", &["2026-03-30T02:00:00+02:00"]);
}

/// The grid of a rate is made of instants; clocks do not move it.
#[test]
fn rates_ignore_the_clocks() {
    let rate = Trigger {
        fixed_rate: Some(Duration::from_secs(1800)),
        timezone: "Europe/Berlin".to_owned(),
        start: Some(crate::at("2026-10-25T00:00:00Z")),
        ..Trigger::default()
    };
    let expected = ["2026-10-25T02:00:00+02:00", "2026-10-25T02:30:00+02:00", "2026-10-25T02:00:00+01:00"];
    assert_eq!(local_fires(&rate, "2026-10-24T12:00:00Z", 3), expected);
}
