//! What users and workers see when servers of a cluster come and go. Real processes on a real PostgreSQL.

use std::path::Path;
use std::time::{Duration, Instant};

use pendula_client::{Client, ClientError, FollowOptions, InstanceFilter, RunKey};
use pendula_e2e::process::eventually;
use pendula_e2e::{Noter, Proxy, Ring};
use pendula_model::api::{InstanceView, LogEvent, RunJob};
use pendula_model::instance::InstanceState;
use pendula_model::job::JobSpec;
use pendula_model::processor::{Handler, Processor};
use pendula_model::trigger::{Misfire, Trigger};
use pendula_model::{InstanceId, Timestamp};
use rustix::process::Signal;

/// A crashed server's partitions are served again by then, with room for a machine that does other things too.
const TAKEN_OVER: Duration = Duration::from_secs(15);
const SOON: Duration = Duration::from_secs(30);

fn job(name: &str, handler: &str, millis: u64) -> JobSpec {
    let processor = Processor::Handler(Handler { name: handler.to_owned(), config: None });
    let params = serde_json::Map::from_iter([("millis".to_owned(), millis.into())]);
    JobSpec { params, ..JobSpec::new(name, processor) }
}

/// Three servers, the app `demo` with a worker, and the jobs `long` (a minute), `short` (a third of a second), `quick`.
struct Scene {
    ring: Ring,
    worker: Noter,
    token: String,
}

impl Scene {
    async fn start() -> Scene {
        let ring = Ring::start_with(3, &["--set", "partitions=8"]).await;
        let token = ring.app("demo").await;
        for job in [job("long", "linger", 60_000), job("short", "linger", 333), job("quick", "note", 0)] {
            ring.client(0).job_create("demo", &job).await.expect("the job is valid");
        }
        let worker = noter(&ring, &ring.urls(), &token);
        let scene = Scene { ring, worker, token };
        scene.has_worker(0).await;
        scene
    }

    async fn has_worker(&self, through: usize) {
        let client = self.ring.client(through);
        eventually("the worker is there", SOON, || async {
            (client.worker_list("demo").await.ok()?.len() == 1).then_some(())
        })
        .await;
    }

    /// The place of the server that owns the app's partition.
    async fn owner(&self) -> usize {
        let running = self.ring.running();
        let overview = self.ring.client(running[0]).cluster(None).await.expect("it answers");
        let app = self.ring.client(running[0]).app_fetch("demo").await.expect("it answers");
        let owner = overview.partitions.iter().find(|partition| partition.partition == app.id.partition().0);
        let name = owner.and_then(|partition| partition.owner.clone()).expect("somebody has it");
        running.into_iter().find(|place| self.ring.servers[*place].name() == name).expect("it runs")
    }

    async fn run(&self, through: usize, job: &str) -> InstanceId {
        let run = self.ring.client(through).job_run("demo", job, &RunJob::default(), RunKey::Random).await;
        run.expect("it is accepted").instance.expect("it has an id")
    }

    async fn is(&self, through: usize, id: InstanceId, state: InstanceState) -> InstanceView {
        let client = self.ring.client(through);
        eventually(&format!("the instance is {state}"), SOON, || async {
            client.instance_fetch(id).await.ok().filter(|view| view.state == state)
        })
        .await
    }

    fn others(&self, than: usize) -> Vec<usize> {
        self.ring.running().into_iter().filter(|place| *place != than).collect()
    }

    fn runs(&self, id: InstanceId) -> u32 {
        self.worker.notes().iter().filter(|((instance, ..), _)| *instance == id).map(|(_, count)| *count).sum()
    }
}

fn noter(ring: &Ring, urls: &[String], token: &str) -> Noter {
    let program = Path::new(env!("CARGO_BIN_EXE_pendula-e2e-noter"));
    Noter::start(program, urls, "demo", token, "w1", ring.directory())
}

/// Repeats what a typed, retryable error refuses, as a user's program would; any other error fails the test.
async fn insist<T, F: Future<Output = Result<T, ClientError>>>(what: &str, ask: impl Fn() -> F) -> T {
    let begun = Instant::now();
    loop {
        match ask().await {
            Ok(answer) => return answer,
            Err(error) if error.is_retryable() && begun.elapsed() < TAKEN_OVER => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Err(error) => panic!("{what}, after {:?}: {error}", begun.elapsed()),
        }
    }
}

