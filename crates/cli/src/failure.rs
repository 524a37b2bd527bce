//! How a command ends when it does not end well: a message, what to do next, and an exit code.

use std::io;
use std::process::ExitCode;

use pendula_client::ClientError;

/// Why a command did not do what it was asked to.
#[derive(Debug)]
pub struct Failure {
    kind: Kind,
    message: String,
    hint: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// The instance that was waited for did not succeed.
    InstanceFailed,
    /// What was typed, or a file that was named, is not acceptable.
    Usage,
    /// The server, or the machine, said no.
    Refused,
    /// No server answered.
    Unreachable,
    /// The user pressed Ctrl-C.
    Interrupted,
    /// Whoever reads our output has enough; nothing is wrong.
    PipeClosed,
}

pub type Outcome<T = ()> = Result<T, Failure>;

impl Failure {
    fn new(kind: Kind, message: impl Into<String>) -> Self {
        Failure { kind, message: message.into(), hint: None }
    }

    pub fn instance_failed(message: impl Into<String>) -> Self {
        Failure::new(Kind::InstanceFailed, message)
    }

    pub fn usage(message: impl Into<String>) -> Self {
        Failure::new(Kind::Usage, message)
    }

    pub fn refused(message: impl Into<String>) -> Self {
        Failure::new(Kind::Refused, message)
    }

    pub fn unreachable(message: impl Into<String>) -> Self {
        Failure::new(Kind::Unreachable, message)
    }

    pub fn interrupted(message: impl Into<String>) -> Self {
        Failure::new(Kind::Interrupted, message)
    }

    /// Adds what to do next.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Prints the message where people look for it, and gives the exit code.
    pub fn report(self) -> ExitCode {
        // Nothing is left to do when even standard error is gone.
        let mut stderr = io::stderr().lock();
        if !self.message.is_empty() {
            let _ = io::Write::write_fmt(&mut stderr, format_args!("pendula: {}\n", self.message));
        }
        if let Some(hint) = &self.hint {
            for line in hint.lines() {
                let _ = io::Write::write_fmt(&mut stderr, format_args!("  → {line}\n"));
            }
        }
        ExitCode::from(match self.kind {
            Kind::PipeClosed => 0,
            Kind::InstanceFailed => 1,
            Kind::Usage => 2,
            Kind::Refused => 3,
            Kind::Unreachable => 4,
            Kind::Interrupted => 130,
        })
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

/// For writing to standard output only: a closed pipe is no failure.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Failure::new(Kind::PipeClosed, ""),
            _ => Failure::refused(format!("writing the output: {error}")),
        }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let message = error.to_string();
        match error {
            ClientError::Address(_) => Failure::usage(message),
            ClientError::Unreachable { .. } => Failure::unreachable(message)
                .hint("is the server running? `pendula doctor` shows what is wrong, `pendula dev` starts one here"),
            ClientError::Protocol { .. } => Failure::unreachable(message)
                .hint("check the address: --server, PENDULA_SERVER or the profile (`pendula login --list`)"),
            ClientError::Problem(problem) => {
                // The server's own advice names routes; who types commands is told a command.
                if let Some(hint) = command_for(&problem.code) {
                    return Failure::refused(format!("{} ({})", problem.title, problem.code)).hint(hint);
                }
                let refused = Failure::refused(format!("{message} ({})", problem.code));
                match problem.status {
                    401 => refused
                        .hint("the token is missing, wrong, expired or revoked: `pendula login`, or set PENDULA_TOKEN"),
                    403 => refused.hint("`pendula doctor` shows what the token may do"),
                    _ if problem.retryable => refused.hint("this may pass; try again"),
                    _ => refused,
                }
            }
        }
    }
}

/// The command that helps on after a refusal, where there is one.
fn command_for(code: &str) -> Option<&'static str> {
    Some(match code {
        "app_not_found" => "`pendula app list` shows the apps that your token opens",
        "job_not_found" => "`pendula job list` shows the jobs; --app chooses another app",
        "instance_not_found" => {
            "`pendula instance list` shows the instances; ended ones are forgotten after their retention"
        }
        "worker_not_found" => "`pendula worker list` shows the connected workers",
        "token_not_found" => "`pendula token list` shows the tokens",
        "instance_started" => "a worker has it: `pendula instance stop ID` ends it",
        "instance_active" => "wait until it ends, or `pendula instance stop ID` first",
        "instance_ended" => "`pendula instance retry ID` runs the same again",
        "task_not_found" => "`pendula instance tasks ID` shows its tasks; they are numbered from 0",
        "result_not_found" => "`pendula instance task ID TASK` shows how it ended",
        "app_not_empty" => "delete its jobs first: `pendula job delete JOB`",
        _ => return None,
    })
}
