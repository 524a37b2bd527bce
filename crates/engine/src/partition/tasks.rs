//! What happens to one task of an instance with many: placed, started, ended, lost, tried again.
//!
//! The transition table is the instances' ([`crate::lifecycle`]); what follows the end of a task for its instance is in
//! `fanout.rs`.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use pendula_model::instance::{InstanceState, PastAttempt, Payload, Reason, StopCause, TaskState};
use pendula_model::mode::ExecutionMode;
use pendula_model::policy::Delivery;
use pendula_model::task::{Task, TaskRole};
use pendula_model::worker::WorkerRef;
use pendula_model::{AttemptKey, SessionId, TaskKey, Timestamp};

use super::Partition;
use super::attempts::{CONFIRM_MARGIN, REJECTED_PAUSE, cut};
use super::spread::{LiveTask, Spread, Written};
use super::state::{Active, Away, Dirty, Place, Timer};
use crate::Output;
use crate::effect::{Dispatch, Effect, Observation, Part};
use crate::input::Outcome;
use crate::lifecycle::{AttemptEnd, Event, Step, step};

/// How a try of a task ended, to be kept with it.
#[derive(Default)]
pub(super) struct TaskEnd {
    pub reason: Option<Reason>,
    pub message: Option<Arc<str>>,
    pub result: Option<Payload>,
    /// No retry can mend it.
    pub final_: bool,
}

impl TaskEnd {
    pub fn because(reason: Reason, message: &str) -> Self {
        TaskEnd { reason: Some(reason), message: Some(message.into()), ..TaskEnd::default() }
    }
}

impl Partition {
    /// The instance and its tasks, if it has any in memory.
    pub(super) fn spread_of(&mut self, key: TaskKey) -> Option<(&mut Active, TaskKey)> {
        let active = self.instances.get_mut(&key.instance)?;
        active.spread.as_ref()?.live.get(&key.task)?;
        Some((active, key))
    }

    pub(super) fn live_task(&self, key: TaskKey) -> Option<&LiveTask> {
        self.instances.get(&key.instance)?.spread.as_ref()?.live.get(&key.task)
    }

    /// Changes a task in memory, which is then written.
    fn with_task<T>(&mut self, key: TaskKey, change: impl FnOnce(&mut LiveTask) -> T) -> Option<T> {
        let spread = self.instances.get_mut(&key.instance)?.spread.as_mut()?;
        let changed = change(spread.live.get_mut(&key.task)?);
        spread.touch_task(key.task);
        self.list(key.instance);
        Some(changed)
    }

    fn spread_mut(&mut self, key: TaskKey) -> Option<&mut Spread> {
        self.instances.get_mut(&key.instance)?.spread.as_deref_mut()
    }

    /// Gives a waiting task to a session. Durable before it is sent, like everything.
    pub(super) fn place_task(&mut self, key: TaskKey, session_id: SessionId, out: &mut Output) {
        let now = self.now;
        let Some(task) = self.live_task(key).filter(|task| task.row.state == TaskState::Waiting) else { return };
        let task_role = task.row.role;
        let is_recorded = !matches!(task_role, TaskRole::Sub | TaskRole::Target);
        let placement = if is_recorded { self.placement(key.instance, session_id) } else { None };
        let Some(session) = self.sessions.get_mut(&session_id) else { return };
        session.held.insert(key);
        self.tasks_placed += 1;
        let worker = session.info.worker.clone();
        let is_counted = task_role.is_counted();
        let placed_at = worker.clone();
        let waited = self.with_task(key, |task| {
            let waited = now.since(task.row.due_at);
            task.row.state = TaskState::Dispatched;
            task.row.attempt += 1;
            task.row.worker = Some(worker);
            task.row.placement = placement;
            task.row.dispatched_at = Some(now);
            task.row.started_at = None;
            task.row.reason = None;
            task.row.message = None;
            task.session = Some(session_id);
            task.allowance = Duration::ZERO;
            task.stopping = None;
            waited
        });
        if let Some(spread) = self.spread_mut(key) {
            spread.fresh.remove(&key.task);
            spread.again.remove(&key.task);
            *spread.on_worker.entry(placed_at).or_default() += 1;
            if is_counted {
                spread.count(TaskState::Waiting, TaskState::Dispatched);
            }
            spread.touch();
        }
        self.begin_running(key.instance);
        self.rearm_task(key);
        self.send_task(key, out);
        self.observe(Observation::Dispatched { waited: waited.unwrap_or_default() }, out);
    }

