//! Date patterns as Java's `DateTimeFormatter` and `SimpleDateFormat` write them, as far as the two agree.

use jiff::Zoned;
use jiff::civil::Weekday;

use super::TemplateError;

/// Characters that a pattern may have.
const PATTERN_CHARS: usize = 200;

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

/// A pattern such as `yyyy-MM-dd'T'HH:mm:ss.SSSXXX`.
///
/// Letters: `y` year (`yy` two digits), `Y` year of the ISO week, `M` month (`MMM` short, `MMMM` full name), `d` day,
/// `D` day of year, `E` weekday (`EEEE` full), `w` ISO week, `Q` quarter, `H` hour 0–23, `k` 1–24, `K` 0–11, `h` 1–12,
/// `a` AM/PM, `m` minute, `s` second, `S` fraction, `z` abbreviation of the zone, `V` its name, `Z` offset `+0100`,
/// `X` offset with `Z` for UTC, `x` offset. Text in single quotes stands for itself. Names are English.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern(Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Literal(String),
    Field { letter: char, count: usize },
}

impl Pattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// A letter without meaning, or more of one than it takes.
    pub fn parse(text: &str) -> Result<Pattern, TemplateError> {
        if text.chars().count() > PATTERN_CHARS {
            return Err(TemplateError::new(format!("a date pattern has at most {PATTERN_CHARS} characters")));
        }
        let mut parts = Vec::new();
        let mut chars = text.chars().peekable();
        while let Some(c) = chars.next() {
            if c == '\'' {
                parts.push(Part::Literal(quoted(&mut chars, text)?));
            } else if c.is_ascii_alphabetic() {
                let mut count = 1;
                while chars.next_if_eq(&c).is_some() {
                    count += 1;
                }
                let most = match c {
                    'y' | 'Y' | 'u' => 4,
                    'M' | 'L' | 'E' | 'z' => 4,
                    'd' | 'H' | 'k' | 'K' | 'h' | 'm' | 's' | 'w' | 'Q' | 'V' => 2,
                    'D' | 'Z' | 'X' | 'x' => 3,
                    'S' => 9,
                    'a' => 1,
                    _ => 0,
                };
                // A lone `u` is the year in one of the Java classes and the day of the week in the other.
                if count > most || (c == 'u' && count != 4) {
                    let letters: String = std::iter::repeat_n(c, count).collect();
                    let message =
                        format!("`{letters}` has no meaning in the date pattern '{text}'; quote text as in 'T'");
                    return Err(TemplateError::new(message));
                }
                parts.push(Part::Field { letter: c, count });
            } else {
                parts.push(Part::Literal(c.to_string()));
            }
        }
        Ok(Pattern(parts))
    }

    /// `at` written by this pattern, in the zone that `at` has.
    pub fn format(&self, at: &Zoned) -> String {
        let mut out = String::new();
        for part in &self.0 {
            match part {
                Part::Literal(text) => out.push_str(text),
                Part::Field { letter, count } => out.push_str(&field(at, *letter, *count)),
            }
        }
        out
    }
}

fn quoted(chars: &mut std::iter::Peekable<std::str::Chars<'_>>, pattern: &str) -> Result<String, TemplateError> {
    if chars.next_if_eq(&'\'').is_some() {
        return Ok("'".to_owned());
    }
    let mut text = String::new();
    loop {
        match chars.next() {
            Some('\'') if chars.next_if_eq(&'\'').is_some() => text.push('\''),
            Some('\'') => return Ok(text),
            Some(c) => text.push(c),
            None => return Err(TemplateError::new(format!("a quote is not closed in the date pattern '{pattern}'"))),
        }
    }
}

