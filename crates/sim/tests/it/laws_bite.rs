//! Breaking a law on purpose makes some seed fail, and under the right name.

use pendula_sim::{Breakage, live, profile_of};

/// What is broken, which law must be named, and within how many seeds.
const CASES: [(Breakage, &str, u64); 19] = [
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
    (Breakage::SchedulesUnread, "every_fire_accounted", 800),
    (Breakage::ClockJumpsUntold, "no_needless_loss", 400),
    (Breakage::EffectsOutOfOrder, "welcome_comes_first", 400),
    (Breakage::SilenceUnnoticed, "nothing_stuck", 200),
    (Breakage::SilenceUnnoticed, "no_unbounded_memory", 400),
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
