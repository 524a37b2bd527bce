//! Exports a table of an SQLite database to CSV, in shards: each takes the rows whose key leaves its index when divided
//! by the number of shards, and writes a file of its own.
//!
//! A file appears complete or not at all, so a shard that runs again, here or elsewhere, replaces it by the same. Each
//! shard sees the table as it is when it begins: export what does not change meanwhile.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use pendula_worker::{Failure, Handler, Output, Reason, Shard, Task};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags};
use serde::{Deserialize, Serialize};

use crate::wrong_mode;

/// How many rows are written before the shard looks whether it is asked to stop.
const ROWS_AT_ONCE: u64 = 1000;

#[derive(Clone, Deserialize)]
struct Params {
    database: PathBuf,
    table: String,
    /// A column of whole numbers.
    key: String,
    /// Where the files are written; made when it is missing.
    folder: PathBuf,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Exported {
    file: String,
    rows: u64,
    bytes: u64,
}

/// The handler.
pub struct ExportTable;

#[async_trait]
impl Handler for ExportTable {
    async fn run(&self, task: Task) -> Result<Output, Failure> {
        let params: Params = task.params_json()?;
        let shard = task.shard().ok_or_else(|| wrong_mode("sharded"))?;
        let asked = task.clone();
        // The database blocks, and many rows take long.
        let exported = tokio::task::spawn_blocking(move || export(&asked, &params, shard)).await??;
        let message = format!("{} rows in {}", exported.rows, exported.file);
        task.log_line(&message);
        Ok(Output::json(&exported)?.with_message(message))
    }
}

fn export(task: &Task, params: &Params, shard: Shard) -> Result<Exported, Failure> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let database = Connection::open_with_flags(&params.database, flags)
        .map_err(|error| Failure::from_display(format!("opening {}: {error}", params.database.display())))?;
    // The key is written with its table, because SQLite takes a lone "name" that it does not know for a text.
    let (table, key) = (quoted(&params.table), format!("t.{}", quoted(&params.key)));
    let sql = format!(
        "SELECT typeof({key}), t.* FROM {table} AS t \
         WHERE typeof({key}) <> 'integer' OR (({key} % ?1) + ?1) % ?1 = ?2 ORDER BY {key}"
    );
    let mut rows_of_shard = database.prepare(&sql).map_err(|error| {
        Failure::new(Reason::INVALID_DEFINITION, format!("table {table}, key {key}: {error}")).without_retry()
    })?;
    let columns: Vec<String> = rows_of_shard.column_names().skip(1).map(str::to_owned).collect();

    let file = format!("part-{:05}-of-{:05}.csv", shard.index, shard.total);
    std::fs::create_dir_all(&params.folder)?;
    let mut part = Part::begin(&params.folder, &file, task)?;
    part.write_row(columns.iter().map(|name| ValueRef::Text(name.as_bytes())))?;
    let mut rows = 0;
    let mut found = rows_of_shard.query([shard.total, shard.index])?;
    while let Some(row) = found.next()? {
        if row.get_ref(0)? != ValueRef::Text(b"integer") {
            // No shard would have it, and nobody would notice.
            let message = format!("a row of {table} has no whole number as {key}");
            return Err(Failure::from_display(message).without_retry());
        }
        let values: Result<Vec<_>, _> = (1..=columns.len()).map(|column| row.get_ref(column)).collect();
        part.write_row(values?.into_iter())?;
        rows += 1;
        if rows % ROWS_AT_ONCE == 0 && task.is_cancelled() {
            return Err(Failure::from_display("stopped before the last row"));
        }
    }
    let bytes = part.complete()?;
    Ok(Exported { file, rows, bytes })
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A file in the making. It has another name until it is complete, and is removed if that never happens.
struct Part {
    writer: BufWriter<File>,
    bytes: u64,
    temporary: PathBuf,
    path: PathBuf,
}

impl Part {
    fn begin(folder: &Path, file: &str, task: &Task) -> io::Result<Part> {
        // Another try may still be writing, on a worker that was given up for lost: not to the same file. What such a
        // one left goes, and with it the way to complete it late.
        let temporary = |attempt| folder.join(format!(".{file}.{}-{attempt}", task.instance()));
        for earlier in 1..task.attempt() {
            let _ = std::fs::remove_file(temporary(earlier));
        }
        let temporary = temporary(task.attempt());
        let writer = BufWriter::new(File::create(&temporary)?);
        Ok(Part { writer, bytes: 0, temporary, path: folder.join(file) })
    }

