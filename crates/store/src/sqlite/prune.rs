//! Forgetting what retention no longer wants.

use pendula_model::{AppId, InstanceId, Timestamp};
use rusqlite::{Connection, params};

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

pub(super) fn prune(db: &Connection, now: Timestamp, limit: usize) -> Result<Vec<(AppId, InstanceId)>, StoreError> {
    let gone = {
        let mut statement = db.prepare_cached(PRUNABLE).or_store_error()?;
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let rows = statement
            .query_map(params![now.as_micros(), limit], |row| Ok((AppId(row.get(0)?), InstanceId(row.get(1)?))));
        rows.or_store_error()?.collect::<Result<Vec<_>, _>>().or_store_error()?
    };
    let mut delete = db.prepare_cached("DELETE FROM instance WHERE id = ?1").or_store_error()?;
    for (_, id) in &gone {
        delete.execute([id.0]).or_store_error()?;
    }
    db.prepare_cached(UNUSED_REVISIONS).and_then(|mut statement| statement.execute([])).or_store_error()?;
    let jobs = {
        let mut statement = db.prepare_cached(FINISHED_JOBS).or_store_error()?;
        let rows = statement.query_map([], |row| row.get::<_, i64>(0)).or_store_error()?;
        rows.collect::<Result<Vec<_>, _>>().or_store_error()?
    };
    let mut delete = db.prepare_cached("DELETE FROM job WHERE id = ?1").or_store_error()?;
    for id in &jobs {
        delete.execute([id]).or_store_error()?;
    }
    if let Some(largest) = gone.iter().map(|(_, id)| id.0).chain(jobs).max() {
        remember_deleted(db, largest)?;
    }
    Ok(gone)
}
