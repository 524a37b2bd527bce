//! Fire times that passed while nobody could act.

use std::time::Duration;

use pendula_engine::Settings;
use pendula_engine::input::Outcome;
use pendula_model::AttemptKey;
use pendula_model::Timestamp;
use pendula_model::instance::InstanceState::*;
use pendula_model::trigger::{Misfire, Trigger};

use crate::script::{SECOND, Script, after_end, every, fires};

fn times(script: &Script, job: pendula_model::JobId) -> Vec<Timestamp> {
    script.instances(job).into_iter().filter_map(|id| script.rows[&id].fire_time).collect()
}

/// O-5: outages of a minute, ten minutes and three days; the list of what is made up for is exact.
#[test]
fn o_5_each_policy_makes_up_for_exactly_what_it_says() {
    for outage in [60u64, 600, 3 * 86_400] {
        for (misfire, made_up) in [(Misfire::FireOnce, 1), (Misfire::FireAll, 7), (Misfire::Skip, 0)] {
            let mut script = Script::with(Settings { misfire_after: SECOND * 5, ..Settings::default() });
            let saved = script.now;
            let id = script.apply(fires("j", Trigger { misfire, misfire_limit: 7, ..every(1_000) })).id;
            script.pass(SECOND * 10);
            assert_eq!(times(&script, id).len(), 11);
            script.restart(Duration::from_secs(outage));
            // The last five seconds (and the moment itself) are no misfires.
            let missed = outage - 6 - made_up;
            assert_eq!(times(&script, id).len() as u64, 11 + made_up + 6, "{misfire:?} after {outage} s");
            assert_eq!(script.missed(), missed);
            assert_eq!(script.jobs[&id].schedule.missed, missed);
            if missed > 0 {
                let gap = &script.gaps[&id][0];
                assert_eq!((gap.from, gap.count), (saved.plus(SECOND * 11), missed));
                assert_eq!(gap.to, saved.plus(SECOND * 10).plus(SECOND * missed as u32));
            }
            let first_made_up = script.rows[&script.instances(id)[11]].missed_before;
            assert_eq!(u64::from(first_made_up), missed);
            script.pass(SECOND * 3);
            assert_eq!(times(&script, id).len() as u64, 11 + made_up + 6 + 3, "and it goes on");
        }
    }
}

/// O-5: a daily job whose time falls into an outage runs once, late, and says so.
#[test]
fn o_5_a_daily_job_is_fired_once_after_an_outage_around_its_time() {
    let mut script = Script::new();
    script.now = "2026-11-21T23:59:50Z".parse().expect("a time");
    let id = script.apply(fires("j", Trigger { cron: Some("0 0 0 * * ?".into()), ..Trigger::default() })).id;
    script.restart(SECOND * 315);
    assert_eq!(times(&script, id), ["2026-11-22T00:00:00Z".parse().expect("a time")]);
    let row = &script.rows[&script.instances(id)[0]];
    assert_eq!(row.created_at.since(row.fire_time.expect("it was fired")), SECOND * 305);
    assert_eq!(script.missed(), 0);
    script.pass(Duration::from_secs(86_400));
    assert_eq!(times(&script, id).len(), 2);
}

#[test]
fn a_second_job_over_a_day_has_a_row_per_second() {
    let mut script = Script::new();
    let worker = script.worker("w", 10);
    let id = script.apply(fires("j", every(1_000))).id;
    for _ in 0..1_440 {
        script.pass(SECOND * 60);
        script.end_all(worker);
    }
    assert_eq!(times(&script, id).len(), 86_401);
}

#[test]
fn a_fixed_delay_skips_a_missed_fire_and_goes_on() {
    let mut script = Script::new();
    let worker = script.worker("w", 1);
    let skip = Trigger { misfire: Misfire::Skip, ..after_end(10_000) };
    let id = script.apply(fires("j", skip)).id;
    script.pass(Duration::ZERO);
    script.end_all(worker);
    script.restart(SECOND * 60);
    script.worker("w", 1);
    assert_eq!((times(&script, id).len(), script.missed()), (1, 1));
    script.pass(SECOND * 10);
    assert_eq!(times(&script, id).len(), 2);
}

#[test]
fn the_tolerance_decides_what_is_late() {
    let mut script = Script::with(Settings { misfire_after: SECOND * 30, ..Settings::default() });
    let id = script.apply(fires("j", Trigger { misfire: Misfire::Skip, ..every(10_000) })).id;
    script.pass(Duration::ZERO);
    script.restart(SECOND * 25);
    assert_eq!((times(&script, id).len(), script.missed()), (3, 0));
}

/// The clock went back while the server was down: what was served is not served again, and ids go on.
#[test]
fn a_clock_that_went_back_over_a_restart_doubles_nothing() {
    let mut script = Script::new();
    let worker = script.worker("w", 10);
    let rate = script.apply(fires("rate", every(1_000))).id;
    let start = Some(script.now.plus(SECOND * 30));
    let delay = script.apply(fires("delay", Trigger { start, ..after_end(1_000) })).id;
    for _ in 0..40 {
        script.pass(SECOND);
        script.end_all(worker);
    }
    script.pass(SECOND);
    let (rates, delays) = (times(&script, rate).len(), times(&script, delay).len());
    assert!(delays > 3);
    script.dispatched();
    let running: Vec<_> = script.rows.values().filter(|row| row.state == Dispatched).map(|row| (row.id, 1)).collect();
    script.now = script.now.minus(SECOND * 35);
    script.restart_with(|_| {});
    let mut hello = script.hello("w", 1, 10);
    hello.running = running.iter().map(|(id, attempt)| AttemptKey::root(*id, *attempt)).collect();
    let worker = script.connect(hello);
    for (id, _) in running {
        script.end(worker, id, Outcome::Succeeded);
    }
    script.enable("delay", false);
    script.enable("delay", true);
    for _ in 0..45 {
        script.pass(SECOND);
        script.end_all(worker);
    }
    // The script's store refuses to serve a time twice. The trigger went on where it was.
    assert_eq!(times(&script, rate).len(), rates + 10);
    assert!(times(&script, delay).len() > delays);
    let all = times(&script, delay);
    assert!(all.is_sorted(), "{all:?}");
}
