//! Writes of instances: most of what a busy store does.

use pendula_model::instance::{Instance, PastAttempt, Payload, Reason};
use pendula_model::{InstanceId, JobId, Revision, Timestamp, limits};

use super::{Known, rows_of};
use crate::postgres::flight::{Step, exactly};
use crate::postgres::groups::{Moved, Row};
use crate::postgres::values::{
    Value, boot_of, codes, ints, micros, name_of, opt_blobs, opt_ints, opt_texts, opt_times, stored_task, times,
};

/// The definitions that instances run must be kept.
pub(in crate::postgres) const REVISIONS_ARE_KEPT: &str = concat!(
    "WITH written AS (
          SELECT 1 FROM (SELECT unnest($2::bigint[]) AS job_id, unnest($3::bigint[]) AS revision) AS n
          JOIN job_revision ON job_revision.job_id = n.job_id AND job_revision.revision = n.revision)",
    exactly!("$1")
);

fn check_revisions<'b>(instances: impl Iterator<Item = &'b Instance>, steps: &mut Vec<Step<'b>>) {
    let used: std::collections::BTreeSet<(JobId, Revision)> =
        instances.map(|instance| (instance.job, instance.revision)).collect();
    let used: Vec<_> = used.into_iter().collect();
    let values = vec![
        Value::count(used.len()),
        ints(&used, |(job, _)| job.0),
        ints(&used, |(_, revision)| i64::from(revision.0)),
    ];
    steps.push(Step { sql: REVISIONS_ARE_KEPT, values });
}

/// An instance, its fire and its idempotency key must be new in history too. Nothing else writes to either table for this
/// partition meanwhile: whoever commits has its row. They are asked for row by row, in a way that the planner cannot turn
/// into a walk over all of history.
pub(in crate::postgres) const INSERT_INSTANCES: &str = concat!(
    "WITH written AS (
          INSERT INTO instance (
              partition, id, app_id, job_id, revision, origin, priority, fire_time, missed_before, rerun_of,
              created_at, idempotency_key, params, due_at, expires_at, state, version, attempt, failures,
              losses, worker_boot, dispatched_at, started_at, stop_deadline, worker_name, reason, message,
              placement, result_type, result, stop_cause)
          SELECT $2, n.* FROM (SELECT
              unnest($3::bigint[]) AS id, unnest($4::bigint[]) AS app_id, unnest($5::bigint[]) AS job_id,
              unnest($6::bigint[]) AS revision, unnest($7::smallint[]) AS origin,
              unnest($8::smallint[]) AS priority, unnest($9::bigint[]) AS fire_time,
              unnest($10::bigint[]) AS missed_before, unnest($11::bigint[]) AS rerun_of,
              unnest($12::bigint[]) AS created_at, unnest($13::text[]) AS idempotency_key,
              unnest($14::text[]) AS params, unnest($15::bigint[]) AS due_at,
              unnest($16::bigint[]) AS expires_at, unnest($17::smallint[]) AS state,
              unnest($18::bigint[]) AS version, unnest($19::bigint[]) AS attempt,
              unnest($20::bigint[]) AS failures, unnest($21::bigint[]) AS losses,
              unnest($22::bigint[]) AS worker_boot, unnest($23::bigint[]) AS dispatched_at,
              unnest($24::bigint[]) AS started_at, unnest($25::bigint[]) AS stop_deadline,
              unnest($26::text[]) AS worker_name, unnest($27::text[]) AS reason,
              unnest($28::text[]) AS message, unnest($29::text[]) AS placement,
              unnest($30::text[]) AS result_type, unnest($31::bytea[]) AS result,
              unnest($32::smallint[]) AS stop_cause) AS n
          WHERE (SELECT o.id FROM ended_instance o WHERE o.id = n.id) IS NULL
              AND (n.fire_time IS NULL
                  OR (SELECT o.id FROM ended_instance o WHERE o.job_id = n.job_id AND o.fire_time = n.fire_time) IS NULL)
              AND (n.idempotency_key IS NULL
                  OR (SELECT o.id FROM ended_instance o
                      WHERE o.app_id = n.app_id AND o.idempotency_key = n.idempotency_key) IS NULL)
          RETURNING 1)",
    exactly!("$1")
);

