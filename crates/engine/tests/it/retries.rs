//! Attempts: retries, back-off, final failures, timeouts, expiry.

use std::time::Duration;

use pendula_engine::input::Outcome;
use pendula_model::AttemptKey;
use pendula_model::instance::InstanceState::*;
use pendula_model::instance::{Reason, StopCause, TaskState};
use pendula_model::job::JobSpec;
use pendula_model::policy::{Backoff, Exponential, Retry};

use crate::script::{SECOND, Script, failed, job};

fn retried(attempts: u32, backoff: Backoff) -> JobSpec {
    JobSpec { retry: Retry { attempts, backoff, ..Retry::default() }, ..job("j") }
}

#[test]
fn a_failed_attempt_is_followed_by_another_until_there_are_no_more() {
    let mut script = Script::new();
    let worker = script.worker("w", 1);
    script.apply(retried(3, Backoff::Fixed(SECOND)));
    let id = script.run("j");
    for attempt in 1..=2 {
        script.end(worker, id, failed());
        assert_eq!(
            (script.state(id), script.attempt(id), script.reason(id)),
            (Waiting, attempt, Some(Reason::EXIT_CODE))
        );
        script.pass(SECOND);
        assert_eq!((script.state(id), script.attempt(id)), (Dispatched, attempt + 1));
    }
    script.end(worker, id, failed());
    assert_eq!((script.state(id), script.reason(id)), (Failed, Some(Reason::EXIT_CODE)));
    let past: Vec<_> = script.past.iter().map(|past| (past.attempt, past.state)).collect();
    assert_eq!(past, [(1, TaskState::Failed), (2, TaskState::Failed)]);
    assert_eq!(script.rows[&id].failures, 3);
}

#[test]
fn back_off_doubles_within_its_jitter() {
    let mut script = Script::new();
    let worker = script.worker("w", 1);
    let backoff = Backoff::Exponential(Exponential { initial: SECOND, max: SECOND * 4, jitter_percent: 20 });
    script.apply(retried(6, backoff));
    let id = script.run("j");
    let mut different = std::collections::BTreeSet::new();
    for seconds in [1.0, 2.0, 4.0, 4.0, 4.0] {
        script.end(worker, id, failed());
        let pause = script.rows[&id].due_at.since(script.now).as_secs_f64();
        assert!((seconds * 0.8..=seconds * 1.2).contains(&pause), "{pause} is not about {seconds}");
        different.insert(format!("{:.6}", pause / seconds));
        script.pass(SECOND * 5);
    }
    assert!(different.len() > 1, "jitter differs: {different:?}");
}

#[test]
fn a_final_failure_is_not_retried() {
    let mut script = Script::new();
    let worker = script.worker("w", 1);
    script.apply(retried(3, Backoff::Fixed(SECOND)));
    let id = script.run("j");
    script.end(worker, id, Outcome::Failed { reason: Reason::INVALID_DEFINITION, final_: true });
    assert_eq!((script.state(id), script.reason(id)), (Failed, Some(Reason::INVALID_DEFINITION)));
}

#[test]
fn a_timeout_stops_the_attempt_and_counts_as_a_failure_once_confirmed() {
    let mut script = Script::new();
    let worker = script.worker("w", 1);
    script.apply(JobSpec { timeout: Some(SECOND * 5), ..retried(2, Backoff::Fixed(SECOND)) });
    let id = script.run("j");
    script.started(worker, id, 1);
    script.pass(SECOND * 5);
    assert_eq!((script.state(id), script.rows[&id].stop_cause), (Stopping, Some(StopCause::Timeout)));
    assert_eq!(script.stops, [(worker, id, 1, false)]);
    script.end(worker, id, Outcome::Stopped);
    assert_eq!((script.state(id), script.reason(id)), (Waiting, Some(Reason::TIMEOUT)));
    script.pass(SECOND);
    assert_eq!((script.state(id), script.attempt(id)), (Dispatched, 2));
    script.pass(SECOND * 5);
    script.end(worker, id, Outcome::Stopped);
    assert_eq!((script.state(id), script.reason(id)), (Failed, Some(Reason::TIMEOUT)));
    let message = script.rows[&id].message.as_deref().expect("it says why");
    assert!(message.contains("5s"), "{message}");
}

