//! Stop and cancel at every state, and O-7: nothing escapes a stop.

use pendula_engine::effect::Refusal;
use pendula_engine::input::Outcome;
use pendula_engine::{Input, ReportEvent};
use pendula_model::AttemptKey;
use pendula_model::instance::InstanceState::*;
use pendula_model::instance::{Reason, StopCause};
use pendula_model::job::JobSpec;
use pendula_model::policy::{Backoff, Concurrency, Retry};

use crate::script::{SECOND, Script, ended, failed, job, refusal};

#[test]
fn what_waits_is_canceled_at_once() {
    let mut script = Script::new();
    script.apply(JobSpec { concurrency: Concurrency { limit: Some(1), ..Concurrency::default() }, ..job("j") });
    let mut later = script.run_request("j");
    later.due_at = Some(script.now.plus(SECOND * 60));
    let (ready, queued, delayed) = (script.run("j"), script.run("j"), script.run_as(later));
    for id in [queued, delayed, ready] {
        script.cancel(id);
        assert_eq!((script.state(id), script.reason(id)), (Canceled, Some(Reason::BY_USER)));
        assert_eq!(refusal(script.stop(id)), Refusal::NotActive);
    }
    assert_eq!(script.partition.gauges().waiting, 0);
}

#[test]
fn what_waits_for_another_attempt_is_stopped() {
    let mut script = Script::new();
    let worker = script.worker("w", 1);
    script.apply(JobSpec { retry: Retry { attempts: 2, ..Retry::default() }, ..job("j") });
    let id = script.run("j");
    script.end(worker, id, failed());
    script.stop(id);
    assert_eq!((script.state(id), script.reason(id)), (Stopped, Some(Reason::BY_USER)));
    script.pass(SECOND * 60);
    assert_eq!(script.attempt(id), 1);
}

#[test]
fn cancel_is_refused_once_a_worker_has_it() {
    let mut script = Script::new();
    let worker = script.worker("w", 1);
    script.apply(job("j"));
    let id = script.run("j");
    assert_eq!(refusal(script.cancel(id)), Refusal::AlreadyStarted(Dispatched));
    script.started(worker, id, 1);
    assert_eq!(refusal(script.cancel(id)), Refusal::AlreadyStarted(Running));
    script.stop(id);
    assert_eq!(refusal(script.cancel(id)), Refusal::AlreadyStarted(Stopping));
}

#[test]
fn stop_is_asked_of_the_worker_and_may_be_asked_again() {
    let mut script = Script::new();
    let worker = script.worker("w", 1);
    script.apply(job("j"));
    let id = script.run("j");
    script.stop(id);
    script.stop(id);
    assert_eq!(script.state(id), Stopping);
    assert_eq!(script.stops, [(worker, id, 1, false)]);
    script.end(worker, id, Outcome::Stopped);
    assert_eq!((script.state(id), script.reason(id)), (Stopped, Some(Reason::BY_USER)));
}

#[test]
fn a_users_stop_outweighs_a_timeouts() {
    let mut script = Script::new();
    let worker = script.worker("w", 1);
    let retry = Retry { attempts: 3, backoff: Backoff::Fixed(SECOND), ..Retry::default() };
    script.apply(JobSpec { timeout: Some(SECOND), retry, ..job("j") });
    let id = script.run("j");
    script.pass(SECOND);
    assert_eq!(script.rows[&id].stop_cause, Some(StopCause::Timeout));
    script.stop(id);
    script.end(worker, id, Outcome::Stopped);
    assert_eq!((script.state(id), script.reason(id)), (Stopped, Some(Reason::BY_USER)));
}

#[test]
fn a_stop_that_was_not_heard_is_asked_again() {
    let mut script = Script::new();
    let worker = script.worker("w", 1);
    script.apply(job("j"));
    let id = script.run("j");
    script.stop(id);
    script.pass(SECOND * 6);
    script.alive(worker, 1, &[(id, 1)]);
    assert_eq!(script.stops, [(worker, id, 1, false); 2]);
}

