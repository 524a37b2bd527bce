//! From a wish to the ready queue: new instances, the job's limit, and what happens above it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use pendula_model::change::Change;
use pendula_model::instance::{Instance, InstanceState, Origin, Reason, StopCause};
use pendula_model::policy::Overflow;
use pendula_model::task::Fanout;
use pendula_model::{InstanceId, JobId, Timestamp};

use super::Partition;
use super::state::{Active, Dirty, Place};
use crate::Output;
use crate::effect::Observation;
use crate::lifecycle::Event;

/// What distinguishes a new instance from its job's others.
pub(super) struct NewInstance {
    pub job: JobId,
    pub origin: Origin,
    pub fire_time: Option<Timestamp>,
    pub missed_before: u32,
    pub due_at: Timestamp,
    pub params: Option<Arc<str>>,
    pub idempotency_key: Option<Arc<str>>,
    pub rerun_of: Option<InstanceId>,
    /// What it repeats, when it repeats only what did not succeed.
    pub base: Option<Fanout>,
    pub priority: Option<i8>,
}

/// What the limit says to one more instance.
enum Verdict {
    Admit,
    Queue,
    EndAs(InstanceState, Reason, &'static str),
}

impl Partition {
    /// Makes an instance of a cached job and lets it go as far as it can.
    pub(super) fn create_instance(&mut self, new: NewInstance, out: &mut Output) -> InstanceId {
        let id = InstanceId(self.ids.next(self.now));
        let entry = &self.jobs[&new.job];
        let (app, revision, spec) = (entry.job.app, entry.job.revision, entry.job.spec.clone());
        let nominal = new.fire_time.unwrap_or(new.due_at).max(new.due_at);
        let row = Instance {
            id,
            app,
            job: new.job,
            revision,
            origin: new.origin,
            fire_time: new.fire_time,
            missed_before: new.missed_before,
            rerun_of: new.rerun_of,
            idempotency_key: new.idempotency_key,
            params: new.params,
            priority: new.priority.unwrap_or(spec.priority),
            created_at: self.now,
            due_at: new.due_at,
            // What made up for lost time has its full time to wait.
            expires_at: spec.expire_after.map(|expiry| nominal.max(self.now).plus(expiry)),
            state: InstanceState::Waiting,
            version: 1,
            attempt: 0,
            failures: 0,
            losses: 0,
            worker: None,
            placement: None,
            dispatched_at: None,
            started_at: None,
            ended_at: None,
            stop_cause: None,
            stop_deadline: None,
            reason: None,
            message: None,
            result: None,
        };
        // Counted before the limit is asked, which may end others of the job: a fixed delay does not go on meanwhile.
        if let Some(entry) = self.jobs.get_mut(&new.job) {
            entry.triggered += usize::from(new.origin == Origin::Trigger);
        }
        let refused = if new.origin != Origin::Trigger {
            None
        } else if spec.processor.is_script() && !self.apps[&app].app.allow_scripts {
            Some((InstanceState::Failed, Reason::SCRIPTS_NOT_ALLOWED, "the app does not allow scripts any more"))
        } else if self.instances.len() >= self.settings.max_active {
            Some((InstanceState::Canceled, Reason::SKIPPED, "the server is at its limit of active instances"))
        } else {
            None
        };
        if let Some((state, reason, message)) = refused {
            self.insert_ended(row, state, reason, message, spec.retention, out);
            return id;
        }
        let delayed = new.due_at > self.now;
        let verdict = if delayed { Verdict::Queue } else { self.verdict(new.job, out) };
        if let Verdict::EndAs(state, reason, message) = verdict {
            self.insert_ended(row, state, reason, message, spec.retention, out);
            return id;
        }
        let definition = self.definition(new.job, revision, &spec).expect("the job and its app are cached");
        let mut active = Active {
            row,
            definition,
            place: Place::Delayed,
            dirty: Dirty::New,
            listed: false,
            timer: None,
            hold_until: None,
            spread: None,
            session: None,
            sequence: 0,
            sent_at: self.now,
            allowance: Duration::ZERO,
            progress: None,
        };
        let entry = self.jobs.get_mut(&new.job).expect("seen above");
        match verdict {
            _ if delayed => entry.delayed += 1,
            Verdict::Admit => {
                entry.admitted.insert(id);
            }
            _ => {
                active.place = Place::Queued;
                entry.queue.insert(active.queue_key());
            }
        }
        let admitted = !delayed && active.place != Place::Queued;
        self.instances.insert(id, active);
        self.list(id);
        if let Some(base) = new.base {
            self.begin_again(id, &base);
        }
        if admitted {
            self.make_ready(id);
        }
        id
    }

