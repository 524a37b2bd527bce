//! One worker's session: from its first heartbeat until it is silent for too long, or its app moves.
//!
//! PowerJob's protocol has no attempts, no acknowledgement of a dispatch or of a stop, and forgets what it could not
//! report. So the session looks for itself: it asks the worker whether it still tracks what it should. What the worker
//! knows nothing of, and did not report, is lost (law 5), and the job's delivery policy decides.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, StreamExt};
use pendula_engine::{Dispatch, Report, input::Outcome};
use pendula_model::instance::{InstanceState, Reason, TaskState};
use pendula_model::mode::ExecutionMode;
use pendula_model::powerjob::PowerJobExecuteType;
use pendula_model::processor::Processor;
use pendula_model::worker::{WorkerInfo, WorkerRef};
use pendula_model::{AppId, AttemptKey, InstanceId, TaskId};
use pendula_server::gateway::{Errand, Errands, Gateway, Link};
use pendula_store::{InstanceFilter, Store, StoreError, TaskFilter};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use crate::dial::{CallError, Dialer, Tracked};
use crate::log_lines::LogLines;
use crate::mapped::{Call, Mapped, Next};
use crate::messages::{TaskTrackerReportInstanceStatusReq, WorkerHeartbeat, status};
use crate::translate;
use crate::version::Family;
use crate::way::{Speech, Way};
use crate::workers::{Timing, Told, Workers};

/// How long a session waits for its partition, after which the next heartbeat tries again.
const OWNED_WITHIN: Duration = Duration::from_secs(10);
/// Attempts that are asked about at once when a worker is taken over.
const ASKED_AT_ONCE: usize = 16;
/// Instances per page of what is read then.
const PAGE: usize = 1000;
/// Ends that are remembered, to tell the news of an earlier attempt from those of the current one.
const REMEMBERED: Duration = Duration::from_secs(600);
/// A worker that goes on with what it was told to stop is told again this often.
const STOP_AGAIN: Duration = Duration::from_secs(5);

/// What a session needs of its gateway.
#[derive(Clone)]
pub(crate) struct Surroundings {
    pub(crate) gateway: Gateway,
    pub(crate) dialer: Dialer,
    pub(crate) workers: Workers,
    pub(crate) log_lines: LogLines,
    pub(crate) timing: Timing,
    /// Where workers report to that this server calls; empty if it has no port.
    pub(crate) advertised: Arc<str>,
}

/// Who the worker is.
#[derive(Clone)]
pub(crate) struct Identity {
    pub(crate) app: AppId,
    pub(crate) address: Arc<str>,
    /// Where it is called.
    pub(crate) way: Way,
    /// Of the session, in [`Workers`].
    pub(crate) number: u64,
}

struct Session {
    around: Surroundings,
    who: Identity,
    family: Family,
    /// As it was introduced to the partition.
    info: WorkerInfo,
    link: Link,
    /// It shall get nothing more, and cannot be told: it is looked whether it is there still.
    draining: bool,
    is_gone: bool,
    overloaded: bool,
    heard_at: Instant,
    /// Sequence number of the last dispatch that came.
    sequence: u64,
    held: HashMap<InstanceId, Held>,
    /// Tasks of maps, which the server tracks.
    mapped: Mapped,
    past: HashMap<InstanceId, Past>,
    calls: JoinSet<Called>,
}

/// An attempt that the worker has.
struct Held {
    key: AttemptKey,
    /// Since when nothing was heard of it.
    heard_at: Instant,
    /// When the worker made its tracker, by its clock.
    tracker: Option<i64>,
    report_time: i64,
    started: bool,
    stopping: bool,
    stop_sent: Instant,
    /// Not sent yet: as a broadcast it would miss workers that have not come back to this server.
    waiting: Option<Box<Dispatch>>,
    /// A piece of a broadcast: it runs here or nowhere.
    is_bound: bool,
    /// The processor's class or bean, unless another owner sent it.
    class: Option<Arc<str>>,
    /// A question about it is under way, or was asked last.
    asking: bool,
    asked_at: Option<Instant>,
    /// Since when the worker does not know it.
    unknown_since: Option<Instant>,
    /// Its end was told to the engine; these wait for it to be on disk.
    ended: Option<Vec<oneshot::Sender<bool>>>,
}

