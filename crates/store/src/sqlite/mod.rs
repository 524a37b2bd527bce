//! The store of one machine: an SQLite file in a data directory.
//!
//! Follow a commit: [`SqliteStore::commit`](crate::Store::commit) → `writer` (groups callers into one transaction) →
//! `commit` (one statement per change). Reads go to `readers`, each question to the file named after what it asks for.

mod access;
mod checkpoint;
mod commit;
pub(crate) mod error;
mod instances;
mod jobs;
mod load;
pub(crate) mod lock;
pub(crate) mod open;
#[cfg(test)]
mod plans;
mod prune;
mod read;
pub(crate) mod readers;
pub(crate) mod schema;
mod tasks;
#[cfg(test)]
mod upgrade;
pub(crate) mod writer;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use pendula_model::app::App;
use pendula_model::change::Gap;
use pendula_model::instance::{Instance, PastAttempt};
use pendula_model::job::{Job, JobSpec};
use pendula_model::snapshot::Snapshot;
use pendula_model::task::{Fanout, Task};
use pendula_model::token::Token;
use pendula_model::{AppId, Epoch, InstanceId, JobId, PartitionId, Revision, TaskId, Timestamp, TokenId};
use rusqlite::{Connection, params};

use self::error::OrStoreError;
pub(crate) use self::load::last_id;
use self::lock::DirectoryLock;
use self::open::STATE;
pub use self::open::Synchronous;
pub(crate) use self::open::{Tuning, open_reader, open_writer};
use self::readers::Readers;
use self::writer::Writer;
pub use self::writer::{CommitObserved, CommitObserver};
use crate::port::{Batch, InstanceFilter, JobFilter, Page, Store, StoreError, StoreStatus, TaskFilter};
use crate::unreadable::{Kind, UnreadableRows};

/// How to open a store.
#[derive(Clone)]
pub struct Options {
    /// Partitions of a new store, 1 to [`PartitionId::LIMIT`]; an existing one keeps its own. Default 64.
    pub partitions: u16,
    pub synchronous: Synchronous,
    /// Connections (and threads) for reading, at least 1. Default 3.
    pub readers: usize,
    /// KiB of pages that the writing connection keeps in memory at most. Default 64 MiB.
    pub writer_cache_kib: u32,
    /// The same for each reading connection. Default 8 MiB.
    pub reader_cache_kib: u32,
    /// Told about each commit, for metrics.
    pub observer: Option<CommitObserver>,
    /// The time that a new store says it was made.
    pub now: Timestamp,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            partitions: 64,
            synchronous: Synchronous::Full,
            readers: 3,
            writer_cache_kib: 64 << 10,
            reader_cache_kib: 8 << 10,
            observer: None,
            now: Timestamp::from_micros(0),
        }
    }
}

/// See the [module](self). Dropping it finishes what is queued and releases the directory.
pub struct SqliteStore {
    partitions: u16,
    file: PathBuf,
    unreadable: UnreadableRows,
    // In this order: threads end before the directory is released.
    writer: Writer,
    readers: Readers,
    _lock: DirectoryLock,
}

impl SqliteStore {
    /// Opens the store in `directory`, which is made if there is none, and brings it to this version's schema.
    ///
    /// Blocks on the disk; call it before there is anything to hold up.
    ///
    /// # Errors
    ///
    /// [`StoreError::Refused`] with what to do about it: another process has the directory, it cannot be written to,
    /// the file is of a newer version or no database of ours. [`StoreError::Corrupt`]: a table, index or seed row is
    /// missing, or a page is damaged.
    pub fn open(directory: impl AsRef<Path>, options: Options) -> Result<SqliteStore, StoreError> {
        let lock = DirectoryLock::acquire(directory.as_ref())?;
        let file = directory.as_ref().join(STATE.file);
        let partitions = options.partitions.clamp(1, PartitionId::LIMIT);
        let synchronous = options.synchronous;
        let mut db = open_writer(&file, Tuning { synchronous, cache_kib: options.writer_cache_kib })?;
        open::refuse_to_begin_anew(&db, directory.as_ref())?;
        STATE.migrate(&mut db, options.now, |db| open::seed(db, partitions, options.now))?;
        let faults = open::faults(&db)?;
        if !faults.is_empty() {
            let why = format!("{}; refusing to run unguarded: restore a backup", faults.join("; "));
            return Err(StoreError::Corrupt { why });
        }
        let partitions = open::stored_partitions(&db)?;
        let tuning = Tuning { synchronous, cache_kib: options.reader_cache_kib };
        let beside = open_writer(&file, tuning)?;
        let readers = (0..options.readers.max(1)).map(|_| open_reader(&file, tuning)).collect::<Result<Vec<_>, _>>()?;
        Ok(SqliteStore {
            partitions,
            file,
            unreadable: UnreadableRows::default(),
            writer: Writer::spawn("store-writer", db, beside, options.observer)?,
            readers: Readers::spawn("store-reader", readers)?,
            _lock: lock,
        })
    }

