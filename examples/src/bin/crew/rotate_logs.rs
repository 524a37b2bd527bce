//! Rotates the log files on the host of each worker, by broadcast: `app.log` becomes `app.log.1`, that one `app.log.2`,
//! and what is older than wanted goes. `post` sums up what all workers told.
//!
//! A program that has its log open goes on writing to the renamed file until it opens it anew.

use std::io;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use pendula_worker::{Failure, Handler, Output, Task, TaskRole};
use serde::{Deserialize, Serialize};

use crate::wrong_mode;

#[derive(Clone, Copy, Deserialize)]
struct Params {
    /// How many old files of each log stay.
    #[serde(default = "five")]
    keep: u32,
    /// Smaller logs are left alone.
    #[serde(default = "one")]
    min_bytes: u64,
}

fn five() -> u32 {
    5
}

fn one() -> u64 {
    1
}

/// What one worker did.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct Rotated {
    files: u64,
    bytes: u64,
    deleted: u64,
}

/// What all did.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct Totals {
    workers: u64,
    files: u64,
    bytes: u64,
    deleted: u64,
    /// Workers that did not, each with the reason.
    not_done: Vec<(String, String)>,
}

/// The handler. Which files it may touch is up to the owner of the host, not to the job.
pub struct RotateLogs {
    pub directory: PathBuf,
}

#[async_trait]
impl Handler for RotateLogs {
    async fn run(&self, task: Task) -> Result<Output, Failure> {
        let params: Params = task.params_json()?;
        match task.role() {
            Some(TaskRole::Target) => {
                let directory = self.directory.clone();
                // File systems block, and some of them for long.
                let rotated = tokio::task::spawn_blocking(move || rotate(&directory, params)).await?;
                let rotated = rotated.map_err(|error| {
                    Failure::from_display(format!("rotating in {}: {error}", self.directory.display()))
                })?;
                let message = format!("{} files of {} bytes rotated", rotated.files, rotated.bytes);
                task.log_line(&message);
                Ok(Output::json(&rotated)?.with_message(message))
            }
            Some(TaskRole::Post) => sum_up(&task).await,
            _ => Err(wrong_mode("broadcast")),
        }
    }
}

async fn sum_up(task: &Task) -> Result<Output, Failure> {
    let mut totals = Totals::default();
    let mut results = task.results()?;
    while let Some(result) = results.next().await? {
        match result.result.filter(|_| result.outcome.is_success()) {
            Some(payload) => {
                let rotated: Rotated = serde_json::from_slice(&payload.bytes)?;
                totals.workers += 1;
                totals.files += rotated.files;
                totals.bytes += rotated.bytes;
                totals.deleted += rotated.deleted;
            }
            None => {
                let reason = result.reason.map(|reason| reason.to_string()).unwrap_or_default();
                task.log_line(format!("{} is {} ({reason})", result.name, result.outcome));
                totals.not_done.push((result.name, reason));
            }
        }
    }
    let Totals { workers, files, deleted, .. } = totals;
    let message = format!("{files} files rotated and {deleted} deleted on {workers} workers");
    Ok(Output::json(&totals)?.with_message(message))
}

fn rotate(directory: &Path, params: Params) -> io::Result<Rotated> {
    let mut rotated = Rotated::default();
    for log in files(directory)?.iter().filter(|name| name.ends_with(".log")) {
        let path = directory.join(log);
        let bytes = path.metadata()?.len();
        if bytes >= params.min_bytes {
            make_room(&path)?;
            std::fs::rename(&path, numbered(&path, 1))?;
            rotated.files += 1;
            rotated.bytes += bytes;
        }
    }
    for old in files(directory)? {
        if number_of(&old).is_some_and(|number| number > params.keep) {
            std::fs::remove_file(directory.join(old))?;
            rotated.deleted += 1;
        }
    }
    Ok(rotated)
}

/// Frees number 1. Only what lies before the first gap moves, so that a try that follows one that was cut short goes on
/// where that one stopped.
fn make_room(log: &Path) -> io::Result<()> {
    let mut free = 1;
    while numbered(log, free).exists() {
        free += 1;
    }
    for number in (1..free).rev() {
        std::fs::rename(numbered(log, number), numbered(log, number + 1))?;
    }
    Ok(())
}

fn numbered(log: &Path, number: u32) -> PathBuf {
    let mut name = log.as_os_str().to_owned();
    name.push(format!(".{number}"));
    name.into()
}

