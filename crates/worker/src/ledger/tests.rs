use std::collections::{BTreeMap, BTreeSet};

use pendula_model::instance::{Payload, Reason};
use pendula_model::limits;
use proptest::prelude::*;
use v1::report::Event;

use super::*;
use crate::handler::{Failure, Output};

const SECOND: Duration = Duration::from_secs(1);

fn held(instance: i64, attempt: u32) -> v1::Held {
    v1::Held { instance, attempt, task: 0 }
}

fn dispatch(instance: i64, attempt: u32) -> v1::Dispatch {
    v1::Dispatch {
        task: Some(held(instance, attempt)),
        processor: "p".to_owned(),
        stop_grace_millis: 10_000,
        ..v1::Dispatch::default()
    }
}

fn done() -> Returned {
    Returned::Done(Ok(Output::default()))
}

/// A connected ledger and a clock that the test moves.
struct Desk {
    ledger: Ledger,
    now: Instant,
}

impl Desk {
    fn new(slots: u32) -> Self {
        let mut ledger = Ledger::new(slots, Timing::default());
        let now = Instant::now();
        ledger.welcomed(now, &[]);
        Desk { ledger, now }
    }

    fn after(&mut self, pause: Duration) -> &mut Self {
        self.now += pause;
        self.ledger.tick(self.now);
        self
    }

    fn dispatch(&mut self, instance: i64, attempt: u32) -> &mut Self {
        self.ledger.dispatched(self.now, dispatch(instance, attempt), None);
        self
    }

    fn stop(&mut self, instance: i64, attempt: u32, grace: Duration) -> &mut Self {
        self.ledger.stopped(self.now, &held(instance, attempt), grace, false);
        self
    }

    fn abandon(&mut self, instance: i64, attempt: u32) -> &mut Self {
        self.ledger.stopped(self.now, &held(instance, attempt), Duration::ZERO, true);
        self
    }

    fn end(&mut self, instance: i64, attempt: u32, how: Returned) -> &mut Self {
        if self.ledger.ended(self.now, &held(instance, attempt), how) {
            self.ledger.release(&held(instance, attempt));
        }
        self
    }

    fn ack(&mut self, instance: i64, attempt: u32) -> &mut Self {
        self.ledger.acknowledged(&[held(instance, attempt)]);
        self
    }

    fn reconnect(&mut self) -> &mut Self {
        self.ledger.disconnected();
        self.ledger.welcomed(self.now, &[]);
        for held in self.ledger.finished() {
            self.ledger.release(&held);
        }
        self
    }

    /// What is to be done, in few words: `start 1/1`, `cancel 1/1`, …
    #[track_caller]
    fn does(&mut self, expect: &[&str]) -> &mut Self {
        let words: Vec<String> = self.ledger.take_actions().iter().map(words).collect();
        assert_eq!(words, expect);
        self
    }

    /// What is reported, in few words: `1/1 succeeded`, `1/1 started`, …
    #[track_caller]
    fn says(&mut self, expect: &[&str]) -> &mut Self {
        let reports = self.ledger.take_reports(self.now);
        let said: Vec<String> = reports.iter().map(report_words).collect();
        assert_eq!(said, expect);
        self
    }
}

fn words(action: &Action) -> String {
    let key = |at: &AttemptKey| format!("{}/{}", at.instance, at.attempt);
    match action {
        Action::Start(dispatch) => format!("start {}", key(&key_of(&dispatch.task.unwrap()))),
        Action::Cancel(at) => format!("cancel {}", key(at)),
        Action::Kill(at) => format!("kill {}", key(at)),
        Action::Drop(at) => format!("drop {}", key(at)),
    }
}

fn report_words(report: &v1::Report) -> String {
    let task = report.task.unwrap();
    let event = match report.event.as_ref().unwrap() {
        Event::Started(_) => "started".to_owned(),
        Event::Progress(progress) => format!("at {}", progress.per_mille),
        Event::Ended(ended) => {
            let outcome = ended.outcome().as_str_name().trim_start_matches("OUTCOME_").to_lowercase();
            if ended.reason.is_empty() { outcome } else { format!("{outcome} {}", ended.reason) }
        }
    };
    format!("{}/{} {event}", task.instance, task.attempt)
}

