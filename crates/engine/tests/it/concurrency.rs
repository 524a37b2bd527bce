//! The job's limit and what happens above it; priorities; placement.

use pendula_engine::input::Outcome;
use pendula_model::AttemptKey;
use pendula_model::instance::InstanceState::*;
use pendula_model::instance::Reason;
use pendula_model::job::JobSpec;
use pendula_model::policy::{Concurrency, Overflow, Retry};

use crate::script::{SECOND, Script, after_end, failed, job};

fn limited(limit: u32, overflow: Overflow) -> JobSpec {
    let concurrency = Concurrency { limit: Some(limit), overflow, ..Concurrency::default() };
    JobSpec { concurrency, ..job("j") }
}

#[test]
fn queue_lets_the_rest_wait_and_serves_first_come_first() {
    let mut script = Script::new();
    let worker = script.worker("w", 10);
    script.apply(limited(2, Overflow::Queue));
    let ids: Vec<_> = (0..5).map(|_| script.run("j")).collect();
    assert_eq!(
        ids.iter().map(|id| script.state(*id)).collect::<Vec<_>>(),
        [Dispatched, Dispatched, Waiting, Waiting, Waiting]
    );
    for next in 2..5 {
        script.end(worker, ids[next - 2], Outcome::Succeeded);
        assert_eq!(script.state(ids[next]), Dispatched);
        assert!(ids[next + 1..].iter().all(|id| script.state(*id) == Waiting));
    }
}

#[test]
fn a_full_queue_skips() {
    let mut script = Script::new();
    let mut spec = limited(1, Overflow::Queue);
    spec.concurrency.queue = 1;
    script.apply(spec);
    let ids: Vec<_> = (0..3).map(|_| script.run("j")).collect();
    assert_eq!((script.state(ids[1]), script.state(ids[2])), (Waiting, Canceled));
    assert_eq!(script.reason(ids[2]), Some(Reason::SKIPPED));
}

#[test]
fn skip_and_fail_end_the_newcomer() {
    for (overflow, state, reason) in
        [(Overflow::Skip, Canceled, Reason::SKIPPED), (Overflow::Fail, Failed, Reason::CONCURRENCY_LIMIT)]
    {
        let mut script = Script::new();
        let worker = script.worker("w", 10);
        script.apply(limited(1, overflow));
        let (first, second) = (script.run("j"), script.run("j"));
        assert_eq!((script.state(second), script.reason(second)), (state, Some(reason)));
        script.end(worker, first, Outcome::Succeeded);
        let third = script.run("j");
        assert_eq!(script.state(third), Dispatched);
    }
}

#[test]
fn replace_stops_the_oldest_and_the_newcomer_waits_until_it_is_gone() {
    let mut script = Script::new();
    let worker = script.worker("w", 10);
    script.apply(limited(1, Overflow::Replace));
    let first = script.run("j");
    let second = script.run("j");
    assert_eq!((script.state(first), script.state(second)), (Stopping, Waiting));
    let third = script.run("j");
    assert_eq!((script.state(second), script.reason(second)), (Canceled, Some(Reason::REPLACED)));
    script.end(worker, first, Outcome::Stopped);
    assert_eq!((script.state(first), script.reason(first)), (Stopped, Some(Reason::REPLACED)));
    assert_eq!(script.state(third), Dispatched);
}

#[test]
fn replace_takes_one_that_only_waits_for_a_worker_at_once() {
    let mut script = Script::new();
    script.apply(limited(1, Overflow::Replace));
    let first = script.run("j");
    script.run("j");
    assert_eq!((script.state(first), script.reason(first)), (Canceled, Some(Reason::REPLACED)));
}

/// The end of the replaced instance must not let the chain go on, as its successor is just being made.
#[test]
fn a_fixed_delay_that_replaces_itself_remains_one_chain() {
    let mut script = Script::new();
    let mut spec = limited(1, Overflow::Replace);
    spec.trigger = Some(after_end(1_000));
    let id = script.apply(spec).id;
    script.pass(SECOND / 10);
    assert_eq!(script.states(id), [Waiting]);
    script.enable("j", false);
    script.enable("j", true);
    script.pass(SECOND / 10);
    assert_eq!(script.states(id), [Canceled, Waiting]);
    script.pass(SECOND * 10);
    assert_eq!(script.states(id), [Canceled, Waiting], "nothing ended, so nothing fires");
}

