//! Triggers: each fire time is served once, or told as missed; none is served that nobody asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use pendula_model::change::{Change, Gap};
use pendula_model::instance::Instance;
use pendula_model::job::{Job, ScheduleState};
use pendula_model::worker::WorkerRef;
use pendula_model::{InstanceId, JobId, PartitionId, Timestamp};
use pendula_schedule::Plan;

use super::{Audit, JobRecord, limit_of};

/// Fire times that are counted one by one; longer gaps are counted by the schedule's own calculation, which has its
/// own tests.
const COUNTED: u64 = 2_000;

/// Where nothing goes wrong, a fire is at most so late.
const IN_TIME: Duration = Duration::from_millis(100);

/// What one batch says, job by job.
#[derive(Debug, Default)]
pub(crate) struct Touched {
    /// Jobs with a changed row or instance, and the widest limit that held before or within.
    pub(super) limits: BTreeMap<JobId, usize>,
    /// Instances that were given to a worker for the first time.
    pub(super) admitted: BTreeMap<JobId, usize>,
    pub(super) gaps: BTreeMap<JobId, Vec<Gap>>,
    fires: BTreeMap<JobId, Vec<Timestamp>>,
    /// Instances with many tasks of which something was written.
    pub(super) spreads: BTreeSet<InstanceId>,
    pub(super) ended: Vec<InstanceId>,
    /// Workers that were given something.
    pub(super) workers: BTreeSet<WorkerRef>,
    /// From which fire time to which the triggers went.
    moved: Vec<Moved>,
}

#[derive(Debug)]
struct Moved {
    job: JobId,
    plan: Option<Plan>,
    from: Timestamp,
    to: Option<Timestamp>,
}

impl Audit {
    pub(super) fn on_job(&mut self, job: &Job, touched: &mut Touched) {
        self.specs.entry((job.id, job.revision)).or_insert_with(|| job.spec.clone());
        let compiled = job.spec.trigger.as_ref().map(|trigger| Plan::compile(trigger, job.schedule.anchor));
        let plan = compiled.and_then(Result::ok);
        let limit = limit_of(job);
        let Some(record) = self.jobs.get_mut(&job.id) else {
            let record = JobRecord {
                job: job.clone(),
                deleted: None,
                plan,
                last_fire: None,
                under_way: 0,
                triggered: 0,
                ceiling: limit,
                disabled_ack: None,
            };
            self.jobs.insert(job.id, record);
            return self.check_first(job.id);
        };
        let widest = touched.limits.entry(job.id).or_insert(limit_of(&record.job));
        *widest = limit.max(*widest);
        record.ceiling = record.ceiling.max(limit);
        let new_schedule = record.job.spec.trigger != job.spec.trigger || record.job.spec.enabled != job.spec.enabled;
        let left = record.job.schedule.next_fire.filter(|next| *next <= job.updated_at);
        record.job = job.clone();
        record.plan = plan;
        if let (true, Some(left)) = (new_schedule, left) {
            self.breaks("every_fire_accounted", || {
                format!("job {} was edited at {}, and its fire of {left} was dropped", job.id, job.updated_at)
            });
        }
        if new_schedule {
            self.check_first(job.id);
        }
    }

    /// A new schedule begins where its plan says, after what was served already.
    fn check_first(&mut self, id: JobId) {
        let record = &self.jobs[&id];
        let next = record.job.schedule.next_fire;
        let expected = match &record.plan {
            Some(plan) if record.job.spec.enabled => match (plan.first(), record.last_fire) {
                (Some(first), Some(last)) if first <= last && plan.waits_for_end() => plan.next_after_end(last),
                (Some(first), Some(last)) if first <= last => plan.next_after(last),
                (first, _) => first,
            },
            _ => None,
        };
        if next != expected {
            self.breaks("every_fire_accounted", || format!("job {id} begins at {next:?} instead of {expected:?}"));
        }
    }

    /// Half of a batch: only that fires are unique can be said of it.
    pub(crate) fn fired_only(&mut self, changes: &[Change]) {
        for change in changes {
            if let Change::InstanceInserted { instance, .. } = change
                && let Some(at) = instance.fire_time
                && !self.fires.insert((instance.job, at))
            {
                self.breaks("one_row_per_fire", || format!("job {} was fired twice for {at}", instance.job));
            }
        }
    }

    pub(super) fn on_fired(&mut self, row: &Instance, touched: &mut Touched) {
        let Some(at) = row.fire_time else { return };
        self.counts.fires += 1;
        touched.fires.entry(row.job).or_default().push(at);
        if !self.fires.insert((row.job, at)) {
            self.breaks("one_row_per_fire", || format!("job {} was fired twice for {at}", row.job));
        }
        let Some(job) = self.jobs.get_mut(&row.job) else { return };
        job.last_fire = job.last_fire.max(Some(at));
        let late = row.created_at.since(at.max(job.job.updated_at));
        let hit = self.counts.crashes + self.counts.stalls + self.counts.ambushes;
        if self.calm && hit == 0 && late > IN_TIME {
            return self.breaks("fires_in_time", || format!("job {} fired {late:?} after {at}", row.job));
        }
        let disabled = job.disabled_ack.filter(|(version, since)| job.job.version <= *version && at > *since);
        let was_deleted = job.deleted.is_some_and(|deleted| at > deleted);
        if let Some((_, since)) = disabled {
            self.breaks("no_fire_after_disable_ack", || {
                format!("job {} fired for {at}, though somebody was told that it is disabled since {since}", row.job)
            });
        } else if was_deleted {
            self.breaks("no_fire_after_disable_ack", || format!("job {} fired for {at} after it was deleted", row.job));
        }
    }

