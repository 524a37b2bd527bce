//! Handlers: who runs what at the same time, and how often it began.

use pendula_engine::input::Outcome;
use pendula_model::InstanceId;
use pendula_model::instance::{InstanceState, Reason};
use pendula_model::policy::Delivery;

use super::Audit;

impl Audit {
    /// A handler of a worker begins an attempt.
    pub(crate) fn handler_started(&mut self, process: (usize, u64), key: (InstanceId, u32), delivery: Delivery) {
        self.counts.starts += 1;
        let (instance, attempt) = key;
        if let Some(record) = self.instances.get_mut(&instance) {
            record.starts += 1;
            let starts = record.starts;
            if delivery == Delivery::AtMostOnce && starts > 1 {
                self.breaks("at_most_once_never_starts_twice", || format!("{instance} began {starts} times"));
            }
        }
        self.running.entry(key).or_default().push(process);
        let attempts = self.running.range((instance, 0)..=(instance, u32::MAX));
        let attempts: Vec<_> = attempts.map(|((_, attempt), at)| (*attempt, at.len())).collect();
        let newest = attempts.last().map_or(0, |(attempt, _)| *attempt);
        let record = self.instances.get(&instance);
        let excused = |earlier: u32| {
            record.is_some_and(|record| {
                let is_over = record.attempt > earlier || !record.state.is_placed();
                record.written_off.contains(&earlier) || (!self.ordered && is_over)
            })
        };
        let twice = attempts.iter().any(|(_, processes)| *processes > 1);
        let unexcused = attempts.iter().find(|(earlier, _)| *earlier < newest && !excused(*earlier)).copied();
        if twice || unexcused.is_some() {
            self.breaks("at_most_one_running_attempt", || {
                format!("{process:?} began attempt {attempt} of {instance}; (attempt, processes) now: {attempts:?}")
            });
        }
    }

    /// A handler is gone, however.
    pub(crate) fn handler_gone(&mut self, process: (usize, u64), key: (InstanceId, u32)) {
        if let Some(processes) = self.running.get_mut(&key) {
            if let Some(position) = processes.iter().position(|other| *other == process) {
                processes.remove(position);
            }
            if processes.is_empty() {
                self.running.remove(&key);
            }
        }
    }

    /// A worker process is gone with all that it ran.
    pub(crate) fn process_gone(&mut self, process: (usize, u64)) {
        self.gone.insert(process.1);
        self.running.retain(|_, processes| {
            processes.retain(|other| *other != process);
            !processes.is_empty()
        });
    }

    /// The store says that an attempt may still run, and that nobody counts on it.
    pub(super) fn write_off(&mut self, instance: InstanceId, attempt: u32, reason: &Reason) {
        self.counts.written_off += 1;
        if let Some(record) = self.instances.get_mut(&instance) {
            record.written_off.insert(attempt);
        }
        let placed = self.instances.get(&instance).map_or(&[][..], |record| &record.placed);
        let worker = placed.iter().find(|(other, _)| *other == attempt).map(|(_, worker)| worker.boot.0);
        let was_there = worker.is_none_or(|boot| !self.gone.contains(&boot));
        if self.calm || (self.workers_stay && *reason == Reason::WORKER_LOST && was_there) {
            self.breaks("no_needless_loss", || {
                format!("attempt {attempt} of {instance} was written off ({reason}), and its worker was there")
            });
        }
    }

    /// A worker knows how an attempt ended, and is going to tell.
    pub(crate) fn ended_at_worker(&mut self, key: (InstanceId, u32), outcome: &Outcome) {
        self.outcomes.entry(key).or_default().push(outcome.clone());
    }

    /// What is stored as the end of an attempt is what the worker knows of this very attempt.
    pub(super) fn check_outcome(&mut self, instance: InstanceId, attempt: u32, reason: &Reason, state: InstanceState) {
        let told = self.outcomes.get(&(instance, attempt)).map_or(&[][..], |outcomes| outcomes);
        let succeeded = told.contains(&Outcome::Succeeded);
        let failed = told.iter().any(|outcome| matches!(outcome, Outcome::Failed { .. }));
        let agrees = match state {
            InstanceState::Succeeded => succeeded,
            InstanceState::Failed if *reason == Reason::EXIT_CODE => failed,
            _ => true,
        };
        if !agrees {
            let told = format!("{told:?}");
            self.breaks("ends_as_reported", || {
                format!("attempt {attempt} of {instance} is stored as {state} ({reason}), its worker has {told}")
            });
        }
    }
}
