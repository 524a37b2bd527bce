//! Questions about the tasks of one instance.
//!
//! Like those of instances, a listing is merged from sources, each with an index of its own: what is under way and what
//! went wrong is little, what was never placed lies at the end, and only a listing that includes what succeeded walks over
//! all. None of them touches the pages of inputs and results.

use pendula_model::instance::TaskState;
use pendula_model::task::{Fanout, Task};
use pendula_model::{InstanceId, TaskId, Timestamp};
use rusqlite::{Connection, OptionalExtension, Params, params};

use super::error::OrStoreError;
use crate::ended;
use crate::memory::page;
use crate::port::{Page, StoreError, TaskFilter};
use crate::rows::{
    self, Columns, Unreadable, fanout_columns, task_columns, task_with_result_columns, whole_task_columns,
};
use crate::unreadable::{Kind, UnreadableRows};

/// A task's number as it is stored. One that is too large for that is that of no task.
pub(super) fn stored_task(id: TaskId) -> i64 {
    i64::try_from(id.0).unwrap_or(i64::MAX)
}

/// The condition of the index `task_under_way`.
macro_rules! under_way {
    () => {
        "(state BETWEEN 2 AND 3 OR (state = 1 AND (attempt > 0 OR target_name IS NOT NULL)))"
    };
}

/// The condition of the index `task_unsuccessful`.
macro_rules! unsuccessful {
    () => {
        "ended_at IS NOT NULL AND state <> 5"
    };
}

/// Never placed and bound to nobody: what waits and is not under way.
macro_rules! fresh {
    () => {
        "state = 1 AND attempt = 0 AND target_name IS NULL"
    };
}

pub(super) use {fresh, under_way, unsuccessful};

// --- for the engine -------------------------------------------------------------------------------------------------

/// Primary key.
pub(super) const WAITING: &str = concat!(
    "SELECT ",
    whole_task_columns!(),
    " FROM task WHERE instance_id = ?1 AND id >= ?2 AND ",
    fresh!(),
    " ORDER BY id"
);

pub(super) fn waiting(
    db: &Connection,
    unreadable: &UnreadableRows,
    instance: InstanceId,
    from: TaskId,
    limit: usize,
    bytes: usize,
) -> Result<Vec<Task>, StoreError> {
    let values = params![instance.0, stored_task(from)];
    read_some(db, unreadable, WAITING, values, rows::whole_task, limit, bytes)
}

/// Index `task_under_way`.
pub(super) const UNDER_WAY: &str = concat!(
    "SELECT ",
    whole_task_columns!(),
    " FROM task INDEXED BY task_under_way WHERE instance_id = ?1 AND ",
    under_way!(),
    " ORDER BY id"
);

