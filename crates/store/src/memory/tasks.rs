//! Questions about the tasks of one instance.

use std::ops::RangeInclusive;

use pendula_model::task::{Fanout, Task};
use pendula_model::{InstanceId, TaskId, TaskKey, Timestamp};

use super::{MemoryStore, Tables, page};
use crate::ended;
use crate::port::{Page, TaskFilter};

/// Keys of all tasks of an instance from `from` on.
pub(super) fn of(instance: InstanceId, from: TaskId) -> RangeInclusive<TaskKey> {
    TaskKey { instance, task: from }..=TaskKey { instance, task: TaskId(u64::MAX) }
}

/// The first of `tasks`: at most `limit`, and no more once they hold `bytes`, but one if there is one.
fn some(tasks: impl Iterator<Item = Task>, limit: usize, bytes: usize) -> Vec<Task> {
    let (mut items, mut left) = (Vec::new(), bytes);
    for task in tasks.take(limit) {
        left = left.saturating_sub(task.bytes());
        items.push(task);
        if left == 0 {
            break;
        }
    }
    items
}

fn ended_at(tables: &Tables, id: InstanceId) -> Option<Timestamp> {
    tables.instances.get(&id)?.instance.ended_at
}

impl MemoryStore {
    /// [`Store::tasks_waiting`](crate::Store::tasks_waiting).
    pub fn tasks_waiting_sync(&self, instance: InstanceId, from: TaskId, limit: usize, bytes: usize) -> Vec<Task> {
        let tables = self.tables();
        let waits = |task: &&Task| !task.is_under_way() && !task.state.is_ended();
        let rows = tables.tasks.range(of(instance, from)).map(|(_, task)| task);
        some(rows.filter(waits).cloned(), limit, bytes)
    }

    /// [`Store::fanout`](crate::Store::fanout).
    pub fn fanout_sync(&self, id: InstanceId) -> Option<Fanout> {
        let tables = self.tables();
        let fanout = tables.fanouts.get(&id)?.clone();
        let counts = if ended_at(&tables, id).is_some() { fanout.counts.settled() } else { fanout.counts };
        Some(Fanout { counts, ..fanout })
    }

    /// [`Store::tasks`](crate::Store::tasks).
    pub fn tasks_sync(&self, filter: &TaskFilter) -> Page<Task> {
        let tables = self.tables();
        let ended_at = ended_at(&tables, filter.instance);
        let part = filter.name_contains.as_deref().unwrap_or_default().to_ascii_lowercase();
        let stored_as_wanted = |task: &Task| {
            let wanted = |state| ended::stored_as(state, ended_at.is_some()).contains(&task.state);
            filter.states.is_empty() || filter.states.iter().copied().any(wanted)
        };
        let wanted = |task: &&Task| stored_as_wanted(task) && task.name.to_ascii_lowercase().contains(&part);
        let small = |task: &Task| ended::shown(Task { input: None, result: None, ..task.clone() }, ended_at);
        let rows = tables.tasks.range(of(filter.instance, filter.from)).map(|(_, task)| task);
        page(rows.filter(wanted).take(filter.limit.saturating_add(1)).map(small).collect(), filter.limit)
    }

    /// [`Store::task`](crate::Store::task).
    pub fn task_sync(&self, instance: InstanceId, id: TaskId) -> Option<Task> {
        let tables = self.tables();
        let task = tables.tasks.get(&TaskKey { instance, task: id })?.clone();
        Some(ended::shown(task, ended_at(&tables, instance)))
    }

    /// [`Store::task_results`](crate::Store::task_results).
    pub fn task_results_sync(&self, instance: InstanceId, from: TaskId, limit: usize, bytes: usize) -> Vec<Task> {
        let tables = self.tables();
        let ended = |task: &&Task| task.state.is_ended() && task.role.is_counted();
        let rows = tables.tasks.range(of(instance, from)).map(|(_, task)| task);
        some(rows.filter(ended).map(|task| Task { input: None, ..task.clone() }), limit, bytes)
    }

    /// Shows every task as it is stored to `look`, in order of instance and id, without copying it.
    pub fn for_each_task(&self, look: impl FnMut(&Task)) {
        self.tables().tasks.values().for_each(look);
    }
}
