//! What happens to an attempt once a worker has it, and how an instance ends.

use std::sync::Arc;
use std::time::Duration;

use pendula_model::change::Change;
use pendula_model::instance::{InstanceState, Origin, PastAttempt, Payload, Reason, StopCause, TaskState};
use pendula_model::policy::Delivery;
use pendula_model::{AttemptKey, InstanceId, SessionId, TaskId, TaskKey, Timestamp, limits};

use super::Partition;
use super::state::{Active, Place};
use crate::Output;
use crate::effect::{Effect, Observation};
use crate::input::{Outcome, Report, ReportEvent};
use crate::lifecycle::{AttemptEnd, Event, Step, step};

/// What a worker has, after its own grace, to confirm a stop.
pub(super) const CONFIRM_MARGIN: Duration = Duration::from_secs(10);
/// A worker that had no room, or not the processor, is given this time before the instance is offered again.
pub(super) const REJECTED_PAUSE: Duration = Duration::from_secs(1);

impl Partition {
    pub(super) fn on_reported(&mut self, session: SessionId, reports: Vec<Report>, out: &mut Output) {
        let Some(known) = self.sessions.get_mut(&session) else { return };
        known.last_heard = self.now;
        for report in reports {
            let Report { attempt, event } = report;
            let key = attempt.key();
            let ours = self.is_with(attempt, session);
            match event {
                ReportEvent::Ended { outcome, message, result, started_at } => {
                    if ours && self.has_spread(key) {
                        self.task_ended(key, outcome, message, result, started_at, out);
                    } else if ours {
                        self.on_ended(attempt.instance, outcome, message, result, started_at, out);
                    }
                    // Old news is acknowledged too, or it would be told for ever.
                    out.effects.push(Effect::Ack { session, attempt });
                }
                ReportEvent::Started { started_at } if ours => self.held_started(key, started_at),
                ReportEvent::Progress { per_mille, message } if ours => {
                    let progress = Some((per_mille.min(1000), message));
                    let active = self.instances.get_mut(&attempt.instance).expect("it is ours");
                    match active.spread.as_mut().map(|spread| spread.live.get_mut(&attempt.task)) {
                        None => active.progress = progress,
                        Some(Some(task)) => task.progress = progress,
                        Some(None) => {}
                    }
                }
                ReportEvent::Started { .. } | ReportEvent::Progress { .. } => {
                    let grace = Duration::ZERO;
                    out.effects.push(Effect::Stop { session, attempt, grace, abandon: true });
                }
            }
        }
    }

    pub(super) fn on_started(&mut self, id: InstanceId, started_at: Timestamp) {
        let now = self.now;
        let active = self.instances.get_mut(&id).expect("the caller has it");
        let started_at = active.within_attempt(started_at, now);
        if let Step::To(state) = step(active.row.state, true, Event::Start) {
            active.row.state = state;
            active.row.started_at = Some(started_at);
            self.touch(id);
        }
    }

    fn on_ended(
        &mut self,
        id: InstanceId,
        outcome: Outcome,
        message: Option<Arc<str>>,
        result: Option<Payload>,
        started_at: Option<Timestamp>,
        out: &mut Output,
    ) {
        let now = self.now;
        let active = self.instances.get_mut(&id).expect("the caller has it");
        let (event, reason, final_) = match outcome {
            Outcome::Succeeded => (Event::Succeed, Reason::FAILED, false),
            Outcome::Failed { reason, final_ } => (Event::Fail, reason, final_),
            Outcome::Stopped => (Event::ReportStopped, Reason::STOPPED_BY_WORKER, false),
            Outcome::Rejected { reason } => (Event::Reject, reason, false),
            Outcome::HandedBack => (Event::HandBack, Reason::WORKER_DRAINED, false),
            Outcome::Lost => (Event::Lose, Reason::WORKER_LOST, false),
        };
        if let Some(started_at) = started_at {
            active.row.started_at = Some(active.within_attempt(started_at, now));
        }
        let decided = step(active.row.state, true, event);
        if !matches!(decided, Step::Requeue | Step::OldNews) {
            active.row.message = message.map(|text| cut(&text));
            active.row.result = result;
        }
        match decided {
            Step::To(state) => self.end(id, state, None, out),
            Step::AttemptOver(how) => self.attempt_over(id, how, reason, final_, out),
            Step::StopSettled { confirmed } => self.settle_stop(id, confirmed, out),
            Step::Requeue => self.requeue(id, reason, out),
            Step::OldNews | Step::Refused => {}
        }
    }

