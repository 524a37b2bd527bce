//! Logs in the same database as the state, in tables of their own.
//!
//! One task appends: what was queued while it wrote goes into one transaction, so that much chatter costs few. It takes no
//! locks while it reads; each log's row counts its versions, and an append that was decided on an older one is decided
//! anew.
//!
//! As in a file of one machine, commits are not synced one by one ([`Synchronous::Normal`]): they survive a crash of our
//! process, but when the database crashes, its last moments of logs, which workers have forgotten already, are gone with
//! it. It shows as a hole, or as a log without end.

mod append;
mod read;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use deadpool_postgres::Object;
use pendula_model::{AppId, InstanceId};
use tokio::sync::{mpsc, oneshot};

use super::connect::{Database, Lane, Limits};
use super::error::{OrStoreError, is_standby, store_error};
use super::flight::{Failure, Step, fly};
use super::migrate::{self, Contents};
use super::values::Value;
use super::{open, verify};
use crate::logs::{Appended, LogAppend, LogKey, LogOptions, LogPart, LogStore};
use crate::port::StoreError;
use crate::sqlite::{CommitObserved, Synchronous};

/// Pieces, each of a KiB, after which a group is closed: about 4 MiB.
const GROUP_WEIGHT: usize = 4_000;

/// Calls that may wait for the group before theirs; more wait before they are queued.
const QUEUE: usize = 1_000;

/// Longer a group does not take, unless the database stands still: then its connection is given up.
const PATIENCE: Duration = Duration::from_secs(12);

/// Instances whose logs are deleted in one commit, so that appends do not wait long.
const DELETED_AT_ONCE: usize = 100;

/// How old the size may be that is told. To ask for it makes the database look at files.
const SIZE_AGE: Duration = Duration::from_secs(60);

/// Logs of a [`PostgresStore`](super::PostgresStore); see the [module](self).
pub struct PostgresLogStore {
    queue: mpsc::Sender<Write>,
    reads: Lane,
    size: Arc<AtomicU64>,
}

/// A call of [`LogStore::append`], in the queue.
struct Write {
    pieces: Vec<LogAppend>,
    reply: oneshot::Sender<Result<Vec<Appended>, StoreError>>,
}

impl PostgresLogStore {
    /// Opens the logs in the database behind the URL, which a [`PostgresStore`](super::PostgresStore) was opened on before:
    /// that made their tables.
    ///
    /// # Errors
    ///
    /// As of [`PostgresStore::open`](super::PostgresStore::open).
    pub async fn open(url: &str, options: LogOptions) -> Result<PostgresLogStore, StoreError> {
        let database = Database::new(url)?;
        let session = database.session(Limits::UPKEEP).await?;
        let contents = migrate::look(&session).await?;
        if contents == Contents::Nothing {
            return Err(StoreError::Refused(format!("the database {database} is empty: open its state first")));
        }
        let faults = verify::log_faults(&session, open::known_schema(contents.applied())?).await?;
        if !faults.is_empty() {
            return Err(StoreError::Corrupt { why: format!("{}; restore a backup", faults.join("; ")) });
        }
        let size = Arc::new(AtomicU64::new(size(&session).await?));
        let (queue, inbox) = mpsc::channel(QUEUE);
        let reads = database.lane(options.readers.max(1), Limits::default());
        let writer = Writer { lane: database.lane(1, Limits::default()), options, size: Arc::clone(&size) };
        tokio::spawn(writer.run(inbox));
        Ok(PostgresLogStore { queue, reads, size })
    }
}

#[async_trait]
impl LogStore for PostgresLogStore {
    async fn append(&self, pieces: Vec<LogAppend>) -> Result<Vec<Appended>, StoreError> {
        let stopped = || StoreError::Unavailable { why: "the writer of logs has stopped".to_owned() };
        let (reply, answer) = oneshot::channel();
        self.queue.send(Write { pieces, reply }).await.map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }

    async fn read(&self, key: LogKey, from: u64, max_bytes: usize) -> Result<LogPart, StoreError> {
        read::read(&self.reads.get().await?, key, from, max_bytes).await
    }

    async fn tail(&self, key: LogKey, bytes: usize) -> Result<LogPart, StoreError> {
        let client = self.reads.get().await?;
        let from = read::total(&client, key).await?.unwrap_or(0).saturating_sub(bytes as u64);
        read::read(&client, key, from, bytes).await
    }

