//! Logs of tasks: a piece of one attempt's, or all of it as it comes.

use std::sync::Arc;

use axum::extract::State;
use axum::response::sse::{KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json as JsonAnswer};
use http::HeaderMap;
use pendula_model::api::{LogEvent, LogGap, LogView};
use pendula_model::instance::{Instance, Reason, TaskState};
use pendula_model::{AppId, TaskId, TaskKey, Timestamp};
use pendula_store::logs::{LogKey, LogPart};
use serde::Deserialize;
use tokio_stream::wrappers::ReceiverStream;
use utoipa::IntoParams;

use super::Shared;
use super::body::Query;
use super::follow::{Position, follow};
use super::problem::*;
use crate::auth::Principal;

/// Bytes of a piece unless the caller says otherwise.
const PIECE: usize = 64 * 1024;
/// Bytes of a piece at most.
const LARGEST_PIECE: usize = 1024 * 1024;
/// Lines of a tail at most.
const LONGEST_TAIL: usize = 10_000;
/// How long the rest of a log is waited for after its attempt ended. Longer than a worker takes to send it.
pub(super) const GRACE: std::time::Duration = std::time::Duration::from_secs(5);
/// Time between signs of life on a stream without news: well below what proxies close for.
const KEEP_ALIVE: std::time::Duration = std::time::Duration::from_secs(15);

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct WhichLog {
    /// Which task's log. Default 0: the only task of a standalone instance, the root of a map, the first shard.
    #[param(value_type = Option<u64>)]
    task: Option<TaskId>,
    /// Which attempt's log. Default: the latest; when following, all from the first on.
    attempt: Option<u32>,
    /// First byte. Default 0.
    offset: Option<u64>,
    /// Bytes at most: 1 to 1,048,576. Default 65,536.
    limit: Option<usize>,
    /// Begin with the last so many lines, 1 to 10,000, as far as they lie within the last mebibyte. Excludes `offset`.
    tail: Option<usize>,
    /// Stream the log of all attempts until the instance ends, as server-sent events.
    #[serde(default)]
    follow: bool,
}

/// A piece of a log; or all of it, as it comes.
///
/// With `follow=true` the answer is a stream of server-sent events whose data are `LogEvent` documents: the log of all
/// attempts in order, changes of state, how far the tasks of an instance with many are, and `end` when the instance has
/// ended and the log is complete. With a `task`, the stream is about that task alone and ends with it. A stream that broke
/// is resumed by sending the id of the last event as `Last-Event-ID`.
#[utoipa::path(get, path = "/api/v1/instances/{id}/logs", tag = "logs",
    params(WhichLog, ("Last-Event-ID" = Option<String>, Header, description = "Where a stream broke.")),
    responses((status = 200, description = "The piece, or the stream.", content(
        (LogView = "application/json"),
        (LogEvent = "text/event-stream"),
    ))))]
pub(super) async fn read_log(
    State(api): State<Shared>,
    Extension(caller): Extension<Arc<Principal>>,
    Extension(instance): Extension<Instance>,
    Query(which): Query<WhichLog>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let limit = which.limit.unwrap_or(PIECE);
    if !(1..=LARGEST_PIECE).contains(&limit) {
        return Err(ApiError::with(&INVALID_QUERY, format!("1 to {LARGEST_PIECE} are allowed")).at("limit"));
    }
    if which.tail.is_some() && which.offset.is_some() {
        return Err(ApiError::with(&INVALID_QUERY, "excludes `offset`").at("tail"));
    }
    if which.tail.is_some_and(|lines| !(1..=LONGEST_TAIL).contains(&lines)) {
        return Err(ApiError::with(&INVALID_QUERY, format!("1 to {LONGEST_TAIL} are allowed")).at("tail"));
    }
    let author = author(&api, &instance, which.task).await?;
    let attempt = author.attempt(which.attempt)?;
    let offset = match which.tail {
        Some(lines) => tail_offset(&api, author.log(attempt)?, lines).await?,
        None => which.offset.unwrap_or(0),
    };
    if !which.follow {
        let piece = piece(&api, author.log(attempt)?, offset, limit).await?;
        let cut_off = piece.is_unfinished() && author.is_abandoned(&api, attempt).await?;
        return Ok(JsonAnswer(view(attempt, offset, piece, cut_off)).into_response());
    }
    let from = match headers.get("last-event-id") {
        Some(id) => {
            let refuse = || ApiError::with(&INVALID_HEADER, "is no id of our events").at("Last-Event-ID");
            id.to_str().ok().and_then(Position::parse).ok_or_else(refuse)?
        }
        None if which.tail.is_some() || which.attempt.is_some() => Position { attempt, offset },
        None => Position { attempt: 1, offset },
    };
    let events = ReceiverStream::new(follow(api, caller, instance, which.task, from));
    // A proxy that buffers would show nothing until the end.
    let unbuffered = [("x-accel-buffering", "no")];
    Ok((unbuffered, Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE))).into_response())
}

