//! Questions about instances.
//!
//! What is under way and what has ended lie in two tables. A listing is merged from sources, each a fixed query with an
//! index of its own that gives the newest first; which ones depends on the states that are wanted. What is under way and
//! what went wrong is little; only a listing that includes what succeeded walks through history.

use deadpool_postgres::Object;
use pendula_model::instance::{Instance, InstanceState, PastAttempt};
use pendula_model::{AppId, InstanceId, TaskId, Timestamp};
use tokio_postgres::Row;

use super::error::OrStoreError;
use super::read::{at_one_moment, page as size, query};
use super::values::{Value, stored_task};
use crate::memory::page;
use crate::port::{InstanceFilter, Page, StoreError};
use crate::rows;
use crate::unreadable::{Kind, UnreadableRows};

/// Columns of `instance`, as [`rows::instance`] reads them.
macro_rules! active_columns {
    () => {
        "id, app_id, job_id, revision, origin, fire_time, missed_before, rerun_of, idempotency_key, params, priority, \
         created_at, due_at, expires_at, state, version, attempt, failures, losses, worker_name, worker_boot, \
         placement, dispatched_at, started_at, NULL::bigint AS ended_at, stop_cause, stop_deadline, reason, message, \
         result_type, result"
    };
}

/// The same of `ended_instance`.
macro_rules! ended_columns {
    () => {
        "id, app_id, job_id, revision, origin, fire_time, missed_before, rerun_of, idempotency_key, params, priority, \
         created_at, due_at, expires_at, state, version, attempt, failures, losses, worker_name, worker_boot, \
         placement, dispatched_at, started_at, ended_at, NULL::smallint AS stop_cause, stop_deadline, reason, message, \
         result_type, result"
    };
}

pub(super) use active_columns;

/// Primary keys.
pub(super) const BY_ID: &str = concat!(
    "SELECT ",
    active_columns!(),
    " FROM instance WHERE id = $1 UNION ALL SELECT ",
    ended_columns!(),
    " FROM ended_instance WHERE id = $1"
);

pub(super) async fn by_id(
    client: &Object,
    unreadable: &UnreadableRows,
    id: InstanceId,
) -> Result<Option<Instance>, StoreError> {
    unreadable.only(Kind::Instance, &query(client, BY_ID, &[Value::Int(id.0)]).await?, rows::instance)
}

/// Indexes `instance_idempotency` and `ended_instance_idempotency`.
pub(super) const BY_IDEMPOTENCY_KEY: &str = "
    SELECT id FROM instance WHERE app_id = $1 AND idempotency_key = $2
    UNION ALL SELECT id FROM ended_instance WHERE app_id = $1 AND idempotency_key = $2";

pub(super) async fn by_idempotency_key(
    client: &Object,
    unreadable: &UnreadableRows,
    app: AppId,
    key: &str,
) -> Result<Option<InstanceId>, StoreError> {
    let rows = query(client, BY_IDEMPOTENCY_KEY, &[Value::Int(app.0), Value::text(key)]).await?;
    unreadable.only(Kind::Instance, &rows, |columns| columns.int().map(InstanceId))
}

/// Primary key.
pub(super) const PAST_ATTEMPTS: &str = "
    SELECT instance_id, task_id, attempt, state, worker_name, worker_boot, placement, dispatched_at, started_at,
           ended_at, reason, message
    FROM past_attempt WHERE instance_id = $1 AND task_id = $2 ORDER BY attempt";

pub(super) async fn past_attempts(
    client: &Object,
    unreadable: &UnreadableRows,
    id: InstanceId,
    task: TaskId,
) -> Result<Vec<PastAttempt>, StoreError> {
    let rows = query(client, PAST_ATTEMPTS, &[Value::Int(id.0), Value::Int(stored_task(task))]).await?;
    unreadable.sift(Kind::PastAttempt, &rows, rows::past_attempt)
}

/// Each source has the same parameters: `$1` lowest and `$2` first id not wanted any more, `$3` and `$4` the same of
/// `created_at`, `$5` the wanted states, `$6` app, `$7` job, `$8` limit; and `$9` what it is reached by, where that is
/// something else.
macro_rules! source {
    ($columns:expr, $table:literal, $reached_by:literal) => {
        source!($columns, $table, $reached_by, "id >= $1 AND id < $2")
    };
    ($columns:expr, $table:literal, $reached_by:literal, $between:literal) => {
        concat!(
            "SELECT ",
            $columns,
            " FROM ",
            $table,
            " WHERE ",
            $reached_by,
            " AND ",
            $between,
            " AND created_at >= $3 AND created_at < $4 AND state = ANY($5::smallint[])
              AND ($6::bigint IS NULL OR app_id = $6) AND ($7::bigint IS NULL OR job_id = $7)
              ORDER BY id DESC LIMIT $8"
        )
    };
}

/// Primary key.
pub(super) const ACTIVE: &str = source!(active_columns!(), "instance", "TRUE");
/// Index `instance_by_job`, of which it sorts what it finds.
pub(super) const ACTIVE_OF_APP: &str = source!(active_columns!(), "instance", "partition = $9 AND app_id = $6");
/// Index `instance_by_job`.
pub(super) const ACTIVE_OF_JOB: &str = source!(
    active_columns!(),
    "instance",
    "partition = $9 AND app_id = (SELECT job.app_id FROM job WHERE job.id = $7) AND job_id = $7"
);
/// Primary key.
pub(super) const ENDED: &str = source!(ended_columns!(), "ended_instance", "TRUE");
/// Index `ended_instance_by_app`. Bounds are said in a way that only this index knows, or the planner might think of the
/// primary key, along which all of other apps lies between.
pub(super) const ENDED_OF_APP: &str =
    source!(ended_columns!(), "ended_instance", "app_id = $6", "(app_id, id) >= ($6, $1) AND (app_id, id) < ($6, $2)");
