//! Attempts in a worker's hands: from their start to the acknowledged end.

use std::time::Duration;

use pendula_engine::Dispatch;
use pendula_engine::input::{Outcome, Report, ReportEvent};
use pendula_model::instance::{Payload, Reason};
use pendula_model::{InstanceId, Timestamp};

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
        let key = (dispatch.instance, dispatch.attempt);
        let boot = self.workers[number].boot;
        trace!(self, "worker w{number} begins attempt {} of {}", key.1, key.0);
        self.audit.handler_started((number, boot), key, dispatch.spec.delivery);
        let timeout = dispatch.spec.timeout.map(|timeout| timeout.as_micros() as u64);
        let grace = dispatch.spec.stop_grace().as_micros() as u64;
        let phase = Phase::Running { since: self.now, timeout, grace, cause: None };
        self.workers[number].entries.insert(key.0, Entry { attempt: key.1, phase });
        let lasts = match self.dice.below(10) {
            0..6 => self.dice.below(100 * MILLI),
            6..9 => self.dice.below(2 * SECOND),
            _ if self.healed => self.dice.below(SECOND),
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
    }

    pub(crate) fn started_due(&mut self, number: usize, (instance, attempt): (InstanceId, u32)) {
        let Worker { link: Link::Up(connection), entries, .. } = &self.workers[number] else { return };
        let connection = *connection;
        if let Some(Entry { attempt: newest, phase: Phase::Running { since, .. } }) = entries.get(&instance)
            && *newest == attempt
        {
            let started_at = self.server_time_of(*since);
            let report = Report { instance, attempt, event: ReportEvent::Started { started_at } };
            self.send_to_server(connection, ToServer::Reports(vec![report]));
        }
    }

    /// A handler's work is over, one way or another.
    pub(crate) fn handler_ends(&mut self, number: usize, key: (InstanceId, u32), outcome: Outcome) {
        let boot = self.workers[number].boot;
        let worker = &mut self.workers[number];
        if worker.dying.remove(&key).is_some() {
            self.audit.handler_gone((number, boot), key);
            return self.start_waiting(number, key.0);
        }
        let Some(Entry { attempt, phase: Phase::Running { cause, .. } }) = worker.entries.get(&key.0) else { return };
        if *attempt != key.1 {
            return;
        }
        let outcome = match cause {
            None => outcome,
            Some(Cause::Server) => Outcome::Stopped,
            Some(Cause::Drain) => Outcome::HandedBack,
            Some(Cause::Timeout) => Outcome::Failed { reason: Reason::TIMEOUT, final_: false },
        };
        trace!(self, "worker w{number} ended attempt {} of {}: {outcome:?}", key.1, key.0);
        self.audit.handler_gone((number, boot), key);
        self.finish(number, key, outcome, true);
    }

    pub(super) fn start_waiting(&mut self, number: usize, instance: InstanceId) {
        let worker = &mut self.workers[number];
        let waits = matches!(worker.entries.get(&instance), Some(Entry { phase: Phase::Waiting(_), .. }));
        if waits
            && !worker.is_dying(instance)
            && let Some(Entry { phase: Phase::Waiting(dispatch), .. }) = worker.entries.remove(&instance)
        {
            self.start_handler(number, &dispatch);
        }
    }

    pub(super) fn finish(&mut self, number: usize, key: (InstanceId, u32), outcome: Outcome, ran: bool) {
        self.audit.ended_at_worker(key, &outcome);
        let entry = Entry { attempt: key.1, phase: Phase::Finished { outcome, sent_at: None, ran } };
        self.workers[number].entries.insert(key.0, entry);
        self.report_end(number, key);
    }

    /// Tells the end of an attempt, if there is one and somebody to tell.
    pub(super) fn report_end(&mut self, number: usize, (instance, attempt): (InstanceId, u32)) {
        let now = self.now;
        let worker = &mut self.workers[number];
        let Link::Up(connection) = worker.link else { return };
        let Some(Entry { attempt: newest, phase: Phase::Finished { outcome, sent_at, ran } }) =
            worker.entries.get_mut(&instance)
        else {
            return;
        };
        if *newest != attempt {
            return;
        }
        *sent_at = Some(now);
        let result = (*outcome == Outcome::Succeeded).then(|| Payload::json("1"));
        let (outcome, ran) = (outcome.clone(), *ran);
        let started_at = ran.then(|| self.server_time_of(now));
        let event = ReportEvent::Ended { outcome, message: None, result, started_at };
        self.send_to_server(connection, ToServer::Reports(vec![Report { instance, attempt, event }]));
    }

    pub(super) fn ask_to_stop(&mut self, number: usize, key: (InstanceId, u32), why: Cause, grace: u64) {
        let boot = self.workers[number].boot;
        let Some(entry) = self.workers[number].entries.get_mut(&key.0) else { return };
        match &mut entry.phase {
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

    /// Forgets the newest attempt at an instance without a report.
    pub(super) fn abandon(&mut self, number: usize, instance: InstanceId) {
        let worker = &mut self.workers[number];
        let boot = worker.boot;
        let Some(Entry { attempt, phase }) = worker.entries.remove(&instance) else { return };
        if matches!(phase, Phase::Running { .. }) {
            worker.dying.insert((instance, attempt), ());
            let ends = self.dice.below(KILL_MOMENT);
            self.after(ends, Event::HandlerEnds(number, boot, (instance, attempt), Outcome::Stopped));
        } else {
            worker.recent.insert(instance, attempt);
        }
    }

    /// What the owner's clock showed at a moment, from the duration that the worker told.
    fn server_time_of(&self, real: u64) -> Timestamp {
        self.wall().minus(Duration::from_micros(self.now - real))
    }
}
