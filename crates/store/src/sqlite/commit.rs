//! A batch of changes as statements, each with its guard.
//!
//! A guard is part of the statement's condition, and the number of affected rows tells whether it held: what another
//! writer did is never overwritten. Updates name their columns, so that no edit is undone by an older copy of a row.

pub(super) mod tasks;

use std::collections::BTreeSet;
use std::fmt::Display;

use pendula_model::app::App;
use pendula_model::change::{Change, Gap};
use pendula_model::instance::{Instance, PastAttempt, Reason};
use pendula_model::job::{Job, ScheduleState};
use pendula_model::worker::WorkerRef;
use pendula_model::{AppId, Epoch, InstanceId, JobId, PartitionId, Revision, Timestamp, limits};
use rusqlite::{CachedStatement, Connection, OptionalExtension, Params, params};

use super::error::{OrStoreError, store_error};
use super::tasks::stored_task;
use crate::laws::{self, GAPS_KEPT};
use crate::port::{Batch, StoreError};
use crate::rows::{self, Columns};

/// Applies the batch inside of the caller's transaction. On an error the caller rolls back.
pub(super) fn apply(db: &Connection, batch: &Batch) -> Result<(), StoreError> {
    check_epoch(db, batch.partition, batch.epoch)?;
    let mut memo = Memo::default();
    for change in &batch.changes {
        laws::check(batch.partition, change).map_err(|what| StoreError::Conflict { what })?;
        apply_change(db, &mut memo, change)?;
    }
    Ok(())
}

/// Rows that a batch writes, about.
pub(super) fn weight(batch: &Batch) -> usize {
    let rows = |change: &Change| match change {
        Change::TasksInserted(tasks) => tasks.len(),
        Change::TasksCopied { count, .. } => usize::try_from(*count).unwrap_or(usize::MAX),
        _ => 1,
    };
    batch.changes.iter().map(rows).fold(1, usize::saturating_add)
}

/// What is worth remembering from one change of a batch to the next.
#[derive(Default)]
struct Memo<'db> {
    /// Revisions that this batch has seen in the database. No change of a batch takes one away.
    kept: BTreeSet<(JobId, Revision)>,
    /// Of thousands of tasks in a batch, each would look the statement up and give it back.
    update_task: Option<CachedStatement<'db>>,
}

pub(super) const EPOCH: &str = "SELECT epoch FROM partition WHERE id = ?1";

fn check_epoch(db: &Connection, partition: PartitionId, ours: Epoch) -> Result<(), StoreError> {
    let mut statement = db.prepare_cached(EPOCH).or_store_error()?;
    let stored: Option<i64> = statement.query_row([partition.0], |row| row.get(0)).optional().or_store_error()?;
    match stored {
        Some(epoch) if Epoch(epoch) == ours => Ok(()),
        Some(_) => Err(StoreError::Fenced { partition, ours }),
        None => Err(StoreError::Corrupt { why: format!("there is no row for partition {partition}") }),
    }
}

fn apply_change<'db>(db: &'db Connection, memo: &mut Memo<'db>, change: &Change) -> Result<(), StoreError> {
    match change {
        Change::AppInserted(app) => insert_app(db, app),
        Change::AppUpdated(app) => update_app(db, app),
        Change::AppDeleted(id) => delete_app(db, *id),
        Change::JobInserted(job) => insert_job(db, job),
        Change::JobUpdated(job) => update_job(db, job),
        Change::JobDeleted { id, version, at } => delete_job(db, *id, *version, *at),
        Change::ScheduleAdvanced { job, expected_next, schedule } => {
            advance_schedule(db, *job, *expected_next, schedule)
        }
        Change::GapRecorded { job, gap } => record_gap(db, *job, gap),
        Change::InstanceInserted { instance, prune_at } => {
            check_revision(db, &mut memo.kept, instance)?;
            insert_instance(db, instance, *prune_at)
        }
        Change::InstanceUpdated(instance) => update_instance(db, instance),
        Change::InstanceEnded { instance, prune_at } => end_instance(db, instance, *prune_at),
        Change::InstanceQuarantined { id, at, why, prune_at } => quarantine_instance(db, *id, *at, why, *prune_at),
        Change::AttemptEnded(past) => insert_past_attempt(db, past),
        Change::FanoutInserted(fanout) => tasks::insert_fanout(db, fanout),
        Change::FanoutUpdated(fanout) => tasks::update_fanout(db, fanout),
        Change::TasksInserted(new) => tasks::insert_tasks(db, new),
        Change::TasksCopied { from, to, at, count } => tasks::copy_tasks(db, *from, *to, *at, *count),
        Change::TaskUpdated(task) => {
            let statement = match &mut memo.update_task {
                Some(statement) => statement,
                none => none.insert(db.prepare_cached(tasks::UPDATE_TASK).or_store_error()?),
            };
            tasks::update_task(statement, task)
        }
    }
}

