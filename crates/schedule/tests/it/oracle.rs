//! `croner`, an independent evaluator on the same time zone library, for the expressions that both understand.
//!
//! It has no choice of policy: an expression with one second, one minute and one hour is made up for after a gap and
//! fires at the first of two passes; any other is skipped in a gap and fires at both.

use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use jiff::tz::TimeZone;
use pendula_model::Timestamp;
use pendula_model::trigger::{CronDialect, DstGap, DstOverlap, Trigger};
use proptest::prelude::*;
use proptest::sample::select;

use crate::{cron, plan};

const ZONES: [&str; 8] = [
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "America/Santiago",
    "Australia/Lord_Howe",
    "Asia/Kathmandu",
    "Pacific/Apia",
    "Asia/Shanghai",
];

fn field(low: u32, high: u32) -> impl Strategy<Value = String> {
    let value = move || low..=high;
    let range = (value(), value()).prop_map(|(left, right)| (left.min(right), left.max(right)));
    prop_oneof![
        3 => Just("*".to_owned()),
        3 => value().prop_map(|value| value.to_string()),
        1 => (1..=high).prop_map(|step| format!("*/{step}")),
        1 => range.clone().prop_map(|(first, last)| format!("{first}-{last}")),
        1 => (range, 1..=high).prop_map(|((first, last), step)| format!("{first}-{last}/{step}")),
        1 => proptest::collection::vec(value(), 1..4).prop_map(|list| {
            list.iter().map(u32::to_string).collect::<Vec<_>>().join(",")
        }),
    ]
}

/// Two day fields of the Quartz dialect.
fn quartz_days() -> impl Strategy<Value = (String, String)> {
    let of_month = prop_oneof![
        2 => field(1, 28),
        1 => Just("L".to_owned()),
        1 => Just("LW".to_owned()),
        1 => (1..=28_u32).prop_map(|day| format!("{day}W")),
    ];
    let of_week = prop_oneof![
        2 => field(1, 7),
        1 => (1..=7_u32).prop_map(|day| format!("{day}L")),
        1 => (1..=7_u32, 1..=5_u32).prop_map(|(day, nth)| format!("{day}#{nth}")),
        1 => select(vec!["MON-FRI".to_owned(), "SUN".to_owned(), "TUE,THU".to_owned()]),
    ];
    prop_oneof![of_month.prop_map(|days| (days, "?".to_owned())), of_week.prop_map(|days| ("?".to_owned(), days))]
}

/// Instants from 2012, after Apia's long gap, to 2090; half of them on days in which clocks change somewhere.
fn instant() -> impl Strategy<Value = Timestamp> {
    let any = (1_326_000_000..3_786_000_000_i64).prop_map(|second| Timestamp::from_millis(second * 1000));
    let changes = ["2025-04-05", "2025-09-06", "2025-10-04", "2026-03-07", "2026-03-28", "2026-10-24", "2026-10-31"];
    let near = (select(changes.to_vec()), 0..172_800_u64).prop_map(|(day, seconds)| {
        crate::at(&format!("{day}T00:00:00Z")).plus(std::time::Duration::from_secs(seconds))
    });
    prop_oneof![any, near]
}

fn agrees(
    expression: &str,
    dialect: CronDialect,
    zone: &str,
    after: Timestamp,
    oracle: &Cron,
) -> Result<(), TestCaseError> {
    let fixed = oracle.determine_job_type() == croner::JobType::FixedTime;
    let (dst_gap, dst_overlap) =
        if fixed { (DstGap::NextValid, DstOverlap::First) } else { (DstGap::Skip, DstOverlap::Both) };
    let trigger = Trigger { dialect: Some(dialect), dst_gap, dst_overlap, ..cron(expression, zone) };
    let ours = plan(&trigger).preview(after, 12);
    let zoned = after.to_jiff().to_zoned(TimeZone::get(zone).expect("known"));
    let others: Vec<Timestamp> =
        oracle.iter_after(zoned).take(ours.len()).map(|fire| Timestamp::from_jiff(fire.timestamp())).collect();
    prop_assert_eq!(ours, others, "{} in {} after {}", expression, zone, after);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn quartz_agrees_with_croner(
        second in field(0, 59), minute in field(0, 59), hour in field(0, 23), month in field(1, 12),
        (of_month, of_week) in quartz_days(), zone in select(ZONES.to_vec()), after in instant(),
    ) {
        let expression = format!("{second} {minute} {hour} {of_month} {month} {of_week}");
        let parser = CronParser::builder().seconds(Seconds::Required).year(Year::Optional).alternative_weekdays(true).sloppy_ranges(true);
        let oracle = parser.build().parse(&expression);
        prop_assume!(oracle.is_ok());
        agrees(&expression, CronDialect::Quartz, zone, after, &oracle.expect("assumed"))?;
    }

    #[test]
    fn unix_agrees_with_croner(
        minute in field(0, 59), hour in field(0, 23), of_month in field(1, 31), month in field(1, 12), of_week in field(0, 7),
        zone in select(ZONES.to_vec()), after in instant(),
    ) {
        let expression = format!("{minute} {hour} {of_month} {month} {of_week}");
        // croner takes `*/2` in a day field for a restriction, cron(8) does not; and it searches for days that no month has.
        prop_assume!(!of_month.starts_with("*/") && !of_week.starts_with("*/"));
        let trigger = Trigger { dialect: Some(CronDialect::Unix), ..cron(&expression, zone) };
        prop_assume!(pendula_schedule::Plan::compile(&trigger, after).is_ok());
        let oracle = CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build().parse(&expression);
        prop_assume!(oracle.is_ok());
        agrees(&expression, CronDialect::Unix, zone, after, &oracle.expect("assumed"))?;
    }
}
