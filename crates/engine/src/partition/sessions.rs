//! Workers that come, speak and go.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use pendula_model::instance::InstanceState;
use pendula_model::worker::{HostMetrics, WorkerRef};
use pendula_model::{AppId, AttemptKey, SessionId, TaskKey, Timestamp};

use super::Partition;
use super::state::{Away, Session, Timer};
use crate::Output;
use crate::effect::{Effect, Observation};
use crate::input::{WorkerHello, WorkerStatus};

/// A message that should have arrived long ago is sent again; connections keep order, so this is for the odd one.
const RESEND_AFTER: Duration = Duration::from_secs(5);

/// What is known of an attempt that a worker has.
struct Held {
    attempt: u32,
    standing: InstanceState,
    session: Option<SessionId>,
    /// The number of its dispatch message, and when that or the latest stop message was sent.
    sequence: u64,
    sent_at: Timestamp,
}

impl Partition {
    /// A worker says what it has in hand; what we gave it is compared with that.
    pub(super) fn on_worker_connected(&mut self, hello: WorkerHello, out: &mut Output) {
        let WorkerHello { session: id, app, info, running, finished } = hello;
        if !self.apps.contains_key(&app) {
            out.effects.push(Effect::Close { session: id, why: "there is no such app" });
            return;
        }
        let worker = info.worker.clone();
        let twin = self.sessions.values().find(|s| s.app == app && s.info.worker == worker).map(|s| s.id);
        if let Some(old) = twin {
            // The same process dialled again; we have not noticed yet that the old connection is dead.
            self.on_worker_disconnected(old, out);
            out.effects.push(Effect::Close { session: old, why: "the worker opened a newer session" });
        }
        // Only of this very process: one of the same name may be its successor or its neighbour, and we never guess.
        let Away { held: ours, bound, .. } = self.remove_away(app, worker.clone());
        // But who held nothing is of no interest any more once its name is back.
        let gone = |((owner, other), away): (&(AppId, WorkerRef), &Away)| {
            *owner == app && other.name == worker.name && away.held.is_empty() && away.bound.is_empty()
        };
        let successors: Vec<_> = self.away.iter().filter(|entry| gone(*entry)).map(|(key, _)| key.1.clone()).collect();
        for predecessor in successors {
            self.remove_away(app, predecessor);
        }

        self.sessions.insert(
            id,
            Session {
                id,
                app,
                info,
                connected_at: self.now,
                last_heard: self.now,
                draining: false,
                held: BTreeSet::new(),
                bound: BTreeSet::new(),
                sequence: 0,
                eligible: Default::default(),
            },
        );
        let attempts =
            |keys: &[AttemptKey]| keys.iter().map(|key| (key.key(), key.attempt)).collect::<BTreeMap<_, _>>();
        let announced = running.iter().chain(&finished);
        let is_mine = |attempt: &AttemptKey| {
            ours.contains(&attempt.key())
                && self.held(attempt.key()).is_some_and(|held| held.attempt == attempt.attempt)
        };
        let abort = announced.filter(|attempt| !is_mine(attempt)).copied().collect();
        let (running, finished) = (attempts(&running), attempts(&finished));
        out.effects.push(Effect::Welcome { session: id, abort });
        self.observe(Observation::WorkerConnected { worker: worker.to_string() }, out);

        for key in ours {
            let Some(held) = self.held(key) else { continue };
            // Dispatches are counted anew in each session; this one's was before the first.
            self.attach(key, id);
            self.sessions.get_mut(&id).expect("just inserted").held.insert(key);
            if running.get(&key) == Some(&held.attempt) {
                match held.standing {
                    InstanceState::Stopping => self.stop_held(key, out),
                    _ => self.held_started(key, self.now),
                }
            } else if finished.get(&key) != Some(&held.attempt) {
                match held.standing {
                    // Committed, but the message never arrived: this very process says so. The same attempt again.
                    InstanceState::Dispatched => self.dispatch_held(key, out),
                    InstanceState::Stopping => self.settle_held_stop(key, out),
                    _ => self.lose_held(key, "the worker came back and does not know the attempt", out),
                }
            }
            // What it finished is reported next.
        }
        bound.into_iter().for_each(|key| self.ready_task(key));
        self.join_broadcasts(app, id);
        self.pumpable.insert(app);
    }