    pub(super) fn on_advanced(&mut self, id: JobId, schedule: &ScheduleState, touched: &mut Touched) {
        let Some(record) = self.jobs.get_mut(&id) else { return };
        let from = record.job.schedule.next_fire;
        let to = schedule.next_fire;
        record.job.schedule = schedule.clone();
        // Its row may follow later in the batch, after an edit of the job.
        record.last_fire = record.last_fire.max(schedule.last_fire);
        match from {
            Some(from) => touched.moved.push(Moved { job: id, plan: record.plan.clone(), from, to }),
            None => self.check_continued(id, to),
        }
    }

    /// Every fire time that a trigger went past in this batch has its row or its gap in this very batch.
    pub(super) fn check_fires(&mut self, mut touched: Touched) {
        for Moved { job, plan, from, to } in std::mem::take(&mut touched.moved) {
            let Some(plan) = plan else {
                self.breaks("every_fire_accounted", || format!("job {job} fires without a trigger"));
                continue;
            };
            let fires = touched.fires.entry(job).or_default();
            let gaps = touched.gaps.entry(job).or_default();
            let mut missed = 0;
            let mut next = Some(from);
            let mut fault = None;
            while let Some(at) = next.filter(|at| to.is_none_or(|to| *at < to)) {
                if let Some(position) = gaps.iter().position(|gap| gap.from == at) {
                    let gap = gaps.remove(position);
                    let count = count(&plan, &gap);
                    missed += count;
                    if count != gap.count {
                        fault = Some(format!("job {job}: {gap:?} has {count} fire times"));
                    }
                    next = plan.next_after(gap.to);
                } else if let Some(position) = fires.iter().position(|fire| *fire == at) {
                    fires.remove(position);
                    next = plan.next_after(at);
                } else {
                    fault = Some(format!("job {job}: the fire of {at} has neither a row nor a gap"));
                    break;
                }
            }
            if fault.is_none() && !plan.waits_for_end() && to != next {
                fault = Some(format!("job {job} went on at {to:?} instead of {next:?}"));
            }
            self.counts.missed += missed;
            if let Some(fault) = fault {
                self.breaks("every_fire_accounted", || fault);
            }
        }
        let strays: Vec<_> = touched.fires.into_iter().filter(|(_, fires)| !fires.is_empty()).collect();
        if !strays.is_empty() {
            self.breaks("every_fire_accounted", || format!("fires that no trigger asked for: {strays:?}"));
        }
    }

    /// A fixed delay goes on when nothing of it is under way any more.
    fn check_continued(&mut self, id: JobId, to: Option<Timestamp>) {
        let record = &self.jobs[&id];
        let (triggered, last) = (record.triggered, record.last_fire);
        let moved_on = to.is_some_and(|to| last.is_none_or(|last| to > last));
        let waits_for_end = record.plan.as_ref().is_some_and(Plan::waits_for_end);
        if !waits_for_end || triggered > 0 || !moved_on {
            self.breaks("every_fire_accounted", || {
                format!("job {id} goes on at {to:?} after {last:?} with {triggered} of its fires under way")
            });
        }
    }

    /// When all is quiet, nothing of a partition that was due by its `now` is left, and a fixed delay has not broken off.
    pub(crate) fn check_due(&mut self, partition: PartitionId, now: Timestamp) {
        // The last moments may still be on their way.
        let (since, now) = (now, now.minus(Duration::from_secs(2)));
        let mut fault = None;
        let is_on = |record: &JobRecord| record.deleted.is_none() && record.job.spec.enabled;
        for (id, record) in self.jobs.iter().filter(|(id, record)| id.partition() == partition && is_on(record)) {
            let Some(plan) = &record.plan else { continue };
            match record.job.schedule.next_fire {
                Some(next) if next <= now => fault = Some(format!("job {id} should have fired at {next}")),
                None if plan.waits_for_end() && record.triggered == 0 && plan.next_after_end(since).is_some() => {
                    fault = Some(format!("the chain of job {id}, a fixed delay, broke off"));
                }
                None if !plan.waits_for_end()
                    && plan.next_after(record.last_fire.unwrap_or(now).max(now)).is_some() =>
                {
                    fault = Some(format!("job {id} will not fire again, though its plan says so"));
                }
                _ => {}
            }
        }
        if let Some(fault) = fault {
            self.breaks("every_fire_accounted", || fault);
        }
    }
}

fn count(plan: &Plan, gap: &Gap) -> u64 {
    if gap.count > COUNTED || plan.waits_for_end() {
        let rest = if gap.to > gap.from { 1 + plan.count_between(gap.from, gap.to) } else { 0 };
        return 1 + rest;
    }
    let later = std::iter::successors(Some(gap.from), |at| plan.next_after(*at));
    later.take_while(|at| *at <= gap.to).take(COUNTED as usize + 1).count() as u64
}
