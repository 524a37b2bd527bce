//! Counts the words of a folder of text files, by map-reduce: the root emits a sub-task for each file, a large file one
//! for each range of it, and the reduce merges what they counted.
//!
//! All workers must see the folder under the same path.

use std::collections::BTreeMap;
use std::io::SeekFrom;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use pendula_worker::{Failure, Handler, Output, SubTask, Task, TaskRole};
use serde::{Deserialize, Serialize};
use tokio::fs::File;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncSeekExt, BufReader};

use crate::wrong_mode;

/// A longer word counts by so many characters of it, so that no text makes results large.
const WORD_CHARS: usize = 60;
/// Of the commonest words that are named, because the result of an instance is small.
const MOST_NAMED: usize = 100;

#[derive(Deserialize)]
struct Params {
    folder: PathBuf,
    /// Only files whose names end so.
    #[serde(default)]
    suffix: String,
    /// A larger file is counted in ranges of so many bytes. What one range leaves must fit into a result of 1 MiB.
    #[serde(default = "quarter_mebibyte")]
    range_bytes: u64,
    /// How many of the commonest words to name, at most 100.
    #[serde(default = "ten")]
    top: usize,
}

fn quarter_mebibyte() -> u64 {
    256 * 1024
}

fn ten() -> usize {
    10
}

/// What a sub-task is given.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Piece {
    path: PathBuf,
    /// From this byte to before that one; the whole file without.
    range: Option<(u64, u64)>,
}

/// What a sub-task leaves. Merging two is adding them.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct Counted {
    /// 1 for a file, 0 for a range of one.
    files: u64,
    lines: u64,
    words: u64,
    by_word: BTreeMap<String, u64>,
}

/// What the reduce leaves.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Totals {
    files: u64,
    lines: u64,
    words: u64,
    different: usize,
    /// Commonest first; among equals in alphabetical order.
    commonest: Vec<(String, u64)>,
    /// Files and ranges that nobody could count; only where the job tolerates some.
    uncounted: Vec<String>,
}

/// The handler.
pub struct WordCountFolder;

#[async_trait]
impl Handler for WordCountFolder {
    async fn run(&self, task: Task) -> Result<Output, Failure> {
        let params: Params = task.params_json()?;
        match task.role() {
            Some(TaskRole::Root) => emit_files(&task, &params).await,
            // It stops where it awaits when the task is asked to stop: nothing needs to be undone.
            Some(TaskRole::Sub) => tokio::select! {
                counted = count_or_split(&task, &params) => counted,
                () = task.cancelled() => Err(Failure::from_display("stopped before the end of the file")),
            },
            Some(TaskRole::Reduce) => merge(&task, &params).await,
            _ => Err(wrong_mode("map_reduce")),
        }
    }
}

async fn emit_files(task: &Task, params: &Params) -> Result<Output, Failure> {
    let folder = &params.folder;
    let refuse =
        |error: std::io::Error| Failure::from_display(format!("listing {}: {error}", folder.display())).without_retry();
    let mut paths = Vec::new();
    let mut entries = tokio::fs::read_dir(folder).await.map_err(refuse)?;
    while let Some(entry) = entries.next_entry().await.map_err(refuse)? {
        let is_wanted = entry.file_name().to_string_lossy().ends_with(&params.suffix);
        if is_wanted && entry.file_type().await.map_err(refuse)?.is_file() {
            paths.push(entry.path());
        }
    }
    // In the same order at each try, so that another try emits nothing twice.
    paths.sort();
    let count = paths.len();
    let tasks = paths.into_iter().map(|path| SubTask::json(name_of(&path), &Piece { path, range: None }));
    task.map(tasks).await?;
    Ok(Output::text(format!("{count} files in {}", folder.display())))
}

/// A name that people know the file by; it may have no control characters and must not be long.
fn name_of(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).take(50).collect()
}

