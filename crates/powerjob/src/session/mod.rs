//! One worker's session: from its first heartbeat until it is silent for too long, or its app moves.
//!
//! PowerJob's protocol has no attempts, no acknowledgement of a dispatch or of a stop, and forgets what it could not
//! report. So the session looks for itself: it asks the worker whether it still tracks what it should. What the worker
//! knows nothing of, and did not report, is lost (law 5), and the job's delivery policy decides.
//!
//! It begins with what the store says that the worker has ([`placed`]), and then goes between the partition ([`errands`]), the
//! worker ([`heard`]) and its own looks ([`looking`]).

mod errands;
mod heard;
mod looking;
mod placed;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, StreamExt};
use pendula_engine::{Dispatch, Report, input::Outcome};
use pendula_model::worker::WorkerInfo;
use pendula_model::{AppId, AttemptKey, InstanceId};
use pendula_server::gateway::{Errands, Gateway, Link};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use self::placed::{Placed, placed};
use crate::dial::{CallError, Dialer, Tracked};
use crate::log_lines::LogLines;
use crate::mapped::{Call, Mapped, Next};
use crate::messages::WorkerHeartbeat;
use crate::translate;
use crate::version::Family;
use crate::way::{Speech, Way};
use crate::workers::{Timing, Told, Workers};

/// How long a session waits for its partition, after which the next heartbeat tries again.
const OWNED_WITHIN: Duration = Duration::from_secs(10);
/// Attempts that are asked about at once when a worker is taken over.
const ASKED_AT_ONCE: usize = 16;

/// What a session needs of its gateway.
#[derive(Clone)]
pub(crate) struct Surroundings {
    pub(crate) gateway: Gateway,
    pub(crate) dialer: Dialer,
    pub(crate) workers: Workers,
    pub(crate) log_lines: LogLines,
    pub(crate) timing: Timing,
    /// Where workers report to that this server calls.
    pub(crate) advertised: Arc<str>,
    /// The same for those who speak Akka.
    pub(crate) akka_advertised: Arc<str>,
}

impl Surroundings {
    /// Where a worker that speaks so reports on tasks that the server tracks, if this server calls it.
    pub(crate) fn reports_to(&self, speech: Speech) -> &str {
        match speech {
            Speech::Http => &self.advertised,
            Speech::Akka(_) => &self.akka_advertised,
        }
    }
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
    /// How often in a row it was not.
    missed: u32,
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
    /// The latest that was had here.
    key: Option<AttemptKey>,
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
    let (mut begins, mut is_anew) = (Some(Box::new(first)), false);
    while let Some(first) = begins.take() {
        if let Some(way) = &first.way {
            who.way = way.clone();
        }
        let info = translate::worker_info(&first);
        match open(&around, &who, &first, info, is_anew).await {
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
                (begins, is_anew) = (anew, true);
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

/// Learns what the worker has, and introduces it to its partition. `is_anew`: another process had its address until now.
async fn open(
    around: &Surroundings,
    who: &Identity,
    first: &WorkerHeartbeat,
    info: WorkerInfo,
    is_anew: bool,
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
    // What was just sent may be on its way to this very process: it is asked about again.
    let is_gone = |tracked: &Result<_, _>| matches!(tracked, Ok(Tracked::No)) && !is_anew;
    let (gone, there): (Vec<_>, Vec<_>) = asked.into_iter().partition(|(_, tracked)| is_gone(tracked));
    let keys = |rows: &[(Placed, _)]| rows.iter().map(|(row, _)| row.key).collect::<Vec<_>>();
    let (mut running, mut finished) = (keys(&there), keys(&gone));
    // Of its tasks nobody is asked, and who had them is gone.
    if is_anew { &mut finished } else { &mut running }.extend(mapped.iter().map(|placed| placed.key));
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
        missed: 0,
        is_gone: false,
        overloaded: first.overload,
        heard_at: now,
        sequence: 0,
        held: HashMap::new(),
        mapped: Mapped::default(),
        past: HashMap::new(),
        calls: JoinSet::new(),
    };
    let mut ends = Vec::new();
    for Placed { key, stopping, .. } in mapped {
        if is_anew {
            let outcome = if stopping { Outcome::Stopped } else { Outcome::Lost };
            ends.push(translate::ended_as(key, outcome, "another process has the worker's place"));
            continue;
        }
        around.workers.has_task(key, who.app, &who.address);
        session.mapped.adopt(key, stopping);
    }
    for (Placed { key, is_bound, stopping, .. }, tracked) in there {
        let unknown_since = matches!(tracked, Ok(Tracked::No)).then_some(now);
        let held = Held { started: true, stopping, is_bound, unknown_since, ..Held::of(key, now) };
        session.held.insert(key.instance, held);
    }
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

impl Past {
    fn new(at: Instant) -> Self {
        Past { at, key: None, tracker: None, stop_sent: None }
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
        let past = self.past.entry(instance).or_insert(Past::new(Instant::now()));
        (past.at, past.key) = (Instant::now(), Some(held.key));
        past.tracker = past.tracker.max(held.tracker);
        held.ended.unwrap_or_default()
    }
}

/// `Err` when the partition takes no more.
type Passed = Result<(), ()>;
