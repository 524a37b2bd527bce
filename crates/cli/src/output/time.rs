//! Times and durations as people say them.

use std::time::Duration;

use jiff::tz::TimeZone;
use pendula_model::Timestamp;

/// The time in this machine's zone, to the second: `2026-11-21 08:00:00 CET`.
pub fn instant(at: Timestamp) -> String {
    in_zone(at, TimeZone::system())
}

fn in_zone(at: Timestamp, zone: TimeZone) -> String {
    at.to_jiff().to_zoned(zone).strftime("%Y-%m-%d %H:%M:%S %Z").to_string()
}

/// The time with its distance from now: `2026-11-21 08:00:00 CET (in 3m)`.
pub fn clock(at: Timestamp, now: Timestamp) -> String {
    format!("{} ({})", instant(at), ago(at, now))
}

/// The distance alone: `in 3m`, `5s ago`, `now`.
pub fn ago(at: Timestamp, now: Timestamp) -> String {
    let (ahead, behind) = (at.since(now), now.since(at));
    if ahead >= Duration::from_secs(1) {
        // Rounded up: what is due in 59.6 s is due "in 1m", not "in 59s" and never "in 0s".
        format!("in {}", span(ahead + Duration::from_millis(500)))
    } else if behind >= Duration::from_secs(1) {
        format!("{} ago", span(behind))
    } else {
        "now".to_owned()
    }
}

/// The two largest units that matter: `3d 4h`, `2m 5s`, `12.3s`, `85ms`.
pub fn span(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0 if duration.is_zero() => "0s".to_owned(),
        0 if duration < Duration::from_millis(1) => format!("{}us", duration.as_micros()),
        0 => format!("{}ms", duration.as_millis()),
        1..10 => trim_zero(format!("{:.1}", duration.as_secs_f64())) + "s",
        10..60 => format!("{seconds}s"),
        60..3600 => two(seconds / 60, "m", seconds % 60, "s"),
        3600..86_400 => two(seconds / 3600, "h", seconds % 3600 / 60, "m"),
        _ => two(seconds / 86_400, "d", seconds % 86_400 / 3600, "h"),
    }
}

fn trim_zero(number: String) -> String {
    number.strip_suffix(".0").map(str::to_owned).unwrap_or(number)
}

fn two(large: u64, large_unit: &str, small: u64, small_unit: &str) -> String {
    if small == 0 { format!("{large}{large_unit}") } else { format!("{large}{large_unit} {small}{small_unit}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_keep_two_units() {
        for (millis, expect) in [
            (0, "0s"),
            (85, "85ms"),
            (1_000, "1s"),
            (1_500, "1.5s"),
            (59_900, "59s"),
            (125_000, "2m 5s"),
            (3_600_000, "1h"),
            (5_430_000, "1h 30m"),
            (273_600_000, "3d 4h"),
        ] {
            assert_eq!(span(Duration::from_millis(millis)), expect);
        }
    }

    #[test]
    fn distances_look_both_ways() {
        let now = Timestamp::from_millis(1_000_000_000);
        let after = |millis: i64| Timestamp::from_millis(1_000_000_000 + millis);
        for (millis, expect) in [(0, "now"), (-400, "now"), (59_600, "in 1m"), (180_000, "in 3m"), (-5_000, "5s ago")] {
            assert_eq!(ago(after(millis), now), expect);
        }
    }

    #[test]
    fn the_zone_is_shown() {
        let at: Timestamp = "2026-11-21T07:00:00Z".parse().expect("a time");
        let berlin = TimeZone::get("Europe/Berlin").expect("the zone database");
        assert_eq!(in_zone(at, berlin), "2026-11-21 08:00:00 CET");
    }
}
