//! Tasks that are bound to a worker: they run there, once and as often as was decided on record, and nowhere else.

use pendula_model::mode::ExecutionMode;
use pendula_model::policy::Delivery;
use pendula_model::task::{Task, TaskRole};
use pendula_model::worker::WorkerRef;
use pendula_model::{AttemptKey, TaskKey};
use serde_json::Value;

use super::Audit;
use super::tasks::Spread;

impl Audit {
    /// A new target is on the frozen list, and the only one of its name.
    pub(super) fn check_new_target(&mut self, row: &Task) {
        if row.role != TaskRole::Target {
            return;
        }
        let Some(spread) = self.spread(row.instance) else { return };
        // Its worker may have been gone by then, and its name another's already.
        let moved = row.losses > 0 && may_be_rebound(spread);
        let is_listed = row.target.as_ref().is_some_and(|target| {
            let listed =
                |entry: &Value| entry["boot"] == target.boot.to_string() || (moved && entry["worker"] == *target.name);
            listed_workers(spread).iter().any(listed)
        });
        // Of two connected processes of one name nobody can tell which is the other's successor: each has its own.
        let twins = spread.tasks.values().filter(|task| task.role == TaskRole::Target && task.name == row.name);
        let connected = |entry: &&Value| entry["worker"] == *row.name && entry["connected"] == true;
        let is_alone = twins.count() <= listed_workers(spread).iter().filter(connected).count().max(1);
        if !is_listed || !is_alone {
            let targets = spread.fanout.targets.clone();
            self.breaks("targets_are_frozen", || format!("{row:?} is none of {targets:?}, or there are two of it"));
        }
    }

    /// A bound task is with the worker that it is bound to.
    pub(super) fn check_bound(&mut self, row: &Task) {
        let must_be_bound = row.role == TaskRole::Target;
        let is_elsewhere = row.target.is_some() && row.worker.is_some() && row.worker != row.target;
        if is_elsewhere || must_be_bound != row.target.is_some() {
            self.breaks("bound_to_its_worker", || format!("{row:?}"));
        }
    }

    /// A lost task goes to another process only where that was declared, and only to one of the same name.
    pub(super) fn check_rebound(&mut self, before: &Task, row: &Task) {
        self.counts.rebound += 1;
        let Some(spread) = self.spread(row.instance) else { return };
        let name = |task: &Task| task.target.as_ref().map(|target| target.name.clone());
        if !may_be_rebound(spread) || name(before) != name(row) {
            let (from, to) = (before.target.clone(), row.target.clone());
            self.breaks("bound_to_its_worker", || format!("{} was moved from {from:?} to {to:?}", row.key()));
        }
    }

    /// A handler of `worker` begins an attempt at a target.
    pub(super) fn target_started(&mut self, worker: &WorkerRef, attempt: AttemptKey) {
        let key: TaskKey = attempt.key();
        let retries = self.spread(key.instance).and_then(|spread| spread.retried.get(&key.task)).copied();
        let Some(attempts) = self.attempts.get(&key) else { return };
        let is_its_own = attempts.placed.iter().any(|placed| *placed == (attempt.attempt, worker.clone()));
        let here = attempts.starts.iter().filter(|boot| **boot == worker.boot.0).count();
        let recorded = attempts.past.iter().filter(|who| who.as_ref() == Some(worker)).count();
        let allowed = 1 + recorded + retries.unwrap_or_default() as usize;
        if !is_its_own || here > allowed {
            let placed = attempts.placed.clone();
            self.breaks("bound_to_its_worker", || {
                format!(
                    "attempt {} of {key} began on {worker}, the {here}. time there, {allowed} allowed; placed: {placed:?}",
                    attempt.attempt
                )
            });
        }
    }
}

/// The frozen list.
fn listed_workers(spread: &Spread) -> Vec<Value> {
    let targets = spread.fanout.targets.as_deref().unwrap_or("{}");
    let targets: Value = serde_json::from_str(targets).unwrap_or_default();
    targets["workers"].as_array().cloned().unwrap_or_default()
}

/// Whether a lost target may go over to the next process of its worker.
fn may_be_rebound(spread: &Spread) -> bool {
    let is_declared = matches!(&spread.spec.mode, ExecutionMode::Broadcast(mode) if mode.rerun_on_same_worker);
    is_declared && spread.spec.delivery == Delivery::AtLeastOnce
}
