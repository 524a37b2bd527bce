//! The engine's time: the wall clock, made to never go back.

use std::sync::Arc;
use std::time::Duration;

use pendula_model::Timestamp;
use tokio::time::Instant;

use crate::clock::Clock;

/// What a clock that is merely being adjusted does not do.
const SMALLEST_JUMP: Duration = Duration::from_secs(1);

/// One partition's time.
///
/// Follows the wall clock. When that was set back, time goes on at half speed until the wall clock has caught up: what
/// was fired is not fired again, and timeouts still come.
pub(super) struct PartitionTime {
    clock: Arc<dyn Clock>,
    now: Timestamp,
    read_at: Instant,
    /// By how much the clock went ahead of the time that passed, since somebody asked.
    jumped: Duration,
}

impl PartitionTime {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        let now = clock.now();
        PartitionTime { clock, now, read_at: Instant::now(), jumped: Duration::ZERO }
    }

    pub(super) fn now(&mut self) -> Timestamp {
        let wall = self.clock.now();
        let read_at = Instant::now();
        let passed = read_at.duration_since(self.read_at);
        if wall >= self.now {
            let ahead = wall.since(self.now).saturating_sub(passed);
            if ahead > SMALLEST_JUMP {
                self.jumped += ahead;
            }
            self.now = wall;
        } else {
            // Whole microseconds, and the rest is kept for the next time: time must not stand still for who asks often.
            let half = Duration::from_micros(passed.as_micros() as u64 / 2);
            self.now = self.now.plus(half);
            self.read_at += half * 2;
            return self.now;
        }
        self.read_at = read_at;
        self.now
    }

    /// By how much time went ahead without passing, since this was asked last.
    pub(super) fn take_jump(&mut self) -> Option<Duration> {
        Some(std::mem::take(&mut self.jumped)).filter(|by| !by.is_zero())
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

    #[tokio::test(start_paused = true)]
    async fn a_clock_that_was_set_ahead_tells_by_how_much() {
        let wall = Arc::new(Set(AtomicI64::new(100_000)));
        let mut time = PartitionTime::new(wall.clone());
        tokio::time::advance(Duration::from_secs(10)).await;
        wall.0.store(110_400, Ordering::Relaxed);
        assert_eq!((time.now(), time.take_jump()), (Timestamp::from_millis(110_400), None));
        tokio::time::advance(Duration::from_secs(10)).await;
        wall.0.store(1_320_400, Ordering::Relaxed);
        assert_eq!(time.now(), Timestamp::from_millis(1_320_400));
        assert_eq!(time.take_jump(), Some(Duration::from_secs(1200)));
        assert_eq!(time.take_jump(), None);
    }
}
