//! Messages that are lost between a worker and its server, and a cable that is pulled.

use std::time::Duration;

use pendula_e2e::Server;
use pendula_e2e::fleet::{Fleet, SOON, broadcast};
use pendula_e2e::process::eventually;
use pendula_e2e::proxy::{Proxy, Shape, Way};
use pendula_model::instance::{InstanceState, TaskState};
use pendula_model::mode::Broadcast;
use pendula_model::{InstanceId, Timestamp};

/// Bytes of a result that make a report larger than anything else that a worker says unasked.
const MUCH: u64 = 4_000;

/// A broadcast on two workers and a third one behind a proxy.
struct Broken {
    fleet: Fleet,
    proxy: Proxy,
}

const ALL: [&str; 3] = ["w1", "w2", "w3"];

impl Broken {
    async fn start() -> Broken {
        let mut fleet = Fleet::start(&["w1", "w2"]).await;
        let proxy = Proxy::start(fleet.server.port()).await;
        fleet.add_at(&proxy.url(), "w3");
        fleet.connected(&ALL).await;
        Broken { fleet, proxy }
    }

    /// Runs a script on all workers that waits for the gate `go` and leaves a large result.
    async fn run(&self) -> InstanceId {
        let effects = &self.fleet.effects;
        let script = format!(
            "{}{}head -c {MUCH} /dev/zero | tr '\\0' x > \"$PENDULA_RESULT_FILE\"\n{}",
            effects.begin(),
            effects.gate("go"),
            effects.end()
        );
        self.fleet.run(&broadcast("fragile", &script, Broadcast::default())).await
    }

    async fn until_swallowed(&self, way: Way, bytes: u64) {
        eventually("the message is swallowed", SOON, || async { (self.proxy.swallowed(way) >= bytes).then_some(()) })
            .await;
    }

    /// Since when the worker behind the proxy is connected.
    async fn session(&self) -> Option<Timestamp> {
        let workers = self.fleet.client.worker_list(self.fleet.app()).await.ok()?;
        let third = workers.into_iter().find(|worker| worker.name == "w3" && worker.state == "connected")?;
        Some(third.connected_at)
    }

    /// Everything went well: on each worker once, in one attempt.
    async fn verify(&self, id: InstanceId) {
        let view = self.fleet.ended(id, SOON).await;
        assert_eq!(view.state, InstanceState::Succeeded, "{view:?}");
        for task in self.fleet.tasks(id).await {
            assert_eq!((task.state, task.attempt, task.losses), (TaskState::Succeeded, 1, 0), "{task:?}");
            assert_eq!(task.worker, task.target, "{task:?}");
        }
        let begun: Vec<_> = self.fleet.effects.begun(id).into_iter().map(|run| (run.worker, run.attempt)).collect();
        assert_eq!(begun, ALL.map(|worker| (worker.to_owned(), 1)), "each worker ran it once");
    }

    /// The worker behind the proxy is of use again.
    async fn verify_next(&self) {
        let id = self.fleet.run_again("fragile").await;
        self.verify(id).await;
    }
}

/// The order to run never arrives: the same attempt is sent again, to the same worker, once that is back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s2_2_a_swallowed_dispatch_is_sent_again_to_the_same_worker() {
    let broken = Broken::start().await;
    broken.proxy.swallow(Way::ToWorker);
    let id = broken.run().await;
    broken.fleet.begun(id, &["w1", "w2"]).await;
    // Its script alone is longer than anything that is sent without it.
    broken.until_swallowed(Way::ToWorker, 400).await;
    let task = broken.fleet.task_on(id, "w3").await;
    assert_eq!((task.state, task.attempt), (TaskState::Dispatched, 1), "{task:?}");
    broken.proxy.cut();
    broken.fleet.begun(id, &["w3"]).await;
    broken.fleet.effects.open("go");
    broken.verify(id).await;
    broken.verify_next().await;
}

/// The report never arrives: the worker keeps it, and tells it when it is back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s2_2_a_swallowed_report_is_told_again_and_nothing_runs_twice() {
    let broken = Broken::start().await;
    let id = broken.run().await;
    broken.fleet.begun(id, &ALL).await;
    broken.proxy.swallow(Way::ToServer);
    broken.fleet.effects.open("go");
    broken.until_swallowed(Way::ToServer, MUCH).await;
    for worker in ["w1", "w2"] {
        broken.fleet.until_task_on(id, worker, SOON, |task| task.state == TaskState::Succeeded).await;
    }
    let task = broken.fleet.task_on(id, "w3").await;
    assert!(task.state.is_placed(), "nobody told the server: {task:?}");
    broken.proxy.cut();
    broken.verify(id).await;
    broken.verify_next().await;
}