#[test]
fn a_timeout_that_nobody_confirms_is_given_up_and_the_worker_told_to_let_go() {
    let mut script = Script::new();
    let worker = script.worker("w", 1);
    script.apply(JobSpec { timeout: Some(SECOND * 5), stop_grace: Some(SECOND * 2), ..job("j") });
    let id = script.run("j");
    script.pass(SECOND * 5 + SECOND * 12 - Duration::from_millis(1));
    assert_eq!(script.state(id), Stopping);
    script.pass(Duration::from_millis(1));
    assert_eq!((script.state(id), script.reason(id)), (Failed, Some(Reason::TIMEOUT)));
    assert!(script.rows[&id].message.as_deref().is_some_and(|message| message.contains("did not confirm")));
    assert_eq!(script.stops.last(), Some(&(worker, id, 1, true)));
    script.ended(worker, id, 1, Outcome::Succeeded);
    assert_eq!(script.state(id), Failed, "late news changes nothing");
    assert_eq!(script.acks, [(id, 1)], "and is acknowledged all the same");
}

#[test]
fn waiting_too_long_for_a_first_attempt_ends_in_failure() {
    let mut script = Script::new();
    script.apply(JobSpec { expire_after: Some(SECOND * 30), ..job("j") });
    let id = script.run("j");
    script.pass(SECOND * 30);
    assert_eq!((script.state(id), script.reason(id)), (Failed, Some(Reason::EXPIRED)));
}

#[test]
fn what_has_begun_does_not_expire_between_two_attempts() {
    let mut script = Script::new();
    let worker = script.worker("w", 1);
    script.apply(JobSpec { expire_after: Some(SECOND * 3), ..retried(2, Backoff::Fixed(SECOND * 10)) });
    let id = script.run("j");
    script.end(worker, id, failed());
    script.pass(SECOND * 5);
    assert_eq!(script.state(id), Waiting);
    script.pass(SECOND * 5);
    assert_eq!(script.state(id), Dispatched);
}

#[test]
fn a_rejected_attempt_is_offered_again_without_counting() {
    let mut script = Script::new();
    let first = script.worker("first", 1);
    script.apply(job("j"));
    let id = script.run("j");
    script.end(first, id, Outcome::Rejected { reason: Reason::REJECTED });
    assert_eq!((script.state(id), script.rows[&id].failures, script.past.len()), (Waiting, 0, 0));
    script.pass(SECOND);
    assert_eq!((script.state(id), script.attempt(id)), (Dispatched, 2));
}

#[test]
fn a_worker_that_lacks_the_processor_that_it_offered_is_not_asked_again() {
    let mut script = Script::new();
    let liar = script.worker("liar", 1);
    script.apply(job("j"));
    let id = script.run("j");
    script.end(liar, id, Outcome::Rejected { reason: Reason::PROCESSOR_MISSING });
    script.pass(SECOND * 5);
    assert_eq!(script.state(id), Waiting);
    let honest = script.worker("honest", 1);
    assert_eq!(script.dispatched().last(), Some(&(honest, id, 2)));
}

/// The clock went back while the server was down: the dispatch lies in the future.
#[test]
fn a_start_that_was_told_after_the_clock_went_back_is_no_reason_to_panic() {
    let mut script = Script::new();
    script.worker("w", 2);
    script.apply(job("j"));
    let (running, finished) = (script.run("j"), script.run("j"));
    script.now = script.now.minus(SECOND * 3600);
    script.restart_with(|_| {});
    let mut hello = script.hello("w", 1, 2);
    hello.running = vec![AttemptKey::root(running, 1)];
    hello.finished = vec![AttemptKey::root(finished, 1)];
    let worker = script.connect(hello);
    assert_eq!(script.state(running), Running);
    let started_at = Some(script.now);
    let event =
        pendula_engine::ReportEvent::Ended { outcome: Outcome::Succeeded, message: None, result: None, started_at };
    script.report(worker, finished, 1, event);
    assert_eq!(script.state(finished), Succeeded);
}
