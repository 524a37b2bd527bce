//! How an instance with many tasks begins, goes from one phase to the next, and ends.
//!
//! ```text
//! broadcast    [pre] ─► a task on each chosen worker ─► [post] ─► end
//! sharded               `total` tasks                          ─► end
//! map                   root, and what it and its sub-tasks emit ─► end
//! map_reduce            the same                       ─► reduce ─► end
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use pendula_model::change::Change;
use pendula_model::instance::{InstanceState, Reason, StopCause, TaskState};
use pendula_model::mode::{Broadcast, BroadcastSuccess, ExecutionMode};
use pendula_model::processor::Processor;
use pendula_model::task::{Fanout, Phase, Task, TaskCounts, TaskRole};
use pendula_model::worker::WorkerRef;
use pendula_model::{AppId, InstanceId, SessionId, TaskId, TaskKey, limits};
use serde_json::{Value, json};

use super::Partition;
use super::spread::{LiveTask, Spread, Written};
use super::state::{Dirty, Place};
use crate::Output;
use crate::effect::{Effect, Observation};

impl Partition {
    /// Makes the first tasks of an instance that may go on now.
    pub(super) fn begin(&mut self, id: InstanceId, out: &mut Output) {
        let now = self.now;
        let Some(active) = self.instances.get_mut(&id) else { return };
        if active.row.state != InstanceState::Waiting || active.place != Place::Ready {
            return;
        }
        if let Some(spread) = &active.spread {
            // Begun before: by an owner, as a repetition, or until a lowered limit held it back.
            let is_bound = |task: &&LiveTask| task.row.target.is_some() && task.row.due_at <= now;
            let bound: Vec<TaskKey> = spread.live.values().filter(is_bound).map(|task| task.row.key()).collect();
            bound.into_iter().for_each(|key| self.ready_task(key));
            self.queue_spread(id);
            return self.advance(id, out);
        }
        let mode = active.definition.spec.mode.clone();
        let known_at = match active.definition.spec.processor {
            Processor::PowerJob(_) => self.slow_workers_known_at,
            _ => self.workers_known_at,
        };
        if let ExecutionMode::Broadcast(_) = mode
            && known_at > now
        {
            // After a takeover the workers that are on their way back belong to it too.
            active.hold_until = Some(known_at);
            return self.rearm(id);
        }
        active.hold_until = None;
        let spread = Spread::new(Fanout::new(id, Phase::Main), Dirty::New, now);
        active.spread = Some(Box::new(spread));
        self.list(id);
        match mode {
            ExecutionMode::Standalone => {}
            ExecutionMode::Broadcast(broadcast) => self.begin_broadcast(id, &broadcast, out),
            ExecutionMode::Sharded(sharded) => {
                for index in 0..sharded.total {
                    let name = format!("{index}/{}", sharded.total).into();
                    self.create_task(id, TaskRole::Shard, name, None);
                }
            }
            ExecutionMode::Map(_) | ExecutionMode::MapReduce(_) => {
                self.create_task(id, TaskRole::Root, Arc::default(), None);
            }
        }
    }

    /// Makes an instance that repeats what did not succeed of another one.
    pub(super) fn begin_again(&mut self, id: InstanceId, base: &Fanout) {
        let now = self.now;
        let Some(active) = self.instances.get_mut(&id) else { return };
        let unsuccessful = base.counts.total - base.counts.succeeded;
        let counts = TaskCounts { total: unsuccessful, waiting: unsuccessful, ..TaskCounts::default() };
        let row =
            Fanout { counts, next_task: base.next_task, base: Some(base.instance), ..Fanout::new(id, Phase::Main) };
        let mut spread = Spread::new(row, Dirty::New, now);
        spread.copied = Some((base.instance, unsuccessful));
        spread.unread = (unsuccessful > 0).then_some(TaskId::ROOT);
        active.spread = Some(Box::new(spread));
        self.list(id);
    }

