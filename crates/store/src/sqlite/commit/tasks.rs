//! Writes of instances with many tasks: by far the most statements that a busy store runs.

use pendula_model::instance::Reason;
use pendula_model::task::{Fanout, Task};
use pendula_model::{InstanceId, Timestamp};
use rusqlite::{Connection, Params, Statement, params};

use super::{expect_one, expect_row, micros, worker_columns};
use crate::port::StoreError;
use crate::sqlite::error::{OrStoreError, store_error};
use crate::sqlite::tasks::{fresh, stored_task, under_way, unsuccessful};

pub(in crate::sqlite) const INSERT_FANOUT: &str = "
    INSERT INTO fanout (instance_id, version, phase, total, waiting, running, succeeded, failed, lost, stopped,
                        next_task, next_waiting, rate_milli, targets, base_id)
    SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15
    WHERE EXISTS (SELECT 1 FROM instance WHERE id = ?1 AND ended_at IS NULL)";

pub(super) fn insert_fanout(db: &Connection, new: &Fanout) -> Result<(), StoreError> {
    let counts = &new.counts;
    let values = params![
        new.instance.0,
        new.version,
        new.phase.code(),
        counts.total.cast_signed(),
        counts.waiting.cast_signed(),
        counts.running.cast_signed(),
        counts.succeeded.cast_signed(),
        counts.failed.cast_signed(),
        counts.lost.cast_signed(),
        counts.stopped.cast_signed(),
        stored_task(new.next_task),
        stored_task(new.next_waiting),
        new.rate_milli.cast_signed(),
        new.targets.as_deref(),
        new.base.map(|base| base.0),
    ];
    let expected = || format!("instance {} became tasks already, has ended or does not exist", new.instance);
    expect_row(db, INSERT_FANOUT, values, expected)
}

/// A row of the same length is written in place, so that a long list of targets costs nothing while counts move.
pub(in crate::sqlite) const UPDATE_FANOUT: &str = "
    UPDATE fanout SET version = ?2, phase = ?3, total = ?4, waiting = ?5, running = ?6, succeeded = ?7, failed = ?8,
        lost = ?9, stopped = ?10, next_task = ?11, next_waiting = ?12, rate_milli = ?13, targets = ?14
    WHERE instance_id = ?1 AND version = ?2 - 1";

pub(super) fn update_fanout(db: &Connection, new: &Fanout) -> Result<(), StoreError> {
    let counts = &new.counts;
    let values = params![
        new.instance.0,
        new.version,
        new.phase.code(),
        counts.total.cast_signed(),
        counts.waiting.cast_signed(),
        counts.running.cast_signed(),
        counts.succeeded.cast_signed(),
        counts.failed.cast_signed(),
        counts.lost.cast_signed(),
        counts.stopped.cast_signed(),
        stored_task(new.next_task),
        stored_task(new.next_waiting),
        new.rate_milli.cast_signed(),
        new.targets.as_deref(),
    ];
    let before = new.version.wrapping_sub(1);
    expect_row(db, UPDATE_FANOUT, values, || {
        format!("the counts of instance {} are not at version {before}", new.instance)
    })
}

pub(in crate::sqlite) const TAKES_TASKS: &str = "
    SELECT 1 FROM instance JOIN fanout ON fanout.instance_id = instance.id
    WHERE instance.id = ?1 AND instance.ended_at IS NULL";

pub(in crate::sqlite) const HAS_ENDED: &str = "SELECT 1 FROM instance WHERE id = ?1 AND ended_at IS NOT NULL";

/// Once per change, not per row.
fn expect(db: &Connection, sql: &'static str, id: InstanceId, what: &str) -> Result<(), StoreError> {
    let found = db.prepare_cached(sql).and_then(|mut statement| statement.exists([id.0])).or_store_error()?;
    if found { Ok(()) } else { Err(StoreError::Conflict { what: format!("instance {id} {what}") }) }
}

const TAKES_NONE: &str = "never became tasks, or has ended";

pub(in crate::sqlite) const INSERT_TASK: &str = "
    INSERT INTO task (instance_id, id, role, state, version, attempt, failures, losses, emitted, due_at, parent,
                      target_boot, worker_boot, dispatched_at, started_at, target_name, worker_name, reason, name,
                      message, placement, input_type, input, result_type, result)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?22, ?23,
            ?24, ?25)";

