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
        let entries = self.entries.iter();
        let mut held: Vec<AttemptKey> = entries.map(|(key, entry)| AttemptKey::new(*key, entry.attempt)).collect();
        held.sort_unstable();
        for at in held {
            match &self.entries[&at.key()].phase {
                Phase::Waiting(_) => {
                    self.finish_unstarted(now, at, conclusion::rejected(Rejection::Draining));
                }
                Phase::Running(run) => {
                    let grace = run.grace.min(self.timing.hand_back_grace);
                    self.stop(now, at, Cause::Drain, grace);
                }
                Phase::Finished(_) => {}
            }
        }
    }

    pub(super) fn stop(&mut self, now: Instant, at: AttemptKey, cause: Cause, grace: Duration) {
        let Some(entry) = self.entries.get_mut(&at.key()) else { return };
        match &mut entry.phase {
            Phase::Finished(_) => {}
            Phase::Waiting(_) => self.finish_unstarted(now, at, conclusion::stopped_unstarted()),
            Phase::Running(run) => {
                let kill_at = now + grace;
                match &mut run.stop {
                    None => {
                        run.stop = Some(Stopping { cause, force: Force::KillAt(kill_at) });
                        self.stopping.push(at);
                        self.actions.push(Action::Cancel(at));
                    }
                    Some(stop) => {
                        // The server's word is what it waits to hear; and a shorter grace counts.
                        if cause == Cause::Server {
                            stop.cause = cause;
                        }
                        if let Force::KillAt(due) = &mut stop.force {
                            *due = kill_at.min(*due);
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
        stopping.retain(|at| match entries.get_mut(&at.key()) {
            Some(Entry { attempt, phase: Phase::Running(Run { stop: Some(stop), .. }) }) if *attempt == at.attempt => {
                stop.force.advance(now, *at, timing.kill_moment, actions);
                !matches!(stop.force, Force::Dropped)
            }
            _ => false,
        });
        for (at, force) in dying {
            force.advance(now, *at, timing.kill_moment, actions);
        }
    }

    pub(super) fn enforce_timeouts(&mut self, now: Instant) {
        let late: Vec<(AttemptKey, Duration)> = self
            .entries
            .iter()
            .filter_map(|(key, entry)| match &entry.phase {
                Phase::Running(Run { since, timeout: Some(timeout), grace, stop: None, .. })
                    if now.duration_since(*since) >= *timeout =>
                {
                    Some((AttemptKey::new(*key, entry.attempt), *grace))
                }
                _ => None,
            })
            .collect();
        for (at, grace) in late {
            self.stop(now, at, Cause::Timeout, grace);
        }
    }

    /// Forgets the newest attempt at a task, whatever it does, without a report.
    pub(super) fn abandon_newest(&mut self, now: Instant, key: TaskKey) {
        let Some(entry) = self.entries.get(&key) else { return };
        let at = AttemptKey::new(key, entry.attempt);
        match &entry.phase {
            Phase::Running(_) => {
                self.running -= 1;
                self.entries.remove(&key);
                self.actions.push(Action::Cancel(at));
                let mut force = Force::KillAt(now);
                force.advance(now, at, self.timing.kill_moment, &mut self.actions);
                self.dying.insert(at, force);
            }
            Phase::Waiting(_) => {
                self.entries.remove(&key);
                self.remember(at);
            }
            Phase::Finished(_) => self.forget(key),
        }
    }
}
