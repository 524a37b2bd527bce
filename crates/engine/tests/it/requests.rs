//! Runs that users ask for.

use pendula_engine::effect::Refusal;
use pendula_engine::input::Outcome;
use pendula_engine::{Command, Fact, Input};
use pendula_engine::{Reply, Settings};
use pendula_model::instance::InstanceState::*;
use pendula_model::instance::Origin;

use crate::script::{SECOND, Script, job, refusal};

fn keyed(script: &Script, key: &str) -> Command {
    let mut request = script.run_request("j");
    request.idempotency_key = Some(key.into());
    Command::JobRun(Box::new(request))
}

fn instance_of(reply: Option<Reply>) -> (pendula_model::InstanceId, bool) {
    match reply {
        Some(Reply::Instance { id, created }) => (id, created),
        other => panic!("{other:?}"),
    }
}

#[test]
fn requests_with_one_key_make_one_instance_also_while_the_store_is_asked() {
    let mut script = Script::new();
    let worker = script.worker("w", 1);
    script.apply(job("j"));
    script.hold_reads = true;
    let waiting: Vec<_> = (0..3).map(|_| script.send(keyed(&script, "k"))).collect();
    assert_eq!(script.held_reads.len(), 1, "one question for all three");
    let need = script.held_reads.pop().expect("just counted");
    script.answer(need);
    let answers: Vec<_> = waiting.into_iter().map(|number| instance_of(script.reply(number))).collect();
    let id = answers[0].0;
    assert_eq!(answers, [(id, true), (id, false), (id, false)]);
    script.hold_reads = false;

    // Once more when it has ended, when the cache has forgotten it, and after a restart.
    script.end(worker, id, Outcome::Succeeded);
    let again = script.command(keyed(&script, "k"));
    assert_eq!(instance_of(Some(again)), (id, false));
    script.pass(SECOND * 60);
    let again = script.command(keyed(&script, "k"));
    assert_eq!(instance_of(Some(again)), (id, false));
    script.restart(SECOND);
    let again = script.command(keyed(&script, "k"));
    assert_eq!(instance_of(Some(again)), (id, false));
    assert_eq!(script.rows.len(), 1);
}

#[test]
fn a_key_answers_also_when_its_job_is_gone() {
    let mut script = Script::new();
    script.apply(job("j"));
    let first = script.command(keyed(&script, "k"));
    let (id, _) = instance_of(Some(first));
    script.command(Command::JobDelete { app: script.app, name: "j".into() });
    let again = script.command(keyed(&script, "k"));
    assert_eq!(instance_of(Some(again)), (id, false));
    let other = script.command(keyed(&script, "other"));
    assert_eq!(refusal(other), Refusal::NotFound("job"));
}

#[test]
fn keys_are_checked() {
    let mut script = Script::new();
    script.apply(job("j"));
    for key in ["", "x".repeat(129).as_str()] {
        let reply = script.command(keyed(&script, key));
        assert!(matches!(refusal(reply), Refusal::Invalid(invalid) if invalid.field == "idempotency_key"));
    }
}

#[test]
fn a_delayed_run_waits_for_its_time_over_a_restart_too() {
    let mut script = Script::new();
    script.apply(job("j"));
    let mut request = script.run_request("j");
    request.due_at = Some(script.now.plus(SECOND * 100));
    let id = script.run_as(request);
    script.worker("w", 1);
    assert_eq!(script.state(id), Waiting);
    script.restart(SECOND * 50);
    script.worker("w", 1);
    assert_eq!(script.state(id), Waiting);
    script.pass(SECOND * 50);
    assert_eq!(script.state(id), Dispatched);
}

#[test]
fn parameters_override_those_of_the_definition_key_by_key() {
    let mut script = Script::new();
    let mut spec = job("j");
    spec.params = serde_json::from_str(r#"{"a":1,"b":2}"#).expect("JSON");
    script.apply(spec);
    let mut request = script.run_request("j");
    request.params = Some(serde_json::from_str(r#"{"b":3}"#).expect("JSON"));
    request.rerun_of = Some(pendula_model::InstanceId(5));
    let id = script.run_as(request);
    let row = &script.rows[&id];
    assert_eq!(row.params.as_deref(), Some(r#"{"a":1,"b":3}"#));
    assert_eq!((row.origin, row.rerun_of), (Origin::Rerun, Some(pendula_model::InstanceId(5))));
}

#[test]
fn a_full_server_says_so() {
    let mut script = Script::with(Settings { max_active: 2, ..Settings::default() });
    script.apply(job("j"));
    script.run("j");
    script.run("j");
    let request = script.run_request("j");
    let reply = script.command(Command::JobRun(Box::new(request)));
    assert_eq!(refusal(reply), Refusal::Overloaded(2));
}

#[test]
fn an_app_goes_only_when_its_jobs_have() {
    let mut script = Script::new();
    let session = script.worker("w", 1);
    script.apply(job("j"));
    let delete = Command::AppDelete { app: script.app };
    assert_eq!(refusal(script.command(delete.clone())), Refusal::AppNotEmpty);
    script.command(Command::JobDelete { app: script.app, name: "j".into() });
    assert!(matches!(script.command(delete), Reply::Done));
    assert_eq!(script.closed, [session]);
}

/// Scenario O-16: a definition that cannot be read refuses the commands about it, and nothing waits for it.
#[test]
fn o_16_a_damaged_definition_refuses_what_needs_it_and_holds_up_nothing_else() {
    let mut script = Script::new();
    script.apply(job("good"));
    script.hold_reads = true;
    let waiting = script.send(Command::JobDelete { app: script.app, name: "bad".into() });
    let need = script.held_reads.pop().expect("it has to be read");
    script.hold_reads = false;
    script.input(Input::Loaded(vec![Fact::Unreadable { need, why: "not JSON".into() }]));
    let reply = script.reply(waiting);
    assert!(matches!(reply, Some(Reply::Refused(Refusal::Unreadable(why))) if why == "not JSON"));
    // Were something still parked, the cache would never be swept again.
    script.pass(SECOND * 60);
    assert_eq!(script.partition.gauges().jobs_in_memory, 0);
}
