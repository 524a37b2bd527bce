//! Following an instance: its log and state as they come, as server-sent events.
//!
//! The store is the truth and the hub only says when to look again, or brings exactly what comes next. So nothing is
//! lost or repeated when a follower is slow, when attempts follow one another, or when the stream is resumed elsewhere
//! from the last event's id, which is the position after it: `ATTEMPT:OFFSET`.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::response::sse::Event;
use pendula_model::api::LogEvent;
use pendula_model::instance::{Instance, InstanceState};
use tokio::sync::mpsc;

use super::Shared;
use super::logs::{self, GRACE, Part, Piece};
use super::problem::ApiError;
use crate::auth::Principal;
use crate::logs::{Followed, News};

/// What [`GRACE`] is for a log of which nothing came at all. Tasks that print nothing send no end of it either.
const EMPTY_GRACE: Duration = Duration::from_millis(500);
/// How often the store is looked at when there is no news: what the hub does not tell is seen no later than this.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// Bytes read from the store at once.
const PIECE: usize = 64 * 1024;
/// Events that a slow follower may have waiting.
const BUFFERED: usize = 16;

/// A position in the logs of all attempts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Position {
    pub(super) attempt: u32,
    pub(super) offset: u64,
}

impl Position {
    /// What [`event`] wrote as an id.
    pub(super) fn parse(id: &str) -> Option<Self> {
        let (attempt, offset) = id.split_once(':')?;
        Some(Position { attempt: attempt.parse().ok().filter(|attempt| *attempt > 0)?, offset: offset.parse().ok()? })
    }

    fn next_attempt(self) -> Self {
        Position { attempt: self.attempt + 1, offset: 0 }
    }
}

/// Why following stops before the instance ends.
enum Cut {
    /// The caller went away; there is nobody to tell.
    Gone,
    Failed(ApiError),
}

impl<E: Into<ApiError>> From<E> for Cut {
    fn from(error: E) -> Self {
        Cut::Failed(error.into())
    }
}

struct Follower {
    api: Shared,
    /// As it was when following began; only who it is matters.
    instance: Instance,
    at: Position,
    told: Option<(InstanceState, u32, Option<String>)>,
    events: mpsc::Sender<Result<Event, Infallible>>,
}

/// Follows an instance from a position until it ended, the caller leaves, or their token becomes invalid.
pub(super) fn follow(
    api: Shared,
    caller: Arc<Principal>,
    instance: Instance,
    from: Position,
) -> mpsc::Receiver<Result<Event, Infallible>> {
    let (events, receiver) = mpsc::channel(BUFFERED);
    tokio::spawn(async move {
        let id = instance.id;
        let follower = Follower { api: api.clone(), instance, at: from, told: None, events: events.clone() };
        tokio::select! {
            result = follower.run() => if let Err(Cut::Failed(error)) = result {
                // The stream ends without `end`; the follower resumes and gets the error as an answer.
                tracing::warn!(instance = %id, code = error.code.code, "a follower was cut off");
            },
            _ = api.server.auth.ended(&caller) => {}
            () = events.closed() => {}
        }
    });
    receiver
}

impl Follower {
    async fn run(mut self) -> Result<(), Cut> {
        let mut news = self.api.server.log_hub.subscribe(self.instance.id);
        while let Some(pause) = self.catch_up().await? {
            let look_again = tokio::time::sleep(pause);
            tokio::pin!(look_again);
            loop {
                tokio::select! {
                    next = news.next() => if !self.take(next).await? { break },
                    () = &mut look_again => break,
                }
            }
        }
        Ok(())
    }

