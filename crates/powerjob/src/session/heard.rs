//! What the worker says.

use std::time::Duration;

use pendula_model::InstanceId;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::{Passed, Past, Session};
use crate::messages::{TaskTrackerReportInstanceStatusReq, status};
use crate::translate;
use crate::version::Family;
use crate::workers::Told;

/// A worker that goes on with what it was told to stop is told again this often.
const STOP_AGAIN: Duration = Duration::from_secs(5);

impl Session {
    pub(super) async fn hear(&mut self, told: Told) -> Passed {
        self.heard_at = Instant::now();
        match told {
            Told::Heartbeat(heartbeat) => {
                // It may talk to another server now.
                if let Some(way) = &heartbeat.way {
                    self.who.way = way.clone();
                }
                self.overloaded = heartbeat.overload;
                self.family = Family::of(heartbeat.version.as_deref());
                // A worker that tracks nothing is asked at once about what it should: it may have begun anew.
                if heartbeat.light_task_tracker_num + heartbeat.heavy_task_tracker_num == 0 {
                    let patience = self.around.timing.ask_again;
                    let idle = self.held.values().filter(|held| held.started && held.heard_at.elapsed() > patience);
                    let idle: Vec<_> = idle.map(|held| held.key).collect();
                    idle.into_iter().for_each(|key| self.ask(key));
                }
                let held = self.held.values().filter(|held| held.ended.is_none()).map(|held| held.key);
                let held = held.chain(self.mapped.running()).collect();
                let metrics = heartbeat.system_metrics.as_ref().map(translate::metrics);
                self.link.alive(self.sequence, held, metrics).await.map_err(drop)
            }
            Told::Report { report, answer } => self.hear_report(&report, answer).await,
            Told::TaskStatus { key, report, answer } => {
                let now = self.around.gateway.server().clock.now();
                let next = self.mapped.hear(now, key, &report, answer);
                self.go_on(next).await
            }
            Told::TrackerStatus { instance, is_gone } => {
                let next = self.mapped.hear_of_tracker(instance, is_gone);
                self.go_on(next).await
            }
            Told::SubTasks { sub_tasks, answer } => match self.mapped.map(sub_tasks, answer) {
                Some(mapping) => self.link.map(vec![mapping]).await.map_err(drop),
                None => Ok(()),
            },
        }
    }

    pub(super) async fn hear_report(
        &mut self,
        report: &TaskTrackerReportInstanceStatusReq,
        answer: oneshot::Sender<bool>,
    ) -> Passed {
        let instance = InstanceId(report.instance_id);
        let is_final = matches!(report.instance_status, status::SUCCEEDED | status::FAILED);
        let is_old = self.past.get(&instance).is_some_and(|past| {
            past.tracker.is_some_and(|tracker| report.start_time > 0 && report.start_time <= tracker)
        });
        let now = self.around.gateway.server().clock.now();
        let Some(held) = self.held.get_mut(&instance).filter(|_| !is_old) else {
            // Of an earlier attempt, of one that was given up, or of nothing that we ever gave it: it may forget it.
            let _ = answer.send(true);
            if !is_final {
                self.stop_again(instance);
            }
            return Ok(());
        };
        held.heard_at = Instant::now();
        held.unknown_since = None;
        if report.start_time > 0 {
            held.tracker = Some(held.tracker.unwrap_or(0).max(report.start_time));
        }
        let key = held.key;
        if is_final {
            if let Some(waiting) = &mut held.ended {
                waiting.push(answer);
                return Ok(());
            }
            held.ended = Some(vec![answer]);
            let is_bound = held.is_bound;
            let end = translate::ended(now, key, report, held.class.as_deref());
            let end = if is_bound { translate::for_good(end) } else { end };
            return self.link.report(vec![end]).await.map_err(drop);
        }
        let _ = answer.send(true);
        if held.ended.is_some() {
            return Ok(());
        }
        if held.stopping && held.stop_sent.elapsed() > STOP_AGAIN {
            held.stop_sent = Instant::now();
            self.send_stop(instance);
            return Ok(());
        }
        // A state that we do not know is a sign of life and nothing else.
        if report.instance_status != status::RUNNING {
            return Ok(());
        }
        let mut news = Vec::new();
        if !std::mem::replace(&mut held.started, true) {
            news.push(translate::started(now, key, report));
        }
        // Requests overtake each other.
        if report.report_time >= held.report_time {
            held.report_time = report.report_time;
            news.push(translate::progress(key, report));
        }
        self.link.report(news).await.map_err(drop)
    }

    /// A worker that goes on with what is not its own is told again, now and then.
    pub(super) fn stop_again(&mut self, instance: InstanceId) {
        let now = Instant::now();
        let past = self.past.entry(instance).or_insert(Past::new(now));
        if past.stop_sent.is_none_or(|sent| sent.elapsed() > STOP_AGAIN) {
            past.stop_sent = Some(now);
            // What runs here now under this id would be stopped with it.
            if !self.held.contains_key(&instance) {
                self.send_stop(instance);
            }
        }
    }
}