    pub(super) fn on_worker_disconnected(&mut self, id: SessionId, out: &mut Output) {
        let Some(session) = self.sessions.remove(&id) else { return };
        let Session { app, info, held, bound, connected_at, last_heard, draining, .. } = session;
        let worker = info.worker.clone();
        self.observe(Observation::WorkerLost { worker: worker.to_string(), attempts: held.len() }, out);
        if held.is_empty() && bound.is_empty() && draining {
            return;
        }
        for key in &held {
            self.detach(*key);
        }
        let deadline = self.now.plus(self.settings.lost_after);
        self.timers.insert((deadline, Timer::Away(app, worker.clone())));
        let last = Some((info, connected_at, last_heard));
        self.away.insert((app, worker), Away { held, bound, deadline, last, draining });
    }

    pub(super) fn on_away_too_long(&mut self, app: AppId, worker: WorkerRef, out: &mut Output) {
        let Away { held, bound, .. } = self.remove_away(app, worker);
        for key in held.into_iter().chain(bound) {
            self.lose_held(key, "the worker vanished", out);
        }
    }

    fn remove_away(&mut self, app: AppId, worker: WorkerRef) -> Away {
        let key = (app, worker);
        let Some(away) = self.away.remove(&key) else { return Away::default() };
        let (app, worker) = key;
        self.timers.remove(&(away.deadline, Timer::Away(app, worker)));
        away
    }

    /// A heartbeat names everything that the worker holds; differences mean that a message was lost on the way.
    pub(super) fn on_worker_alive(
        &mut self,
        id: SessionId,
        dispatches_seen: u64,
        held: &[AttemptKey],
        metrics: Option<HostMetrics>,
        out: &mut Output,
    ) {
        let now = self.now;
        let Some(session) = self.sessions.get_mut(&id) else { return };
        session.last_heard = now;
        if let Some(metrics) = metrics {
            session.info.metrics = metrics;
            // What it has free may be enough now.
            self.pumpable.insert(session.app);
        }
        let there: BTreeMap<TaskKey, u32> = held.iter().map(|attempt| (attempt.key(), attempt.attempt)).collect();
        let here = session.held.clone();
        for key in here {
            let Some(held) = self.held(key) else { continue };
            let overdue = now.since(held.sent_at) > RESEND_AFTER;
            if there.get(&key) == Some(&held.attempt) {
                if held.standing == InstanceState::Stopping && overdue {
                    self.stop_held(key, out);
                }
                continue;
            }
            // Only a heartbeat that was written after the dispatch arrived can tell that it is gone.
            let gone = dispatches_seen >= held.sequence;
            match held.standing {
                InstanceState::Dispatched if gone || overdue => self.dispatch_held(key, out),
                InstanceState::Stopping if gone => self.settle_held_stop(key, out),
                InstanceState::Running if gone => {
                    self.lose_held(key, "the worker does not know the attempt any more", out);
                }
                _ => {}
            }
        }
        for attempt in held.iter().copied() {
            if !self.is_with(attempt, id) {
                let grace = Duration::ZERO;
                out.effects.push(Effect::Stop { session: id, attempt, grace, abandon: true });
            }
        }
    }

    // --- what a worker holds, whichever kind it is -----------------------------------------------------------------

