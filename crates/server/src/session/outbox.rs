//! What waits to be sent to one worker.
//!
//! The partition's loop puts in, the connection takes out. Neither waits for the other: what gathers while the
//! connection is busy leaves in few large frames, and a worker that does not read is disconnected.

use std::sync::{Mutex, MutexGuard};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::task::AtomicWaker;
use pendula_engine::Dispatch;
use pendula_model::AttemptKey;
use pendula_wire::map::MapAnswer;
use pendula_wire::v1;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Entries that may wait. A worker's slots bound its dispatches, and these bound everything else, far below this.
const MOST_WAITING: usize = 400_000;

/// News for one worker, each kind in order.
#[derive(Debug, Default)]
pub(crate) struct Parcel {
    /// The attempts that the worker must abort.
    pub(crate) welcome: Option<Vec<AttemptKey>>,
    pub(crate) acks: Vec<AttemptKey>,
    pub(crate) log_acks: Vec<v1::LogAck>,
    #[expect(clippy::vec_box, reason = "moved as they came; a dispatch is large")]
    pub(crate) dispatches: Vec<Box<Dispatch>>,
    /// Attempt, grace, and whether the attempt is no longer the worker's own.
    pub(crate) stops: Vec<(AttemptKey, Duration, bool)>,
    pub(crate) mapped: Vec<MapAnswer>,
    /// Results that a task reads: few, because they are large. See [`Outbox::pages_left`].
    pub(crate) pages: Vec<v1::ResultPage>,
    pub(crate) drain: bool,
    /// A heartbeat wants to be answered, if need be with nothing.
    pub(crate) answer: bool,
}

impl Parcel {
    fn entries(&self) -> usize {
        self.acks.len()
            + self.log_acks.len()
            + self.dispatches.len()
            + self.stops.len()
            + self.mapped.len()
            + self.pages.len()
            + usize::from(self.welcome.is_some())
            + usize::from(self.drain)
            + usize::from(self.answer)
    }

    fn append(&mut self, mut later: Parcel) {
        self.welcome = self.welcome.take().or(later.welcome);
        self.acks.append(&mut later.acks);
        self.log_acks.append(&mut later.log_acks);
        self.dispatches.append(&mut later.dispatches);
        self.stops.append(&mut later.stops);
        self.mapped.append(&mut later.mapped);
        self.pages.append(&mut later.pages);
        self.drain |= later.drain;
        self.answer |= later.answer;
    }
}

/// The queue between a partition and one worker's connection.
pub(crate) struct Outbox {
    waiting: Mutex<Waiting>,
    connection: AtomicWaker,
    /// Told when pages leave.
    left: Notify,
    closed: CancellationToken,
}

#[derive(Default)]
struct Waiting {
    parcel: Parcel,
    /// Since when the oldest entry waits.
    since: Option<Instant>,
    /// Set once, with what the worker is told at the end.
    farewell: Option<Farewell>,
}

enum Farewell {
    ToSay(tonic::Status),
    Said,
}

/// What the connection finds.
pub(super) enum Taken {
    Parcel(Parcel),
    /// Nothing will follow.
    Closed(Option<tonic::Status>),
}

impl Outbox {
    pub(crate) fn new() -> Self {
        Outbox {
            waiting: Mutex::default(),
            connection: AtomicWaker::new(),
            left: Notify::new(),
            closed: CancellationToken::new(),
        }
    }

    /// Adds to what waits; never blocks. Does nothing once closed.
    pub(crate) fn put(&self, parcel: Parcel) {
        let mut waiting = self.waiting();
        if waiting.farewell.is_some() {
            return;
        }
        waiting.parcel.append(parcel);
        waiting.since.get_or_insert_with(Instant::now);
        if waiting.parcel.entries() > MOST_WAITING {
            waiting.parcel = Parcel::default();
            drop(waiting);
            self.close(tonic::Status::resource_exhausted("the worker does not read what it is sent"));
            return;
        }
        drop(waiting);
        self.connection.wake();
    }

