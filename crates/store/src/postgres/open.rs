//! Before the first question: whether the database can be used, its schema, its guards.

use super::connect::{Database, Limits};
use super::error::OrStoreError;
use super::migrate::{self, Contents, Extent, MIGRATIONS};
use super::{seed, verify};
use crate::port::StoreError;

/// The row of `meta` that is there while a copy is not complete.
pub(super) const UNFINISHED_COPY: &str = "unfinished_copy";

/// A database that may be used.
pub(super) struct Opened {
    pub database: Database,
    /// What it was made with.
    pub partitions: u16,
}

/// Looks at the database behind the URL and brings it to this version's schema as far as that disturbs nobody. One that is
/// empty gets its tables and rows; `partitions` is for that. With `migrate` false an existing one is left as it is.
///
/// # Errors
///
/// [`StoreError::Refused`] with what to do about it: a wrong URL, another program's database, a schema that is too new, or
/// too old and not to be touched, settings that would lose what was acknowledged. [`StoreError::Corrupt`]: a table, index
/// or seed row is missing or altered. [`StoreError::Unavailable`]: nobody is there, or no primary.
pub(super) async fn open(url: &str, partitions: u16, migrate: bool) -> Result<Opened, StoreError> {
    let database = Database::new(url)?;
    let session = database.session(Limits::UPKEEP).await?;
    let settings = verify::settings(&session).await?;
    for worry in &settings.worries {
        tracing::warn!(%database, "{worry}");
    }
    if !settings.faults.is_empty() {
        return Err(StoreError::Refused(format!("cannot use the database {database}: {}", settings.faults.join("; "))));
    }
    let contents = migrate::look(&session).await?;
    if migrate || contents == Contents::Nothing {
        let on_step = |step: &migrate::Migration| {
            tracing::info!(number = step.number, name = step.name, "migrating the database")
        };
        migrate::apply(&session, MIGRATIONS, partitions, Extent::Expand, on_step).await?;
    }
    let contents = migrate::look(&session).await?;
    let schema = known_schema(contents.applied())?;
    let mut faults = verify::faults(&session, schema).await?;
    faults.extend(verify::log_faults(&session, schema).await?);
    if !faults.is_empty() {
        let why = format!("{}; refusing to run unguarded: restore a backup", faults.join("; "));
        return Err(StoreError::Corrupt { why });
    }
    let sql = "SELECT EXISTS (SELECT 1 FROM meta WHERE key = $1)";
    if session.query_one(sql, &[&UNFINISHED_COPY]).await.or_store_error()?.get(0) {
        return Err(StoreError::Refused(format!(
            "the database {database} holds a copy that is not complete: wait for it, or run `pendula copy` again"
        )));
    }
    let partitions = seed::stored_partitions(&session).await?;
    let lost = || StoreError::Corrupt { why: "the row `partitions` of `meta` is missing or wrong".to_owned() };
    Ok(Opened { database, partitions: partitions.ok_or_else(lost)? })
}

/// The schema that the database has, as far as this program knows it. What is pending may only be what takes something
/// away.
pub(super) fn known_schema(applied: &[migrate::Applied]) -> Result<u32, StoreError> {
    let pending = migrate::pending(MIGRATIONS, applied)?;
    if let Some(needed) = pending.iter().rev().find(|step| step.kind == migrate::Kind::Expand) {
        return Err(StoreError::Refused(format!(
            "the database has schema {}, and this version needs {}: run `pendula migrate apply`",
            applied.len(),
            needed.number
        )));
    }
    Ok(applied.len().min(MIGRATIONS.len()) as u32)
}