/// Index `ended_instance_by_job`, in the same way.
pub(super) const ENDED_OF_JOB: &str =
    source!(ended_columns!(), "ended_instance", "job_id = $7", "(job_id, id) >= ($7, $1) AND (job_id, id) < ($7, $2)");
/// One of those that went wrong, in the same way.
macro_rules! unsuccessful {
    ($reached_by:literal) => {
        source!(
            ended_columns!(),
            "ended_instance",
            $reached_by,
            "state <> 5 AND (state, id) >= ($9, $1) AND (state, id) < ($9, $2)"
        )
    };
}

/// Index `ended_instance_unsuccessful`.
pub(super) const UNSUCCESSFUL: &str = unsuccessful!("state = $9");
/// Index `ended_instance_unsuccessful_by_app`.
pub(super) const UNSUCCESSFUL_OF_APP: &str = unsuccessful!("app_id = $6 AND state = $9");
/// Index `ended_instance_unsuccessful_by_job`.
pub(super) const UNSUCCESSFUL_OF_JOB: &str = unsuccessful!("job_id = $7 AND state = $9");

/// How far the time in an id may lie from `created_at`: ids never go back, so a clock that did leaves them ahead.
const ID_TIME_SLACK: std::time::Duration = std::time::Duration::from_secs(3600);

/// The sources that together have all that the filter wants, each with its `$9`.
fn sources(filter: &InstanceFilter) -> Vec<(&'static str, Option<Value<'static>>)> {
    let mut sources = Vec::new();
    if filter.states.is_empty() || filter.states.iter().any(|state| !state.is_ended()) {
        sources.push(match (filter.app, filter.job) {
            (_, Some(job)) => (ACTIVE_OF_JOB, Some(Value::Short(job.partition().0.into()))),
            (Some(app), None) => (ACTIVE_OF_APP, Some(Value::Short(app.partition().0.into()))),
            (None, None) => (ACTIVE, None),
        });
    }
    if filter.states.is_empty() || filter.states.contains(&InstanceState::Succeeded) {
        let ended = match (filter.app, filter.job) {
            (_, Some(_)) => ENDED_OF_JOB,
            (Some(_), None) => ENDED_OF_APP,
            (None, None) => ENDED,
        };
        sources.push((ended, None));
        return sources;
    }
    let unsuccessful = match (filter.app, filter.job) {
        (_, Some(_)) => UNSUCCESSFUL_OF_JOB,
        (Some(_), None) => UNSUCCESSFUL_OF_APP,
        (None, None) => UNSUCCESSFUL,
    };
    let mut ended: Vec<_> = filter.states.iter().filter(|state| state.is_ended()).collect();
    ended.sort_unstable();
    ended.dedup();
    sources.extend(ended.iter().map(|state| (unsuccessful, Some(Value::Code(state.code().into())))));
    sources
}

pub(super) async fn list(
    client: &mut Object,
    unreadable: &UnreadableRows,
    filter: &InstanceFilter,
) -> Result<Page<Instance>, StoreError> {
    let states = if filter.states.is_empty() { InstanceState::ALL } else { &filter.states };
    let states: Vec<_> = states.iter().map(|state| Some(i16::from(state.code()))).collect();
    let from = filter.created_from;
    let lowest = from.map_or(i64::MIN, |from| InstanceId::first_at(from.minus(ID_TIME_SLACK)).0);
    let before = filter.created_before;
    let first_above = before.map_or(i64::MAX, |before| InstanceId::first_at(before.plus(ID_TIME_SLACK)).0);
    let mut first_above = filter.before.map_or(first_above, |cursor| first_above.min(cursor.0));
    let wanted = filter.limit.saturating_add(1);
    let sources = sources(filter);
    let moment = at_one_moment(client).await?;
    let mut found = Vec::new();
    while found.len() < wanted {
        let asked = size(wanted - found.len());
        let mut rows = Vec::new();
        // Below this, a source that gave all that was asked for may have more.
        let mut known_from = i64::MIN;
        for (sql, reached_by) in &sources {
            let mut values = vec![
                Value::Int(lowest),
                Value::Int(first_above),
                Value::time(from.unwrap_or(Timestamp::MIN)),
                Value::Int(before.map_or(i64::MAX, Timestamp::as_micros)),
                Value::Codes(states.clone()),
                Value::OptInt(filter.app.map(|app| app.0)),
                Value::OptInt(filter.job.map(|job| job.0)),
                Value::count(asked),
            ];
            values.extend(reached_by.clone());
            let some = query(&moment, sql, &values).await?;
            if some.len() == asked {
                known_from = known_from.max(id_of(&some[asked - 1])?);
            }
            for row in some {
                rows.push((id_of(&row)?, row));
            }
        }
        rows.retain(|(id, _)| *id >= known_from);
        rows.sort_unstable_by_key(|(id, _)| std::cmp::Reverse(*id));
        let rows: Vec<Row> = rows.into_iter().map(|(_, row)| row).collect();
        found.extend(unreadable.sift(Kind::Instance, &rows, rows::instance)?);
        if known_from == i64::MIN {
            break;
        }
        first_above = known_from;
    }
    moment.commit().await.or_store_error()?;
    found.truncate(wanted);
    Ok(page(found, filter.limit))
}

fn id_of(row: &Row) -> Result<i64, StoreError> {
    row.try_get(0).or_store_error()
}
