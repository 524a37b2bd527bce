//! From a directory to connections: files, pragmas, schema, seed rows.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use pendula_model::{PartitionId, Timestamp};
use rusqlite::{Connection, ErrorCode, OpenFlags, params};

use super::error::{OrStoreError, store_error};
use super::schema::{Migration, Schema};
use crate::port::StoreError;

/// The state of the installation.
pub(crate) const STATE: Schema = Schema {
    file: "state.db",
    application_id: 0x504e_444c, // "PNDL"
    migrations: &[
        Migration { number: 1, name: "initial", sql: include_str!("migrations/0001_initial.sql") },
        Migration { number: 2, name: "tasks", sql: include_str!("migrations/0002_tasks.sql") },
    ],
};

/// When a commit counts as done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Synchronous {
    /// After the medium has it: survives a power cut. The default.
    #[default]
    Full,
    /// After the operating system has it: survives a crash of the process, but a power cut may take the last commits
    /// with it (whole ones, in order).
    Normal,
}

/// How to open one of our files.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tuning {
    pub synchronous: Synchronous,
    /// KiB of pages that one connection keeps in memory.
    pub cache_kib: u32,
}

/// Opens the file for the writing thread; it is made (mode 0600) if there is none.
///
/// # Errors
///
/// [`StoreError::Refused`] when it cannot be opened, written to, or is no database.
pub(crate) fn open_writer(path: &Path, tuning: Tuning) -> Result<Connection, StoreError> {
    let refused = |what: &dyn std::fmt::Display| StoreError::Refused(format!("cannot use {}: {what}", path.display()));
    // Made here for its mode, which SQLite gives to the files beside it as well.
    let mut options = OpenOptions::new();
    let made = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
    made.map_err(|error| refused(&error))?;
    let open = || {
        let db = connect(path, tuning)?;
        db.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get::<_, String>(0)).map(|mode| (db, mode))
    };
    match open() {
        Ok((db, mode)) if mode.eq_ignore_ascii_case("wal") => Ok(db),
        Ok((_, mode)) => Err(refused(&format!("the file system allows only journal mode {mode}, wal is needed"))),
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::NotADatabase) => {
            Err(refused(&"it is not a database, or its first page is damaged; move it away or restore a backup"))
        }
        Err(error) => match store_error(error) {
            // At open there is nothing to retry.
            StoreError::Unavailable { why } => Err(refused(&why)),
            error => Err(error),
        },
    }
}

/// Opens the file for a reading thread.
pub(crate) fn open_reader(path: &Path, tuning: Tuning) -> Result<Connection, StoreError> {
    let db = connect(path, tuning).or_store_error()?;
    db.pragma_update(None, "query_only", true).or_store_error()?;
    Ok(db)
}

fn connect(path: &Path, tuning: Tuning) -> rusqlite::Result<Connection> {
    let db = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    db.set_prepared_statement_cache_capacity(128);
    // Only a person with a tool of their own can hold a lock that we need.
    db.busy_timeout(Duration::from_secs(5))?;
    let synchronous = match tuning.synchronous {
        Synchronous::Full => "FULL",
        Synchronous::Normal => "NORMAL",
    };
    db.pragma_update(None, "synchronous", synchronous)?;
    db.pragma_update(None, "foreign_keys", true)?;
    db.pragma_update(None, "trusted_schema", false)?;
    db.pragma_update(None, "cache_size", -i64::from(tuning.cache_kib))?;
    // A mapped file turns a failing medium into a fatal signal instead of an error.
    db.pragma_update(None, "mmap_size", 0)?;
    // After a reader made the log grow, it shrinks again.
    db.pragma_update(None, "journal_size_limit", 64 << 20)?;
    Ok(db)
}

/// Refuses an empty file beside logs that an installation left: the state was lost, and to serve without it would look
/// like a new installation in which everything that was acknowledged is gone.
pub(super) fn refuse_to_begin_anew(db: &Connection, directory: &Path) -> Result<(), StoreError> {
    let is_empty: bool =
        db.query_row("SELECT NOT EXISTS (SELECT 1 FROM sqlite_schema)", [], |row| row.get(0)).or_store_error()?;
    let (state, logs) = (STATE.file, crate::logs::FILE);
    if !is_empty || !directory.join(logs).exists() {
        return Ok(());
    }
    Err(StoreError::Refused(format!(
        "{state} in {} is missing or empty, while {logs} of an earlier installation is there; restore {state} from a backup, \
         or move {logs} away to begin anew",
        directory.display()
    )))
}

/// The rows that a new file starts with.
pub(super) fn seed(db: &Connection, partitions: u16, now: Timestamp) -> Result<(), StoreError> {
    let installation: String =
        db.query_row("SELECT lower(hex(randomblob(16)))", [], |row| row.get(0)).or_store_error()?;
    let facts = [
        ("partitions", partitions.to_string()),
        ("installation", installation),
        ("created_at", now.to_string()),
        ("last_deleted_id", "0".to_owned()),
    ];
    for (key, value) in facts {
        db.execute("INSERT INTO meta (key, value) VALUES (?1, ?2)", params![key, value]).or_store_error()?;
    }
    for partition in 0..partitions {
        db.execute("INSERT INTO partition (id) VALUES (?1)", [partition]).or_store_error()?;
    }
    Ok(())
}

/// The number of partitions that the file was made with.
pub(crate) fn stored_partitions(db: &Connection) -> Result<u16, StoreError> {
    let sql = "SELECT CAST(value AS INTEGER) FROM meta WHERE key = 'partitions'";
    let stored = db.query_row(sql, [], |row| row.get::<_, i64>(0)).or_store_error();
    match stored.map(u16::try_from) {
        Ok(Ok(partitions)) if (1..=PartitionId::LIMIT).contains(&partitions) => Ok(partitions),
        Err(error @ StoreError::Unavailable { .. }) => Err(error),
        _ => {
            Err(StoreError::Corrupt { why: "state.db: the row `partitions` of `meta` is missing or wrong".to_owned() })
        }
    }
}

/// What is missing or altered in the file; see [`Schema::faults`].
pub(crate) fn faults(db: &Connection) -> Result<Vec<String>, StoreError> {
    let mut faults = STATE.faults(db)?;
    if !faults.is_empty() {
        // Without tables there are no rows to ask for.
        return Ok(faults);
    }
    let missing = |what: &str| format!("state.db: {what} is missing or wrong");
    for key in ["installation", "created_at", "last_deleted_id"] {
        let sql = "SELECT count(*) FROM meta WHERE key = ?1";
        let found: i64 = db.query_row(sql, [key], |row| row.get(0)).or_store_error()?;
        if found == 0 {
            faults.push(missing(&format!("the row `{key}` of `meta`")));
        }
    }
    match stored_partitions(db) {
        Err(StoreError::Corrupt { why }) => faults.push(why),
        Err(error) => return Err(error),
        Ok(partitions) => {
            let mut statement = db.prepare_cached("SELECT id FROM partition ORDER BY id").or_store_error()?;
            let rows = statement.query_map([], |row| row.get::<_, u16>(0)).or_store_error()?;
            let found = rows.collect::<Result<Vec<_>, _>>().or_store_error()?;
            let lost = (0..partitions).filter(|partition| found.binary_search(partition).is_err());
            faults.extend(lost.map(|partition| missing(&format!("the row of partition {partition}"))));
        }
    }
    Ok(faults)
}
