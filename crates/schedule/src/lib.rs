//! When a trigger fires: cron in two dialects, rates, delays, daily windows, one-offs, time zones, missed fires.
//!
//! Pure: it reads no clock, does no I/O but for the time zone database, and knows neither jobs nor instances. A
//! [`Trigger`](pendula_model::trigger::Trigger) is what a user wrote; [`Plan::compile`] refuses it with a reason or
//! makes it a [`Plan`], which answers [`first`](Plan::first), [`next_after`](Plan::next_after) and
//! [`preview`](Plan::preview); [`catch_up`] decides about fire times that passed while nobody could act. The user's
//! view, with the tables of both dialects and of daylight saving time, is `docs/schedule.md`.
//!
//! How it works, from the bottom: `calendar` counts days and months; `cron` and `window` are sets of civil times that
//! can be searched forwards, searched backwards and counted; `wall` puts such a set into a time zone and is the only
//! place that knows of skipped and repeated hours; `plan` adds rates and bounds. Forwards, backwards and counting are
//! three views of one set of instants, and the property tests hold them against each other.
//!
//! # Decisions
//!
//! - **Dialect.** Five fields or `@daily` are Unix, six or seven Quartz, unless the trigger says which.
//! - **Two day fields.** Quartz refuses an expression in which neither is `?`; users of PowerJob have such expressions,
//!   where its parser (cron-utils) combines them by AND. So does the Quartz dialect here, which therefore accepts all
//!   that Quartz does. The Unix dialect follows the cron(8) of Vixie and Debian: OR when both are restricted, AND when
//!   one of them starts with `*` (`*/2` included).
//! - **Lists of `L`, `W` and `#`** (`MON#1,WED#3`) mean their union; Quartz refuses most of them.
//! - **31W** does not fire in shorter months.
//! - **Daylight saving time.** See `DstGap` and `DstOverlap` in the model. "Runs through the day" is a property of the
//!   set of hours (all 24), not of how it is written.

mod bounds;
mod calendar;
mod cron;
mod misfire;
mod plan;
mod wall;
mod window;
mod zone;

pub use misfire::{CatchUp, Fire, Gap, catch_up};
pub use plan::{MOST_CAUGHT_UP, ONE_OFF_GRACE, Plan};
