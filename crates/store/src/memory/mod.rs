//! The store in memory: the same guards as SQLite's, in deterministic order, and nothing survives the process.
//!
//! For tests and for the simulator, which has no async runtime: each question of the [`Store`] port that a partition
//! asks also exists as a plain method (`*_sync`).

mod apply;
mod cluster;
mod tables;
mod tasks;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use async_trait::async_trait;
use pendula_model::app::App;
use pendula_model::change::Gap;
use pendula_model::instance::{Instance, PastAttempt};
use pendula_model::job::{Job, JobSpec};
use pendula_model::snapshot::Snapshot;
use pendula_model::task::{Fanout, Task};
use pendula_model::token::Token;
use pendula_model::{AppId, AttemptKey, Epoch, InstanceId, JobId, PartitionId, Revision, TaskId, Timestamp, TokenId};

use tokio::time::Instant;

use crate::cluster::Cluster;
use crate::laws;
use crate::port::{Batch, InstanceFilter, JobFilter, Page, Store, StoreError, StoreStatus, TaskFilter};
use tables::Tables;

/// See the [module](self). Cheap to make; share it by `Arc`.
pub struct MemoryStore {
    partitions: u16,
    is_shared: bool,
    secret: [u8; 32],
    /// Time goes on from the second by how long ago the first was.
    made_at: (Instant, Timestamp),
    tables: Mutex<Tables>,
}

impl MemoryStore {
    /// An empty store with that many partitions (1 to [`PartitionId::LIMIT`]), none of them claimed.
    pub fn new(partitions: u16) -> Self {
        let partitions = partitions.clamp(1, PartitionId::LIMIT);
        let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let made_at = (Instant::now(), Timestamp::from_micros(wall.as_micros() as i64));
        let tables = Mutex::new(Tables::new(partitions));
        MemoryStore { partitions, is_shared: false, secret: [0; 32], made_at, tables }
    }

