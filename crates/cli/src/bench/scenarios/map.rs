//! One map-reduce over the `noop` handler with very many sub-tasks, on two worker processes.

use std::time::{Duration, Instant};

use anyhow::Context;
use pendula_client::{RunKey, TaskFilter};
use pendula_model::api::{InstanceView, RunJob};
use pendula_model::instance::InstanceState;
use pendula_model::mode::{ExecutionMode, Map};
use pendula_model::task::TaskRole;
use pendula_model::{InstanceId, TaskId, Timestamp};
use serde::Serialize;

use crate::bench::rig::{APP, Process, Rig, handler_job};

const JOB: &str = "map";
const LONGEST: Duration = Duration::from_secs(900);
/// How often progress is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// What one size came to.
#[derive(Clone, Debug, Serialize)]
pub struct Sized {
    pub tasks: u64,
    /// From the start of the root, which maps at once, to the start of the first sub-task.
    pub first_started_ms: f64,
    /// From the start of the root to the end of the last sub-task.
    pub tasks_per_second: f64,
    pub total_seconds: f64,
    /// From the start of the reduce, which reads all results, to its end.
    pub reduce_seconds: f64,
    pub owner_peak_mib: f64,
    /// Of the larger one.
    pub worker_peak_mib: f64,
    pub store_mib: f64,
}

/// What one worker's death in the middle cost.
#[derive(Clone, Debug, Serialize)]
pub struct Killed {
    pub tasks: u64,
    /// Tasks that were with it and ran again.
    pub run_again: u64,
    pub share_percent: f64,
    pub total_seconds: f64,
}

/// How fast it stops.
#[derive(Clone, Debug, Serialize)]
pub struct Canceled {
    pub tasks: u64,
    pub ended_when_asked: u64,
    /// From the request to the end of the instance.
    pub seconds: f64,
}

/// A server with two workers, and one map under way.
struct Mapping {
    rig: Rig,
    workers: Vec<Process>,
    id: InstanceId,
    tasks: u64,
    begun: Instant,
}

impl Mapping {
    async fn begin(tasks: u64, slots: u32) -> anyhow::Result<Mapping> {
        let rig = Rig::start().await?;
        let mut job = handler_job(JOB, "noop");
        job.mode = ExecutionMode::MapReduce(Map::default());
        job.params.insert("tasks".to_owned(), tasks.into());
        rig.client.job_create(APP, &job).await?;
        let mut workers = Vec::new();
        for name in ["one", "two"] {
            workers.push(rig.noop_worker(name, slots)?);
        }
        while rig.client.worker_list(APP).await?.len() < workers.len() {
            tokio::time::sleep(LOOK).await;
        }
        let begun = Instant::now();
        let run = rig.client.job_run(APP, JOB, &RunJob::default(), RunKey::Random).await?;
        let id = run.instance.context("a run has an instance")?;
        Ok(Mapping { rig, workers, id, tasks, begun })
    }

