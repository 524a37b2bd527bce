//! Real workers over Akka, the oldest dialect among them.

use pendula_e2e::Ring;
use pendula_e2e::powerjob::{APP, PATIENCE, Programs, Protocol, Yard, gateway, job, result, shown};
use pendula_e2e::process::eventually;
use pendula_model::InstanceId;
use pendula_model::instance::InstanceState;
use pendula_model::job::JobSpec;
use pendula_model::powerjob::PowerJobExecuteType::*;

use super::features::{self, Tried};
use super::ticking::Ticking;

/// Its messages can be read by no PowerJob server of a later version.
const OLD: &str = "4.0.1";
const BETWEEN: &str = "4.3.6";
const NEW: &str = "5.1.1";

async fn fetched(versions: &'static [&'static str]) -> Vec<Programs> {
    let fetch = || versions.iter().map(|version| Programs::worker(version)).collect();
    tokio::task::spawn_blocking(fetch).await.expect("no panic")
}

/// Scenarios S1-2, S5-1 and S5-2 over Akka: both dialects and HTTP in one app.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s1_2_over_akka_the_oldest_and_the_newest_run_everything_beside_http() {
    let programs = fetched(&[OLD, NEW]).await;
    let mut yard = Yard::start().await;
    yard.protocol = Protocol::Akka;
    yard.add(&programs[0], OLD);
    yard.add(&programs[1], NEW);
    yard.protocol = Protocol::Http;
    yard.add(&programs[1], "http");
    yard.connected().await;
    let tries = async |worker: &str| -> Tried {
        let (one, two, three, four, five, six) = tokio::join!(
            features::standalone_and_log(&yard, worker),
            features::map_reduce(&yard, worker, 100, PATIENCE),
            features::retried(&yard, worker),
            features::stopped(&yard, worker),
            features::missing(&yard, worker),
            features::tracked_map(&yard, worker, 300),
        );
        one.and(two).and(three).and(four).and(five).and(six)
    };
    // Each worker runs its own piece, so it does not matter who can talk to whom.
    let tracked = async || -> Tried {
        let view = yard.ended(yard.run(&features::tracked_broadcast("tracked", 0)).await).await?;
        let is_right = view.state == InstanceState::Succeeded && yard.notes(view.id) == [OLD, NEW, "http"];
        if is_right { Ok(()) } else { Err(format!("{} {:?}", shown(&view), yard.notes(view.id))) }
    };
    let tried = tokio::join!(tries(OLD), tries(NEW), tries("http"), tracked());
    assert_eq!(tried, (Ok(()), Ok(()), Ok(()), Ok(())));

    features::outlive_a_killed_server(&mut yard, &[OLD, NEW]).await;

    let mut killed = Vec::new();
    for worker in [OLD, NEW] {
        killed.push((worker, features::begin_before_the_worker_is_killed(&yard, worker).await));
        yard.replace(worker);
    }
    for (worker, id) in killed {
        assert_eq!(features::rerun(&yard, worker, id).await, Ok(()), "{worker}");
    }
    assert_eq!(yard.complaints(), Vec::<String>::new());
}

/// Scenario S5-3, and the fault for which the old system is known: no upgrade leaves a worker that the server cannot read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s5_3_a_fleet_is_upgraded_from_4_0_1_to_5_1_1_while_a_job_fires_each_second() {
    let programs = fetched(&[OLD, BETWEEN, NEW]).await;
    let mut yard = Yard::start().await;
    yard.protocol = Protocol::Akka;
    for name in ["one", "two"] {
        yard.add(&programs[0], name);
    }
    yard.connected().await;
    let ticking = Ticking::start(&yard, "tick").await;
    for (programs, protocol) in
        [(&programs[1], Protocol::Akka), (&programs[2], Protocol::Akka), (&programs[2], Protocol::Http)]
    {
        for name in ["one", "two"] {
            yard.upgrade(name, programs, protocol).await;
        }
    }
    ticking.check(&yard, 10).await;
    assert_eq!(yard.complaints(), Vec::<String>::new());
}

/// Servers come and go under what runs: the workers find the next one by themselves, and nothing runs twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s5_3_workers_over_akka_follow_their_app_from_server_to_server() {
    let programs = fetched(&[OLD, NEW]).await;
    let ((first, first_options), (second, second_options)) = (gateway(), gateway());
    let told = |options: &[String]| [vec!["--set".to_owned(), "partitions=2".to_owned()], options.to_vec()].concat();
    let told = [told(&first_options), told(&second_options)];
    let arguments = told.each_ref().map(|options| options.iter().map(String::as_str).collect::<Vec<_>>());
    let mut ring = Ring::start_with(1, &arguments[0]).await;
    ring.arguments(&arguments[1]);
    ring.join().await;
    ring.settled().await;
    let (client, directory) = (ring.client(0), ring.directory().to_owned());
    let mut yard = Yard::around(ring, client, &directory, vec![first, second]).await;
    yard.protocol = Protocol::Akka;
    for programs in &programs {
        yard.add(programs, &programs.version);
    }
    yard.connected().await;
    let begin = async |yard: &Yard<Ring>, name: &str| -> Vec<(&'static str, InstanceId)> {
        let mut running = Vec::new();
        for worker in [OLD, NEW] {
            let spec = job(&format!("{name}-{worker}"), "Sleep", Standalone, "20000", Some(worker));
            let id = yard.run(&spec).await;
            yard.begun(id, 1).await;
            running.push((worker, id));
        }
        running
    };
    let end_well = async |yard: &Yard<Ring>, running: Vec<(&'static str, InstanceId)>| {
        for (worker, id) in running {
            let view = yard.ended(id).await.expect("it ends");
            assert_eq!((view.state, view.attempt), (InstanceState::Succeeded, 1), "{worker}: {}", shown(&view));
            assert_eq!(yard.notes(id), [worker]);
        }
    };

    let running = begin(&yard, "crash").await;
    let owner = owner(&yard).await;
    let other = 1 - owner;
    yard.server.servers[owner].kill();
    yard.client = yard.server.client(other);
    end_well(&yard, running).await;

    yard.server.servers[owner].launch();
    yard.server.servers[owner].ready().await;
    let running = begin(&yard, "farewell").await;
    let owner = self::owner(&yard).await;
    yard.server.servers[owner].stop().await;
    yard.client = yard.server.client(1 - owner);
    end_well(&yard, running).await;
    // And what comes next reaches them where they are now.
    for worker in [OLD, NEW] {
        let echo = JobSpec { ..job(&format!("echo-{worker}"), "Echo", Standalone, "next", Some(worker)) };
        let view = yard.ended(yard.run(&echo).await).await.expect("it ends");
        assert!(result(&view).starts_with("next|"), "{}", shown(&view));
    }
    assert_eq!(yard.complaints(), Vec::<String>::new());
}

/// The place of the server that owns the app.
async fn owner(yard: &Yard<Ring>) -> usize {
    eventually("the app has an owner", PATIENCE, || async {
        let overview = yard.client.cluster(None).await.ok()?;
        let app = yard.client.app_fetch(APP).await.ok()?;
        let held = overview.partitions.iter().find(|held| held.partition == app.id.partition().0)?;
        let name = held.owner.clone()?;
        yard.server.running().into_iter().find(|place| yard.server.servers[*place].name() == name)
    })
    .await
}
