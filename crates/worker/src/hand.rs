//! The worker's loop: waits for one of many things, lets the ledger decide, does what it says, and fills the session.
//!
//! There is no timer, channel or lock per task: tasks speak through one queue, one scan every 100 ms serves all
//! periods, and whatever has gathered meanwhile leaves in one frame.

mod attempt;
mod farewell;
mod frames;
mod logs;
mod questions;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use pendula_model::AttemptKey;
use pendula_model::instance::Reason;
use pendula_model::worker::TASKS;
use pendula_wire::map::MapAnswer;
use pendula_wire::results::PageAnswer;
use pendula_wire::{WireError, held, v1, version};
use tokio::sync::{mpsc, watch};
use tonic::Status;
use v1::{to_server, to_worker};

use crate::addresses::Pause;
use crate::asks::{map_refused, results_refused};
use crate::backoff::Backoff;
use crate::connection::{Dialed, Dialer, Failed, Session};
use crate::event::{Event, Events};
use crate::host::HostProbe;
use crate::ledger::{self, Action, Ledger};
use crate::log::LogShare;
use crate::shutdown::Step;
use crate::task::TaskState;
use crate::worker::{Settings, Summary, WorkerError};
use attempt::Live;
use farewell::Farewell;
use frames::FRAMES;
use logs::OpenLogs;
use questions::Questions;

/// How often the periods of attempts are looked at.
const SCAN: Duration = Duration::from_millis(100);
/// Events taken from the queue before the session is served again.
const EVENTS: usize = 1024;
/// A session that lasted so long was no failure.
const LASTING: Duration = Duration::from_secs(5);
/// Trouble that goes on is told again after this time.
const COMPLAIN_EVERY: Duration = Duration::from_secs(60);

/// The connection, or the way to it.
enum Link {
    Down { dial_at: Instant },
    Dialing(BoxFuture<'static, Dialed>),
    Up(Line),
}

/// An open session and what its terms demand.
struct Line {
    session: Box<Session>,
    since: Instant,
    last_heard: Instant,
    heartbeat_at: Instant,
    said_draining: Option<Instant>,
    /// The way out is full: wait for room instead of trying.
    blocked: bool,
    /// Whether the server knows of instances with many tasks.
    knows_tasks: bool,
    /// Which of [`FRAMES`] went last.
    turn: usize,
}

/// Why the loop woke up.
enum Wake {
    Heard(Result<Option<v1::ToWorker>, Status>),
    Dialed(Dialed),
    Writable,
    Events,
    Shutdown,
    Time,
}

impl Link {
    async fn ready(&mut self) -> Wake {
        match self {
            Link::Down { .. } => std::future::pending().await,
            Link::Dialing(dialing) => Wake::Dialed(dialing.await),
            Link::Up(line) => tokio::select! {
                message = line.session.incoming.message() => Wake::Heard(message),
                _ = line.session.outgoing.reserve(), if line.blocked => Wake::Writable,
            },
        }
    }
}

/// A running worker.
pub(crate) struct Hand {
    settings: Settings,
    dialer: Dialer,
    probe: HostProbe,
    ledger: Ledger,
    live: HashMap<AttemptKey, Live>,
    logs: OpenLogs,
    questions: Questions,
    log_share: Arc<LogShare>,
    /// Who told progress since the last scan.
    progressed: Vec<Arc<TaskState>>,
    events: Events,
    event_queue: mpsc::UnboundedReceiver<Event>,
    event_batch: Vec<Event>,
    link: Link,
    backoff: Backoff,
    /// Since when each server that answered refused the token.
    unauthorized_since: Option<Instant>,
    /// Since when there is no session, and why not.
    down_since: Instant,
    last_failure: String,
    complained: [Option<Instant>; 2],
    steps: watch::Receiver<Step>,
    farewell: Option<Farewell>,
    scan_at: Instant,
}

impl Hand {
    pub(crate) fn new(settings: Settings, dialer: Dialer, probe: HostProbe, steps: watch::Receiver<Step>) -> Self {
        let now = Instant::now();
        let (events, event_queue) = mpsc::unbounded_channel();
        Hand {
            ledger: Ledger::new(settings.hello.slots, settings.timing.clone()),
            live: HashMap::new(),
            logs: OpenLogs::default(),
            questions: Questions::default(),
            log_share: LogShare::new(settings.log_bytes, settings.log_bytes_total),
            progressed: Vec::new(),
            events,
            event_queue,
            event_batch: Vec::with_capacity(EVENTS),
            link: Link::Down { dial_at: now },
            unauthorized_since: None,
            backoff: Backoff::new(&settings.timing),
            down_since: now,
            last_failure: "none was tried".to_owned(),
            complained: [None; 2],
            steps,
            farewell: None,
            scan_at: now,
            settings,
            dialer,
            probe,
        }
    }

