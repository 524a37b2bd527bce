//! Slots shared between jobs, and which worker is chosen.

use std::collections::BTreeMap;

use pendula_engine::Input;
use pendula_engine::input::Outcome;
use pendula_model::SessionId;
use pendula_model::job::JobSpec;
use pendula_model::mode::{ExecutionMode, Sharded, Share};
use pendula_model::worker::{Bytes, HostMetrics, LabelRule, Minimum, Strategy};

use crate::script::{SECOND, Script, every, fires, job};

fn shards(name: &str, total: u32) -> JobSpec {
    let settings = Sharded {
        total,
        per_worker: None,
        max_workers: None,
        tolerate: Share::Count(0),
        fail_fast: false,
        task_timeout: None,
    };
    JobSpec { mode: ExecutionMode::Sharded(settings), ..job(name) }
}

/// Ends what runs, one at a time, and counts by job who follows.
fn turns(script: &mut Script, count: usize) -> BTreeMap<String, usize> {
    let mut served = BTreeMap::new();
    for _ in 0..count {
        let dispatch = script.dispatches.remove(0);
        *served.entry(dispatch.spec.name.clone()).or_default() += 1;
        script.end_attempt(dispatch.session, dispatch.key(), Outcome::Succeeded);
    }
    served
}

#[test]
fn a_big_instance_does_not_hold_up_what_fires_each_second() {
    let mut script = Script::new();
    script.worker("w", 4);
    script.apply(shards("big", 9000));
    script.run("big");
    let cron = script.apply(fires("cron", every(1000))).id;
    for _ in 0..20 {
        script.pass(SECOND);
        // Whatever fired is among the next two that get a slot.
        let served = turns(&mut script, 10);
        assert!(served.get("cron").is_some_and(|count| *count >= 1), "{served:?}");
    }
    let waiting = script.states(cron).iter().filter(|state| !state.is_ended()).count();
    assert!(waiting <= 1, "{waiting}");
}

#[test]
fn jobs_share_slots_by_weight() {
    let mut script = Script::new();
    script.worker("w", 1);
    script.apply(JobSpec { weight: 3, ..shards("heavy", 2000) });
    script.apply(shards("light", 2000));
    script.run("heavy");
    script.run("light");
    let served = turns(&mut script, 400);
    assert!((295..=305).contains(&served["heavy"]), "{served:?}");
}

#[test]
fn priority_goes_first_but_not_for_ever() {
    let mut script = Script::new();
    script.worker("w", 1);
    script.apply(JobSpec { priority: 2, ..shards("urgent", 5000) });
    script.apply(job("patient"));
    script.run("urgent");
    let id = script.run("patient");
    let mut waited = 0;
    while script.rows[&id].attempt == 0 && waited < 1000 {
        script.pass(SECOND);
        turns(&mut script, 1);
        waited += 1;
    }
    assert!((119..=130).contains(&waited), "two points of priority are two minutes: {waited}");
}

#[test]
fn strategies_choose_as_they_say() {
    type Expected = fn(&[SessionId]) -> bool;
    let cases: [(Strategy, Expected); 4] = [
        (Strategy::First, |to| to.iter().all(|session| *session == SessionId(1))),
        (Strategy::RoundRobin, |to| to.chunks(3).all(|turn| turn == [SessionId(1), SessionId(2), SessionId(3)])),
        (Strategy::Random, |to| (1..=3).all(|n| to.iter().filter(|s| s.0 == n).count() > 5)),
        (Strategy::LeastLoaded, |to| (1..=3).all(|n| to.iter().filter(|s| s.0 == n).count() == 10)),
    ];
    for (strategy, expected) in cases {
        let mut script = Script::new();
        for name in ["w1", "w2", "w3"] {
            script.worker(name, 100);
        }
        let mut spec = job("j");
        spec.workers.strategy = strategy.clone();
        script.apply(spec);
        for _ in 0..30 {
            script.run("j");
        }
        let to: Vec<SessionId> = script.dispatched().into_iter().map(|(to, ..)| to).collect();
        assert!(expected(&to), "{strategy:?}: {to:?}");
    }
}

