//! News from and about processes of scripts.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::Mode;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::net::unix::pipe::{OpenOptions, Receiver};

/// Far beyond what anything here takes; only a broken build waits so long.
const PATIENCE: Duration = Duration::from_secs(20);

/// A named pipe through which scripts tell the test their process numbers, a line at a time.
pub struct Mailbox {
    _directory: TempDir,
    path: PathBuf,
    lines: Lines<BufReader<Receiver>>,
}

impl Mailbox {
    pub fn new() -> Mailbox {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("mailbox");
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, Mode::RUSR | Mode::WUSR).unwrap();
        // Open for both, so that it has no end and nobody waits for a reader.
        let receiver = OpenOptions::new().read_write(true).open_receiver(&path).unwrap();
        Mailbox { _directory: directory, path, lines: BufReader::new(receiver).lines() }
    }

    pub fn path(&self) -> &str {
        self.path.to_str().unwrap()
    }

    /// The words of the next line that a script writes.
    pub async fn words(&mut self) -> Vec<String> {
        let line = tokio::time::timeout(PATIENCE, self.lines.next_line()).await;
        let line = line.expect("a script writes to its mailbox").unwrap().expect("the mailbox has no end");
        line.split_whitespace().map(str::to_owned).collect()
    }
}

/// A process that shall end.
pub struct Watch {
    number: String,
}

impl Watch {
    pub fn new(number: &str) -> Watch {
        assert!(number.parse::<u32>().is_ok(), "{number:?} is the number of a process");
        Watch { number: number.to_owned() }
    }

    pub fn is_gone(&self) -> bool {
        !Path::new("/proc").join(&self.number).exists()
    }

    /// Completes when the process has ended, collected by its parent or not. The kernel signals the end of a process
    /// only to its parent, so this looks again and again.
    pub async fn ended(&self) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.number)).unwrap_or_default();
            if stat.is_empty() || stat.contains(") Z ") {
                return;
            }
            assert!(Instant::now() < deadline, "process {} still runs: {stat}", self.number);
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}