    /// What is known of the attempt at a task that a worker has.
    fn held(&self, key: TaskKey) -> Option<Held> {
        let active = self.instances.get(&key.instance)?;
        if active.spread.is_some() {
            let task = self.live_task(key)?;
            return Some(Held {
                attempt: task.row.attempt,
                standing: task.standing(active.row.state),
                session: task.session,
                sequence: task.sequence,
                sent_at: task.sent_at,
            });
        }
        (key == TaskKey::root(key.instance)).then_some(Held {
            attempt: active.row.attempt,
            standing: active.row.state,
            session: active.session,
            sequence: active.sequence,
            sent_at: active.sent_at,
        })
    }

    /// Whether an attempt is the current one, and with this session.
    pub(super) fn is_with(&self, attempt: AttemptKey, session: SessionId) -> bool {
        let held = self.held(attempt.key());
        held.is_some_and(|held| held.session == Some(session) && held.attempt == attempt.attempt)
    }

    pub(super) fn has_spread(&self, key: TaskKey) -> bool {
        self.instances.get(&key.instance).is_some_and(|active| active.spread.is_some())
    }

    fn set_session(&mut self, key: TaskKey, session: Option<SessionId>) {
        let Some(active) = self.instances.get_mut(&key.instance) else { return };
        match &mut active.spread {
            None => active.session = session,
            Some(spread) => {
                if let Some(task) = spread.live.get_mut(&key.task) {
                    task.session = session;
                }
            }
        }
    }

    fn attach(&mut self, key: TaskKey, session: SessionId) {
        self.set_session(key, Some(session));
        let Some(active) = self.instances.get_mut(&key.instance) else { return };
        match active.spread.as_mut().map(|spread| spread.live.get_mut(&key.task)) {
            None => active.sequence = 0,
            Some(Some(task)) => task.sequence = 0,
            Some(None) => {}
        }
    }

    fn detach(&mut self, key: TaskKey) {
        self.set_session(key, None);
    }

    pub(super) fn held_started(&mut self, key: TaskKey, at: Timestamp) {
        if self.has_spread(key) { self.task_started(key, at) } else { self.on_started(key.instance, at) }
    }

    fn dispatch_held(&mut self, key: TaskKey, out: &mut Output) {
        if self.has_spread(key) { self.send_task(key, out) } else { self.send_dispatch(key.instance, out) }
    }

    fn stop_held(&mut self, key: TaskKey, out: &mut Output) {
        if self.has_spread(key) { self.send_task_stop(key, out) } else { self.send_stop(key.instance, out) }
    }

    fn settle_held_stop(&mut self, key: TaskKey, out: &mut Output) {
        if self.has_spread(key) {
            self.settle_task_stop(key, true, out);
        } else {
            self.settle_stop(key.instance, true, out);
        }
    }

    fn lose_held(&mut self, key: TaskKey, message: &str, out: &mut Output) {
        if self.has_spread(key) { self.lose_task(key, message, out) } else { self.lose(key.instance, message, out) }
    }

    pub(super) fn on_worker_draining(&mut self, id: SessionId) {
        if let Some(session) = self.sessions.get_mut(&id) {
            session.draining = true;
            session.last_heard = self.now;
        }
    }

    pub(super) fn worker_list(&self, app: AppId) -> Vec<WorkerStatus> {
        let live = self.sessions.values().filter(|session| session.app == app).map(|session| WorkerStatus {
            session: session.id,
            info: session.info.clone(),
            running: session.held.len() as u32,
            draining: session.draining,
            connected_at: session.connected_at,
            last_heard: session.last_heard,
            connected: true,
        });
        let with_work = self.away.iter().filter(|((owner, _), away)| *owner == app && !away.held.is_empty());
        let away = with_work.filter_map(|(_, away)| {
            let (info, connected_at, last_heard) = away.last.clone()?;
            Some(WorkerStatus {
                session: SessionId(0),
                info,
                running: away.held.len() as u32,
                draining: false,
                connected_at,
                last_heard,
                connected: false,
            })
        });
        live.chain(away).collect()
    }
}