async fn everything_works(client: &Client, running: InstanceId) {
    let view = insist("show", || client.instance_fetch(running)).await;
    assert!(!view.state.is_ended(), "{view:?}");
    insist("why", || client.instance_explain(running, None)).await;
    insist("workers", || client.worker_list("demo")).await;
    let mut follow = client.follow(running, FollowOptions::default());
    let mut saw = String::new();
    let reading = async {
        while let Some(event) = follow.next().await {
            if let LogEvent::Log { data, .. } = event.expect("following works")
                && data.contains("begun")
            {
                saw = data;
                break;
            }
        }
    };
    tokio::time::timeout(SOON, reading).await.expect("the log is read from any server");
    assert!(saw.contains("begun"));
    let run = RunJob::default();
    let id = insist("run", || client.job_run("demo", "quick", &run, RunKey::Random)).await.instance;
    let id = id.expect("it has an id");
    eventually("a new one runs", SOON, || async {
        client.instance_fetch(id).await.ok().filter(|view| view.state == InstanceState::Succeeded)
    })
    .await;
    let retried = insist("retry", || client.instance_retry(id, RunKey::Random)).await;
    assert!(retried.created);
}

/// S4-1: the owner is killed; through each other server, and through the one that was killed when it is back, everything
/// works: show, why, follow, run, retry, stop.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s4_1_after_a_takeover_every_server_does_everything() {
    let mut scene = Scene::start().await;
    let owner = scene.owner().await;
    let others = scene.others(owner);
    let mut long = Vec::new();
    for _ in 0..3 {
        long.push(scene.run(others[0], "long").await);
    }
    for id in &long {
        scene.is(others[1], *id, InstanceState::Running).await;
    }
    scene.ring.servers[owner].kill();
    let killed = Instant::now();
    for (place, id) in others.iter().zip(&long) {
        everything_works(&scene.ring.client(*place), *id).await;
        let client = scene.ring.client(*place);
        insist("stop", || client.instance_stop(*id)).await;
    }
    println!("everything done {:?} after the kill", killed.elapsed());
    scene.ring.servers[owner].launch();
    scene.ring.servers[owner].ready().await;
    everything_works(&scene.ring.client(owner), long[2]).await;
    let client = scene.ring.client(owner);
    insist("stop", || client.instance_stop(long[2])).await;
    for id in long {
        scene.is(owner, id, InstanceState::Stopped).await;
        assert_eq!(scene.runs(id), 1);
    }
}

/// S4-2: stopped while nobody owns it. The request is answered when somebody does, and holds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s4_2_a_stop_in_the_takeover_window_is_honoured() {
    let mut scene = Scene::start().await;
    let owner = scene.owner().await;
    let other = scene.others(owner)[0];
    let id = scene.run(other, "long").await;
    scene.is(other, id, InstanceState::Running).await;
    scene.ring.servers[owner].kill();
    let client = scene.ring.client(other);
    let asked = Instant::now();
    insist("stop", || client.instance_stop(id)).await;
    println!("the stop was accepted {:?} after the kill", asked.elapsed());
    scene.is(other, id, InstanceState::Stopped).await;
    assert_eq!(scene.runs(id), 1);
}

/// S4-5: a server that is killed and started at once under the same address is another process: everything is served again,
/// every loop ticks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s4_5_a_restart_under_the_same_address_within_the_lease_resumes_everything() {
    let mut scene = Scene::start().await;
    for place in scene.ring.running() {
        scene.ring.servers[place].kill();
        scene.ring.servers[place].launch();
    }
    let restarted = Instant::now();
    scene.ring.settled().await;
    println!("all partitions shared again {:?} after all servers were restarted", restarted.elapsed());
    scene.has_worker(1).await;
    for place in scene.ring.running() {
        let client = scene.ring.client(place);
        let status = eventually("it is well", SOON, || async {
            let status = client.status().await.ok()?;
            (status.ready && status.problems.is_empty()).then_some(status)
        })
        .await;
        let late: Vec<_> = status.loops.iter().filter(|(_, age)| **age > 12.0).collect();
        assert!(late.is_empty(), "loops that stand still: {late:?}");
        assert!(status.loops.contains_key("lease") && status.loops.contains_key("retention"), "{:?}", status.loops);
    }
    let id = scene.run(2, "quick").await;
    scene.is(0, id, InstanceState::Succeeded).await;
}

