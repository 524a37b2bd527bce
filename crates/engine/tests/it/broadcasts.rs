//! Broadcasts: one task on each worker, and never elsewhere.

use std::time::Duration;

use pendula_engine::effect::Observation;
use pendula_engine::input::Outcome;
use pendula_model::instance::{InstanceState, Reason, TaskState};
use pendula_model::job::JobSpec;
use pendula_model::mode::{Broadcast, BroadcastSuccess, ExecutionMode, Share};
use pendula_model::policy::{Backoff, Delivery, Retry};
use pendula_model::task::TaskRole;
use pendula_model::{AttemptKey, InstanceId, SessionId, TaskId, TaskKey};

use crate::script::{SECOND, Script, failed, job};

fn broadcast(settings: Broadcast) -> JobSpec {
    JobSpec { mode: ExecutionMode::Broadcast(settings), ..job("b") }
}

fn three_workers(script: &mut Script) -> [SessionId; 3] {
    ["w1", "w2", "w3"].map(|name| script.worker(name, 4))
}

/// Where each task was dispatched since the last look, by number.
fn placed(script: &mut Script) -> Vec<(u64, SessionId)> {
    let mut placed: Vec<_> = script.tasks_dispatched().iter().map(|(to, key)| (key.task.0, *to)).collect();
    placed.sort_unstable();
    placed
}

#[test]
fn each_worker_gets_one_task_and_the_list_is_kept() {
    let mut script = Script::new();
    let [w1, w2, w3] = three_workers(&mut script);
    let mut other = script.hello("other", 1, 4);
    other.info.processors = vec!["b".to_owned()];
    script.connect(other);
    script.apply(broadcast(Broadcast::default()));
    let id = script.run("b");
    assert_eq!(placed(&mut script), [(0, w1), (1, w2), (2, w3)]);
    let targets: serde_json::Value = serde_json::from_str(script.fanouts[&id].targets.as_ref().unwrap()).unwrap();
    let workers = targets["workers"].as_array().unwrap();
    assert_eq!(workers.len(), 4);
    assert_eq!(workers[3]["rejected"], "does not offer the processor a");
    for (worker, task) in [(w1, 0), (w2, 1), (w3, 2)] {
        assert_eq!(script.state(id), InstanceState::Running);
        script.end_task(worker, id, task, Outcome::Succeeded);
    }
    assert_eq!(script.state(id), InstanceState::Succeeded);
    assert_eq!(script.fanouts[&id].counts.succeeded, 3);
}

/// S2-1: of three targets one is lost; the others run once; the policy decides.
#[test]
fn s2_1_a_lost_target_stays_lost_and_the_declared_policy_decides() {
    for (success, ends) in [
        (BroadcastSuccess::All, InstanceState::Failed),
        (BroadcastSuccess::Any, InstanceState::Succeeded),
        (BroadcastSuccess::AtLeast(Share::Count(2)), InstanceState::Succeeded),
        (BroadcastSuccess::AtLeast(Share::BasisPoints(7000)), InstanceState::Failed),
        (BroadcastSuccess::Post, InstanceState::Succeeded),
    ] {
        let mut script = Script::new();
        let [w1, w2, w3] = three_workers(&mut script);
        script.apply(broadcast(Broadcast { success, post: true, ..Broadcast::default() }));
        let id = script.run("b");
        assert_eq!(placed(&mut script).len(), 3);
        script.disconnect(w3);
        script.pass(SECOND * 11);
        assert_eq!(placed(&mut script), [], "never executed on another worker");
        script.end_task(w1, id, 0, Outcome::Succeeded);
        script.end_task(w2, id, 1, Outcome::Succeeded);
        assert_eq!(script.task_states(id)[..3], [TaskState::Succeeded, TaskState::Succeeded, TaskState::Lost]);
        // The post step comes after all outcomes are known.
        let dispatched = script.tasks_dispatched();
        let [(to, post)] = dispatched[..] else { panic!("{dispatched:?}") };
        assert_eq!(script.tasks[&post.key()].role, TaskRole::Post);
        script.end_attempt(to, post, Outcome::Succeeded);
        assert_eq!(script.state(id), ends, "{success:?}");
    }
}

