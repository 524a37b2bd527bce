//! Maps that the server tracks itself: their tasks go to a worker's processors one by one, as another worker would send
//! them.
//!
//! Each task is one of the engine's, so its laws hold with every version of the worker: what ended is credited once, and
//! an order that nobody confirmed is lost and not simply sent again. A worker makes a tracker of processors for each
//! instance, which reports to the address that it was given; when that falls silent, or goes, what it had is lost (law
//! 5), and the job's delivery policy decides.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use pendula_engine::{Dispatch, Mapping, Report, ReportEvent, input::Outcome};
use pendula_model::instance::{Payload, Reason};
use pendula_model::powerjob::{PowerJob, PowerJobExecuteType};
use pendula_model::task::TaskRole;
use pendula_model::{AttemptKey, InstanceId, Timestamp, limits};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::dial::CallError;
use crate::messages::{InstanceInfo, ProcessorReportTaskStatusReq, TaskTrackerStartTaskReq, task_status};
use crate::tasks::{SubTasks, task_id};
use crate::translate;

/// An order that was taken is confirmed within milliseconds; a worker whose queue is full drops it without a word.
const CONFIRMED_WITHIN: Duration = Duration::from_secs(20);
/// A tracker of processors without tasks is ended after this: by itself it would keep its threads for two minutes.
const IDLE: Duration = Duration::from_secs(5);
/// A worker that could not be told to stop is told again this often.
const STOP_AGAIN: Duration = Duration::from_secs(5);
/// Ends that are remembered: orders that the engine repeats after 5 s are not others.
const REMEMBERED: Duration = Duration::from_secs(60);
/// The longest time that a worker understands, in milliseconds. The engine watches times itself.
const NO_TIMEOUT: i64 = 2_147_483_647;

/// What one worker has.
#[derive(Default)]
pub(crate) struct Mapped {
    /// By instance, as the worker makes them.
    trackers: HashMap<InstanceId, Tracker>,
    /// What is over, and since when.
    past: HashMap<AttemptKey, Instant>,
}

struct Task {
    sent: Instant,
    /// The order to run it has left, for better or worse.
    is_sent: bool,
    /// The worker said that it has it.
    is_confirmed: bool,
    has_started: bool,
    is_stopping: bool,
    /// Its end was told to the engine; these wait for it to be on disk.
    ended: Option<Vec<oneshot::Sender<bool>>>,
    /// Sub-tasks up to so many are to be on disk before these are answered.
    mapping: Vec<(u64, oneshot::Sender<bool>)>,
}

struct Tracker {
    tasks: HashMap<AttemptKey, Task>,
    heard_at: Instant,
    /// Since when it has nothing to do.
    idle_since: Option<Instant>,
    /// It was told to end, and did not answer yet.
    is_ending: bool,
    stop_sent: Option<Instant>,
    /// What comes meanwhile is sent to the next one.
    waiting: Vec<(AttemptKey, TaskTrackerStartTaskReq)>,
}

/// What is to be done with the worker.
pub(crate) enum Call {
    Start { key: AttemptKey, request: Box<TaskTrackerStartTaskReq> },
    Stop { instance: InstanceId },
}

/// What follows from something: calls, and news for the engine.
#[derive(Default)]
pub(crate) struct Next {
    pub(crate) calls: Vec<Call>,
    pub(crate) reports: Vec<Report>,
}

impl Task {
    fn new(now: Instant) -> Self {
        Task {
            sent: now,
            is_sent: false,
            is_confirmed: false,
            has_started: false,
            is_stopping: false,
            ended: None,
            mapping: Vec::new(),
        }
    }
}

impl Tracker {
    fn new(now: Instant) -> Self {
        Tracker {
            tasks: HashMap::new(),
            heard_at: now,
            idle_since: None,
            is_ending: false,
            stop_sent: None,
            waiting: Vec::new(),
        }
    }

    /// Those that the worker has not ended.
    fn running(&self) -> impl Iterator<Item = (AttemptKey, &Task)> {
        self.tasks.iter().filter(|(_, task)| task.ended.is_none()).map(|(key, task)| (*key, task))
    }
}

