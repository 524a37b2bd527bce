//! Definitions that users of a history come up with: every kind of trigger, policy and limit, small numbers throughout.

use std::collections::BTreeMap;
use std::time::Duration;

use pendula_model::Timestamp;
use pendula_model::job::JobSpec;
use pendula_model::mode::{Broadcast, BroadcastSuccess, ExecutionMode, Map, Sharded, Share};
use pendula_model::policy::{Backoff, Concurrency, Delivery, Exponential, Overflow, Retry};
use pendula_model::processor::{Handler, Processor};
use pendula_model::trigger::{DailyWindow, Misfire, Trigger};
use pendula_model::worker::{LabelRule, Strategy};

use crate::dice::Dice;
use crate::faults::Profile;

/// A definition for `name`, made at `now` (by the wall clock).
pub(crate) fn invent(dice: &mut Dice, name: &str, now: Timestamp, profile: &Profile) -> JobSpec {
    let processor = if dice.chance(850) { "a" } else { "b" };
    let handler = Handler { name: processor.to_owned(), config: None };
    let mut spec = JobSpec::new(name, Processor::Handler(handler));
    if dice.chance(profile.triggered) {
        spec.trigger = Some(trigger(dice, now));
    }
    if dice.chance(500) {
        spec.concurrency = concurrency(dice);
    }
    if dice.chance(300) {
        spec.delivery = Delivery::AtMostOnce;
    } else if dice.chance(600) {
        spec.retry = retry(dice);
    }
    if dice.chance(400) {
        spec.timeout = Some(millis(dice, 300, 8_000));
    }
    if dice.chance(300) {
        spec.expire_after = Some(millis(dice, 500, 20_000));
    }
    if dice.chance(700) {
        spec.stop_grace = Some(millis(dice, 100, 2_000));
    }
    if dice.chance(200) {
        // There is only one worker for `b`.
        let zones = if processor == "a" && profile.workers > 1 { &["x", "y"][..] } else { &["x"] };
        let zone = *dice.pick(zones);
        spec.workers.labels = BTreeMap::from([("zone".to_owned(), LabelRule::Is(zone.to_owned()))]);
    }
    if dice.chance(200) {
        spec.priority = dice.between(0, 10) as i8 - 5;
    }
    spec.enabled = dice.chance(900);
    if dice.chance(profile.tasks) {
        spec.mode = mode(dice);
        spec.workers.strategy = strategy(dice);
        spec.weight = dice.between(1, 5) as u32;
        if spec.trigger.is_some() && spec.concurrency.limit.is_none() {
            // What fires each second would never be worked off.
            spec.concurrency = Concurrency { limit: Some(2), ..concurrency(dice) };
        }
    }
    spec
}

fn mode(dice: &mut Dice) -> ExecutionMode {
    let task_timeout = dice.chance(200).then(|| millis(dice, 200, 6_000));
    let share = |dice: &mut Dice| match dice.below(3) {
        0 => Share::Count(0),
        1 => Share::Count(dice.between(0, 3)),
        _ => Share::BasisPoints(dice.between(0, 10_000) as u32),
    };
    let limit = |dice: &mut Dice| dice.chance(300).then(|| dice.between(1, 3) as u32);
    match dice.below(10) {
        0..4 => {
            let post = dice.chance(300);
            let success = match dice.below(4) {
                0 => BroadcastSuccess::All,
                1 => BroadcastSuccess::Any,
                2 => BroadcastSuccess::AtLeast(share(dice)),
                _ if post => BroadcastSuccess::Post,
                _ => BroadcastSuccess::All,
            };
            ExecutionMode::Broadcast(Broadcast {
                pre: dice.chance(250),
                post,
                success,
                rerun_on_same_worker: dice.chance(400),
                rerun_within: dice.chance(800).then(|| millis(dice, 1_000, 40_000)),
                include_late_joiners: dice.chance(300),
                task_timeout,
            })
        }
        4..6 => ExecutionMode::Sharded(Sharded {
            total: dice.between(1, 6) as u32,
            per_worker: limit(dice),
            max_workers: limit(dice),
            tolerate: share(dice),
            fail_fast: dice.chance(300),
            task_timeout,
        }),
        kind => {
            let map = Map {
                per_worker: limit(dice),
                max_workers: limit(dice),
                tolerate: share(dice),
                fail_fast: dice.chance(200),
                task_timeout,
            };
            if kind < 8 { ExecutionMode::Map(map) } else { ExecutionMode::MapReduce(map) }
        }
    }
}

fn strategy(dice: &mut Dice) -> Strategy {
    match dice.below(6) {
        0 => Strategy::RoundRobin,
        1 => Strategy::Random,
        2 => Strategy::First,
        3 => Strategy::StickyHash("k".to_owned()),
        _ => Strategy::LeastLoaded,
    }
}

fn trigger(dice: &mut Dice, now: Timestamp) -> Trigger {
    let mut trigger = Trigger::default();
    match dice.below(8) {
        0 => {
            let text = *dice.pick(&["* * * * * ?", "*/2 * * * * ?", "1/7 * * * * ?", "0 * * * * ?", "* * * * *"]);
            trigger.cron = Some(text.to_owned());
        }
        1 | 2 => trigger.fixed_rate = Some(millis(dice, 300, 12_000)),
        3 | 4 => trigger.fixed_delay = Some(millis(dice, 100, 5_000)),
        5 => {
            let windows = [("00:00", "24:00"), ("07:59:50", "08:00:20"), ("08:00:10", "08:00:00")];
            let (from, to) = *dice.pick(&windows);
            let every = millis(dice, 500, 5_000);
            let window = DailyWindow { every, from: from.to_owned(), to: to.to_owned(), weekdays: Vec::new() };
            trigger.daily_window = Some(window);
        }
        6 => trigger.at = Some(now.plus(millis(dice, 0, 15_000))),
        _ => trigger.delay = Some(millis(dice, 0, 15_000)),
    }
    if trigger.at.is_none() && trigger.delay.is_none() {
        if dice.chance(150) {
            trigger.start = Some(now.plus(millis(dice, 0, 8_000)));
        }
        if dice.chance(150) {
            trigger.end = Some(now.plus(millis(dice, 10_000, 40_000)));
        }
    }
    trigger.misfire = *dice.pick(&[Misfire::FireOnce, Misfire::FireAll, Misfire::Skip]);
    trigger.misfire_limit = dice.between(1, 12) as u32;
    trigger
}

fn concurrency(dice: &mut Dice) -> Concurrency {
    Concurrency {
        limit: Some(dice.between(1, 3) as u32),
        overflow: *dice.pick(&[Overflow::Queue, Overflow::Queue, Overflow::Skip, Overflow::Replace, Overflow::Fail]),
        queue: *dice.pick(&[0, 1, 3, 100, 100]),
    }
}

fn retry(dice: &mut Dice) -> Retry {
    let backoff = if dice.chance(500) {
        Backoff::Fixed(millis(dice, 0, 2_000))
    } else {
        let initial = millis(dice, 50, 1_000);
        let jitter_percent = dice.between(0, 100) as u32;
        Backoff::Exponential(Exponential { initial, max: initial * 4, jitter_percent })
    };
    Retry { attempts: dice.between(1, 4) as u32, backoff, lost_reruns: dice.between(0, 5) as u32 }
}

fn millis(dice: &mut Dice, low: u64, high: u64) -> Duration {
    Duration::from_millis(dice.between(low, high))
}
