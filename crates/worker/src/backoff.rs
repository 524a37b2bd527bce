//! How long to pause before servers are asked again.

use std::time::Duration;

use crate::addresses::Pause;
use crate::worker::Timing;

/// The pause doubles with each round that reached nobody, and a random part of it is taken ("full jitter"), so that a
/// thousand workers do not return at the same moment.
#[derive(Debug)]
pub(crate) struct Backoff {
    first: Duration,
    max: Duration,
    refused_max: Duration,
    failures: u32,
}

impl Backoff {
    pub(crate) fn new(timing: &Timing) -> Self {
        Backoff {
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

    /// The length of a pause. `random` is uniform over 0.0 to 1.0. A refusal is not mended by asking soon again, so it waits
    /// at least half its maximum.
    pub(crate) fn length(&mut self, pause: Pause, random: f64) -> Duration {
        match pause {
            Pause::Refused => self.refused_max.mul_f64(0.5 + random / 2.0),
            Pause::NotNow => self.first.mul_f64(random),
            Pause::Unreachable => {
                let doublings = self.failures.min(20);
                self.failures = self.failures.saturating_add(1);
                self.first.saturating_mul(1 << doublings).min(self.max).mul_f64(random)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_to_a_maximum_and_start_again() {
        let mut backoff = Backoff::new(&Timing::default());
        let millis: Vec<_> = (0..8).map(|_| backoff.length(Pause::Unreachable, 1.0).as_millis()).collect();
        assert_eq!(millis, [100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        assert_eq!(backoff.length(Pause::Unreachable, 0.0), Duration::ZERO);
        backoff.reset();
        assert_eq!(backoff.length(Pause::Unreachable, 0.5).as_millis(), 50);
        for _ in 0..100 {
            assert!(backoff.length(Pause::Unreachable, 1.0) <= Duration::from_secs(5));
        }
    }

    #[test]
    fn what_is_about_to_pass_is_not_waited_for() {
        let mut backoff = Backoff::new(&Timing::default());
        for _ in 0..5 {
            backoff.length(Pause::Unreachable, 1.0);
            assert_eq!(backoff.length(Pause::NotNow, 1.0).as_millis(), 100);
        }
    }

    #[test]
    fn refusals_are_not_repeated_soon() {
        let mut backoff = Backoff::new(&Timing::default());
        assert_eq!(backoff.length(Pause::Refused, 0.0), Duration::from_secs(15));
        assert_eq!(backoff.length(Pause::Refused, 1.0), Duration::from_secs(30));
    }
}