/// An attempt that is over, or not this worker's any more.
struct Past {
    at: Instant,
    /// Trackers made until then are old.
    tracker: Option<i64>,
    stop_sent: Option<Instant>,
}

/// What came of a call.
enum Called {
    Ran {
        key: AttemptKey,
        result: Result<(), CallError>,
    },
    /// It still has a tracker of an earlier attempt.
    Busy {
        key: AttemptKey,
    },
    Asked {
        key: AttemptKey,
        result: Result<Tracked, CallError>,
    },
    Stopped,
    /// It was looked whether the worker is there.
    Looked(Result<Tracked, CallError>),
    /// A task was sent.
    Started {
        key: AttemptKey,
        result: Result<(), CallError>,
    },
    /// The worker was told to end its tasks of an instance.
    Ended {
        instance: InstanceId,
        result: Result<(), CallError>,
    },
}

/// Runs a session to its end.
pub(crate) async fn run(
    around: Surroundings,
    mut who: Identity,
    first: WorkerHeartbeat,
    mut told: mpsc::Receiver<Told>,
) {
    let mut begins = Some(Box::new(first));
    while let Some(first) = begins.take() {
        if let Some(way) = &first.way {
            who.way = way.clone();
        }
        let info = translate::worker_info(&first);
        match open(&around, &who, &first, info).await {
            Ok((mut session, mut errands)) => {
                let (worker, version) = (&who.address, first.version.as_deref());
                tracing::info!(%worker, version, app = %who.app, way = %who.way, "PowerJob worker connected");
                let (why, anew) = match session.serve(&mut errands, &mut told).await {
                    Over::For(why) => (why, None),
                    Over::BeganAnew(heartbeat) => ("it began anew, as something else", Some(heartbeat)),
                };
                tracing::info!(%worker, why, "PowerJob worker disconnected");
                session.mapped.keys().for_each(|key| around.workers.forget_task(key, &who.address));
                session.link.close().await;
                begins = anew;
            }
            Err(why) => tracing::debug!(worker = %who.address, why, "a PowerJob worker could not be connected"),
        }
    }
    around.workers.forget(who.app, &who.address, who.number);
}