    pub(crate) async fn run(mut self) -> Result<Summary, WorkerError> {
        loop {
            let now = Instant::now();
            let step = *self.steps.borrow_and_update();
            match step {
                Step::Serve => {}
                Step::Drain => self.drain(now, None),
                Step::Now => return Ok(self.leave().await),
            }
            self.on_time(now);
            if self.has_said_farewell(now) {
                return Ok(self.leave().await);
            }
            if let (Link::Down { .. } | Link::Dialing(_), Some(patience)) = (&self.link, self.settings.give_up_after)
                && now.duration_since(self.down_since) >= patience
            {
                let why = std::mem::take(&mut self.last_failure);
                self.leave().await;
                return Err(WorkerError::Unreachable(patience, why));
            }
            self.act(now);
            self.fill_session(now);
            let until = self.next_wakeup(now);
            let wake = self.wait(until).await;
            self.on_wake(Instant::now(), wake);
        }
    }

    async fn wait(&mut self, until: Instant) -> Wake {
        let Hand { link, event_queue, event_batch, steps, .. } = self;
        tokio::select! {
            wake = link.ready() => wake,
            _ = event_queue.recv_many(event_batch, EVENTS) => Wake::Events,
            _ = steps.changed() => Wake::Shutdown,
            () = tokio::time::sleep_until(until.into()) => Wake::Time,
        }
    }

    fn next_wakeup(&self, now: Instant) -> Instant {
        let idle = !self.ledger.needs_ticks() && self.progressed.is_empty() && self.farewell.is_none();
        // Nothing else is due for long when nothing runs.
        let scan_at = if idle { now + Duration::from_secs(3600) } else { self.scan_at };
        let link_at = match &self.link {
            Link::Down { dial_at } => *dial_at,
            Link::Dialing(_) => scan_at,
            Link::Up(line) => line.heartbeat_at.min(line.last_heard + line.session.terms.silence),
        };
        let patience = self.settings.give_up_after.map(|patience| self.down_since + patience);
        let gives_up_at = patience.filter(|_| !matches!(self.link, Link::Up(_))).unwrap_or(scan_at);
        scan_at.min(link_at).min(gives_up_at)
    }

    fn on_wake(&mut self, now: Instant, wake: Wake) {
        match wake {
            Wake::Heard(Ok(Some(message))) => self.on_message(now, message),
            Wake::Heard(Ok(None)) => {
                let server = self.server();
                self.lose_session(now, &Failed::Unreachable { server, why: "it closed the session".to_owned() });
            }
            Wake::Heard(Err(status)) => {
                let failed = Failed::from_status(&self.server(), &status);
                self.lose_session(now, &failed);
            }
            Wake::Dialed(dialed) => self.on_dialed(now, dialed),
            Wake::Writable => {
                if let Link::Up(line) = &mut self.link {
                    line.blocked = false;
                }
            }
            Wake::Events => self.on_events(now),
            Wake::Shutdown | Wake::Time => {}
        }
    }

