//! Telling those who follow instances live what a commit changed.

use std::collections::BTreeMap;
use std::time::Duration;

use pendula_model::change::Change;
use pendula_model::instance::{Instance, InstanceState};
use pendula_model::task::Fanout;
use pendula_model::{InstanceId, TaskId};
use tokio::time::Instant;

use crate::logs::{LogHub, News};

/// How often followers hear how far the tasks of an instance are, at most.
const TASKS_TOLD_EVERY: Duration = Duration::from_millis(200);

/// A row that a commit changes.
pub(super) enum Moved {
    Instance { instance: InstanceId, state: InstanceState, attempt: u32 },
    Task { instance: InstanceId, task: TaskId },
    Tasks { instance: InstanceId, news: News },
}

/// What followers are interested in of a change.
pub(super) fn moved(change: &Change) -> Option<Moved> {
    let instance: &Instance = match change {
        Change::InstanceInserted { instance, .. } | Change::InstanceEnded { instance, .. } => instance,
        Change::InstanceUpdated(instance) => instance,
        Change::TaskUpdated(task) => return Some(Moved::Task { instance: task.instance, task: task.id }),
        Change::FanoutInserted(fanout) | Change::FanoutUpdated(fanout) => {
            let Fanout { instance, counts, phase, rate_milli, .. } = *fanout;
            return Some(Moved::Tasks { instance, news: News::Tasks { counts, phase, rate_milli } });
        }
        _ => return None,
    };
    Some(Moved::Instance { instance: instance.id, state: instance.state, attempt: instance.attempt })
}

/// One partition's way to its followers.
pub(super) struct Followers {
    hub: LogHub,
    /// How far the tasks of instances are, to be told next: only the latest, because it changes a thousand times a second.
    untold: BTreeMap<InstanceId, News>,
    tell_next: Instant,
}

impl Followers {
    pub(super) fn new(hub: LogHub) -> Self {
        Followers { hub, untold: BTreeMap::new(), tell_next: Instant::now() }
    }

    /// Tells what is on disk now.
    pub(super) fn publish(&mut self, moved: Vec<Moved>) {
        if !self.hub.is_followed() {
            self.untold.clear();
            return;
        }
        for moved in moved {
            match moved {
                Moved::Instance { instance, state, attempt } => {
                    self.hub.publish(instance, || News::State { state, attempt });
                }
                Moved::Task { instance, task } => self.hub.publish(instance, || News::Moved { task }),
                Moved::Tasks { instance, news } => drop(self.untold.insert(instance, news)),
            }
        }
    }

    /// Tells what had to wait, if its time has come.
    pub(super) fn tell(&mut self) {
        let now = Instant::now();
        if self.untold.is_empty() || now < self.tell_next {
            return;
        }
        self.tell_next = now + TASKS_TOLD_EVERY;
        while let Some((instance, news)) = self.untold.pop_first() {
            self.hub.publish(instance, || news);
        }
    }

    /// When something has to be told next.
    pub(super) fn next(&self) -> Option<Instant> {
        (!self.untold.is_empty()).then_some(self.tell_next)
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use pendula_model::task::Phase;

    use super::*;
    use crate::logs::Followed;

    fn progress(version: u32) -> Vec<Moved> {
        let mut fanout = Fanout { version, ..Fanout::new(InstanceId(1), Phase::Main) };
        fanout.counts.total = version.into();
        vec![moved(&Change::FanoutUpdated(fanout)).expect("followers want to know")]
    }

    #[tokio::test(start_paused = true)]
    async fn of_a_thousand_steps_some_are_told_and_always_the_last() {
        let hub = LogHub::default();
        let mut news = hub.subscribe(InstanceId(1));
        let mut followers = Followers::new(hub.clone());
        let mut told = Vec::new();
        let mut hear = |news: &mut crate::logs::Subscription| {
            while let Some(Followed::News(News::Tasks { counts, .. })) = news.next().now_or_never() {
                told.push(counts.total);
            }
            told.len()
        };
        for step in 1..=1000 {
            followers.publish(progress(step));
            followers.tell();
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        assert_eq!(hear(&mut news), 5);
        let last = followers.next().expect("something is untold");
        tokio::time::advance(last - Instant::now()).await;
        followers.tell();
        hear(&mut news);
        assert_eq!((told.last(), followers.next()), (Some(&1000), None));
    }
}
