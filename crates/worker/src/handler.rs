//! What users write: handlers, and what they answer.

use std::fmt;

use async_trait::async_trait;
use pendula_model::instance::{Payload, Reason};
use serde::Serialize;

use crate::task::Task;

/// Code that runs the tasks of one processor name.
///
/// Implemented for closures `|task: Task| async move { … }`; implement it for a type that carries its own state.
///
/// One handler runs many tasks at once, up to the worker's slots. It must yield: a handler that blocks the thread holds
/// up others and cannot be stopped; move such work to [`tokio::task::spawn_blocking`]. When the task is stopped and the
/// grace has passed, the future is dropped where it last yielded, so everything that must be undone belongs into a
/// destructor. A panic ends the attempt as failed with reason `panicked`.
#[async_trait]
pub trait Handler: Send + Sync + 'static {
    /// Runs one attempt.
    ///
    /// # Errors
    /// A [`Failure`] ends the attempt as failed; the job's retry policy decides what follows.
    async fn run(&self, task: Task) -> Result<Output, Failure>;
}

#[async_trait]
impl<F, Fut> Handler for F
where
    F: Fn(Task) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Output, Failure>> + Send + 'static,
{
    async fn run(&self, task: Task) -> Result<Output, Failure> {
        self(task).await
    }
}

/// What a task that went well leaves behind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Output {
    /// For people; cut at [`pendula_model::limits::MESSAGE_BYTES`].
    pub message: Option<String>,
    /// For whoever asked for the work. Beyond [`pendula_model::limits::RESULT_BYTES`] (for a task of an instance with many:
    /// [`pendula_model::limits::TASK_RESULT_BYTES`]) the attempt fails with reason `result_too_large`, because half a result
    /// is none.
    pub result: Option<Payload>,
}

impl Output {
    /// A message for people and no result.
    pub fn text(message: impl Into<String>) -> Self {
        Output { message: Some(message.into()), result: None }
    }

    /// `value` as a JSON result.
    ///
    /// # Errors
    /// When `value` cannot be written as JSON, such as a map whose keys are no strings.
    pub fn json<T: Serialize>(value: &T) -> Result<Self, Failure> {
        let text = serde_json::to_string(value)?;
        Ok(Output { message: None, result: Some(Payload::json(text)) })
    }

    /// The same with a message.
    pub fn with_message(mut self, message: impl Into<String>) -> Self {
        self.message = Some(message.into());
        self
    }

    /// The same with a result.
    pub fn with_result(mut self, result: Payload) -> Self {
        self.result = Some(result);
        self
    }
}

/// Why a task did not go well.
///
/// Any error becomes one through `?`, with reason `failed`. Errors that do not implement [`std::error::Error`] (text,
/// `anyhow::Error`) are turned into one by [`Failure::from_display`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Machine-readable.
    pub reason: Reason,
    /// For people; cut at [`pendula_model::limits::MESSAGE_BYTES`].
    pub message: String,
    /// What there is nevertheless, such as the output of a script that failed.
    pub result: Option<Payload>,
    /// Whether another try may help. `false` ends the instance whatever its retry policy says.
    pub retry: bool,
}

impl Failure {
    /// A failure that another try may mend.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Failure { reason, message: message.into(), result: None, retry: true }
    }

    /// A failure with reason `failed`, from whatever can be shown: for `map_err(Failure::from_display)`. The alternate
    /// form `{:#}` is used, with which `anyhow` shows the whole chain.
    pub fn from_display(error: impl fmt::Display) -> Self {
        Failure::new(Reason::FAILED, format!("{error:#}"))
    }

    /// The same failure, which no other try can mend.
    pub fn without_retry(mut self) -> Self {
        self.retry = false;
        self
    }

    /// The same with a result.
    pub fn with_result(mut self, result: Payload) -> Self {
        self.result = Some(result);
        self
    }
}

impl<E: std::error::Error> From<E> for Failure {
    /// The messages of the error and of its sources, joined by colons.
    fn from(error: E) -> Self {
        let mut message = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            message.push_str(": ");
            message.push_str(&cause.to_string());
            source = cause.source();
        }
        Failure::new(Reason::FAILED, message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_become_failures_with_their_causes() {
        #[derive(Debug, thiserror::Error)]
        #[error("reading the list")]
        struct Outer(#[source] std::io::Error);

        fn fails() -> Result<Output, Failure> {
            Err(Outer(std::io::Error::other("no such disk")))?
        }
        let failure = fails().unwrap_err();
        assert_eq!(failure, Failure::new(Reason::FAILED, "reading the list: no such disk"));
        assert_eq!(Failure::from_display("text"), Failure::new(Reason::FAILED, "text"));
    }

    #[test]
    fn outputs_say_what_they_are() {
        let output = Output::json(&serde_json::json!({ "words": 3 })).unwrap().with_message("counted");
        assert_eq!(output.result, Some(Payload::json(r#"{"words":3}"#)));
        assert_eq!(output.message.as_deref(), Some("counted"));
        assert!(Output::json(&std::collections::BTreeMap::from([((1, 2), 3)])).is_err());
    }
}