    /// Whether one more instance of a job may go on now. May stop another to make room.
    fn verdict(&mut self, job: JobId, out: &mut Output) -> Verdict {
        let entry = &self.jobs[&job];
        let concurrency = &entry.job.spec.concurrency;
        let within = concurrency.limit.is_none_or(|limit| entry.admitted.len() < limit as usize);
        if within && entry.queue.is_empty() {
            return Verdict::Admit;
        }
        match concurrency.overflow {
            Overflow::Queue if entry.queue.len() >= concurrency.queue as usize => {
                Verdict::EndAs(InstanceState::Canceled, Reason::SKIPPED, "the job's queue is full")
            }
            Overflow::Queue => Verdict::Queue,
            Overflow::Skip => {
                Verdict::EndAs(InstanceState::Canceled, Reason::SKIPPED, "the job is at its concurrency limit")
            }
            Overflow::Fail => {
                Verdict::EndAs(InstanceState::Failed, Reason::CONCURRENCY_LIMIT, "the job is at its concurrency limit")
            }
            Overflow::Replace => {
                self.make_room(job, out);
                let entry = &self.jobs[&job];
                let limit = entry.job.spec.concurrency.limit.unwrap_or(u32::MAX) as usize;
                if entry.admitted.len() < limit { Verdict::Admit } else { Verdict::Queue }
            }
        }
    }

    /// Takes the oldest instance out of the way: one that waits at once, one that runs when its worker confirms.
    fn make_room(&mut self, job: JobId, out: &mut Output) {
        let entry = &self.jobs[&job];
        if let Some((_, _, queued)) = entry.queue.first().copied() {
            return self.end_waiting(queued, Event::Stop, Reason::REPLACED, out);
        }
        let oldest = entry.admitted.iter().copied().find(|id| self.instances[id].row.state != InstanceState::Stopping);
        match oldest {
            Some(id) if self.instances[&id].row.state == InstanceState::Waiting => {
                self.end_waiting(id, Event::Stop, Reason::REPLACED, out);
            }
            Some(id) => self.stop_attempt(id, StopCause::Replaced, out),
            None => {}
        }
    }

    fn insert_ended(
        &mut self,
        mut row: Instance,
        state: InstanceState,
        reason: Reason,
        message: &str,
        retention: Option<Duration>,
        out: &mut Output,
    ) {
        row.state = state;
        row.reason = Some(reason.clone());
        row.message = Some(message.into());
        row.ended_at = Some(self.now);
        let (instance, job, fired) = (row.id, row.job, row.origin == Origin::Trigger);
        let prune_at = Some(self.now.plus(retention.unwrap_or(self.settings.retention)));
        out.changes.push(Change::InstanceInserted { instance: Box::new(row), prune_at });
        self.observe(Observation::Ended { instance, job, state, reason: Some(reason), duration: Duration::ZERO }, out);
        if fired {
            if let Some(entry) = self.jobs.get_mut(&job) {
                entry.triggered -= 1;
            }
            self.continue_fixed_delay(job, out);
        }
    }

    /// Its time has come: the limit decides.
    pub(super) fn on_due(&mut self, id: InstanceId, out: &mut Output) {
        let job = self.instances[&id].row.job;
        if let Some(entry) = self.jobs.get_mut(&job) {
            entry.delayed -= 1;
        }
        match self.verdict(job, out) {
            Verdict::Admit => {
                if let Some(entry) = self.jobs.get_mut(&job) {
                    entry.admitted.insert(id);
                }
                self.make_ready(id);
            }
            Verdict::Queue => {
                let active = self.instances.get_mut(&id).expect("the caller has it");
                active.place = Place::Queued;
                let key = active.queue_key();
                if let Some(entry) = self.jobs.get_mut(&job) {
                    entry.queue.insert(key);
                }
                self.rearm(id);
            }
            Verdict::EndAs(state, reason, message) => {
                let active = self.instances.get_mut(&id).expect("the caller has it");
                active.row.message = Some(message.into());
                if let Some(entry) = self.jobs.get_mut(&job) {
                    // `end` takes it out again.
                    entry.delayed += 1;
                }
                self.end(id, state, Some(reason), out);
            }
        }
    }

