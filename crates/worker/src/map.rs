//! Emitting sub-tasks from a running task.

use std::pin::pin;
use std::task::Poll;

use bytes::Bytes;
use futures::stream::{self, Stream, StreamExt};
use pendula_model::instance::Payload;
use pendula_wire::{frame, v1};
use serde::Serialize;

use crate::asks::{Asks, map_refused};
use crate::event::Event;
use crate::handler::Failure;
use crate::task::Task;

/// Sub-tasks of one request at most.
const REQUEST_TASKS: usize = 1000;
/// Bytes after which a request is closed.
const REQUEST_BYTES: usize = frame::BATCH_BYTES;
/// Requests of one task that wait for the server at most.
const UNANSWERED: usize = 4;
/// Sub-tasks of earlier tries that are skipped without a pause.
const SKIPPED: u64 = 1000;

/// A piece of work that a task emits: a name for people and an input for the handler.
///
/// ```
/// use pendula_worker::{Failure, SubTask};
///
/// let tasks: Vec<Result<SubTask, Failure>> = vec![
///     Ok(SubTask::text("a.txt", "/data/a.txt")),
///     SubTask::json("rows 1-100", &(1, 100)),
/// ];
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct SubTask {
    wire: v1::SubTask,
}

impl SubTask {
    /// A sub-task with an input of any kind.
    pub fn new(name: impl Into<String>, input: Payload) -> Self {
        Self::made(name.into(), Bytes::from(input.bytes), input.content_type)
    }

    /// A sub-task whose input is text.
    pub fn text(name: impl Into<String>, text: impl Into<String>) -> Self {
        Self::made(name.into(), Bytes::from(text.into()), "text/plain; charset=utf-8".to_owned())
    }

    /// A sub-task whose input is `value` as JSON.
    ///
    /// # Errors
    /// When `value` cannot be written as JSON, such as a map whose keys are no strings.
    pub fn json<T: Serialize + ?Sized>(name: impl Into<String>, value: &T) -> Result<Self, Failure> {
        let input = serde_json::to_vec(value)?;
        Ok(Self::made(name.into(), Bytes::from(input), "application/json".to_owned()))
    }

    /// A sub-task without an input.
    pub fn named(name: impl Into<String>) -> Self {
        Self::made(name.into(), Bytes::new(), String::new())
    }

    fn made(name: String, input: Bytes, content_type: String) -> Self {
        SubTask { wire: v1::SubTask { name, input, content_type } }
    }

    pub(crate) fn from_wire(wire: v1::SubTask) -> Self {
        SubTask { wire }
    }

    /// For people; may be empty.
    pub fn name(&self) -> &str {
        &self.wire.name
    }

    /// What the handler gets; empty without an input.
    pub fn input(&self) -> &[u8] {
        &self.wire.input
    }

    /// Content type of the input; empty without an input.
    pub fn content_type(&self) -> &str {
        &self.wire.content_type
    }
}

/// So that [`Task::map`] takes sub-tasks as well as attempts to make them.
impl From<SubTask> for Result<SubTask, Failure> {
    fn from(task: SubTask) -> Self {
        Ok(task)
    }
}

impl Task {
    /// Emits sub-tasks: each becomes a task of this instance, with this same handler and role `sub`. Returns when all are
    /// stored, so that they run whatever becomes of this worker.
    ///
    /// Takes the iterator as fast as the server stores, so that a million needs no memory. May be called again and again;
    /// of calls at the same time one waits for the other. Another try of the same task that emits the same sub-tasks in
    /// the same order emits nothing twice: the first [`Task::emitted`] ones are skipped. If the future is dropped, some of
    /// the sub-tasks may have been stored.
    ///
    /// A name may have [`TASK_NAME_BYTES`](pendula_model::limits::TASK_NAME_BYTES) and no control characters, an input
    /// [`TASK_INPUT_BYTES`](pendula_model::limits::TASK_INPUT_BYTES).
    ///
    /// # Errors
    /// When this task is no root and no sub-task of a map, when a sub-task is too large, when the server refuses more, and
    /// when this task is asked to stop meanwhile. What was stored before stays.
    // Not `async`: so the compiler sees at the call that the future is `Send`, which it fails to for iterators over
    // references otherwise.
    pub fn map<I>(&self, tasks: I) -> impl Future<Output = Result<(), Failure>> + Send
    where
        I: IntoIterator<Item: Into<Result<SubTask, Failure>>, IntoIter: Send>,
    {
        self.map_stream(stream::iter(tasks))
    }