    /// Reads every page and every row's constraints: minutes for a large store, while others are served. Returns what
    /// is damaged.
    pub async fn check_integrity(&self) -> Result<Vec<String>, StoreError> {
        let check = |db: &mut Connection| {
            let mut statement = db.prepare("PRAGMA integrity_check").or_store_error()?;
            let mut rows = statement.query([]).or_store_error()?;
            let mut lines = Vec::new();
            loop {
                match rows.next().and_then(|row| row.map(|row| row.get::<_, String>(0)).transpose()).or_store_error() {
                    Ok(Some(line)) if line == "ok" => {}
                    Ok(Some(line)) => lines.push(line),
                    Ok(None) => return Ok(lines),
                    // Some damages end the check itself.
                    Err(StoreError::Corrupt { why }) => {
                        lines.push(why);
                        return Ok(lines);
                    }
                    Err(error) => return Err(error),
                }
            }
        };
        self.readers.ask(check).await
    }

    /// From now on refuses to let the database file grow beyond that many bytes, as if the disk were full; `None` takes
    /// the limit away. Not remembered when the store is opened again.
    pub async fn limit_size(&self, bytes: Option<u64>) -> Result<(), StoreError> {
        // The largest number of pages that the format has.
        let pages = bytes.map_or(0xFFFF_FFFE, |bytes| (bytes / 4096).clamp(1, 0xFFFF_FFFE));
        let limit = move |db: &Connection| {
            db.pragma_update_and_check(None, "max_page_count", pages.cast_signed(), |_| Ok(())).or_store_error()
        };
        self.writer.run(1, limit).await
    }

    async fn ask<T, F>(&self, question: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&mut Connection, &UnreadableRows) -> Result<T, StoreError> + Send + 'static,
    {
        let unreadable = self.unreadable.clone();
        self.readers.ask(move |db| question(db, &unreadable)).await
    }
}

#[async_trait]
impl Store for SqliteStore {
    fn partitions(&self) -> u16 {
        self.partitions
    }

    async fn partition_claim(&self, partition: PartitionId, owner: &str, now: Timestamp) -> Result<Epoch, StoreError> {
        let owner = owner.to_owned();
        let claim = move |db: &Connection| {
            let sql =
                "UPDATE partition SET owner = ?2, claimed_at = ?3, epoch = epoch + 1 WHERE id = ?1 RETURNING epoch";
            let mut statement = db.prepare_cached(sql).or_store_error()?;
            let mut rows = statement.query(params![partition.0, owner, now.as_micros()]).or_store_error()?;
            let Some(row) = rows.next().or_store_error()? else {
                return Err(StoreError::Corrupt { why: format!("there is no row for partition {partition}") });
            };
            let epoch = Epoch(row.get(0).or_store_error()?);
            // The statement is done only when it says that there is no further row.
            rows.next().or_store_error()?;
            Ok(epoch)
        };
        self.writer.run(1, claim).await
    }

    async fn partition_load(&self, partition: PartitionId) -> Result<Snapshot, StoreError> {
        self.ask(move |db, unreadable| load::load(db, partition, unreadable)).await
    }

    async fn commit(&self, batch: Batch) -> Result<(), StoreError> {
        self.writer.run(commit::weight(&batch), move |db| commit::apply(db, &batch)).await
    }

    async fn jobs_due(
        &self,
        partition: PartitionId,
        until: Timestamp,
        after: Option<(Timestamp, JobId)>,
        limit: usize,
    ) -> Result<Vec<Job>, StoreError> {
        self.ask(move |db, unreadable| jobs::due(db, unreadable, partition, until, after, limit)).await
    }

    async fn job_by_id(&self, id: JobId) -> Result<Option<Job>, StoreError> {
        self.ask(move |db, unreadable| jobs::by_id(db, unreadable, id)).await
    }

    async fn job_by_name(&self, app: AppId, name: &str) -> Result<Option<Job>, StoreError> {
        let name = name.to_owned();
        self.ask(move |db, unreadable| jobs::by_name(db, unreadable, app, &name)).await
    }

    async fn instance_by_idempotency_key(&self, app: AppId, key: &str) -> Result<Option<InstanceId>, StoreError> {
        let key = key.to_owned();
        self.ask(move |db, unreadable| instances::by_idempotency_key(db, unreadable, app, &key)).await
    }

    async fn tasks_waiting(
        &self,
        instance: InstanceId,
        from: TaskId,
        limit: usize,
        bytes: usize,
    ) -> Result<Vec<Task>, StoreError> {
        self.ask(move |db, unreadable| tasks::waiting(db, unreadable, instance, from, limit, bytes)).await
    }

    async fn apps(&self) -> Result<Vec<App>, StoreError> {
        self.ask(|db, unreadable| access::apps(db, unreadable)).await
    }

    async fn app_by_name(&self, name: &str) -> Result<Option<App>, StoreError> {
        let name = name.to_owned();
        self.ask(move |db, unreadable| access::app_by_name(db, unreadable, &name)).await
    }

    async fn app_by_id(&self, id: AppId) -> Result<Option<App>, StoreError> {
        self.ask(move |db, unreadable| access::app_by_id(db, unreadable, id)).await
    }