    fn begin_broadcast(&mut self, id: InstanceId, broadcast: &Broadcast, out: &mut Output) {
        let now = self.now;
        let active = &self.instances[&id];
        let (app, class) = (active.row.app, active.definition.class);
        let Some(class) = self.apps.get(&app).and_then(|entry| entry.classes.get(&class)) else { return };
        let mut workers = Vec::new();
        let mut chosen = Vec::new();
        let live = self.sessions.values().filter(|session| session.app == app);
        // A process whose name is another's since does not come back.
        let names: BTreeSet<&str> = live.clone().map(|session| &*session.info.worker.name).collect();
        let mut latest = BTreeMap::new();
        for ((_, worker), away) in self.away.iter().filter(|((owner, _), _)| *owner == app) {
            let Some((info, connected_at, _)) = away.last.as_ref().filter(|_| !names.contains(&*worker.name)) else {
                continue;
            };
            let known = latest.entry(&*worker.name).or_insert((*connected_at, info, away.draining));
            if known.0 < *connected_at {
                *known = (*connected_at, info, away.draining);
            }
        }
        let away = latest.values().map(|(_, info, draining)| (*info, false, *draining));
        let live = live.map(|session| (&session.info, true, session.draining));
        for (info, connected, draining) in live.chain(away).take(limits::TARGETS) {
            let rejected = class.mismatch(info).or_else(|| draining.then(|| "draining".to_owned()));
            let mut entry = json!({ "worker": info.worker.name, "boot": info.worker.boot, "connected": connected });
            match rejected {
                Some(why) => entry["rejected"] = why.into(),
                None => chosen.push(info.worker.clone()),
            }
            workers.push(entry);
        }
        let targets = json!({ "at": now, "workers": workers }).to_string();
        let job = active.row.job;
        let Some(spread) = self.instances.get_mut(&id).and_then(|active| active.spread.as_mut()) else { return };
        spread.row.targets = Some(targets.into());
        spread.joined = chosen.iter().map(|worker| worker.name.clone()).collect();
        if chosen.is_empty() {
            let message = match workers.len() {
                0 => "no worker was connected when it began".to_owned(),
                n => format!("none of the {n} connected workers may run it"),
            };
            self.observe(Observation::NoWorker { job, why: message.clone() }, out);
            return self.fail_spread(id, Reason::NO_WORKER, &message, out);
        }
        self.broadcasts.insert(id);
        if broadcast.pre {
            spread.frozen = chosen;
            spread.row.phase = Phase::Before;
            self.create_task(id, TaskRole::Pre, Arc::default(), None);
        } else {
            self.create_targets(id, chosen);
        }
    }

    fn create_targets(&mut self, id: InstanceId, chosen: Vec<WorkerRef>) {
        for worker in chosen {
            let name = worker.name.clone();
            self.create_task(id, TaskRole::Target, name, Some(worker));
        }
    }

    /// Makes one task and lets it wait for its turn.
    pub(super) fn create_task(&mut self, id: InstanceId, role: TaskRole, name: Arc<str>, target: Option<WorkerRef>) {
        let now = self.now;
        let Some(spread) = self.instances.get_mut(&id).and_then(|active| active.spread.as_mut()) else { return };
        let task = spread.row.next_task;
        spread.row.next_task = task.next();
        let row = Task { target, ..Task::new(id, task, role, name, now) };
        if role.is_counted() {
            spread.row.counts.total += 1;
            spread.row.counts.waiting += 1;
        }
        spread.touch();
        if row.target.is_none() && (spread.unread.is_some() || !spread.has_room()) {
            spread.unread.get_or_insert(task);
            spread.created.push(Written::Row(Box::new(row)));
        } else {
            spread.insert_live(LiveTask::new(row, Dirty::New, now));
            spread.created.push(Written::Live(task));
            self.ready_task(TaskKey { instance: id, task });
        }
        self.list(id);
    }