pub(super) fn insert_tasks(db: &Connection, tasks: &[Task]) -> Result<(), StoreError> {
    let Some(first) = tasks.first() else { return Ok(()) };
    expect(db, TAKES_TASKS, first.instance, TAKES_NONE)?;
    let mut insert = db.prepare_cached(INSERT_TASK).or_store_error()?;
    for new in tasks {
        let (target_name, target_boot) = worker_columns(&new.target);
        let (worker_name, worker_boot) = worker_columns(&new.worker);
        let (input, result) = (new.input.as_deref(), new.result.as_deref());
        let inserted = insert.execute(params![
            new.instance.0,
            stored_task(new.id),
            new.role.code(),
            new.state.code(),
            new.version,
            new.attempt,
            new.failures,
            new.losses,
            new.emitted.cast_signed(),
            new.due_at.as_micros(),
            new.parent.map(stored_task),
            target_boot,
            worker_boot,
            micros(new.dispatched_at),
            micros(new.started_at),
            target_name,
            worker_name,
            new.reason.as_ref().map(Reason::as_str),
            &*new.name,
            new.message.as_deref(),
            new.placement.as_deref(),
            input.map(|input| input.content_type.as_str()),
            input.map(|input| input.bytes.as_slice()),
            result.map(|result| result.content_type.as_str()),
            result.map(|result| result.bytes.as_slice()),
        ]);
        inserted.map_err(|error| match store_error(error) {
            StoreError::Conflict { what } => {
                StoreError::Conflict { what: format!("task {} exists ({what})", new.key()) }
            }
            error => error,
        })?;
    }
    Ok(())
}

/// Those of one kind that did not succeed, as copies. The kinds are found like in a listing, without a walk over all that
/// succeeded, for which every commit would have to wait.
macro_rules! copies {
    ($index:literal, $condition:expr) => {
        concat!(
            " SELECT ?2, id, role, 1, 1, 0, 0, 0, emitted, ?3, parent, target_boot, target_name, name, input_type, input
              FROM task ",
            $index,
            " WHERE instance_id = ?1 AND role BETWEEN 2 AND 4 AND ",
            $condition
        )
    };
}

pub(in crate::sqlite) const COPY_TASKS: &str = concat!(
    "INSERT INTO task (instance_id, id, role, state, version, attempt, failures, losses, emitted, due_at, parent,
                       target_boot, target_name, name, input_type, input)",
    copies!("INDEXED BY task_unsuccessful", unsuccessful!()),
    " UNION ALL",
    copies!("INDEXED BY task_under_way", under_way!()),
    " UNION ALL",
    copies!("", fresh!()),
    " AND id >= coalesce((SELECT next_waiting FROM fanout WHERE fanout.instance_id = ?1), 0)"
);

pub(super) fn copy_tasks(
    db: &Connection,
    from: InstanceId,
    to: InstanceId,
    at: Timestamp,
    count: u64,
) -> Result<(), StoreError> {
    expect(db, TAKES_TASKS, to, TAKES_NONE)?;
    expect(db, HAS_ENDED, from, "is still under way, or does not exist")?;
    let copied = execute(db, COPY_TASKS, params![from.0, to.0, at.as_micros()])?;
    if copied as u64 == count {
        return Ok(());
    }
    let what = format!("{copied} tasks of instance {from} did not succeed, not {count}");
    Err(StoreError::Conflict { what })
}

fn execute(db: &Connection, sql: &'static str, values: impl Params) -> Result<usize, StoreError> {
    db.prepare_cached(sql).and_then(|mut statement| statement.execute(values)).or_store_error()
}

/// Touches no key, and of the indexes only those that hold what is under way or went wrong.
pub(in crate::sqlite) const UPDATE_TASK: &str = "
    UPDATE task SET state = ?4, version = ?3, attempt = ?5, failures = ?6, losses = ?7, emitted = ?8, due_at = ?9,
        target_boot = ?10, worker_boot = ?11, dispatched_at = ?12, started_at = ?13, ended_at = ?14, worker_name = ?15,
        reason = ?16, message = ?17, placement = ?18, result_type = ?19, result = ?20
    WHERE instance_id = ?1 AND id = ?2 AND version = ?3 - 1 AND target_name IS ?21
        AND (ended_at IS NULL OR ?14 IS NULL)";

/// `statement` is [`UPDATE_TASK`].
pub(super) fn update_task(statement: &mut Statement<'_>, new: &Task) -> Result<(), StoreError> {
    let (target_name, target_boot) = worker_columns(&new.target);
    let (worker_name, worker_boot) = worker_columns(&new.worker);
    let result = new.result.as_deref();
    let values = params![
        new.instance.0,
        stored_task(new.id),
        new.version,
        new.state.code(),
        new.attempt,
        new.failures,
        new.losses,
        new.emitted.cast_signed(),
        new.due_at.as_micros(),
        target_boot,
        worker_boot,
        micros(new.dispatched_at),
        micros(new.started_at),
        micros(new.ended_at),
        worker_name,
        new.reason.as_ref().map(Reason::as_str),
        new.message.as_deref(),
        new.placement.as_deref(),
        result.map(|result| result.content_type.as_str()),
        result.map(|result| result.bytes.as_slice()),
        target_name,
    ];
    expect_one(statement.execute(values), || {
        format!("task {} has ended, is bound elsewhere or is not at version {}", new.key(), new.version.wrapping_sub(1))
    })
}

/// A quarantined instance keeps its counts if they can be read, and is shown without any if not.
pub(super) fn drop_unreadable_fanout(db: &Connection, id: InstanceId) -> Result<(), StoreError> {
    if crate::sqlite::tasks::is_fanout_readable(db, id)? {
        return Ok(());
    }
    execute(db, "DELETE FROM fanout WHERE instance_id = ?1", [id.0]).map(drop)
}