    async fn jobs(&self, filter: JobFilter) -> Result<Page<Job>, StoreError> {
        self.ask(move |db, unreadable| jobs::list(db, unreadable, &filter)).await
    }

    async fn job_revisions(
        &self,
        id: JobId,
        limit: usize,
    ) -> Result<Vec<(Revision, Timestamp, Arc<JobSpec>)>, StoreError> {
        self.ask(move |db, unreadable| jobs::revisions(db, unreadable, id, limit)).await
    }

    async fn job_gaps(&self, id: JobId, limit: usize) -> Result<Vec<Gap>, StoreError> {
        self.ask(move |db, unreadable| jobs::gaps(db, unreadable, id, limit)).await
    }

    async fn instances(&self, filter: InstanceFilter) -> Result<Page<Instance>, StoreError> {
        let partitions = self.partitions;
        self.ask(move |db, unreadable| instances::list(db, unreadable, &filter, partitions)).await
    }

    async fn instance(&self, id: InstanceId) -> Result<Option<Instance>, StoreError> {
        self.ask(move |db, unreadable| instances::by_id(db, unreadable, id)).await
    }

    async fn past_attempts(&self, id: InstanceId, task: TaskId) -> Result<Vec<PastAttempt>, StoreError> {
        self.ask(move |db, unreadable| instances::past_attempts(db, unreadable, id, task)).await
    }

    async fn fanout(&self, id: InstanceId) -> Result<Option<Fanout>, StoreError> {
        self.ask(move |db, unreadable| tasks::fanout(db, unreadable, id)).await
    }

    async fn fanouts(&self, ids: Vec<InstanceId>) -> Result<Vec<Fanout>, StoreError> {
        self.ask(move |db, unreadable| tasks::fanouts(db, unreadable, &ids)).await
    }

    async fn tasks(&self, filter: TaskFilter) -> Result<Page<Task>, StoreError> {
        self.ask(move |db, unreadable| tasks::list(db, unreadable, &filter)).await
    }

    async fn task(&self, instance: InstanceId, id: TaskId) -> Result<Option<Task>, StoreError> {
        self.ask(move |db, unreadable| tasks::by_id(db, unreadable, instance, id)).await
    }

    async fn task_results(
        &self,
        instance: InstanceId,
        from: TaskId,
        limit: usize,
        bytes: usize,
    ) -> Result<Vec<Task>, StoreError> {
        self.ask(move |db, unreadable| tasks::results(db, unreadable, instance, from, limit, bytes)).await
    }

    async fn token_insert(&self, token: Token) -> Result<(), StoreError> {
        self.writer.run(1, move |db| access::insert_token(db, &token)).await
    }

    async fn token_by_hash(&self, hash: [u8; 32]) -> Result<Option<Token>, StoreError> {
        self.ask(move |db, unreadable| access::token_by_hash(db, unreadable, hash)).await
    }

    async fn tokens(&self) -> Result<Vec<Token>, StoreError> {
        self.ask(|db, unreadable| access::tokens(db, unreadable)).await
    }

    async fn token_delete(&self, id: TokenId) -> Result<bool, StoreError> {
        self.writer.run(1, move |db| access::delete_token(db, id)).await
    }

    async fn prune(&self, now: Timestamp, limit: usize) -> Result<Vec<(AppId, InstanceId)>, StoreError> {
        // Each step is a transaction of its own, so that others' commits come in between, however much there is to delete.
        loop {
            let step = move |db: &Connection| prune::step(db, now, limit);
            if let Some(gone) = self.writer.run(prune::ROWS, step).await? {
                return Ok(gone);
            }
        }
    }

    async fn status(&self) -> Result<StoreStatus, StoreError> {
        let file = self.file.clone();
        self.ask(move |db, unreadable| status(db, unreadable, &file)).await
    }
}

fn status(db: &mut Connection, unreadable: &UnreadableRows, file: &Path) -> Result<StoreStatus, StoreError> {
    let faults = open::faults(db)?;
    if faults.is_empty() {
        // What was repaired meanwhile is forgotten; what was not is noted again.
        unreadable.forget_repaired(|kind, id, part| match kind {
            Kind::Job => jobs::by_id(db, unreadable, JobId(id)).is_ok(),
            Kind::Instance => instances::by_id(db, unreadable, InstanceId(id)).is_ok(),
            Kind::Fanout => tasks::fanout(db, unreadable, InstanceId(id)).is_ok(),
            Kind::Task => {
                let part = u64::try_from(part).map(TaskId);
                part.is_ok_and(|part| tasks::by_id(db, unreadable, InstanceId(id), part).is_ok())
            }
            _ => false,
        });
    }
    let size = |suffix: &str| {
        let mut name = file.as_os_str().to_owned();
        name.push(suffix);
        std::fs::metadata(name).map_or(0, |metadata| metadata.len())
    };
    Ok(StoreStatus {
        bytes: size("") + size("-wal"),
        schema: schema::stored_version(db)?,
        faults,
        unreadable: unreadable.lines(),
    })
}
