//! A log followed live, across restarts of the server.

use std::collections::VecDeque;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt};
use http::HeaderName;
use pendula_model::api::LogEvent;
use pendula_model::{InstanceId, TaskId};
use reqwest::Method;
use tokio::time::Instant;

use crate::connection::Client;
use crate::error::ClientError;
use crate::sse::{Decoder, Event};

/// Where to begin, and how long to put up with silence.
#[derive(Clone, Debug)]
pub struct FollowOptions {
    /// Follow this task alone, to its own end; default: the instance, with the log of its first task.
    pub task: Option<TaskId>,
    /// First attempt to show; default: the first.
    pub attempt: Option<u32>,
    /// Bytes of that attempt to skip.
    pub offset: u64,
    /// Begin with the last so many lines of the attempt instead (default here: the latest).
    pub tail: Option<u32>,
    /// How long to try again when the connection is lost, counted from the last word heard. Default 5 min.
    pub patience: Duration,
    /// A connection on which nothing arrives for so long is given up for a new one; the server sends a comment at least
    /// every 15 s. Default 45 s.
    pub silence: Duration,
}

impl Default for FollowOptions {
    fn default() -> Self {
        FollowOptions {
            task: None,
            attempt: None,
            offset: 0,
            tail: None,
            patience: Duration::from_secs(300),
            silence: Duration::from_secs(45),
        }
    }
}

/// The events of one instance, or of one of its tasks, in order, each byte of a log once, ending after [`LogEvent::End`].
///
/// A lost connection is replaced by a new one that continues where the old one stopped. Text that arrives again is
/// dropped here, so it does not matter where exactly the server resumes.
pub struct Follow {
    client: Client,
    id: InstanceId,
    options: FollowOptions,
    /// The attempt and the byte of it that are wanted next.
    position: Option<(u32, u64)>,
    /// Of the latest event that had one: where the server resumes.
    last_id: Option<String>,
    connection: Option<Connection>,
    ready: VecDeque<LogEvent>,
    last_heard: Instant,
    pause: Duration,
    ended: bool,
}

struct Connection {
    bytes: Pin<Box<dyn Stream<Item = reqwest::Result<Bytes>> + Send>>,
    decoder: Decoder,
}

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(3);
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

impl Client {
    /// Follows an instance, or one of its tasks, until it ends.
    pub fn follow(&self, id: InstanceId, options: FollowOptions) -> Follow {
        Follow {
            client: self.clone(),
            id,
            position: options.attempt.filter(|_| options.tail.is_none()).map(|attempt| (attempt, options.offset)),
            last_id: None,
            options,
            connection: None,
            ready: VecDeque::new(),
            last_heard: Instant::now(),
            pause: FIRST_PAUSE,
            ended: false,
        }
    }
}

