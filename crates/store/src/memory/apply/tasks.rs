//! Changes of instances with many tasks.

use pendula_model::instance::TaskState;
use pendula_model::task::{Fanout, Task};
use pendula_model::worker::WorkerRef;
use pendula_model::{InstanceId, TaskId, TaskKey, Timestamp};

use super::{Refused, Tables};
use crate::memory::tasks::of;

pub(super) fn insert_fanout(tables: &mut Tables, new: &Fanout) -> Result<(), Refused> {
    let id = new.instance;
    let is_active = tables.instances.get(&id).is_some_and(|row| !row.instance.state.is_ended());
    if !is_active || tables.fanouts.contains_key(&id) {
        return Err(format!("instance {id} became tasks already, has ended or does not exist"));
    }
    tables.put_fanout(id, Some(new.clone()));
    Ok(())
}

pub(super) fn update_fanout(tables: &mut Tables, new: &Fanout) -> Result<(), Refused> {
    let id = new.instance;
    let expected = |old: &&Fanout| old.version.checked_add(1) == Some(new.version);
    let Some(old) = tables.fanouts.get(&id).filter(expected) else {
        return Err(format!("the task counts of instance {id} are not at version {}", new.version.wrapping_sub(1)));
    };
    // The database does not write this column again.
    let fanout = Fanout { base: old.base, ..new.clone() };
    debug_assert_eq!(&fanout, new, "what an instance repeats is frozen when it becomes tasks");
    tables.put_fanout(id, Some(fanout));
    Ok(())
}

fn check_takes_tasks(tables: &Tables, id: InstanceId) -> Result<(), Refused> {
    let is_active = tables.instances.get(&id).is_some_and(|row| !row.instance.state.is_ended());
    if is_active && tables.fanouts.contains_key(&id) {
        return Ok(());
    }
    Err(format!("instance {id} never became tasks, or has ended"))
}

pub(super) fn insert(tables: &mut Tables, tasks: &[Task]) -> Result<(), Refused> {
    let Some(first) = tasks.first() else { return Ok(()) };
    check_takes_tasks(tables, first.instance)?;
    for task in tasks {
        if tables.tasks.contains_key(&task.key()) {
            return Err(format!("task {} exists", task.key()));
        }
        tables.put_task(task.key(), Some(task.clone()));
    }
    Ok(())
}

pub(super) fn copy(
    tables: &mut Tables,
    from: InstanceId,
    to: InstanceId,
    at: Timestamp,
    count: u64,
) -> Result<(), Refused> {
    check_takes_tasks(tables, to)?;
    if !tables.instances.get(&from).is_some_and(|row| row.instance.state.is_ended()) {
        return Err(format!("instance {from} is still under way, or does not exist"));
    }
    let unsuccessful = |task: &&Task| task.role.is_counted() && task.state != TaskState::Succeeded;
    let again = |task: &Task| Task {
        parent: task.parent,
        // What it emitted is there already, in the one or in the other.
        emitted: task.emitted,
        input: task.input.clone(),
        target: task.target.clone(),
        ..Task::new(to, task.id, task.role, task.name.clone(), at)
    };
    let all = tables.tasks.range(of(from, TaskId::ROOT)).map(|(_, task)| task);
    let copies: Vec<Task> = all.filter(unsuccessful).map(again).collect();
    if copies.len() as u64 != count {
        return Err(format!("{} tasks of instance {from} did not succeed, not {count}", copies.len()));
    }
    match copies.is_empty() {
        true => Ok(()),
        false => insert(tables, &copies),
    }
}

pub(super) fn update(tables: &mut Tables, new: &Task) -> Result<(), Refused> {
    let key: TaskKey = new.key();
    let bound_to = |target: &Option<WorkerRef>| target.as_ref().map(|worker| worker.name.clone());
    let expected = |old: &&Task| {
        let is_at = old.version.checked_add(1) == Some(new.version);
        let is_bound = bound_to(&old.target) == bound_to(&new.target);
        is_at && is_bound && !(old.state.is_ended() && new.state.is_ended())
    };
    let Some(old) = tables.tasks.get(&key).filter(expected) else {
        let before = new.version.wrapping_sub(1);
        return Err(format!("task {key} has ended, is bound elsewhere or is not at version {before}"));
    };
    // The database does not write these columns again.
    let task =
        Task { role: old.role, parent: old.parent, name: old.name.clone(), input: old.input.clone(), ..new.clone() };
    debug_assert_eq!(&task, new, "what was given with a task was changed");
    tables.put_task(key, Some(task));
    Ok(())
}
