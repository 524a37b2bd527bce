//! Looking for oneself, at what the worker does not say.

use std::time::Duration;

use pendula_engine::input::Outcome;
use pendula_model::AttemptKey;
use pendula_model::instance::Reason;
use tokio::time::Instant;

use super::{Called, Held, Passed, Session};
use crate::dial::{CallError, Tracked};
use crate::messages::TaskTrackerReportInstanceStatusReq;
use crate::translate;
use crate::way::Way;

/// So often in a row a drained worker is not reached that is gone.
const MISSED: u32 = 2;
/// Ends that are remembered, to tell the news of an earlier attempt from those of the current one.
const REMEMBERED: Duration = Duration::from_secs(600);

impl Session {
    pub(super) async fn look(&mut self) -> Passed {
        let timing = self.around.timing;
        if self.is_settled() {
            let now = Instant::now();
            let due = self.held.values_mut().filter(|held| held.ended.is_none()).filter_map(|held| {
                let dispatch = held.waiting.take();
                held.heard_at = if dispatch.is_some() { now } else { held.heard_at };
                dispatch
            });
            due.collect::<Vec<_>>().iter().for_each(|dispatch| self.send(dispatch));
        }
        let mut to_ask = Vec::new();
        let was_sent = |held: &&Held| held.ended.is_none() && held.waiting.is_none();
        for held in self.held.values().filter(was_sent).filter(|held| !held.asking) {
            let since_asked = held.asked_at.map(|at| at.elapsed());
            let pause = if held.stopping || held.unknown_since.is_some() { timing.look } else { timing.ask_after / 3 };
            let is_due = held.stopping || held.unknown_since.is_some() || held.heard_at.elapsed() >= timing.ask_after;
            if is_due && since_asked.is_none_or(|since| since >= pause) {
                to_ask.push(held.key);
            }
        }
        to_ask.into_iter().for_each(|key| self.ask(key));
        self.past.retain(|_, past| past.at.elapsed() < REMEMBERED);
        let next = self.mapped.look(timing.lost_after);
        self.go_on(next).await
    }

    /// Looks whether the worker is there, by a question about nothing. Over Akka another process says by itself that it is
    /// one; and where another server calls, nobody knows which of the two is away.
    pub(super) fn knock(&mut self) {
        let Way::Http(_) = self.who.way else { return };
        let (dialer, way, pause) = (self.around.dialer.clone(), self.who.way.clone(), self.around.timing.look);
        self.calls.spawn(async move {
            tokio::time::sleep(pause).await;
            Called::Looked(dialer.is_tracked(&way, 0).await)
        });
    }

    pub(super) fn ask(&mut self, key: AttemptKey) {
        let Some(held) = self.held.get_mut(&key.instance).filter(|held| held.key == key && !held.asking) else {
            return;
        };
        (held.asking, held.asked_at) = (true, Some(Instant::now()));
        let (dialer, way) = (self.around.dialer.clone(), self.who.way.clone());
        self.calls.spawn(async move { Called::Asked { key, result: dialer.is_tracked(&way, key.instance.0).await } });
    }

    pub(super) async fn take(&mut self, called: Called) -> Passed {
        let called = match called {
            Called::Started { key, result } => {
                let next = self.mapped.sent(key, result);
                return self.go_on(next).await;
            }
            Called::Ended { instance, result } => {
                let next = self.mapped.stopped(instance, result);
                return self.go_on(next).await;
            }
            Called::Looked(result) => {
                self.missed = if matches!(result, Err(CallError::NotSent(_))) { self.missed + 1 } else { 0 };
                self.is_gone = self.missed >= MISSED;
                self.knock();
                return Ok(());
            }
            called => called,
        };
        let timing = self.around.timing;
        let now = self.around.gateway.server().clock.now();
        let (Called::Ran { key, .. } | Called::Busy { key } | Called::Asked { key, .. }) = called else {
            return Ok(());
        };
        let Some(held) = self.held.get_mut(&key.instance).filter(|held| held.key == key) else { return Ok(()) };
        if matches!(called, Called::Asked { .. }) {
            held.asking = false;
        }
        if held.ended.is_some() {
            return Ok(());
        }
        let end = match called {
            Called::Stopped
            | Called::Looked(_)
            | Called::Ran { result: Ok(()), .. }
            | Called::Started { .. }
            | Called::Ended { .. } => return Ok(()),
            Called::Busy { .. } => {
                let reason = Reason::from_wire("earlier_attempt_runs");
                translate::ended_as(key, Outcome::Rejected { reason }, "an earlier attempt still runs on the worker")
            }
            // A report came meanwhile: whatever was answered, it runs.
            Called::Ran { .. } if held.started => return Ok(()),
            Called::Ran { result: Err(error), .. } => match error {
                CallError::NotSent(_) => {
                    let reason = Reason::from_wire("worker_unreachable");
                    translate::ended_as(key, Outcome::Rejected { reason }, &error.to_string())
                }
                CallError::Status(_) => {
                    let outcome = Outcome::Failed { reason: Reason::from_wire("refused_by_worker"), final_: false };
                    translate::ended_as(key, outcome, &error.to_string())
                }
                CallError::NoAnswer(_) => {
                    held.unknown_since.get_or_insert_with(Instant::now);
                    return Ok(());
                }
            },
            Called::Asked { result: Ok(Tracked::Yes), .. } => {
                held.unknown_since = None;
                if held.stopping {
                    return Ok(());
                }
                held.heard_at = Instant::now();
                if std::mem::replace(&mut held.started, true) {
                    return Ok(());
                }
                let report = TaskTrackerReportInstanceStatusReq::default();
                let started = translate::started(now, key, &report);
                return self.link.report(vec![started]).await.map_err(drop);
            }
            Called::Asked { result: Ok(Tracked::No), .. } if held.stopping => {
                translate::ended_as(key, Outcome::Stopped, "")
            }
            Called::Asked { result: Ok(Tracked::No), .. } => {
                let since = *held.unknown_since.get_or_insert_with(Instant::now);
                if since.elapsed() < timing.ask_again {
                    return Ok(());
                }
                translate::ended_as(key, Outcome::Lost, "the worker does not know it, and reported no end")
            }
            Called::Asked { result: Err(error), .. } => {
                if held.stopping || held.heard_at.elapsed() < timing.lost_after {
                    return Ok(());
                }
                translate::ended_as(key, Outcome::Lost, &format!("no report for too long, and {error}"))
            }
        };
        self.report(end).await
    }
}
