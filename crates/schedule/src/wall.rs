//! From what a wall clock shows to instants and back: the only place that knows daylight saving time.
//!
//! A schedule is a set of civil times ([`Times`]) and a zone. Where clocks go forward, some civil times do not happen;
//! where they go back, some happen twice. Otherwise both orders agree, so a search looks for the next civil time and
//! asks the zone what became of it; only inside a repeated hour must it look at both passes.

use jiff::tz::{AmbiguousOffset, Offset, TimeZone};
use pendula_model::Timestamp;
use pendula_model::trigger::{DstGap, DstOverlap};

use crate::calendar::Local;
use crate::cron::Cron;
use crate::window::Window;

/// After so many civil times in a row that the clocks skipped, a schedule counts as one that never fires.
const MOST_SKIPPED: usize = 400;

/// A set of civil times.
#[derive(Clone, Debug)]
pub(crate) enum Times {
    Cron(Cron),
    Window(Window),
}

/// Civil times of a zone with the answers to skipped and repeated ones.
#[derive(Clone, Debug)]
pub(crate) struct WallSchedule {
    times: Times,
    zone: TimeZone,
    /// A skipped time fires at the end of the gap.
    makes_up: bool,
    /// A repeated time fires at both instants.
    repeats: bool,
}

/// What the clocks of a zone make of a civil time.
enum Shown {
    Once(Offset),
    /// Clocks go from offset `old` to `new` at `turn`, over it.
    Never {
        old: Offset,
        new: Offset,
        turn: Timestamp,
    },
    /// Clocks go back from offset `old` to `new` at `turn`.
    Twice {
        old: Offset,
        new: Offset,
        turn: Timestamp,
    },
}

impl WallSchedule {
    pub(crate) fn new(times: Times, zone: TimeZone, gap: DstGap, overlap: DstOverlap) -> Self {
        let (loses_nothing, keeps_a_pace) = match &times {
            // The hour that was skipped was not there to be worked in; the next fire is within an hour anyway.
            Times::Cron(cron) => (cron.runs_through_the_day(), cron.runs_through_the_day()),
            Times::Window(window) => (false, window.keeps_a_pace()),
        };
        let repeats = match overlap {
            DstOverlap::Auto => keeps_a_pace,
            DstOverlap::First => false,
            DstOverlap::Both => true,
        };
        WallSchedule { times, zone, makes_up: gap == DstGap::NextValid && !loses_nothing, repeats }
    }

    /// The first fire later than `after`.
    ///
    /// Not "at or after": at the end of a gap, what was skipped right before must be seen.
    pub(crate) fn next_after(&self, after: Timestamp) -> Option<Timestamp> {
        let offset = self.offset(after);
        let shown = Local::of(after, offset);
        let mut local = shown.plus(1);
        if let Shown::Twice { old, new, turn } = self.shown(shown) {
            let (begin, end) = (Local::of(turn, new), Local::of(turn, old));
            let first_within = |local| self.times.next(local).filter(|time| *time < end);
            if offset == old {
                if let Some(time) = first_within(local) {
                    return Some(time.at(old));
                }
                local = begin;
            }
            if self.repeats
                && let Some(time) = first_within(local)
            {
                return Some(time.at(new));
            }
            local = end;
        }
        for _ in 0..MOST_SKIPPED {
            let time = self.times.next(local)?;
            match self.shown(time) {
                Shown::Once(offset) => return Some(time.at(offset)),
                Shown::Twice { old, .. } => return Some(time.at(old)),
                Shown::Never { turn, .. } if self.makes_up => return Some(turn),
                Shown::Never { new, turn, .. } => local = Local::of(turn, new),
            }
        }
        None
    }

