//! What a worker should have, as the store says.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use pendula_model::instance::{InstanceState, TaskState};
use pendula_model::mode::ExecutionMode;
use pendula_model::processor::Processor;
use pendula_model::worker::WorkerRef;
use pendula_model::{AttemptKey, InstanceId, TaskId};
use pendula_store::{InstanceFilter, Store, StoreError, TaskFilter};

use super::{Identity, Surroundings};

/// Instances per page of what is read then.
const PAGE: usize = 1000;

/// An attempt that a worker should have.
pub(super) struct Placed {
    pub(super) key: AttemptKey,
    pub(super) is_bound: bool,
    /// A task of a map.
    pub(super) is_mapped: bool,
    pub(super) stopping: bool,
}

/// What the store says that the worker has: whole instances, and its pieces of broadcasts.
pub(super) async fn placed(
    around: &Surroundings,
    who: &Identity,
    worker: &WorkerRef,
) -> Result<Vec<Placed>, StoreError> {
    let store = &around.gateway.server().store;
    let mut found = Vec::new();
    let mut before = None;
    // Of PowerJob's jobs, whether they are maps.
    let mut is_mapped = HashMap::new();
    loop {
        let filter = InstanceFilter {
            app: Some(who.app),
            states: vec![InstanceState::Dispatched, InstanceState::Running, InstanceState::Stopping],
            before,
            limit: PAGE,
            ..InstanceFilter::default()
        };
        let page = store.instances(filter).await?;
        before = page.items.last().map(|row| row.id);
        for row in page.items {
            let stopping = row.state == InstanceState::Stopping;
            if row.worker.as_ref() == Some(worker) {
                let key = AttemptKey::root(row.id, row.attempt);
                found.push(Placed { key, is_bound: false, is_mapped: false, stopping });
            } else if row.worker.is_none() {
                if let Entry::Vacant(entry) = is_mapped.entry(row.job) {
                    let job = store.job_by_id(row.job).await?;
                    let job = job.filter(|job| matches!(job.spec.processor, Processor::PowerJob(_)));
                    entry.insert(job.map(|job| matches!(job.spec.mode, ExecutionMode::Map(_))));
                }
                let Some(is_mapped) = is_mapped[&row.job] else { continue };
                let name = (!is_mapped).then_some(&*worker.name);
                let own = own_tasks(store.as_ref(), row.id, worker, name).await?;
                found.extend(own.into_iter().map(|key| Placed { key, is_bound: !is_mapped, is_mapped, stopping }));
            }
        }
        if !page.more {
            return Ok(found);
        }
    }
}

/// The tasks of an instance that the worker has. Those of a broadcast are named like their workers.
async fn own_tasks(
    store: &dyn Store,
    instance: InstanceId,
    worker: &WorkerRef,
    name: Option<&str>,
) -> Result<Vec<AttemptKey>, StoreError> {
    let mut filter = TaskFilter {
        instance,
        states: vec![TaskState::Dispatched, TaskState::Running],
        name_contains: name.map(str::to_owned),
        from: TaskId::ROOT,
        limit: PAGE,
    };
    let mut found = Vec::new();
    loop {
        let page = store.tasks(filter.clone()).await?;
        let own = page.items.iter().filter(|task| task.worker.as_ref() == Some(worker));
        found.extend(own.map(|task| AttemptKey::new(task.key(), task.attempt)));
        let Some(last) = page.items.last().filter(|_| page.more) else { return Ok(found) };
        filter.from = last.id.next();
    }
}