    /// One for several servers, which know each other by `secret`.
    pub fn shared(partitions: u16, secret: [u8; 32]) -> Self {
        MemoryStore { is_shared: true, secret, ..MemoryStore::new(partitions) }
    }

    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn epoch<'a>(&self, tables: &'a mut Tables, partition: PartitionId) -> Result<&'a mut Epoch, StoreError> {
        let missing = || StoreError::Corrupt { why: format!("there is no row for partition {partition}") };
        tables.epochs.get_mut(usize::from(partition.0)).ok_or_else(missing)
    }

    /// [`Store::partition_claim`].
    pub fn claim_sync(&self, partition: PartitionId) -> Result<Epoch, StoreError> {
        let mut tables = self.tables();
        let epoch = self.epoch(&mut tables, partition)?;
        epoch.0 += 1;
        let epoch = *epoch;
        tables.numbers.remove(&partition);
        Ok(epoch)
    }

    /// [`Store::partition_load`].
    pub fn load_sync(&self, partition: PartitionId) -> Result<Snapshot, StoreError> {
        let mut tables = self.tables();
        self.epoch(&mut tables, partition)?;
        let mut snapshot = Snapshot {
            partition,
            last_id: tables.last_id,
            apps: tables.apps.values().filter(|app| app.partition == partition).cloned().collect(),
            jobs: Vec::new(),
            revisions: Vec::new(),
            instances: Vec::new(),
            fanouts: Vec::new(),
            tasks: Vec::new(),
            broken: Vec::new(),
        };
        let mut used = std::collections::BTreeSet::new();
        let first = (partition, InstanceId(i64::MIN));
        for (_, id) in tables.active.range(first..).take_while(|(owner, _)| *owner == partition) {
            let instance = &tables.instances[id].instance;
            used.insert((instance.job, instance.revision));
            let fanout = tables.fanouts.get(id);
            if let Err(why) = laws::check_begun(instance, fanout.is_some()) {
                snapshot.broken.push((*id, why));
                continue;
            }
            snapshot.instances.push(instance.clone());
            snapshot.fanouts.extend(fanout.cloned());
            let under_way = tables.under_way.range(tasks::of(*id, TaskId::ROOT));
            snapshot.tasks.extend(under_way.map(|key| tables.tasks[key].clone()));
        }
        for (id, revision) in used {
            let job = &tables.jobs[&id];
            if snapshot.jobs.last().is_none_or(|last| last.id != id) {
                snapshot.jobs.push(job.clone());
            }
            if job.revision != revision {
                let (_, spec) = &tables.revisions[&(id, revision)];
                snapshot.revisions.push((id, revision, spec.clone()));
            }
        }
        Ok(snapshot)
    }

    /// [`Store::commit`].
    pub fn commit_sync(&self, batch: &Batch) -> Result<(), StoreError> {
        let mut tables = self.tables();
        let epoch = *self.epoch(&mut tables, batch.partition)?;
        if epoch != batch.epoch {
            return Err(StoreError::Fenced { partition: batch.partition, ours: batch.epoch });
        }
        if batch.number > 0 && tables.numbers.get(&batch.partition).is_some_and(|last| *last >= batch.number) {
            return Ok(());
        }
        tables.begin();
        for change in &batch.changes {
            let written = laws::check(batch.partition, change).and_then(|()| apply::apply(&mut tables, change));
            if let Err(what) = written {
                tables.roll_back();
                return Err(StoreError::Conflict { what });
            }
        }
        if batch.number > 0 {
            tables.numbers.insert(batch.partition, batch.number);
        }
        Ok(())
    }

    /// [`Store::jobs_due`].
    pub fn jobs_due_sync(
        &self,
        partition: PartitionId,
        until: Timestamp,
        after: Option<(Timestamp, JobId)>,
        limit: usize,
    ) -> Vec<Job> {
        let tables = self.tables();
        let (at, id) = after.unwrap_or((Timestamp::MIN, JobId(i64::MIN)));
        let from = std::ops::Bound::Excluded((partition, at, id));
        let due = tables.jobs_due.range((from, std::ops::Bound::Excluded((partition, until, JobId(i64::MIN)))));
        due.take(limit).map(|(_, _, id)| tables.jobs[id].clone()).collect()
    }

    /// [`Store::job_by_id`].
    pub fn job_by_id_sync(&self, id: JobId) -> Option<Job> {
        self.tables().jobs.get(&id).cloned()
    }

    /// [`Store::job_by_name`].
    pub fn job_by_name_sync(&self, app: AppId, name: &str) -> Option<Job> {
        let tables = self.tables();
        let id = tables.job_by_name.get(&(app, name.to_owned()))?;
        Some(tables.jobs[id].clone())
    }

    /// [`Store::instance_by_idempotency_key`].
    pub fn instance_by_idempotency_key_sync(&self, app: AppId, key: &str) -> Option<InstanceId> {
        self.tables().idempotency.get(&(app, Arc::from(key))).copied()
    }

    /// [`Store::instance`].
    pub fn instance_sync(&self, id: InstanceId) -> Option<Instance> {
        self.tables().instances.get(&id).map(|row| row.instance.clone())
    }

    /// Shows every instance to `look`, in order of id, without copying it.
    pub fn for_each_instance(&self, mut look: impl FnMut(&Instance)) {
        self.tables().instances.values().for_each(|row| look(&row.instance));
    }

    /// [`Store::prune`].
    pub fn prune_sync(&self, now: Timestamp, limit: usize) -> Vec<(AppId, InstanceId)> {
        let mut tables = self.tables();
        let due = tables.prunable.range(..=(now, InstanceId(i64::MAX)));
        let gone: Vec<_> = due.take(limit).map(|(_, id)| (tables.instances[id].instance.app, *id)).collect();
        for (_, id) in &gone {
            let all =
                AttemptKey::root(*id, 0)..=AttemptKey { instance: *id, task: TaskId(u64::MAX), attempt: u32::MAX };
            let attempts: Vec<_> = tables.past_attempts.range(all).map(|(key, _)| *key).collect();
            for key in attempts {
                tables.put_past_attempt(key, None);
            }
            let of_instance: Vec<_> = tables.tasks.range(tasks::of(*id, TaskId::ROOT)).map(|(key, _)| *key).collect();
            for key in of_instance {
                tables.put_task(key, None);
            }
            tables.put_fanout(*id, None);
            tables.put_instance(*id, None);
        }
        prune_definitions(&mut tables);
        tables.begin();
        gone
    }
}