/// The number of a rotated file: 3 of `app.log.3`.
fn number_of(name: &str) -> Option<u32> {
    let (log, number) = name.rsplit_once('.')?;
    log.ends_with(".log").then(|| number.parse().ok())?
}

/// Names of the plain files in a directory, in order.
fn files(directory: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        // A name that is no UTF-8 is none of ours, and a link leads who knows where.
        if let Ok(name) = entry.file_name().into_string()
            && entry.file_type()?.is_file()
        {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use pendula_worker::testing::TestTask;
    use pendula_worker::{Reason, TaskId, TaskOutcome, TaskResult};

    fn read(directory: &Path) -> Vec<(String, String)> {
        let read = |name: String| {
            let text = std::fs::read_to_string(directory.join(&name)).unwrap();
            (name, text)
        };
        files(directory).unwrap().into_iter().map(read).collect()
    }

    async fn rotate_on(directory: &Path, params: &str) -> Result<Output, Failure> {
        let task = TestTask::new("rotate_logs").role(TaskRole::Target).task(TaskId(0), "w1").params(params);
        let (task, _probe) = task.build();
        RotateLogs { directory: directory.to_owned() }.run(task).await
    }

    #[tokio::test]
    async fn old_files_move_up_and_the_oldest_go() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        for day in ["monday", "tuesday", "wednesday", "thursday"] {
            std::fs::write(path.join("app.log"), day).unwrap();
            std::fs::write(path.join("quiet.log"), "").unwrap();
            std::fs::write(path.join("readme.txt"), "no log").unwrap();
            rotate_on(path, r#"{"keep":2}"#).await.unwrap();
        }
        let names = |left: &[(&str, &str)]| -> Vec<(String, String)> {
            left.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
        };
        let left = [("app.log.1", "thursday"), ("app.log.2", "wednesday"), ("quiet.log", ""), ("readme.txt", "no log")];
        assert_eq!(read(path), names(&left));

        // Fewer are wanted than there are, and nothing is there to rotate.
        let output = rotate_on(path, r#"{"keep":1}"#).await.unwrap();
        let rotated: Rotated = serde_json::from_slice(&output.result.unwrap().bytes).unwrap();
        assert_eq!(rotated, Rotated { files: 0, bytes: 0, deleted: 1 });
        assert!(!path.join("app.log.2").exists());
    }

    #[tokio::test]
    async fn a_try_that_was_cut_short_is_completed_by_the_next() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        // The one before had moved 2 to 3 and then ended.
        for (name, text) in [("app.log", "new"), ("app.log.1", "one"), ("app.log.3", "two")] {
            std::fs::write(path.join(name), text).unwrap();
        }
        rotate_on(path, "{}").await.unwrap();
        let texts: Vec<_> = read(path).into_iter().map(|(_, text)| text).collect();
        assert_eq!(texts, ["new", "one", "two"]);
    }

    #[tokio::test]
    async fn a_missing_directory_is_named() {
        let failure = rotate_on(Path::new("/nonexistent"), "{}").await.unwrap_err();
        assert!(failure.message.starts_with("rotating in /nonexistent: "), "{failure:?}");
    }

    #[tokio::test]
    async fn post_sums_up_and_names_who_did_not() {
        let result = |id: u64, outcome, rotated: Option<Rotated>| TaskResult {
            task: TaskId(id),
            name: format!("w{id}"),
            outcome,
            result: rotated.map(|rotated| Output::json(&rotated).unwrap().result.unwrap()),
            reason: (outcome == TaskOutcome::Lost).then_some(Reason::WORKER_LOST),
            message: None,
            worker: Some(format!("w{id}")),
        };
        let results = [
            result(0, TaskOutcome::Succeeded, Some(Rotated { files: 2, bytes: 30, deleted: 1 })),
            result(1, TaskOutcome::Lost, None),
            result(2, TaskOutcome::Succeeded, Some(Rotated { files: 1, bytes: 5, deleted: 0 })),
        ];
        let (task, probe) = TestTask::new("rotate_logs").role(TaskRole::Post).results(results).build();
        let output = RotateLogs { directory: PathBuf::new() }.run(task).await.unwrap();
        let totals: Totals = serde_json::from_slice(&output.result.unwrap().bytes).unwrap();
        let not_done = vec![("w1".to_owned(), "worker_lost".to_owned())];
        assert_eq!(totals, Totals { workers: 2, files: 3, bytes: 35, deleted: 1, not_done });
        assert_eq!(output.message.as_deref(), Some("3 files rotated and 1 deleted on 2 workers"));
        assert_eq!(probe.log_text(), "w1 is lost (worker_lost)\n");
    }
}
