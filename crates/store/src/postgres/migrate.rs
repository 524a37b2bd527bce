//! From any earlier schema to this version's, step by step, while others go on.
//!
//! Each step is one transaction that begins with its row in the journal, whose primary key makes a second server wait that
//! wants the same at the same time; then it sees that it was done. A step either only adds what programs of the schema
//! before it do not miss ([`Kind::Expand`]), or takes away what only they needed ([`Kind::Contract`]): the first kind is
//! safe while they run and applied by whoever opens the store, the second kind is for `pendula migrate apply`, when they
//! are gone.

use pendula_model::Timestamp;
use sha2::{Digest, Sha256};
use tokio_postgres::Client;

use super::error::OrStoreError;
use super::seed;
use crate::port::StoreError;

/// A step from one schema to the next.
#[derive(Clone, Copy, Debug)]
pub(super) struct Migration {
    /// From 1, without holes.
    pub number: u32,
    pub name: &'static str,
    pub kind: Kind,
    pub sql: &'static str,
}

/// Who may run while it is applied, and after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Everybody who knows the schema before it.
    Expand,
    /// Only programs of this version or later, which know this schema or a later one.
    #[cfg_attr(not(test), expect(dead_code, reason = "no released schema has anything to take away yet"))]
    Contract { program: &'static str, schema: u32 },
}

/// All of them, in order.
pub(super) const MIGRATIONS: &[Migration] = &[
    Migration { number: 1, name: "initial", kind: Kind::Expand, sql: include_str!("migrations/0001_initial.sql") },
    Migration { number: 2, name: "logs", kind: Kind::Expand, sql: include_str!("migrations/0002_logs.sql") },
];

/// Statements of a step wait no longer than that for a lock: whoever comes after them waits as well.
const LOCK_PATIENCE: &str = "3s";

/// A server that applies the same step may take long.
const TURN_PATIENCE: &str = "10min";

/// Whether two programs at the same empty database meet here is known only by trying.
const ATTEMPTS: usize = 5;

const JOURNAL: &str = "CREATE TABLE IF NOT EXISTS migration (
    number          INTEGER PRIMARY KEY,
    name            TEXT NOT NULL,
    checksum        TEXT NOT NULL,
    -- Programs that know this schema, or a later one, can work with the database as it is after the step.
    compatible_from INTEGER NOT NULL,
    applied_at      BIGINT NOT NULL
)";

/// A row of the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Applied {
    pub number: u32,
    pub name: String,
    checksum: String,
    compatible_from: u32,
    pub applied_at: Timestamp,
}

/// What lies in a database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Contents {
    Nothing,
    /// An installation, with its journal in order.
    Ours(Vec<Applied>),
}

impl Contents {
    pub fn applied(&self) -> &[Applied] {
        match self {
            Contents::Nothing => &[],
            Contents::Ours(applied) => applied,
        }
    }
}

