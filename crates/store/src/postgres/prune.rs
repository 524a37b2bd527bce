//! Forgetting what retention no longer wants.

use deadpool_postgres::Object;
use pendula_model::{AppId, InstanceId, Timestamp};

use super::error::OrStoreError;
use super::read::{execute, query};
use super::values::{Value, ints};
use crate::port::StoreError;

/// Index `ended_instance_prune`.
pub(super) const PRUNABLE: &str = "
    SELECT app_id, id FROM ended_instance WHERE prune_at <= $1 ORDER BY prune_at, id LIMIT $2";

/// Rows of tasks and attempts that one statement deletes at most: some milliseconds.
pub(super) const ROWS: usize = 2_000;

pub(super) const DELETE_FANOUTS: &str = "DELETE FROM fanout WHERE instance_id = ANY($1)";

/// Primary key.
pub(super) const DELETE_TASKS: &str = "
    DELETE FROM task USING (SELECT t.instance_id, t.id FROM task t WHERE t.instance_id = ANY($1) LIMIT $2) AS gone
    WHERE task.instance_id = gone.instance_id AND task.id = gone.id";

/// Primary key.
pub(super) const DELETE_ATTEMPTS: &str = "
    DELETE FROM past_attempt USING (
        SELECT t.instance_id, t.task_id, t.attempt FROM past_attempt t WHERE t.instance_id = ANY($1) LIMIT $2) AS gone
    WHERE past_attempt.instance_id = gone.instance_id AND past_attempt.task_id = gone.task_id
        AND past_attempt.attempt = gone.attempt";

/// Primary key.
pub(super) const DELETE_INSTANCES: &str = "DELETE FROM ended_instance WHERE id = ANY($1) RETURNING id";

/// Revisions that no instance can refer to: an instance is fired with the newest revision, so older ones than that of
/// the job's oldest instance are used by none; active instances are looked at all the same. Indexes
/// `job_revision_superseded`, `ended_instance_by_job`, `instance_by_job`.
pub(super) const UNUSED_REVISIONS: &str = "
    DELETE FROM job_revision USING (
        SELECT r.job_id, r.revision,
            (SELECT e.id FROM ended_instance e WHERE e.job_id = r.job_id ORDER BY e.id LIMIT 1) AS oldest_ended,
            (SELECT i.id FROM instance i WHERE i.partition = j.partition AND i.app_id = j.app_id AND i.job_id = j.id
             ORDER BY i.id LIMIT 1) AS oldest_active
        FROM job_revision r JOIN job j ON j.id = r.job_id WHERE r.superseded) AS old
    WHERE job_revision.job_id = old.job_id AND job_revision.revision = old.revision
        AND NOT EXISTS (
            SELECT 1 FROM ended_instance e WHERE e.id = old.oldest_ended AND e.revision <= old.revision
                AND (old.oldest_active IS NULL OR e.id < old.oldest_active))
        AND NOT EXISTS (
            SELECT 1 FROM instance i WHERE i.id = old.oldest_active AND i.revision <= old.revision
                AND (old.oldest_ended IS NULL OR i.id < old.oldest_ended))
        AND NOT EXISTS (
            SELECT 1 FROM job j JOIN instance i ON i.partition = j.partition AND i.app_id = j.app_id AND i.job_id = j.id
            WHERE j.id = old.job_id AND i.revision = old.revision)";

/// Deleted jobs without instances. Indexes `job_deleted`, `ended_instance_by_job`, `instance_by_job`.
pub(super) const FINISHED_JOBS: &str = "
    SELECT id FROM job WHERE deleted_at IS NOT NULL
        AND NOT EXISTS (SELECT 1 FROM ended_instance e WHERE e.job_id = job.id)
        AND NOT EXISTS (
            SELECT 1 FROM instance i WHERE i.partition = job.partition AND i.app_id = job.app_id AND i.job_id = job.id)";

/// What belongs to the jobs and goes before them.
const OF_JOBS: [&str; 3] = [
    "DELETE FROM gap WHERE job_id = ANY($1)",
    "DELETE FROM job_revision WHERE job_id = ANY($1)",
    "DELETE FROM job WHERE id = ANY($1)",
];

/// [`Store::prune`](crate::Store::prune). Each statement is a transaction of its own, and what an instance has goes before
/// it, so that the next call goes on where this one ends.
pub(super) async fn prune(
    client: &mut Object,
    now: Timestamp,
    limit: usize,
) -> Result<Vec<(AppId, InstanceId)>, StoreError> {
    let due = query(client, PRUNABLE, &[Value::time(now), Value::count(limit)]).await?;
    let key = |row: &tokio_postgres::Row| Ok((AppId(row.try_get(0)?), InstanceId(row.try_get(1)?)));
    let mut gone: Vec<_> = due.iter().map(key).collect::<Result<_, _>>().or_store_error()?;
    if !gone.is_empty() {
        let ids = ints(&gone, |(_, id)| id.0);
        // First of all: who reads the tasks of another instance sees by this that they are not all there any more.
        execute(client, DELETE_FANOUTS, std::slice::from_ref(&ids)).await?;
        for sql in [DELETE_TASKS, DELETE_ATTEMPTS] {
            let values = [ids.clone(), Value::count(ROWS)];
            while execute(client, sql, &values).await? >= ROWS as u64 {}
        }
        // Another server may be at it too; each row is told by one of them.
        let deleted = query(client, DELETE_INSTANCES, &[ids]).await?;
        let deleted = deleted.iter().map(|row| row.try_get(0).map(InstanceId));
        let deleted: std::collections::BTreeSet<_> = deleted.collect::<Result<_, _>>().or_store_error()?;
        gone.retain(|(_, id)| deleted.contains(id));
    }
    forget_definitions(client).await?;
    Ok(gone)
}

/// Revisions and deleted jobs that nothing refers to any more.
async fn forget_definitions(client: &mut Object) -> Result<(), StoreError> {
    execute(client, UNUSED_REVISIONS, &[]).await?;
    let jobs = query(client, FINISHED_JOBS, &[]).await?;
    let jobs: Vec<i64> = jobs.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>().or_store_error()?;
    if jobs.is_empty() {
        return Ok(());
    }
    let transaction = client.transaction().await.or_store_error()?;
    for sql in OF_JOBS {
        execute(&transaction, sql, &[ints(&jobs, |id| *id)]).await?;
    }
    transaction.commit().await.or_store_error()
}
