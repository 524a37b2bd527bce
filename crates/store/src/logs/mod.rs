//! What tasks print, per attempt, in a file of its own beside the state (`logs.db`).
//!
//! Offsets count every byte that the task wrote. What was lost on the way leaves a hole, which readers are told of;
//! what comes twice is stored once. Appending is in `append`, reading in `read`.
//!
//! Commits are not synced one by one ([`Synchronous::Normal`]): they survive a crash of the process, also by `kill -9`,
//! but a power cut may take the last seconds of logs that workers have forgotten already. It shows as a hole, or as a
//! log without end. The alternative would let chatter compete with the state for every flush of the disk; whoever
//! prefers it sets [`LogOptions::synchronous`].

mod append;
pub(crate) mod assembly;
pub(crate) mod chunk;
pub(crate) mod growth;
mod read;

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use pendula_model::{AppId, InstanceId, Timestamp};
use rusqlite::Connection;

use crate::port::StoreError;
pub use crate::postgres::PostgresLogStore;
use crate::sqlite::error::OrStoreError;
use crate::sqlite::readers::Readers;
use crate::sqlite::schema::{Migration, Schema};
use crate::sqlite::writer::Writer;
use crate::sqlite::{CommitObserver, Synchronous, Tuning, open_reader, open_writer};

/// The file's name in the data directory.
pub(crate) const FILE: &str = "logs.db";

pub(crate) const LOGS: Schema = Schema {
    file: FILE,
    application_id: 0x504e_4c47, // "PNLG"
    migrations: &[Migration { number: 1, name: "initial", sql: include_str!("migrations/0001_initial.sql") }],
};

/// Instances whose logs are deleted in one commit, so that appends do not wait long.
const DELETED_AT_ONCE: usize = 100;

/// How to open a log store.
#[derive(Clone)]
pub struct LogOptions {
    /// Bytes that one task of an attempt may take on disk, compressed. What comes after is dropped, and readers are
    /// told. Default 64 MiB.
    pub stored_bytes: u64,
    /// Default [`Synchronous::Normal`]; see the [module](self).
    pub synchronous: Synchronous,
    /// Connections (and threads) for reading, at least 1. Default 2.
    pub readers: usize,
    /// Told about each commit, for metrics.
    pub observer: Option<CommitObserver>,
}

impl Default for LogOptions {
    fn default() -> Self {
        LogOptions { stored_bytes: 64 << 20, synchronous: Synchronous::Normal, readers: 2, observer: None }
    }
}

/// Whose log it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogKey {
    /// A reader that names another app sees an empty log.
    pub app: AppId,
    pub instance: InstanceId,
    pub attempt: u32,
    /// Number of the task within the instance; 0 for the only one.
    pub task: u32,
}

/// A piece of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogAppend {
    pub key: LogKey,
    /// Of the first byte of `data`. Beyond what is stored, the bytes between are lost for ever.
    pub offset: u64,
    pub data: Vec<u8>,
    /// Nothing follows.
    pub end: bool,
}

/// What became of a piece.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Appended {
    /// Bytes before the new ones that are lost from now on: offset and count.
    pub gap: Option<(u64, u64)>,
    /// Where the bytes that were new begin; equal to `next_offset` when none was.
    pub new_from: u64,
    /// Everything before it is on disk (or known as lost, or dropped): what to acknowledge.
    pub next_offset: u64,
    /// Whether new bytes were dropped, because the attempt logged too much.
    pub dropped: bool,
}

/// Some of a log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogPart {
    /// The bytes from the offset asked for up to `next_offset`, those in `gaps` left out.
    pub data: Vec<u8>,
    /// Where to read on.
    pub next_offset: u64,
    /// Lost or dropped bytes within: offset and count, in order.
    pub gaps: Vec<(u64, u64)>,
    /// Whether nothing follows after `next_offset`, now or later.
    pub end: bool,
    /// Bytes that the log has so far, gaps included.
    pub total: u64,
    /// From here on everything was dropped, because the attempt logged too much.
    pub cut_at: Option<u64>,
}

