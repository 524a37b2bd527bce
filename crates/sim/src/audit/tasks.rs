//! Tasks of instances with many: their rows, what counts them, and what each may become.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use pendula_model::instance::{InstanceState, PastAttempt, Reason, TaskState};
use pendula_model::job::JobSpec;
use pendula_model::task::{Fanout, Task, TaskCounts, TaskRole};
use pendula_model::worker::WorkerRef;
use pendula_model::{AppId, InstanceId, TaskId, TaskKey, Timestamp};

use super::fires::Touched;
use super::{Audit, is_unconfirmed};
use crate::worker::position_of;

/// What is known of an instance's tasks from their committed rows.
#[derive(Debug)]
pub(crate) struct Spread {
    pub(super) spec: Arc<JobSpec>,
    pub(super) fanout: Fanout,
    pub(crate) tasks: BTreeMap<TaskId, Task>,
    /// Which positions of what a task emits have a sub-task.
    emitted: BTreeMap<TaskId, BTreeSet<u64>>,
    /// How often users had tasks of it tried again, and which ones.
    pub(super) retried: BTreeMap<TaskId, u32>,
    /// How often the last task succeeded.
    last_succeeded: u32,
}

/// What is known of the attempts at one task, standalone ones included.
#[derive(Debug, Default)]
pub(crate) struct Attempts {
    pub(super) newest: u32,
    /// Who has it now.
    pub(super) with: Option<WorkerRef>,
    /// Who was given which attempt.
    pub(super) placed: Vec<(u32, WorkerRef)>,
    /// Attempts that were written off though they may still run: lost, or their stop was not confirmed.
    pub(super) written_off: BTreeSet<u32>,
    /// Where handlers began to work on it, by boot.
    pub(super) starts: Vec<u64>,
    /// Tries that were followed by another, and who had them.
    pub(super) past: Vec<Option<WorkerRef>>,
}

impl Spread {
    /// The tasks proper, counted.
    pub(super) fn count(&self) -> TaskCounts {
        let mut counts = TaskCounts::default();
        for task in self.tasks.values().filter(|task| task.role.is_counted()) {
            counts.total += 1;
            *counts.of(task.state) += 1;
        }
        counts
    }

    /// The first task of a role.
    pub(super) fn of_role(&self, role: TaskRole) -> Option<&Task> {
        self.tasks.values().find(|task| task.role == role)
    }
}

impl Audit {
    pub(super) fn spread(&self, id: InstanceId) -> Option<&Spread> {
        self.instances.get(&id)?.spread.as_deref()
    }

    /// The app and the name of the job that an instance is of.
    pub(crate) fn job_of(&self, id: InstanceId) -> Option<(AppId, String)> {
        let job = &self.jobs.get(&self.instances.get(&id)?.job)?.job;
        Some((job.app, job.spec.name.clone()))
    }

    /// The latest active instance with tasks that somebody may want tried again.
    pub(crate) fn troubled(&self) -> Option<InstanceId> {
        let active = self.instances.iter().rev().take(20).filter(|(_, record)| record.state.is_placed());
        let failed = |task: &Task| matches!(task.state, TaskState::Failed | TaskState::Lost) && task.role.is_counted();
        let mut troubled = active.filter(|(_, r)| r.spread.as_ref().is_some_and(|s| s.tasks.values().any(failed)));
        troubled.next().map(|(id, _)| *id)
    }

    /// Sub-tasks of a task that are on disk.
    pub(crate) fn emitted(&self, key: TaskKey) -> Option<u64> {
        Some(self.spread(key.instance)?.tasks.get(&key.task)?.emitted)
    }

    pub(super) fn on_fanout_inserted(&mut self, fanout: &Fanout, touched: &mut Touched) {
        let Some(record) = self.instances.get_mut(&fanout.instance) else {
            return self.breaks("commits_are_accepted", || format!("tasks without an instance: {fanout:?}"));
        };
        let Some(spec) = self.specs.get(&(record.job, record.revision)).cloned() else { return };
        self.counts.begun(&spec.mode);
        self.counts.reruns += u64::from(fanout.base.is_some());
        let spread = Spread {
            spec,
            fanout: fanout.clone(),
            tasks: BTreeMap::new(),
            emitted: BTreeMap::new(),
            retried: BTreeMap::new(),
            last_succeeded: 0,
        };
        let was_there = record.spread.replace(Box::new(spread)).is_some();
        touched.spreads.insert(fanout.instance);
        if was_there || record.ended.is_some() {
            self.breaks("ended_once", || format!("{} began twice, or after its end", fanout.instance));
        }
    }

