//! Scenarios: histories with one crash each, at every step, and what all the others show.

use std::time::Duration;

use pendula_model::job::JobSpec;
use pendula_model::policy::Delivery;
use pendula_model::processor::{Handler, Processor};
use pendula_model::trigger::Trigger;
use pendula_sim::{Ending, Profile, live_until_crash, profile_named};

use crate::histories::lived;

fn calm(seconds: u64) -> Profile {
    let calm = profile_named("calm").expect("there is a mix in which nothing goes wrong");
    // What a crash does to work that is under way is no fault of the engine's.
    Profile { length: Duration::from_secs(seconds), ..calm.clone() }
}

/// A fire each so many milliseconds.
pub(crate) fn every(millis: u64) -> Trigger {
    Trigger { fixed_rate: Some(Duration::from_millis(millis)), ..Trigger::default() }
}

pub(crate) fn job(name: impl Into<String>, trigger: Trigger) -> JobSpec {
    let mut spec = JobSpec::new(name, Processor::Handler(Handler { name: "a".to_owned(), config: None }));
    spec.trigger = Some(trigger);
    spec
}

fn kept_the_laws(ending: &Ending, crash_in: Option<u32>) {
    assert_eq!(ending.violation, None, "crash in {crash_in:?}\n{}", ending.tail);
}

/// O-5: the owner is killed at every step between "due" and "acknowledged by the worker", and at those of the restore.
#[test]
fn o_5_a_crash_at_any_step_neither_loses_nor_doubles_a_fire() {
    let jobs = |delivery| {
        let rate = Trigger { fixed_rate: Some(Duration::from_secs(2)), ..Trigger::default() };
        let delay = Trigger { fixed_delay: Some(Duration::from_secs(1)), ..Trigger::default() };
        [("rate", rate), ("delay", delay)].map(|(name, trigger)| JobSpec { delivery, ..job(name, trigger) }).to_vec()
    };
    for delivery in [Delivery::AtLeastOnce, Delivery::AtMostOnce] {
        let mut crash_in = 0;
        loop {
            let ending = live_until_crash(7, &calm(8), jobs(delivery), Some(crash_in));
            kept_the_laws(&ending, Some(crash_in));
            if ending.counts.crashes == 0 {
                break;
            }
            // Workers outlive the owner, so nothing is run again or given up.
            assert_eq!(ending.counts.written_off, 0, "crash in {crash_in}");
            assert_eq!(ending.counts.missed, 0, "crash in {crash_in}");
            crash_in += 1;
        }
        assert!(crash_in > 40, "only {crash_in} steps were seen");
    }
}

/// O-1: ten thousand schedules due in the same second, the owner killed in the middle of them.
#[test]
fn o_1_ten_thousand_schedules_in_one_second_make_as_many_instances() {
    let at = "2026-11-21T08:01:10Z".parse().expect("a time");
    let jobs: Vec<_> =
        (0..10_000).map(|n| job(format!("j{n}"), Trigger { at: Some(at), ..Trigger::default() })).collect();
    let roomy = Profile { slots: (2_000, 2_000), ..calm(90) };
    let whole = live_until_crash(1, &roomy, jobs.clone(), None);
    kept_the_laws(&whole, None);
    assert_eq!(whole.counts.fires, 10_000);
    // While the schedules are read, in the middle of the pass, and while its effects are performed.
    for percent in [0, 5, 10, 15, 20, 25, 30, 40, 50] {
        let crash_in = u32::try_from(whole.steps).expect("a few ten thousand") / 100 * percent;
        let ending = live_until_crash(1, &roomy, jobs.clone(), Some(crash_in));
        kept_the_laws(&ending, Some(crash_in));
        assert_eq!(ending.counts.crashes, 1);
        assert_eq!((ending.counts.fires, ending.counts.missed), (10_000, 0), "crash in {crash_in}");
    }
}

/// S2-10: workers die, stand still and come back, messages are lost, repeated and late, owners crash, in 10,000 histories
/// (those of the whole run): each target runs once on its worker, and as often again as was recorded, and never elsewhere.
/// The laws `bound_to_its_worker` and `targets_are_frozen` watch it at each commit and each start of a handler.
#[test]
fn s2_10_targets_run_on_their_own_worker_and_as_often_as_recorded() {
    let lived = lived();
    let (histories, counts) = lived.total();
    println!(
        "{histories} histories: {} broadcasts, {} sharded, {} maps with {} sub-tasks, {} results read; {} targets lost, \
         {} went over to the next process of their worker; {} repeated what did not succeed, {} tasks retried by users",
        counts.broadcasts,
        counts.sharded,
        counts.maps,
        counts.sub_tasks,
        counts.results_read,
        counts.lost_targets,
        counts.rebound,
        counts.reruns,
        counts.tasks_retried
    );
    assert!(lived.failed.is_empty(), "{:?}", lived.failed);
    // Enough of each was met for this to mean something.
    assert!(counts.broadcasts > 2 * histories && counts.maps > 2 * histories && counts.sharded > histories);
    assert!(counts.lost_targets * 10 > histories && counts.rebound * 50 > histories);
    assert!(counts.reruns * 10 > histories && counts.tasks_retried * 50 > histories);
    assert!(counts.results_read > histories && counts.sub_tasks > 10 * histories);
}
