//! The partition loop against stores that fail, restarts, and callers who leave.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use pendula_engine::{Command, Reply};
use pendula_model::instance::InstanceState;
use pendula_server::CommandError;
use pendula_store::StoreError;
use pendula_worker::{Output, Task};
use tokio::sync::Notify;

use crate::faulty_store::{Faults, FaultyStore};
use crate::world::{World, soon, start, until};

async fn faulty_world() -> (World, Arc<Faults>) {
    let faults = Arc::new(Faults::default());
    let store_faults = faults.clone();
    let world = World::with(|inner| Arc::new(FaultyStore { inner, faults: store_faults })).await;
    (world, faults)
}

/// A handler that tells that it began, and ends when it is told to.
#[derive(Default)]
struct Gate {
    began: Notify,
    may_end: Notify,
    runs: AtomicU32,
}

impl Gate {
    fn handler(self: &Arc<Self>) -> impl Fn(Task) -> futures::future::BoxFuture<'static, Result<Output, pendula_worker::Failure>> + Send + Sync + use<> + 'static {
        let gate = self.clone();
        move |_: Task| {
            let gate = gate.clone();
            Box::pin(async move {
                gate.runs.fetch_add(1, Ordering::SeqCst);
                gate.began.notify_one();
                gate.may_end.notified().await;
                Ok(Output::text("through"))
            })
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_small_instances_run_and_are_counted() {
    let world = World::new().await;
    world.job("noop", |_| {}).await;
    let _worker = start(world.worker().slots(64).handler("noop", |_: Task| async { Ok(Output::default()) }));
    let runs = vec![world.run_command("noop"); 500];
    let partitions = &world.server().state().partitions;
    let replies = partitions.commands(world.app.partition(), runs, Duration::from_secs(20)).await;
    for reply in replies {
        let Ok(Reply::Instance { id, .. }) = reply else { panic!("{reply:?}") };
        let instance = world.ended(id).await;
        assert_eq!((instance.state, instance.attempt), (InstanceState::Succeeded, 1), "{instance:?}");
    }
    let metrics = world.server().state().metrics.encode();
    assert!(metrics.contains(r#"pendula_instances_ended_total{state="succeeded",reason=""} 500"#), "{metrics}");
    assert!(metrics.contains("pendula_instances_running 0"), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_disturbs_no_running_task() {
    let mut world = World::new().await;
    world.job("gate", |_| {}).await;
    let gate = Arc::new(Gate::default());
    let _worker = start(world.worker().handler("gate", gate.handler()));
    let instance = world.run("gate").await;
    soon("it begins", gate.began.notified()).await;

    world.stop().await;
    world.start().await;
    gate.may_end.notify_one();

    let ended = world.ended(instance).await;
    assert_eq!((ended.state, ended.attempt), (InstanceState::Succeeded, 1), "{ended:?}");
    assert_eq!(gate.runs.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ended_while_the_server_was_down_is_credited() {
    let mut world = World::new().await;
    world.job("gate", |_| {}).await;
    let gate = Arc::new(Gate::default());
    let _worker = start(world.worker().handler("gate", gate.handler()));
    let instance = world.run("gate").await;
    soon("it begins", gate.began.notified()).await;

    world.stop().await;
    gate.may_end.notify_one();
    world.start().await;

    let ended = world.ended(instance).await;
    assert_eq!((ended.state, ended.attempt), (InstanceState::Succeeded, 1), "{ended:?}");
    assert_eq!(gate.runs.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_store_is_away_nothing_is_acknowledged_and_then_nothing_is_lost() {
    let (world, faults) = faulty_world().await;
    world.job("noop", |_| {}).await;
    let health = world.server().state().health.clone();
    until("the partitions are loaded", async || health.is_ready()).await;
    let _worker = start(world.worker().handler("noop", |_: Task| async { Ok(Output::default()) }));
    world.sessions_are(1).await;

    faults.is_away.store(true, Ordering::SeqCst);
    let run = world.command_within(world.run_command("noop"), Duration::from_millis(300)).await;
    assert_eq!(run.err(), Some(CommandError::Timeout));
    assert!(faults.refused.load(Ordering::SeqCst) > 1, "the batch is tried again");
    assert!(!health.is_ready());
    assert!(health.problems()[0].contains("the disk is full"), "{:?}", health.problems());

    let patient = world.run("noop");
    let back = async {
        until("another try", async || faults.refused.load(Ordering::SeqCst) > 2).await;
        faults.is_away.store(false, Ordering::SeqCst);
    };
    let (instance, ()) = tokio::join!(patient, back);
    assert_eq!(world.ended(instance).await.state, InstanceState::Succeeded);
    assert!(health.is_ready());
    let filter = pendula_store::InstanceFilter { app: Some(world.app), limit: 10, ..Default::default() };
    let all = world.server().state().store.instances(filter).await.expect("the store is back");
    assert_eq!(all.items.len(), 2, "the run whose caller gave up was decided already, and is kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn o_16_a_refused_commit_drops_the_memory_and_reads_it_again() {
    let (world, faults) = faulty_world().await;
    world.job("gate", |_| {}).await;
    let gate = Arc::new(Gate::default());
    let _worker = start(world.worker().handler("gate", gate.handler()));
    let instance = world.run("gate").await;
    soon("it begins", gate.began.notified()).await;
    let claims = faults.claims.load(Ordering::SeqCst);

    let conflict = StoreError::Conflict { what: "on purpose".to_owned() };
    *faults.next.lock().expect("no panic") = Some(conflict);
    let refused = world.command(world.run_command("gate")).await;
    assert!(matches!(refused, Err(CommandError::Unavailable { .. })), "{refused:?}");

    // The worker comes back by itself, and what it runs is still its own.
    world.sessions_are(1).await;
    assert_eq!(faults.claims.load(Ordering::SeqCst), claims + 1, "one claim, not a storm of them");
    gate.may_end.notify_one();
    let ended = world.ended(instance).await;
    assert_eq!((ended.state, ended.attempt), (InstanceState::Succeeded, 1), "{ended:?}");
    assert_eq!(gate.runs.load(Ordering::SeqCst), 1);
    let metrics = world.server().state().metrics.encode();
    assert!(metrics.contains("pendula_partition_reloads_total 1"), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn o_16_conflicts_without_end_do_not_spin() {
    let (world, faults) = faulty_world().await;
    let before = faults.claims.load(Ordering::SeqCst);
    let began = std::time::Instant::now();
    while began.elapsed() < Duration::from_secs(2) {
        *faults.next.lock().expect("no panic") = Some(StoreError::Conflict { what: "again".to_owned() });
        let create = Command::AppUpdate { app: world.app, allow_scripts: false };
        let _ = world.command_within(create, Duration::from_millis(500)).await;
    }
    let claims = faults.claims.load(Ordering::SeqCst) - before;
    assert!((1..=6).contains(&claims), "{claims} claims in two seconds");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fenced_partition_is_claimed_again() {
    let (world, faults) = faulty_world().await;
    let fenced = StoreError::Fenced { partition: world.app.partition(), ours: pendula_model::Epoch(1) };
    *faults.next.lock().expect("no panic") = Some(fenced);
    let update = || Command::AppUpdate { app: world.app, allow_scripts: false };
    assert!(world.command(update()).await.is_err());
    let reply = world.command(update()).await;
    assert!(matches!(reply, Ok(Reply::App(_))), "{reply:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopping_server_answers_whom_it_cannot_serve() {
    let mut world = World::new().await;
    let partitions = world.server().state().partitions.clone();
    world.stop().await;
    let update = Command::AppUpdate { app: world.app, allow_scripts: false };
    let answer = partitions.command(world.app.partition(), update, Duration::from_secs(5)).await;
    assert!(matches!(answer, Err(CommandError::Unavailable { .. })), "{answer:?}");
}
