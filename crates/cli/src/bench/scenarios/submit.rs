//! Durable submission: every answer came after the sync.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use hdrhistogram::Histogram;
use pendula_client::RunKey;
use pendula_model::api::RunJob;

use super::submit_bulk;
use crate::bench::Measure;
use crate::bench::rig::{APP, Rig, handler_job};

const CALLERS: usize = 32;

pub async fn measure(bulk: usize, single: usize) -> anyhow::Result<Vec<Measure>> {
    let rig = Rig::start().await?;
    rig.client.job_create(APP, &handler_job("submit", "noop")).await?;
    let begin = Instant::now();
    submit_bulk(&rig, "submit", bulk).await?;
    let bulk_rate = bulk as f64 / begin.elapsed().as_secs_f64();

    let left = AtomicUsize::new(single);
    let begin = Instant::now();
    let callers = (0..CALLERS).map(|_| async {
        let mut micros = Histogram::<u64>::new(3)?;
        while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok() {
            let begin = Instant::now();
            rig.client.job_run(APP, "submit", &RunJob::default(), RunKey::Random).await?;
            micros.record(begin.elapsed().as_micros() as u64)?;
        }
        anyhow::Ok(micros)
    });
    let mut all = Histogram::<u64>::new(3)?;
    for micros in futures::future::try_join_all(callers).await? {
        all.add(micros)?;
    }
    let single_rate = single as f64 / begin.elapsed().as_secs_f64();
    let mut measures = vec![
        Measure::new("submit", format!("in bulk, {bulk} runs"), bulk_rate, "runs/s"),
        Measure::new("submit", format!("one per request, {CALLERS} callers, {single} runs"), single_rate, "runs/s"),
    ];
    measures.extend(Measure::percentiles("submit", "one per request, answer", &all));
    Ok(measures)
}
