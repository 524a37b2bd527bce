//! The engine's time: the wall clock, made to never go back.

use std::sync::Arc;

use pendula_model::Timestamp;
use tokio::time::Instant;

use crate::clock::Clock;

/// One partition's time.
///
/// Follows the wall clock. When that was set back, time goes on at half speed until the wall clock has caught up: what
/// was fired is not fired again, and timeouts still come.
pub(super) struct PartitionTime {
    clock: Arc<dyn Clock>,
    now: Timestamp,
    read_at: Instant,
}

impl PartitionTime {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        let now = clock.now();
        PartitionTime { clock, now, read_at: Instant::now() }
    }

    pub(super) fn now(&mut self) -> Timestamp {
        let wall = self.clock.now();
        let read_at = Instant::now();
        if wall >= self.now {
            self.now = wall;
        } else {
            self.now = self.now.plus(read_at.duration_since(self.read_at) / 2);
        }
        self.read_at = read_at;
        self.now
    }

    /// When, by the monotonic clock, `at` will have come.
    pub(super) fn instant(&mut self, at: Timestamp) -> Instant {
        let now = self.now();
        self.read_at + at.since(now)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicI64, Ordering};
    use std::time::Duration;

    use super::*;

    struct Set(AtomicI64);

    impl Clock for Set {
        fn now(&self) -> Timestamp {
            Timestamp::from_millis(self.0.load(Ordering::Relaxed))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_clock_that_was_set_back_slows_time_down_instead_of_turning_it() {
        let wall = Arc::new(Set(AtomicI64::new(100_000)));
        let mut time = PartitionTime::new(wall.clone());
        wall.0.store(40_000, Ordering::Relaxed);
        assert_eq!(time.now(), Timestamp::from_millis(100_000));
        tokio::time::advance(Duration::from_secs(10)).await;
        assert_eq!(time.now(), Timestamp::from_millis(105_000));
        wall.0.store(200_000, Ordering::Relaxed);
        assert_eq!(time.now(), Timestamp::from_millis(200_000));
    }
}
