//! Tasks without a server, for tests of handlers.
//!
//! ```
//! use pendula_worker::testing::TestTask;
//!
//! # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
//! let (task, probe) = TestTask::new("greet").params(r#"{"name":"Ada"}"#).build();
//! task.log().write_line("hello").await;
//! task.progress(500, "half way");
//! assert_eq!(probe.log_text(), "hello\n");
//! assert_eq!(probe.progress(), Some((500, "half way".to_owned())));
//! # });
//! ```

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pendula_model::{InstanceId, Timestamp};
use pendula_wire::v1;
use tokio::sync::mpsc;

use crate::event::Event;
use crate::log::{LogShare, LogWriter};
use crate::task::{Task, TaskState};

/// A task in the making. Starts as the first attempt at instance 1 of job `test` in app `test`, due at 0.
#[derive(Clone, Debug)]
pub struct TestTask {
    dispatch: v1::Dispatch,
    held: v1::Held,
}

impl TestTask {
    /// A task for the processor of this name.
    pub fn new(processor: impl Into<String>) -> Self {
        let held = v1::Held { instance: 1, attempt: 1, task: 0 };
        let dispatch = v1::Dispatch {
            task: Some(held),
            processor: processor.into(),
            app: "test".to_owned(),
            job: "test".to_owned(),
            revision: 1,
            stop_grace_millis: 1000,
            ..v1::Dispatch::default()
        };
        TestTask { dispatch, held }
    }

    /// The processor's settings as JSON text.
    pub fn config(mut self, json: impl Into<Vec<u8>>) -> Self {
        self.dispatch.config = json.into().into();
        self
    }

    /// The parameters as JSON text.
    pub fn params(mut self, json: impl Into<Vec<u8>>) -> Self {
        self.dispatch.params = json.into().into();
        self
    }

    /// Which attempt it is at which instance.
    pub fn attempt(mut self, instance: InstanceId, attempt: u32) -> Self {
        self.held = v1::Held::root(instance, attempt);
        self.dispatch.task = Some(self.held);
        self
    }

    /// Tries that failed before.
    pub fn failures(mut self, failures: u32) -> Self {
        self.dispatch.failures = failures;
        self
    }

    /// Names of the app and of the job.
    pub fn names(mut self, app: impl Into<String>, job: impl Into<String>) -> Self {
        (self.dispatch.app, self.dispatch.job) = (app.into(), job.into());
        self
    }

    /// The nominal time and the zone of the trigger.
    pub fn fire_time(mut self, at: Timestamp, timezone: impl Into<String>) -> Self {
        self.dispatch.fire_time_micros = at.as_micros();
        self.dispatch.created_micros = at.as_micros();
        self.dispatch.timezone = timezone.into();
        self
    }

    /// Time between the polite and the forced stop, which the probe's user has to keep.
    pub fn stop_grace(mut self, grace: Duration) -> Self {
        self.dispatch.stop_grace_millis = grace.as_millis() as u64;
        self
    }

    /// The task, and the hand that holds it.
    pub fn build(self) -> (Task, Probe) {
        let (events, received) = mpsc::unbounded_channel();
        // No server acknowledges this log, so it has no bound.
        let log = LogWriter::new(LogShare::new(usize::MAX, usize::MAX));
        let state = TaskState::new(self.dispatch, self.held, log, events);
        let seen = Mutex::new(Seen { events: received, log: String::new(), progress: None });
        (Task { state: state.clone() }, Probe { state, seen })
    }
}

/// Plays the worker for a [`TestTask`].
pub struct Probe {
    state: Arc<TaskState>,
    seen: Mutex<Seen>,
}

struct Seen {
    events: mpsc::UnboundedReceiver<Event>,
    log: String,
    progress: Option<(u32, String)>,
}

impl Probe {
    /// Asks the task to stop.
    pub fn cancel(&self) {
        self.state.stop.cancel();
    }

    /// Says that the grace is over. Dropping the handler's future a moment later is up to the caller.
    pub fn kill(&self) {
        self.state.stop.kill();
    }

    /// Everything logged so far.
    pub fn log_text(&self) -> String {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(chunk) = self.state.log.next_chunk() {
            seen.log.push_str(std::str::from_utf8(&chunk.data).expect("logs are UTF-8"));
            self.state.log.acknowledge(chunk.offset + chunk.data.len() as u64);
        }
        seen.log.clone()
    }

    /// The latest progress: thousandths and message.
    pub fn progress(&self) -> Option<(u32, String)> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        while let Ok(event) = seen.events.try_recv() {
            if let Event::Progressed(task) = event {
                let progress = task.take_progress();
                seen.progress = Some((progress.per_mille, progress.message));
            }
        }
        seen.progress.clone()
    }
}