    /// Whatever the clock alone brings.
    fn on_time(&mut self, now: Instant) {
        if now >= self.scan_at {
            self.scan_at = now + SCAN;
            for task in std::mem::take(&mut self.progressed) {
                self.ledger.progressed(&task.held, task.take_progress());
            }
            self.ledger.tick(now);
            self.logs.expire(now, self.settings.timing.log_linger);
        }
        match &self.link {
            Link::Down { dial_at } if *dial_at <= now => {
                let hello = v1::Hello {
                    metrics: Some((&self.probe.sample(now)).into()),
                    running: self.ledger.running(),
                    finished: self.ledger.finished(),
                    ..self.settings.hello.clone()
                };
                self.link = Link::Dialing(self.dialer.dial(hello));
            }
            Link::Up(line) if now.duration_since(line.last_heard) >= line.session.terms.silence => {
                let why = format!("it was silent for {:?}", line.session.terms.silence);
                let failed = Failed::Unreachable { server: line.session.server.clone(), why };
                self.lose_session(now, &failed);
            }
            _ => {}
        }
    }

    fn on_dialed(&mut self, now: Instant, dialed: Dialed) {
        let Dialed { asked, outcome } = dialed;
        match outcome {
            Ok(session) => self.on_session(now, session),
            Err(failed) => {
                let pause = self.dialer.failed(&asked, &failed);
                self.redial_later(now, &failed, pause);
            }
        }
    }

    fn on_session(&mut self, now: Instant, session: Box<Session>) {
        self.dialer.connected(&session);
        let welcome = &session.welcome;
        tracing::info!(
            server = session.server,
            version = welcome.server_version,
            session = welcome.session,
            running = self.ledger.occupied(),
            unacknowledged = self.ledger.unacknowledged(),
            "connected"
        );
        self.complained = [None; 2];
        self.ledger.welcomed(now, &welcome.abort);
        self.logs.rewind();
        self.log_share.set_connected(true);
        for held in self.ledger.finished() {
            if !self.logs.waits(&held) {
                self.ledger.release(&held);
            }
        }
        let knows_tasks = version::shared_capabilities(&welcome.capabilities).iter().any(|name| name == TASKS);
        self.questions.rewind(self.live.values().map(|live| &live.task));
        self.unauthorized_since = None;
        self.link = Link::Up(Line {
            since: now,
            last_heard: now,
            heartbeat_at: now + session.terms.heartbeat,
            said_draining: None,
            blocked: false,
            knows_tasks,
            turn: 0,
            session,
        });
    }

    fn lose_session(&mut self, now: Instant, failed: &Failed) {
        let mut pause = None;
        if let Link::Up(line) = &self.link {
            let lasted = now.duration_since(line.since) >= LASTING;
            if lasted {
                self.backoff.reset();
            }
            pause = Some(self.dialer.lost(&line.session, lasted, failed));
            self.down_since = now;
        }
        self.ledger.disconnected();
        self.log_share.set_connected(false);
        for live in self.live.values() {
            live.task.log.wake();
        }
        self.redial_later(now, failed, pause);
    }

    /// After a pause, or at once.
    fn redial_later(&mut self, now: Instant, failed: &Failed, pause: Option<Pause>) {
        self.abort_if_unauthorized(now, failed);
        let pause = pause.map_or(Duration::ZERO, |pause| self.backoff.length(pause, rand::random()));
        let complained = &mut self.complained[usize::from(failed.is_refused())];
        if complained.is_none_or(|at| now.duration_since(at) >= COMPLAIN_EVERY) {
            *complained = Some(now);
            tracing::warn!(running = self.ledger.occupied(), retry_in = ?pause, "{failed}; running tasks go on");
        }
        self.last_failure = failed.to_string();
        self.link = Link::Down { dial_at: now + pause };
    }

    /// Work of a worker that was shut out is not its own any more.
    fn abort_if_unauthorized(&mut self, now: Instant, failed: &Failed) {
        if !failed.is_unauthorized() {
            // Who cannot be reached has not said that the token is good.
            if !failed.is_unreachable() {
                self.unauthorized_since = None;
            }
            return;
        }
        let since = *self.unauthorized_since.get_or_insert(now);
        let held = self.ledger.held();
        if held.is_empty() || now.duration_since(since) < self.settings.timing.unauthorized_abort {
            return;
        }
        tracing::error!(attempts = held.len(), "{failed}; what runs is aborted, because nobody will take its results");
        for task in &held {
            self.ledger.stopped(now, task, Duration::ZERO, true);
        }
    }

