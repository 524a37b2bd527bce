//! What PostgreSQL's errors mean to a caller of the store.

use tokio_postgres::Error;
use tokio_postgres::error::{DbError, SqlState};

use crate::port::StoreError;

/// Shortens `?` on calls of the driver: `client.query(…).await.or_store_error()?`.
pub(super) trait OrStoreError<T> {
    fn or_store_error(self) -> Result<T, StoreError>;
}

impl<T> OrStoreError<T> for Result<T, Error> {
    fn or_store_error(self) -> Result<T, StoreError> {
        self.map_err(|error| store_error(&error))
    }
}

/// Sorts an error by what the caller does next.
///
/// What may pass by itself is `Unavailable`, also where the database says that it could not put transactions into an order
/// (40) or that it is a standby now (25006): the caller keeps what it has and tries again.
pub(super) fn store_error(error: &Error) -> StoreError {
    let Some(said) = error.as_db_error() else {
        // A connection that ended, or a value that the driver could not read or write.
        return match error.is_closed() || is_io(error) {
            true => StoreError::Unavailable { why: format!("the connection to the database was lost: {error}") },
            false => StoreError::Corrupt { why: text(error) },
        };
    };
    let why = told(said);
    let code = said.code();
    match &code.code()[..2] {
        // A value that cannot be stored, or a constraint that it breaks.
        "22" | "23" => StoreError::Conflict { what: why },
        // Tables, columns or rights are not what they were when we started.
        "42" | "3D" | "3F" => StoreError::Corrupt { why },
        _ if *code == SqlState::DATA_CORRUPTED || *code == SqlState::INDEX_CORRUPTED => {
            StoreError::Corrupt { why: format!("the database is damaged ({why}); restore it from a backup") }
        }
        "53" if *code == SqlState::DISK_FULL => {
            StoreError::Unavailable { why: "the disk of the database is full; free some space".to_owned() }
        }
        _ => StoreError::Unavailable { why },
    }
}

/// Whether the same transaction, begun anew, may well succeed at once: it lost against another one.
pub(super) fn is_lost_race(error: &Error) -> bool {
    matches!(error.code(), Some(code) if *code == SqlState::T_R_SERIALIZATION_FAILURE || *code == SqlState::T_R_DEADLOCK_DETECTED)
}

/// Whether prepared statements of the connection are not what they were: somebody between us and the database gave us
/// another session, or a table was altered.
pub(super) fn is_stale_statement(error: &Error) -> bool {
    matches!(error.code(), Some(code) if *code == SqlState::INVALID_SQL_STATEMENT_NAME || *code == SqlState::FEATURE_NOT_SUPPORTED)
}

/// Whether the session belongs to a server that takes no writes (any more): connections that are kept lead nowhere.
pub(super) fn is_standby(error: &Error) -> bool {
    error.code() == Some(&SqlState::READ_ONLY_SQL_TRANSACTION)
}

fn is_io(error: &Error) -> bool {
    std::error::Error::source(error).is_some_and(|source| source.is::<std::io::Error>())
}

/// The driver's error with what it wraps.
fn text(error: &Error) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

/// What the database said, without the values of rows that it shows as detail.
fn told(said: &DbError) -> String {
    match said.constraint() {
        Some(constraint) => format!("{} ({}, {constraint})", said.message(), said.code().code()),
        None => format!("{} ({})", said.message(), said.code().code()),
    }
}
