//! The logs that the server does not have completely.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use pendula_model::AttemptKey;
use pendula_wire::{frame, v1};

use crate::ledger;
use crate::task::TaskState;

/// Bytes of log in one frame: less than reports get, so that a flood of lines does not hold them up.
const FRAME_BYTES: usize = frame::BATCH_BYTES / 4;

#[derive(Default)]
pub(super) struct OpenLogs {
    open: HashMap<AttemptKey, OpenLog>,
    /// Those with something to send, in turn.
    queue: VecDeque<Arc<TaskState>>,
}

struct OpenLog {
    task: Arc<TaskState>,
    ended_at: Option<Instant>,
    queued: bool,
}

impl OpenLogs {
    /// There is more to send.
    pub(super) fn logged(&mut self, task: Arc<TaskState>) {
        let log = self.open.entry(ledger::key_of(&task.held)).or_insert_with(|| OpenLog {
            task: task.clone(),
            ended_at: None,
            queued: false,
        });
        if !std::mem::replace(&mut log.queued, true) {
            self.queue.push_back(task);
        }
    }

    /// The attempt ended; only the rest of its log and the mark follow.
    pub(super) fn ended(&mut self, now: Instant, task: Arc<TaskState>) {
        let key = ledger::key_of(&task.held);
        self.logged(task);
        if let Some(log) = self.open.get_mut(&key) {
            log.ended_at = Some(now);
        }
    }

    /// The chunks of the next frame, one of each log in turn. `flushed` hears of each log that ended and is sent
    /// completely.
    pub(super) fn take_chunks(&mut self, mut flushed: impl FnMut(&v1::Held)) -> Vec<v1::LogChunk> {
        let mut chunks = Vec::new();
        let mut bytes = 0;
        while bytes < FRAME_BYTES {
            let Some(task) = self.queue.pop_front() else { break };
            let Some(log) = self.open.get_mut(&ledger::key_of(&task.held)) else { continue };
            let Some(chunk) = task.log.next_chunk() else {
                log.queued = false;
                continue;
            };
            bytes += chunk.data.len() + 64;
            chunks.push(v1::LogChunk {
                task: Some(task.held),
                offset: chunk.offset,
                data: chunk.data,
                lost_before: chunk.lost_before,
                end: chunk.end,
            });
            if chunk.end {
                log.queued = false;
                flushed(&task.held);
            } else {
                self.queue.push_back(task);
            }
        }
        chunks
    }

    /// The server has everything before `offset`.
    pub(super) fn acknowledged(&mut self, held: &v1::Held, offset: u64) {
        let key = ledger::key_of(held);
        if let Some(log) = self.open.get(&key) {
            log.task.log.acknowledge(offset);
            if log.task.log.is_settled() {
                self.forget(key);
            }
        }
    }

    /// A new session has seen nothing that was not acknowledged.
    pub(super) fn rewind(&mut self) {
        self.queue.clear();
        for log in self.open.values_mut() {
            log.task.log.rewind();
            log.queued = log.task.log.has_unsent();
            if log.queued {
                self.queue.push_back(log.task.clone());
            }
        }
    }

    /// Whether the end of this attempt must wait for its log.
    pub(super) fn waits(&self, held: &v1::Held) -> bool {
        self.open.get(&ledger::key_of(held)).is_some_and(|log| log.task.log.has_unsent())
    }

    /// Gives up logs that nobody acknowledged for `linger` after their attempt ended.
    pub(super) fn expire(&mut self, now: Instant, linger: Duration) {
        self.open.retain(|_, log| log.ended_at.is_none_or(|at| now.duration_since(at) < linger));
    }

    pub(super) fn forget(&mut self, key: AttemptKey) {
        self.open.remove(&key);
    }

    /// Whether the server has all logs of attempts that ended.
    pub(super) fn is_settled(&self) -> bool {
        self.open.values().all(|log| log.ended_at.is_none())
    }
}