/// S4-9: what ended at the very moment when its owner died is credited by the next one, and does not run again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s4_9_what_ends_as_its_owner_dies_is_credited_once() {
    let mut scene = Scene::start().await;
    let owner = scene.owner().await;
    let other = scene.others(owner)[0];
    let mut ids = Vec::new();
    // They end one after the other, about when the owner is killed.
    for _ in 0..30 {
        ids.push(scene.run(other, "short").await);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    scene.is(other, ids[0], InstanceState::Succeeded).await;
    scene.ring.servers[owner].kill();
    for id in ids {
        let view = scene.is(other, id, InstanceState::Succeeded).await;
        assert_eq!(scene.runs(id), 1, "{view:?}");
    }
}

/// S4-10: a stop that was accepted and not carried out when the owner died is carried out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s4_10_a_pending_stop_outlives_its_owner() {
    let mut scene = Scene::start().await;
    let owner = scene.owner().await;
    let other = scene.others(owner)[0];
    let id = scene.run(other, "long").await;
    scene.is(other, id, InstanceState::Running).await;
    // Its worker hears nothing until the owner is gone.
    scene.worker.process().signal(Signal::STOP);
    let client = scene.ring.client(other);
    let stopping = insist("stop", || client.instance_stop(id)).await;
    assert_eq!(stopping.state, InstanceState::Stopping);
    scene.ring.servers[owner].kill();
    scene.worker.process().signal(Signal::CONT);
    scene.is(other, id, InstanceState::Stopped).await;
    assert_eq!(scene.runs(id), 1);
}

/// S4-11: two requests with one key, through two servers, while the partition has no owner: one retry.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s4_11_a_double_click_during_a_failover_is_one_retry() {
    let mut scene = Scene::start().await;
    let owner = scene.owner().await;
    let others = scene.others(owner);
    let id = scene.run(owner, "quick").await;
    scene.is(owner, id, InstanceState::Succeeded).await;
    scene.ring.servers[owner].kill();
    let clients = [scene.ring.client(others[0]), scene.ring.client(others[1])];
    let retry = |client: &'_ Client| {
        let client = client.clone();
        async move { insist("retry", || client.instance_retry(id, RunKey::Given("again"))).await }
    };
    let (one, two) = tokio::join!(retry(&clients[0]), retry(&clients[1]));
    assert_eq!(one.instance, two.instance);
    assert!(one.created != two.created, "one of them made it: {one:?} {two:?}");
}

/// S4-12: the database is away for longer than a lease. Servers stop acting, and go on by themselves; a running task is not
/// disturbed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s4_12_a_database_that_is_away_costs_time_and_nothing_else() {
    let scene = Scene::start().await;
    let pids: Vec<u32> = scene.ring.servers.iter().map(|server| server.pid()).collect();
    let client = scene.ring.client(0);
    client.job_create("demo", &job("minute", "linger", 14_000)).await.expect("the job is valid");
    let id = scene.run(0, "minute").await;
    scene.is(1, id, InstanceState::Running).await;
    scene.ring.network.unplug();
    tokio::time::sleep(Duration::from_secs(10)).await;
    let refused = client.job_run("demo", "quick", &RunJob::default(), RunKey::Random).await;
    assert!(refused.as_ref().is_err_and(ClientError::is_retryable), "{refused:?}");
    assert!(client.readyz().await.is_err(), "a server without its database is not ready");
    scene.ring.network.plug_in();
    scene.ring.network.cut();
    let back = Instant::now();
    scene.ring.settled().await;
    println!("all partitions served {:?} after the database was back", back.elapsed());
    scene.is(2, id, InstanceState::Succeeded).await;
    assert_eq!(scene.runs(id), 1);
    let now: Vec<u32> = scene.ring.servers.iter().map(|server| server.pid()).collect();
    assert_eq!(pids, now, "nobody was restarted");
}