    /// What follows the end of a task.
    pub(super) fn after_task(&mut self, ended: Task, out: &mut Output) {
        let id = ended.instance;
        let Some(active) = self.instances.get(&id) else { return };
        let Some(spread) = active.spread.as_ref().filter(|spread| !spread.closing) else { return };
        if active.row.state == InstanceState::Stopping {
            if !spread.has_placed() {
                let confirmed = spread.unconfirmed == 0;
                self.settle_stop(id, confirmed, out);
            }
            return;
        }
        let succeeded = ended.state == TaskState::Succeeded;
        let why = || {
            let reason = ended.reason.as_ref().map(Reason::as_str).unwrap_or("failed");
            let message = ended.message.as_deref().map(|text| format!(": {text}")).unwrap_or_default();
            format!("{} ({reason}){message}", ended.state)
        };
        match ended.role {
            TaskRole::Pre if succeeded => {
                let Some(spread) = self.instances.get_mut(&id).and_then(|active| active.spread.as_mut()) else {
                    return;
                };
                spread.set_phase(Phase::Main);
                let chosen = std::mem::take(&mut spread.frozen);
                self.create_targets(id, chosen);
            }
            TaskRole::Pre => {
                let message = format!("the task before the others is {}", why());
                self.fail_spread(id, Reason::PRE_FAILED, &message, out);
            }
            TaskRole::Root if !succeeded => {
                let message = format!("the task that emits the others is {}", why());
                self.fail_spread(id, Reason::ROOT_FAILED, &message, out);
            }
            TaskRole::Post | TaskRole::Reduce if succeeded => {
                self.take_result(&ended);
                self.conclude(id, out);
            }
            TaskRole::Post => {
                self.take_result(&ended);
                self.fail_spread(id, Reason::POST_FAILED, &format!("the task after the others is {}", why()), out);
            }
            TaskRole::Reduce => {
                self.take_result(&ended);
                self.fail_spread(id, Reason::REDUCE_FAILED, &format!("the reduce is {}", why()), out);
            }
            TaskRole::Root | TaskRole::Sub | TaskRole::Target | TaskRole::Shard => self.advance(id, out),
        }
    }

    /// The last task's result and message are the instance's.
    fn take_result(&mut self, ended: &Task) {
        if let Some(active) = self.instances.get_mut(&ended.instance) {
            active.row.message = ended.message.clone();
            active.row.result = None;
            match &ended.result {
                Some(result) if result.bytes.len() > limits::RESULT_BYTES => {
                    let text = format!("its result of {} bytes is kept with task {}", result.bytes.len(), ended.id);
                    active.row.message.get_or_insert_with(|| text.into());
                }
                result => active.row.result = result.as_ref().map(|result| (**result).clone()),
            }
            self.touch(ended.instance);
        }
    }

    /// Goes to the next phase when the tasks proper are over.
    pub(super) fn advance(&mut self, id: InstanceId, out: &mut Output) {
        let Some(active) = self.instances.get(&id) else { return };
        let (mode, limits) = (active.definition.spec.mode.clone(), active.definition.spec.mode.limits());
        let Some(spread) = active.spread.as_ref() else { return };
        if spread.row.phase != Phase::Main || active.row.state == InstanceState::Stopping {
            return;
        }
        let counts = spread.row.counts;
        let unsuccessful = counts.failed + counts.lost + counts.stopped;
        if limits.fail_fast && unsuccessful > limits.tolerate.at_most(counts.total) {
            let message = format!("{unsuccessful} of {} tasks did not succeed; the rest is stopped", counts.total);
            return self.fail_spread(id, Reason::TASKS_FAILED, &message, out);
        }
        if !spread.is_exhausted() {
            return;
        }
        let closing = match &mode {
            ExecutionMode::Broadcast(broadcast) if broadcast.post => Some(TaskRole::Post),
            ExecutionMode::MapReduce(map) if unsuccessful <= map.tolerate.at_most(counts.total) => {
                Some(TaskRole::Reduce)
            }
            _ => None,
        };
        match closing {
            Some(role) => {
                if let Some(spread) = self.instances.get_mut(&id).and_then(|active| active.spread.as_mut()) {
                    spread.set_phase(Phase::After);
                }
                self.create_task(id, role, Arc::default(), None);
            }
            None => self.conclude(id, out),
        }
    }

