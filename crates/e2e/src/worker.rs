//! A real worker process with the built-in processors.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::binary::pendula;
use crate::process::{Process, eventually, marked};

pub struct ShellWorker {
    process: Process,
    name: String,
    /// By which its scripts are found.
    mark: String,
}

impl ShellWorker {
    /// Starts a worker of `app` that dials `url`.
    pub fn start(url: &str, app: &str, token: &str, name: &str, directory: &Path) -> ShellWorker {
        ShellWorker::start_with(url, app, token, name, directory, |_| {})
    }

    /// The same with a command that is changed before it is started.
    pub fn start_with(
        url: &str,
        app: &str,
        token: &str,
        name: &str,
        directory: &Path,
        change: impl FnOnce(&mut Command),
    ) -> ShellWorker {
        let mark = format!("e2e-mark-{:032x}", rand::random::<u128>());
        let mut command = Command::new(pendula());
        command
            .args(["worker", "--server", url, "--app", app, "--name", name, "--slots", "64"])
            // So that a script knows under which worker it runs.
            .args(["--pass-env", "E2E_WORKER", "--pass-env", "E2E_MARK"])
            .env("E2E_WORKER", name)
            .env("E2E_MARK", &mark)
            .env("PENDULA_TOKEN", token);
        change(&mut command);
        let log = directory.join(format!("{name}.log"));
        let process = Process::start(&mut command, &log).expect("the worker's program can be started");
        ShellWorker { process, name: name.to_owned(), mark }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// SIGKILL; returns when the scripts that it ran are gone too, which their supervisors see to.
    pub async fn kill_with_scripts(&mut self) {
        self.process.kill();
        let mark = &self.mark;
        let gone = || async { marked(mark).is_empty().then_some(()) };
        eventually("the scripts of a killed worker are gone", Duration::from_secs(20), gone).await;
    }
}
