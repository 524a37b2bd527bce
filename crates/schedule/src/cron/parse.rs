//! Reads a cron expression in either dialect. Errors are sentences for the person who wrote it.

use pendula_model::trigger::CronDialect;

use super::Cron;
use super::days::{DayRule, MonthDays, WeekDays};
use super::times::TimesOfDay;
use super::years::Years;

/// Longer expressions are refused; all values of all fields spelled out stay below it.
const LONGEST: usize = 1000;

struct Field {
    name: &'static str,
    low: u32,
    high: u32,
    /// Names of `low`, `low + 1`, … in upper case.
    names: &'static [&'static str],
}

const MONTHS: [&str; 12] = ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"];
const WEEKDAYS: [&str; 7] = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"];

const SECOND: Field = Field { name: "second", low: 0, high: 59, names: &[] };
const MINUTE: Field = Field { name: "minute", low: 0, high: 59, names: &[] };
const HOUR: Field = Field { name: "hour", low: 0, high: 23, names: &[] };
const DAY_OF_MONTH: Field = Field { name: "day-of-month", low: 1, high: 31, names: &[] };
const MONTH: Field = Field { name: "month", low: 1, high: 12, names: &MONTHS };
const QUARTZ_WEEKDAY: Field = Field { name: "day-of-week", low: 1, high: 7, names: &WEEKDAYS };
/// 0 and 7 are both Sunday.
const UNIX_WEEKDAY: Field = Field { name: "day-of-week", low: 0, high: 7, names: &WEEKDAYS };
const YEAR: Field = Field { name: "year", low: Years::FIRST, high: Years::LAST, names: &[] };

/// Reads `text`; without a dialect, five fields and `@…` are Unix, six or seven fields Quartz.
pub(super) fn parse(text: &str, dialect: Option<CronDialect>) -> Result<Cron, String> {
    if text.len() > LONGEST {
        return Err(format!("has {} characters; at most {LONGEST} are allowed", text.len()));
    }
    let text = text.trim().to_ascii_uppercase();
    if text.starts_with('@') {
        return match dialect {
            Some(CronDialect::Quartz) => Err("names such as @daily belong to the unix dialect".to_owned()),
            _ => parse_unix(&expand_name(&text)?.split(' ').collect::<Vec<_>>()),
        };
    }
    let fields: Vec<&str> = text.split_ascii_whitespace().collect();
    match (dialect, fields.len()) {
        (Some(CronDialect::Unix) | None, 5) => parse_unix(&fields),
        (Some(CronDialect::Quartz) | None, 6 | 7) => parse_quartz(&fields),
        (Some(CronDialect::Unix), count) => {
            Err(format!("has {count} fields; the unix dialect has 5: minute hour day-of-month month day-of-week"))
        }
        (Some(CronDialect::Quartz), count) => Err(format!(
            "has {count} fields; the quartz dialect has 6 or 7: second minute hour day-of-month month day-of-week [year]"
        )),
        (None, count) => Err(format!(
            "has {count} fields; write 5 (minute hour day-of-month month day-of-week), 6 (second first) or 7 (year last)"
        )),
    }
}

fn expand_name(name: &str) -> Result<&'static str, String> {
    Ok(match name {
        "@YEARLY" | "@ANNUALLY" => "0 0 1 1 *",
        "@MONTHLY" => "0 0 1 * *",
        "@WEEKLY" => "0 0 * * 0",
        "@DAILY" | "@MIDNIGHT" => "0 0 * * *",
        "@HOURLY" => "0 * * * *",
        "@REBOOT" => {
            return Err("@reboot is not a time: a trigger fires by the clock, whatever machine restarts".to_owned());
        }
        name if name.starts_with("@EVERY") => {
            return Err("for an interval use `fixed_rate`, such as 5m".to_owned());
        }
        _ => {
            return Err("is not one of @yearly, @annually, @monthly, @weekly, @daily, @midnight, @hourly".to_owned());
        }
    })
}

