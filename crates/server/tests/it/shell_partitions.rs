//! The partition loop against stores that fail, restarts, and callers who leave.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::BoxFuture;
use pendula_engine::{Command, Reply};
use pendula_model::InstanceId;
use pendula_model::instance::InstanceState;
use pendula_model::job::JobSpec;
use pendula_model::trigger::Trigger;
use pendula_server::CommandError;
use pendula_store::{InstanceFilter, StoreError};
use pendula_worker::{Failure, Output, Task};
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
    fn handler(self: &Arc<Self>) -> impl Fn(Task) -> BoxFuture<'static, Result<Output, Failure>> + use<> {
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
    // The rows are on disk a moment before the numbers move.
    until("the metrics have them", async || {
        let metrics = world.server().state().metrics.encode();
        metrics.contains(r#"pendula_instances_ended_total{state="succeeded",reason=""} 500"#)
            && metrics.contains("pendula_instances_running 0")
    })
    .await;
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

    // Once it lasts, callers are told why instead of being kept waiting.
    until("callers are told why", async || {
        let refused = world.command_within(world.run_command("noop"), Duration::from_millis(300)).await;
        matches!(refused, Err(CommandError::Unavailable { why }) if why.contains("the disk is full"))
    })
    .await;
    faults.is_away.store(false, Ordering::SeqCst);
    until("it is well again", async || health.is_ready()).await;
    let so_far = faults.refused.load(Ordering::SeqCst);
    faults.is_away.store(true, Ordering::SeqCst);

    // One that comes back soon is waited for.
    let patient = world.run("noop");
    let back = async {
        until("another try", async || faults.refused.load(Ordering::SeqCst) > so_far).await;
        faults.is_away.store(false, Ordering::SeqCst);
    };
    let (instance, ()) = tokio::join!(patient, back);
    assert_eq!(world.ended(instance).await.state, InstanceState::Succeeded);
    assert!(health.is_ready());
    let filter = InstanceFilter { app: Some(world.app), limit: 10, ..Default::default() };
    let all = world.server().state().store.instances(filter).await.expect("the store is back");
    // Of those whose callers gave up, what was decided is kept.
    assert!(all.items.len() >= 2 && all.items.iter().any(|item| item.id == instance), "{all:?}");
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
async fn a_panic_is_kept_to_its_partition_and_survived() {
    let (world, faults) = faulty_world().await;
    faults.panic_next.store(true, Ordering::SeqCst);
    *faults.next.lock().expect("no panic") = Some(StoreError::Conflict { what: "on purpose".to_owned() });
    let update = || Command::AppUpdate { app: world.app, allow_scripts: false };
    assert!(world.command(update()).await.is_err());
    let reply = world.command(update()).await;
    assert!(matches!(reply, Ok(Reply::App(_))), "{reply:?}");
    assert!(!faults.panic_next.load(Ordering::SeqCst));
    let health = world.server().state().health.clone();
    until("all is well again", async || health.is_ready()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schedule_fires_in_time_and_goes_on_after_a_restart() {
    let mut world = World::new().await;
    let every = |spec: &mut JobSpec| {
        spec.trigger = Some(Trigger { fixed_rate: Some(Duration::from_millis(100)), ..Trigger::default() });
    };
    world.job("noop", every).await;
    let _worker = start(world.worker().handler("noop", |_: Task| async { Ok(Output::default()) }));
    let succeeded = async |world: &World| {
        let states = vec![InstanceState::Succeeded];
        let filter = InstanceFilter { app: Some(world.app), states, limit: 1000, ..Default::default() };
        world.server().state().store.instances(filter).await.expect("the store answers").items
    };
    until("three fires", async || succeeded(&world).await.len() >= 3).await;
    world.stop().await;
    world.start().await;
    let before = succeeded(&world).await.len();
    until("three more", async || succeeded(&world).await.len() >= before + 3).await;
    let all = succeeded(&world).await;
    let mut fires: Vec<_> = all.iter().map(|instance| instance.fire_time.expect("a trigger made it")).collect();
    fires.dedup();
    assert_eq!(fires.len(), all.len(), "one row per fire");
}

#[tokio::test(flavor = "multi_thread")]
async fn ended_instances_are_forgotten_when_their_time_has_come() {
    let mut world = World::new().await;
    world.job("noop", |spec| spec.retention = Some(Duration::from_millis(1))).await;
    let _worker = start(world.worker().handler("noop", |_: Task| async { Ok(Output::default()) }));
    let instance = world.run("noop").await;
    world.ended(instance).await;
    // Pruning begins with the server.
    world.stop().await;
    world.start().await;
    let store = world.server().state().store.clone();
    until("it is pruned", async || store.instance(instance).await.expect("the store answers").is_none()).await;
    // The job is no longer in memory, and is found again.
    let again = world.run("noop").await;
    assert_eq!(world.ended(again).await.state, InstanceState::Succeeded);
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

#[tokio::test(flavor = "multi_thread")]
async fn restarts_under_load_lose_nothing_and_double_nothing() {
    let mut world = World::new().await;
    world.job("count", |_| {}).await;
    let runs = Arc::new(Mutex::new(HashMap::<InstanceId, u32>::new()));
    let handler_runs = runs.clone();
    let count = move |task: Task| {
        let runs = handler_runs.clone();
        async move {
            *runs.lock().expect("no panic").entry(task.instance()).or_default() += 1;
            tokio::time::sleep(Duration::from_millis(u64::from(task.instance().0 as u8 % 8))).await;
            Ok(Output::default())
        }
    };
    let _worker = start(world.worker().slots(32).handler("count", count));
    let mut acknowledged = Vec::new();
    for _ in 0..4 {
        let commands = vec![world.run_command("count"); 200];
        let partitions = world.server().state().partitions.clone();
        let submit = async { partitions.commands(world.app.partition(), commands, Duration::from_secs(20)).await };
        for reply in submit.await {
            let Ok(Reply::Instance { id, .. }) = reply else { panic!("{reply:?}") };
            acknowledged.push(id);
        }
        // Somewhere in the middle of them.
        until("some of them run", async || runs.lock().expect("no panic").len() + 150 > acknowledged.len()).await;
        world.stop().await;
        world.start().await;
    }
    for id in &acknowledged {
        let ended = world.ended(*id).await;
        assert_eq!((ended.state, ended.attempt), (InstanceState::Succeeded, 1), "{ended:?}");
    }
    let runs = runs.lock().expect("no panic");
    assert_eq!(runs.len(), acknowledged.len());
    assert!(runs.values().all(|count| *count == 1), "{runs:?}");
}
