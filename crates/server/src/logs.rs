//! Live news of instances: what a task prints, how it and its instance move, for those who follow.
//!
//! To follow exactly: subscribe first, then read the store, then take what the subscription has beyond what was read.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use pendula_model::instance::InstanceState;
use pendula_model::task::{Phase, TaskCounts};
use pendula_model::{InstanceId, TaskId, TaskKey};
use tokio::sync::mpsc;

/// News that a slow subscriber may have waiting before it is sent back to the store.
const BUFFERED: usize = 256;

/// One piece of news. What it tells is on disk already.
#[derive(Clone, Debug)]
pub enum News {
    /// Text of an attempt's log, from `offset`.
    Text { task: TaskId, attempt: u32, offset: u64, data: Bytes },
    /// `bytes` of the log, from `offset`, were lost.
    Gap { task: TaskId, attempt: u32, offset: u64, bytes: u64 },
    /// The log of the attempt is complete.
    LogEnd { task: TaskId, attempt: u32 },
    /// The instance moved. Its row says more.
    State { state: InstanceState, attempt: u32 },
    /// One of many tasks moved. Its row says more.
    Moved { task: TaskId },
    /// How far the tasks of the instance are. Several times a second at most; the last word is always said.
    Tasks { counts: TaskCounts, phase: Phase, rate_milli: u64 },
}

impl News {
    /// The one task that it is about.
    fn task(&self) -> Option<TaskId> {
        match self {
            News::Text { task, .. } | News::Gap { task, .. } | News::LogEnd { task, .. } | News::Moved { task } => {
                Some(*task)
            }
            News::State { .. } | News::Tasks { .. } => None,
        }
    }
}

/// What [`Subscription::next`] has.
#[derive(Clone, Debug)]
pub enum Followed {
    News(News),
    /// Some news was dropped because it was not taken in time: read the store again, then go on.
    Lagged,
}

/// Where news is published and subscribed to. Cheap to clone.
#[derive(Clone, Default)]
pub struct LogHub {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    /// So that publishing costs nothing while nobody listens.
    subscriptions: AtomicUsize,
    subscribers: Mutex<HashMap<InstanceId, Vec<Subscriber>>>,
}

struct Subscriber {
    number: u64,
    /// Of single tasks, only this one's news: a million others would drown it.
    task: TaskId,
    sender: mpsc::Sender<News>,
    lagged: Arc<AtomicBool>,
}

impl Inner {
    fn subscribers(&self) -> MutexGuard<'_, HashMap<InstanceId, Vec<Subscriber>>> {
        self.subscribers.lock().expect("nothing panics while it holds this lock")
    }
}

impl LogHub {
    /// News of an instance and of its first task from now on, until the subscription is dropped.
    pub fn subscribe(&self, instance: InstanceId) -> Subscription {
        self.subscribe_task(TaskKey::root(instance))
    }

    /// News of an instance and of one of its tasks from now on, until the subscription is dropped.
    pub fn subscribe_task(&self, key: TaskKey) -> Subscription {
        let TaskKey { instance, task } = key;
        static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = mpsc::channel(BUFFERED);
        let lagged = Arc::new(AtomicBool::new(false));
        let subscriber = Subscriber { number, task, sender, lagged: lagged.clone() };
        self.inner.subscribers().entry(instance).or_default().push(subscriber);
        self.inner.subscriptions.fetch_add(1, Ordering::SeqCst);
        Subscription { hub: self.clone(), instance, number, receiver, lagged }
    }

