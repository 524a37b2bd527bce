//! What H2's `SCRIPT` statement writes.
//!
//! A strict reader of this one format, as H2 1.4 and 2.x write it: `CREATE … TABLE` tells the columns, `INSERT INTO …
//! VALUES` the rows; everything else is passed over. The file is read once, statement by statement, and only rows of the
//! tables that are of interest are kept: how many instances it holds makes no difference to the memory.

mod scan;
mod statement;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use super::error::ImportError;
use super::schema::{Column, Table, WANTED};
use super::source::{PAGE, Row, Tables};
use scan::Scanner;
use statement::Statement;

/// What of the file is of interest.
#[derive(Debug)]
pub(super) struct Script {
    shown: String,
    tables: BTreeMap<String, Kept>,
    /// Long texts, in the order of their pieces, until the row was read that they are of.
    pieces: BTreeMap<String, String>,
}

#[derive(Debug, Default)]
struct Kept {
    /// In lower case, in the order of the values.
    columns: Vec<String>,
    /// By `id`.
    rows: BTreeMap<i64, Row>,
}

impl Script {
    pub fn read(path: &Path) -> Result<Script, ImportError> {
        let shown = path.display().to_string();
        let file = File::open(path).map_err(|error| ImportError::Usage(format!("reading {shown}: {error}")))?;
        let mut reader = BufReader::with_capacity(64 * 1024, file);
        let begin = reader.fill_buf().map_err(|error| ImportError::Usage(format!("reading {shown}: {error}")))?;
        if let Some(what) = other_format(begin) {
            return Err(ImportError::Usage(format!("{shown} {what}")));
        }
        Script::parse(shown, reader)
    }

    fn parse(shown: String, reader: impl BufRead) -> Result<Script, ImportError> {
        let mut script = Script { shown, tables: BTreeMap::new(), pieces: BTreeMap::new() };
        let mut scanner = Scanner::new(reader);
        let mut is_script = false;
        loop {
            let begin = scanner.line();
            match statement::next(&mut scanner, &mut script) {
                Ok(Statement::End) => break,
                Ok(Statement::Passed) => {}
                Ok(Statement::Table | Statement::Rows) => is_script = true,
                Err(why) => {
                    let (shown, line) = (&script.shown, scanner.line());
                    let of =
                        if begin + 1 < line { format!(" (of a statement after line {begin})") } else { String::new() };
                    return Err(ImportError::Usage(format!(
                        "{shown}:{line}: {why}{of}; expected is what H2's SCRIPT statement writes"
                    )));
                }
            }
        }
        if !is_script {
            return Err(ImportError::Usage(format!(
                "{} is not what H2's SCRIPT statement writes: it creates no table and inserts no row. \
                 In the database of PowerJob, run SCRIPT TO 'powerjob.sql'",
                script.shown
            )));
        }
        Ok(script)
    }

    pub fn shown(&self) -> &str {
        &self.shown
    }

    pub fn tables(&self) -> Tables {
        let column = |name: &String| (name.clone(), Column { name: name.clone(), is_reference: false });
        let table = |(name, kept): (&String, &Kept)| {
            (name.clone(), Table { name: name.clone(), columns: kept.columns.iter().map(column).collect() })
        };
        self.tables.iter().map(table).collect()
    }

    pub fn page(&self, table: &Table, columns: &[&str], after: i64) -> Vec<Row> {
        let Some(kept) = self.tables.get(&table.name) else { return Vec::new() };
        let rows = kept.rows.range(after.saturating_add(1)..).take(PAGE);
        let chosen = |row: &Row| {
            Row(row
                .0
                .iter()
                .filter(|(name, _)| columns.contains(&name.as_str()))
                .map(|(n, v)| (n.clone(), v.clone()))
                .collect())
        };
        rows.map(|(_, row)| chosen(row)).collect()
    }
}

fn is_wanted(table: &str) -> bool {
    WANTED.iter().any(|wanted| table.ends_with(wanted))
}

/// What else people may have at hand.
fn other_format(begin: &[u8]) -> Option<&'static str> {
    let head = String::from_utf8_lossy(&begin[..begin.len().min(400)]).into_owned();
    if head.starts_with("H:2,") || head.starts_with("-- H2 0.5/B --") {
        return Some(
            "is a database file of H2 itself. Stop PowerJob's server and export it: \
             java -cp h2.jar org.h2.tools.Script -url jdbc:h2:./powerjob_db -user sa -script powerjob.sql",
        );
    }
    if begin.starts_with(b"PK") || begin.starts_with(&[0x1f, 0x8b]) {
        return Some("is compressed; write it with SCRIPT TO without COMPRESSION, or unpack it first");
    }
    if head.contains("MySQL dump") || head.contains("MariaDB dump") {
        return Some("is a dump of MySQL; give the URL of the database instead: mysql://USER:PASSWORD@HOST/DATABASE");
    }
    if head.contains("PostgreSQL database dump") || begin.starts_with(b"PGDMP") {
        return Some(
            "is a dump of PostgreSQL; give the URL of the database instead: postgres://USER:PASSWORD@HOST/DATABASE",
        );
    }
    None
}
