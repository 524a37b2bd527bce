//! Every decision of a worker about attempts: which to run, to stop, to report, to forget. Pure: time comes in as an
//! argument, and what is to be done goes out as [`Action`]s and reports.
//!
//! ```text
//!            ┌─ an older attempt still runs ─► Waiting ─┐ it is gone
//! dispatch ──┼──────────────────────────────────────────┴► Running ──► Finished ──ack──► recent ──► forgotten
//!            └─ no slot, unknown, draining ────────────────────────────►  ▲
//!                                         Running ── abandoned ──► dying ──► (nothing is reported)
//! ```

mod conclusion;
mod outbox;
mod stopping;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use pendula_model::{AttemptKey, InstanceId, TaskId, TaskKey, limits};
use pendula_wire::v1;

use crate::event::Returned;
use crate::worker::{Summary, Timing};

pub(crate) use conclusion::{refused, unrunnable};
use outbox::Outgoing;
use stopping::{Cause, Force, Stopping};

/// Attempts that ended and were acknowledged are remembered up to this many, so that a repeated dispatch is noticed.
const RECENT: usize = 100_000;
/// Ends that wait for their acknowledgement; beyond, new work is refused.
const UNACKED: usize = 200_000;
/// Bytes of results and messages that wait for their acknowledgement; beyond, new work is refused.
const UNACKED_BYTES: usize = 256 * 1024 * 1024;

/// The attempt that a checked message names.
pub(crate) fn key_of(held: &v1::Held) -> AttemptKey {
    AttemptKey { instance: InstanceId(held.instance), task: TaskId(held.task), attempt: held.attempt }
}

/// All attempts at one task. Of them a worker deals with the newest only.
fn attempts_at(key: TaskKey) -> RangeInclusive<AttemptKey> {
    AttemptKey::new(key, 0)..=AttemptKey::new(key, u32::MAX)
}

/// What the loop has to do with a handler's future.
#[derive(Debug, PartialEq)]
pub(crate) enum Action {
    Start(Box<v1::Dispatch>),
    /// Ask it to stop.
    Cancel(AttemptKey),
    /// Tell it that its grace is over.
    Kill(AttemptKey),
    /// Drop it where it stands.
    Drop(AttemptKey),
}

/// Why a dispatch is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rejection {
    NoSlot,
    Draining,
    TooManyUnacked,
}

#[derive(Debug)]
struct Entry {
    attempt: u32,
    phase: Phase,
}

#[derive(Debug)]
enum Phase {
    Waiting(Box<v1::Dispatch>),
    Running(Run),
    Finished(Finished),
}

#[derive(Debug)]
struct Run {
    since: Instant,
    timeout: Option<Duration>,
    grace: Duration,
    /// Bytes that the result may have.
    result_bytes: usize,
    stop: Option<Stopping>,
}

#[derive(Debug)]
struct Finished {
    ended: v1::Ended,
    at: Instant,
    /// Whether the session may hear of it: its log is on the way.
    released: bool,
    /// Whether it stands in the outbox.
    queued: bool,
}

impl Finished {
    fn bytes(&self) -> usize {
        self.ended.result.len() + self.ended.message.len()
    }
}

/// All attempts that this process knows of.
#[derive(Debug)]
pub(crate) struct Ledger {
    slots: usize,
    timing: Timing,
    entries: HashMap<TaskKey, Entry>,
    /// Abandoned attempts whose futures are not gone yet. They still use their slots.
    dying: BTreeMap<AttemptKey, Force>,
    running: usize,
    unacked: usize,
    unacked_bytes: usize,
    recent: HashMap<TaskKey, u32>,
    recent_order: VecDeque<AttemptKey>,
    /// Running attempts in the order of their starts, until they are old enough to be reported as started.
    young: VecDeque<(Instant, AttemptKey)>,
    /// Attempts that are being stopped.
    stopping: Vec<AttemptKey>,
    outbox: VecDeque<Outgoing>,
    /// Ends that were sent, in that order, until they are acknowledged or due to be sent again.
    sent: VecDeque<(Instant, AttemptKey)>,
    actions: Vec<Action>,
    dispatches_seen: u64,
    connected: bool,
    draining: bool,
    pub(crate) summary: Summary,
}

impl Ledger {
    pub(crate) fn new(slots: u32, timing: Timing) -> Self {
        Ledger {
            slots: slots as usize,
            timing,
            entries: HashMap::new(),
            dying: BTreeMap::new(),
            running: 0,
            unacked: 0,
            unacked_bytes: 0,
            recent: HashMap::new(),
            recent_order: VecDeque::new(),
            young: VecDeque::new(),
            stopping: Vec::new(),
            outbox: VecDeque::new(),
            sent: VecDeque::new(),
            actions: Vec::new(),
            dispatches_seen: 0,
            connected: false,
            draining: false,
            summary: Summary::default(),
        }
    }