    /// The first of its tasks is with a worker.
    fn begin_running(&mut self, id: pendula_model::InstanceId) {
        let now = self.now;
        let Some(active) = self.instances.get_mut(&id) else { return };
        if active.row.state != InstanceState::Waiting {
            return;
        }
        active.row.state = InstanceState::Running;
        active.row.attempt = 1;
        active.row.dispatched_at = Some(now);
        active.row.started_at = Some(now);
        active.place = Place::Placed;
        active.allowance = Duration::ZERO;
        self.spreads_running += 1;
        if let Some(job) = self.jobs.get_mut(&active.row.job) {
            job.no_worker_told = false;
        }
        self.touch(id);
    }

    /// Sends, or sends again, the current attempt of a task to the worker that has it.
    pub(super) fn send_task(&mut self, key: TaskKey, out: &mut Output) {
        let now = self.now;
        let Some(active) = self.instances.get_mut(&key.instance) else { return };
        let (spec, revision) = (active.definition.spec.clone(), active.definition.revision);
        let row = &active.row;
        let (job, app, params, created_at) = (row.job, row.app, row.params.clone(), row.created_at);
        let fire_time = row.fire_time;
        let Some(task) = active.spread.as_mut().and_then(|spread| spread.live.get_mut(&key.task)) else { return };
        let Some(session) = task.session.and_then(|session| self.sessions.get_mut(&session)) else { return };
        session.sequence += 1;
        task.sequence = session.sequence;
        task.sent_at = now;
        let Some(app) = self.apps.get(&app) else { return };
        let shard = match &spec.mode {
            ExecutionMode::Sharded(sharded) => Some((key.task.0 as u32, sharded.total)),
            _ => None,
        };
        let row = &task.row;
        out.effects.push(Effect::Dispatch(Box::new(Dispatch {
            session: session.id,
            sequence: session.sequence,
            instance: key.instance,
            task: key.task,
            attempt: row.attempt,
            job,
            revision,
            spec,
            params,
            fire_time,
            created_at,
            failures: row.failures,
            app_name: app.name.clone(),
            part: Some(Box::new(Part {
                role: row.role,
                name: row.name.clone(),
                input: row.input.clone(),
                shard,
                emitted: row.emitted,
            })),
        })));
    }

    pub(super) fn task_started(&mut self, key: TaskKey, started_at: Timestamp) {
        let now = self.now;
        let is_dispatched = self.live_task(key).is_some_and(|task| task.row.state == TaskState::Dispatched);
        if is_dispatched {
            self.with_task(key, |task| {
                task.row.state = TaskState::Running;
                task.row.started_at = Some(within(&task.row, started_at, now));
            });
        }
    }