impl Mapped {
    pub(crate) fn has(&self, key: AttemptKey) -> bool {
        self.trackers.get(&key.instance).is_some_and(|tracker| tracker.tasks.contains_key(&key))
    }

    /// Whether its order came before: one that is on its way or was taken is confirmed, or lost; and what has ended has.
    pub(crate) fn knows(&self, key: AttemptKey) -> bool {
        self.has(key) || self.past.contains_key(&key)
    }

    fn task(&mut self, key: AttemptKey) -> Option<&mut Task> {
        self.trackers.get_mut(&key.instance)?.tasks.get_mut(&key)
    }

    /// Attempts that the worker has not ended.
    pub(crate) fn running(&self) -> impl Iterator<Item = AttemptKey> {
        self.trackers.values().flat_map(Tracker::running).map(|(key, _)| key)
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = AttemptKey> {
        self.trackers.values().flat_map(|tracker| tracker.tasks.keys().copied())
    }

    /// What the store says that the worker runs, under an owner before us.
    pub(crate) fn adopt(&mut self, key: AttemptKey, is_stopping: bool) {
        let now = Instant::now();
        let task = Task { is_sent: true, is_confirmed: true, has_started: true, is_stopping, ..Task::new(now) };
        self.trackers.entry(key.instance).or_insert_with(|| Tracker::new(now)).tasks.insert(key, task);
    }

    pub(crate) fn dispatch(&mut self, dispatch: &Dispatch, powerjob: &PowerJob, report_to: &str) -> Next {
        let key = dispatch.key();
        if self.knows(key) {
            return Next::default();
        }
        let now = Instant::now();
        let tracker = self.trackers.entry(key.instance).or_insert_with(|| Tracker::new(now));
        tracker.tasks.insert(key, Task::new(now));
        tracker.idle_since = None;
        let request = start(dispatch, powerjob, report_to);
        if tracker.is_ending {
            tracker.waiting.push((key, request));
            return Next::default();
        }
        Next::call(Call::Start { key, request: Box::new(request) })
    }

    /// The order was sent, with this result.
    pub(crate) fn sent(&mut self, key: AttemptKey, result: Result<(), CallError>) -> Next {
        let Some(task) = self.task(key).filter(|task| task.ended.is_none() && !task.is_confirmed) else {
            return Next::default();
        };
        (task.sent, task.is_sent) = (Instant::now(), true);
        let end = match result {
            // Nobody knows: it is confirmed, or it is lost.
            Ok(()) | Err(CallError::NoAnswer(_)) => return Next::default(),
            Err(error @ CallError::NotSent(_)) => {
                let reason = Reason::from_wire("worker_unreachable");
                translate::ended_as(key, Outcome::Rejected { reason }, &error.to_string())
            }
            Err(error @ CallError::Status(_)) => {
                let outcome = Outcome::Failed { reason: Reason::from_wire("refused_by_worker"), final_: false };
                translate::ended_as(key, outcome, &error.to_string())
            }
        };
        self.end(key, end)
    }

    /// The worker was told to end all that it has of an instance, with this result.
    pub(crate) fn stopped(&mut self, instance: InstanceId, result: Result<(), CallError>) -> Next {
        let Some(tracker) = self.trackers.get_mut(&instance) else { return Next::default() };
        let was_ending = std::mem::take(&mut tracker.is_ending);
        let waiting = std::mem::take(&mut tracker.waiting);
        let mut next = Next::default();
        if result.is_ok() {
            // An order that is still on its way may arrive after this one.
            let gone = tracker.running().filter(|(_, task)| task.is_sent || task.is_confirmed);
            let gone: Vec<_> = gone.map(|(key, task)| (key, task.is_stopping)).collect();
            for (key, is_stopping) in gone {
                let end = match is_stopping {
                    true => translate::ended_as(key, Outcome::Stopped, ""),
                    false => translate::ended_as(key, Outcome::Lost, "it ended with another task of its instance"),
                };
                next.reports.extend(self.end(key, end).reports);
            }
        }
        let is_idle = self.trackers.get(&instance).is_some_and(|tracker| tracker.tasks.is_empty());
        if was_ending && waiting.is_empty() && is_idle {
            self.trackers.remove(&instance);
        }
        for (key, request) in waiting {
            match self.task(key).filter(|task| task.ended.is_none()).map(|task| task.is_stopping) {
                Some(false) => next.calls.push(Call::Start { key, request: Box::new(request) }),
                // It was never sent.
                Some(true) => {
                    next.reports.extend(self.end(key, translate::ended_as(key, Outcome::Stopped, "")).reports)
                }
                None => {}
            }
        }
        next
    }

    /// A worker ends an instance as a whole, and never one task alone.
    pub(crate) fn stop(&mut self, key: AttemptKey, abandon: bool) -> Next {
        let Some(task) = self.task(key) else {
            // It has nothing of it, as far as anybody can know.
            let end = (!abandon).then(|| translate::ended_as(key, Outcome::Lost, ""));
            return Next { reports: end.into_iter().collect(), ..Next::default() };
        };
        task.is_stopping = true;
        if abandon {
            self.over(key);
        }
        let Some(tracker) = self.trackers.get_mut(&key.instance) else { return Next::default() };
        if tracker.is_ending {
            return Next::default();
        }
        (tracker.is_ending, tracker.stop_sent) = (true, Some(Instant::now()));
        Next::call(Call::Stop { instance: key.instance })
    }

    /// The end of an attempt is on disk.
    pub(crate) fn acknowledged(&mut self, key: AttemptKey) {
        if self.task(key).is_some_and(|task| task.ended.is_some()) {
            self.over(key);
        }
    }

    /// What a worker says of a task.
    pub(crate) fn hear(
        &mut self,
        now: Timestamp,
        key: AttemptKey,
        report: &ProcessorReportTaskStatusReq,
        answer: oneshot::Sender<bool>,
    ) -> Next {
        if let Some(tracker) = self.trackers.get_mut(&key.instance) {
            tracker.heard_at = Instant::now();
        }
        let Some(task) = self.task(key) else {
            // Nobody waits for it any more.
            let _ = answer.send(true);
            return Next::default();
        };
        task.is_confirmed = true;
        if let Some(waiting) = &mut task.ended {
            waiting.push(answer);
            return Next::default();
        }
        match report.status {
            task_status::FAILED | task_status::SUCCEEDED => {
                let end = ended(now, key, report, task.has_started);
                let next = self.end(key, end);
                if let Some(task) = self.task(key) {
                    task.ended.get_or_insert_default().push(answer);
                }
                next
            }
            // What we do not know is a sign of life.
            status => {
                let _ = answer.send(true);
                let starts = status == task_status::RUNNING && !std::mem::replace(&mut task.has_started, true);
                let started = Report { attempt: key, event: ReportEvent::Started { started_at: now } };
                Next { reports: starts.then_some(started).into_iter().collect(), ..Next::default() }
            }
        }
    }

    /// The worker's tracker of processors lives, or ended itself.
    pub(crate) fn hear_of_tracker(&mut self, instance: InstanceId, is_gone: bool) -> Next {
        let Some(tracker) = self.trackers.get_mut(&instance) else { return Next::default() };
        tracker.heard_at = Instant::now();
        if !is_gone {
            return Next::default();
        }
        // It says so with empty hands, as far as it knows.
        self.lose(instance, "the worker's tracker of processors ended")
    }

    /// Sub-tasks that a task emits: what the engine is told, unless it is nobody's task.
    pub(crate) fn map(&mut self, sub_tasks: SubTasks, answer: oneshot::Sender<bool>) -> Option<Mapping> {
        let key = sub_tasks.parent;
        let task = self.task(key).filter(|task| task.ended.is_none())?;
        task.mapping.push((sub_tasks.first + sub_tasks.tasks.len() as u64, answer));
        Some(Mapping { attempt: key, first: sub_tasks.first, tasks: sub_tasks.tasks })
    }

    /// So many of them are on disk, or they are refused.
    pub(crate) fn mapped(&mut self, key: AttemptKey, reply: &Result<u64, String>) {
        let Some(task) = self.task(key) else { return };
        match reply {
            Ok(on_disk) => {
                for (_, answer) in task.mapping.extract_if(.., |(upto, _)| *upto <= *on_disk) {
                    let _ = answer.send(true);
                }
            }
            Err(why) => {
                tracing::warn!(instance = %key.instance, task = %key.task, why, "sub-tasks of a PowerJob processor were refused");
                for (_, answer) in task.mapping.drain(..) {
                    let _ = answer.send(false);
                }
            }
        }
    }

    /// Looks for what is lost, or idle, or goes on after it was told to stop.
    pub(crate) fn look(&mut self, lost_after: Duration) -> Next {
        let mut next = Next::default();
        self.past.retain(|_, since| since.elapsed() < REMEMBERED);
        let running = self.trackers.values().flat_map(Tracker::running);
        let unconfirmed = running.filter(|(_, task)| !task.is_confirmed && task.sent.elapsed() > CONFIRMED_WITHIN);
        let unconfirmed: Vec<_> = unconfirmed.map(|(key, _)| key).collect();
        for key in unconfirmed {
            let end = translate::ended_as(key, Outcome::Lost, "the worker did not say that it has it");
            next.reports.extend(self.end(key, end).reports);
        }
        let silent = self.trackers.iter().filter(|(_, tracker)| tracker.heard_at.elapsed() > lost_after);
        let silent: Vec<_> = silent.map(|(instance, _)| *instance).collect();
        for instance in silent {
            next.reports.extend(self.lose(instance, "the worker says nothing of it").reports);
        }
        for (instance, tracker) in &mut self.trackers {
            let is_stopping = tracker.running().any(|(_, task)| task.is_stopping);
            let since = tracker.idle_since.get_or_insert_with(Instant::now);
            if !tracker.tasks.is_empty() {
                tracker.idle_since = None;
            } else if since.elapsed() > IDLE && !tracker.is_ending {
                (tracker.is_ending, tracker.stop_sent) = (true, Some(Instant::now()));
                next.calls.push(Call::Stop { instance: *instance });
            }
            let again = tracker.stop_sent.is_some_and(|at| at.elapsed() > STOP_AGAIN);
            if is_stopping && again && !tracker.is_ending {
                (tracker.is_ending, tracker.stop_sent) = (true, Some(Instant::now()));
                next.calls.push(Call::Stop { instance: *instance });
            }
        }
        next
    }

    fn lose(&mut self, instance: InstanceId, why: &str) -> Next {
        let lost = self.trackers.get(&instance).into_iter().flat_map(Tracker::running);
        let lost: Vec<_> = lost.map(|(key, task)| (key, task.is_stopping)).collect();
        let mut next = Next::default();
        for (key, is_stopping) in lost {
            let outcome = if is_stopping { Outcome::Stopped } else { Outcome::Lost };
            next.reports.extend(self.end(key, translate::ended_as(key, outcome, why)).reports);
        }
        next
    }

    fn end(&mut self, key: AttemptKey, end: Report) -> Next {
        if let Some(task) = self.task(key) {
            task.ended.get_or_insert_default();
            // Whoever still emits emits for nobody.
            for (_, answer) in task.mapping.drain(..) {
                let _ = answer.send(false);
            }
        }
        Next { reports: vec![end], ..Next::default() }
    }

    fn over(&mut self, key: AttemptKey) {
        let task = self.trackers.get_mut(&key.instance).and_then(|tracker| tracker.tasks.remove(&key));
        if task.is_some() {
            self.past.insert(key, Instant::now());
        }
        for answer in task.into_iter().flat_map(|task| task.ended.unwrap_or_default()) {
            let _ = answer.send(true);
        }
    }
}

impl Next {
    fn call(call: Call) -> Self {
        Next { calls: vec![call], ..Next::default() }
    }
}

/// The order to run a task, as a worker that tracks the instance would write it.
fn start(dispatch: &Dispatch, powerjob: &PowerJob, report_to: &str) -> TaskTrackerStartTaskReq {
    let part = dispatch.part.as_deref();
    let is_sub = part.is_some_and(|part| part.role == TaskRole::Sub);
    let name = part.filter(|_| is_sub).map_or("OMS_ROOT_TASK", |part| &*part.name);
    let content = part.and_then(|part| part.input.as_deref()).map(crate::tasks::content);
    TaskTrackerStartTaskReq {
        task_tracker_address: report_to.to_owned(),
        instance_info: InstanceInfo {
            job_id: dispatch.job.0,
            instance_id: dispatch.instance.0,
            execute_type: PowerJobExecuteType::Map,
            processor_type: powerjob.kind,
            processor_info: powerjob.info.clone(),
            // API: a worker would fire by itself what has a fixed rate or delay.
            time_expression_type: 1,
            instance_timeout_ms: NO_TIMEOUT,
            job_params: translate::job_params(&dispatch.spec, powerjob),
            instance_params: dispatch.params.as_deref().map(translate::instance_params),
            thread_concurrency: powerjob.thread_concurrency,
            task_retry_num: 0,
            log_config: powerjob.log_config.clone(),
        },
        task_id: task_id(dispatch.key()),
        task_name: name.to_owned(),
        task_content: content,
        task_current_retry_nums: dispatch.failures,
        sub_instance_id: dispatch.instance.0,
        log_config: powerjob.log_config.clone(),
    }
}

/// The end that a worker reported.
fn ended(now: Timestamp, attempt: AttemptKey, report: &ProcessorReportTaskStatusReq, has_started: bool) -> Report {
    let text = report.result.as_deref().unwrap_or_default();
    let started_at = (!has_started).then_some(now);
    let event = if report.status == task_status::SUCCEEDED {
        let bytes = limits::cut(text, limits::RESULT_BYTES).into_bytes();
        let result = Some(Payload { content_type: "text/plain; charset=utf-8".to_owned(), bytes });
        let result = result.filter(|result| !result.bytes.is_empty());
        ReportEvent::Ended { outcome: Outcome::Succeeded, message: None, result, started_at }
    } else {
        let is_missing = !has_started && translate::names_a_missing_processor(text);
        let outcome = match is_missing {
            true => Outcome::Rejected { reason: Reason::PROCESSOR_MISSING },
            false => Outcome::Failed { reason: Reason::FAILED, final_: false },
        };
        let message: Option<Arc<str>> = Some(limits::cut(text, limits::MESSAGE_BYTES).into());
        ReportEvent::Ended { outcome, message, result: None, started_at: started_at.filter(|_| !is_missing) }
    };
    Report { attempt, event }
}

#[cfg(test)]
mod tests {
    use pendula_model::job::JobSpec;
    use pendula_model::processor::Processor;
    use pendula_model::{JobId, Revision, SessionId, TaskId};