/// The acknowledgement never arrives: the worker tells its report again, which changes nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s2_2_a_swallowed_acknowledgement_changes_nothing() {
    let broken = Broken::start().await;
    let id = broken.run().await;
    broken.fleet.begun(id, &ALL).await;
    broken.proxy.swallow(Way::ToWorker);
    broken.fleet.effects.open("go");
    let before = broken.fleet.ended(id, SOON).await;
    broken.until_swallowed(Way::ToWorker, 1).await;
    let session = broken.session().await;
    broken.proxy.cut();
    // It is back, with the end in hand, and is told to forget it.
    eventually("the worker is back", SOON, || async { broken.session().await.filter(|since| Some(*since) != session) })
        .await;
    broken.verify_next().await;
    broken.verify(id).await;
    let after = broken.fleet.client.instance_fetch(id).await.expect("it exists");
    assert_eq!(after.ended_at, before.ended_at, "an ended instance is never touched again");
}

/// Half-open: nothing comes through any more and nobody is told. Both sides notice by the silence, and what ran goes on
/// when the cable is back in time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pulled_cable_is_noticed_by_both_sides() {
    const NOTICED_WITHIN: Duration = Duration::from_secs(20);
    let broken = Broken::start().await;
    let id = broken.run().await;
    broken.fleet.begun(id, &ALL).await;
    broken.proxy.unplug();
    let pulled = std::time::Instant::now();
    let (app, client) = (broken.fleet.app(), &broken.fleet.client);
    let server = eventually("the server notices", NOTICED_WITHIN, || async {
        let workers = client.worker_list(app).await.ok()?;
        let away = workers.iter().any(|worker| worker.name == "w3" && worker.state == "away");
        away.then(|| pulled.elapsed())
    });
    let worker = eventually("the worker notices", NOTICED_WITHIN, || async {
        (broken.proxy.refused() > 0).then(|| pulled.elapsed())
    });
    let (server, worker) = tokio::join!(server, worker);
    println!("noticed by the server after {server:?}, by the worker after {worker:?}");
    broken.proxy.plug_in();
    broken.fleet.connected(&ALL).await;
    broken.fleet.effects.open("go");
    broken.verify(id).await;
}

/// O-10: 300 ms there and back, one packet in twenty lost and sent again. Nothing is done twice, nothing lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn o_10_a_long_and_lossy_way_costs_time_and_nothing_else() {
    let shape = Shape {
        delay: Duration::from_millis(150),
        lost_one_in: 20,
        again: Duration::from_millis(700),
        ..Shape::default()
    };
    let mut fleet = Fleet::start(&["w1", "w2"]).await;
    let proxy = Proxy::shaped(vec![fleet.server.port()], shape).await;
    fleet.add_at(&proxy.url(), "w3");
    fleet.connected(&ALL).await;
    let broken = Broken { fleet, proxy };
    broken.fleet.effects.open("go");
    let id = broken.run().await;
    broken.verify(id).await;
    for _ in 0..5 {
        broken.verify_next().await;
    }
}

/// O-10: a balancer that ends connections which carry nothing: heartbeats keep them alive.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn o_10_a_balancer_finds_no_idle_connection() {
    /// Longer than from one heartbeat to the next (3 s).
    const LIMIT: Duration = Duration::from_secs(5);
    let shape = Shape { idle_limit: Some(LIMIT), ..Shape::default() };
    let mut fleet = Fleet::start(&["w1", "w2"]).await;
    let proxy = Proxy::shaped(vec![fleet.server.port()], shape).await;
    fleet.add_at(&proxy.url(), "w3");
    fleet.connected(&ALL).await;
    let broken = Broken { fleet, proxy };
    let since = broken.session().await.expect("it is connected");
    tokio::time::sleep(2 * LIMIT).await;
    assert_eq!(broken.session().await, Some(since), "it is the same connection");
    broken.fleet.effects.open("go");
    let id = broken.run().await;
    broken.verify(id).await;
}

/// O-10: nothing but IPv6.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn o_10_servers_and_workers_need_no_ipv4() {
    let fleet = Fleet::at(Server::start_on("[::1]", &[]).await, &["w1"]).await;
    let script = fleet.effects.begin();
    let id = fleet.run(&broadcast("six", &script, Broadcast::default())).await;
    let view = fleet.ended(id, SOON).await;
    assert_eq!(view.state, InstanceState::Succeeded, "{view:?}");
}
