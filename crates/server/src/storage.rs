//! From the configuration to an open store and its logs.

use std::sync::Arc;

use anyhow::Context;
use pendula_store::Store;
use pendula_store::logs::{LogOptions, LogStore, SqliteLogStore};
use pendula_store::postgres::{self, PostgresLogStore, PostgresStore};
use pendula_store::sqlite::{self, SqliteStore};

use crate::clock::Clock;
use crate::config::{Config, Database};
use crate::metrics::Metrics;

/// State and logs.
pub(crate) type Storage = (Arc<dyn Store>, Arc<dyn LogStore>);

/// Opens what `database` names.
///
/// # Errors
/// When it cannot be opened; the message says what to do about it.
pub(crate) async fn open(config: &Config, clock: &dyn Clock, metrics: &Arc<Metrics>) -> anyhow::Result<Storage> {
    match &config.database {
        Database::Sqlite { directory } => {
            let directory = directory.clone();
            let options = sqlite::Options {
                partitions: config.partitions,
                writer_cache_kib: u32::try_from(config.database_cache >> 10).unwrap_or(u32::MAX),
                now: clock.now(),
                observer: Some(Arc::new({
                    let metrics = metrics.clone();
                    move |commit: sqlite::CommitObserved| metrics.store_took("transaction", commit.took)
                })),
                ..sqlite::Options::default()
            };
            let opened = tokio::task::spawn_blocking(move || -> anyhow::Result<Storage> {
                let store = SqliteStore::open(&directory, options)?;
                let logs = SqliteLogStore::open(&directory)?;
                Ok((Arc::new(store), Arc::new(logs)))
            });
            opened.await.context("opening the store")?
        }
        Database::Postgres(url) => {
            let options = postgres::Options { partitions: config.partitions, ..postgres::Options::default() };
            let store = PostgresStore::open(url.reveal(), options).await?;
            let logs = PostgresLogStore::open(url.reveal(), LogOptions::default()).await?;
            Ok((Arc::new(store), Arc::new(logs)))
        }
    }
}