#[test]
fn an_instance_keeps_its_place_under_the_limit_while_it_backs_off() {
    let mut script = Script::new();
    let worker = script.worker("w", 10);
    script.apply(JobSpec { retry: Retry { attempts: 2, ..Retry::default() }, ..limited(1, Overflow::Queue) });
    let (first, second) = (script.run("j"), script.run("j"));
    script.end(worker, first, failed());
    assert_eq!((script.state(first), script.state(second)), (Waiting, Waiting));
    script.pass(SECOND * 6);
    assert_eq!((script.state(first), script.state(second)), (Dispatched, Waiting));
    script.end(worker, first, Outcome::Succeeded);
    assert_eq!(script.state(second), Dispatched);
}

#[test]
fn a_raised_limit_lets_more_through_and_a_lowered_one_holds_back_what_has_not_begun() {
    let mut script = Script::new();
    script.apply(limited(3, Overflow::Queue));
    let ids: Vec<_> = (0..5).map(|_| script.run("j")).collect();
    script.apply(limited(1, Overflow::Queue));
    let worker = script.worker("w", 10);
    assert_eq!(script.dispatched(), [(worker, ids[0], 1)]);
    script.apply(limited(4, Overflow::Queue));
    assert_eq!(script.dispatched(), [(worker, ids[1], 1), (worker, ids[2], 1), (worker, ids[3], 1)]);
    script.apply(limited(2, Overflow::Queue));
    script.end(worker, ids[0], Outcome::Succeeded);
    script.end(worker, ids[1], Outcome::Succeeded);
    assert_eq!(script.dispatched(), [], "two are still under way");
    script.end(worker, ids[2], Outcome::Succeeded);
    assert_eq!(script.dispatched(), [(worker, ids[4], 1)]);
}

#[test]
fn the_limit_holds_over_a_restart() {
    let mut script = Script::new();
    script.worker("w", 10);
    script.apply(limited(2, Overflow::Queue));
    let ids: Vec<_> = (0..4).map(|_| script.run("j")).collect();
    script.dispatched();
    script.restart(SECOND);
    script.worker("other", 10);
    assert_eq!(script.dispatched(), [], "two are with the first worker");
    assert_eq!(script.rows.values().filter(|row| row.state == Waiting).count(), 2);
    let mut hello = script.hello("w", 1, 10);
    hello.running = vec![AttemptKey::root(ids[0], 1), AttemptKey::root(ids[1], 1)];
    let worker = script.connect(hello);
    script.end(worker, ids[0], Outcome::Succeeded);
    assert_eq!(script.dispatched().len(), 1);
}

#[test]
fn higher_priority_goes_first_among_what_waits() {
    let mut script = Script::new();
    script.apply(JobSpec { priority: 0, ..job("low") });
    script.apply(JobSpec { priority: 5, ..job("high") });
    let low = script.run("low");
    let high = script.run("high");
    let mut urgent = script.run_request("low");
    urgent.priority = Some(9);
    let urgent = script.run_as(urgent);
    let worker = script.worker("w", 1);
    let mut order = Vec::new();
    while let Some((_, id, _)) = script.dispatched().pop() {
        order.push(id);
        script.end(worker, id, Outcome::Succeeded);
    }
    assert_eq!(order, [urgent, high, low]);
}

#[test]
fn the_least_loaded_worker_is_chosen_and_the_record_says_why() {
    let mut script = Script::new();
    let small = script.worker("small", 1);
    let large = script.worker("large", 4);
    script.apply(job("j"));
    let ids: Vec<_> = (0..5).map(|_| script.run("j")).collect();
    let sessions: Vec<_> = script.dispatched().into_iter().map(|(session, ..)| session).collect();
    assert_eq!(sessions.iter().filter(|session| **session == small).count(), 1);
    assert_eq!(sessions.iter().filter(|session| **session == large).count(), 4);
    let last = script.rows[&ids[4]].placement.as_deref().expect("there was a choice");
    let record: serde_json::Value = serde_json::from_str(last).expect("a record is JSON");
    let chosen = record["chosen"].as_str().expect("a name");
    let candidates = record["candidates"].as_array().expect("a list");
    assert_eq!((chosen, candidates.len()), ("large", 2));
    let rejected = candidates.iter().find(|candidate| candidate["worker"] == "small").expect("it was considered");
    assert_eq!(rejected["rejected"], "no free slot");
}
