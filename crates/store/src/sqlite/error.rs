//! What SQLite's errors mean to a caller of the store.

use rusqlite::{Error, ErrorCode, ffi};

use crate::port::StoreError;

/// Shortens `?` on rusqlite calls: `db.execute(…).or_store_error()?`.
pub(crate) trait OrStoreError<T> {
    fn or_store_error(self) -> Result<T, StoreError>;
}

impl<T> OrStoreError<T> for Result<T, Error> {
    fn or_store_error(self) -> Result<T, StoreError> {
        self.map_err(store_error)
    }
}

/// Sorts an error by what the caller does next.
pub(crate) fn store_error(error: Error) -> StoreError {
    let text = error.to_string();
    let Error::SqliteFailure(failure, _) = error else {
        // A column of another type, a row that is not there: the file does not hold what this version wrote.
        return StoreError::Corrupt { why: text };
    };
    if failure.extended_code == ffi::SQLITE_IOERR_CORRUPTFS {
        return StoreError::Corrupt { why: format!("the file system reports damage: {text}") };
    }
    match failure.code {
        ErrorCode::DiskFull => StoreError::Unavailable { why: "the disk is full; free some space".to_owned() },
        ErrorCode::ConstraintViolation => StoreError::Conflict { what: text },
        ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase => {
            StoreError::Corrupt { why: format!("the database file is damaged ({text}); restore it from a backup") }
        }
        // "No such table" and the like: somebody changed the schema under us.
        ErrorCode::Unknown | ErrorCode::TypeMismatch | ErrorCode::ApiMisuse | ErrorCode::ParameterOutOfRange => {
            StoreError::Corrupt { why: text }
        }
        // Input and output, permissions, locks, memory: may pass.
        _ => StoreError::Unavailable { why: text },
    }
}
