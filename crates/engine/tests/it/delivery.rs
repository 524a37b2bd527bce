//! Workers that vanish, restart, reconnect, drain, and messages that do not arrive.

use std::time::Duration;

use pendula_engine::effect::Observation;
use pendula_engine::input::Outcome;
use pendula_engine::{Command, Input, Reply};
use pendula_model::instance::InstanceState::*;
use pendula_model::instance::{Reason, TaskState};
use pendula_model::job::JobSpec;
use pendula_model::policy::{Delivery, Retry};
use pendula_model::{AttemptKey, InstanceId};

use crate::script::{SECOND, Script, job};

fn once() -> JobSpec {
    JobSpec { delivery: Delivery::AtMostOnce, ..job("j") }
}

#[test]
fn work_of_a_vanished_worker_runs_again_or_is_lost_as_the_job_says() {
    for (spec, state) in [(job("j"), Dispatched), (once(), Failed)] {
        let mut script = Script::new();
        let worker = script.worker("w", 1);
        script.apply(spec);
        let id = script.run("j");
        let other = script.worker("other", 1);
        script.disconnect(worker);
        script.pass(SECOND * 10 - Duration::from_millis(1));
        assert_eq!((script.state(id), script.attempt(id)), (Dispatched, 1), "it may come back");
        script.pass(Duration::from_millis(1));
        assert_eq!(script.state(id), state);
        if state == Failed {
            assert_eq!(script.reason(id), Some(Reason::WORKER_LOST));
            assert_eq!(script.rows[&id].task_state(), TaskState::Lost);
        } else {
            assert_eq!(script.dispatched().last(), Some(&(other, id, 2)));
            assert_eq!(script.past[0].state, TaskState::Lost);
        }
    }
}

#[test]
fn a_job_that_kills_its_workers_comes_to_an_end() {
    let mut script = Script::new();
    script.apply(JobSpec { retry: Retry { lost_reruns: 2, ..Retry::default() }, ..job("j") });
    let id = script.run("j");
    for boot in 1..=3 {
        let hello = script.hello("w", boot, 1);
        let worker = script.connect(hello);
        assert_eq!(script.state(id), Dispatched);
        script.disconnect(worker);
        script.pass(SECOND * 10);
    }
    assert_eq!((script.state(id), script.reason(id)), (Failed, Some(Reason::WORKER_LOST)));
}

/// Two processes of one name are two workers: neither takes the other for its successor, and what one of them runs
/// while its connection is away is not given up before its time.
#[test]
fn a_worker_of_the_same_name_neither_inherits_nor_ends_what_another_process_runs() {
    let mut script = Script::new();
    let worker = script.worker("w", 1);
    script.apply(job("j"));
    let id = script.run("j");
    script.disconnect(worker);
    let neighbour = script.hello("w", 2, 1);
    let neighbour = script.connect(neighbour);
    assert_eq!((script.state(id), script.attempt(id)), (Dispatched, 1));
    let mut back = script.hello("w", 1, 1);
    back.running = vec![AttemptKey::root(id, 1)];
    let back = script.connect(back);
    script.end(back, id, Outcome::Succeeded);
    assert_eq!((script.state(id), script.attempt(id)), (Succeeded, 1));

    // One that does not come back loses its work in its time, and the neighbour takes it.
    script.disconnect(back);
    script.disconnect(neighbour);
    let hello = script.hello("w", 3, 1);
    let worker = script.connect(hello);
    let id = script.run("j");
    script.disconnect(worker);
    let hello = script.hello("w", 4, 1);
    let successor = script.connect(hello);
    assert_eq!(script.state(id), Dispatched);
    script.pass(SECOND * 10);
    assert_eq!(script.dispatched().last(), Some(&(successor, id, 2)));
}