/// O-4: an owner that stood still while another one took over wakes up and does nothing any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn o_4_an_owner_that_wakes_up_after_a_takeover_is_fenced() {
    let scene = Scene::start().await;
    let every = Duration::from_millis(200);
    let trigger =
        Trigger { fixed_rate: Some(every), misfire: Misfire::FireAll, misfire_limit: 1_000, ..Trigger::default() };
    let beat = JobSpec { trigger: Some(trigger), ..job("beat", "note", 0) };
    let client = scene.ring.client(0);
    client.job_create("demo", &beat).await.expect("the job is valid");
    let owner = scene.owner().await;
    let other = scene.others(owner)[0];
    scene.ring.servers[owner].signal(Signal::STOP);
    let frozen = Instant::now();
    let client = scene.ring.client(other);
    insist("asked while it stands still", || client.worker_list("demo")).await;
    println!("taken over {:?} after it stood still", frozen.elapsed());
    tokio::time::sleep(Duration::from_secs(2)).await;
    scene.ring.servers[owner].signal(Signal::CONT);
    tokio::time::sleep(Duration::from_secs(2)).await;
    client.job_disable("demo", "beat").await.expect("it works");
    let views = all(&client, "beat").await;
    let mut times: Vec<Timestamp> = views.iter().map(|view| view.fire_time.expect("a trigger made it")).collect();
    times.sort();
    for pair in times.windows(2) {
        assert_eq!(pair[1].since(pair[0]), every, "missing or doubled after {}", pair[0]);
    }
    for view in &views {
        scene.is(other, view.id, InstanceState::Succeeded).await;
        assert_eq!(scene.runs(view.id), 1, "{view:?}");
    }
    scene.ring.settled().await;
}

async fn all(client: &Client, job: &str) -> Vec<InstanceView> {
    let filter = InstanceFilter {
        app: Some("demo".to_owned()),
        job: Some(job.to_owned()),
        limit: Some(1000),
        ..InstanceFilter::default()
    };
    client.instance_list(&filter).await.expect("listing works").items
}

/// O-1: ten thousand jobs are due in one second, and a server is killed meanwhile: each fires once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn o_1_ten_thousand_jobs_due_at_once_fire_once_each_while_a_server_dies() {
    const JOBS: usize = 10_000;
    let mut scene = Scene::start().await;
    let at = now().plus(Duration::from_secs(20));
    let due = |number| JobSpec {
        trigger: Some(Trigger { at: Some(at), misfire: Misfire::FireOnce, ..Trigger::default() }),
        ..job(&format!("due-{number}"), "note", 0)
    };
    let jobs: Vec<JobSpec> = (0..JOBS).map(due).collect();
    let applied = scene.ring.client(0).apply_all("demo", jobs, false).await.expect("they are valid");
    assert_eq!(applied.jobs.len(), JOBS);
    assert!(now() < at, "applied too late to show anything");
    let owner = scene.owner().await;
    let other = scene.others(owner)[0];
    tokio::time::sleep(at.since(now())).await;
    // Some have fired, most have not.
    tokio::time::sleep(Duration::from_millis(100)).await;
    scene.ring.servers[owner].kill();
    let client = scene.ring.client(other);
    let filter = InstanceFilter { app: Some("demo".to_owned()), limit: Some(1000), ..InstanceFilter::default() };
    let views = eventually("all have fired and succeeded", Duration::from_secs(120), || async {
        let mut filter = filter.clone();
        let mut found = Vec::new();
        loop {
            let page = client.instance_list(&filter).await.ok()?;
            found.extend(page.items);
            match page.next_cursor {
                Some(cursor) => filter.cursor = Some(cursor),
                None => break,
            }
        }
        (found.len() >= JOBS && found.iter().all(|view| view.state == InstanceState::Succeeded)).then_some(found)
    })
    .await;
    let jobs: std::collections::BTreeSet<&str> = views.iter().map(|view| view.job.as_str()).collect();
    assert_eq!((views.len(), jobs.len()), (JOBS, JOBS), "one instance each");
    assert!(views.iter().all(|view| view.fire_time == Some(at)));
    let notes = scene.worker.notes();
    assert!(notes.values().all(|count| *count == 1) && notes.len() >= JOBS, "{} executions", notes.len());
    let mut late: Vec<Duration> = views.iter().map(|view| view.created_at.since(at)).collect();
    late.sort();
    println!("late by {:?} (p50), {:?} (worst)", late[JOBS / 2], late[JOBS - 1]);
}

