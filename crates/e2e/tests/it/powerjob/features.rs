//! What is tried with a worker of each version. Each says what went wrong.

use std::time::Duration;

use pendula_client::LogRange;
use pendula_e2e::all_instances;
use pendula_e2e::powerjob::{APP, PATIENCE, Yard, job, job_of, result, shown};
use pendula_model::InstanceId;
use pendula_model::api::InstanceView;
use pendula_model::instance::InstanceState;
use pendula_model::job::JobSpec;
use pendula_model::mode::{self as modes, ExecutionMode};
use pendula_model::policy::{Backoff, Retry};
use pendula_model::powerjob::InWorker;
use pendula_model::powerjob::PowerJobExecuteType::*;
use pendula_model::processor::Processor;
use pendula_model::trigger::Trigger;
use rustix::process::Signal;

/// Milliseconds that a sub-task takes. A worker that is told of its end and of its begin in the same moment may take the
/// end for old news, and waits for it for ever.
const A_WHILE: u32 = 100;
/// The same where there are so many that a worker is short of breath for minutes.
const A_LONG_WHILE: u32 = 300;

/// Sub-tasks in one call of `map` to the server: each takes a KiB, and what a worker says over Akka ends at 128 KiB.
const CALL: u32 = 100;

pub type Tried = Result<(), String>;

/// `Err` with the instance unless it holds.
fn expect(holds: bool, view: &InstanceView) -> Tried {
    if holds { Ok(()) } else { Err(shown(view)) }
}

fn retry(attempts: u32) -> Retry {
    Retry { attempts, backoff: Backoff::Fixed(Duration::from_millis(100)), ..Retry::default() }
}

async fn log(yard: &Yard, id: InstanceId) -> String {
    yard.client.log_fetch(id, LogRange::default()).await.map(|log| log.data).unwrap_or_default()
}

