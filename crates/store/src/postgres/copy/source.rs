//! The directory that is copied from.

use std::path::{Path, PathBuf};

use rusqlite::Connection;
use rusqlite::types::ValueRef;
use tokio::sync::mpsc;

use super::tables::{Kind, Table};
use crate::logs::{FILE, LOGS};
use crate::port::StoreError;
use crate::sqlite::error::OrStoreError;
use crate::sqlite::lock::DirectoryLock;
use crate::sqlite::open::{self, STATE};
use crate::sqlite::schema::{Schema, stored_version};
use crate::sqlite::{Synchronous, Tuning, open_reader};

/// Rows in a page at most.
const PAGE_ROWS: usize = 2_000;

/// A page is closed once it holds that many bytes.
const PAGE_BYTES: usize = 4 << 20;

/// Pages that are read ahead.
const AHEAD: usize = 2;

/// An installation in a directory, which nobody else uses.
pub(super) struct Source {
    state: PathBuf,
    /// There are none when no task ever printed anything.
    logs: Option<PathBuf>,
    facts: Facts,
    _lock: DirectoryLock,
}

/// What an installation is beside its rows.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    pub partitions: u16,
    pub installation: String,
    pub created_at: String,
    pub last_deleted_id: String,
    /// The largest id that was ever given out, also of rows that are gone.
    pub last_id: i64,
    /// Of each partition, in order: the epoch, and when it was claimed.
    pub epochs: Vec<(i64, Option<i64>)>,
}

/// Rows of a table, column by column.
pub(super) struct Page {
    pub rows: usize,
    pub columns: Vec<Values>,
}

/// One column of a page.
#[derive(Clone, Debug)]
pub(super) enum Values {
    Ints(Vec<Option<i64>>),
    Flags(Vec<Option<bool>>),
    Texts(Vec<Option<String>>),
    Blobs(Vec<Option<Vec<u8>>>),
}

impl Source {
    /// Blocks on the disk.
    pub fn open(directory: &Path) -> Result<Source, StoreError> {
        let shown = directory.display();
        let state = directory.join(STATE.file);
        if !state.exists() {
            return Err(StoreError::Refused(format!("there is no installation in {shown}: {} is missing", STATE.file)));
        }
        let lock = DirectoryLock::acquire(directory)?;
        let db = reader(&state)?;
        check(&STATE, &db, directory)?;
        let faults = open::faults(&db)?;
        if !faults.is_empty() {
            return Err(StoreError::Corrupt { why: format!("{}; restore a backup", faults.join("; ")) });
        }
        let logs = Some(directory.join(FILE)).filter(|file| file.exists());
        if let Some(file) = &logs {
            check(&LOGS, &reader(file)?, directory)?;
        }
        Ok(Source { facts: Facts::read(&db)?, state, logs, _lock: lock })
    }

    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    pub async fn count(&self, table: &'static Table) -> Result<u64, StoreError> {
        let Some(file) = self.file(table).cloned() else { return Ok(0) };
        apart(move || {
            let sql = format!("SELECT count(*) FROM {}", table.from);
            let count: i64 = reader(&file)?.query_row(&sql, [], |row| row.get(0)).or_store_error()?;
            Ok(count.unsigned_abs())
        })
        .await
    }

    /// All rows of a table. Reading goes on by itself, some pages ahead, until the end or until nobody listens.
    pub fn pages(&self, table: &'static Table) -> mpsc::Receiver<Result<Page, StoreError>> {
        let (sender, pages) = mpsc::channel(AHEAD);
        if let Some(file) = self.file(table).cloned() {
            tokio::task::spawn_blocking(move || {
                if let Err(error) = read(&file, table, &sender) {
                    // Nobody listens any more: then nobody misses it.
                    let _ = sender.blocking_send(Err(error));
                }
            });
        }
        pages
    }

    fn file(&self, table: &Table) -> Option<&PathBuf> {
        if table.is_log { self.logs.as_ref() } else { Some(&self.state) }
    }
}

impl Facts {
    fn read(db: &Connection) -> Result<Facts, StoreError> {
        let fact = |key: &str| -> Result<String, StoreError> {
            db.query_row("SELECT value FROM meta WHERE key = ?1", [key], |row| row.get(0)).or_store_error()
        };
        let mut statement = db.prepare("SELECT epoch, claimed_at FROM partition ORDER BY id").or_store_error()?;
        let epochs = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).or_store_error()?;
        Ok(Facts {
            partitions: open::stored_partitions(db)?,
            installation: fact("installation")?,
            created_at: fact("created_at")?,
            last_deleted_id: fact("last_deleted_id")?,
            last_id: crate::sqlite::last_id(db)?,
            epochs: epochs.collect::<Result<_, _>>().or_store_error()?,
        })
    }
}

