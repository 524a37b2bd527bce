//! The second, minute and hour fields: which times of a day match.

use crate::calendar::{MICROS_PER_SECOND, highest_to, lowest_from, members_below};

/// Value `n` of a field is bit `n`. Each of the three has at least one member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TimesOfDay {
    pub(crate) seconds: u64,
    pub(crate) minutes: u64,
    pub(crate) hours: u32,
}

const ALL_HOURS: u32 = (1 << 24) - 1;

impl TimesOfDay {
    /// Whether all 24 hours are named, so that the expression runs through the day.
    pub(crate) fn run_through_the_day(&self) -> bool {
        self.hours == ALL_HOURS
    }

    /// The first matching time at or after `micros`; times are microseconds since midnight.
    pub(crate) fn next(&self, micros: i64) -> Option<i64> {
        let second_of_day = ((micros + MICROS_PER_SECOND - 1) / MICROS_PER_SECOND) as u32;
        let (hour, minute, second) = split(second_of_day);
        let hours = u64::from(self.hours);
        if hours >> hour & 1 == 1 {
            if self.minutes >> minute & 1 == 1
                && let Some(second) = lowest_from(self.seconds, second)
            {
                return Some(join(hour, minute, second));
            }
            if let Some(minute) = lowest_from(self.minutes, minute + 1) {
                return Some(join(hour, minute, self.seconds.trailing_zeros()));
            }
        }
        let hour = lowest_from(hours, hour + 1)?;
        Some(join(hour, self.minutes.trailing_zeros(), self.seconds.trailing_zeros()))
    }

    /// The last matching time at or before `micros`.
    pub(crate) fn previous(&self, micros: i64) -> Option<i64> {
        let (hour, minute, second) = split((micros / MICROS_PER_SECOND) as u32);
        let (last_minute, last_second) = (63 - self.minutes.leading_zeros(), 63 - self.seconds.leading_zeros());
        let hours = u64::from(self.hours);
        if hours >> hour & 1 == 1 {
            if self.minutes >> minute & 1 == 1
                && let Some(second) = highest_to(self.seconds, second)
            {
                return Some(join(hour, minute, second));
            }
            if let Some(minute) = minute.checked_sub(1).and_then(|minute| highest_to(self.minutes, minute)) {
                return Some(join(hour, minute, last_second));
            }
        }
        let hour = hour.checked_sub(1).and_then(|hour| highest_to(hours, hour))?;
        Some(join(hour, last_minute, last_second))
    }

    /// How many times of a day match.
    pub(crate) fn per_day(&self) -> i64 {
        i64::from(self.hours.count_ones()) * self.per_hour()
    }

    /// How many of them are before `micros`.
    pub(crate) fn before(&self, micros: i64) -> i64 {
        let second_of_day = ((micros + MICROS_PER_SECOND - 1) / MICROS_PER_SECOND) as u32;
        let (hour, minute, second) = split(second_of_day);
        let hours = u64::from(self.hours);
        let mut count = members_below(hours, hour) * self.per_hour();
        if hours >> hour & 1 == 1 {
            count += members_below(self.minutes, minute) * i64::from(self.seconds.count_ones());
            if self.minutes >> minute & 1 == 1 {
                count += members_below(self.seconds, second);
            }
        }
        count
    }

    fn per_hour(&self) -> i64 {
        i64::from(self.minutes.count_ones() * self.seconds.count_ones())
    }
}

/// Hour (24 at the end of the day), minute, second.
fn split(second_of_day: u32) -> (u32, u32, u32) {
    (second_of_day / 3600, second_of_day / 60 % 60, second_of_day % 60)
}

fn join(hour: u32, minute: u32, second: u32) -> i64 {
    i64::from(hour * 3600 + minute * 60 + second) * MICROS_PER_SECOND
}
