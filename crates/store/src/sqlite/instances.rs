//! Questions about instances.
//!
//! A listing is merged from sources, each a fixed query with an index of its own that gives the newest first. Which
//! sources depends on the states that are wanted: what is active and what went wrong is little and has its own indexes;
//! only a listing that includes what succeeded walks through history.

use pendula_model::instance::{Instance, InstanceState, PastAttempt};
use pendula_model::{AppId, InstanceId, TaskId, Timestamp};
use rusqlite::{Connection, params};

use super::tasks::stored_task;
use crate::memory::page;
use crate::port::{InstanceFilter, Page, StoreError};
use crate::rows::{self, instance_columns};
use crate::unreadable::{Kind, UnreadableRows};

pub(super) const BY_ID: &str = concat!("SELECT ", instance_columns!(), " FROM instance WHERE id = ?1");

pub(super) fn by_id(
    db: &Connection,
    unreadable: &UnreadableRows,
    id: InstanceId,
) -> Result<Option<Instance>, StoreError> {
    unreadable.read_one(db, Kind::Instance, BY_ID, [id.0], rows::instance)
}

/// Index `instance_idempotency`.
pub(super) const BY_IDEMPOTENCY_KEY: &str = "SELECT id FROM instance WHERE app_id = ?1 AND idempotency_key = ?2";

pub(super) fn by_idempotency_key(
    db: &Connection,
    unreadable: &UnreadableRows,
    app: AppId,
    key: &str,
) -> Result<Option<InstanceId>, StoreError> {
    let values = params![app.0, key];
    unreadable.read_one(db, Kind::Instance, BY_IDEMPOTENCY_KEY, values, |columns| columns.int().map(InstanceId))
}

/// Primary key.
pub(super) const PAST_ATTEMPTS: &str = "
    SELECT instance_id, task_id, attempt, state, worker_name, worker_boot, placement, dispatched_at, started_at,
           ended_at, reason, message
    FROM past_attempt WHERE instance_id = ?1 AND task_id = ?2 ORDER BY attempt";

pub(super) fn past_attempts(
    db: &Connection,
    unreadable: &UnreadableRows,
    id: InstanceId,
    task: TaskId,
) -> Result<Vec<PastAttempt>, StoreError> {
    let values = params![id.0, stored_task(task)];
    unreadable.read_all(db, Kind::PastAttempt, PAST_ATTEMPTS, values, usize::MAX, rows::past_attempt)
}

/// Each source has the same parameters: ?1 lowest and ?2 first id not wanted any more, ?3 and ?4 the same of
/// `created_at`, ?5 the wanted states as bits, ?6 app, ?7 job, ?8 state or partition, by which it is reached.
///
/// The index is named, because the planner would guess (and a missing one is an error, not a slow answer).
macro_rules! source {
    ($index:literal, $reached_by:literal) => {
        concat!(
            "SELECT ",
            instance_columns!(),
            " FROM instance ",
            $index,
            " WHERE ",
            $reached_by,
            " AND id >= ?1 AND id < ?2 AND created_at >= ?3 AND created_at < ?4 AND (?5 >> state) & 1
              AND (?6 IS NULL OR app_id = ?6) AND (?7 IS NULL OR job_id = ?7) AND ?8 IS ?8
              ORDER BY id DESC"
        )
    };
}

pub(super) const ALL: &str = source!("NOT INDEXED", "true");
pub(super) const OF_APP: &str = source!("INDEXED BY instance_by_app", "app_id = ?6");
pub(super) const OF_JOB: &str = source!("INDEXED BY instance_by_job", "job_id = ?7");
pub(super) const ACTIVE: &str = source!("INDEXED BY instance_active", "partition = ?8 AND ended_at IS NULL");
pub(super) const ACTIVE_OF_APP: &str =
    source!("INDEXED BY instance_active", "partition = ?8 AND app_id = ?6 AND ended_at IS NULL");