    fn server(&self) -> String {
        match &self.link {
            Link::Up(line) => line.session.server.clone(),
            _ => String::new(),
        }
    }

    fn on_message(&mut self, now: Instant, message: v1::ToWorker) {
        if let Link::Up(line) = &mut self.link {
            line.last_heard = now;
        }
        match message.message {
            Some(to_worker::Message::Dispatches(dispatches)) => {
                for dispatch in dispatches.dispatches {
                    self.on_dispatch(now, dispatch);
                }
            }
            Some(to_worker::Message::Stops(stops)) => {
                for stop in stops.stops {
                    match named(stop.task) {
                        Ok(held) => {
                            let grace = Duration::from_millis(stop.grace_millis);
                            self.ledger.stopped(now, &held, grace, stop.abandon);
                        }
                        Err(error) => tracing::warn!(%error, "ignored a stop"),
                    }
                }
            }
            Some(to_worker::Message::Acks(acks)) => self.ledger.acknowledged(&acks.tasks),
            Some(to_worker::Message::LogAcks(acks)) => {
                for ack in acks.acks {
                    if let Some(held) = &ack.task {
                        self.logs.acknowledged(held, ack.offset);
                    }
                }
            }
            Some(to_worker::Message::Maps(maps)) => {
                for reply in maps.replies {
                    match MapAnswer::try_from(reply) {
                        Ok(answer) => {
                            if let Some(asks) = self.live.get(&answer.attempt).and_then(|live| live.task.asked()) {
                                asks.mapped(answer.reply);
                            }
                        }
                        Err(error) => tracing::warn!(%error, "ignored an answer"),
                    }
                }
            }
            Some(to_worker::Message::Results(results)) => {
                for page in results.pages {
                    self.on_page(page);
                }
            }
            Some(to_worker::Message::Drain(request)) => {
                let budget = Some(Duration::from_millis(request.budget_millis)).filter(|budget| !budget.is_zero());
                tracing::info!(?budget, "the server asks this worker to drain");
                self.drain(now, budget);
            }
            Some(to_worker::Message::Welcome(_)) => tracing::warn!("ignored a second welcome"),
            // A newer server may say more; what we must understand, it learned from our version.
            None => tracing::debug!("ignored a message unknown to this version"),
        }
    }

    fn on_page(&mut self, page: v1::ResultPage) {
        let attempt = match held::required(page.task.as_ref(), "ResultPage", "task") {
            Ok(attempt) => attempt,
            Err(error) => return tracing::warn!(%error, "ignored a page of results"),
        };
        let Some(asks) = self.live.get(&attempt).and_then(|live| live.task.asked()) else { return };
        let request = page.request;
        // A page that makes no sense must not be waited for any longer.
        let page = match PageAnswer::try_from(page) {
            Ok(answer) => answer.page.map_err(|why| results_refused(why).without_retry()),
            Err(error) => Err(results_refused(error.to_string())),
        };
        asks.paged(request, page);
    }

    fn on_dispatch(&mut self, now: Instant, dispatch: v1::Dispatch) {
        if let Err(error) = dispatch.held() {
            return tracing::warn!(%error, "ignored a dispatch that names no attempt");
        }
        let refusal = if let Err(error) = dispatch.check() {
            Some(ledger::unrunnable(&error))
        } else if !self.settings.handlers.contains_key(&dispatch.processor) {
            let message = format!("this worker has no processor `{}`", dispatch.processor);
            Some(ledger::refused(&Reason::PROCESSOR_MISSING, message))
        } else {
            None
        };
        self.ledger.dispatched(now, dispatch, refusal);
    }

