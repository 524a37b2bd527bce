//! Questions about jobs.

use std::sync::Arc;

use pendula_model::change::Gap;
use pendula_model::job::{Job, JobSpec};
use pendula_model::{AppId, JobId, PartitionId, Revision, Timestamp};
use rusqlite::{Connection, params};

use super::load;
use crate::memory::page;
use crate::port::{JobFilter, Page, StoreError};
use crate::rows::{self, job_columns, job_tables};
use crate::unreadable::{Kind, UnreadableRows};

/// Index `job_due`.
pub(super) const DUE: &str =
    concat!(
    "SELECT ", job_columns!(), " FROM ", job_tables!(),
    " WHERE job.partition = ?1 AND job.next_fire < ?2 AND job.next_fire >= ?3 AND (job.next_fire > ?3 OR job.id > ?4)
      ORDER BY job.next_fire, job.id"
);

pub(super) fn due(
    db: &Connection,
    unreadable: &UnreadableRows,
    partition: PartitionId,
    until: Timestamp,
    after: Option<(Timestamp, JobId)>,
    limit: usize,
) -> Result<Vec<Job>, StoreError> {
    let (at, id) = after.unwrap_or((Timestamp::MIN, JobId(i64::MIN)));
    let values = params![partition.0, until.as_micros(), at.as_micros(), id.0];
    // No LIMIT: unreadable rows do not count, and rows are made as they are read.
    unreadable.read_all(db, Kind::Job, DUE, values, limit, rows::job)
}

pub(super) fn by_id(db: &Connection, unreadable: &UnreadableRows, id: JobId) -> Result<Option<Job>, StoreError> {
    unreadable.read_one(db, Kind::Job, load::JOB, [id.0], rows::job)
}

/// Index `job_name`.
pub(super) const BY_NAME: &str = concat!(
    "SELECT ",
    job_columns!(),
    " FROM ",
    job_tables!(),
    " WHERE job.app_id = ?1 AND job.name = ?2 AND job.deleted_at IS NULL"
);

pub(super) fn by_name(
    db: &Connection,
    unreadable: &UnreadableRows,
    app: AppId,
    name: &str,
) -> Result<Option<Job>, StoreError> {
    unreadable.read_one(db, Kind::Job, BY_NAME, params![app.0, name], rows::job)
}

/// Conditions of the listings, beside the cursor: ?3 enabled, ?4 part of the name.
macro_rules! wanted {
    () => {
        " AND job.deleted_at IS NULL AND (?3 IS NULL OR job.enabled = ?3) \
          AND (?4 IS NULL OR instr(lower(job.name), lower(?4)) > 0) \
          ORDER BY job.app_id, job.name"
    };
}

/// Index `job_name`; ?1 and ?2 are the cursor.
pub(super) const OF_ALL_APPS: &str =
    concat!("SELECT ", job_columns!(), " FROM ", job_tables!(), " WHERE (job.app_id, job.name) > (?1, ?2)", wanted!());

/// Index `job_name`; ?1 is the app, ?2 the cursor.
pub(super) const OF_APP: &str =
    concat!("SELECT ", job_columns!(), " FROM ", job_tables!(), " WHERE job.app_id = ?1 AND job.name > ?2", wanted!());

pub(super) fn list(db: &Connection, unreadable: &UnreadableRows, filter: &JobFilter) -> Result<Page<Job>, StoreError> {
    let enabled = filter.enabled;
    let part = filter.name_contains.as_deref();
    let after = filter.after.as_ref().map_or((AppId(i64::MIN), ""), |(app, name)| (*app, name.as_str()));
    let (sql, app, name) = match filter.app {
        None => (OF_ALL_APPS, after.0, after.1),
        Some(app) if after.0 == app => (OF_APP, app, after.1),
        // The cursor lies in another app: all of this one comes after it, or none.
        Some(app) if after.0 < app => (OF_APP, app, ""),
        Some(_) => return Ok(Page { items: Vec::new(), more: false }),
    };
    let values = params![app.0, name, enabled, part];
    let jobs = unreadable.read_all(db, Kind::Job, sql, values, filter.limit.saturating_add(1), rows::job)?;
    Ok(page(jobs, filter.limit))
}

/// Index `job_revision_key`.
pub(super) const REVISIONS: &str = "
    SELECT job_id, revision, saved_at, spec FROM job_revision WHERE job_id = ?1 ORDER BY revision DESC";

pub(super) fn revisions(
    db: &Connection,
    unreadable: &UnreadableRows,
    id: JobId,
    limit: usize,
) -> Result<Vec<(Revision, Timestamp, Arc<JobSpec>)>, StoreError> {
    unreadable.read_all(db, Kind::Revision, REVISIONS, [id.0], limit, |columns| {
        columns.int()?;
        rows::revision(columns)
    })
}

/// Index `gap_by_job`.
pub(super) const GAPS: &str = "
    SELECT job_id, first_fire, last_fire, fires, noticed_at FROM gap WHERE job_id = ?1 ORDER BY id DESC";

pub(super) fn gaps(
    db: &Connection,
    unreadable: &UnreadableRows,
    id: JobId,
    limit: usize,
) -> Result<Vec<Gap>, StoreError> {
    unreadable.read_all(db, Kind::Gap, GAPS, [id.0], limit, |columns| {
        columns.int()?;
        rows::gap(columns)
    })
}
