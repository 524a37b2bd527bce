//! Many jobs due in the same second.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use pendula_model::trigger::Trigger;

use super::save;
use crate::bench::Measure;
use crate::bench::rig::{Rig, handler_job};
use crate::bench::watch::{Watch, now};

const LONGEST: Duration = Duration::from_secs(60);

pub async fn measure(jobs: usize) -> anyhow::Result<Vec<Measure>> {
    let rig = Rig::start().await?;
    let at = now().plus(Duration::from_micros(250) * jobs as u32).plus(Duration::from_secs(10));
    save(
        &rig,
        (0..jobs).map(|number| {
            let mut job = handler_job(format!("storm-{number}"), "watch");
            job.trigger = Some(Trigger { at: Some(at), ..Trigger::default() });
            job
        }),
    )
    .await?;
    anyhow::ensure!(now() < at, "saving {jobs} jobs took so long that the time has passed");
    let mut watch = Watch::start(&rig, 5_000).await?;
    tokio::time::sleep(at.since(now())).await;
    let begin = Instant::now();
    if tokio::time::timeout(LONGEST, watch.wait(jobs)).await.is_err() {
        anyhow::bail!("{} of {jobs} jobs were started within {:?}", watch.count(), begin.elapsed());
    }
    let mut micros = Histogram::<u64>::new(3)?;
    for call in watch.calls().values() {
        micros.record(call.wall.since(call.fire_time).as_micros() as u64)?;
    }
    let last = micros.max() as f64 / 1000.0;
    Ok(vec![
        Measure::new("storm", format!("{jobs} jobs due at once, last one started after"), last, "ms"),
        Measure::new("storm", "median start after", micros.value_at_quantile(0.5) as f64 / 1000.0, "ms"),
    ])
}
