//! Submit to handler, open loop: requests leave on time whether or not earlier ones were answered.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use pendula_client::RunKey;
use pendula_model::api::RunJob;

use crate::bench::Measure;
use crate::bench::rig::{APP, Rig, handler_job};
use crate::bench::watch::Watch;

const PER_SECOND: u64 = 100;

pub async fn measure(length: Duration) -> anyhow::Result<Vec<Measure>> {
    let rig = Rig::start().await?;
    rig.client.job_create(APP, &handler_job("latency", "watch")).await?;
    let mut watch = Watch::start(&rig, 256).await?;
    let pace = Duration::from_micros(1_000_000 / PER_SECOND);
    let mut ticks = tokio::time::interval(pace);
    let mut requests = Vec::new();
    for _ in 0..length.as_secs() * PER_SECOND {
        ticks.tick().await;
        let client = rig.client.clone();
        requests.push(tokio::spawn(async move {
            let begin = Instant::now();
            let run = client.job_run(APP, "latency", &RunJob::default(), RunKey::Random).await;
            (begin, run)
        }));
    }
    watch.wait(requests.len()).await;
    let calls = watch.calls();
    let mut micros = Histogram::<u64>::new(3)?;
    for request in requests {
        let (begin, run) = request.await?;
        let call = run?.instance.and_then(|id| calls.get(&id).copied());
        let call = call.ok_or_else(|| anyhow::anyhow!("an accepted run never reached the handler"))?;
        micros.record(call.at.saturating_duration_since(begin).as_micros() as u64)?;
    }
    Ok(Measure::percentiles("latency", "submit to handler at 100/s,", &micros))
}