    /// A worker told the end of the current attempt.
    pub(super) fn task_ended(
        &mut self,
        key: TaskKey,
        outcome: Outcome,
        message: Option<Arc<str>>,
        result: Option<Payload>,
        started_at: Option<Timestamp>,
        out: &mut Output,
    ) {
        let now = self.now;
        let Some((active, _)) = self.spread_of(key) else { return };
        let standing = active.row.state;
        let Some(task) = active.spread.as_mut().and_then(|spread| spread.live.get_mut(&key.task)) else { return };
        let (event, reason, final_) = match outcome {
            Outcome::Succeeded => (Event::Succeed, None, false),
            Outcome::Failed { reason, final_ } => (Event::Fail, Some(reason), final_),
            Outcome::Stopped => (Event::ReportStopped, Some(Reason::STOPPED_BY_WORKER), false),
            Outcome::Rejected { reason } => (Event::Reject, Some(reason), false),
            Outcome::HandedBack => (Event::HandBack, Some(Reason::WORKER_DRAINED), false),
            Outcome::Lost => (Event::Lose, Some(Reason::WORKER_LOST), false),
        };
        if let Some(started_at) = started_at {
            task.row.started_at = Some(within(&task.row, started_at, now));
        }
        let decided = step(task.standing(standing), true, event);
        let end = TaskEnd { reason: reason.clone(), message: message.map(|text| cut(&text)), result, final_ };
        match decided {
            Step::To(_) => self.finish_task(key, TaskState::Succeeded, end, out),
            Step::AttemptOver(how) => self.task_over(key, how, end, out),
            Step::StopSettled { confirmed } => self.settle_task_stop(key, confirmed, out),
            Step::Requeue => self.requeue_task(key, reason.unwrap_or(Reason::REJECTED), out),
            Step::OldNews | Step::Refused => {}
        }
    }

    /// The worker that had it is gone for good.
    pub(super) fn lose_task(&mut self, key: TaskKey, message: &str, out: &mut Output) {
        let Some((active, _)) = self.spread_of(key) else { return };
        let standing = active.row.state;
        let Some(task) = active.spread.as_ref().and_then(|spread| spread.live.get(&key.task)) else { return };
        if task.row.state == TaskState::Waiting {
            // Bound to it, and never given to it.
            let end = TaskEnd::because(Reason::WORKER_LOST, "the worker vanished before the task was given to it");
            return self.task_over(key, AttemptEnd::Lost, end, out);
        }
        match step(task.standing(standing), true, Event::Lose) {
            Step::AttemptOver(how) => {
                self.task_over(key, how, TaskEnd::because(Reason::WORKER_LOST, message), out);
            }
            Step::StopSettled { confirmed } => self.settle_task_stop(key, confirmed, out),
            _ => {}
        }
    }

    /// An attempt ended without success: the job's policies say whether another follows.
    fn task_over(&mut self, key: TaskKey, how: AttemptEnd, end: TaskEnd, out: &mut Output) {
        let now = self.now;
        let random = self.random.next();
        let Some((active, _)) = self.spread_of(key) else { return };
        let spec = active.definition.spec.clone();
        let Some(task) = active.spread.as_mut().and_then(|spread| spread.live.get_mut(&key.task)) else { return };
        let may_rerun = spec.delivery == Delivery::AtLeastOnce;
        let (again, pause) = match how {
            AttemptEnd::Failed => {
                task.row.failures += 1;
                let failures = task.row.failures;
                let again = may_rerun && !end.final_ && failures < spec.retry.attempts;
                (again, spec.retry.backoff.pause(failures, random))
            }
            AttemptEnd::Lost | AttemptEnd::HandedBack => {
                task.row.losses += 1;
                (may_rerun && task.row.losses <= spec.retry.lost_reruns, Duration::ZERO)
            }
        };
        let target = task.row.target.clone();
        if how != AttemptEnd::Failed
            && let Some(target) = target
        {
            // Bound to a process that is gone: it never runs elsewhere.
            let waits = again && matches!(&spec.mode, ExecutionMode::Broadcast(mode) if mode.rerun_on_same_worker);
            if waits {
                self.record_past(key, how, &end, out);
                return self.orphan_task(key, target, end, out);
            }
            return self.finish_task(key, TaskState::Lost, end, out);
        }
        if !again {
            let state = if how == AttemptEnd::Failed { TaskState::Failed } else { TaskState::Lost };
            return self.finish_task(key, state, end, out);
        }
        self.record_past(key, how, &end, out);
        self.wait_task(key, now.plus(pause), end.reason, out);
    }

