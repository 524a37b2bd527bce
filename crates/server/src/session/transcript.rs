//! Storing what a session's tasks print: apart from its other messages, because disks are slower than reports.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use pendula_model::{AppId, AttemptKey, InstanceId, TaskId};
use pendula_store::StoreError;
use pendula_store::logs::{Appended, LogAppend, LogKey};
use pendula_wire::frame::LOG_CHUNK_BYTES;
use pendula_wire::{held, v1};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::task::TaskTracker;

use super::outbox::{Outbox, Parcel};
use crate::logs::News;
use crate::state::ServerState;

/// Bytes that wait to be stored, per session; beyond, the session waits too. In bytes and not in messages, because a
/// worker holds back its logs by bytes: many small messages must not stop what comes behind them.
const WAITING_BYTES: usize = 16 * 1024 * 1024;
/// What a chunk costs besides its bytes.
const CHUNK_OVERHEAD: usize = 128;
/// Instances whose right to logs is remembered; beyond, all are looked up again.
const KNOWN: usize = 10_000;
/// Pause before a log is appended again that the store could not take.
const AGAIN: Duration = Duration::from_millis(500);

/// The logs of one session.
struct Transcript {
    state: ServerState,
    app: AppId,
    outbox: Arc<Outbox>,
    /// Instances that were found to be of the session's app, with the latest attempt of their first task that is known.
    /// Other tasks are not looked at: there may be a million, and the log of one that never ran hurts nobody else.
    known: HashMap<InstanceId, u32>,
}

/// Chunks of one message, and their share of what may wait.
type Waiting = (Vec<v1::LogChunk>, OwnedSemaphorePermit);

/// Where a session puts its logs.
pub(super) struct Intake {
    waiting: mpsc::UnboundedSender<Waiting>,
    room: Arc<Semaphore>,
}

impl Intake {
    fn new() -> (Intake, mpsc::UnboundedReceiver<Waiting>) {
        let (waiting, received) = mpsc::unbounded_channel();
        (Intake { waiting, room: Arc::new(Semaphore::new(WAITING_BYTES)) }, received)
    }

    /// Hands over the chunks of one message, as soon as there is room for them.
    pub(super) async fn put(&self, chunks: Vec<v1::LogChunk>) {
        let bytes: usize = chunks.iter().map(|chunk| chunk.data.len() + CHUNK_OVERHEAD).sum();
        let share = u32::try_from(bytes.min(WAITING_BYTES)).expect("the bound fits");
        let share = self.room.clone().acquire_many_owned(share).await.expect("nobody closes it");
        // Fails only when the receiver is gone, and with it whoever would store this.
        let _ = self.waiting.send((chunks, share));
    }
}

/// Stores what is put in until the intake is dropped, and tells the worker and those who follow.
pub(super) fn start(state: ServerState, app: AppId, outbox: Arc<Outbox>, tasks: &TaskTracker) -> Intake {
    let (intake, mut waiting) = Intake::new();
    let mut transcript = Transcript { state, app, outbox, known: HashMap::new() };
    tasks.spawn(async move {
        while let Some((mut chunks, share)) = waiting.recv().await {
            // Given back when all of it is stored.
            let mut shares = vec![share];
            while let Ok((more, share)) = waiting.try_recv() {
                chunks.extend(more);
                shares.push(share);
            }
            transcript.store(chunks).await;
        }
    });
    intake
}

impl Transcript {
    async fn store(&mut self, chunks: Vec<v1::LogChunk>) {
        let mut pieces = Vec::with_capacity(chunks.len());
        let mut acks = Vec::new();
        for chunk in chunks {
            let after = chunk.offset.saturating_add(chunk.data.len() as u64);
            match self.admit(&chunk).await {
                Some(key) => {
                    self.state.metrics.log_stored(chunk.data.len() as u64, chunk.lost_before);
                    pieces.push((key, chunk));
                }
                // Nobody will ever want it, so the worker need not keep it.
                None => acks.push(v1::LogAck { task: chunk.task, offset: after }),
            }
        }
        if !pieces.is_empty() {
            match self.append(&pieces).await {
                // The session is over, so nobody hears of it. The worker has all of it still, and sends it again.
                Err(StoreError::Unavailable { .. }) => {}
                Ok(stored) => {
                    for ((key, chunk), appended) in pieces.iter().zip(stored) {
                        self.publish(key, chunk, &appended);
                        acks.push(v1::LogAck { task: chunk.task, offset: appended.next_offset });
                    }
                }
                Err(error) => {
                    tracing::error!(%error, pieces = pieces.len(), "logs were dropped");
                    acks.extend(pieces.iter().map(|(_, chunk)| v1::LogAck {
                        task: chunk.task,
                        offset: chunk.offset.saturating_add(chunk.data.len() as u64),
                    }));
                }
            }
        }
        self.outbox.put(Parcel { log_acks: latest(acks), ..Parcel::default() });
    }

