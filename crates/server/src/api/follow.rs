//! Following an instance or one of its tasks: log and state as they come, as server-sent events.
//!
//! The store is the truth and the hub only says when to look again, or brings exactly what comes next. So nothing is
//! lost or repeated when a follower is slow, when attempts follow one another, or when the stream is resumed elsewhere
//! from the last event's id, which is the position after it: `ATTEMPT:OFFSET`.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::response::sse::Event;
use pendula_model::api::{LogEvent, TasksView};
use pendula_model::instance::{Instance, InstanceState, TaskState};
use pendula_model::{PartitionId, TaskId, TaskKey};
use tokio::sync::mpsc;

use super::logs::{self, Author, GRACE, Part, Piece};
use super::problem::ApiError;
use super::{Shared, task_views};
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
    /// Only this task of it is followed, and only to its own end.
    task: Option<TaskId>,
    at: Position,
    told: Option<(InstanceState, u32, Option<String>)>,
    told_tasks: Option<TasksView>,
    events: mpsc::Sender<Result<Event, Infallible>>,
}

/// Follows an instance, or one of its tasks, from a position until it ended, the caller leaves, or their token becomes
/// invalid.
pub(super) fn follow(
    api: Shared,
    caller: Arc<Principal>,
    instance: Instance,
    task: Option<TaskId>,
    from: Position,
) -> mpsc::Receiver<Result<Event, Infallible>> {
    let (events, receiver) = mpsc::channel(BUFFERED);
    tokio::spawn(async move {
        let id = instance.id;
        let follower = Follower {
            api: api.clone(),
            instance,
            task,
            at: from,
            told: None,
            told_tasks: None,
            events: events.clone(),
        };
        tokio::select! {
            result = follower.run() => if let Err(Cut::Failed(error)) = result {
                // The stream ends without `end`; the follower resumes and gets the error as an answer.
                tracing::warn!(instance = %id, code = error.code.code, "a follower was cut off");
            },
            _ = api.server.auth.ended(&caller) => {}
            () = events.closed() => {}
            // The news are elsewhere now, and whoever resumes is sent there.
            () = gone(&api, id.partition()) => {}
        }
    });
    receiver
}

/// Resolves when a partition is not here any more.
async fn gone(api: &Shared, partition: PartitionId) {
    let Some(relay) = &api.server.relay else { return std::future::pending().await };
    while api.server.partitions.is_here(partition) {
        relay.member.news().await;
    }
}

impl Follower {
    async fn run(mut self) -> Result<(), Cut> {
        let key = TaskKey { instance: self.instance.id, task: self.task.unwrap_or_default() };
        let mut news = self.api.server.log_hub.subscribe_task(key);
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
        let author = logs::author(&self.api, &instance, self.task).await?;
        self.tell_state(&instance, &author).await?;
        self.catch_up_with_tasks(&instance).await?;
        while self.at.attempt <= author.latest {
            let complete = self.send_stored(&author).await?;
            if !complete {
                let ended_at = author.ended_at(&self.api, self.at.attempt).await?;
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
        let end = match self.task {
            Some(_) if author.state.is_ended() => LogEvent::End {
                state: in_words_of_instances(author.state),
                reason: author.reason.as_ref().map(ToString::to_string),
                message: author.message,
            },
            None if instance.state.is_ended() => LogEvent::End {
                state: instance.state,
                reason: instance.reason.as_ref().map(ToString::to_string),
                message: instance.message.as_deref().map(str::to_owned),
            },
            _ => return Ok(Some(LOOK_AGAIN)),
        };
        self.send(&end).await?;
        Ok(None)
    }

    /// Tells how far the tasks are, of an instance with many.
    async fn catch_up_with_tasks(&mut self, instance: &Instance) -> Result<(), Cut> {
        if self.task.is_some() {
            return Ok(());
        }
        match self.api.server.store.fanout(instance.id).await? {
            Some(fanout) => self.tell_tasks(task_views::tasks(&fanout, instance)).await,
            None => Ok(()),
        }
    }

    async fn tell_tasks(&mut self, tasks: TasksView) -> Result<(), Cut> {
        if self.told_tasks.as_ref() == Some(&tasks) {
            return Ok(());
        }
        self.told_tasks = Some(tasks.clone());
        self.send(&LogEvent::Tasks { tasks }).await
    }

    /// Sends what is stored of the current attempt's log; whether it is complete.
    async fn send_stored(&mut self, author: &Author) -> Result<bool, Cut> {
        loop {
            let piece = logs::piece(&self.api, author.log(self.at.attempt)?, self.at.offset, PIECE).await?;
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
            Followed::News(News::Text { attempt, offset, data, .. }) => match String::from_utf8(data.into()) {
                Ok(data) => (attempt, Part::text(offset, data)),
                Err(_) => return Ok(false),
            },
            Followed::News(News::Gap { attempt, offset, bytes, .. }) => (attempt, Part::Gap { offset, bytes }),
            Followed::News(News::Tasks { counts, phase, rate_milli }) => {
                if self.task.is_none() {
                    self.tell_tasks(task_views::progress(counts, phase, rate_milli)).await?;
                }
                return Ok(true);
            }
            Followed::News(News::LogEnd { .. } | News::State { .. } | News::Moved { .. }) | Followed::Lagged => {
                return Ok(false);
            }
        };
        let at = Position { attempt, offset: part.offset() };
        if at == self.at {
            self.send_part(part).await?;
            return Ok(true);
        }
        // What we have already is no news.
        Ok((at.attempt, at.offset) < (self.at.attempt, self.at.offset))
    }

    async fn tell_state(&mut self, instance: &Instance, author: &Author) -> Result<(), Cut> {
        let now = match self.task {
            Some(_) => (in_words_of_instances(author.state), author.latest, author.worker.clone()),
            None => {
                let worker = instance.worker.as_ref().map(|worker| worker.name.to_string());
                (instance.state, instance.attempt, worker)
            }
        };
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

/// A task's state as an instance with that one task would have it.
fn in_words_of_instances(state: TaskState) -> InstanceState {
    match state {
        TaskState::Waiting => InstanceState::Waiting,
        TaskState::Dispatched => InstanceState::Dispatched,
        TaskState::Running => InstanceState::Running,
        TaskState::Succeeded => InstanceState::Succeeded,
        TaskState::Failed | TaskState::Lost => InstanceState::Failed,
        TaskState::Stopped => InstanceState::Stopped,
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
