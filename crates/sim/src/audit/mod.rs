//! The laws, checked against what was committed, answered and run. Nothing here trusts the engine's memory.
//!
//! | law | where it is checked |
//! |---|---|
//! | `one_row_per_fire`, `every_fire_accounted`, `fires_in_time`, `no_fire_after_disable_ack` | [`fires`], at each commit |
//! | `ended_once`, `limits_never_exceeded`, `idempotency_key_one_instance`, `only_the_owner_writes`, `commits_are_accepted` | here, at each commit |
//! | `no_dispatch_before_commit`, `welcome_comes_first`, `acknowledged_work_never_lost` | [`acks`], at each effect and at the end |
//! | `at_most_one_running_attempt`, `at_most_once_never_starts_twice`, `no_needless_loss` | [`runs`], when handlers start and end |
//! | `ends_as_reported` | [`runs`], at each commit |
//! | `memory_matches_store`, `nothing_stuck`, `no_unbounded_memory` | `crate::finale`, at quiet moments |

mod acks;
mod fires;
mod runs;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use pendula_engine::input::Outcome;
use pendula_model::change::Change;
use pendula_model::instance::{Instance, InstanceState, Reason};
use pendula_model::job::Job;
use pendula_model::worker::WorkerRef;
use pendula_model::{AppId, InstanceId, JobId, SessionId, Timestamp};
use pendula_schedule::Plan;

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
    triggered: bool,
    /// Who was given which attempt.
    placed: Vec<(u32, WorkerRef)>,
    /// Attempts that were written off though they may still run: lost, or their stop was not confirmed.
    written_off: BTreeSet<u32>,
    /// The row as it first ended.
    ended: Option<Box<Instance>>,
    /// How often a handler began to work on it.
    starts: u32,
}

impl InstanceRecord {
    fn is_under_way(&self) -> bool {
        self.state.is_placed() || (self.state == InstanceState::Waiting && self.attempt > 0)
    }
}

/// Everything that the laws are checked against.
#[derive(Debug, Default)]
pub struct Audit {
    pub(crate) jobs: BTreeMap<JobId, JobRecord>,
    pub(crate) instances: BTreeMap<InstanceId, InstanceRecord>,
    fires: BTreeSet<(JobId, Timestamp)>,
    keys: BTreeMap<(AppId, Arc<str>), InstanceId>,
    /// Instances that somebody was told of.
    acknowledged: BTreeSet<InstanceId>,
    /// Which attempts run where: worker and boot.
    running: BTreeMap<(InstanceId, u32), Vec<(usize, u64)>>,
    welcomed: BTreeSet<SessionId>,
    /// Boots of worker processes that are gone.
    gone: BTreeSet<u64>,
    /// How attempts ended, as their workers know.
    outcomes: BTreeMap<(InstanceId, u32), Vec<Outcome>>,
    /// Whether the network keeps the order of messages within a session.
    ordered: bool,
    /// Whether nothing ever goes wrong.
    calm: bool,
    /// Whether workers and their connections stay, but for what the owner does to them.
    workers_stay: bool,
    violation: Option<Violation>,
    pub(crate) counts: Counts,
}

/// How much happened, to see that histories are worth having.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    pub commits: u64,
    pub instances: u64,
    pub fires: u64,
    pub missed: u64,
    pub starts: u64,
    pub written_off: u64,
    pub restores: u64,
    /// Owners that died before a step of theirs.
    pub crashes: u64,
    pub fenced: u64,
}

impl Counts {
    /// Adds those of another history.
    pub fn add(&mut self, other: &Counts) {
        let Counts { commits, instances, fires, missed, starts, written_off, restores, crashes, fenced } = other;
        self.commits += commits;
        self.instances += instances;
        self.fires += fires;
        self.missed += missed;
        self.starts += starts;
        self.written_off += written_off;
        self.restores += restores;
        self.crashes += crashes;
        self.fenced += fenced;
    }
}

impl Audit {
    /// What may be expected of a mix.
    pub(crate) fn of(profile: &Profile) -> Self {
        let calm = profile.faults.is_empty();
        let only_the_owner = |fault: &Fault| {
            use Fault::*;
            matches!(fault, Crash | Stall | AnswerLost | AnswerUncertain | ClockForward | ClockBack)
        };
        let workers_stay = profile.lost == 0 && profile.faults.iter().all(|(fault, _)| only_the_owner(fault));
        Audit { ordered: !profile.reorders, calm, workers_stay, ..Audit::default() }
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

    /// A batch is on disk.
    pub(crate) fn committed(&mut self, changes: &[Change], by_the_owner: bool) {
        self.counts.commits += 1;
        if !by_the_owner {
            self.breaks("only_the_owner_writes", || format!("a stale owner wrote {changes:?}"));
        }
        let mut touched = fires::Touched::default();
        for change in changes {
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
                Change::AttemptEnded(past) => {
                    let unconfirmed = past.reason == Reason::TIMEOUT && is_unconfirmed(past.message.as_deref());
                    if past.reason == Reason::WORKER_LOST || unconfirmed {
                        self.write_off(past.instance, past.attempt, &past.reason);
                    }
                    self.check_outcome(past.instance, past.attempt, &past.reason, InstanceState::Failed);
                }
                Change::ScheduleAdvanced { job, schedule, .. } => self.on_advanced(*job, schedule, &mut touched),
                Change::GapRecorded { job, gap } => touched.gaps.entry(*job).or_default().push(gap.clone()),
                Change::InstanceQuarantined { id, .. } => {
                    self.breaks("commits_are_accepted", || {
                        format!("instance {id} was quarantined, and nothing was broken")
                    });
                }
                Change::AppInserted(_) | Change::AppUpdated(_) | Change::AppDeleted(_) => {}
            }
        }
        self.check_limits(&touched);
        self.check_fires(touched);
    }

    fn on_inserted(&mut self, row: &Instance, touched: &mut fires::Touched) {
        self.counts.instances += 1;
        let record = InstanceRecord {
            state: InstanceState::Waiting,
            attempt: 0,
            triggered: row.fire_time.is_some(),
            placed: Vec::new(),
            written_off: BTreeSet::new(),
            ended: None,
            starts: 0,
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
        if row.attempt > record.attempt
            && let Some(worker) = &row.worker
        {
            record.placed.push((row.attempt, worker.clone()));
            if record.attempt == 0 {
                *touched.admitted.entry(row.job).or_default() += 1;
            }
        }
        record.state = row.state;
        record.attempt = row.attempt;
        let is_under_way = record.is_under_way();
        let triggered = record.triggered;
        if row.state.is_ended() {
            record.ended = Some(Box::new(row.clone()));
        }
        let lost =
            [Reason::WORKER_LOST, Reason::STOP_UNCONFIRMED].iter().any(|reason| row.reason.as_ref() == Some(reason));
        let unconfirmed = row.reason == Some(Reason::TIMEOUT) && is_unconfirmed(row.message.as_deref());
        if row.state.is_ended() && (lost || unconfirmed) {
            self.write_off(row.id, row.attempt, row.reason.as_ref().unwrap_or(&Reason::WORKER_LOST));
        }
        if row.state.is_ended() {
            self.check_outcome(row.id, row.attempt, row.reason.as_ref().unwrap_or(&Reason::FAILED), row.state);
        }
        if let Some(job) = self.jobs.get_mut(&row.job) {
            touched.limits.entry(row.job).or_insert(limit_of(&job.job));
            job.under_way = job.under_way + usize::from(is_under_way) - usize::from(was_under_way);
            job.triggered -= usize::from(triggered && row.state.is_ended());
        }
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