    /// Keeps a try that is followed by another. What waits was kept when its last try was over.
    fn record_past(&mut self, key: TaskKey, how: AttemptEnd, end: &TaskEnd, out: &mut Output) {
        let now = self.now;
        let Some(task) = self.live_task(key).filter(|task| task.row.state.is_placed()) else { return };
        let row = &task.row;
        let state = if how == AttemptEnd::Lost { TaskState::Lost } else { TaskState::Failed };
        let reason = end.reason.clone().unwrap_or(Reason::FAILED);
        let attempt = row.attempt;
        out.changes.push(pendula_model::change::Change::AttemptEnded(PastAttempt {
            instance: key.instance,
            task: key.task,
            attempt,
            state,
            worker: row.worker.clone(),
            placement: row.placement.clone(),
            dispatched_at: row.dispatched_at,
            started_at: row.started_at,
            ended_at: now,
            reason: reason.clone(),
            message: end.message.clone(),
        }));
        self.observe(Observation::AttemptFailed { instance: key.instance, attempt, reason }, out);
    }

    /// It never started there: offer it again soon. Not counted, not recorded as an attempt.
    fn requeue_task(&mut self, key: TaskKey, reason: Reason, out: &mut Output) {
        let Some((active, _)) = self.spread_of(key) else { return };
        let class = active.definition.class;
        let Some(task) = active.spread.as_ref().and_then(|spread| spread.live.get(&key.task)) else { return };
        let (session, attempt, is_bound) = (task.session, task.row.attempt, task.row.target.is_some());
        self.observe(Observation::AttemptFailed { instance: key.instance, attempt, reason: reason.clone() }, out);
        if reason == Reason::PROCESSOR_MISSING {
            if is_bound {
                let end = TaskEnd::because(reason, "the worker does not have the processor that it offered");
                return self.finish_task(key, TaskState::Failed, end, out);
            }
            // It does not have what it offered: ask others.
            if let Some(session) = session.and_then(|id| self.sessions.get_mut(&id)) {
                session.eligible.insert(class, false);
            }
        }
        self.wait_task(key, self.now.plus(REJECTED_PAUSE), Some(reason), out);
    }

    /// Back to waiting, for a time at least.
    fn wait_task(&mut self, key: TaskKey, due_at: Timestamp, reason: Option<Reason>, _out: &mut Output) {
        let now = self.now;
        self.release_task(key);
        let was = self.with_task(key, |task| {
            let was = task.row.state;
            to_waiting(&mut task.row, due_at, reason);
            (task.progress, task.stopping, task.allowance) = (None, None, Duration::ZERO);
            (was, task.row.role)
        });
        if let Some((was, role)) = was
            && role.is_counted()
            && was != TaskState::Waiting
            && let Some(spread) = self.spread_mut(key)
        {
            spread.count(was, TaskState::Waiting);
        }
        if due_at <= now { self.ready_task(key) } else { self.rearm_task(key) }
    }

    /// Waits for a worker of the same name, because its own is gone.
    fn orphan_task(&mut self, key: TaskKey, target: WorkerRef, end: TaskEnd, out: &mut Output) {
        let within = match &self.instances[&key.instance].definition.spec.mode {
            ExecutionMode::Broadcast(mode) => mode.rerun_within(),
            _ => Duration::ZERO,
        };
        self.wait_task(key, self.now.plus(within), end.reason, out);
        let app = self.instances[&key.instance].row.app;
        let successor = self
            .sessions
            .values()
            .find(|session| session.app == app && !session.draining && session.info.worker.name == target.name)
            .map(|session| (session.id, session.info.worker.clone()));
        match successor {
            Some((session, worker)) => self.adopt_orphan(key, session, worker),
            None => {
                if let Some(spread) = self.instances.get_mut(&key.instance).and_then(|active| active.spread.as_mut()) {
                    spread.orphans.entry(target.name).or_default().insert(key.task);
                }
            }
        }
    }

