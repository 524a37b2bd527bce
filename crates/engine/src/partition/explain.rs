//! Why an instance or one of its tasks waits, or where it runs and why there; and what to do about it.

use pendula_model::instance::{InstanceState, TaskState};
use pendula_model::task::Phase;
use pendula_model::worker::WorkerRef;
use pendula_model::{InstanceId, TaskId, Timestamp};
use serde_json::{Value, json};

use super::Partition;
use super::choice::{describe, rejection};
use super::spread::LiveTask;
use super::state::{Active, Class, Place, Session};
use crate::effect::Refusal;

/// Workers listed in an explanation.
const LISTED_WORKERS: usize = 100;
/// Waiting instances that are counted at most.
const COUNTED: usize = 1_000_000;

/// A sentence on why, and one on what to do; the second may be empty when all is as it should be.
struct Because {
    why: String,
    hint: String,
}

fn because(why: impl Into<String>, hint: impl Into<String>) -> Because {
    Because { why: why.into(), hint: hint.into() }
}

impl Partition {
    /// A JSON object with `state`, a sentence in `why`, another in `hint`, and what they rest on.
    pub(super) fn explain(&self, id: InstanceId, task: Option<TaskId>) -> Result<String, Refusal> {
        let active = self.instances.get(&id).ok_or(Refusal::NotActive)?;
        let mut told = json!({ "instance": id, "state": active.row.state, "attempt": active.row.attempt });
        let Because { why, hint } = match (&active.spread, task) {
            (Some(_), Some(task)) => self.explain_task(active, task, &mut told),
            _ => self.explain_instance(active, &mut told),
        };
        told["why"] = why.into();
        if !hint.is_empty() {
            told["hint"] = hint.into();
        }
        Ok(told.to_string())
    }

    fn explain_instance(&self, active: &Active, told: &mut Value) -> Because {
        let entry = self.jobs.get(&active.row.job);
        if active.row.state == InstanceState::Stopping {
            return self.explain_stopping(active);
        }
        match active.place {
            Place::Delayed => {
                because(format!("it is not due before {}", active.row.due_at), "nothing to do; it starts by itself")
            }
            Place::BackOff => because(
                format!(
                    "attempt {} ended ({}), and the next is not due before {}",
                    active.row.attempt,
                    active.row.reason.as_ref().map_or("failed", |reason| reason.as_str()),
                    active.row.due_at
                ),
                "nothing to do; the pause is the job's `retry.backoff`. The log of the last attempt tells why it failed",
            ),
            Place::Queued => {
                let ahead = entry.map_or(0, |entry| entry.queue.range(..active.queue_key()).count());
                let limit = entry.and_then(|entry| entry.job.spec.concurrency.limit).unwrap_or_default();
                told["ahead_in_queue"] = ahead.into();
                because(
                    format!(
                        "the job's concurrency limit of {limit} is reached; {ahead} instances are queued before it"
                    ),
                    "wait, stop an instance of the job that runs, or raise the job's `concurrency.limit`",
                )
            }
            Place::Ready if active.hold_until.is_some() => because(
                format!(
                    "the server took over a moment ago, and a broadcast begins when the workers have had time to come \
                     back, at {}",
                    active.hold_until.unwrap_or(self.now)
                ),
                "nothing to do; it begins by itself",
            ),
            Place::Ready | Place::Placed if active.spread.is_some() => self.explain_spread(active, told),
            Place::Ready => self.why_no_slot(active, told),
            Place::Placed => self.explain_placed(active, told),
        }
    }

    fn explain_placed(&self, active: &Active, told: &mut Value) -> Because {
        let worker = active.row.worker.as_ref().map(|worker| worker.name.to_string()).unwrap_or_default();
        told["worker"] = worker.as_str().into();
        if let Some(placement) = &active.row.placement {
            told["placement"] = serde_json::from_str(placement).unwrap_or(Value::Null);
        }
        if let Some((per_mille, message)) = &active.progress {
            told["progress"] = json!({ "per_mille": per_mille, "message": message.as_deref() });
        }
        if active.session.is_none() {
            return self.why_away(active, &worker);
        }
        match &active.row.placement {
            None => because(format!("worker {worker} has it; it was the only one connected"), ""),
            Some(_) => {
                let strategy = strategy_of(active);
                because(
                    format!("worker {worker} has it; it was chosen by `{strategy}` among those that may run it"),
                    "",
                )
            }
        }
    }

    fn explain_stopping(&self, active: &Active) -> Because {
        let deadline = active.row.stop_deadline.unwrap_or(self.now);
        let cause = active.row.stop_cause.map_or_else(String::new, |cause| format!(" ({cause})"));
        let whom = match &active.spread {
            None => {
                let worker = active.row.worker.as_ref().map(|worker| worker.name.to_string()).unwrap_or_default();
                let away = if active.session.is_none() { ", which is not connected" } else { "" };
                format!("worker {worker}{away}")
            }
            Some(spread) => {
                let tasks: u32 = spread.on_worker.values().sum();
                format!("{} workers with {tasks} tasks", spread.on_worker.len())
            }
        };
        because(
            format!("it was asked to stop{cause}; we wait for {whom} to confirm, until {deadline} at the latest"),
            "nothing to do; a stop that nobody confirms ends as `stop_unconfirmed`, and the worker is told to abort when it \
             comes back",
        )
    }

