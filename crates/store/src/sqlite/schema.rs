//! Migrations, and the check that tables, indexes, triggers and seed rows are what this version needs.
//!
//! What must be there is not listed a second time: a database in memory that all migrations were applied to is the
//! pattern. A guard that is missing (a unique index, a partition's row) must stop us, because nothing else would notice.

use std::collections::BTreeMap;

use pendula_model::Timestamp;
use rusqlite::{Connection, OptionalExtension, params};
use sha2::{Digest, Sha256};

use super::error::OrStoreError;
use crate::port::StoreError;

/// A step from one schema to the next.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Migration {
    /// From 1, without holes; equal to `PRAGMA user_version` afterwards.
    pub number: u32,
    pub name: &'static str,
    pub sql: &'static str,
}

impl Migration {
    fn checksum(&self) -> String {
        Sha256::digest(self.sql.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// A kind of database file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Schema {
    /// For messages: `state.db`.
    pub file: &'static str,
    /// `PRAGMA application_id`, by which we know our own files.
    pub application_id: i32,
    pub migrations: &'static [Migration],
}

const JOURNAL: &str = "CREATE TABLE migration (
    number INTEGER PRIMARY KEY, name TEXT NOT NULL, checksum TEXT NOT NULL, applied_at INTEGER NOT NULL
) STRICT";

impl Schema {
    /// The version that this program writes.
    pub fn version(&self) -> u32 {
        self.migrations.len() as u32
    }

    /// Brings the file to this version, in one transaction; a file without tables gets them all. `seed` runs inside of
    /// it when the file is new.
    ///
    /// # Errors
    ///
    /// [`StoreError::Refused`] when the file is not ours, was written by a newer version, or was migrated by other
    /// steps than ours.
    pub fn migrate(
        &self,
        db: &mut Connection,
        now: Timestamp,
        seed: impl FnOnce(&Connection) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let found = stored_version(db)?;
        let known = self.version();
        if found > known {
            return Err(StoreError::Refused(format!(
                "{} has schema {found}, written by a newer version of Pendula; this one knows schemas up to {known}. \
                 Start the newer version, or restore the backup from before the upgrade",
                self.file
            )));
        }
        let tables: i64 = db.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).or_store_error()?;
        let application: i32 = db.pragma_query_value(None, "application_id", |row| row.get(0)).or_store_error()?;
        let is_new = tables == 0;
        if !is_new && application != self.application_id {
            let text = format!("{} is an SQLite database of another program; it was left untouched", self.file);
            return Err(StoreError::Refused(text));
        }
        let transaction = db.transaction().or_store_error()?;
        if is_new {
            transaction.pragma_update(None, "application_id", self.application_id).or_store_error()?;
            transaction.execute(JOURNAL, []).or_store_error()?;
        }
        for migration in &self.migrations[..found as usize] {
            self.check_applied(&transaction, migration)?;
        }
        for migration in &self.migrations[found as usize..] {
            transaction.execute_batch(migration.sql).or_store_error()?;
            let row = params![migration.number, migration.name, migration.checksum(), now.as_micros()];
            let sql = "INSERT INTO migration (number, name, checksum, applied_at) VALUES (?1, ?2, ?3, ?4)";
            transaction.execute(sql, row).or_store_error()?;
        }
        if found < known {
            transaction.pragma_update(None, "user_version", known).or_store_error()?;
        }
        if is_new {
            seed(&transaction)?;
        }
        transaction.commit().or_store_error()
    }

    fn check_applied(&self, db: &Connection, migration: &Migration) -> Result<(), StoreError> {
        let sql = "SELECT checksum FROM migration WHERE number = ?1";
        let stored: Option<String> =
            db.query_row(sql, [migration.number], |row| row.get(0)).optional().or_store_error()?;
        if stored.is_some_and(|checksum| checksum == migration.checksum()) {
            return Ok(());
        }
        Err(StoreError::Refused(format!(
            "{}: migration {} ({}) was not applied as this version knows it; restore a backup",
            self.file, migration.number, migration.name
        )))
    }

    /// What differs from the pattern, one line per table, index, trigger or migration; empty when nothing does.
    pub fn faults(&self, db: &Connection) -> Result<Vec<String>, StoreError> {
        let mut pattern = Connection::open_in_memory().or_store_error()?;
        self.migrate(&mut pattern, Timestamp::from_micros(0), |_| Ok(()))?;
        let wanted = objects(&pattern)?;
        let found = objects(db)?;
        let mut faults = Vec::new();
        for ((kind, name), sql) in &wanted {
            match found.get(&(kind.clone(), name.clone())) {
                None => faults.push(format!("{}: {kind} `{name}` is missing", self.file)),
                Some(other) if other != sql => faults.push(format!("{}: {kind} `{name}` was altered", self.file)),
                Some(_) => {}
            }
        }
        // Others' triggers could write behind our back; others' tables and plain indexes do no harm.
        for (kind, name) in found.keys().filter(|key| key.0 == "trigger" && !wanted.contains_key(*key)) {
            faults.push(format!("{}: {kind} `{name}` is not ours", self.file));
        }
        if faults.is_empty() {
            for migration in self.migrations {
                if let Err(refused) = self.check_applied(db, migration) {
                    faults.push(refused.to_string());
                }
            }
        }
        Ok(faults)
    }
}

/// `PRAGMA user_version` of the file.
pub(crate) fn stored_version(db: &Connection) -> Result<u32, StoreError> {
    db.pragma_query_value(None, "user_version", |row| row.get(0)).or_store_error()
}

/// Tables, indexes and triggers with the text that made them; SQLite's own are left out.
fn objects(db: &Connection) -> Result<BTreeMap<(String, String), String>, StoreError> {
    let sql =
        "SELECT type, name, sql FROM sqlite_schema WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'";
    let mut statement = db.prepare(sql).or_store_error()?;
    let rows = statement.query_map([], |row| Ok(((row.get(0)?, row.get(1)?), row.get(2)?)));
    rows.or_store_error()?.collect::<Result<_, _>>().or_store_error()
}
