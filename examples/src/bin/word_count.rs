//! A worker that does real work: it counts the words of a text file, tells how far it is, writes a log, can be stopped,
//! and answers with JSON.
//!
//! ```text
//! PENDULA_TOKEN=<worker token> cargo run -p pendula-examples --bin word_count
//! ```
//!
//! A job for it: `{ name: words, processor: { handler: word_count }, params: { path: /usr/share/dict/words } }`. A run
//! may override the path: `pendula job run words --param path=/etc/services --wait`.

use std::collections::HashMap;
use std::path::PathBuf;

use anyhow::Context;
use pendula_worker::{Failure, Handler, Output, Reason, Shutdown, Task, Worker};
use serde::{Deserialize, Serialize};
use tokio::fs::File;
use tokio::io::{AsyncBufReadExt, BufReader};

#[derive(Deserialize)]
struct Params {
    path: PathBuf,
    /// How many of the commonest words to name, at most 100: results are small.
    #[serde(default = "ten")]
    top: usize,
}

fn ten() -> usize {
    10
}

#[derive(Debug, Default, PartialEq, Serialize)]
struct Counts {
    lines: u64,
    words: u64,
    bytes: u64,
    /// Commonest first; among equals in alphabetical order.
    commonest: Vec<(String, u64)>,
}

/// The handler. A type instead of a closure, as one would have with a connection pool or a configuration.
struct WordCount {
    /// A line is logged and progress told each time so many lines are read.
    report_every: u64,
}

#[async_trait::async_trait]
impl Handler for WordCount {
    async fn run(&self, task: Task) -> Result<Output, Failure> {
        let params: Params = task.params_json()?;
        // The work stops where it awaits when the task is asked to stop: nothing needs to be undone here.
        tokio::select! {
            counted = self.count(&task, &params) => {
                let counts = counted?;
                let message = format!("{} words in {} lines", counts.words, counts.lines);
                Ok(Output::json(&counts)?.with_message(message))
            }
            () = task.cancelled() => {
                task.log_line("stopped");
                Err(Failure::new(Reason::FAILED, "stopped before the end of the file"))
            }
        }
    }
}

impl WordCount {
    async fn count(&self, task: &Task, params: &Params) -> Result<Counts, Failure> {
        let path = &params.path;
        // A file that is missing will be missing at the next try too.
        let file = File::open(path)
            .await
            .with_context(|| format!("opening {}", path.display()))
            .map_err(|error| Failure::from_display(error).without_retry())?;
        let size = file.metadata().await?.len();
        task.log().write_line(&format!("reading {} ({size} bytes)", path.display())).await;

        let mut counts = Counts::default();
        let mut by_word: HashMap<String, u64> = HashMap::new();
        let mut lines = BufReader::new(file);
        let mut line = Vec::new();
        loop {
            line.clear();
            let read = lines.read_until(b'\n', &mut line).await?;
            if read == 0 {
                break;
            }
            counts.lines += 1;
            counts.bytes += read as u64;
            for word in
                String::from_utf8_lossy(&line).split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty())
            {
                counts.words += 1;
                *by_word.entry(word.to_lowercase()).or_default() += 1;
            }
            if counts.lines % self.report_every == 0 {
                task.progress((counts.bytes * 1000 / size.max(counts.bytes)) as u32, format!("{} lines", counts.lines));
                task.log().write_line(&format!("{} lines, {} different words", counts.lines, by_word.len())).await;
            }
        }
        counts.commonest = by_word.into_iter().collect();
        counts.commonest.sort_by(|(a, count_a), (b, count_b)| count_b.cmp(count_a).then_with(|| a.cmp(b)));
        counts.commonest.truncate(params.top.min(100));
        Ok(counts)
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let server = std::env::var("PENDULA_SERVER").unwrap_or_else(|_| "http://127.0.0.1:7700".to_owned());
    let worker = Worker::builder(server)
        .token(std::env::var("PENDULA_TOKEN").context("set PENDULA_TOKEN to a worker token of your app")?)
        .label("example", "word_count")
        .slots(4)
        .handler("word_count", WordCount { report_every: 10_000 })
        .build()?;
    let summary = worker.run(Shutdown::on_signals()).await?;
    println!("counted {} files, {} failed", summary.succeeded, summary.failed);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use pendula_worker::testing::TestTask;

    async fn count(text: &[u8], top: usize) -> (Result<Output, Failure>, String) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let params = serde_json::json!({ "path": file.path(), "top": top }).to_string();
        let (task, probe) = TestTask::new("word_count").params(params).build();
        let output = WordCount { report_every: 2 }.run(task).await;
        (output, probe.log_text())
    }

    #[tokio::test]
    async fn it_counts() {
        let (output, log) = count("the cat\nThe dog, the end\n\nétude \u{1F570}".as_bytes(), 2).await;
        let output = output.unwrap();
        assert_eq!(output.message.as_deref(), Some("7 words in 4 lines"));
        let result: serde_json::Value = serde_json::from_slice(&output.result.unwrap().bytes).unwrap();
        assert_eq!(result["commonest"], serde_json::json!([["the", 3], ["cat", 1]]));
        assert!(log.contains("2 lines, 4 different words"), "{log}");
    }

    #[tokio::test]
    async fn a_missing_file_is_not_tried_again() {
        let (task, _probe) = TestTask::new("word_count").params(r#"{"path":"/nonexistent/file"}"#).build();
        let failure = WordCount { report_every: 1 }.run(task).await.unwrap_err();
        assert!(!failure.retry && failure.message.starts_with("opening /nonexistent/file: "), "{failure:?}");
    }

    #[tokio::test]
    async fn it_stops_when_asked() {
        // Nobody writes into this pipe, so reading it would wait for ever.
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&path).status().unwrap();
        assert!(made.success());
        // Open for both, so that opening to read does not wait for a writer.
        let _writer = std::fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
        let (task, probe) = TestTask::new("word_count").params(serde_json::json!({ "path": path }).to_string()).build();
        let running = tokio::spawn(async move { WordCount { report_every: 1 }.run(task).await });
        probe.cancel();
        assert!(running.await.unwrap().unwrap_err().message.contains("stopped"));
    }
}