fn parse_unix(fields: &[&str]) -> Result<Cron, String> {
    let [minute, hour, day_of_month, month, day_of_week] = fields else {
        unreachable!("the caller counted five fields");
    };
    let days = set_of(&DAY_OF_MONTH, day_of_month, CronDialect::Unix)?;
    let weekdays = set_of(&UNIX_WEEKDAY, day_of_week, CronDialect::Unix)?;
    let sunday_as_7 = weekdays >> 7 & 1;
    Ok(Cron {
        times: TimesOfDay {
            seconds: 1,
            minutes: set_of(&MINUTE, minute, CronDialect::Unix)?,
            hours: set_of(&HOUR, hour, CronDialect::Unix)? as u32,
        },
        days: DayRule {
            of_month: MonthDays { days: days as u32, ..MonthDays::default() },
            of_week: WeekDays { every: (weekdays & 0x7f | sunday_as_7) as u8, ..WeekDays::default() },
            // As cron(8) of Vixie and Debian: a field that starts with `*`, be it `*/2`, does not count as restricted.
            either: !day_of_month.starts_with('*') && !day_of_week.starts_with('*'),
        },
        months: set_of(&MONTH, month, CronDialect::Unix)? as u16,
        years: None,
    })
}

fn parse_quartz(fields: &[&str]) -> Result<Cron, String> {
    let [second, minute, hour, day_of_month, month, day_of_week, year @ ..] = fields else {
        unreachable!("the caller counted six or seven fields");
    };
    if *day_of_month == "?" && *day_of_week == "?" {
        return Err("only one of day-of-month and day-of-week may be `?`".to_owned());
    }
    Ok(Cron {
        times: TimesOfDay {
            seconds: set_of(&SECOND, second, CronDialect::Quartz)?,
            minutes: set_of(&MINUTE, minute, CronDialect::Quartz)?,
            hours: set_of(&HOUR, hour, CronDialect::Quartz)? as u32,
        },
        days: DayRule {
            of_month: if *day_of_month == "?" { MonthDays::every() } else { month_days(day_of_month)? },
            of_week: if *day_of_week == "?" { WeekDays::every() } else { week_days(day_of_week)? },
            either: false,
        },
        months: set_of(&MONTH, month, CronDialect::Quartz)? as u16,
        years: match year {
            [] | ["*"] => None,
            [year, ..] => {
                let mut years = Years::default();
                for item in year.split(',') {
                    stride(&YEAR, item, CronDialect::Quartz)?.for_each(|year| years.insert(year));
                }
                Some(years)
            }
        },
    })
}

fn month_days(text: &str) -> Result<MonthDays, String> {
    let mut found = MonthDays::default();
    for item in text.split(',') {
        let (plain, nearest) = match item.strip_suffix('W') {
            Some(plain) => (plain, true),
            None => (item, false),
        };
        if let Some(offset) = plain.strip_prefix('L') {
            let before = match offset.strip_prefix('-') {
                Some(digits) => number(&DAY_OF_MONTH, item, digits)?,
                None if offset.is_empty() => 0,
                None => return Err(unreadable(&DAY_OF_MONTH, item)),
            };
            if before > 30 {
                return Err(format!("day-of-month `{item}`: at most 30 days before the last, L-30"));
            }
            *(if nearest { &mut found.nearest_before_last } else { &mut found.before_last }) |= 1 << before;
        } else if nearest {
            found.nearest_to |= 1 << value(&DAY_OF_MONTH, item, plain)?;
        } else {
            stride(&DAY_OF_MONTH, item, CronDialect::Quartz)?.for_each(|day| found.days |= 1 << day);
        }
    }
    Ok(found)
}

