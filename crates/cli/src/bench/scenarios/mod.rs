//! The scenarios, one file each.

pub mod drain;
pub mod latency;
pub mod lateness;
pub mod map;
pub mod startup;
pub mod storm;
pub mod submit;

use anyhow::bail;
use pendula_model::api::{ApplyAction, ApplyRequest, RunJob, RunMany};
use pendula_model::job::JobSpec;

use super::rig::{APP, Rig};

/// Runs of one job in one request.
const BULK: usize = 2_000;
/// Definitions in one request.
const DEFINITIONS: usize = 1_000;
/// Requests under way at once.
const REQUESTS: usize = 4;

/// Saves jobs in pages.
async fn save(rig: &Rig, jobs: impl Iterator<Item = JobSpec>) -> anyhow::Result<()> {
    use futures::{StreamExt, TryStreamExt};
    let mut pages = Vec::new();
    let mut jobs = jobs.peekable();
    let pages = std::iter::from_fn(move || {
        pages.clear();
        pages.extend(jobs.by_ref().take(DEFINITIONS));
        (!pages.is_empty()).then(|| std::mem::take(&mut pages))
    });
    futures::stream::iter(pages)
        .map(|jobs| async move {
            let applied = rig.client.apply(APP, &ApplyRequest { jobs, dry_run: false }).await?;
            match applied.jobs.iter().find(|job| job.action != ApplyAction::Created) {
                Some(job) => bail!("job {} was not created: {:?}", job.name, job.problem),
                None => Ok(()),
            }
        })
        .buffer_unordered(REQUESTS)
        .try_collect()
        .await
}

/// Asks for `count` runs of a job, in bulk, and waits until all are acknowledged.
async fn submit_bulk(rig: &Rig, job: &str, count: usize) -> anyhow::Result<()> {
    use futures::{StreamExt, TryStreamExt};
    let sizes = (0..count.div_ceil(BULK)).map(|page| BULK.min(count - page * BULK));
    futures::stream::iter(sizes)
        .map(|size| async move {
            let runs = RunMany { runs: vec![RunJob::default(); size] };
            let answer = rig.client.job_run_many(APP, job, &runs).await?;
            match answer.runs.iter().find(|run| run.instance.is_none()) {
                Some(run) => bail!("a run was refused: {:?}", run.problem),
                None => Ok(()),
            }
        })
        .buffer_unordered(REQUESTS)
        .try_collect()
        .await
}