    // The server's words.

    /// The server sends work. `refusal` is why the worker cannot run it whatever its state, if it cannot.
    pub(crate) fn dispatched(&mut self, now: Instant, dispatch: v1::Dispatch, refusal: Option<v1::Ended>) {
        self.dispatches_seen = self.dispatches_seen.max(dispatch.sequence);
        let Some(held) = dispatch.task else { return };
        let at = key_of(&held);
        let key = at.key();
        match self.newest(key) {
            Some(newest) if newest > at.attempt => return,
            Some(newest) if newest == at.attempt => return self.queue_again(at),
            _ => {}
        }
        // A newer attempt: the server gave up the one before.
        self.abandon_newest(now, key);
        if let Some(refused) = refusal {
            return self.finish_unstarted(now, at, refused);
        }
        let waits = self.dying.range(attempts_at(key)).next().is_some();
        if let Some(rejection) = self.rejection(waits) {
            return self.finish_unstarted(now, at, conclusion::rejected(rejection));
        }
        let dispatch = Box::new(dispatch);
        if waits {
            self.entries.insert(key, Entry { attempt: at.attempt, phase: Phase::Waiting(dispatch) });
        } else {
            self.start(now, at, dispatch);
        }
    }

    /// The server wants an attempt to end within `grace`; `abandon` means that it is not ours any more.
    pub(crate) fn stopped(&mut self, now: Instant, held: &v1::Held, grace: Duration, abandon: bool) {
        let at = key_of(held);
        if !self.holds(at) {
            return;
        }
        if abandon {
            self.abandon_newest(now, at.key());
        } else {
            self.stop(now, at, Cause::Server, grace);
        }
    }

    /// The server has these ends on disk.
    pub(crate) fn acknowledged(&mut self, tasks: &[v1::Held]) {
        for held in tasks {
            let at = key_of(held);
            if let Some(Entry { attempt, phase: Phase::Finished(_) }) = self.entries.get(&at.key())
                && *attempt == at.attempt
            {
                self.forget(at.key());
            }
        }
    }

    /// A session began. Ends that were reported before may not have arrived: see [`Ledger::finished`]
    /// and [`Ledger::release`].
    pub(crate) fn welcomed(&mut self, now: Instant, abort: &[v1::Held]) {
        self.connected = true;
        self.dispatches_seen = 0;
        for held in abort {
            self.stopped(now, held, Duration::ZERO, true);
        }
    }

    /// The session is over. What it said and did not say yet is void.
    pub(crate) fn disconnected(&mut self) {
        self.connected = false;
        self.sent.clear();
        self.outbox.clear();
        for entry in self.entries.values_mut() {
            if let Phase::Finished(finished) = &mut entry.phase {
                (finished.released, finished.queued) = (false, false);
            }
        }
    }

    // The handlers' words.

    /// A handler's future is gone. Returns whether its end is to be reported, which [`Ledger::release`] does once the
    /// log is on its way.
    pub(crate) fn ended(&mut self, now: Instant, held: &v1::Held, how: Returned) -> bool {
        let at = key_of(held);
        if self.dying.remove(&at).is_some() {
            self.remember(at);
            self.start_waiting(now, at.key());
            return false;
        }
        let Some(entry) = self.entries.get_mut(&at.key()) else { return false };
        let Phase::Running(run) = &entry.phase else { return false };
        if entry.attempt != at.attempt {
            return false;
        }
        let ended = conclusion::conclude(run, now.duration_since(run.since), how);
        self.running -= 1;
        self.finish(now, at, ended);
        true
    }

    // The loop's wishes.

    /// Time passed.
    pub(crate) fn tick(&mut self, now: Instant) {
        self.report_started(now);
        if !self.connected {
            self.enforce_timeouts(now);
        }
        self.advance_stops(now);
        while let Some((sent_at, at)) = self.sent.front()
            && now.duration_since(*sent_at) >= self.timing.report_again
        {
            let at = *at;
            self.sent.pop_front();
            self.queue_again(at);
        }
    }

    /// Refuses everything new from here on.
    pub(crate) fn drain(&mut self) {
        self.draining = true;
    }

