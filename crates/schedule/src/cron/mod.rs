//! Cron expressions as sets of civil times. Time zones come in one level up, in `wall`.

mod days;
mod parse;
mod times;
mod years;

use pendula_model::trigger::CronDialect;

use crate::calendar::{Local, MICROS_PER_DAY, Month, highest_to, lowest_from, members_below};
use days::DayRule;
use times::TimesOfDay;
use years::Years;

/// The Gregorian calendar, weekdays included, repeats after 400 years: what does not match in one cycle never does.
const MONTHS_IN_CYCLE: u32 = 400 * 12;

/// A parsed expression, one bit set per field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cron {
    times: TimesOfDay,
    days: DayRule,
    /// January is bit 1.
    months: u16,
    /// `None`: every year.
    years: Option<Years>,
}

impl Cron {
    /// Reads `text` in `dialect`, or in the one that its number of fields tells.
    ///
    /// # Errors
    /// A sentence for the author of `text`: which field, what is wrong, what is allowed; also for a date that no year
    /// has, such as February 30.
    pub(crate) fn parse(text: &str, dialect: Option<CronDialect>) -> Result<Self, String> {
        let cron = parse::parse(text, dialect)?;
        if cron.next_day(0).is_none() {
            return Err("no day of any year matches its day, month and year fields".to_owned());
        }
        Ok(cron)
    }

    /// Whether it names all 24 hours.
    pub(crate) fn runs_through_the_day(&self) -> bool {
        self.times.run_through_the_day()
    }

    /// The first matching civil time at or after `from`.
    pub(crate) fn next(&self, from: Local) -> Option<Local> {
        let day = from.day();
        let matching = self.next_day(day)?;
        if matching > day {
            return Some(Local::new(matching, self.first_time()));
        }
        match self.times.next(from.micros_of_day()) {
            Some(time) => Some(Local::new(day, time)),
            None => Some(Local::new(self.next_day(day + 1)?, self.first_time())),
        }
    }

    /// The last matching civil time at or before `to`.
    pub(crate) fn previous(&self, to: Local) -> Option<Local> {
        let day = to.day();
        let matching = self.previous_day(day)?;
        if matching < day {
            return Some(Local::new(matching, self.last_time()));
        }
        match self.times.previous(to.micros_of_day()) {
            Some(time) => Some(Local::new(day, time)),
            None => Some(Local::new(self.previous_day(day - 1)?, self.last_time())),
        }
    }

    /// How many civil times from `from` on and before `to` match.
    pub(crate) fn count(&self, from: Local, to: Local) -> i64 {
        if to <= from {
            return 0;
        }
        let before = |at: Local| {
            if self.next_day(at.day()) == Some(at.day()) { self.times.before(at.micros_of_day()) } else { 0 }
        };
        self.count_days(from.day(), to.day()) * self.times.per_day() - before(from) + before(to)
    }

    fn first_time(&self) -> i64 {
        self.times.next(0).expect("each field has a member")
    }

    fn last_time(&self) -> i64 {
        self.times.previous(MICROS_PER_DAY - 1).expect("each field has a member")
    }

    /// The first matching day that is `from` or later.
    fn next_day(&self, from: i64) -> Option<i64> {
        let mut month = Month::containing(from);
        let mut earliest = (from - month.first_day) as u32 + 1;
        for _ in 0..=MONTHS_IN_CYCLE {
            if let Some(years) = &self.years {
                let year = years.next(month.year)?;
                if year != month.year {
                    (month, earliest) = (Month::january_of(year)?, 1);
                }
            }
            if let Some(day) = lowest_from(self.days_in(&month), earliest) {
                return Some(month.first_day + i64::from(day) - 1);
            }
            (month, earliest) = (month.next()?, 1);
        }
        None
    }

    /// The last matching day that is `to` or earlier.
    fn previous_day(&self, to: i64) -> Option<i64> {
        let mut month = Month::containing(to);
        let mut latest = (to - month.first_day) as u32 + 1;
        for _ in 0..=MONTHS_IN_CYCLE {
            if let Some(years) = &self.years {
                let year = years.previous(month.year)?;
                if year != month.year {
                    (month, latest) = (Month::january_of(year + 1)?.previous()?, 31);
                }
            }
            if let Some(day) = highest_to(self.days_in(&month), latest) {
                return Some(month.first_day + i64::from(day) - 1);
            }
            (month, latest) = (month.previous()?, 31);
        }
        None
    }

    /// How many days from `from` on and before `to` match.
    fn count_days(&self, from: i64, to: i64) -> i64 {
        let mut count = 0;
        let mut month = Some(Month::containing(from));
        while let Some(current) = month.filter(|month| month.first_day < to) {
            let in_a_named_year =
                self.years.as_ref().is_none_or(|years| years.next(current.year) == Some(current.year));
            if in_a_named_year {
                let day_of_month = |day: i64| (day - current.first_day + 1).clamp(1, 32) as u32;
                let days = self.days_in(&current);
                count += members_below(days, day_of_month(to)) - members_below(days, day_of_month(from));
            }
            month = current.next();
        }
        count
    }

    fn days_in(&self, month: &Month) -> u64 {
        if self.months >> month.number & 1 == 1 { u64::from(self.days.days_in(month)) } else { 0 }
    }
}