#[test]
fn a_stop_while_the_worker_is_away_reaches_it_when_it_comes_back() {
    let mut script = Script::new();
    let worker = script.worker("w", 1);
    script.apply(job("j"));
    let id = script.run("j");
    script.disconnect(worker);
    script.stop(id);
    assert_eq!(script.stops, []);
    let mut hello = script.hello("w", 1, 1);
    hello.running = vec![AttemptKey::root(id, 1)];
    let again = script.connect(hello);
    assert_eq!(script.stops, [(again, id, 1, false)]);
    script.end(again, id, Outcome::Stopped);
    assert_eq!((script.state(id), script.reason(id)), (Stopped, Some(Reason::BY_USER)));
}

#[test]
fn a_stop_that_the_worker_never_confirms_is_told_as_such() {
    for away in [false, true] {
        let mut script = Script::new();
        let worker = script.worker("w", 1);
        script.apply(job("j"));
        let id = script.run("j");
        script.stop(id);
        if away {
            script.disconnect(worker);
        }
        script.pass(SECOND * 20);
        assert_eq!((script.state(id), script.reason(id)), (Stopped, Some(Reason::STOP_UNCONFIRMED)));
        // It comes back, still running it: it is told to let go.
        let mut hello = script.hello("w", 1, 1);
        hello.running = vec![AttemptKey::root(id, 1)];
        script.connect(hello);
        assert_eq!(script.welcomes.last().map(|(_, abort)| abort.clone()), Some(vec![(id, 1)]));
    }
}

/// O-7: after a stop, late reports in every order and number, repeated, over a restart: it ends stopped and stays so.
#[test]
fn o_7_late_reports_in_any_order_do_not_bring_a_stopped_instance_back() {
    let reports = [
        ReportEvent::Started { started_at: "2026-11-21T08:00:00Z".parse().expect("a time") },
        ended(Outcome::Succeeded),
        ended(failed()),
        ended(Outcome::Stopped),
        ended(Outcome::HandedBack),
        ended(Outcome::Rejected { reason: Reason::REJECTED }),
    ];
    // Every sequence of four of them, with repetitions; the restart comes after the second.
    for sequence in 0..reports.len().pow(4) {
        for restarts in [false, true] {
            let mut script = Script::new();
            let mut worker = script.worker("w", 1);
            let retry = Retry { attempts: 5, backoff: Backoff::Fixed(SECOND / 10), ..Retry::default() };
            script.apply(JobSpec { retry, ..job("j") });
            let id = script.run("j");
            script.stop(id);
            for position in 0..4 {
                if restarts && position == 2 {
                    script.restart(SECOND);
                    let mut hello = script.hello("w", 1, 1);
                    hello.running = vec![AttemptKey::root(id, 1)];
                    worker = script.connect(hello);
                }
                let report = &reports[sequence / reports.len().pow(position) % reports.len()];
                script.report(worker, id, 1, report.clone());
            }
            script.pass(SECOND * 60);
            assert_eq!(script.state(id), Stopped, "sequence {sequence}, restarts {restarts}");
            assert_eq!(script.attempt(id), 1);
        }
    }
}

/// A clock that is set ahead makes what is due fire, but lets nobody's time run out.
#[test]
fn a_clock_that_jumps_ahead_shortens_no_duration() {
    let mut script = Script::new();
    let worker = script.worker("w", 1);
    script.apply(JobSpec { timeout: Some(SECOND * 30), expire_after: Some(SECOND * 60), ..job("j") });
    let (runs, waits) = (script.run("j"), script.run("j"));
    script.pass(SECOND * 10);
    script.now = script.now.plus(SECOND * 1200);
    script.input(Input::ClockJumped { by: SECOND * 1200 });
    assert_eq!((script.state(runs), script.state(waits)), (Dispatched, Waiting));
    script.pass(SECOND * 19);
    assert_eq!(script.state(runs), Dispatched);
    script.pass(SECOND);
    assert_eq!(script.state(runs), Stopping, "after its 30 seconds");

    // The grace of a worker that is away, too.
    script.ended(worker, runs, 1, Outcome::Stopped);
    assert_eq!(script.state(waits), Dispatched);
    script.disconnect(worker);
    script.now = script.now.plus(SECOND * 1200);
    script.input(Input::ClockJumped { by: SECOND * 1200 });
    script.pass(SECOND * 9);
    assert_eq!(script.state(waits), Dispatched);
    script.pass(SECOND);
    assert_eq!(script.state(waits), Waiting, "lost after its 10 seconds");
}
