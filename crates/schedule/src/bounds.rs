//! Limits of intervals.

use std::time::Duration;

use pendula_model::{Invalid, duration};

const SHORTEST: Duration = Duration::from_millis(100);
/// Also what keeps every sum of a time and an interval inside of the calendar.
const LONGEST: Duration = Duration::from_secs(3650 * 86_400);

/// An interval in microseconds; anything finer is cut.
pub(crate) fn interval(field: &str, interval: Duration) -> Result<i64, Invalid> {
    within(field, interval, SHORTEST)
}

/// The same for a delay, which may be zero.
pub(crate) fn delay(field: &str, delay: Duration) -> Result<i64, Invalid> {
    within(field, delay, Duration::ZERO)
}

fn within(field: &str, value: Duration, shortest: Duration) -> Result<i64, Invalid> {
    if (shortest..=LONGEST).contains(&value) {
        return Ok(value.as_micros() as i64);
    }
    let [value, shortest, longest] = [value, shortest, LONGEST].map(duration::format);
    Err(Invalid::new(field, format!("`{value}` is not between {shortest} and {longest}")))
}