async fn count_or_split(task: &Task, params: &Params) -> Result<Output, Failure> {
    let piece: Piece = task.input_json()?;
    let size = tokio::fs::metadata(&piece.path).await?.len();
    let step = params.range_bytes.max(1);
    if piece.range.is_none() && size > step {
        let (path, name) = (piece.path, task.task_name());
        let ranges = (0..size.div_ceil(step)).map(|n| (n * step, size.min((n + 1) * step)));
        let tasks = ranges.map(|(from, to)| {
            SubTask::json(format!("{name} from {from}"), &Piece { path: path.clone(), range: Some((from, to)) })
        });
        task.map(tasks).await?;
        return Ok(Output::json(&Counted { files: 1, ..Counted::default() })?.with_message("split into ranges"));
    }
    let counted = count(&piece).await?;
    let message = format!("{} words in {} lines", counted.words, counted.lines);
    Ok(Output::json(&counted)?.with_message(message))
}

/// Counts the lines that begin in the piece, each to its end: so a line at the border of two ranges is counted once.
async fn count(piece: &Piece) -> Result<Counted, Failure> {
    let mut lines = BufReader::new(File::open(&piece.path).await?);
    let (from, to) = piece.range.unwrap_or((0, u64::MAX));
    let mut counted = Counted { files: u64::from(piece.range.is_none()), ..Counted::default() };
    let mut position = from;
    if from > 0 {
        // What is left of a line that began before belongs to the range before.
        position = from - 1;
        lines.seek(SeekFrom::Start(position)).await?;
        position += skip_line(&mut lines).await?;
    }
    let mut line = Vec::new();
    while position < to {
        line.clear();
        let read = lines.read_until(b'\n', &mut line).await?;
        if read == 0 {
            break;
        }
        position += read as u64;
        counted.lines += 1;
        let text = String::from_utf8_lossy(&line);
        for word in text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()) {
            counted.words += 1;
            let word = word.to_lowercase().chars().take(WORD_CHARS).collect();
            *counted.by_word.entry(word).or_default() += 1;
        }
    }
    Ok(counted)
}

/// Reads to the end of a line, however long. Returns how many bytes that were.
async fn skip_line(reader: &mut BufReader<File>) -> std::io::Result<u64> {
    let mut skipped = 0;
    loop {
        let mut piece = Vec::new();
        let read = (&mut *reader).take(64 * 1024).read_until(b'\n', &mut piece).await?;
        skipped += read as u64;
        if read == 0 || piece.ends_with(b"\n") {
            return Ok(skipped);
        }
    }
}

/// Its memory depends on how many different words there are, not on how many results.
async fn merge(task: &Task, params: &Params) -> Result<Output, Failure> {
    let (mut sum, mut uncounted) = (Counted::default(), Vec::new());
    let mut results = task.results()?;
    while let Some(result) = results.next().await? {
        let Some(payload) = result.result.filter(|_| result.outcome.is_success()) else {
            // Enough to look for the others in the listing.
            if uncounted.len() < MOST_NAMED {
                uncounted.push(result.name);
            }
            continue;
        };
        let counted: Counted = serde_json::from_slice(&payload.bytes)?;
        sum.files += counted.files;
        sum.lines += counted.lines;
        sum.words += counted.words;
        for (word, count) in counted.by_word {
            *sum.by_word.entry(word).or_default() += count;
        }
    }
    let different = sum.by_word.len();
    let mut commonest: Vec<_> = sum.by_word.into_iter().collect();
    commonest.sort_by(|(a, count_a), (b, count_b)| count_b.cmp(count_a).then_with(|| a.cmp(b)));
    commonest.truncate(params.top.min(MOST_NAMED));
    for (word, count) in &commonest {
        task.log_line(format!("{count:>8} {word}"));
    }
    let message = format!("{} words, {different} different ones, in {} files", sum.words, sum.files);
    let totals = Totals { files: sum.files, lines: sum.lines, words: sum.words, different, commonest, uncounted };
    Ok(Output::json(&totals)?.with_message(message))
}

#[cfg(test)]
mod tests {
    use super::*;
    use pendula_worker::testing::{Probe, TestTask};
    use pendula_worker::{Payload, Reason, TaskId, TaskOutcome, TaskResult};
    use serde_json::json;

    fn task(role: TaskRole, folder: &Path, range_bytes: u64) -> TestTask {
        let params = json!({ "folder": folder, "suffix": ".txt", "range_bytes": range_bytes, "top": 2 });
        TestTask::new("word_count_folder").role(role).params(params.to_string())
    }