/// Where logs are kept.
#[async_trait]
pub trait LogStore: Send + Sync + 'static {
    /// Stores pieces, of any logs, in this order. When it returns they may be acknowledged; one answer for each.
    async fn append(&self, pieces: Vec<LogAppend>) -> Result<Vec<Appended>, StoreError>;

    /// About `max_bytes` bytes from `from` on: no less as long as there are as many, no more than one chunk beyond.
    /// Costs memory in proportion to `max_bytes`, whatever the size of the log. A log that nobody wrote is empty.
    async fn read(&self, key: LogKey, from: u64, max_bytes: usize) -> Result<LogPart, StoreError>;

    /// The last `bytes` bytes.
    async fn tail(&self, key: LogKey, bytes: usize) -> Result<LogPart, StoreError>;

    /// Forgets all logs of the instances.
    async fn delete(&self, instances: Vec<(AppId, InstanceId)>) -> Result<(), StoreError>;

    /// Bytes on disk, as far as that is known without asking anybody.
    fn bytes(&self) -> u64;

    /// What is missing or altered in tables and indexes; empty when all is as this version needs it.
    async fn faults(&self) -> Result<Vec<String>, StoreError>;
}

/// Logs in a file beside the state; see the [module](self).
pub struct SqliteLogStore {
    file: PathBuf,
    stored_bytes: u64,
    writer: Writer,
    readers: Readers,
}

impl SqliteLogStore {
    /// Opens the logs in `directory` with defaults. The caller holds the directory, by having opened the
    /// [`SqliteStore`](crate::SqliteStore) there. Blocks on the disk.
    ///
    /// # Errors
    ///
    /// As of [`SqliteStore::open`](crate::SqliteStore::open).
    pub fn open(directory: impl AsRef<Path>) -> Result<SqliteLogStore, StoreError> {
        SqliteLogStore::open_with(directory, LogOptions::default())
    }

    /// [`SqliteLogStore::open`] with other options.
    pub fn open_with(directory: impl AsRef<Path>, options: LogOptions) -> Result<SqliteLogStore, StoreError> {
        let file = directory.as_ref().join(LOGS.file);
        let tuning = Tuning { synchronous: options.synchronous, cache_kib: 8 << 10 };
        let mut db = open_writer(&file, tuning)?;
        LOGS.migrate(&mut db, Timestamp::from_micros(0), |_| Ok(()))?;
        let faults = LOGS.faults(&db)?;
        if !faults.is_empty() {
            let why = format!("{}; restore a backup, or move the file away to begin without logs", faults.join("; "));
            return Err(StoreError::Corrupt { why });
        }
        let readers = (0..options.readers.max(1)).map(|_| open_reader(&file, tuning)).collect::<Result<Vec<_>, _>>()?;
        Ok(SqliteLogStore {
            stored_bytes: options.stored_bytes,
            writer: Writer::spawn("log-writer", db, open_writer(&file, tuning)?, options.observer)?,
            readers: Readers::spawn("log-reader", readers)?,
            file,
        })
    }
}

#[async_trait]
impl LogStore for SqliteLogStore {
    async fn append(&self, pieces: Vec<LogAppend>) -> Result<Vec<Appended>, StoreError> {
        // A group of 4,000 is closed after about 4 MiB.
        let weight = pieces.iter().map(|piece| piece.data.len() / 1024 + 1).sum();
        let limit = self.stored_bytes;
        self.writer.run(weight, move |db| append::append(db, &pieces, limit)).await
    }

    async fn read(&self, key: LogKey, from: u64, max_bytes: usize) -> Result<LogPart, StoreError> {
        self.readers.ask(move |db| read::read(db, key, read::Window::From(from), max_bytes)).await
    }

    async fn tail(&self, key: LogKey, bytes: usize) -> Result<LogPart, StoreError> {
        self.readers.ask(move |db| read::read(db, key, read::Window::Last(bytes as u64), bytes)).await
    }

    async fn delete(&self, instances: Vec<(AppId, InstanceId)>) -> Result<(), StoreError> {
        for some in instances.chunks(DELETED_AT_ONCE) {
            let some = some.to_vec();
            self.writer.run(some.len(), move |db| delete(db, &some)).await?;
        }
        Ok(())
    }

    fn bytes(&self) -> u64 {
        let size = |suffix: &str| {
            let mut name = self.file.as_os_str().to_owned();
            name.push(suffix);
            std::fs::metadata(name).map_or(0, |metadata| metadata.len())
        };
        size("") + size("-wal")
    }

    async fn faults(&self) -> Result<Vec<String>, StoreError> {
        self.readers.ask(|db| LOGS.faults(db)).await
    }
}

fn delete(db: &Connection, instances: &[(AppId, InstanceId)]) -> Result<(), StoreError> {
    let sql = "DELETE FROM stream WHERE instance_id = ?1";
    let mut statement = db.prepare_cached(sql).or_store_error()?;
    for (_, instance) in instances {
        // Its chunks go with it.
        statement.execute([instance.0]).or_store_error()?;
    }
    Ok(())
}