    /// Sends everything that the store has. `None` when the instance ended and its log is complete; otherwise how long
    /// to wait for news before looking again.
    async fn catch_up(&mut self) -> Result<Option<Duration>, Cut> {
        // The state is read before the log: when it says that an attempt ended, what the log has after that is the rest.
        let Some(instance) = self.api.server.store.instance(self.instance.id).await? else {
            // Pruned while it was followed.
            return Ok(None);
        };
        self.tell_state(&instance).await?;
        while self.at.attempt <= instance.attempt {
            let complete = self.send_stored().await?;
            if !complete {
                let ended_at = logs::ended_at(&self.api, &instance, self.at.attempt).await?;
                let Some(ended_at) = ended_at else { return Ok(Some(LOOK_AGAIN)) };
                let waited = self.api.now().since(ended_at);
                let grace = if self.at.offset == 0 { EMPTY_GRACE } else { GRACE };
                if waited < grace {
                    return Ok(Some(grace - waited));
                }
                if self.at.offset > 0 {
                    let Position { attempt, offset } = self.at;
                    self.send(&LogEvent::CutOff { attempt, offset }).await?;
                }
            }
            self.at = self.at.next_attempt();
        }
        if !instance.state.is_ended() {
            return Ok(Some(LOOK_AGAIN));
        }
        let reason = instance.reason.as_ref().map(ToString::to_string);
        let message = instance.message.as_deref().map(str::to_owned);
        self.send(&LogEvent::End { state: instance.state, reason, message }).await?;
        Ok(None)
    }

    /// Sends what is stored of the current attempt's log; whether it is complete.
    async fn send_stored(&mut self) -> Result<bool, Cut> {
        loop {
            let piece =
                logs::piece(&self.api, logs::key(&self.instance, self.at.attempt), self.at.offset, PIECE).await?;
            let Piece { parts, next_offset, end, .. } = piece;
            let moved = next_offset > self.at.offset;
            for part in parts {
                self.send_part(part).await?;
            }
            self.at.offset = next_offset;
            if end || !moved {
                return Ok(end);
            }
        }
    }

    /// Takes news. False when the store has to be looked at.
    async fn take(&mut self, next: Followed) -> Result<bool, Cut> {
        let (attempt, part) = match next {
            Followed::News(News::Text { attempt, offset, data }) => match String::from_utf8(data.into()) {
                Ok(data) => (attempt, Part::text(offset, data)),
                Err(_) => return Ok(false),
            },
            Followed::News(News::Gap { attempt, offset, bytes }) => (attempt, Part::Gap { offset, bytes }),
            Followed::News(News::LogEnd { .. } | News::State { .. }) | Followed::Lagged => return Ok(false),
        };
        let at = Position { attempt, offset: part.offset() };
        if at == self.at {
            self.send_part(part).await?;
            return Ok(true);
        }
        // What we have already is no news.
        Ok((at.attempt, at.offset) < (self.at.attempt, self.at.offset))
    }

    async fn tell_state(&mut self, instance: &Instance) -> Result<(), Cut> {
        let worker = instance.worker.as_ref().map(|worker| worker.name.to_string());
        let now = (instance.state, instance.attempt, worker);
        if self.told.as_ref() == Some(&now) {
            return Ok(());
        }
        self.told = Some(now.clone());
        let (state, attempt, worker) = now;
        self.send(&LogEvent::State { state, attempt, worker }).await
    }

    async fn send_part(&mut self, part: Part) -> Result<(), Cut> {
        self.at.offset = part.end();
        let attempt = self.at.attempt;
        let event = match part {
            Part::Text { offset, data, .. } => LogEvent::Log { attempt, offset, data },
            Part::Gap { offset, bytes } => LogEvent::Gap { attempt, offset, bytes },
        };
        self.send(&event).await
    }

    async fn send(&self, event: &LogEvent) -> Result<(), Cut> {
        let id = format!("{}:{}", self.at.attempt, self.at.offset);
        let json = serde_json::to_string(event).expect("events are plain JSON");
        self.events.send(Ok(Event::default().event(event.name()).id(id).data(json))).await.map_err(|_| Cut::Gone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_read_from_event_ids() {
        assert_eq!(Position::parse("2:77"), Some(Position { attempt: 2, offset: 77 }));
        for bad in ["", "2", "0:1", "a:b", "-1:0", "1:", "1:2:3"] {
            assert_eq!(Position::parse(bad), None, "{bad}");
        }
    }
}