    /// Binds a task whose worker is gone to the process that took its name.
    pub(super) fn adopt_orphan(&mut self, key: TaskKey, session: SessionId, worker: WorkerRef) {
        let now = self.now;
        self.with_task(key, |task| {
            task.row.target = Some(worker);
            task.row.due_at = now;
        });
        self.rearm_task(key);
        if let Some(session) = self.sessions.get_mut(&session) {
            session.bound.insert(key);
            self.pumpable.insert(session.app);
        }
    }

    /// It may be placed as soon as there is a slot.
    pub(super) fn ready_task(&mut self, key: TaskKey) {
        let Some(active) = self.instances.get_mut(&key.instance) else { return };
        let (app, is_stopping) = (active.row.app, active.row.state == InstanceState::Stopping);
        let Some(spread) = active.spread.as_mut() else { return };
        let Some(task) = spread.live.get_mut(&key.task) else { return };
        if is_stopping || task.row.state != TaskState::Waiting {
            return;
        }
        if let Some(timer) = task.timer.take() {
            self.timers.remove(&(timer, Timer::Task(key)));
        }
        match &task.row.target {
            None => {
                let is_fresh = task.row.attempt == 0;
                if is_fresh {
                    spread.fresh.insert(key.task)
                } else {
                    spread.again.insert(key.task)
                };
                self.queue_spread(key.instance);
            }
            Some(target) => {
                let of_target =
                    |session: &&mut super::state::Session| session.app == app && session.info.worker == *target;
                if let Some(session) = self.sessions.values_mut().find(of_target) {
                    session.bound.insert(key);
                    self.pumpable.insert(app);
                } else if let Some(away) = self.away.get_mut(&(app, target.clone())) {
                    away.bound.insert(key);
                } else if self.adopting_until > self.now {
                    // It may be on its way back after our takeover.
                    let (deadline, worker) = (self.adopting_until, target.clone());
                    self.timers.insert((deadline, Timer::Away(app, worker.clone())));
                    let bound = BTreeSet::from([key]);
                    self.away.insert((app, worker), Away { bound, deadline, ..Away::default() });
                } else {
                    // Its worker went while it waited, and nobody was there to tell.
                    self.gone_targets.push(key);
                }
            }
        }
    }

    /// Begins the stop of one task.
    pub(super) fn stop_task(&mut self, key: TaskKey, cause: StopCause, out: &mut Output) {
        let now = self.now;
        let Some((active, _)) = self.spread_of(key) else { return };
        let grace = active.definition.spec.stop_grace();
        let Some(task) = active.spread.as_mut().and_then(|spread| spread.live.get_mut(&key.task)) else { return };
        if !task.row.state.is_placed() || task.stopping.is_some() {
            return;
        }
        task.stopping = Some((cause, now.plus(grace).plus(CONFIRM_MARGIN)));
        task.allowance = Duration::ZERO;
        self.rearm_task(key);
        self.send_task_stop(key, out);
    }

    pub(super) fn send_task_stop(&mut self, key: TaskKey, out: &mut Output) {
        let now = self.now;
        let Some((active, _)) = self.spread_of(key) else { return };
        let grace = active.definition.spec.stop_grace();
        let Some(task) = active.spread.as_mut().and_then(|spread| spread.live.get_mut(&key.task)) else { return };
        let Some(session) = task.session else { return };
        task.sent_at = now;
        let attempt = AttemptKey::new(key, task.row.attempt);
        out.effects.push(Effect::Stop { session, attempt, grace, abandon: false });
    }

