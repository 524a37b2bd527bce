//! What the partition has for the worker.

use pendula_engine::{Dispatch, input::Outcome};
use pendula_model::instance::Reason;
use pendula_model::mode::ExecutionMode;
use pendula_model::powerjob::PowerJobExecuteType;
use pendula_model::processor::Processor;
use pendula_model::{AttemptKey, InstanceId};
use pendula_server::gateway::Errand;
use tokio::time::Instant;

use super::{Called, Held, Passed, Past, Session};
use crate::dial::Tracked;
use crate::translate;

/// Whether the dispatch of an attempt is one that came before. The engine repeats those that it believes lost, and where
/// everything is slow the second one is taken when the attempt has ended. Of the first it is known here whether it was
/// sent, and it is asked about; a worker that was told twice would run twice what it has ended and forgotten.
fn is_known(key: AttemptKey, held: Option<&Held>, past: Option<&Past>) -> bool {
    held.is_some_and(|held| held.key == key) || past.is_some_and(|past| past.key == Some(key))
}

impl Session {
    pub(super) async fn do_errand(&mut self, errand: Errand) -> Passed {
        match errand {
            Errand::Welcome { abort } => {
                for key in abort {
                    if self.mapped.has(key) {
                        let next = self.mapped.stop(key, true);
                        self.around.workers.forget_task(key, &self.who.address);
                        self.go_on(next).await?;
                        continue;
                    }
                    self.held.remove(&key.instance);
                    self.send_stop(key.instance);
                }
            }
            Errand::Dispatch(dispatch) => return self.dispatch(dispatch).await,
            Errand::Stop { attempt, abandon } if self.mapped.has(attempt) => {
                let next = self.mapped.stop(attempt, abandon);
                if abandon {
                    self.around.workers.forget_task(attempt, &self.who.address);
                }
                return self.go_on(next).await;
            }
            Errand::Stop { attempt, abandon } => return self.stop(attempt, abandon).await,
            Errand::Ack(attempt) if self.mapped.has(attempt) => {
                self.mapped.acknowledged(attempt);
                if !self.mapped.has(attempt) {
                    self.around.workers.forget_task(attempt, &self.who.address);
                }
            }
            Errand::Mapped { attempt, reply } => self.mapped.mapped(attempt, &reply),
            Errand::Ack(attempt) => {
                if self.held.get(&attempt.instance).is_some_and(|held| held.key == attempt && held.ended.is_some()) {
                    let waiting = self.over(attempt.instance);
                    for answer in waiting {
                        let _ = answer.send(true);
                    }
                    self.around.log_lines.end_soon(self.who.app, attempt);
                }
            }
            // It holds for this process, and not for the next one at its address.
            Errand::Drain => {
                if !std::mem::replace(&mut self.draining, true) {
                    self.knock();
                }
            }
        }
        Ok(())
    }

    pub(super) async fn dispatch(&mut self, dispatch: Box<Dispatch>) -> Passed {
        self.sequence = self.sequence.max(dispatch.sequence);
        let key = dispatch.key();
        let Processor::PowerJob(powerjob) = &dispatch.spec.processor else {
            let outcome = Outcome::Rejected { reason: Reason::PROCESSOR_MISSING };
            return self
                .report(translate::ended_as(key, outcome, "a PowerJob worker runs PowerJob's processors"))
                .await;
        };
        if matches!(dispatch.spec.mode, ExecutionMode::Map(_)) {
            if self.overloaded && !self.mapped.knows(key) {
                return self.give_back_too_much(key).await;
            }
            let next = self.mapped.dispatch(&dispatch, powerjob, self.around.reports_to(self.who.way.speech()));
            if self.mapped.has(key) {
                self.around.workers.has_task(key, self.who.app, &self.who.address);
            }
            return self.go_on(next).await;
        }
        if is_known(key, self.held.get(&key.instance), self.past.get(&key.instance)) {
            return Ok(());
        }
        if self.overloaded {
            return self.give_back_too_much(key).await;
        }
        // An earlier attempt that was given up: its tracker is not this one's.
        for answer in self.over(key.instance) {
            let _ = answer.send(true);
        }
        let is_bound = dispatch.part.is_some();
        let class = Some(powerjob.info.as_str().into());
        self.held.insert(key.instance, Held { is_bound, class, ..Held::of(key, Instant::now()) });
        if powerjob.execute_type == PowerJobExecuteType::Broadcast && !self.is_settled() {
            if let Some(held) = self.held.get_mut(&key.instance) {
                held.waiting = Some(dispatch);
            }
            return Ok(());
        }
        self.send(&dispatch);
        Ok(())
    }

