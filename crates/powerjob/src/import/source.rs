//! Where the rows come from.

use std::collections::BTreeMap;
use std::path::Path;

use super::error::ImportError;
use super::h2::Script;
use super::schema::Table;
use super::{mysql, postgres};

/// Rows that are read at once.
pub(super) const PAGE: usize = 200;

/// A row: the texts of its columns, by their names in lower case. What is NULL is absent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Row(pub BTreeMap<String, String>);

impl Row {
    /// A text that is more than white space.
    pub fn text(&self, column: &str) -> Option<&str> {
        self.0.get(column).map(String::as_str).filter(|text| !text.trim().is_empty())
    }

    pub fn long(&self, column: &str) -> Option<i64> {
        self.0.get(column)?.trim().parse().ok()
    }
}

/// Tables by their names in lower case.
pub(super) type Tables = BTreeMap<String, Table>;

pub(super) enum Source {
    MySql(mysql::Session),
    Postgres(postgres::Session),
    Script(Script),
}

impl Source {
    /// # Errors
    ///
    /// What was typed wrong, or why the database cannot be used.
    pub async fn open(from: &str) -> Result<Source, ImportError> {
        if from.starts_with("mysql://") {
            return mysql::Session::open(from).await.map(Source::MySql);
        }
        if from.starts_with("postgres://") || from.starts_with("postgresql://") {
            return postgres::Session::open(from).await.map(Source::Postgres);
        }
        if let Some((scheme, _)) = from.split_once("://") {
            let hint = match scheme {
                _ if scheme.starts_with("jdbc:") => "; leave out `jdbc:`, and write user and password into it",
                "mariadb" => "; write mysql://",
                _ => "",
            };
            return Err(ImportError::Usage(format!(
                "databases are named mysql://USER:PASSWORD@HOST:3306/DATABASE or \
                 postgres://USER:PASSWORD@HOST:5432/DATABASE{hint}"
            )));
        }
        let path = Path::new(from).to_owned();
        let read = tokio::task::spawn_blocking(move || Script::read(&path)).await;
        read.map_err(|error| ImportError::Refused(error.to_string()))?.map(Source::Script)
    }

    /// As people may see it: without the password.
    pub fn shown(&self) -> &str {
        match self {
            Source::MySql(session) => session.shown(),
            Source::Postgres(session) => session.shown(),
            Source::Script(script) => script.shown(),
        }
    }

    pub async fn tables(&mut self) -> Result<Tables, ImportError> {
        match self {
            Source::MySql(session) => session.tables().await,
            Source::Postgres(session) => session.tables().await,
            Source::Script(script) => Ok(script.tables()),
        }
    }

    /// At most [`PAGE`] rows whose `id` is greater than `after`, by `id`. Of `columns`, those that the table has.
    pub async fn page(&mut self, table: &Table, columns: &[&str], after: i64) -> Result<Vec<Row>, ImportError> {
        match self {
            Source::MySql(session) => session.page(table, columns, after).await,
            Source::Postgres(session) => session.page(table, columns, after).await,
            Source::Script(script) => Ok(script.page(table, columns, after)),
        }
    }
}
