//! Scripts without a supervisor, for programs that did not call [`super::main_if_supervisor`].
//!
//! The script runs in a process group of its own, and all its descendants are found by a variable that only they have
//! in their environment. Stop, timeout and the script's own end leave nothing behind, except a process that replaced its
//! environment *and* left the group. What a script leaves behind is killed at once, without the grace that a supervisor
//! gives. When the worker itself is killed, nobody is there to end anything: scripts go on. That is why this mode warns
//! at the start of the worker.

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::{Child, Command as Program};

use super::{Command, Launch, Report, SCRATCH_VARIABLE, process_tree};

/// Rounds of KILL, a hundredth of a second apart, after which a process that still stands is beyond our reach.
const ROUNDS: u32 = 500;

pub(crate) struct Unsupervised {
    child: Child,
    group: Pid,
    scratch: String,
    step: Step,
}

enum Step {
    Starting,
    Running,
    Sweeping,
    Done,
}

impl Unsupervised {
    pub(super) fn start(launch: &Launch, output: io::PipeWriter) -> io::Result<Unsupervised> {
        if launch.user.is_some() {
            return Err(io::Error::other("another user is possible only under a supervisor"));
        }
        let mut command = Program::new(&launch.command[0]);
        command
            .args(&launch.command[1..])
            .env_clear()
            .envs(&launch.environment)
            .current_dir(&launch.directory)
            .stdout(Stdio::from(output.try_clone()?))
            .stderr(Stdio::from(output))
            .process_group(0);
        match &launch.stdin {
            Some(path) => command.stdin(std::fs::File::open(path)?),
            None => command.stdin(Stdio::null()),
        };
        let child = command.spawn()?;
        let number = child.id().expect("a child that was not waited for has a number");
        let group = Pid::from_raw(number.cast_signed()).expect("a process has a number");
        let scratch = launch.scratch.to_string_lossy().into_owned();
        Ok(Unsupervised { child, group, scratch, step: Step::Starting })
    }

    pub(super) async fn next(&mut self) -> Option<Report> {
        match self.step {
            Step::Starting => {
                self.step = Step::Running;
                Some(Report::Started)
            }
            Step::Running => {
                let status = self.child.wait().await.ok()?;
                self.step = Step::Sweeping;
                Some(Report::Ended { code: status.code(), signal: status.signal() })
            }
            Step::Sweeping => {
                // The group outlives its leader as long as it has members, so its number is not used again.
                let _ = kill_process_group(self.group, Signal::KILL);
                sweep(self.scratch.clone()).await;
                self.step = Step::Done;
                Some(Report::Empty)
            }
            Step::Done => None,
        }
    }

    pub(super) fn command(&mut self, command: Command) {
        let signal = match command {
            Command::Terminate => Signal::TERM,
            Command::Kill => Signal::KILL,
        };
        if matches!(self.step, Step::Starting | Step::Running) {
            let _ = kill_process_group(self.group, signal);
        }
        let processes = process_tree::marked(SCRATCH_VARIABLE, &self.scratch);
        match command {
            Command::Terminate => process_tree::terminate(&processes),
            Command::Kill => process_tree::kill(&processes),
        }
    }
}

impl Drop for Unsupervised {
    fn drop(&mut self) {
        if !matches!(self.step, Step::Done) {
            self.command(Command::Kill);
        }
    }
}

/// Kills every process of the attempt with this directory until none is found.
pub(super) async fn sweep(scratch: String) {
    for _ in 0..ROUNDS {
        let directory = scratch.clone();
        let killed = tokio::task::spawn_blocking(move || {
            let processes = process_tree::marked(SCRATCH_VARIABLE, &directory);
            process_tree::kill(&processes);
            processes.len()
        });
        if killed.await.unwrap_or(0) == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
