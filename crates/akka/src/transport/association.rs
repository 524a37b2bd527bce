//! One worker: what is to go to it, and the connection over which it goes.

use std::collections::VecDeque;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::counters::Counters;
use super::gate::Gate;
use super::limits::Limits;
use super::listener::quiet_peers_are_noticed;
use crate::artery::{Address, UniqueAddress, outgoing};

/// Written at once at most, in messages.
const BATCH: usize = 64;
/// Who we are is said again before a message when the last time is longer ago: a worker that started anew behind the same
/// socket would drop what it gets from somebody unknown.
const HANDSHAKE_AGAIN: Duration = Duration::from_secs(1);
/// Acknowledgements that wait. A worker wants one for each of its streams, of which it has three at most to each name of ours.
const ACKS: usize = 8;
/// Numbers of processes that are gone, by which their late handshakes are known.
const GONE: usize = 4;

/// Why a message did not go out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// Nothing of it left.
    #[error("it cannot be reached: {0}")]
    NotSent(String),
    /// It may have arrived.
    #[error("the connection broke while it was sent: {0}")]
    Unsure(String),
    /// Too much waits for the worker already. Nothing of it left.
    #[error("too much waits for the worker already")]
    Full,
    /// It is longer than a frame may be. Nothing of it left.
    #[error("it is longer than a frame may be")]
    TooLong,
    /// It was for a process that is not there any more. Nothing of it left.
    #[error("it was started anew, and what is there now has said nothing yet")]
    Replaced,
}

/// What the two ends of an association share: those who have something to say, and the task that says it.
pub(super) struct Association {
    pub(super) worker: Address,
    limits: Limits,
    state: Mutex<State>,
    work: Notify,
}

struct State {
    /// As the worker knows us: at the address that it dialled, or at the configured one if it did not yet.
    us: UniqueAddress,
    /// As it knows us who tracks an instance, under another name: once it dialled that.
    other: Option<Other>,
    /// The worker's process.
    peer: Option<u64>,
    gone: VecDeque<u64>,
    /// How many there were.
    processes: u64,
    ip: Option<IpAddr>,
    /// Grows when the connection is of no use any more.
    era: u64,
    /// We asked over the connection who is there.
    asked: bool,
    /// Who answered: the connection leads to that process, for as long as there is one.
    met: Option<u64>,
    /// We say who we are, even if nothing else is to be said.
    greet: bool,
    /// The worker asked who we are.
    answer: bool,
    acks: VecDeque<String>,
    queue: VecDeque<Waiting>,
    queued: usize,
    /// When anything was last said in either direction.
    used: Instant,
    renewed: Option<Instant>,
    is_connected: bool,
    /// Nobody says anything any more.
    is_over: bool,
}

/// Another name of ours, under which we listen and say nothing but who we are.
struct Other {
    us: UniqueAddress,
    /// We say so, unasked.
    greet: bool,
    /// The worker asked.
    answer: bool,
}

/// A message on its way.
pub(super) struct Waiting {
    what: Outgoing,
    /// The one that it is for; none when it is for whoever is there.
    process: Option<u64>,
    since: Instant,
    /// Dropped by who does not wait any more; then it is not sent.
    done: oneshot::Sender<Result<(), SendError>>,
}

impl Waiting {
    /// When it has waited long enough for somebody to say who is at the other end.
    fn gives_up(&self, open: &Connection, limits: Limits) -> Instant {
        self.since.max(open.since) + limits.introduce
    }
}

pub(super) enum Outgoing {
    Message { actor: String, answer_to: Option<String>, payload: Bytes },
    Answer { recipient: String, payload: Bytes },
}

impl Outgoing {
    fn payload(&self) -> &Bytes {
        match self {
            Outgoing::Message { payload, .. } | Outgoing::Answer { payload, .. } => payload,
        }
    }

