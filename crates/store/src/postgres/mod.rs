//! The store on PostgreSQL, which several servers share.
//!
//! Follow a commit: [`PostgresStore::commit`](crate::Store::commit) → `commit` (guards, statements) → `groups` (which rows
//! go together) → `flight` (all at once, in one round trip). Reads go each to the file named after what it asks for;
//! `cluster` has servers and leases. How the database is reached and what must be in it is in `connect` and `open`.

mod access;
mod cluster;
mod commit;
mod connect;
mod copy;
mod error;
mod flight;
mod foreign;
mod groups;
mod instances;
mod jobs;
mod load;
mod logs;
mod migrate;
mod open;
mod plan;
#[cfg(test)]
mod plans;
mod prune;
mod read;
mod refusal;
mod seed;
mod tasks;
mod tls;
mod url;
mod values;
mod verify;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use deadpool_postgres::Object;
use pendula_model::app::App;
use pendula_model::change::Gap;
use pendula_model::instance::{Instance, PastAttempt};
use pendula_model::job::{Job, JobSpec};
use pendula_model::snapshot::Snapshot;
use pendula_model::task::{Fanout, Task};
use pendula_model::token::Token;
use pendula_model::{AppId, Epoch, InstanceId, JobId, PartitionId, Revision, TaskId, Timestamp, TokenId};
use tokio::time::Instant;

use self::connect::{Lane, Limits};
pub use self::copy::{CopyProgress, CopyReport, copy};
use self::error::OrStoreError;
pub use self::foreign::{Foreign, ForeignError, ForeignRow, foreign};
pub use self::logs::PostgresLogStore;
pub use self::plan::{MigrationPlan, MigrationState, MigrationStep, migration_apply, migration_plan};
use crate::cluster::Cluster;
use crate::port::{Batch, InstanceFilter, JobFilter, Page, Store, StoreError, StoreStatus, TaskFilter};
use crate::unreadable::{Kind, UnreadableRows};

/// How to open a store.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Partitions of a new store, 1 to [`PartitionId::LIMIT`]; an existing one keeps its own. Default 64.
    pub partitions: u16,
    /// Whether an existing store is brought to this version's schema, as far as servers of earlier versions do not mind.
    /// A new one always is. Default true.
    pub migrate: bool,
    /// Connections for commits, at least 1: so many partitions write at once. The database syncs commits that come at the
    /// same time together, so more than its processors make sense; far more only wait there instead of here. Default 8.
    pub commits: usize,
    /// Connections for what the API and the engine ask, at least 1. Commits never wait for them. Default 8.
    pub reads: usize,
}

impl Default for Options {
    fn default() -> Self {
        Options { partitions: 64, migrate: true, commits: 8, reads: 8 }
    }
}

/// Connections for leases, claims and hand-overs. They are short, but a claim may wait for a commit, and a renewal must
/// never wait for a claim.
const LEASES: usize = 4;

/// Connections for reading whole partitions: a server that takes over many reads so many at a time.
const LOADS: usize = 4;

/// A partition may have a million instances under way, and more tasks.
const LOAD: Duration = Duration::from_secs(300);

/// Connections for what may take long and nobody waits for: pruning, and the check of the schema.
const UPKEEP: usize = 2;

/// An answer takes no longer: the database gives up earlier by itself.
const ANSWER: Duration = Duration::from_secs(15);

/// A commit may be large: one that repeats a million tasks takes some ten seconds.
const COMMIT: Duration = Duration::from_secs(60);

/// How old a size may be that is told; to ask for it makes the database look at each of its files.
const SIZE_AGE: Duration = Duration::from_secs(60);

/// See the [module](self). Servers share it; what each owns is theirs by [`Cluster`].
pub struct PostgresStore {
    partitions: u16,
    unreadable: UnreadableRows,
    /// The size of the database, and when it was looked at.
    size: Mutex<Option<(Instant, u64)>>,
    commits: Lane,
    reads: Lane,
    leases: Lane,
    loads: Lane,
    upkeep: Lane,
}

