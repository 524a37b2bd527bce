//! A thousand workers that come back at once, and a server that works for long: neither takes more and more of the
//! machine.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use pendula_client::{Client, RunKey};
use pendula_e2e::fleet::AFTER_A_LOSS;
use pendula_e2e::process::{Footprint, eventually, footprint};
use pendula_e2e::{Server, ShellWorker};
use pendula_model::InstanceId;
use pendula_model::api::{InstanceView, RunJob};
use pendula_model::instance::InstanceState;
use pendula_model::job::JobSpec;
use pendula_model::mode::{Broadcast, ExecutionMode, Map};
use pendula_model::processor::{Handler, Processor, Script};
use pendula_worker::{Output, Shutdown, Task, Worker};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::json;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

const APP: &str = "herd";
const SESSIONS: usize = 1000;

fn job(name: &str, handler: &str, mode: ExecutionMode) -> JobSpec {
    let processor = Processor::Handler(Handler { name: handler.to_owned(), config: None });
    JobSpec { mode, ..JobSpec::new(name, processor) }
}

async fn run(client: &Client, job: &str) -> InstanceId {
    let run = client.job_run(APP, job, &RunJob::default(), RunKey::Random).await.expect("it can be run");
    run.instance.expect("an accepted run names its instance")
}

async fn succeeds(client: &Client, job: &str) -> InstanceView {
    let id = run(client, job).await;
    let view = eventually(&format!("an instance of {job} ends"), AFTER_A_LOSS, || async {
        let view = client.instance_fetch(id).await.ok()?;
        view.state.is_ended().then_some(view)
    })
    .await;
    assert_eq!(view.state, InstanceState::Succeeded, "{view:?}");
    view
}

async fn all_connected(client: &Client, count: usize) {
    eventually(&format!("{count} workers are connected"), AFTER_A_LOSS, || async {
        let workers = client.worker_list(APP).await.ok()?;
        let names: BTreeSet<_> = workers.iter().filter(|w| w.state == "connected").map(|w| &*w.name).collect();
        (names.len() == count).then_some(())
    })
    .await;
}

/// Lets this process, and those that it starts, open as many files as they may.
fn raise_the_limit_of_files() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).expect("a process may raise its own soft limit");
}

/// The server is killed and started again: a thousand workers come back, each does its part, and the server takes no
/// more than before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn o_14_a_thousand_workers_come_back_after_a_restart() {
    raise_the_limit_of_files();
    let mut server = Server::start().await;
    let token = server.app(APP).await;
    let client = server.client();
    let ran: Arc<Mutex<Vec<String>>> = Arc::default();
    let stop = CancellationToken::new();
    let mut herd = JoinSet::new();
    for number in 0..SESSIONS {
        let ran = ran.clone();
        let beat = move |task: Task| {
            ran.lock().expect("no handler panics").push(task.task_name().to_owned());
            async { Ok(Output::default()) }
        };
        let worker = Worker::builder(server.url())
            .app(APP)
            .token(&*token)
            .name(format!("w{number}"))
            .slots(1)
            .handler("beat", beat)
            .build()
            .expect("the worker is well-formed");
        let shutdown = Shutdown::when(stop.clone().cancelled_owned());
        herd.spawn(async move { worker.run(shutdown).await });
    }
    let begun = Instant::now();
    all_connected(&client, SESSIONS).await;
    println!("{SESSIONS} connected after {:?}", begun.elapsed());
    client.job_create(APP, &job("beat", "beat", ExecutionMode::Broadcast(Broadcast::default()))).await.expect("valid");

    let each_once = || {
        let ran = std::mem::take(&mut *ran.lock().expect("no handler panics"));
        assert_eq!((ran.len(), ran.into_iter().collect::<BTreeSet<_>>().len()), (SESSIONS, SESSIONS), "each ran once");
    };
    succeeds(&client, "beat").await;
    each_once();
    let before = footprint(server.pid());

    server.restart().await;
    let restarted = Instant::now();
    all_connected(&client, SESSIONS).await;
    println!("all back {:?} after the restart", restarted.elapsed());
    assert!(restarted.elapsed() < Duration::from_secs(30), "the pauses of the workers are 5 s at most");
    succeeds(&client, "beat").await;
    each_once();
    let after = footprint(server.pid());
    println!("before the restart {before:?}, after it {after:?}");
    assert!(after.descriptors <= SESSIONS as u64 + 100, "one for each worker and a few more: {after:?}");
    assert!(after.threads <= before.threads + 4, "{before:?} {after:?}");
    assert!(after.memory < 256 * 1024 * 1024, "{after:?}");
    assert!(after.memory < before.memory + before.memory / 2, "{before:?} {after:?}");
    stop.cancel();
    while let Some(ended) = herd.join_next().await {
        ended.expect("no worker panicked").expect("workers never give up");
    }
}

