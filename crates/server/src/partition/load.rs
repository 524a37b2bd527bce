//! What the engine asks the store for, read until it is there.

use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};
use pendula_engine::{Fact, Input, Need};
use pendula_model::instance::TaskState;
use pendula_model::job::Job;
use pendula_model::task::Task;
use pendula_model::{InstanceId, PartitionId, TaskId, Timestamp};
use pendula_store::{Store, StoreError, TaskFilter};

use super::owner::Owner;

/// Jobs per page of schedules.
const PAGE: usize = 5_000;
/// Reads at once for one question.
const AT_ONCE: usize = 16;
/// Tasks that are tried again at once, and bytes of what they bring, at most. Whoever asked is told how many it were.
const RETRIED: usize = 10_000;
const RETRIED_BYTES: usize = 64 << 20;
/// Tasks of a page of a listing.
const TASKS: usize = 1_000;

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

/// Tasks of an instance from `from` on that were never placed: `limit` of them, or `bytes`, or all that there are.
pub(super) async fn tasks(owner: Arc<Owner>, instance: InstanceId, from: TaskId, limit: usize, bytes: usize) -> Input {
    let read = owner.insist("reading tasks", || async {
        let (mut tasks, mut left) = (Vec::<Task>::new(), bytes);
        loop {
            let next = tasks.last().map_or(from, |last| last.id.next());
            let page = owner.store.tasks_waiting(instance, next, limit - tasks.len(), left).await?;
            // Fewer than asked for may be due to their bytes; only when none comes is there none.
            if page.is_empty() {
                return Ok((tasks, true));
            }
            left = left.saturating_sub(page.iter().map(Task::bytes).sum());
            tasks.extend(page);
            if left == 0 || tasks.len() >= limit {
                return Ok((tasks, false));
            }
        }
    });
    let (tasks, complete) = read.await;
    Input::TasksLoaded { instance, from, tasks, complete }
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
        Need::Fanout(id) => {
            async {
                let (fanout, instance) = (store.fanout(*id).await?, store.instance(*id).await?);
                let fanout = fanout.zip(instance).map(|(fanout, instance)| (fanout, instance.state.is_ended()));
                Ok(Fact::Fanout { need: need.clone(), fanout })
            }
            .await
        }
        Need::UnsuccessfulTasks { instance, tasks, .. } => {
            async {
                let ids = if tasks.is_empty() { unsuccessful(store, *instance).await? } else { tasks.clone() };
                Ok(Fact::Tasks { need: need.clone(), tasks: rows(store, *instance, &ids).await? })
            }
            .await
        }
    };
    match answer {
        // Repeating the question would only hold up whoever asked, and everything that is parked with them.
        Err(StoreError::Corrupt { why }) => Ok(Fact::Unreadable { need, why }),
        answer => answer,
    }
}

/// The first tasks that failed or were lost.
async fn unsuccessful(store: &dyn Store, instance: InstanceId) -> Result<Vec<TaskId>, StoreError> {
    let (mut ids, mut from) = (Vec::new(), TaskId::ROOT);
    while ids.len() < RETRIED {
        let states = vec![TaskState::Failed, TaskState::Lost];
        let limit = TASKS.min(RETRIED - ids.len());
        let page = store.tasks(TaskFilter { instance, states, name_contains: None, from, limit }).await?;
        ids.extend(page.items.iter().filter(|task| task.role.is_counted()).map(|task| task.id));
        match page.items.last().filter(|_| page.more) {
            Some(last) => from = last.id.next(),
            None => break,
        }
    }
    Ok(ids)
}

/// Whole rows, which are written back: listings leave out what is large.
async fn rows(store: &dyn Store, instance: InstanceId, ids: &[TaskId]) -> Result<Vec<Task>, StoreError> {
    let (mut tasks, mut bytes) = (Vec::new(), 0);
    for ids in ids[..ids.len().min(RETRIED)].chunks(AT_ONCE) {
        let reads: Vec<_> = ids.iter().map(|id| store.task(instance, *id)).collect();
        let read = futures::future::try_join_all(reads).await?;
        bytes += read.iter().flatten().map(Task::bytes).sum::<usize>();
        tasks.extend(read.into_iter().flatten());
        if bytes >= RETRIED_BYTES {
            break;
        }
    }
    Ok(tasks)
}
