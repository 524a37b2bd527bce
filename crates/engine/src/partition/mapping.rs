//! Sub-tasks that running tasks emit, and tasks that users want tried again.

use pendula_model::instance::{InstanceState, TaskState};
use pendula_model::task::{Phase, Task, TaskRole};
use pendula_model::{InstanceId, SessionId, limits};

use super::Partition;
use super::spread::{LiveTask, Written};
use super::state::Dirty;
use super::tasks::to_waiting;
use crate::Output;
use crate::effect::{Effect, Refusal, Reply};
use crate::input::Mapping;

impl Partition {
    pub(super) fn on_mapped(&mut self, session: SessionId, maps: Vec<Mapping>, out: &mut Output) {
        let Some(known) = self.sessions.get_mut(&session) else { return };
        known.last_heard = self.now;
        for mapping in maps {
            let attempt = mapping.attempt;
            let reply = self.map(session, mapping);
            out.effects.push(Effect::Mapped { session, attempt, reply });
        }
    }

    /// Takes what is new of the emitted sub-tasks. Returns how many the task emitted so far.
    fn map(&mut self, session: SessionId, mapping: Mapping) -> Result<u64, String> {
        let now = self.now;
        let Mapping { attempt, first, tasks } = mapping;
        let key = attempt.key();
        let stale = || "the attempt is not the worker's own any more".to_owned();
        let active = self.instances.get_mut(&key.instance).ok_or_else(stale)?;
        let is_stopping = active.row.state == InstanceState::Stopping;
        let spread = active.spread.as_mut().ok_or("only tasks of a map can emit sub-tasks")?;
        let task = spread.live.get(&key.task).ok_or_else(stale)?;
        if task.session != Some(session) || task.row.attempt != attempt.attempt || !task.row.state.is_placed() {
            return Err(stale());
        }
        if !task.row.role.may_map() {
            return Err(format!("a task of the kind `{}` cannot emit sub-tasks", task.row.role));
        }
        if is_stopping || task.stopping.is_some() {
            return Err("it is being stopped".to_owned());
        }
        let emitted = task.row.emitted;
        if first > emitted {
            return Err(format!("sub-task {first} came after only {emitted} were accepted; one message is missing"));
        }
        let known = usize::try_from(emitted - first).unwrap_or(usize::MAX);
        let count = tasks.len().saturating_sub(known) as u64;
        if count == 0 {
            return Ok(emitted);
        }
        if spread.row.counts.total + count > limits::TASKS {
            return Err(format!("the instance would have more than {} tasks", limits::TASKS));
        }
        let mut ready = Vec::new();
        for new in tasks.into_iter().skip(known) {
            let id = spread.row.next_task;
            spread.row.next_task = id.next();
            let row = Task {
                parent: Some(key.task),
                input: new.input,
                ..Task::new(key.instance, id, TaskRole::Sub, new.name, now)
            };
            if spread.unread.is_some() || !spread.has_room() {
                spread.unread.get_or_insert(id);
                spread.created.push(Written::Row(Box::new(row)));
            } else {
                ready.push(row.key());
                spread.insert_live(LiveTask::new(row, Dirty::New, now));
                spread.created.push(Written::Live(id));
                spread.fresh.insert(id);
            }
        }
        spread.row.counts.total += count;
        spread.row.counts.waiting += count;
        spread.touch();
        if let Some(task) = spread.live.get_mut(&key.task) {
            task.row.emitted = emitted + count;
        }
        spread.touch_task(key.task);
        self.list(key.instance);
        if !ready.is_empty() {
            self.queue_spread(key.instance);
        }
        Ok(emitted + count)
    }

    /// Lets tasks that ended without success wait again.
    pub(super) fn tasks_retry(&mut self, id: InstanceId, tasks: Vec<Task>) -> Result<Reply, Refusal> {
        let now = self.now;
        let active = self.instances.get_mut(&id).ok_or(Refusal::NotActive)?;
        if active.row.state == InstanceState::Stopping {
            return Err(Refusal::NoRetry("it is being stopped"));
        }
        let spread = active.spread.as_mut().ok_or(Refusal::NoRetry("it has no tasks that could have failed"))?;
        if spread.row.phase != Phase::Main {
            return Err(Refusal::NoRetry("its tasks are over and the last one runs; retry it when it has ended"));
        }
        let mut retried = Vec::new();
        for mut row in tasks {
            let counted = row.role.is_counted() && matches!(row.state, TaskState::Failed | TaskState::Lost);
            if row.instance != id || !counted || spread.live.contains_key(&row.id) {
                continue;
            }
            let was = row.state;
            if *spread.row.counts.of(was) == 0 {
                // It ended so under another, who has taken over since.
                continue;
            }
            let reason = row.reason.take();
            to_waiting(&mut row, now, reason);
            (row.failures, row.losses) = (0, 0);
            retried.push(row.key());
            spread.count(was, TaskState::Waiting);
            // Written as waiting, whatever follows: what ended only ever becomes what waits.
            row.version += 1;
            spread.changed.push(Written::Row(Box::new(row.clone())));
            spread.insert_live(LiveTask::new(row, Dirty::Clean, now));
        }
        if !retried.is_empty() {
            spread.retries += 1;
        }
        self.list(id);
        let count = retried.len();
        for key in retried {
            self.ready_task(key);
        }
        Ok(Reply::Retried(count))
    }

    /// How often users had tasks of it tried again.
    pub(super) fn retries_of(&self, id: InstanceId) -> u64 {
        self.instances.get(&id).and_then(|active| active.spread.as_ref()).map_or(0, |spread| spread.retries)
    }
}
