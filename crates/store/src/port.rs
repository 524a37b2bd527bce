//! The port itself.

use std::sync::Arc;

use async_trait::async_trait;
use pendula_model::app::App;
use pendula_model::change::{Change, Gap};
use pendula_model::instance::{Instance, InstanceState, PastAttempt, TaskState};
use pendula_model::job::{Job, JobSpec};
use pendula_model::snapshot::Snapshot;
use pendula_model::task::{Fanout, Task};
use pendula_model::token::Token;
use pendula_model::{AppId, Epoch, InstanceId, JobId, PartitionId, Revision, TaskId, Timestamp, TokenId};

use crate::cluster::Cluster;

/// Why the store did not do as asked. Variants follow what the caller does next.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// The partition has a newer owner: drop it, act no more.
    #[error("partition {partition} is no longer ours: epoch {ours:?} was superseded")]
    Fenced { partition: PartitionId, ours: Epoch },
    /// A change did not find what it expected: drop the partition's memory and read it again.
    #[error("a change found something else than expected: {what}")]
    Conflict { what: String },
    /// A name or key that must be unique is taken (outside of commits).
    #[error("{what} already exists")]
    Exists { what: String },
    /// The store cannot write or read now (full disk, locked, unreachable): keep the batch and try again.
    #[error("the store is unavailable: {why}")]
    Unavailable { why: String },
    /// What is stored makes no sense or the medium is damaged: report it, do not retry.
    #[error("the store is damaged: {why}")]
    Corrupt { why: String },
    /// The store cannot be opened as it is: a newer schema, another process, no permission. Fatal at start.
    #[error("{0}")]
    Refused(String),
}

/// One partition's decisions, to be written entirely or not at all.
#[derive(Clone, Debug)]
pub struct Batch {
    pub partition: PartitionId,
    /// The epoch under which it was decided; refused as [`StoreError::Fenced`] when the store has a newer one.
    pub epoch: Epoch,
    /// Which batch of this epoch it is, from 1 and ever growing; 0 for one that nobody repeats. By it a store whose answer
    /// was lost on the way knows a batch again that it has written, and does not write it twice.
    pub number: u64,
    pub changes: Vec<Change>,
}

/// A page of a listing, newest first.
#[derive(Clone, Debug)]
pub struct Page<T> {
    pub items: Vec<T>,
    /// Whether there are more after the last one.
    pub more: bool,
}

/// Which jobs to list, in order of name.
#[derive(Clone, Debug, Default)]
pub struct JobFilter {
    pub app: Option<AppId>,
    /// Only names that contain this, ignoring ASCII case.
    pub name_contains: Option<String>,
    pub enabled: Option<bool>,
    /// Only those after this (app id, name): the cursor.
    pub after: Option<(AppId, String)>,
    pub limit: usize,
}

/// Which instances to list, newest (largest id) first.
#[derive(Clone, Debug, Default)]
pub struct InstanceFilter {
    pub app: Option<AppId>,
    pub job: Option<JobId>,
    /// Any of these; empty means all.
    pub states: Vec<InstanceState>,
    pub created_from: Option<Timestamp>,
    pub created_before: Option<Timestamp>,
    /// Only ids below this: the cursor.
    pub before: Option<InstanceId>,
    pub limit: usize,
}

/// Which tasks of one instance to list, in order of id.
#[derive(Clone, Debug)]
pub struct TaskFilter {
    pub instance: InstanceId,
    /// Any of these; empty means all. Of an ended instance what still waited or ran counts as `stopped`, because it
    /// never will.
    pub states: Vec<TaskState>,
    /// Only names that contain this, ignoring ASCII case.
    pub name_contains: Option<String>,
    /// Only those from this id on: the cursor.
    pub from: TaskId,
    pub limit: usize,
}

/// How much is in the store, for metrics and `doctor`. Cheap: no full scans.
#[derive(Clone, Debug, Default)]
pub struct StoreStatus {
    pub bytes: u64,
    pub schema: u32,
    /// What is wrong with tables, indexes or seed rows; empty when all is as this version needs it. Nobody should be
    /// served while there is one.
    pub faults: Vec<String>,
    /// Rows that were met and could not be understood, with the reason. They are left out of listings and hurt nobody
    /// else.
    pub unreadable: Vec<String>,
}

