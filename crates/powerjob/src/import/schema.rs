//! Which tables are PowerJob's, in whatever else the database has.

use std::collections::BTreeMap;

use super::error::ImportError;
use super::source::Tables;

/// A table as its database knows it.
#[derive(Clone, Debug, Default)]
pub(super) struct Table {
    pub name: String,
    /// The real names of its columns by those in lower case.
    pub columns: BTreeMap<String, Column>,
}

#[derive(Clone, Debug)]
pub(super) struct Column {
    pub name: String,
    /// Whether it only refers to its text (PostgreSQL's large objects).
    pub is_reference: bool,
}

impl Table {
    pub fn has(&self, column: &str) -> bool {
        self.columns.contains_key(column)
    }

    /// Those of `columns` that it has.
    pub fn present<'c>(&'c self, columns: &'c [&str]) -> impl Iterator<Item = (&'c str, &'c Column)> {
        columns.iter().filter_map(|column| Some((*column, self.columns.get(*column)?)))
    }
}

/// Names of tables that are of interest, without the prefix that an installation may have given them.
pub(super) const WANTED: [&str; 8] = [
    "app_info",
    "job_info",
    "namespace",
    "user_info",
    "user_role",
    "workflow_info",
    "workflow_node_info",
    "container_info",
];

/// Without these columns nothing can be said of a job.
const NEEDED: [(&str, &[&str]); 2] = [
    ("app_info", &["id", "app_name"]),
    (
        "job_info",
        &[
            "id",
            "app_id",
            "job_name",
            "status",
            "execute_type",
            "processor_type",
            "processor_info",
            "time_expression_type",
            "time_expression",
        ],
    ),
];

/// Columns that came with PowerJob 4.3, without which a database is an older one's.
const SINCE_4_3: [&str; 4] = ["lifecycle", "alarm_config", "log_config", "tag"];

/// PowerJob's tables.
#[derive(Debug)]
pub(super) struct Schema {
    tables: BTreeMap<&'static str, Table>,
    /// `5.x`, `4.3`, or `before 4.3`.
    pub version: &'static str,
    pub notes: Vec<String>,
}

impl Schema {
    /// # Errors
    ///
    /// What is missing, when this is no database of PowerJob.
    pub fn find(found: &Tables, prefix: Option<&str>) -> Result<Schema, ImportError> {
        let prefix = match prefix {
            Some(prefix) => prefix.to_ascii_lowercase(),
            None => only_prefix(found)?,
        };
        let named = |table: &str| format!("{prefix}{table}");
        let mut missing = Vec::new();
        for (table, columns) in NEEDED {
            match found.get(&named(table)) {
                None => missing.push(format!("the table {}", named(table))),
                Some(found) => missing.extend(
                    columns
                        .iter()
                        .filter(|column| !found.has(column))
                        .map(|column| format!("the column {}.{column}", named(table))),
                ),
            }
        }
        if !missing.is_empty() {
            return Err(no_powerjob(found, &missing));
        }
        let tables: BTreeMap<_, _> =
            WANTED.into_iter().filter_map(|table| Some((table, found.get(&named(table))?.clone()))).collect();
        let (apps, jobs) = (&tables["app_info"], &tables["job_info"]);
        let older: Vec<_> = SINCE_4_3.into_iter().filter(|column| !jobs.has(column)).collect();
        let mut notes = Vec::new();
        let version = match () {
            () if apps.has("namespace_id") || tables.contains_key("namespace") => "5.x",
            () if older.is_empty() => "4.3",
            () => "before 4.3",
        };
        if !older.is_empty() {
            notes.push(format!(
                "{} is older than PowerJob 4.3 (no column {}): read as if these were empty; workers have to be 4.3.0 or later",
                named("job_info"),
                older.join(", ")
            ));
        }
        Ok(Schema { tables, version, notes })
    }

    pub fn table(&self, name: &str) -> Option<&Table> {
        self.tables.get(name)
    }
}

fn only_prefix(found: &Tables) -> Result<String, ImportError> {
    let prefixes = || found.keys().filter_map(|table| table.strip_suffix("job_info"));
    let complete: Vec<_> = prefixes().filter(|prefix| found.contains_key(&format!("{prefix}app_info"))).collect();
    match complete.as_slice() {
        [only] => Ok((*only).to_owned()),
        [] => Ok(prefixes().next().unwrap_or_default().to_owned()),
        several => {
            let named: Vec<_> = several.iter().map(|prefix| format!("`{prefix}`")).collect();
            Err(ImportError::Usage(format!(
                "there are several sets of PowerJob's tables, with the prefixes {}; choose one with --table-prefix",
                named.join(", ")
            )))
        }
    }
}

fn no_powerjob(found: &Tables, missing: &[String]) -> ImportError {
    let there = match found.len() {
        0 => "it has no table of such a name (is it the right database and schema, and may this user read it?)"
            .to_owned(),
        _ => format!("of such tables it has {}", found.keys().map(String::as_str).collect::<Vec<_>>().join(", ")),
    };
    ImportError::Refused(format!("this is no database of PowerJob 4.3 or 5.x: {} missing; {there}", is_or_are(missing)))
}

fn is_or_are(missing: &[String]) -> String {
    format!("{} {}", missing.join(", "), if missing.len() == 1 { "is" } else { "are" })
}