#[test]
fn sticky_hash_keeps_a_key_on_its_worker_and_spills_when_that_is_full() {
    let mut script = Script::new();
    for name in ["w1", "w2", "w3"] {
        script.worker(name, 3);
    }
    let mut spec = job("j");
    spec.workers.strategy = Strategy::StickyHash("customer".to_owned());
    script.apply(spec);
    let run = |script: &mut Script, customer: &str| {
        let mut request = script.run_request("j");
        request.params = serde_json::json!({ "customer": customer }).as_object().cloned();
        script.run_as(request);
        script.dispatched().last().map(|(to, id, _)| (*to, *id)).unwrap()
    };
    let (home, _) = run(&mut script, "acme");
    assert_eq!(run(&mut script, "acme").0, home);
    assert_eq!(run(&mut script, "acme").0, home);
    let (spilled, _) = run(&mut script, "acme");
    assert_ne!(spilled, home, "its worker is full");
    let others: std::collections::BTreeSet<_> = (0..3).map(|n| run(&mut script, &n.to_string()).0).collect();
    assert!(!others.is_empty());
}

#[test]
fn what_must_be_free_is_asked_each_time() {
    let mut script = Script::new();
    let worker = script.worker("w", 10);
    let mut spec = job("j");
    spec.workers.min = Minimum { memory: Some(Bytes(1 << 30)), ..Minimum::default() };
    script.apply(spec);
    let id = script.run("j");
    assert_eq!(script.dispatched(), []);
    let why = script.explain(id);
    assert!(why["why"].as_str().unwrap().contains("0 of memory free, wanted 1GiB"), "{why}");
    assert!(why["hint"].as_str().unwrap().contains("workers.min"));
    let metrics = HostMetrics { memory_bytes: 2 << 30, ..HostMetrics::default() };
    script.input(Input::WorkerAlive { session: worker, dispatches_seen: 0, held: Vec::new(), metrics: Some(metrics) });
    assert_eq!(script.dispatched(), [(worker, id, 1)]);
}

#[test]
fn labels_have_rules_and_only_the_best_are_considered() {
    let mut script = Script::new();
    for (name, boot, zone) in [("w1", 1, "a"), ("w2", 2, "b"), ("w3", 3, "c")] {
        let mut hello = script.hello(name, boot, 10);
        hello.info.labels = BTreeMap::from([("zone".to_owned(), zone.to_owned())]);
        script.connect(hello);
    }
    let mut spec = job("j");
    spec.workers.labels = BTreeMap::from([("zone".to_owned(), LabelRule::In(vec!["b".to_owned(), "c".to_owned()]))]);
    spec.workers.strategy = Strategy::RoundRobin;
    spec.workers.best = Some(1);
    script.apply(spec);
    for _ in 0..6 {
        script.run("j");
    }
    let to: Vec<u64> = script.dispatched().into_iter().map(|(to, ..)| to.0).collect();
    // The least loaded of the two each time.
    assert_eq!(to.iter().filter(|to| **to == 2).count(), 3, "{to:?}");
    assert_eq!(to.iter().filter(|to| **to == 3).count(), 3, "{to:?}");
}

/// A worker of an older version runs whole instances, and no parts of any.
#[test]
fn a_worker_without_the_capability_gets_no_tasks() {
    let mut script = Script::new();
    let mut hello = script.hello("old", 1, 10);
    hello.info.capabilities.clear();
    let old = script.connect(hello);
    script.apply(job("j"));
    script.apply(shards("s", 2));
    let whole = script.run("j");
    let parts = script.run("s");
    assert_eq!(script.dispatched(), [(old, whole, 1)]);
    assert!(script.explain(parts)["why"].as_str().unwrap().contains("upgrade it"));
    script.worker("new", 10);
    assert_eq!(script.tasks_dispatched().len(), 2);
}
