//! When to dial again, and whom.

use std::time::Duration;

use crate::worker::Timing;

/// Goes through all servers without pause, then pauses; the pause doubles with each round that failed, and a random
/// part of it is taken ("full jitter"), so that a thousand workers do not return at the same moment.
#[derive(Debug)]
pub(crate) struct Backoff {
    servers: u32,
    first: Duration,
    max: Duration,
    refused_max: Duration,
    failures: u32,
}

impl Backoff {
    pub(crate) fn new(servers: usize, timing: &Timing) -> Self {
        Backoff {
            servers: servers.max(1) as u32,
            first: timing.reconnect_first,
            max: timing.reconnect_max,
            refused_max: timing.refused_max,
            failures: 0,
        }
    }

    /// The session lasted: the next failure is the first.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }

    /// The pause after another failure. `random` is uniform over 0.0 to 1.0. A refusal is not mended by asking soon
    /// again, so it waits at least half its maximum.
    pub(crate) fn pause(&mut self, refused: bool, random: f64) -> Duration {
        self.failures = self.failures.saturating_add(1);
        if !self.failures.is_multiple_of(self.servers) {
            return Duration::ZERO;
        }
        if refused {
            return self.refused_max.mul_f64(0.5 + random / 2.0);
        }
        let doublings = (self.failures / self.servers - 1).min(20);
        self.first.saturating_mul(1 << doublings).min(self.max).mul_f64(random)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_to_a_maximum_and_start_again() {
        let mut backoff = Backoff::new(1, &Timing::default());
        let millis: Vec<_> = (0..8).map(|_| backoff.pause(false, 1.0).as_millis()).collect();
        assert_eq!(millis, [100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        assert_eq!(backoff.pause(false, 0.0), Duration::ZERO);
        backoff.reset();
        assert_eq!(backoff.pause(false, 0.5).as_millis(), 50);
        for _ in 0..100 {
            assert!(backoff.pause(false, 1.0) <= Duration::from_secs(5));
        }
    }

    #[test]
    fn all_servers_are_tried_before_a_pause() {
        let mut backoff = Backoff::new(3, &Timing::default());
        let millis: Vec<_> = (0..6).map(|_| backoff.pause(false, 1.0).as_millis()).collect();
        assert_eq!(millis, [0, 0, 100, 0, 0, 200]);
    }

    #[test]
    fn refusals_are_not_repeated_soon() {
        let mut backoff = Backoff::new(1, &Timing::default());
        assert_eq!(backoff.pause(true, 0.0), Duration::from_secs(15));
        assert_eq!(backoff.pause(true, 1.0), Duration::from_secs(30));
    }
}
