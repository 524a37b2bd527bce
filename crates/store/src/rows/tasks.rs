//! Rows of instances with many tasks.

use std::sync::Arc;

use pendula_model::instance::{Reason, TaskState};
use pendula_model::task::{Fanout, Phase, Task, TaskCounts, TaskRole};
use pendula_model::{InstanceId, TaskId};

use super::{Columns, Unreadable, payload};

/// Columns of `fanout`, as [`fanout`] reads them.
macro_rules! fanout_columns {
    () => {
        "fanout.instance_id, fanout.version, fanout.phase, fanout.total, fanout.waiting, fanout.running, \
         fanout.succeeded, fanout.failed, fanout.lost, fanout.stopped, fanout.next_task, fanout.next_waiting, \
         fanout.base_id, fanout.rate_milli, fanout.targets"
    };
}

pub(crate) fn fanout(columns: &mut Columns<'_>) -> Result<Fanout, Unreadable> {
    Ok(Fanout {
        instance: InstanceId(columns.int()?),
        version: columns.small()?,
        phase: columns.word(Phase::from_code)?,
        counts: TaskCounts {
            total: columns.small()?,
            waiting: columns.small()?,
            running: columns.small()?,
            succeeded: columns.small()?,
            failed: columns.small()?,
            lost: columns.small()?,
            stopped: columns.small()?,
        },
        next_task: TaskId(columns.small()?),
        next_waiting: TaskId(columns.small()?),
        base: columns.opt_int()?.map(InstanceId),
        rate_milli: columns.small()?,
        targets: columns.opt_json()?,
    })
}

/// Columns of `task` without what may be large, as [`task`] reads them.
macro_rules! task_columns {
    () => {
        "instance_id, id, role, state, version, attempt, failures, losses, emitted, due_at, parent, target_name, \
         target_boot, worker_name, worker_boot, dispatched_at, started_at, ended_at, reason, name, message, placement"
    };
}

pub(crate) fn task(columns: &mut Columns<'_>) -> Result<Task, Unreadable> {
    Ok(Task {
        instance: InstanceId(columns.int()?),
        id: TaskId(columns.small()?),
        role: columns.word(TaskRole::from_code)?,
        state: columns.word(TaskState::from_code)?,
        version: columns.small()?,
        attempt: columns.small()?,
        failures: columns.small()?,
        losses: columns.small()?,
        emitted: columns.small()?,
        due_at: columns.time()?,
        parent: columns.opt_small()?.map(TaskId),
        target: columns.opt_worker()?,
        worker: columns.opt_worker()?,
        dispatched_at: columns.opt_time()?,
        started_at: columns.opt_time()?,
        ended_at: columns.opt_time()?,
        reason: columns.opt_text()?.map(Reason::from_wire),
        name: Arc::from(columns.text()?),
        message: columns.opt_text()?.map(Arc::from),
        placement: columns.opt_json()?,
        input: None,
        result: None,
    })
}

/// [`task_columns`] and all the rest, as [`whole_task`] reads them.
macro_rules! whole_task_columns {
    () => {
        concat!(task_columns!(), ", input_type, input, result_type, result")
    };
}

pub(crate) fn whole_task(columns: &mut Columns<'_>) -> Result<Task, Unreadable> {
    let mut task = task(columns)?;
    task.input = payload(columns)?.map(Arc::new);
    task.result = payload(columns)?.map(Arc::new);
    Ok(task)
}

/// [`task_columns`] and the result, as [`task_with_result`] reads them.
macro_rules! task_with_result_columns {
    () => {
        concat!(task_columns!(), ", result_type, result")
    };
}

pub(crate) fn task_with_result(columns: &mut Columns<'_>) -> Result<Task, Unreadable> {
    let mut task = task(columns)?;
    task.result = payload(columns)?.map(Arc::new);
    Ok(task)
}

pub(crate) use {fanout_columns, task_columns, task_with_result_columns, whole_task_columns};
