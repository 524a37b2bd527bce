//! Large maps on real processes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use pendula_client::{Client, RunKey, TaskFilter};
use pendula_e2e::Server;
use pendula_e2e::fleet::{AFTER_A_LOSS, SOON};
use pendula_e2e::process::{Process, eventually};
use pendula_model::api::{InstanceView, RunJob};
use pendula_model::instance::{InstanceState, Payload, TaskState};
use pendula_model::job::JobSpec;
use pendula_model::limits::TASK_RESULT_BYTES;
use pendula_model::mode::{ExecutionMode, Map};
use pendula_model::processor::{Handler, Processor};
use pendula_model::task::TaskCounts;
use pendula_model::{InstanceId, TaskId};
use pendula_worker::{Failure, Output, Shutdown, SubTask, Task, TaskRole, Worker};
use serde_json::json;
use tokio_util::sync::CancellationToken;

const APP: &str = "maps";
/// Children of the root, of each of them, and of each of those.
const WIDTHS: [u64; 3] = [20, 40, 24];
const TASKS: u64 = 20 + 20 * 40 + 20 * 40 * 24;

fn map_reduce(name: &str, params: serde_json::Value) -> JobSpec {
    let processor = Processor::Handler(Handler { name: name.to_owned(), config: None });
    let params = params.as_object().expect("parameters are an object").clone();
    JobSpec { mode: ExecutionMode::MapReduce(Map::default()), params, ..JobSpec::new(name, processor) }
}

async fn run(client: &Client, job: &JobSpec) -> InstanceId {
    client.job_create(APP, job).await.expect("the job is valid");
    let run = client.job_run(APP, &job.name, &RunJob::default(), RunKey::Random).await.expect("it can be run");
    run.instance.expect("an accepted run names its instance")
}

async fn counts(client: &Client, id: InstanceId) -> TaskCounts {
    let view = client.instance_fetch(id).await.expect("it exists");
    view.tasks.map(|tasks| tasks.counts).unwrap_or_default()
}

async fn ended(client: &Client, id: InstanceId) -> InstanceView {
    eventually("the instance ends", AFTER_A_LOSS, || async {
        let view = client.instance_fetch(id).await.ok()?;
        view.state.is_ended().then_some(view)
    })
    .await
}

/// A process of its own that grows trees, and the file in which it counts what it ran.
struct Mapper {
    process: Process,
    file: PathBuf,
}

impl Mapper {
    fn start(server: &Server, token: &str, name: &str) -> Mapper {
        let file = server.directory().join(format!("{name}.ran"));
        let mut command = Command::new(env!("CARGO_BIN_EXE_pendula-e2e-mapper"));
        command.args([&server.url(), APP, token, name, "32"]).arg(&file);
        let log = server.directory().join(format!("{name}.log"));
        let process = Process::start(&mut command, &log).expect("the program starts");
        Mapper { process, file }
    }

    /// What ran: role, task and attempt.
    fn ran(&self) -> Vec<(String, u64, u32)> {
        let text = std::fs::read_to_string(&self.file).unwrap_or_default();
        let parsed = text.lines().map(|line| {
            let words: Vec<_> = line.split(' ').collect();
            let [role, task, attempt] = words[..] else { panic!("the worker wrote {line:?}") };
            (role.to_owned(), task.parse().expect("a number"), attempt.parse().expect("a number"))
        });
        parsed.collect()
    }
}

/// Three levels, two worker processes, one of them killed in the middle: everything runs, little of it twice, and the
/// reduce starts once, over all results.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn o_13_a_large_map_outlives_one_of_its_workers() {
    let server = Server::start().await;
    let token = server.app(APP).await;
    let client = server.client();
    let mut victim = Mapper::start(&server, &token, "victim");
    let survivor = Mapper::start(&server, &token, "survivor");
    eventually("both are connected", SOON, || async { (client.worker_list(APP).await.ok()?.len() == 2).then_some(()) })
        .await;
    let begun = Instant::now();
    let id = run(&client, &map_reduce("tree", json!({ "widths": WIDTHS }))).await;
    eventually("half of it has ended", AFTER_A_LOSS, || async {
        (counts(&client, id).await.succeeded >= TASKS / 2).then_some(())
    })
    .await;
    victim.process.kill();
    let killed = begun.elapsed();
    let view = ended(&client, id).await;
    println!("{TASKS} tasks in {:?}, a worker killed after {killed:?}", begun.elapsed());

    assert_eq!(view.state, InstanceState::Succeeded, "{view:?}");
    let TaskCounts { total, succeeded, .. } = view.tasks.as_ref().expect("it has tasks").counts;
    assert_eq!((total, succeeded), (TASKS, TASKS), "no task is missing, none is double");
    let sum = view.result.and_then(|result| result.json).expect("the reduce left a result");
    assert_eq!(sum, json!(TASKS), "the reduce read each result once");

    let (by_victim, by_survivor) = (victim.ran(), survivor.ran());
    assert!(by_victim.len() > 1000 && by_survivor.len() > 1000, "both worked");
    let mut runs: BTreeMap<(String, u64), u64> = BTreeMap::new();
    let mut attempts = BTreeSet::new();
    for (role, task, attempt) in by_victim.into_iter().chain(by_survivor) {
        assert!(attempts.insert((task, attempt)), "attempt {attempt} at task {task} ran twice");
        *runs.entry((role, task)).or_default() += 1;
    }
    let of =
        |role: &str| -> Vec<u64> { runs.iter().filter(|((of, _), _)| of == role).map(|(_, count)| *count).collect() };
    assert_eq!(of("sub").len() as u64, TASKS, "everything ran at least once");
    assert_eq!(of("reduce"), [1], "the reduce started once");
    let again = of("sub").iter().sum::<u64>() - TASKS;
    assert!(again <= TASKS / 100, "{again} of {TASKS} tasks ran again");
}