impl Migration {
    fn checksum(&self) -> String {
        Sha256::digest(self.sql.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn compatible_from(&self, before: u32) -> u32 {
        match self.kind {
            Kind::Expand => before,
            Kind::Contract { schema, .. } => before.max(schema),
        }
    }

    fn is_expand(&self) -> bool {
        self.kind == Kind::Expand
    }
}

/// Reads what is there.
///
/// # Errors
///
/// [`StoreError::Refused`] when it belongs to another program.
pub(super) async fn look(client: &Client) -> Result<Contents, StoreError> {
    let schema: Option<String> = client.query_one("SELECT current_schema()::text", &[]).await.or_store_error()?.get(0);
    let Some(schema) = schema else {
        let text = "none of the schemas that the search_path of the database user names exists: create one of them";
        return Err(StoreError::Refused(text.to_owned()));
    };
    let sql = "SELECT table_name::text FROM information_schema.tables
               WHERE table_schema = $1 AND table_type = 'BASE TABLE' ORDER BY 1";
    let tables: Vec<String> =
        client.query(sql, &[&schema]).await.or_store_error()?.iter().map(|row| row.get(0)).collect();
    if tables.is_empty() {
        return Ok(Contents::Nothing);
    }
    let foreign = || {
        let some = tables.iter().take(3).map(String::as_str).collect::<Vec<_>>().join(", ");
        StoreError::Refused(format!(
            "the schema {schema} of the database holds tables of another program ({some}{}) and was left untouched; give \
             Pendula a database of its own",
            if tables.len() > 3 { ", …" } else { "" }
        ))
    };
    if !tables.iter().any(|table| table == "migration") {
        return Err(foreign());
    }
    let sql = "SELECT number, name, checksum, compatible_from, applied_at FROM migration ORDER BY number";
    let rows = match client.query(sql, &[]).await {
        // Others have tables of that name too.
        Err(error) if error.code() == Some(&tokio_postgres::error::SqlState::UNDEFINED_COLUMN) => return Err(foreign()),
        rows => rows.or_store_error()?,
    };
    let unsigned = |number: i32| u32::try_from(number).unwrap_or(0);
    let applied: Vec<Applied> = rows
        .iter()
        .map(|row| Applied {
            number: unsigned(row.get(0)),
            name: row.get(1),
            checksum: row.get(2),
            compatible_from: unsigned(row.get(3)),
            applied_at: Timestamp::from_micros(row.get(4)),
        })
        .collect();
    match applied.is_empty() {
        // A journal without rows is what a program leaves that was killed at the very beginning.
        true if tables.len() > 1 => Err(foreign()),
        true => Ok(Contents::Nothing),
        false => Ok(Contents::Ours(applied)),
    }
}

/// Compares what was applied with what this program knows, and returns what is left to do.
///
/// # Errors
///
/// [`StoreError::Refused`] when the schema is too new for this program, or was reached by other steps.
pub(super) fn pending<'m>(known: &'m [Migration], applied: &[Applied]) -> Result<&'m [Migration], StoreError> {
    let newest = known.last().map_or(0, |migration| migration.number);
    if let Some(row) = applied.iter().find(|row| row.compatible_from > newest) {
        return Err(StoreError::Refused(format!(
            "the database was migrated by a newer version of Pendula (step {}, {}) so that only programs that know schema {} \
             can use it; this one knows schemas up to {newest}. Start the newer version",
            row.number, row.name, row.compatible_from
        )));
    }
    for (row, number) in applied.iter().zip(1..) {
        let step = known.iter().find(|migration| migration.number == row.number);
        let is_ours = step.is_none_or(|step| step.checksum() == row.checksum);
        if row.number != number || !is_ours {
            return Err(StoreError::Refused(format!(
                "migration {} ({}) was not applied to the database as this version knows it: restore a backup, or start the \
                 version that did it",
                row.number, row.name
            )));
        }
    }
    Ok(&known[applied.len().min(known.len())..])
}

/// Whether `program` is of `minimum` or later. What cannot be understood is not.
fn is_at_least(program: &str, minimum: &str) -> bool {
    // 1.2.3-rc.1 comes before 1.2.3.
    let parse = |text: &str| {
        let text = text.split('+').next()?;
        let (numbers, is_release) = text.split_once('-').map_or((text, true), |(numbers, _)| (numbers, false));
        let numbers: Vec<u64> = numbers.split('.').map(|number| number.parse().ok()).collect::<Option<_>>()?;
        (numbers.len() == 3).then_some((numbers, is_release))
    };
    matches!((parse(program), parse(minimum)), (Some(program), Some(minimum)) if program >= minimum)
}

/// Name and version of each server whose lease has not run out.
pub(super) async fn live_servers(client: &Client) -> Result<Vec<(String, String)>, StoreError> {
    let sql = "SELECT name, version FROM server
               WHERE expires_at > (extract(epoch FROM clock_timestamp()) * 1000000)::bigint ORDER BY name";
    let rows = client.query(sql, &[]).await.or_store_error()?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// Why the step must not be applied while these servers live; nothing when it may.
pub(super) fn objection(step: &Migration, live: &[(String, String)]) -> Option<String> {
    let Kind::Contract { program, .. } = step.kind else { return None };
    let older: Vec<_> = live
        .iter()
        .filter(|(_, version)| !is_at_least(version, program))
        .map(|(name, version)| format!("{name} ({version})"))
        .collect();
    (!older.is_empty()).then(|| {
        format!(
            "servers older than {program} are alive, which it would break: {}; upgrade or stop them first",
            older.join(", ")
        )
    })
}

/// How far to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Extent {
    /// What is safe whoever runs. Of an empty database everything.
    Expand,
    /// Also what takes something away, when nobody is there who needs it.
    Everything,
}