    /// The worker that had it is gone for good.
    pub(super) fn lose(&mut self, id: InstanceId, message: &str, out: &mut Output) {
        let Some(active) = self.instances.get_mut(&id) else { return };
        match step(active.row.state, true, Event::Lose) {
            Step::AttemptOver(how) => {
                active.row.message = Some(message.into());
                self.attempt_over(id, how, Reason::WORKER_LOST, false, out);
            }
            Step::StopSettled { confirmed } => self.settle_stop(id, confirmed, out),
            _ => {}
        }
    }

    /// An attempt ended without success: the job's policies say whether another follows.
    fn attempt_over(&mut self, id: InstanceId, how: AttemptEnd, reason: Reason, final_: bool, out: &mut Output) {
        let now = self.now;
        let random = self.random.next();
        let active = self.instances.get_mut(&id).expect("the caller has it");
        let attempt = active.row.attempt;
        let spec = active.definition.spec.clone();
        let may_rerun = spec.delivery == Delivery::AtLeastOnce;
        let (again, pause) = match how {
            AttemptEnd::Failed => {
                active.row.failures += 1;
                let failures = active.row.failures;
                let again = may_rerun && !final_ && failures < spec.retry.attempts;
                (again, spec.retry.backoff.pause(failures, random))
            }
            AttemptEnd::Lost | AttemptEnd::HandedBack => {
                active.row.losses += 1;
                (may_rerun && active.row.losses <= spec.retry.lost_reruns, Duration::ZERO)
            }
        };
        self.observe(Observation::AttemptFailed { instance: id, attempt, reason: reason.clone() }, out);
        if !again {
            return self.end(id, InstanceState::Failed, Some(reason), out);
        }
        let state = match how {
            AttemptEnd::Lost => TaskState::Lost,
            AttemptEnd::Failed | AttemptEnd::HandedBack => TaskState::Failed,
        };
        let row = &self.instances[&id].row;
        out.changes.push(Change::AttemptEnded(PastAttempt {
            instance: id,
            task: TaskId::ROOT,
            attempt,
            state,
            worker: row.worker.clone(),
            placement: row.placement.clone(),
            dispatched_at: row.dispatched_at,
            started_at: row.started_at,
            ended_at: now,
            reason: reason.clone(),
            message: row.message.clone(),
        }));
        self.wait_again(id, now.plus(pause), Some(reason));
    }

    /// It never started there: offer it again soon. Not counted, not recorded as an attempt.
    fn requeue(&mut self, id: InstanceId, reason: Reason, out: &mut Output) {
        let active = &self.instances[&id];
        let (class, session) = (active.definition.class, active.session);
        if reason == Reason::PROCESSOR_MISSING {
            // It does not have what it offered: ask others.
            if let Some(session) = session.and_then(|id| self.sessions.get_mut(&id)) {
                session.eligible.insert(class, false);
            }
        }
        let attempt = active.row.attempt;
        self.observe(Observation::AttemptFailed { instance: id, attempt, reason: reason.clone() }, out);
        self.wait_again(id, self.now.plus(REJECTED_PAUSE), Some(reason));
    }

    fn wait_again(&mut self, id: InstanceId, due_at: Timestamp, reason: Option<Reason>) {
        self.release_slot(id);
        let now = self.now;
        let active = self.instances.get_mut(&id).expect("the caller has it");
        let row = &mut active.row;
        row.state = InstanceState::Waiting;
        row.due_at = due_at;
        row.reason = reason;
        row.worker = None;
        row.placement = None;
        row.dispatched_at = None;
        row.started_at = None;
        row.stop_cause = None;
        row.stop_deadline = None;
        row.result = None;
        active.progress = None;
        active.place = Place::BackOff;
        self.touch(id);
        if due_at <= now {
            self.make_ready(id);
        }
    }

