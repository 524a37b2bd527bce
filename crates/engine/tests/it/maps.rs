//! Maps: tasks that emit tasks, a window of them in memory, and a reduce at the end.

use pendula_engine::input::Outcome;
use pendula_engine::{Command, Effect, Input, Output, Reply};
use pendula_model::instance::{InstanceState, Reason, TaskState};
use pendula_model::job::JobSpec;
use pendula_model::mode::{ExecutionMode, Map, Share};
use pendula_model::policy::{Backoff, Delivery, Retry};
use pendula_model::task::{Phase, TaskRole};
use pendula_model::{AttemptKey, InstanceId, SessionId};

use crate::script::{SECOND, Script, failed, job, refusal};

fn map(settings: Map) -> JobSpec {
    JobSpec { mode: ExecutionMode::Map(settings), ..job("m") }
}

fn map_reduce(settings: Map) -> JobSpec {
    JobSpec { mode: ExecutionMode::MapReduce(settings), ..job("m") }
}

/// A run whose root is with a worker.
fn begun(script: &mut Script, spec: JobSpec) -> (InstanceId, SessionId, AttemptKey) {
    script.apply(spec);
    let id = script.run("m");
    let dispatched = script.tasks_dispatched();
    let [(to, root)] = dispatched[..] else { panic!("{dispatched:?}") };
    assert_eq!(script.task(id, 0).role, TaskRole::Root);
    (id, to, root)
}

#[test]
fn sub_tasks_start_while_the_root_still_emits_and_the_end_waits_for_all() {
    let mut script = Script::new();
    script.worker("w", 10);
    let (id, to, root) = begun(&mut script, map(Map::default()));
    assert_eq!(script.map(to, root, 0, 3), Ok(3));
    assert_eq!(script.numbers_dispatched(to), [1, 2, 3]);
    for task in 1..=3 {
        script.end_task(to, id, task, Outcome::Succeeded);
    }
    assert_eq!(script.state(id), InstanceState::Running, "the root may emit more");
    assert_eq!(script.map(to, root, 3, 1), Ok(4));
    script.end_attempt(to, root, Outcome::Succeeded);
    assert_eq!(script.state(id), InstanceState::Running);
    script.finish_tasks();
    assert_eq!(script.state(id), InstanceState::Succeeded);
    let counts = script.fanouts[&id].counts;
    assert_eq!((counts.total, counts.succeeded), (4, 4));
    assert_eq!(script.rows[&id].message.as_deref(), Some("4 of 4 tasks succeeded"));
}

#[test]
fn sub_tasks_emit_to_any_depth() {
    let mut script = Script::new();
    script.worker("w", 10);
    let (id, to, root) = begun(&mut script, map_reduce(Map::default()));
    script.map(to, root, 0, 2).unwrap();
    script.end_attempt(to, root, Outcome::Succeeded);
    let mut depth = 0;
    while !script.dispatches.is_empty() && depth < 3 {
        for (to, key) in script.tasks_dispatched() {
            script.map(to, key, 0, 2).unwrap();
            script.end_attempt(to, key, Outcome::Succeeded);
        }
        depth += 1;
    }
    let roles = script.finish_tasks();
    assert_eq!(roles.get(&TaskRole::Reduce), Some(&1));
    assert_eq!(script.fanouts[&id].counts.total, 2 + 4 + 8 + 16);
    assert_eq!(script.state(id), InstanceState::Succeeded);
    assert_eq!(script.task(id, 3).parent.map(|parent| parent.0), Some(1));
}

