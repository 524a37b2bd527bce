//! Which days of a month a cron expression asks for.

use crate::calendar::{Month, weekday};

/// The two day fields of a cron expression, ready to be asked month by month.
///
/// Weekdays count from 0 (Sunday) to 6. Day sets carry day `d` as bit `d`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct DayRule {
    pub(crate) of_month: MonthDays,
    pub(crate) of_week: WeekDays,
    /// Whether a day that only one of the two fields names is enough: cron(8) when both are restricted.
    pub(crate) either: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct MonthDays {
    /// `15`: bit 15.
    pub(crate) days: u32,
    /// `L-3`, three days before the last: bit 3; `L`: bit 0.
    pub(crate) before_last: u32,
    /// `15W`, the weekday nearest to the 15th within the month: bit 15.
    pub(crate) nearest_to: u32,
    /// `L-3W`: bit 3; `LW`: bit 0.
    pub(crate) nearest_before_last: u32,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct WeekDays {
    /// Every Friday: bit 5.
    pub(crate) every: u8,
    /// `FRIL`, the month's last Friday: bit 5.
    pub(crate) last: u8,
    /// `FRI#2`, the month's second Friday: bit 5 of element 1.
    pub(crate) nth: [u8; 5],
}

const EVERY_DAY_OF_MONTH: u32 = u32::MAX - 1;
const EVERY_WEEKDAY: u8 = 0b111_1111;

impl DayRule {
    /// The days of `month` that match, day `d` as bit `d`.
    pub(crate) fn days_in(&self, month: &Month) -> u32 {
        let of_month = self.of_month.days_in(month);
        let of_week = self.of_week.days_in(month);
        if self.either { of_month | of_week } else { of_month & of_week }
    }
}

impl MonthDays {
    pub(crate) fn every() -> Self {
        MonthDays { days: EVERY_DAY_OF_MONTH, ..MonthDays::default() }
    }

    fn days_in(&self, month: &Month) -> u32 {
        let exists = ((2_u64 << month.length) - 2) as u32;
        let mut found = self.days & exists;
        for before in members(self.before_last).filter(|before| *before < month.length) {
            found |= 1 << (month.length - before);
        }
        let counted_back = members(self.nearest_before_last).filter(|before| *before < month.length);
        for day in members(self.nearest_to & exists).chain(counted_back.map(|before| month.length - before)) {
            found |= 1 << nearest_working_day(day, month);
        }
        found
    }
}

impl WeekDays {
    pub(crate) fn every() -> Self {
        WeekDays { every: EVERY_WEEKDAY, ..WeekDays::default() }
    }

    fn days_in(&self, month: &Month) -> u32 {
        let exists = ((2_u64 << month.length) - 2) as u32;
        if self.every == EVERY_WEEKDAY {
            return exists;
        }
        let first_weekday = weekday(month.first_day);
        // Days 1, 8, 15, 22 and 29 share a weekday.
        let first_of = |of: u32| 1 + (of + 7 - first_weekday) % 7;
        let mut found = 0;
        for of in members(u32::from(self.every)) {
            found |= 0b1_0000001_0000001_0000001_0000001_u64 << first_of(of);
        }
        for (earlier, set) in self.nth.iter().enumerate() {
            for of in members(u32::from(*set)) {
                found |= 1 << (first_of(of) + 7 * earlier as u32);
            }
        }
        for of in members(u32::from(self.last)) {
            let first = first_of(of);
            found |= 1 << (first + (month.length - first) / 7 * 7);
        }
        found as u32 & exists
    }
}

/// Monday to Friday nearest to `day` without leaving the month.
fn nearest_working_day(day: u32, month: &Month) -> u32 {
    match weekday(month.first_day + i64::from(day) - 1) {
        6 if day == 1 => 3,
        6 => day - 1,
        0 if day == month.length => day - 2,
        0 => day + 1,
        _ => day,
    }
}

fn members(mut set: u32) -> impl Iterator<Item = u32> {
    std::iter::from_fn(move || {
        let lowest = (set != 0).then(|| set.trailing_zeros())?;
        set &= set - 1;
        Some(lowest)
    })
}