#[test]
fn a_short_attempt_is_reported_once_and_forgotten_when_acknowledged() {
    let mut desk = Desk::new(1);
    desk.dispatch(1, 1).does(&["start 1/1"]);
    desk.end(1, 1, done()).says(&["1/1 succeeded"]).says(&[]);
    assert_eq!(desk.ledger.held(), [held(1, 1)]);
    desk.ack(1, 1);
    assert_eq!(desk.ledger.held(), []);
    assert_eq!(desk.ledger.summary.succeeded, 1);
    desk.after(60 * SECOND).says(&[]);
}

#[test]
fn a_long_attempt_is_reported_as_started_once() {
    let mut desk = Desk::new(2);
    desk.dispatch(1, 1).dispatch(2, 1).after(SECOND / 20).says(&[]);
    desk.end(2, 1, done()).after(SECOND / 20).says(&["2/1 succeeded", "1/1 started"]);
    desk.after(SECOND).says(&[]);
}

#[test]
fn only_newer_attempts_are_admitted() {
    let mut desk = Desk::new(4);
    desk.dispatch(1, 2).does(&["start 1/2"]);
    desk.dispatch(1, 2).dispatch(1, 1).does(&[]).says(&[]);
    desk.end(1, 2, done()).says(&["1/2 succeeded"]);
    // The server did not hear it: it is told again, not run again.
    desk.dispatch(1, 2).does(&[]).says(&["1/2 succeeded"]);
    desk.ack(1, 2).dispatch(1, 2).dispatch(1, 1).does(&[]).says(&[]);
    desk.dispatch(1, 3).does(&["start 1/3"]);
}

#[test]
fn slots_are_a_hard_limit_that_dying_attempts_use_too() {
    let mut desk = Desk::new(2);
    desk.dispatch(1, 1)
        .dispatch(2, 1)
        .dispatch(3, 1)
        .does(&["start 1/1", "start 2/1"])
        .says(&["3/1 rejected rejected"]);
    desk.abandon(1, 1).does(&["cancel 1/1", "kill 1/1"]);
    desk.dispatch(4, 1).does(&[]).says(&["4/1 rejected rejected"]);
    desk.end(1, 1, Returned::Dropped).says(&[]);
    desk.dispatch(5, 1).does(&["start 5/1"]);
}

#[test]
fn a_newer_attempt_waits_until_the_older_one_is_gone() {
    let mut desk = Desk::new(1);
    desk.dispatch(1, 1).does(&["start 1/1"]);
    desk.dispatch(1, 2).does(&["cancel 1/1", "kill 1/1"]);
    assert_eq!(desk.ledger.held(), [held(1, 2)]);
    desk.after(SECOND).does(&["drop 1/1"]);
    desk.end(1, 1, done()).does(&["start 1/2"]).says(&[]);
    desk.end(1, 2, done()).says(&["1/2 succeeded"]);
}

#[test]
fn an_attempt_that_waits_can_be_stopped_and_abandoned() {
    let mut desk = Desk::new(1);
    desk.dispatch(1, 1).dispatch(1, 2).stop(1, 2, SECOND).says(&["1/2 stopped"]);
    desk.end(1, 1, done()).does(&["start 1/1", "cancel 1/1", "kill 1/1"]).says(&[]);
    let mut desk = Desk::new(1);
    desk.dispatch(1, 1).dispatch(1, 2).abandon(1, 2).dispatch(1, 2).says(&[]);
    desk.end(1, 1, done()).does(&["start 1/1", "cancel 1/1", "kill 1/1"]).says(&[]);
    assert_eq!(desk.ledger.occupied(), 0);
}

#[test]
fn what_this_worker_cannot_run_is_refused() {
    let mut desk = Desk::new(1);
    let missing = refused(&Reason::PROCESSOR_MISSING, "no `p`");
    desk.ledger.dispatched(desk.now, dispatch(1, 1), Some(missing));
    let bad = v1::Dispatch::default().check().unwrap_err();
    desk.ledger.dispatched(desk.now, dispatch(2, 1), Some(unrunnable(&bad)));
    desk.does(&[]).says(&["1/1 rejected processor_missing", "2/1 failed invalid_definition"]);
    desk.ledger.drain();
    desk.dispatch(3, 1).does(&[]).says(&["3/1 rejected rejected"]);
}