    /// What a server would do with a sub-task: runs it, and everything that it emits in turn.
    async fn run_all(folder: &Path, range_bytes: u64, emitted: Vec<SubTask>) -> Vec<TaskResult> {
        let mut waiting = std::collections::VecDeque::from(emitted);
        let mut results = Vec::new();
        while let Some(sub) = waiting.pop_front() {
            let id = TaskId(results.len() as u64 + 1);
            let input = Payload { content_type: sub.content_type().to_owned(), bytes: sub.input().to_vec() };
            let (task, probe) = task(TaskRole::Sub, folder, range_bytes).task(id, sub.name()).input(input).build();
            let output = WordCountFolder.run(task).await.unwrap();
            waiting.extend(probe.mapped());
            let (name, outcome) = (sub.name().to_owned(), TaskOutcome::Succeeded);
            let result = output.result;
            results.push(TaskResult { task: id, name, outcome, result, reason: None, message: None, worker: None });
        }
        results
    }

    async fn root(folder: &Path) -> (Output, Probe) {
        let (task, probe) = task(TaskRole::Root, folder, 10).build();
        (WordCountFolder.run(task).await.unwrap(), probe)
    }

    async fn reduce(folder: &Path, results: Vec<TaskResult>) -> (Totals, Output) {
        let (task, _probe) = task(TaskRole::Reduce, folder, 10).results(results).build();
        let output = WordCountFolder.run(task).await.unwrap();
        (serde_json::from_slice(&output.result.as_ref().unwrap().bytes).unwrap(), output)
    }

    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in [
            ("b.txt", "the cat\nThe dog, the end\n\nno newline at the very end"),
            ("a.txt", "étude \u{1F570} the\n"),
            ("empty.txt", ""),
            ("image.png", "the the the"),
        ] {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        std::fs::create_dir(folder.path().join("deeper.txt")).unwrap();
        folder
    }

    #[tokio::test]
    async fn the_root_emits_the_wanted_files_in_order() {
        let folder = folder();
        let (output, probe) = root(folder.path()).await;
        let names: Vec<_> = probe.mapped().iter().map(|task| task.name().to_owned()).collect();
        assert_eq!(names, ["a.txt", "b.txt", "empty.txt"]);
        assert!(output.message.unwrap().starts_with("3 files"));
    }

    #[tokio::test]
    async fn ranges_of_any_size_count_each_line_once() {
        let folder = folder();
        let (_, probe) = root(folder.path()).await;
        let mut seen = Vec::new();
        for range_bytes in [1, 2, 7, 8, 9, 26, 1000] {
            let results = run_all(folder.path(), range_bytes, probe.mapped()).await;
            assert_eq!(results.len() > 3, range_bytes < 50, "small ranges split the files");
            let (totals, output) = reduce(folder.path(), results).await;
            assert_eq!((totals.files, totals.lines, totals.words), (3, 5, 14), "in ranges of {range_bytes}");
            assert_eq!(totals.commonest, [("the".to_owned(), 5), ("end".to_owned(), 2)]);
            assert_eq!(output.message.as_deref(), Some("14 words, 9 different ones, in 3 files"));
            seen.push(totals);
        }
        assert!(seen.windows(2).all(|pair| pair[0] == pair[1]));
    }

    #[tokio::test]
    async fn what_nobody_counted_is_named() {
        let folder = folder();
        let (_, probe) = root(folder.path()).await;
        let mut results = run_all(folder.path(), 1000, probe.mapped()).await;
        results[1].outcome = TaskOutcome::Lost;
        let (totals, _) = reduce(folder.path(), results).await;
        assert_eq!((totals.files, totals.uncounted), (2, vec!["b.txt".to_owned()]));
    }

    #[tokio::test]
    async fn a_missing_folder_is_not_tried_again() {
        let (task, _probe) = task(TaskRole::Root, Path::new("/nonexistent"), 10).build();
        let failure = WordCountFolder.run(task).await.unwrap_err();
        assert!(!failure.retry && failure.message.starts_with("listing /nonexistent: "), "{failure:?}");
    }

    #[tokio::test]
    async fn another_mode_is_refused() {
        let (task, _probe) = task(TaskRole::Target, Path::new("/"), 10).build();
        assert_eq!(WordCountFolder.run(task).await.unwrap_err().reason, Reason::INVALID_DEFINITION);
    }
}