/// Runs a statement that must affect one row; `expected` says what it means when it does not.
fn expect_row<D: Display>(
    db: &Connection,
    sql: &str,
    values: impl Params,
    expected: impl FnOnce() -> D,
) -> Result<(), StoreError> {
    expect_one(db.prepare_cached(sql).and_then(|mut statement| statement.execute(values)), expected)
}

/// What became of a statement that must affect one row.
fn expect_one<D: Display>(affected: rusqlite::Result<usize>, expected: impl FnOnce() -> D) -> Result<(), StoreError> {
    match affected.map_err(store_error) {
        Ok(1) => Ok(()),
        Ok(_) => Err(StoreError::Conflict { what: expected().to_string() }),
        Err(StoreError::Conflict { what }) => Err(StoreError::Conflict { what: format!("{} ({what})", expected()) }),
        Err(error) => Err(error),
    }
}

/// Remembers that ids up to `id` were used, before their rows go.
pub(super) fn remember_deleted(db: &Connection, id: i64) -> Result<(), StoreError> {
    let sql = "UPDATE meta SET value = CAST(max(CAST(value AS INTEGER), ?1) AS TEXT) WHERE key = 'last_deleted_id'";
    let affected = db.prepare_cached(sql).and_then(|mut statement| statement.execute([id])).or_store_error()?;
    if affected == 1 {
        return Ok(());
    }
    Err(StoreError::Corrupt { why: "the row `last_deleted_id` of `meta` is missing".to_owned() })
}

fn micros(at: Option<Timestamp>) -> Option<i64> {
    at.map(Timestamp::as_micros)
}

/// A worker as its two columns; the boot id keeps its bits.
fn worker_columns(worker: &Option<WorkerRef>) -> (Option<&str>, Option<i64>) {
    (worker.as_ref().map(|worker| &*worker.name), worker.as_ref().map(|worker| worker.boot.0.cast_signed()))
}

// --- apps -----------------------------------------------------------------------------------------------------------

fn insert_app(db: &Connection, app: &App) -> Result<(), StoreError> {
    let sql = "INSERT INTO app (id, name, namespace, partition, allow_scripts, created_at, version)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
    let created_at = app.created_at.as_micros();
    let version = app.version.cast_signed();
    let values = params![app.id.0, app.name, app.namespace, app.partition.0, app.allow_scripts, created_at, version];
    expect_row(db, sql, values, || format!("app {} or its name `{}` exists", app.id, app.name))
}

fn update_app(db: &Connection, app: &App) -> Result<(), StoreError> {
    // The name decides the partition and never changes.
    let sql = "UPDATE app SET namespace = ?3, allow_scripts = ?4, version = ?5
               WHERE id = ?1 AND name = ?2 AND version = ?5 - 1";
    let values = params![app.id.0, app.name, app.namespace, app.allow_scripts, app.version.cast_signed()];
    expect_row(db, sql, values, || format!("app {} is not at version {}", app.id, app.version.wrapping_sub(1)))
}

