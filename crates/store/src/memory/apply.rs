//! One change at a time, each with its guard.

mod tasks;

use std::sync::Arc;

use pendula_model::app::App;
use pendula_model::change::{Change, Gap};
use pendula_model::instance::{Instance, InstanceState, PastAttempt, Reason};
use pendula_model::job::{Job, ScheduleState};
use pendula_model::{AppId, AttemptKey, InstanceId, JobId, Timestamp, limits};

use super::tables::{InstanceRow, Tables};
use crate::laws::GAPS_KEPT;

/// Why a change was refused.
type Refused = String;

pub(super) fn apply(tables: &mut Tables, change: &Change) -> Result<(), Refused> {
    match change {
        Change::AppInserted(app) => {
            if tables.apps.contains_key(&app.id) || tables.app_by_name.contains_key(&app.name) {
                return Err(format!("app {} or its name `{}` exists", app.id, app.name));
            }
            tables.put_app(app.id, Some(app.clone()));
            Ok(())
        }
        Change::AppUpdated(app) => {
            let expected = |old: &&App| old.version + 1 == app.version && old.name == app.name;
            let Some(old) = tables.apps.get(&app.id).filter(expected) else {
                return Err(format!("app {} is not at version {}", app.id, app.version.wrapping_sub(1)));
            };
            let created_at = old.created_at;
            tables.put_app(app.id, Some(App { created_at, ..app.clone() }));
            Ok(())
        }
        Change::AppDeleted(id) => delete_app(tables, *id),
        Change::JobInserted(job) => insert_job(tables, job),
        Change::JobUpdated(job) => update_job(tables, job),
        Change::JobDeleted { id, version, at } => delete_job(tables, *id, *version, *at),
        Change::ScheduleAdvanced { job, expected_next, schedule } => {
            advance_schedule(tables, *job, *expected_next, schedule)
        }
        Change::GapRecorded { job, gap } => record_gap(tables, *job, gap),
        Change::InstanceInserted { instance, prune_at } => insert_instance(tables, instance, *prune_at),
        Change::InstanceUpdated(instance) => update_instance(tables, instance, None),
        Change::InstanceEnded { instance, prune_at } => update_instance(tables, instance, Some(*prune_at)),
        Change::InstanceQuarantined { id, at, why, prune_at } => quarantine(tables, *id, *at, why, *prune_at),
        Change::AttemptEnded(past) => end_attempt(tables, past),
        Change::FanoutInserted(fanout) => tasks::insert_fanout(tables, fanout),
        Change::FanoutUpdated(fanout) => tasks::update_fanout(tables, fanout),
        Change::TasksInserted(new) => tasks::insert(tables, new),
        Change::TasksCopied { from, to, at, count } => tasks::copy(tables, *from, *to, *at, *count),
        Change::TaskUpdated(task) => tasks::update(tables, task),
    }
}

fn delete_app(tables: &mut Tables, id: AppId) -> Result<(), Refused> {
    let first_job = (id, String::new());
    let has_jobs = tables.job_by_name.range(first_job..).next().is_some_and(|((app, _), _)| *app == id);
    if !tables.apps.contains_key(&id) || has_jobs {
        return Err(format!("app {id} is gone or still has jobs"));
    }
    let tokens: Vec<_> =
        tables.tokens.values().filter(|token| token.scope.app() == Some(id)).map(|token| token.id).collect();
    for token in tokens {
        tables.put_token(token, None);
    }
    tables.put_app(id, None);
    Ok(())
}

fn insert_job(tables: &mut Tables, job: &Job) -> Result<(), Refused> {
    let name = (job.app, job.spec.name.clone());
    if tables.jobs.contains_key(&job.id) || tables.job_by_name.contains_key(&name) {
        return Err(format!("job {} or its name `{}` exists", job.id, job.spec.name));
    }
    if !tables.apps.contains_key(&job.app) {
        return Err(format!("app {} of job {} does not exist", job.app, job.id));
    }
    tables.put_job(job.id, Some(job.clone()));
    tables.put_revision((job.id, job.revision), Some((job.updated_at, job.spec.clone())));
    Ok(())
}

fn update_job(tables: &mut Tables, job: &Job) -> Result<(), Refused> {
    let expected = |old: &&Job| {
        let same_app = old.app == job.app && old.deleted_at.is_none();
        same_app && old.version + 1 == job.version && old.revision <= job.revision
    };
    let Some(old) = tables.jobs.get(&job.id).filter(expected) else {
        return Err(format!("job {} is not at version {}", job.id, job.version.wrapping_sub(1)));
    };
    let created_at = old.created_at;
    if tables.job_by_name.get(&(job.app, job.spec.name.clone())).is_some_and(|id| *id != job.id) {
        return Err(format!("the name `{}` is taken", job.spec.name));
    }
    match tables.revisions.get(&(job.id, job.revision)) {
        Some((_, kept)) if !kept.runs_like(&job.spec) => {
            return Err(format!("revision {} of job {} is another definition", job.revision.0, job.id));
        }
        Some(_) => {}
        None => tables.put_revision((job.id, job.revision), Some((job.updated_at, job.spec.clone()))),
    }
    tables.put_job(job.id, Some(Job { created_at, ..job.clone() }));
    Ok(())
}

