//! What an ended instance shows of its tasks.
//!
//! That an instance ends is one row's write, however many of its tasks never got their turn. They stay as they were, and
//! those who read for people see what became of them.

use pendula_model::Timestamp;
use pendula_model::instance::{Reason, TaskState};
use pendula_model::task::Task;

/// States under which rows are stored that are shown as `state`; `has_ended` is the instance's.
pub(crate) fn stored_as(state: TaskState, has_ended: bool) -> &'static [TaskState] {
    use TaskState::*;
    match (state, has_ended) {
        (Waiting | Dispatched | Running, true) => &[],
        (Stopped, true) => &[Waiting, Dispatched, Running, Stopped],
        (Waiting, false) => &[Waiting],
        (Dispatched, false) => &[Dispatched],
        (Running, false) => &[Running],
        (Stopped, false) => &[Stopped],
        (Failed, _) => &[Failed],
        (Succeeded, _) => &[Succeeded],
        (Lost, _) => &[Lost],
    }
}

/// The task as it is shown when its instance ended at `ended_at`: what had not ended then never will.
pub(crate) fn shown(task: Task, ended_at: Option<Timestamp>) -> Task {
    if ended_at.is_none() || task.state.is_ended() {
        return task;
    }
    Task { state: TaskState::Stopped, ended_at, reason: Some(Reason::INSTANCE_ENDED), message: None, ..task }
}
