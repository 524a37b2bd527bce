//! O-15: an app whose workers are gone for three days.

use std::time::Duration;

use pendula_engine::Settings;
use pendula_engine::effect::Observation;
use pendula_model::instance::InstanceState;
use pendula_model::job::JobSpec;
use pendula_model::mode::{Broadcast, ExecutionMode};
use pendula_model::policy::{Concurrency, Overflow};

use crate::script::{Script, every, fires};

const DAYS: Duration = Duration::from_secs(3 * 86_400);
const EVERY: u64 = 600_000;
const FIRES: usize = 432;

/// A server that reads schedules hours ahead, so that three days pass in few steps.
fn script() -> Script {
    Script::with(Settings { look_ahead: Duration::from_secs(6 * 3600), ..Settings::default() })
}

fn told(script: &Script) -> usize {
    script.observed.iter().filter(|o| matches!(o, Observation::NoWorker { .. })).count()
}

#[test]
fn o_15_workers_that_return_catch_up_as_declared() {
    let limited = |overflow, queue| Concurrency { limit: Some(1), overflow, queue };
    let policies = [
        ("all", Concurrency::default(), FIRES),
        ("newest", limited(Overflow::Replace, 10_000), 1),
        ("first", limited(Overflow::Skip, 10_000), 1),
        ("some", limited(Overflow::Queue, 9), 10),
    ];
    for (name, concurrency, caught_up) in policies {
        let mut script = script();
        let job = script.apply(JobSpec { concurrency, ..fires(name, every(EVERY)) }).id;
        script.pass(DAYS);
        let states = script.states(job);
        assert_eq!(states.len(), FIRES + 1, "{name}: one row per fire, and one at the beginning");
        assert_eq!(told(&script), 1, "{name}: said once");
        let waiting = states.iter().filter(|state| **state == InstanceState::Waiting).count();
        assert!((caught_up..=caught_up + 1).contains(&waiting), "{name}: {waiting}");
        // They come back: what waits runs, no more of it at once than they have slots.
        let worker = script.worker("w", 2);
        let dispatched = script.dispatches.len();
        assert!(dispatched <= 2, "{name}: {dispatched}");
        script.end_all(worker);
        let succeeded = script.states(job).iter().filter(|state| **state == InstanceState::Succeeded).count();
        assert_eq!(succeeded, waiting, "{name}");
    }
}

#[test]
fn o_15_broadcasts_without_workers_end_each_and_leave_nothing_behind() {
    let mut script = script();
    let mode = ExecutionMode::Broadcast(Broadcast::default());
    let job = script.apply(JobSpec { mode, ..fires("b", every(EVERY)) }).id;
    script.pass(DAYS);
    let states = script.states(job);
    assert_eq!(states.len(), FIRES + 1);
    assert!(states.iter().all(|state| *state == InstanceState::Failed));
    let gauges = script.partition.gauges();
    assert_eq!((gauges.waiting, gauges.ready, gauges.placed), (0, 0, 0));
}

#[test]
fn o_15_what_may_not_wait_so_long_expires() {
    let mut script = script();
    let expire_after = Some(Duration::from_secs(3600));
    let job = script.apply(JobSpec { expire_after, ..fires("j", every(EVERY)) }).id;
    script.pass(DAYS);
    let waiting = script.states(job).iter().filter(|state| !state.is_ended()).count();
    assert!(waiting <= 7, "an hour's worth: {waiting}");
}
