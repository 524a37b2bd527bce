//! Starting and ending a server, gently or not.

use std::fs::{OpenOptions, Permissions};
use std::io::Write;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::Postgres;

/// Between two looks at a file or a process of which nothing else tells.
const LOOK: Duration = Duration::from_millis(5);

/// A start, also one that must recover first, and an end take no longer than that.
const PATIENCE: Duration = Duration::from_secs(60);

impl Postgres {
    /// Starts a stopped or killed server again, at the same port with the same data. Returns when it answers.
    pub fn start_again(&self) {
        let mut process = self.process();
        assert!(process.is_none(), "the PostgreSQL server runs already");
        let log = OpenOptions::new().create(true).append(true).open(self.log()).expect("the log can be written");
        let errors = log.try_clone().expect("a file can be shared");
        let mut command = self.install.command("postgres");
        command.arg("-D").arg(self.data()).stdout(Stdio::from(log)).stderr(Stdio::from(errors));
        let mut child = command.spawn().unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        let began = Instant::now();
        while !is_ready(&self.data(), child.id()) {
            let ended = child.try_wait().expect("a child can be asked");
            if ended.is_some() || began.elapsed() > PATIENCE {
                let log = std::fs::read_to_string(self.log()).unwrap_or_default();
                panic!("PostgreSQL did not start:\n{log}");
            }
            sleep(LOOK);
        }
        *process = Some(child);
    }

    /// As an operator would: sessions end, everything is written. No effect on one that is stopped.
    pub fn stop(&self) {
        self.end(Signal::INT);
    }

    /// `pg_ctl restart -m immediate`: no goodbye to anybody, and a recovery at the start.
    pub fn restart_immediately(&self) {
        self.end(Signal::QUIT);
        self.start_again();
    }

    /// `kill -9` of the server and all its processes, as a power cut would (but for what the kernel still has to write).
    pub fn kill(&self) {
        let Some(mut child) = self.process().take() else { return };
        // It must not make new ones, or restart them, meanwhile.
        signal(child.id(), Signal::STOP);
        let processes = children(child.id());
        for process in &processes {
            signal(*process, Signal::KILL);
        }
        child.kill().expect("a child can be killed");
        child.wait().expect("a child can be waited for");
        wait_until(|| processes.iter().all(|process| !is_running(*process)));
    }

    /// The server and all its processes stand still: connections stay open and nobody answers.
    pub fn freeze(&self) {
        self.signal_all(Signal::STOP);
    }

    /// The end of [`Postgres::freeze`].
    pub fn thaw(&self) {
        self.signal_all(Signal::CONT);
    }

    /// Adds lines to its configuration (`name = value`), which count when it is started the next time.
    pub fn configure(&self, settings: &str) {
        configure(&self.data(), settings);
    }

    /// Writes a file beside its data that only the server may read: `pg_hba.conf`, a key.
    pub fn write_file(&self, name: &str, content: &str) {
        let path = self.data().join(name);
        std::fs::write(&path, content).expect("the directory of the data can be written");
        std::fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("a file of ours");
        self.install.own(&path);
    }

    fn signal_all(&self, which: Signal) {
        let pid = self.pid();
        signal(pid, which);
        for process in children(pid) {
            signal(process, which);
        }
    }

    fn end(&self, how: Signal) {
        let Some(mut child) = self.process().take() else { return };
        signal(child.id(), how);
        wait_until(|| child.try_wait().expect("a child can be asked").is_some());
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // Nobody needs what is in it.
        self.end(Signal::QUIT);
    }
}

/// Adds lines to the configuration; the last one of a name counts.
pub(crate) fn configure(data: &Path, settings: &str) {
    let file = OpenOptions::new().append(true).open(data.join("postgresql.conf"));
    let written = file.and_then(|mut file| file.write_all(settings.as_bytes()));
    written.expect("the configuration can be written");
}

/// One where nobody listens now, outside the range from which the kernel takes ports for connections: so nobody gets it
/// while the server is away for a moment.
pub(crate) fn free_port() -> u16 {
    const FIRST: u16 = 15_000;
    const COUNT: u16 = 17_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Processes begin at different places, as they may look at the same time.
    let begin = (std::process::id().wrapping_mul(7919) % u32::from(COUNT)) as u16;
    for _ in 0..COUNT {
        let step = NEXT.fetch_add(1, Ordering::Relaxed) % COUNT;
        let port = FIRST + ((u32::from(begin) + u32::from(step)) % u32::from(COUNT)) as u16;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
    panic!("no port is free on the loopback address");
}

/// The server tells its state in the eighth line of its file.
fn is_ready(data: &Path, pid: u32) -> bool {
    let text = std::fs::read_to_string(data.join("postmaster.pid")).unwrap_or_default();
    let lines: Vec<_> = text.lines().map(str::trim).collect();
    lines.first().is_some_and(|first| *first == pid.to_string()) && lines.get(7) == Some(&"ready")
}

fn children(pid: u32) -> Vec<u32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().filter_map(|child| child.parse().ok()).collect()
}

/// A process that has ended and waits for its parent to ask does not run.
fn is_running(pid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status.lines().any(|line| line.starts_with("State:") && !line.contains('Z'))
}

fn signal(pid: u32, which: Signal) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a process has an id");
    // That it has gone already is what one wants of most signals.
    let _ = kill_process(pid, which);
}

fn wait_until(mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < PATIENCE, "PostgreSQL did not end");
        sleep(LOOK);
    }
}