#[test]
fn what_was_accepted_is_not_created_twice_and_a_hole_is_refused() {
    let mut script = Script::new();
    script.worker("w", 1);
    let (id, to, root) = begun(&mut script, map(Map::default()));
    assert_eq!(script.map(to, root, 0, 5), Ok(5));
    assert_eq!(script.map(to, root, 0, 5), Ok(5), "the same message again");
    assert_eq!(script.map(to, root, 3, 4), Ok(7), "partly known");
    assert!(script.map(to, root, 9, 1).unwrap_err().contains("missing"));
    assert_eq!(script.fanouts[&id].counts.total, 7);

    // Another try of the root emits the same from the beginning.
    let mut script = Script::new();
    script.worker("w", 1);
    let retry = Retry { attempts: 2, backoff: Backoff::Fixed(SECOND), ..Retry::default() };
    let (id, to, root) = begun(&mut script, JobSpec { retry, ..map(Map::default()) });
    script.map(to, root, 0, 5).unwrap();
    script.end_attempt(to, root, failed());
    script.pass(SECOND);
    let again = script.dispatches.iter().position(|d| d.part.as_ref().unwrap().role == TaskRole::Root);
    let again = match again {
        Some(position) => script.dispatches.remove(position),
        None => {
            // Its slot went to a sub-task first.
            let sub = script.dispatches.remove(0);
            script.end_attempt(to, sub.key(), Outcome::Succeeded);
            script.dispatches.pop().expect("then it is the root's turn")
        }
    };
    assert_eq!((again.attempt, again.part.as_ref().unwrap().emitted), (2, 5));
    assert!(script.map(to, root, 5, 1).unwrap_err().contains("not the worker's own"), "of the earlier try");
    assert_eq!(script.map(to, again.key(), 0, 8), Ok(8));
    script.end_attempt(to, again.key(), Outcome::Succeeded);
    script.finish_tasks();
    assert_eq!(script.fanouts[&id].counts.total, 8);
    assert_eq!(script.state(id), InstanceState::Succeeded);
}

#[test]
fn only_roots_and_sub_tasks_emit_and_not_when_they_are_stopped() {
    let mut script = Script::new();
    script.worker("w", 2);
    let (id, to, root) = begun(&mut script, map_reduce(Map::default()));
    script.end_attempt(to, root, Outcome::Succeeded);
    let (_, reduce) = script.tasks_dispatched()[0];
    assert!(script.map(to, reduce, 0, 1).unwrap_err().contains("`reduce` cannot emit"));
    script.end_attempt(to, reduce, Outcome::Succeeded);
    assert_eq!(script.state(id), InstanceState::Succeeded, "a map of nothing succeeds");

    let id = script.run("m");
    let (to, root) = script.tasks_dispatched()[0];
    script.stop(id);
    assert!(script.map(to, root, 0, 1).unwrap_err().contains("being stopped"));
}

#[test]
fn reduce_starts_once_after_everything_and_its_result_is_the_instances() {
    let mut script = Script::new();
    script.worker("w", 4);
    let (id, to, root) = begun(&mut script, map_reduce(Map::default()));
    script.map(to, root, 0, 4).unwrap();
    script.end_attempt(to, root, Outcome::Succeeded);
    for task in 1..=3 {
        script.end_task(to, id, task, Outcome::Succeeded);
    }
    script.dispatches.clear();
    assert_eq!(script.fanouts[&id].phase, Phase::Main);
    script.end_task(to, id, 4, Outcome::Succeeded);
    let dispatched = script.tasks_dispatched();
    assert_eq!(dispatched.len(), 1);
    assert_eq!((script.task(id, 5).role, script.fanouts[&id].phase), (TaskRole::Reduce, Phase::After));
    // The server dies now: the reduce is adopted, not started again.
    script.restart(SECOND);
    let mut hello = script.hello("w", 1, 4);
    hello.running = vec![dispatched[0].1];
    let to = script.connect(hello);
    assert_eq!(script.tasks_dispatched(), []);
    script.end_task(to, id, 5, Outcome::Succeeded);
    assert_eq!(script.state(id), InstanceState::Succeeded);
    assert_eq!(script.rows[&id].result.as_ref().map(|result| result.bytes.clone()), Some(b"1".to_vec()));
}

#[test]
fn a_reduce_whose_worker_dies_runs_elsewhere() {
    let mut script = Script::new();
    let w1 = script.worker("w1", 4);
    let (id, _, root) = begun(&mut script, map_reduce(Map::default()));
    script.end_attempt(w1, root, Outcome::Succeeded);
    let w2 = script.worker("w2", 4);
    script.tasks_dispatched();
    script.disconnect(w1);
    script.pass(SECOND * 11);
    let dispatched = script.tasks_dispatched();
    assert_eq!(dispatched.len(), 1);
    assert_eq!((dispatched[0].0, dispatched[0].1.attempt), (w2, 2));
    script.end_attempt(w2, dispatched[0].1, Outcome::Succeeded);
    assert_eq!(script.state(id), InstanceState::Succeeded);
}

