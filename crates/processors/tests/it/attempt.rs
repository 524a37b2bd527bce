//! One attempt at a script, with the test in the place of worker and server.

use std::path::PathBuf;
use std::sync::Arc;

use pendula_processors::script::{Language, ScriptConfig, ScriptHandler};
use pendula_processors::supervisor::Supervision;
use pendula_worker::testing::{Probe, TestTask};
use pendula_worker::{Failure, Handler, Output, SubTask};
use serde_json::Value;
use tokio::task::JoinHandle;

/// How an attempt ended, its log, and the sub-tasks that it emitted.
pub struct Ended {
    pub outcome: Result<Output, Failure>,
    pub log: String,
    pub mapped: Vec<SubTask>,
}

impl Ended {
    pub fn result(&self) -> Value {
        let result = match &self.outcome {
            Ok(output) => &output.result,
            Err(failure) => &failure.result,
        };
        let payload = result.as_ref().unwrap_or_else(|| panic!("no result: {:?}\n{}", self.outcome, self.log));
        serde_json::from_slice(&payload.bytes).expect("results are JSON")
    }

    pub fn reason(&self) -> &str {
        self.outcome.as_ref().expect_err(&self.log).reason.as_str()
    }

    pub fn message(&self) -> &str {
        &self.outcome.as_ref().expect_err(&self.log).message
    }
}

/// What travels to a worker is always the long form; tests may write the short one.
fn settings(definition: &Value) -> Value {
    match definition {
        Value::String(script) => serde_json::json!({ "script": script }),
        settings => settings.clone(),
    }
}

/// An attempt under way.
pub struct Started {
    pub probe: Probe,
    handle: JoinHandle<Result<Output, Failure>>,
}

impl Started {
    pub async fn end(self) -> Ended {
        let outcome = self.handle.await.expect("the handler does not panic");
        Ended { outcome, log: self.probe.log_text(), mapped: self.probe.mapped() }
    }

    /// Drops the handler's future, as the worker does with one that does not end after its grace.
    pub fn drop_handler(self) {
        self.handle.abort();
    }
}

/// Watched by the real supervisor.
pub fn supervised() -> ScriptConfig {
    let program = PathBuf::from(env!("CARGO_BIN_EXE_pendula-script-supervisor"));
    ScriptConfig { supervision: Supervision::Program(program), ..ScriptConfig::default() }
}

/// An attempt at a script, yet to be started.
pub fn task(definition: &Value, params: &Value) -> TestTask {
    let at = "2026-11-21T02:30:00Z".parse().expect("a valid time");
    TestTask::new("shell")
        .names("demo", "nightly")
        .fire_time(at, "Europe/Berlin")
        .config(settings(definition).to_string())
        .params(params.to_string())
}

pub fn start_task(language: Language, config: ScriptConfig, task: TestTask) -> Started {
    let (task, probe) = task.build();
    let handler = ScriptHandler::new(language, Arc::new(config));
    let handle = tokio::spawn(async move { handler.run(task).await });
    Started { probe, handle }
}

pub fn start(language: Language, config: ScriptConfig, definition: &Value, params: &Value) -> Started {
    start_task(language, config, task(definition, params))
}

pub async fn shell(definition: impl Into<Value>) -> Ended {
    start(Language::Shell, supervised(), &definition.into(), &serde_json::json!({})).end().await
}