    fn explain_spread(&self, active: &Active, told: &mut Value) -> Because {
        let Some(spread) = &active.spread else { return because("it is about to begin", "") };
        let counts = spread.row.counts;
        told["phase"] = json!(spread.row.phase);
        told["tasks"] = json!(counts);
        let waits = spread.live.values().filter(|task| task.row.state == TaskState::Waiting).count();
        let placed: u32 = spread.on_worker.values().sum();
        let is_away = |worker: &WorkerRef| self.away.get(&(active.row.app, worker.clone()));
        let away = spread.on_worker.iter().filter_map(|(worker, tasks)| Some((worker, tasks, is_away(worker)?)));
        let missing: Vec<_> = away.collect();
        if placed > 0 {
            let workers: Vec<Value> = spread
                .on_worker
                .iter()
                .take(LISTED_WORKERS)
                .map(|(worker, tasks)| {
                    json!({ "worker": worker.name, "tasks": tasks, "connected": is_away(worker).is_none() })
                })
                .collect();
            told["workers"] = workers.into();
        }
        let phase = match spread.row.phase {
            Phase::Before => "the task before the others",
            Phase::Main => "its tasks",
            Phase::After => "the last task",
        };
        if spread.next_ready().is_some() {
            let reason = self.why_no_slot(active, told);
            return match placed {
                0 => reason,
                _ => because(format!("{placed} of its tasks run; the next one waits: {}", reason.why), reason.hint),
            };
        }
        let next =
            spread.live.values().filter(|task| task.row.state == TaskState::Waiting).min_by_key(|t| t.row.due_at);
        if let Some((worker, _, first)) = missing.iter().min_by_key(|(_, _, away)| away.deadline)
            && missing.len() == spread.on_worker.len()
        {
            let tasks: u32 = missing.iter().map(|(_, tasks, _)| **tasks).sum();
            let (name, until) = (&worker.name, first.deadline);
            return because(
                format!("{tasks} tasks are with {} workers that are not connected, {name} among them", missing.len()),
                format!(
                    "start or unfreeze worker {name}; what it does not claim until {until} is lost, and runs elsewhere \
                         where the mode and `delivery` allow it"
                ),
            );
        }
        match next {
            _ if placed > 0 => because(format!("{phase} run: {placed} with {} workers", spread.on_worker.len()), ""),
            Some(task) if waits > 0 => self.why_task_waits(active, task, told),
            _ => because(format!("{phase} are being read from the store"), "nothing to do; it takes a moment"),
        }
    }

    fn explain_task(&self, active: &Active, id: TaskId, told: &mut Value) -> Because {
        told["task"] = json!(id);
        let Some(spread) = &active.spread else { return because("it is about to begin", "") };
        let Some(task) = spread.live.get(&id) else {
            return match () {
                () if id >= spread.row.next_task => because("there is no such task", "list the tasks of the instance"),
                () if spread.unread.is_some_and(|unread| id >= unread) => because(
                    format!(
                        "its turn has not come: tasks go in order of their numbers, and {} is next",
                        spread.next_waiting()
                    ),
                    "nothing to do; more workers or slots make it faster",
                ),
                () => because("it has ended", "look at the task itself for its result, reason and log"),
            };
        };
        told["task_state"] = json!(task.row.state);
        told["task_attempt"] = json!(task.row.attempt);
        if let Some((per_mille, message)) = &task.progress {
            told["progress"] = json!({ "per_mille": per_mille, "message": message.as_deref() });
        }
        if task.row.state == TaskState::Waiting {
            return self.why_task_waits(active, task, told);
        }
        let worker = task.row.worker.as_ref().map(|worker| worker.name.to_string()).unwrap_or_default();
        told["worker"] = worker.as_str().into();
        if let Some(placement) = &task.row.placement {
            told["placement"] = serde_json::from_str(placement).unwrap_or(Value::Null);
        }
        match (task.session, task.stopping) {
            (None, _) => self.why_away(active, &worker),
            (_, Some((cause, deadline))) => because(
                format!("it was asked to stop ({cause}); we wait for worker {worker} to confirm, until {deadline}"),
                "nothing to do",
            ),
            _ if task.row.target.is_some() => {
                because(format!("worker {worker} has it, the one that it is bound to"), "")
            }
            _ => because(format!("worker {worker} has it"), ""),
        }
    }

