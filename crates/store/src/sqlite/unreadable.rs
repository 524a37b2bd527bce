//! Rows that could not be understood: told once, skipped by listings, shown in the status until repaired.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use pendula_model::InstanceId;
use rusqlite::{Connection, Params, Row};

use super::error::OrStoreError;
use super::rows::{Columns, Unreadable};
use crate::port::StoreError;

/// Rows remembered at most; a store with more of them needs no longer list.
const REMEMBERED: usize = 1_000;

/// What a row is, for messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    App,
    Job,
    Revision,
    Gap,
    Instance,
    PastAttempt,
    Fanout,
    Task,
    Token,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::App => "app",
            Kind::Job => "job",
            Kind::Revision => "revision of job",
            Kind::Gap => "gap of job",
            Kind::Instance => "instance",
            Kind::PastAttempt => "past attempt of instance",
            Kind::Fanout => "task counts of instance",
            Kind::Task => "task",
            Kind::Token => "token",
        })
    }
}

/// Which row, for messages and to ask for it again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct RowId {
    kind: Kind,
    id: i64,
    /// Of a task, whose `id` is its instance's: its number.
    part: i64,
}

impl RowId {
    /// The row that a query gave: its first column is the id, and the second one of a task its number.
    fn of(kind: Kind, row: &Row<'_>) -> Result<RowId, StoreError> {
        let part = if kind == Kind::Task { row.get(1).or_store_error()? } else { 0 };
        Ok(RowId { kind, id: row.get(0).or_store_error()?, part })
    }
}

impl fmt::Display for RowId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            Kind::Task => write!(f, "task {}/{}", self.id, self.part),
            kind => write!(f, "{kind} {}", self.id),
        }
    }
}

/// The rows that were met; shared by all connections of a store.
#[derive(Clone, Default)]
pub(super) struct UnreadableRows {
    known: Arc<Mutex<BTreeMap<RowId, Unreadable>>>,
}

impl UnreadableRows {
    /// Remembers an instance that makes no sense, and logs it when it is new.
    pub fn note_instance(&self, id: InstanceId, why: &str) {
        self.note(RowId { kind: Kind::Instance, id: id.0, part: 0 }, why);
    }

    fn note(&self, row: RowId, why: &str) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() < REMEMBERED && known.insert(row, why.to_owned()).is_none() {
            tracing::error!(%row, why, "a stored row cannot be understood; it is left out until it is repaired");
        }
    }

    /// Forgets those that can be read again, by asking for each.
    pub fn forget_repaired(&self, mut is_readable: impl FnMut(Kind, i64, i64) -> bool) {
        let rows: Vec<RowId> = self.known.lock().unwrap_or_else(PoisonError::into_inner).keys().copied().collect();
        for row in rows {
            if is_readable(row.kind, row.id, row.part) {
                self.known.lock().unwrap_or_else(PoisonError::into_inner).remove(&row);
            }
        }
    }

    /// One line per row.
    pub fn lines(&self) -> Vec<String> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.iter().map(|(row, why)| format!("{row}: {why}")).collect()
    }

    /// Up to `limit` rows that can be understood; the query begins with the columns of a [`RowId`], by which others are
    /// noted.
    pub fn read_all<T>(
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
    pub fn read_until<T>(
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
                Err(why) => self.note(RowId::of(kind, row)?, &why),
            }
        }
        Ok(items)
    }

    /// The one row that is asked for. Unlike in a listing, that it cannot be understood is an error.
    pub fn read_one<T>(
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
                let row = RowId::of(kind, row)?;
                self.note(row, &why);
                Err(StoreError::Corrupt { why: format!("{row} cannot be understood: {why}") })
            }
        }
    }
}