fn week_days(text: &str) -> Result<WeekDays, String> {
    let mut found = WeekDays::default();
    for item in text.split(',') {
        let bit = |day: &str| value(&QUARTZ_WEEKDAY, item, day).map(|day| 1 << (day - 1));
        if item == "L" {
            found.every |= bit("SAT")?;
        } else if let Some(day) = item.strip_suffix('L') {
            found.last |= bit(day)?;
        } else if let Some((day, nth)) = item.split_once('#') {
            let nth = number(&QUARTZ_WEEKDAY, item, nth)?;
            let place = (1..=5).contains(&nth).then(|| nth as usize - 1);
            let place = place.ok_or_else(|| format!("day-of-week `{item}`: a month has at most five, #1 to #5"))?;
            found.nth[place] |= bit(day)?;
        } else {
            stride(&QUARTZ_WEEKDAY, item, CronDialect::Quartz)?.for_each(|day| found.every |= 1 << (day - 1));
        }
    }
    Ok(found)
}

fn set_of(field: &Field, text: &str, dialect: CronDialect) -> Result<u64, String> {
    let mut set = 0;
    for item in text.split(',') {
        stride(field, item, dialect)?.for_each(|value| set |= 1 << value);
    }
    Ok(set)
}

/// The values of one list item: `*`, `5`, `1-5`, each with an optional `/step`.
fn stride(field: &Field, item: &str, dialect: CronDialect) -> Result<impl Iterator<Item = u32>, String> {
    let quartz = dialect == CronDialect::Quartz;
    let (range, step) = match item.split_once('/') {
        Some((range, step)) => (range, Some(number(field, item, step)?)),
        None => (item, None),
    };
    let (first, mut last) = if range == "*" || (range.is_empty() && quartz && step.is_some()) {
        (field.low, field.high)
    } else if let Some((first, last)) = range.split_once('-') {
        (value(field, item, first)?, value(field, item, last)?)
    } else {
        let first = value(field, item, range)?;
        (first, if step.is_some() { field.high } else { first })
    };
    let step = step.unwrap_or(1);
    if step == 0 || (quartz && step > field.high) {
        return Err(format!("{} `{item}`: a step is a number from 1 to {}", field.name, field.high));
    }
    if last < first {
        if !quartz {
            return Err(format!(
                "{} `{item}`: a range goes up; write two, as `a-{},{}-b`",
                field.name, field.high, field.low
            ));
        }
        if field.low == YEAR.low {
            return Err(format!("{} `{item}`: a range of years goes up", field.name));
        }
        last += field.high - field.low + 1;
    }
    let (low, high) = (field.low, field.high);
    let wrap = move |value| {
        if value > high { value - high - 1 + low } else { value }
    };
    Ok((first..=last).step_by(step as usize).map(wrap))
}

/// A value of `field` by number or name.
fn value(field: &Field, item: &str, text: &str) -> Result<u32, String> {
    if let Some(index) = field.names.iter().position(|name| *name == text) {
        return Ok(field.low + index as u32);
    }
    let value = number(field, item, text)?;
    if !(field.low..=field.high).contains(&value) {
        return Err(format!("{} `{item}`: {value} is not between {} and {}", field.name, field.low, field.high));
    }
    Ok(value)
}

fn number(field: &Field, item: &str, text: &str) -> Result<u32, String> {
    let digits = (1..=4).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().expect("up to four digits")).ok_or_else(|| unreadable(field, item))
}

fn unreadable(field: &Field, item: &str) -> String {
    let names = match field.names {
        [first, .., last] => format!(", {first} to {last}"),
        _ => String::new(),
    };
    let hint = if item.ends_with(['?', 'L', 'W']) || item.contains('#') {
        "; `?`, `L`, `W` and `#` belong to the day fields of the quartz dialect (6 or 7 fields)"
    } else {
        ""
    };
    format!(
        "{} `{item}` is not understood; allowed are {} to {}{names}, lists, ranges and steps{hint}",
        field.name, field.low, field.high
    )
}