#[test]
fn s2_2_a_dispatch_or_an_end_that_was_lost_on_the_way_is_repeated_to_the_same_worker_as_the_same_attempt() {
    let mut script = Script::new();
    let [w1, ..] = three_workers(&mut script);
    script.apply(broadcast(Broadcast::default()));
    let id = script.run("b");
    placed(&mut script);
    // The dispatch never arrived: the worker's heartbeat does not know it.
    script.alive(w1, 1, &[]);
    assert_eq!(script.tasks_dispatched(), [(w1, AttemptKey::root(id, 1))]);
    // It reconnects and knows nothing of it either.
    script.disconnect(w1);
    let again = script.worker("w1", 4);
    assert_eq!(script.tasks_dispatched(), [(again, AttemptKey::root(id, 1))]);
    // The acknowledgement never arrived: the end is told twice and counted once.
    script.end_task(again, id, 0, Outcome::Succeeded);
    script.end_attempt(again, AttemptKey::root(id, 1), Outcome::Succeeded);
    assert_eq!(script.fanouts[&id].counts.succeeded, 1);
    assert_eq!(script.acks.len(), 2);
}

#[test]
fn s2_3_a_worker_that_stood_still_for_too_long_is_told_to_abort_when_it_comes_back() {
    let mut script = Script::new();
    let [.., w3] = three_workers(&mut script);
    script.apply(broadcast(Broadcast::default()));
    let id = script.run("b");
    script.disconnect(w3);
    script.pass(SECOND * 90);
    assert_eq!(script.task(id, 2).state, TaskState::Lost);
    let mut hello = script.hello("w3", 1, 4);
    let late = AttemptKey { instance: id, task: TaskId(2), attempt: 1 };
    hello.running = vec![late];
    let back = script.connect(hello);
    assert_eq!(script.welcomes.last(), Some(&(back, vec![(id, 1)])));
    // Its late report changes nothing, and is acknowledged.
    script.end_attempt(back, late, Outcome::Succeeded);
    assert_eq!(script.task(id, 2).state, TaskState::Lost);
}

#[test]
fn s2_5_retries_stay_on_their_worker_while_another_is_dead() {
    let mut script = Script::new();
    let [w1, w2, w3] = three_workers(&mut script);
    let retry = Retry { attempts: 3, backoff: Backoff::Fixed(SECOND), ..Retry::default() };
    script.apply(JobSpec { retry, ..broadcast(Broadcast::default()) });
    let id = script.run("b");
    script.disconnect(w3);
    script.end_task(w2, id, 1, Outcome::Succeeded);
    placed(&mut script);
    for attempt in 1..=3 {
        script.end_task(w1, id, 0, failed());
        script.pass(SECOND * 2);
        let expected = if attempt < 3 { vec![(0, w1)] } else { Vec::new() };
        assert_eq!(placed(&mut script), expected);
    }
    script.pass(SECOND * 10);
    assert_eq!(script.task_states(id), [TaskState::Failed, TaskState::Succeeded, TaskState::Lost]);
    assert_eq!(script.state(id), InstanceState::Failed);
    assert_eq!(script.reason(id), Some(Reason::TASKS_FAILED));
    assert_eq!(script.past.len(), 2, "the tries before the last are kept");
}

#[test]
fn s2_6_after_a_failover_the_list_is_the_stored_one_and_nothing_is_repeated() {
    for pre in [false, true] {
        let mut script = Script::new();
        let [w1, ..] = three_workers(&mut script);
        script.apply(broadcast(Broadcast { pre, ..Broadcast::default() }));
        let id = script.run("b");
        let first = u64::from(pre);
        if !pre {
            script.end_task(w1, id, 0, Outcome::Succeeded);
        }
        script.dispatches.clear();
        script.restart(SECOND * 2);
        // One comes back with its work, one is new, one comes back having lost nothing, one does not come back.
        if pre {
            let mut hello = script.hello("w1", 1, 4);
            hello.running = vec![AttemptKey::root(id, 1)];
            let w1 = script.connect(hello);
            script.end_task(w1, id, 0, Outcome::Succeeded);
        } else {
            script.worker("w1", 4);
        }
        let mut hello = script.hello("w2", 1, 4);
        if !pre {
            hello.running = vec![AttemptKey { instance: id, task: TaskId(1), attempt: 1 }];
        }
        let w2 = script.connect(hello);
        script.worker("w4", 4);
        if !pre {
            script.end_task(w2, id, 1, Outcome::Succeeded);
        }
        script.finish_tasks();
        script.pass(SECOND * 31);
        let states = script.task_states(id);
        let (succeeded, lost) = (TaskState::Succeeded, TaskState::Lost);
        assert_eq!(states[first as usize..], [succeeded, succeeded, lost], "pre: {pre}");
        assert_eq!(script.reason(id), Some(Reason::TASKS_FAILED));
    }
}

