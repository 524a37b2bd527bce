//! MySQL and MariaDB.

use std::time::Duration;

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, DriverError, Error, IoError, Opts, OptsBuilder, Value};
use percent_encoding::percent_decode_str;

use super::error::ImportError;
use super::schema::{Column, Table, WANTED};
use super::source::{PAGE, Row, Tables};

/// Until the server has let us in.
const PATIENCE: Duration = Duration::from_secs(10);

pub(super) struct Session {
    connection: Conn,
    shown: String,
}

impl Session {
    /// Everything is read as it was at one moment.
    pub async fn open(url: &str) -> Result<Session, ImportError> {
        let wrong = |why: String| ImportError::Usage(format!("the URL of the database: {why}"));
        let (url, authority) = without_authority(url);
        let options = Opts::from_url(&url).map_err(|error| wrong(error.to_string()))?;
        let tls = match authority {
            None => options.ssl_opts().cloned(),
            Some(file) => {
                let certificates =
                    std::fs::read(&file).map_err(|error| wrong(format!("reading ssl_ca ({file}): {error}")))?;
                let tls = options.ssl_opts().cloned().unwrap_or_default();
                Some(tls.with_root_certs(vec![certificates.into()]))
            }
        };
        let Some(database) = options.db_name() else {
            return Err(wrong("it names no database: mysql://USER:PASSWORD@HOST:3306/DATABASE".to_owned()));
        };
        let place = format!("{}:{}", options.ip_or_hostname(), options.tcp_port());
        let shown = match options.user() {
            Some(user) => format!("mysql://{user}@{place}/{database}"),
            None => format!("mysql://{place}/{database}"),
        };
        let connect = async {
            let mut connection = Conn::new(OptsBuilder::from_opts(options).prefer_socket(false).ssl_opts(tls)).await?;
            connection.query_drop("SET NAMES utf8mb4").await?;
            connection.query_drop("START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY").await?;
            Ok::<_, Error>(connection)
        };
        match tokio::time::timeout(PATIENCE, connect).await {
            Ok(Ok(connection)) => Ok(Session { connection, shown }),
            Ok(Err(error)) => Err(refusal(&shown, error)),
            Err(_) => {
                let why = format!("cannot use {shown}: no answer from {place} within {} s", PATIENCE.as_secs());
                Err(ImportError::Unreachable(why))
            }
        }
    }

    pub fn shown(&self) -> &str {
        &self.shown
    }

    pub async fn tables(&mut self) -> Result<Tables, ImportError> {
        let named: Vec<_> = WANTED.iter().map(|table| format!("LOWER(table_name) LIKE '%{table}'")).collect();
        let sql = format!(
            "SELECT table_name, column_name FROM information_schema.columns \
             WHERE table_schema = DATABASE() AND ({}) ORDER BY table_name, ordinal_position",
            named.join(" OR ")
        );
        let mut tables = Tables::new();
        for [table, column] in self.texts::<2>(&sql).await? {
            let (Some(name), Some(column)) = (table, column) else { continue };
            let table = tables.entry(name.to_lowercase()).or_insert_with(|| Table { name, ..Table::default() });
            table.columns.insert(column.to_lowercase(), Column { name: column, is_reference: false });
        }
        Ok(tables)
    }

    pub async fn page(&mut self, table: &Table, columns: &[&str], after: i64) -> Result<Vec<Row>, ImportError> {
        let present: Vec<_> = table.present(columns).collect();
        let selected: Vec<_> = present.iter().map(|(_, column)| quoted(&column.name)).collect();
        let id = quoted(&table.columns["id"].name);
        let sql = format!(
            "SELECT {} FROM {} WHERE {id} > {after} ORDER BY {id} LIMIT {PAGE}",
            selected.join(", "),
            quoted(&table.name)
        );
        let rows = self.query(&sql).await?;
        let read = |row: mysql_async::Row| {
            let texts = row.unwrap().into_iter().map(text);
            let texts = present.iter().zip(texts).filter_map(|((name, _), text)| Some(((*name).to_owned(), text?)));
            Row(texts.collect())
        };
        Ok(rows.into_iter().map(read).collect())
    }

    async fn texts<const N: usize>(&mut self, sql: &str) -> Result<Vec<[Option<String>; N]>, ImportError> {
        let rows = self.query(sql).await?;
        let rows = rows.into_iter().map(|row| row.unwrap().into_iter().map(text).collect::<Vec<_>>().try_into());
        Ok(rows.filter_map(Result::ok).collect())
    }

    async fn query(&mut self, sql: &str) -> Result<Vec<mysql_async::Row>, ImportError> {
        self.connection.query(sql).await.map_err(|error| refusal(&self.shown, error))
    }
}

/// Takes `ssl_ca=FILE` out of a URL: the certificates of a private authority, for which the driver has no parameter.
fn without_authority(url: &str) -> (String, Option<String>) {
    let Some((place, query)) = url.split_once('?') else { return (url.to_owned(), None) };
    let (mut authority, mut others) = (None, Vec::new());
    for parameter in query.split('&') {
        match parameter.strip_prefix("ssl_ca=") {
            Some(file) => authority = Some(percent_decode_str(file).decode_utf8_lossy().into_owned()),
            None => others.push(parameter),
        }
    }
    let query = if others.is_empty() { String::new() } else { format!("?{}", others.join("&")) };
    (format!("{place}{query}"), authority)
}

fn quoted(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

/// The text protocol gives bytes; a `bit` column's are no text.
fn text(value: Value) -> Option<String> {
    match value {
        Value::NULL => None,
        Value::Bytes(bytes) => Some(String::from_utf8_lossy(&bytes).into_owned()),
        other => Some(other.as_sql(true).trim_matches('\'').to_owned()),
    }
}

fn refusal(shown: &str, error: Error) -> ImportError {
    match error {
        Error::Server(error) => ImportError::Refused(format!("cannot read {shown}: {}", error.message)),
        Error::Io(IoError::Tls(error)) => ImportError::Refused(format!(
            "cannot use {shown}: TLS: {error} (ssl_ca=FILE of the URL names the certificates of a private authority)"
        )),
        Error::Io(_) | Error::Driver(DriverError::ConnectionClosed) => {
            ImportError::Unreachable(format!("cannot use {shown}: {error}; does MySQL or MariaDB run there?"))
        }
        error => ImportError::Refused(format!("cannot read {shown}: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authority_is_taken_out_of_a_url() {
        for (url, expect, authority) in [
            ("mysql://h/d", "mysql://h/d", None),
            ("mysql://h/d?ssl_ca=/etc/a%20b.pem", "mysql://h/d", Some("/etc/a b.pem")),
            ("mysql://h/d?a=1&ssl_ca=c&require_ssl=true", "mysql://h/d?a=1&require_ssl=true", Some("c")),
        ] {
            assert_eq!(without_authority(url), (expect.to_owned(), authority.map(str::to_owned)));
        }
    }
}
