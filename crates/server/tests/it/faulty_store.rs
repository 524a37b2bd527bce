//! A store that fails on demand.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use pendula_model::app::App;
use pendula_model::change::Gap;
use pendula_model::instance::{Instance, PastAttempt};
use pendula_model::job::{Job, JobSpec};
use pendula_model::snapshot::Snapshot;
use pendula_model::task::{Fanout, Task};
use pendula_model::token::Token;
use pendula_model::{AppId, Epoch, InstanceId, JobId, PartitionId, Revision, TaskId, Timestamp, TokenId};
use pendula_store::{Batch, InstanceFilter, JobFilter, Page, Store, StoreError, StoreStatus, TaskFilter};

/// What goes wrong with commits.
#[derive(Default)]
pub struct Faults {
    /// All commits fail as unavailable.
    pub is_away: AtomicBool,
    /// Commits that were tried while it was away.
    pub refused: AtomicU32,
    /// The next commit is refused with this.
    pub next: Mutex<Option<StoreError>>,
    pub claims: AtomicU32,
    /// The next reading of a partition panics.
    pub panic_next: AtomicBool,
}

pub struct FaultyStore {
    pub inner: Arc<dyn Store>,
    pub faults: Arc<Faults>,
}

#[async_trait]
impl Store for FaultyStore {
    async fn commit(&self, batch: Batch) -> Result<(), StoreError> {
        if self.faults.is_away.load(Ordering::SeqCst) {
            self.faults.refused.fetch_add(1, Ordering::SeqCst);
            return Err(StoreError::Unavailable { why: "the disk is full".to_owned() });
        }
        let next = self.faults.next.lock().expect("no test panics in between").take();
        match next {
            Some(error) => Err(error),
            None => self.inner.commit(batch).await,
        }
    }

    async fn partition_claim(&self, partition: PartitionId, owner: &str, now: Timestamp) -> Result<Epoch, StoreError> {
        self.faults.claims.fetch_add(1, Ordering::SeqCst);
        self.inner.partition_claim(partition, owner, now).await
    }

    fn partitions(&self) -> u16 {
        self.inner.partitions()
    }

    async fn partition_load(&self, partition: PartitionId) -> Result<Snapshot, StoreError> {
        assert!(!self.faults.panic_next.swap(false, Ordering::SeqCst), "a bug on purpose");
        self.inner.partition_load(partition).await
    }

    async fn jobs_due(
        &self,
        partition: PartitionId,
        until: Timestamp,
        after: Option<(Timestamp, JobId)>,
        limit: usize,
    ) -> Result<Vec<Job>, StoreError> {
        self.inner.jobs_due(partition, until, after, limit).await
    }

    async fn job_by_id(&self, id: JobId) -> Result<Option<Job>, StoreError> {
        self.inner.job_by_id(id).await
    }

    async fn job_by_name(&self, app: AppId, name: &str) -> Result<Option<Job>, StoreError> {
        self.inner.job_by_name(app, name).await
    }

    async fn instance_by_idempotency_key(&self, app: AppId, key: &str) -> Result<Option<InstanceId>, StoreError> {
        self.inner.instance_by_idempotency_key(app, key).await
    }

    async fn apps(&self) -> Result<Vec<App>, StoreError> {
        self.inner.apps().await
    }

    async fn app_by_name(&self, name: &str) -> Result<Option<App>, StoreError> {
        self.inner.app_by_name(name).await
    }

    async fn app_by_id(&self, id: AppId) -> Result<Option<App>, StoreError> {
        self.inner.app_by_id(id).await
    }

    async fn jobs(&self, filter: JobFilter) -> Result<Page<Job>, StoreError> {
        self.inner.jobs(filter).await
    }

    async fn job_revisions(
        &self,
        id: JobId,
        limit: usize,
    ) -> Result<Vec<(Revision, Timestamp, Arc<JobSpec>)>, StoreError> {
        self.inner.job_revisions(id, limit).await
    }

    async fn job_gaps(&self, id: JobId, limit: usize) -> Result<Vec<Gap>, StoreError> {
        self.inner.job_gaps(id, limit).await
    }

    async fn instances(&self, filter: InstanceFilter) -> Result<Page<Instance>, StoreError> {
        self.inner.instances(filter).await
    }

    async fn instance(&self, id: InstanceId) -> Result<Option<Instance>, StoreError> {
        self.inner.instance(id).await
    }

    async fn past_attempts(&self, id: InstanceId, task: TaskId) -> Result<Vec<PastAttempt>, StoreError> {
        self.inner.past_attempts(id, task).await
    }

    async fn tasks_waiting(
        &self,
        instance: InstanceId,
        from: TaskId,
        limit: usize,
        bytes: usize,
    ) -> Result<Vec<Task>, StoreError> {
        self.inner.tasks_waiting(instance, from, limit, bytes).await
    }

    async fn fanout(&self, id: InstanceId) -> Result<Option<Fanout>, StoreError> {
        self.inner.fanout(id).await
    }

    async fn fanouts(&self, ids: Vec<InstanceId>) -> Result<Vec<Fanout>, StoreError> {
        self.inner.fanouts(ids).await
    }

    async fn tasks(&self, filter: TaskFilter) -> Result<Page<Task>, StoreError> {
        self.inner.tasks(filter).await
    }

    async fn task(&self, instance: InstanceId, id: TaskId) -> Result<Option<Task>, StoreError> {
        self.inner.task(instance, id).await
    }

    async fn task_results(
        &self,
        instance: InstanceId,
        from: TaskId,
        limit: usize,
        bytes: usize,
    ) -> Result<Vec<Task>, StoreError> {
        self.inner.task_results(instance, from, limit, bytes).await
    }

    async fn token_insert(&self, token: Token) -> Result<(), StoreError> {
        self.inner.token_insert(token).await
    }

    async fn token_by_hash(&self, hash: [u8; 32]) -> Result<Option<Token>, StoreError> {
        self.inner.token_by_hash(hash).await
    }

    async fn tokens(&self) -> Result<Vec<Token>, StoreError> {
        self.inner.tokens().await
    }

    async fn token_delete(&self, id: TokenId) -> Result<bool, StoreError> {
        self.inner.token_delete(id).await
    }

    async fn prune(&self, now: Timestamp, limit: usize) -> Result<Vec<(AppId, InstanceId)>, StoreError> {
        self.inner.prune(now, limit).await
    }

    async fn status(&self) -> Result<StoreStatus, StoreError> {
        self.inner.status().await
    }
}
