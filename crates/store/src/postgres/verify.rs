//! Whether the database is one that may be written to: its settings, and every table, column, index and seed row.
//!
//! What must be there is listed in a file for each schema (`migrations/NNNN.pattern`), which a test compares with what the
//! migrations make. A guard that is missing (a unique index, a partition's row) must stop us, because nothing else would
//! notice. What there is beyond the list is another version's, or somebody's, and no fault.

use std::collections::BTreeMap;

use tokio_postgres::Client;

use super::error::OrStoreError;
use super::seed;
use crate::port::StoreError;

/// The patterns of schemas 1, 2, ….
const PATTERNS: &[&str] = &[include_str!("migrations/0001.pattern"), include_str!("migrations/0002.pattern")];

/// Tables of logs are called so; their faults are told by those who keep logs.
const LOGS: &str = "log_";

/// Major versions of PostgreSQL that the tests know.
const VERSIONS: std::ops::RangeInclusive<i32> = 13..=17;

/// How the server is set up: faults that must stop us, and what somebody should look at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Settings {
    pub faults: Vec<String>,
    pub worries: Vec<String>,
}

pub(super) async fn settings(client: &Client) -> Result<Settings, StoreError> {
    // One that does not exist, as in other databases that speak the protocol, is NULL.
    let sql = "SELECT current_setting('server_version_num')::int, current_setting('transaction_read_only'),
                      current_setting('default_transaction_isolation'), current_setting('synchronous_commit', true),
                      current_setting('fsync', true), current_setting('full_page_writes', true),
                      current_setting('server_encoding', true)";
    let row = client.query_one(sql, &[]).await.or_store_error()?;
    let mut found = Settings::default();
    let major = row.get::<_, i32>(0) / 10_000;
    if !VERSIONS.contains(&major) {
        let (first, last) = (VERSIONS.start(), VERSIONS.end());
        found
            .worries
            .push(format!("PostgreSQL {major} is none of the versions {first} to {last} that Pendula is tested with"));
    }
    if row.get::<_, String>(1) != "off" {
        found
            .faults
            .push("the database takes no writes: it is a standby, or default_transaction_read_only is on".to_owned());
    }
    let isolation: String = row.get(2);
    if !["read committed", "repeatable read", "serializable"].contains(&isolation.as_str()) {
        found.faults.push(format!(
            "default_transaction_isolation is {isolation}: set it to read committed, or something stricter"
        ));
    }
    let is = |column: usize, value: &str| row.get::<_, Option<String>>(column).as_deref() == Some(value);
    if is(3, "off") {
        found.faults.push(
            "synchronous_commit is off: what was acknowledged could be lost; set it to on for the server, the database and the \
             user of the URL"
                .to_owned(),
        );
    }
    for (column, name) in [(4, "fsync"), (5, "full_page_writes")] {
        if is(column, "off") {
            found.worries.push(format!("{name} is off: after a crash of the machine the database may be damaged"));
        }
    }
    if !is(6, "UTF8") && row.get::<_, Option<String>>(6).is_some() {
        let encoding: String = row.get(6);
        found.faults.push(format!("the database is encoded in {encoding}: make one with ENCODING 'UTF8'"));
    }
    Ok(found)
}

/// What is missing or altered in the database, logs aside, which has schema `schema` of ours; empty when nothing is.
pub(super) async fn faults(client: &Client, schema: u32) -> Result<Vec<String>, StoreError> {
    let mut faults = compare(&pattern(schema, |table| !table.starts_with(LOGS)), &structure(client).await?);
    // Without tables there are no rows to ask for.
    if faults.is_empty() {
        faults = seed::faults(client).await?;
    }
    Ok(faults)
}

/// The same for the tables of logs.
pub(super) async fn log_faults(client: &Client, schema: u32) -> Result<Vec<String>, StoreError> {
    Ok(compare(&pattern(schema, |table| table.starts_with(LOGS)), &structure(client).await?))
}

/// Each thing that must be there, with what it is.
fn pattern(schema: u32, is_meant: impl Fn(&str) -> bool) -> Vec<(&'static str, &'static str)> {
    let lines = PATTERNS.get((schema as usize).saturating_sub(1)).copied().unwrap_or_default().lines();
    let things = lines.filter(|line| !line.is_empty()).map(|line| line.split_once(" = ").unwrap_or((line, "")));
    things.filter(|(thing, _)| is_meant(table_of(thing))).collect()
}

/// `table.column` for all that this version's schema has.
#[cfg(test)]
pub(super) fn columns() -> impl Iterator<Item = &'static str> {
    let newest = PATTERNS.len() as u32;
    pattern(newest, |_| true).into_iter().filter_map(|(thing, _)| thing.strip_prefix("column "))
}

/// The table that a thing is, or is part of.
fn table_of(thing: &str) -> &str {
    thing.split([' ', '.']).nth(1).unwrap_or_default()
}

/// Each thing of the pattern, with what it is, beside what was found under its name.
fn compare(pattern: &[(&str, &str)], found: &BTreeMap<String, String>) -> Vec<String> {
    let is_lost = |table: &str| !found.contains_key(&format!("table {table}"));
    let mut faults = Vec::new();
    for (thing, what) in pattern {
        match found.get(*thing) {
            Some(is) if plain(is) == plain(what) => {}
            Some(is) => faults.push(format!("{thing} is altered: it is {is}, and must be {what}")),
            // One line is enough for a table with all that belongs to it.
            None if !thing.starts_with("table ") && is_lost(table_of(thing)) => {}
            None => faults.push(format!("{thing} is missing")),
        }
    }
    for (thing, is) in found.iter().filter(|(thing, is)| thing.starts_with("column ") && is.contains(REQUIRED)) {
        let is_ours = pattern.iter().any(|(table, _)| *table == format!("table {}", table_of(thing)));
        if is_ours && pattern.iter().all(|(known, _)| known != thing) {
            faults.push(format!("{thing} is not known here, and every new row must have it ({is})"));
        }
    }
    faults
}

