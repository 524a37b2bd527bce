//! The laws, checked against what was committed, answered and run. Nothing here trusts the engine's memory.
//!
//! | law | where it is checked |
//! |---|---|
//! | `one_row_per_fire`, `every_fire_accounted`, `fires_in_time`, `no_fire_after_disable_ack` | [`fires`], at each commit |
//! | `ended_once`, `limits_never_exceeded`, `idempotency_key_one_instance`, `only_the_owner_writes`, `commits_are_accepted` | here and in [`tasks`], at each commit |
//! | `no_dispatch_before_commit`, `welcome_comes_first`, `acknowledged_work_never_lost` | [`acks`], at each effect and at the end |
//! | `at_most_one_running_attempt`, `at_most_once_never_starts_twice`, `no_needless_loss` | [`runs`], when handlers start and end |
//! | `ends_as_reported` | [`runs`], at each commit |
//! | `bound_to_its_worker`, `targets_are_frozen` | [`targets`], at each commit and when handlers start |
//! | `sub_task_created_once`, `counts_match_rows`, `task_limits_never_exceeded`, `waiting_tasks_are_found` | [`tasks`], at each commit |
//! | `policy_holds`, `shards_complete` | [`policies`], when instances end |
//! | `reduce_after_all_and_once` | [`policies`] when handlers start, [`tasks`] at each commit |
//! | `tasks_keep_their_input` | [`policies`] at each dispatch, [`tasks`] at each commit |
//! | `one_owner_per_epoch`, `epochs_only_grow`, `no_needless_takeover` | [`epochs`], when partitions are claimed |
//! | `leases_are_exclusive`, `takeover_sees_all` | [`epochs`], when owners act and when they begin |
//! | `stops_are_carried_out` | here and in [`tasks`], at each commit |
//! | `current_attempts_are_kept` | [`acks`], when workers give up what they are told to |
//! | `one_owner_in_the_end` | `crate::finale`, two lifetimes of a lease after the last fault |
//! | `memory_matches_store`, `nothing_stuck`, `no_unbounded_memory` | `crate::finale`, at quiet moments |

mod acks;
mod counts;
mod epochs;
mod fires;
mod policies;
mod runs;
mod targets;
mod tasks;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use pendula_engine::input::Outcome;
use pendula_model::change::Change;
use pendula_model::instance::{Instance, InstanceState, Reason, StopCause, TaskState};
use pendula_model::job::{Job, JobSpec};
use pendula_model::worker::WorkerRef;
use pendula_model::{
    AppId, AttemptKey, InstanceId, JobId, PartitionId, Revision, SessionId, TaskId, TaskKey, Timestamp,
};
use pendula_schedule::Plan;
use pendula_store::Batch;

pub use counts::Counts;
use epochs::Epochs;
use tasks::{Attempts, Spread};

use crate::breakage::Breakage;
use crate::faults::{Fault, Profile};

/// A law that did not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Its name, as in the table above.
    pub law: &'static str,
    pub what: String,
}

/// What is known of a job from its committed rows.
#[derive(Debug)]
pub(crate) struct JobRecord {
    pub(crate) job: Job,
    /// When it was deleted, if it was.
    pub(crate) deleted: Option<Timestamp>,
    plan: Option<Plan>,
    last_fire: Option<Timestamp>,
    /// Instances that a worker has, or that wait for their next attempt.
    under_way: usize,
    /// Triggered instances that have not ended.
    triggered: usize,
    /// The most that may be under way: the limit, or an earlier one while more than the limit are left from then.
    ceiling: usize,
    /// The answer that told a user that it is disabled: of which version, and as of when.
    disabled_ack: Option<(u64, Timestamp)>,
}

/// What is known of an instance from its committed rows.
#[derive(Debug)]
pub(crate) struct InstanceRecord {
    pub(crate) state: InstanceState,
    pub(crate) attempt: u32,
    /// A user's wish that it stops is on disk.
    stopped_by_user: bool,
    job: JobId,
    revision: Revision,
    triggered: bool,
    /// The row as it first ended.
    ended: Option<Box<Instance>>,
    /// Its tasks, once it has begun, if it has many.
    spread: Option<Box<Spread>>,
}

