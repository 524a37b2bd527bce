//! Attempts in a worker's hands: from their start to the acknowledged end.

use std::time::Duration;

use pendula_engine::Dispatch;
use pendula_engine::input::{Outcome, Report, ReportEvent};
use pendula_model::instance::{Payload, Reason};
use pendula_model::task::TaskRole;
use pendula_model::{AttemptKey, TaskKey, Timestamp};

use super::mapping::Emission;
use super::{Cause, Entry, Link, Phase, Worker};
use crate::network::ToServer;
use crate::trace::trace;
use crate::world::{Event, MILLI, SECOND, World};

/// An attempt that runs longer is reported as started.
const STARTED_AFTER: u64 = 100 * MILLI;
/// From the forced stop to the end of the handler.
pub(super) const KILL_MOMENT: u64 = SECOND;

impl World {
    pub(super) fn start_handler(&mut self, number: usize, dispatch: &Dispatch) {
        let key = dispatch.key();
        let boot = self.workers[number].boot;
        let role = dispatch.part.as_ref().map(|part| part.role);
        trace!(self, "worker w{number} begins attempt {} of {} {role:?}", key.attempt, key.key());
        self.audit.handler_started((number, boot), dispatch);
        if role.is_some_and(TaskRole::may_read_results) {
            self.audit.results_are_read(key.key(), &self.store.tasks_of(key.instance, Vec::new()));
        }
        let timeout = match role {
            None => dispatch.spec.timeout,
            Some(_) => dispatch.spec.mode.limits().task_timeout,
        };
        let timeout = timeout.map(|timeout| timeout.as_micros() as u64);
        let grace = dispatch.spec.stop_grace().as_micros() as u64;
        let emission = Emission::of(dispatch, &mut self.dice).map(Box::new);
        let emits = emission.is_some();
        let phase = Phase::Running { since: self.now, timeout, grace, cause: None, emission };
        self.workers[number].entries.insert(key.key(), Entry { attempt: key.attempt, phase });
        let is_short = self.healed || role == Some(TaskRole::Sub);
        let lasts = match self.dice.below(10) {
            0..6 => self.dice.below(100 * MILLI),
            6..9 if role == Some(TaskRole::Sub) => self.dice.below(300 * MILLI),
            6..9 => self.dice.below(2 * SECOND),
            _ if is_short => self.dice.below(SECOND),
            _ => self.dice.below(20 * SECOND),
        };
        let outcome = match self.dice.below(10) {
            0..8 => Outcome::Succeeded,
            8 => Outcome::Failed { reason: Reason::EXIT_CODE, final_: false },
            _ => Outcome::Failed { reason: Reason::EXIT_CODE, final_: self.dice.chance(500) },
        };
        self.after(lasts, Event::HandlerEnds(number, boot, key, outcome));
        if lasts > STARTED_AFTER {
            self.after(STARTED_AFTER, Event::StartedDue(number, boot, key));
        }
        if emits {
            let first = self.dice.below(50 * MILLI);
            self.after(first, Event::Emits(number, boot, key));
        }
    }

    pub(crate) fn started_due(&mut self, number: usize, attempt: AttemptKey) {
        let Worker { link: Link::Up(connection), .. } = &self.workers[number] else { return };
        let connection = *connection;
        if let Some(Phase::Running { since, .. }) = self.workers[number].entry(attempt) {
            let since = *since;
            let started_at = self.server_time_of(connection, since);
            let report = Report { attempt, event: ReportEvent::Started { started_at } };
            self.send_to_server(connection, ToServer::Reports(vec![report]));
        }
    }