    /// Tells everyone who follows `instance`, and the task that it is about. Never waits: who is too slow is marked as
    /// lagging.
    pub fn publish(&self, instance: InstanceId, news: impl FnOnce() -> News) {
        if !self.is_followed() {
            return;
        }
        let subscribers = self.inner.subscribers();
        let Some(subscribers) = subscribers.get(&instance) else { return };
        let news = news();
        for subscriber in subscribers.iter().filter(|of| news.task().is_none_or(|task| of.task == task)) {
            // Nothing may follow a gap before the subscriber knows of it.
            let lags = subscriber.lagged.load(Ordering::Acquire);
            if !lags && subscriber.sender.try_send(news.clone()).is_err() {
                subscriber.lagged.store(true, Ordering::Release);
            }
        }
    }

    /// Whether anybody follows anything.
    pub fn is_followed(&self) -> bool {
        self.inner.subscriptions.load(Ordering::SeqCst) > 0
    }
}

/// A listener's end. Dropping it unsubscribes.
pub struct Subscription {
    hub: LogHub,
    instance: InstanceId,
    number: u64,
    receiver: mpsc::Receiver<News>,
    lagged: Arc<AtomicBool>,
}

impl Subscription {
    /// Waits for what comes next. Cancel safe.
    pub async fn next(&mut self) -> Followed {
        // What is buffered came before the gap, so it goes first.
        match self.receiver.try_recv() {
            Ok(news) => return Followed::News(news),
            Err(_) if self.lagged.swap(false, Ordering::AcqRel) => return Followed::Lagged,
            Err(_) => {}
        }
        match self.receiver.recv().await {
            Some(news) => Followed::News(news),
            None => unreachable!("the hub keeps the sender until this is dropped"),
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut subscribers = self.hub.inner.subscribers();
        if let Some(list) = subscribers.get_mut(&self.instance) {
            list.retain(|subscriber| subscriber.number != self.number);
            if list.is_empty() {
                subscribers.remove(&self.instance);
            }
        }
        drop(subscribers);
        self.hub.inner.subscriptions.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(attempt: u32) -> News {
        News::State { state: InstanceState::Running, attempt }
    }

    #[tokio::test]
    async fn news_reach_their_subscribers_alone_and_in_order() {
        let hub = LogHub::default();
        hub.publish(InstanceId(1), || unreachable!("nobody listens"));
        let mut one = hub.subscribe(InstanceId(1));
        hub.publish(InstanceId(2), || unreachable!("nobody listens to this one"));
        hub.publish(InstanceId(1), || state(1));
        hub.publish(InstanceId(1), || state(2));
        assert!(matches!(one.next().await, Followed::News(News::State { attempt: 1, .. })));
        assert!(matches!(one.next().await, Followed::News(News::State { attempt: 2, .. })));
        drop(one);
        assert!(!hub.is_followed());
    }

    #[tokio::test]
    async fn of_single_tasks_a_subscriber_hears_of_its_own_alone() {
        let hub = LogHub::default();
        let mut third = hub.subscribe_task(TaskKey { instance: InstanceId(1), task: TaskId(3) });
        for task in 0..5 {
            hub.publish(InstanceId(1), || News::LogEnd { task: TaskId(task), attempt: 1 });
        }
        hub.publish(InstanceId(1), || state(1));
        assert!(matches!(third.next().await, Followed::News(News::LogEnd { task: TaskId(3), .. })));
        assert!(matches!(third.next().await, Followed::News(News::State { .. })));
    }

    #[tokio::test]
    async fn a_slow_subscriber_learns_of_its_gap_after_what_came_before() {
        let hub = LogHub::default();
        let mut slow = hub.subscribe(InstanceId(1));
        let sent = BUFFERED as u32 + 10;
        for attempt in 0..sent {
            hub.publish(InstanceId(1), || state(attempt));
        }
        for expected in 0..BUFFERED as u32 {
            assert!(matches!(slow.next().await, Followed::News(News::State { attempt, .. }) if attempt == expected));
        }
        assert!(matches!(slow.next().await, Followed::Lagged));
        hub.publish(InstanceId(1), || state(sent));
        assert!(matches!(slow.next().await, Followed::News(News::State { attempt, .. }) if attempt == sent));
    }
}
