//! Workers that are stopped by SIGSTOP, as by a debugger, a swapping host or a long pause of a virtual machine: they
//! are there, say nothing, and come back with what they had.

use std::time::{Duration, Instant};

use pendula_e2e::fleet::{AFTER_A_LOSS, Fleet, SOON, broadcast, with_mark};
use pendula_e2e::process::{eventually, marked};
use pendula_model::instance::{InstanceState, TaskState};
use pendula_model::job::JobSpec;
use pendula_model::mode::Broadcast;
use rustix::process::Signal;

/// How long the worker is frozen. After 10 s of silence and 10 s of patience it is lost; `make soak` freezes it for
/// longer.
fn freeze() -> Duration {
    let seconds = std::env::var("FREEZE_SECONDS").ok();
    Duration::from_secs(seconds.map_or(30, |text| text.parse().expect("FREEZE_SECONDS is a number")))
}

/// The tasks of a frozen worker are lost. When it wakes up, it aborts what it still runs, and what it finished
/// meanwhile is too late: nothing runs a second time, and nothing changes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s2_3_a_frozen_worker_wakes_up_and_aborts_what_is_lost() {
    let mut fleet = Fleet::start(&["w1", "w2", "w3"]).await;
    let mark = format!("pendula-e2e-frozen-{}", fleet.server.port());
    let script = |gate: &str| {
        let effects = &fleet.effects;
        format!("{}{}{}", effects.begin(), effects.gate(gate), effects.end())
    };
    // The one runs until it is aborted; the other ends while nobody can tell the server.
    let job = |name: &str, gate: &str| with_mark(broadcast(name, &script(gate), Broadcast::default()), &mark);
    let long = fleet.run(&job("long", "long-$E2E_WORKER")).await;
    let short = fleet.run(&job("short", "short")).await;
    for id in [long, short] {
        fleet.begun(id, &["w1", "w2", "w3"]).await;
    }
    let frozen = Instant::now();
    fleet.worker("w3").process().signal(Signal::STOP);
    fleet.effects.open("short");
    fleet.effects.open("long-w1");
    fleet.effects.open("long-w2");
    let mut ended = Vec::new();
    for id in [long, short] {
        let view = fleet.ended(id, AFTER_A_LOSS).await;
        let verdict = (view.state, view.reason.as_deref());
        assert_eq!(verdict, (InstanceState::Failed, Some("tasks_failed")), "{view:?}");
        ended.push(view.ended_at);
    }
    let noticed = frozen.elapsed();
    assert!((Duration::from_secs(10)..Duration::from_secs(40)).contains(&noticed), "lost after {noticed:?}");
    assert_eq!(fleet.effects.ended(short).len(), 3, "its script needs no worker to end");
    assert!(!marked(&mark).is_empty(), "the other still runs under the frozen worker");
    // The only way to learn what a longer silence does.
    tokio::time::sleep(freeze().saturating_sub(frozen.elapsed())).await;
    fleet.worker("w3").process().signal(Signal::CONT);

    eventually("what is lost is aborted", SOON, || async { marked(&mark).is_empty().then_some(()) }).await;
    fleet.connected(&["w1", "w2", "w3"]).await;
    // It is of use again; what it said when it came back was heard before this.
    let next = fleet.run(&broadcast("next", &fleet.effects.begin(), Broadcast::default())).await;
    let view = fleet.ended(next, SOON).await;
    assert_eq!(view.state, InstanceState::Succeeded, "{view:?}");
    for (id, ended_at) in [long, short].into_iter().zip(ended) {
        let lost = fleet.task_on(id, "w3").await;
        assert_eq!((lost.state, lost.reason.as_deref()), (TaskState::Lost, Some("worker_lost")), "{lost:?}");
        assert_eq!(lost.worker.as_deref(), Some("w3"), "{lost:?}");
        let view = fleet.client.instance_fetch(id).await.expect("it exists");
        assert_eq!(view.ended_at, ended_at, "a late report changes nothing");
        let counts = fleet.effects.per_worker(id);
        assert!(counts.len() == 3 && counts.values().all(|count| *count == 1), "executions: {counts:?}");
    }
    let finished: Vec<_> = fleet.effects.ended(long).into_iter().map(|run| run.worker).collect();
    assert_eq!(finished, ["w1", "w2"], "the lost one was aborted before its end");
}

/// A stop that a worker does not confirm is said to be unconfirmed; the worker aborts when it comes to its senses.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_that_nobody_confirms_is_marked_and_carried_out_later() {
    let mut fleet = Fleet::start(&["w1", "w2"]).await;
    let mark = format!("pendula-e2e-unconfirmed-{}", fleet.server.port());
    let script = format!("{}{}", fleet.effects.begin(), fleet.effects.gate("never"));
    let stop_grace = Some(Duration::from_millis(500));
    let job = JobSpec { stop_grace, ..with_mark(broadcast("deaf", &script, Broadcast::default()), &mark) };
    let id = fleet.run(&job).await;
    fleet.begun(id, &["w1", "w2"]).await;
    fleet.worker("w2").process().signal(Signal::STOP);
    fleet.client.instance_stop(id).await.expect("a running instance can be stopped");
    let view = fleet.ended(id, AFTER_A_LOSS).await;
    assert_eq!((view.state, view.reason.as_deref()), (InstanceState::Stopped, Some("stop_unconfirmed")), "{view:?}");
    for (worker, reason) in [("w1", "instance_ended"), ("w2", "stop_unconfirmed")] {
        let task = fleet.task_on(id, worker).await;
        assert_eq!((task.state, task.reason.as_deref()), (TaskState::Stopped, Some(reason)), "{task:?}");
    }
    assert!(!marked(&mark).is_empty(), "it may still be running there, and is");
    fleet.worker("w2").process().signal(Signal::CONT);
    eventually("nothing is left", SOON, || async { marked(&mark).is_empty().then_some(()) }).await;
}