fn delete_app(db: &Connection, id: AppId) -> Result<(), StoreError> {
    let token: Option<i64> = db
        .prepare_cached("SELECT max(id) FROM token WHERE app_id = ?1")
        .and_then(|mut statement| statement.query_row([id.0], |row| row.get(0)))
        .or_store_error()?;
    let sql = "DELETE FROM app WHERE id = ?1
               AND NOT EXISTS (SELECT 1 FROM job WHERE app_id = ?1 AND deleted_at IS NULL)";
    expect_row(db, sql, [id.0], || format!("app {id} is gone or still has jobs"))?;
    remember_deleted(db, id.0.max(token.unwrap_or(0)))
}

// --- jobs -----------------------------------------------------------------------------------------------------------

fn insert_job(db: &Connection, job: &Job) -> Result<(), StoreError> {
    let sql = "INSERT INTO job (id, partition, app_id, name, enabled, revision, version, anchor, next_fire, last_fire,
                                missed, created_at, updated_at)
               SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13
               WHERE EXISTS (SELECT 1 FROM app WHERE id = ?3)";
    let schedule = &job.schedule;
    let values = params![
        job.id.0,
        job.id.partition().0,
        job.app.0,
        job.spec.name,
        job.spec.enabled,
        job.revision.0,
        job.version.cast_signed(),
        schedule.anchor.as_micros(),
        micros(schedule.next_fire),
        micros(schedule.last_fire),
        schedule.missed.cast_signed(),
        job.created_at.as_micros(),
        job.updated_at.as_micros(),
    ];
    let expected = || format!("job {} or its name `{}` exists, or app {} does not", job.id, job.spec.name, job.app);
    expect_row(db, sql, values, expected)?;
    insert_revision(db, job)
}

fn insert_revision(db: &Connection, job: &Job) -> Result<(), StoreError> {
    let sql = "INSERT INTO job_revision (job_id, revision, saved_at, spec) VALUES (?1, ?2, ?3, ?4)";
    let spec = serde_json::to_string(&*job.spec).map_err(|error| StoreError::Conflict {
        what: format!("the definition of job {} cannot be written: {error}", job.id),
    })?;
    let values = params![job.id.0, job.revision.0, job.updated_at.as_micros(), spec];
    expect_row(db, sql, values, || format!("revision {} of job {} exists", job.revision.0, job.id))
}

fn update_job(db: &Connection, job: &Job) -> Result<(), StoreError> {
    let sql = "UPDATE job SET name = ?2, enabled = ?3, revision = ?4, version = ?5, anchor = ?6, next_fire = ?7,
                              last_fire = ?8, missed = ?9, updated_at = ?10
               WHERE id = ?1 AND version = ?5 - 1 AND app_id = ?11 AND revision <= ?4 AND deleted_at IS NULL";
    let schedule = &job.schedule;
    let values = params![
        job.id.0,
        job.spec.name,
        job.spec.enabled,
        job.revision.0,
        job.version.cast_signed(),
        schedule.anchor.as_micros(),
        micros(schedule.next_fire),
        micros(schedule.last_fire),
        schedule.missed.cast_signed(),
        job.updated_at.as_micros(),
        job.app.0,
    ];
    let before = job.version.wrapping_sub(1);
    let expected = || format!("job {} is not at version {before}, or `{}` is taken", job.id, job.spec.name);
    expect_row(db, sql, values, expected)?;

    let sql = "SELECT spec FROM job_revision WHERE job_id = ?1 AND revision = ?2";
    let mut statement = db.prepare_cached(sql).or_store_error()?;
    let kept = statement.query_row(params![job.id.0, job.revision.0], |row| Ok(rows::spec(&mut Columns::new(row))));
    match kept.optional().or_store_error()? {
        Some(Ok(spec)) if spec.runs_like(&job.spec) => return Ok(()),
        Some(Ok(_)) => {
            let what = format!("revision {} of job {} is another definition", job.revision.0, job.id);
            return Err(StoreError::Conflict { what });
        }
        // Saving the job again is how an unreadable definition is repaired.
        Some(Err(_)) => {
            let sql = "DELETE FROM job_revision WHERE job_id = ?1 AND revision = ?2";
            db.execute(sql, params![job.id.0, job.revision.0]).or_store_error()?;
        }
        None => {}
    }
    insert_revision(db, job)?;
    let sql = "UPDATE job_revision SET superseded = 1 WHERE job_id = ?1 AND revision < ?2 AND superseded = 0";
    let mut statement = db.prepare_cached(sql).or_store_error()?;
    statement.execute(params![job.id.0, job.revision.0]).or_store_error()?;
    Ok(())
}