    fn on_events(&mut self, now: Instant) {
        for event in self.event_batch.drain(..) {
            match event {
                Event::Logged(task) => {
                    if self.ledger.holds(ledger::key_of(&task.held)) {
                        self.logs.logged(task);
                    }
                }
                Event::Progressed(task) => self.progressed.push(task),
                Event::Asked(task) => self.questions.asked(task),
                Event::Ended { held, how } => {
                    let live = self.live.remove(&ledger::key_of(&held));
                    let is_ours = self.ledger.ended(now, &held, how);
                    let Some(live) = live else { continue };
                    if let Some(asks) = live.task.asked() {
                        asks.close(map_refused("the task is over"));
                    }
                    // The log goes first. One without a line is not sent at all.
                    let log_goes_first = live.task.log.finish() && is_ours;
                    if log_goes_first {
                        self.logs.ended(now, live.task);
                    } else if is_ours {
                        self.ledger.release(&held);
                    }
                }
            }
        }
    }

    /// Does what the ledger decided.
    fn act(&mut self, now: Instant) {
        for action in self.ledger.take_actions() {
            match action {
                Action::Start(dispatch) => self.start(now, *dispatch),
                Action::Cancel(key) => {
                    if let Some(live) = self.live.get(&key) {
                        live.task.stop.cancel();
                    }
                }
                Action::Kill(key) => {
                    if !self.ledger.holds(key) {
                        self.logs.forget(key);
                    }
                    if let Some(live) = self.live.get(&key) {
                        live.task.stop.kill();
                        live.task.log.wake();
                    }
                }
                Action::Drop(key) => {
                    if let Some(live) = self.live.get(&key) {
                        live.future.abort();
                    }
                }
            }
        }
    }

    fn start(&mut self, now: Instant, dispatch: v1::Dispatch) {
        let handler = self.settings.handlers.get(&dispatch.processor).cloned();
        let (Some(handler), Ok(held)) = (handler, dispatch.held()) else {
            debug_assert!(false, "both were checked when the dispatch came");
            return;
        };
        if self.live.is_empty() {
            // Nothing was watched until now.
            self.scan_at = self.scan_at.min(now + SCAN);
        }
        let task = attempt::task(dispatch, held, &self.log_share, &self.events);
        self.live.insert(ledger::key_of(&held), attempt::spawn(handler, task));
    }

    /// Moves what is to be said into the session, as much as there is room for.
    fn fill_session(&mut self, now: Instant) {
        let Link::Up(line) = &mut self.link else { return };
        if !line.knows_tasks {
            self.questions.refuse();
        }
        if line.blocked {
            return;
        }
        loop {
            let permit = match line.session.outgoing.try_reserve() {
                Ok(permit) => permit,
                Err(mpsc::error::TrySendError::Full(())) => {
                    line.blocked = true;
                    return;
                }
                // The incoming half is about to tell why.
                Err(mpsc::error::TrySendError::Closed(())) => return,
            };
            let message = if self.farewell.is_some() && line.said_draining.is_none() {
                line.said_draining = Some(now);
                Some(to_server::Message::Draining(v1::Draining {}))
            } else if line.heartbeat_at <= now {
                line.heartbeat_at = now + line.session.terms.heartbeat;
                Some(to_server::Message::Heartbeat(v1::Heartbeat {
                    metrics: Some((&self.probe.sample(now)).into()),
                    dispatches_seen: self.ledger.dispatches_seen(),
                    held: self.ledger.held(),
                }))
            } else {
                line.turn = (line.turn + 1) % FRAMES.len();
                let (before, after) = FRAMES.split_at(line.turn);
                let Hand { ledger, logs, questions, .. } = self;
                after.iter().chain(before).find_map(|frame| frame(ledger, logs, questions, now))
            };
            let Some(message) = message else { return };
            permit.send(v1::ToServer { message: Some(message) });
        }
    }
}

fn named(task: Option<v1::Held>) -> Result<v1::Held, WireError> {
    let held = task.ok_or_else(|| WireError::new("Stop", "task", "is missing"))?;
    held.check().map(|()| held)
}