    pub(super) fn on_fanout_updated(&mut self, fanout: &Fanout, touched: &mut Touched) {
        let id = fanout.instance;
        let Some(record) = self.instances.get_mut(&id) else { return };
        let has_ended = record.ended.is_some();
        let Some(spread) = record.spread.as_mut() else {
            return self.breaks("commits_are_accepted", || format!("{id} has no tasks to count"));
        };
        let before = std::mem::replace(&mut spread.fanout, fanout.clone());
        let late =
            matches!(&spread.spec.mode, pendula_model::mode::ExecutionMode::Broadcast(b) if b.include_late_joiners);
        touched.spreads.insert(id);
        if has_ended {
            self.breaks("ended_once", || format!("the tasks of {id} were counted again after its end"));
        }
        if fanout.counts.total < before.counts.total || fanout.next_task < before.next_task {
            self.breaks("counts_match_rows", || format!("{before:?} shrank to {fanout:?}"));
        }
        if before.targets != fanout.targets && !late {
            self.breaks("targets_are_frozen", || format!("{:?} became {:?}", before.targets, fanout.targets));
        }
    }

    pub(super) fn on_tasks_inserted(&mut self, rows: &[Task], touched: &mut Touched) {
        for row in rows {
            self.on_task_inserted(row, touched);
        }
    }

    fn on_task_inserted(&mut self, row: &Task, touched: &mut Touched) {
        let key = row.key();
        let Some(record) = self.instances.get_mut(&key.instance) else { return };
        let has_ended = record.ended.is_some();
        let Some(spread) = record.spread.as_mut() else {
            return self.breaks("commits_are_accepted", || format!("{key} was made before its instance began"));
        };
        touched.spreads.insert(key.instance);
        let twice = spread.tasks.insert(key.task, row.clone()).is_some();
        let position = position_of(&row.name).filter(|_| row.role == TaskRole::Sub);
        let again = position.is_some_and(|(parent, position)| {
            row.parent != Some(parent) || !spread.emitted.entry(parent).or_default().insert(position)
        });
        self.counts.sub_tasks += u64::from(row.role == TaskRole::Sub);
        let last = matches!(row.role, TaskRole::Post | TaskRole::Reduce);
        let several = last && spread.tasks.values().filter(|task| task.role == row.role).count() > 1;
        if has_ended {
            self.breaks("ended_once", || format!("task {key} was made after the end of its instance"));
        }
        if twice || again {
            self.breaks("sub_task_created_once", || format!("task {key} `{}` was made again", row.name));
        }
        if several {
            self.breaks("reduce_after_all_and_once", || format!("{key} is the second {}", row.role));
        }
        self.check_new_target(row);
        self.follow(row, touched);
    }

    /// What did not succeed of one instance becomes tasks of another.
    pub(super) fn on_tasks_copied(
        &mut self,
        from: InstanceId,
        to: InstanceId,
        at: Timestamp,
        count: u64,
        touched: &mut Touched,
    ) {
        let Some(base) = self.spread(from) else {
            return self.breaks("commits_are_accepted", || format!("{from} has no tasks to repeat"));
        };
        let unsuccessful =
            base.tasks.values().filter(|task| task.role.is_counted() && task.state != TaskState::Succeeded);
        let copies: Vec<Task> = unsuccessful
            .map(|task| Task {
                input: task.input.clone(),
                parent: task.parent,
                target: task.target.clone(),
                // What it emitted is there: repeated where it did not succeed, and else not to be made again.
                emitted: task.emitted,
                ..Task::new(to, task.id, task.role, task.name.clone(), at)
            })
            .collect();
        if copies.len() as u64 != count {
            self.breaks("counts_match_rows", || format!("{count} tasks to repeat, and there are {}", copies.len()));
        }
        copies.iter().for_each(|copy| self.on_task_inserted(copy, touched));
    }

