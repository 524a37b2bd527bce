//! Questions about the tasks of one instance.
//!
//! Like those of instances, a listing is merged from sources, each with an index of its own: what is under way and what
//! went wrong is little, what was never placed lies at the end, and only a listing that includes what succeeded walks over
//! all. None of them touches inputs and results.

use deadpool_postgres::{GenericClient, Object};
use pendula_model::instance::TaskState;
use pendula_model::task::{Fanout, Task};
use pendula_model::{InstanceId, TaskId, Timestamp};
use tokio_postgres::Row;

use super::error::OrStoreError;
use super::read::{at_one_moment, page as size, query};
use super::values::{Value, storable, stored_task};
use crate::ended;
use crate::memory::page;
use crate::port::{Page, StoreError, TaskFilter};
use crate::rows::{
    self, Columns, Unreadable, fanout_columns, task_columns, task_with_result_columns, whole_task_columns,
};
use crate::unreadable::{Kind, UnreadableRows};

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

/// Rows from `$2` on, at most `$3`, and no more once those before hold `$4` bytes: those of the columns that are named.
/// Counts what lies aside without reading it.
macro_rules! some {
    ($columns:expr, $condition:expr, $bytes:literal) => {
        concat!(
            "SELECT ",
            $columns,
            " FROM (
                  SELECT *, sum(bytes) OVER (ORDER BY id) - bytes AS bytes_before
                  FROM (
                      SELECT *, octet_length(name) + COALESCE(octet_length(",
            $bytes,
            "), 0) AS bytes
                      FROM task WHERE instance_id = $1 AND id >= $2 AND ",
            $condition,
            " ORDER BY id LIMIT $3) AS t) AS counted
              WHERE bytes_before < $4 ORDER BY id"
        )
    };
}

/// Primary key.
pub(super) const WAITING: &str = some!(whole_task_columns!(), fresh!(), "input");

pub(super) async fn waiting(
    client: &Object,
    unreadable: &UnreadableRows,
    instance: InstanceId,
    from: TaskId,
    limit: usize,
    bytes: usize,
) -> Result<Vec<Task>, StoreError> {
    read_some(client, unreadable, (WAITING, rows::whole_task), (instance, from), limit, bytes).await
}

/// Primary key.
pub(super) const RESULTS: &str =
    some!(task_with_result_columns!(), "ended_at IS NOT NULL AND role BETWEEN 2 AND 4", "result");

pub(super) async fn results(
    client: &Object,
    unreadable: &UnreadableRows,
    instance: InstanceId,
    from: TaskId,
    limit: usize,
    bytes: usize,
) -> Result<Vec<Task>, StoreError> {
    read_some(client, unreadable, (RESULTS, rows::task_with_result), (instance, from), limit, bytes).await
}

type Parse = fn(&mut Columns<'_>) -> Result<Task, Unreadable>;

/// Up to `limit` rows, and no more once they hold `bytes`, but one if there is one.
async fn read_some(
    client: &Object,
    unreadable: &UnreadableRows,
    (sql, parse): (&'static str, Parse),
    (instance, from): (InstanceId, TaskId),
    limit: usize,
    bytes: usize,
) -> Result<Vec<Task>, StoreError> {
    let mut tasks = Vec::new();
    let (mut from, mut left) = (stored_task(from), bytes);
    while tasks.len() < limit {
        let asked = size(limit - tasks.len());
        // The first one comes whatever it holds.
        let values = [Value::Int(instance.0), Value::Int(from), Value::count(asked), Value::count(left.max(1))];
        let rows = query(client, sql, &values).await?;
        let readable = unreadable.sift(Kind::Task, &rows, parse)?;
        let all_are = readable.len() == rows.len();
        for task in readable {
            left = left.saturating_sub(task.bytes());
            tasks.push(task);
            if left == 0 {
                return Ok(tasks);
            }
        }
        let Some(last) = rows.last() else { break };
        if rows.len() < asked && all_are {
            break;
        }
        from = id_of(last)? + 1;
    }
    Ok(tasks)
}

// --- for the API ----------------------------------------------------------------------------------------------------

/// Primary keys of all. The last column is when the instance ended.
macro_rules! fanouts {
    ($condition:literal) => {
        concat!(
            "SELECT ",
            fanout_columns!(),
            ", ended_instance.ended_at FROM fanout
              LEFT JOIN ended_instance ON ended_instance.id = fanout.instance_id WHERE ",
            $condition
        )
    };
}

pub(super) const FANOUT: &str = fanouts!("fanout.instance_id = $1");
pub(super) const FANOUTS: &str = fanouts!("fanout.instance_id = ANY($1)");

fn shown_fanout(columns: &mut Columns<'_>) -> Result<Fanout, Unreadable> {
    let fanout = rows::fanout(columns)?;
    let counts = if columns.opt_time()?.is_some() { fanout.counts.settled() } else { fanout.counts };
    Ok(Fanout { counts, ..fanout })
}

pub(super) async fn fanout(
    client: &Object,
    unreadable: &UnreadableRows,
    id: InstanceId,
) -> Result<Option<Fanout>, StoreError> {
    unreadable.only(Kind::Fanout, &query(client, FANOUT, &[Value::Int(id.0)]).await?, shown_fanout)
}

pub(super) async fn fanouts(
    client: &Object,
    unreadable: &UnreadableRows,
    ids: &[InstanceId],
) -> Result<Vec<Fanout>, StoreError> {
    let ids = Value::Ints(ids.iter().map(|id| Some(id.0)).collect());
    unreadable.sift(Kind::Fanout, &query(client, FANOUTS, &[ids]).await?, shown_fanout)
}

/// Each source has the same parameters: `$1` instance, `$2` the first id, `$3` the wanted states (as they are stored; none
/// for all), `$4` part of the name in lower case, `$5` limit.
macro_rules! source {
    ($condition:expr) => {
        concat!(
            "SELECT ",
            task_columns!(),
            " FROM task WHERE instance_id = $1 AND id >= $2 AND ",
            $condition,
            " AND ($3::smallint[] IS NULL OR state = ANY($3)) AND ($4::text IS NULL OR strpos(lower(name), $4) > 0)
              ORDER BY id LIMIT $5"
        )
    };
}

/// Primary key.
pub(super) const ALL: &str = source!("TRUE");
/// Index `task_under_way`.
pub(super) const LISTED_UNDER_WAY: &str = source!(under_way!());
/// Primary key.
pub(super) const FRESH: &str = source!(fresh!());
/// Index `task_unsuccessful`.
pub(super) const UNSUCCESSFUL: &str = source!(unsuccessful!());

/// Primary keys of all. Without counts nobody knows where waiting begins.
pub(super) const EXTENT: &str = "
    SELECT NULL::bigint AS ended_at, COALESCE((SELECT next_waiting FROM fanout WHERE instance_id = $1), 0)
    FROM instance WHERE id = $1
    UNION ALL
    SELECT ended_at, COALESCE((SELECT next_waiting FROM fanout WHERE instance_id = $1), 0)
    FROM ended_instance WHERE id = $1";

/// When the instance ended, and below which id nothing waits that was never placed.
async fn extent(client: &impl GenericClient, id: InstanceId) -> Result<Option<(Option<Timestamp>, i64)>, StoreError> {
    let rows = query(client, EXTENT, &[Value::Int(id.0)]).await?;
    let Some(row) = rows.first() else { return Ok(None) };
    let ended_at: Option<i64> = row.try_get(0).or_store_error()?;
    Ok(Some((ended_at.map(Timestamp::from_micros), row.try_get(1).or_store_error()?)))
}

/// The sources that together have all that the filter wants, each with the id that it begins at.
fn sources(stored: &Option<Vec<TaskState>>, from: i64, next_waiting: i64) -> Vec<(&'static str, i64)> {
    use TaskState::*;
    let Some(stored) = stored.as_ref().filter(|stored| !stored.contains(&Succeeded)) else { return vec![(ALL, from)] };
    let wants = |states: &[TaskState]| states.iter().any(|state| stored.contains(state));
    let mut sources = Vec::new();
    if wants(&[Waiting, Dispatched, Running]) {
        sources.push((LISTED_UNDER_WAY, from));
    }
    if wants(&[Waiting]) {
        sources.push((FRESH, from.max(next_waiting)));
    }
    if wants(&[Failed, Lost, Stopped]) {
        sources.push((UNSUCCESSFUL, from));
    }
    sources
}

pub(super) async fn list(
    client: &mut Object,
    unreadable: &UnreadableRows,
    filter: &TaskFilter,
) -> Result<Page<Task>, StoreError> {
    let moment = at_one_moment(client).await?;
    let Some((ended_at, next_waiting)) = extent(&moment, filter.instance).await? else {
        return Ok(Page { items: Vec::new(), more: false });
    };
    // None for all of them: also what means nothing, so that it is noted.
    let stored = (!filter.states.is_empty()).then(|| {
        let stored = filter.states.iter().flat_map(|state| ended::stored_as(*state, ended_at.is_some()));
        stored.copied().collect::<Vec<_>>()
    });
    let codes = stored.as_ref().map(|stored| stored.iter().map(|state| i16::from(state.code())).collect::<Vec<_>>());
    let part = filter.name_contains.as_deref().map(str::to_ascii_lowercase);
    let wanted = filter.limit.saturating_add(1);
    let mut from = stored_task(filter.from);
    let mut found = Vec::new();
    while found.len() < wanted {
        let asked = size(wanted - found.len());
        let mut rows = Vec::new();
        // Above this, a source that gave all that was asked for may have more.
        let mut known_to = i64::MAX;
        for (sql, from) in sources(&stored, from, next_waiting) {
            let values = [
                Value::Int(filter.instance.0),
                Value::Int(from),
                Value::OptCodes(codes.clone()),
                Value::OptText(part.as_deref().map(storable)),
                Value::count(asked),
            ];
            let some = query(&moment, sql, &values).await?;
            if some.len() == asked {
                known_to = known_to.min(id_of(&some[asked - 1])?);
            }
            for row in some {
                rows.push((id_of(&row)?, row));
            }
        }
        rows.retain(|(id, _)| *id <= known_to);
        rows.sort_unstable_by_key(|(id, _)| *id);
        let rows: Vec<Row> = rows.into_iter().map(|(_, row)| row).collect();
        found.extend(unreadable.sift(Kind::Task, &rows, rows::task)?);
        if known_to == i64::MAX {
            break;
        }
        from = known_to + 1;
    }
    moment.commit().await.or_store_error()?;
    found.truncate(wanted);
    let shown = found.into_iter().map(|task| ended::shown(task, ended_at)).collect();
    Ok(page(shown, filter.limit))
}

/// The second column of a task.
fn id_of(row: &Row) -> Result<i64, StoreError> {
    row.try_get(1).or_store_error()
}

/// Primary keys of all. The last column is when the instance ended.
pub(super) const BY_ID: &str = concat!(
    "SELECT ",
    whole_task_columns!(),
    ", (SELECT ended_instance.ended_at FROM ended_instance WHERE ended_instance.id = $1) AS instance_ended_at
      FROM task WHERE instance_id = $1 AND id = $2
          AND (EXISTS (SELECT 1 FROM instance WHERE instance.id = $1)
              OR EXISTS (SELECT 1 FROM ended_instance WHERE ended_instance.id = $1))"
);

pub(super) async fn by_id(
    client: &Object,
    unreadable: &UnreadableRows,
    instance: InstanceId,
    id: TaskId,
) -> Result<Option<Task>, StoreError> {
    let rows = query(client, BY_ID, &[Value::Int(instance.0), Value::Int(stored_task(id))]).await?;
    unreadable.only(Kind::Task, &rows, |columns| {
        let task = rows::whole_task(columns)?;
        Ok(ended::shown(task, columns.opt_time()?))
    })
}