/// Whose log it is: the only task of a standalone instance, or one of many.
pub(super) struct Author {
    app: AppId,
    pub(super) key: TaskKey,
    /// The latest; 0 before the first.
    pub(super) latest: u32,
    pub(super) state: TaskState,
    pub(super) worker: Option<String>,
    pub(super) reason: Option<Reason>,
    pub(super) message: Option<String>,
    ended_at: Option<Timestamp>,
}

/// The task asked for, by default the first.
pub(super) async fn author(api: &Shared, instance: &Instance, task: Option<TaskId>) -> Result<Author, ApiError> {
    let key = TaskKey { instance: instance.id, task: task.unwrap_or_default() };
    let whole = Author {
        app: instance.app,
        key,
        latest: instance.attempt,
        state: instance.task_state(),
        worker: instance.worker.as_ref().map(|worker| worker.name.to_string()),
        reason: instance.reason.clone(),
        message: instance.message.as_deref().map(str::to_owned),
        ended_at: instance.ended_at,
    };
    match api.server.store.task(key.instance, key.task).await? {
        Some(row) => Ok(Author {
            latest: row.attempt,
            state: row.state,
            worker: row.worker.as_ref().map(|worker| worker.name.to_string()),
            message: row.message.as_deref().map(str::to_owned),
            reason: row.reason,
            ended_at: row.ended_at.or(instance.ended_at),
            ..whole
        }),
        None if key.task == TaskId::ROOT => Ok(whole),
        None => Err(ApiError::new(&TASK_NOT_FOUND)),
    }
}

impl Author {
    /// The attempt asked for; the first one stands in while there is none.
    pub(super) fn attempt(&self, wanted: Option<u32>) -> Result<u32, ApiError> {
        let latest = self.latest.max(1);
        match wanted {
            None => Ok(latest),
            Some(wanted) if (1..=latest).contains(&wanted) => Ok(wanted),
            Some(wanted) => {
                Err(ApiError::with(&ATTEMPT_NOT_FOUND, format!("attempt {wanted} of {}", self.latest)).at("attempt"))
            }
        }
    }

    /// The log of an attempt.
    pub(super) fn log(&self, attempt: u32) -> Result<LogKey, ApiError> {
        let task = u32::try_from(self.key.task.0).map_err(|_| ApiError::new(&TASK_NOT_FOUND))?;
        Ok(LogKey { app: self.app, instance: self.key.instance, attempt, task })
    }

    /// When an attempt ended, if it did.
    pub(super) async fn ended_at(&self, api: &Shared, attempt: u32) -> Result<Option<Timestamp>, ApiError> {
        if self.state.is_ended() && attempt == self.latest {
            return Ok(self.ended_at);
        }
        let past = api.server.store.past_attempts(self.key.instance, self.key.task).await?;
        Ok(past.iter().find(|past| past.attempt == attempt).map(|past| past.ended_at))
    }