    /// Lets queued instances follow into what is free under the limit.
    pub(super) fn admit_queued(&mut self, job: JobId) {
        loop {
            let Some(entry) = self.jobs.get_mut(&job) else { return };
            let limit = entry.job.spec.concurrency.limit.map_or(usize::MAX, |limit| limit as usize);
            if entry.admitted.len() >= limit {
                return;
            }
            let Some((_, _, id)) = entry.queue.pop_first() else { return };
            entry.admitted.insert(id);
            self.make_ready(id);
        }
    }

    /// Sends what was admitted, and never given to a worker, back to the queue when more are admitted than the limit
    /// allows.
    pub(super) fn hold_back_unbegun(&mut self, job: JobId) {
        let Some(entry) = self.jobs.get(&job) else { return };
        let limit = entry.job.spec.concurrency.limit.map_or(usize::MAX, |limit| limit as usize);
        if entry.admitted.len() <= limit {
            return;
        }
        let unbegun = |id: &InstanceId| {
            let active = &self.instances[id];
            active.place == Place::Ready && active.row.attempt == 0
        };
        let unbegun: Vec<_> = entry.admitted.iter().copied().filter(unbegun).collect();
        for id in unbegun {
            self.leave_queues(id);
            self.unqueue_spread(id);
            let active = self.instances.get_mut(&id).expect("just seen");
            active.place = Place::Queued;
            active.hold_until = None;
            let key = active.queue_key();
            if let Some(entry) = self.jobs.get_mut(&job) {
                entry.queue.insert(key);
            }
        }
    }

    /// Puts an admitted instance among those that wait for a slot.
    pub(super) fn make_ready(&mut self, id: InstanceId) {
        let now = self.now;
        let active = self.instances.get_mut(&id).expect("the caller has it");
        active.place = Place::Ready;
        let (app, class, item) = (active.row.app, active.definition.class, active.item());
        if active.has_tasks() {
            self.to_begin.push(id);
        } else if let Some(entry) = self.apps.get_mut(&app)
            && let Some(class) = entry.classes.get_mut(&class)
        {
            class.ready.insert(now, entry.fair, item);
            self.made_ready.push(id);
        }
        self.pumpable.insert(app);
        self.rearm(id);
    }

    /// Sets an instance's timer anew when only its place changed, not its row.
    pub(super) fn rearm(&mut self, id: InstanceId) {
        let now = self.now;
        let Some(active) = self.instances.get_mut(&id) else { return };
        let deadline = active.deadline(now);
        let old = std::mem::replace(&mut active.timer, deadline);
        if old != deadline {
            if let Some(old) = old {
                self.timers.remove(&(old, super::state::Timer::Instance(id)));
            }
            if let Some(deadline) = deadline {
                self.timers.insert((deadline, super::state::Timer::Instance(id)));
            }
        }
    }

    /// Takes an instance out of whatever it waits in.
    pub(super) fn leave_queues(&mut self, id: InstanceId) {
        let now = self.now;
        let active = &self.instances[&id];
        let (job, app, class, key, place) =
            (active.row.job, active.row.app, active.definition.class, active.queue_key(), active.place);
        let item = active.item();
        if place == Place::Ready
            && !active.has_tasks()
            && let Some(class) = self.apps.get_mut(&app).and_then(|entry| entry.classes.get_mut(&class))
        {
            class.ready.remove(now, item);
        }
        if let Some(entry) = self.jobs.get_mut(&job) {
            match place {
                Place::Delayed => entry.delayed -= 1,
                Place::Queued => {
                    entry.queue.remove(&key);
                }
                Place::BackOff | Place::Ready | Place::Placed => {
                    entry.admitted.remove(&id);
                }
            }
        }
    }

    /// All active instances of a job, in order of id.
    pub(super) fn active_of(&self, job: JobId) -> BTreeSet<InstanceId> {
        let Some(entry) = self.jobs.get(&job) else { return BTreeSet::new() };
        let mut ids: BTreeSet<_> = entry.admitted.iter().copied().chain(entry.queue.iter().map(|key| key.2)).collect();
        if entry.delayed > 0 {
            ids.extend(self.instances.values().filter(|active| active.row.job == job).map(|active| active.row.id));
        }
        ids
    }
}
