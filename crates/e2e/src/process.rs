//! Children that never outlive their test, and looking at processes from outside.

use std::fs::File;
use std::io;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// A child process whose output goes to a file; killed when dropped.
pub struct Process(Child);

impl Process {
    /// Starts `command` with its output appended to `log`.
    pub fn start(command: &mut Command, log: &Path) -> io::Result<Process> {
        let log = File::options().create(true).append(true).open(log)?;
        let child = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?;
        Ok(Process(child))
    }

    pub fn id(&self) -> u32 {
        self.0.id()
    }

    /// SIGKILL, and waits until it is gone.
    pub fn kill(&mut self) {
        // It may have ended by itself; either way it is gone after the wait.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.0);
        kill_process(pid, signal).expect("the child has not been waited for");
    }

    /// The exit code, when it ends within `patience`; `None` for a signal.
    pub fn wait(&mut self, patience: Duration) -> Option<i32> {
        let end = Instant::now() + patience;
        loop {
            if let Some(status) = self.0.try_wait().expect("waiting for a child works") {
                return status.code();
            }
            assert!(Instant::now() < end, "process {} did not end within {patience:?}", self.0.id());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn is_running(&mut self) -> bool {
        self.0.try_wait().expect("waiting for a child works").is_none()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Processes whose command line or environment contains `mark`.
pub fn marked(mark: &str) -> Vec<i32> {
    let own = std::process::id() as i32;
    let entries = std::fs::read_dir("/proc").expect("/proc is mounted");
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| *pid != own)
        .filter(|pid| {
            let read = |name| std::fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default();
            let zombie = String::from_utf8_lossy(&read("stat")).contains(") Z ");
            let mark = mark.as_bytes();
            let has = |bytes: Vec<u8>| bytes.windows(mark.len()).any(|window| window == mark);
            !zombie && (has(read("cmdline")) || has(read("environ")))
        })
        .collect()
}

/// TCP addresses on which a process listens, as `/proc` tells.
pub fn listening(pid: u32) -> Vec<String> {
    let inodes: Vec<String> = std::fs::read_dir(format!("/proc/{pid}/fd"))
        .into_iter()
        .flatten()
        .filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok())
        .filter_map(|link| Some(link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
        .collect();
    let mut found = Vec::new();
    for table in ["tcp", "tcp6"] {
        let text = std::fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap_or_default();
        for line in text.lines().skip(1) {
            let fields: Vec<_> = line.split_whitespace().collect();
            if fields.len() > 9 && fields[3] == "0A" && inodes.iter().any(|inode| inode == fields[9]) {
                found.push(fields[1].to_owned());
            }
        }
    }
    found
}

/// What a process takes of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Footprint {
    /// Resident memory in bytes.
    pub memory: u64,
    pub threads: u64,
    /// Open file descriptors, sockets among them.
    pub descriptors: u64,
}

/// Asks the kernel about a process that runs.
///
/// # Panics
/// When there is no such process.
pub fn footprint(pid: u32) -> Footprint {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    let field = |name: &str| -> u64 {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("the kernel tells it");
        line.trim_matches([':', ' ', '\t', 'k', 'B']).parse().expect("it is a number")
    };
    let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("the process runs").count() as u64;
    Footprint { memory: field("VmRSS") * 1024, threads: field("Threads"), descriptors }
}

/// Waits until `condition` answers, asking often; for states that nothing announces.
///
/// # Panics
/// When it does not within `patience`.
pub async fn eventually<T, F: Future<Output = Option<T>>>(
    what: &str,
    patience: Duration,
    mut condition: impl FnMut() -> F,
) -> T {
    let end = Instant::now() + patience;
    loop {
        if let Some(answer) = condition().await {
            return answer;
        }
        assert!(Instant::now() < end, "not within {patience:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
