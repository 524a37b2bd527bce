//! The file `$PENDULA_RESULTS`: what the other tasks left, for `reduce` and `post`, one JSON object on each line.

use std::fs::File;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use pendula_worker::{Failure, Task, TaskResult};
use serde::Serialize;
use serde_json::Value;
use tokio::io::AsyncWriteExt;

use crate::facts::is_json;

/// Bytes that are written at once.
const CHUNK_BYTES: usize = 256 * 1024;

/// Writes all results to `file`, page by page as they come.
pub(super) async fn write(task: &Task, file: File) -> Result<(), Failure> {
    let cannot = |error: std::io::Error| Failure::from_display(format!("writing the results to a file: {error}"));
    let mut file = tokio::fs::File::from_std(file);
    let mut results = task.results()?;
    let mut chunk = Vec::with_capacity(CHUNK_BYTES);
    while let Some(result) = results.next().await? {
        serde_json::to_writer(&mut chunk, &Line::of(&result))?;
        chunk.push(b'\n');
        if chunk.len() >= CHUNK_BYTES {
            file.write_all(&chunk).await.map_err(cannot)?;
            chunk.clear();
        }
    }
    file.write_all(&chunk).await.map_err(cannot)?;
    file.flush().await.map_err(cannot)
}

/// One result. What is not there has no key.
#[derive(Serialize)]
struct Line<'a> {
    task: u64,
    name: &'a str,
    outcome: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    result_base64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    worker: Option<&'a str>,
}

impl Line<'_> {
    fn of(result: &TaskResult) -> Line<'_> {
        let mut line = Line {
            task: result.task.0,
            name: &result.name,
            outcome: result.outcome.to_string(),
            result: None,
            result_base64: None,
            reason: result.reason.as_ref().map(|reason| reason.as_str()),
            message: result.message.as_deref(),
            worker: result.worker.as_deref(),
        };
        if let Some(payload) = &result.result {
            let json = is_json(&payload.content_type).then(|| serde_json::from_slice(&payload.bytes).ok()).flatten();
            match (json, std::str::from_utf8(&payload.bytes)) {
                (Some(value), _) => line.result = Some(value),
                (None, Ok(text)) => line.result = Some(Value::from(text)),
                (None, Err(_)) => line.result_base64 = Some(STANDARD.encode(&payload.bytes)),
            }
        }
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pendula_worker::{Payload, Reason, TaskId, TaskOutcome};
    use serde_json::json;

    #[test]
    fn results_are_json_text_or_base64() {
        let line = |kind: &str, bytes: &[u8]| {
            let result = TaskResult {
                task: TaskId(3),
                name: "a".to_owned(),
                outcome: TaskOutcome::Succeeded,
                result: Some(Payload { content_type: kind.to_owned(), bytes: bytes.to_vec() }),
                reason: None,
                message: None,
                worker: Some("w1".to_owned()),
            };
            serde_json::to_value(Line::of(&result)).unwrap()
        };
        let expect = |key: &str, value: Value| json!({ "task": 3, "name": "a", "outcome": "succeeded", "worker": "w1", key: value });
        assert_eq!(line("application/json", b"{\"n\":\n1}"), expect("result", json!({ "n": 1 })));
        assert_eq!(line("application/vnd.a+json", b"5"), expect("result", json!(5)));
        assert_eq!(line("application/json", b"{"), expect("result", json!("{")));
        assert_eq!(line("text/plain", b"5"), expect("result", json!("5")));
        assert_eq!(line("application/json", b"\xff\xfe"), expect("result_base64", json!("//4=")));
    }

    #[test]
    fn what_did_not_succeed_says_why() {
        let result = TaskResult {
            task: TaskId(9),
            name: String::new(),
            outcome: TaskOutcome::Unknown(77),
            result: None,
            reason: Some(Reason::EXIT_CODE),
            message: Some("exit code 3".to_owned()),
            worker: None,
        };
        let expected = r#"{"task":9,"name":"","outcome":"unknown_77","reason":"exit_code","message":"exit code 3"}"#;
        assert_eq!(serde_json::to_string(&Line::of(&result)).unwrap(), expected);
    }
}