#[test]
fn a_worker_that_reconnects_goes_on_with_what_it_runs_and_reports_what_it_finished() {
    let mut script = Script::new();
    let worker = script.worker("w", 3);
    script.apply(job("j"));
    let (runs, finished, unknown) = (script.run("j"), script.run("j"), script.run("j"));
    script.dispatched();
    script.disconnect(worker);
    let mut hello = script.hello("w", 1, 3);
    hello.running = vec![AttemptKey::root(runs, 1), AttemptKey::root(InstanceId(77), 1)];
    hello.finished = vec![AttemptKey::root(finished, 1)];
    let again = script.connect(hello);
    assert_eq!(script.welcomes.last(), Some(&(again, vec![(InstanceId(77), 1)])), "what is not ours is let go");
    assert_eq!((script.state(runs), script.state(finished)), (Running, Dispatched));
    assert_eq!(script.dispatched(), [(again, unknown, 1)], "S2-2: the same attempt to the same process");
    script.end(again, finished, Outcome::Succeeded);
    script.end(again, runs, Outcome::Succeeded);
    assert_eq!((script.state(runs), script.state(finished)), (Succeeded, Succeeded));
}

#[test]
fn a_running_attempt_that_its_worker_does_not_know_any_more_is_lost() {
    let mut script = Script::new();
    let worker = script.worker("w", 1);
    script.apply(once());
    let id = script.run("j");
    script.started(worker, id, 1);
    script.disconnect(worker);
    script.worker("w", 1);
    assert_eq!((script.state(id), script.reason(id)), (Failed, Some(Reason::WORKER_LOST)));
}

/// S2-2: a dispatch that was swallowed goes to the same worker with the same attempt, never to another.
#[test]
fn s2_2_a_dispatch_that_did_not_arrive_is_sent_again_to_the_same_worker() {
    let mut script = Script::new();
    let worker = script.worker("w", 2);
    script.worker("idle", 2);
    script.apply(once());
    let id = script.run("j");
    assert_eq!(script.dispatched(), [(worker, id, 1)]);
    script.alive(worker, 0, &[]);
    assert_eq!(script.dispatched(), [], "the heartbeat was written before the dispatch arrived");
    script.alive(worker, 1, &[]);
    assert_eq!(script.dispatched(), [(worker, id, 1)], "a later dispatch was seen, this one not");
    script.pass(SECOND * 6);
    script.alive(worker, 1, &[]);
    assert_eq!(script.dispatched(), [(worker, id, 1)], "it is overdue");
    script.alive(worker, 3, &[(id, 1)]);
    assert_eq!(script.dispatched(), []);
    // The acknowledgement was swallowed: the worker tells again, and is acknowledged again.
    script.end(worker, id, Outcome::Succeeded);
    script.end(worker, id, Outcome::Succeeded);
    assert_eq!(script.acks, [(id, 1), (id, 1)]);
    assert_eq!(script.dispatched(), []);
}

/// S2-3: a worker stands still for 90 s and goes on: its news is old, and it is told to let go.
#[test]
fn s2_3_late_reports_of_a_paused_worker_are_fenced() {
    let mut script = Script::new();
    let paused = script.worker("paused", 1);
    script.apply(job("j"));
    let id = script.run("j");
    script.started(paused, id, 1);
    let other = script.worker("other", 1);
    script.disconnect(paused);
    script.pass(SECOND * 90);
    assert_eq!(script.dispatched().last(), Some(&(other, id, 2)));
    let mut hello = script.hello("paused", 1, 1);
    hello.running = vec![AttemptKey::root(id, 1)];
    let back = script.connect(hello);
    assert_eq!(script.welcomes.last(), Some(&(back, vec![(id, 1)])));
    script.ended(back, id, 1, Outcome::Succeeded);
    assert_eq!((script.state(id), script.attempt(id)), (Dispatched, 2), "recorded nowhere, changes nothing");
    script.end(other, id, Outcome::Succeeded);
    assert_eq!(script.state(id), Succeeded);
}

#[test]
fn a_second_session_of_the_same_process_takes_over_from_the_first() {
    let mut script = Script::new();
    let first = script.worker("w", 1);
    script.apply(job("j"));
    let id = script.run("j");
    let mut hello = script.hello("w", 1, 1);
    hello.running = vec![AttemptKey::root(id, 1)];
    let second = script.connect(hello);
    assert_eq!(script.closed, [first]);
    script.ended(first, id, 1, Outcome::Succeeded);
    assert_eq!(script.state(id), Running, "the first session speaks for nobody any more");
    script.disconnect(first);
    script.end(second, id, Outcome::Succeeded);
    assert_eq!(script.state(id), Succeeded);
}