    /// A handler's work is over, one way or another.
    pub(crate) fn handler_ends(&mut self, number: usize, key: AttemptKey, outcome: Outcome) {
        let boot = self.workers[number].boot;
        let worker = &mut self.workers[number];
        if worker.dying.remove(&key) {
            self.audit.handler_gone((number, boot), key);
            return self.start_waiting(number, key.key());
        }
        let Some(Phase::Running { cause, emission, .. }) = worker.entry(key) else { return };
        let outcome = match cause {
            None => outcome,
            Some(Cause::Server) => Outcome::Stopped,
            Some(Cause::Drain) => Outcome::HandedBack,
            Some(Cause::Timeout) => Outcome::Failed { reason: Reason::TIMEOUT, final_: false },
        };
        if let Some(emission) = emission.as_mut().filter(|emission| !emission.is_done())
            && outcome == Outcome::Succeeded
        {
            // All that it emits comes first.
            emission.is_last = true;
            return;
        }
        trace!(self, "worker w{number} ended attempt {} of {}: {outcome:?}", key.attempt, key.key());
        self.audit.handler_gone((number, boot), key);
        self.finish(number, key, outcome, true);
    }

    pub(super) fn start_waiting(&mut self, number: usize, key: TaskKey) {
        let worker = &mut self.workers[number];
        let waits = matches!(worker.entries.get(&key), Some(Entry { phase: Phase::Waiting(_), .. }));
        if waits
            && !worker.is_dying(key)
            && let Some(Entry { phase: Phase::Waiting(dispatch), .. }) = worker.entries.remove(&key)
        {
            self.start_handler(number, &dispatch);
        }
    }

    pub(super) fn finish(&mut self, number: usize, key: AttemptKey, outcome: Outcome, ran: bool) {
        self.audit.ended_at_worker(key, &outcome);
        let entry = Entry { attempt: key.attempt, phase: Phase::Finished { outcome, sent_at: None, ran } };
        self.workers[number].entries.insert(key.key(), entry);
        self.report_end(number, key);
    }

    /// Tells the end of an attempt, if there is one and somebody to tell.
    pub(super) fn report_end(&mut self, number: usize, attempt: AttemptKey) {
        let now = self.now;
        let worker = &mut self.workers[number];
        let Link::Up(connection) = worker.link else { return };
        let Some(Phase::Finished { outcome, sent_at, ran }) = worker.entry(attempt) else { return };
        *sent_at = Some(now);
        let result = (*outcome == Outcome::Succeeded).then(|| Payload::json("1"));
        let (outcome, ran) = (outcome.clone(), *ran);
        let started_at = ran.then(|| self.server_time_of(connection, now));
        let event = ReportEvent::Ended { outcome, message: None, result, started_at };
        self.send_to_server(connection, ToServer::Reports(vec![Report { attempt, event }]));
    }

    pub(super) fn ask_to_stop(&mut self, number: usize, key: AttemptKey, why: Cause, grace: u64) {
        let boot = self.workers[number].boot;
        let Some(phase) = self.workers[number].entry(key) else { return };
        match phase {
            Phase::Finished { .. } => {}
            Phase::Waiting(_) => self.finish(number, key, Outcome::Stopped, false),
            Phase::Running { cause, .. } => {
                if cause.is_none() || why == Cause::Server {
                    *cause = Some(why);
                }
                // Most obey; the others are killed when their grace is over.
                let obeys = self.dice.chance(700);
                let ends = if obeys { self.dice.below(grace.min(300 * MILLI) + 1) } else { grace + KILL_MOMENT };
                self.after(ends, Event::HandlerEnds(number, boot, key, Outcome::Stopped));
            }
        }
    }

    /// Forgets the newest attempt at a task without a report.
    pub(super) fn abandon(&mut self, number: usize, key: TaskKey) {
        let worker = &mut self.workers[number];
        let boot = worker.boot;
        let Some(Entry { attempt, phase }) = worker.entries.remove(&key) else { return };
        if matches!(phase, Phase::Running { .. }) {
            let dying = AttemptKey::new(key, attempt);
            worker.dying.insert(dying);
            let ends = self.dice.below(KILL_MOMENT);
            self.after(ends, Event::HandlerEnds(number, boot, dying, Outcome::Stopped));
        } else {
            worker.recent.insert(key, attempt);
        }
    }

    /// What the clock of the server behind a connection showed at a moment, from the duration that the worker told.
    fn server_time_of(&self, connection: u32, real: u64) -> Timestamp {
        let entry = self.connections[&connection].entry;
        self.wall_of(entry.server).minus(Duration::from_micros(self.now - real))
    }
}
