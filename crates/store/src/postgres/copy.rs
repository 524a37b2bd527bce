//! Moving an installation from a directory of one machine into a database that servers can share.
//!
//! Rows travel as they are, page by page, whatever they mean; only where the two keep the same thing differently does
//! `tables` say how. Until all of it has arrived, a mark in the database keeps servers away, and a copy that was interrupted
//! is begun anew.

mod source;
mod tables;
mod target;

use std::path::Path;

use self::source::Source;
use self::tables::TABLES;
use self::target::Target;
use crate::port::StoreError;

/// How far a [`copy`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopyProgress {
    /// What is being copied now, as the database calls it.
    pub table: &'static str,
    /// Rows of it that have arrived, and that there are.
    pub rows: u64,
    pub rows_of_table: u64,
    /// The same of all tables.
    pub rows_in_all: u64,
    pub rows_of_all: u64,
}

/// What a [`copy`] brought over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopyReport {
    /// The id of the installation, which it keeps.
    pub installation: String,
    pub partitions: u16,
    /// Rows per table, counted on both sides.
    pub tables: Vec<(&'static str, u64)>,
    /// Where to, without the password.
    pub database: String,
}

/// Copies the installation in `directory` (state and logs) into the database behind the URL `to`, which must be empty. Ids,
/// versions and contents stay as they are; a text with a zero byte, which PostgreSQL has not, gets a replacement character
/// for it. Nobody may use either meanwhile: the directory is locked, and servers refuse the database until the copy is
/// complete. Memory does not grow with what is copied. `on_progress` hears of each page of rows.
///
/// Nothing in the directory is changed. When the copy fails or is dropped, it may be repeated with the same database.
///
/// # Errors
///
/// [`StoreError::Refused`] with what to do about it: a server uses the directory, it is of another version, the database is
/// not empty, a row does not pass its checks. [`StoreError::Corrupt`]: the directory lacks something.
/// [`StoreError::Unavailable`]: the database went away.
pub async fn copy(
    directory: &Path,
    to: &str,
    mut on_progress: impl FnMut(CopyProgress) + Send,
) -> Result<CopyReport, StoreError> {
    let from = directory.to_owned();
    let source = source::apart(move || Source::open(&from)).await?;
    let target = Target::prepare(to, source.facts()).await?;
    let mut counts = Vec::with_capacity(TABLES.len());
    for table in TABLES {
        counts.push(source.count(table).await?);
    }
    let rows_of_all = counts.iter().sum();
    let mut rows_in_all = 0;
    for (table, rows_of_table) in TABLES.iter().zip(&counts) {
        let insertion = target.insertion(table).await?;
        let mut pages = source.pages(table);
        let mut progress =
            CopyProgress { table: table.name, rows: 0, rows_of_table: *rows_of_table, rows_in_all, rows_of_all };
        on_progress(progress);
        while let Some(page) = pages.recv().await {
            let page = page?;
            target.insert(&insertion, &page).await?;
            progress.rows += page.rows as u64;
            progress.rows_in_all += page.rows as u64;
            on_progress(progress);
        }
        rows_in_all = progress.rows_in_all;
    }
    let tables: Vec<_> = TABLES.iter().map(|table| table.name).zip(counts).collect();
    target.finish(source.facts(), &tables).await?;
    let facts = source.facts();
    Ok(CopyReport {
        installation: facts.installation.clone(),
        partitions: facts.partitions,
        tables,
        database: target.database().to_string(),
    })
}
