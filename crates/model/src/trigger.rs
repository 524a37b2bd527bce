//! When a job fires. The evaluation lives in the `schedule` crate; here is what a user may write.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::time::Timestamp;

/// A trigger with everything that decides its fire times.
///
/// In a definition: `trigger: { cron: "0 30 2 * * ?", timezone: Europe/Berlin, misfire: fire_once }`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Trigger {
    /// Exactly one of the following six keys says when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cron: Option<String>,
    /// How `cron` is read; without it five fields are Unix, six or seven are Quartz, `@…` is Unix.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dialect: Option<CronDialect>,
    /// Fires at `start` (or the moment the trigger was saved) and every such interval after it. 100 ms to 3,650 days.
    #[serde(default, with = "crate::duration::option", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub fixed_rate: Option<Duration>,
    /// Fires at `start` (or when saved) and this long after the previous instance ended. 100 ms to 3,650 days.
    #[serde(default, with = "crate::duration::option", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub fixed_delay: Option<Duration>,
    /// Fires at an interval within hours of some weekdays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub daily_window: Option<DailyWindow>,
    /// Fires once, at this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Timestamp>,
    /// Fires once, this long after `start` (or the moment the trigger was saved). At most 3,650 days.
    #[serde(default, with = "crate::duration::option", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub delay: Option<Duration>,

    /// IANA name, such as `Asia/Shanghai`; civil fields of `cron` and `daily_window` are read in it. Default `UTC`.
    #[serde(default = "utc", skip_serializing_if = "is_utc")]
    pub timezone: String,
    /// What to do with civil times that the clocks skip.
    #[serde(default, skip_serializing_if = "is_default")]
    pub dst_gap: DstGap,
    /// What to do with civil times that the clocks show twice.
    #[serde(default, skip_serializing_if = "is_default")]
    pub dst_overlap: DstOverlap,
    /// No fire before this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<Timestamp>,
    /// No fire after this time; a fire exactly at it happens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<Timestamp>,
    /// What to do with fire times that passed while nobody could act.
    #[serde(default, skip_serializing_if = "is_default")]
    pub misfire: Misfire,
    /// How many missed fires `fire_all` makes up for at most, the latest ones. 1 to 10,000, default 100.
    #[serde(default = "default_misfire_limit", skip_serializing_if = "is_default_misfire_limit")]
    pub misfire_limit: u32,
}

/// Which rules read a cron expression.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum CronDialect {
    /// Six or seven fields, seconds first (`L W LW # ?`, year). Usually one of the two day fields is `?`; Quartz demands
    /// it. Where both restrict the days, both must match, as in PowerJob.
    Quartz,
    /// Five fields or `@daily` and friends, as cron(8) reads them: where both day fields restrict the days, one match is
    /// enough. A day field that starts with `*`, such as `*/2`, does not count as restricting; then both must match.
    Unix,
}

/// An interval inside hours of some weekdays, such as every 10 minutes from 22:00 to 06:00 on weekdays.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DailyWindow {
    /// Time between fires, counted from `from` of each day on the clock of the zone. 100 ms to one day.
    #[serde(with = "crate::duration")]
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub every: Duration,
    /// First fire of the window, `HH:MM` or `HH:MM:SS`.
    pub from: String,
    /// The window's inclusive end, `24:00` at most; not after `from` means that it ends on the next day.
    pub to: String,
    /// Days on which a window begins, `mon` … `sun`; none means every day.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub weekdays: Vec<Weekday>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum Weekday {
    Mon,
    Tue,
    Wed,
    Thu,
    Fri,
    Sat,
    Sun,
}

/// A civil time that does not exist because the clocks went forward.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum DstGap {
    /// Fire at the first instant after the gap. Several fire times inside one gap become one fire. A cron expression
    /// that names all 24 hours is not made up for: the hour that was skipped was not there, and the next one follows.
    #[default]
    NextValid,
    /// Do not fire.
    Skip,
}

/// A civil time that happens twice because the clocks went back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum DstOverlap {
    /// Every pass for what runs at a pace: cron expressions that name all 24 hours (`*`), and daily windows with an
    /// interval of at most one hour. So "every 30 minutes" keeps running. Once, at the first pass, for all others:
    /// "at 02:30" is meant once a day. The manual of cron(8) describes the same.
    #[default]
    Auto,
    /// At the first of the two instants only; what runs at a pace pauses until the clocks have caught up.
    First,
    /// At both instants.
    Both,
}

/// What becomes of fire times that passed while nobody could act.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum Misfire {
    /// One instance, for the latest missed fire time.
    #[default]
    FireOnce,
    /// One instance per missed fire time, at most `misfire_limit`, the latest ones, oldest first.
    FireAll,
    /// None; the gap is recorded.
    Skip,
}

fn utc() -> String {
    "UTC".to_owned()
}

fn is_utc(zone: &String) -> bool {
    zone == "UTC"
}

fn default_misfire_limit() -> u32 {
    100
}

fn is_default_misfire_limit(limit: &u32) -> bool {
    *limit == default_misfire_limit()
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl Default for Trigger {
    fn default() -> Self {
        Trigger {
            cron: None,
            dialect: None,
            fixed_rate: None,
            fixed_delay: None,
            daily_window: None,
            at: None,
            delay: None,
            timezone: utc(),
            dst_gap: DstGap::default(),
            dst_overlap: DstOverlap::default(),
            start: None,
            end: None,
            misfire: Misfire::default(),
            misfire_limit: default_misfire_limit(),
        }
    }
}
