//! What is made up for after an outage, what is given up, and that it costs little.

use std::time::{Duration, Instant};

use pendula_model::Timestamp;
use pendula_model::trigger::{Misfire, Trigger};
use pendula_schedule::{CatchUp, Fire, Gap, MOST_CAUGHT_UP, catch_up};
use proptest::prelude::*;
use proptest::sample::select;

use crate::{at, cron, plan};

const SECOND: Duration = Duration::from_secs(1);

fn late(text: &str, missed_before: u64) -> Fire {
    Fire { at: at(text), late: true, missed_before }
}

/// Every ten minutes, due from 10:00, asked at 10:50:00.5 with a tolerance of one second.
fn outage(policy: Misfire, limit: u32) -> CatchUp {
    let plan = plan(&cron("*/10 * * * *", "UTC"));
    catch_up(&plan, policy, limit, at("2026-11-21T10:00:00Z"), at("2026-11-21T10:50:00.5Z"), SECOND)
}

fn in_time(missed_before: u64) -> Fire {
    Fire { at: at("2026-11-21T10:50:00Z"), late: false, missed_before }
}

#[test]
fn fire_once_fires_the_latest_missed_time_and_what_is_in_time() {
    let gap = Gap { from: at("2026-11-21T10:00:00Z"), to: at("2026-11-21T10:30:00Z"), count: 4 };
    let expected = CatchUp {
        fires: vec![late("2026-11-21T10:40:00Z", 4), in_time(0)],
        gap: Some(gap),
        next: Some(at("2026-11-21T11:00:00Z")),
    };
    assert_eq!(outage(Misfire::FireOnce, 100), expected);
}

#[test]
fn fire_all_fires_the_latest_ones_oldest_first() {
    let limited = outage(Misfire::FireAll, 2);
    assert_eq!(limited.fires, [late("2026-11-21T10:30:00Z", 3), late("2026-11-21T10:40:00Z", 0), in_time(0)]);
    assert_eq!(limited.gap.map(|gap| gap.count), Some(3));
    let all = outage(Misfire::FireAll, 100);
    assert_eq!((all.fires.len(), all.gap), (6, None));
}

#[test]
fn skip_fires_only_what_is_in_time() {
    let skipped = outage(Misfire::Skip, 100);
    assert_eq!(skipped.fires, [in_time(5)]);
    assert_eq!(skipped.gap, Some(Gap { from: at("2026-11-21T10:00:00Z"), to: at("2026-11-21T10:40:00Z"), count: 5 }));
}

#[test]
fn what_is_not_due_yet_stays_as_it_is() {
    let plan = plan(&cron("*/10 * * * *", "UTC"));
    let due = at("2026-11-21T10:03:00Z");
    let early = catch_up(&plan, Misfire::FireOnce, 100, due, at("2026-11-21T10:02:00Z"), SECOND);
    assert_eq!(early, CatchUp { fires: Vec::new(), gap: None, next: Some(due) });
}

#[test]
fn a_stored_time_off_the_grid_counts_as_due() {
    let plan = plan(&cron("*/10 * * * *", "UTC"));
    let due = at("2026-11-21T10:03:00Z");
    let caught = catch_up(&plan, Misfire::FireAll, 100, due, at("2026-11-21T10:15:00Z"), SECOND);
    assert_eq!(caught.fires, [late("2026-11-21T10:03:00Z", 0), late("2026-11-21T10:10:00Z", 0)]);
}

#[test]
fn a_fixed_delay_waits_for_its_fire_or_goes_on_after_a_skipped_one() {
    let trigger = Trigger { fixed_delay: Some(30 * SECOND), ..Trigger::default() };
    let plan = plan(&trigger);
    let (due, now) = (at("2026-11-21T10:00:00Z"), at("2026-11-21T10:15:00Z"));
    let once = catch_up(&plan, Misfire::FireOnce, 100, due, now, SECOND);
    assert_eq!((once.fires, once.gap, once.next), (vec![late("2026-11-21T10:00:00Z", 0)], None, None));
    let skipped = catch_up(&plan, Misfire::Skip, 100, due, now, SECOND);
    assert_eq!(skipped.gap, Some(Gap { from: due, to: due, count: 1 }));
    assert_eq!(skipped.next, Some(at("2026-11-21T10:15:30Z")));
}