/// A schema that this version does not know could hold what it would leave behind.
fn check(schema: &Schema, db: &Connection, directory: &Path) -> Result<(), StoreError> {
    let (found, known) = (stored_version(db)?, schema.version());
    if found == known {
        return Ok(());
    }
    let todo = if found > known {
        "use that version of Pendula to copy it"
    } else {
        "start a server of this version on it once, and stop it, which brings it up to date"
    };
    let (file, shown) = (schema.file, directory.display());
    Err(StoreError::Refused(format!(
        "{file} in {shown} has schema {found}, this version copies schema {known}: {todo}"
    )))
}

fn reader(file: &Path) -> Result<Connection, StoreError> {
    open_reader(file, Tuning { synchronous: Synchronous::Full, cache_kib: 8 << 10 })
}

fn read(file: &Path, table: &Table, pages: &mpsc::Sender<Result<Page, StoreError>>) -> Result<(), StoreError> {
    let db = reader(file)?;
    let mut statement = db.prepare(&table.selection()).or_store_error()?;
    let mut rows = statement.query([]).or_store_error()?;
    let (mut page, mut bytes) = (Page::new(table), 0);
    while let Some(row) = rows.next().or_store_error()? {
        for (index, column) in page.columns.iter_mut().enumerate() {
            bytes += column.push(row.get_ref(index).or_store_error()?).map_err(|what| {
                let name = table.columns[index].name;
                let id: i64 = row.get(0).unwrap_or_default();
                StoreError::Refused(format!("{}: column {name} of the row {id} holds {what}", table.name))
            })?;
        }
        page.rows += 1;
        if page.rows >= PAGE_ROWS || bytes >= PAGE_BYTES {
            bytes = 0;
            if pages.blocking_send(Ok(std::mem::replace(&mut page, Page::new(table)))).is_err() {
                return Ok(());
            }
        }
    }
    if page.rows > 0 {
        let _ = pages.blocking_send(Ok(page));
    }
    Ok(())
}

impl Page {
    fn new(table: &Table) -> Page {
        let empty = |kind: Kind| match kind {
            Kind::Int => Values::Ints(Vec::new()),
            Kind::Flag => Values::Flags(Vec::new()),
            Kind::Text => Values::Texts(Vec::new()),
            Kind::Blob => Values::Blobs(Vec::new()),
        };
        Page { rows: 0, columns: table.columns.iter().map(|column| empty(column.kind)).collect() }
    }

    /// One of its rows alone.
    pub fn row(&self, index: usize) -> Page {
        Page { rows: 1, columns: self.columns.iter().map(|column| column.only(index)).collect() }
    }

    /// The first number of a row: the id of what it is, or of what it belongs to.
    pub fn id(&self, index: usize) -> i64 {
        match self.columns.first() {
            Some(Values::Ints(values)) => values.get(index).copied().flatten().unwrap_or_default(),
            _ => 0,
        }
    }
}

impl Values {
    /// Adds a value and returns how many bytes it takes, or says what it is that does not fit.
    fn push(&mut self, value: ValueRef<'_>) -> Result<usize, &'static str> {
        match (self, value) {
            (Values::Ints(values), ValueRef::Null) => values.push(None),
            (Values::Flags(values), ValueRef::Null) => values.push(None),
            (Values::Texts(values), ValueRef::Null) => values.push(None),
            (Values::Blobs(values), ValueRef::Null) => values.push(None),
            (Values::Ints(values), ValueRef::Integer(number)) => values.push(Some(number)),
            (Values::Flags(values), ValueRef::Integer(number @ (0 | 1))) => values.push(Some(number == 1)),
            (Values::Texts(values), ValueRef::Text(text)) => {
                let text = std::str::from_utf8(text).map_err(|_| "a text that is no UTF-8")?;
                // PostgreSQL has no texts with a zero byte.
                values.push(Some(text.replace('\0', "\u{FFFD}")));
                return Ok(text.len() + 8);
            }
            (Values::Blobs(values), ValueRef::Blob(bytes)) => {
                values.push(Some(bytes.to_vec()));
                return Ok(bytes.len() + 8);
            }
            _ => return Err("a value of another type"),
        }
        Ok(8)
    }

    fn only(&self, index: usize) -> Values {
        match self {
            Values::Ints(values) => Values::Ints(vec![values[index]]),
            Values::Flags(values) => Values::Flags(vec![values[index]]),
            Values::Texts(values) => Values::Texts(vec![values[index].clone()]),
            Values::Blobs(values) => Values::Blobs(vec![values[index].clone()]),
        }
    }
}

/// Runs what blocks on the disk where it holds up nobody.
pub(super) async fn apart<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    let stopped = |error| StoreError::Unavailable { why: format!("the copy was interrupted: {error}") };
    tokio::task::spawn_blocking(work).await.map_err(stopped)?
}
