//! A trigger made ready to answer when it fires.

use std::time::Duration;

use pendula_model::trigger::Trigger;
use pendula_model::{Invalid, Timestamp};

use crate::bounds;
use crate::cron::Cron;
use crate::wall::{Times, WallSchedule};
use crate::window::Window;
use crate::zone;

/// The largest `misfire_limit`, and the most fires that one [`crate::catch_up`] asks for of each sort.
pub const MOST_CAUGHT_UP: u32 = 10_000;

/// How long ago the time of a one-off may be when it is saved: what a slow request or a skewed clock takes.
pub const ONE_OFF_GRACE: Duration = Duration::from_secs(60);

/// Two instants are at least this far apart.
const MICRO: Duration = Duration::from_micros(1);

/// When a trigger fires.
///
/// Compiled from a [`Trigger`], never changed, cheap to ask: about a microsecond a question, whatever the expression.
/// Fire times are strictly increasing instants inside of the trigger's `start` and `end`, both included.
///
/// ```
/// use pendula_model::{Timestamp, trigger::Trigger};
/// use pendula_schedule::Plan;
///
/// let saved: Timestamp = "2026-11-21T08:00:00Z".parse()?;
/// let trigger = Trigger { cron: Some("0 30 2 * * ?".into()), timezone: "Asia/Shanghai".into(), ..Trigger::default() };
/// let plan = Plan::compile(&trigger, saved)?;
/// plan.check_future(saved)?;
/// assert_eq!(plan.first(), Some("2026-11-21T18:30:00Z".parse()?));
/// assert_eq!(plan.preview(saved, 2)[1], "2026-11-22T18:30:00Z".parse()?);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Plan {
    when: When,
    /// Nothing is due before: when the trigger was saved, or its `start` when that is later.
    begin: Timestamp,
    start: Timestamp,
    end: Timestamp,
    /// The key of the definition that says when, for messages.
    field: &'static str,
}

#[derive(Clone, Debug)]
enum When {
    // Boxed so that a million rates are not as large as a million cron expressions.
    Wall(Box<WallSchedule>),
    Rate { origin: Timestamp, micros: i64 },
    AfterEnd { origin: Timestamp, pause: Duration },
    Once(Timestamp),
}

impl Plan {
    /// Reads a trigger that was saved at `anchor`.
    ///
    /// The anchor stands in for a missing `start`: a fixed rate or fixed delay begins there, a delay counts from there.
    /// The result depends on nothing but the arguments and the time zone database, so a stored trigger compiles to the
    /// same plan after a restart. That a one-off or `end` has passed meanwhile is no error here: see
    /// [`Plan::check_future`].
    ///
    /// # Errors
    /// The field (`trigger.cron`, `trigger.timezone`, …), its value and what is allowed: not exactly one kind of
    /// trigger, an expression that is malformed or matches no day of any year, an unknown zone (with the nearest name),
    /// an interval outside of 100 ms to 3,650 days, `start` after `end`, a one-off outside of them, a `misfire_limit`
    /// outside of 1 to 10,000.
    pub fn compile(trigger: &Trigger, anchor: Timestamp) -> Result<Self, Invalid> {
        Self::compile_fields(trigger, anchor).map_err(|invalid| invalid.inside("trigger"))
    }