#[test]
fn a_stop_goes_from_asking_to_force() {
    let mut desk = Desk::new(1);
    desk.dispatch(1, 1).does(&["start 1/1"]).stop(1, 1, 5 * SECOND).does(&["cancel 1/1"]);
    desk.after(4 * SECOND).does(&[]).after(SECOND).does(&["kill 1/1"]);
    desk.after(SECOND).does(&["drop 1/1"]).after(10 * SECOND).does(&[]);
    desk.end(1, 1, Returned::Dropped).says(&["1/1 stopped"]);
}

#[test]
fn a_stop_without_grace_is_forced_at_once_and_a_repeated_one_shortens() {
    let mut desk = Desk::new(2);
    desk.dispatch(1, 1).does(&["start 1/1"]).stop(1, 1, Duration::ZERO).does(&["cancel 1/1", "kill 1/1"]);
    desk.dispatch(2, 1).does(&["start 2/1"]).stop(2, 1, 100 * SECOND).does(&["cancel 2/1"]);
    desk.stop(2, 1, 200 * SECOND).stop(2, 1, Duration::ZERO).does(&["kill 2/1"]);
}

#[test]
fn what_the_handler_returns_after_a_stop_counts_as_stopped() {
    for how in [done(), Returned::Done(Err(Failure::from_display("no"))), Returned::Panicked("p".into())] {
        let mut desk = Desk::new(1);
        desk.dispatch(1, 1).stop(1, 1, SECOND).end(1, 1, how).says(&["1/1 stopped"]);
    }
    // Not what it returned before.
    let mut desk = Desk::new(1);
    desk.dispatch(1, 1).end(1, 1, done()).stop(1, 1, SECOND).says(&["1/1 succeeded"]);
}

#[test]
fn what_was_abandoned_is_never_reported() {
    let mut desk = Desk::new(2);
    desk.dispatch(1, 1).dispatch(2, 1).end(2, 1, done()).abandon(1, 1).abandon(2, 1).after(SECOND);
    desk.end(1, 1, done()).after(60 * SECOND).says(&[]);
    assert_eq!(desk.ledger.held(), []);
    desk.dispatch(2, 1).says(&[]);
    assert_eq!(desk.ledger.unacknowledged(), 0);
}

#[test]
fn a_session_begins_with_what_is_held_and_with_what_is_not_ours_any_more() {
    let mut desk = Desk::new(3);
    desk.dispatch(1, 1).dispatch(2, 1).dispatch(3, 1).does(&["start 1/1", "start 2/1", "start 3/1"]);
    desk.ledger.disconnected();
    desk.end(2, 1, done()).says(&[]);
    assert_eq!(desk.ledger.finished(), [held(2, 1)]);
    desk.ledger.welcomed(desk.now, &[held(1, 1), held(9, 9)]);
    desk.does(&["cancel 1/1", "kill 1/1"]);
    assert_eq!(desk.ledger.running(), [held(3, 1)]);
    desk.says(&[]);
    desk.ledger.release(&held(2, 1));
    desk.says(&["2/1 succeeded"]);
}

#[test]
fn ends_are_told_again_until_they_are_acknowledged() {
    let mut desk = Desk::new(1);
    desk.dispatch(1, 1).end(1, 1, done()).says(&["1/1 succeeded"]);
    desk.after(9 * SECOND).says(&[]).after(SECOND).says(&["1/1 succeeded"]).after(10 * SECOND).says(&["1/1 succeeded"]);
    desk.reconnect().says(&["1/1 succeeded"]);
    desk.ack(1, 1).after(60 * SECOND).says(&[]).reconnect().says(&[]);
}

#[test]
fn an_end_is_told_only_after_its_log() {
    let mut desk = Desk::new(1);
    desk.dispatch(1, 1);
    assert!(desk.ledger.ended(desk.now, &held(1, 1), done()));
    desk.dispatch(1, 1).after(60 * SECOND).says(&[]);
    desk.ledger.release(&held(1, 1));
    desk.says(&["1/1 succeeded"]);
}

#[test]
fn the_timeout_is_enforced_here_only_without_a_server() {
    let mut desk = Desk::new(1);
    let with_timeout = v1::Dispatch { timeout_millis: 30_000, ..dispatch(1, 1) };
    desk.ledger.dispatched(desk.now, with_timeout, None);
    desk.does(&["start 1/1"]).after(40 * SECOND).does(&[]);
    desk.ledger.disconnected();
    desk.after(SECOND).does(&["cancel 1/1"]).after(10 * SECOND).does(&["kill 1/1"]);
    desk.end(1, 1, Returned::Dropped).reconnect().says(&["1/1 failed timeout"]);
}

