//! Fire times against independent implementations, against tables derived by hand, and against each other.

mod dst;
mod golden;
mod laws;
mod misfire;
mod o_11_time;
mod oracle;
mod refusals;

use pendula_model::Timestamp;
use pendula_model::trigger::Trigger;
use pendula_schedule::Plan;

fn at(text: &str) -> Timestamp {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn cron(expression: &str, zone: &str) -> Trigger {
    Trigger { cron: Some(expression.to_owned()), timezone: zone.to_owned(), ..Trigger::default() }
}

/// The plan of a trigger saved in 1970, so that only its own `start` matters.
fn plan(trigger: &Trigger) -> Plan {
    Plan::compile(trigger, Timestamp::from_micros(0)).unwrap_or_else(|error| panic!("{trigger:?}: {error}"))
}

/// The first fires after `after`, as the clocks of the trigger's zone show them: `2026-03-29T03:00:00+02:00`.
fn local_fires(trigger: &Trigger, after: &str, count: usize) -> Vec<String> {
    let zone = jiff::tz::TimeZone::get(&trigger.timezone).expect("tests name known zones");
    let show = |fire: Timestamp| {
        let zoned = fire.to_jiff().to_zoned(zone.clone());
        zoned.strftime("%Y-%m-%dT%H:%M:%S%:z").to_string()
    };
    plan(trigger).preview(at(after), count).into_iter().map(show).collect()
}
