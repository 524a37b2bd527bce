//! Why something waits or where it runs, in words.

use std::collections::BTreeMap;

use pendula_engine::input::Outcome;
use pendula_engine::{Command, Input, Reply, Report, ReportEvent};
use pendula_model::AttemptKey;
use pendula_model::job::JobSpec;
use pendula_model::policy::{Concurrency, Retry};
use pendula_model::worker::LabelRule;

use crate::script::{SECOND, Script, failed, job};

fn why(script: &mut Script, id: pendula_model::InstanceId) -> String {
    script.explain(id)["why"].as_str().expect("a sentence").to_owned()
}

#[test]
fn every_place_where_an_instance_can_be_is_explained() {
    let mut script = Script::new();
    let retry = Retry { attempts: 2, ..Retry::default() };
    let concurrency = Concurrency { limit: Some(1), ..Concurrency::default() };
    script.apply(JobSpec { retry, concurrency, ..job("j") });

    let first = script.run("j");
    assert_eq!(why(&mut script, first), "no worker of the app is connected");
    let queued = script.run("j");
    let also = script.run("j");
    let explained = script.explain(also);
    assert_eq!(explained["ahead_in_queue"], 1);
    assert!(why(&mut script, queued).contains("limit of 1 is reached"));
    let mut later = script.run_request("j");
    later.due_at = Some(script.now.plus(SECOND));
    let later = script.run_as(later);
    assert!(why(&mut script, later).contains("not due before 2026-11-21T08:00:01Z"));

    let worker = script.worker("w", 1);
    assert!(why(&mut script, first).contains("worker w has it; it was the only one connected"));
    let progress = ReportEvent::Progress { per_mille: 500, message: Some("half".into()) };
    script.input(Input::Reported {
        session: worker,
        reports: vec![Report { attempt: AttemptKey::root(first, 1), event: progress }],
    });
    assert_eq!(script.explain(first)["progress"]["per_mille"], 500);
    script.end(worker, first, failed());
    assert!(why(&mut script, first).contains("attempt 1 ended (exit_code), and the next is not due before"));
    script.cancel(queued);
    script.stop(first);
    let worker_of_also = script.explain(also);
    assert_eq!(worker_of_also["worker"], "w");
    script.disconnect(worker);
    assert!(why(&mut script, also).contains("is not connected; we wait for it"));
}

#[test]
fn each_worker_that_cannot_take_it_is_listed_with_its_reason() {
    let mut script = Script::new();
    let mut spec = job("j");
    spec.workers.labels = BTreeMap::from([("zone".to_owned(), LabelRule::Is("a".to_owned()))]);
    script.apply(spec);
    script.worker("nowhere", 1);
    let mut hello = script.hello("elsewhere", 1, 1);
    hello.info.labels = BTreeMap::from([("zone".to_owned(), "b".to_owned())]);
    script.connect(hello);
    let id = script.run("j");
    assert_eq!(why(&mut script, id), "none of the 2 connected workers may run it (nowhere: no label zone, wanted a)");
    let explained = script.explain(id);
    let reasons: Vec<_> =
        explained["candidates"].as_array().expect("a list").iter().map(|c| c["rejected"].clone()).collect();
    assert_eq!(reasons, ["no label zone, wanted a", "label zone=b, wanted a"]);

    let mut hello = script.hello("right", 1, 1);
    hello.info.labels = BTreeMap::from([("zone".to_owned(), "a".to_owned())]);
    let right = script.connect(hello);
    let next = script.run("j");
    assert_eq!(why(&mut script, next), "all slots of the 1 workers that may run it are taken");
    let record = script.explain(id)["placement"].clone();
    assert_eq!((record["chosen"].as_str(), record["strategy"].as_str()), (Some("right"), Some("least_loaded")));
    script.end(right, id, Outcome::Succeeded);
}

#[test]
fn the_list_of_workers_also_has_those_that_we_wait_for() {
    let mut script = Script::new();
    script.apply(job("j"));
    let worker = script.worker("w", 2);
    script.run("j");
    script.disconnect(worker);
    script.worker("x", 1);
    let Reply::Workers(workers) = script.command(Command::WorkerList { app: script.app }) else { panic!("no list") };
    let seen: Vec<_> = workers.iter().map(|w| (&*w.info.worker.name, w.connected, w.running)).collect();
    assert_eq!(seen, [("x", true, 0), ("w", false, 1)]);
}