pub(super) fn insert<'b>(rows: &[Row<'b>], steps: &mut Vec<Step<'b>>) {
    let rows = rows_of!(rows, Row::NewInstance(new) => *new);
    check_revisions(rows.iter().copied(), steps);
    let Some(first) = rows.first() else { return };
    let mut values = vec![Value::count(rows.len()), Value::Short(first.id.partition().0.into())];
    values.extend(frozen(&rows));
    values.extend(mutable(&rows));
    values.push(codes(&rows, |new| new.stop_cause.map(|cause| cause.code())));
    steps.push(Step { sql: INSERT_INSTANCES, values });
}

/// What is written once, when an instance is fired.
fn frozen<'b>(rows: &[&'b Instance]) -> [Value<'b>; 12] {
    [
        ints(rows, |new| new.id.0),
        ints(rows, |new| new.app.0),
        ints(rows, |new| new.job.0),
        ints(rows, |new| new.revision.0.into()),
        codes(rows, |new| Some(new.origin.code())),
        Value::Codes(rows.iter().map(|new| Some(new.priority.into())).collect()),
        opt_times(rows, |new| new.fire_time),
        ints(rows, |new| new.missed_before.into()),
        opt_ints(rows, |new| new.rerun_of.map(|id| id.0)),
        times(rows, |new| new.created_at),
        opt_texts(rows, |new| new.idempotency_key.as_deref()),
        opt_texts(rows, |new| new.params.as_deref()),
    ]
}

/// What each step of an instance writes.
fn mutable<'b>(rows: &[&'b Instance]) -> [Value<'b>; 17] {
    [
        times(rows, |new| new.due_at),
        opt_times(rows, |new| new.expires_at),
        codes(rows, |new| Some(new.state.code())),
        ints(rows, |new| new.version.into()),
        ints(rows, |new| new.attempt.into()),
        ints(rows, |new| new.failures.into()),
        ints(rows, |new| new.losses.into()),
        opt_ints(rows, |new| boot_of(&new.worker)),
        opt_times(rows, |new| new.dispatched_at),
        opt_times(rows, |new| new.started_at),
        opt_times(rows, |new| new.stop_deadline),
        opt_texts(rows, |new| name_of(&new.worker)),
        opt_texts(rows, |new| new.reason.as_ref().map(Reason::as_str)),
        opt_texts(rows, |new| new.message.as_deref()),
        opt_texts(rows, |new| new.placement.as_deref()),
        opt_texts(rows, |new| new.result.as_ref().map(|result: &Payload| result.content_type.as_str())),
        opt_blobs(rows, |new| new.result.as_ref().map(|result| result.bytes.as_slice())),
    ]
}

pub(in crate::postgres) const INSERT_ENDED: &str = concat!(
    "WITH written AS (
          INSERT INTO ended_instance (
              id, app_id, job_id, revision, origin, priority, fire_time, missed_before, rerun_of, created_at,
              idempotency_key, params, due_at, expires_at, state, version, attempt, failures, losses,
              worker_boot, dispatched_at, started_at, stop_deadline, worker_name, reason, message, placement,
              result_type, result, ended_at, prune_at)
          SELECT n.* FROM (SELECT
              unnest($2::bigint[]) AS id, unnest($3::bigint[]) AS app_id, unnest($4::bigint[]) AS job_id,
              unnest($5::bigint[]) AS revision, unnest($6::smallint[]) AS origin,
              unnest($7::smallint[]) AS priority, unnest($8::bigint[]) AS fire_time,
              unnest($9::bigint[]) AS missed_before, unnest($10::bigint[]) AS rerun_of,
              unnest($11::bigint[]) AS created_at, unnest($12::text[]) AS idempotency_key,
              unnest($13::text[]) AS params, unnest($14::bigint[]) AS due_at,
              unnest($15::bigint[]) AS expires_at, unnest($16::smallint[]) AS state,
              unnest($17::bigint[]) AS version, unnest($18::bigint[]) AS attempt,
              unnest($19::bigint[]) AS failures, unnest($20::bigint[]) AS losses,
              unnest($21::bigint[]) AS worker_boot, unnest($22::bigint[]) AS dispatched_at,
              unnest($23::bigint[]) AS started_at, unnest($24::bigint[]) AS stop_deadline,
              unnest($25::text[]) AS worker_name, unnest($26::text[]) AS reason,
              unnest($27::text[]) AS message, unnest($28::text[]) AS placement,
              unnest($29::text[]) AS result_type, unnest($30::bytea[]) AS result,
              unnest($31::bigint[]) AS ended_at, unnest($32::bigint[]) AS prune_at) AS n
          WHERE (SELECT o.id FROM instance o WHERE o.id = n.id) IS NULL
              AND (n.fire_time IS NULL
                  OR (SELECT o.id FROM instance o WHERE o.job_id = n.job_id AND o.fire_time = n.fire_time) IS NULL)
              AND (n.idempotency_key IS NULL
                  OR (SELECT o.id FROM instance o
                      WHERE o.app_id = n.app_id AND o.idempotency_key = n.idempotency_key) IS NULL)
          RETURNING 1)",
    exactly!("$1")
);