    fn compile_fields(trigger: &Trigger, anchor: Timestamp) -> Result<Self, Invalid> {
        let field = kind(trigger)?;
        let zone = zone::find(&trigger.timezone).map_err(|message| Invalid::new("timezone", message))?;
        if !(1..=MOST_CAUGHT_UP).contains(&trigger.misfire_limit) {
            let limit = trigger.misfire_limit;
            return Err(Invalid::new("misfire_limit", format!("`{limit}` is not between 1 and {MOST_CAUGHT_UP}")));
        }
        if trigger.dialect.is_some() && trigger.cron.is_none() {
            return Err(Invalid::new("dialect", "only a `cron` has a dialect"));
        }
        let start = trigger.start.unwrap_or(Timestamp::MIN);
        let end = trigger.end.unwrap_or(Timestamp::MAX);
        if start > end {
            return Err(Invalid::new("end", format!("`{end}` is before `start`, {start}")));
        }
        let begin = anchor.max(start);

        let wall = |times| WallSchedule::new(times, zone.clone(), trigger.dst_gap, trigger.dst_overlap);
        let when = if let Some(text) = &trigger.cron {
            let cron = Cron::parse(text, trigger.dialect);
            let refuse = |message| Invalid::new(field, format!("`{}` {message}", shortened(text)));
            let schedule = wall(Times::Cron(cron.map_err(refuse)?));
            // A day before any year that can be written, as zones differ in when 1970 began.
            if schedule.next_after(Timestamp::from_millis(-86_400_000)).is_none() {
                return Err(refuse("only names times that the clocks skip, and `dst_gap` is `skip`".to_owned()));
            }
            When::Wall(Box::new(schedule))
        } else if let Some(window) = &trigger.daily_window {
            let window = Window::compile(window).map_err(|invalid| invalid.inside(field))?;
            When::Wall(Box::new(wall(Times::Window(window))))
        } else if let Some(rate) = trigger.fixed_rate {
            When::Rate { origin: trigger.start.unwrap_or(anchor), micros: bounds::interval(field, rate)? }
        } else if let Some(pause) = trigger.fixed_delay {
            bounds::interval(field, pause)?;
            When::AfterEnd { origin: begin, pause }
        } else if let Some(at) = trigger.at {
            When::Once(at)
        } else {
            let delay = trigger.delay.unwrap_or_default();
            bounds::delay(field, delay)?;
            When::Once(begin.plus(delay))
        };
        if let When::Once(at) = when
            && !(start..=end).contains(&at)
        {
            return Err(Invalid::new(field, format!("it would fire at {at}, outside of `start` and `end`")));
        }
        Ok(Plan { when, begin, start, end, field })
    }

    /// Refuses to save a trigger that would not fire any more.
    ///
    /// Apart from [`Plan::compile`], because a stored trigger whose time has passed must still load. A one-off may be up
    /// to [`ONE_OFF_GRACE`] late.
    pub fn check_future(&self, now: Timestamp) -> Result<(), Invalid> {
        let refuse = |message: String| Err(Invalid::new(self.field, message).inside("trigger"));
        match self.when {
            When::Once(at) if at < now.minus(ONE_OFF_GRACE) => refuse(format!("{at} has passed; it is {now}")),
            When::Once(_) => Ok(()),
            When::AfterEnd { .. } if self.end < now => {
                refuse(format!("its `end`, {}, has passed; it is {now}", self.end))
            }
            When::AfterEnd { .. } => Ok(()),
            _ if self.at_or_after(now.max(self.begin)).is_some() => Ok(()),
            _ if self.end < Timestamp::MAX => {
                refuse(format!("it does not fire between {now} and its `end`, {}", self.end))
            }
            _ => refuse(format!("it does not fire after {now} any more")),
        }
    }

    /// The first fire of all: at or after `start`, and not before the trigger was saved.
    ///
    /// A fixed rate with a `start` in the past keeps its grid and begins with the next point of it; a fixed delay begins
    /// when it was saved.
    pub fn first(&self) -> Option<Timestamp> {
        self.at_or_after(self.begin)
    }

    /// The first fire later than `after`; `None` when there is none.
    ///
    /// A fixed delay only knows its first fire: the others follow from [`Plan::next_after_end`].
    pub fn next_after(&self, after: Timestamp) -> Option<Timestamp> {
        if after >= Timestamp::MAX {
            return None;
        }
        self.at_or_after(after.plus(MICRO))
    }

    /// The fire that follows an instance which ended at `ended_at`.
    ///
    /// Only a fixed delay cares when an instance ends ([`Plan::waits_for_end`]); the others answer as for `next_after`.
    pub fn next_after_end(&self, ended_at: Timestamp) -> Option<Timestamp> {
        match &self.when {
            When::AfterEnd { origin, pause } => {
                Some(ended_at.plus(*pause).max(*origin)).filter(|next| *next <= self.end)
            }
            _ => self.next_after(ended_at),
        }
    }