impl InstanceRecord {
    fn is_under_way(&self) -> bool {
        self.state.is_placed() || (self.state == InstanceState::Waiting && self.attempt > 0)
    }
}

/// Everything that the laws are checked against.
#[derive(Debug, Default)]
pub struct Audit {
    apps: BTreeMap<String, AppId>,
    pub(crate) jobs: BTreeMap<JobId, JobRecord>,
    pub(crate) instances: BTreeMap<InstanceId, InstanceRecord>,
    fires: BTreeSet<(JobId, Timestamp)>,
    keys: BTreeMap<(AppId, Arc<str>), InstanceId>,
    epochs: BTreeMap<PartitionId, Epochs>,
    /// Instances that somebody was told of.
    acknowledged: BTreeSet<InstanceId>,
    /// The definitions that instances are made of.
    specs: BTreeMap<(JobId, Revision), Arc<JobSpec>>,
    attempts: BTreeMap<TaskKey, Attempts>,
    /// What each worker has, as the store knows.
    held: BTreeMap<WorkerRef, BTreeSet<TaskKey>>,
    /// Worker processes and their slots, by boot.
    processes: BTreeMap<u64, (WorkerRef, u32)>,
    /// Tasks that users wanted tried again; none means all.
    retries_asked: BTreeMap<InstanceId, Vec<Vec<TaskId>>>,
    /// Which attempts run where: worker and boot.
    running: BTreeMap<AttemptKey, Vec<(usize, u64)>>,
    welcomed: BTreeSet<SessionId>,
    /// Boots of worker processes that are gone, and of those that take nothing new before they go.
    gone: BTreeSet<u64>,
    leaving: BTreeSet<u64>,
    /// How attempts ended, as their workers know.
    outcomes: BTreeMap<AttemptKey, Vec<Outcome>>,
    /// Whether the network keeps the order of messages within a session.
    ordered: bool,
    /// Whether nothing ever goes wrong.
    calm: bool,
    /// Whether clocks are such that nobody else has a partition while the lease of its owner holds by its own count.
    leases_hold: bool,
    /// Whether the store does not write what it says.
    store_lies: bool,
    /// Whether workers and their connections stay, but for what the owner does to them.
    workers_stay: bool,
    violation: Option<Violation>,
    pub(crate) counts: Counts,
}

impl Audit {
    /// What may be expected of a mix.
    pub(crate) fn of(profile: &Profile, breakage: Option<Breakage>) -> Self {
        use Fault::*;
        let calm = profile.faults.is_empty();
        let may_stall = profile.may(Stall) || profile.may(Suspend);
        let only_the_owner = |fault: &Fault| match fault {
            Crash | AnswerLost | AnswerUncertain | ClockForward | ClockBack | Restart | HandOver => true,
            // Workers wait for a server that stands still, and may come too late to the next.
            Stall => !profile.is_cluster(),
            Ambush => !may_stall,
            _ => false,
        };
        let workers_stay = profile.lost == 0 && profile.faults.iter().all(|(fault, _)| only_the_owner(fault));
        let is_checked = !breakage.is_some_and(Breakage::ignores_leases);
        let leases_hold = is_checked && !profile.may(Suspend) && !profile.may(StoreClock);
        // Of such stores the audit knows that what it was told is not what was written.
        let lies = matches!(breakage, Some(Breakage::FireInTwoSteps | Breakage::WritesLost));
        Audit { ordered: !profile.reorders, calm, workers_stay, leases_hold, store_lies: lies, ..Audit::default() }
    }

    /// Remembers the first law that was broken.
    pub(crate) fn breaks(&mut self, law: &'static str, what: impl FnOnce() -> String) {
        if self.violation.is_none() {
            self.violation = Some(Violation { law, what: what() });
        }
    }

