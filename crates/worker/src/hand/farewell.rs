//! Draining and leaving.

use std::time::{Duration, Instant};

use super::{Hand, Link};
use crate::event::Event;
use crate::worker::Summary;

/// How long leaving waits for futures to be dropped and for the session to close. Work that blocks its thread cannot be
/// waited for.
const LEAVE: Duration = Duration::from_millis(500);

/// The end of a worker, in steps.
pub(super) struct Farewell {
    /// When what still runs is handed back.
    hand_back_at: Instant,
    handed_back: bool,
    /// When to leave although a handler does not end, or the server does not acknowledge.
    leave_at: Option<Instant>,
}

impl Hand {
    /// Takes nothing new. A second request can only shorten the budget.
    pub(super) fn drain(&mut self, now: Instant, budget: Option<Duration>) {
        let hand_back_at = now + budget.unwrap_or(self.settings.drain_budget);
        match &mut self.farewell {
            // The switch stays in its position and is seen again each time.
            Some(_) if budget.is_none() => {}
            Some(farewell) => farewell.hand_back_at = farewell.hand_back_at.min(hand_back_at),
            None => {
                tracing::info!(running = self.ledger.occupied(), "draining");
                self.ledger.drain();
                self.farewell = Some(Farewell { hand_back_at, handed_back: false, leave_at: None });
                self.scan_at = now;
            }
        }
    }

    /// Whether everything is said that will be said.
    pub(super) fn has_said_farewell(&mut self, now: Instant) -> bool {
        let Some(farewell) = &mut self.farewell else { return false };
        let timing = &self.settings.timing;
        if self.ledger.occupied() > 0 {
            if !farewell.handed_back && farewell.hand_back_at <= now {
                farewell.handed_back = true;
                // Past the grace, the kill and its moment, a handler that is still there blocks its thread.
                farewell.leave_at = Some(now + timing.hand_back_grace + timing.kill_moment + timing.farewell);
                tracing::info!(running = self.ledger.occupied(), "the budget is over; handing back what still runs");
                self.ledger.hand_back(now);
            }
        } else if self.ledger.unacknowledged() == 0 && self.logs.is_settled() {
            return match &self.link {
                Link::Up(line) => line.said_draining.is_some_and(|at| now.duration_since(at) >= timing.listen_on),
                // A server that we do not talk to sends nothing.
                Link::Down { .. } | Link::Dialing(_) => true,
            };
        } else {
            let leave_at = now + timing.farewell;
            farewell.leave_at = Some(farewell.leave_at.map_or(leave_at, |at| at.min(leave_at)));
        }
        farewell.leave_at.is_some_and(|at| at <= now)
    }

    /// Drops what still runs and closes the session.
    pub(super) async fn leave(mut self) -> Summary {
        let until = tokio::time::Instant::now() + LEAVE;
        for live in self.live.values() {
            live.task.stop.kill();
            live.future.abort();
        }
        while !self.live.is_empty() {
            match tokio::time::timeout_at(until, self.event_queue.recv()).await {
                Ok(Some(Event::Ended { held, .. })) => drop(self.live.remove(&crate::ledger::key_of(&held))),
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => break,
            }
        }
        if let Link::Up(line) = self.link {
            let mut session = line.session;
            drop(session.outgoing);
            // The server closes its half once it has read ours.
            let closed = async { while let Ok(Some(_)) = session.incoming.message().await {} };
            let _ = tokio::time::timeout_at(until, closed).await;
        }
        let summary = Summary {
            unacknowledged: self.ledger.unacknowledged() as u64,
            still_running: self.live.len() as u64,
            ..self.ledger.summary
        };
        tracing::info!(?summary, "left");
        summary
    }
}
