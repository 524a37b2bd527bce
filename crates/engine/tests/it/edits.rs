//! Edits while a job fires.

use std::time::Duration;

use pendula_engine::Command;
use pendula_engine::effect::Refusal;
use pendula_engine::input::Outcome;
use pendula_model::AttemptKey;
use pendula_model::instance::InstanceState::*;
use pendula_model::instance::Reason;
use pendula_model::job::JobSpec;
use pendula_model::processor::{Processor, Script as ShellScript};
use pendula_model::trigger::Trigger;

use crate::script::{SECOND, Script, every, fires, job, refusal};

#[test]
fn an_instance_keeps_the_revision_that_it_was_fired_with() {
    let mut script = Script::new();
    let worker = script.worker("w", 1);
    script.apply(JobSpec { timeout: Some(SECOND * 50), ..job("j") });
    let first = script.run("j");
    let second = script.run("j");
    script.apply(JobSpec { timeout: Some(SECOND), ..job("j") });
    script.restart(SECOND);
    let mut hello = script.hello("w", 1, 1);
    hello.running = vec![AttemptKey::root(first, 1)];
    let worker_again = script.connect(hello);
    assert_ne!(worker, worker_again);
    script.pass(SECOND * 40);
    assert_eq!(script.state(first), Running, "its timeout is the old one");
    script.end(worker_again, first, Outcome::Succeeded);
    assert_eq!(script.dispatches.last().map(|dispatch| dispatch.spec.timeout), Some(Some(SECOND * 50)));
    assert_eq!(script.state(second), Dispatched);
}

#[test]
fn an_edit_that_leaves_the_trigger_alone_leaves_its_times_alone() {
    let mut script = Script::new();
    let id = script.apply(fires("j", every(7_000))).id;
    script.pass(SECOND * 3);
    let before = script.jobs[&id].schedule.clone();
    let after = script.apply(JobSpec { priority: 3, ..fires("j", every(7_000)) }).schedule;
    assert_eq!(before, after);
}

#[test]
fn what_was_due_before_an_edit_is_fired_before_it() {
    let edits: [fn(&mut Script); 2] =
        [|script| drop(script.enable("j", false)), |script| drop(script.apply(fires("j", every(3_000))))];
    for edit in edits {
        let mut script = Script::new();
        let id = script.apply(fires("j", every(1_000))).id;
        script.pass(SECOND * 2);
        assert_eq!(script.instances(id).len(), 3);
        // The loop was busy for a moment: the edit comes before the tick.
        script.now = script.now.plus(SECOND);
        edit(&mut script);
        assert_eq!(script.instances(id).len(), 4);
    }
}

#[test]
fn a_deleted_job_cancels_what_waits_lets_run_what_runs_and_frees_its_name() {
    let mut script = Script::new();
    let worker = script.worker("w", 1);
    let id = script.apply(fires("j", every(1_000))).id;
    script.pass(SECOND * 2);
    assert_eq!(script.states(id), [Dispatched, Waiting, Waiting]);
    script.command(Command::JobDelete { app: script.app, name: "j".into() });
    assert_eq!(script.states(id), [Dispatched, Canceled, Canceled]);
    let canceled = script.instances(id)[1];
    assert_eq!(script.reason(canceled), Some(Reason::JOB_DELETED));
    let successor = script.apply(job("j"));
    assert_ne!(successor.id, id);
    script.pass(SECOND * 5);
    assert_eq!(script.instances(id).len(), 3, "it fires no more");
    // Also after a restart the name is the successor's.
    script.restart(SECOND);
    assert_eq!(script.apply(job("j")).id, successor.id);
    let running = script.instances(id)[0];
    let mut hello = script.hello("w", 1, 1);
    hello.running = vec![AttemptKey::root(running, 1)];
    let worker_again = script.connect(hello);
    assert_ne!(worker, worker_again);
    script.end(worker_again, running, Outcome::Succeeded);
    assert_eq!(script.state(running), Succeeded);
}