    async fn give_back_too_much(&mut self, key: AttemptKey) -> Passed {
        let outcome = Outcome::Rejected { reason: Reason::from_wire("overloaded") };
        self.report(translate::ended_as(key, outcome, "the worker has too many instances")).await
    }

    pub(super) fn send(&mut self, dispatch: &Dispatch) {
        let key = dispatch.key();
        let Processor::PowerJob(powerjob) = &dispatch.spec.processor else { return };
        let (app, address) = (self.who.app, &*self.who.address);
        let all = match powerjob.execute_type {
            // Workers before 4.3 tell all that are named here when it has ended, and who began anew may speak otherwise.
            PowerJobExecuteType::Standalone => vec![address.to_owned()],
            _ => self.around.workers.cluster_of(app, &dispatch.spec, self.who.way.speech(), Some(address), false),
        };
        let request = translate::schedule(dispatch, powerjob, all, self.family);
        let (dialer, way) = (self.around.dialer.clone(), self.who.way.clone());
        self.calls.spawn(async move {
            // It ignores the new one while it has a tracker of an earlier attempt, whose end would be taken for this one's.
            if key.attempt > 1 && matches!(dialer.is_tracked(&way, key.instance.0).await, Ok(Tracked::Yes)) {
                let _ = dialer.stop_instance(&way, key.instance.0).await;
                return Called::Busy { key };
            }
            Called::Ran { key, result: dialer.run_job(&way, &request).await }
        });
    }

    pub(super) async fn stop(&mut self, attempt: AttemptKey, abandon: bool) -> Passed {
        self.send_stop(attempt.instance);
        match self.held.get_mut(&attempt.instance).filter(|held| held.key == attempt) {
            Some(_) if abandon => drop(self.over(attempt.instance)),
            None if abandon => {}
            Some(held) if held.waiting.is_some() => {
                return self.report(translate::ended_as(attempt, Outcome::Stopped, "")).await;
            }
            Some(held) => (held.stopping, held.stop_sent, held.asked_at) = (true, Instant::now(), None),
            // It has nothing of it, as far as anybody can know.
            None => return self.report(translate::ended_as(attempt, Outcome::Lost, "")).await,
        }
        Ok(())
    }

    pub(super) fn send_stop(&mut self, instance: InstanceId) {
        let (dialer, way) = (self.around.dialer.clone(), self.who.way.clone());
        self.calls.spawn(async move {
            if let Err(error) = dialer.stop_instance(&way, instance.0).await {
                tracing::debug!(worker = %way, %instance, %error, "a PowerJob worker was not told to stop");
            }
            Called::Stopped
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dispatch_that_is_repeated_is_not_another_one() {
        let now = Instant::now();
        let [first, second] = [1, 2].map(|attempt| AttemptKey::root(InstanceId(7), attempt));
        let held = Held::of(first, now);
        let past = Past { key: Some(first), ..Past::new(now) };
        assert!(is_known(first, Some(&held), None), "it runs");
        assert!(is_known(first, None, Some(&past)), "its end is on disk");
        assert!(!is_known(second, Some(&held), None), "the first one was given up");
        assert!(!is_known(second, None, Some(&past)));
        assert!(!is_known(first, None, Some(&Past::new(now))), "the worker had it from elsewhere");
        assert!(!is_known(first, None, None));
    }
}
