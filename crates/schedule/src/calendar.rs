//! Days and months as numbers, for the inner loops of the search.

use jiff::Timestamp as Instant;
use jiff::civil::{Date, DateTime};
use jiff::tz::Offset;
use pendula_model::Timestamp;

pub(crate) const MICROS_PER_SECOND: i64 = 1_000_000;
pub(crate) const MICROS_PER_DAY: i64 = 86_400 * MICROS_PER_SECOND;

/// What a clock on the wall shows: microseconds since it showed 1970-01-01T00:00.
///
/// Not an instant: clocks skip some of these and show others twice. Only the `wall` module converts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Local(i64);

impl Local {
    /// `micros` after the midnight that begins `day` (days since 1970-01-01).
    pub(crate) fn new(day: i64, micros: i64) -> Self {
        Local(day * MICROS_PER_DAY + micros)
    }

    /// What the clock shows at `at` where it is `offset` ahead of UTC.
    pub(crate) fn of(at: Timestamp, offset: Offset) -> Self {
        Local(at.as_micros() + i64::from(offset.seconds()) * MICROS_PER_SECOND)
    }

    /// The instant at which a clock that is `offset` ahead of UTC shows this.
    pub(crate) fn at(self, offset: Offset) -> Timestamp {
        Timestamp::from_micros(self.0 - i64::from(offset.seconds()) * MICROS_PER_SECOND)
    }

    pub(crate) fn day(self) -> i64 {
        self.0.div_euclid(MICROS_PER_DAY)
    }

    pub(crate) fn micros_of_day(self) -> i64 {
        self.0.rem_euclid(MICROS_PER_DAY)
    }

    /// Microseconds from `earlier` to this; negative when it is the later one.
    pub(crate) fn since(self, earlier: Local) -> i64 {
        self.0 - earlier.0
    }

    pub(crate) fn plus(self, micros: i64) -> Self {
        Local(self.0 + micros)
    }

    /// The moment right before this one.
    pub(crate) fn just_before(self) -> Self {
        Local(self.0 - 1)
    }

    pub(crate) fn to_datetime(self) -> DateTime {
        let as_if_utc = Instant::from_microsecond(self.0).expect("within a day of Timestamp::MIN..=MAX");
        Offset::UTC.to_datetime(as_if_utc)
    }
}

/// Days since the last Sunday, 0 to 6.
pub(crate) fn weekday(day: i64) -> u32 {
    // 1970-01-01 was a Thursday.
    (day + 4).rem_euclid(7) as u32
}

/// One month of the Gregorian calendar.
#[derive(Clone, Copy)]
pub(crate) struct Month {
    pub(crate) year: i16,
    /// 1 to 12.
    pub(crate) number: i8,
    /// Days from 1970-01-01 to its first day.
    pub(crate) first_day: i64,
    /// 28 to 31.
    pub(crate) length: u32,
}

impl Month {
    pub(crate) fn containing(day: i64) -> Self {
        let date = Local::new(day, 0).to_datetime().date();
        Month {
            year: date.year(),
            number: date.month(),
            first_day: day - i64::from(date.day()) + 1,
            length: date.days_in_month() as u32,
        }
    }

    /// January of `year`; `None` outside of the calendar, as for the neighbours below.
    pub(crate) fn january_of(year: i16) -> Option<Self> {
        let date = Date::new(year, 1, 1).ok()?;
        let as_if_utc = Offset::UTC.to_timestamp(date.to_datetime(jiff::civil::Time::midnight())).ok()?;
        let first_day = as_if_utc.as_second().div_euclid(86_400);
        Some(Month { year, number: 1, first_day, length: 31 })
    }

    pub(crate) fn next(self) -> Option<Self> {
        let (year, number) = if self.number == 12 { (self.year + 1, 1) } else { (self.year, self.number + 1) };
        let length = month_length(year, number)?;
        Some(Month { year, number, first_day: self.first_day + i64::from(self.length), length })
    }

    pub(crate) fn previous(self) -> Option<Self> {
        let (year, number) = if self.number == 1 { (self.year - 1, 12) } else { (self.year, self.number - 1) };
        let length = month_length(year, number)?;
        Some(Month { year, number, first_day: self.first_day - i64::from(length), length })
    }
}

fn month_length(year: i16, number: i8) -> Option<u32> {
    let inside = (1..=9998).contains(&year);
    inside.then(|| Date::new(year, number, 1).map(|first| first.days_in_month() as u32).ok())?
}

/// The lowest member of `set` (bit n stands for n) that is at least `from`.
pub(crate) fn lowest_from(set: u64, from: u32) -> Option<u32> {
    let rest = set.checked_shr(from).unwrap_or(0);
    (rest != 0).then(|| from + rest.trailing_zeros())
}

/// The highest member of `set` that is at most `to`.
pub(crate) fn highest_to(set: u64, to: u32) -> Option<u32> {
    let rest = if to >= 63 { set } else { set & ((2 << to) - 1) };
    (rest != 0).then(|| 63 - rest.leading_zeros())
}

/// How many members of `set` are below `limit`.
pub(crate) fn members_below(set: u64, limit: u32) -> i64 {
    let below = if limit >= 64 { set } else { set & ((1 << limit) - 1) };
    i64::from(below.count_ones())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn months_follow_each_other_without_gaps() {
        let mut month = Month::january_of(1896).unwrap();
        while month.year < 2105 {
            let next = month.next().unwrap();
            assert_eq!(next.first_day, month.first_day + i64::from(month.length));
            assert_eq!(next.previous().unwrap().first_day, month.first_day);
            let same = Month::containing(next.first_day + 13);
            assert_eq!(
                (same.year, same.number, same.first_day, same.length),
                (next.year, next.number, next.first_day, next.length)
            );
            month = next;
        }
        // 2026-11-21 is a Saturday.
        assert_eq!(weekday(20_778), 6);
        assert_eq!(Local::new(20_778, 0).to_datetime().date(), Date::constant(2026, 11, 21));
    }

    #[test]
    fn set_members_are_found_at_both_ends() {
        let set = 1 | 1 << 30 | 1 << 63;
        assert_eq!(lowest_from(set, 0), Some(0));
        assert_eq!(lowest_from(set, 1), Some(30));
        assert_eq!(lowest_from(set, 64), None);
        assert_eq!(highest_to(set, 63), Some(63));
        assert_eq!(highest_to(set, 29), Some(0));
        assert_eq!(highest_to(1 << 5, 4), None);
        assert_eq!(members_below(set, 63), 2);
        assert_eq!(members_below(set, 64), 3);
    }
}