/// How long the server works; `make soak` lets it work for ten minutes.
fn soak() -> Duration {
    let seconds = std::env::var("SOAK_SECONDS").ok();
    Duration::from_secs(seconds.map_or(12, |text| text.parse().expect("SOAK_SECONDS is a number")))
}

/// One after the other: a map-reduce, a broadcast of scripts, a worker that comes and goes, a request that is refused.
/// After a third of the time what the processes take may not grow any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn o_14_memory_threads_and_descriptors_stay_flat() {
    // A small cache, which is full soon: what grows after that is a leak.
    let server = Server::start_with(&["--set", "database_cache=1MiB"]).await;
    let token = server.app(APP).await;
    let client = server.client();
    let (url, directory) = (server.url(), server.directory().to_owned());
    let workers = ["w1", "w2"].map(|name| {
        ShellWorker::start_with(&url, APP, &token, name, &directory, |command| {
            command.args(["--processors", "shell,noop"]);
        })
    });
    all_connected(&client, 2).await;
    let map = JobSpec {
        params: json!({ "tasks": 1000 }).as_object().expect("an object").clone(),
        ..job("map", "noop", ExecutionMode::MapReduce(Map::default()))
    };
    client.job_create(APP, &map).await.expect("the job is valid");
    let script = JobSpec {
        mode: ExecutionMode::Broadcast(Broadcast::default()),
        ..JobSpec::new("script", Processor::Shell(Script::new("echo a line; exit 0")))
    };
    client.job_create(APP, &script).await.expect("the job is valid");

    let sample =
        || -> [Footprint; 3] { [footprint(server.pid()), footprint(workers[0].pid()), footprint(workers[1].pid())] };
    let begun = Instant::now();
    let (mut rounds, mut warm) = (0, None);
    while begun.elapsed() < soak() {
        let view = succeeds(&client, "map").await;
        assert_eq!(view.tasks.expect("it has tasks").counts.succeeded, 1000);
        succeeds(&client, "script").await;
        come_and_go(&server, &token, rounds).await;
        all_connected(&client, 2).await;
        client.job_fetch(APP, "no such job").await.expect_err("there is none");
        rounds += 1;
        if warm.is_none() && begun.elapsed() > soak() / 3 {
            warm = Some((rounds, sample()));
        }
    }
    let (warm_rounds, warm) = warm.expect("a third of the time has passed");
    // Connections that have just been closed may still be counted.
    let what = format!("after {rounds} rounds the processes take no more than {warm:?}, after {warm_rounds}");
    let cold = eventually(&what, Duration::from_secs(10), || {
        let cold = sample();
        std::future::ready(warm.iter().zip(&cold).all(|(warm, cold)| is_flat(warm, cold)).then_some(cold))
    })
    .await;
    println!("after {warm_rounds} rounds {warm:?}, after {rounds} {cold:?}");
    assert!(rounds >= 2 * warm_rounds, "{rounds} rounds, of which {warm_rounds} were to warm up, show nothing");
}

fn is_flat(warm: &Footprint, cold: &Footprint) -> bool {
    // An allocator keeps some of a peak; a leak of 100 bytes for each of a round's tasks would show within minutes.
    let spare = (warm.memory / 5).max(16 * 1024 * 1024);
    cold.memory <= warm.memory + spare && cold.threads <= warm.threads + 2 && cold.descriptors <= warm.descriptors + 4
}

/// A worker that connects, does nothing and leaves.
async fn come_and_go(server: &Server, token: &str, round: usize) {
    let worker = Worker::builder(server.url()).app(APP).token(token).name(format!("guest-{round}"));
    let worker = worker.handler("guest", |_: Task| async { Ok(Output::default()) }).build().expect("well-formed");
    let stop = CancellationToken::new();
    let running = tokio::spawn(worker.run(Shutdown::when(stop.clone().cancelled_owned())));
    all_connected(&server.client(), 3).await;
    stop.cancel();
    running.await.expect("the worker did not panic").expect("it was asked to end");
}