fn delete_job(db: &Connection, id: JobId, version: u64, at: Timestamp) -> Result<(), StoreError> {
    let sql = "UPDATE job SET deleted_at = ?3, updated_at = ?3, next_fire = NULL
               WHERE id = ?1 AND version = ?2 AND deleted_at IS NULL";
    let values = params![id.0, version.cast_signed(), at.as_micros()];
    expect_row(db, sql, values, || format!("job {id} is not at version {version}"))
}

pub(super) const ADVANCE_SCHEDULE: &str = "
    UPDATE job SET anchor = ?3, next_fire = ?4, last_fire = ?5, missed = ?6
    WHERE id = ?1 AND next_fire IS ?2 AND deleted_at IS NULL AND (enabled = 1 OR ?4 IS NULL)";

fn advance_schedule(
    db: &Connection,
    id: JobId,
    expected_next: Option<Timestamp>,
    schedule: &ScheduleState,
) -> Result<(), StoreError> {
    let values = params![
        id.0,
        micros(expected_next),
        schedule.anchor.as_micros(),
        micros(schedule.next_fire),
        micros(schedule.last_fire),
        schedule.missed.cast_signed(),
    ];
    expect_row(db, ADVANCE_SCHEDULE, values, || format!("job {id} does not fire next at {expected_next:?}"))
}

fn record_gap(db: &Connection, job: JobId, gap: &Gap) -> Result<(), StoreError> {
    let sql = "INSERT INTO gap (job_id, first_fire, last_fire, fires, noticed_at) VALUES (?1, ?2, ?3, ?4, ?5)";
    let values =
        params![job.0, gap.from.as_micros(), gap.to.as_micros(), gap.count.cast_signed(), gap.noticed_at.as_micros(),];
    expect_row(db, sql, values, || format!("job {job} of a gap does not exist"))?;
    let sql = "DELETE FROM gap WHERE job_id = ?1 AND id <= (
                   SELECT id FROM gap WHERE job_id = ?1 ORDER BY id DESC LIMIT 1 OFFSET ?2)";
    let mut statement = db.prepare_cached(sql).or_store_error()?;
    statement.execute(params![job.0, GAPS_KEPT as i64]).or_store_error()?;
    Ok(())
}

// --- instances ------------------------------------------------------------------------------------------------------

pub(super) const REVISION_IS_KEPT: &str = "SELECT 1 FROM job_revision WHERE job_id = ?1 AND revision = ?2";

/// The definition that an instance runs must be kept. Not a part of the insert, which would make that a statement of
/// possibly many rows, for which SQLite keeps a journal of its own.
fn check_revision(db: &Connection, kept: &mut BTreeSet<(JobId, Revision)>, new: &Instance) -> Result<(), StoreError> {
    if kept.contains(&(new.job, new.revision)) {
        return Ok(());
    }
    let mut statement = db.prepare_cached(REVISION_IS_KEPT).or_store_error()?;
    if !statement.exists(params![new.job.0, new.revision.0]).or_store_error()? {
        let what = format!("revision {} of job {} is not kept", new.revision.0, new.job);
        return Err(StoreError::Conflict { what });
    }
    kept.insert((new.job, new.revision));
    Ok(())
}

