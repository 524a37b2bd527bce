//! PostgreSQL, reached as our own store reaches it.

use pendula_store::StoreError;
use pendula_store::postgres::{Foreign, foreign};

use super::error::ImportError;
use super::schema::{Column, Table, WANTED};
use super::source::{PAGE, Row, Tables};

pub(super) struct Session {
    connection: Foreign,
    shown: String,
}

impl Session {
    /// Everything is read as it was at one moment.
    pub async fn open(url: &str) -> Result<Session, ImportError> {
        let connection = foreign(url).await.map_err(refusal)?;
        let shown = connection.shown().to_owned();
        let mut session = Session { connection, shown };
        session.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
        Ok(session)
    }

    pub fn shown(&self) -> &str {
        &self.shown
    }

    async fn execute(&mut self, sql: &str) -> Result<(), ImportError> {
        self.connection.batch_execute(sql).await.map_err(|error| failed(&self.shown, &error))
    }

    pub async fn tables(&mut self) -> Result<Tables, ImportError> {
        let named: Vec<_> = WANTED.iter().map(|table| format!("lower(c.relname) LIKE '%{table}'")).collect();
        let sql = format!(
            "SELECT c.relname::text, a.attname::text, (t.typname = 'oid' AND a.attname <> 'id')::text \
             FROM pg_catalog.pg_class c JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid \
             JOIN pg_catalog.pg_type t ON t.oid = a.atttypid \
             WHERE c.relkind IN ('r', 'p', 'v') AND a.attnum > 0 AND NOT a.attisdropped \
             AND c.relnamespace NOT IN ('pg_catalog'::regnamespace, 'information_schema'::regnamespace) \
             AND pg_catalog.pg_table_is_visible(c.oid) AND ({})",
            named.join(" OR ")
        );
        let mut tables = Tables::new();
        for row in self.query(&sql).await? {
            let (name, column): (String, String) = (row.get(0), row.get(1));
            let is_reference = row.get::<_, String>(2) == "true";
            let table = tables.entry(name.to_lowercase()).or_insert_with(|| Table { name, ..Table::default() });
            table.columns.insert(column.to_lowercase(), Column { name: column, is_reference });
        }
        Ok(tables)
    }

    pub async fn page(&mut self, table: &Table, columns: &[&str], after: i64) -> Result<Vec<Row>, ImportError> {
        let present: Vec<_> = table.present(columns).collect();
        let selected: Vec<_> = present.iter().map(|(_, column)| selected(column)).collect();
        // Without the name before it, it would be the text that is selected, and in the order of texts.
        let id = quoted(&table.columns["id"].name);
        let sql = format!(
            "SELECT {} FROM {} AS source WHERE source.{id} > {after} ORDER BY source.{id} LIMIT {PAGE}",
            selected.join(", "),
            quoted(&table.name)
        );
        let rows = self.query(&sql).await?;
        let read = |row: &pendula_store::postgres::ForeignRow| {
            let texts = present.iter().enumerate();
            let texts =
                texts.filter_map(|(index, (name, _))| Some(((*name).to_owned(), row.get::<_, Option<_>>(index)?)));
            Row(texts.collect())
        };
        Ok(rows.iter().map(read).collect())
    }

    async fn query(&mut self, sql: &str) -> Result<Vec<pendula_store::postgres::ForeignRow>, ImportError> {
        self.connection.query(sql, &[]).await.map_err(|error| failed(&self.shown, &error))
    }
}

/// Texts, whatever the column's type. Some installations keep long ones as large objects.
fn selected(column: &Column) -> String {
    let name = quoted(&column.name);
    match column.is_reference {
        true => format!("convert_from(lo_get({name}), 'UTF8')"),
        false => format!("{name}::text"),
    }
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn failed(shown: &str, error: &pendula_store::postgres::ForeignError) -> ImportError {
    match error.as_db_error() {
        Some(said) => ImportError::Refused(format!("cannot read {shown}: {}", said.message())),
        None => ImportError::Unreachable(format!("cannot use {shown}: {error}")),
    }
}

fn refusal(error: StoreError) -> ImportError {
    match error {
        StoreError::Unavailable { why } => ImportError::Unreachable(why),
        error => ImportError::Refused(error.to_string()),
    }
}
