//! Daily windows as sets of civil times: every so often, inside hours of some weekdays.

use pendula_model::Invalid;
use pendula_model::trigger::{DailyWindow, Weekday};

use crate::bounds;
use crate::calendar::{Local, MICROS_PER_DAY, MICROS_PER_SECOND, weekday};

const MICROS_PER_HOUR: i64 = 3600 * MICROS_PER_SECOND;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Window {
    /// Microseconds after midnight, below one day.
    from: i64,
    /// Microseconds from the first fire to the inclusive end: more than zero, at most one day.
    length: i64,
    every: i64,
    /// Days on which a window begins; Sunday is bit 0.
    weekdays: u8,
}

impl Window {
    pub(crate) fn compile(window: &DailyWindow) -> Result<Self, Invalid> {
        let every = bounds::interval("every", window.every)?;
        if every > MICROS_PER_DAY {
            return Err(Invalid::new("every", "at most 1d, the length of the longest window; or use `fixed_rate`"));
        }
        let from = time_of_day("from", &window.from)?;
        let to = time_of_day("to", &window.to)?;
        if from == MICROS_PER_DAY {
            return Err(Invalid::new("from", "a window begins before 24:00; write 00:00"));
        }
        let weekdays = window.weekdays.iter().fold(0, |set, day| set | 1 << sunday_based(*day));
        Ok(Window {
            from,
            length: if to > from { to - from } else { to + MICROS_PER_DAY - from },
            every,
            weekdays: if weekdays == 0 { 0b111_1111 } else { weekdays },
        })
    }

    /// Whether the interval is short enough that people think of it as a pace, not as times of the day.
    pub(crate) fn keeps_a_pace(&self) -> bool {
        self.every <= MICROS_PER_HOUR
    }

    /// The first fire at or after `from`.
    pub(crate) fn next(&self, from: Local) -> Option<Local> {
        // Yesterday's window may still be open; a week later the same weekday begins another.
        (from.day() - 1..=from.day() + 7).filter(|day| self.begins_on(*day)).find_map(|day| {
            let begin = Local::new(day, self.from);
            let steps = ceil_div(from.since(begin).max(0), self.every);
            (steps * self.every <= self.length).then(|| begin.plus(steps * self.every))
        })
    }

    /// The last fire at or before `to`.
    pub(crate) fn previous(&self, to: Local) -> Option<Local> {
        let begin = (to.day() - 7..=to.day())
            .rev()
            .filter(|day| self.begins_on(*day))
            .map(|day| Local::new(day, self.from))
            .find(|begin| *begin <= to)?;
        Some(begin.plus(to.since(begin).min(self.length) / self.every * self.every))
    }

    /// How many fires there are from `from` on and before `to`.
    pub(crate) fn count(&self, from: Local, to: Local) -> i64 {
        if to <= from {
            return 0;
        }
        let mut count = 0;
        for day in (from.day() - 1..=to.day()).filter(|day| self.begins_on(*day)) {
            let begin = Local::new(day, self.from);
            // The end of a whole-day window is the beginning of the next one and counts there.
            let shared = self.length == MICROS_PER_DAY && self.begins_on(day + 1);
            let fires = (self.length - i64::from(shared)) / self.every + 1;
            let before = |at: Local| ceil_div(at.since(begin).max(0), self.every).min(fires);
            count += before(to) - before(from);
        }
        count
    }

    fn begins_on(&self, day: i64) -> bool {
        self.weekdays >> weekday(day) & 1 == 1
    }
}

fn ceil_div(micros: i64, step: i64) -> i64 {
    (micros + step - 1) / step
}

fn sunday_based(day: Weekday) -> u8 {
    match day {
        Weekday::Sun => 0,
        Weekday::Mon => 1,
        Weekday::Tue => 2,
        Weekday::Wed => 3,
        Weekday::Thu => 4,
        Weekday::Fri => 5,
        Weekday::Sat => 6,
    }
}

/// `HH:MM` or `HH:MM:SS` as microseconds after midnight; `24:00` is the end of the day.
fn time_of_day(field: &str, text: &str) -> Result<i64, Invalid> {
    let refuse =
        || Invalid::new(field, format!("`{text}` is not a time of day; write HH:MM or HH:MM:SS, from 00:00 to 24:00"));
    let two_digits = |part: &str| {
        let well_formed = part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_digit());
        well_formed.then(|| part.parse::<i64>().expect("two digits"))
    };
    let parts: Option<Vec<i64>> = text.split(':').map(two_digits).collect();
    let (hour, minute, second) = match parts.as_deref() {
        Some([hour, minute]) => (*hour, *minute, 0),
        Some([hour, minute, second]) => (*hour, *minute, *second),
        _ => return Err(refuse()),
    };
    let micros = ((hour * 60 + minute) * 60 + second) * MICROS_PER_SECOND;
    if minute > 59 || second > 59 || micros > MICROS_PER_DAY { Err(refuse()) } else { Ok(micros) }
}