pub(super) fn insert_ended<'b>(rows: &[Row<'b>], steps: &mut Vec<Step<'b>>) {
    let rows = rows_of!(rows, Row::NewEnded(new, prune_at) => (*new, *prune_at));
    check_revisions(rows.iter().map(|row| row.0), steps);
    let instances: Vec<_> = rows.iter().map(|row| row.0).collect();
    let mut values = vec![Value::count(rows.len())];
    values.extend(frozen(&instances));
    values.extend(mutable(&instances));
    values.extend(ends(&rows));
    steps.push(Step { sql: INSERT_ENDED, values });
}

fn ends<'b>(rows: &[(&'b Instance, Timestamp)]) -> [Value<'b>; 2] {
    [opt_times(rows, |(new, _)| new.ended_at), times(rows, |(_, prune_at)| *prune_at)]
}

/// Touches no column of an index.
pub(in crate::postgres) const UPDATE_INSTANCES: &str = concat!(
    "WITH written AS (
          UPDATE instance SET
              due_at = n.due_at, expires_at = n.expires_at, state = n.state, version = n.version,
              attempt = n.attempt, failures = n.failures, losses = n.losses, worker_boot = n.worker_boot,
              dispatched_at = n.dispatched_at, started_at = n.started_at, stop_deadline = n.stop_deadline,
              worker_name = n.worker_name, reason = n.reason, message = n.message, placement = n.placement,
              result_type = n.result_type, result = n.result, stop_cause = n.stop_cause
          FROM (SELECT
              unnest($2::bigint[]) AS id, unnest($3::bigint[]) AS expected, unnest($4::bigint[]) AS due_at,
              unnest($5::bigint[]) AS expires_at, unnest($6::smallint[]) AS state,
              unnest($7::bigint[]) AS version, unnest($8::bigint[]) AS attempt,
              unnest($9::bigint[]) AS failures, unnest($10::bigint[]) AS losses,
              unnest($11::bigint[]) AS worker_boot, unnest($12::bigint[]) AS dispatched_at,
              unnest($13::bigint[]) AS started_at, unnest($14::bigint[]) AS stop_deadline,
              unnest($15::text[]) AS worker_name, unnest($16::text[]) AS reason,
              unnest($17::text[]) AS message, unnest($18::text[]) AS placement,
              unnest($19::text[]) AS result_type, unnest($20::bytea[]) AS result,
              unnest($21::smallint[]) AS stop_cause) AS n
          WHERE instance.id = n.id AND instance.version = n.expected
          RETURNING 1)",
    exactly!("$1")
);

pub(super) fn update<'b>(rows: &[Row<'b>], steps: &mut Vec<Step<'b>>) {
    let rows: Vec<Moved<'b, Instance>> = rows_of!(rows, Row::Instance(row) => *row);
    let instances: Vec<_> = rows.iter().map(|row| row.to).collect();
    let mut values = vec![Value::count(rows.len()), ints(&rows, |row| row.to.id.0), ints(&rows, |row| row.from)];
    values.extend(mutable(&instances));
    values.push(codes(&instances, |new| new.stop_cause.map(|cause| cause.code())));
    steps.push(Step { sql: UPDATE_INSTANCES, values });
}