    async fn until(&self, what: &str, is_so: impl Fn(&InstanceView) -> bool) -> anyhow::Result<InstanceView> {
        loop {
            let view = self.rig.client.instance_fetch(self.id).await?;
            if is_so(&view) {
                return Ok(view);
            }
            let so_far = || view.tasks.as_ref().map(|tasks| tasks.counts);
            anyhow::ensure!(!view.state.is_ended(), "it ended {}: {:?}", view.state, view.message);
            anyhow::ensure!(self.begun.elapsed() < LONGEST, "{what}: not after {LONGEST:?}, {:?}", so_far());
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn half_way(&self) -> anyhow::Result<u64> {
        let half = self.tasks / 2;
        let view = self.until("half of it", |view| ended(view) >= half).await?;
        Ok(ended(&view))
    }

    async fn succeeded(&self) -> anyhow::Result<InstanceView> {
        let view = self.until("its end", |view| view.state == InstanceState::Succeeded).await?;
        let succeeded = view.tasks.as_ref().map_or(0, |tasks| tasks.counts.succeeded);
        anyhow::ensure!(succeeded == self.tasks, "{succeeded} of {} tasks succeeded", self.tasks);
        Ok(view)
    }

    async fn started(&self, task: TaskId) -> anyhow::Result<Timestamp> {
        let detail = self.rig.client.task_fetch(self.id, task).await?;
        detail.task.started_at.with_context(|| format!("task {task} never started"))
    }
}

fn ended(view: &InstanceView) -> u64 {
    view.tasks.as_ref().map_or(0, |tasks| tasks.counts.ended())
}

/// Runs one map of this size to its end.
pub async fn size(tasks: u64, slots: u32) -> anyhow::Result<Sized> {
    let mapping = Mapping::begin(tasks, slots).await?;
    let client = &mapping.rig.client;
    let view = mapping.succeeded().await?;
    let root = mapping.started(TaskId::ROOT).await?;
    let page = client.instance_tasks(mapping.id, &TaskFilter { limit: Some(1_000), ..TaskFilter::default() }).await?;
    let subs = page.items.iter().filter(|task| task.role == Some(TaskRole::Sub));
    let first = subs.filter_map(|task| task.started_at).min().context("no sub-task started")?;
    // The reduce is the last task that was made; it begins when the last of the others has ended.
    let reduce = client.task_fetch(mapping.id, TaskId(tasks + 1)).await?;
    let attempt = reduce.attempts.last().context("the reduce ran")?;
    let (placed, ended) = attempt.dispatched_at.zip(attempt.ended_at).context("the reduce ended")?;
    let started = attempt.started_at.unwrap_or(placed);
    let whole = view.started_at.zip(view.ended_at).context("it ran")?;
    let mut worker_peak_mib = 0.0_f64;
    for worker in &mapping.workers {
        worker_peak_mib = worker_peak_mib.max(worker.peak_mib()?);
    }
    Ok(Sized {
        tasks,
        first_started_ms: first.since(root).as_secs_f64() * 1000.0,
        tasks_per_second: tasks as f64 / placed.since(root).as_secs_f64(),
        total_seconds: whole.1.since(whole.0).as_secs_f64(),
        reduce_seconds: ended.since(started).as_secs_f64(),
        owner_peak_mib: mapping.rig.server().peak_mib()?,
        worker_peak_mib,
        store_mib: client.status().await?.store.bytes as f64 / f64::from(1 << 20),
    })
}

/// Kills one worker when half of the tasks have ended.
pub async fn kill(tasks: u64, slots: u32) -> anyhow::Result<Killed> {
    let mut mapping = Mapping::begin(tasks, slots).await?;
    mapping.half_way().await?;
    drop(mapping.workers.pop());
    let view = mapping.succeeded().await?;
    let whole = view.started_at.zip(view.ended_at).context("it ran")?;
    let metrics = mapping.rig.client.metrics().await?;
    let lost = metrics.lines().find_map(|line| {
        line.strip_prefix(r#"pendula_attempts_failed_total{reason="worker_lost"} "#)?.trim().parse::<u64>().ok()
    });
    let run_again = lost.unwrap_or(0);
    Ok(Killed {
        tasks,
        run_again,
        share_percent: run_again as f64 * 100.0 / tasks as f64,
        total_seconds: whole.1.since(whole.0).as_secs_f64(),
    })
}

/// Stops it when half of the tasks have ended.
pub async fn cancel(tasks: u64, slots: u32) -> anyhow::Result<Canceled> {
    let mapping = Mapping::begin(tasks, slots).await?;
    let ended_when_asked = mapping.half_way().await?;
    let asked = Instant::now();
    mapping.rig.client.instance_stop(mapping.id).await?;
    mapping.until("its end", |view| view.state.is_ended()).await?;
    Ok(Canceled { tasks, ended_when_asked, seconds: asked.elapsed().as_secs_f64() })
}
