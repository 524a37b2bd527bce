//! Questions about jobs.

use std::sync::Arc;

use deadpool_postgres::Object;
use pendula_model::change::Gap;
use pendula_model::job::{Job, JobSpec};
use pendula_model::{AppId, JobId, PartitionId, Revision, Timestamp};
use tokio_postgres::Row;

use super::error::OrStoreError;
use super::read::{page as size, query};
use super::values::Value;
use crate::memory::page;
use crate::port::{JobFilter, Page, StoreError};
use crate::rows::{self, job_columns, job_tables};
use crate::unreadable::{Kind, UnreadableRows};

/// Index `job_due`. The cursor is `$3` and `$4`.
pub(super) const DUE: &str = concat!(
    "SELECT ",
    job_columns!(),
    " FROM ",
    job_tables!(),
    " WHERE job.partition = $1 AND job.next_fire < $2 AND (job.next_fire, job.id) > ($3, $4)
      ORDER BY job.next_fire, job.id LIMIT $5"
);

pub(super) async fn due(
    client: &Object,
    unreadable: &UnreadableRows,
    partition: PartitionId,
    until: Timestamp,
    after: Option<(Timestamp, JobId)>,
    limit: usize,
) -> Result<Vec<Job>, StoreError> {
    let mut after = after.map_or((i64::MIN, i64::MIN), |(at, id)| (at.as_micros(), id.0));
    let mut jobs = Vec::new();
    while jobs.len() < limit {
        let asked = size(limit - jobs.len());
        let values = [
            Value::Short(partition.0.into()),
            Value::time(until),
            Value::Int(after.0),
            Value::Int(after.1),
            Value::count(asked),
        ];
        let rows = query(client, DUE, &values).await?;
        jobs.extend(unreadable.sift(Kind::Job, &rows, rows::job)?);
        let Some(last) = rows.last().filter(|_| rows.len() == asked) else { break };
        after = (last.try_get("next_fire").or_store_error()?, last.try_get("id").or_store_error()?);
    }
    Ok(jobs)
}

pub(super) const BY_ID: &str = concat!("SELECT ", job_columns!(), " FROM ", job_tables!(), " WHERE job.id = $1");

pub(super) async fn by_id(client: &Object, unreadable: &UnreadableRows, id: JobId) -> Result<Option<Job>, StoreError> {
    unreadable.only(Kind::Job, &query(client, BY_ID, &[Value::Int(id.0)]).await?, rows::job)
}

/// Index `job_name`.
pub(super) const BY_NAME: &str = concat!(
    "SELECT ",
    job_columns!(),
    " FROM ",
    job_tables!(),
    " WHERE job.app_id = $1 AND job.name = $2 AND job.deleted_at IS NULL"
);

pub(super) async fn by_name(
    client: &Object,
    unreadable: &UnreadableRows,
    app: AppId,
    name: &str,
) -> Result<Option<Job>, StoreError> {
    let rows = query(client, BY_NAME, &[Value::Int(app.0), Value::text(name)]).await?;
    unreadable.only(Kind::Job, &rows, rows::job)
}

/// Conditions of the listings, beside the cursor: `$3` enabled, `$4` part of the name in lower case, `$5` limit.
macro_rules! wanted {
    () => {
        " AND job.deleted_at IS NULL AND ($3::boolean IS NULL OR job.enabled = $3)
          AND ($4::text IS NULL OR strpos(lower(job.name), $4) > 0)
          ORDER BY job.app_id, job.name LIMIT $5"
    };
}

/// Index `job_name`; `$1` and `$2` are the cursor.
pub(super) const OF_ALL_APPS: &str =
    concat!("SELECT ", job_columns!(), " FROM ", job_tables!(), " WHERE (job.app_id, job.name) > ($1, $2)", wanted!());

/// Index `job_name`; `$1` is the app, `$2` the cursor.
pub(super) const OF_APP: &str =
    concat!("SELECT ", job_columns!(), " FROM ", job_tables!(), " WHERE job.app_id = $1 AND job.name > $2", wanted!());