    async fn delete(&self, instances: Vec<(AppId, InstanceId)>) -> Result<(), StoreError> {
        for some in instances.chunks(DELETED_AT_ONCE) {
            let ids: Vec<_> = some.iter().map(|(_, instance)| Some(instance.0)).collect();
            // An append under way holds its row: it is waited for, and what it added goes too. One that comes later finds
            // no row, and is decided anew.
            let steps = [
                Step {
                    sql: "DELETE FROM log_stream WHERE instance_id = ANY ($1)",
                    values: vec![Value::Ints(ids.clone())],
                },
                Step { sql: "DELETE FROM log_chunk WHERE instance_id = ANY ($1)", values: vec![Value::Ints(ids)] },
            ];
            let client = self.reads.get().await?;
            fly(&client, &steps).await?.map_err(|Failure { error, .. }| store_error(&error))?;
        }
        Ok(())
    }

    fn bytes(&self) -> u64 {
        self.size.load(Ordering::Relaxed)
    }

    async fn faults(&self) -> Result<Vec<String>, StoreError> {
        let client = self.reads.get().await?;
        let contents = migrate::look(&client).await?;
        verify::log_faults(&client, open::known_schema(contents.applied())?).await
    }
}

/// The task that appends.
struct Writer {
    lane: Lane,
    options: LogOptions,
    size: Arc<AtomicU64>,
}

impl Writer {
    /// Until nobody can queue anything any more, and all that was queued is answered.
    async fn run(self, mut inbox: mpsc::Receiver<Write>) {
        let mut measured = Instant::now();
        while let Some(first) = inbox.recv().await {
            let mut weight = first.weight();
            let mut group = vec![first];
            while weight < GROUP_WEIGHT
                && let Ok(next) = inbox.try_recv()
            {
                weight += next.weight();
                group.push(next);
            }
            let begun = Instant::now();
            let pieces: Vec<_> = group.iter().flat_map(|write| &write.pieces).collect();
            let outcome = self.write(&pieces).await;
            if let Some(observe) = &self.options.observer {
                let (writes, changes, failed) = (group.len(), pieces.len(), outcome.is_err());
                observe(CommitObserved { writes, changes, took: begun.elapsed(), failed });
            }
            drop(pieces);
            let mut answers = outcome.map(Vec::into_iter);
            for write in group {
                let answer = answers.as_mut().map(|answers| answers.take(write.pieces.len()).collect());
                // A caller that went away does not need the answer.
                let _ = write.reply.send(answer.map_err(|error| error.clone()));
            }
            if measured.elapsed() > SIZE_AGE {
                measured = Instant::now();
                self.measure().await;
            }
        }
    }

    async fn write(&self, pieces: &[&LogAppend]) -> Result<Vec<Appended>, StoreError> {
        let client = self.lane.get().await?;
        let is_synced = self.options.synchronous == Synchronous::Full;
        let work = append::append(&client, pieces, self.options.stored_bytes, is_synced);
        match tokio::time::timeout(PATIENCE, work).await {
            Ok(Err(append::Refused::Standby(why))) => {
                drop(Object::take(client));
                Err(why)
            }
            Ok(Err(append::Refused::Store(why))) => Err(why),
            Ok(Ok(answers)) => Ok(answers),
            Err(_) => {
                drop(Object::take(client));
                let why = format!("the database has not answered for {} s", PATIENCE.as_secs());
                Err(StoreError::Unavailable { why })
            }
        }
    }

    /// That it cannot be told now matters to nobody.
    async fn measure(&self) {
        if let Ok(client) = self.lane.get().await
            && let Ok(Ok(bytes)) = tokio::time::timeout(PATIENCE, size(&client)).await
        {
            self.size.store(bytes, Ordering::Relaxed);
        }
    }
}

impl Write {
    fn weight(&self) -> usize {
        self.pieces.iter().map(|piece| piece.data.len() / 1024 + 1).sum()
    }
}

async fn size(client: &tokio_postgres::Client) -> Result<u64, StoreError> {
    let sql = "SELECT pg_total_relation_size('log_chunk') + pg_total_relation_size('log_stream')";
    let row = client.query_one(sql, &[]).await.or_store_error()?;
    Ok(row.get::<_, i64>(0).max(0).cast_unsigned())
}
