//! The workers that this server knows: those of the apps that it owns, by their heartbeats.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use pendula_model::job::JobSpec;
use pendula_model::processor::Processor;
use pendula_model::worker::WorkerInfo;
use pendula_model::{AppId, AttemptKey, InstanceId};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::messages::{ProcessorReportTaskStatusReq, TaskTrackerReportInstanceStatusReq, WorkerHeartbeat};
use crate::tasks::SubTasks;
use crate::way::{Speech, Way};

/// How long things take. Tests are in more of a hurry.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// A worker without a heartbeat for so long is gone.
    pub silent: Duration,
    /// An attempt without a report for so long is asked about. Workers report every 13 to 15 s.
    pub ask_after: Duration,
    /// An attempt without a report for so long, of which asking told nothing either, is lost.
    pub lost_after: Duration,
    /// Between two looks at everything.
    pub look: Duration,
    /// Between the first and the second time that a worker says that it does not know an attempt: a report may be under way.
    pub ask_again: Duration,
    /// From the first heartbeat of an app's workers on, for so long some of them may not have found this server yet. They
    /// look for it every 10 s, and beat as often.
    pub settle: Duration,
    /// How long a final report waits for the store before its worker is told to send it again.
    pub answer_within: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Timing {
            silent: Duration::from_secs(60),
            ask_after: Duration::from_secs(25),
            lost_after: Duration::from_secs(60),
            look: Duration::from_secs(1),
            ask_again: Duration::from_secs(3),
            settle: Duration::from_secs(22),
            answer_within: Duration::from_secs(4),
        }
    }
}

/// What a session is told.
pub(crate) enum Told {
    Heartbeat(Box<WorkerHeartbeat>),
    Report {
        report: Box<TaskTrackerReportInstanceStatusReq>,
        /// Answered with whether the worker may forget it.
        answer: oneshot::Sender<bool>,
    },
    /// Of a task that the server tracks.
    TaskStatus {
        key: AttemptKey,
        report: Box<ProcessorReportTaskStatusReq>,
        answer: oneshot::Sender<bool>,
    },
    /// The worker's tracker of an instance's tasks lives, or ended itself.
    TrackerStatus {
        instance: InstanceId,
        is_gone: bool,
    },
    /// A running task emits others. Answered with whether they are on disk.
    SubTasks {
        sub_tasks: SubTasks,
        answer: oneshot::Sender<bool>,
    },
}

/// A worker as others see it.
#[derive(Clone)]
pub(crate) struct Known {
    pub(crate) told: mpsc::Sender<Told>,
    pub(crate) info: Arc<WorkerInfo>,
    pub(crate) overloaded: bool,
    pub(crate) speech: Speech,
    pub(crate) heard_at: Instant,
    /// Tells this session from the next of the same worker.
    pub(crate) number: u64,
}

/// All of them. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Workers {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    known: HashMap<(AppId, Arc<str>), Known>,
    /// Who has which task that the server tracks: reports do not say where they come from.
    tasks: HashMap<AttemptKey, (AppId, Arc<str>)>,
    /// When the first of an app was heard.
    since: HashMap<AppId, Instant>,
    numbers: u64,
}

impl Workers {
    pub(crate) fn find(&self, app: AppId, address: &str) -> Option<Known> {
        self.inner().known.get(&(app, address.into())).cloned()
    }

    /// Notes what a heartbeat says, and returns the worker's session; `Err` with the end of a new one if there is none.
    pub(crate) fn heard(
        &self,
        app: AppId,
        heartbeat: &WorkerHeartbeat,
        info: WorkerInfo,
    ) -> Result<Known, (u64, mpsc::Receiver<Told>)> {
        let mut inner = self.inner();
        let key = (app, Arc::from(heartbeat.worker_address.as_str()));
        let speech = heartbeat.way.as_ref().map_or(Speech::Http, Way::speech);
        if let Some(known) = inner.known.get_mut(&key) {
            known.info = Arc::new(info);
            known.overloaded = heartbeat.overload;
            known.heard_at = Instant::now();
            known.speech = speech;
            return Ok(known.clone());
        }
        inner.numbers += 1;
        let number = inner.numbers;
        let (told, receiver) = mpsc::channel(1024);
        let known = Known {
            told,
            info: Arc::new(info),
            overloaded: heartbeat.overload,
            speech,
            heard_at: Instant::now(),
            number,
        };
        inner.known.insert(key, known);
        inner.since.entry(app).or_insert_with(Instant::now);
        Err((number, receiver))
    }

    /// The session of that number is over.
    pub(crate) fn forget(&self, app: AppId, address: &str, number: u64) {
        let mut inner = self.inner();
        let key = (app, Arc::from(address));
        if inner.known.get(&key).is_some_and(|known| known.number == number) {
            inner.known.remove(&key);
            if !inner.known.keys().any(|(of, _)| *of == app) {
                inner.since.remove(&app);
            }
        }
    }

    /// Whether all workers of an app that live can be known.
    pub(crate) fn are_settled(&self, app: AppId, within: Duration) -> bool {
        self.inner().since.get(&app).is_none_or(|since| since.elapsed() >= within)
    }

    /// Addresses of the workers that may take part in a job's instances: `first` first, the others in order of their
    /// names, no more than the job allows. They talk to each other, so all of them speak the same.
    pub(crate) fn cluster_of(
        &self,
        app: AppId,
        spec: &JobSpec,
        speech: Speech,
        first: Option<&str>,
        with_overloaded: bool,
    ) -> Vec<String> {
        let most = match &spec.processor {
            Processor::PowerJob(powerjob) if powerjob.max_workers > 0 => powerjob.max_workers as usize,
            _ => usize::MAX,
        };
        let inner = self.inner();
        let eligible = inner.known.iter().filter(|((owner, address), known)| {
            let is_able = || {
                spec.workers.mismatch(&known.info).is_none()
                    && spec.workers.min.mismatch(&known.info.metrics).is_none()
                    && (with_overloaded || !known.overloaded)
            };
            *owner == app && Some(&**address) != first && known.speech == speech && is_able()
        });
        let mut others: Vec<String> = eligible.map(|((_, address), _)| address.to_string()).collect();
        others.sort_unstable();
        first.map(str::to_owned).into_iter().chain(others).take(most).collect()
    }

    /// The session of the worker that has a task.
    pub(crate) fn find_task(&self, key: AttemptKey) -> Option<(AppId, Known)> {
        let inner = self.inner();
        let (app, address) = inner.tasks.get(&key)?;
        let known = inner.known.get(&(*app, address.clone()))?;
        Some((*app, known.clone()))
    }

    pub(crate) fn has_task(&self, key: AttemptKey, app: AppId, address: &Arc<str>) {
        self.inner().tasks.insert(key, (app, address.clone()));
    }

    /// The worker at `address` has it no more.
    pub(crate) fn forget_task(&self, key: AttemptKey, address: &Arc<str>) {
        let mut inner = self.inner();
        if inner.tasks.get(&key).is_some_and(|(_, at)| at == address) {
            inner.tasks.remove(&key);
        }
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.inner().known.len()
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("nothing panics while it holds this lock")
    }
}