    /// The last fire at or before `to`.
    pub(crate) fn last_until(&self, to: Timestamp) -> Option<Timestamp> {
        let offset = self.offset(to);
        let mut local = Local::of(to, offset);
        if let Shown::Twice { old, new, turn } = self.shown(local) {
            let (begin, end) = (Local::of(turn, new), Local::of(turn, old));
            let last_within = |local| self.times.previous(local).filter(|time| *time >= begin);
            if offset == new {
                if self.repeats
                    && let Some(time) = last_within(local)
                {
                    return Some(time.at(new));
                }
                local = end.just_before();
            }
            if let Some(time) = last_within(local) {
                return Some(time.at(old));
            }
            local = begin.just_before();
        }
        for _ in 0..MOST_SKIPPED {
            let time = self.times.previous(local)?;
            match self.shown(time) {
                Shown::Once(offset) => return Some(time.at(offset)),
                Shown::Twice { old, new, .. } => {
                    return Some(time.at(if self.repeats { new } else { old }));
                }
                Shown::Never { turn, .. } if self.makes_up => return Some(turn),
                Shown::Never { old, turn, .. } => local = Local::of(turn, old).just_before(),
            }
        }
        None
    }

    /// How many fires there are later than `after` and before `before`.
    ///
    /// The cost grows with the years between them, not with the fires.
    pub(crate) fn count_between(&self, after: Timestamp, before: Timestamp) -> i64 {
        let mut count = 0;
        let mut offset = self.offset(after);
        let shown = Local::of(after, offset);
        let mut local = match self.shown(shown) {
            Shown::Twice { old, new, turn } if offset == new && !self.repeats => Local::of(turn, old),
            _ => shown.plus(1),
        };
        for transition in self.zone.following(after.to_jiff()) {
            let turn = Timestamp::from_jiff(transition.timestamp());
            if turn >= before {
                break;
            }
            let (old_end, new_begin) = (Local::of(turn, offset), Local::of(turn, transition.offset()));
            count += self.times.count(local, old_end);
            offset = transition.offset();
            local = if self.repeats { new_begin } else { new_begin.max(old_end) };
            let made_up = |skipped: Local| skipped < new_begin && self.times.next(new_begin) != Some(new_begin);
            if self.makes_up && self.times.next(old_end).is_some_and(made_up) {
                count += 1;
            }
        }
        count + self.times.count(local, Local::of(before, offset))
    }

    fn offset(&self, at: Timestamp) -> Offset {
        self.zone.to_offset(at.to_jiff())
    }

    fn shown(&self, local: Local) -> Shown {
        match self.zone.to_ambiguous_timestamp(local.to_datetime()).offset() {
            AmbiguousOffset::Unambiguous { offset } => Shown::Once(offset),
            // Read with the larger offset, a skipped or repeated time is an instant shortly before the turn.
            AmbiguousOffset::Gap { before: old, after: new } => {
                Shown::Never { old, new, turn: self.turn(local.at(new), new) }
            }
            AmbiguousOffset::Fold { before: old, after: new } => {
                Shown::Twice { old, new, turn: self.turn(local.at(old), new) }
            }
        }
    }

    /// When the clocks, after `shortly_before`, went to offset `new`.
    fn turn(&self, shortly_before: Timestamp, new: Offset) -> Timestamp {
        let transition = self.zone.following(shortly_before.to_jiff()).find(|transition| transition.offset() == new);
        let transition = transition.expect("a civil time is skipped or repeated because of a transition");
        Timestamp::from_jiff(transition.timestamp())
    }
}

impl Times {
    fn next(&self, from: Local) -> Option<Local> {
        match self {
            Times::Cron(cron) => cron.next(from),
            Times::Window(window) => window.next(from),
        }
    }

    fn previous(&self, to: Local) -> Option<Local> {
        match self {
            Times::Cron(cron) => cron.previous(to),
            Times::Window(window) => window.previous(to),
        }
    }

    fn count(&self, from: Local, to: Local) -> i64 {
        match self {
            Times::Cron(cron) => cron.count(from, to),
            Times::Window(window) => window.count(from, to),
        }
    }
}
