//! Workers that come, speak and go.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use pendula_model::instance::InstanceState;
use pendula_model::worker::{HostMetrics, WorkerRef};
use pendula_model::{AppId, InstanceId, SessionId};

use super::Partition;
use super::state::{Away, Session, Timer};
use crate::Output;
use crate::effect::{Effect, Observation};
use crate::input::{WorkerHello, WorkerStatus};

/// A message that should have arrived long ago is sent again; connections keep order, so this is for the odd one.
const RESEND_AFTER: Duration = Duration::from_secs(5);

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
        let ours = self.remove_away(app, worker.clone());

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
                sequence: 0,
                eligible: Default::default(),
            },
        );
        let running: BTreeMap<_, _> = running.into_iter().collect();
        let finished: BTreeMap<_, _> = finished.into_iter().collect();
        let mine = |id: &InstanceId, attempt: u32, this: &Partition| {
            ours.contains(id) && this.instances.get(id).is_some_and(|active| active.row.attempt == attempt)
        };
        let announced = running.iter().chain(&finished);
        let abort = announced.filter(|(id, attempt)| !mine(id, **attempt, self)).map(|(id, a)| (*id, *a)).collect();
        out.effects.push(Effect::Welcome { session: id, abort });
        self.observe(Observation::WorkerConnected { worker: worker.to_string() }, out);

        for instance in ours {
            let Some(active) = self.instances.get_mut(&instance) else { continue };
            let attempt = active.row.attempt;
            active.session = Some(id);
            // Dispatches are counted anew in each session; this one's was before the first.
            active.sequence = 0;
            self.sessions.get_mut(&id).expect("just inserted").held.insert(instance);
            let state = active.row.state;
            if running.get(&instance) == Some(&attempt) {
                match state {
                    InstanceState::Stopping => self.send_stop(instance, out),
                    _ => self.on_started(instance, self.now),
                }
            } else if finished.get(&instance) != Some(&attempt) {
                match state {
                    // Committed, but the message never arrived: this very process says so. The same attempt again.
                    InstanceState::Dispatched => self.send_dispatch(instance, out),
                    InstanceState::Stopping => self.settle_stop(instance, true, out),
                    _ => self.lose(instance, "the worker came back and does not know the attempt", out),
                }
            }
            // What it finished is reported next.
        }
        self.pumpable.insert(app);
    }

    pub(super) fn on_worker_disconnected(&mut self, id: SessionId, out: &mut Output) {
        let Some(session) = self.sessions.remove(&id) else { return };
        let Session { app, info, held, connected_at, last_heard, .. } = session;
        let worker = info.worker.clone();
        self.observe(Observation::WorkerLost { worker: worker.to_string(), attempts: held.len() }, out);
        if held.is_empty() {
            return;
        }
        for instance in &held {
            if let Some(active) = self.instances.get_mut(instance) {
                active.session = None;
            }
        }
        let deadline = self.now.plus(self.settings.lost_after);
        self.timers.insert((deadline, Timer::Away(app, worker.clone())));
        self.away.insert((app, worker), Away { held, deadline, last: Some((info, connected_at, last_heard)) });
    }

    pub(super) fn on_away_too_long(&mut self, app: AppId, worker: WorkerRef, out: &mut Output) {
        self.lose_all(app, worker, "the worker vanished", out);
    }

    fn lose_all(&mut self, app: AppId, worker: WorkerRef, message: &str, out: &mut Output) {
        for instance in self.remove_away(app, worker) {
            self.lose(instance, message, out);
        }
    }

    fn remove_away(&mut self, app: AppId, worker: WorkerRef) -> BTreeSet<InstanceId> {
        let key = (app, worker);
        let Some(away) = self.away.remove(&key) else { return BTreeSet::new() };
        let (app, worker) = key;
        self.timers.remove(&(away.deadline, Timer::Away(app, worker)));
        away.held
    }

    /// A heartbeat names everything that the worker holds; differences mean that a message was lost on the way.
    pub(super) fn on_worker_alive(
        &mut self,
        id: SessionId,
        dispatches_seen: u64,
        held: &[(InstanceId, u32)],
        metrics: Option<HostMetrics>,
        out: &mut Output,
    ) {
        let now = self.now;
        let Some(session) = self.sessions.get_mut(&id) else { return };
        session.last_heard = now;
        if let Some(metrics) = metrics {
            session.info.metrics = metrics;
        }
        let there: BTreeMap<_, _> = held.iter().copied().collect();
        let here = session.held.clone();
        for instance in here {
            let Some(active) = self.instances.get(&instance) else { continue };
            let overdue = now.since(active.sent_at) > RESEND_AFTER;
            if there.get(&instance) == Some(&active.row.attempt) {
                if active.row.state == InstanceState::Stopping && overdue {
                    self.send_stop(instance, out);
                }
                continue;
            }
            // Only a heartbeat that was written after the dispatch arrived can tell that it is gone.
            let gone = dispatches_seen >= active.sequence;
            match active.row.state {
                InstanceState::Dispatched if gone || overdue => self.send_dispatch(instance, out),
                InstanceState::Stopping if gone => self.settle_stop(instance, true, out),
                InstanceState::Running if gone => {
                    self.lose(instance, "the worker does not know the attempt any more", out);
                }
                _ => {}
            }
        }
        for (instance, attempt) in there {
            let ours = self
                .instances
                .get(&instance)
                .is_some_and(|active| active.session == Some(id) && active.row.attempt == attempt);
            if !ours {
                let grace = Duration::ZERO;
                out.effects.push(Effect::Stop { session: id, instance, attempt, grace, abandon: true });
            }
        }
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
        let away = self.away.iter().filter(|((owner, _), _)| *owner == app).filter_map(|(_, away)| {
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