#[test]
fn a_root_that_fails_fails_the_instance_and_stops_the_rest() {
    let mut script = Script::new();
    script.worker("w", 3);
    let (id, to, root) = begun(&mut script, map(Map { tolerate: Share::BasisPoints(10_000), ..Map::default() }));
    script.map(to, root, 0, 10).unwrap();
    script.end_attempt(to, root, failed());
    assert_eq!(script.state(id), InstanceState::Stopping);
    for (to, key) in script.tasks_dispatched() {
        script.end_attempt(to, key, Outcome::Stopped);
    }
    assert_eq!((script.state(id), script.reason(id)), (InstanceState::Failed, Some(Reason::ROOT_FAILED)));
    assert_eq!(script.fanouts[&id].counts.stopped, 10);
    assert!(script.rows[&id].message.as_ref().unwrap().contains("exit_code"));
}

#[test]
fn lost_sub_tasks_run_elsewhere_and_at_most_once_ones_do_not() {
    for delivery in [Delivery::AtLeastOnce, Delivery::AtMostOnce] {
        let mut script = Script::new();
        let w1 = script.worker("w1", 2);
        let spec = JobSpec { delivery, ..map(Map { tolerate: Share::Count(1), ..Map::default() }) };
        let (id, _, root) = begun(&mut script, spec);
        script.map(w1, root, 0, 1).unwrap();
        script.end_attempt(w1, root, Outcome::Succeeded);
        script.tasks_dispatched();
        let w2 = script.worker("w2", 2);
        script.disconnect(w1);
        script.pass(SECOND * 11);
        match delivery {
            Delivery::AtLeastOnce => {
                let dispatched = script.tasks_dispatched();
                assert_eq!((dispatched[0].0, dispatched[0].1.attempt), (w2, 2));
                script.end_attempt(w2, dispatched[0].1, Outcome::Succeeded);
            }
            Delivery::AtMostOnce => assert_eq!(script.task(id, 1).state, TaskState::Lost),
        }
        assert_eq!(script.state(id), InstanceState::Succeeded);
    }
}

/// O-13: what waits beyond the window is in the store alone, and comes when there is room.
#[test]
fn o_13_the_window_in_memory_is_bounded_and_every_task_runs_once() {
    const TOTAL: u64 = 30_000;
    let mut script = Script::new();
    script.worker("w", 100);
    let (id, to, root) = begun(&mut script, map_reduce(Map::default()));
    script.hold_tasks = true;
    for first in (0..TOTAL).step_by(1000) {
        script.map(to, root, first, 1000).unwrap();
    }
    script.end_attempt(to, root, Outcome::Succeeded);
    assert_eq!(script.held_tasks.len(), 0, "the window is full");
    let mut seen = vec![0_u8; TOTAL as usize + 2];
    let mut reads = 0;
    loop {
        for dispatch in std::mem::take(&mut script.dispatches) {
            seen[dispatch.task.0 as usize] += 1;
            script.end_attempt(dispatch.session, dispatch.key(), Outcome::Succeeded);
        }
        if let Some((instance, from, limit)) = script.held_tasks.pop() {
            reads += 1;
            assert!(limit <= 8192);
            script.answer_tasks(instance, from, limit);
        } else if script.dispatches.is_empty() {
            break;
        }
    }
    assert!(seen[1..].iter().all(|times| *times == 1), "each sub-task and the reduce");
    assert!((4..=8).contains(&reads), "{reads}");
    assert_eq!(script.state(id), InstanceState::Succeeded);
    assert_eq!(script.fanouts[&id].counts.succeeded, TOTAL);
}

#[test]
fn tasks_that_are_emitted_while_a_page_is_read_are_not_forgotten() {
    let mut script = Script::new();
    script.worker("w", 2);
    let (id, to, root) = begun(&mut script, map(Map::default()));
    script.hold_tasks = true;
    script.map(to, root, 0, 8_200).unwrap();
    // Work off enough for a page to be asked for.
    while script.held_tasks.is_empty() {
        for (to, key) in script.tasks_dispatched() {
            script.end_attempt(to, key, Outcome::Succeeded);
        }
    }
    let (instance, from, limit) = script.held_tasks.pop().unwrap();
    // More is emitted while the page is on its way.
    assert_eq!(script.map(to, root, 8_200, 700), Ok(8_900));
    script.hold_tasks = false;
    script.answer_tasks(instance, from, limit);
    script.end_attempt(to, root, Outcome::Succeeded);
    script.finish_tasks();
    assert_eq!(script.state(id), InstanceState::Succeeded);
    let counts = script.fanouts[&id].counts;
    assert_eq!(counts.succeeded, counts.total);
    assert_eq!(counts.total, 8_900);
}