/// A worker within the test.
struct Hand {
    stop: CancellationToken,
    running: tokio::task::JoinHandle<()>,
}

impl Hand {
    fn start<F>(server: &Server, token: &str, slots: u32, name: &str, handler: F) -> Hand
    where
        F: pendula_worker::Handler,
    {
        let worker = Worker::builder(server.url()).app(APP).token(token).name("hand").slots(slots);
        let worker = worker.handler(name, handler).build().expect("the worker is well-formed");
        let stop = CancellationToken::new();
        let shutdown = Shutdown::when(stop.clone().cancelled_owned());
        let running = tokio::spawn(async move {
            worker.run(shutdown).await.expect("the worker runs until it is asked to stop");
        });
        Hand { stop, running }
    }

    async fn end(self) {
        self.stop.cancel();
        self.running.await.expect("the worker did not panic");
    }
}

async fn large(task: Task) -> Result<Output, Failure> {
    match task.role() {
        Some(TaskRole::Root) => {
            task.map([TASK_RESULT_BYTES, TASK_RESULT_BYTES + 1].map(|bytes| SubTask::json("", &bytes))).await?;
            Ok(Output::default())
        }
        Some(TaskRole::Sub) => {
            let bytes: usize = task.input_json()?;
            let content_type = "application/octet-stream".to_owned();
            Ok(Output::default().with_result(Payload { content_type, bytes: pattern(bytes) }))
        }
        _ => {
            let (mut sizes, mut results) = (Vec::new(), task.results()?);
            while let Some(result) = results.next().await? {
                let payload = result.result.map(|payload| payload.bytes);
                let is_whole = payload.as_ref().is_none_or(|bytes| *bytes == pattern(bytes.len()));
                sizes.push((
                    payload.map(|bytes| bytes.len()),
                    is_whole,
                    result.reason.map(|reason| reason.to_string()),
                ));
            }
            Output::json(&sizes)
        }
    }
}

fn pattern(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|n| (n % 251) as u8).collect()
}

/// One worker with a single slot is enough for a whole map-reduce; a sub-task's result may have 1 MiB and no byte more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn o_13_one_worker_with_one_slot_and_results_of_a_mebibyte() {
    let server = Server::start().await;
    let token = server.app(APP).await;
    let client = server.client();
    let hand = Hand::start(&server, &token, 1, "large", large);
    let mode = ExecutionMode::MapReduce(Map { tolerate: "1".parse().expect("a number"), ..Map::default() });
    let id = run(&client, &JobSpec { mode, ..map_reduce("large", json!({})) }).await;
    let view = ended(&client, id).await;
    assert_eq!(view.state, InstanceState::Succeeded, "{view:?}");
    let read = view.result.and_then(|result| result.json).expect("the reduce left a result");
    assert_eq!(read, json!([[TASK_RESULT_BYTES, true, null], [null, true, "result_too_large"]]));
    let stored = client.task_result(id, TaskId(1)).await.expect("it is stored");
    assert_eq!(stored.content_type, "application/octet-stream");
    assert!(*stored.bytes == pattern(TASK_RESULT_BYTES), "{} bytes came back", stored.bytes.len());
    hand.end().await;
}

/// An instance that is stopped at half its tasks has ended within two seconds, and nothing of it runs after that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn o_13_a_stop_in_the_middle_ends_within_two_seconds() {
    const MANY: u64 = 20_000;
    let server = Server::start().await;
    let token = server.app(APP).await;
    let client = server.client();
    let started = Arc::new(AtomicU64::new(0));
    let counter = started.clone();
    let hand = Hand::start(&server, &token, 64, "crowd", move |task: Task| {
        let started = counter.clone();
        async move {
            if task.role() == Some(TaskRole::Root) {
                task.map((0..MANY).map(|n| SubTask::named(n.to_string()))).await?;
            } else {
                started.fetch_add(1, Ordering::Relaxed);
            }
            Ok(Output::default())
        }
    });
    let id = run(&client, &map_reduce("crowd", json!({}))).await;
    eventually("half of it has ended", AFTER_A_LOSS, || async {
        (counts(&client, id).await.succeeded >= MANY / 2).then_some(())
    })
    .await;
    let asked = Instant::now();
    client.instance_stop(id).await.expect("a running instance can be stopped");
    let view = ended(&client, id).await;
    let took = asked.elapsed();
    let after = started.load(Ordering::Relaxed);
    assert_eq!((view.state, view.reason.as_deref()), (InstanceState::Stopped, Some("by_user")), "{view:?}");
    assert!(took < Duration::from_secs(2), "it took {took:?}");
    let counts = view.tasks.expect("it has tasks").counts;
    assert_eq!((counts.total, counts.ended(), counts.waiting), (MANY, MANY, 0), "{counts:?}");
    assert!(counts.stopped > 0, "it came too late to show anything: {counts:?}");
    // The rows of those that never ran say the same.
    let filter = TaskFilter { states: vec![TaskState::Stopped], limit: Some(1), ..TaskFilter::default() };
    let page = client.instance_tasks(id, &filter).await.expect("listing works");
    assert_eq!(page.items.first().map(|task| task.state), Some(TaskState::Stopped), "{page:?}");
    // The worker is free for others, and has been given nothing else since.
    let processor = Processor::Handler(Handler { name: "crowd".to_owned(), config: None });
    let next = run(&client, &JobSpec::new("next", processor)).await;
    let view = ended(&client, next).await;
    assert_eq!(view.state, InstanceState::Succeeded, "{view:?}");
    assert_eq!(started.load(Ordering::Relaxed), after + 1, "nothing was started after the end");
    hand.end().await;
}
