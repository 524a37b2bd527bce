//! Why an instance waits, or where it runs and why there.

use pendula_model::InstanceId;
use serde_json::{Value, json};

use super::Partition;
use super::dispatch::describe;
use super::state::Place;
use crate::effect::Refusal;

/// Workers listed in an explanation.
const LISTED_WORKERS: usize = 100;

impl Partition {
    /// A JSON object with `state`, a sentence in `why`, and what it rests on.
    pub(super) fn explain(&self, id: InstanceId) -> Result<String, Refusal> {
        let active = self.instances.get(&id).ok_or(Refusal::NotActive)?;
        let entry = self.jobs.get(&active.row.job);
        let mut explanation = json!({ "instance": id, "state": active.row.state, "attempt": active.row.attempt });
        let why = match active.place {
            Place::Delayed => format!("it is not due before {}", active.row.due_at),
            Place::BackOff => format!("its next attempt is not due before {}", active.row.due_at),
            Place::Queued => {
                let ahead = entry.map_or(0, |entry| entry.queue.range(..active.queue_key()).count());
                let limit = entry.and_then(|entry| entry.job.spec.concurrency.limit).unwrap_or_default();
                explanation["ahead_in_queue"] = ahead.into();
                format!("the job's concurrency limit of {limit} is reached; {ahead} instances are queued before it")
            }
            Place::Ready => self.why_no_slot(active.row.app, active.definition.class, &mut explanation),
            Place::Placed => {
                let worker = active.row.worker.as_ref().map(|worker| worker.name.to_string()).unwrap_or_default();
                explanation["worker"] = worker.as_str().into();
                if let Some(placement) = &active.row.placement {
                    explanation["placement"] = serde_json::from_str(placement).unwrap_or(Value::Null);
                }
                if let Some((per_mille, message)) = &active.progress {
                    explanation["progress"] = json!({ "per_mille": per_mille, "message": message.as_deref() });
                }
                match (active.session, &active.row.placement) {
                    (None, _) => format!("worker {worker} has it, but is not connected; we wait for it to come back"),
                    (_, None) => format!("worker {worker} has it; it was the only one connected"),
                    (_, Some(_)) => format!("worker {worker} has it; it was the least loaded that may run it"),
                }
            }
        };
        explanation["why"] = why.into();
        Ok(explanation.to_string())
    }

    fn why_no_slot(&self, app: pendula_model::AppId, class: super::state::ClassId, explanation: &mut Value) -> String {
        let Some(class) = self.apps.get(&app).and_then(|entry| entry.classes.get(&class)) else {
            return "it is about to be dispatched".to_owned();
        };
        let workers = self.sessions.values().filter(|session| session.app == app);
        let total = workers.clone().count();
        let able = workers.clone().filter(|session| class.mismatch(&session.info).is_none()).count();
        let candidates: Vec<_> = workers.take(LISTED_WORKERS).map(|session| describe(session, class)).collect();
        explanation["candidates"] = candidates.into();
        match (total, able) {
            (0, _) => "no worker of the app is connected".to_owned(),
            (_, 0) => format!("none of the {total} connected workers may run it"),
            (_, able) => format!("all slots of the {able} workers that may run it are taken"),
        }
    }
}
