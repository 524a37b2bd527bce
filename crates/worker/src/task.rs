//! One attempt, as its handler sees it.

use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use pendula_model::{InstanceId, Timestamp, limits};
use pendula_wire::v1;
use serde::de::DeserializeOwned;

use crate::asks::Asks;
use crate::event::{Event, Events};
use crate::handler::Failure;
use crate::log::LogWriter;
use crate::stop::StopSignal;
use crate::testing::Stage;

/// One attempt at one task: what is to be done, and the way to tell how it goes. Cheap to clone.
#[derive(Clone)]
pub struct Task {
    pub(crate) state: Arc<TaskState>,
}

/// What a handler and the worker's loop share about one attempt.
pub(crate) struct TaskState {
    pub(crate) dispatch: v1::Dispatch,
    pub(crate) held: v1::Held,
    pub(crate) stop: StopSignal,
    pub(crate) log: LogWriter,
    pub(crate) events: Events,
    /// Who answers questions in the place of a server, in tests of handlers.
    pub(crate) stage: Option<Box<Stage>>,
    progress: Mutex<ProgressCell>,
    /// Made for those few tasks that ask something.
    asks: OnceLock<Box<Asks>>,
}

/// The latest progress, and whether the loop has yet to take it.
#[derive(Debug, Default)]
struct ProgressCell {
    latest: v1::Progress,
    announced: bool,
}

impl TaskState {
    pub(crate) fn new(
        dispatch: v1::Dispatch,
        held: v1::Held,
        log: LogWriter,
        events: Events,
        stage: Option<Box<Stage>>,
    ) -> Arc<Self> {
        let (stop, progress, asks) = (StopSignal::default(), Mutex::default(), OnceLock::new());
        let state = Arc::new(TaskState { dispatch, held, stop, log, events, stage, progress, asks });
        state.log.attach(&state);
        state
    }

    /// What it asks the server.
    pub(crate) fn asks(&self) -> &Asks {
        self.asks.get_or_init(Box::default)
    }

    /// The same, if it ever asked.
    pub(crate) fn asked(&self) -> Option<&Asks> {
        self.asks.get().map(Box::as_ref)
    }

    /// The latest progress. The next call of [`Task::progress`] announces itself again.
    pub(crate) fn take_progress(&self) -> v1::Progress {
        let mut cell = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        cell.announced = false;
        std::mem::take(&mut cell.latest)
    }
}

impl Task {
    /// The instance that this attempt is for; with [`Task::task_id`] and [`Task::attempt`] it names the attempt.
    pub fn instance(&self) -> InstanceId {
        InstanceId(self.state.held.instance)
    }

    /// The number of this try, from 1. It grows with every placement, also when nothing failed before.
    pub fn attempt(&self) -> u32 {
        self.state.held.attempt
    }

    /// Tries that failed before this one.
    pub fn failures(&self) -> u32 {
        self.state.dispatch.failures
    }

    /// Name of the app.
    pub fn app(&self) -> &str {
        &self.state.dispatch.app
    }

    /// Name of the job.
    pub fn job(&self) -> &str {
        &self.state.dispatch.job
    }

    /// Name of the processor under which the handler was registered.
    pub fn processor(&self) -> &str {
        &self.state.dispatch.processor
    }

    /// Revision of the job's definition that runs, from 1.
    pub fn revision(&self) -> u32 {
        self.state.dispatch.revision
    }

    /// The nominal time that the trigger asked for, or [`Task::created_at`] when no trigger did.
    pub fn fire_time(&self) -> Timestamp {
        Timestamp::from_micros(self.state.dispatch.fire_time_micros)
    }

    /// When the instance was created, by the server's clock.
    pub fn created_at(&self) -> Timestamp {
        Timestamp::from_micros(self.state.dispatch.created_micros)
    }

    /// IANA name of the trigger's time zone; `UTC` when the server named none.
    pub fn timezone(&self) -> &str {
        match self.state.dispatch.timezone.as_str() {
            "" => "UTC",
            zone => zone,
        }
    }

    /// The processor's settings from the definition, as JSON; empty when there are none.
    pub fn config(&self) -> &[u8] {
        &self.state.dispatch.config
    }

    /// The settings, read. No settings read as JSON `null`.
    ///
    /// # Errors
    /// A failure without retry, since the next try would read the same.
    pub fn config_json<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        read_json("config", self.config())
    }

    /// The instance's parameters: a JSON object unless [`Task::params_content_type`] says otherwise.
    pub fn params(&self) -> &[u8] {
        &self.state.dispatch.params
    }

    /// Content type of [`Task::params`].
    pub fn params_content_type(&self) -> &str {
        match self.state.dispatch.params_content_type.as_str() {
            "" => "application/json",
            content_type => content_type,
        }
    }

    /// The parameters, read as JSON. No parameters read as an empty object.
    ///
    /// # Errors
    /// A failure without retry, since the next try would read the same.
    pub fn params_json<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        let params = self.params();
        read_json("params", if params.is_empty() { b"{}" } else { params })
    }

    /// How long after dispatch the server stops this attempt; `None` without a limit.
    pub fn timeout(&self) -> Option<Duration> {
        let millis = self.state.dispatch.timeout_millis;
        (millis > 0).then(|| Duration::from_millis(millis))
    }

    /// The definition's time between the polite and the forced stop.
    pub fn stop_grace(&self) -> Duration {
        Duration::from_millis(self.state.dispatch.stop_grace_millis)
    }

    /// Whether the task was asked to stop. What the handler returns from then on counts as stopped.
    pub fn is_cancelled(&self) -> bool {
        self.state.stop.is_cancelled()
    }

    /// Completes when the task is asked to stop: by a user, by its timeout, or because the worker shuts down.
    pub async fn cancelled(&self) {
        self.state.stop.cancelled().await;
    }

    /// Completes when the grace after the request has passed too. A moment later the handler's future is dropped.
    pub async fn killed(&self) {
        self.state.stop.killed().await;
    }

    /// Where the task's log is written.
    pub fn log(&self) -> &LogWriter {
        &self.state.log
    }

    /// Writes one line to the log without waiting: see [`LogWriter::push`].
    pub fn log_line(&self, line: impl AsRef<str>) {
        self.state.log.push_line(line.as_ref());
    }

    /// Tells how far the task is, in thousandths (more is cut to 1000), with a word for people. Cheap to call often:
    /// only the latest is sent, some ten times a second at most.
    pub fn progress(&self, per_mille: u32, message: impl Into<String>) {
        let message = limits::cut(&message.into(), limits::MESSAGE_BYTES);
        let mut cell = self.state.progress.lock().unwrap_or_else(PoisonError::into_inner);
        cell.latest = v1::Progress { per_mille: per_mille.min(1000), message };
        if !std::mem::replace(&mut cell.announced, true) {
            // Nobody listens only when the worker is gone.
            let _ = self.state.events.send(Event::Progressed(self.state.clone()));
        }
    }
}

pub(crate) fn read_json<T: DeserializeOwned>(what: &str, bytes: &[u8]) -> Result<T, Failure> {
    let bytes = if bytes.is_empty() { b"null" } else { bytes };
    serde_json::from_slice(bytes).map_err(|error| {
        let reason = pendula_model::instance::Reason::INVALID_DEFINITION;
        Failure::new(reason, format!("reading {what}: {error}")).without_retry()
    })
}

impl fmt::Debug for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Task")
            .field("instance", &self.instance())
            .field("task", &self.task_id().0)
            .field("attempt", &self.attempt())
            .field("processor", &self.processor())
            .finish_non_exhaustive()
    }
}