    /// The worker confirmed that a task stopped, or never will.
    pub(super) fn settle_task_stop(&mut self, key: TaskKey, confirmed: bool, out: &mut Output) {
        let Some((active, _)) = self.spread_of(key) else { return };
        let all_stop = active.row.state == InstanceState::Stopping;
        let timeout = active.definition.spec.mode.limits().task_timeout.unwrap_or_default();
        let Some(task) = active.spread.as_ref().and_then(|spread| spread.live.get(&key.task)) else { return };
        let attempt = AttemptKey::new(key, task.row.attempt);
        if !confirmed && let Some(session) = task.session {
            // If it comes to its senses, it shall not go on.
            out.effects.push(Effect::Stop { session, attempt, grace: Duration::ZERO, abandon: true });
        }
        const UNCONFIRMED: &str = "the worker did not confirm the stop; it may still be running there";
        if all_stop {
            if let Some(spread) = self.instances.get_mut(&key.instance).and_then(|active| active.spread.as_mut()) {
                spread.unconfirmed += u32::from(!confirmed);
            }
            let end = match confirmed {
                true => TaskEnd { reason: Some(Reason::INSTANCE_ENDED), ..TaskEnd::default() },
                false => TaskEnd::because(Reason::STOP_UNCONFIRMED, UNCONFIRMED),
            };
            return self.finish_task(key, TaskState::Stopped, end, out);
        }
        let limit = pendula_model::duration::format(timeout);
        let message =
            if confirmed { format!("ran longer than its timeout of {limit}") } else { UNCONFIRMED.to_owned() };
        self.task_over(key, AttemptEnd::Failed, TaskEnd::because(Reason::TIMEOUT, &message), out);
    }

    /// Its timer: the end of a back-off, a timeout, a stop that nobody confirmed, an orphan's patience.
    pub(super) fn on_task_timer(&mut self, key: TaskKey, out: &mut Output) {
        let now = self.now;
        let Some((active, _)) = self.spread_of(key) else { return };
        let timeout = active.definition.spec.mode.limits().task_timeout;
        let Some(spread) = active.spread.as_mut() else { return };
        let Some(task) = spread.live.get_mut(&key.task) else { return };
        task.timer = None;
        let is_over = task.deadline(timeout).is_some_and(|deadline| deadline <= now);
        let (state, stopping) = (task.row.state, task.stopping);
        let orphaned =
            task.row.target.as_ref().is_some_and(|target| {
                spread.orphans.get(&target.name).is_some_and(|orphans| orphans.contains(&key.task))
            });
        match (state, stopping) {
            _ if !is_over => self.rearm_task(key),
            (TaskState::Waiting, _) if orphaned => {
                let end = TaskEnd::because(Reason::WORKER_LOST, "the worker vanished and did not come back in time");
                self.finish_task(key, TaskState::Lost, end, out);
            }
            (TaskState::Waiting, _) => self.ready_task(key),
            (_, Some(_)) => self.settle_task_stop(key, false, out),
            (_, None) => self.stop_task(key, StopCause::Timeout, out),
        }
    }

    /// Sets a task's timer anew.
    pub(super) fn rearm_task(&mut self, key: TaskKey) {
        let now = self.now;
        let Some((active, _)) = self.spread_of(key) else { return };
        let timeout = active.definition.spec.mode.limits().task_timeout;
        let Some(spread) = active.spread.as_mut() else { return };
        let Some(task) = spread.live.get_mut(&key.task) else { return };
        let is_ready = spread.fresh.contains(&key.task) || spread.again.contains(&key.task);
        let is_bound = task.row.state == TaskState::Waiting && task.row.target.is_some();
        let waits_orphaned = is_bound && spread.orphans.values().any(|orphans| orphans.contains(&key.task));
        let waits_only = is_ready || (is_bound && !waits_orphaned && task.row.due_at <= now);
        let deadline = if waits_only { None } else { task.deadline(timeout) };
        let old = std::mem::replace(&mut task.timer, deadline);
        if old != deadline {
            if let Some(old) = old {
                self.timers.remove(&(old, Timer::Task(key)));
            }
            if let Some(deadline) = deadline {
                self.timers.insert((deadline, Timer::Task(key)));
            }
        }
    }