#[test]
fn s2_7_who_joins_later_takes_part_only_when_asked_for_and_once() {
    for include_late_joiners in [false, true] {
        let mut script = Script::new();
        let w1 = script.worker("w1", 4);
        script.apply(broadcast(Broadcast { include_late_joiners, ..Broadcast::default() }));
        let id = script.run("b");
        placed(&mut script);
        let w2 = script.worker("w2", 4);
        let expected = if include_late_joiners { vec![(1, w2)] } else { Vec::new() };
        assert_eq!(placed(&mut script), expected);
        if include_late_joiners {
            script.end_task(w2, id, 1, Outcome::Succeeded);
            script.disconnect(w2);
            script.worker("w2", 4);
            // Also after a restart of the server, and when a new process has the name.
            script.restart(SECOND);
            let hello = script.hello("w2", 2, 4);
            script.connect(hello);
            let mut hello = script.hello("w1", 1, 4);
            hello.running = vec![AttemptKey::root(id, 1)];
            let w1 = script.connect(hello);
            assert_eq!(placed(&mut script), []);
            script.end_task(w1, id, 0, Outcome::Succeeded);
        } else {
            script.end_task(w1, id, 0, Outcome::Succeeded);
        }
        assert_eq!(script.state(id), InstanceState::Succeeded);
        let joined = script.fanouts[&id].targets.as_ref().unwrap().contains("joined_late");
        assert_eq!(joined, include_late_joiners);
    }
}

#[test]
fn s2_12_without_workers_it_ends_with_a_named_reason_and_says_so_once() {
    let mut script = Script::new();
    script.apply(broadcast(Broadcast::default()));
    let id = script.run("b");
    assert_eq!((script.state(id), script.reason(id)), (InstanceState::Failed, Some(Reason::NO_WORKER)));
    assert_eq!(script.observed.iter().filter(|o| matches!(o, Observation::NoWorker { .. })).count(), 1);

    let workers = three_workers(&mut script);
    let id = script.run("b");
    workers.into_iter().for_each(|worker| script.disconnect(worker));
    script.pass(SECOND * 11);
    assert_eq!((script.state(id), script.reason(id)), (InstanceState::Failed, Some(Reason::ALL_TARGETS_LOST)));
    assert_eq!(script.partition.gauges().tasks_placed, 0);
    assert_eq!(script.partition.next_wakeup().map(|at| at > script.now), Some(true), "nothing goes round in circles");
}

#[test]
fn a_new_process_of_the_same_name_inherits_only_when_declared() {
    for rerun in [false, true] {
        let mut script = Script::new();
        let w1 = script.worker("w1", 4);
        script.apply(broadcast(Broadcast { rerun_on_same_worker: rerun, ..Broadcast::default() }));
        let id = script.run("b");
        placed(&mut script);
        script.disconnect(w1);
        script.pass(SECOND * 2);
        let hello = script.hello("w1", 2, 4);
        let back = script.connect(hello);
        assert_eq!(placed(&mut script), [], "nobody knows yet that the first process is gone for good");
        script.pass(SECOND * 10);
        let task = script.task(id, 0);
        if rerun {
            assert_eq!(task.target.as_ref().unwrap().boot.0, 2);
            assert_eq!(script.tasks_dispatched(), [(back, AttemptKey::root(id, 2))]);
            script.end_task(back, id, 0, Outcome::Succeeded);
            assert_eq!(script.state(id), InstanceState::Succeeded);
        } else {
            assert_eq!(task.state, TaskState::Lost);
            assert_eq!(script.reason(id), Some(Reason::ALL_TARGETS_LOST));
        }
    }
}

#[test]
fn an_orphan_waits_for_its_name_and_no_longer_than_declared() {
    for comes_back in [true, false] {
        let mut script = Script::new();
        let w1 = script.worker("w1", 4);
        let settings =
            Broadcast { rerun_on_same_worker: true, rerun_within: Some(SECOND * 60), ..Broadcast::default() };
        script.apply(broadcast(settings));
        let id = script.run("b");
        script.disconnect(w1);
        script.pass(SECOND * 20);
        script.worker("w2", 4);
        placed(&mut script);
        assert!(script.explain(id)["why"].as_str().unwrap().contains("for a worker of that name"));
        if comes_back {
            let hello = script.hello("w1", 7, 4);
            let back = script.connect(hello);
            assert_eq!(placed(&mut script), [(0, back)]);
        } else {
            script.pass(SECOND * 61);
            assert_eq!(script.task(id, 0).state, TaskState::Lost);
            assert_eq!(script.state(id), InstanceState::Failed);
        }
    }
}