#[test]
fn a_stop_outweighs_a_timeout() {
    let mut desk = Desk::new(1);
    desk.ledger.dispatched(desk.now, v1::Dispatch { timeout_millis: 1, ..dispatch(1, 1) }, None);
    desk.ledger.disconnected();
    desk.after(SECOND).reconnect().stop(1, 1, SECOND).end(1, 1, Returned::Dropped).says(&["1/1 stopped"]);
}

#[test]
fn what_still_runs_is_handed_back_whatever_it_returns() {
    let mut desk = Desk::new(2);
    desk.dispatch(1, 1).dispatch(2, 1).dispatch(1, 2).does(&["start 1/1", "start 2/1", "cancel 1/1", "kill 1/1"]);
    desk.ledger.drain();
    desk.ledger.hand_back(desk.now);
    desk.does(&["cancel 2/1"]).says(&["1/2 rejected rejected"]);
    desk.end(2, 1, done()).says(&["2/1 handed_back worker_drained"]);
    assert_eq!(desk.ledger.summary.handed_back, 1);
}

#[test]
fn old_words_about_a_newer_attempt_change_nothing() {
    let mut desk = Desk::new(1);
    desk.dispatch(1, 5).does(&["start 1/5"]);
    desk.stop(1, 4, SECOND).abandon(1, 4).ack(1, 4).end(1, 4, done()).does(&[]).says(&[]);
    desk.ack(1, 5);
    assert_eq!(desk.ledger.running(), [held(1, 5)]);
}

