//! Shards: a fixed number of tasks that may move and keep their index.

use pendula_engine::input::Outcome;
use pendula_model::instance::{InstanceState, Reason, TaskState};
use pendula_model::job::JobSpec;
use pendula_model::mode::{ExecutionMode, Sharded, Share};

use crate::script::{SECOND, Script, failed, job};

fn sharded(total: u32) -> Sharded {
    Sharded {
        total,
        per_worker: None,
        max_workers: None,
        tolerate: Share::Count(0),
        fail_fast: false,
        task_timeout: None,
    }
}

fn spec(settings: Sharded) -> JobSpec {
    JobSpec { mode: ExecutionMode::Sharded(settings), ..job("s") }
}

/// S2-11: a lost shard runs elsewhere with the same index and total.
#[test]
fn s2_11_a_lost_shard_moves_and_keeps_its_index() {
    let mut script = Script::new();
    let w1 = script.worker("w1", 2);
    let w2 = script.worker("w2", 2);
    script.apply(spec(sharded(4)));
    let id = script.run("s");
    let shards: Vec<_> = script.dispatches.drain(..).map(|d| (d.session, d.task.0, d.part.unwrap().shard)).collect();
    let with_w2: Vec<u64> = shards.iter().filter(|(to, ..)| *to == w2).map(|(_, index, _)| *index).collect();
    assert!(shards.iter().all(|(_, index, shard)| *shard == Some((*index as u32, 4))));
    assert_eq!(with_w2.len(), 2);
    script.disconnect(w2);
    for index in (0..4).filter(|index| !with_w2.contains(index)) {
        script.end_task(w1, id, index, Outcome::Succeeded);
    }
    script.pass(SECOND * 11);
    let moved: Vec<_> =
        script.dispatches.drain(..).map(|d| (d.session, d.task.0, d.attempt, d.part.unwrap().shard)).collect();
    let expected: Vec<_> = with_w2.iter().map(|index| (w1, *index, 2, Some((*index as u32, 4)))).collect();
    assert_eq!(moved, expected);
    for index in with_w2 {
        script.end_task(w1, id, index, Outcome::Succeeded);
    }
    assert_eq!(script.state(id), InstanceState::Succeeded);
    assert_eq!(script.fanouts[&id].counts.succeeded, 4);
}

#[test]
fn limits_per_worker_and_of_workers_hold_and_newcomers_replace_who_left() {
    let mut script = Script::new();
    let [w1, w2, w3] = ["w1", "w2", "w3"].map(|name| script.worker(name, 10));
    script.apply(spec(Sharded { per_worker: Some(2), max_workers: Some(2), ..sharded(10) }));
    let id = script.run("s");
    let first: Vec<_> = script.tasks_dispatched();
    assert_eq!(first.len(), 4);
    let used: std::collections::BTreeSet<_> = first.iter().map(|(to, _)| *to).collect();
    assert_eq!(used.len(), 2);
    assert!(script.explain(id)["why"].as_str().unwrap().contains("may not take it now"), "{}", script.explain(id));
    // Who ends one gets one.
    let (to, key) = first[0];
    script.end_attempt(to, key, Outcome::Succeeded);
    assert_eq!(script.tasks_dispatched().len(), 1);
    // One leaves for good: another takes its place.
    let gone = *used.iter().next().unwrap();
    let left = *used.iter().next_back().unwrap();
    script.disconnect(gone);
    script.pass(SECOND * 11);
    let replaced = script.tasks_dispatched();
    let third = [w1, w2, w3].into_iter().find(|w| *w != gone && *w != left).unwrap();
    assert!(replaced.iter().all(|(to, _)| *to == third), "{replaced:?}");
    assert_eq!(replaced.len(), 2);
}

#[test]
fn tolerated_failures_do_not_fail_it_and_one_more_does() {
    for (failures, fail_fast, ends) in
        [(2, false, InstanceState::Succeeded), (3, false, InstanceState::Failed), (3, true, InstanceState::Failed)]
    {
        let mut script = Script::new();
        let worker = script.worker("w", 5);
        script.apply(spec(Sharded { tolerate: Share::BasisPoints(2000), fail_fast, ..sharded(10) }));
        let id = script.run("s");
        let mut ended = 0;
        while !script.rows[&id].state.is_ended() {
            let Some((_, key)) = script.dispatches.first().map(|d| (d.session, d.key())) else { break };
            script.dispatches.remove(0);
            let outcome = if ended < failures { failed() } else { Outcome::Succeeded };
            if script.state(id) == InstanceState::Stopping {
                script.end_attempt(worker, key, Outcome::Stopped);
            } else {
                script.end_attempt(worker, key, outcome);
            }
            ended += 1;
        }
        assert_eq!(script.state(id), ends, "{failures} {fail_fast}");
        let expected = (ends == InstanceState::Failed).then_some(Reason::TASKS_FAILED);
        assert_eq!(script.reason(id), expected);
        let states = script.task_states(id);
        let run = states.iter().filter(|state| matches!(state, TaskState::Succeeded | TaskState::Failed)).count();
        assert_eq!(run < 10, fail_fast, "the rest is stopped only when asked for: {states:?}");
        assert_eq!(script.partition.gauges().tasks_placed, 0);
    }
}