#[test]
fn at_most_once_is_not_run_again_even_on_the_same_worker() {
    let mut script = Script::new();
    let w1 = script.worker("w1", 4);
    let settings = Broadcast { rerun_on_same_worker: true, ..Broadcast::default() };
    script.apply(JobSpec { delivery: Delivery::AtMostOnce, ..broadcast(settings) });
    let id = script.run("b");
    script.disconnect(w1);
    script.pass(SECOND * 11);
    assert_eq!(script.task(id, 0).state, TaskState::Lost);
    assert_eq!(script.state(id), InstanceState::Failed);
}

#[test]
fn pre_runs_first_and_alone_and_its_failure_is_the_end() {
    for fails in [false, true] {
        let mut script = Script::new();
        three_workers(&mut script);
        script.apply(broadcast(Broadcast { pre: true, ..Broadcast::default() }));
        let id = script.run("b");
        let dispatched = script.tasks_dispatched();
        let [(to, pre)] = dispatched[..] else { panic!("{dispatched:?}") };
        // Who comes now is not on the list.
        script.worker("w4", 4);
        script.end_attempt(to, pre, if fails { failed() } else { Outcome::Succeeded });
        assert_eq!(placed(&mut script).len(), if fails { 0 } else { 3 });
        if fails {
            assert_eq!((script.state(id), script.reason(id)), (InstanceState::Failed, Some(Reason::PRE_FAILED)));
        }
    }
}

#[test]
fn a_broadcast_waits_after_a_takeover_until_workers_have_come_back() {
    let mut script = Script::new();
    three_workers(&mut script);
    script.apply(broadcast(Broadcast::default()));
    script.restart(SECOND);
    script.worker("w1", 4);
    let id = script.run("b");
    assert_eq!(placed(&mut script), []);
    assert!(script.explain(id)["why"].as_str().unwrap().contains("workers have had time to come back"));
    script.pass(SECOND * 5);
    script.worker("w2", 4);
    script.pass(SECOND * 6);
    assert_eq!(placed(&mut script).len(), 2);
}

#[test]
fn a_worker_that_is_away_for_a_moment_is_a_target_and_one_that_said_goodbye_is_not() {
    let mut script = Script::new();
    let [w1, w2, w3] = three_workers(&mut script);
    script.disconnect(w2);
    script.input(pendula_engine::Input::WorkerDraining { session: w3 });
    script.disconnect(w3);
    script.apply(broadcast(Broadcast::default()));
    let id = script.run("b");
    assert_eq!(placed(&mut script), [(0, w1)]);
    assert_eq!(script.task_states(id).len(), 2);
    assert!(
        script.explain_task(id, 1)["why"].as_str().unwrap().contains("is bound to worker w2, which is not connected")
    );
    let w2 = script.worker("w2", 4);
    assert_eq!(placed(&mut script), [(1, w2)]);
}

#[test]
fn a_user_can_have_a_failed_target_tried_again_on_its_worker() {
    let mut script = Script::new();
    let [w1, w2, w3] = three_workers(&mut script);
    script.apply(broadcast(Broadcast::default()));
    let id = script.run("b");
    script.end_task(w1, id, 0, failed());
    script.end_task(w2, id, 1, Outcome::Succeeded);
    placed(&mut script);
    let retry = pendula_engine::Command::TasksRetry { instance: id, tasks: Vec::new() };
    assert!(matches!(script.command(retry), pendula_engine::Reply::Retried(1)));
    assert_eq!(placed(&mut script), [(0, w1)]);
    script.end_task(w1, id, 0, Outcome::Succeeded);
    script.end_task(w3, id, 2, Outcome::Succeeded);
    assert_eq!(script.state(id), InstanceState::Succeeded);
}