    /// Begins the stop of an attempt that a worker has. Asking again changes at most the cause.
    pub(super) fn stop_attempt(&mut self, id: InstanceId, cause: StopCause, out: &mut Output) {
        let now = self.now;
        let active = self.instances.get_mut(&id).expect("the caller has it");
        let was_stopping = active.row.state == InstanceState::Stopping;
        if was_stopping && (active.row.stop_cause == Some(cause) || cause != StopCause::User) {
            return;
        }
        let grace = active.definition.spec.stop_grace();
        active.row.state = InstanceState::Stopping;
        // A user's stop wins over a timeout's, which might be followed by a retry.
        active.row.stop_cause = Some(cause);
        if !was_stopping {
            active.row.stop_deadline = Some(now.plus(grace).plus(CONFIRM_MARGIN));
            active.allowance = Duration::ZERO;
        }
        self.touch(id);
        self.observe(Observation::StopRequested { instance: id, cause }, out);
        if self.instances[&id].spread.is_none() {
            self.send_stop(id, out);
        } else if !self.stop_spread(id, out) {
            self.settle_stop(id, true, out);
        }
    }

    pub(super) fn send_stop(&mut self, id: InstanceId, out: &mut Output) {
        let now = self.now;
        let active = self.instances.get_mut(&id).expect("the caller has it");
        let Some(session) = active.session else { return };
        active.sent_at = now;
        let (attempt, grace) = (AttemptKey::root(id, active.row.attempt), active.definition.spec.stop_grace());
        out.effects.push(Effect::Stop { session, attempt, grace, abandon: false });
    }

    /// The worker confirmed that it stopped, or never will.
    pub(super) fn settle_stop(&mut self, id: InstanceId, confirmed: bool, out: &mut Output) {
        if !confirmed {
            self.give_up_placed(id, out);
        }
        let active = self.instances.get_mut(&id).expect("the caller has it");
        let cause = active.row.stop_cause.unwrap_or(StopCause::User);
        if !confirmed {
            if cause != StopCause::Failure {
                active.row.message = Some("the worker did not confirm the stop; it may still be running there".into());
            }
            if let Some(session) = active.session {
                // If it comes to its senses, it shall not go on.
                let attempt = AttemptKey::root(id, active.row.attempt);
                out.effects.push(Effect::Stop { session, attempt, grace: Duration::ZERO, abandon: true });
            }
        }
        match cause {
            StopCause::Failure => {
                let reason = active.row.reason.clone().unwrap_or(Reason::FAILED);
                self.end(id, InstanceState::Failed, Some(reason), out);
            }
            StopCause::Timeout => {
                if confirmed {
                    let limit = active.definition.spec.timeout.unwrap_or_default();
                    let limit = pendula_model::duration::format(limit);
                    active.row.message = Some(format!("ran longer than its timeout of {limit}").into());
                }
                active.row.result = None;
                if active.spread.is_some() {
                    return self.end(id, InstanceState::Failed, Some(Reason::TIMEOUT), out);
                }
                self.attempt_over(id, AttemptEnd::Failed, Reason::TIMEOUT, false, out);
            }
            StopCause::User | StopCause::Replaced => {
                let reason = match (confirmed, cause) {
                    (false, _) => Reason::STOP_UNCONFIRMED,
                    (true, StopCause::Replaced) => Reason::REPLACED,
                    (true, _) => Reason::BY_USER,
                };
                self.end(id, InstanceState::Stopped, Some(reason), out);
            }
        }
    }

