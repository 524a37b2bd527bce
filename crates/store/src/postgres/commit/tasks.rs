//! Writes of instances with many tasks.

use pendula_model::instance::{Payload, Reason};
use pendula_model::task::{Fanout, Task};
use pendula_model::{InstanceId, Timestamp};

use super::rows_of;
use crate::postgres::flight::{Step, exactly};
use crate::postgres::groups::{Moved, Row};
use crate::postgres::tasks::{fresh, under_way, unsuccessful};
use crate::postgres::values::{
    Value, boot_of, codes, ints, name_of, opt_blobs, opt_ints, opt_texts, opt_times, stored_task, times,
};

pub(in crate::postgres) const INSERT_FANOUTS: &str = concat!(
    "WITH written AS (
          INSERT INTO fanout (
              instance_id, version, phase, total, waiting, running, succeeded, failed, lost, stopped, next_task,
              next_waiting, rate_milli, targets, base_id)
          SELECT n.* FROM (SELECT
              unnest($2::bigint[]) AS instance_id, unnest($3::bigint[]) AS version, unnest($4::smallint[]) AS phase,
              unnest($5::bigint[]) AS total, unnest($6::bigint[]) AS waiting, unnest($7::bigint[]) AS running,
              unnest($8::bigint[]) AS succeeded, unnest($9::bigint[]) AS failed, unnest($10::bigint[]) AS lost,
              unnest($11::bigint[]) AS stopped, unnest($12::bigint[]) AS next_task,
              unnest($13::bigint[]) AS next_waiting, unnest($14::bigint[]) AS rate_milli,
              unnest($15::text[]) AS targets, unnest($16::bigint[]) AS base_id) AS n
          WHERE (SELECT o.id FROM instance o WHERE o.id = n.instance_id) IS NOT NULL
          RETURNING 1)",
    exactly!("$1")
);

pub(super) fn insert_fanouts<'b>(rows: &[Row<'b>], steps: &mut Vec<Step<'b>>) {
    let rows: Vec<&'b Fanout> = rows_of!(rows, Row::NewFanout(new) => *new);
    let mut values = vec![Value::count(rows.len()), ints(&rows, |new| new.instance.0)];
    values.extend(counts(&rows));
    values.push(opt_ints(&rows, |new| new.base.map(|base| base.0)));
    steps.push(Step { sql: INSERT_FANOUTS, values });
}

fn counts<'b>(rows: &[&'b Fanout]) -> [Value<'b>; 13] {
    let number = |count: fn(&Fanout) -> u64| ints(rows, |new| count(new).cast_signed());
    [
        ints(rows, |new| new.version.into()),
        codes(rows, |new| Some(new.phase.code())),
        number(|new| new.counts.total),
        number(|new| new.counts.waiting),
        number(|new| new.counts.running),
        number(|new| new.counts.succeeded),
        number(|new| new.counts.failed),
        number(|new| new.counts.lost),
        number(|new| new.counts.stopped),
        ints(rows, |new| stored_task(new.next_task)),
        ints(rows, |new| stored_task(new.next_waiting)),
        number(|new| new.rate_milli),
        opt_texts(rows, |new| new.targets.as_deref()),
    ]
}

pub(in crate::postgres) const UPDATE_FANOUTS: &str = concat!(
    "WITH written AS (
          UPDATE fanout SET
              version = n.version, phase = n.phase, total = n.total, waiting = n.waiting, running = n.running,
              succeeded = n.succeeded, failed = n.failed, lost = n.lost, stopped = n.stopped, next_task = n.next_task,
              next_waiting = n.next_waiting, rate_milli = n.rate_milli, targets = n.targets
          FROM (SELECT
              unnest($2::bigint[]) AS instance_id, unnest($3::bigint[]) AS expected, unnest($4::bigint[]) AS version,
              unnest($5::smallint[]) AS phase, unnest($6::bigint[]) AS total, unnest($7::bigint[]) AS waiting,
              unnest($8::bigint[]) AS running, unnest($9::bigint[]) AS succeeded, unnest($10::bigint[]) AS failed,
              unnest($11::bigint[]) AS lost, unnest($12::bigint[]) AS stopped, unnest($13::bigint[]) AS next_task,
              unnest($14::bigint[]) AS next_waiting, unnest($15::bigint[]) AS rate_milli,
              unnest($16::text[]) AS targets) AS n
          WHERE fanout.instance_id = n.instance_id AND fanout.version = n.expected
          RETURNING 1)",
    exactly!("$1")
);

pub(super) fn update_fanouts<'b>(rows: &[Row<'b>], steps: &mut Vec<Step<'b>>) {
    let rows: Vec<Moved<'b, Fanout>> = rows_of!(rows, Row::Fanout(row) => *row);
    let fanouts: Vec<_> = rows.iter().map(|row| row.to).collect();
    let mut values = vec![Value::count(rows.len()), ints(&fanouts, |new| new.instance.0), ints(&rows, |row| row.from)];
    values.extend(counts(&fanouts));
    steps.push(Step { sql: UPDATE_FANOUTS, values });
}

