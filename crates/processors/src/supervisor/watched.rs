//! The worker's hand on a running script.

use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Stdio;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{ChildStdin, ChildStdout};

use super::unsupervised::Unsupervised;
use super::{ARGUMENT, Command, Launch, Report, Supervision};

/// A script that runs. Dropping it ends the script and all that it started.
pub(crate) enum Watched {
    Supervised(Supervised),
    Unsupervised(Unsupervised),
}

/// A supervisor. Dropping it closes the pipe that tells the supervisor to kill the tree.
pub(crate) struct Supervised {
    commands: ChildStdin,
    reports: Lines<BufReader<ChildStdout>>,
    scratch: String,
    /// Whether the supervisor said its last word.
    done: bool,
    // Only so that the runtime collects it when it has ended.
    _process: tokio::process::Child,
}

/// Starts a script whose output goes to `output`.
///
/// # Errors
/// When no process can be started, or the supervisor is gone at once. That the script itself cannot be started is told
/// by [`Report::NotStarted`].
pub(crate) async fn start(supervision: &Supervision, launch: &Launch, output: io::PipeWriter) -> io::Result<Watched> {
    match supervision.program() {
        Some(program) => Supervised::start(&program, launch, output).await.map(Watched::Supervised),
        None => Unsupervised::start(launch, output).map(Watched::Unsupervised),
    }
}

impl Watched {
    /// The next report; `None` after the last one. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Option<Report> {
        match self {
            Watched::Supervised(supervised) => supervised.next().await,
            Watched::Unsupervised(unsupervised) => unsupervised.next().await,
        }
    }

    /// Passes a command on. If nobody takes it, [`Watched::next`] tells why.
    pub(crate) async fn command(&mut self, command: Command) {
        match self {
            Watched::Supervised(supervised) => supervised.command(command).await,
            Watched::Unsupervised(unsupervised) => unsupervised.command(command),
        }
    }
}

impl Supervised {
    async fn start(program: &Path, launch: &Launch, output: io::PipeWriter) -> io::Result<Supervised> {
        let mut command = std::process::Command::new(program);
        command
            .arg(ARGUMENT)
            .arg0("pendula-script-supervisor")
            // The supervisor must not carry the worker's secrets into a place that scripts can read.
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::from(output));
        let mut process = tokio::process::Command::from(command).spawn()?;
        let commands = process.stdin.take().expect("standard input is a pipe");
        let reports = process.stdout.take().expect("standard output is a pipe");
        let mut supervised = Supervised {
            commands,
            reports: BufReader::new(reports).lines(),
            scratch: launch.scratch.to_string_lossy().into_owned(),
            done: false,
            _process: process,
        };
        supervised.send(launch).await?;
        Ok(supervised)
    }

    async fn next(&mut self) -> Option<Report> {
        if self.done {
            return None;
        }
        let report = match self.reports.next_line().await {
            Ok(Some(line)) => serde_json::from_str(&line).ok(),
            Ok(None) | Err(_) => None,
        };
        self.done = matches!(report, None | Some(Report::Empty | Report::NotStarted { .. }));
        report
    }

    async fn command(&mut self, command: Command) {
        let _ = self.send(&command).await;
    }

    async fn send(&mut self, message: &impl serde::Serialize) -> io::Result<()> {
        let mut line = serde_json::to_vec(message)?;
        line.push(b'\n');
        self.commands.write_all(&line).await?;
        self.commands.flush().await
    }
}

impl Watched {
    /// Ends what a supervisor left that was itself killed, for which a script of the same user has the right.
    pub(crate) async fn sweep(&self) {
        if let Watched::Supervised(supervised) = self {
            super::unsupervised::sweep(supervised.scratch.clone()).await;
        }
    }
}
