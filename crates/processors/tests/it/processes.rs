//! Waiting for processes by signals of the kernel instead of sleeping.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::Mode;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tempfile::TempDir;
use tokio::io::unix::AsyncFd;

/// Far beyond what anything here takes; only a broken build waits so long.
const PATIENCE: Duration = Duration::from_secs(20);

/// A named pipe through which scripts tell the test their process numbers.
pub struct Mailbox {
    _directory: TempDir,
    path: PathBuf,
}

impl Mailbox {
    pub fn new() -> Mailbox {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("mailbox");
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, Mode::RUSR | Mode::WUSR).unwrap();
        Mailbox { _directory: directory, path }
    }

    pub fn path(&self) -> &str {
        self.path.to_str().unwrap()
    }

    /// The words that a script wrote, once it did.
    pub async fn words(&self) -> Vec<String> {
        let path = self.path.clone();
        let read = tokio::task::spawn_blocking(move || std::fs::read_to_string(path).unwrap());
        let text = tokio::time::timeout(PATIENCE, read).await.expect("a script writes to its mailbox").unwrap();
        text.split_whitespace().map(str::to_owned).collect()
    }
}

/// A process to be watched from now on.
pub struct Watch {
    number: String,
    handle: Option<AsyncFd<OwnedFd>>,
}

impl Watch {
    pub fn new(number: &str) -> Watch {
        let pid = Pid::from_raw(number.parse().unwrap()).unwrap();
        let handle = pidfd_open(pid, PidfdFlags::empty()).ok();
        Watch { number: number.to_owned(), handle: handle.map(|handle| AsyncFd::new(handle).unwrap()) }
    }

    pub fn is_gone(&self) -> bool {
        !Path::new("/proc").join(&self.number).exists()
    }

    /// Completes when the process has ended.
    pub async fn ended(&self) {
        if let Some(handle) = &self.handle {
            let readable = tokio::time::timeout(PATIENCE, handle.readable()).await;
            let _ready = readable.unwrap_or_else(|_| panic!("process {} still runs", self.number)).unwrap();
        }
    }
}
