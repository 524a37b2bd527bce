//! Breaking a law on purpose makes some seed fail, and under the right name.

use std::time::Duration;

use pendula_sim::{Breakage, Fault, Profile, live, profile_named, profile_of};

/// What is broken, which law must be named, and within how many seeds.
const CASES: [(Breakage, &str, u64); 32] = [
    (Breakage::DispatchBeforeCommit, "no_dispatch_before_commit", 20),
    (Breakage::ReplyBeforeCommit, "acknowledged_work_never_lost", 20),
    (Breakage::AckBeforeCommit, "acknowledged_work_never_lost", 20),
    (Breakage::FencedIgnored, "no_dispatch_before_commit", 200),
    (Breakage::EpochUnchecked, "only_the_owner_writes", 100),
    (Breakage::FireInTwoSteps, "one_row_per_fire", 400),
    (Breakage::KeysForgotten, "idempotency_key_one_instance", 100),
    (Breakage::WritesLost, "memory_matches_store", 200),
    (Breakage::WritesLost, "every_fire_accounted", 200),
    (Breakage::WritesLost, "limits_never_exceeded", 400),
    (Breakage::WritesLost, "no_fire_after_disable_ack", 1500),
    (Breakage::EndedRowsWritten, "ended_once", 100),
    (Breakage::WorkerAdmitsAll, "at_most_once_never_starts_twice", 200),
    (Breakage::WorkerForgetsRunning, "at_most_one_running_attempt", 1500),
    (Breakage::SchedulesUnread, "every_fire_accounted", 1500),
    (Breakage::EffectsOutOfOrder, "welcome_comes_first", 400),
    (Breakage::SilenceUnnoticed, "nothing_stuck", 200),
    (Breakage::SilenceUnnoticed, "no_unbounded_memory", 400),
    (Breakage::TargetsMove, "bound_to_its_worker", 40),
    (Breakage::WorkerAdmitsAll, "bound_to_its_worker", 400),
    (Breakage::TargetsRedrawn, "targets_are_frozen", 40),
    (Breakage::MapsTakenAgain, "sub_task_created_once", 40),
    (Breakage::CountsOff, "counts_match_rows", 20),
    (Breakage::TaskEndsLost, "reduce_after_all_and_once", 40),
    (Breakage::TasksUnread, "waiting_tasks_are_found", 40),
    (Breakage::TasksUnread, "policy_holds", 200),
    (Breakage::PagesEndEarly, "waiting_tasks_are_found", 100),
    (Breakage::InputsForgotten, "tasks_keep_their_input", 40),
    (Breakage::ShardsMixedUp, "shards_complete", 40),
    (Breakage::SlotsOverstated, "task_limits_never_exceeded", 20),
    (Breakage::PolicyIgnored, "policy_holds", 20),
    (Breakage::EndedTasksWritten, "ended_once", 20),
];

#[test]
fn laws_bite() {
    for (breakage, law, within) in CASES {
        let bitten = (0..within).find(|seed| {
            let violation = live(*seed, profile_of(*seed), Some(breakage), false).violation;
            violation.is_some_and(|violation| violation.law == law)
        });
        println!("{breakage:?}: {law} broken by seed {bitten:?}");
        assert!(bitten.is_some(), "{breakage:?} did not break {law} within {within} seeds");
    }
}

/// Found only where the clock jumps while workers are away, so in a mix that is made for it.
#[test]
fn a_clock_jump_that_nobody_tells_loses_work() {
    let clocks = profile_named("clocks").expect("a mix in which clocks jump");
    let faults = &[(Fault::Crash, 1), (Fault::ClockForward, 2)];
    let profile = Profile { fault_every: Duration::from_secs(1), faults, ..clocks.clone() };
    let broken = (0..3000).find(|seed| {
        let violation = live(*seed, &profile, Some(Breakage::ClockJumpsUntold), false).violation;
        violation.is_some_and(|violation| violation.law == "no_needless_loss")
    });
    println!("ClockJumpsUntold: no_needless_loss broken by seed {broken:?}");
    let seed = broken.expect("some seed finds it");
    assert_eq!(live(seed, &profile, None, false).violation, None);
}
