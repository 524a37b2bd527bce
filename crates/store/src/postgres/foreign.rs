//! Databases of other programs, to be read.

use std::ops::Deref;
use std::time::Duration;

use deadpool_postgres::ClientWrapper;
use tokio_postgres::Client;
pub use tokio_postgres::{Error as ForeignError, Row as ForeignRow};

use super::connect::{Database, Limits};
use crate::port::StoreError;

/// Of one page of somebody else's table, which may have no index for it.
const STATEMENT: Duration = Duration::from_secs(60);

/// A connection to a database that is not ours.
pub struct Foreign {
    client: ClientWrapper,
    shown: String,
}

impl Foreign {
    /// The URL without the password.
    pub fn shown(&self) -> &str {
        &self.shown
    }
}

impl Deref for Foreign {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

/// Connects to a database by a URL as for a store: any of several hosts, TLS. It has to be a primary.
///
/// # Errors
///
/// [`StoreError::Refused`] when something has to be changed first (the URL, the password), else
/// [`StoreError::Unavailable`]. Neither shows the password.
pub async fn foreign(url: &str) -> Result<Foreign, StoreError> {
    let database = Database::new(url)?;
    let limits = Limits { statement: STATEMENT, idle_in_transaction: Duration::ZERO, ..Limits::default() };
    Ok(Foreign { client: database.session(limits).await?, shown: database.to_string() })
}
