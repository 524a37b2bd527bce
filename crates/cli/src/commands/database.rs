//! What commands that talk to the database itself have in common: how it is named, and how it says no.

use pendula_store::StoreError;

use crate::failure::{Failure, Outcome};

/// A URL as it was typed. What is wrong with the rest of it is for the store to say. Neither repeats it, because it may
/// hold a password.
pub(super) fn checked<'u>(option: &str, url: &'u str) -> Outcome<&'u str> {
    if url.starts_with("postgres://") || url.starts_with("postgresql://") {
        return Ok(url);
    }
    Err(Failure::usage(format!("{option} (or PENDULA_DATABASE) has to be postgres://USER:PASSWORD@HOST:PORT/DATABASE")))
}

pub(super) fn failure(error: StoreError) -> Failure {
    match error {
        StoreError::Unavailable { why } => Failure::unreachable(why),
        error => Failure::refused(error.to_string()),
    }
}
