//! A backlog of no-op instances is worked off by one worker process.

use std::time::{Duration, Instant};

use super::submit_bulk;
use crate::bench::Measure;
use crate::bench::rig::{APP, Rig, handler_job};

const SLOTS: u32 = 2_000;
const LONGEST: Duration = Duration::from_secs(180);

pub async fn measure(count: usize) -> anyhow::Result<Vec<Measure>> {
    let rig = Rig::start().await?;
    rig.client.job_create(APP, &handler_job("drain", "noop")).await?;
    submit_bulk(&rig, "drain", count).await?;
    let server_before = rig.server().cpu_seconds()?;
    let worker = rig.noop_worker("bench-worker", SLOTS)?;
    // From the first sign of progress, so that the start of a process is not measured.
    let mut left = count as u64;
    while left == count as u64 {
        left = rig.active().await?;
    }
    let (begin, first_left) = (Instant::now(), left);
    while left > 0 {
        anyhow::ensure!(begin.elapsed() < LONGEST, "{left} of {count} instances are left after {LONGEST:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
        left = rig.active().await?;
    }
    let rate = first_left as f64 / begin.elapsed().as_secs_f64();
    let server_cpu = rig.server().cpu_seconds()? - server_before;
    let worker_cpu = worker.cpu_seconds()?;
    let per_thousand = 1000.0 / count as f64;
    Ok(vec![
        Measure::new("drain", format!("{count} no-op instances, {SLOTS} slots"), rate, "instances/s"),
        Measure::new("drain", "server CPU per 1,000 instances", server_cpu * per_thousand, "s"),
        Measure::new("drain", "worker CPU per 1,000 instances", worker_cpu * per_thousand, "s"),
        Measure::new("drain", "server resident afterwards", rig.server().resident_mib()?, "MiB"),
    ])
}
