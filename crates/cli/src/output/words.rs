//! Definitions in one line, and the colours of states.

use pendula_model::duration::format;
use pendula_model::instance::{InstanceState, TaskState};
use pendula_model::processor::Processor;
use pendula_model::trigger::Trigger;

use super::table::Shade;
use super::time::instant;

/// When a job fires: `cron 30 2 * * * Europe/Berlin`, `every 5s`, `on request`.
pub fn trigger_line(trigger: Option<&Trigger>) -> String {
    let Some(trigger) = trigger else { return "on request".to_owned() };
    let zone = &trigger.timezone;
    if let Some(cron) = &trigger.cron {
        format!("cron {cron} {zone}")
    } else if let Some(every) = trigger.fixed_rate {
        format!("every {}", format(every))
    } else if let Some(pause) = trigger.fixed_delay {
        format!("{} after the end", format(pause))
    } else if let Some(window) = &trigger.daily_window {
        format!("every {} from {} to {} {zone}", format(window.every), window.from, window.to)
    } else if let Some(at) = trigger.at {
        format!("once at {}", instant(at))
    } else if let Some(delay) = trigger.delay {
        format!("once after {}", format(delay))
    } else {
        "on request".to_owned()
    }
}

/// What a job runs, short: the processor and the beginning of what it is given.
pub fn processor_line(processor: &Processor) -> String {
    match processor {
        Processor::Shell(script) | Processor::Python(script) => {
            let first = script.script.trim().lines().next().unwrap_or_default();
            format!("{}: {}", processor.name(), pendula_model::limits::cut(first, 60))
        }
        Processor::Http(http) => format!("http: {} {}", http.method, pendula_model::limits::cut(&http.url, 60)),
        Processor::Handler(handler) => handler.name.clone(),
    }
}

pub fn state_shade(state: InstanceState) -> Shade {
    match state {
        InstanceState::Succeeded => Shade::Good,
        InstanceState::Failed => Shade::Bad,
        InstanceState::Running | InstanceState::Dispatched | InstanceState::Stopping => Shade::Busy,
        InstanceState::Waiting => Shade::Plain,
        InstanceState::Canceled | InstanceState::Stopped => Shade::Faint,
    }
}

pub fn task_shade(state: TaskState) -> Shade {
    match state {
        TaskState::Succeeded => Shade::Good,
        TaskState::Failed | TaskState::Lost => Shade::Bad,
        TaskState::Running | TaskState::Dispatched => Shade::Busy,
        TaskState::Waiting => Shade::Plain,
        TaskState::Stopped => Shade::Faint,
    }
}
