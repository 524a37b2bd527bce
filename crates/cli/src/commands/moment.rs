//! Times and durations as they are typed.

use std::time::Duration;

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use pendula_model::{Timestamp, duration};

/// A duration, checked while the command line is read.
pub(super) fn parse_duration(text: &str) -> Result<Duration, String> {
    duration::parse(text)
}

/// A time: RFC 3339 with an offset, or a date and time of this machine's zone.
pub(super) fn parse_time(text: &str) -> Result<Timestamp, String> {
    in_zone(text, TimeZone::system())
}

fn in_zone(text: &str, zone: TimeZone) -> Result<Timestamp, String> {
    let text = text.trim();
    if let Ok(at) = text.parse() {
        return Ok(at);
    }
    let civil: DateTime = text.parse().map_err(|_| {
        "not a time; write 2026-11-21T08:00:00Z, or '2026-11-21 08:00' in this machine's zone".to_owned()
    })?;
    let zoned = zone.to_zoned(civil).map_err(|error| error.to_string())?;
    Ok(Timestamp::from_jiff(zoned.timestamp()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_absolute_or_local() {
        let berlin = TimeZone::get("Europe/Berlin").expect("the zone database");
        for text in ["2026-11-21T08:00:00+01:00", "2026-11-21 08:00", "2026-11-21T07:00:00Z", " 2026-11-21T08:00:00 "] {
            assert_eq!(in_zone(text, berlin.clone()).expect(text).to_string(), "2026-11-21T07:00:00Z");
        }
        assert!(in_zone("tomorrow", berlin).is_err());
    }
}
