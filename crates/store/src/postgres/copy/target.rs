//! The database that is copied into.

use deadpool_postgres::ClientWrapper;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Statement};

use super::source::{Facts, Page, Values};
use super::tables::{Kind, TABLES, Table};
use crate::port::StoreError;
use crate::postgres::connect::{Database, Limits};
use crate::postgres::error::{OrStoreError, store_error};
use crate::postgres::migrate::{self, Contents, Extent, MIGRATIONS};
use crate::postgres::open::UNFINISHED_COPY;
use crate::postgres::verify;

/// A database that takes rows, and that servers refuse.
pub(super) struct Target {
    database: Database,
    session: ClientWrapper,
    /// In a transaction that holds a lock on the mark as long as the copy lasts, and completes it at last.
    guard: ClientWrapper,
}

/// How rows of a table go in.
pub(super) struct Insertion {
    table: &'static Table,
    statement: Statement,
}

impl Target {
    /// Makes an installation of the database that is marked as unfinished. What an interrupted copy left goes.
    pub async fn prepare(url: &str, facts: &Facts) -> Result<Target, StoreError> {
        let database = Database::new(url)?;
        let session = database.session(Limits::UPKEEP).await?;
        let settings = verify::settings(&session).await?;
        if !settings.faults.is_empty() {
            let text = format!("cannot use the database {database}: {}", settings.faults.join("; "));
            return Err(StoreError::Refused(text));
        }
        if let Contents::Ours(_) = migrate::look(&session).await?
            && !is_marked(&session).await?
            && let Some(what) = first_use(&session).await?
        {
            return Err(StoreError::Refused(format!(
                "the database {database} is in use already ({what}): a copy needs an empty one"
            )));
        }
        migrate::apply(&session, MIGRATIONS, facts.partitions, Extent::Everything, |_| ()).await?;
        let mark = "INSERT INTO meta (key, value) VALUES ($1, $2) ON CONFLICT (key) DO NOTHING";
        session.execute(mark, &[&UNFINISHED_COPY, &facts.installation]).await.or_store_error()?;
        let guard = guard(&database).await?;
        let names: Vec<_> = TABLES.iter().map(|table| table.name).collect();
        session.batch_execute(&format!("TRUNCATE {}", names.join(", "))).await.or_store_error()?;
        Ok(Target { database, session, guard })
    }

    pub fn database(&self) -> &Database {
        &self.database
    }

    pub async fn insertion(&self, table: &'static Table) -> Result<Insertion, StoreError> {
        let types: Vec<_> = table
            .columns
            .iter()
            .map(|column| match column.kind {
                Kind::Int => Type::INT8_ARRAY,
                Kind::Flag => Type::BOOL_ARRAY,
                Kind::Text => Type::TEXT_ARRAY,
                Kind::Blob => Type::BYTEA_ARRAY,
            })
            .collect();
        let statement = self.session.prepare_typed(&table.insertion(), &types).await.or_store_error()?;
        Ok(Insertion { table, statement })
    }

    pub async fn insert(&self, insertion: &Insertion, page: &Page) -> Result<(), StoreError> {
        match self.insert_all(insertion, page).await {
            Err(StoreError::Conflict { .. }) => self.insert_each(insertion, page).await,
            other => other,
        }
    }

    async fn insert_all(&self, insertion: &Insertion, page: &Page) -> Result<(), StoreError> {
        let values: Vec<&(dyn ToSql + Sync)> = page
            .columns
            .iter()
            .map(|column| match column {
                Values::Ints(values) => values as &(dyn ToSql + Sync),
                Values::Flags(values) => values,
                Values::Texts(values) => values,
                Values::Blobs(values) => values,
            })
            .collect();
        self.session.execute(&insertion.statement, &values).await.map(drop).or_store_error()
    }

    /// Finds the row that the database refuses.
    async fn insert_each(&self, insertion: &Insertion, page: &Page) -> Result<(), StoreError> {
        for index in 0..page.rows {
            match self.insert_all(insertion, &page.row(index)).await {
                Err(StoreError::Conflict { what }) => {
                    let (table, id) = (insertion.table, page.id(index));
                    let (name, first) = (table.name, table.columns[0].name);
                    return Err(StoreError::Refused(format!(
                        "the row of {name} with {first} {id} cannot be copied: {what}; repair or delete it in the directory, \
                         then copy again"
                    )));
                }
                other => other?,
            }
        }
        Ok(())
    }