    /// Emits sub-tasks as they come: see [`Task::map`]. While the stream has nothing to give, what came before is on its
    /// way.
    ///
    /// # Errors
    /// As [`Task::map`].
    pub fn map_stream<S>(&self, tasks: S) -> impl Future<Output = Result<(), Failure>> + Send
    where
        S: Stream<Item: Into<Result<SubTask, Failure>>> + Send,
    {
        self.emit(tasks.map(Into::into))
    }

    async fn emit<S>(&self, tasks: S) -> Result<(), Failure>
    where
        S: Stream<Item = Result<SubTask, Failure>> + Send,
    {
        let asks = self.asks_to_map()?;
        let _turn = asks.turn.lock().await;
        let mut tasks = pin!(tasks.fuse());
        let mut batch = Batch::default();
        let mut ended = false;
        loop {
            // All that is there, so that requests are large.
            while !ended && !batch.is_full() {
                match futures::poll!(tasks.next()) {
                    Poll::Ready(Some(task)) => self.gather(asks, &mut batch, task?).await?,
                    Poll::Ready(None) => ended = true,
                    Poll::Pending => break,
                }
            }
            let unanswered = asks.unanswered()?;
            // A small request is worth its while only if nothing else is on its way.
            let is_due = batch.is_full() || ended || unanswered == 0;
            if !batch.tasks.is_empty() && is_due && unanswered < UNANSWERED {
                self.hand_over(asks, std::mem::take(&mut batch))?;
            } else if ended && unanswered == 0 {
                return Ok(());
            } else {
                tokio::select! {
                    () = self.cancelled() => {}
                    () = asks.answered_below(unanswered), if unanswered > 0 => {}
                    task = tasks.next(), if !ended && !batch.is_full() => match task {
                        Some(task) => self.gather(asks, &mut batch, task?).await?,
                        None => ended = true,
                    },
                }
            }
            if self.is_cancelled() {
                let failure = map_refused("this task was asked to stop while it emitted sub-tasks");
                asks.close(failure.clone());
                return Err(failure);
            }
        }
    }

    /// Sub-tasks of this task that earlier tries emitted and that are stored: see [`Task::map`].
    pub fn emitted(&self) -> u64 {
        self.state.dispatch.emitted
    }

    fn asks_to_map(&self) -> Result<&Asks, Failure> {
        let why = match self.role() {
            Some(role) if role.may_map() => return Ok(self.state.asks()),
            Some(role) => format!("a task with role {role} cannot emit sub-tasks; `root` and `sub` can"),
            None => "a standalone instance has no sub-tasks; the job's mode must be `map` or `map_reduce`".to_owned(),
        };
        Err(map_refused(why).without_retry())
    }

    async fn gather(&self, asks: &Asks, batch: &mut Batch, task: SubTask) -> Result<(), Failure> {
        let SubTask { wire } = task;
        let position = asks.position() + batch.tasks.len() as u64;
        wire.check().map_err(|error| {
            let name: String = wire.name.chars().take(40).collect();
            let why = format!("sub-task {} ({name:?}): {}: {}", position + 1, error.field, error.why);
            map_refused(why).without_retry()
        })?;
        if position < self.emitted() {
            asks.skip();
            if position.is_multiple_of(SKIPPED) {
                tokio::task::yield_now().await;
            }
        } else {
            batch.bytes += frame::entry_bytes(&wire);
            batch.tasks.push(wire);
        }
        Ok(())
    }

    fn hand_over(&self, asks: &Asks, batch: Batch) -> Result<(), Failure> {
        if asks.emit(batch.tasks)? {
            self.tell_of_question();
        }
        Ok(())
    }

    /// Tells whoever answers questions that there is one.
    pub(crate) fn tell_of_question(&self) {
        match &self.state.stage {
            Some(stage) => stage.answer(&self.state),
            // Nobody listens only when the worker is gone.
            None => drop(self.state.events.send(Event::Asked(self.state.clone()))),
        }
    }
}

/// Sub-tasks that become one request.
#[derive(Default)]
struct Batch {
    tasks: Vec<v1::SubTask>,
    bytes: usize,
}

impl Batch {
    fn is_full(&self) -> bool {
        self.tasks.len() >= REQUEST_TASKS || self.bytes >= REQUEST_BYTES
    }
}
