//! Handlers: who runs what at the same time, and how often it began.

use pendula_model::InstanceId;
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
        self.running.retain(|_, processes| {
            processes.retain(|other| *other != process);
            !processes.is_empty()
        });
    }

    /// The store says that an attempt may still run, and that nobody counts on it.
    pub(super) fn write_off(&mut self, instance: InstanceId, attempt: u32) {
        self.counts.written_off += 1;
        if let Some(record) = self.instances.get_mut(&instance) {
            record.written_off.insert(attempt);
        }
        if self.calm {
            self.breaks("no_needless_loss", || {
                format!("attempt {attempt} of {instance} was written off, and nothing was wrong")
            });
        }
    }
}
