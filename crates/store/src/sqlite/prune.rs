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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sqlite::open::STATE;

    /// A database with one ended instance that has tasks, and another one after it.
    fn due(tasks: usize) -> Connection {
        let mut db = Connection::open_in_memory().unwrap();
        STATE.migrate(&mut db, Timestamp::MIN, |_| Ok(())).unwrap();
        db.execute("INSERT INTO meta VALUES ('last_deleted_id', '0')", []).unwrap();
        let sql = "INSERT INTO instance (id, partition, app_id, job_id, revision, origin, missed_before, priority,
                       created_at, due_at, state, version, attempt, failures, losses, ended_at, prune_at)
                   VALUES (?1, 0, 9, 1, 1, 1, 0, 0, 0, 0, 5, 1, 0, 0, 0, 1, ?1)";
        db.execute(sql, [1]).unwrap();
        db.execute(sql, [2]).unwrap();
        let sql = "INSERT INTO fanout VALUES (1, 1, 2, ?1, ?1, 0, 0, 0, 0, 0, ?1, 0, NULL, 0, NULL)";
        db.execute(sql, [tasks as i64]).unwrap();
        let sql = "WITH RECURSIVE number (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM number WHERE n < ?1 - 1)
                   INSERT INTO task (instance_id, id, role, state, version, attempt, failures, losses, emitted, due_at,
                       name)
                   SELECT 1, n, 2, 1, 1, 0, 0, 0, 0, 0, '' FROM number";
        db.execute(sql, [tasks as i64]).unwrap();
        db
    }

    fn count(db: &Connection, sql: &'static str) -> usize {
        db.query_row(sql, [], |row| row.get::<_, isize>(0)).unwrap().unsigned_abs()
    }

    const TASKS: &str = "SELECT count(*) FROM task";

    #[test]
    fn an_instance_with_many_tasks_goes_in_steps() {
        let db = due(2 * ROWS + 5);
        let now = Timestamp::from_micros(10);
        for left in [ROWS + 5, 5] {
            assert_eq!(step(&db, now, 10).unwrap(), None);
            assert_eq!(count(&db, TASKS), left);
            // It is still there, and says that its tasks are not.
            assert_eq!(count(&db, "SELECT count(*) FROM instance"), 2);
            assert_eq!(count(&db, "SELECT count(*) FROM fanout"), 0);
        }
        let gone = [(AppId(9), InstanceId(1)), (AppId(9), InstanceId(2))];
        assert_eq!(step(&db, now, 10).unwrap().unwrap(), gone);
        assert_eq!((count(&db, TASKS), count(&db, "SELECT count(*) FROM instance")), (0, 0));
        assert_eq!(step(&db, now, 10).unwrap().unwrap(), []);
    }

    #[test]
    fn a_step_that_deletes_as_much_as_it_may_is_followed_by_one_that_ends() {
        let db = due(ROWS);
        assert_eq!(step(&db, Timestamp::MIN, 10).unwrap().unwrap(), []);
        assert_eq!(count(&db, TASKS), ROWS);
        let now = Timestamp::from_micros(1);
        assert_eq!(step(&db, now, 10).unwrap(), None);
        assert_eq!(step(&db, now, 10).unwrap().unwrap(), [(AppId(9), InstanceId(1))]);
        assert_eq!(count(&db, "SELECT count(*) FROM instance"), 1);
    }
}