    /// Ends the session: what waits is still sent, then `farewell`. The first close counts.
    pub(crate) fn close(&self, farewell: tonic::Status) {
        let mut waiting = self.waiting();
        if waiting.farewell.is_none() {
            waiting.farewell = Some(Farewell::ToSay(farewell));
        }
        drop(waiting);
        self.closed.cancel();
        self.connection.wake();
    }

    /// Resolves when the session is to end.
    pub(super) async fn closed(&self) {
        self.closed.cancelled().await;
    }

    /// Resolves when no page of results waits any more, so that who reads them takes no more than the worker does. For one
    /// caller at a time.
    pub(super) async fn pages_left(&self) {
        while !self.waiting().parcel.pages.is_empty() {
            self.left.notified().await;
        }
    }

    /// How long the oldest entry waits for the worker to read.
    pub(super) fn stuck_for(&self) -> Duration {
        self.waiting().since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// Takes all that waits.
    pub(super) fn poll_take(&self, cx: &mut Context<'_>) -> Poll<Taken> {
        self.connection.register(cx.waker());
        let mut waiting = self.waiting();
        if waiting.parcel.entries() > 0 {
            waiting.since = None;
            let parcel = std::mem::take(&mut waiting.parcel);
            if !parcel.pages.is_empty() {
                self.left.notify_one();
            }
            return Poll::Ready(Taken::Parcel(parcel));
        }
        match waiting.farewell.take() {
            None => Poll::Pending,
            Some(farewell) => {
                waiting.farewell = Some(Farewell::Said);
                Poll::Ready(Taken::Closed(match farewell {
                    Farewell::ToSay(status) => Some(status),
                    Farewell::Said => None,
                }))
            }
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().expect("nothing panics while it holds this lock")
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use futures::FutureExt;
    use pendula_model::InstanceId;

    use super::*;

    fn ack(instance: i64) -> Parcel {
        Parcel { acks: vec![AttemptKey::root(InstanceId(instance), 1)], ..Parcel::default() }
    }

    #[test]
    fn what_gathers_leaves_together_and_a_farewell_comes_last() {
        let outbox = Outbox::new();
        let mut cx = Context::from_waker(Waker::noop());
        assert!(outbox.poll_take(&mut cx).is_pending());
        outbox.put(ack(1));
        outbox.put(ack(2));
        outbox.close(tonic::Status::aborted("moved"));
        outbox.put(ack(3));
        let Poll::Ready(Taken::Parcel(parcel)) = outbox.poll_take(&mut cx) else { panic!("two acks wait") };
        assert_eq!(parcel.acks, [1, 2].map(|instance| AttemptKey::root(InstanceId(instance), 1)));
        let Poll::Ready(Taken::Closed(Some(status))) = outbox.poll_take(&mut cx) else { panic!("then it ends") };
        assert_eq!(status.message(), "moved");
        assert!(matches!(outbox.poll_take(&mut cx), Poll::Ready(Taken::Closed(None))));
    }

    #[test]
    fn a_worker_that_does_not_read_is_let_go() {
        let outbox = Outbox::new();
        let acks = || vec![AttemptKey::root(InstanceId(1), 1); MOST_WAITING / 2 + 1];
        let many = || Parcel { acks: acks(), ..Parcel::default() };
        outbox.put(many());
        assert!(!outbox.closed.is_cancelled());
        outbox.put(many());
        assert!(outbox.closed.is_cancelled());
        assert_eq!(outbox.waiting().parcel.entries(), 0);
    }

    #[test]
    fn pages_of_results_wait_for_the_worker_to_take_the_ones_before() {
        let outbox = Outbox::new();
        let mut cx = Context::from_waker(Waker::noop());
        outbox.pages_left().now_or_never().expect("none waits");
        outbox.put(Parcel { pages: vec![v1::ResultPage::default()], ..Parcel::default() });
        let mut left = std::pin::pin!(outbox.pages_left());
        assert!(left.as_mut().now_or_never().is_none());
        assert!(matches!(outbox.poll_take(&mut cx), Poll::Ready(Taken::Parcel(_))));
        left.now_or_never().expect("it left");
    }
}
