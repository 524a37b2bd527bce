//! Fire time to handler at 1,000 fires per second, out of many registered jobs.

use std::time::Duration;

use hdrhistogram::Histogram;
use pendula_model::Timestamp;
use pendula_model::trigger::Trigger;

use super::save;
use crate::bench::Measure;
use crate::bench::rig::{Rig, handler_job};
use crate::bench::watch::{Watch, now};

const PER_SECOND: usize = 1_000;
/// Time that saving one job may take, so that the first fire lies after the last save.
const SAVING: Duration = Duration::from_micros(250);

pub async fn measure(scenario: &'static str, jobs: usize, length: Duration) -> anyhow::Result<Vec<Measure>> {
    let rig = Rig::start().await?;
    // Each job fires once in `jobs / 1000` seconds, one every millisecond.
    let period = Duration::from_millis((jobs * 1000 / PER_SECOND) as u64);
    let first = now().plus(SAVING * jobs as u32).plus(Duration::from_secs(5));
    let saving = std::time::Instant::now();
    save(
        &rig,
        (0..jobs).map(|number| {
            let start = first.plus(Duration::from_millis((number * 1000 / PER_SECOND) as u64));
            let mut job = handler_job(format!("tick-{number}"), "watch");
            job.trigger = Some(Trigger { fixed_rate: Some(period), start: Some(start), ..Trigger::default() });
            job
        }),
    )
    .await?;
    let saved = jobs as f64 / saving.elapsed().as_secs_f64();
    anyhow::ensure!(now() < first, "saving {jobs} jobs took so long that the first fires are over");
    let watch = Watch::start(&rig, 1_000).await?;
    let (from, to) = (first.plus(Duration::from_secs(2)), first.plus(Duration::from_secs(2)).plus(length));
    let cpu_at = |at: Timestamp| {
        let rig = &rig;
        async move {
            tokio::time::sleep(at.since(now())).await;
            rig.server().cpu_seconds()
        }
    };
    let before = cpu_at(from).await?;
    let after = cpu_at(to).await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut micros = Histogram::<u64>::new(3)?;
    for call in watch.calls().values().filter(|call| from <= call.fire_time && call.fire_time < to) {
        micros.record(call.wall.since(call.fire_time).as_micros() as u64)?;
    }
    let expected = length.as_secs() as usize * PER_SECOND;
    let mut measures = vec![
        Measure::new(scenario, format!("saving {jobs} jobs"), saved, "jobs/s"),
        Measure::new(scenario, format!("fires seen of {expected}"), micros.len() as f64, "fires"),
    ];
    measures.extend(Measure::percentiles(scenario, "fire time to handler,", &micros));
    let cpu = (after - before) / length.as_secs_f64() * 100.0;
    measures.push(Measure::new(scenario, "server CPU meanwhile", cpu, "% of a core"));
    measures.push(Measure::new(scenario, "server resident", rig.server().resident_mib()?, "MiB"));
    Ok(measures)
}