    fn write_row<'a>(&mut self, values: impl Iterator<Item = ValueRef<'a>>) -> io::Result<()> {
        let mut line = Vec::new();
        for (position, value) in values.enumerate() {
            if position > 0 {
                line.push(b',');
            }
            match value {
                ValueRef::Null => {}
                ValueRef::Integer(number) => write!(line, "{number}")?,
                ValueRef::Real(number) => write!(line, "{number}")?,
                ValueRef::Text(text) => push_text(&mut line, text),
                ValueRef::Blob(bytes) => bytes.iter().try_for_each(|byte| write!(line, "{byte:02x}"))?,
            }
        }
        line.push(b'\n');
        self.bytes += line.len() as u64;
        self.writer.write_all(&line)
    }

    /// Puts it where readers look for it, once it is on disk. Returns its size in bytes.
    fn complete(mut self) -> io::Result<u64> {
        self.writer.flush()?;
        self.writer.get_ref().sync_all()?;
        std::fs::rename(&self.temporary, &self.path)?;
        Ok(self.bytes)
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // Not there any more once it is complete.
        let _ = std::fs::remove_file(&self.temporary);
    }
}

/// Empty text is quoted, which tells it from no value.
fn push_text(line: &mut Vec<u8>, text: &[u8]) {
    let is_plain = !text.is_empty() && !text.iter().any(|byte| matches!(byte, b',' | b'"' | b'\n' | b'\r'));
    if is_plain {
        return line.extend_from_slice(text);
    }
    line.push(b'"');
    for byte in text {
        line.extend_from_slice(if *byte == b'"' { b"\"\"" } else { std::slice::from_ref(byte) });
    }
    line.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use pendula_worker::testing::TestTask;
    use serde_json::json;

    /// A database with a table of orders, and a folder for the export.
    struct Orders {
        home: tempfile::TempDir,
    }

    impl Orders {
        fn new(insert: &str) -> Orders {
            let home = tempfile::tempdir().unwrap();
            let database = Connection::open(home.path().join("orders.db")).unwrap();
            let create = "CREATE TABLE \"my orders\" (number, customer TEXT, total REAL, seal BLOB);";
            database.execute_batch(&format!("{create} {insert}")).unwrap();
            Orders { home }
        }

        fn folder(&self) -> PathBuf {
            self.home.path().join("export")
        }

        fn task(&self, index: u32, total: u32) -> TestTask {
            let database = self.home.path().join("orders.db");
            let params =
                json!({ "database": database, "table": "my orders", "key": "number", "folder": self.folder() });
            TestTask::new("export_table").shard(index, total).params(params.to_string())
        }

        async fn export(&self, index: u32, total: u32) -> Result<Exported, Failure> {
            let output = ExportTable.run(self.task(index, total).build().0).await?;
            Ok(serde_json::from_slice(&output.result.unwrap().bytes).unwrap())
        }

        fn files(&self) -> Vec<String> {
            let entries = std::fs::read_dir(self.folder()).into_iter().flatten();
            let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            names
        }
    }

    const HUNDRED: &str = "WITH RECURSIVE n(i) AS (SELECT -9 UNION ALL SELECT i + 1 FROM n WHERE i < 90) \
                           INSERT INTO \"my orders\" SELECT i, 'customer ' || i, i + 0.5, NULL FROM n;";

    #[tokio::test]
    async fn all_shards_together_have_each_row_once() {
        let orders = Orders::new(HUNDRED);
        let (mut keys, mut rows) = (Vec::new(), 0);
        for index in 0..7 {
            let exported = orders.export(index, 7).await.unwrap();
            let text = std::fs::read_to_string(orders.folder().join(&exported.file)).unwrap();
            assert_eq!(text.len() as u64, exported.bytes);
            let mut lines = text.lines();
            assert_eq!(lines.next(), Some("number,customer,total,seal"));
            keys.extend(lines.map(|line| line.split(',').next().unwrap().parse::<i64>().unwrap()));
            rows += exported.rows;
        }
        keys.sort_unstable();
        assert_eq!(keys, (-9..=90).collect::<Vec<_>>());
        assert_eq!((rows, orders.files().len()), (100, 7), "and nothing else lies in the folder");
    }

    #[tokio::test]
    async fn a_shard_that_runs_again_replaces_its_file_by_the_same() {
        let orders = Orders::new(HUNDRED);
        let first = orders.export(1, 3).await.unwrap();
        let text = std::fs::read(orders.folder().join(&first.file)).unwrap();
        assert_eq!(orders.export(1, 3).await.unwrap(), first);
        assert_eq!(std::fs::read(orders.folder().join(&first.file)).unwrap(), text);
        assert_eq!(orders.files(), ["part-00001-of-00003.csv"]);
    }

    #[tokio::test]
    async fn what_a_killed_try_left_goes_with_the_next() {
        let orders = Orders::new(HUNDRED);
        std::fs::create_dir(orders.folder()).unwrap();
        std::fs::write(orders.folder().join(".part-00000-of-00002.csv.1-1"), "half a row").unwrap();
        let (task, _probe) = orders.task(0, 2).attempt(pendula_worker::InstanceId(1), 3).build();
        ExportTable.run(task).await.unwrap();
        assert_eq!(orders.files(), ["part-00000-of-00002.csv"]);
    }

    #[tokio::test]
    async fn values_that_are_not_plain_are_quoted() {
        let orders = Orders::new(
            "INSERT INTO \"my orders\" VALUES (1, 'a, \"b\"' || char(10) || 'c', 2.5, x'00ff'), (2, '', NULL, NULL);",
        );
        let exported = orders.export(0, 1).await.unwrap();
        let text = std::fs::read_to_string(orders.folder().join(exported.file)).unwrap();
        assert_eq!(text, "number,customer,total,seal\n1,\"a, \"\"b\"\"\nc\",2.5,00ff\n2,\"\",,\n");
    }

    #[tokio::test]
    async fn a_row_that_no_shard_would_have_fails_the_export_and_leaves_no_file() {
        for key in ["NULL", "'7'", "7.5"] {
            let orders = Orders::new(&format!("INSERT INTO \"my orders\" VALUES ({key}, 'x', 1, NULL);"));
            let failure = orders.export(0, 2).await.unwrap_err();
            assert!(!failure.retry && failure.message.contains("no whole number"), "{failure:?}");
            assert_eq!(orders.files(), Vec::<String>::new());
        }
    }

    #[tokio::test]
    async fn an_unknown_key_or_table_is_not_tried_again() {
        let orders = Orders::new("");
        for (field, name) in [("key", "nmuber"), ("table", "orders\" --")] {
            let (task, _probe) = orders.task(0, 1).build();
            let mut params: serde_json::Value = task.params_json().unwrap();
            params[field] = name.into();
            let (task, _probe) = TestTask::new("export_table").shard(0, 1).params(params.to_string()).build();
            let failure = ExportTable.run(task).await.unwrap_err();
            assert!(failure.reason == Reason::INVALID_DEFINITION && !failure.retry, "{failure:?}");
        }
    }

    #[tokio::test]
    async fn a_stop_ends_it_and_leaves_no_file() {
        let many = HUNDRED.replace("i < 90", "i < 50000");
        let orders = Orders::new(&many);
        let (task, probe) = orders.task(0, 1).build();
        probe.cancel();
        assert!(ExportTable.run(task).await.unwrap_err().message.contains("stopped"));
        assert_eq!(orders.files(), Vec::<String>::new());
    }
}
