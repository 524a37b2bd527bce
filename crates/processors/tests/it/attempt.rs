//! One attempt at a script, with the test in the place of worker and server.

use std::path::PathBuf;
use std::sync::Arc;

use pendula_processors::script::{Language, ScriptConfig, ScriptHandler};
use pendula_processors::supervisor::Supervision;
use pendula_worker::testing::{Probe, TestTask};
use pendula_worker::{Failure, Handler, Output};
use serde_json::Value;
use tokio::task::JoinHandle;

/// How an attempt ended, and its log.
pub struct Ended {
    pub outcome: Result<Output, Failure>,
    pub log: String,
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
        Ended { outcome, log: self.probe.log_text() }
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

pub fn start(language: Language, config: ScriptConfig, definition: &Value, params: &Value) -> Started {
    let at = "2026-11-21T02:30:00Z".parse().expect("a valid time");
    let (task, probe) = TestTask::new("shell")
        .names("demo", "nightly")
        .fire_time(at, "Europe/Berlin")
        .config(settings(definition).to_string())
        .params(params.to_string())
        .build();
    let handler = ScriptHandler::new(language, Arc::new(config));
    let handle = tokio::spawn(async move { handler.run(task).await });
    Started { probe, handle }
}

pub async fn shell(definition: impl Into<Value>) -> Ended {
    start(Language::Shell, supervised(), &definition.into(), &serde_json::json!({})).end().await
}
