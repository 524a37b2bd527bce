//! Rows that could not be understood: told once, skipped by listings, shown in the status until repaired.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

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
            Kind::Token => "token",
        })
    }
}

/// The rows that were met; shared by all connections of a store.
#[derive(Clone, Default)]
pub(super) struct UnreadableRows {
    known: Arc<Mutex<BTreeMap<(Kind, i64), Unreadable>>>,
}

impl UnreadableRows {
    /// Remembers a row, and logs it when it is new.
    pub fn note(&self, kind: Kind, id: i64, why: &str) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() < REMEMBERED && known.insert((kind, id), why.to_owned()).is_none() {
            tracing::error!(%kind, id, why, "a stored row cannot be understood; it is left out until it is repaired");
        }
    }

    /// Forgets a row that was read well.
    pub fn forget(&self, kind: Kind, id: i64) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).remove(&(kind, id));
    }

    /// Ids of the rows of a kind that are remembered.
    pub fn ids(&self, kind: Kind) -> Vec<i64> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.keys().filter(|key| key.0 == kind).map(|key| key.1).collect()
    }

    /// One line per row.
    pub fn lines(&self) -> Vec<String> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.iter().map(|((kind, id), why)| format!("{kind} {id}: {why}")).collect()
    }

    /// Up to `limit` rows that can be understood; the query's first column is the id by which others are noted.
    pub fn read_all<T>(
        &self,
        db: &Connection,
        kind: Kind,
        sql: &str,
        values: impl Params,
        limit: usize,
        parse: impl Fn(&mut Columns<'_>) -> Result<T, Unreadable>,
    ) -> Result<Vec<T>, StoreError> {
        let mut statement = db.prepare_cached(sql).or_store_error()?;
        let mut rows = statement.query(values).or_store_error()?;
        let mut items = Vec::new();
        while items.len() < limit
            && let Some(row) = rows.next().or_store_error()?
        {
            match parse(&mut Columns::new(row)) {
                Ok(item) => items.push(item),
                Err(why) => self.note(kind, id_of(row)?, &why),
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
                let id = id_of(row)?;
                self.note(kind, id, &why);
                Err(StoreError::Corrupt { why: format!("{kind} {id} cannot be understood: {why}") })
            }
        }
    }
}

fn id_of(row: &Row<'_>) -> Result<i64, StoreError> {
    row.get(0).or_store_error()
}