    /// Counts, takes over what the installation is, and lets servers in.
    pub async fn finish(&self, facts: &Facts, tables: &[(&'static str, u64)]) -> Result<(), StoreError> {
        for (table, expected) in tables {
            let count = self.session.query_one(&format!("SELECT count(*) FROM {table}"), &[]).await.or_store_error()?;
            let count: i64 = count.get(0);
            if count.unsigned_abs() != *expected {
                let why = format!("{expected} rows of {table} were copied and {count} arrived: copy again");
                return Err(StoreError::Corrupt { why });
            }
        }
        // Without statistics the first minutes would be slow; databases that have no such statement gather them by themselves.
        let _ = self.session.batch_execute("ANALYZE").await;
        self.take_over(facts).await
    }

    async fn take_over(&self, facts: &Facts) -> Result<(), StoreError> {
        let session = &self.guard;
        if let Some(what) = used_by(session).await? {
            let text = format!(
                "the database {} was used during the copy ({what}): stop that server, then copy again",
                self.database
            );
            return Err(StoreError::Refused(text));
        }
        session.batch_execute("DELETE FROM partition").await.or_store_error()?;
        let ids: Vec<i32> = (0..i32::from(facts.partitions)).collect();
        let (epochs, claims): (Vec<i64>, Vec<i64>) =
            facts.epochs.iter().map(|(epoch, claimed_at)| (*epoch, claimed_at.unwrap_or(0))).unzip();
        let sql = "INSERT INTO partition (id, epoch, since, last_id)
                   SELECT id, epoch, since, $4 FROM unnest($1::int[], $2::bigint[], $3::bigint[]) AS row (id, epoch, since)";
        session.execute(sql, &[&ids, &epochs, &claims, &facts.last_id]).await.or_store_error()?;
        for (key, value) in [
            ("partitions", &facts.partitions.to_string()),
            ("installation", &facts.installation),
            ("created_at", &facts.created_at),
            ("last_deleted_id", &facts.last_deleted_id),
        ] {
            let sql = "UPDATE meta SET value = $2 WHERE key = $1";
            session.execute(sql, &[&key, value]).await.or_store_error()?;
        }
        session.execute("DELETE FROM meta WHERE key = $1", &[&UNFINISHED_COPY]).await.or_store_error()?;
        session.batch_execute("COMMIT").await.or_store_error()
    }
}

async fn is_marked(client: &Client) -> Result<bool, StoreError> {
    let mark = client.query_opt("SELECT value FROM meta WHERE key = $1", &[&UNFINISHED_COPY]).await.or_store_error()?;
    Ok(mark.is_some())
}

/// Something that an installation has which was used, or nothing.
async fn first_use(client: &Client) -> Result<Option<String>, StoreError> {
    for table in TABLES {
        let sql = format!("SELECT EXISTS (SELECT 1 FROM {})", table.name);
        if client.query_one(&sql, &[]).await.or_store_error()?.get(0) {
            return Ok(Some(format!("there are rows in {}", table.name)));
        }
    }
    used_by(client).await
}

/// Whether a server was here.
async fn used_by(client: &Client) -> Result<Option<String>, StoreError> {
    let server = client.query_opt("SELECT name FROM server LIMIT 1", &[]).await.or_store_error()?;
    if let Some(row) = server {
        return Ok(Some(format!("by the server {}", row.get::<_, String>(0))));
    }
    let claimed =
        client.query_one("SELECT EXISTS (SELECT 1 FROM partition WHERE epoch > 0)", &[]).await.or_store_error()?;
    Ok(claimed.get::<_, bool>(0).then(|| "partitions were claimed".to_owned()))
}

/// Locks the mark, so that two copies do not mix.
async fn guard(database: &Database) -> Result<ClientWrapper, StoreError> {
    let limits = Limits { idle_in_transaction: std::time::Duration::ZERO, ..Limits::UPKEEP };
    let guard = database.session(limits).await?;
    guard.batch_execute("BEGIN ISOLATION LEVEL READ COMMITTED").await.or_store_error()?;
    let lock = "SELECT value FROM meta WHERE key = $1 FOR UPDATE NOWAIT";
    match guard.query(lock, &[&UNFINISHED_COPY]).await {
        Ok(rows) if rows.is_empty() => {
            Err(StoreError::Refused(format!("another copy into {database} was completed meanwhile")))
        }
        Ok(_) => Ok(guard),
        Err(error) if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => {
            Err(StoreError::Refused(format!("another copy into {database} is under way")))
        }
        Err(error) => Err(store_error(&error)),
    }
}
