//! Which running tasks ask the server something.

use std::collections::VecDeque;
use std::sync::Arc;

use pendula_model::instance::Reason;
use pendula_model::task::TaskRole;
use pendula_wire::{frame, v1};

use crate::handler::Failure;
use crate::ledger::{self, Ledger};
use crate::task::TaskState;

/// Tasks with something to ask, in turn. One of them may stand here twice for a moment; who has nothing to ask any more
/// leaves when its turn comes.
#[derive(Default)]
pub(super) struct Questions {
    maps: VecDeque<Arc<TaskState>>,
    pages: VecDeque<Arc<TaskState>>,
}

impl Questions {
    /// The task has something to ask.
    pub(super) fn asked(&mut self, task: Arc<TaskState>) {
        // A role allows one of both.
        match task.dispatch.task_role() {
            Ok(Some(TaskRole::Post | TaskRole::Reduce)) => self.pages.push_back(task),
            _ => self.maps.push_back(task),
        }
    }

    /// A new session has heard nothing of what `running` tasks ask.
    pub(super) fn rewind<'a>(&mut self, running: impl Iterator<Item = &'a Arc<TaskState>>) {
        self.maps.clear();
        self.pages.clear();
        for task in running {
            if task.asked().is_some_and(|asks| asks.rewind()) {
                self.asked(task.clone());
            }
        }
    }

    /// Nobody is there who could answer.
    pub(super) fn refuse(&mut self) {
        for task in self.maps.drain(..).chain(self.pages.drain(..)) {
            let why = "this server is too old for instances with many tasks";
            task.asks().close(Failure::new(Reason::from_wire("server_too_old"), why));
        }
    }

    /// The sub-tasks of the next frame, one request of each task in turn.
    pub(super) fn take_maps(&mut self, ledger: &Ledger) -> Vec<v1::MapRequest> {
        let (mut requests, mut bytes, mut entries) = (Vec::new(), 0, 0);
        while bytes < frame::BATCH_BYTES && entries < frame::BATCH_ENTRIES {
            let Some(task) = self.maps.pop_front() else { break };
            let at = ledger::key_of(&task.held);
            if !ledger.holds(at) {
                continue;
            }
            let Some(request) = task.asks().next_map(at) else { continue };
            bytes += frame::entry_bytes(&request);
            entries += request.tasks.len();
            requests.push(request);
            self.maps.push_back(task);
        }
        requests
    }

    /// The pages to ask for in the next frame.
    pub(super) fn take_pages(&mut self, ledger: &Ledger) -> Vec<v1::ResultRequest> {
        let mut requests = Vec::new();
        while requests.len() < frame::BATCH_ENTRIES {
            let Some(task) = self.pages.pop_front() else { break };
            let at = ledger::key_of(&task.held);
            if !ledger.holds(at) {
                continue;
            }
            let Some(request) = task.asks().next_page(at) else { continue };
            requests.push(request);
            self.pages.push_back(task);
        }
        requests
    }
}