    pub fn violation(&self) -> Option<&Violation> {
        self.violation.as_ref()
    }

    /// The store took a batch. Returns whether it had not taken it before.
    pub(crate) fn committed(&mut self, batch: &Batch, is_blind: bool) -> bool {
        if !self.is_news(batch, is_blind) {
            self.counts.repeated += 1;
            return false;
        }
        self.counts.commits += 1;
        let mut touched = fires::Touched::default();
        for change in &batch.changes {
            match change {
                Change::JobInserted(job) => self.on_job(job, &mut touched),
                Change::JobUpdated(job) => self.on_job(job, &mut touched),
                Change::JobDeleted { id, at, .. } => {
                    touched.limits.insert(*id, usize::MAX);
                    if let Some(record) = self.jobs.get_mut(id) {
                        record.deleted = Some(*at);
                        record.job.schedule.next_fire = None;
                    }
                }
                Change::InstanceInserted { instance, .. } => self.on_inserted(instance, &mut touched),
                Change::InstanceUpdated(instance) | Change::InstanceEnded { instance, .. } => {
                    self.on_row(instance, &mut touched);
                }
                Change::AttemptEnded(past) => self.on_past(past),
                Change::FanoutInserted(fanout) => self.on_fanout_inserted(fanout, &mut touched),
                Change::FanoutUpdated(fanout) => self.on_fanout_updated(fanout, &mut touched),
                Change::TasksInserted(tasks) => self.on_tasks_inserted(tasks, &mut touched),
                Change::TasksCopied { from, to, at, count } => {
                    self.on_tasks_copied(*from, *to, *at, *count, &mut touched);
                }
                Change::TaskUpdated(task) => self.on_task(task, &mut touched),
                Change::ScheduleAdvanced { job, schedule, .. } => self.on_advanced(*job, schedule, &mut touched),
                Change::GapRecorded { job, gap } => touched.gaps.entry(*job).or_default().push(gap.clone()),
                Change::InstanceQuarantined { id, .. } => {
                    self.breaks("commits_are_accepted", || {
                        format!("instance {id} was quarantined, and nothing was broken")
                    });
                }
                Change::AppInserted(app) => drop(self.apps.insert(app.name.clone(), app.id)),
                Change::AppUpdated(_) | Change::AppDeleted(_) => {}
            }
        }
        self.check_limits(&touched);
        self.check_spreads(&touched);
        self.check_fires(touched);
        true
    }

    pub(crate) fn app_named(&self, name: &str) -> Option<AppId> {
        self.apps.get(name).copied()
    }

    fn on_inserted(&mut self, row: &Instance, touched: &mut fires::Touched) {
        self.counts.instances += 1;
        let record = InstanceRecord {
            state: InstanceState::Waiting,
            attempt: 0,
            stopped_by_user: false,
            job: row.job,
            revision: row.revision,
            triggered: row.fire_time.is_some(),
            ended: None,
            spread: None,
        };
        if self.instances.insert(row.id, record).is_some() {
            self.breaks("commits_are_accepted", || format!("instance {} was inserted twice", row.id));
        }
        if let Some(key) = &row.idempotency_key
            && let Some(first) = self.keys.insert((row.app, key.clone()), row.id)
        {
            self.breaks("idempotency_key_one_instance", || format!("key {key} made {first} and {}", row.id));
        }
        self.on_fired(row, touched);
        if let Some(job) = self.jobs.get_mut(&row.job) {
            job.triggered += usize::from(row.fire_time.is_some());
        }
        self.on_row(row, touched);
    }

