//! What holds for every plan: next, previous, count and preview are views of one set, and that set is the naive one.

use std::collections::HashSet;
use std::time::Duration;

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use pendula_model::Timestamp;
use pendula_model::trigger::{CronDialect, DailyWindow, DstGap, DstOverlap, Trigger, Weekday};
use proptest::collection::btree_set;
use proptest::prelude::*;
use proptest::sample::select;

use crate::{at, cron, plan};

const MICRO: Duration = Duration::from_micros(1);

/// Zones and the day (UTC) before clocks changed in them.
const CHANGES: [(&str, &str); 12] = [
    ("Europe/Berlin", "2026-03-28"),
    ("Europe/Berlin", "2026-10-24"),
    ("America/New_York", "2026-03-07"),
    ("America/New_York", "2026-10-31"),
    ("America/Santiago", "2025-09-06"),
    ("America/Santiago", "2025-04-05"),
    ("Australia/Lord_Howe", "2025-10-04"),
    ("Australia/Lord_Howe", "2025-04-05"),
    ("Asia/Kathmandu", "1985-12-31"),
    ("Pacific/Apia", "2011-12-29"),
    ("Africa/Casablanca", "2026-02-14"),
    ("UTC", "2026-01-01"),
];

fn join(set: &std::collections::BTreeSet<i8>) -> String {
    set.iter().map(i8::to_string).collect::<Vec<_>>().join(",")
}

fn policies() -> impl Strategy<Value = (DstGap, DstOverlap)> {
    (select(vec![DstGap::NextValid, DstGap::Skip]), select(vec![DstOverlap::Auto, DstOverlap::First, DstOverlap::Both]))
}

/// Any trigger that fires often enough to be walked through.
fn trigger() -> impl Strategy<Value = Trigger> {
    let expression = select(vec![
        "0 0/7 * * * ?",
        "15 */20 1-3 * * ?",
        "0 30 2 * * ?",
        "0 0 0 L * ?",
        "0 15 1,2 ? * MON#1,FRIL",
        "0 0 12 29 2 ?",
        "0 0 2 ? 3,10 1L 2024-2030",
        "*/10 * * * *",
        "30 0-3 * * *",
        "0 2 13 * 5",
        "@hourly",
        "* * 2 ? 3 *",
    ]);
    let zone = select(CHANGES.map(|(zone, _)| zone).to_vec());
    let millis =
        prop_oneof![Just(100_u64), Just(7_000), Just(86_400_000), 100..10_000_000_u64].prop_map(Duration::from_millis);
    let time = (0..24_u8, 0..60_u8).prop_map(|(hour, minute)| format!("{hour:02}:{minute:02}"));
    let every = prop_oneof![Just(8 * 3600), Just(3600), Just(600), 1..86_400_u64].prop_map(Duration::from_secs);
    let weekdays =
        proptest::collection::vec(select(vec![Weekday::Sun, Weekday::Mon, Weekday::Wed, Weekday::Sat]), 0..3);
    let window = (every, time.clone(), time, weekdays).prop_map(|(every, from, to, weekdays)| DailyWindow {
        every,
        from,
        to,
        weekdays,
    });
    let bound = |days: std::ops::Range<u64>| {
        proptest::option::of(days.prop_map(|day| Timestamp::from_millis(0).plus(Duration::from_secs(day * 86_400))))
    };
    let when = prop_oneof![
        2 => expression.prop_map(|text| Trigger { cron: Some(text.to_owned()), ..Trigger::default() }),
        1 => millis.prop_map(|rate| Trigger { fixed_rate: Some(rate), ..Trigger::default() }),
        1 => window.prop_map(|window| Trigger { daily_window: Some(window), ..Trigger::default() }),
    ];
    (when, zone, policies(), bound(0..20_500), bound(20_500..22_000)).prop_map(
        |(when, zone, (dst_gap, dst_overlap), start, end)| Trigger {
            timezone: zone.to_owned(),
            dst_gap,
            dst_overlap,
            start,
            end,
            ..when
        },
    )
}

