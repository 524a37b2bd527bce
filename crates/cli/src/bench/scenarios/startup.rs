//! From an empty directory to the first finished job; memory at rest.

use std::time::{Duration, Instant};

use pendula_client::RunKey;
use pendula_model::api::RunJob;

use crate::bench::Measure;
use crate::bench::rig::{APP, Rig, handler_job};
use crate::bench::watch::Watch;

pub async fn measure() -> anyhow::Result<Vec<Measure>> {
    let begin = Instant::now();
    let rig = Rig::start().await?;
    let ready = begin.elapsed();
    let mut watch = Watch::start(&rig, 16).await?;
    rig.client.job_create(APP, &handler_job("first", "watch")).await?;
    rig.client.job_run(APP, "first", &RunJob::default(), RunKey::Random).await?;
    watch.wait(1).await;
    let first = begin.elapsed();
    tokio::time::sleep(Duration::from_secs(2)).await;
    Ok(vec![
        Measure::new("startup", "empty directory to ready with an app", ready.as_secs_f64() * 1000.0, "ms"),
        Measure::new("startup", "empty directory to first job run", first.as_secs_f64() * 1000.0, "ms"),
        Measure::new("startup", "server resident at rest", rig.server().resident_mib()?, "MiB"),
    ])
}