    fn why_task_waits(&self, active: &Active, task: &LiveTask, told: &mut Value) -> Because {
        let number = task.row.id;
        if let Some(target) = &task.row.target {
            let of_target = |session: &&Session| session.app == active.row.app && session.info.worker == *target;
            let name = &target.name;
            let is_orphan = active
                .spread
                .as_ref()
                .is_some_and(|spread| spread.orphans.get(name).is_some_and(|orphans| orphans.contains(&number)));
            if is_orphan {
                let until = task.row.due_at;
                return because(
                    format!(
                        "task {number} was lost with worker {name}; it waits until {until} for a worker of that name"
                    ),
                    format!("start worker {name} again; later it ends as `lost`"),
                );
            }
            return match self.sessions.values().find(of_target) {
                None => because(
                    format!("task {number} is bound to worker {name}, which is not connected"),
                    format!("start or unfreeze worker {name}; if it does not come back, the task ends as `lost`"),
                ),
                Some(session) if session.free() == 0 => because(
                    format!(
                        "task {number} is bound to worker {name}, whose {} slots are all taken",
                        session.info.slots
                    ),
                    format!("wait, or start worker {name} with more slots"),
                ),
                Some(_) => self.not_due(number, task.row.due_at),
            };
        }
        if task.row.due_at > self.now {
            return self.not_due(number, task.row.due_at);
        }
        self.why_no_slot(active, told)
    }

    fn not_due(&self, number: TaskId, due_at: Timestamp) -> Because {
        because(
            format!("the next try of task {number} is not due before {due_at}"),
            "nothing to do; the pause is the job's `retry.backoff`",
        )
    }

    fn why_away(&self, active: &Active, worker: &str) -> Because {
        let holds = |key: &(pendula_model::AppId, pendula_model::worker::WorkerRef)| {
            key.0 == active.row.app && *key.1.name == *worker
        };
        let deadline = self.away.iter().find(|(key, _)| holds(key)).map(|(_, away)| away.deadline);
        let until = deadline.map(|at| format!(", until {at} at the latest")).unwrap_or_default();
        because(
            format!("worker {worker} has it, but is not connected; we wait for it to come back{until}"),
            format!(
                "look whether worker {worker} is alive and can reach the server; if it does not come back, the job's \
                 `delivery` decides whether the work runs again"
            ),
        )
    }

    fn why_no_slot(&self, active: &Active, told: &mut Value) -> Because {
        let (app, class) = (active.row.app, active.definition.class);
        let Some(class) = self.apps.get(&app).and_then(|entry| entry.classes.get(&class)) else {
            return because("it is about to be dispatched", "");
        };
        let workers = self.sessions.values().filter(|session| session.app == app);
        let candidates: Vec<_> =
            workers.clone().take(LISTED_WORKERS).map(|session| describe(session, class, active)).collect();
        told["candidates"] = candidates.into();
        let total = workers.clone().count();
        let able = workers.clone().filter(|session| class.mismatch(&session.info).is_none()).count();
        match (total, able) {
            (0, _) => because(
                "no worker of the app is connected",
                "start one: `pendula worker --server URL --app APP` with a worker token of the app",
            ),
            (_, 0) => self.why_none_may(class, total, workers),
            (_, able) => self.why_all_busy(active, class, able, workers, told),
        }
    }

    fn why_none_may<'a>(&self, class: &Class, total: usize, mut workers: impl Iterator<Item = &'a Session>) -> Because {
        let first = workers
            .find_map(|session| Some(format!("{}: {}", session.info.worker.name, class.mismatch(&session.info)?)));
        let first = first.unwrap_or_default();
        because(
            format!("none of the {total} connected workers may run it ({first})"),
            "start a worker that offers the processor and has the labels and the name that the job's `workers` asks for, \
             or change the job; `pendula worker list` shows what each offers",
        )
    }

    fn why_all_busy<'a>(
        &self,
        active: &Active,
        class: &Class,
        able: usize,
        workers: impl Iterator<Item = &'a Session>,
        told: &mut Value,
    ) -> Because {
        let able_workers = workers.filter(|session| class.mismatch(&session.info).is_none());
        let with_slots: Vec<_> = able_workers.filter(|session| session.free() > 0).collect();
        if let Some(session) = with_slots.first()
            && let Some(why) = rejection(session, class, active)
        {
            return because(
                format!(
                    "{} workers have free slots but may not take it now ({}: {why})",
                    with_slots.len(),
                    session.info.worker.name
                ),
                "wait, free what is short on the workers, start more workers, or lower the job's `workers.min`, \
                 `per_worker` or `max_workers`",
            );
        }
        let waiting: usize = self.apps.get(&active.row.app).map_or(0, |app| app.ready());
        told["ahead_in_job"] = class.ready.ahead(active.item(), COUNTED).into();
        told["ready_in_app"] = waiting.into();
        because(
            format!("all slots of the {able} workers that may run it are taken"),
            "wait, start more workers or give them more slots; `priority` and `weight` of the job say who goes first",
        )
    }
}

fn strategy_of(active: &Active) -> String {
    let strategy = serde_json::to_value(&active.definition.spec.workers.strategy).unwrap_or(Value::Null);
    match strategy {
        Value::String(name) => name,
        other => other.as_object().and_then(|o| o.keys().next().cloned()).unwrap_or_default(),
    }
}
