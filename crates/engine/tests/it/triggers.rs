//! Fires in time: the look-ahead window, fixed delays, storms.

use std::time::Duration;

use pendula_engine::input::Outcome;
use pendula_engine::{Input, Settings};
use pendula_model::AttemptKey;
use pendula_model::instance::InstanceState::*;
use pendula_model::job::JobSpec;
use pendula_model::policy::{Concurrency, Overflow};
use pendula_model::trigger::Trigger;

use crate::script::{SECOND, Script, after_end, every, failed, fires};

fn times(script: &Script, job: pendula_model::JobId) -> Vec<pendula_model::Timestamp> {
    script.instances(job).into_iter().filter_map(|id| script.rows[&id].fire_time).collect()
}

#[test]
fn a_fixed_delay_counts_from_the_end_whatever_it_was() {
    let mut script = Script::new();
    let worker = script.worker("w", 1);
    let saved = script.now;
    let id = script.apply(fires("j", after_end(2_000))).id;
    script.pass(Duration::ZERO);
    for outcome in [Outcome::Succeeded, failed()] {
        script.pass(SECOND * 3);
        let (_, instance, _) = script.dispatched()[0];
        script.end(worker, instance, outcome);
        script.pass(SECOND * 2);
    }
    let fired: Vec<_> = times(&script, id).iter().map(|at| at.since(saved).as_secs()).collect();
    assert_eq!(fired, [0, 5, 10]);
    let canceled = script.instances(id)[2];
    script.stop(canceled);
    script.end(worker, canceled, Outcome::Stopped);
    script.pass(SECOND * 2);
    assert_eq!(times(&script, id).len(), 4);
}

#[test]
fn a_fixed_delay_goes_on_after_a_skip() {
    let mut script = Script::new();
    let worker = script.worker("w", 5);
    let concurrency = Concurrency { limit: Some(1), overflow: Overflow::Skip, ..Concurrency::default() };
    let id = script.apply(JobSpec { concurrency, enabled: false, ..fires("j", after_end(1_000)) }).id;
    let by_hand = script.run("j");
    script.enable("j", true);
    script.pass(SECOND * 3);
    assert_eq!(script.states(id), [Dispatched, Canceled, Canceled, Canceled, Canceled]);
    script.end(worker, by_hand, Outcome::Succeeded);
    script.pass(SECOND);
    assert_eq!(script.states(id).last(), Some(&Dispatched));
}

#[test]
fn a_fixed_delay_remains_one_chain_over_disabling_and_restarts() {
    let mut script = Script::new();
    script.worker("w", 9);
    let id = script.apply(fires("j", after_end(1_000))).id;
    script.pass(Duration::ZERO);
    script.enable("j", false);
    script.pass(SECOND);
    script.enable("j", true);
    script.pass(Duration::ZERO);
    assert_eq!(script.states(id), [Dispatched, Dispatched], "enabled again, it begins again");
    script.restart(SECOND);
    let held: Vec<_> = script.instances(id).into_iter().map(|id| (id, 1)).collect();
    let mut hello = script.hello("w", 1, 9);
    hello.running = held.iter().map(|(id, attempt)| AttemptKey::root(*id, *attempt)).collect();
    let worker = script.connect(hello);
    script.end(worker, held[0].0, Outcome::Succeeded);
    script.pass(SECOND * 5);
    assert_eq!(times(&script, id).len(), 2, "the other one has not ended");
    script.end(worker, held[1].0, Outcome::Succeeded);
    script.pass(SECOND);
    assert_eq!(times(&script, id).len(), 3, "one goes on, not two");
    script.disconnect(worker);
    script.enable("j", false);
    script.pass(SECOND * 60);
    assert_eq!(times(&script, id).len(), 3);
}

/// Disabled and enabled within a microsecond of its fire, it would begin at a time that was served already.
#[test]
fn a_fixed_delay_that_begins_again_at_a_served_time_goes_on_after_it() {
    let mut script = Script::new();
    let worker = script.worker("w", 1);
    let id = script.apply(fires("j", after_end(1_000))).id;
    script.pass(Duration::ZERO);
    script.enable("j", false);
    script.enable("j", true);
    script.end_all(worker);
    script.pass(SECOND);
    assert_eq!(times(&script, id).len(), 2);
}

/// Schedules are read a stretch at a time: what lies just before, at and just after its end is fired once, in time.
#[test]
fn no_fire_is_lost_between_two_stretches() {
    for offset in [-1i64, 0, 1] {
        let settings = Settings { look_ahead: SECOND * 10, ..Settings::default() };
        let mut script = Script::with(settings);
        let begin = script.now;
        let mut jobs = Vec::new();
        for n in 1..40u32 {
            let at = pendula_model::Timestamp::from_micros(begin.plus(SECOND * n).as_micros() + offset);
            jobs.push((at, script.apply(fires(&format!("j{n}"), Trigger { at: Some(at), ..Trigger::default() })).id));
        }
        // From the store, not from the memory that they were made in.
        script.restart(Duration::ZERO);
        script.pass(SECOND * 41);
        for (at, job) in jobs {
            assert_eq!(times(&script, job), [at]);
            let row = &script.rows[&script.instances(job)[0]];
            assert_eq!(row.created_at, at, "fired in time");
        }
    }
}

#[test]
fn a_job_made_while_schedules_are_read_fires_in_time() {
    let mut script = Script::new();
    script.hold_schedules = true;
    script.restart(SECOND);
    let id = script.apply(fires("j", every(1_000))).id;
    script.pass(SECOND * 3);
    assert_eq!(times(&script, id).len(), 4);
    let late = script.rows.values().filter(|row| Some(row.created_at) != row.fire_time).count();
    assert_eq!(late, 0);
}

/// A read of schedules that takes longer than the stretch that it is for.
#[test]
fn a_slow_read_of_schedules_loses_nothing() {
    let mut script = Script::with(Settings { look_ahead: SECOND * 2, ..Settings::default() });
    let id = script.apply(fires("j", every(700))).id;
    script.hold_schedules = true;
    for _ in 0..5 {
        script.pass(SECOND * 4);
        let until = script.held_schedules.take().expect("it asks for the next stretch");
        script.answer_schedules(until);
    }
    while let Some(until) = script.held_schedules.take() {
        script.answer_schedules(until);
        script.pass(Duration::ZERO);
    }
    assert_eq!(times(&script, id).len(), 29);
    assert_eq!(script.missed(), 0);
}

/// A storm comes in pieces, so that the first is on its way while the last is still being decided.
#[test]
fn a_storm_of_fires_is_worked_off_in_pieces_and_completely() {
    let mut script = Script::new();
    let at = script.now.plus(SECOND);
    for n in 0..5_000 {
        script.apply(fires(&format!("j{n}"), Trigger { at: Some(at), ..Trigger::default() }));
    }
    script.now = at;
    let mut pieces = 0;
    while script.partition.next_wakeup().is_some_and(|next| next <= at) {
        script.changes.clear();
        script.input(Input::Tick);
        assert!(script.changes.len() <= 4_000);
        pieces += 1;
    }
    assert_eq!(script.rows.len(), 5_000);
    assert!(pieces >= 3);
}
