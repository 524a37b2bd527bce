//! What becomes of fire times that passed while nobody could act.

use std::time::Duration;

use pendula_model::Timestamp;
use pendula_model::trigger::Misfire;

use crate::plan::{MOST_CAUGHT_UP, Plan};

/// What to do now about everything that has been due.
///
/// Each due time is in exactly one place: among the fires or counted in the gap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CatchUp {
    /// Oldest first.
    pub fires: Vec<Fire>,
    /// The due times that will not fire; they precede all `fires`.
    pub gap: Option<Gap>,
    /// The next due time, later than now. `None`: there is none, or (fixed delay) it follows from the end of a fire.
    pub next: Option<Timestamp>,
}

/// A due time that becomes an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fire {
    pub at: Timestamp,
    /// Fires by grace of the misfire policy, not because it is its time.
    pub late: bool,
    /// How many due times right before it are given up.
    pub missed_before: u64,
}

/// Due times that were given up, in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// The first and the last of them.
    pub from: Timestamp,
    pub to: Timestamp,
    /// Exact, at least 1.
    pub count: u64,
}

/// Decides about the due times from `first_due` to `now`, both included.
///
/// `first_due` is the stored next fire time of the trigger, whether or not the plan would name it today. What is at most
/// `tolerance` old fires as usual. Older ones are misfires: `fire_once` fires the latest, `fire_all` the latest `limit`,
/// `skip` none. At most [`MOST_CAUGHT_UP`] of each sort fire. The cost is bounded by that, not by how many were missed:
/// those are counted by calculation.
///
/// A skipped fixed delay continues one delay after `now`.
pub fn catch_up(
    plan: &Plan,
    policy: Misfire,
    limit: u32,
    first_due: Timestamp,
    now: Timestamp,
    tolerance: Duration,
) -> CatchUp {
    if first_due > now {
        return CatchUp { fires: Vec::new(), gap: None, next: Some(first_due) };
    }
    let last_due = |until: Timestamp| {
        let planned = plan.last_until(until).filter(|planned| *planned > first_due);
        planned.or((first_due <= until).then_some(first_due))
    };
    let oldest_in_time = now.minus(tolerance);
    let most_late = match policy {
        Misfire::FireOnce => 1,
        Misfire::FireAll => limit.min(MOST_CAUGHT_UP),
        Misfire::Skip => 0,
    };

    // From the latest due time backwards: first those in time, then the misfires to make up for; the rest is the gap.
    let mut fires = Vec::new();
    let mut due = last_due(now);
    for (late, most) in [(false, MOST_CAUGHT_UP), (true, most_late)] {
        for _ in 0..most {
            let Some(at) = due.filter(|at| late || *at >= oldest_in_time) else {
                break;
            };
            fires.push(Fire { at, late, missed_before: 0 });
            due = last_due(at.minus(Duration::from_micros(1)));
        }
    }
    fires.reverse();

    let gap = due.map(|to| {
        let after_the_first = if to > first_due { 1 + plan.count_between(first_due, to) } else { 0 };
        Gap { from: first_due, to, count: 1 + after_the_first }
    });
    if let (Some(fire), Some(gap)) = (fires.first_mut(), gap) {
        fire.missed_before = gap.count;
    }
    let next = match fires[..] {
        [] if plan.waits_for_end() => plan.next_after_end(now),
        _ if plan.waits_for_end() => None,
        _ => plan.next_after(now),
    };
    CatchUp { fires, gap, next }
}