    /// The end of a task. Only a retry by a user moves it after this.
    pub(super) fn finish_task(&mut self, key: TaskKey, state: TaskState, end: TaskEnd, out: &mut Output) {
        let now = self.now;
        self.release_task(key);
        let Some(spread) = self.instances.get_mut(&key.instance).and_then(|active| active.spread.as_mut()) else {
            return;
        };
        let Some(LiveTask { mut row, dirty, timer, .. }) = spread.remove_live(key.task) else { return };
        if let Some(timer) = timer {
            self.timers.remove(&(timer, Timer::Task(key)));
        }
        if let Some(target) = &row.target
            && let Some(orphans) = spread.orphans.get_mut(&target.name)
        {
            orphans.remove(&key.task);
        }
        let (was, role) = (row.state, row.role);
        row.state = state;
        row.ended_at = Some(now);
        row.reason = end.reason;
        row.message = end.message;
        row.result = end.result.map(Arc::new);
        if state != TaskState::Succeeded && row.reason.is_none() {
            row.reason = Some(Reason::FAILED);
        }
        // One that is new with this very input is inserted first.
        if dirty == Dirty::New
            && let Some(new) = spread.created.iter_mut().find(|w| matches!(w, Written::Live(id) if *id == key.task))
        {
            let before = Task { state: was, ended_at: None, result: None, reason: None, message: None, ..row.clone() };
            *new = Written::Row(Box::new(before));
        }
        row.version += 1;
        if dirty == Dirty::Changed {
            spread.changed.retain(|written| !matches!(written, Written::Live(id) if *id == key.task));
        }
        spread.changed.push(Written::Row(Box::new(row.clone())));
        if role.is_counted() {
            spread.count(was, state);
        }
        spread.touch();
        self.list(key.instance);
        self.after_task(row, out);
    }

    /// The worker's slot is free again, as far as we are concerned.
    pub(super) fn release_task(&mut self, key: TaskKey) {
        let Some(active) = self.instances.get_mut(&key.instance) else { return };
        let app = active.row.app;
        let Some(spread) = active.spread.as_mut() else { return };
        let Some(task) = spread.live.get_mut(&key.task) else { return };
        if task.row.state.is_placed()
            && let Some(worker) = &task.row.worker
            && let Some(tasks) = spread.on_worker.get_mut(worker)
        {
            self.tasks_placed -= 1;
            *tasks -= 1;
            if *tasks == 0 {
                spread.on_worker.remove(worker);
            }
        }
        if let Some(session) = task.session.take().and_then(|session| self.sessions.get_mut(&session)) {
            session.held.remove(&key);
        } else if let Some(worker) = task.row.worker.clone()
            && let Some(away) = self.away.get_mut(&(app, worker))
        {
            away.held.remove(&key);
        }
        if let Some(target) = task.row.target.clone() {
            for session in self.sessions.values_mut().filter(|session| session.info.worker == target) {
                session.bound.remove(&key);
            }
            if let Some(away) = self.away.get_mut(&(app, target)) {
                away.bound.remove(&key);
            }
        }
        self.pumpable.insert(app);
    }
}

/// A row as it waits for its next try.
pub(super) fn to_waiting(row: &mut Task, due_at: Timestamp, reason: Option<Reason>) {
    row.state = TaskState::Waiting;
    row.due_at = due_at;
    row.reason = reason;
    row.message = None;
    row.worker = None;
    row.placement = None;
    row.dispatched_at = None;
    row.started_at = None;
    row.ended_at = None;
    row.result = None;
}

/// A moment that a worker told, moved to between the dispatch and now.
fn within(row: &Task, at: Timestamp, now: Timestamp) -> Timestamp {
    let earliest = row.dispatched_at.unwrap_or(now).min(now);
    at.clamp(earliest, now)
}
