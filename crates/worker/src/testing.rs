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
//!
//! The parts of an instance with many tasks too, for which the [`Probe`] accepts sub-tasks and shows results:
//!
//! ```
//! use pendula_worker::testing::TestTask;
//! use pendula_worker::{SubTask, TaskRole};
//!
//! # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
//! let (task, probe) = TestTask::new("count").role(TaskRole::Root).build();
//! task.map((1..=3).map(|n| SubTask::text(format!("part {n}"), n.to_string()))).await.unwrap();
//! assert_eq!(probe.mapped()[2].input(), b"3");
//! # });
//! ```

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pendula_model::instance::Payload;
use pendula_model::task::TaskRole;
use pendula_model::{InstanceId, TaskId, Timestamp};
use pendula_wire::results::{Page, TaskResult};
use pendula_wire::v1;
use tokio::sync::mpsc;

use crate::event::Event;
use crate::ledger;
use crate::log::{LogShare, LogWriter};
use crate::map::SubTask;
use crate::task::{Task, TaskState};

/// Results in one page, for readers that should see several.
const PAGE: usize = 100;

/// A task in the making. Starts as the first attempt at instance 1 of job `test` in app `test`, due at 0.
#[derive(Clone, Debug)]
pub struct TestTask {
    dispatch: v1::Dispatch,
    held: v1::Held,
    results: Vec<TaskResult>,
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
        TestTask { dispatch, held, results: Vec::new() }
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
        self.held = v1::Held { task: self.held.task, ..v1::Held::root(instance, attempt) };
        self.dispatch.task = Some(self.held);
        self
    }

    /// What the task is for, in an instance with many.
    pub fn role(mut self, role: TaskRole) -> Self {
        self.dispatch.role = v1::TaskRole::from(role).into();
        self
    }

    /// Its number and name.
    pub fn task(mut self, id: TaskId, name: impl Into<String>) -> Self {
        self.held.task = id.0;
        self.dispatch.task = Some(self.held);
        self.dispatch.task_name = name.into();
        self
    }

    /// What it was given by who emitted it.
    pub fn input(mut self, input: Payload) -> Self {
        (self.dispatch.input, self.dispatch.input_content_type) = (input.bytes.into(), input.content_type);
        self
    }

    /// Its share of the work, `index` below `total`.
    pub fn shard(mut self, index: u32, total: u32) -> Self {
        (self.dispatch.shard_index, self.dispatch.shard_total) = (index, total);
        self
    }

    /// Sub-tasks that earlier tries emitted.
    pub fn emitted(mut self, emitted: u64) -> Self {
        self.dispatch.emitted = emitted;
        self
    }

    /// What [`Task::results`] gives, in order of the tasks' numbers.
    pub fn results(mut self, results: impl IntoIterator<Item = TaskResult>) -> Self {
        self.results = results.into_iter().collect();
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
        let stage = Stage { results: self.results, heard: Mutex::default() };
        let state = TaskState::new(self.dispatch, self.held, log, events, Some(Box::new(stage)));
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

    /// All sub-tasks that the task emitted so far.
    pub fn mapped(&self) -> Vec<SubTask> {
        self.stage().hear().mapped.clone()
    }

    /// Refuses sub-tasks from now on, for this reason.
    pub fn refuse_maps(&self, why: impl Into<String>) {
        self.stage().hear().refusal = Some(why.into());
    }

    /// Leaves the task's questions unanswered until [`Probe::answer`], like a server that is away.
    pub fn hold_answers(&self) {
        self.stage().hear().holds = true;
    }

    /// Answers what was asked since [`Probe::hold_answers`], and from now on at once.
    pub fn answer(&self) {
        self.stage().hear().holds = false;
        self.stage().answer(&self.state);
    }

    fn stage(&self) -> &Stage {
        self.state.stage.as_ref().expect("the builder made it")
    }
}

/// Answers the questions of a task in the place of a server.
pub(crate) struct Stage {
    results: Vec<TaskResult>,
    heard: Mutex<Heard>,
}

#[derive(Default)]
struct Heard {
    mapped: Vec<SubTask>,
    refusal: Option<String>,
    holds: bool,
}

impl Stage {
    fn hear(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn answer(&self, task: &TaskState) {
        let at = ledger::key_of(&task.held);
        let mut heard = self.hear();
        if heard.holds {
            return;
        }
        while let Some(request) = task.asks().next_map(at) {
            let emitted = request.first + request.tasks.len() as u64;
            let reply = heard.refusal.clone().map_or(Ok(emitted), Err);
            if reply.is_ok() {
                heard.mapped.extend(request.tasks.into_iter().map(SubTask::from_wire));
            }
            task.asks().mapped(reply);
        }
        drop(heard);
        while let Some(wish) = task.asks().next_page(at) {
            task.asks().paged(wish.request, Ok(self.page(TaskId(wish.from))));
        }
    }

    fn page(&self, from: TaskId) -> Page {
        let mut wanted = self.results.iter().filter(|result| result.task >= from);
        let results: Vec<TaskResult> = wanted.by_ref().take(PAGE).cloned().collect();
        let next = results.last().map_or(from, |last| last.task.next());
        Page { results, next, end: wanted.next().is_none() }
    }
}