    pub(super) fn on_task(&mut self, row: &Task, touched: &mut Touched) {
        let key = row.key();
        let asked = self.retries_asked.get(&key.instance);
        let is_asked =
            asked.is_some_and(|asked| asked.iter().any(|tasks| tasks.is_empty() || tasks.contains(&key.task)));
        let Some(record) = self.instances.get_mut(&key.instance) else { return };
        let has_ended = record.ended.is_some();
        let is_stopped = record.stopped_by_user;
        let Some(spread) = record.spread.as_mut() else { return };
        let Some(before) = spread.tasks.insert(key.task, row.clone()) else {
            return self.breaks("commits_are_accepted", || format!("task {key} was changed before it was made"));
        };
        touched.spreads.insert(key.instance);
        let moves_again = before.state.is_ended();
        if moves_again {
            *spread.retried.entry(key.task).or_default() += 1;
            self.counts.tasks_retried += 1;
        }
        let succeeds_again =
            matches!(row.role, TaskRole::Post | TaskRole::Reduce) && row.state == TaskState::Succeeded && {
                spread.last_succeeded += 1;
                spread.last_succeeded > 1
            };
        if has_ended || (moves_again && (row.state.is_ended() || !is_asked)) {
            self.breaks("ended_once", || {
                format!(
                    "task {key} was {}, its instance had ended: {has_ended}, and it was written again as {}",
                    before.state, row.state
                )
            });
        }
        if is_stopped && row.attempt > before.attempt {
            self.breaks("stops_are_carried_out", || format!("a user stopped its instance, and {row:?} was placed"));
        }
        if succeeds_again {
            self.breaks("reduce_after_all_and_once", || format!("{key} succeeded twice"));
        }
        if row.emitted < before.emitted {
            self.breaks("sub_task_created_once", || format!("{key} emitted {}, now {}", before.emitted, row.emitted));
        }
        let given = |task: &Task| (task.role, task.parent, task.name.clone(), task.input.clone());
        if given(&before) != given(row) {
            self.breaks("tasks_keep_their_input", || format!("{before:?} became {row:?}"));
        }
        if before.target != row.target {
            self.check_rebound(&before, row);
        }
        self.follow(row, touched);
        if row.state.is_ended() {
            self.counts.lost_targets += u64::from(row.role == TaskRole::Target && row.state == TaskState::Lost);
            let reason = row.reason.as_ref().unwrap_or(&Reason::FAILED);
            let unconfirmed = *reason == Reason::TIMEOUT && is_unconfirmed(row.message.as_deref());
            if unconfirmed || [Reason::WORKER_LOST, Reason::STOP_UNCONFIRMED].contains(reason) {
                let worker = row.worker.as_ref().or(row.target.as_ref());
                let attempt = before.state.is_placed().then_some(row.attempt);
                self.write_off(key, attempt, worker, reason);
            }
            self.check_outcome(key, row.attempt, reason, row.state);
        }
    }

    /// Who has it now.
    fn follow(&mut self, row: &Task, touched: &mut Touched) {
        let key = row.key();
        let with = row.worker.as_ref().filter(|_| row.state.is_placed());
        self.moved(key, row.attempt, row.worker.as_ref(), with, touched);
        self.check_bound(row);
    }

    /// A row says who has, or had, which attempt at a task.
    pub(super) fn moved(
        &mut self,
        key: TaskKey,
        attempt: u32,
        worker: Option<&WorkerRef>,
        with: Option<&WorkerRef>,
        touched: &mut Touched,
    ) {
        let attempts = self.attempts.entry(key).or_default();
        if attempt > attempts.newest
            && let Some(worker) = worker
        {
            attempts.placed.push((attempt, worker.clone()));
        }
        attempts.newest = attempt;
        if attempts.with.as_ref() == with {
            return;
        }
        let had = std::mem::replace(&mut attempts.with, with.cloned());
        if let Some(had) = had
            && let Some(held) = self.held.get_mut(&had)
        {
            held.remove(&key);
        }
        if let Some(with) = with {
            self.held.entry(with.clone()).or_default().insert(key);
            touched.workers.insert(with.clone());
        }
    }

    /// A try that is followed by another.
    pub(super) fn on_past(&mut self, past: &PastAttempt) {
        let key = TaskKey { instance: past.instance, task: past.task };
        self.attempts.entry(key).or_default().past.push(past.worker.clone());
        let unconfirmed = past.reason == Reason::TIMEOUT && is_unconfirmed(past.message.as_deref());
        if past.reason == Reason::WORKER_LOST || unconfirmed {
            self.write_off(key, Some(past.attempt), past.worker.as_ref(), &past.reason);
        }
        self.check_outcome(key, past.attempt, &past.reason, TaskState::Failed);
    }

