//! Durations as people write them in definitions: `500ms`, `30s`, `1h 30m`, `7d`, or ISO 8601 `PT30S`.
//!
//! Used with `#[serde(with = "crate::duration")]`, or [`option`] for `Option<Duration>`.

use std::time::Duration;

use serde::{Deserializer, Serializer};

/// Reads `text`. Days are 24 hours; months and years are refused because their length varies.
pub fn parse(text: &str) -> Result<Duration, String> {
    let refuse = || format!("`{text}` is not a duration; write for instance 500ms, 30s, 5m, 1h 30m or 7d");
    let span: jiff::Span = text.trim().parse().map_err(|_| refuse())?;
    if span.get_years() != 0 || span.get_months() != 0 {
        return Err(format!("`{text}`: months and years vary in length; write days"));
    }
    let signed = span.to_duration(jiff::SpanRelativeTo::days_are_24_hours()).map_err(|_| refuse())?;
    Duration::try_from(signed).map_err(|_| format!("`{text}` is negative"))
}

/// The shortest exact text that [`parse`] reads back, down to microseconds.
pub fn format(duration: Duration) -> String {
    let micros = duration.as_micros();
    for (unit, size) in [("d", 86_400_000_000), ("h", 3_600_000_000), ("m", 60_000_000), ("s", 1_000_000), ("ms", 1000)]
    {
        if micros >= size && micros.is_multiple_of(size) {
            return format!("{}{unit}", micros / size);
        }
    }
    if micros == 0 { "0s".to_owned() } else { format!("{micros}us") }
}

pub fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&format(*duration))
}

pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    deserializer.deserialize_any(DurationVisitor)
}

struct DurationVisitor;

impl serde::de::Visitor<'_> for DurationVisitor {
    type Value = Duration;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a duration such as 500ms, 30s, 5m, 1h 30m or 7d")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Duration, E> {
        parse(text).map_err(E::custom)
    }

    fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<Duration, E> {
        Err(E::custom(format!("`{number}` lacks a unit; write {number}s or {number}ms")))
    }

    fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<Duration, E> {
        Err(E::custom(format!("`{number}` is not a duration; write for instance 30s")))
    }
}

/// The same for `Option<Duration>`.
pub mod option {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(duration: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
        match duration {
            Some(duration) => super::serialize(duration, serializer),
            None => serializer.serialize_none(),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
        #[derive(Deserialize)]
        struct Wrapped(#[serde(with = "super")] Duration);
        Ok(Option::<Wrapped>::deserialize(deserializer)?.map(|wrapped| wrapped.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_write_is_read_and_written_back() {
        for (text, millis) in
            [("500ms", 500), ("30s", 30_000), ("1h 30m", 5_400_000), ("7d", 604_800_000), ("PT30S", 30_000)]
        {
            assert_eq!(parse(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "30", "-5s", "1 month", "soon"] {
            assert!(parse(text).is_err(), "{text}");
        }
        for micros in [0, 1, 1500, 1_000_000, 90_000_000, 86_400_000_000] {
            let duration = Duration::from_micros(micros);
            assert_eq!(parse(&format(duration)), Ok(duration));
        }
    }
}