#[test]
fn a_one_off_is_made_up_for_or_given_up() {
    let due = at("2026-11-21T10:00:00Z");
    let plan = plan(&Trigger { at: Some(due), ..Trigger::default() });
    let now = at("2026-11-22T00:00:00Z");
    let once = catch_up(&plan, Misfire::FireOnce, 100, due, now, SECOND);
    assert_eq!((once.fires, once.next), (vec![late("2026-11-21T10:00:00Z", 0)], None));
    let skipped = catch_up(&plan, Misfire::Skip, 100, due, now, SECOND);
    assert_eq!((skipped.fires.len(), skipped.gap.map(|gap| gap.count), skipped.next), (0, Some(1), None));
}

/// Ten years of a rate of 100 ms, of every second and of a window: counted exactly, without walking through them.
#[test]
fn years_of_outage_cost_no_more_than_a_moment() {
    let (due, now) = (at("2016-11-21T10:00:00Z"), at("2026-11-21T10:00:00Z"));
    let seconds = now.since(due).as_secs();
    let rate = Trigger { fixed_rate: Some(SECOND / 10), start: Some(due), ..Trigger::default() };
    let every_second = cron("* * * * * ?", "UTC");
    for (trigger, missed) in [(rate, seconds * 10), (every_second, seconds)] {
        let plan = plan(&trigger);
        let begun = Instant::now();
        let caught = catch_up(&plan, Misfire::FireAll, MOST_CAUGHT_UP, due, now, Duration::ZERO);
        // Walking would take minutes; the bound leaves room for a busy machine.
        assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
        let fired = u64::from(MOST_CAUGHT_UP);
        assert_eq!(caught.fires.len() as u64, fired + 1, "and the one due now");
        assert_eq!(caught.gap.expect("the rest").count, missed - fired);
    }
}

#[test]
fn a_long_tolerance_is_bounded_too() {
    let plan = plan(&cron("* * * * * ?", "UTC"));
    let (due, now) = (at("2026-11-20T00:00:00Z"), at("2026-11-21T00:00:00Z"));
    let caught = catch_up(&plan, Misfire::Skip, 1, due, now, Duration::MAX);
    assert_eq!(caught.fires.len(), MOST_CAUGHT_UP as usize);
    assert_eq!(caught.gap.expect("the rest").count, 86_401 - u64::from(MOST_CAUGHT_UP));
}

proptest! {
    #[test]
    fn every_due_time_fires_or_is_counted(
        expression in select(vec!["0 0/7 * * * ?", "0 30 2 * * ?", "30 */5 1-3 * * ?", "0 0 12 ? * MON#1"]),
        zone in select(vec!["Europe/Berlin", "Australia/Lord_Howe", "UTC"]),
        policy in select(vec![Misfire::FireOnce, Misfire::FireAll, Misfire::Skip]),
        limit in 1..50_u32, offset in 0..400_000_u64, outage in 0..400_000_u64, tolerance in 0..5_000_u64,
    ) {
        let plan = plan(&cron(expression, zone));
        let begin = at("2026-03-26T00:00:00Z").plus(Duration::from_secs(offset));
        let first_due = plan.next_after(begin).expect("it goes on");
        let now = first_due.plus(Duration::from_secs(outage));
        let tolerance = Duration::from_secs(tolerance);
        let caught = catch_up(&plan, policy, limit, first_due, now, tolerance);

        let due: Vec<Timestamp> =
            std::iter::successors(Some(first_due), |fire| plan.next_after(*fire)).take_while(|fire| *fire <= now).collect();
        let given_up = caught.gap.map_or(0, |gap| gap.count) as usize;
        prop_assert_eq!(caught.fires.iter().map(|fire| fire.at).collect::<Vec<_>>(), &due[given_up..]);
        if let Some(gap) = caught.gap {
            prop_assert_eq!((gap.from, gap.to), (first_due, due[given_up - 1]));
        }
        prop_assert!(caught.fires.iter().all(|fire| fire.late == (now.since(fire.at) > tolerance)));
        let made_up = caught.fires.iter().filter(|fire| fire.late).count();
        let missed = due.iter().filter(|fire| now.since(**fire) > tolerance).count();
        let most = match policy { Misfire::FireOnce => 1, Misfire::FireAll => limit as usize, Misfire::Skip => 0 };
        prop_assert_eq!(made_up, missed.min(most));
        prop_assert_eq!(caught.next, plan.next_after(now));
    }
}