/// Deleted jobs without instances go, and revisions that are neither the newest nor in use.
fn prune_definitions(tables: &mut Tables) {
    let oldest = |tables: &Tables, job: JobId| {
        let first = tables.by_job.range((job, InstanceId(i64::MIN))..=(job, InstanceId(i64::MAX))).next();
        first.map(|(_, id)| tables.instances[id].instance.revision)
    };
    let active: std::collections::BTreeSet<_> = tables
        .active
        .iter()
        .map(|(_, id)| (tables.instances[id].instance.job, tables.instances[id].instance.revision))
        .collect();
    let unused = |(job, revision): &&(JobId, Revision)| {
        let superseded = tables.jobs[job].revision != *revision;
        let before_oldest = oldest(tables, *job).is_none_or(|oldest| *revision < oldest);
        superseded && before_oldest && !active.contains(&(*job, *revision))
    };
    let revisions: Vec<_> = tables.revisions.keys().filter(unused).copied().collect();
    let is_over = |id: &&JobId| tables.jobs[id].deleted_at.is_some() && oldest(tables, **id).is_none();
    let jobs: Vec<_> = tables.jobs.keys().filter(is_over).copied().collect();
    for key in revisions {
        tables.put_revision(key, None);
    }
    for id in jobs {
        let kept: Vec<_> =
            tables.revisions.range((id, Revision(0))..=(id, Revision(u32::MAX))).map(|(key, _)| *key).collect();
        for key in kept {
            tables.put_revision(key, None);
        }
        tables.put_gaps(id, None);
        tables.put_job(id, None);
    }
}

#[async_trait]
impl Store for MemoryStore {
    fn partitions(&self) -> u16 {
        self.partitions
    }

    fn cluster(&self) -> Option<&dyn Cluster> {
        self.is_shared.then_some(self)
    }

    async fn partition_claim(&self, partition: PartitionId, _: &str, _: Timestamp) -> Result<Epoch, StoreError> {
        self.claim_sync(partition)
    }

    async fn partition_load(&self, partition: PartitionId) -> Result<Snapshot, StoreError> {
        self.load_sync(partition)
    }

    async fn commit(&self, batch: Batch) -> Result<(), StoreError> {
        self.commit_sync(&batch)
    }

    async fn jobs_due(
        &self,
        partition: PartitionId,
        until: Timestamp,
        after: Option<(Timestamp, JobId)>,
        limit: usize,
    ) -> Result<Vec<Job>, StoreError> {
        Ok(self.jobs_due_sync(partition, until, after, limit))
    }

    async fn job_by_id(&self, id: JobId) -> Result<Option<Job>, StoreError> {
        Ok(self.job_by_id_sync(id))
    }

    async fn job_by_name(&self, app: AppId, name: &str) -> Result<Option<Job>, StoreError> {
        Ok(self.job_by_name_sync(app, name))
    }

    async fn instance_by_idempotency_key(&self, app: AppId, key: &str) -> Result<Option<InstanceId>, StoreError> {
        Ok(self.instance_by_idempotency_key_sync(app, key))
    }

    async fn tasks_waiting(
        &self,
        instance: InstanceId,
        from: TaskId,
        limit: usize,
        bytes: usize,
    ) -> Result<Vec<Task>, StoreError> {
        Ok(self.tasks_waiting_sync(instance, from, limit, bytes))
    }

    async fn apps(&self) -> Result<Vec<App>, StoreError> {
        let tables = self.tables();
        Ok(tables.app_by_name.values().map(|id| tables.apps[id].clone()).collect())
    }

    async fn app_by_name(&self, name: &str) -> Result<Option<App>, StoreError> {
        let tables = self.tables();
        Ok(tables.app_by_name.get(name).map(|id| tables.apps[id].clone()))
    }

    async fn app_by_id(&self, id: AppId) -> Result<Option<App>, StoreError> {
        Ok(self.tables().apps.get(&id).cloned())
    }

    async fn jobs(&self, filter: JobFilter) -> Result<Page<Job>, StoreError> {
        let tables = self.tables();
        let part = filter.name_contains.as_deref().unwrap_or_default().to_ascii_lowercase();
        let wanted = |job: &&Job| {
            filter.app.is_none_or(|app| job.app == app)
                && filter.enabled.is_none_or(|enabled| job.spec.enabled == enabled)
                && job.spec.name.to_ascii_lowercase().contains(&part)
        };
        let after = filter.after.clone().map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
        let names = tables.job_by_name.range((after, std::ops::Bound::Unbounded));
        let jobs = names.map(|(_, id)| &tables.jobs[id]).filter(wanted);
        Ok(page(jobs.take(filter.limit.saturating_add(1)).cloned().collect(), filter.limit))
    }