/// Why a session ends.
enum Over {
    For(&'static str),
    /// Another process has the address now, with another version or tag, and beats.
    BeganAnew(Box<WorkerHeartbeat>),
}

/// Learns what the worker has, and introduces it to its partition.
async fn open(
    around: &Surroundings,
    who: &Identity,
    first: &WorkerHeartbeat,
    info: WorkerInfo,
) -> Result<(Session, Errands), String> {
    let partition = who.app.partition();
    let owned = async {
        while !around.gateway.is_owned(partition) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(OWNED_WITHIN, owned).await.map_err(|_| "its app's partition is not here".to_owned())?;
    let placed = placed(around, who, &info.worker).await.map_err(|error| error.to_string())?;
    // Of these a worker does not know whether it has them: it will speak of them, or not.
    let (mapped, placed): (Vec<_>, Vec<_>) = placed.into_iter().partition(|placed| placed.is_mapped);
    let asked = stream::iter(placed).map(|row| async move {
        let tracked = around.dialer.is_tracked(&who.way, row.key.instance.0).await;
        (row, tracked)
    });
    let asked: Vec<_> = asked.buffer_unordered(ASKED_AT_ONCE).collect().await;
    // What cannot be asked about may be there: reports will tell, or their absence.
    let (gone, there): (Vec<_>, Vec<_>) =
        asked.into_iter().partition(|(_, tracked)| matches!(tracked, Ok(Tracked::No)));
    let keys = |rows: &[(Placed, _)]| rows.iter().map(|(row, _)| row.key).collect::<Vec<_>>();
    let (mut running, finished) = (keys(&there), keys(&gone));
    running.extend(mapped.iter().map(|placed| placed.key));
    let connected = around.gateway.connect(who.app, info.clone(), running, finished).await;
    let (link, errands) = connected.map_err(|error| error.to_string())?;
    let now = Instant::now();
    let mut session = Session {
        around: around.clone(),
        who: who.clone(),
        family: Family::of(first.version.as_deref()),
        info,
        link,
        draining: false,
        is_gone: false,
        overloaded: first.overload,
        heard_at: now,
        sequence: 0,
        held: HashMap::new(),
        mapped: Mapped::default(),
        past: HashMap::new(),
        calls: JoinSet::new(),
    };
    for Placed { key, stopping, .. } in mapped {
        around.workers.has_task(key, who.app, &who.address);
        session.mapped.adopt(key, stopping);
    }
    for (Placed { key, is_bound, stopping, .. }, _) in there {
        session.held.insert(key.instance, Held { started: true, stopping, is_bound, ..Held::of(key, now) });
    }
    let mut ends = Vec::new();
    for (Placed { key, is_bound, stopping, .. }, _) in gone {
        session.held.insert(key.instance, Held { ended: Some(Vec::new()), is_bound, ..Held::of(key, now) });
        ends.push(match stopping {
            true => translate::ended_as(key, Outcome::Stopped, ""),
            false => translate::ended_as(key, Outcome::Lost, "the worker does not know it any more"),
        });
    }
    if !ends.is_empty() {
        session.link.report(ends).await.map_err(|error| error.to_string())?;
    }
    Ok((session, errands))
}

/// An attempt that a worker should have.
struct Placed {
    key: AttemptKey,
    is_bound: bool,
    /// A task of a map.
    is_mapped: bool,
    stopping: bool,
}

/// What the store says that the worker has: whole instances, and its pieces of broadcasts.
async fn placed(around: &Surroundings, who: &Identity, worker: &WorkerRef) -> Result<Vec<Placed>, StoreError> {
    let store = &around.gateway.server().store;
    let mut found = Vec::new();
    let mut before = None;
    // Of PowerJob's jobs, whether they are maps.
    let mut is_mapped = HashMap::new();
    loop {
        let filter = InstanceFilter {
            app: Some(who.app),
            states: vec![InstanceState::Dispatched, InstanceState::Running, InstanceState::Stopping],
            before,
            limit: PAGE,
            ..InstanceFilter::default()
        };
        let page = store.instances(filter).await?;
        before = page.items.last().map(|row| row.id);
        for row in page.items {
            let stopping = row.state == InstanceState::Stopping;
            if row.worker.as_ref() == Some(worker) {
                let key = AttemptKey::root(row.id, row.attempt);
                found.push(Placed { key, is_bound: false, is_mapped: false, stopping });
            } else if row.worker.is_none() {
                if let Entry::Vacant(entry) = is_mapped.entry(row.job) {
                    let job = store.job_by_id(row.job).await?;
                    let job = job.filter(|job| matches!(job.spec.processor, Processor::PowerJob(_)));
                    entry.insert(job.map(|job| matches!(job.spec.mode, ExecutionMode::Map(_))));
                }
                let Some(is_mapped) = is_mapped[&row.job] else { continue };
                let name = (!is_mapped).then_some(&*worker.name);
                let own = own_tasks(store.as_ref(), row.id, worker, name).await?;
                found.extend(own.into_iter().map(|key| Placed { key, is_bound: !is_mapped, is_mapped, stopping }));
            }
        }
        if !page.more {
            return Ok(found);
        }
    }
}

/// The tasks of an instance that the worker has. Those of a broadcast are named like their workers.
async fn own_tasks(
    store: &dyn Store,
    instance: InstanceId,
    worker: &WorkerRef,
    name: Option<&str>,
) -> Result<Vec<AttemptKey>, StoreError> {
    let mut filter = TaskFilter {
        instance,
        states: vec![TaskState::Dispatched, TaskState::Running],
        name_contains: name.map(str::to_owned),
        from: TaskId::ROOT,
        limit: PAGE,
    };
    let mut found = Vec::new();
    loop {
        let page = store.tasks(filter.clone()).await?;
        let own = page.items.iter().filter(|task| task.worker.as_ref() == Some(worker));
        found.extend(own.map(|task| AttemptKey::new(task.key(), task.attempt)));
        let Some(last) = page.items.last().filter(|_| page.more) else { return Ok(found) };
        filter.from = last.id.next();
    }
}

impl Held {
    fn of(key: AttemptKey, now: Instant) -> Self {
        Held {
            key,
            heard_at: now,
            tracker: None,
            report_time: 0,
            started: false,
            stopping: false,
            stop_sent: now,
            waiting: None,
            is_bound: false,
            class: None,
            asking: false,
            asked_at: None,
            unknown_since: None,
            ended: None,
        }
    }
}

impl Session {
    async fn serve(&mut self, errands: &mut Errands, told: &mut mpsc::Receiver<Told>) -> Over {
        let mut look = interval(self.around.timing.look);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let result = tokio::select! {
                errand = errands.next() => match errand {
                    Some(errand) => self.do_errand(errand).await,
                    None => return Over::For("its partition let it go"),
                },
                Some(told) = told.recv() => match told {
                    Told::Heartbeat(heartbeat) if self.is_of_another(&heartbeat) => return Over::BeganAnew(heartbeat),
                    told => self.hear(told).await,
                },
                Some(called) = self.calls.join_next() => match called {
                    Ok(called) => self.take(called).await,
                    Err(error) => {
                        tracing::error!(%error, "a call to a PowerJob worker panicked");
                        Ok(())
                    }
                },
                _ = look.tick() => {
                    if self.heard_at.elapsed() > self.around.timing.silent {
                        return Over::For("it is silent");
                    }
                    self.look().await
                }
            };
            if result.is_err() {
                return Over::For("its partition is not here any more");
            }
            if self.is_gone {
                return Over::For("it was drained, and is gone");
            }
        }
    }

    /// Whether it comes from a process that cannot be the one that was introduced.
    fn is_of_another(&self, heartbeat: &WorkerHeartbeat) -> bool {
        let info = translate::worker_info(heartbeat);
        let speaks_otherwise = heartbeat.way.as_ref().is_some_and(|way| way.spoken() != self.who.way.spoken());
        speaks_otherwise || info.version != self.info.version || info.labels != self.info.labels
    }

    // --- what the partition has for the worker ---------------------------------------------------------------------

    async fn do_errand(&mut self, errand: Errand) -> Passed {
        match errand {
            Errand::Welcome { abort } => {
                for key in abort {
                    if self.mapped.has(key) {
                        let next = self.mapped.stop(key, true);
                        self.around.workers.forget_task(key, &self.who.address);
                        self.go_on(next).await?;
                        continue;
                    }
                    self.held.remove(&key.instance);
                    self.send_stop(key.instance);
                }
            }
            Errand::Dispatch(dispatch) => return self.dispatch(dispatch).await,
            Errand::Stop { attempt, abandon } if self.mapped.has(attempt) => {
                let next = self.mapped.stop(attempt, abandon);
                if abandon {
                    self.around.workers.forget_task(attempt, &self.who.address);
                }
                return self.go_on(next).await;
            }
            Errand::Stop { attempt, abandon } => return self.stop(attempt, abandon).await,
            Errand::Ack(attempt) if self.mapped.has(attempt) => {
                self.mapped.acknowledged(attempt);
                if !self.mapped.has(attempt) {
                    self.around.workers.forget_task(attempt, &self.who.address);
                }
            }
            Errand::Mapped { attempt, reply } => self.mapped.mapped(attempt, &reply),
            Errand::Ack(attempt) => {
                if self.held.get(&attempt.instance).is_some_and(|held| held.key == attempt && held.ended.is_some()) {
                    let waiting = self.over(attempt.instance);
                    for answer in waiting {
                        let _ = answer.send(true);
                    }
                    self.around.log_lines.end_soon(self.who.app, attempt);
                }
            }
            // It holds for this process, and not for the next one at its address.
            Errand::Drain => {
                if !std::mem::replace(&mut self.draining, true) {
                    self.knock();
                }
            }
        }
        Ok(())
    }

    async fn dispatch(&mut self, dispatch: Box<Dispatch>) -> Passed {
        self.sequence = self.sequence.max(dispatch.sequence);
        let key = dispatch.key();
        let Processor::PowerJob(powerjob) = &dispatch.spec.processor else {
            let outcome = Outcome::Rejected { reason: Reason::PROCESSOR_MISSING };
            return self
                .report(translate::ended_as(key, outcome, "a PowerJob worker runs PowerJob's processors"))
                .await;
        };
        if matches!(dispatch.spec.mode, ExecutionMode::Map(_)) {
            if self.who.way.speech() != Speech::Http {
                let outcome = Outcome::Rejected { reason: Reason::PROCESSOR_MISSING };
                let why = "maps that the server tracks run on workers with protocol HTTP";
                return self.report(translate::ended_as(key, outcome, why)).await;
            }
            if self.overloaded && !self.mapped.has(key) {
                let outcome = Outcome::Rejected { reason: Reason::from_wire("overloaded") };
                return self.report(translate::ended_as(key, outcome, "the worker has too many instances")).await;
            }
            self.around.workers.has_task(key, self.who.app, &self.who.address);
            let next = self.mapped.dispatch(&dispatch, powerjob, &self.around.advertised);
            return self.go_on(next).await;
        }
        if self.held.get(&key.instance).is_some_and(|held| held.key == key) {
            // Sent again: the worker ignores what it has, and may still lack it.
        } else if self.overloaded {
            let outcome = Outcome::Rejected { reason: Reason::from_wire("overloaded") };
            return self.report(translate::ended_as(key, outcome, "the worker has too many instances")).await;
        } else {
            // An earlier attempt that was given up: its tracker is not this one's.
            for answer in self.over(key.instance) {
                let _ = answer.send(true);
            }
            let is_bound = dispatch.part.is_some();
            let class = Some(powerjob.info.as_str().into());
            self.held.insert(key.instance, Held { is_bound, class, ..Held::of(key, Instant::now()) });
        }
        if powerjob.execute_type == PowerJobExecuteType::Broadcast && !self.is_settled() {
            if let Some(held) = self.held.get_mut(&key.instance) {
                held.waiting = Some(dispatch);
            }
            return Ok(());
        }
        self.send(&dispatch);
        Ok(())
    }

    /// Calls the worker and tells the engine, as follows from something.
    async fn go_on(&mut self, next: Next) -> Passed {
        for call in next.calls {
            let (dialer, way) = (self.around.dialer.clone(), self.who.way.clone());
            self.calls.spawn(async move {
                match call {
                    Call::Start { key, request } => {
                        Called::Started { key, result: dialer.start_task(&way, &request).await }
                    }
                    Call::Stop { instance } => {
                        Called::Ended { instance, result: dialer.stop_tasks(&way, instance.0).await }
                    }
                }
            });
        }
        if next.reports.is_empty() { Ok(()) } else { self.link.report(next.reports).await.map_err(drop) }
    }

    fn is_settled(&self) -> bool {
        self.around.workers.are_settled(self.who.app, self.around.timing.settle)
    }

    fn send(&mut self, dispatch: &Dispatch) {
        let key = dispatch.key();
        let Processor::PowerJob(powerjob) = &dispatch.spec.processor else { return };
        let (app, address) = (self.who.app, &*self.who.address);
        let all = match powerjob.execute_type {
            // Workers before 4.3 tell all that are named here when it has ended, and who began anew may speak otherwise.
            PowerJobExecuteType::Standalone => vec![address.to_owned()],
            _ => self.around.workers.cluster_of(app, &dispatch.spec, self.who.way.speech(), Some(address), false),
        };
        let request = translate::schedule(dispatch, powerjob, all, self.family);
        let (dialer, way) = (self.around.dialer.clone(), self.who.way.clone());
        self.calls.spawn(async move {
            // It ignores the new one while it has a tracker of an earlier attempt, whose end would be taken for this one's.
            if key.attempt > 1 && matches!(dialer.is_tracked(&way, key.instance.0).await, Ok(Tracked::Yes)) {
                let _ = dialer.stop_instance(&way, key.instance.0).await;
                return Called::Busy { key };
            }
            Called::Ran { key, result: dialer.run_job(&way, &request).await }
        });
    }

    async fn stop(&mut self, attempt: AttemptKey, abandon: bool) -> Passed {
        self.send_stop(attempt.instance);
        match self.held.get_mut(&attempt.instance).filter(|held| held.key == attempt) {
            Some(_) if abandon => drop(self.over(attempt.instance)),
            None if abandon => {}
            Some(held) if held.waiting.is_some() => {
                return self.report(translate::ended_as(attempt, Outcome::Stopped, "")).await;
            }
            Some(held) => (held.stopping, held.stop_sent, held.asked_at) = (true, Instant::now(), None),
            // It has nothing of it, as far as anybody can know.
            None => return self.report(translate::ended_as(attempt, Outcome::Lost, "")).await,
        }
        Ok(())
    }

    fn send_stop(&mut self, instance: InstanceId) {
        let (dialer, way) = (self.around.dialer.clone(), self.who.way.clone());
        self.calls.spawn(async move {
            if let Err(error) = dialer.stop_instance(&way, instance.0).await {
                tracing::debug!(worker = %way, %instance, %error, "a PowerJob worker was not told to stop");
            }
            Called::Stopped
        });
    }

    // --- what the worker says --------------------------------------------------------------------------------------

    async fn hear(&mut self, told: Told) -> Passed {
        self.heard_at = Instant::now();
        match told {
            Told::Heartbeat(heartbeat) => {
                // It may talk to another server now.
                if let Some(way) = &heartbeat.way {
                    self.who.way = way.clone();
                }
                self.overloaded = heartbeat.overload;
                self.family = Family::of(heartbeat.version.as_deref());
                // A worker that tracks nothing is asked at once about what it should: it may have begun anew.
                if heartbeat.light_task_tracker_num + heartbeat.heavy_task_tracker_num == 0 {
                    let patience = self.around.timing.ask_again;
                    let idle = self.held.values().filter(|held| held.started && held.heard_at.elapsed() > patience);
                    let idle: Vec<_> = idle.map(|held| held.key).collect();
                    idle.into_iter().for_each(|key| self.ask(key));
                }
                let held = self.held.values().filter(|held| held.ended.is_none()).map(|held| held.key);
                let held = held.chain(self.mapped.running()).collect();
                let metrics = heartbeat.system_metrics.as_ref().map(translate::metrics);
                self.link.alive(self.sequence, held, metrics).await.map_err(drop)
            }
            Told::Report { report, answer } => self.hear_report(&report, answer).await,
            Told::TaskStatus { key, report, answer } => {
                let now = self.around.gateway.server().clock.now();
                let next = self.mapped.hear(now, key, &report, answer);
                self.go_on(next).await
            }
            Told::TrackerStatus { instance, is_gone } => {
                let next = self.mapped.hear_of_tracker(instance, is_gone);
                self.go_on(next).await
            }
            Told::SubTasks { sub_tasks, answer } => match self.mapped.map(sub_tasks, answer) {
                Some(mapping) => self.link.map(vec![mapping]).await.map_err(drop),
                None => Ok(()),
            },
        }
    }

    async fn hear_report(
        &mut self,
        report: &TaskTrackerReportInstanceStatusReq,
        answer: oneshot::Sender<bool>,
    ) -> Passed {
        let instance = InstanceId(report.instance_id);
        let is_final = matches!(report.instance_status, status::SUCCEEDED | status::FAILED);
        let is_old = self.past.get(&instance).is_some_and(|past| {
            past.tracker.is_some_and(|tracker| report.start_time > 0 && report.start_time <= tracker)
        });
        let now = self.around.gateway.server().clock.now();
        let Some(held) = self.held.get_mut(&instance).filter(|_| !is_old) else {
            // Of an earlier attempt, of one that was given up, or of nothing that we ever gave it: it may forget it.
            let _ = answer.send(true);
            if !is_final {
                self.stop_again(instance);
            }
            return Ok(());
        };
        held.heard_at = Instant::now();
        held.unknown_since = None;
        if report.start_time > 0 {
            held.tracker = Some(held.tracker.unwrap_or(0).max(report.start_time));
        }
        let key = held.key;
        if is_final {
            if let Some(waiting) = &mut held.ended {
                waiting.push(answer);
                return Ok(());
            }
            held.ended = Some(vec![answer]);
            let is_bound = held.is_bound;
            let end = translate::ended(now, key, report, held.class.as_deref());
            let end = if is_bound { translate::for_good(end) } else { end };
            return self.link.report(vec![end]).await.map_err(drop);
        }
        let _ = answer.send(true);
        if held.ended.is_some() {
            return Ok(());
        }
        if held.stopping && held.stop_sent.elapsed() > STOP_AGAIN {
            held.stop_sent = Instant::now();
            self.send_stop(instance);
            return Ok(());
        }
        // A state that we do not know is a sign of life and nothing else.
        if report.instance_status != status::RUNNING {
            return Ok(());
        }
        let mut news = Vec::new();
        if !std::mem::replace(&mut held.started, true) {
            news.push(translate::started(now, key, report));
        }
        // Requests overtake each other.
        if report.report_time >= held.report_time {
            held.report_time = report.report_time;
            news.push(translate::progress(key, report));
        }
        self.link.report(news).await.map_err(drop)
    }

    /// A worker that goes on with what is not its own is told again, now and then.
    fn stop_again(&mut self, instance: InstanceId) {
        let now = Instant::now();
        let past = self.past.entry(instance).or_insert(Past { at: now, tracker: None, stop_sent: None });
        if past.stop_sent.is_none_or(|sent| sent.elapsed() > STOP_AGAIN) {
            past.stop_sent = Some(now);
            // What runs here now under this id would be stopped with it.
            if !self.held.contains_key(&instance) {
                self.send_stop(instance);
            }
        }
    }

    // --- looking for oneself ---------------------------------------------------------------------------------------

    async fn look(&mut self) -> Passed {
        let timing = self.around.timing;
        if self.is_settled() {
            let now = Instant::now();
            let due = self.held.values_mut().filter(|held| held.ended.is_none()).filter_map(|held| {
                let dispatch = held.waiting.take();
                held.heard_at = if dispatch.is_some() { now } else { held.heard_at };
                dispatch
            });
            due.collect::<Vec<_>>().iter().for_each(|dispatch| self.send(dispatch));
        }
        let mut to_ask = Vec::new();
        let was_sent = |held: &&Held| held.ended.is_none() && held.waiting.is_none();
        for held in self.held.values().filter(was_sent).filter(|held| !held.asking) {
            let since_asked = held.asked_at.map(|at| at.elapsed());
            let pause = if held.stopping || held.unknown_since.is_some() { timing.look } else { timing.ask_after / 3 };
            let is_due = held.stopping || held.unknown_since.is_some() || held.heard_at.elapsed() >= timing.ask_after;
            if is_due && since_asked.is_none_or(|since| since >= pause) {
                to_ask.push(held.key);
            }
        }
        to_ask.into_iter().for_each(|key| self.ask(key));
        self.past.retain(|_, past| past.at.elapsed() < REMEMBERED);
        let next = self.mapped.look(timing.lost_after);
        self.go_on(next).await
    }

    /// Looks whether the worker is there, by a question about nothing.
    fn knock(&mut self) {
        let (dialer, way, pause) = (self.around.dialer.clone(), self.who.way.clone(), self.around.timing.look);
        self.calls.spawn(async move {
            tokio::time::sleep(pause).await;
            Called::Looked(dialer.is_tracked(&way, 0).await)
        });
    }

    fn ask(&mut self, key: AttemptKey) {
        let Some(held) = self.held.get_mut(&key.instance).filter(|held| held.key == key && !held.asking) else {
            return;
        };
        (held.asking, held.asked_at) = (true, Some(Instant::now()));
        let (dialer, way) = (self.around.dialer.clone(), self.who.way.clone());
        self.calls.spawn(async move { Called::Asked { key, result: dialer.is_tracked(&way, key.instance.0).await } });
    }

    async fn take(&mut self, called: Called) -> Passed {
        let called = match called {
            Called::Started { key, result } => {
                let next = self.mapped.sent(key, result);
                return self.go_on(next).await;
            }
            Called::Ended { instance, result } => {
                let next = self.mapped.stopped(instance, result);
                return self.go_on(next).await;
            }
            Called::Looked(result) => {
                match result {
                    Err(CallError::NotSent(_)) => self.is_gone = true,
                    _ => self.knock(),
                }
                return Ok(());
            }
            called => called,
        };
        let timing = self.around.timing;
        let now = self.around.gateway.server().clock.now();
        let (Called::Ran { key, .. } | Called::Busy { key } | Called::Asked { key, .. }) = called else {
            return Ok(());
        };
        let Some(held) = self.held.get_mut(&key.instance).filter(|held| held.key == key) else { return Ok(()) };
        if matches!(called, Called::Asked { .. }) {
            held.asking = false;
        }
        if held.ended.is_some() {
            return Ok(());
        }
        let end = match called {
            Called::Stopped
            | Called::Looked(_)
            | Called::Ran { result: Ok(()), .. }
            | Called::Started { .. }
            | Called::Ended { .. } => return Ok(()),
            Called::Busy { .. } => {
                let reason = Reason::from_wire("earlier_attempt_runs");
                translate::ended_as(key, Outcome::Rejected { reason }, "an earlier attempt still runs on the worker")
            }
            // A report came meanwhile: whatever was answered, it runs.
            Called::Ran { .. } if held.started => return Ok(()),
            Called::Ran { result: Err(error), .. } => match error {
                CallError::NotSent(_) => {
                    let reason = Reason::from_wire("worker_unreachable");
                    translate::ended_as(key, Outcome::Rejected { reason }, &error.to_string())
                }
                CallError::Status(_) => {
                    let outcome = Outcome::Failed { reason: Reason::from_wire("refused_by_worker"), final_: false };
                    translate::ended_as(key, outcome, &error.to_string())
                }
                CallError::NoAnswer(_) => {
                    held.unknown_since.get_or_insert_with(Instant::now);
                    return Ok(());
                }
            },
            Called::Asked { result: Ok(Tracked::Yes), .. } => {
                held.unknown_since = None;
                if held.stopping {
                    return Ok(());
                }
                held.heard_at = Instant::now();
                if std::mem::replace(&mut held.started, true) {
                    return Ok(());
                }
                let report = TaskTrackerReportInstanceStatusReq::default();
                let started = translate::started(now, key, &report);
                return self.link.report(vec![started]).await.map_err(drop);
            }
            Called::Asked { result: Ok(Tracked::No), .. } if held.stopping => {
                translate::ended_as(key, Outcome::Stopped, "")
            }
            Called::Asked { result: Ok(Tracked::No), .. } => {
                let since = *held.unknown_since.get_or_insert_with(Instant::now);
                if since.elapsed() < timing.ask_again {
                    return Ok(());
                }
                translate::ended_as(key, Outcome::Lost, "the worker does not know it, and reported no end")
            }
            Called::Asked { result: Err(error), .. } => {
                if held.stopping || held.heard_at.elapsed() < timing.lost_after {
                    return Ok(());
                }
                translate::ended_as(key, Outcome::Lost, &format!("no report for too long, and {error}"))
            }
        };
        self.report(end).await
    }

    /// Tells the engine an end that the worker does not report.
    async fn report(&mut self, end: Report) -> Passed {
        if let Some(held) = self.held.get_mut(&end.attempt.instance).filter(|held| held.key == end.attempt) {
            held.ended.get_or_insert_default();
        }
        self.link.report(vec![end]).await.map_err(drop)
    }

    /// The attempt is over here. Returns who waits for its end.
    fn over(&mut self, instance: InstanceId) -> Vec<oneshot::Sender<bool>> {
        let Some(held) = self.held.remove(&instance) else { return Vec::new() };
        let past = self.past.entry(instance).or_insert(Past { at: Instant::now(), tracker: None, stop_sent: None });
        past.at = Instant::now();
        past.tracker = past.tracker.max(held.tracker);
        held.ended.unwrap_or_default()
    }
}

/// `Err` when the partition takes no more.
type Passed = Result<(), ()>;
