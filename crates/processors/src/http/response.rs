//! The answer: read within bounds, logged, judged, kept.

use std::ops::RangeInclusive;
use std::time::Duration;

use pendula_model::instance::{Payload, Reason};
use pendula_model::limits;
use pendula_model::processor::{HttpSuccess, parse_status_range};
use pendula_worker::{Failure, Output, Task};
use reqwest::header::{CONTENT_TYPE, LOCATION};
use serde_json::{Value, json};

use super::expression::{self, Expression, Subject};

/// Bytes of the body that are logged.
const LOGGED_BYTES: usize = 64 * 1024;
/// Bytes of a body that is read as JSON, which takes a multiple of it in memory.
const JSON_BYTES: usize = 8 * 1024 * 1024;

/// An answer that was read to its end.
pub(super) struct Received {
    status: u16,
    content_type: Option<String>,
    location: Option<String>,
    body: String,
    /// Before bytes that are no UTF-8 were replaced.
    body_bytes: usize,
}

impl Received {
    /// Reads the body, at most `max_body` bytes.
    pub(super) async fn read(mut response: reqwest::Response, max_body: u64) -> Result<Received, Failure> {
        let too_long = || {
            let message = format!("the body has more than {max_body} bytes (`max_body`)");
            Failure::new(Reason::from_wire("http_body"), message)
        };
        if response.content_length().is_some_and(|length| length > max_body) {
            return Err(too_long());
        }
        let text =
            |name| response.headers().get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
        let (content_type, location) = (text(CONTENT_TYPE), text(LOCATION));
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(super::failure)? {
            if (body.len() + chunk.len()) as u64 > max_body {
                return Err(too_long());
            }
            body.extend_from_slice(&chunk);
        }
        let body_bytes = body.len();
        let body = String::from_utf8(body).unwrap_or_else(|bad| String::from_utf8_lossy(bad.as_bytes()).into_owned());
        Ok(Received { status: response.status().as_u16(), content_type, location, body, body_bytes })
    }

    /// Writes status and body to the log of `task`.
    pub(super) async fn log(&self, task: &Task, took: Duration) {
        let content_type = self.content_type.as_deref().unwrap_or("no content type");
        let line = format!("{} ({content_type}, {} bytes, {} ms)", self.status, self.body_bytes, took.as_millis());
        task.log().write_line(&line).await;
        let shown = limits::cut(&self.body, LOGGED_BYTES);
        if !shown.is_empty() {
            task.log().write_line(shown.trim_end_matches('\n')).await;
        }
        if shown.len() < self.body.len() {
            task.log().write_line(&format!("[pendula] the body is cut after {LOGGED_BYTES} bytes")).await;
        }
    }

    fn json(&self) -> Result<Value, String> {
        if self.body.len() > JSON_BYTES {
            return Err(format!("the body has more than {JSON_BYTES} bytes and is not read as JSON"));
        }
        serde_json::from_str(&self.body).map_err(|error| format!("the body is not JSON: {error}"))
    }

    /// `{"status", "content_type", "location", "body_bytes", "body"}`; `body` is JSON where the body is, else text, and
    /// missing where it does not fit into a result.
    fn result(&self, json: Option<&Value>) -> Payload {
        let mut result = json!({ "status": self.status, "body_bytes": self.body_bytes });
        let mut add = |name: &str, value: &Option<String>| {
            if let Some(value) = value {
                result[name] = Value::from(limits::cut(value, 1024));
            }
        };
        add("content_type", &self.content_type);
        add("location", &self.location);
        if self.body.len() <= limits::RESULT_BYTES {
            let mut complete = result.clone();
            complete["body"] = match json {
                Some(json) => json.clone(),
                None => self.json().unwrap_or_else(|_| Value::from(self.body.as_str())),
            };
            let text = complete.to_string();
            if text.len() <= limits::RESULT_BYTES {
                return Payload::json(text);
            }
        }
        Payload::json(result.to_string())
    }
}

/// When an answer counts as success.
pub(super) struct SuccessRule {
    status: Vec<RangeInclusive<u16>>,
    body: Option<(String, Expression)>,
}

impl SuccessRule {
    pub(super) fn new(success: &HttpSuccess) -> Result<SuccessRule, String> {
        let range =
            |text: &String| parse_status_range(text).ok_or_else(|| format!("success.status: {text:?} is no range"));
        let mut status = success.status.iter().map(range).collect::<Result<Vec<_>, _>>()?;
        if status.is_empty() {
            status.push(200..=299);
        }
        let body = match &success.body {
            None => None,
            Some(text) => {
                let condition = expression::parse(text).map_err(|error| format!("success.body: {error}"))?;
                Some((text.clone(), condition))
            }
        };
        Ok(SuccessRule { status, body })
    }

    pub(super) fn judge(&self, received: &Received) -> Result<Output, Failure> {
        let status = received.status;
        if !self.status.iter().any(|range| range.contains(&status)) {
            let message = format!("the answer has status {status}, which the job does not count as success");
            return Err(Failure::new(Reason::from_wire("http_status"), message).with_result(received.result(None)));
        }
        let Some((text, condition)) = &self.body else {
            return Ok(Output { message: Some(format!("status {status}")), result: Some(received.result(None)) });
        };
        let json =
            if condition.needs_json() { received.json() } else { Err("the body was not read as JSON".to_owned()) };
        let result = received.result(json.as_ref().ok());
        let subject = Subject { status, body: &received.body, json: json.as_ref().map_err(String::as_str) };
        let broken =
            |message: String| Failure::new(Reason::from_wire("body_rule"), message).with_result(result.clone());
        match condition.holds(&subject) {
            Ok(true) => Ok(Output { message: Some(format!("status {status}")), result: Some(result) }),
            Ok(false) => Err(broken(format!("`{text}` does not hold"))),
            Err(error) => Err(broken(format!("`{text}`: {error}"))),
        }
    }
}