    /// All is over: the mode's policy decides.
    fn conclude(&mut self, id: InstanceId, out: &mut Output) {
        let Some(active) = self.instances.get_mut(&id) else { return };
        let Some(spread) = active.spread.as_ref() else { return };
        let counts = spread.row.counts;
        let TaskCounts { total, succeeded, .. } = counts;
        let unsuccessful = total - succeeded;
        let wanted = match &active.definition.spec.mode {
            ExecutionMode::Broadcast(broadcast) => match broadcast.success {
                BroadcastSuccess::All => total,
                BroadcastSuccess::Any => 1,
                BroadcastSuccess::AtLeast(share) => share.at_least(total),
                BroadcastSuccess::Post => 0,
            },
            mode => total - mode.limits().tolerate.at_most(total).min(total),
        };
        if succeeded >= wanted {
            if active.row.message.is_none() {
                active.row.message = Some(format!("{succeeded} of {total} tasks succeeded").into());
            }
            return self.end(id, InstanceState::Succeeded, None, out);
        }
        let is_broadcast = matches!(active.definition.spec.mode, ExecutionMode::Broadcast(_));
        let reason = if is_broadcast && counts.lost == total { Reason::ALL_TARGETS_LOST } else { Reason::TASKS_FAILED };
        let message = format!(
            "{unsuccessful} of {total} tasks did not succeed ({} failed, {} lost); at least {wanted} must",
            counts.failed, counts.lost
        );
        self.fail_spread(id, reason, &message, out);
    }

    /// The instance fails; what still runs of it is stopped first.
    pub(super) fn fail_spread(&mut self, id: InstanceId, reason: Reason, message: &str, out: &mut Output) {
        let Some(active) = self.instances.get_mut(&id) else { return };
        active.row.message = Some(limits::cut(message, limits::MESSAGE_BYTES).into());
        if active.spread.as_ref().is_some_and(|spread| spread.has_placed()) {
            active.row.reason = Some(reason);
            return self.stop_attempt(id, StopCause::Failure, out);
        }
        self.end(id, InstanceState::Failed, Some(reason), out);
    }

    /// Takes what waits out of the way and asks what runs to stop. Returns whether something runs.
    pub(super) fn stop_spread(&mut self, id: InstanceId, out: &mut Output) -> bool {
        self.unqueue_spread(id);
        let Some(spread) = self.instances.get(&id).and_then(|active| active.spread.as_ref()) else { return false };
        let keys: Vec<TaskKey> = spread.live.keys().map(|task| TaskKey { instance: id, task: *task }).collect();
        let mut any = false;
        for key in keys {
            let Some(task) = self.live_task(key) else { continue };
            if task.row.state.is_placed() {
                any = true;
                self.send_task_stop(key, out);
            } else {
                self.unbind(key);
            }
        }
        any
    }

    /// Nobody confirmed in time: what still runs is told to abort, and is on its own from here on.
    pub(super) fn give_up_placed(&mut self, id: InstanceId, out: &mut Output) {
        let Some(spread) = self.instances.get_mut(&id).and_then(|active| active.spread.as_mut()) else { return };
        spread.closing = true;
        let placed = spread.live.values().filter(|task| task.row.state.is_placed());
        let keys: Vec<TaskKey> = placed.map(|task| task.row.key()).collect();
        for key in keys {
            self.settle_task_stop(key, false, out);
        }
    }

    /// A waiting task will not be placed any more.
    fn unbind(&mut self, key: TaskKey) {
        self.release_task(key);
        if let Some(task) =
            self.instances.get_mut(&key.instance).and_then(|a| a.spread.as_mut()?.live.get_mut(&key.task))
            && let Some(timer) = task.timer.take()
        {
            self.timers.remove(&(timer, super::state::Timer::Task(key)));
        }
    }