/// Up to `limit` rows, and no more once they hold `bytes`, but one if there is one.
fn read_some(
    db: &Connection,
    unreadable: &UnreadableRows,
    sql: &str,
    values: impl Params,
    parse: impl Fn(&mut Columns<'_>) -> Result<Task, Unreadable>,
    limit: usize,
    bytes: usize,
) -> Result<Vec<Task>, StoreError> {
    let mut left = bytes;
    let mut is_full = false;
    unreadable.read_until(db, Kind::Task, sql, values, parse, |tasks: &[Task]| {
        if let Some(last) = tasks.last() {
            left = left.saturating_sub(last.bytes());
            is_full = left == 0;
        }
        is_full || tasks.len() >= limit
    })
}

// --- for the API ----------------------------------------------------------------------------------------------------

/// Primary keys of both.
pub(super) const FANOUT: &str = concat!(
    "SELECT ",
    fanout_columns!(),
    ", instance.ended_at FROM fanout JOIN instance ON instance.id = fanout.instance_id WHERE fanout.instance_id = ?1"
);

fn shown_fanout(columns: &mut Columns<'_>) -> Result<Fanout, Unreadable> {
    let fanout = rows::fanout(columns)?;
    let counts = if columns.opt_time()?.is_some() { fanout.counts.settled() } else { fanout.counts };
    Ok(Fanout { counts, ..fanout })
}

pub(super) fn fanout(
    db: &Connection,
    unreadable: &UnreadableRows,
    id: InstanceId,
) -> Result<Option<Fanout>, StoreError> {
    unreadable.read_one(db, Kind::Fanout, FANOUT, [id.0], shown_fanout)
}

pub(super) fn fanouts(
    db: &mut Connection,
    unreadable: &UnreadableRows,
    ids: &[InstanceId],
) -> Result<Vec<Fanout>, StoreError> {
    // One transaction, so that all show the same moment.
    let transaction = db.transaction().or_store_error()?;
    let mut fanouts = Vec::new();
    for id in ids {
        fanouts.extend(unreadable.read_all(&transaction, Kind::Fanout, FANOUT, [id.0], 1, shown_fanout)?);
    }
    Ok(fanouts)
}

/// Whether there is no row, or one that makes sense.
pub(super) fn is_fanout_readable(db: &Connection, id: InstanceId) -> Result<bool, StoreError> {
    let mut statement = db.prepare_cached(FANOUT).or_store_error()?;
    let read = statement.query_row([id.0], |row| Ok(shown_fanout(&mut Columns::new(row)).is_ok()));
    Ok(read.optional().or_store_error()?.unwrap_or(true))
}

/// Each source has the same parameters: ?1 instance, ?2 the first id, ?3 the wanted states (as they are stored) as bits,
/// ?4 part of the name.
macro_rules! source {
    ($index:literal, $condition:expr) => {
        concat!(
            "SELECT ",
            task_columns!(),
            " FROM task ",
            $index,
            " WHERE instance_id = ?1 AND id >= ?2 AND ",
            $condition,
            " AND (?3 >> state) & 1 AND (?4 IS NULL OR instr(lower(name), lower(?4)) > 0) ORDER BY id"
        )
    };
}

pub(super) const ALL: &str = source!("", "true");
pub(super) const LISTED_UNDER_WAY: &str = source!("INDEXED BY task_under_way", under_way!());
pub(super) const FRESH: &str = source!("", fresh!());
pub(super) const UNSUCCESSFUL: &str = source!("INDEXED BY task_unsuccessful", unsuccessful!());

/// Primary keys of both. Without the second row nobody knows where waiting begins.
pub(super) const EXTENT: &str = "
    SELECT instance.ended_at, coalesce(fanout.next_waiting, 0)
    FROM instance LEFT JOIN fanout ON fanout.instance_id = instance.id WHERE instance.id = ?1";

/// When the instance ended, and below which id nothing waits that was never placed.
fn extent(db: &Connection, id: InstanceId) -> Result<Option<(Option<Timestamp>, i64)>, StoreError> {
    let mut statement = db.prepare_cached(EXTENT).or_store_error()?;
    let read = statement.query_row([id.0], |row| {
        let ended_at: Option<i64> = row.get(0)?;
        Ok((ended_at.map(Timestamp::from_micros), row.get(1)?))
    });
    read.optional().or_store_error()
}

pub(super) fn list(
    db: &mut Connection,
    unreadable: &UnreadableRows,
    filter: &TaskFilter,
) -> Result<Page<Task>, StoreError> {
    use TaskState::*;
    // One transaction, so that the sources show the same moment.
    let transaction = db.transaction().or_store_error()?;
    let Some((ended_at, next_waiting)) = extent(&transaction, filter.instance)? else {
        return Ok(Page { items: Vec::new(), more: false });
    };
    let stored = filter.states.iter().flat_map(|state| ended::stored_as(*state, ended_at.is_some()));
    let bits = stored.fold(0_i64, |bits, state| bits | 1 << state.code());
    // All of them: also what means nothing, so that it is noted.
    let bits = if filter.states.is_empty() { -1 } else { bits };
    let wants = |states: &[TaskState]| states.iter().any(|state| bits >> state.code() & 1 == 1);
    let from = stored_task(filter.from);
    let mut sources = Vec::new();
    if wants(&[Succeeded]) {
        sources.push((ALL, from));
    } else {
        if wants(&[Waiting, Dispatched, Running]) {
            sources.push((LISTED_UNDER_WAY, from));
        }
        if wants(&[Waiting]) {
            sources.push((FRESH, from.max(next_waiting)));
        }
        if wants(&[Failed, Lost, Stopped]) {
            sources.push((UNSUCCESSFUL, from));
        }
    }
    let wanted = filter.limit.saturating_add(1);
    let part = filter.name_contains.as_deref();
    let mut found = Vec::new();
    for (sql, from) in sources {
        let values = params![filter.instance.0, from, bits, part];
        found.extend(unreadable.read_all(&transaction, Kind::Task, sql, values, wanted, rows::task)?);
    }
    found.sort_unstable_by_key(|task| task.id);
    found.truncate(wanted);
    let shown = found.into_iter().map(|task| ended::shown(task, ended_at)).collect();
    Ok(page(shown, filter.limit))
}

/// Primary key.
pub(super) const BY_ID: &str =
    concat!("SELECT ", whole_task_columns!(), " FROM task WHERE instance_id = ?1 AND id = ?2");

pub(super) fn by_id(
    db: &mut Connection,
    unreadable: &UnreadableRows,
    instance: InstanceId,
    id: TaskId,
) -> Result<Option<Task>, StoreError> {
    let transaction = db.transaction().or_store_error()?;
    let Some((ended_at, _)) = extent(&transaction, instance)? else { return Ok(None) };
    let values = params![instance.0, stored_task(id)];
    let task = unreadable.read_one(&transaction, Kind::Task, BY_ID, values, rows::whole_task)?;
    Ok(task.map(|task| ended::shown(task, ended_at)))
}

/// Primary key.
pub(super) const RESULTS: &str = concat!(
    "SELECT ",
    task_with_result_columns!(),
    " FROM task WHERE instance_id = ?1 AND id >= ?2 AND ended_at IS NOT NULL AND role BETWEEN 2 AND 4 ORDER BY id"
);

pub(super) fn results(
    db: &Connection,
    unreadable: &UnreadableRows,
    instance: InstanceId,
    from: TaskId,
    limit: usize,
    bytes: usize,
) -> Result<Vec<Task>, StoreError> {
    let values = params![instance.0, stored_task(from)];
    read_some(db, unreadable, RESULTS, values, rows::task_with_result, limit, bytes)
}