#[test]
fn a_restart_in_the_middle_reads_on_where_it_stopped() {
    let mut script = Script::new();
    let w = script.worker("w", 50);
    let (id, to, root) = begun(&mut script, map_reduce(Map::default()));
    script.map(to, root, 0, 3000).unwrap();
    script.end_attempt(to, root, Outcome::Succeeded);
    for _ in 0..20 {
        for dispatch in std::mem::take(&mut script.dispatches).into_iter().take(30) {
            script.end_attempt(w, dispatch.key(), Outcome::Succeeded);
        }
    }
    let running: Vec<AttemptKey> = script
        .tasks
        .values()
        .filter(|task| task.state.is_placed())
        .map(|task| AttemptKey::new(task.key(), task.attempt))
        .collect();
    assert!(script.fanouts[&id].next_waiting.0 > 100, "{:?}", script.fanouts[&id]);
    script.dispatches.clear();
    script.restart(SECOND);
    let mut hello = script.hello("w", 1, 50);
    hello.running = running.clone();
    let to = script.connect(hello);
    for key in running {
        script.end_attempt(to, key, Outcome::Succeeded);
    }
    script.finish_tasks();
    assert_eq!(script.state(id), InstanceState::Succeeded);
    assert_eq!(script.fanouts[&id].counts.succeeded, 3000);
}

#[test]
fn a_cancel_touches_only_what_runs() {
    let mut script = Script::new();
    script.worker("w", 10);
    let (id, to, root) = begun(&mut script, map(Map::default()));
    script.map(to, root, 0, 5000).unwrap();
    script.end_attempt(to, root, Outcome::Succeeded);
    script.changes.clear();
    script.stop(id);
    for (to, key) in script.tasks_dispatched() {
        script.end_attempt(to, key, Outcome::Stopped);
    }
    assert_eq!(script.state(id), InstanceState::Stopped);
    assert!(script.changes.len() < 60, "{} changes", script.changes.len());
    assert_eq!(script.fanouts[&id].counts.stopped, 5000);
    assert_eq!((script.partition.gauges().placed, script.partition.gauges().ready), (0, 0));
}

#[test]
fn failed_sub_tasks_of_a_running_instance_are_tried_again_alone() {
    let mut script = Script::new();
    script.worker("w", 10);
    let (id, to, root) = begun(&mut script, map(Map::default()));
    script.map(to, root, 0, 3).unwrap();
    script.end_task(to, id, 1, failed());
    script.end_task(to, id, 2, failed());
    script.dispatches.clear();
    let one = Command::TasksRetry { instance: id, tasks: vec![pendula_model::TaskId(2)] };
    assert!(matches!(script.command(one.clone()), Reply::Retried(1)));
    assert_eq!(script.numbers_dispatched(to), [2]);
    assert!(matches!(script.command(one), Reply::Retried(0)), "it runs already");
    script.end_task(to, id, 2, Outcome::Succeeded);
    let all = Command::TasksRetry { instance: id, tasks: Vec::new() };
    assert!(matches!(script.command(all.clone()), Reply::Retried(1)));
    script.finish_tasks();
    script.end_task(to, id, 3, Outcome::Succeeded);
    script.end_attempt(to, root, Outcome::Succeeded);
    assert_eq!(script.state(id), InstanceState::Succeeded);
    assert!(matches!(refusal(script.command(all)), pendula_engine::effect::Refusal::NotActive));
}

#[test]
fn two_users_who_retry_the_same_task_at_once_retry_it_once() {
    let mut script = Script::new();
    script.worker("w", 10);
    let (id, to, root) = begun(&mut script, map(Map::default()));
    script.map(to, root, 0, 1).unwrap();
    script.end_task(to, id, 1, failed());
    script.dispatches.clear();
    script.hold_reads = true;
    let retry = Command::TasksRetry { instance: id, tasks: Vec::new() };
    let named = Command::TasksRetry { instance: id, tasks: vec![pendula_model::TaskId(1)] };
    let (first, second) = (script.send(retry), script.send(named));
    let needs = std::mem::take(&mut script.held_reads);
    assert_eq!(needs.len(), 2);
    // Both were read before either was carried out, and the first retry has failed again before the second comes.
    let facts: Vec<_> = needs.into_iter().map(|need| script.fact(need)).collect();
    script.hold_reads = false;
    let mut facts = facts.into_iter();
    script.input(Input::Loaded(vec![facts.next().unwrap()]));
    assert!(matches!(script.reply(first), Some(Reply::Retried(1))));
    script.end_task(to, id, 1, failed());
    script.input(Input::Loaded(vec![facts.next().unwrap()]));
    assert!(matches!(script.reply(second), Some(Reply::Retried(1))), "it was read anew");
    assert_eq!(script.task(id, 1).state, TaskState::Dispatched);
}