impl PostgresStore {
    /// Opens the store behind a URL (`postgres://user:password@host1,host2/database?sslmode=verify-full`). An empty database
    /// gets its tables.
    ///
    /// # Errors
    ///
    /// [`StoreError::Refused`] with what to do about it: the URL is wrong, nobody lets us in, the schema is too new.
    /// [`StoreError::Corrupt`]: a table, index or seed row is missing or altered. [`StoreError::Unavailable`]: no host of
    /// the URL is a primary that answers.
    pub async fn open(url: &str, options: Options) -> Result<PostgresStore, StoreError> {
        let partitions = options.partitions.clamp(1, PartitionId::LIMIT);
        let open::Opened { database, partitions } = open::open(url, partitions, options.migrate).await?;
        let limits = Limits::default();
        Ok(PostgresStore {
            partitions,
            unreadable: UnreadableRows::default(),
            size: Mutex::new(None),
            commits: database.lane(options.commits.max(1), Limits { statement: COMMIT, ..limits }),
            reads: database.lane(options.reads.max(1), limits),
            leases: database.lane(LEASES, limits),
            loads: database.lane(LOADS, Limits { statement: LOAD, ..limits }),
            upkeep: database.lane(UPKEEP, limits),
        })
    }

    async fn ask<T>(&self, question: impl AsyncFnOnce(&mut Object) -> Result<T, StoreError>) -> Result<T, StoreError> {
        read::within(&self.reads, ANSWER, question).await
    }
}

#[async_trait]
impl Store for PostgresStore {
    fn partitions(&self) -> u16 {
        self.partitions
    }

    fn cluster(&self) -> Option<&dyn Cluster> {
        Some(self)
    }

    async fn partition_claim(&self, partition: PartitionId, _: &str, _: Timestamp) -> Result<Epoch, StoreError> {
        self.take(partition).await
    }

    async fn partition_load(&self, partition: PartitionId) -> Result<Snapshot, StoreError> {
        let load = async |client: &mut Object| load::load(client, partition, &self.unreadable).await;
        read::within(&self.loads, LOAD, load).await
    }

    async fn commit(&self, batch: Batch) -> Result<(), StoreError> {
        commit::commit(&self.commits, &batch).await
    }

    async fn jobs_due(
        &self,
        partition: PartitionId,
        until: Timestamp,
        after: Option<(Timestamp, JobId)>,
        limit: usize,
    ) -> Result<Vec<Job>, StoreError> {
        self.ask(async |client| jobs::due(client, &self.unreadable, partition, until, after, limit).await).await
    }

    async fn job_by_id(&self, id: JobId) -> Result<Option<Job>, StoreError> {
        self.ask(async |client| jobs::by_id(client, &self.unreadable, id).await).await
    }

    async fn job_by_name(&self, app: AppId, name: &str) -> Result<Option<Job>, StoreError> {
        self.ask(async |client| jobs::by_name(client, &self.unreadable, app, name).await).await
    }

    async fn instance_by_idempotency_key(&self, app: AppId, key: &str) -> Result<Option<InstanceId>, StoreError> {
        self.ask(async |client| instances::by_idempotency_key(client, &self.unreadable, app, key).await).await
    }

    async fn tasks_waiting(
        &self,
        instance: InstanceId,
        from: TaskId,
        limit: usize,
        bytes: usize,
    ) -> Result<Vec<Task>, StoreError> {
        self.ask(async |client| tasks::waiting(client, &self.unreadable, instance, from, limit, bytes).await).await
    }

    async fn apps(&self) -> Result<Vec<App>, StoreError> {
        self.ask(async |client| access::apps(client, &self.unreadable).await).await
    }

    async fn app_by_name(&self, name: &str) -> Result<Option<App>, StoreError> {
        self.ask(async |client| access::app_by_name(client, &self.unreadable, name).await).await
    }

    async fn app_by_id(&self, id: AppId) -> Result<Option<App>, StoreError> {
        self.ask(async |client| access::app_by_id(client, &self.unreadable, id).await).await
    }

    async fn jobs(&self, filter: JobFilter) -> Result<Page<Job>, StoreError> {
        self.ask(async |client| jobs::list(client, &self.unreadable, &filter).await).await
    }

    async fn job_revisions(
        &self,
        id: JobId,
        limit: usize,
    ) -> Result<Vec<(Revision, Timestamp, Arc<JobSpec>)>, StoreError> {
        self.ask(async |client| jobs::revisions(client, &self.unreadable, id, limit).await).await
    }

    async fn job_gaps(&self, id: JobId, limit: usize) -> Result<Vec<Gap>, StoreError> {
        self.ask(async |client| jobs::gaps(client, &self.unreadable, id, limit).await).await
    }

    async fn instances(&self, filter: InstanceFilter) -> Result<Page<Instance>, StoreError> {
        self.ask(async |client| instances::list(client, &self.unreadable, &filter).await).await
    }

