//! What must hold of a change by itself, whatever is stored already.
//!
//! Both stores ask here before they look at any row, so that they refuse alike; the database's `CHECK`s repeat it for
//! whoever writes past us.

use pendula_model::change::Change;
use pendula_model::instance::{Instance, InstanceState};
use pendula_model::job::Job;
use pendula_model::{PartitionId, Timestamp};

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
        Change::AttemptEnded(past) => past.instance.partition(),
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
    } else if state.is_placed() && (instance.worker.is_none() || instance.attempt == 0) {
        "needs a worker and an attempt"
    } else if (state == InstanceState::Stopping) != instance.stop_cause.is_some() {
        "has a cause to stop exactly while it is stopping"
    } else {
        return Ok(());
    };
    Err(format!("instance {} ({state}) breaks a law: it {broken}", instance.id))
}
