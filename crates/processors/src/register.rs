//! Putting the built-in processors on a worker.

use std::path::Path;
use std::sync::Arc;

use pendula_worker::WorkerBuilder;

use crate::http::egress::EgressPolicy;
use crate::http::{HttpHandler, HttpSetupError};
use crate::noop::Noop;
use crate::script::{Language, ScriptConfig, ScriptHandler};

/// Which processors a worker offers, and what they may do.
#[derive(Clone, Debug)]
pub struct ProcessorConfig {
    /// Offer `shell`. Default: yes. (The server dispatches scripts only for apps that an administrator allowed them.)
    pub shell: bool,
    /// Offer `python`, if there is a `python3` in `PATH`. Default: yes.
    pub python: bool,
    /// Offer `http`. Default: yes.
    pub http: bool,
    /// Offer `noop`. Default: no.
    pub noop: bool,
    /// For `shell` and `python`.
    pub script: ScriptConfig,
    /// Where `http` may go besides the public Internet.
    pub egress: EgressPolicy,
}

impl Default for ProcessorConfig {
    fn default() -> Self {
        ProcessorConfig {
            shell: true,
            python: true,
            http: true,
            noop: false,
            script: ScriptConfig::default(),
            egress: EgressPolicy::default(),
        }
    }
}

/// Registers the chosen processors.
///
/// With `shell` or `python`, the memory and the environment of this process are closed to other processes of the same
/// user, scripts among them: they hold the worker's token. The price is that no such process can debug it.
///
/// # Errors
/// When the HTTP client cannot be set up, for instance because the system's certificates cannot be read.
pub fn register(mut builder: WorkerBuilder, config: ProcessorConfig) -> Result<WorkerBuilder, HttpSetupError> {
    let script = Arc::new(config.script);
    if config.shell || config.python {
        if script.supervision.program().is_none() {
            tracing::warn!(
                "scripts run without a supervisor: if this worker is killed, they go on; \
                 call `pendula_processors::supervisor::main_if_supervisor` first in `main`"
            );
        }
        protect_secrets();
    }
    if config.shell {
        builder = builder.handler("shell", ScriptHandler::new(Language::Shell, script.clone()));
    }
    if config.python {
        if is_in_path("python3") {
            builder = builder.handler("python", ScriptHandler::new(Language::Python, script));
        } else {
            tracing::info!("`python` is not offered: there is no python3 in PATH");
        }
    }
    if config.http {
        builder = builder.handler("http", HttpHandler::new(config.egress)?);
    }
    if config.noop {
        builder = builder.handler("noop", Noop);
    }
    Ok(builder)
}

/// Scripts of the same user could otherwise read the token from `/proc/<worker>/environ`. For root there is no remedy
/// but another user: `run_as`.
fn protect_secrets() {
    use rustix::process::{DumpableBehavior, set_dumpable_behavior};
    if let Err(error) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        tracing::warn!(%error, "the worker's memory could not be closed to its scripts");
    }
}

fn is_in_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| Path::new(&directory).join(program).is_file())
}