/// Ends the description of a column that every insert must name.
const REQUIRED: &str = "not null, no default";

/// Versions put parentheses and casts of conditions differently.
fn plain(text: &str) -> String {
    let text = ["::smallint", "::bigint", "::integer", "::text"]
        .iter()
        .fold(text.to_owned(), |text, cast| text.replace(cast, ""));
    text.chars().filter(|c| !matches!(c, '(' | ')' | ' ')).collect()
}

/// Every table, column, index and named condition of the current schema, with what it is.
///
/// `pg_catalog` only, by columns that the distributed databases fill too. Conditions that nobody named are left out: each
/// database has names of its own for them.
async fn structure(client: &Client) -> Result<BTreeMap<String, String>, StoreError> {
    let tables = "SELECT c.oid, c.relname::text FROM pg_catalog.pg_class c
        JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname = current_schema() AND c.relkind IN ('r', 'p')";
    let columns =
        "SELECT a.attrelid, a.attnum, a.attname::text, pg_catalog.format_type(a.atttypid, a.atttypmod), a.attnotnull,
            a.atthasdef, CASE WHEN a.attcollation <> t.typcollation THEN l.collname::text END
        FROM pg_catalog.pg_attribute a
        JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
        JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
        LEFT JOIN pg_catalog.pg_collation l ON l.oid = a.attcollation
        WHERE n.nspname = current_schema() AND c.relkind IN ('r', 'p') AND a.attnum > 0 AND NOT a.attisdropped";
    let indexes = "SELECT x.indrelid, i.relname::text, x.indisunique, x.indkey::text, x.indoption::text, x.indisvalid,
            pg_catalog.pg_get_expr(x.indpred, x.indrelid)
        FROM pg_catalog.pg_index x
        JOIN pg_catalog.pg_class i ON i.oid = x.indexrelid
        JOIN pg_catalog.pg_namespace n ON n.oid = i.relnamespace
        WHERE n.nspname = current_schema()";
    let conditions = "SELECT o.conrelid, o.conname::text, o.contype::text FROM pg_catalog.pg_constraint o
        JOIN pg_catalog.pg_namespace n ON n.oid = o.connamespace
        WHERE n.nspname = current_schema() AND o.contype IN ('c', 'f')";
    let names: BTreeMap<u32, String> =
        client.query(tables, &[]).await.or_store_error()?.iter().map(|row| (row.get(0), row.get(1))).collect();
    let mut found: BTreeMap<String, String> =
        names.values().map(|name| (format!("table {name}"), String::new())).collect();
    let mut attributes: BTreeMap<(u32, i16), String> = BTreeMap::new();
    for row in client.query(columns, &[]).await.or_store_error()? {
        let (table, number, name, kind): (u32, i16, String, String) = (row.get(0), row.get(1), row.get(2), row.get(3));
        let Some(owner) = names.get(&table) else { continue };
        let collation = row.get::<_, Option<String>>(6).map(|name| format!(" collate {name}")).unwrap_or_default();
        let rest = match (row.get(4), row.get(5)) {
            (true, false) => REQUIRED,
            (true, true) => "not null",
            (false, _) => "null",
        };
        found.insert(format!("column {owner}.{name}"), format!("{kind}{collation}, {rest}"));
        attributes.insert((table, number), name);
    }
    for row in client.query(indexes, &[]).await.or_store_error()? {
        let (table, name): (u32, String) = (row.get(0), row.get(1));
        let Some(owner) = names.get(&table) else { continue };
        let (keys, options): (String, String) = (row.get(3), row.get(4));
        let options: Vec<i16> = options.split_whitespace().filter_map(|option| option.parse().ok()).collect();
        let mut parts = Vec::new();
        for (index, key) in keys.split_whitespace().filter_map(|key| key.parse::<i16>().ok()).enumerate() {
            let column = attributes.get(&(table, key)).map_or("(an expression)", String::as_str);
            let is_descending = options.get(index).is_some_and(|option| option & 1 == 1);
            parts.push(if is_descending { format!("{column} desc") } else { column.to_owned() });
        }
        let unique = if row.get(2) { "unique " } else { "" };
        let condition = row.get::<_, Option<String>>(6).map(|text| format!(" where {text}")).unwrap_or_default();
        let validity = if row.get(5) { "" } else { ", and unusable because it was never completed" };
        found.insert(format!("index {owner}.{name}"), format!("{unique}on {}{condition}{validity}", parts.join(", ")));
    }
    for row in client.query(conditions, &[]).await.or_store_error()? {
        let (table, name, kind): (u32, String, String) = (row.get(0), row.get(1), row.get(2));
        let Some(owner) = names.get(&table) else { continue };
        if !name.starts_with(&format!("{owner}_")) || !(name.ends_with("_check") || name.ends_with("_fkey")) {
            let kind = if kind == "c" { "check" } else { "foreign key" };
            found.insert(format!("condition {owner}.{name}"), kind.to_owned());
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests;
