//! The sub-tasks that a script emits: lines that it writes to the FIFO `$PENDULA_TASKS` while it runs.
//!
//! The worker holds both ends of the FIFO, so that a script may open and close it as often as it likes without an end that
//! the worker would see. What ends the reading is that no process of the attempt is left.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;

use futures::stream;
use pendula_model::limits;
use pendula_worker::{Failure, Payload, Reason, SubTask, Task};
use rustix::io::Errno;
use serde_json::Value;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

/// Bytes of a line; more than an input may have, because JSON writes some characters with more bytes.
const LINE_BYTES: usize = 2 * limits::TASK_INPUT_BYTES;
/// Bytes taken from the FIFO at once.
const CHUNK_BYTES: usize = 64 * 1024;

/// A running transfer from FIFO to server. A slow server slows the script, which waits in its `write`. Dropped, it stops.
pub(super) struct Emitter {
    script_ended: CancellationToken,
    transfer: AbortOnDropHandle<Result<(), Failure>>,
    /// How the transfer ended, if it ended before the script.
    ended: Option<Result<(), Failure>>,
}

impl Emitter {
    /// Starts to emit what is written to `fifo`, which is open for both reading and writing.
    pub(super) fn start(fifo: File, task: Task) -> io::Result<Emitter> {
        let pipe = Receiver::from_file(fifo)?;
        let script_ended = CancellationToken::new();
        let lines = Lines::new(pipe, script_ended.clone());
        let sub_tasks = stream::unfold(lines, |mut lines| async { Some((lines.next().await?, lines)) });
        let transfer = AbortOnDropHandle::new(tokio::spawn(async move { task.map_stream(sub_tasks).await }));
        Ok(Emitter { script_ended, transfer, ended: None })
    }

    /// Completes when the transfer failed: a bad line, or a refusal. Cancel-safe.
    pub(super) async fn failed(&mut self) -> Failure {
        if self.ended.is_none() {
            self.ended = Some((&mut self.transfer).await.unwrap_or_else(|panic| Err(Failure::from_display(panic))));
        }
        match &self.ended {
            Some(Err(failure)) => failure.clone(),
            // It does not end well before the script.
            _ => std::future::pending().await,
        }
    }

    /// Emits the rest, once all processes have ended, and waits until all is stored.
    pub(super) async fn finish(self) -> Result<(), Failure> {
        self.script_ended.cancel();
        match self.ended {
            Some(ended) => ended,
            None => self.transfer.await.map_err(Failure::from_display)?,
        }
    }
}

/// Cuts into lines what comes.
struct Lines {
    pipe: Receiver,
    script_ended: CancellationToken,
    /// What came and was not used yet, from `used` on.
    buffer: Vec<u8>,
    used: usize,
    /// Without a line break before here.
    searched: usize,
    /// Of the line that was read last, from 1.
    number: u64,
    /// Nothing more comes.
    at_end: bool,
    failed: bool,
}

impl Lines {
    fn new(pipe: Receiver, script_ended: CancellationToken) -> Self {
        let buffer = Vec::with_capacity(2 * CHUNK_BYTES);
        Lines { pipe, script_ended, buffer, used: 0, searched: 0, number: 0, at_end: false, failed: false }
    }

    /// The next sub-task, or what is wrong with its line, which is the last then.
    async fn next(&mut self) -> Option<Result<SubTask, Failure>> {
        if self.failed {
            return None;
        }
        let next = self.read().await.transpose()?;
        let next = next.map_err(|why| {
            let message = format!("line {} of $PENDULA_TASKS: {why}", self.number);
            Failure::new(Reason::from_wire("bad_sub_task"), message).without_retry()
        });
        self.failed = next.is_err();
        Some(next)
    }

    async fn read(&mut self) -> Result<Option<SubTask>, String> {
        loop {
            if let Some(length) = self.buffer[self.searched..].iter().position(|byte| *byte == b'\n') {
                let end = self.searched + length;
                let start = std::mem::replace(&mut self.used, end + 1);
                self.searched = self.used;
                self.number += 1;
                if let Some(task) = sub_task(&self.buffer[start..end])? {
                    return Ok(Some(task));
                }
            } else if self.buffer.len() - self.used > LINE_BYTES {
                self.number += 1;
                return Err(format!("it has more than {LINE_BYTES} bytes"));
            } else if self.at_end {
                let rest = std::mem::take(&mut self.buffer).split_off(std::mem::take(&mut self.used));
                self.searched = 0;
                self.number += 1;
                return sub_task(&rest);
            } else {
                self.buffer.drain(..self.used);
                self.used = 0;
                self.searched = self.buffer.len();
                self.fill().await.map_err(|error| format!("it cannot be read: {error}"))?;
            }
        }
    }

    /// Waits for more.
    async fn fill(&mut self) -> io::Result<()> {
        self.buffer.reserve(CHUNK_BYTES);
        tokio::select! {
            biased;
            read = self.pipe.read_buf(&mut self.buffer) => {
                read?;
            }
            () = self.script_ended.cancelled() => {
                // Of what was written last the runtime may not have heard yet, so the kernel is asked.
                let length = self.buffer.len();
                self.buffer.resize(length + CHUNK_BYTES, 0);
                let read = loop {
                    match rustix::io::read(self.pipe.as_fd(), &mut self.buffer[length..]) {
                        Err(Errno::INTR) => {}
                        Err(Errno::AGAIN) => break 0,
                        read => break read?,
                    }
                };
                self.buffer.truncate(length + read);
                self.at_end = read == 0;
            }
        }
        Ok(())
    }
}