    /// Whether the next fire is only known when the previous instance has ended.
    pub fn waits_for_end(&self) -> bool {
        matches!(self.when, When::AfterEnd { .. })
    }

    /// The last fire at or before `to`; for a fixed delay its first.
    pub fn last_until(&self, to: Timestamp) -> Option<Timestamp> {
        let to = to.min(self.end);
        let found = match &self.when {
            When::Wall(schedule) => schedule.last_until(to),
            When::Rate { origin, .. } if to < *origin => None,
            When::Rate { origin, micros } => {
                let steps = (to.as_micros() - origin.as_micros()) / micros;
                Some(Timestamp::from_micros(origin.as_micros() + steps * micros))
            }
            When::AfterEnd { origin: at, .. } | When::Once(at) => Some(*at).filter(|at| *at <= to),
        };
        found.filter(|at| *at >= self.start)
    }

    /// How many fires there are later than `after` and before `before`, without walking through them.
    pub fn count_between(&self, after: Timestamp, before: Timestamp) -> u64 {
        let Some(first) = self.next_after(after).filter(|first| *first < before) else {
            return 0;
        };
        match &self.when {
            When::Wall(schedule) => 1 + schedule.count_between(first, before.min(self.end.plus(MICRO))).unsigned_abs(),
            When::Rate { micros, .. } => {
                let last = before.minus(MICRO).min(self.end);
                ((last.as_micros() - first.as_micros()) / micros + 1).unsigned_abs()
            }
            When::AfterEnd { .. } | When::Once(_) => 1,
        }
    }

    /// The next `count` fires later than `after`: what repeated [`Plan::next_after`] yields.
    pub fn preview(&self, after: Timestamp, count: usize) -> Vec<Timestamp> {
        std::iter::successors(self.next_after(after), |fire| self.next_after(*fire)).take(count).collect()
    }

    fn at_or_after(&self, from: Timestamp) -> Option<Timestamp> {
        let from = from.max(self.start);
        let found = match &self.when {
            When::Wall(schedule) => schedule.next_after(from.minus(MICRO)),
            When::Rate { origin, .. } if from <= *origin => Some(*origin),
            When::Rate { origin, micros } => {
                let steps = (from.as_micros() - origin.as_micros() + micros - 1) / micros;
                let at = origin.as_micros() + steps * micros;
                (at <= Timestamp::MAX.as_micros()).then(|| Timestamp::from_micros(at))
            }
            When::AfterEnd { origin: at, .. } | When::Once(at) => Some(*at).filter(|at| *at >= from),
        };
        found.filter(|at| *at <= self.end)
    }
}

/// The one key that says when.
fn kind(trigger: &Trigger) -> Result<&'static str, Invalid> {
    let given = [
        ("cron", trigger.cron.is_some()),
        ("fixed_rate", trigger.fixed_rate.is_some()),
        ("fixed_delay", trigger.fixed_delay.is_some()),
        ("daily_window", trigger.daily_window.is_some()),
        ("at", trigger.at.is_some()),
        ("delay", trigger.delay.is_some()),
    ];
    let names: Vec<&str> = given.iter().filter(|(_, given)| *given).map(|(name, _)| *name).collect();
    match names[..] {
        [name] => Ok(given.iter().find(|(known, _)| *known == name).expect("taken from the list").0),
        [] => {
            Err(Invalid::new("", "says not when; give one of cron, fixed_rate, fixed_delay, daily_window, at, delay"))
        }
        _ => Err(Invalid::new("", format!("has {}; give only one of them", names.join(" and ")))),
    }
}

/// Enough of an overlong expression to recognise it in a message.
fn shortened(text: &str) -> String {
    match text.char_indices().nth(100) {
        Some((cut, _)) => format!("{}…", &text[..cut]),
        None => text.to_owned(),
    }
}
