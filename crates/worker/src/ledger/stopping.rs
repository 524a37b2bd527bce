//! How attempts are brought to an end before theirs: asked, then told by force, then dropped.

use std::time::{Duration, Instant};

use super::{Action, AttemptKey, Entry, Ledger, Phase, Rejection, Run, TaskKey, conclusion};

/// Who wants an attempt to end early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    Server,
    /// Enforced here only while no server can.
    Timeout,
    Drain,
}

#[derive(Debug)]
pub(super) struct Stopping {
    pub(super) cause: Cause,
    force: Force,
}

/// How far the forced stop went.
#[derive(Clone, Copy, Debug)]
pub(super) enum Force {
    KillAt(Instant),
    DropAt(Instant),
    Dropped,
}

impl Force {
    /// The next step, if its time has come.
    pub(super) fn advance(&mut self, now: Instant, key: AttemptKey, moment: Duration, actions: &mut Vec<Action>) {
        if let Force::KillAt(at) = *self
            && at <= now
        {
            actions.push(Action::Kill(key));
            *self = Force::DropAt(now + moment);
        }
        if let Force::DropAt(at) = *self
            && at <= now
        {
            actions.push(Action::Drop(key));
            *self = Force::Dropped;
        }
    }
}

impl Ledger {
    /// Gives up whatever still runs.
    pub(crate) fn hand_back(&mut self, now: Instant) {
        let mut held: Vec<AttemptKey> = self.entries.iter().map(|(key, entry)| (*key, entry.attempt)).collect();
        held.sort_unstable();
        for key in held {
            match &self.entries[&key.0].phase {
                Phase::Waiting(_) => {
                    self.finish_unstarted(now, key, conclusion::rejected(Rejection::Draining));
                }
                Phase::Running(run) => {
                    let grace = run.grace.min(self.timing.hand_back_grace);
                    self.stop(now, key, Cause::Drain, grace);
                }
                Phase::Finished(_) => {}
            }
        }
    }

    pub(super) fn stop(&mut self, now: Instant, key: AttemptKey, cause: Cause, grace: Duration) {
        let Some(entry) = self.entries.get_mut(&key.0) else { return };
        match &mut entry.phase {
            Phase::Finished(_) => {}
            Phase::Waiting(_) => self.finish_unstarted(now, key, conclusion::stopped_unstarted()),
            Phase::Running(run) => {
                let kill_at = now + grace;
                match &mut run.stop {
                    None => {
                        run.stop = Some(Stopping { cause, force: Force::KillAt(kill_at) });
                        self.stopping.push(key);
                        self.actions.push(Action::Cancel(key));
                    }
                    Some(stop) => {
                        // The server's word is what it waits to hear; and a shorter grace counts.
                        if cause == Cause::Server {
                            stop.cause = cause;
                        }
                        if let Force::KillAt(at) = &mut stop.force {
                            *at = kill_at.min(*at);
                        }
                    }
                }
                if grace.is_zero() {
                    self.advance_stops(now);
                }
            }
        }
    }

    pub(super) fn advance_stops(&mut self, now: Instant) {
        let Ledger { stopping, entries, actions, timing, dying, .. } = self;
        stopping.retain(|key| match entries.get_mut(&key.0) {
            Some(Entry { attempt, phase: Phase::Running(Run { stop: Some(stop), .. }) }) if *attempt == key.1 => {
                stop.force.advance(now, *key, timing.kill_moment, actions);
                !matches!(stop.force, Force::Dropped)
            }
            _ => false,
        });
        for (key, force) in dying {
            force.advance(now, *key, timing.kill_moment, actions);
        }
    }

    pub(super) fn enforce_timeouts(&mut self, now: Instant) {
        let late: Vec<(AttemptKey, Duration)> = self
            .entries
            .iter()
            .filter_map(|(key, entry)| match &entry.phase {
                Phase::Running(Run { since, timeout: Some(timeout), grace, stop: None })
                    if now.duration_since(*since) >= *timeout =>
                {
                    Some(((*key, entry.attempt), *grace))
                }
                _ => None,
            })
            .collect();
        for (key, grace) in late {
            self.stop(now, key, Cause::Timeout, grace);
        }
    }

    /// Forgets the newest attempt at a task, whatever it does, without a report.
    pub(super) fn abandon_newest(&mut self, now: Instant, key: TaskKey) {
        let Some(entry) = self.entries.get(&key) else { return };
        let attempt = entry.attempt;
        match &entry.phase {
            Phase::Running(_) => {
                self.running -= 1;
                self.entries.remove(&key);
                self.actions.push(Action::Cancel((key, attempt)));
                let mut force = Force::KillAt(now);
                force.advance(now, (key, attempt), self.timing.kill_moment, &mut self.actions);
                self.dying.insert((key, attempt), force);
            }
            Phase::Waiting(_) => {
                self.entries.remove(&key);
                self.remember((key, attempt));
            }
            Phase::Finished(_) => self.forget(key),
        }
    }
}