/// The sub-task that a line says, none for a blank one.
///
/// A JSON object with `name` and `input`, or one of both, is just that. Any other line is the input, and its beginning the
/// name.
fn sub_task(line: &[u8]) -> Result<Option<SubTask>, String> {
    let line = std::str::from_utf8(line).map_err(|_| "it is not UTF-8".to_owned())?;
    let line = line.strip_suffix('\r').unwrap_or(line);
    if line.trim().is_empty() {
        return Ok(None);
    }
    if !line.trim_start().starts_with('{') {
        return checked(SubTask::text(label(line), line)).map(Some);
    }
    let object: serde_json::Map<String, Value> =
        serde_json::from_str(line).map_err(|error| format!("it begins with `{{` but is not a JSON object: {error}"))?;
    if !object.contains_key("name") && !object.contains_key("input") {
        let input = Payload { content_type: "application/json".to_owned(), bytes: line.as_bytes().to_vec() };
        return checked(SubTask::new(label(line), input)).map(Some);
    }
    let (mut name, mut input) = (None, None);
    for (key, value) in object {
        match (key.as_str(), value) {
            ("name", Value::String(text)) => name = Some(text),
            ("name", _) => return Err("`name` must be text".to_owned()),
            ("input", value) => input = Some(value),
            (other, _) => {
                return Err(format!(
                    "`{other}` is neither `name` nor `input`; an object that is all input is written {{\"input\": {{…}}}}"
                ));
            }
        }
    }
    let named = |text: &str| name.clone().unwrap_or_else(|| label(text));
    checked(match input {
        None => SubTask::named(named("")),
        Some(Value::String(text)) => SubTask::text(named(&text), text),
        Some(value) => {
            let text = value.to_string();
            SubTask::new(named(&text), Payload::json(text))
        }
    })
    .map(Some)
}

fn checked(task: SubTask) -> Result<SubTask, String> {
    if task.name().len() > limits::TASK_NAME_BYTES {
        return Err(format!("the name has {} bytes; at most {}", task.name().len(), limits::TASK_NAME_BYTES));
    }
    if task.name().chars().any(char::is_control) {
        return Err("the name has a control character".to_owned());
    }
    if task.input().len() > limits::TASK_INPUT_BYTES {
        return Err(format!("the input has {} bytes; at most {}", task.input().len(), limits::TASK_INPUT_BYTES));
    }
    Ok(task)
}

/// The beginning of `text` as a name.
fn label(text: &str) -> String {
    let cut = limits::cut(text, limits::TASK_NAME_BYTES);
    if cut.chars().any(char::is_control) {
        // Which makes it no longer.
        return cut.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    }
    cut
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(line: &str) -> (String, String, String) {
        let task = sub_task(line.as_bytes()).unwrap().unwrap();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        (task.name().to_owned(), text(task.input()), task.content_type().to_owned())
    }

    #[test]
    fn a_line_is_a_name_and_an_input() {
        let (text, json) = ("text/plain; charset=utf-8", "application/json");
        for (line, name, input, kind) in [
            ("a.txt", "a.txt", "a.txt", text),
            (" it's \t5 \r", " it's  5 ", " it's \t5 ", text),
            (r#"{"name":"a","input":"x\ny"}"#, "a", "x\ny", text),
            (r#"{"name":"a","input":{"k":[1]}}"#, "a", r#"{"k":[1]}"#, json),
            (r#" {"input":7}"#, "7", "7", json),
            (r#"{"input":null}"#, "null", "null", json),
            (r#"{"name":"a"}"#, "a", "", ""),
            (r#"{"file":"a"}"#, r#"{"file":"a"}"#, r#"{"file":"a"}"#, json),
            ("[1]", "[1]", "[1]", text),
        ] {
            assert_eq!(said(line), (name.to_owned(), input.to_owned(), kind.to_owned()), "{line}");
        }
        let long = "é".repeat(1000);
        let (name, input, _) = said(&long);
        assert!(name.len() <= limits::TASK_NAME_BYTES && name.ends_with("é…") && input == long);
        assert_eq!(sub_task(b" \r"), Ok(None));
    }

    #[test]
    fn what_is_meant_as_something_and_is_not_is_refused() {
        let long = "x".repeat(limits::TASK_INPUT_BYTES + 1);
        for (line, message) in [
            ("{broken", "not a JSON object"),
            (r#"{"name":7}"#, "`name` must be text"),
            (r#"{"name":"a\nb"}"#, "control character"),
            (r#"{"name":"bob","age":3}"#, "`age` is neither"),
            (&format!(r#"{{"name":"{}"}}"#, &long[..257]), "the name has 257 bytes"),
            (&long, "the input has 262145 bytes"),
        ] {
            let error = sub_task(line.as_bytes()).unwrap_err();
            assert!(error.contains(message), "{error}");
        }
        assert_eq!(sub_task(b"a\xff"), Err("it is not UTF-8".to_owned()));
    }
}