    /// Whether an attempt has been over for so long that the rest of its log will not come any more.
    pub(super) async fn is_abandoned(&self, api: &Shared, attempt: u32) -> Result<bool, ApiError> {
        let ended_at = self.ended_at(api, attempt).await?;
        Ok(ended_at.is_some_and(|ended_at| api.now().since(ended_at) >= GRACE))
    }
}

/// Some of an attempt's log, as it is stored.
pub(super) struct Piece {
    /// In order, without overlap.
    pub(super) parts: Vec<Part>,
    pub(super) next_offset: u64,
    /// Whether nothing follows any more.
    pub(super) end: bool,
    /// Bytes of the log so far.
    total: u64,
}

impl Piece {
    /// Whether this is the last that is stored of a log that began and has not ended.
    pub(super) fn is_unfinished(&self) -> bool {
        !self.end && self.total > 0 && self.next_offset >= self.total
    }
}

pub(super) enum Part {
    /// `data` stands for the bytes from `offset` to `end`; what is no UTF-8 in them is replaced.
    Text { offset: u64, end: u64, data: String },
    /// Bytes that were lost.
    Gap { offset: u64, bytes: u64 },
}

impl Part {
    pub(super) fn text(offset: u64, data: String) -> Self {
        Part::Text { offset, end: offset + data.len() as u64, data }
    }

    pub(super) fn offset(&self) -> u64 {
        match self {
            Part::Text { offset, .. } | Part::Gap { offset, .. } => *offset,
        }
    }

    pub(super) fn end(&self) -> u64 {
        match self {
            Part::Text { end, .. } => *end,
            Part::Gap { offset, bytes } => offset + bytes,
        }
    }
}

fn view(attempt: u32, offset: u64, piece: Piece, cut_off: bool) -> LogView {
    let (mut data, mut gaps) = (String::new(), Vec::new());
    for part in piece.parts {
        match part {
            Part::Text { data: text, .. } => data.push_str(&text),
            Part::Gap { offset, bytes } => gaps.push(LogGap { offset, bytes }),
        }
    }
    LogView { attempt, offset, data, next_offset: piece.next_offset, gaps, end: piece.end, cut_off }
}

/// Reads about `limit` bytes of a log from `offset` on, ending between two characters.
pub(super) async fn piece(api: &Shared, key: LogKey, offset: u64, limit: usize) -> Result<Piece, ApiError> {
    // Room for any one character, so that each piece makes progress.
    let read = api.server.logs.read(key, offset, limit.max(4)).await?;
    Ok(characters(offset, read))
}

fn characters(offset: u64, read: LogPart) -> Piece {
    let (mut next_offset, end, total) = (read.next_offset, read.end, read.total);
    let stretches = stretches(offset, &read);
    let last = stretches.len().saturating_sub(1);
    let mut parts = Vec::with_capacity(stretches.len());
    for (position, stretch) in stretches.into_iter().enumerate() {
        match stretch {
            Stretch::Gap { offset, bytes } => parts.push(Part::Gap { offset, bytes }),
            Stretch::Bytes { offset, mut bytes } => {
                // The rest of a character that is cut off comes with the next piece, unless nothing follows.
                if position == last && !end {
                    let kept = whole_characters(bytes);
                    next_offset -= (bytes.len() - kept) as u64;
                    bytes = &bytes[..kept];
                }
                if !bytes.is_empty() {
                    let data = String::from_utf8_lossy(bytes).into_owned();
                    parts.push(Part::Text { offset, end: offset + bytes.len() as u64, data });
                }
            }
        }
    }
    Piece { parts, next_offset, end, total }
}

/// Bytes before a character whose end is missing.
fn whole_characters(bytes: &[u8]) -> usize {
    let last = bytes.utf8_chunks().last();
    let broken = last.map_or(&[][..], |chunk| chunk.invalid());
    let unfinished = std::str::from_utf8(broken).is_err_and(|error| error.error_len().is_none());
    if unfinished { bytes.len() - broken.len() } else { bytes.len() }
}

/// What was read, put back to where it was.
enum Stretch<'a> {
    Bytes { offset: u64, bytes: &'a [u8] },
    Gap { offset: u64, bytes: u64 },
}

