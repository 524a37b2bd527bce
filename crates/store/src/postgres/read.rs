//! Reading rows: what cannot be understood is noted and left out.

use std::time::Duration;

use deadpool_postgres::{GenericClient, Object, Transaction};
use tokio_postgres::types::{FromSql, ToSql, Type};
use tokio_postgres::{IsolationLevel, Row, Statement};

use super::connect::Lane;
use super::error::OrStoreError;
use super::values::Value;
use crate::port::StoreError;
use crate::rows::{Columns, StoredRow, Unreadable};
use crate::unreadable::{Kind, RowId, UnreadableRows};

impl StoredRow for Row {
    fn int(&self, column: usize) -> Result<Option<i64>, Unreadable> {
        match *self.columns()[column].type_() {
            Type::INT2 => Ok(get::<i16>(self, column)?.map(i64::from)),
            Type::INT4 => Ok(get::<i32>(self, column)?.map(i64::from)),
            Type::BOOL => Ok(get::<bool>(self, column)?.map(i64::from)),
            _ => get::<i64>(self, column),
        }
    }

    fn text(&self, column: usize) -> Result<Option<&str>, Unreadable> {
        get(self, column)
    }

    fn blob(&self, column: usize) -> Result<Option<&[u8]>, Unreadable> {
        get(self, column)
    }

    fn name(&self, column: usize) -> &str {
        self.columns().get(column).map_or("?", |column| column.name())
    }
}

fn get<'a, T: FromSql<'a>>(row: &'a Row, column: usize) -> Result<Option<T>, Unreadable> {
    row.try_get(column).map_err(|error| format!("column `{}` cannot be read: {error}", row.name(column)))
}

/// Does some work with a connection of a lane, within a time that nothing should take. A database that says nothing for so
/// long although the connection stands is not waited for any longer: its place may have been taken meanwhile.
///
/// A connection by which the database could not do as asked is not used again: it may lead to one that was the primary.
pub(super) async fn within<T>(
    lane: &Lane,
    deadline: Duration,
    work: impl AsyncFnOnce(&mut Object) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    let mut client = lane.get().await?;
    let outcome = tokio::time::timeout(deadline, work(&mut client)).await.unwrap_or_else(|_| {
        let why = format!("the database has said nothing for {} s: it is stuck, or far away", deadline.as_secs());
        Err(StoreError::Unavailable { why })
    });
    if matches!(outcome, Err(StoreError::Unavailable { .. })) {
        drop(Object::take(client));
    }
    outcome
}

/// A statement for these values. The database is asked only the first time on a connection.
pub(super) async fn prepared(
    client: &impl GenericClient,
    sql: &'static str,
    values: &[Value<'_>],
) -> Result<Statement, StoreError> {
    let kinds: Vec<_> = values.iter().map(Value::kind).collect();
    client.prepare_typed_cached(sql, &kinds).await.or_store_error()
}

/// Runs a query.
pub(super) async fn query(
    client: &impl GenericClient,
    sql: &'static str,
    values: &[Value<'_>],
) -> Result<Vec<Row>, StoreError> {
    let statement = prepared(client, sql, values).await?;
    let values: Vec<&(dyn ToSql + Sync)> = values.iter().map(|value| value as &(dyn ToSql + Sync)).collect();
    client.query(&statement, &values).await.or_store_error()
}

/// Runs a statement and returns how many rows it wrote.
pub(super) async fn execute(
    client: &impl GenericClient,
    sql: &'static str,
    values: &[Value<'_>],
) -> Result<u64, StoreError> {
    let statement = prepared(client, sql, values).await?;
    client.execute_raw(&statement, values).await.or_store_error()
}

/// A transaction in which all queries see the same moment. It locks nothing; committing it only ends it.
pub(super) async fn at_one_moment(client: &mut Object) -> Result<Transaction<'_>, StoreError> {
    let transaction = client.build_transaction().isolation_level(IsolationLevel::RepeatableRead).read_only(true);
    transaction.start().await.or_store_error()
}

/// The row that a query gave: its first column is the id, and the second one of a task its number.
fn row_id(kind: Kind, row: &Row) -> Result<RowId, StoreError> {
    let part = if kind == Kind::Task { row.try_get(1).or_store_error()? } else { 0 };
    Ok(RowId { kind, id: row.try_get(0).or_store_error()?, part })
}

impl UnreadableRows {
    /// What can be understood of `rows`; they begin with the columns of a [`RowId`], by which others are noted.
    pub(super) fn sift<T>(
        &self,
        kind: Kind,
        rows: &[Row],
        parse: impl Fn(&mut Columns<'_>) -> Result<T, Unreadable>,
    ) -> Result<Vec<T>, StoreError> {
        let mut items = Vec::with_capacity(rows.len());
        for row in rows {
            match parse(&mut Columns::new(row)) {
                Ok(item) => items.push(item),
                Err(why) => self.note(row_id(kind, row)?, &why),
            }
        }
        Ok(items)
    }

    /// The one row that is asked for. Unlike in a listing, that it cannot be understood is an error.
    pub(super) fn only<T>(
        &self,
        kind: Kind,
        rows: &[Row],
        parse: impl Fn(&mut Columns<'_>) -> Result<T, Unreadable>,
    ) -> Result<Option<T>, StoreError> {
        let Some(row) = rows.first() else { return Ok(None) };
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

/// Rows that a listing asks for at once.
///
/// A listing counts only what can be understood, so it may have to ask again. It never asks for more than this: what is
/// wanted may be everything.
pub(super) const PAGE: usize = 1_000;

/// How many rows to ask for to get `wanted` more.
pub(super) fn page(wanted: usize) -> usize {
    wanted.min(PAGE)
}