    use super::*;

    fn dispatch(task: u64) -> (Dispatch, PowerJob) {
        let powerjob = PowerJob::new("com.acme.Split");
        let at = Timestamp::from_micros(0);
        let dispatch = Dispatch {
            session: SessionId(1),
            sequence: task + 1,
            instance: InstanceId(7),
            task: TaskId(task),
            attempt: 1,
            job: JobId(1),
            revision: Revision(1),
            spec: Arc::new(JobSpec::new("a", Processor::PowerJob(powerjob.clone()))),
            params: None,
            fire_time: None,
            created_at: at,
            failures: 0,
            app_name: "demo".into(),
            part: None,
        };
        (dispatch, powerjob)
    }

    fn key(task: u64) -> AttemptKey {
        AttemptKey { instance: InstanceId(7), task: TaskId(task), attempt: 1 }
    }

    /// The worker hears of the second task only after it was told to end all: that task is not said to have ended.
    #[test]
    fn an_order_on_its_way_is_not_ended_by_a_stop_that_overtakes_it() {
        let mut mapped = Mapped::default();
        for task in [1, 2] {
            let (dispatch, powerjob) = dispatch(task);
            let next = mapped.dispatch(&dispatch, &powerjob, "127.0.0.1:1");
            assert!(matches!(next.calls[..], [Call::Start { .. }]));
        }
        mapped.sent(key(1), Ok(()));
        assert!(matches!(mapped.stop(key(1), false).calls[..], [Call::Stop { .. }]));
        let ended: Vec<_> = mapped.stopped(InstanceId(7), Ok(())).reports.iter().map(|end| end.attempt).collect();
        assert_eq!(ended, [key(1)]);
        mapped.sent(key(2), Ok(()));
        assert_eq!(mapped.running().collect::<Vec<_>>(), [key(2)]);
    }

