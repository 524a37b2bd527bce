//! Until when this server may act, by its own monotonic clock.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// This server's lease, as it counts it itself: from before it asked for it, and with a margin, so that it stops before
/// anybody else may begin. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Lease {
    begun: Instant,
    /// Microseconds after `begun`; 0 while there is none.
    until: Arc<AtomicU64>,
}

impl Lease {
    /// None yet.
    pub(crate) fn none() -> Self {
        Lease { begun: Instant::now(), until: Arc::default() }
    }

    /// The store granted `ttl`; it was asked at `asked`.
    pub(super) fn granted(&self, asked: Instant, ttl: Duration) {
        let until = (asked + ttl * 9 / 10).duration_since(self.begun).as_micros();
        self.until.store(u64::try_from(until).unwrap_or(u64::MAX), Ordering::Release);
    }

    /// It is over.
    pub(super) fn end(&self) {
        self.until.store(0, Ordering::Release);
    }

    /// Whether this server may act at this very moment.
    pub(crate) fn holds(&self) -> bool {
        Instant::now() < self.until()
    }

    /// Resolves when it has run out, however often it is prolonged meanwhile.
    pub(crate) async fn over(&self) {
        while self.holds() {
            tokio::time::sleep_until(self.until()).await;
        }
    }

    fn until(&self) -> Instant {
        self.begun + Duration::from_micros(self.until.load(Ordering::Acquire))
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_ends_before_the_store_says_so_and_counts_from_when_it_was_asked_for() {
        let lease = Lease::none();
        assert!(!lease.holds());
        let asked = Instant::now();
        tokio::time::advance(Duration::from_secs(2)).await;
        lease.granted(asked, Duration::from_secs(5));
        assert!(lease.holds());
        tokio::time::advance(Duration::from_millis(2_499)).await;
        assert!(lease.holds());
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(!lease.holds());
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_its_end_goes_on_waiting_when_it_is_prolonged() {
        let lease = Lease::none();
        lease.granted(Instant::now(), Duration::from_secs(5));
        let mut over = std::pin::pin!(lease.over());
        for _ in 0..10 {
            tokio::time::advance(Duration::from_secs(3)).await;
            lease.granted(Instant::now(), Duration::from_secs(5));
            assert!(over.as_mut().now_or_never().is_none());
        }
        tokio::time::advance(Duration::from_secs(5)).await;
        over.await;
        lease.end();
        lease.over().await;
    }
}