#[test]
fn outcomes_and_limits() {
    let large = Payload { content_type: "t".into(), bytes: vec![0; limits::RESULT_BYTES + 1] };
    let failure = Failure::new(Reason::EXIT_CODE, "3").without_retry();
    for (how, expect, is_final, message) in [
        (done(), "1/1 succeeded", false, ""),
        (Returned::Done(Ok(Output::text("fine"))), "1/1 succeeded", false, "fine"),
        (Returned::Done(Err(failure.clone())), "1/1 failed exit_code", true, "3"),
        (Returned::Panicked("index".into()), "1/1 failed panicked", false, "index"),
        (Returned::Dropped, "1/1 failed failed", false, "the handler was dropped before it returned"),
        (
            Returned::Done(Ok(Output::default().with_result(large.clone()))),
            "1/1 failed result_too_large",
            true,
            "the result of 65537 bytes is larger than the allowed 65536",
        ),
        (
            Returned::Done(Err(failure.with_result(large))),
            "1/1 failed exit_code",
            true,
            "3 (the result of 65537 bytes is larger than the allowed 65536)",
        ),
    ] {
        let mut desk = Desk::new(1);
        desk.dispatch(1, 1);
        desk.now += SECOND;
        desk.end(1, 1, how);
        let report = desk.ledger.take_reports(desk.now + SECOND).remove(0);
        assert_eq!(report_words(&report), expect);
        let Some(Event::Ended(ended)) = report.event else { panic!("{report:?}") };
        assert_eq!((ended.r#final, ended.message.as_str()), (is_final, message));
        assert_eq!((ended.running_micros, ended.ended_micros_ago), (1_000_000, 1_000_000));
        assert!(ended.result.len() <= limits::RESULT_BYTES);
    }
    let mut desk = Desk::new(1);
    desk.dispatch(1, 1).end(1, 1, Returned::Panicked("é".repeat(4096)));
    let Some(Event::Ended(ended)) = desk.ledger.take_reports(desk.now).remove(0).event else { panic!() };
    assert!(ended.message.len() <= limits::MESSAGE_BYTES);
}

#[test]
fn progress_is_told_while_it_runs() {
    let mut desk = Desk::new(1);
    let progress = |per_mille| v1::Progress { per_mille, message: String::new() };
    desk.dispatch(1, 1).ledger.progressed(&held(1, 1), progress(500));
    desk.says(&["1/1 at 500"]);
    desk.ledger.progressed(&held(1, 1), progress(900));
    desk.end(1, 1, done()).says(&["1/1 succeeded"]);
}

#[test]
fn the_memory_of_acknowledged_attempts_is_bounded() {
    let mut desk = Desk::new(1);
    for instance in 1..=(RECENT as i64 + 10) {
        desk.dispatch(instance, 1).end(instance, 1, done()).ack(instance, 1);
        desk.ledger.take_actions();
        desk.ledger.take_reports(desk.now);
    }
    assert_eq!((desk.ledger.recent.len(), desk.ledger.recent_order.len()), (RECENT, RECENT));
    desk.after(60 * SECOND);
    assert!(desk.ledger.sent.is_empty() && desk.ledger.young.is_empty());
}

/// One thing that happens to a worker in the property test below.
#[derive(Clone, Debug)]
enum Step {
    Dispatch(i64, u32),
    Stop(i64, u32, u64, bool),
    /// One of the living futures ends.
    End(usize),
    Ack(i64, u32),
    Wait(u64),
    Reconnect,
    Send,
}

fn step() -> impl Strategy<Value = Step> {
    let task = || (1..4_i64, 1..6_u32);
    prop_oneof![
        5 => task().prop_map(|(instance, attempt)| Step::Dispatch(instance, attempt)),
        2 => (task(), 0..3_u64, any::<bool>()).prop_map(|((i, a), grace, abandon)| Step::Stop(i, a, grace, abandon)),
        4 => any::<usize>().prop_map(Step::End),
        2 => task().prop_map(|(instance, attempt)| Step::Ack(instance, attempt)),
        1 => (0..5000_u64).prop_map(Step::Wait),
        1 => Just(Step::Reconnect),
        2 => Just(Step::Send),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

    /// Whatever the server says and however handlers end: no attempt runs twice or after a newer one, no task runs
    /// twice at once, slots hold, and every end that is ours is told until it is acknowledged.
    #[test]
    fn no_history_breaks_the_laws(steps in proptest::collection::vec(step(), 1..80)) {
        const SLOTS: u32 = 2;
        let mut desk = Desk::new(SLOTS);
        let mut living = BTreeSet::new();
        let mut newest_started = BTreeMap::new();
        for step in steps {
            match step {
                Step::Dispatch(instance, attempt) => drop(desk.dispatch(instance, attempt)),
                Step::Stop(instance, attempt, grace, abandon) => {
                    desk.ledger.stopped(desk.now, &held(instance, attempt), SECOND * grace as u32, abandon);
                }
                Step::End(which) if !living.is_empty() => {
                    let ended: (i64, u32) = *living.iter().nth(which % living.len()).unwrap();
                    living.remove(&ended);
                    desk.end(ended.0, ended.1, done());
                }
                Step::End(_) => {}
                Step::Ack(instance, attempt) => drop(desk.ack(instance, attempt)),
                Step::Wait(millis) => drop(desk.after(Duration::from_millis(millis))),
                Step::Reconnect => drop(desk.reconnect()),
                Step::Send => drop(desk.ledger.take_reports(desk.now)),
            }
            for action in desk.ledger.take_actions() {
                if let Action::Start(dispatch) = action {
                    let task = dispatch.task.unwrap();
                    prop_assert!(living.iter().all(|(instance, _)| *instance != task.instance), "two at once");
                    prop_assert!(newest_started.insert(task.instance, task.attempt) < Some(task.attempt), "again");
                    living.insert((task.instance, task.attempt));
                }
            }
            prop_assert!(living.len() <= SLOTS as usize);
            prop_assert_eq!(desk.ledger.occupied(), living.len());
            prop_assert_eq!(desk.ledger.unacknowledged(), desk.ledger.finished().len());
        }
        while let Some(ended) = living.pop_first() {
            desk.end(ended.0, ended.1, done());
            for action in desk.ledger.take_actions() {
                if let Action::Start(dispatch) = action {
                    let task = dispatch.task.unwrap();
                    living.insert((task.instance, task.attempt));
                }
            }
        }
        desk.reconnect();
        let told: BTreeSet<_> = desk.ledger.take_reports(desk.now).iter().map(|report| key_of(&report.task.unwrap())).collect();
        let held: BTreeSet<_> = desk.ledger.held().iter().map(key_of).collect();
        prop_assert_eq!(told, held);
        desk.ledger.acknowledged(&desk.ledger.held());
        prop_assert_eq!((desk.ledger.occupied(), desk.ledger.unacknowledged(), desk.ledger.unacked_bytes), (0, 0, 0));
        prop_assert!(desk.ledger.held().is_empty());
    }
}