    /// Each tracker is looked at by its own tasks.
    #[tokio::test(start_paused = true)]
    async fn a_tracker_without_tasks_is_ended_while_another_has_some() {
        let mut mapped = Mapped::default();
        let (first, powerjob) = dispatch(1);
        let (mut other, _) = dispatch(1);
        other.instance = InstanceId(8);
        for dispatch in [&first, &other] {
            mapped.dispatch(dispatch, &powerjob, "127.0.0.1:1");
            mapped.sent(dispatch.key(), Ok(()));
        }
        assert_eq!(mapped.keys().count(), 2);
        mapped.end(key(1), translate::ended_as(key(1), Outcome::Succeeded, ""));
        assert_eq!(mapped.running().collect::<Vec<_>>(), [other.key()]);
        mapped.acknowledged(key(1));
        assert!(!mapped.has(key(1)) && mapped.has(other.key()));
        assert!(mapped.look(Duration::MAX).calls.is_empty());
        tokio::time::advance(IDLE + Duration::from_secs(1)).await;
        assert!(matches!(mapped.look(Duration::MAX).calls[..], [Call::Stop { instance }] if instance == InstanceId(7)));
        mapped.stopped(InstanceId(7), Ok(()));
        assert_eq!(mapped.trackers.keys().copied().collect::<Vec<_>>(), [other.instance]);
    }