fn instant() -> impl Strategy<Value = Timestamp> {
    (select(CHANGES.map(|(_, day)| day).to_vec()), 0..200_000_000_000_u64)
        .prop_map(|(day, micros)| at(&format!("{day}T00:00:00Z")).plus(Duration::from_micros(micros)))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn next_previous_count_and_preview_are_views_of_one_set(trigger in trigger(), after in instant()) {
        let plan = plan(&trigger);
        let fires = plan.preview(after, 40);
        let mut before = after;
        for (index, fire) in fires.iter().enumerate() {
            prop_assert!(*fire > before, "{fire} after {before}");
            prop_assert_eq!(plan.next_after(before), Some(*fire));
            prop_assert_eq!(plan.next_after(fire.minus(MICRO)), Some(*fire));
            prop_assert_eq!(plan.last_until(*fire), Some(*fire));
            if index > 0 {
                prop_assert_eq!(plan.last_until(fire.minus(MICRO)), Some(before));
            }
            prop_assert_eq!(plan.count_between(after, *fire), index as u64);
            prop_assert!(trigger.start.is_none_or(|start| *fire >= start) && trigger.end.is_none_or(|end| *fire <= end));
            before = *fire;
        }
        if let Some(last) = plan.last_until(after) {
            prop_assert!(last <= after);
            prop_assert_eq!(plan.next_after(last), fires.first().copied());
        }
    }

    /// Minute by minute through the days around a clock change, asking each civil time whether it matches.
    #[test]
    fn cron_fires_exactly_at_the_matching_minutes(
        minutes in btree_set(0..60_i8, 1..5), hours in btree_set(0..24_i8, 1..6), (zone, day) in select(CHANGES.to_vec()),
        (gap, overlap) in policies(),
    ) {
        let trigger = Trigger {
            dialect: Some(CronDialect::Unix), dst_gap: gap, dst_overlap: overlap,
            ..cron(&format!("{} {} * * *", join(&minutes), join(&hours)), zone)
        };
        let matches = |civil: DateTime| minutes.contains(&civil.minute()) && hours.contains(&civil.hour());
        // These hours are named, not all of them: once per civil time.
        compare_with_naive(&trigger, day, overlap == DstOverlap::Both, matches)?;
    }

    #[test]
    fn windows_fire_exactly_at_the_matching_minutes(
        from in 0..1440_i64, length in 1..=1440_i64, every in 1..300_i64, (zone, day) in select(CHANGES.to_vec()),
        (gap, overlap) in policies(),
    ) {
        let time = |minute: i64| format!("{:02}:{:02}", minute / 60 % 24, minute % 60);
        let window = DailyWindow {
            every: Duration::from_secs(every as u64 * 60), from: time(from), to: time(from + length), weekdays: Vec::new(),
        };
        let trigger = Trigger {
            daily_window: Some(window), timezone: zone.to_owned(), dst_gap: gap, dst_overlap: overlap, ..Trigger::default()
        };
        let matches = |civil: DateTime| {
            let minute = i64::from(civil.hour()) * 60 + i64::from(civil.minute()) - from;
            // Minutes since today's window began, and since yesterday's.
            [minute, minute + 1440].iter().any(|since| (0..=length).contains(since) && since % every == 0)
        };
        let repeats = overlap == DstOverlap::Both || overlap == DstOverlap::Auto && every <= 60;
        compare_with_naive(&trigger, day, repeats, matches)?;
    }
}

fn compare_with_naive(
    trigger: &Trigger,
    day: &str,
    repeats: bool,
    matches: impl Fn(DateTime) -> bool,
) -> Result<(), TestCaseError> {
    let zone = TimeZone::get(&trigger.timezone).expect("known");
    let begin = at(&format!("{day}T00:00:00Z"));
    let minute = Duration::from_secs(60);
    let mut naive = Vec::new();
    let mut shown = HashSet::new();
    let mut previous = zone.to_datetime(begin.minus(minute).to_jiff());
    let mut now = begin;
    while now < begin.plus(Duration::from_secs(3 * 86_400)) {
        let civil = zone.to_datetime(now.to_jiff());
        let mut skipped = Vec::new();
        let mut expected = previous.checked_add(jiff::Span::new().minutes(1)).expect("in range");
        while expected < civil {
            skipped.push(expected);
            expected = expected.checked_add(jiff::Span::new().minutes(1)).expect("in range");
        }
        let first_time = shown.insert(civil);
        let made_up = trigger.dst_gap == DstGap::NextValid && skipped.into_iter().any(&matches);
        if matches(civil) && (first_time || repeats) || made_up {
            naive.push(now);
        }
        previous = civil;
        now = now.plus(minute);
    }
    let ours = plan(trigger).preview(begin.minus(MICRO), naive.len());
    prop_assert_eq!(ours, naive);
    Ok(())
}