#[test]
fn a_stop_reaches_every_worker_and_ends_when_the_last_confirmed() {
    let mut script = Script::new();
    let workers = three_workers(&mut script);
    script.apply(broadcast(Broadcast::default()));
    let id = script.run("b");
    script.end_task(workers[0], id, 0, Outcome::Succeeded);
    script.stop(id);
    let told: Vec<_> = script.task_stops.iter().map(|(to, key, abandon)| (*to, key.task.0, *abandon)).collect();
    assert_eq!(told, [(workers[1], 1, false), (workers[2], 2, false)]);
    script.end_task(workers[1], id, 1, Outcome::Stopped);
    assert_eq!(script.state(id), InstanceState::Stopping);
    script.end_task(workers[2], id, 2, Outcome::Stopped);
    assert_eq!((script.state(id), script.reason(id)), (InstanceState::Stopped, Some(Reason::BY_USER)));
    assert_eq!(script.fanouts[&id].counts.stopped, 2);
}

#[test]
fn a_stop_that_one_worker_does_not_confirm_says_so() {
    let mut script = Script::new();
    let [w1, w2, _] = three_workers(&mut script);
    script.apply(JobSpec { stop_grace: Some(SECOND), ..broadcast(Broadcast::default()) });
    let id = script.run("b");
    script.stop(id);
    script.end_task(w1, id, 0, Outcome::Stopped);
    script.end_task(w2, id, 1, Outcome::Stopped);
    script.pass(Duration::from_secs(12));
    assert_eq!((script.state(id), script.reason(id)), (InstanceState::Stopped, Some(Reason::STOP_UNCONFIRMED)));
    assert_eq!(script.task(id, 2).reason, Some(Reason::STOP_UNCONFIRMED));
    let key = AttemptKey::new(TaskKey { instance: id, task: TaskId(2) }, 1);
    assert!(script.task_stops.iter().any(|(_, attempt, abandon)| *attempt == key && *abandon));
    assert!(script.rows.contains_key(&InstanceId(id.0)));
}

/// A job that keeps slots of a worker busy.
fn busy(script: &mut Script, worker: SessionId, count: usize) -> Vec<InstanceId> {
    script.apply(job("busy"));
    let busy: Vec<_> = (0..count).map(|_| script.run("busy")).collect();
    assert!(script.tasks_dispatched().iter().all(|(to, _)| *to == worker));
    busy
}

#[test]
fn a_try_is_kept_once_when_its_worker_goes_before_the_next() {
    let mut script = Script::new();
    let w1 = script.worker("w1", 4);
    let retry = Retry { attempts: 3, backoff: Backoff::Fixed(SECOND), ..Retry::default() };
    let settings = Broadcast { rerun_on_same_worker: true, ..Broadcast::default() };
    script.apply(JobSpec { retry, ..broadcast(settings) });
    let id = script.run("b");
    script.end_task(w1, id, 0, failed());
    script.disconnect(w1);
    script.pass(SECOND * 12);
    placed(&mut script);
    assert_eq!(script.past.iter().map(|past| past.attempt).collect::<Vec<_>>(), [1]);
    let hello = script.hello("w1", 2, 4);
    let back = script.connect(hello);
    assert_eq!(script.tasks_dispatched(), [(back, AttemptKey::root(id, 2))]);
}

#[test]
fn a_process_whose_name_is_anothers_since_is_no_target() {
    let mut script = Script::new();
    let w1 = script.worker("w1", 4);
    busy(&mut script, w1, 1);
    script.disconnect(w1);
    script.pass(SECOND);
    // It still has work, so it is waited for; but the name has gone over.
    let hello = script.hello("w1", 2, 4);
    let second = script.connect(hello);
    script.apply(broadcast(Broadcast::default()));
    script.run("b");
    assert_eq!(placed(&mut script), [(0, second)]);
    // Also while the successor itself is away for a moment.
    script.disconnect(second);
    let w2 = script.worker("w2", 4);
    let id = script.run("b");
    assert_eq!(placed(&mut script), [(0, w2)]);
    let boots: Vec<u64> = (0..2).map(|task| script.task(id, task).target.as_ref().unwrap().boot.0).collect();
    assert_eq!((script.task_states(id).len(), boots), (2, vec![1, 2]));
}