    /// The engine repeats what it believes lost, and the repeat may be taken when the end is on disk.
    #[test]
    fn an_order_that_is_repeated_after_its_end_is_no_other_one() {
        let mut mapped = Mapped::default();
        let (dispatch, powerjob) = dispatch(1);
        mapped.dispatch(&dispatch, &powerjob, "127.0.0.1:1");
        mapped.sent(key(1), Ok(()));
        mapped.end(key(1), translate::ended_as(key(1), Outcome::Succeeded, ""));
        mapped.acknowledged(key(1));
        assert!(!mapped.has(key(1)));
        assert!(mapped.dispatch(&dispatch, &powerjob, "127.0.0.1:1").calls.is_empty());
        let next = Dispatch { attempt: 2, ..dispatch };
        assert!(matches!(mapped.dispatch(&next, &powerjob, "127.0.0.1:1").calls[..], [Call::Start { .. }]));
    }

    /// What waits for the end of a tracker and is stopped meanwhile is not begun.
    #[test]
    fn what_is_stopped_before_it_was_sent_is_not_sent() {
        let mut mapped = Mapped::default();
        let (first, powerjob) = dispatch(1);
        mapped.dispatch(&first, &powerjob, "127.0.0.1:1");
        mapped.sent(key(1), Ok(()));
        mapped.stop(key(1), false);
        for task in [2, 3] {
            let (dispatch, powerjob) = dispatch(task);
            mapped.dispatch(&dispatch, &powerjob, "127.0.0.1:1");
        }
        mapped.stop(key(2), false);
        mapped.stop(key(3), true);
        let next = mapped.stopped(InstanceId(7), Ok(()));
        assert!(next.calls.is_empty());
        let mut ended: Vec<_> = next.reports.iter().map(|end| end.attempt).collect();
        ended.sort_by_key(|key| key.task);
        assert_eq!(ended, [key(1), key(2)]);
    }

    /// What is dispatched while the worker ends its tracker goes to the next one.
    #[test]
    fn nothing_is_sent_into_an_end() {
        let mut mapped = Mapped::default();
        let (first, powerjob) = dispatch(1);
        mapped.dispatch(&first, &powerjob, "127.0.0.1:1");
        mapped.sent(key(1), Ok(()));
        mapped.stop(key(1), false);
        let (second, powerjob) = dispatch(2);
        assert!(mapped.dispatch(&second, &powerjob, "127.0.0.1:1").calls.is_empty());
        let next = mapped.stopped(InstanceId(7), Ok(()));
        assert!(matches!(next.calls[..], [Call::Start { key: sent, .. }] if sent == key(2)));
    }
}
