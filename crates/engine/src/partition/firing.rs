//! Triggers: which fires are in memory, and what happens when one is due.

use pendula_model::JobId;
use pendula_model::Timestamp;
use pendula_model::change::{Change, Gap};
use pendula_model::instance::Origin;
use pendula_model::job::Job;
use pendula_schedule::catch_up;

use super::Partition;
use super::admission::NewInstance;
use super::state::Timer;
use crate::Output;
use crate::effect::{Effect, Observation};

impl Partition {
    /// Asks for the schedules of the next stretch of time.
    pub(super) fn open_window(&mut self, out: &mut Output) {
        if self.window.loading.is_none() {
            let until = self.now.plus(self.settings.look_ahead);
            self.window.loading = Some(until);
            out.effects.push(Effect::LoadSchedules { until });
        }
    }

    pub(super) fn on_schedules_loaded(&mut self, until: Timestamp, jobs: Vec<Job>) {
        if self.window.loading != Some(until) {
            return; // of an earlier question
        }
        self.window.until = self.window.until.max(until);
        for job in jobs {
            let id = job.id;
            self.remember(job);
            self.arm(id);
        }
        self.window.loading = None;
        self.sweep();
        // The next stretch is read when half of this one is over.
        let half = until.minus(self.settings.look_ahead / 2).max(self.now);
        self.timers.insert((half, Timer::Window));
    }

    /// Fires what is due of one job: inserts the instances and advances the trigger in the same commit.
    pub(super) fn on_trigger_due(&mut self, id: JobId, out: &mut Output) {
        let now = self.now;
        let Some(entry) = self.jobs.get_mut(&id) else { return };
        if let Some(armed) = entry.armed.take() {
            self.timers.remove(&(armed, Timer::Trigger(id)));
        }
        let (Some(plan), Some(due)) = (&entry.plan, entry.job.schedule.next_fire) else { return };
        let Some(trigger) = &entry.job.spec.trigger else { return };
        let caught_up = catch_up(plan, trigger.misfire, trigger.misfire_limit, due, now, self.settings.misfire_after);
        let mut schedule = entry.job.schedule.clone();
        schedule.next_fire = caught_up.next;
        if let Some(last) = caught_up.fires.last() {
            schedule.last_fire = Some(last.at);
        }
        if let Some(gap) = caught_up.gap {
            let (from, to, count) = (gap.from, gap.to, gap.count);
            schedule.missed += count;
            out.changes.push(Change::GapRecorded { job: id, gap: Gap { from, to, count, noticed_at: now } });
            out.effects.push(Effect::Observed(Observation::Missed { job: id, count }));
        }
        entry.job.schedule = schedule.clone();
        out.changes.push(Change::ScheduleAdvanced { job: id, expected_next: Some(due), schedule });
        for fire in caught_up.fires {
            self.observe(Observation::Fired { lateness: now.since(fire.at) }, out);
            let new = NewInstance {
                job: id,
                origin: Origin::Trigger,
                fire_time: Some(fire.at),
                missed_before: u32::try_from(fire.missed_before).unwrap_or(u32::MAX),
                due_at: fire.at,
                params: None,
                idempotency_key: None,
                rerun_of: None,
                base: None,
                priority: None,
            };
            self.create_instance(new, out);
        }
        self.arm(id);
    }

    /// Decides about fire times that have come, before an edit changes what they mean: none is dropped unseen.
    pub(super) fn fire_before_edit(&mut self, id: JobId, out: &mut Output) {
        let next = self.jobs.get(&id).and_then(|entry| entry.job.schedule.next_fire);
        if next.is_some_and(|next| next <= self.now) {
            self.on_trigger_due(id, out);
        }
    }

    /// The next fire of a fixed delay follows from the end of its last instance. Called whenever one ended.
    pub(super) fn continue_fixed_delay(&mut self, id: JobId, out: &mut Output) {
        let now = self.now;
        let Some(entry) = self.jobs.get_mut(&id) else { return };
        let Some(plan) = entry.plan.as_ref().filter(|plan| plan.waits_for_end()) else { return };
        let idle = entry.triggered == 0 && entry.job.schedule.next_fire.is_none();
        if !idle || entry.deleted || !entry.job.spec.enabled {
            return;
        }
        // An end before its own fire is a clock that went back; what was served is not served again.
        let ended_at = now.max(entry.job.schedule.last_fire.unwrap_or(now));
        let Some(next) = plan.next_after_end(ended_at) else { return };
        entry.job.schedule.next_fire = Some(next);
        let schedule = entry.job.schedule.clone();
        out.changes.push(Change::ScheduleAdvanced { job: id, expected_next: None, schedule });
        self.arm(id);
    }
}