    /// The instance is about to end: nothing of its tasks stays behind in memory.
    pub(super) fn clear_spread(&mut self, id: InstanceId, out: &mut Output) {
        self.broadcasts.remove(&id);
        self.to_begin.retain(|waiting| *waiting != id);
        self.unqueue_spread(id);
        let Some(spread) = self.instances.get(&id).and_then(|active| active.spread.as_ref()) else { return };
        let keys: Vec<TaskKey> = spread.live.keys().map(|task| TaskKey { instance: id, task: *task }).collect();
        for key in keys {
            let Some(task) = self.live_task(key) else { continue };
            if let Some(session) = task.session.filter(|_| task.row.state.is_placed()) {
                let attempt = pendula_model::AttemptKey::new(key, task.row.attempt);
                let grace = std::time::Duration::ZERO;
                out.effects.push(Effect::Stop { session, attempt, grace, abandon: true });
            }
            self.unbind(key);
        }
        if let Some(active) = self.instances.get_mut(&id) {
            self.spreads_running -= usize::from(active.row.state.is_placed());
            if let Some(spread) = active.spread.as_mut() {
                spread.row.counts = spread.row.counts.settled();
                spread.touch();
            }
        }
        self.list(id);
        self.write(id, out);
    }

    /// A worker connected: broadcasts that want late joiners get a task for it, and lost tasks of its name are its own.
    pub(super) fn join_broadcasts(&mut self, app: AppId, session: SessionId) {
        let Some(info) = self.sessions.get(&session).map(|session| session.info.clone()) else { return };
        let broadcasts: Vec<InstanceId> = self.broadcasts.iter().copied().collect();
        for id in broadcasts {
            let Some(active) = self.instances.get_mut(&id).filter(|active| active.row.app == app) else { continue };
            let ExecutionMode::Broadcast(mode) = &active.definition.spec.mode else { continue };
            let (joins, class) = (mode.include_late_joiners, active.definition.class);
            let is_open = active.row.state != InstanceState::Stopping;
            let Some(spread) = active.spread.as_mut() else { continue };
            let orphans = spread.orphans.remove(&info.worker.name).unwrap_or_default();
            for task in orphans.into_iter().filter(|_| is_open) {
                self.adopt_orphan(TaskKey { instance: id, task }, session, info.worker.clone());
            }
            let class = self.apps.get(&app).and_then(|entry| entry.classes.get(&class));
            let may_run = class.is_some_and(|class| class.mismatch(&info).is_none());
            let Some(spread) = self.instances.get_mut(&id).and_then(|active| active.spread.as_mut()) else { continue };
            let is_before_end = spread.row.phase != Phase::After;
            if !joins || !may_run || !is_open || !is_before_end || spread.joined.contains(&info.worker.name) {
                continue;
            }
            spread.joined.insert(info.worker.name.clone());
            spread.row.targets = with_joiner(spread.row.targets.as_deref(), &info.worker);
            if spread.row.phase == Phase::Before {
                spread.frozen.push(info.worker.clone());
                spread.touch();
                self.list(id);
            } else {
                self.create_targets(id, vec![info.worker.clone()]);
            }
        }
    }

    /// Writes down what was touched of an instance's tasks.
    pub(super) fn write_spread(&mut self, id: InstanceId, out: &mut Output) {
        let now = self.now;
        let Some(spread) = self.instances.get_mut(&id).and_then(|active| active.spread.as_mut()) else { return };
        if spread.dirty != Dirty::Clean {
            spread.row.next_waiting = spread.next_waiting();
            spread.measure(now);
        }
        match std::mem::replace(&mut spread.dirty, Dirty::Clean) {
            Dirty::Clean => {}
            Dirty::New => out.changes.push(Change::FanoutInserted(spread.row.clone())),
            Dirty::Changed => {
                spread.row.version += 1;
                out.changes.push(Change::FanoutUpdated(spread.row.clone()));
            }
        }
        if let Some((from, count)) = spread.copied.take().filter(|(_, count)| *count > 0) {
            out.changes.push(Change::TasksCopied { from, to: id, at: now, count });
        }
        if !spread.created.is_empty() {
            let mut rows = Vec::with_capacity(spread.created.len());
            for written in spread.created.drain(..) {
                match written {
                    Written::Row(row) => rows.push(*row),
                    Written::Live(task) => {
                        if let Some(task) = spread.live.get_mut(&task) {
                            task.dirty = Dirty::Clean;
                            rows.push(task.row.clone());
                        }
                    }
                }
            }
            out.changes.push(Change::TasksInserted(rows));
        }
        for written in spread.changed.drain(..) {
            match written {
                Written::Row(row) => out.changes.push(Change::TaskUpdated(row)),
                Written::Live(task) => {
                    if let Some(task) = spread.live.get_mut(&task) {
                        task.dirty = Dirty::Clean;
                        task.row.version += 1;
                        out.changes.push(Change::TaskUpdated(Box::new(task.row.clone())));
                    }
                }
            }
        }
        let ended = std::mem::take(&mut spread.ended);
        if spread.wants_more()
            && let Some(from) = spread.unread
        {
            spread.reading = Some((from, spread.row.next_task));
            out.effects.push(Effect::LoadTasks {
                instance: id,
                from,
                limit: super::spread::WINDOW / 2,
                bytes: super::spread::WINDOW_BYTES / 2,
            });
        }
        if ended != TaskCounts::default() {
            self.observe(Observation::TasksEnded { instance: id, since: ended }, out);
        }
    }