    /// Its timer: a due time, an expiry, a timeout, or a stop that nobody confirmed.
    pub(super) fn on_instance_timer(&mut self, id: InstanceId, out: &mut Output) {
        let now = self.now;
        let Some(active) = self.instances.get_mut(&id) else { return };
        active.timer = None;
        match active.row.state {
            InstanceState::Waiting => {
                let expired = active.row.expires_at.is_some_and(|at| at.plus(active.allowance) <= now);
                if expired && step(InstanceState::Waiting, active.ever_started(), Event::Expire) != Step::OldNews {
                    active.row.message = Some("no worker took it in time".into());
                    return self.end(id, InstanceState::Failed, Some(Reason::EXPIRED), out);
                }
                if active.hold_until.is_some_and(|until| until <= now) {
                    active.hold_until = None;
                    self.to_begin.push(id);
                    return self.rearm(id);
                }
                match active.place {
                    Place::Delayed if active.row.due_at <= now => self.on_due(id, out),
                    Place::BackOff if active.row.due_at <= now => self.make_ready(id),
                    _ => self.rearm(id),
                }
            }
            InstanceState::Dispatched | InstanceState::Running => {
                let over = active.deadline(now).is_some_and(|deadline| deadline <= now);
                if over { self.stop_attempt(id, StopCause::Timeout, out) } else { self.rearm(id) }
            }
            InstanceState::Stopping => match active.deadline(now) {
                Some(deadline) if deadline > now => self.rearm(id),
                _ => self.settle_stop(id, false, out),
            },
            _ => {}
        }
    }

    /// Ends an instance that no worker has.
    pub(super) fn end_waiting(&mut self, id: InstanceId, event: Event, reason: Reason, out: &mut Output) {
        let active = &self.instances[&id];
        if let Step::To(state) = step(active.row.state, active.ever_started(), event) {
            debug_assert!(state.is_ended(), "the caller looked that nobody has it");
            self.end(id, state, Some(reason), out);
        }
    }

    /// The end. Nothing moves the instance after this.
    pub(super) fn end(&mut self, id: InstanceId, state: InstanceState, reason: Option<Reason>, out: &mut Output) {
        debug_assert!(state.is_ended());
        if self.instances.get(&id).is_some_and(|active| active.spread.is_some()) {
            self.clear_spread(id, out);
        }
        self.leave_queues(id);
        self.release_slot(id);
        let active = self.instances.remove(&id).expect("an instance ends once");
        if let Some(timer) = active.timer {
            self.timers.remove(&(timer, super::state::Timer::Instance(id)));
        }
        let Active { mut row, definition, dirty, .. } = active;
        let started = row.dispatched_at.unwrap_or(self.now);
        row.state = state;
        row.reason = reason.clone();
        row.ended_at = Some(self.now);
        row.stop_cause = None;
        row.stop_deadline = None;
        if state != InstanceState::Succeeded && row.reason.is_none() {
            row.reason = Some(Reason::FAILED);
        }
        let prune_at = self.now.plus(definition.spec.retention.unwrap_or(self.settings.retention));
        let (job, triggered) = (row.job, row.origin == Origin::Trigger);
        let ended = Observation::Ended { instance: id, job, state, reason, duration: self.now.since(started) };
        if dirty == super::state::Dirty::New {
            out.changes.push(Change::InstanceInserted { instance: Box::new(row), prune_at: Some(prune_at) });
        } else {
            row.version += 1;
            out.changes.push(Change::InstanceEnded { instance: Box::new(row), prune_at });
        }
        self.observe(ended, out);
        if let Some(entry) = self.jobs.get_mut(&job) {
            entry.triggered -= usize::from(triggered);
        }
        if triggered {
            self.continue_fixed_delay(job, out);
        }
        self.admit_queued(job);
    }

    /// The worker's slot is free again, as far as we are concerned.
    fn release_slot(&mut self, id: InstanceId) {
        let Some(active) = self.instances.get_mut(&id) else { return };
        let key = TaskKey::root(id);
        if active.spread.is_some() {
            return;
        }
        if let Some(session) = active.session.take().and_then(|session| self.sessions.get_mut(&session)) {
            session.held.remove(&key);
            self.pumpable.insert(session.app);
        } else if let Some(worker) = active.row.worker.clone()
            && let Some(away) = self.away.get_mut(&(active.row.app, worker))
        {
            away.held.remove(&key);
        }
    }
}

pub(super) fn cut(text: &str) -> Arc<str> {
    limits::cut(text, limits::MESSAGE_BYTES).into()
}