/// Moves rows to history. What was frozen goes along as it is.
pub(in crate::postgres) const END_INSTANCES: &str = concat!(
    "WITH gone AS (
          DELETE FROM instance USING (SELECT
              unnest($2::bigint[]) AS id, unnest($3::bigint[]) AS due_at, unnest($4::bigint[]) AS expires_at,
              unnest($5::smallint[]) AS state, unnest($6::bigint[]) AS version,
              unnest($7::bigint[]) AS attempt, unnest($8::bigint[]) AS failures,
              unnest($9::bigint[]) AS losses, unnest($10::bigint[]) AS worker_boot,
              unnest($11::bigint[]) AS dispatched_at, unnest($12::bigint[]) AS started_at,
              unnest($13::bigint[]) AS stop_deadline, unnest($14::text[]) AS worker_name,
              unnest($15::text[]) AS reason, unnest($16::text[]) AS message, unnest($17::text[]) AS placement,
              unnest($18::text[]) AS result_type, unnest($19::bytea[]) AS result,
              unnest($20::bigint[]) AS ended_at, unnest($21::bigint[]) AS prune_at) AS n
          WHERE instance.id = n.id AND instance.version = n.version - 1
          RETURNING
              instance.id, instance.app_id, instance.job_id, instance.revision, instance.origin,
              instance.priority, instance.fire_time, instance.missed_before, instance.rerun_of,
              instance.created_at, instance.idempotency_key, instance.params, n.due_at, n.expires_at, n.state,
              n.version, n.attempt, n.failures, n.losses, n.worker_boot, n.dispatched_at, n.started_at,
              n.stop_deadline, n.worker_name, n.reason, n.message, n.placement, n.result_type, n.result,
              n.ended_at, n.prune_at),
      written AS (
          INSERT INTO ended_instance (
              id, app_id, job_id, revision, origin, priority, fire_time, missed_before, rerun_of, created_at,
              idempotency_key, params, due_at, expires_at, state, version, attempt, failures, losses,
              worker_boot, dispatched_at, started_at, stop_deadline, worker_name, reason, message, placement,
              result_type, result, ended_at, prune_at)
          SELECT * FROM gone
          RETURNING 1)",
    exactly!("$1")
);

pub(super) fn end<'b>(rows: &[Row<'b>], steps: &mut Vec<Step<'b>>) {
    let rows = rows_of!(rows, Row::Ended(new, prune_at) => (*new, *prune_at));
    let instances: Vec<_> = rows.iter().map(|row| row.0).collect();
    let mut values = vec![Value::count(rows.len()), ints(&instances, |new| new.id.0)];
    values.extend(mutable(&instances));
    values.extend(ends(&rows));
    steps.push(Step { sql: END_INSTANCES, values });
}

/// Ends a row whatever is in it, and replaces what no reader would understand, so that it shows in listings again.
const QUARANTINE: &str = concat!(
    "WITH gone AS (
          DELETE FROM instance WHERE id = $1
          RETURNING
              id, app_id, job_id, LEAST(GREATEST(revision, 0), 4294967295) AS revision,
              CASE WHEN origin BETWEEN 1 AND 3 THEN origin ELSE 1 END AS origin,
              LEAST(GREATEST(priority, -128), 127) AS priority, fire_time,
              LEAST(GREATEST(missed_before, 0), 4294967295) AS missed_before, rerun_of, created_at, due_at, expires_at,
              LEAST(GREATEST(version, 0), 4294967294) + 1 AS version,
              LEAST(GREATEST(attempt, 0), 4294967295) AS attempt,
              LEAST(GREATEST(failures, 0), 4294967295) AS failures, LEAST(GREATEST(losses, 0), 4294967295) AS losses,
              CASE WHEN worker_name IS NOT NULL THEN worker_boot END AS worker_boot,
              CASE WHEN worker_boot IS NOT NULL THEN worker_name END AS worker_name,
              dispatched_at, started_at, idempotency_key,
              CASE WHEN $6 THEN params END AS params, CASE WHEN $7 THEN placement END AS placement,
              CASE WHEN result IS NOT NULL THEN result_type END AS result_type,
              CASE WHEN result_type IS NOT NULL THEN result END AS result),
      written AS (
          INSERT INTO ended_instance (
              id, app_id, job_id, revision, origin, priority, fire_time, missed_before, rerun_of, created_at, due_at,
              expires_at, version, attempt, failures, losses, worker_boot, worker_name, dispatched_at, started_at,
              idempotency_key, params, placement, result_type, result, state, ended_at, prune_at, reason, message)
          SELECT gone.*, 4::smallint, $2::bigint, $3::bigint, $4::text, $5::text FROM gone
          RETURNING 1)",
    exactly!("1")
);