/// O-17: disabled and enabled through all servers in turn while it fires; after a disable was answered nothing later fires.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn o_17_a_disable_holds_whichever_server_answered() {
    let scene = Scene::start().await;
    let every = Duration::from_millis(100);
    let beat =
        JobSpec { trigger: Some(Trigger { fixed_rate: Some(every), ..Trigger::default() }), ..job("beat", "note", 0) };
    scene.ring.client(0).job_create("demo", &beat).await.expect("the job is valid");
    let mut quiet: Vec<(Timestamp, Timestamp)> = Vec::new();
    for round in 0..12 {
        tokio::time::sleep(Duration::from_millis(250)).await;
        let (one, two) = (scene.ring.client(round % 3), scene.ring.client((round + 1) % 3));
        let disabled = one.job_disable("demo", "beat").await.expect("it works");
        assert!(disabled.next_fire.is_none(), "{disabled:?}");
        let from = now();
        tokio::time::sleep(Duration::from_millis(250)).await;
        let to = now();
        two.job_enable("demo", "beat").await.expect("it works");
        quiet.push((from, to));
    }
    let views = all(&scene.ring.client(1), "beat").await;
    for view in &views {
        let at = view.fire_time.expect("a trigger made it");
        let wrong = quiet.iter().find(|(from, to)| at > *from && at < *to);
        assert!(wrong.is_none(), "fired at {at} though disabled from {wrong:?}");
    }
    assert!(views.len() > 12, "it fired in between");
}

/// S5-4: workers and users know one address, behind which are all servers; servers never dial workers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s5_4_one_address_in_front_of_all_is_enough() {
    let mut scene = Scene::start().await;
    // The worker of the scene knows all; this one does not.
    scene.worker.process().kill();
    let ports = scene.ring.servers.iter().map(|server| server.port()).collect();
    let balancer = Proxy::balance(ports).await;
    scene.worker = noter(&scene.ring, &[balancer.url()], &scene.token);
    let client = Client::new(&balancer.url(), &*scene.ring.token).expect("a good address");
    eventually("the worker is there", SOON, || async {
        (client.worker_list("demo").await.ok()?.iter().filter(|worker| worker.running == 0).count() >= 1).then_some(())
    })
    .await;
    let owner = scene.owner().await;
    for kill in [false, true] {
        if kill {
            scene.ring.servers[owner].kill();
        }
        for _ in 0..6 {
            // Each client has a connection of its own, to another server.
            let client = Client::new(&balancer.url(), &*scene.ring.token).expect("a good address");
            let id = loop {
                let run = client.job_run("demo", "quick", &RunJob::default(), RunKey::Random).await;
                match run {
                    Ok(run) => break run.instance.expect("it has an id"),
                    // The balancer does not look whether a server lives.
                    Err(_) if kill => tokio::time::sleep(Duration::from_millis(50)).await,
                    Err(error) => panic!("{error}"),
                }
            };
            let place = scene.ring.running()[0];
            scene.is(place, id, InstanceState::Succeeded).await;
        }
    }
}

/// S5-8: the servers cannot reach one of them. What it owns cannot be reached through the others, who say so: an error with
/// a code, a warning in readiness and status.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s5_8_a_server_that_others_cannot_reach_is_named() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port is free");
    let mut ring = Ring::start_with(1, &["--set", "partitions=8"]).await;
    ring.arguments(&["--set", "partitions=8", "--advertise", &nobody.to_string()]);
    let hidden = ring.join().await;
    let client = ring.client(0);
    let problem = eventually("somebody notices", SOON, || async {
        client.status().await.ok()?.problems.into_iter().find(|problem| problem.contains("peer "))
    })
    .await;
    assert!(problem.contains(&nobody.to_string()) && problem.contains("cannot be reached"), "{problem}");
    // Through itself everything works.
    let mut refused = 0;
    for number in 0..8 {
        let name = format!("app-{number}");
        let create = pendula_model::api::AppCreate { name: name.clone(), namespace: None, allow_scripts: false };
        match client.app_create(&create).await {
            Ok(_) => {}
            Err(error) => {
                assert_eq!(error.code(), Some("no_owner"), "{error}");
                refused += 1;
                ring.client(hidden).app_create(&create).await.expect("its own server does it");
            }
        }
    }
    assert!(refused > 0, "none of eight apps was the hidden server's");
}

fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    Timestamp::from_micros(since.as_micros() as i64)
}