pub(super) async fn list(
    client: &Object,
    unreadable: &UnreadableRows,
    filter: &JobFilter,
) -> Result<Page<Job>, StoreError> {
    let part = filter.name_contains.as_deref().map(str::to_ascii_lowercase);
    let after = filter.after.as_ref().map_or((AppId(i64::MIN), ""), |(app, name)| (*app, name.as_str()));
    let (sql, app, name) = match filter.app {
        None => (OF_ALL_APPS, after.0, after.1),
        Some(app) if after.0 == app => (OF_APP, app, after.1),
        // The cursor lies in another app: all of this one come after it, or none.
        Some(app) if after.0 < app => (OF_APP, app, ""),
        Some(_) => return Ok(Page { items: Vec::new(), more: false }),
    };
    let wanted = filter.limit.saturating_add(1);
    let (mut app, mut name) = (app.0, name.to_owned());
    let mut jobs = Vec::new();
    while jobs.len() < wanted {
        let asked = size(wanted - jobs.len());
        let values = [
            Value::Int(app),
            Value::text(&name),
            Value::OptFlag(filter.enabled),
            Value::OptText(part.as_deref().map(super::values::storable)),
            Value::count(asked),
        ];
        let rows = query(client, sql, &values).await?;
        jobs.extend(unreadable.sift(Kind::Job, &rows, rows::job)?);
        let Some(last) = rows.last().filter(|_| rows.len() == asked) else { break };
        let cursor: (i64, String) = (last.try_get("app_id").or_store_error()?, last.try_get("name").or_store_error()?);
        // In a listing of one app, it stays.
        app = if filter.app.is_none() { cursor.0 } else { app };
        name = cursor.1;
    }
    Ok(page(jobs, filter.limit))
}

/// Primary key.
pub(super) const REVISIONS: &str = "
    SELECT job_id, revision, saved_at, spec FROM job_revision
    WHERE job_id = $1 AND revision < $2 ORDER BY revision DESC LIMIT $3";

pub(super) async fn revisions(
    client: &Object,
    unreadable: &UnreadableRows,
    id: JobId,
    limit: usize,
) -> Result<Vec<(Revision, Timestamp, Arc<JobSpec>)>, StoreError> {
    of_job(client, unreadable, (Kind::Revision, REVISIONS), id, limit, |columns| {
        columns.int()?;
        rows::revision(columns)
    })
    .await
}

/// Primary key.
pub(super) const GAPS: &str = "
    SELECT job_id, number, first_fire, last_fire, fires, noticed_at FROM gap
    WHERE job_id = $1 AND number < $2 ORDER BY number DESC LIMIT $3";

pub(super) async fn gaps(
    client: &Object,
    unreadable: &UnreadableRows,
    id: JobId,
    limit: usize,
) -> Result<Vec<Gap>, StoreError> {
    of_job(client, unreadable, (Kind::Gap, GAPS), id, limit, |columns| {
        columns.int()?;
        columns.int()?;
        rows::gap(columns)
    })
    .await
}

/// Rows of a job, newest first; the second column is the cursor.
async fn of_job<T>(
    client: &Object,
    unreadable: &UnreadableRows,
    (kind, sql): (Kind, &'static str),
    id: JobId,
    limit: usize,
    parse: impl Fn(&mut rows::Columns<'_>) -> Result<T, rows::Unreadable>,
) -> Result<Vec<T>, StoreError> {
    let mut items = Vec::new();
    let mut below = i64::MAX;
    while items.len() < limit {
        let asked = size(limit - items.len());
        let rows: Vec<Row> = query(client, sql, &[Value::Int(id.0), Value::Int(below), Value::count(asked)]).await?;
        items.extend(unreadable.sift(kind, &rows, &parse)?);
        let Some(last) = rows.last().filter(|_| rows.len() == asked) else { break };
        below = last.try_get(1).or_store_error()?;
    }
    Ok(items)
}
