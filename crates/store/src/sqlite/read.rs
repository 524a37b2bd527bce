//! Reading rows: what cannot be understood is noted and left out.

use rusqlite::types::ValueRef;
use rusqlite::{Connection, Params, Row};

use super::error::OrStoreError;
use crate::port::StoreError;
use crate::rows::{Columns, StoredRow, Unreadable};
use crate::unreadable::{Kind, RowId, UnreadableRows};

impl StoredRow for Row<'_> {
    fn int(&self, column: usize) -> Result<Option<i64>, Unreadable> {
        match value(self, column)? {
            ValueRef::Null => Ok(None),
            ValueRef::Integer(number) => Ok(Some(number)),
            _ => refuse(self, column, "is no number"),
        }
    }

    fn text(&self, column: usize) -> Result<Option<&str>, Unreadable> {
        match value(self, column)? {
            ValueRef::Null => Ok(None),
            ValueRef::Text(bytes) => match std::str::from_utf8(bytes) {
                Ok(text) => Ok(Some(text)),
                Err(_) => refuse(self, column, "is no UTF-8"),
            },
            _ => refuse(self, column, "is no text"),
        }
    }

    fn blob(&self, column: usize) -> Result<Option<&[u8]>, Unreadable> {
        match value(self, column)? {
            ValueRef::Null => Ok(None),
            ValueRef::Blob(bytes) => Ok(Some(bytes)),
            _ => refuse(self, column, "is no blob"),
        }
    }

    fn name(&self, column: usize) -> &str {
        self.as_ref().column_name(column).unwrap_or("?")
    }
}

fn value<'a>(row: &'a Row<'_>, column: usize) -> Result<ValueRef<'a>, Unreadable> {
    row.get_ref(column).map_err(|error| error.to_string())
}

fn refuse<T>(row: &Row<'_>, column: usize, why: &str) -> Result<T, Unreadable> {
    Err(format!("column `{}` {why}", row.name(column)))
}

/// The row that a query gave: its first column is the id, and the second one of a task its number.
fn row_id(kind: Kind, row: &Row<'_>) -> Result<RowId, StoreError> {
    let part = if kind == Kind::Task { row.get(1).or_store_error()? } else { 0 };
    Ok(RowId { kind, id: row.get(0).or_store_error()?, part })
}

impl UnreadableRows {
    /// Forgets those that can be read again, by asking for each.
    pub(super) fn forget_repaired(&self, mut is_readable: impl FnMut(Kind, i64, i64) -> bool) {
        for row in self.rows() {
            if is_readable(row.kind, row.id, row.part) {
                self.forget(row);
            }
        }
    }

    /// Up to `limit` rows that can be understood; the query begins with the columns of a [`RowId`], by which others are
    /// noted.
    pub(super) fn read_all<T>(
        &self,
        db: &Connection,
        kind: Kind,
        sql: &str,
        values: impl Params,
        limit: usize,
        parse: impl Fn(&mut Columns<'_>) -> Result<T, Unreadable>,
    ) -> Result<Vec<T>, StoreError> {
        self.read_until(db, kind, sql, values, parse, |items| items.len() >= limit)
    }

    /// Rows that can be understood until `is_enough`, which is asked before the first and after each.
    pub(super) fn read_until<T>(
        &self,
        db: &Connection,
        kind: Kind,
        sql: &str,
        values: impl Params,
        parse: impl Fn(&mut Columns<'_>) -> Result<T, Unreadable>,
        mut is_enough: impl FnMut(&[T]) -> bool,
    ) -> Result<Vec<T>, StoreError> {
        let mut items = Vec::new();
        if is_enough(&items) {
            return Ok(items);
        }
        let mut statement = db.prepare_cached(sql).or_store_error()?;
        let mut rows = statement.query(values).or_store_error()?;
        while let Some(row) = rows.next().or_store_error()? {
            match parse(&mut Columns::new(row)) {
                Ok(item) => {
                    items.push(item);
                    if is_enough(&items) {
                        break;
                    }
                }
                Err(why) => self.note(row_id(kind, row)?, &why),
            }
        }
        Ok(items)
    }

    /// The one row that is asked for. Unlike in a listing, that it cannot be understood is an error.
    pub(super) fn read_one<T>(
        &self,
        db: &Connection,
        kind: Kind,
        sql: &str,
        values: impl Params,
        parse: impl Fn(&mut Columns<'_>) -> Result<T, Unreadable>,
    ) -> Result<Option<T>, StoreError> {
        let mut statement = db.prepare_cached(sql).or_store_error()?;
        let mut rows = statement.query(values).or_store_error()?;
        let Some(row) = rows.next().or_store_error()? else { return Ok(None) };
        match parse(&mut Columns::new(row)) {
            Ok(item) => Ok(Some(item)),
            Err(why) => {
                let row = row_id(kind, row)?;
                self.note(row, &why);
                Err(StoreError::Corrupt { why: format!("{row} cannot be understood: {why}") })
            }
        }
    }
}