/// Instances that became tasks and have not ended.
pub(in crate::postgres) const TAKE_TASKS: &str = concat!(
    "WITH written AS (
          SELECT 1 FROM (SELECT unnest($2::bigint[]) AS id) AS n
          JOIN instance ON instance.id = n.id JOIN fanout ON fanout.instance_id = n.id)",
    exactly!("$1")
);

fn check_takes_tasks<'b>(ids: impl Iterator<Item = InstanceId>, steps: &mut Vec<Step<'b>>) {
    let ids: std::collections::BTreeSet<_> = ids.collect();
    let ids: Vec<_> = ids.into_iter().collect();
    steps.push(Step { sql: TAKE_TASKS, values: vec![Value::count(ids.len()), ints(&ids, |id| id.0)] });
}

pub(in crate::postgres) const INSERT_TASKS: &str = concat!(
    "WITH written AS (
          INSERT INTO task (
              instance_id, id, role, state, version, attempt, failures, losses, emitted, due_at, parent,
              target_boot, worker_boot, dispatched_at, started_at, target_name, worker_name, reason, name,
              message, placement, input_type, input, result_type, result)
          SELECT
              unnest($2::bigint[]) AS instance_id, unnest($3::bigint[]) AS id, unnest($4::smallint[]) AS role,
              unnest($5::smallint[]) AS state, unnest($6::bigint[]) AS version,
              unnest($7::bigint[]) AS attempt, unnest($8::bigint[]) AS failures,
              unnest($9::bigint[]) AS losses, unnest($10::bigint[]) AS emitted,
              unnest($11::bigint[]) AS due_at, unnest($12::bigint[]) AS parent,
              unnest($13::bigint[]) AS target_boot, unnest($14::bigint[]) AS worker_boot,
              unnest($15::bigint[]) AS dispatched_at, unnest($16::bigint[]) AS started_at,
              unnest($17::text[]) AS target_name, unnest($18::text[]) AS worker_name,
              unnest($19::text[]) AS reason, unnest($20::text[]) AS name, unnest($21::text[]) AS message,
              unnest($22::text[]) AS placement, unnest($23::text[]) AS input_type,
              unnest($24::bytea[]) AS input, unnest($25::text[]) AS result_type, unnest($26::bytea[]) AS result
          RETURNING 1)",
    exactly!("$1")
);

pub(super) fn insert<'b>(rows: &[Row<'b>], steps: &mut Vec<Step<'b>>) {
    let rows: Vec<&'b Task> = rows_of!(rows, Row::NewTask(new) => *new);
    check_takes_tasks(rows.iter().map(|new| new.instance), steps);
    let values = vec![
        Value::count(rows.len()),
        ints(&rows, |new| new.instance.0),
        ints(&rows, |new| stored_task(new.id)),
        codes(&rows, |new| Some(new.role.code())),
        codes(&rows, |new| Some(new.state.code())),
        ints(&rows, |new| new.version.into()),
        ints(&rows, |new| new.attempt.into()),
        ints(&rows, |new| new.failures.into()),
        ints(&rows, |new| new.losses.into()),
        ints(&rows, |new| new.emitted.cast_signed()),
        times(&rows, |new| new.due_at),
        opt_ints(&rows, |new| new.parent.map(stored_task)),
        opt_ints(&rows, |new| boot_of(&new.target)),
        opt_ints(&rows, |new| boot_of(&new.worker)),
        opt_times(&rows, |new| new.dispatched_at),
        opt_times(&rows, |new| new.started_at),
        opt_texts(&rows, |new| name_of(&new.target)),
        opt_texts(&rows, |new| name_of(&new.worker)),
        opt_texts(&rows, |new| new.reason.as_ref().map(Reason::as_str)),
        opt_texts(&rows, |new| Some(&*new.name)),
        opt_texts(&rows, |new| new.message.as_deref()),
        opt_texts(&rows, |new| new.placement.as_deref()),
        opt_texts(&rows, |new| new.input.as_deref().map(content_type)),
        opt_blobs(&rows, |new| new.input.as_deref().map(bytes)),
        opt_texts(&rows, |new| new.result.as_deref().map(content_type)),
        opt_blobs(&rows, |new| new.result.as_deref().map(bytes)),
    ];
    steps.push(Step { sql: INSERT_TASKS, values });
}

fn content_type(payload: &Payload) -> &str {
    &payload.content_type
}

fn bytes(payload: &Payload) -> &[u8] {
    &payload.bytes
}

