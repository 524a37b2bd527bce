//! What the engine asks the store for, read until it is there.

use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};
use pendula_engine::{Fact, Input, Need};
use pendula_model::job::Job;
use pendula_model::{PartitionId, Timestamp};
use pendula_store::{Store, StoreError};

use super::owner::Owner;

/// Jobs per page of schedules.
const PAGE: usize = 5_000;
/// Reads at once for one question.
const AT_ONCE: usize = 16;

/// Answers all of `needs`, however long the store takes.
pub(super) async fn facts(owner: Arc<Owner>, needs: Vec<Need>) -> Input {
    let facts = owner.insist("reading for the engine", || async {
        let reads = needs.iter().cloned().map(|need| fact(owner.store.as_ref(), need));
        futures::stream::iter(reads).buffered(AT_ONCE).try_collect::<Vec<Fact>>().await
    });
    Input::Loaded(facts.await)
}

/// All jobs of `partition` whose next fire lies before `until`.
pub(super) async fn schedules(owner: Arc<Owner>, partition: PartitionId, until: Timestamp) -> Input {
    let jobs = owner.insist("reading schedules", || async {
        let mut jobs: Vec<Job> = Vec::new();
        loop {
            let after = jobs.last().and_then(|job| Some((job.schedule.next_fire?, job.id)));
            let page = owner.store.jobs_due(partition, until, after, PAGE).await?;
            let is_last = page.len() < PAGE;
            jobs.extend(page);
            if is_last {
                return Ok(jobs);
            }
        }
    });
    Input::SchedulesLoaded { until, jobs: jobs.await }
}

async fn fact(store: &dyn Store, need: Need) -> Result<Fact, StoreError> {
    let answer = match &need {
        Need::JobById(id) => store.job_by_id(*id).await.map(|job| Fact::Job { need: need.clone(), job }),
        Need::JobByName(app, name) => {
            store.job_by_name(*app, name).await.map(|job| Fact::Job { need: need.clone(), job })
        }
        Need::Idempotency(app, key) => store
            .instance_by_idempotency_key(*app, key)
            .await
            .map(|instance| Fact::Idempotency { need: need.clone(), instance }),
    };
    match answer {
        // Repeating the question would only hold up whoever asked, and everything that is parked with them.
        Err(StoreError::Corrupt { why }) => Ok(Fact::Unreadable { need, why }),
        answer => answer,
    }
}
