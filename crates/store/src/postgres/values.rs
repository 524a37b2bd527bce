//! Values of statements: single ones, and one array for each column of many rows.
//!
//! Arrays end where nothing but NULLs would follow: side by side, `unnest` fills the shorter ones up. A column that no row
//! of a batch has costs nothing then.

use std::borrow::Cow;
use std::error::Error;

use pendula_model::worker::{BootId, WorkerRef};
use pendula_model::{TaskId, Timestamp};
use tokio_postgres::types::private::BytesMut;
use tokio_postgres::types::{IsNull, ToSql, Type};

#[derive(Clone, Debug)]
pub(super) enum Value<'b> {
    /// `SMALLINT`.
    Code(i16),
    /// `INTEGER`.
    Short(i32),
    /// `BIGINT`, like all below without a word about it.
    Int(i64),
    OptInt(Option<i64>),
    Flag(bool),
    OptFlag(Option<bool>),
    Text(Cow<'b, str>),
    OptText(Option<Cow<'b, str>>),
    Blob(&'b [u8]),
    Ints(Vec<Option<i64>>),
    /// `SMALLINT`.
    Codes(Vec<Option<i16>>),
    OptCodes(Option<Vec<i16>>),
    Flags(Vec<Option<bool>>),
    Texts(Vec<Option<Cow<'b, str>>>),
    Blobs(Vec<Option<&'b [u8]>>),
}

impl<'b> Value<'b> {
    pub fn time(at: Timestamp) -> Value<'b> {
        Value::Int(at.as_micros())
    }

    pub fn opt_time(at: Option<Timestamp>) -> Value<'b> {
        Value::OptInt(micros(at))
    }

    pub fn text(text: &'b str) -> Value<'b> {
        Value::Text(storable(text))
    }

    /// One that was made for the statement.
    pub fn owned(text: String) -> Value<'b> {
        Value::Text(owned(text))
    }

    pub fn owned_texts(texts: impl Iterator<Item = String>) -> Value<'b> {
        Value::Texts(texts.map(|text| Some(owned(text))).collect())
    }

    pub fn count(count: usize) -> Value<'b> {
        Value::Int(i64::try_from(count).unwrap_or(i64::MAX))
    }
}

impl Value<'_> {
    /// Its type in the database. Statements are prepared with those of their values, so that nothing is guessed.
    pub fn kind(&self) -> Type {
        match self {
            Value::Code(_) => Type::INT2,
            Value::Short(_) => Type::INT4,
            Value::Int(_) | Value::OptInt(_) => Type::INT8,
            Value::Flag(_) | Value::OptFlag(_) => Type::BOOL,
            Value::Text(_) | Value::OptText(_) => Type::TEXT,
            Value::Blob(_) => Type::BYTEA,
            Value::Ints(_) => Type::INT8_ARRAY,
            Value::Codes(_) | Value::OptCodes(_) => Type::INT2_ARRAY,
            Value::Flags(_) => Type::BOOL_ARRAY,
            Value::Texts(_) => Type::TEXT_ARRAY,
            Value::Blobs(_) => Type::BYTEA_ARRAY,
        }
    }
}

impl ToSql for Value<'_> {
    fn to_sql(&self, ty: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        match self {
            Value::Code(value) => value.to_sql_checked(ty, out),
            Value::Short(value) => value.to_sql_checked(ty, out),
            Value::Int(value) => value.to_sql_checked(ty, out),
            Value::OptInt(value) => value.to_sql_checked(ty, out),
            Value::Flag(value) => value.to_sql_checked(ty, out),
            Value::OptFlag(value) => value.to_sql_checked(ty, out),
            Value::Text(value) => value.to_sql_checked(ty, out),
            Value::OptText(value) => value.to_sql_checked(ty, out),
            Value::Blob(value) => value.to_sql_checked(ty, out),
            Value::Ints(values) => values.to_sql_checked(ty, out),
            Value::OptCodes(values) => values.to_sql_checked(ty, out),
            Value::Codes(values) => values.to_sql_checked(ty, out),
            Value::Flags(values) => values.to_sql_checked(ty, out),
            Value::Texts(values) => values.to_sql_checked(ty, out),
            Value::Blobs(values) => values.to_sql_checked(ty, out),
        }
    }

    /// Each value looks for itself.
    fn accepts(_: &Type) -> bool {
        true
    }

    fn to_sql_checked(&self, ty: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        self.to_sql(ty, out)
    }
}

/// One column of `rows`, up to the last value.
fn column<R, T>(rows: &[R], value: impl Fn(&R) -> Option<T>) -> Vec<Option<T>> {
    let mut values: Vec<_> = rows.iter().map(value).collect();
    let last = values.iter().rposition(Option::is_some);
    values.truncate(last.map_or(0, |last| last + 1));
    values
}

pub(super) fn ints<'b, R>(rows: &[R], value: impl Fn(&R) -> i64) -> Value<'b> {
    Value::Ints(rows.iter().map(|row| Some(value(row))).collect())
}

pub(super) fn opt_ints<'b, R>(rows: &[R], value: impl Fn(&R) -> Option<i64>) -> Value<'b> {
    Value::Ints(column(rows, value))
}

pub(super) fn times<'b, R>(rows: &[R], value: impl Fn(&R) -> Timestamp) -> Value<'b> {
    ints(rows, |row| value(row).as_micros())
}

pub(super) fn opt_times<'b, R>(rows: &[R], value: impl Fn(&R) -> Option<Timestamp>) -> Value<'b> {
    opt_ints(rows, |row| micros(value(row)))
}

pub(super) fn codes<'b, R>(rows: &[R], value: impl Fn(&R) -> Option<u8>) -> Value<'b> {
    Value::Codes(column(rows, |row| value(row).map(i16::from)))
}

pub(super) fn opt_texts<'b, R>(rows: &[R], value: impl Fn(&R) -> Option<&'b str>) -> Value<'b> {
    Value::Texts(column(rows, |row| value(row).map(storable)))
}

pub(super) fn opt_blobs<'b, R>(rows: &[R], value: impl Fn(&R) -> Option<&'b [u8]>) -> Value<'b> {
    Value::Blobs(column(rows, value))
}

pub(super) fn micros(at: Option<Timestamp>) -> Option<i64> {
    at.map(Timestamp::as_micros)
}

/// PostgreSQL has no text with a zero byte in it. One that a worker sent is shown as a character that cannot be shown,
/// rather than refused with all that is written along with it.
pub(super) fn storable(text: &str) -> Cow<'_, str> {
    match text.as_bytes().contains(&0) {
        true => Cow::Owned(text.replace('\0', "\u{FFFD}")),
        false => Cow::Borrowed(text),
    }
}

fn owned<'b>(text: String) -> Cow<'b, str> {
    Cow::Owned(storable(&text).into_owned())
}

/// A process as it is stored: 64 bits, of which the highest is the sign there.
pub(super) fn stored_boot(boot: BootId) -> i64 {
    boot.0.cast_signed()
}

pub(super) fn boot_of(worker: &Option<WorkerRef>) -> Option<i64> {
    worker.as_ref().map(|worker| stored_boot(worker.boot))
}

pub(super) fn name_of(worker: &Option<WorkerRef>) -> Option<&str> {
    worker.as_ref().map(|worker| &*worker.name)
}

/// A task's number as it is stored. One that is too large for that is that of no task.
pub(super) fn stored_task(id: TaskId) -> i64 {
    i64::try_from(id.0).unwrap_or(i64::MAX)
}
