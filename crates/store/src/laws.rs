//! What must hold of a change by itself, whatever is stored already.
//!
//! All stores ask here before they look at any row, so that they refuse alike; the database's `CHECK`s repeat it for
//! whoever writes past us.

use pendula_model::change::Change;
use pendula_model::instance::{Instance, InstanceState};
use pendula_model::job::Job;
use pendula_model::task::{Fanout, Task};
use pendula_model::{InstanceId, PartitionId, TaskId, Timestamp};

/// Gaps kept per job; older ones go when a new one comes.
pub(crate) const GAPS_KEPT: usize = 1_000;

/// Refuses a change that no partition may make, or not this one; says why.
pub(crate) fn check(partition: PartitionId, change: &Change) -> Result<(), String> {
    let owner = match change {
        Change::AppInserted(app) | Change::AppUpdated(app) => {
            if app.partition != app.id.partition() {
                return Err(format!("app {} says partition {}, its id another", app.id, app.partition));
            }
            app.partition
        }
        Change::AppDeleted(id) => id.partition(),
        Change::JobInserted(job) | Change::JobUpdated(job) => check_job(job).map(|()| job.id.partition())?,
        Change::JobDeleted { id, .. } => id.partition(),
        Change::ScheduleAdvanced { job, .. } | Change::GapRecorded { job, .. } => job.partition(),
        Change::InstanceInserted { instance, prune_at } => {
            check_instance(instance, *prune_at)?;
            instance.id.partition()
        }
        Change::InstanceUpdated(instance) => {
            check_instance(instance, None)?;
            instance.id.partition()
        }
        Change::InstanceEnded { instance, prune_at } => {
            check_instance(instance, Some(*prune_at))?;
            instance.id.partition()
        }
        Change::InstanceQuarantined { id, .. } => id.partition(),
        Change::AttemptEnded(past) => {
            check_number(past.task)?;
            past.instance.partition()
        }
        Change::FanoutInserted(fanout) | Change::FanoutUpdated(fanout) => {
            check_fanout(fanout)?;
            fanout.instance.partition()
        }
        Change::TasksInserted(tasks) => check_new_tasks(tasks)?.partition(),
        Change::TasksCopied { from, to, .. } => {
            if from.partition() != to.partition() {
                return Err(format!("tasks of instance {from} for {to}, which lies in another partition"));
            }
            to.partition()
        }
        Change::TaskUpdated(task) => {
            check_task(task)?;
            task.instance.partition()
        }
    };
    if owner != partition {
        return Err(format!("a row of partition {owner} in a batch of partition {partition}"));
    }
    Ok(())
}

fn check_job(job: &Job) -> Result<(), String> {
    if job.app.partition() != job.id.partition() {
        return Err(format!("job {} lies in another partition than its app", job.id));
    }
    if job.deleted_at.is_some() {
        return Err(format!("job {} is deleted by a change of its own", job.id));
    }
    if !job.spec.enabled && job.schedule.next_fire.is_some() {
        return Err(format!("job {} is disabled and has a next fire time", job.id));
    }
    Ok(())
}

/// Refuses an instance that cannot be, active (without `prune_at`) or ended.
pub(crate) fn check_instance(instance: &Instance, prune_at: Option<Timestamp>) -> Result<(), String> {
    let state = instance.state;
    let broken = if instance.job.partition() != instance.id.partition() {
        "lies in another partition than its job"
    } else if state.is_ended() != instance.ended_at.is_some() {
        "has an end exactly when it has ended"
    } else if state.is_ended() != prune_at.is_some() {
        "is pruned exactly when it has ended"
    } else if state.is_placed() && instance.attempt == 0 {
        "needs an attempt"
    } else if state == InstanceState::Dispatched && instance.worker.is_none() {
        "needs a worker"
    } else if (state == InstanceState::Stopping) != instance.stop_cause.is_some() {
        "has a cause to stop exactly while it is stopping"
    } else {
        return Ok(());
    };
    Err(format!("instance {} ({state}) breaks a law: it {broken}", instance.id))
}

/// Refuses an active instance that a worker must have and none has: only one that became tasks goes without.
pub(crate) fn check_begun(instance: &Instance, became_tasks: bool) -> Result<(), String> {
    if instance.state.is_placed() && instance.worker.is_none() && !became_tasks {
        let (id, state) = (instance.id, instance.state);
        return Err(format!("instance {id} ({state}) breaks a law: it has neither a worker nor tasks"));
    }
    Ok(())
}

/// Refuses counts that cannot be.
pub(crate) fn check_fanout(fanout: &Fanout) -> Result<(), String> {
    let counts = &fanout.counts;
    let all = [counts.waiting, counts.running, counts.succeeded, counts.failed, counts.lost, counts.stopped];
    let sum = all.iter().try_fold(0_u64, |sum, count| sum.checked_add(*count)).filter(|sum| storable(*sum));
    let broken = if sum != Some(counts.total) {
        "do not add up"
    } else if fanout.next_waiting > fanout.next_task {
        "are of tasks that do not exist yet"
    } else if !storable(fanout.rate_milli) {
        "change faster than can be"
    } else {
        return check_number(fanout.next_task);
    };
    Err(format!("the task counts of instance {} break a law: they {broken}", fanout.instance))
}

/// Refuses a task that cannot be.
pub(crate) fn check_task(task: &Task) -> Result<(), String> {
    let state = task.state;
    let broken = if state.is_ended() != task.ended_at.is_some() {
        "has an end exactly when it has ended"
    } else if state.is_placed() && (task.worker.is_none() || task.attempt == 0) {
        "needs a worker and an attempt"
    } else if !storable(task.emitted) {
        "emitted more than can be"
    } else {
        return check_number(task.id).and_then(|()| task.parent.map_or(Ok(()), check_number));
    };
    Err(format!("task {} ({state}) breaks a law: it {broken}", task.key()))
}

/// The instance that all of them are of.
fn check_new_tasks(tasks: &[Task]) -> Result<InstanceId, String> {
    let Some(first) = tasks.first() else { return Err("new tasks, but none of them".to_owned()) };
    for task in tasks {
        check_task(task)?;
        if task.state.is_ended() {
            return Err(format!("task {} is new and has ended", task.key()));
        }
    }
    match tasks.windows(2).find(|pair| pair[0].instance != pair[1].instance || pair[0].id >= pair[1].id) {
        Some(pair) => Err(format!("task {} comes before {}", pair[0].key(), pair[1].key())),
        None => Ok(first.instance),
    }
}

/// Databases count with 63 bits.
fn storable(number: u64) -> bool {
    i64::try_from(number).is_ok()
}

fn check_number(task: TaskId) -> Result<(), String> {
    if storable(task.0) && task.next().0 < i64::MAX.cast_unsigned() {
        return Ok(());
    }
    Err(format!("no task can have the number {task}"))
}