fn stretches(from: u64, read: &LogPart) -> Vec<Stretch<'_>> {
    let (mut stretches, mut offset, mut data) = (Vec::new(), from, &read.data[..]);
    for (gap, count) in &read.gaps {
        let (before, after) = data.split_at((gap - offset) as usize);
        if !before.is_empty() {
            stretches.push(Stretch::Bytes { offset, bytes: before });
        }
        stretches.push(Stretch::Gap { offset: *gap, bytes: *count });
        (offset, data) = (gap + count, after);
    }
    if !data.is_empty() {
        stretches.push(Stretch::Bytes { offset, bytes: data });
    }
    stretches
}

/// Where the last `lines` lines begin.
async fn tail_offset(api: &Shared, key: LogKey, lines: usize) -> Result<u64, ApiError> {
    let read = api.server.logs.tail(key, LARGEST_PIECE).await?;
    Ok(last_lines(&read, lines))
}

fn last_lines(read: &LogPart, lines: usize) -> u64 {
    let missing: u64 = read.gaps.iter().map(|(_, count)| count).sum();
    let from = read.next_offset - read.data.len() as u64 - missing;
    // Offsets at which a line begins.
    let mut begins = if from == 0 { vec![0] } else { Vec::new() };
    for stretch in stretches(from, read) {
        if let Stretch::Bytes { offset, bytes } = stretch {
            let ends = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'\n');
            begins.extend(ends.map(|(position, _)| offset + position as u64 + 1));
        }
    }
    // After the last line end, no line has begun yet.
    begins.pop_if(|begin| *begin == read.next_offset);
    begins.get(begins.len().saturating_sub(lines)).copied().unwrap_or(from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(from: u64, data: &[u8], gaps: &[(u64, u64)]) -> LogPart {
        let missing: u64 = gaps.iter().map(|(_, count)| count).sum();
        let next_offset = from + data.len() as u64 + missing;
        LogPart { data: data.to_vec(), next_offset, gaps: gaps.to_vec(), ..LogPart::default() }
    }

    #[test]
    fn text_and_gaps_are_put_back_to_where_they_were() {
        let piece = characters(10, read(10, b"abcdef", &[(12, 5), (18, 1)]));
        let view = view(1, 10, piece, false);
        assert_eq!((view.data.as_str(), view.next_offset), ("abcdef", 22));
        assert_eq!(view.gaps.iter().map(|gap| (gap.offset, gap.bytes)).collect::<Vec<_>>(), [(12, 5), (18, 1)]);
    }

    #[test]
    fn a_character_is_never_cut_unless_nothing_follows() {
        let cut = &"aé".as_bytes()[..2];
        let piece = characters(0, read(0, cut, &[]));
        assert_eq!(piece.next_offset, 1);
        let piece = characters(0, LogPart { end: true, ..read(0, cut, &[]) });
        assert_eq!((piece.next_offset, view(1, 0, piece, false).data.as_str()), (2, "a\u{fffd}"));
        let wrong = characters(0, read(0, b"a\xffb\xff", &[]));
        assert_eq!((wrong.next_offset, view(1, 0, wrong, false).data.as_str()), (4, "a\u{fffd}b\u{fffd}"));
    }

    #[test]
    fn a_tail_begins_with_a_line() {
        assert_eq!(last_lines(&read(0, b"a\nb\nc\n", &[]), 2), 2);
        assert_eq!(last_lines(&read(0, b"a\nb\nc", &[]), 2), 2);
        assert_eq!(last_lines(&read(0, b"a\nb\n", &[]), 9), 0);
        assert_eq!(last_lines(&read(0, b"", &[]), 9), 0);
        assert_eq!(last_lines(&read(100, b"lf of a line\nb\n", &[]), 9), 113);
        // What was lost may have been the beginning of the line.
        assert_eq!(last_lines(&read(0, b"a\nb\n", &[(2, 10)]), 1), 2);
    }
}