#[test]
fn a_task_that_runs_too_long_is_stopped_alone_and_tried_again() {
    let mut script = Script::new();
    let worker = script.worker("w", 5);
    let mut spec = spec(Sharded { task_timeout: Some(SECOND * 5), ..sharded(2) });
    spec.retry.attempts = 2;
    spec.retry.backoff = pendula_model::policy::Backoff::Fixed(SECOND);
    script.apply(spec);
    let id = script.run("s");
    script.tasks_dispatched();
    script.end_task(worker, id, 0, Outcome::Succeeded);
    script.pass(SECOND * 6);
    assert_eq!(script.task_stops.iter().map(|(_, key, _)| key.task.0).collect::<Vec<_>>(), [1]);
    script.end_task(worker, id, 1, Outcome::Stopped);
    assert_eq!(script.past.last().unwrap().reason, Reason::TIMEOUT);
    script.pass(SECOND * 2);
    assert_eq!(script.tasks_dispatched().len(), 1);
    script.end_task(worker, id, 1, Outcome::Succeeded);
    assert_eq!(script.state(id), InstanceState::Succeeded);
}

#[test]
fn the_whole_instance_has_a_timeout_too() {
    let mut script = Script::new();
    let worker = script.worker("w", 1);
    script.apply(JobSpec { timeout: Some(SECOND * 5), ..spec(sharded(3)) });
    let id = script.run("s");
    script.end_task(worker, id, 0, Outcome::Succeeded);
    script.pass(SECOND * 6);
    script.end_task(worker, id, 1, Outcome::Stopped);
    assert_eq!((script.state(id), script.reason(id)), (InstanceState::Failed, Some(Reason::TIMEOUT)));
    assert_eq!(script.fanouts[&id].counts.stopped, 2, "one was stopped, one never ran");
}

#[test]
fn a_restart_goes_on_with_what_runs_what_waits_and_what_backs_off() {
    let mut script = Script::new();
    let worker = script.worker("w", 2);
    let mut spec = spec(sharded(6));
    spec.retry.attempts = 2;
    script.apply(spec);
    let id = script.run("s");
    script.end_task(worker, id, 0, failed());
    script.end_task(worker, id, 1, Outcome::Succeeded);
    // 2 and 3 run, 0 waits for its second try, 4 and 5 were never placed.
    script.dispatches.clear();
    script.restart(SECOND);
    let mut hello = script.hello("w", 1, 2);
    hello.running = vec![script_attempt(&script, id, 2), script_attempt(&script, id, 3)];
    script.connect(hello);
    assert_eq!(script.tasks_dispatched(), []);
    let roles = {
        let worker = pendula_model::SessionId(2);
        script.end_task(worker, id, 2, Outcome::Succeeded);
        script.end_task(worker, id, 3, Outcome::Succeeded);
        script.pass(SECOND * 10);
        script.finish_tasks()
    };
    assert_eq!(roles.values().sum::<usize>(), 3);
    assert_eq!(script.state(id), InstanceState::Succeeded);
    assert_eq!(script.fanouts[&id].counts.succeeded, 6);
}

fn script_attempt(script: &Script, id: pendula_model::InstanceId, task: u64) -> pendula_model::AttemptKey {
    let task = script.task(id, task);
    pendula_model::AttemptKey::new(task.key(), task.attempt)
}

#[test]
fn a_back_off_ends_when_the_clock_shows_its_time_also_after_a_jump() {
    let mut script = Script::new();
    let worker = script.worker("w", 2);
    let mut spec = spec(sharded(1));
    spec.retry.attempts = 2;
    spec.retry.backoff = pendula_model::policy::Backoff::Fixed(SECOND * 5);
    script.apply(spec);
    let id = script.run("s");
    script.tasks_dispatched();
    script.end_task(worker, id, 0, failed());
    script.now = script.now.plus(SECOND * 3600);
    script.input(pendula_engine::Input::ClockJumped { by: SECOND * 3600 });
    assert_eq!(script.tasks_dispatched().len(), 1);
}

#[test]
fn a_lowered_limit_holds_back_an_instance_whose_tasks_all_wait() {
    let mut script = Script::new();
    let w1 = script.worker("w1", 1);
    script.apply(spec(sharded(1)));
    let (first, second) = (script.run("s"), script.run("s"));
    let mut limited = spec(sharded(1));
    limited.concurrency.limit = Some(1);
    script.apply(limited);
    script.tasks_dispatched();
    let w2 = script.worker("w2", 1);
    assert_eq!(script.tasks_dispatched(), []);
    script.end_task(w1, first, 0, Outcome::Succeeded);
    let dispatched = script.tasks_dispatched();
    assert_eq!(dispatched.len(), 1);
    script.end_task(dispatched[0].0, second, 0, Outcome::Succeeded);
    assert_eq!(script.state(second), InstanceState::Succeeded);
    assert!([w1, w2].contains(&dispatched[0].0));
}
