//! Who gets what: free slots are filled in the order of the ready queues, by the choice of each job's strategy.
//!
//! The choice and what spoke against each other candidate are kept with the attempt. When one worker is all there is,
//! nothing is kept: there was no choice.

use std::collections::BTreeMap;
use std::sync::Arc;

use pendula_model::instance::InstanceState;
use pendula_model::{AppId, InstanceId, SessionId, TaskKey};
use serde_json::json;

use super::Partition;
use super::choice::{Choice, choose, describe};
use super::state::{Active, ClassId, Place, Session};
use crate::Output;
use crate::effect::{Dispatch, Effect, Observation};
use crate::lifecycle::{Event, Step, step};

/// Candidates kept in a placement record.
const RECORDED_CANDIDATES: usize = 20;

impl Partition {
    /// Lets instances begin, and fills free slots in the apps where something became ready or free.
    pub(super) fn pump(&mut self, out: &mut Output) {
        loop {
            if let Some(id) = self.to_begin.pop() {
                self.begin(id, out);
            } else if let Some(app) = self.pumpable.pop_first() {
                self.place_bound(app, out);
                self.pump_app(app, out);
            } else {
                break;
            }
        }
        self.tell_unserved(out);
    }

    fn pump_app(&mut self, app: AppId, out: &mut Output) {
        self.ungate(app);
        let now = self.now;
        // Classes that no worker with a free slot can take; slots only become scarcer within one pass.
        let mut blocked: Vec<ClassId> = Vec::new();
        loop {
            let Some(entry) = self.apps.get_mut(&app) else { return };
            let heads = entry.classes.iter_mut().filter(|(id, _)| !blocked.contains(id));
            let next = heads.filter_map(|(id, class)| Some((class.ready.first(now)?, *id))).min();
            let Some((rank, class_id)) = next else { return };
            let id = rank.instance();
            let active = &self.instances[&id];
            let class = entry.classes.get_mut(&class_id).expect("seen above");
            match choose(&mut self.sessions, app, class_id, class, active, &mut self.random) {
                Choice::Session(session) => {
                    let weight = active.definition.spec.weight;
                    class.ready.served(now, &mut entry.fair, rank.job, weight);
                    let task = active.spread.as_ref().map(|spread| spread.next_ready());
                    match task {
                        None => {
                            class.ready.remove(now, active.item());
                            self.place(id, session, out);
                        }
                        Some(Some(task)) => self.place_task(TaskKey { instance: id, task }, session, out),
                        Some(None) => {}
                    }
                    self.unqueue_if_idle(id);
                }
                Choice::NoneForInstance => {
                    class.ready.remove(now, active.item());
                    entry.gated.insert(id);
                    self.set_queued(id, false);
                }
                Choice::NoneForClass => {
                    // It may have waited for long, until its last worker went.
                    self.made_ready.push(id);
                    blocked.push(class_id);
                }
            }
        }
    }

    /// Gives workers what is bound to them.
    fn place_bound(&mut self, app: AppId, out: &mut Output) {
        let ready = |session: &&Session| session.app == app && session.free() > 0 && !session.bound.is_empty();
        let ready: Vec<SessionId> = self.sessions.values().filter(ready).map(|session| session.id).collect();
        for id in ready {
            while let Some(session) = self.sessions.get_mut(&id).filter(|session| session.free() > 0)
                && let Some(key) = session.bound.pop_first()
            {
                // What its job's limit holds back is bound again when it may begin.
                let is_open = |active: &Active| matches!(active.place, Place::Ready | Place::Placed);
                if self.instances.get(&key.instance).is_some_and(is_open) {
                    self.place_task(key, id, out);
                }
            }
        }
    }

    /// Gives a standalone instance to a session. Durable before it is sent, like everything.
    fn place(&mut self, id: InstanceId, session_id: SessionId, out: &mut Output) {
        let placement = self.placement(id, session_id);
        let now = self.now;
        let active = self.instances.get_mut(&id).expect("what is ready is active");
        let Step::To(state) = step(active.row.state, active.ever_started(), Event::Place) else {
            debug_assert!(false, "only waiting instances are ready");
            return;
        };
        let session = self.sessions.get_mut(&session_id).expect("just chosen");
        session.held.insert(TaskKey::root(id));
        let row = &mut active.row;
        let waited = now.since(row.due_at);
        row.state = state;
        row.attempt += 1;
        row.worker = Some(session.info.worker.clone());
        row.placement = placement;
        row.dispatched_at = Some(now);
        row.started_at = None;
        row.reason = None;
        row.message = None;
        active.place = Place::Placed;
        active.allowance = std::time::Duration::ZERO;
        active.session = Some(session_id);
        if let Some(job) = self.jobs.get_mut(&active.row.job) {
            job.no_worker_told = false;
        }
        self.touch(id);
        self.send_dispatch(id, out);
        self.observe(Observation::Dispatched { waited }, out);
    }