pub(super) const ACTIVE_OF_JOB: &str = source!(
    "INDEXED BY instance_active",
    "partition = ?8 AND app_id = (SELECT app_id FROM job WHERE id = ?7) AND job_id = ?7 AND ended_at IS NULL"
);
pub(super) const UNSUCCESSFUL: &str =
    source!("INDEXED BY instance_unsuccessful", "state = ?8 AND ended_at IS NOT NULL AND state <> 5");
pub(super) const UNSUCCESSFUL_OF_APP: &str = source!(
    "INDEXED BY instance_unsuccessful_by_app",
    "app_id = ?6 AND state = ?8 AND ended_at IS NOT NULL AND state <> 5"
);
pub(super) const UNSUCCESSFUL_OF_JOB: &str = source!(
    "INDEXED BY instance_unsuccessful_by_job",
    "job_id = ?7 AND state = ?8 AND ended_at IS NOT NULL AND state <> 5"
);

/// How far the time in an id may lie from `created_at`: ids never go back, so a clock that did leaves them ahead.
const ID_TIME_SLACK: std::time::Duration = std::time::Duration::from_secs(3600);

/// The sources that together have all that the filter wants, each with its ?8.
fn sources(filter: &InstanceFilter, partitions: u16) -> Vec<(&'static str, i64)> {
    let everything = filter.states.is_empty() || filter.states.contains(&InstanceState::Succeeded);
    if everything {
        let source = match (filter.app, filter.job) {
            (_, Some(_)) => OF_JOB,
            (Some(_), None) => OF_APP,
            (None, None) => ALL,
        };
        return vec![(source, 0)];
    }
    let mut sources = Vec::new();
    if filter.states.iter().any(|state| !state.is_ended()) {
        match (filter.app, filter.job) {
            (_, Some(job)) => sources.push((ACTIVE_OF_JOB, i64::from(job.partition().0))),
            (Some(app), None) => sources.push((ACTIVE_OF_APP, i64::from(app.partition().0))),
            (None, None) => sources.extend((0..partitions).map(|partition| (ACTIVE, i64::from(partition)))),
        }
    }
    let unsuccessful = match (filter.app, filter.job) {
        (_, Some(_)) => UNSUCCESSFUL_OF_JOB,
        (Some(_), None) => UNSUCCESSFUL_OF_APP,
        (None, None) => UNSUCCESSFUL,
    };
    let mut ended: Vec<_> = filter.states.iter().filter(|state| state.is_ended()).collect();
    ended.sort_unstable();
    ended.dedup();
    sources.extend(ended.iter().map(|state| (unsuccessful, i64::from(state.code()))));
    sources
}

pub(super) fn list(
    db: &mut Connection,
    unreadable: &UnreadableRows,
    filter: &InstanceFilter,
    partitions: u16,
) -> Result<Page<Instance>, StoreError> {
    let states = if filter.states.is_empty() { InstanceState::ALL } else { &filter.states };
    let states = states.iter().fold(0_i64, |bits, state| bits | 1 << state.code());
    let from = filter.created_from;
    let lowest = from.map_or(i64::MIN, |from| InstanceId::first_at(from.minus(ID_TIME_SLACK)).0);
    let before = filter.created_before;
    let first_above = before.map_or(i64::MAX, |before| InstanceId::first_at(before.plus(ID_TIME_SLACK)).0);
    let first_above = filter.before.map_or(first_above, |cursor| first_above.min(cursor.0));
    let wanted = filter.limit.saturating_add(1);
    // One transaction, so that the sources show the same moment.
    let transaction = db.transaction().map_err(super::error::store_error)?;
    let mut found = Vec::new();
    for (sql, reached_by) in sources(filter, partitions) {
        let values = params![
            lowest,
            first_above,
            from.unwrap_or(Timestamp::MIN).as_micros(),
            before.map_or(i64::MAX, Timestamp::as_micros),
            states,
            filter.app.map(|app| app.0),
            filter.job.map(|job| job.0),
            reached_by,
        ];
        found.extend(unreadable.read_all(&transaction, Kind::Instance, sql, values, wanted, rows::instance)?);
    }
    found.sort_unstable_by_key(|instance| std::cmp::Reverse(instance.id));
    found.truncate(wanted);
    Ok(page(found, filter.limit))
}
