//! What a task of an instance with many knows about itself.

use pendula_model::TaskId;
use pendula_model::task::TaskRole;
use serde::de::DeserializeOwned;

use crate::handler::Failure;
use crate::task::{Task, read_json};

/// A fixed share of the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    /// From 0, below `total`. The same in every try.
    pub index: u32,
    /// How many shares there are.
    pub total: u32,
}

impl Task {
    /// What the task is for; `None` for the only task of a standalone instance.
    pub fn role(&self) -> Option<TaskRole> {
        // An unknown role never comes as far as a handler.
        self.state.dispatch.task_role().unwrap_or_default()
    }

    /// Its number within the instance; 0 for the only task of a standalone one. With [`Task::instance`] it is a key for
    /// idempotent side effects: it stays the same in every try.
    pub fn task_id(&self) -> TaskId {
        TaskId(self.state.held.task)
    }

    /// Given by who emitted it, for people; of a broadcast's task, the name of the worker. May be empty.
    pub fn task_name(&self) -> &str {
        &self.state.dispatch.task_name
    }

    /// Given by who emitted it; empty when nothing was.
    pub fn input(&self) -> &[u8] {
        &self.state.dispatch.input
    }

    /// Content type of [`Task::input`]; empty when there is no input.
    pub fn input_content_type(&self) -> &str {
        &self.state.dispatch.input_content_type
    }

    /// The input, read as JSON. No input reads as `null`.
    ///
    /// # Errors
    /// A failure without retry, since the next try would read the same.
    pub fn input_json<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        read_json("input", self.input())
    }

    /// Which share of the work, of a task with role `shard`.
    pub fn shard(&self) -> Option<Shard> {
        let (index, total) = (self.state.dispatch.shard_index, self.state.dispatch.shard_total);
        (total > 0).then_some(Shard { index, total })
    }
}