#[test]
fn a_lost_update_is_refused() {
    let mut script = Script::new();
    let version = script.apply(job("j")).version;
    let apply = |priority, expected_version| Command::JobApply {
        app: script.app,
        spec: std::sync::Arc::new(JobSpec { priority, ..job("j") }),
        expected_version,
    };
    let (first, late, fresh) = (apply(1, Some(version)), apply(2, Some(version)), apply(3, Some(0)));
    script.command(first);
    assert_eq!(refusal(script.command(late)), Refusal::VersionMismatch { expected: version, found: version + 1 });
    assert!(matches!(refusal(script.command(fresh)), Refusal::Exists { .. }));
}

#[test]
fn scripts_are_refused_where_they_are_not_allowed_also_when_that_changed_later() {
    let mut script = Script::new();
    let shell = || JobSpec { processor: Processor::Shell(ShellScript::new("true")), ..fires("j", every(1_000)) };
    let apply = Command::JobApply { app: script.app, spec: shell().into(), expected_version: None };
    assert_eq!(refusal(script.command(apply)), Refusal::ScriptsNotAllowed);
    script.command(Command::AppUpdate { app: script.app, allow_scripts: true });
    let id = script.apply(shell()).id;
    script.pass(SECOND / 2);
    script.command(Command::AppUpdate { app: script.app, allow_scripts: false });
    script.pass(SECOND);
    assert_eq!(script.states(id), [Waiting, Failed]);
    let refused = script.instances(id)[1];
    assert_eq!(script.reason(refused), Some(Reason::SCRIPTS_NOT_ALLOWED));
}

/// O-17: enabled, disabled, edited, deleted and made again in a tight loop while it fires at 10 Hz: after the answer that
/// it is disabled no fire later than that, none served twice (the script's store refuses it), none dropped.
#[test]
fn o_17_edits_in_a_tight_loop_neither_undo_a_disable_nor_double_a_fire() {
    let mut script = Script::new();
    let worker = script.worker("w", 1_000);
    let mut id = script.apply(fires("j", every(100))).id;
    let mut quiet_since = None;
    for round in 0u64..3_000 {
        script.pass(Duration::from_millis(7 + round % 23));
        match round % 5 {
            0 => drop(script.enable("j", false)),
            1 => {
                let (since, count) = quiet_since.take().expect("it was disabled in the round before");
                assert_eq!(script.instances(id).len(), count, "nothing was made while it was disabled");
                let latest = script.rows.values().filter(|row| row.job == id).filter_map(|row| row.fire_time).max();
                assert!(latest.is_none_or(|latest| latest <= since), "{latest:?} is after {since}");
                script.enable("j", true);
            }
            2 => drop(script.apply(JobSpec { priority: (round % 7) as i8, ..fires("j", every(100)) })),
            3 => drop(script.apply(JobSpec { priority: (round % 7) as i8, ..fires("j", every(100 + round % 3)) })),
            _ if round % 35 == 34 => {
                script.command(Command::JobDelete { app: script.app, name: "j".into() });
                id = script.apply(fires("j", every(100))).id;
            }
            _ => {}
        }
        if round % 5 == 0 {
            quiet_since = Some((script.now, script.instances(id).len()));
        }
        for (_, id, _) in script.dispatched() {
            script.end(worker, id, Outcome::Succeeded);
        }
    }
    assert!(script.rows.len() > 100);
    assert_eq!(script.missed(), 0);
}

#[test]
fn a_one_off_that_was_served_is_not_served_again_by_an_edit() {
    let mut script = Script::new();
    let at = script.now.plus(SECOND);
    let once = |limit| fires("j", Trigger { at: Some(at), misfire_limit: limit, ..Trigger::default() });
    let id = script.apply(once(1)).id;
    script.pass(SECOND * 2);
    script.apply(once(2));
    script.pass(SECOND * 2);
    assert_eq!(script.instances(id).len(), 1);
}
