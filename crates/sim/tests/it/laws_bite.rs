//! Breaking a law on purpose makes some seed fail, and under the right name.

use std::time::Duration;

use pendula_sim::{Breakage, Fault, Profile, live, profile_named, profile_of};

/// What is broken, which law must be named, and within how many seeds.
const CASES: [(Breakage, &str, u64); 38] = [
    (Breakage::DispatchBeforeCommit, "no_dispatch_before_commit", 20),
    (Breakage::ReplyBeforeCommit, "acknowledged_work_never_lost", 20),
    (Breakage::AckBeforeCommit, "acknowledged_work_never_lost", 20),
    (Breakage::FencedIgnored, "no_dispatch_before_commit", 200),
    (Breakage::EpochUnchecked, "only_the_owner_writes", 100),
    (Breakage::FireInTwoSteps, "one_row_per_fire", 400),
    (Breakage::KeysForgotten, "idempotency_key_one_instance", 100),
    (Breakage::WritesLost, "memory_matches_store", 2000),
    (Breakage::WritesLost, "every_fire_accounted", 200),
    (Breakage::WritesLost, "limits_never_exceeded", 400),
    (Breakage::WritesLost, "no_fire_after_disable_ack", 1500),
    (Breakage::EndedRowsWritten, "ended_once", 100),
    (Breakage::WorkerAdmitsAll, "at_most_once_never_starts_twice", 200),
    (Breakage::WorkerForgetsRunning, "at_most_one_running_attempt", 1500),
    (Breakage::SchedulesUnread, "every_fire_accounted", 1500),
    (Breakage::EffectsOutOfOrder, "welcome_comes_first", 1500),
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
    (Breakage::ClaimBlind, "one_owner_per_epoch", 100),
    (Breakage::ClaimFromTheLiving, "no_needless_takeover", 400),
    (Breakage::LeaseCountedLate, "leases_are_exclusive", 400),
    (Breakage::StopsForgotten, "stops_are_carried_out", 100),
    (Breakage::CommitUnnumbered, "commits_are_accepted", 100),
    (Breakage::LoadBeforeClaim, "takeover_sees_all", 400),
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

/// Safety rests on epochs. Leases only decide who tries.
#[test]
fn no_law_but_their_own_depends_on_leases() {
    for seed in (0..1100).filter(|seed| profile_of(*seed).servers > 1) {
        let violation = live(seed, profile_of(seed), Some(Breakage::LeaseUnchecked), false).violation;
        assert_eq!(violation, None, "seed {seed}");
    }
}

/// Where clocks run, a lease that is checked is enough, too: nothing of what rests on memory alone does harm.
#[test]
fn where_clocks_run_what_rests_on_memory_may_leave_unproved() {
    let clocks_run = |seed: &u64| {
        let profile = profile_of(*seed);
        let stops = |fault: &(Fault, u32)| matches!(fault.0, Fault::Suspend | Fault::StoreClock);
        profile.servers > 1 && !profile.faults.iter().any(stops)
    };
    for seed in (0..1100).filter(clocks_run) {
        let violation = live(seed, profile_of(seed), Some(Breakage::MemoryUnproved), false).violation;
        assert_eq!(violation, None, "seed {seed}");
    }
}

/// Finds a seed in which `breakage` breaks `law`, where a mix is made for it; and all is well where nothing is broken.
fn bites(breakage: Breakage, law: &str, profile: &Profile, within: u64) {
    let broken = (0..within).find(|seed| {
        let violation = live(*seed, profile, Some(breakage), false).violation;
        violation.is_some_and(|violation| violation.law == law)
    });
    println!("{breakage:?}: {law} broken by seed {broken:?}, of its own mix");
    let seed = broken.unwrap_or_else(|| panic!("{breakage:?} did not break {law} within {within} seeds"));
    assert_eq!(live(seed, profile, None, false).violation, None);
}

/// Found only where the clock jumps while workers are away.
#[test]
fn a_clock_jump_that_nobody_tells_loses_work() {
    let clocks = profile_named("clocks").expect("a mix in which clocks jump");
    let faults = &[(Fault::Crash, 1), (Fault::ClockForward, 2)];
    let profile = Profile { fault_every: Duration::from_secs(1), faults, ..clocks.clone() };
    bites(Breakage::ClockJumpsUntold, "no_needless_loss", &profile, 3000);
}

/// A claim that lies about on its way, until its server has claimed again and owns the partition, takes it from itself.
#[test]
fn a_claim_names_the_epoch_that_it_has_seen() {
    let slow = profile_named("slow").expect("a mix in which the store is reached slowly");
    let faults = &[(Fault::Slow, 4), (Fault::HandOver, 1)];
    let profile = Profile { fault_every: Duration::from_secs(1), faults, ..slow.clone() };
    bites(Breakage::SeenUnchecked, "leases_are_exclusive", &profile, 1000);
}

/// An owner that was superseded while its machine stood still, its clocks with it, believes in its lease when it wakes up.
/// What it tells from memory then must not be believed: a worker would give up what its new owner gave it.
#[test]
fn what_rests_on_memory_is_proved_before_it_leaves() {
    let suspended = profile_named("suspended").expect("a mix in which machines stand still");
    let faults = &[(Fault::Suspend, 1), (Fault::BreakConnection, 12)];
    let profile = Profile { fault_every: Duration::from_millis(400), faults, ..suspended.clone() };
    for breakage in [Breakage::MemoryUnproved, Breakage::MemoryUnprovedNorLease] {
        bites(breakage, "current_attempts_are_kept", &profile, 1000);
    }
}