    /// Whose log it is, if this session may write it: the instance is of the session's app, and the attempt exists as far
    /// as that is looked at.
    async fn admit(&mut self, chunk: &v1::LogChunk) -> Option<LogKey> {
        let at = held::required(chunk.task.as_ref(), "LogChunk", "task").ok()?;
        let AttemptKey { instance, task, attempt } = at;
        let key = LogKey { app: self.app, instance, attempt, task: u32::try_from(task.0).ok()? };
        if chunk.data.len() > LOG_CHUNK_BYTES {
            return None;
        }
        let known = self.known.get(&instance);
        if known.is_some_and(|latest| task != TaskId::ROOT || attempt <= *latest) {
            return Some(key);
        }
        let latest = self.latest(at).await?;
        if self.known.len() >= KNOWN {
            self.known.clear();
        }
        self.known.insert(instance, latest);
        (task != TaskId::ROOT || attempt <= latest).then_some(key)
    }

    /// The latest attempt at the first task of an instance of this app. Waits for a store that is away.
    async fn latest(&self, at: AttemptKey) -> Option<u32> {
        let store = &self.state.store;
        let read = async || -> Result<Option<u32>, StoreError> {
            let row = store.instance(at.instance).await?.filter(|row| row.app == self.app);
            let Some(row) = row else { return Ok(None) };
            if at.task != TaskId::ROOT || at.attempt <= row.attempt {
                return Ok(Some(row.attempt));
            }
            // The row of an instance with many tasks does not count the tries of the first one.
            let first = store.task(at.instance, TaskId::ROOT).await?;
            Ok(Some(first.map_or(row.attempt, |first| first.attempt)))
        };
        loop {
            match read().await {
                Ok(latest) => return latest,
                Err(StoreError::Unavailable { .. }) => tokio::select! {
                    () = tokio::time::sleep(AGAIN) => {}
                    () = self.outbox.closed() => return None,
                },
                Err(error) => {
                    tracing::warn!(instance = %at.instance, %error, "a log has no readable instance");
                    return None;
                }
            }
        }
    }

    /// Waits while the store cannot take it and the session lasts: the worker keeps what is not acknowledged.
    async fn append(&self, pieces: &[(LogKey, v1::LogChunk)]) -> Result<Vec<Appended>, StoreError> {
        loop {
            let appends = pieces.iter().map(|(key, chunk)| LogAppend {
                key: *key,
                offset: chunk.offset,
                data: chunk.data.to_vec(),
                end: chunk.end,
            });
            match self.state.logs.append(appends.collect()).await {
                Ok(stored) => {
                    self.state.health.recovered("logs");
                    return Ok(stored);
                }
                Err(StoreError::Unavailable { why }) => {
                    self.state.health.worrying("logs", why.clone());
                    tokio::select! {
                        () = tokio::time::sleep(AGAIN) => {}
                        // Else each session that ends meanwhile would leave behind what it could not store.
                        () = self.outbox.closed() => return Err(StoreError::Unavailable { why }),
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn publish(&self, key: &LogKey, chunk: &v1::LogChunk, appended: &Appended) {
        let LogKey { instance, attempt, task, .. } = *key;
        let task = TaskId(task.into());
        let hub = &self.state.log_hub;
        if let Some((offset, bytes)) = appended.gap {
            hub.publish(instance, || News::Gap { task, attempt, offset, bytes });
        }
        let Appended { new_from: offset, next_offset, dropped, .. } = *appended;
        let new = new_bytes(chunk, offset);
        if !new.is_empty() && dropped {
            hub.publish(instance, || News::Gap { task, attempt, offset, bytes: next_offset - offset });
        } else if !new.is_empty() {
            hub.publish(instance, || News::Text { task, attempt, offset, data: new });
        }
        if chunk.end {
            hub.publish(instance, || News::LogEnd { task, attempt });
        }
    }
}

/// What of the chunk lies at or after `from`.
fn new_bytes(chunk: &v1::LogChunk, from: u64) -> Bytes {
    let seen = usize::try_from(from.saturating_sub(chunk.offset)).unwrap_or(usize::MAX);
    chunk.data.slice(seen.min(chunk.data.len())..)
}

/// Only the last acknowledgement of each log counts.
fn latest(acks: Vec<v1::LogAck>) -> Vec<v1::LogAck> {
    let mut seen = HashSet::new();
    let mut latest: Vec<v1::LogAck> = acks
        .into_iter()
        .rev()
        .filter(|ack| seen.insert(ack.task.map(|task| (task.instance, task.attempt, task.task))))
        .collect();
    latest.reverse();
    latest
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    fn chunk(bytes: usize) -> v1::LogChunk {
        v1::LogChunk { data: vec![b'x'; bytes].into(), ..v1::LogChunk::default() }
    }

    #[test]
    fn many_small_messages_do_not_hold_up_what_comes_behind_them() {
        let (intake, _waiting) = Intake::new();
        for _ in 0..1_000 {
            intake.put(vec![chunk(100)]).now_or_never().expect("there is room");
        }
    }

    #[test]
    fn what_waits_is_bounded_and_room_comes_back_when_it_is_stored() {
        let (intake, mut waiting) = Intake::new();
        intake.put(vec![chunk(WAITING_BYTES)]).now_or_never().expect("even what is larger than the bound");
        assert!(intake.put(vec![chunk(1)]).now_or_never().is_none());
        drop(waiting.try_recv().expect("one message waits"));
        intake.put(vec![chunk(1)]).now_or_never().expect("there is room again");
    }
}
