//! Takeovers, hit at each write that they make to the store, and at each of their steps.

use std::collections::BTreeMap;
use std::time::Duration;

use pendula_model::job::JobSpec;
use pendula_model::mode::{Broadcast, ExecutionMode, Map};
use pendula_model::policy::Delivery;
use pendula_sim::{Ending, FailPoint, Misfortune, Move, Point, Profile, live_through, profile_named};

use crate::histories::lived;
use crate::scenarios::{every, job};

/// As long as a lease lasts, and as long as it may take until a server without one is seen to be so.
const TTL: Duration = Duration::from_secs(5);
const SEEN: Duration = Duration::from_millis(1100);
/// Longer than a lease, and shorter than new owners wait for workers.
const STALL: Duration = Duration::from_secs(12);

fn three_servers() -> Profile {
    let rolling = profile_named("rolling").expect("a mix with several servers");
    let store_takes = Duration::from_millis(4);
    Profile { length: Duration::from_secs(20), faults: &[], store_takes, replies_lost: 0, ..rolling.clone() }
}

/// Work of every kind, so that there is always some in the middle of something.
fn jobs() -> Vec<JobSpec> {
    let once = JobSpec { delivery: Delivery::AtMostOnce, ..job("once", every(1500)) };
    let broadcast = JobSpec { mode: ExecutionMode::Broadcast(Broadcast::default()), ..job("broadcast", every(4000)) };
    let map = JobSpec { mode: ExecutionMode::MapReduce(Map::default()), ..job("map", every(5000)) };
    vec![job("rate", every(1000)), once, broadcast, map]
}

fn check(ending: &Ending, moves: Move, fail_points: &[FailPoint]) {
    let told = || format!("{moves:?} with {fail_points:?}\n{}", ending.tail);
    assert_eq!(ending.violation, None, "{}", told());
    // Workers outlive all of it, so nothing is run again or given up.
    assert_eq!(ending.counts.written_off, 0, "{}", told());
}

fn lives_through(moves: Move, fail_points: &[FailPoint]) -> Ending {
    let ending = live_through(11, &three_servers(), jobs(), moves, fail_points, false);
    if ending.violation.is_some() || ending.counts.written_off > 0 {
        check(&live_through(11, &three_servers(), jobs(), moves, fail_points, true), moves, fail_points);
    }
    ending
}

const MOVES: [Move; 4] = [Move::Crash, Move::Stall(STALL), Move::Restart, Move::HandOver];

#[test]
fn takeovers_take_as_long_as_a_lease_and_hand_overs_a_moment() {
    for moves in MOVES {
        let ending = lives_through(moves, &[]);
        let longest = match moves {
            Move::Crash => TTL + SEEN,
            // Its owner is not gone; and another has the partition when it wakes up.
            Move::Stall(_) => Duration::ZERO,
            Move::Restart | Move::HandOver => Duration::from_millis(50),
        };
        assert!(ending.longest_gap <= longest, "{moves:?}: {:?}", ending.longest_gap);
        assert!(ending.counts.restores >= 2 && ending.counts.ambushes == 0);
    }
}

/// S4-7: something happens to a server after each write that it makes on the way of a partition to it or from it, before
/// it hears of the write; also to the next one that gets so far, and to the one after.
#[test]
fn s4_7_whoever_takes_over_may_be_hit_after_each_write() {
    let misfortunes = [Misfortune::Crash, Misfortune::Stall(STALL), Misfortune::Suspend(STALL), Misfortune::Deaf];
    let mut met = BTreeMap::new();
    for moves in MOVES {
        for point in Point::ALL {
            for what in misfortunes {
                for nth in 1..=2 {
                    let ending = lives_through(moves, &[FailPoint { point, nth, what, steps: None }]);
                    *met.entry(format!("{point:?}")).or_insert(0) += ending.counts.ambushes;
                }
            }
        }
    }
    println!("{met:?}");
    for point in Point::ALL {
        assert!(met[&format!("{point:?}")] >= 4, "{point:?} was hardly met: {met:?}");
    }
}

/// The next one takes over from the one that was hit, and is hit too.
#[test]
fn s4_7_two_in_a_row_may_be_hit() {
    let mut met = 0;
    for moves in [Move::Crash, Move::Restart] {
        for first in Point::ALL {
            for second in Point::ALL {
                let fail_points =
                    [first, second].map(|point| FailPoint { point, nth: 1, what: Misfortune::Crash, steps: None });
                met += lives_through(moves, &fail_points).counts.ambushes;
            }
        }
    }
    assert!(met > 200, "only {met} were hit");
}

/// Not only after writes: a taker dies, or stands still, before each of its steps after its claim. Then it restores,
/// commits, hears of it, welcomes workers, dispatches.
#[test]
fn s4_7_whoever_takes_over_may_be_hit_at_each_step() {
    for what in [Misfortune::Crash, Misfortune::Stall(STALL)] {
        for moves in [Move::Crash, Move::HandOver] {
            for steps in 0..60 {
                let ending =
                    lives_through(moves, &[FailPoint { point: Point::Claim, nth: 1, what, steps: Some(steps) }]);
                let hit = match what {
                    Misfortune::Crash => ending.counts.crashes,
                    _ => ending.counts.stalls,
                };
                assert!(hit > 0, "{moves:?} {what:?} {steps}: {:?}", ending.counts);
            }
        }
    }
}

/// S4-9 and S4-10: what workers finished while nobody owned their partition, and stops that were not carried out when
/// their owner was gone. The laws `acknowledged_work_never_lost`, `ends_as_reported` and `stops_are_carried_out` watch
/// them.
#[test]
fn s4_9_s4_10_results_and_stops_wait_for_the_next_owner() {
    let lived = lived();
    let (histories, counts) = lived.total();
    println!(
        "{histories} histories: {} takeovers, {} hand-overs; {} results waited for a new owner, {} stops were taken over; \
         {} commits of stale owners refused, {} effects were late, {} batches came twice",
        counts.restores,
        counts.hand_overs,
        counts.retold,
        counts.stops_taken_over,
        counts.fenced,
        counts.late_effects,
        counts.repeated
    );
    assert!(lived.failed.is_empty(), "{:?}", lived.failed);
    assert!(counts.restores > 2 * histories && counts.hand_overs > histories / 2);
    assert!(counts.retold > histories && counts.stops_taken_over * 10 > histories);
    assert!(counts.fenced * 20 > histories && counts.late_effects * 20 > histories && counts.repeated * 20 > histories);
}
