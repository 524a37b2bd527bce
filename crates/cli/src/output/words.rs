//! Definitions in one line, and the colours of states.

use std::time::Duration;

use pendula_model::api::TasksView;
use pendula_model::duration::format;
use pendula_model::instance::{InstanceState, TaskState};
use pendula_model::processor::Processor;
use pendula_model::trigger::Trigger;

use super::table::Shade;
use super::time::{instant, span};

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
        Processor::PowerJob(powerjob) => format!("powerjob: {}", pendula_model::limits::cut(&powerjob.info, 60)),
    }
}

/// A number with its thousands apart: `1,234,567`.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// How far tasks are: `399,600 of 1,000,000 ended, 20 failed, 400 run, 600,000 wait, 21,500/s, 28s left`.
pub fn progress_line(tasks: &TasksView) -> String {
    let counts = tasks.counts;
    let mut parts = vec![format!("{} of {} ended", count(counts.ended()), count(counts.total))];
    for (number, word) in [
        (counts.failed, "failed"),
        (counts.lost, "lost"),
        (counts.stopped, "stopped"),
        (counts.running, "run"),
        (counts.waiting, "wait"),
    ] {
        if number > 0 {
            parts.push(format!("{} {word}", count(number)));
        }
    }
    if tasks.rate > 0.0 {
        parts.push(rate(tasks.rate));
    }
    if let Some(left) = tasks.estimate.and_then(|left| Duration::try_from_secs_f64(left).ok()) {
        parts.push(format!("{} left", span(left)));
    }
    parts.join(", ")
}

fn rate(per_second: f64) -> String {
    if per_second < 10.0 { format!("{per_second:.1}/s") } else { format!("{}/s", count(per_second.round() as u64)) }
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

#[cfg(test)]
mod tests {
    use pendula_model::task::{Phase, TaskCounts};

    use super::*;

    #[test]
    fn numbers_keep_their_thousands_apart() {
        for (number, expect) in [(0, "0"), (999, "999"), (1_000, "1,000"), (12_345_678, "12,345,678")] {
            assert_eq!(count(number), expect);
        }
    }

    #[test]
    fn progress_is_one_line_of_what_matters() {
        let counts =
            TaskCounts { total: 1_000, waiting: 600, running: 5, succeeded: 393, failed: 2, ..TaskCounts::default() };
        let mut tasks = TasksView { counts, phase: Phase::Main, rate: 21.5, estimate: Some(28.1), targets: None };
        assert_eq!(progress_line(&tasks), "395 of 1,000 ended, 2 failed, 5 run, 600 wait, 22/s, 28s left");
        tasks.counts = TaskCounts { total: 3, succeeded: 3, ..TaskCounts::default() };
        (tasks.rate, tasks.estimate) = (0.0, None);
        assert_eq!(progress_line(&tasks), "3 of 3 ended");
    }
}