#[test]
fn an_orphan_still_waits_for_its_name_after_a_takeover() {
    for (given, comes_back) in [(true, true), (true, false), (false, true), (false, false)] {
        let mut script = Script::new();
        let w1 = script.worker("w1", 1);
        if !given {
            busy(&mut script, w1, 1);
        }
        let settings =
            Broadcast { rerun_on_same_worker: true, rerun_within: Some(SECOND * 60), ..Broadcast::default() };
        script.apply(broadcast(settings));
        let id = script.run("b");
        placed(&mut script);
        script.disconnect(w1);
        script.pass(SECOND * 11);
        assert_eq!((script.task(id, 0).state, script.task(id, 0).attempt), (TaskState::Waiting, u32::from(given)));
        script.restart(SECOND);
        script.pass(SECOND * 31);
        placed(&mut script);
        if comes_back {
            let hello = script.hello("w1", 7, 4);
            let back = script.connect(hello);
            let dispatched = script.tasks_dispatched();
            assert!(dispatched.iter().any(|(to, key)| *to == back && key.instance == id), "{dispatched:?}");
        } else {
            script.pass(SECOND * 30);
            assert_eq!(script.task(id, 0).state, TaskState::Lost);
            assert_eq!(script.state(id), InstanceState::Failed);
        }
    }
}

#[test]
fn a_lost_target_that_is_tried_again_without_its_worker_is_lost_again() {
    let mut script = Script::new();
    let [_, _, w3] = three_workers(&mut script);
    // A new owner would still wait for it to come back.
    script.pass(SECOND * 31);
    script.apply(broadcast(Broadcast::default()));
    let id = script.run("b");
    script.disconnect(w3);
    script.pass(SECOND * 11);
    placed(&mut script);
    let before = script.task(id, 2).version;
    let retry = pendula_engine::Command::TasksRetry { instance: id, tasks: vec![TaskId(2)] };
    assert!(matches!(script.command(retry), pendula_engine::Reply::Retried(1)));
    assert_eq!(placed(&mut script), []);
    // It waited in between, as what ended may only ever become.
    assert_eq!((script.task(id, 2).state, script.task(id, 2).version), (TaskState::Lost, before + 2));
}

#[test]
fn a_lowered_limit_holds_back_what_is_bound_and_was_not_given_to_a_worker() {
    let mut script = Script::new();
    let w1 = script.worker("w1", 2);
    let busy = busy(&mut script, w1, 2);
    script.apply(broadcast(Broadcast::default()));
    let (first, second) = (script.run("b"), script.run("b"));
    let mut limited = broadcast(Broadcast::default());
    limited.concurrency.limit = Some(1);
    script.apply(limited);
    busy.into_iter().for_each(|id| script.end(w1, id, Outcome::Succeeded));
    assert_eq!(script.tasks_dispatched(), [(w1, AttemptKey::root(first, 1))]);
    script.end_task(w1, first, 0, Outcome::Succeeded);
    assert_eq!(script.tasks_dispatched(), [(w1, AttemptKey::root(second, 1))]);
    script.end_task(w1, second, 0, Outcome::Succeeded);
    assert_eq!(script.state(second), InstanceState::Succeeded);
}

#[test]
fn a_broadcast_is_not_repeated_in_part_under_another_mode() {
    let mut script = Script::new();
    let w1 = script.worker("w1", 2);
    script.apply(broadcast(Broadcast::default()));
    let id = script.run("b");
    script.end_task(w1, id, 0, failed());
    script.apply(JobSpec { mode: ExecutionMode::Map(Default::default()), ..job("b") });
    let mut request = script.run_request("b");
    (request.rerun_of, request.only_unsuccessful) = (Some(id), true);
    let refused = crate::script::refusal(script.command(pendula_engine::Command::JobRun(Box::new(request))));
    assert!(refused.to_string().contains("only tasks of a map or of shards"), "{refused}");
}

#[test]
fn what_a_user_had_tried_again_goes_to_no_other_process_after_a_takeover_with_an_earlier_clock() {
    let mut script = Script::new();
    let [_, _, w3] = three_workers(&mut script);
    script.apply(broadcast(Broadcast::default()));
    let id = script.run("b");
    script.disconnect(w3);
    script.pass(SECOND * 11);
    assert_eq!(script.task(id, 2).state, TaskState::Lost);
    // A new owner still waits for its worker.
    let retry = pendula_engine::Command::TasksRetry { instance: id, tasks: vec![TaskId(2)] };
    script.command(retry);
    assert_eq!(script.task(id, 2).state, TaskState::Waiting);
    placed(&mut script);
    script.now = script.now.minus(SECOND * 3600);
    script.restart(SECOND);
    let hello = script.hello("w3", 2, 4);
    script.connect(hello);
    assert_eq!(placed(&mut script), []);
    assert_eq!(script.task(id, 2).target.as_ref().unwrap().boot.0, 1);
}