    /// Sends, or sends again, the current attempt of a standalone instance to the worker that has it.
    pub(super) fn send_dispatch(&mut self, id: InstanceId, out: &mut Output) {
        let now = self.now;
        let active = self.instances.get_mut(&id).expect("the caller has it");
        let Some(session) = active.session.and_then(|session| self.sessions.get_mut(&session)) else { return };
        session.sequence += 1;
        active.sequence = session.sequence;
        active.sent_at = now;
        let Some(app) = self.apps.get(&active.row.app) else { return };
        out.effects.push(Effect::Dispatch(Box::new(Dispatch {
            session: session.id,
            sequence: session.sequence,
            instance: id,
            task: pendula_model::TaskId::ROOT,
            attempt: active.row.attempt,
            job: active.row.job,
            revision: active.definition.revision,
            spec: active.definition.spec.clone(),
            params: active.row.params.clone(),
            fire_time: active.row.fire_time,
            created_at: active.row.created_at,
            failures: active.row.failures,
            app_name: app.name.clone(),
            part: None,
        })));
    }

    /// Why this worker: `None` when it was the only one connected.
    pub(super) fn placement(&self, id: InstanceId, chosen: SessionId) -> Option<Arc<str>> {
        let active = &self.instances[&id];
        let app = active.row.app;
        let mut candidates = self.sessions.values().filter(|session| session.app == app);
        candidates.clone().nth(1)?;
        let class = self.apps.get(&app)?.classes.get(&active.definition.class)?;
        let count = candidates.clone().count();
        let described: Vec<_> =
            candidates.by_ref().take(RECORDED_CANDIDATES).map(|s| describe(s, class, active)).collect();
        let name = &self.sessions[&chosen].info.worker.name;
        let record = json!({
            "strategy": class.selector.strategy,
            "chosen": name,
            "candidates": described,
            "more_candidates": count.saturating_sub(RECORDED_CANDIDATES),
        });
        Some(record.to_string().into())
    }

    /// Puts an instance with tasks into its class's ready queue, if it has something to place.
    pub(super) fn queue_spread(&mut self, id: InstanceId) {
        let now = self.now;
        let Some(active) = self.instances.get_mut(&id) else { return };
        let is_open =
            matches!(active.place, Place::Ready | Place::Placed) && active.row.state != InstanceState::Stopping;
        let (item, app, class) = (active.item(), active.row.app, active.definition.class);
        let Some(spread) = active.spread.as_mut() else { return };
        if !is_open || spread.queued || spread.next_ready().is_none() {
            return;
        }
        let Some(entry) = self.apps.get_mut(&app) else { return };
        let Some(class) = entry.classes.get_mut(&class) else { return };
        class.ready.insert(now, entry.fair, item);
        entry.gated.remove(&id);
        spread.queued = true;
        self.pumpable.insert(app);
    }

    /// Takes an instance with tasks out of its class's ready queue when nothing of it waits for a slot.
    fn unqueue_if_idle(&mut self, id: InstanceId) {
        let is_idle = |spread: &super::spread::Spread| spread.queued && spread.next_ready().is_none();
        if self.instances.get(&id).and_then(|active| active.spread.as_deref()).is_some_and(is_idle) {
            self.unqueue_spread(id);
        }
    }

    pub(super) fn unqueue_spread(&mut self, id: InstanceId) {
        let now = self.now;
        let Some(active) = self.instances.get(&id) else { return };
        let (item, app, class) = (active.item(), active.row.app, active.definition.class);
        if let Some(entry) = self.apps.get_mut(&app) {
            entry.gated.remove(&id);
            if let Some(class) = entry.classes.get_mut(&class) {
                class.ready.remove(now, item);
            }
        }
        self.set_queued(id, false);
    }

    fn set_queued(&mut self, id: InstanceId, queued: bool) {
        if let Some(spread) = self.instances.get_mut(&id).and_then(|active| active.spread.as_mut()) {
            spread.queued = queued;
        }
    }

    /// Something changed that may let gated instances go on.
    fn ungate(&mut self, app: AppId) {
        let Some(entry) = self.apps.get_mut(&app) else { return };
        for id in std::mem::take(&mut entry.gated) {
            self.queue_spread(id);
        }
        self.pumpable.remove(&app);
    }

    /// Says, once per job, that nobody may run what has become ready and is still there.
    fn tell_unserved(&mut self, out: &mut Output) {
        let mut served: BTreeMap<(AppId, ClassId), bool> = BTreeMap::new();
        for id in std::mem::take(&mut self.made_ready) {
            let Some(active) = self.instances.get(&id).filter(|active| active.place == Place::Ready) else { continue };
            let (job, app, class) = (active.row.job, active.row.app, active.definition.class);
            if active.hold_until.is_some() {
                continue;
            }
            let Some(entry) = self.jobs.get_mut(&job).filter(|entry| !entry.no_worker_told) else { continue };
            let sessions = self.sessions.values().filter(|session| session.app == app);
            // What is ready was offered to all sessions, which know since whether they can take it.
            let able = |session: &Session| session.eligible.get(&class) == Some(&true);
            if *served.entry((app, class)).or_insert_with(|| sessions.clone().any(able)) {
                continue;
            }
            entry.no_worker_told = true;
            let why = match sessions.count() {
                0 => "no worker is connected".to_owned(),
                n => format!("none of the {n} connected workers may run it"),
            };
            self.observe(Observation::NoWorker { job, why }, out);
        }
    }
}
