//! Handlers: who runs what at the same time, and how often it began.

use pendula_engine::Dispatch;
use pendula_engine::input::Outcome;
use pendula_model::instance::{Reason, TaskState};
use pendula_model::policy::Delivery;
use pendula_model::task::TaskRole;
use pendula_model::worker::WorkerRef;
use pendula_model::{AttemptKey, TaskKey};

use super::Audit;
use crate::worker::REFUSED;

impl Audit {
    /// A worker process begins.
    pub(crate) fn process_started(&mut self, worker: WorkerRef, slots: u32) {
        self.processes.insert(worker.boot.0, (worker, slots));
    }

    /// A handler of a worker begins an attempt.
    pub(crate) fn handler_started(&mut self, process: (usize, u64), dispatch: &Dispatch) {
        self.counts.starts += 1;
        let (attempt, key) = (dispatch.key(), dispatch.key().key());
        self.check_given(dispatch);
        let by_users = self.spread(key.instance).and_then(|spread| spread.retried.get(&key.task)).copied();
        let record = self.attempts.entry(key).or_default();
        record.starts.push(process.1);
        let starts = record.starts.len();
        if dispatch.spec.delivery == Delivery::AtMostOnce && starts > 1 + by_users.unwrap_or_default() as usize {
            self.breaks("at_most_once_never_starts_twice", || format!("{key} began {starts} times"));
        }
        if dispatch.part.as_ref().is_some_and(|part| part.role == TaskRole::Target)
            && let Some((worker, _)) = self.processes.get(&process.1).cloned()
        {
            self.target_started(&worker, attempt);
        }
        self.running.entry(attempt).or_default().push(process);
        let attempts = self.running.range(AttemptKey::new(key, 0)..=AttemptKey::new(key, u32::MAX));
        let attempts: Vec<_> = attempts.map(|(running, at)| (running.attempt, at.len())).collect();
        let newest = attempts.last().map_or(0, |(attempt, _)| *attempt);
        let record = self.attempts.get(&key);
        let excused = |earlier: u32| {
            record.is_some_and(|record| {
                let is_over = record.newest > earlier || record.with.is_none();
                record.written_off.contains(&earlier) || (!self.ordered && is_over)
            })
        };
        let twice = attempts.iter().any(|(_, processes)| *processes > 1);
        let unexcused = attempts.iter().find(|(earlier, _)| *earlier < newest && !excused(*earlier)).copied();
        if twice || unexcused.is_some() {
            let number = attempt.attempt;
            self.breaks("at_most_one_running_attempt", || {
                format!("{process:?} began attempt {number} of {key}; (attempt, processes) now: {attempts:?}")
            });
        }
    }

    /// A handler is gone, however.
    pub(crate) fn handler_gone(&mut self, process: (usize, u64), key: AttemptKey) {
        if let Some(processes) = self.running.get_mut(&key) {
            if let Some(position) = processes.iter().position(|other| *other == process) {
                processes.remove(position);
            }
            if processes.is_empty() {
                self.running.remove(&key);
            }
        }
    }

    /// A worker process takes nothing new any more.
    pub(crate) fn process_leaves(&mut self, boot: u64) {
        self.leaving.insert(boot);
    }

    /// A worker process is gone with all that it ran.
    pub(crate) fn process_gone(&mut self, process: (usize, u64)) {
        self.gone.insert(process.1);
        self.running.retain(|_, processes| {
            processes.retain(|other| *other != process);
            !processes.is_empty()
        });
    }

    /// The store says that an attempt may still run at `worker`, and that nobody counts on it; or, without an attempt,
    /// that nobody counts on `worker` to take it.
    pub(super) fn write_off(
        &mut self,
        key: TaskKey,
        attempt: Option<u32>,
        worker: Option<&WorkerRef>,
        reason: &Reason,
    ) {
        self.counts.written_off += 1;
        self.attempts.entry(key).or_default().written_off.extend(attempt);
        let was_there = worker.is_none_or(|worker| !self.gone.contains(&worker.boot.0));
        // What waits for a worker that leaves is lost with it, also where nothing goes wrong.
        let takes_new = worker.is_none_or(|worker| !self.leaving.contains(&worker.boot.0));
        let was_there = was_there && (attempt.is_some() || takes_new);
        let began = attempt.is_some() || was_there;
        if (self.calm && began) || (self.workers_stay && *reason == Reason::WORKER_LOST && was_there) {
            self.breaks("no_needless_loss", || {
                format!("attempt {attempt:?} of {key} was written off ({reason}), and its worker was there")
            });
        }
    }

    /// A worker knows how an attempt ended, and is going to tell.
    pub(crate) fn ended_at_worker(&mut self, key: AttemptKey, outcome: &Outcome) {
        self.outcomes.entry(key).or_default().push(outcome.clone());
    }

    /// What is stored as the end of an attempt is what the worker knows of this very attempt.
    pub(super) fn check_outcome(&mut self, key: TaskKey, attempt: u32, reason: &Reason, state: TaskState) {
        let told = self.outcomes.get(&AttemptKey::new(key, attempt)).map_or(&[][..], |outcomes| outcomes);
        let succeeded = told.contains(&Outcome::Succeeded);
        let failed = told.iter().any(|outcome| matches!(outcome, Outcome::Failed { .. }));
        let agrees = match state {
            TaskState::Succeeded => succeeded,
            TaskState::Failed if *reason == Reason::EXIT_CODE || reason.as_str() == REFUSED => failed,
            _ => true,
        };
        if !agrees {
            let told = format!("{told:?}");
            self.breaks("ends_as_reported", || {
                format!("attempt {attempt} of {key} is stored as {state} ({reason}), its worker has {told}")
            });
        }
    }
}