pub async fn standalone_and_log(yard: &Yard, worker: &str) -> Tried {
    let echo = job(&format!("echo-{worker}"), "Echo", Standalone, "hello", Some(worker));
    let id = yard.run_with(&echo, Some("you")).await;
    let view = yard.ended(id).await?;
    expect(view.state == InstanceState::Succeeded && result(&view) == "hello|you", &view)?;
    let end = std::time::Instant::now() + PATIENCE;
    while !log(yard, id).await.contains("INFO echo of hello") {
        if std::time::Instant::now() > end {
            return Err(format!("its line did not come; the log is {:?}", log(yard, id).await));
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let noted = yard.notes(id);
    if noted == [worker] { Ok(()) } else { Err(format!("it ran on {noted:?}")) }
}

pub async fn broadcast(yard: &Yard, worker: &str) -> Tried {
    let everywhere = job(&format!("everywhere-{worker}"), "Everywhere", Broadcast, "0", Some(worker));
    let view = yard.ended(yard.run(&everywhere).await).await?;
    let noted = yard.notes(view.id);
    expect(view.state == InstanceState::Succeeded && result(&view).starts_with("results=") && noted == [worker], &view)
}

/// A broadcast that the server tracks, to all workers.
pub fn tracked_broadcast(name: &str, millis: u32) -> JobSpec {
    let everywhere = job(name, "Everywhere", Standalone, &millis.to_string(), None);
    JobSpec { mode: ExecutionMode::Broadcast(Default::default()), ..everywhere }
}

pub async fn map(yard: &Yard, worker: &str) -> Tried {
    let mut spread = job(&format!("map-{worker}"), "Spread", Map, &format!("200 {A_WHILE}"), Some(worker));
    threads(&mut spread, 50);
    let view = yard.ended(yard.run(&spread).await).await?;
    expect(view.state == InstanceState::Succeeded && view.attempt == 1 && result(&view).contains("succeed:201"), &view)
}

/// A map whose sub-tasks the server sends to the worker itself; they end at once, which a worker that tracks them may miss.
pub async fn tracked_map(yard: &Yard, worker: &str, tasks: u32) -> Tried {
    let name = format!("tracked-map-{worker}-{tasks}");
    let settings = modes::Map { per_worker: Some(50), ..modes::Map::default() };
    let mode = ExecutionMode::Map(settings);
    let spread = JobSpec { mode, ..job(&name, "Spread", Standalone, &format!("{tasks} 0 {CALL}"), Some(worker)) };
    let view = yard.ended(yard.run(&spread).await).await?;
    let counts = view.tasks.as_ref().map(|tasks| tasks.counts).unwrap_or_default();
    let all = u64::from(tasks);
    expect(view.state == InstanceState::Succeeded && (counts.total, counts.succeeded) == (all, all), &view)
}

pub async fn map_reduce(yard: &Yard, worker: &str, tasks: u32, within: Duration) -> Tried {
    let name = format!("reduce-{worker}-{tasks}");
    let (millis, count) = if tasks > 10_000 { (A_LONG_WHILE, 500) } else { (A_WHILE, 100.min(tasks / 2)) };
    let mut spread = job(&name, "SpreadAndCount", MapReduce, &format!("{tasks} {millis}"), Some(worker));
    threads(&mut spread, count);
    let id = yard.run(&spread).await;
    let view = yard.until(id, within, |view| view.state.is_ended()).await?;
    let is_right = result(&view) == format!("good={}", tasks + 1) && view.attempt == 1;
    expect(view.state == InstanceState::Succeeded && is_right, &view)
}

pub fn threads(job: &mut JobSpec, count: u32) {
    let Processor::PowerJob(powerjob) = &mut job.processor else { panic!("these are PowerJob's") };
    powerjob.thread_concurrency = count;
    // A worker that is short of breath gives a sub-task up that it could not start in 15 s, and has to try it again.
    powerjob.task_retries = 3;
}

/// Each second, as long as it takes for six; exact in fire times, and nothing is left out or done twice.
pub async fn fixed_rate(yard: &Yard, worker: &str) -> Tried {
    let mut tick = job(&format!("tick-{worker}"), "Echo", Standalone, "tick", Some(worker));
    tick.trigger = Some(Trigger { fixed_rate: Some(Duration::from_secs(1)), ..Trigger::default() });
    yard.client.job_create(APP, &tick).await.map_err(|error| error.to_string())?;
    let has_succeeded = |row: &InstanceView| row.state == InstanceState::Succeeded;
    ticks(yard, &tick.name, |rows| rows.iter().filter(|row| has_succeeded(row)).count() >= 6).await?;
    yard.client.job_disable(APP, &tick.name).await.map_err(|error| error.to_string())?;
    let rows = ticks(yard, &tick.name, |rows| rows.iter().all(|row| row.state.is_ended())).await?;
    if let Some(row) = rows.iter().find(|row| !has_succeeded(row)) {
        return Err(shown(row));
    }
    let mut fired: Vec<_> = rows.iter().filter_map(|row| Some(row.fire_time?.as_millis())).collect();
    fired.sort_unstable();
    match fired.windows(2).all(|pair| pair[1] - pair[0] == 1000) {
        true => Ok(()),
        false => Err(format!("it fired at {fired:?}")),
    }
}

/// All instances of a job, once they are as wanted.
async fn ticks(yard: &Yard, job: &str, wanted: impl Fn(&[InstanceView]) -> bool) -> Result<Vec<InstanceView>, String> {
    let end = std::time::Instant::now() + PATIENCE;
    loop {
        let rows = all_instances(&yard.client, APP, job).await;
        if wanted(&rows) {
            return Ok(rows);
        }
        if std::time::Instant::now() > end {
            let states: Vec<_> = rows.iter().map(|row| row.state).collect();
            return Err(format!("of {job} there are {states:?}"));
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

pub async fn retried(yard: &Yard, worker: &str) -> Tried {
    let flaky = job(&format!("flaky-{worker}"), "Flaky", Standalone, "3", Some(worker));
    let view = yard.ended(yard.run(&JobSpec { retry: retry(3), ..flaky }).await).await?;
    // A busy worker may still have the tracker of the try before, and refuse the next one for a moment: that is no failure.
    expect(view.state == InstanceState::Succeeded && view.failures == 2 && result(&view) == "run 3", &view)
}

pub async fn timed_out(yard: &Yard, worker: &str) -> Tried {
    let slow = job(&format!("slow-{worker}"), "Sleep", Standalone, "600000", Some(worker));
    let view = yard.ended(yard.run(&JobSpec { timeout: Some(Duration::from_secs(2)), ..slow }).await).await?;
    expect(view.state == InstanceState::Failed && view.reason.as_deref() == Some("timeout"), &view)
}

pub async fn stopped(yard: &Yard, worker: &str) -> Tried {
    let id = yard.run(&job(&format!("stop-{worker}"), "Sleep", Standalone, "600000", Some(worker))).await;
    yard.begun(id, 1).await;
    yard.client.instance_stop(id).await.map_err(|error| error.to_string())?;
    let view = yard.ended(id).await?;
    expect(view.state == InstanceState::Stopped && view.reason.as_deref() == Some("by_user"), &view)
}

/// It fires in the worker until it is stopped.
pub async fn repeated_in_worker(yard: &Yard, worker: &str) -> Tried {
    let mut repeated = job(&format!("in-worker-{worker}"), "Sleep", Standalone, "10", Some(worker));
    let Processor::PowerJob(powerjob) = &mut repeated.processor else { panic!("these are PowerJob's") };
    powerjob.in_worker = Some(InWorker { fixed_rate: Some(Duration::from_millis(200)), fixed_delay: None });
    let id = yard.run(&repeated).await;
    yard.begun(id, 5).await;
    yard.client.instance_stop(id).await.map_err(|error| error.to_string())?;
    let view = yard.ended(id).await?;
    expect(view.state == InstanceState::Stopped && view.attempt == 1, &view)
}

/// A heavy instance is stopped too, and its sub-tasks with it.
pub async fn stopped_in_pieces(yard: &Yard, worker: &str) -> Tried {
    let id = yard.run(&job(&format!("pieces-{worker}"), "Spread", Map, "200 600000", Some(worker))).await;
    yard.begun(id, 1).await;
    yard.until(id, PATIENCE, |view| view.state == InstanceState::Running).await?;
    yard.client.instance_stop(id).await.map_err(|error| error.to_string())?;
    let view = yard.ended(id).await?;
    expect(view.state == InstanceState::Stopped && view.reason.as_deref() == Some("by_user"), &view)
}

/// Given back by the worker, so that another one may have it; here nobody has.
pub async fn missing(yard: &Yard, worker: &str) -> Tried {
    let absent = job_of(&format!("missing-{worker}"), "org.pendula.compat.Nothing", Standalone, "", Some(worker));
    let id = yard.run(&absent).await;
    let view = yard.until(id, PATIENCE, |view| is_given_back(view, 1)).await?;
    yard.client.instance_cancel(view.id).await.map_err(|error| error.to_string())?;
    Ok(())
}

/// Whether that many workers said that they lack the class.
pub fn is_given_back(view: &InstanceView, times: u32) -> bool {
    let why = view.reason.as_deref() == Some("processor_missing");
    why && view.attempt >= times && view.failures == 0 && view.state == InstanceState::Waiting
}

pub async fn official_processors(yard: &Yard, worker: &str) -> Tried {
    let class = "tech.powerjob.official.processors.impl.script.ShellProcessor";
    // By what it leaves behind: before 4.3.6 it may return before it has read what the script printed.
    let left = yard.server.directory().join("notes").join(format!("official-{worker}"));
    let script = format!("echo official $((40 + 2)) > {}", left.display());
    let shell = job_of(&format!("shell-{worker}"), class, Standalone, &script, Some(worker));
    let view = yard.ended(yard.run(&shell).await).await?;
    let text = std::fs::read_to_string(left).unwrap_or_default();
    expect(view.state == InstanceState::Succeeded && text == "official 42\n", &view)?;
    let class = "tech.powerjob.official.processors.impl.HttpProcessor";
    let params = format!(r#"{{"method":"GET","url":"{}/livez","timeout":20}}"#, yard.server.url());
    let http = job_of(&format!("http-{worker}"), class, Standalone, &params, Some(worker));
    let view = yard.ended(yard.run(&http).await).await?;
    expect(view.state == InstanceState::Succeeded, &view)
}

/// What runs when the server is killed: one light instance and one that is spread.
#[derive(Clone, Copy)]
pub struct Running {
    tasks: u32,
    light: InstanceId,
    heavy: InstanceId,
}

/// The light one sleeps for `millis`; the other one has as many sub-tasks of a second, twenty at a time.
pub async fn begin_before_the_server_is_killed(yard: &Yard, worker: &str, millis: u32, tasks: u32) -> Running {
    let light = job(&format!("through-{worker}"), "Sleep", Standalone, &millis.to_string(), Some(worker));
    let params = format!("{tasks} 1000");
    let mut heavy = job(&format!("pieces-through-{worker}"), "SpreadAndCount", MapReduce, &params, Some(worker));
    threads(&mut heavy, 20);
    let running = Running { tasks, light: yard.run(&light).await, heavy: yard.run(&heavy).await };
    yard.begun(running.light, 1).await;
    yard.begun(running.heavy, 1).await;
    running
}

/// The server is killed while each of these runs something, and comes back.
pub async fn outlive_a_killed_server(yard: &mut Yard, workers: &[&str]) {
    let mut running = Vec::new();
    for worker in workers {
        running.push((worker, begin_before_the_server_is_killed(yard, worker, 8000, 20).await));
    }
    yard.server.restart().await;
    for (worker, running) in running {
        assert_eq!(adopted(yard, worker, running).await, Ok(()), "{worker}");
    }
}

/// The server that came back adopted both: nothing ran a second time.
pub async fn adopted(yard: &Yard, worker: &str, running: Running) -> Tried {
    let view = yard.ended(running.light).await?;
    expect(view.state == InstanceState::Succeeded && view.attempt == 1 && result(&view) == "slept", &view)?;
    expect(yard.notes(running.light) == [worker], &view)?;
    let view = yard.ended(running.heavy).await?;
    let counted = format!("good={}", running.tasks + 1);
    expect(view.state == InstanceState::Succeeded && view.attempt == 1 && result(&view) == counted, &view)?;
    expect(yard.notes(running.heavy) == [worker], &view)
}

/// Where the work goes on that a killed worker had: another process that takes its place.
pub async fn begin_before_the_worker_is_killed(yard: &Yard, worker: &str) -> InstanceId {
    let id = yard.run(&job(&format!("killed-{worker}"), "Sleep", Standalone, "4000", Some(worker))).await;
    yard.begun(id, 1).await;
    id
}

pub async fn rerun(yard: &Yard, worker: &str, id: InstanceId) -> Tried {
    let view = yard.ended(id).await?;
    expect(view.state == InstanceState::Succeeded && view.attempt == 2 && view.losses == 1, &view)?;
    expect(yard.notes(id) == [worker, worker], &view)
}

/// What a worker has that will be stopped and goes on.
pub async fn begin_before_the_worker_is_frozen(yard: &Yard, worker: &str) -> InstanceId {
    let id = yard.run(&job(&format!("frozen-{worker}"), "Sleep", Standalone, "3000", Some(worker))).await;
    yard.begun(id, 1).await;
    id
}

/// SIGSTOP to all of them, and SIGCONT later: before they count as gone.
pub async fn freeze_all(yard: &mut Yard) {
    yard.workers.iter_mut().for_each(|worker| worker.process().signal(Signal::STOP));
    tokio::time::sleep(Duration::from_secs(15)).await;
    yard.workers.iter_mut().for_each(|worker| worker.process().signal(Signal::CONT));
}

/// It ended well, where it was, and what comes next runs there too.
pub async fn thawed(yard: &Yard, worker: &str, id: InstanceId) -> Tried {
    let view = yard.ended(id).await?;
    expect(view.state == InstanceState::Succeeded && view.attempt == 1 && result(&view) == "slept", &view)?;
    expect(yard.notes(id) == [worker], &view)?;
    let view =
        yard.ended(yard.run(&job(&format!("thawed-{worker}"), "Echo", Standalone, "", Some(worker))).await).await?;
    expect(view.state == InstanceState::Succeeded && yard.notes(view.id) == [worker], &view)
}
