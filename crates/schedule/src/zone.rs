//! Time zones by name.

use jiff::tz::{TimeZone, db};

/// The zone called `name` in the IANA database, in any case of letters.
///
/// # Errors
/// A sentence with the nearest known name. Names that mean another zone on each machine (`localtime`) are refused too.
pub(crate) fn find(name: &str) -> Result<TimeZone, String> {
    let machine_dependent = ["localtime", "posixrules", "Factory", "Etc/Unknown"];
    let other_tree = ["posix/", "right/"];
    let acceptable = !machine_dependent.iter().any(|taken| taken.eq_ignore_ascii_case(name))
        && !other_tree.iter().any(|tree| name.to_ascii_lowercase().starts_with(tree));
    if acceptable && let Ok(zone) = TimeZone::get(name) {
        return Ok(zone);
    }
    let hint = match nearest(name) {
        Some(near) => format!("did you mean `{near}`?"),
        None => "write an IANA name such as Europe/Berlin or UTC".to_owned(),
    };
    Err(format!("`{name}` is not a known time zone; {hint}"))
}

/// The known name that is at most three typing errors away, or ends in `/name`.
fn nearest(name: &str) -> Option<String> {
    // Longer than any zone name: nothing is near, and comparing would only cost time.
    if name.len() > 64 {
        return None;
    }
    let wanted = name.trim().to_ascii_lowercase().replace(' ', "_");
    let distance = |known: &str| {
        let known = known.to_ascii_lowercase();
        let city = known.rsplit('/').next().unwrap_or(&known);
        edits(&wanted, &known).min(1 + edits(&wanted, city))
    };
    let known = db().available().map(|known| (distance(known.as_str()), known.as_str().to_owned()));
    let allowed = wanted.len().div_ceil(4).min(3);
    known.filter(|(distance, _)| *distance <= allowed).min().map(|(_, known)| known)
}

/// How many letters must be typed, erased or replaced to turn one word into the other (Levenshtein 1966).
fn edits(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut costs: Vec<usize> = (0..=right.len()).collect();
    for (row, letter) in left.chars().enumerate() {
        let mut diagonal = costs[0];
        costs[0] = row + 1;
        for (column, other) in right.iter().enumerate() {
            let replaced = diagonal + usize::from(letter != *other);
            diagonal = costs[column + 1];
            costs[column + 1] = replaced.min(diagonal + 1).min(costs[column] + 1);
        }
    }
    costs[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typing_errors_get_a_suggestion() {
        for (typed, meant) in [
            ("Europe/Berln", "Europe/Berlin"),
            ("America/New York", "America/New_York"),
            ("Kathmandu", "Asia/Kathmandu"),
            ("Australia/LordHowe", "Australia/Lord_Howe"),
        ] {
            let error = find(typed).unwrap_err();
            assert!(error.contains(&format!("did you mean `{meant}`?")), "{error}");
        }
        for hopeless in ["", "Middle/Earth", "localtime", "right/UTC", &"x".repeat(10_000)] {
            assert!(find(hopeless).is_err(), "{hopeless}");
        }
        assert!(find("utc").is_ok() && find("asia/kathmandu").is_ok());
    }
}