pub(super) const INSERT_INSTANCE: &str = "
    INSERT INTO instance (
        id, partition, app_id, job_id, revision, origin, fire_time, missed_before, rerun_of, priority, created_at,
        due_at, expires_at, state, version, attempt, failures, losses, worker_name, worker_boot, dispatched_at,
        started_at, ended_at, prune_at, stop_cause, stop_deadline, reason, message, idempotency_key, params, placement,
        result_type, result)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?22, ?23,
            ?24, ?25, ?26, ?27, ?28, ?29, ?30, ?31, ?32, ?33)";

fn insert_instance(db: &Connection, new: &Instance, prune_at: Option<Timestamp>) -> Result<(), StoreError> {
    let (worker_name, worker_boot) = worker_columns(&new.worker);
    let values = params![
        new.id.0,
        new.id.partition().0,
        new.app.0,
        new.job.0,
        new.revision.0,
        new.origin.code(),
        micros(new.fire_time),
        new.missed_before,
        new.rerun_of.map(|id| id.0),
        new.priority,
        new.created_at.as_micros(),
        new.due_at.as_micros(),
        micros(new.expires_at),
        new.state.code(),
        new.version,
        new.attempt,
        new.failures,
        new.losses,
        worker_name,
        worker_boot,
        micros(new.dispatched_at),
        micros(new.started_at),
        micros(new.ended_at),
        micros(prune_at),
        new.stop_cause.map(|cause| cause.code()),
        micros(new.stop_deadline),
        new.reason.as_ref().map(Reason::as_str),
        new.message.as_deref(),
        new.idempotency_key.as_deref(),
        new.params.as_deref(),
        new.placement.as_deref(),
        new.result.as_ref().map(|result| result.content_type.as_str()),
        new.result.as_ref().map(|result| result.bytes.as_slice()),
    ];
    expect_row(db, INSERT_INSTANCE, values, || {
        format!(
            "instance {} of job {} (fire time {:?}, idempotency key {:?}) exists",
            new.id, new.job, new.fire_time, new.idempotency_key
        )
    })
}

/// Touches no column of an index but `state`, which is in those of the unsuccessful only.
pub(super) const UPDATE_INSTANCE: &str = "
    UPDATE instance SET due_at = ?3, expires_at = ?4, state = ?5, version = ?2, attempt = ?6, failures = ?7,
        losses = ?8, worker_name = ?9, worker_boot = ?10, dispatched_at = ?11, started_at = ?12, stop_cause = ?13,
        stop_deadline = ?14, reason = ?15, message = ?16, placement = ?17, result_type = ?18, result = ?19
    WHERE id = ?1 AND version = ?2 - 1 AND ended_at IS NULL";

fn update_instance(db: &Connection, new: &Instance) -> Result<(), StoreError> {
    let (worker_name, worker_boot) = worker_columns(&new.worker);
    let values = params![
        new.id.0,
        new.version,
        new.due_at.as_micros(),
        micros(new.expires_at),
        new.state.code(),
        new.attempt,
        new.failures,
        new.losses,
        worker_name,
        worker_boot,
        micros(new.dispatched_at),
        micros(new.started_at),
        new.stop_cause.map(|cause| cause.code()),
        micros(new.stop_deadline),
        new.reason.as_ref().map(Reason::as_str),
        new.message.as_deref(),
        new.placement.as_deref(),
        new.result.as_ref().map(|result| result.content_type.as_str()),
        new.result.as_ref().map(|result| result.bytes.as_slice()),
    ];
    expect_row(db, UPDATE_INSTANCE, values, || not_expected(new))
}

pub(super) const END_INSTANCE: &str = "
    UPDATE instance SET due_at = ?3, expires_at = ?4, state = ?5, version = ?2, attempt = ?6, failures = ?7,
        losses = ?8, worker_name = ?9, worker_boot = ?10, dispatched_at = ?11, started_at = ?12, stop_cause = NULL,
        stop_deadline = ?13, reason = ?14, message = ?15, placement = ?16, result_type = ?17, result = ?18,
        ended_at = ?19, prune_at = ?20
    WHERE id = ?1 AND version = ?2 - 1 AND ended_at IS NULL";