    async fn job_revisions(
        &self,
        id: JobId,
        limit: usize,
    ) -> Result<Vec<(Revision, Timestamp, Arc<JobSpec>)>, StoreError> {
        let tables = self.tables();
        let kept = tables.revisions.range((id, Revision(0))..=(id, Revision(u32::MAX))).rev().take(limit);
        Ok(kept.map(|((_, revision), (at, spec))| (*revision, *at, spec.clone())).collect())
    }

    async fn job_gaps(&self, id: JobId, limit: usize) -> Result<Vec<Gap>, StoreError> {
        let tables = self.tables();
        Ok(tables.gaps.get(&id).into_iter().flatten().rev().take(limit).cloned().collect())
    }

    async fn instances(&self, filter: InstanceFilter) -> Result<Page<Instance>, StoreError> {
        let tables = self.tables();
        let wanted = |instance: &&Instance| {
            filter.app.is_none_or(|app| instance.app == app)
                && filter.job.is_none_or(|job| instance.job == job)
                && (filter.states.is_empty() || filter.states.contains(&instance.state))
                && filter.created_from.is_none_or(|from| instance.created_at >= from)
                && filter.created_before.is_none_or(|before| instance.created_at < before)
        };
        let below = filter.before.unwrap_or(InstanceId(i64::MAX));
        let rows = tables.instances.range(..below).rev().map(|(_, row)| &row.instance);
        Ok(page(rows.filter(wanted).take(filter.limit.saturating_add(1)).cloned().collect(), filter.limit))
    }

    async fn instance(&self, id: InstanceId) -> Result<Option<Instance>, StoreError> {
        Ok(self.instance_sync(id))
    }

    async fn past_attempts(&self, id: InstanceId, task: TaskId) -> Result<Vec<PastAttempt>, StoreError> {
        let key = |attempt| AttemptKey { instance: id, task, attempt };
        Ok(self.tables().past_attempts.range(key(0)..=key(u32::MAX)).map(|(_, past)| past.clone()).collect())
    }

    async fn fanout(&self, id: InstanceId) -> Result<Option<Fanout>, StoreError> {
        Ok(self.fanout_sync(id))
    }

    async fn fanouts(&self, ids: Vec<InstanceId>) -> Result<Vec<Fanout>, StoreError> {
        Ok(ids.into_iter().filter_map(|id| self.fanout_sync(id)).collect())
    }

    async fn tasks(&self, filter: TaskFilter) -> Result<Page<Task>, StoreError> {
        Ok(self.tasks_sync(&filter))
    }

    async fn task(&self, instance: InstanceId, id: TaskId) -> Result<Option<Task>, StoreError> {
        Ok(self.task_sync(instance, id))
    }

    async fn task_results(
        &self,
        instance: InstanceId,
        from: TaskId,
        limit: usize,
        bytes: usize,
    ) -> Result<Vec<Task>, StoreError> {
        Ok(self.task_results_sync(instance, from, limit, bytes))
    }

    async fn token_insert(&self, token: Token) -> Result<(), StoreError> {
        let mut tables = self.tables();
        if tables.tokens.contains_key(&token.id) || tables.tokens.values().any(|other| other.hash == token.hash) {
            return Err(StoreError::Exists { what: format!("token {}", token.id) });
        }
        if let Some(app) = token.scope.app()
            && !tables.apps.contains_key(&app)
        {
            return Err(StoreError::Conflict { what: format!("app {app} of token {} does not exist", token.id) });
        }
        tables.put_token(token.id, Some(token));
        Ok(())
    }

    async fn token_by_hash(&self, hash: [u8; 32]) -> Result<Option<Token>, StoreError> {
        Ok(self.tables().tokens.values().find(|token| token.hash == hash).cloned())
    }

    async fn tokens(&self) -> Result<Vec<Token>, StoreError> {
        Ok(self.tables().tokens.values().cloned().collect())
    }

    async fn token_delete(&self, id: TokenId) -> Result<bool, StoreError> {
        let mut tables = self.tables();
        let existed = tables.tokens.contains_key(&id);
        tables.put_token(id, None);
        Ok(existed)
    }

    async fn prune(&self, now: Timestamp, limit: usize) -> Result<Vec<(AppId, InstanceId)>, StoreError> {
        Ok(self.prune_sync(now, limit))
    }

    async fn status(&self) -> Result<StoreStatus, StoreError> {
        Ok(StoreStatus::default())
    }
}

/// The first `limit` of `items`, of which there is one more when the page is not the last.
pub(crate) fn page<T>(mut items: Vec<T>, limit: usize) -> Page<T> {
    let more = items.len() > limit;
    items.truncate(limit);
    Page { items, more }
}