    fn frame(&self, us: &UniqueAddress, worker: &Address) -> Option<Vec<u8>> {
        match self {
            Outgoing::Message { actor, answer_to, payload } => {
                outgoing::message(us, worker, actor, answer_to.as_deref(), payload)
            }
            Outgoing::Answer { recipient, payload } => outgoing::answer(us, recipient, payload),
        }
    }
}

/// What a handshake made of an association.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Greeted {
    /// It is who we knew.
    Known,
    /// The first process that we know there.
    First,
    /// Another process than before.
    Restarted,
    /// A process that is gone; its handshake is late.
    Stale,
}

impl Association {
    pub(super) fn new(worker: Address, us: UniqueAddress, limits: Limits) -> Arc<Self> {
        Arc::new(Association {
            worker,
            limits,
            state: Mutex::new(State {
                us,
                other: None,
                peer: None,
                gone: VecDeque::new(),
                processes: 0,
                ip: None,
                era: 0,
                asked: false,
                met: None,
                greet: false,
                answer: false,
                acks: VecDeque::new(),
                queue: VecDeque::new(),
                queued: 0,
                used: Instant::now(),
                renewed: None,
                is_connected: false,
                is_over: false,
            }),
            work: Notify::new(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The worker said who it is. If it was not asked, it said by which address it knows us, and is answered.
    pub(super) fn greeted(&self, uid: u64, us: Option<&Address>, ip: IpAddr) -> Greeted {
        let mut state = self.state();
        if state.gone.contains(&uid) {
            return Greeted::Stale;
        }
        state.used = Instant::now();
        state.ip = Some(ip);
        let is_us = us.is_some_and(|us| us.system() == state.us.address.system());
        match us {
            Some(us) if !is_us => state.is_also(us),
            Some(us) if *us != state.us.address => {
                // Under another address we are somebody else, with another number.
                state.us = fresh(us.clone());
                state.begin_anew();
            }
            _ => {}
        }
        // Nothing in an answer says which question it is of. Its process says nothing more once our connection to it has
        // ended, or what it said is read within milliseconds, and the next one takes longer to be there.
        let answers = us.is_none() && state.asked && state.met.is_none();
        let greeted = match state.peer.replace(uid) {
            Some(same) if same == uid => Greeted::Known,
            None => Greeted::First,
            Some(before) => {
                // The connection leads to a process that is gone, even if nothing says so yet; or it is how we know.
                if !answers {
                    state.begin_anew();
                }
                if state.gone.len() == GONE {
                    state.gone.pop_front();
                }
                state.gone.push_back(before);
                Greeted::Restarted
            }
        };
        if answers {
            state.met = Some(uid);
        }
        state.processes += u64::from(greeted != Greeted::Known);
        state.answer |= is_us;
        drop(state);
        self.work.notify_one();
        greeted
    }

    /// The worker will hear nothing from that number any more: from now on we have another.
    pub(super) fn quarantined(&self, uid: u64) {
        let mut state = self.state();
        let is_soon = state.renewed.is_some_and(|at| at.elapsed() < HANDSHAKE_AGAIN);
        if is_soon {
            return;
        }
        if let Some(other) = state.other.as_mut().filter(|other| other.us.uid == uid) {
            *other = Other { us: fresh(other.us.address.clone()), greet: true, answer: false };
            state.renewed = Some(Instant::now());
            drop(state);
            return self.work.notify_one();
        }
        if state.us.uid != uid {
            return;
        }
        let address = state.us.address.clone();
        state.us = fresh(address);
        state.renewed = Some(Instant::now());
        state.begin_anew();
        state.greet = true;
        drop(state);
        self.work.notify_one();
    }

    /// The worker stops and wants to hear that we know.
    pub(super) fn acknowledge(&self, recipient: &str) {
        let mut state = self.state();
        if state.acks.len() < ACKS {
            state.acks.push_back(recipient.to_owned());
        }
        drop(state);
        self.work.notify_one();
    }

    /// Something came from the worker.
    pub(super) fn heard(&self) {
        self.state().used = Instant::now();
    }

    /// It was forgotten, or everything is closed.
    pub(super) fn is_over(&self) -> bool {
        self.state().is_over
    }

    pub(super) fn is_connected(&self) -> bool {
        self.state().is_connected
    }

    /// Queues a message, for that process and no other if there is one; the receiver hears what became of it.
    pub(super) fn send(
        &self,
        what: Outgoing,
        process: Option<u64>,
    ) -> Result<oneshot::Receiver<Result<(), SendError>>, SendError> {
        let (done, heard) = oneshot::channel();
        let size = what.payload().len();
        // Room for the head, whose literals are addresses.
        if size + 2048 > self.limits.frame {
            return Err(SendError::TooLong);
        }
        let mut state = self.state();
        if state.is_over {
            return Err(closed());
        }
        if state.queue.len() >= self.limits.queue || state.queued + size > self.limits.queue_bytes {
            return Err(SendError::Full);
        }
        if process.is_some_and(|process| state.gone.contains(&process)) {
            return Err(SendError::Replaced);
        }
        // Somebody else heard of a process that we do not know: whom we are connected to may be gone.
        if process.is_some() && state.met.is_some() && state.met != process {
            state.begin_anew();
        }
        state.queued += size;
        state.used = Instant::now();
        state.queue.push_back(Waiting { what, process, since: Instant::now(), done });
        drop(state);
        self.work.notify_one();
        Ok(heard)
    }

    /// Says what there is to say, until nobody said anything for [`Limits::idle`] or it is stopped.
    pub(super) async fn run(self: Arc<Self>, gate: Arc<dyn Gate>, counters: Arc<Counters>, stop: CancellationToken) {
        let work = async {
            let mut dialler = Dialler { association: &self, gate: &*gate, counters: &counters, failed: None };
            let mut connection = None;
            loop {
                if !self.wait(&mut connection).await {
                    break;
                }
                dialler.say(&mut connection).await;
                self.state().is_connected = connection.is_some();
            }
        };
        tokio::select! {
            () = work => {}
            () = stop.cancelled() => {}
        }
        {
            let mut state = self.state();
            (state.is_over, state.is_connected) = (true, false);
        }
        self.fail(&closed());
    }

    /// Until there is something to say; false when there will be nothing. A connection that ends meanwhile is dropped.
    async fn wait(&self, connection: &mut Option<Connection>) -> bool {
        loop {
            let wake = {
                let mut state = self.state();
                if connection.as_ref().is_some_and(|connection| connection.era != state.era) {
                    *connection = None;
                    state.is_connected = false;
                }
                if state.has_work(connection.is_some()) {
                    return true;
                }
                match (&connection, state.queue.front()) {
                    (Some(open), Some(next)) => open.ask_again().min(next.gives_up(open, self.limits)),
                    _ => state.used + self.limits.idle,
                }
            };
            let ended = async {
                match connection {
                    Some(connection) => connection.ended().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.work.notified() => {}
                () = ended => {
                    *connection = None;
                    self.state().is_connected = false;
                }
                () = tokio::time::sleep_until(wake) => {
                    let mut state = self.state();
                    match (&connection, state.queue.front()) {
                        (Some(open), Some(next)) if Instant::now() < next.gives_up(open, self.limits) => {
                            // Answers get lost where the worker connects to us again.
                            state.greet = true;
                        }
                        (Some(_), Some(_)) => {
                            (*connection, state.is_connected) = (None, false);
                            drop(state);
                            self.fail(&SendError::NotSent("it does not say who it is".to_owned()));
                        }
                        _ if state.used.elapsed() >= self.limits.idle && !state.has_work(connection.is_some()) => {
                            return false;
                        }
                        _ => {}
                    }
                }
            }
        }
    }

    /// Everybody who waits hears that it did not go out.
    fn fail(&self, error: &SendError) {
        let waiting = {
            let mut state = self.state();
            (state.answer, state.greet) = (false, false);
            if let Some(other) = &mut state.other {
                (other.answer, other.greet) = (false, false);
            }
            state.acks.clear();
            state.queued = 0;
            std::mem::take(&mut state.queue)
        };
        for Waiting { done, .. } in waiting {
            let _ = done.send(Err(error.clone()));
        }
    }
}

impl State {
    /// Whether there is something to say now. What is for one process waits until it is known who is there.
    fn has_work(&self, is_connected: bool) -> bool {
        let is_ready = |next: &Waiting| !is_connected || next.process.is_none() || self.met.is_some();
        let is_asked = self.other.as_ref().is_some_and(|other| other.greet || other.answer);
        self.greet || self.answer || is_asked || !self.acks.is_empty() || self.queue.front().is_some_and(is_ready)
    }

    /// The worker dialled us by another name.
    fn is_also(&mut self, us: &Address) {
        match &mut self.other {
            Some(other) if other.us.address == *us => other.answer = true,
            other => *other = Some(Other { us: fresh(us.clone()), greet: false, answer: true }),
        }
    }

    /// The connection is of no use any more.
    fn begin_anew(&mut self) {
        self.era += 1;
        (self.asked, self.met) = (false, None);
    }
}

pub(super) fn closed() -> SendError {
    SendError::NotSent("the connection was closed here".to_owned())
}

pub(super) fn fresh(address: Address) -> UniqueAddress {
    UniqueAddress { address, uid: rand::random_range(1..=u64::MAX) }
}

/// A connection that we made.
struct Connection {
    write: OwnedWriteHalf,
    read: OwnedReadHalf,
    era: u64,
    since: Instant,
    /// When we last said who we are.
    greeted: Option<Instant>,
}

impl Connection {
    /// Nothing is ever to be read but the end; who sends all the same is not listened to.
    async fn ended(&mut self) {
        let mut nothing = [0; 256];
        while matches!(self.read.read(&mut nothing).await, Ok(1..)) {}
    }

    /// When who does not answer is greeted again.
    fn ask_again(&self) -> Instant {
        self.greeted.unwrap_or(self.since) + HANDSHAKE_AGAIN
    }
}

/// Writes for one association.
struct Dialler<'a> {
    association: &'a Association,
    gate: &'a dyn Gate,
    counters: &'a Counters,
    /// Since when it fails and how long it is let alone, and why.
    failed: Option<Failure>,
}

struct Failure {
    until: Instant,
    pause: Duration,
    why: String,
    /// A new process may be reached where none was.
    processes: u64,
}

/// What one write has.
struct Batch {
    bytes: Vec<u8>,
    greets: bool,
    waiting: Vec<oneshot::Sender<Result<(), SendError>>>,
}

impl Dialler<'_> {
    /// Writes one batch, over a new connection if there is none.
    async fn say(&mut self, connection: &mut Option<Connection>) {
        if connection.is_none() {
            match self.connect().await {
                Ok(made) => {
                    self.failed = None;
                    *connection = Some(made);
                }
                Err(why) => {
                    tracing::debug!(worker = %self.association.worker, %why, "a PowerJob worker is not reached");
                    return self.association.fail(&SendError::NotSent(why));
                }
            }
        }
        let Some(open) = connection else { return };
        let Some(batch) = self.batch(open) else { return };
        let limits = self.association.limits;
        let written = async {
            tokio::select! {
                written = timeout(limits.write, open.write.write_all(&batch.bytes)) => match written {
                    Ok(Ok(())) => Ok(()),
                    Ok(Err(error)) => Err(error.to_string()),
                    Err(_) => Err("it takes nothing".to_owned()),
                },
                () = self.superseded(open.era) => Err("the worker was started anew".to_owned()),
            }
        };
        match written.await {
            Ok(()) => {
                if batch.greets {
                    open.greeted = Some(Instant::now());
                }
                self.counters.add_sent(batch.waiting.len());
                for done in batch.waiting {
                    let _ = done.send(Ok(()));
                }
            }
            Err(why) => {
                *connection = None;
                for done in batch.waiting {
                    let _ = done.send(Err(SendError::Unsure(why.clone())));
                }
            }
        }
    }

    /// What waits, as bytes; `None` when the connection is of no use for it.
    fn batch(&self, open: &Connection) -> Option<Batch> {
        let Association { worker, limits, .. } = self.association;
        let mut state = self.association.state();
        if state.era != open.era {
            return None;
        }
        let mut batch = Batch { bytes: Vec::new(), greets: false, waiting: Vec::new() };
        let us = state.us.clone();
        if open.greeted.is_none() {
            batch.bytes.extend_from_slice(&outgoing::PREAMBLE);
        }
        let is_due = open.greeted.is_none_or(|at| at.elapsed() >= HANDSHAKE_AGAIN);
        if is_due || std::mem::take(&mut state.greet) {
            state.greet = false;
            state.asked = true;
            batch.greets = true;
            batch.bytes.extend(outgoing::handshake(&us, worker));
        }
        if std::mem::take(&mut state.answer) {
            batch.bytes.extend(outgoing::handshake_answer(&us));
        }
        if let Some(Other { us, greet, answer }) = &mut state.other {
            if std::mem::take(greet) {
                batch.bytes.extend(outgoing::handshake(us, worker));
            }
            if std::mem::take(answer) {
                batch.bytes.extend(outgoing::handshake_answer(us));
            }
        }
        for recipient in std::mem::take(&mut state.acks) {
            batch.bytes.extend(outgoing::terminating_ack(&us, &recipient));
        }
        while batch.waiting.len() < BATCH && batch.bytes.len() < limits.frame {
            if state.met.is_none() && state.queue.front().is_some_and(|next| next.process.is_some()) {
                break;
            }
            let Some(Waiting { what, process, done, .. }) = state.queue.pop_front() else { break };
            state.queued -= what.payload().len();
            // Who asked may have gone.
            if done.is_closed() {
                continue;
            }
            if process.is_some() && process != state.met {
                let _ = done.send(Err(SendError::Replaced));
                continue;
            }
            match what.frame(&us, worker) {
                Some(frame) => {
                    batch.bytes.extend(frame);
                    batch.waiting.push(done);
                }
                None => drop(done.send(Err(SendError::TooLong))),
            }
        }
        Some(batch)
    }

    /// Resolves when the connection of that era has become useless.
    async fn superseded(&self, era: u64) {
        loop {
            if self.association.state().era != era {
                return;
            }
            self.association.work.notified().await;
        }
    }

    async fn connect(&mut self) -> Result<Connection, String> {
        let (era, processes, ip) = {
            let state = self.association.state();
            (state.era, state.processes, state.ip)
        };
        let limits = self.association.limits;
        let failed = self.failed.take().filter(|failed| failed.processes == processes);
        if let Some(failure) = failed.as_ref().filter(|failure| Instant::now() < failure.until) {
            let why = failure.why.clone();
            self.failed = failed;
            return Err(why);
        }
        let dial = async {
            let target = self.gate.target(&self.association.worker, ip).await?;
            let stream = TcpStream::connect(target).await.map_err(|error| error.to_string())?;
            prepare(&stream, limits.write).map_err(|error| error.to_string())?;
            Ok(stream)
        };
        let dialled = match timeout(limits.connect, dial).await {
            Ok(dialled) => dialled,
            Err(_) => Err("it does not accept the connection".to_owned()),
        };
        match dialled {
            Ok(stream) => {
                self.counters.add_dialled();
                let (read, write) = stream.into_split();
                let mut state = self.association.state();
                (state.asked, state.met) = (false, None);
                Ok(Connection { write, read, era, since: Instant::now(), greeted: None })
            }
            Err(why) => {
                let pause = failed.map_or(limits.backoff, |failure| (failure.pause * 2).min(limits.backoff_max));
                self.failed =
                    Some(Failure { until: Instant::now() + pause, pause, why: String::clone(&why), processes });
                Err(why)
            }
        }
    }
}

fn prepare(stream: &TcpStream, silence: Duration) -> io::Result<()> {
    stream.set_nodelay(true)?;
    quiet_peers_are_noticed(stream, Some(silence))
}