    async fn instance(&self, id: InstanceId) -> Result<Option<Instance>, StoreError> {
        self.ask(async |client| instances::by_id(client, &self.unreadable, id).await).await
    }

    async fn past_attempts(&self, id: InstanceId, task: TaskId) -> Result<Vec<PastAttempt>, StoreError> {
        self.ask(async |client| instances::past_attempts(client, &self.unreadable, id, task).await).await
    }

    async fn fanout(&self, id: InstanceId) -> Result<Option<Fanout>, StoreError> {
        self.ask(async |client| tasks::fanout(client, &self.unreadable, id).await).await
    }

    async fn fanouts(&self, ids: Vec<InstanceId>) -> Result<Vec<Fanout>, StoreError> {
        self.ask(async |client| tasks::fanouts(client, &self.unreadable, &ids).await).await
    }

    async fn tasks(&self, filter: TaskFilter) -> Result<Page<Task>, StoreError> {
        self.ask(async |client| tasks::list(client, &self.unreadable, &filter).await).await
    }

    async fn task(&self, instance: InstanceId, id: TaskId) -> Result<Option<Task>, StoreError> {
        self.ask(async |client| tasks::by_id(client, &self.unreadable, instance, id).await).await
    }

    async fn task_results(
        &self,
        instance: InstanceId,
        from: TaskId,
        limit: usize,
        bytes: usize,
    ) -> Result<Vec<Task>, StoreError> {
        self.ask(async |client| tasks::results(client, &self.unreadable, instance, from, limit, bytes).await).await
    }

    async fn token_insert(&self, token: Token) -> Result<(), StoreError> {
        access::insert_token(&self.commits.get().await?, &token).await
    }

    async fn token_by_hash(&self, hash: [u8; 32]) -> Result<Option<Token>, StoreError> {
        self.ask(async |client| access::token_by_hash(client, &self.unreadable, hash).await).await
    }

    async fn tokens(&self) -> Result<Vec<Token>, StoreError> {
        self.ask(async |client| access::tokens(client, &self.unreadable).await).await
    }

    async fn token_delete(&self, id: TokenId) -> Result<bool, StoreError> {
        access::delete_token(&self.commits.get().await?, id).await
    }

    async fn prune(&self, now: Timestamp, limit: usize) -> Result<Vec<(AppId, InstanceId)>, StoreError> {
        prune::prune(&mut self.upkeep.get().await?, now, limit).await
    }

    async fn status(&self) -> Result<StoreStatus, StoreError> {
        let client = self.upkeep.get().await?;
        let applied = migrate::look(&client).await?;
        let schema = open::known_schema(applied.applied())?;
        let mut faults = verify::settings(&client).await?.faults;
        faults.extend(verify::faults(&client, schema).await?);
        if faults.is_empty() {
            self.forget_repaired(&client).await;
        }
        let bytes = self.bytes(&client).await?;
        Ok(StoreStatus { bytes, schema, faults, unreadable: self.unreadable.lines() })
    }
}

impl PostgresStore {
    /// What was repaired meanwhile is forgotten; what was not is noted again.
    async fn forget_repaired(&self, client: &Object) {
        for row in self.unreadable.rows() {
            let is_readable = match row.kind {
                Kind::Job => jobs::by_id(client, &self.unreadable, JobId(row.id)).await.is_ok(),
                Kind::Instance => instances::by_id(client, &self.unreadable, InstanceId(row.id)).await.is_ok(),
                Kind::Fanout => tasks::fanout(client, &self.unreadable, InstanceId(row.id)).await.is_ok(),
                Kind::Task => match u64::try_from(row.part).map(TaskId) {
                    Ok(part) => tasks::by_id(client, &self.unreadable, InstanceId(row.id), part).await.is_ok(),
                    Err(_) => false,
                },
                _ => false,
            };
            if is_readable {
                self.unreadable.forget(row);
            }
        }
    }

    async fn bytes(&self, client: &Object) -> Result<u64, StoreError> {
        let known = *self.size.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, bytes)) = known
            && at.elapsed() < SIZE_AGE
        {
            return Ok(bytes);
        }
        let size = client.query_one("SELECT pg_database_size(current_database())", &[]).await;
        let bytes: i64 = size.and_then(|row| row.try_get(0)).or_store_error()?;
        let bytes = u64::try_from(bytes).unwrap_or(0);
        *self.size.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), bytes));
        Ok(bytes)
    }
}
