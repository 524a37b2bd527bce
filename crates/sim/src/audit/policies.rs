//! How instances with many tasks end: as their rows and their success policy say, and not before.

use pendula_engine::Dispatch;
use pendula_model::instance::{Instance, InstanceState, Reason, TaskState};
use pendula_model::mode::{BroadcastSuccess, ExecutionMode};
use pendula_model::task::{Task, TaskCounts, TaskRole};
use pendula_model::{InstanceId, TaskKey};

use super::Audit;
use super::tasks::Spread;

impl Audit {
    /// The handler that reads all results begins, with what the store has now.
    pub(crate) fn results_are_read(&mut self, key: TaskKey, stored: &[Task]) {
        self.counts.results_read += 1;
        let left = stored.iter().find(|task| task.role.is_counted() && !task.state.is_ended());
        if let Some(task) = left {
            self.breaks("reduce_after_all_and_once", || format!("{key} began while {} was {}", task.key(), task.state));
        }
    }

    /// What leaves for a worker, or begins there, is the task as it was made.
    pub(super) fn check_given(&mut self, dispatch: &Dispatch) {
        let key = dispatch.key().key();
        let Some(spread) = self.spread(key.instance) else { return };
        let (Some(part), Some(task)) = (dispatch.part.as_ref(), spread.tasks.get(&key.task)) else {
            return self.breaks("tasks_keep_their_input", || format!("{key} is not one of the tasks"));
        };
        let is_given = part.role == task.role
            && part.name == task.name
            && part.input == task.input
            && part.emitted <= task.emitted;
        let shard = match &spread.spec.mode {
            ExecutionMode::Sharded(sharded) => Some((key.task.0 as u32, sharded.total)),
            _ => None,
        };
        let law = match (is_given, part.shard == shard) {
            (true, true) => return,
            (true, false) => "shards_complete",
            (false, _) => "tasks_keep_their_input",
        };
        let what = format!("{part:?} instead of {task:?}");
        self.breaks(law, || what);
    }

    pub(super) fn check_policy(&mut self, id: InstanceId) {
        let Some(record) = self.instances.get(&id) else { return };
        let (Some(spread), Some(row)) = (record.spread.as_deref(), record.ended.as_deref()) else { return };
        if let Some(what) = spread.missing_shard().filter(|_| row.state == InstanceState::Succeeded) {
            return self.breaks("shards_complete", || format!("{id} succeeded, and {what}"));
        }
        if !spread.may_end_as(row) {
            let (state, reason, counts) = (row.state, row.reason.clone(), spread.count());
            let frame: Vec<_> = spread.tasks.values().filter(|task| !task.role.is_counted()).collect();
            let frame: Vec<_> = frame.into_iter().map(|task| (task.role, task.state)).collect();
            let mode = spread.spec.mode.clone();
            self.breaks("policy_holds", || format!("{id} ended {state} ({reason:?}): {counts:?}, {frame:?}, {mode:?}"));
        }
    }
}

impl Spread {
    fn missing_shard(&self) -> Option<String> {
        let ExecutionMode::Sharded(sharded) = &self.spec.mode else { return None };
        if self.fanout.base.is_some() {
            return None;
        }
        let found: Vec<u64> = self.tasks.values().filter(|t| t.role == TaskRole::Shard).map(|t| t.id.0).collect();
        let all: Vec<u64> = (0..u64::from(sharded.total)).collect();
        (found != all).then(|| format!("its shards are {found:?} of {}", sharded.total))
    }

    /// Whether the end of an instance agrees with its rows.
    fn may_end_as(&self, row: &Instance) -> bool {
        let counts = self.count();
        let ended = counts.waiting + counts.running == 0;
        let enough = counts.succeeded >= self.wanted(counts);
        let unsuccessful = counts.failed + counts.lost + counts.stopped;
        let frame = |role: TaskRole, state: &[TaskState]| self.of_role(role).is_some_and(|t| state.contains(&t.state));
        let failed = |role| frame(role, &[TaskState::Failed, TaskState::Lost, TaskState::Stopped]);
        let limits = self.spec.mode.limits();
        let is_broadcast = matches!(self.spec.mode, ExecutionMode::Broadcast(_));
        let reason = row.reason.as_ref();
        match row.state {
            InstanceState::Succeeded => {
                ended && enough && self.frame().iter().all(|role| frame(*role, &[TaskState::Succeeded]))
            }
            InstanceState::Failed if reason == Some(&Reason::TASKS_FAILED) && is_broadcast => {
                ended && !enough && counts.lost < counts.total
            }
            InstanceState::Failed if reason == Some(&Reason::TASKS_FAILED) => {
                unsuccessful > limits.tolerate.at_most(counts.total) && (ended || limits.fail_fast)
            }
            InstanceState::Failed if reason == Some(&Reason::ALL_TARGETS_LOST) => {
                is_broadcast && !enough && counts.total > 0 && counts.lost == counts.total
            }
            InstanceState::Failed if reason == Some(&Reason::ROOT_FAILED) => failed(TaskRole::Root),
            InstanceState::Failed if reason == Some(&Reason::PRE_FAILED) => failed(TaskRole::Pre) && counts.total == 0,
            InstanceState::Failed if reason == Some(&Reason::POST_FAILED) => failed(TaskRole::Post) && ended,
            InstanceState::Failed if reason == Some(&Reason::REDUCE_FAILED) => failed(TaskRole::Reduce) && ended,
            InstanceState::Failed if reason == Some(&Reason::NO_WORKER) => self.tasks.is_empty(),
            InstanceState::Failed if reason == Some(&Reason::TIMEOUT) => self.spec.timeout.is_some(),
            InstanceState::Failed if reason == Some(&Reason::EXPIRED) => self.spec.expire_after.is_some(),
            // It was not let in, so nothing of it began.
            InstanceState::Failed => {
                reason == Some(&Reason::CONCURRENCY_LIMIT) && self.tasks.values().all(|task| task.attempt == 0)
            }
            InstanceState::Stopped | InstanceState::Canceled => true,
            _ => false,
        }
    }

    /// The tasks around the others, all of which must have succeeded.
    fn frame(&self) -> Vec<TaskRole> {
        let is_first = self.fanout.base.is_none();
        match &self.spec.mode {
            ExecutionMode::Broadcast(mode) => {
                let roles = [(mode.pre, TaskRole::Pre), (mode.post, TaskRole::Post)];
                roles.into_iter().filter(|(wanted, _)| *wanted).map(|(_, role)| role).collect()
            }
            ExecutionMode::Map(_) if is_first => vec![TaskRole::Root],
            ExecutionMode::MapReduce(_) if is_first => vec![TaskRole::Root, TaskRole::Reduce],
            ExecutionMode::MapReduce(_) => vec![TaskRole::Reduce],
            _ => Vec::new(),
        }
    }

    /// How many must succeed.
    fn wanted(&self, counts: TaskCounts) -> u64 {
        match &self.spec.mode {
            ExecutionMode::Broadcast(mode) => match mode.success {
                BroadcastSuccess::All => counts.total,
                BroadcastSuccess::Any => 1,
                BroadcastSuccess::AtLeast(share) => share.at_least(counts.total),
                BroadcastSuccess::Post => 0,
            },
            mode => counts.total - mode.limits().tolerate.at_most(counts.total).min(counts.total),
        }
    }
}
