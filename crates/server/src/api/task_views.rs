//! From what is stored of tasks to what is shown.

use pendula_model::TaskId;
use pendula_model::api::{AttemptView, TaskDetail, TaskView, TasksView};
use pendula_model::instance::{Instance, PastAttempt};
use pendula_model::task::{Fanout, Phase, Task, TaskCounts};

use super::views::{attempts, past_attempt, payload, placement};

/// How far the tasks of an instance are.
pub(super) fn tasks(fanout: &Fanout, instance: &Instance) -> TasksView {
    if !instance.state.is_ended() {
        return progress(fanout.counts, fanout.phase, fanout.rate_milli);
    }
    let counts = fanout.counts;
    let took = instance.started_at.zip(instance.ended_at).map(|(from, to)| to.since(from).as_secs_f64());
    let ran = (counts.succeeded + counts.failed + counts.lost) as f64;
    let rate = took.filter(|took| *took > 0.0).map_or(0.0, |took| ran / took);
    TasksView { counts, phase: fanout.phase, rate: short(rate), estimate: None, targets: None }
}

/// The same of an instance that is active.
pub(super) fn progress(counts: TaskCounts, phase: Phase, rate_milli: u64) -> TasksView {
    let (left, rate) = ((counts.waiting + counts.running) as f64, rate_milli as f64 / 1000.0);
    let is_known = phase == Phase::Main && left > 0.0 && rate > 0.0;
    TasksView { counts, phase, rate: short(rate), estimate: is_known.then(|| short(left / rate)), targets: None }
}

/// More digits than these would pretend to know.
fn short(number: f64) -> f64 {
    (number * 10.0).round() / 10.0
}

/// The frozen list of a broadcast.
pub(super) fn targets(fanout: &Fanout) -> Option<serde_json::Value> {
    placement(fanout.targets.as_deref())
}

/// The one task of a standalone instance.
pub(super) fn root_task(instance: &Instance) -> TaskView {
    TaskView {
        task: TaskId::ROOT,
        role: None,
        parent: None,
        name: "root".to_owned(),
        state: instance.task_state(),
        attempt: instance.attempt,
        failures: instance.failures,
        losses: instance.losses,
        worker: instance.worker.as_ref().map(|worker| worker.name.to_string()),
        target: None,
        due_at: Some(instance.due_at),
        started_at: instance.started_at,
        ended_at: instance.ended_at,
        reason: instance.reason.as_ref().map(ToString::to_string),
        message: instance.message.as_deref().map(str::to_owned),
    }
}

/// One task of many.
pub(super) fn task(task: &Task) -> TaskView {
    TaskView {
        task: task.id,
        role: Some(task.role),
        parent: task.parent,
        name: task.name.to_string(),
        state: task.state,
        attempt: task.attempt,
        failures: task.failures,
        losses: task.losses,
        worker: task.worker.as_ref().map(|worker| worker.name.to_string()),
        target: task.target.as_ref().map(|worker| worker.name.to_string()),
        due_at: Some(task.due_at),
        started_at: task.started_at,
        ended_at: task.ended_at,
        reason: task.reason.as_ref().map(ToString::to_string),
        message: task.message.as_deref().map(str::to_owned),
    }
}

/// All of the one task of a standalone instance.
pub(super) fn root_task_detail(instance: &Instance, past: Vec<PastAttempt>) -> TaskDetail {
    TaskDetail {
        instance: instance.id,
        task: root_task(instance),
        emitted: 0,
        input: None,
        result: instance.result.as_ref().map(payload),
        attempts: attempts(instance, past),
    }
}

/// All of one task of many.
pub(super) fn task_detail(row: &Task, past: Vec<PastAttempt>) -> TaskDetail {
    let latest_is_past = past.last().is_some_and(|last| last.attempt >= row.attempt);
    let mut attempts: Vec<_> = past.into_iter().map(past_attempt).collect();
    let view = task(row);
    if row.attempt > 0 && !latest_is_past {
        attempts.push(AttemptView {
            attempt: row.attempt,
            state: view.state,
            reason: view.reason.clone(),
            message: view.message.clone(),
            worker: view.worker.clone(),
            worker_boot: row.worker.as_ref().map(|worker| worker.boot.to_string()),
            dispatched_at: row.dispatched_at,
            started_at: row.started_at,
            ended_at: row.ended_at,
            placement: placement(row.placement.as_deref()),
        });
    }
    TaskDetail {
        instance: row.instance,
        task: view,
        emitted: row.emitted,
        input: row.input.as_deref().map(payload),
        result: row.result.as_deref().map(payload),
        attempts,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_estimated_only_while_it_can_be() {
        let counts = TaskCounts { total: 100, waiting: 50, running: 10, succeeded: 40, ..TaskCounts::default() };
        let view = progress(counts, Phase::Main, 4_000);
        assert_eq!((view.rate, view.estimate), (4.0, Some(15.0)));
        assert_eq!(progress(counts, Phase::Main, 0).estimate, None);
        assert_eq!(progress(counts, Phase::After, 4_000).estimate, None);
        let over = TaskCounts { total: 40, succeeded: 40, ..TaskCounts::default() };
        assert_eq!(progress(over, Phase::Main, 4_000).estimate, None);
    }
}
