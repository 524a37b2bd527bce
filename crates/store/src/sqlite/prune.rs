//! Forgetting what retention no longer wants.

use pendula_model::{AppId, InstanceId, Timestamp};
use rusqlite::{Connection, OptionalExtension, Params, params};

use super::commit::remember_deleted;
use super::error::OrStoreError;
use crate::port::StoreError;

/// Index `instance_prune`.
pub(super) const PRUNABLE: &str = "SELECT app_id, id FROM instance WHERE prune_at <= ?1 ORDER BY prune_at, id LIMIT ?2";

/// Revisions that no instance can refer to: an instance is fired with the newest revision, so older ones than that of
/// the job's oldest instance are used by none; active instances are looked at all the same. Indexes
/// `job_revision_superseded`, `instance_by_job`, `instance_active`.
pub(super) const UNUSED_REVISIONS: &str = "
    DELETE FROM job_revision WHERE superseded = 1
        AND NOT EXISTS (
            SELECT 1 FROM instance WHERE id = (SELECT min(id) FROM instance WHERE job_id = job_revision.job_id)
                AND instance.revision <= job_revision.revision)
        AND NOT EXISTS (
            SELECT 1 FROM job JOIN instance ON instance.partition = job.partition AND instance.app_id = job.app_id
                AND instance.job_id = job.id AND instance.ended_at IS NULL
            WHERE job.id = job_revision.job_id AND instance.revision = job_revision.revision)";

/// Deleted jobs without instances. Indexes `job_deleted`, `instance_by_job`.
pub(super) const FINISHED_JOBS: &str = "
    SELECT id FROM job WHERE deleted_at IS NOT NULL
        AND NOT EXISTS (SELECT 1 FROM instance WHERE job_id = job.id)";

/// Rows of tasks and attempts that one step deletes at most: some milliseconds, for which others wait.
pub(super) const ROWS: usize = 2_000;

/// The first of the tasks that a step leaves. Primary key; reads no task's own columns.
pub(super) const FIRST_TASK_LEFT: &str = "SELECT id FROM task WHERE instance_id = ?1 ORDER BY id LIMIT 1 OFFSET ?2";

/// The task of the first of the attempts that a step leaves. Primary key.
pub(super) const FIRST_ATTEMPT_LEFT: &str = "
    SELECT task_id FROM past_attempt WHERE instance_id = ?1 ORDER BY task_id, attempt LIMIT 1 OFFSET ?2";

pub(super) const DELETE_TASKS: &str = "DELETE FROM task WHERE instance_id = ?1 AND id < ?2";
/// A task's attempts go together: a user's policy allows few.
pub(super) const DELETE_ATTEMPTS: &str = "DELETE FROM past_attempt WHERE instance_id = ?1 AND task_id <= ?2";

/// One transaction's worth of [`Store::prune`](crate::Store::prune): the instances that went, or nothing when it must be
/// called again first, because those that are due have more rows than one step deletes.
pub(super) fn step(
    db: &Connection,
    now: Timestamp,
    limit: usize,
) -> Result<Option<Vec<(AppId, InstanceId)>>, StoreError> {
    let gone = {
        let mut statement = db.prepare_cached(PRUNABLE).or_store_error()?;
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let rows = statement
            .query_map(params![now.as_micros(), limit], |row| Ok((AppId(row.get(0)?), InstanceId(row.get(1)?))));
        rows.or_store_error()?.collect::<Result<Vec<_>, _>>().or_store_error()?
    };
    let mut left = ROWS;
    for (_, id) in &gone {
        // First of all: who reads the tasks of another instance sees by this that they are not all there any more.
        execute(db, "DELETE FROM fanout WHERE instance_id = ?1", params![id.0])?;
        left = delete_some(db, *id, (FIRST_TASK_LEFT, DELETE_TASKS), left)?;
        left = delete_some(db, *id, (FIRST_ATTEMPT_LEFT, DELETE_ATTEMPTS), left)?;
        if left == 0 {
            return Ok(None);
        }
    }
    let mut delete = db.prepare_cached("DELETE FROM instance WHERE id = ?1").or_store_error()?;
    for (_, id) in &gone {
        delete.execute([id.0]).or_store_error()?;
    }
    forget_definitions(db, &gone)?;
    Ok(Some(gone))
}

/// Deletes the first `left` rows of an instance from one table, or all if there are fewer. Returns how many more may go
/// in this step.
fn delete_some(
    db: &Connection,
    id: InstanceId,
    (first_left, delete): (&'static str, &'static str),
    left: usize,
) -> Result<usize, StoreError> {
    if left == 0 {
        return Ok(0);
    }
    let offset = i64::try_from(left).unwrap_or(i64::MAX);
    let mut statement = db.prepare_cached(first_left).or_store_error()?;
    let first: Option<i64> =
        statement.query_row(params![id.0, offset], |row| row.get(0)).optional().or_store_error()?;
    let deleted = execute(db, delete, params![id.0, first.unwrap_or(i64::MAX)])?;
    Ok(if first.is_some() { 0 } else { left.saturating_sub(deleted) })
}

/// Revisions and deleted jobs that nothing refers to any more, now that the instances in `gone` are deleted.
fn forget_definitions(db: &Connection, gone: &[(AppId, InstanceId)]) -> Result<(), StoreError> {
    execute(db, UNUSED_REVISIONS, [])?;
    let jobs = {
        let mut statement = db.prepare_cached(FINISHED_JOBS).or_store_error()?;
        let rows = statement.query_map([], |row| row.get::<_, i64>(0)).or_store_error()?;
        rows.collect::<Result<Vec<_>, _>>().or_store_error()?
    };
    for id in &jobs {
        execute(db, "DELETE FROM job WHERE id = ?1", [id])?;
    }
    if let Some(largest) = gone.iter().map(|(_, id)| id.0).chain(jobs).max() {
        remember_deleted(db, largest)?;
    }
    Ok(())
}

fn execute(db: &Connection, sql: &'static str, values: impl Params) -> Result<usize, StoreError> {
    db.prepare_cached(sql).and_then(|mut statement| statement.execute(values)).or_store_error()
}