pub(super) fn quarantine<'b>(
    id: InstanceId,
    at: Timestamp,
    why: &str,
    prune_at: Timestamp,
    known: &Known,
    steps: &mut Vec<Step<'b>>,
) {
    let message = limits::cut(why, limits::MESSAGE_BYTES);
    let damage = known.damage(id);
    let values = vec![
        Value::Int(id.0),
        Value::time(at),
        Value::time(prune_at),
        Value::owned(Reason::QUARANTINED.as_str().to_owned()),
        Value::owned(message),
        Value::Flag(!damage.params),
        Value::Flag(!damage.placement),
    ];
    steps.push(Step { sql: QUARANTINE, values });
    if damage.fanout {
        // Without counts it is shown as what it is otherwise.
        steps.push(Step { sql: "DELETE FROM fanout WHERE instance_id = $1", values: vec![Value::Int(id.0)] });
    }
}

pub(in crate::postgres) const INSERT_ATTEMPTS: &str = concat!(
    "WITH written AS (
          INSERT INTO past_attempt (
              instance_id, task_id, attempt, state, worker_boot, dispatched_at, started_at, ended_at, worker_name,
              placement, reason, message)
          SELECT n.* FROM (SELECT
              unnest($2::bigint[]) AS instance_id, unnest($3::bigint[]) AS task_id, unnest($4::bigint[]) AS attempt,
              unnest($5::smallint[]) AS state, unnest($6::bigint[]) AS worker_boot,
              unnest($7::bigint[]) AS dispatched_at, unnest($8::bigint[]) AS started_at,
              unnest($9::bigint[]) AS ended_at, unnest($10::text[]) AS worker_name, unnest($11::text[]) AS placement,
              unnest($12::text[]) AS reason, unnest($13::text[]) AS message) AS n
          WHERE (SELECT o.id FROM instance o WHERE o.id = n.instance_id) IS NOT NULL
              OR (SELECT o.id FROM ended_instance o WHERE o.id = n.instance_id) IS NOT NULL
          RETURNING 1)",
    exactly!("$1")
);

pub(super) fn insert_attempts<'b>(rows: &[Row<'b>], steps: &mut Vec<Step<'b>>) {
    let rows: Vec<&'b PastAttempt> = rows_of!(rows, Row::Attempt(past) => *past);
    let values = vec![
        Value::count(rows.len()),
        ints(&rows, |past| past.instance.0),
        ints(&rows, |past| stored_task(past.task)),
        ints(&rows, |past| past.attempt.into()),
        codes(&rows, |past| Some(past.state.code())),
        opt_ints(&rows, |past| boot_of(&past.worker)),
        opt_ints(&rows, |past| micros(past.dispatched_at)),
        opt_ints(&rows, |past| micros(past.started_at)),
        times(&rows, |past| past.ended_at),
        opt_texts(&rows, |past| name_of(&past.worker)),
        opt_texts(&rows, |past| past.placement.as_deref()),
        opt_texts(&rows, |past| Some(past.reason.as_str())),
        opt_texts(&rows, |past| past.message.as_deref()),
    ];
    steps.push(Step { sql: INSERT_ATTEMPTS, values });
}
