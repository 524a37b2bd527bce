//! What the texts mean. Each function refuses with what it allows.
//!
//! White space around a value and the case of words are forgiven everywhere alike; nothing else is.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use pendula_model::duration;

use super::{Database, DatabaseUrl};
use crate::auth::Secret;

pub(super) fn text(text: &str) -> Result<String, String> {
    if text.is_empty() { Err("it must not be empty".to_owned()) } else { Ok(text.to_owned()) }
}

/// A secret of one's own, which must not be guessable.
pub(super) fn secret(text: &str) -> Result<String, String> {
    let strong = Secret::configured(text).map_err(|weak| weak.to_string())?;
    Ok(strong.reveal().to_owned())
}

pub(super) fn path(path: &str) -> Result<PathBuf, String> {
    if path.is_empty() { Err("write the path of a file".to_owned()) } else { Ok(PathBuf::from(path)) }
}

/// `host:port`, an IPv6 address in brackets.
pub(super) fn address(address: &str) -> Result<String, String> {
    let allowed = || "write host:port, as 127.0.0.1:7700, [::1]:7700 or pendula.example.org:7700".to_owned();
    let (host, port) = address.rsplit_once(':').ok_or_else(allowed)?;
    port.parse::<u16>().map_err(|_| allowed())?;
    let is_host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(ip) => ip.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.chars().all(|c| c.is_ascii_alphanumeric() || c == '.' || c == '-'),
    };
    if is_host { Ok(address.to_ascii_lowercase()) } else { Err(allowed()) }
}

pub(super) fn database(url: &str) -> Result<Database, String> {
    let allowed = || "allowed: sqlite:DIRECTORY or postgres://USER:PASSWORD@HOST:PORT/DATABASE".to_owned();
    let (scheme, rest) = url.split_once(':').ok_or_else(allowed)?;
    if ["postgres", "postgresql"].iter().any(|known| scheme.eq_ignore_ascii_case(known)) {
        let named = rest.strip_prefix("//").filter(|rest| !rest.is_empty()).ok_or_else(allowed)?;
        return Ok(Database::Postgres(DatabaseUrl(format!("postgres://{named}"))));
    }
    if !scheme.eq_ignore_ascii_case("sqlite") || rest.is_empty() {
        return Err(allowed());
    }
    // `sqlite:///var/lib/pendula` means the same as `sqlite:/var/lib/pendula`.
    let directory = rest.strip_prefix("//").unwrap_or(rest);
    if directory.is_empty() { Err(allowed()) } else { Ok(Database::Sqlite { directory: PathBuf::from(directory) }) }
}

pub(super) fn duration(least: Duration, most: Duration) -> impl Fn(&str) -> Result<Duration, String> {
    move |text| {
        let allowed = || format!("write a duration from {} to {}", duration::format(least), duration::format(most));
        let found = duration::parse(&text.to_ascii_lowercase()).map_err(|_| allowed())?;
        if (least..=most).contains(&found) { Ok(found) } else { Err(allowed()) }
    }
}

pub(super) fn number(range: RangeInclusive<u32>) -> impl Fn(&str) -> Result<u32, String> {
    move |text| {
        let found = text.replace('_', "").parse().ok().filter(|number| range.contains(number));
        found.ok_or_else(|| format!("write a number from {} to {}", range.start(), range.end()))
    }
}

/// Bytes, with or without a unit.
pub(super) fn size(range: RangeInclusive<u64>) -> impl Fn(&str) -> Result<u64, String> {
    move |text| {
        let allowed =
            || format!("write a size from {} to {}, as 512KiB or 4MiB", shown(*range.start()), shown(*range.end()));
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let unit: u64 = match text[digits.len()..].to_ascii_lowercase().as_str() {
            "" | "b" => 1,
            "k" | "kib" => 1 << 10,
            "m" | "mib" => 1 << 20,
            "g" | "gib" => 1 << 30,
            "kb" => 1_000,
            "mb" => 1_000_000,
            "gb" => 1_000_000_000,
            _ => return Err(allowed()),
        };
        let number: u64 = digits.trim().parse().map_err(|_| allowed())?;
        number.checked_mul(unit).filter(|bytes| range.contains(bytes)).ok_or_else(allowed)
    }
}

/// One of some words, in any case.
pub(super) fn one_of<T: Copy>(words: &[(&'static str, T)]) -> impl Fn(&str) -> Result<T, String> {
    move |text| {
        let found = words.iter().find(|(word, _)| word.eq_ignore_ascii_case(text));
        found.map(|(_, value)| *value).ok_or_else(|| {
            let all: Vec<_> = words.iter().map(|(word, _)| *word).collect();
            format!("allowed: {}", all.join(", "))
        })
    }
}

fn shown(bytes: u64) -> String {
    match bytes {
        bytes if bytes % (1 << 30) == 0 => format!("{}GiB", bytes >> 30),
        bytes if bytes % (1 << 20) == 0 => format!("{}MiB", bytes >> 20),
        bytes => format!("{}KiB", bytes >> 10),
    }
}
