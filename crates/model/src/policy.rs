//! What happens when things do not go as planned: retries, limits, lost workers.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::invalid::Invalid;
use crate::limits;

/// What a worker that vanished means for the work that it had.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum Delivery {
    /// Run again elsewhere; it may run twice.
    #[default]
    AtLeastOnce,
    /// Never start a second time; the instance ends `failed` with reason `worker_lost`, its task `lost`.
    AtMostOnce,
}

/// How often and how soon a failed attempt is followed by another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Retry {
    /// Attempts in total, the first one included, that may fail. 1 (default, no retry) to 1,000.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub attempts: u32,
    #[serde(default, skip_serializing_if = "is_default")]
    pub backoff: Backoff,
    /// How often work that was lost with its worker is run again, apart from `attempts`. Default 5, so that a job that
    /// kills its workers comes to an end. `at_most_once` jobs are never run again.
    #[serde(default = "five", skip_serializing_if = "is_five")]
    pub lost_reruns: u32,
}

impl Default for Retry {
    fn default() -> Self {
        Retry { attempts: 1, backoff: Backoff::default(), lost_reruns: 5 }
    }
}

/// Time between the end of an attempt and the next.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Backoff {
    /// The same each time.
    Fixed(#[serde(with = "crate::duration")] Duration),
    /// Doubles from `initial` to `max`, with a random tenth added or taken away.
    Exponential(Exponential),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Exponential {
    #[serde(with = "crate::duration")]
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub initial: Duration,
    #[serde(with = "crate::duration")]
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub max: Duration,
    /// Share of each pause that is random, in percent, added or taken away. 0 to 100, default 10.
    #[serde(default = "ten", skip_serializing_if = "is_ten")]
    pub jitter_percent: u32,
}

impl Default for Backoff {
    fn default() -> Self {
        Backoff::Exponential(Exponential {
            initial: Duration::from_secs(5),
            max: Duration::from_secs(300),
            jitter_percent: 10,
        })
    }
}

impl Backoff {
    /// The pause after the `failures`-th failure (from 1). `random` is uniform over all of `u64`.
    pub fn pause(&self, failures: u32, random: u64) -> Duration {
        match self {
            Backoff::Fixed(pause) => *pause,
            Backoff::Exponential(exponential) => {
                let doublings = failures.saturating_sub(1).min(40);
                let initial = exponential.initial.as_micros() as u64;
                let max = exponential.max.as_micros() as u64;
                let pause = initial.saturating_mul(1 << doublings).min(max);
                let spread = (u128::from(pause) * u128::from(exponential.jitter_percent) / 100) as u64;
                // Uniform over [pause - spread, pause + spread].
                let offset = (u128::from(random) * (2 * u128::from(spread) + 1)) >> 64;
                Duration::from_micros(pause - spread + offset as u64)
            }
        }
    }
}

/// How many instances of a job may be under way at once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Concurrency {
    /// From 1; none means no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// What becomes of an instance above the limit.
    #[serde(default, skip_serializing_if = "is_default")]
    pub overflow: Overflow,
    /// Instances that `queue` lets wait; further ones end as `skip` would. Default 10,000.
    #[serde(default = "ten_thousand", skip_serializing_if = "is_ten_thousand")]
    pub queue: u32,
}

impl Default for Concurrency {
    fn default() -> Self {
        Concurrency { limit: None, overflow: Overflow::Queue, queue: 10_000 }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum Overflow {
    /// Wait, first come first served.
    #[default]
    Queue,
    /// End as `canceled` with reason `skipped`.
    Skip,
    /// Stop the oldest instance under way (or cancel it if it waits) and take its place.
    Replace,
    /// End as `failed` with reason `concurrency_limit`.
    Fail,
}

impl Retry {
    pub fn validate(&self) -> Result<(), Invalid> {
        if !(1..=1000).contains(&self.attempts) {
            return Err(Invalid::new("attempts", format!("{} is not allowed; 1 (no retry) to 1000", self.attempts)));
        }
        if self.lost_reruns > 1000 {
            return Err(Invalid::new("lost_reruns", format!("{} is not allowed; 0 to 1000", self.lost_reruns)));
        }
        let longest = Duration::from_secs(7 * 86_400);
        match &self.backoff {
            Backoff::Fixed(pause) if *pause > longest => Err(Invalid::new("backoff.fixed", "at most 7d")),
            Backoff::Exponential(e) if e.max > longest => Err(Invalid::new("backoff.exponential.max", "at most 7d")),
            Backoff::Exponential(e) if e.initial > e.max => {
                Err(Invalid::new("backoff.exponential.initial", "must not be longer than max"))
            }
            Backoff::Exponential(e) if e.jitter_percent > 100 => {
                Err(Invalid::new("backoff.exponential.jitter_percent", "0 to 100"))
            }
            _ => Ok(()),
        }
    }
}

impl Concurrency {
    pub fn validate(&self) -> Result<(), Invalid> {
        if self.limit == Some(0) {
            return Err(Invalid::new("limit", "0 is not allowed; from 1, or leave it out for no limit"));
        }
        if self.queue > limits::QUEUE {
            return Err(Invalid::new("queue", format!("at most {}", limits::QUEUE)));
        }
        Ok(())
    }
}

fn one() -> u32 {
    1
}

fn five() -> u32 {
    5
}

fn ten() -> u32 {
    10
}

fn ten_thousand() -> u32 {
    10_000
}

fn is_one(number: &u32) -> bool {
    *number == 1
}

fn is_five(number: &u32) -> bool {
    *number == 5
}

fn is_ten(number: &u32) -> bool {
    *number == 10
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

fn is_ten_thousand(queue: &u32) -> bool {
    *queue == 10_000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponential_pauses_double_up_to_the_maximum_within_their_jitter() {
        let backoff = Backoff::default();
        for (failures, seconds) in [(1, 5), (2, 10), (3, 20), (7, 300), (1000, 300)] {
            let lowest = backoff.pause(failures, 0).as_secs_f64();
            let highest = backoff.pause(failures, u64::MAX).as_secs_f64();
            assert!((lowest - f64::from(seconds) * 0.9).abs() < 0.001, "{failures}: {lowest}");
            assert!((highest - f64::from(seconds) * 1.1).abs() < 0.001, "{failures}: {highest}");
        }
    }
}