    /// Tasks that were read for the window.
    pub(super) fn on_tasks_loaded(
        &mut self,
        id: InstanceId,
        from: TaskId,
        tasks: Vec<Task>,
        complete: bool,
        out: &mut Output,
    ) {
        let now = self.now;
        let Some(spread) = self.instances.get_mut(&id).and_then(|active| active.spread.as_mut()) else { return };
        let Some((asked, next_when_asked)) = spread.reading.filter(|(asked, _)| *asked == from) else { return };
        spread.reading = None;
        let last = tasks.last().map(|task| task.id.next());
        spread.unread = if complete {
            let seen = last.unwrap_or(asked).max(next_when_asked);
            (spread.row.next_task > seen).then_some(seen)
        } else {
            last.or(Some(asked))
        };
        let mut ready = Vec::with_capacity(tasks.len());
        // Where another has taken over since, the store has tasks that we never made and do not count.
        let ours = spread.row.next_task;
        for row in tasks.into_iter().filter(|row| row.id < ours) {
            if row.state == TaskState::Waiting && row.attempt == 0 && !spread.live.contains_key(&row.id) {
                ready.push(row.key());
                spread.insert_live(LiveTask::new(row, Dirty::Clean, now));
            }
        }
        // To ask for the next page, and to tell what is next.
        spread.touch();
        self.list(id);
        ready.into_iter().for_each(|key| self.ready_task(key));
        self.advance(id, out);
    }
}

/// The frozen list with one more worker, that came later.
fn with_joiner(targets: Option<&str>, worker: &WorkerRef) -> Option<Arc<str>> {
    let mut targets: Value = serde_json::from_str(targets.unwrap_or("{}")).unwrap_or_else(|_| json!({}));
    let entry = json!({ "worker": worker.name, "boot": worker.boot, "connected": true, "joined_late": true });
    match targets.get_mut("workers").and_then(Value::as_array_mut) {
        Some(workers) => workers.push(entry),
        None => targets["workers"] = json!([entry]),
    }
    Some(targets.to_string().into())
}

/// The workers that were chosen, from the frozen list.
pub(super) fn chosen_workers(targets: Option<&str>) -> Vec<WorkerRef> {
    let targets: Value = serde_json::from_str(targets.unwrap_or("{}")).unwrap_or(Value::Null);
    let workers = targets.get("workers").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let chosen = workers.iter().filter(|entry| entry.get("rejected").is_none());
    let worker = |entry: &Value| {
        let name = entry.get("worker")?.as_str()?;
        let boot = entry.get("boot")?.as_str()?.parse().ok()?;
        Some(WorkerRef { name: name.into(), boot })
    };
    chosen.filter_map(worker).collect()
}

/// Names of those.
pub(super) fn chosen_names(workers: &[WorkerRef]) -> BTreeSet<Arc<str>> {
    workers.iter().map(|worker| worker.name.clone()).collect()
}