#[test]
fn only_what_did_not_succeed_is_repeated_and_reduce_has_all() {
    let mut script = Script::new();
    let w = script.worker("w", 10);
    let (id, to, root) = begun(&mut script, map_reduce(Map::default()));
    script.map(to, root, 0, 5).unwrap();
    script.end_attempt(to, root, Outcome::Succeeded);
    for (task, outcome) in [(1, failed()), (2, Outcome::Succeeded), (3, failed()), (4, Outcome::Succeeded)] {
        script.end_task(to, id, task, outcome);
    }
    script.end_task(to, id, 5, Outcome::Succeeded);
    assert_eq!(script.state(id), InstanceState::Failed);
    script.dispatches.clear();
    let mut request = script.run_request("m");
    (request.rerun_of, request.only_unsuccessful) = (Some(id), true);
    let again = script.run_as(request.clone());
    assert_eq!(script.numbers_dispatched(w), [1, 3]);
    assert_eq!(script.fanouts[&again].base, Some(id));
    script.end_task(w, again, 1, Outcome::Succeeded);
    script.end_task(w, again, 3, Outcome::Succeeded);
    let roles = script.finish_tasks();
    assert_eq!(roles.get(&TaskRole::Reduce), Some(&1));
    assert_eq!(script.state(again), InstanceState::Succeeded);

    // Of what runs, and of what has no tasks, nothing can be repeated alone.
    script.apply(job("j"));
    let whole = script.run("j");
    script.end(w, whole, failed());
    let mut request = script.run_request("j");
    (request.rerun_of, request.only_unsuccessful) = (Some(whole), true);
    let refused = refusal(script.command(Command::JobRun(Box::new(request))));
    assert!(refused.to_string().contains("no tasks"), "{refused}");
}

#[test]
fn a_repetition_that_waits_for_the_limit_is_the_same_after_a_restart() {
    let mut script = Script::new();
    let w = script.worker("w", 10);
    let mut spec = map(Map::default());
    spec.concurrency.limit = Some(1);
    let (id, to, root) = begun(&mut script, spec);
    script.map(to, root, 0, 2).unwrap();
    script.end_task(to, id, 1, failed());
    script.end_task(to, id, 2, Outcome::Succeeded);
    script.end_attempt(to, root, Outcome::Succeeded);
    let blocker = script.run("m");
    let mut request = script.run_request("m");
    (request.rerun_of, request.only_unsuccessful) = (Some(id), true);
    let again = script.run_as(request);
    script.dispatches.clear();
    script.disconnect(w);
    script.restart(SECOND);
    let mut hello = script.hello("w", 1, 10);
    hello.running = vec![AttemptKey::root(blocker, 1)];
    let w = script.connect(hello);
    assert_eq!(script.tasks_dispatched(), []);
    script.end_task(w, blocker, 0, Outcome::Succeeded);
    assert_eq!(script.numbers_dispatched(w), [1]);
    script.end_task(w, again, 1, Outcome::Succeeded);
    assert_eq!(script.state(again), InstanceState::Succeeded);
}

#[test]
fn one_message_with_thousands_of_ends_makes_one_row_each_and_one_count() {
    let mut script = Script::new();
    script.worker("w", 4000);
    let (id, to, root) = begun(&mut script, map(Map::default()));
    script.map(to, root, 0, 3000).unwrap();
    script.end_attempt(to, root, Outcome::Succeeded);
    let keys = script.tasks_dispatched();
    let reports = keys.iter().map(|(_, attempt)| pendula_engine::Report {
        attempt: *attempt,
        event: pendula_engine::ReportEvent::Ended {
            outcome: Outcome::Succeeded,
            message: None,
            result: None,
            started_at: None,
        },
    });
    let mut out = Output::default();
    let input = Input::Reported { session: to, reports: reports.collect() };
    script.partition.handle(script.now, input, &mut out);
    assert_eq!(out.changes.len(), 3000 + 2, "each task, the counts, the end");
    assert_eq!(out.effects.iter().filter(|effect| matches!(effect, Effect::Ack { .. })).count(), 3000);
    assert_eq!(id.partition().0, 0);
}