fn end_instance(db: &Connection, new: &Instance, prune_at: Timestamp) -> Result<(), StoreError> {
    let (worker_name, worker_boot) = worker_columns(&new.worker);
    let values = params![
        new.id.0,
        new.version,
        new.due_at.as_micros(),
        micros(new.expires_at),
        new.state.code(),
        new.attempt,
        new.failures,
        new.losses,
        worker_name,
        worker_boot,
        micros(new.dispatched_at),
        micros(new.started_at),
        micros(new.stop_deadline),
        new.reason.as_ref().map(Reason::as_str),
        new.message.as_deref(),
        new.placement.as_deref(),
        new.result.as_ref().map(|result| result.content_type.as_str()),
        new.result.as_ref().map(|result| result.bytes.as_slice()),
        micros(new.ended_at),
        prune_at.as_micros(),
    ];
    expect_row(db, END_INSTANCE, values, || not_expected(new))
}

fn not_expected(new: &Instance) -> String {
    format!("instance {} has ended or is not at version {}", new.id, new.version.wrapping_sub(1))
}

/// Ends a row whatever is in it, and replaces what no reader would understand, so that it shows in listings again.
const QUARANTINE_INSTANCE: &str = "
    UPDATE instance SET state = 4, ended_at = ?2, prune_at = ?3, reason = ?4, message = ?5, stop_cause = NULL,
        stop_deadline = NULL,
        version = min(max(version, 0), 4294967294) + 1,
        revision = min(max(revision, 0), 4294967295),
        origin = CASE WHEN origin BETWEEN 1 AND 3 THEN origin ELSE 1 END,
        missed_before = min(max(missed_before, 0), 4294967295),
        priority = min(max(priority, -128), 127),
        attempt = min(max(attempt, 0), 4294967295),
        failures = min(max(failures, 0), 4294967295),
        losses = min(max(losses, 0), 4294967295),
        worker_name = CASE WHEN worker_boot IS NOT NULL THEN worker_name END,
        worker_boot = CASE WHEN worker_name IS NOT NULL THEN worker_boot END,
        params = CASE WHEN json_valid(params) THEN params END,
        placement = CASE WHEN json_valid(placement) THEN placement END,
        result_type = CASE WHEN result IS NOT NULL THEN result_type END,
        result = CASE WHEN result_type IS NOT NULL THEN result END
    WHERE id = ?1 AND ended_at IS NULL";

fn quarantine_instance(
    db: &Connection,
    id: InstanceId,
    at: Timestamp,
    why: &str,
    prune_at: Timestamp,
) -> Result<(), StoreError> {
    let message = limits::cut(why, limits::MESSAGE_BYTES);
    let values = params![id.0, at.as_micros(), prune_at.as_micros(), Reason::QUARANTINED.as_str(), message];
    expect_row(db, QUARANTINE_INSTANCE, values, || format!("instance {id} has ended"))?;
    tasks::drop_unreadable_fanout(db, id)
}

fn insert_past_attempt(db: &Connection, past: &PastAttempt) -> Result<(), StoreError> {
    let sql = "INSERT INTO past_attempt (instance_id, task_id, attempt, state, worker_name, worker_boot, placement,
                                         dispatched_at, started_at, ended_at, reason, message)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)";
    let (worker_name, worker_boot) = worker_columns(&past.worker);
    let values = params![
        past.instance.0,
        stored_task(past.task),
        past.attempt,
        past.state.code(),
        worker_name,
        worker_boot,
        past.placement.as_deref(),
        micros(past.dispatched_at),
        micros(past.started_at),
        past.ended_at.as_micros(),
        past.reason.as_str(),
        past.message.as_deref(),
    ];
    let expected = || {
        format!(
            "attempt {} of task {}/{} is kept already, or the instance is not",
            past.attempt, past.instance, past.task
        )
    };
    expect_row(db, sql, values, expected)
}