/// Touches no key, and of the indexes only those that hold what is under way or went wrong.
pub(in crate::postgres) const UPDATE_TASKS: &str = concat!(
    "WITH written AS (
          UPDATE task SET
              version = n.version, state = n.state, attempt = n.attempt, failures = n.failures,
              losses = n.losses, emitted = n.emitted, due_at = n.due_at, target_boot = n.target_boot,
              worker_boot = n.worker_boot, dispatched_at = n.dispatched_at, started_at = n.started_at,
              ended_at = n.ended_at, worker_name = n.worker_name, reason = n.reason, message = n.message,
              placement = n.placement, result_type = n.result_type, result = n.result
          FROM (SELECT
              unnest($2::bigint[]) AS instance_id, unnest($3::bigint[]) AS id, unnest($4::bigint[]) AS version,
              unnest($5::text[]) AS target_name, unnest($6::smallint[]) AS state,
              unnest($7::bigint[]) AS attempt, unnest($8::bigint[]) AS failures,
              unnest($9::bigint[]) AS losses, unnest($10::bigint[]) AS emitted,
              unnest($11::bigint[]) AS due_at, unnest($12::bigint[]) AS target_boot,
              unnest($13::bigint[]) AS worker_boot, unnest($14::bigint[]) AS dispatched_at,
              unnest($15::bigint[]) AS started_at, unnest($16::bigint[]) AS ended_at,
              unnest($17::text[]) AS worker_name, unnest($18::text[]) AS reason,
              unnest($19::text[]) AS message, unnest($20::text[]) AS placement,
              unnest($21::text[]) AS result_type, unnest($22::bytea[]) AS result) AS n
          WHERE task.instance_id = n.instance_id AND task.id = n.id AND task.version = n.version - 1
              AND task.target_name IS NOT DISTINCT FROM n.target_name
              AND (task.ended_at IS NULL OR n.ended_at IS NULL)
          RETURNING 1)",
    exactly!("$1")
);

pub(super) fn update<'b>(rows: &[Row<'b>], steps: &mut Vec<Step<'b>>) {
    let rows: Vec<&'b Task> = rows_of!(rows, Row::Task(new) => *new);
    let values = vec![
        Value::count(rows.len()),
        ints(&rows, |new| new.instance.0),
        ints(&rows, |new| stored_task(new.id)),
        ints(&rows, |new| new.version.into()),
        opt_texts(&rows, |new| name_of(&new.target)),
        codes(&rows, |new| Some(new.state.code())),
        ints(&rows, |new| new.attempt.into()),
        ints(&rows, |new| new.failures.into()),
        ints(&rows, |new| new.losses.into()),
        ints(&rows, |new| new.emitted.cast_signed()),
        times(&rows, |new| new.due_at),
        opt_ints(&rows, |new| boot_of(&new.target)),
        opt_ints(&rows, |new| boot_of(&new.worker)),
        opt_times(&rows, |new| new.dispatched_at),
        opt_times(&rows, |new| new.started_at),
        opt_times(&rows, |new| new.ended_at),
        opt_texts(&rows, |new| name_of(&new.worker)),
        opt_texts(&rows, |new| new.reason.as_ref().map(Reason::as_str)),
        opt_texts(&rows, |new| new.message.as_deref()),
        opt_texts(&rows, |new| new.placement.as_deref()),
        opt_texts(&rows, |new| new.result.as_deref().map(content_type)),
        opt_blobs(&rows, |new| new.result.as_deref().map(bytes)),
    ];
    steps.push(Step { sql: UPDATE_TASKS, values });
}

pub(in crate::postgres) const HAS_ENDED: &str =
    concat!("WITH written AS (SELECT 1 FROM ended_instance WHERE id = $1)", exactly!("1"));

/// Those of one kind that did not succeed, as copies. The kinds are found like in a listing, without a walk over all that
/// succeeded.
macro_rules! copies {
    ($condition:expr) => {
        concat!(
            " SELECT $3::bigint, id, role, 1, 1, 0, 0, 0, emitted, $4::bigint, parent, target_boot, target_name, name,
                  input_type, input
              FROM task WHERE instance_id = $2 AND role BETWEEN 2 AND 4 AND ",
            $condition
        )
    };
}

pub(in crate::postgres) const COPY_TASKS: &str = concat!(
    "WITH written AS (
          INSERT INTO task (
              instance_id, id, role, state, version, attempt, failures, losses, emitted, due_at, parent, target_boot,
              target_name, name, input_type, input)",
    copies!(unsuccessful!()),
    " UNION ALL",
    copies!(under_way!()),
    " UNION ALL",
    copies!(fresh!()),
    " AND id >= COALESCE((SELECT next_waiting FROM fanout WHERE fanout.instance_id = $2), 0)
          RETURNING 1)",
    exactly!("$1")
);

pub(super) fn copy<'b>(from: InstanceId, to: InstanceId, at: Timestamp, count: u64, steps: &mut Vec<Step<'b>>) {
    check_takes_tasks(std::iter::once(to), steps);
    steps.push(Step { sql: HAS_ENDED, values: vec![Value::Int(from.0)] });
    let count = Value::Int(i64::try_from(count).unwrap_or(i64::MAX));
    let values = vec![count, Value::Int(from.0), Value::Int(to.0), Value::time(at)];
    steps.push(Step { sql: COPY_TASKS, values });
}