fn field(at: &Zoned, letter: char, count: usize) -> String {
    let hour = at.hour();
    let twelfth = if hour % 12 == 0 { 12 } else { hour % 12 };
    match letter {
        'y' | 'u' if count == 2 => padded(at.year().rem_euclid(100), 2),
        'y' | 'u' => padded(at.year(), count),
        'Y' if count == 2 => padded(at.date().iso_week_date().year().rem_euclid(100), 2),
        'Y' => padded(at.date().iso_week_date().year(), count),
        'M' | 'L' if count >= 3 => {
            let name = MONTHS[usize::from(at.month().unsigned_abs()) - 1];
            if count == 3 { name[..3].to_owned() } else { name.to_owned() }
        }
        'M' | 'L' => padded(at.month(), count),
        'd' => padded(at.day(), count),
        'D' => padded(at.day_of_year(), count),
        'E' => {
            let name = weekday(at.weekday());
            if count <= 3 { name[..3].to_owned() } else { name.to_owned() }
        }
        'w' => padded(at.date().iso_week_date().week(), count),
        'Q' => padded((at.month() - 1) / 3 + 1, count),
        'H' => padded(hour, count),
        'k' => padded(if hour == 0 { 24 } else { hour }, count),
        'K' => padded(hour % 12, count),
        'h' => padded(twelfth, count),
        'a' => if hour < 12 { "AM" } else { "PM" }.to_owned(),
        'm' => padded(at.minute(), count),
        's' => padded(at.second(), count),
        'S' => format!("{:09}", at.subsec_nanosecond())[..count].to_owned(),
        'z' => at.strftime("%Z").to_string(),
        'V' => at.time_zone().iana_name().unwrap_or("UTC").to_owned(),
        'X' if at.offset().is_zero() => "Z".to_owned(),
        'X' | 'x' | 'Z' => offset(at, letter, count),
        _ => unreachable!("`Pattern::parse` lets no other letter pass"),
    }
}

fn offset(at: &Zoned, letter: char, count: usize) -> String {
    let seconds = at.offset().seconds();
    let (hours, minutes) = (seconds.abs() / 3600, seconds.abs() / 60 % 60);
    let sign = if seconds < 0 { '-' } else { '+' };
    match (letter, count) {
        ('X' | 'x', 1) if minutes == 0 => format!("{sign}{hours:02}"),
        ('X' | 'x', 3) => format!("{sign}{hours:02}:{minutes:02}"),
        _ => format!("{sign}{hours:02}{minutes:02}"),
    }
}

fn padded(number: impl Into<i64>, width: usize) -> String {
    format!("{:0width$}", number.into())
}

fn weekday(day: Weekday) -> &'static str {
    match day {
        Weekday::Monday => "Monday",
        Weekday::Tuesday => "Tuesday",
        Weekday::Wednesday => "Wednesday",
        Weekday::Thursday => "Thursday",
        Weekday::Friday => "Friday",
        Weekday::Saturday => "Saturday",
        Weekday::Sunday => "Sunday",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_mean_what_they_mean_in_java() {
        let check = |at: &str, pattern: &str, expected: &str| {
            let at: Zoned = at.parse().unwrap();
            assert_eq!(Pattern::parse(pattern).unwrap().format(&at), expected, "{pattern}");
        };
        let night = "2027-01-02T00:05:09.012345[Europe/Berlin]";
        check(night, "yyyy-MM-dd'T'HH:mm:ss.SSSXXX", "2027-01-02T00:05:09.012+01:00");
        check(night, "yy/M/d h:mm a, EEE EEEE MMM MMMM", "27/1/2 12:05 AM, Sat Saturday Jan January");
        // The second of January 2027 belongs to the last ISO week of 2026.
        check(night, "YYYY'W'ww DDD Q", "2026W53 002 1");
        check(night, "k K Z x X VV z", "24 0 +0100 +01 +01 Europe/Berlin CET");
        check("2026-07-01T15:00[UTC]", "yyyyMMddHHmmssSS X x xxx k K h a", "2026070115000000 Z +00 +00:00 15 3 3 PM");
        check("2026-07-01T15:00[Asia/Kathmandu]", "X XX xxx 'o''clock' ''", "+0545 +0545 +05:45 o'clock '");
    }

    #[test]
    fn letters_without_meaning_are_refused() {
        for pattern in ["b", "yyyyy", "u", "HHH", "'open", "T", &"-".repeat(201)] {
            assert!(Pattern::parse(pattern).is_err(), "{pattern}");
        }
    }
}