    /// What is to be done now, in order.
    pub(crate) fn take_actions(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.actions)
    }

    // Questions.

    /// Attempts that run or are about to.
    pub(crate) fn running(&self) -> Vec<v1::Held> {
        self.held_where(|phase| !matches!(phase, Phase::Finished(_)))
    }

    /// Attempts that ended and were not acknowledged.
    pub(crate) fn finished(&self) -> Vec<v1::Held> {
        self.held_where(|phase| matches!(phase, Phase::Finished(_)))
    }

    /// All that the worker answers for.
    pub(crate) fn held(&self) -> Vec<v1::Held> {
        self.held_where(|_| true)
    }

    /// Whether this attempt is ours: it runs, or its end waits for an acknowledgement.
    pub(crate) fn holds(&self, at: AttemptKey) -> bool {
        self.entries.get(&at.key()).is_some_and(|entry| entry.attempt == at.attempt)
    }

    pub(crate) fn dispatches_seen(&self) -> u64 {
        self.dispatches_seen
    }

    /// Futures that are not gone yet, abandoned ones included.
    pub(crate) fn occupied(&self) -> usize {
        self.running + self.dying.len()
    }

    pub(crate) fn unacknowledged(&self) -> usize {
        self.unacked
    }

    /// Whether [`Ledger::tick`] has something to watch.
    pub(crate) fn needs_ticks(&self) -> bool {
        !self.young.is_empty()
            || !self.stopping.is_empty()
            || !self.dying.is_empty()
            || !self.sent.is_empty()
            || (!self.connected && self.running > 0)
    }

    // Steps.

    /// The newest attempt at a task that we know of, in whatever state.
    fn newest(&self, key: TaskKey) -> Option<u32> {
        let entry = self.entries.get(&key).map(|entry| entry.attempt);
        let dying = self.dying.range(attempts_at(key)).next_back().map(|(at, _)| at.attempt);
        entry.max(self.recent.get(&key).copied()).max(dying)
    }

    fn rejection(&self, waits: bool) -> Option<Rejection> {
        if self.draining {
            Some(Rejection::Draining)
        } else if self.unacked >= UNACKED || self.unacked_bytes >= UNACKED_BYTES {
            Some(Rejection::TooManyUnacked)
        } else if !waits && self.occupied() >= self.slots {
            // One that waits takes over the slot of the one that it waits for.
            Some(Rejection::NoSlot)
        } else {
            None
        }
    }

    fn start(&mut self, now: Instant, at: AttemptKey, dispatch: Box<v1::Dispatch>) {
        let timeout = dispatch.timeout_millis;
        let is_whole = dispatch.role == i32::from(v1::TaskRole::Unspecified);
        let run = Run {
            since: now,
            timeout: (timeout > 0).then(|| Duration::from_millis(timeout)),
            grace: Duration::from_millis(dispatch.stop_grace_millis),
            result_bytes: if is_whole { limits::RESULT_BYTES } else { limits::TASK_RESULT_BYTES },
            stop: None,
        };
        self.entries.insert(at.key(), Entry { attempt: at.attempt, phase: Phase::Running(run) });
        self.running += 1;
        self.young.push_back((now, at));
        self.actions.push(Action::Start(dispatch));
    }

    fn start_waiting(&mut self, now: Instant, key: TaskKey) {
        let still_waits = self.dying.range(attempts_at(key)).next().is_some();
        if still_waits || !matches!(self.entries.get(&key), Some(Entry { phase: Phase::Waiting(_), .. })) {
            return;
        }
        if let Some(Entry { attempt, phase: Phase::Waiting(dispatch) }) = self.entries.remove(&key) {
            self.start(now, AttemptKey::new(key, attempt), dispatch);
        }
    }

    fn finish_unstarted(&mut self, now: Instant, at: AttemptKey, ended: v1::Ended) {
        self.finish(now, at, ended);
        self.release(&at.into());
    }

    fn finish(&mut self, now: Instant, at: AttemptKey, ended: v1::Ended) {
        conclusion::count(&mut self.summary, &ended);
        let finished = Finished { ended, at: now, released: false, queued: false };
        self.unacked += 1;
        self.unacked_bytes += finished.bytes();
        self.entries.insert(at.key(), Entry { attempt: at.attempt, phase: Phase::Finished(finished) });
    }

    /// Removes a finished entry.
    fn forget(&mut self, key: TaskKey) {
        if let Some(Entry { attempt, phase: Phase::Finished(finished) }) = self.entries.remove(&key) {
            self.unacked -= 1;
            self.unacked_bytes -= finished.bytes();
            self.remember(AttemptKey::new(key, attempt));
        }
    }

    fn remember(&mut self, at: AttemptKey) {
        let newest = self.recent.entry(at.key()).or_default();
        *newest = at.attempt.max(*newest);
        self.recent_order.push_back(at);
        if self.recent_order.len() > RECENT
            && let Some(oldest) = self.recent_order.pop_front()
            && self.recent.get(&oldest.key()) == Some(&oldest.attempt)
        {
            self.recent.remove(&oldest.key());
        }
    }

    fn runs(&self, at: AttemptKey) -> bool {
        let entry = self.entries.get(&at.key());
        matches!(entry, Some(Entry { attempt, phase: Phase::Running(_) }) if *attempt == at.attempt)
    }

    fn held_where(&self, wanted: impl Fn(&Phase) -> bool) -> Vec<v1::Held> {
        let entries = self.entries.iter().filter(|(_, entry)| wanted(&entry.phase));
        entries.map(|(key, entry)| AttemptKey::new(*key, entry.attempt).into()).collect()
    }
}