    /// What an ended instance leaves behind is with nobody any more, as far as slots are concerned.
    pub(super) fn let_go(&mut self, id: InstanceId, touched: &mut Touched) {
        let Some(spread) = self.spread(id) else { return };
        let placed: Vec<(TaskKey, u32)> = spread
            .tasks
            .values()
            .filter(|task| task.state.is_placed())
            .map(|task| (task.key(), task.attempt))
            .collect();
        for (key, attempt) in placed {
            self.moved(key, attempt, None, None, touched);
        }
    }

    /// After a batch: rows, counts and limits agree.
    pub(super) fn check_spreads(&mut self, touched: &Touched) {
        for id in &touched.spreads {
            let Some(record) = self.instances.get(id) else { continue };
            let Some(spread) = record.spread.as_deref() else { continue };
            let has_ended = record.ended.is_some();
            let goes_on = !has_ended && record.state != InstanceState::Stopping;
            let rows = spread.count();
            let rows = if has_ended { rows.settled() } else { rows };
            let fault = if rows != spread.fanout.counts {
                Some(("counts_match_rows", format!("{id} has {rows:?}, counted are {:?}", spread.fanout.counts)))
            } else {
                spread.fault(goes_on)
            };
            if let Some((law, what)) = fault {
                return self.breaks(law, || format!("{id}: {what}"));
            }
        }
        self.check_slots(touched);
        for id in &touched.ended {
            self.check_policy(*id);
        }
    }

    fn check_slots(&mut self, touched: &Touched) {
        for worker in &touched.workers {
            let held = self.held.get(worker).map_or(0, BTreeSet::len);
            let slots = self.processes.get(&worker.boot.0).map_or(0, |(_, slots)| *slots as usize);
            if held > slots {
                return self.breaks("task_limits_never_exceeded", || format!("{worker} has {held} of {slots} slots"));
            }
        }
    }

    /// What the store has of a task at the end is what was committed.
    pub(crate) fn compare_task(&mut self, stored: &Task) {
        let committed = self.spread(stored.instance).and_then(|spread| spread.tasks.get(&stored.id)).cloned();
        if committed.as_ref() != Some(stored) {
            self.breaks("memory_matches_store", || format!("committed {committed:?}\nstored {stored:?}"));
        }
    }

    /// The store has as many tasks as were committed.
    pub(crate) fn compare_count(&mut self, stored: usize) {
        let spreads = self.instances.values().filter_map(|record| record.spread.as_deref());
        let committed: usize = spreads.map(|spread| spread.tasks.len()).sum();
        if committed != stored {
            self.breaks("memory_matches_store", || format!("{committed} tasks were committed, {stored} are stored"));
        }
    }
}

impl Spread {
    /// What is wrong with it by itself, if something is.
    fn fault(&self, goes_on: bool) -> Option<(&'static str, String)> {
        for (parent, positions) in &self.emitted {
            let Some(parent) = self.tasks.get(parent) else { continue };
            let is_whole = positions.last().is_some_and(|last| *last + 1 == positions.len() as u64);
            let counted = parent.emitted == positions.len() as u64;
            // A repetition has only those of them that did not succeed.
            let is_repeated = self.fanout.base.is_some();
            let counted = counted || (is_repeated && parent.emitted >= positions.len() as u64);
            if !counted || !(is_whole || is_repeated) {
                let what = format!("{} emitted {}, there are {positions:?}", parent.id, parent.emitted);
                return Some(("sub_task_created_once", what));
            }
        }
        if !goes_on {
            return None;
        }
        let is_fresh = |task: &&Task| task.state == TaskState::Waiting && !task.is_under_way();
        if let Some(task) = self.tasks.range(..self.fanout.next_waiting).map(|(_, task)| task).find(is_fresh) {
            let next = self.fanout.next_waiting;
            return Some(("waiting_tasks_are_found", format!("{} waits, and reading begins at {next}", task.id)));
        }
        let mut held: BTreeMap<&WorkerRef, u32> = BTreeMap::new();
        for task in self.tasks.values().filter(|task| task.state.is_placed()) {
            *held.entry(task.worker.as_ref()?).or_default() += 1;
        }
        let limits = self.spec.mode.limits();
        let most = held.values().max().copied().unwrap_or_default();
        let over = limits.per_worker.is_some_and(|limit| most > limit)
            || limits.max_workers.is_some_and(|limit| held.len() > limit as usize);
        over.then(|| ("task_limits_never_exceeded", format!("{held:?} with {limits:?}")))
    }
}