impl Follow {
    /// The next event; `None` after the end or after an error that no further try would mend.
    ///
    /// May be dropped while it waits: no event is lost by that.
    pub async fn next(&mut self) -> Option<Result<LogEvent, ClientError>> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                self.ended |= matches!(event, LogEvent::End { .. });
                return Some(Ok(event));
            }
            if self.ended {
                return None;
            }
            if let Err(error) = self.advance().await {
                self.ended = true;
                return Some(Err(error));
            }
        }
    }

    /// As a stream, for those who combine it with others.
    pub fn into_stream(self) -> impl Stream<Item = Result<LogEvent, ClientError>> + Send {
        futures::stream::unfold(self, |mut follow| async move { follow.next().await.map(|event| (event, follow)) })
    }

    /// Reads once from the connection, or makes a new one. An error here is final.
    async fn advance(&mut self) -> Result<(), ClientError> {
        let Some(connection) = &mut self.connection else {
            return match self.connect().await {
                Ok(connection) => {
                    self.connection = Some(connection);
                    Ok(())
                }
                Err(error) => self.wait_before_retry(error).await,
            };
        };
        let lost = match tokio::time::timeout(self.options.silence, connection.bytes.next()).await {
            Ok(Some(Ok(bytes))) => {
                let mut events = Vec::new();
                let decoded = connection.decoder.push(&bytes, &mut events);
                self.last_heard = Instant::now();
                self.pause = FIRST_PAUSE;
                for event in events {
                    self.accept(event)?;
                }
                return decoded.map_err(|_| self.client.protocol("a log event without end".to_owned()));
            }
            Ok(Some(Err(error))) => self.client.broke(&error),
            Ok(None) => self.client.lost("the stream ended early"),
            Err(_) => self.client.lost("the stream fell silent"),
        };
        self.connection = None;
        self.wait_before_retry(lost).await
    }

    async fn connect(&mut self) -> Result<Connection, ClientError> {
        let mut request = self
            .client
            .request(Method::GET, &["instances", &self.id.to_string(), "logs"])
            .query(&[("follow", true)])
            .query(&[("task", self.options.task)])
            .header(http::header::ACCEPT, "text/event-stream")
            // Replaces the client's limit for a whole answer, which this one is not.
            .timeout(Duration::from_secs(365 * 86_400));
        request = match (&self.last_id, self.options.tail) {
            (Some(id), _) => request.header(LAST_EVENT_ID, id),
            (None, Some(lines)) => request.query(&[("attempt", self.options.attempt)]).query(&[("tail", lines)]),
            (None, None) => {
                let (attempt, offset) = self.position.unzip();
                request.query(&[("attempt", attempt)]).query(&[("offset", offset)])
            }
        };
        let request = request.build()?;
        // Repeated by us, who have more patience.
        let answer = tokio::time::timeout(self.options.silence, self.client.send_once(&request)).await;
        let response = answer.unwrap_or_else(|_| Err(self.client.lost("no answer in time")))?;
        Ok(Connection { bytes: Box::pin(response.bytes_stream()), decoder: Decoder::default() })
    }

    async fn wait_before_retry(&mut self, error: ClientError) -> Result<(), ClientError> {
        if !error.is_retryable() || self.last_heard.elapsed() + self.pause > self.options.patience {
            return Err(error);
        }
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        Ok(())
    }

    fn accept(&mut self, event: Event) -> Result<(), ClientError> {
        let id = event.id.clone();
        let parsed = parse(event).map_err(|error| self.client.protocol(format!("{error} in a log event")))?;
        let fresh = match parsed {
            Some(LogEvent::Log { attempt, offset, data }) => self.fresh_text(attempt, offset, data, id.as_deref()),
            Some(LogEvent::Gap { attempt, offset, bytes }) => self
                .fresh(attempt, offset, offset + bytes)
                .map(|skip| LogEvent::Gap { attempt, offset: offset + skip, bytes: bytes - skip }),
            other => other,
        };
        self.ready.extend(fresh);
        if id.is_some() {
            self.last_id = id;
        }
        Ok(())
    }

    fn fresh_text(&mut self, attempt: u32, offset: u64, data: String, id: Option<&str>) -> Option<LogEvent> {
        // What was no UTF-8 in the log is replaced in the text, whose length then says nothing; the id tells the end.
        let length = data.len() as u64;
        let end = id.and_then(|id| position_of(id, attempt)).filter(|end| *end >= offset).unwrap_or(offset + length);
        let skip = self.fresh(attempt, offset, end)?;
        if skip == 0 || end != offset + length || !data.is_char_boundary(skip as usize) {
            return Some(LogEvent::Log { attempt, offset, data });
        }
        Some(LogEvent::Log { attempt, offset: offset + skip, data: data[skip as usize..].to_owned() })
    }

    /// How many of the first bytes of a place are known already; `None` when all are. Moves the position behind it.
    fn fresh(&mut self, attempt: u32, offset: u64, end: u64) -> Option<u64> {
        let (wanted_attempt, wanted) = self.position.unwrap_or((attempt, 0));
        let skip = match attempt.cmp(&wanted_attempt) {
            std::cmp::Ordering::Less => return None,
            std::cmp::Ordering::Equal if end <= wanted => return None,
            std::cmp::Ordering::Equal => wanted.saturating_sub(offset),
            std::cmp::Ordering::Greater => 0,
        };
        self.position = Some((attempt, end));
        Some(skip)
    }
}

/// The offset in an event's id, `ATTEMPT:OFFSET`, if it is of that attempt.
fn position_of(id: &str, attempt: u32) -> Option<u64> {
    let (of, offset) = id.split_once(':')?;
    (of.parse() == Ok(attempt)).then(|| offset.parse().ok()).flatten()
}

/// The variant is named by the data's `event`, or else by the event's name. A variant that a newer server has is skipped.
fn parse(event: Event) -> Result<Option<LogEvent>, serde_json::Error> {
    let mut data: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&event.data)?;
    let name = data.entry("event").or_insert_with(|| event.name.into());
    if !name.as_str().is_some_and(|name| LogEvent::NAMES.contains(&name)) {
        return Ok(None);
    }
    serde_json::from_value(data.into()).map(Some)
}