    fn on_row(&mut self, row: &Instance, touched: &mut fires::Touched) {
        let Some(record) = self.instances.get_mut(&row.id) else {
            return self
                .breaks("commits_are_accepted", || format!("instance {} was changed before it was made", row.id));
        };
        if let Some(ended) = &record.ended {
            let (was, is) = (ended.state, row.state);
            return self
                .breaks("ended_once", || format!("instance {} was {was} and was written again as {is}", row.id));
        }
        let was_under_way = record.is_under_way();
        if row.attempt > record.attempt && record.attempt == 0 {
            *touched.admitted.entry(row.job).or_default() += 1;
        }
        let is_standalone = self.specs.get(&(row.job, row.revision)).is_some_and(|spec| !spec.mode.has_tasks());
        let goes_on = record.stopped_by_user
            && (row.attempt > record.attempt
                || ![InstanceState::Stopping, InstanceState::Stopped].contains(&row.state));
        let is_stopped = row.state == InstanceState::Stopping && row.stop_cause == Some(StopCause::User);
        record.stopped_by_user |= is_stopped;
        record.state = row.state;
        record.attempt = row.attempt;
        let is_under_way = record.is_under_way();
        let triggered = record.triggered;
        if row.state.is_ended() {
            record.ended = Some(Box::new(row.clone()));
            touched.ended.push(row.id);
        }
        if goes_on {
            self.breaks("stops_are_carried_out", || format!("a user stopped it, and it became {row:?}"));
        }
        if is_standalone {
            self.on_standalone(row, touched);
        } else if row.state.is_ended() {
            self.let_go(row.id, touched);
        }
        if let Some(job) = self.jobs.get_mut(&row.job) {
            touched.limits.entry(row.job).or_insert(limit_of(&job.job));
            job.under_way = job.under_way + usize::from(is_under_way) - usize::from(was_under_way);
            job.triggered -= usize::from(triggered && row.state.is_ended());
        }
    }

    /// The only task of an instance is part of its row.
    fn on_standalone(&mut self, row: &Instance, touched: &mut fires::Touched) {
        let key = TaskKey::root(row.id);
        let with = row.worker.as_ref().filter(|_| row.state.is_placed());
        self.moved(key, row.attempt, row.worker.as_ref(), with, touched);
        if !row.state.is_ended() {
            return;
        }
        let reason = row.reason.as_ref().unwrap_or(&Reason::FAILED);
        let unconfirmed = *reason == Reason::TIMEOUT && is_unconfirmed(row.message.as_deref());
        if unconfirmed || [Reason::WORKER_LOST, Reason::STOP_UNCONFIRMED].contains(reason) {
            self.write_off(key, Some(row.attempt), row.worker.as_ref(), reason);
        }
        let state = match row.state {
            InstanceState::Succeeded => TaskState::Succeeded,
            InstanceState::Failed => TaskState::Failed,
            _ => TaskState::Stopped,
        };
        self.check_outcome(key, row.attempt, reason, state);
    }

    fn check_limits(&mut self, touched: &fires::Touched) {
        for (id, widest) in &touched.limits {
            let Some(job) = self.jobs.get_mut(id) else { continue };
            let limit = limit_of(&job.job);
            let (under_way, ceiling) = (job.under_way, job.ceiling);
            let admitted = touched.admitted.get(id).copied().unwrap_or_default();
            if under_way <= limit {
                job.ceiling = limit;
            }
            if under_way > ceiling || (admitted > 0 && under_way > limit.max(*widest)) {
                self.breaks("limits_never_exceeded", || {
                    format!(
                        "job {id} has {under_way} instances under way, {admitted} of them new; its limit is {limit}"
                    )
                });
            }
        }
    }

    /// What the store has at the end is what was committed, and what ended stayed as it ended.
    pub(crate) fn compare_ended(&mut self, row: &Instance) {
        let Some(ended) = self.instances.get(&row.id).map(|record| record.ended.clone()) else {
            return self.breaks("ended_once", || format!("instance {} is stored and was never committed", row.id));
        };
        if ended.as_deref() != Some(row) {
            self.breaks("ended_once", || format!("ended as {ended:?}\n and is now {row:?}"));
        }
    }
}

fn limit_of(job: &Job) -> usize {
    job.spec.concurrency.limit.map_or(usize::MAX, |limit| limit as usize)
}

fn is_unconfirmed(message: Option<&str>) -> bool {
    message.is_some_and(|message| message.contains("did not confirm"))
}