#[test]
fn dispatches_are_counted_anew_in_each_session() {
    let mut script = Script::new();
    let worker = script.worker("w", 9);
    script.apply(once());
    let ids: Vec<_> = (0..5).map(|_| script.run("j")).collect();
    for id in &ids[1..] {
        script.end(worker, *id, Outcome::Succeeded);
    }
    script.started(worker, ids[0], 1);
    script.disconnect(worker);
    let mut hello = script.hello("w", 1, 9);
    hello.running = vec![AttemptKey::root(ids[0], 1)];
    let again = script.connect(hello);
    // The process lost it, and has seen no dispatch in this session.
    script.alive(again, 0, &[]);
    assert_eq!((script.state(ids[0]), script.reason(ids[0])), (Failed, Some(Reason::WORKER_LOST)));
}

/// A worker cannot touch what another app's worker has, whatever name and boot it claims.
#[test]
fn workers_of_two_apps_with_one_name_and_boot_are_two() {
    let mut script = Script::new();
    let worker = script.worker("w", 1);
    script.apply(job("j"));
    let ours = script.run("j");
    let app = script.app;
    script.app = script.new_app("other");
    let hello = script.hello("w", 1, 1);
    let foreign = script.connect(hello);
    script.apply(job("theirs"));
    let theirs = script.run("theirs");
    script.disconnect(worker);
    script.disconnect(foreign);
    script.pass(SECOND * 10);
    assert_eq!((script.state(ours), script.state(theirs)), (Waiting, Waiting), "both were lost, and wait again");
    script.app = app;
}

#[test]
fn a_draining_worker_gets_nothing_new_and_what_it_hands_back_runs_elsewhere() {
    let mut script = Script::new();
    let worker = script.worker("w", 2);
    script.apply(job("j"));
    let id = script.run("j");
    let reply = script.command(Command::WorkerDrain { app: script.app, worker: "w".into() });
    assert!(matches!(reply, Reply::Done));
    assert_eq!(script.drains, [worker]);
    let second = script.run("j");
    assert_eq!(script.state(second), Waiting);
    let other = script.worker("other", 1);
    assert_eq!(script.dispatched().last(), Some(&(other, second, 1)));
    script.end(worker, id, Outcome::HandedBack);
    script.end(other, second, Outcome::Succeeded);
    assert_eq!(script.dispatched().last(), Some(&(other, id, 2)));
    assert_eq!(script.rows[&id].failures, 0, "it does not count as a failure");
}

#[test]
fn a_worker_that_drains_on_its_own_gets_nothing_new() {
    let mut script = Script::new();
    let session = script.worker("w", 2);
    script.input(Input::WorkerDraining { session });
    script.apply(job("j"));
    let id = script.run("j");
    assert_eq!(script.state(id), Waiting);
}

#[test]
fn running_work_is_adopted_after_a_restart_and_lost_when_nobody_claims_it() {
    let mut script = Script::new();
    script.worker("w", 1);
    script.worker("gone", 1);
    script.apply(once());
    let (kept, lost) = (script.run("j"), script.run("j"));
    script.restart(SECOND * 5);
    let mut hello = script.hello("w", 1, 1);
    hello.running = vec![AttemptKey::root(kept, 1)];
    let worker = script.connect(hello);
    script.pass(SECOND * 30);
    assert_eq!((script.state(lost), script.reason(lost)), (Failed, Some(Reason::WORKER_LOST)));
    assert_eq!(script.state(kept), Running);
    script.end(worker, kept, Outcome::Succeeded);
    assert_eq!(script.state(kept), Succeeded);
}

#[test]
fn that_nobody_can_run_it_is_said_once_per_job_until_somebody_does() {
    let mut script = Script::new();
    for name in ["one", "two"] {
        script.apply(job(name));
        script.run(name);
        script.run(name);
    }
    let told = |script: &Script| script.observed.iter().filter(|o| matches!(o, Observation::NoWorker { .. })).count();
    assert_eq!(told(&script), 2);
    let worker = script.worker("w", 4);
    for (session, id, _) in script.dispatched() {
        script.end(session, id, Outcome::Succeeded);
    }
    script.disconnect(worker);
    script.run("one");
    assert_eq!(told(&script), 3);
}