/// Applies what is pending. `partitions` is for an empty database. `on_step` hears of each step before it is begun.
///
/// # Errors
///
/// [`StoreError::Refused`] when a step must wait for older servers to end, after those before it were applied.
pub(super) async fn apply(
    client: &Client,
    known: &[Migration],
    partitions: u16,
    extent: Extent,
    mut on_step: impl FnMut(&Migration),
) -> Result<(), StoreError> {
    let is_new = begin_journal(client).await?;
    loop {
        // Asked anew after each step: others may be at it too.
        let contents = look(client).await?;
        let Some(step) = pending(known, contents.applied())?.first() else { return Ok(()) };
        if !is_new && !step.is_expand() {
            if extent == Extent::Expand {
                return Ok(());
            }
            if let Some(objection) = objection(step, &live_servers(client).await?) {
                let text = format!("migration {} ({}) must wait: {objection}", step.number, step.name);
                return Err(StoreError::Refused(text));
            }
        }
        on_step(step);
        let before = contents.applied().iter().map(|row| row.compatible_from).max().unwrap_or(1);
        if let Err(error) = apply_step(client, step, before, partitions).await {
            // The reason matters more than how the end of the transaction went.
            let _ = client.batch_execute("ROLLBACK").await;
            return Err(error);
        }
    }
}

/// Makes the journal if there is none. Returns whether the database is empty.
async fn begin_journal(client: &Client) -> Result<bool, StoreError> {
    for attempt in 1.. {
        if look(client).await? != Contents::Nothing {
            return Ok(false);
        }
        match client.batch_execute(JOURNAL).await {
            Ok(()) => return Ok(true),
            // Two may find that there is none, and both make it; then the database refuses one of them, in one of several
            // ways.
            Err(_) if attempt < ATTEMPTS => {}
            error => error.or_store_error()?,
        }
    }
    unreachable!("the last attempt returns")
}

async fn apply_step(client: &Client, step: &Migration, before: u32, partitions: u16) -> Result<(), StoreError> {
    let begin = format!("BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL lock_timeout = '{TURN_PATIENCE}'");
    client.batch_execute(&begin).await.or_store_error()?;
    let sql = "INSERT INTO migration (number, name, checksum, compatible_from, applied_at)
               VALUES ($1, $2, $3, $4, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint)
               ON CONFLICT (number) DO NOTHING";
    let (number, compatible_from) = (step.number.cast_signed(), step.compatible_from(before).cast_signed());
    let inserted = client.execute(sql, &[&number, &step.name, &step.checksum(), &compatible_from]).await;
    if inserted.or_store_error()? == 0 {
        // Somebody else was faster.
        return client.batch_execute("ROLLBACK").await.or_store_error();
    }
    client.batch_execute(&format!("SET LOCAL lock_timeout = '{LOCK_PATIENCE}'")).await.or_store_error()?;
    client.batch_execute(step.sql).await.map_err(|error| failed(step, &error))?;
    if step.number == 1 {
        seed::plant(client, partitions).await?;
    }
    client.batch_execute("COMMIT").await.or_store_error()
}

fn failed(step: &Migration, error: &tokio_postgres::Error) -> StoreError {
    use tokio_postgres::error::SqlState;
    let what = format!("migration {} ({})", step.number, step.name);
    let Some(said) = error.as_db_error() else {
        return StoreError::Unavailable {
            why: format!("{what}: the connection was lost, nothing was changed: {error}"),
        };
    };
    let message = said.message();
    match said.code() {
        &SqlState::LOCK_NOT_AVAILABLE => StoreError::Unavailable {
            why: format!(
                "{what}: a transaction of somebody else holds a lock that it needs; nothing was changed, try again"
            ),
        },
        &SqlState::INSUFFICIENT_PRIVILEGE => StoreError::Refused(format!(
            "{what}: {message}; run `pendula migrate apply` as the owner of the tables, or GRANT the user of the URL what it needs"
        )),
        code => StoreError::Refused(format!("{what} failed and nothing was changed: {message} ({})", code.code())),
    }
}

#[cfg(test)]
mod tests;
