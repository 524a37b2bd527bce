//! Which worker: every ready instance goes to the least loaded worker that may run it and has a free slot.
//!
//! The choice and what spoke against each other candidate are kept with the attempt. When one worker is all there is,
//! nothing is kept: there was no choice.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use pendula_model::{AppId, InstanceId, SessionId};
use serde_json::json;

use super::Partition;
use super::state::{Class, ClassId, Place, Session};
use crate::Output;
use crate::effect::{Dispatch, Effect, Observation};
use crate::lifecycle::{Event, Step, step};

/// Candidates kept in a placement record.
const RECORDED_CANDIDATES: usize = 20;

impl Partition {
    /// Fills free slots in the apps where something became ready or free.
    pub(super) fn pump(&mut self, out: &mut Output) {
        while let Some(app) = self.pumpable.pop_first() {
            self.pump_app(app, out);
        }
        self.tell_unserved(out);
    }

    fn pump_app(&mut self, app: AppId, out: &mut Output) {
        // Classes that no worker with a free slot can take; slots only become scarcer within one pass.
        let mut blocked: Vec<ClassId> = Vec::new();
        loop {
            let Some(entry) = self.apps.get(&app) else { return };
            let heads = entry.classes.iter().filter(|(id, _)| !blocked.contains(id));
            let next = heads.filter_map(|(id, class)| Some((*class.ready.first()?, *id))).min();
            let Some((key, class_id)) = next else { return };
            let class = &entry.classes[&class_id];
            match choose(&mut self.sessions, app, class_id, class) {
                Some(session) => {
                    let entry = self.apps.get_mut(&app).expect("seen above");
                    entry.classes.get_mut(&class_id).expect("seen above").ready.remove(&key);
                    self.place(key.2, session, out);
                }
                None => {
                    // It may have waited for long, until its last worker went.
                    self.made_ready.push(key.2);
                    blocked.push(class_id);
                }
            }
        }
    }

    /// Gives an instance to a session. Durable before it is sent, like everything.
    fn place(&mut self, id: InstanceId, session_id: SessionId, out: &mut Output) {
        let placement = self.placement(id, session_id);
        let now = self.now;
        let active = self.instances.get_mut(&id).expect("what is ready is active");
        let Step::To(state) = step(active.row.state, active.ever_started(), Event::Place) else {
            debug_assert!(false, "only waiting instances are ready");
            return;
        };
        let session = self.sessions.get_mut(&session_id).expect("just chosen");
        session.held.insert(id);
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

    /// Sends, or sends again, the current attempt to the worker that has it.
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
            attempt: active.row.attempt,
            job: active.row.job,
            revision: active.definition.revision,
            spec: active.definition.spec.clone(),
            params: active.row.params.clone(),
            fire_time: active.row.fire_time,
            created_at: active.row.created_at,
            failures: active.row.failures,
            app_name: app.name.clone(),
        })));
    }

    /// Why this worker: `None` when it was the only one connected.
    fn placement(&self, id: InstanceId, chosen: SessionId) -> Option<Arc<str>> {
        let active = &self.instances[&id];
        let app = active.row.app;
        let mut candidates = self.sessions.values().filter(|session| session.app == app);
        candidates.clone().nth(1)?;
        let class = self.apps.get(&app)?.classes.get(&active.definition.class)?;
        let count = candidates.clone().count();
        let described: Vec<_> = candidates.by_ref().take(RECORDED_CANDIDATES).map(|s| describe(s, class)).collect();
        let name = &self.sessions[&chosen].info.worker.name;
        let record = json!({
            "strategy": "least_loaded",
            "chosen": name,
            "candidates": described,
            "more_candidates": count.saturating_sub(RECORDED_CANDIDATES),
        });
        Some(record.to_string().into())
    }

    /// Says, once per job, that nobody may run what has become ready and is still there.
    fn tell_unserved(&mut self, out: &mut Output) {
        let mut served: BTreeMap<(AppId, ClassId), bool> = BTreeMap::new();
        for id in std::mem::take(&mut self.made_ready) {
            let Some(active) = self.instances.get(&id).filter(|active| active.place == Place::Ready) else { continue };
            let (job, app, class) = (active.row.job, active.row.app, active.definition.class);
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

/// The least loaded session that can take the class and has a free slot; of equals, the one that connected first.
fn choose(
    sessions: &mut BTreeMap<SessionId, Session>,
    app: AppId,
    class_id: ClassId,
    class: &Class,
) -> Option<SessionId> {
    let mut best: Option<((u64, Reverse<usize>), SessionId)> = None;
    for session in sessions.values_mut().filter(|session| session.app == app) {
        let info = &session.info;
        let eligible = *session.eligible.entry(class_id).or_insert_with(|| class.mismatch(info).is_none());
        let free = session.free();
        if !eligible || free == 0 {
            continue;
        }
        // Load in millionths, so that workers of different size fill evenly.
        let load = session.held.len() as u64 * 1_000_000 / u64::from(session.info.slots.max(1));
        let rank = (load, Reverse(free));
        if best.is_none_or(|(best_rank, _)| rank < best_rank) {
            best = Some((rank, session.id));
        }
    }
    best.map(|(_, id)| id)
}

/// A candidate as it stands in a placement record or an explanation.
pub(super) fn describe(session: &Session, class: &Class) -> serde_json::Value {
    let rejected = class.mismatch(&session.info).or_else(|| {
        if session.draining {
            Some("draining".to_owned())
        } else if session.free() == 0 {
            Some("no free slot".to_owned())
        } else {
            None
        }
    });
    let mut candidate = json!({
        "worker": session.info.worker.name,
        "running": session.held.len(),
        "slots": session.info.slots,
    });
    if let Some(rejected) = rejected {
        candidate["rejected"] = rejected.into();
    }
    candidate
}