fn delete_job(tables: &mut Tables, id: JobId, version: u64, at: Timestamp) -> Result<(), Refused> {
    let expected = |job: &&Job| job.deleted_at.is_none() && job.version == version;
    let Some(job) = tables.jobs.get(&id).filter(expected) else {
        return Err(format!("job {id} is not at version {version}"));
    };
    let mut job = job.clone();
    job.schedule.next_fire = None;
    job.updated_at = at;
    job.deleted_at = Some(at);
    tables.put_job(id, Some(job));
    Ok(())
}

fn advance_schedule(
    tables: &mut Tables,
    id: JobId,
    expected_next: Option<Timestamp>,
    schedule: &ScheduleState,
) -> Result<(), Refused> {
    let expected = |job: &&Job| {
        let fires = job.spec.enabled || schedule.next_fire.is_none();
        job.deleted_at.is_none() && job.schedule.next_fire == expected_next && fires
    };
    let Some(job) = tables.jobs.get(&id).filter(expected) else {
        return Err(format!("job {id} does not fire next at {expected_next:?}"));
    };
    let job = Job { schedule: schedule.clone(), ..job.clone() };
    tables.put_job(id, Some(job));
    Ok(())
}

fn record_gap(tables: &mut Tables, job: JobId, gap: &Gap) -> Result<(), Refused> {
    if !tables.jobs.contains_key(&job) {
        return Err(format!("job {job} of a gap does not exist"));
    }
    let mut gaps = tables.gaps.get(&job).cloned().unwrap_or_default();
    gaps.push(gap.clone());
    let surplus = gaps.len().saturating_sub(GAPS_KEPT);
    gaps.drain(..surplus);
    tables.put_gaps(job, Some(gaps));
    Ok(())
}

fn insert_instance(tables: &mut Tables, instance: &Instance, prune_at: Option<Timestamp>) -> Result<(), Refused> {
    let id = instance.id;
    if tables.instances.contains_key(&id) {
        return Err(format!("instance {id} exists"));
    }
    if !tables.revisions.contains_key(&(instance.job, instance.revision)) {
        return Err(format!("revision {} of job {} is not kept", instance.revision.0, instance.job));
    }
    if let Some(at) = instance.fire_time
        && tables.fires.contains_key(&(instance.job, at))
    {
        return Err(format!("job {} was fired at {at} already", instance.job));
    }
    if let Some(key) = &instance.idempotency_key
        && tables.idempotency.contains_key(&(instance.app, key.clone()))
    {
        return Err(format!("the idempotency key `{key}` is taken"));
    }
    tables.put_instance(id, Some(InstanceRow { instance: instance.clone(), prune_at }));
    Ok(())
}

fn update_instance(tables: &mut Tables, new: &Instance, prune_at: Option<Timestamp>) -> Result<(), Refused> {
    let id = new.id;
    let expected =
        |row: &&InstanceRow| !row.instance.state.is_ended() && row.instance.version.checked_add(1) == Some(new.version);
    let Some(row) = tables.instances.get(&id).filter(expected) else {
        return Err(format!("instance {id} has ended or is not at version {}", new.version.wrapping_sub(1)));
    };
    let old = &row.instance;
    // The database does not write these columns again.
    let instance = Instance {
        app: old.app,
        job: old.job,
        revision: old.revision,
        origin: old.origin,
        fire_time: old.fire_time,
        missed_before: old.missed_before,
        rerun_of: old.rerun_of,
        idempotency_key: old.idempotency_key.clone(),
        params: old.params.clone(),
        priority: old.priority,
        created_at: old.created_at,
        ..new.clone()
    };
    debug_assert_eq!(&instance, new, "what is frozen at the firing of an instance was changed");
    tables.put_instance(id, Some(InstanceRow { instance, prune_at }));
    Ok(())
}

fn quarantine(
    tables: &mut Tables,
    id: InstanceId,
    at: Timestamp,
    why: &str,
    prune_at: Timestamp,
) -> Result<(), Refused> {
    let Some(row) = tables.instances.get(&id).filter(|row| !row.instance.state.is_ended()) else {
        return Err(format!("instance {id} has ended"));
    };
    let mut instance = row.instance.clone();
    instance.state = InstanceState::Failed;
    instance.version = instance.version.saturating_add(1);
    instance.ended_at = Some(at);
    instance.stop_cause = None;
    instance.stop_deadline = None;
    instance.reason = Some(Reason::QUARANTINED);
    instance.message = Some(Arc::from(limits::cut(why, limits::MESSAGE_BYTES)));
    tables.put_instance(id, Some(InstanceRow { instance, prune_at: Some(prune_at) }));
    Ok(())
}

fn end_attempt(tables: &mut Tables, past: &PastAttempt) -> Result<(), Refused> {
    let id = AttemptKey { instance: past.instance, task: past.task, attempt: past.attempt };
    if !tables.instances.contains_key(&past.instance) || tables.past_attempts.contains_key(&id) {
        return Err(format!("attempt {} of task {} is kept already", past.attempt, id.key()));
    }
    tables.put_past_attempt(id, Some(past.clone()));
    Ok(())
}