/// The port. Implementations are cheap to share and safe to call from anywhere.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    // --- ownership -------------------------------------------------------------------------------------------------

    /// The number of partitions, fixed when the store was made.
    fn partitions(&self) -> u16;

    /// How several servers share it; nothing when it belongs to one process alone.
    fn cluster(&self) -> Option<&dyn Cluster> {
        None
    }

    /// Takes a partition, whoever had it, and returns the new epoch. Where servers share the store they use
    /// [`Cluster::claim`] instead.
    async fn partition_claim(&self, partition: PartitionId, owner: &str, now: Timestamp) -> Result<Epoch, StoreError>;

    /// All that a new owner needs; rows that cannot be read are reported as broken instead of failing the whole.
    async fn partition_load(&self, partition: PartitionId) -> Result<Snapshot, StoreError>;

    /// Writes all changes of the batch, or none. Durable when it returns.
    async fn commit(&self, batch: Batch) -> Result<(), StoreError>;

    // --- what the engine asks for ----------------------------------------------------------------------------------

    /// Enabled, undeleted jobs of `partition` with `next_fire < until`, in order of (next_fire, id), at most `limit`,
    /// after the cursor.
    async fn jobs_due(
        &self,
        partition: PartitionId,
        until: Timestamp,
        after: Option<(Timestamp, JobId)>,
        limit: usize,
    ) -> Result<Vec<Job>, StoreError>;
    async fn job_by_id(&self, id: JobId) -> Result<Option<Job>, StoreError>;
    /// Undeleted only.
    async fn job_by_name(&self, app: AppId, name: &str) -> Result<Option<Job>, StoreError>;
    async fn instance_by_idempotency_key(&self, app: AppId, key: &str) -> Result<Option<InstanceId>, StoreError>;
    /// Tasks of an active instance from `from` on that wait and were never placed nor are bound to a worker, in order of
    /// id: at most `limit`, and no more once they hold `bytes` ([`Task::bytes`]), but one if there is one.
    async fn tasks_waiting(
        &self,
        instance: InstanceId,
        from: TaskId,
        limit: usize,
        bytes: usize,
    ) -> Result<Vec<Task>, StoreError>;

    // --- listings, for the API -------------------------------------------------------------------------------------

    async fn apps(&self) -> Result<Vec<App>, StoreError>;
    async fn app_by_name(&self, name: &str) -> Result<Option<App>, StoreError>;
    async fn app_by_id(&self, id: AppId) -> Result<Option<App>, StoreError>;
    async fn jobs(&self, filter: JobFilter) -> Result<Page<Job>, StoreError>;
    /// Every kept revision of a job with the time it was saved, newest first, at most `limit`.
    async fn job_revisions(
        &self,
        id: JobId,
        limit: usize,
    ) -> Result<Vec<(Revision, Timestamp, Arc<JobSpec>)>, StoreError>;
    /// Newest first, at most `limit`.
    async fn job_gaps(&self, id: JobId, limit: usize) -> Result<Vec<Gap>, StoreError>;
    async fn instances(&self, filter: InstanceFilter) -> Result<Page<Instance>, StoreError>;
    async fn instance(&self, id: InstanceId) -> Result<Option<Instance>, StoreError>;
    /// Tries of one task that were followed by another, oldest first.
    async fn past_attempts(&self, id: InstanceId, task: TaskId) -> Result<Vec<PastAttempt>, StoreError>;
    /// How far an instance with many tasks is; none for a standalone one.
    async fn fanout(&self, id: InstanceId) -> Result<Option<Fanout>, StoreError>;
    /// The same for many, in any order; standalone ones are left out.
    async fn fanouts(&self, ids: Vec<InstanceId>) -> Result<Vec<Fanout>, StoreError>;
    /// In order of id; `more` as of all listings. Inputs and results are left out (`None`): see [`Store::task`].
    async fn tasks(&self, filter: TaskFilter) -> Result<Page<Task>, StoreError>;
    /// One task with all that belongs to it. Of an ended instance, one that had not ended by itself is `stopped` here, in
    /// listings and in counts, for the reason `instance_ended`: it never will.
    async fn task(&self, instance: InstanceId, id: TaskId) -> Result<Option<Task>, StoreError>;
    /// Tasks proper ([`TaskRole::is_counted`](pendula_model::task::TaskRole::is_counted)) from `from` on that ended, with
    /// their results but without their inputs, in order of id: at most `limit`, and no more once they hold `bytes`, but
    /// one if there is one. Of an ended instance too: those that ended by themselves.
    async fn task_results(
        &self,
        instance: InstanceId,
        from: TaskId,
        limit: usize,
        bytes: usize,
    ) -> Result<Vec<Task>, StoreError>;

    // --- access ----------------------------------------------------------------------------------------------------

    async fn token_insert(&self, token: Token) -> Result<(), StoreError>;
    async fn token_by_hash(&self, hash: [u8; 32]) -> Result<Option<Token>, StoreError>;
    async fn tokens(&self) -> Result<Vec<Token>, StoreError>;
    /// Whether there was one to delete.
    async fn token_delete(&self, id: TokenId) -> Result<bool, StoreError>;

    // --- upkeep ----------------------------------------------------------------------------------------------------

    /// Forgets instances (with their tasks and past attempts) whose `prune_at` has come, at most `limit`; also revisions,
    /// gaps and deleted jobs that nothing refers to any more. Returns the instances that went, so that their logs can go
    /// too. However many tasks they have, commits of others never wait for more than a small part of this; meanwhile an
    /// instance that is on its way out has no [`Store::fanout`] any more, and fewer and fewer tasks. When it fails or is
    /// dropped midway, the next call goes on.
    async fn prune(&self, now: Timestamp, limit: usize) -> Result<Vec<(AppId, InstanceId)>, StoreError>;

    /// Checks tables, indexes and seed rows against what this version needs, and reads sizes.
    async fn status(&self) -> Result<StoreStatus, StoreError>;
}
