//! One instance with all that belongs to it, now or as it goes on.

use pendula_client::Client;
use pendula_model::api::{AttemptView, ResultView};
use pendula_model::task::Phase;
use pendula_model::{InstanceId, Timestamp};
use serde_json::Value;

use super::took;
use crate::commands::progress::Lines;
use crate::commands::watch::progress;
use crate::definitions::now;
use crate::failure::Outcome;
use crate::output::{Screen, Shade, Table, ago, clock, count, progress_line, state_shade, task_shade, yaml};

/// Targets of a broadcast that are shown to people.
const LISTED_TARGETS: usize = 100;

pub(super) async fn show(screen: &Screen, client: &Client, id: InstanceId) -> Outcome {
    let view = client.instance_fetch(id).await?;
    if !screen.is_table() {
        return screen.document(&view);
    }
    let now = now();
    let mut facts = Table::of_facts();
    facts.fact("instance", view.id.to_string());
    facts.fact("job", format!("{} of app {}, revision {}", view.job, view.app, view.revision));
    if view.mode != "standalone" {
        facts.fact("mode", view.mode.clone());
    }
    facts.shaded_row([(Shade::Faint, "state".to_owned()), (state_shade(view.state), view.state.to_string())]);
    let because: Vec<_> = [view.reason.clone(), view.message.clone()].into_iter().flatten().collect();
    if !because.is_empty() {
        facts.fact("because", because.join(": "));
    }
    facts.fact(
        "origin",
        match view.rerun_of {
            Some(earlier) => format!("{} of {earlier}", view.origin),
            None => view.origin.to_string(),
        },
    );
    for (name, at) in [
        ("fire time", view.fire_time),
        ("created", Some(view.created_at)),
        ("due", Some(view.due_at).filter(|due| *due != view.created_at)),
        ("expires", view.expires_at.filter(|_| !view.state.is_ended())),
        ("started", view.started_at),
        ("ended", view.ended_at),
    ] {
        if let Some(at) = at {
            facts.fact(name, clock(at, now));
        }
    }
    if view.started_at.is_some() {
        facts.fact("took", took(view.started_at, view.ended_at, now));
    }
    if view.missed_before > 0 {
        facts.fact("makes up for", format!("{} earlier fire times", view.missed_before));
    }
    if let Some(key) = &view.idempotency_key {
        facts.fact("key", key.clone());
    }
    if let Some(params) = &view.params {
        facts.fact("params", params.to_string());
    }
    if let Some(result) = &view.result {
        facts.fact("result", payload_text(result));
    }
    if let Some(tasks) = &view.tasks {
        if !view.state.is_ended() {
            facts.fact("phase", phase_words(tasks.phase));
        }
        facts.fact("tasks", progress_line(tasks));
        facts.fact("succeeded", count(tasks.counts.succeeded));
    }
    screen.table(facts)?;
    if let Some(workers) = view.tasks.as_ref().and_then(|tasks| tasks.targets.as_ref()?["workers"].as_array()) {
        screen.line("")?;
        screen.table(target_table(workers))?;
        if workers.len() > LISTED_TARGETS {
            let more = format!("and {} more: --output json", workers.len() - LISTED_TARGETS);
            screen.line(screen.paint(Shade::Faint, &more))?;
        }
    }
    if !view.attempts.is_empty() {
        screen.line("")?;
        screen.table(attempt_table(&view.attempts, now))?;
    }
    if let Some(placement) = view.attempts.last().and_then(|attempt| attempt.placement.as_ref()) {
        screen.line(format!("\nplacement of the latest attempt:\n{}", yaml(placement)?.trim_end()))?;
    }
    let more = match &view.tasks {
        Some(_) => format!("\ntasks: pendula instance tasks {id}"),
        None => format!("\nlog: pendula instance logs {id}"),
    };
    screen.line(screen.paint(Shade::Faint, &more))
}

/// Watches an instance until it ends, and shows it then.
pub(super) async fn follow(screen: &Screen, client: &Client, id: InstanceId) -> Outcome {
    // Following waits for a server that restarts; one that is not there at all is told of at once.
    client.instance_fetch(id).await?;
    let ended = progress(screen, client, id, Lines::Out).await?;
    show(screen, client, id).await?;
    ended.verdict(screen, id, None)
}

fn phase_words(phase: Phase) -> &'static str {
    match phase {
        Phase::Before => "before: the task before the others runs",
        Phase::Main => "main: its tasks run",
        Phase::After => "after: the last task runs, with what the others left",
    }
}

/// The workers that a broadcast found when it began, and those that came later.
fn target_table(workers: &[Value]) -> Table {
    let mut table = Table::listing(["TARGET", "CHOSEN", "BECAUSE"], &[2]);
    for worker in workers.iter().take(LISTED_TARGETS) {
        let rejected = worker["rejected"].as_str();
        let because = match rejected {
            Some(why) => why.to_owned(),
            None if worker["joined_late"] == true => "it came later".to_owned(),
            None if worker["connected"] == false => "it was expected back".to_owned(),
            None => String::new(),
        };
        let shade = if rejected.is_some() { Shade::Faint } else { Shade::Plain };
        let chosen = if rejected.is_some() { "no" } else { "yes" };
        table.shaded_row([
            (shade, worker["worker"].as_str().unwrap_or_default().to_owned()),
            (shade, chosen.to_owned()),
            (shade, because),
        ]);
    }
    table
}

pub(super) fn attempt_table(attempts: &[AttemptView], now: Timestamp) -> Table {
    let mut table = Table::new(["ATTEMPT", "STATE", "WORKER", "STARTED", "TOOK", "REASON"]);
    for attempt in attempts {
        let reason: Vec<_> = [attempt.reason.clone(), attempt.message.clone()].into_iter().flatten().collect();
        table.shaded_row([
            (Shade::Plain, attempt.attempt.to_string()),
            (task_shade(attempt.state), attempt.state.to_string()),
            (Shade::Plain, attempt.worker.clone().unwrap_or_default()),
            (Shade::Plain, attempt.started_at.or(attempt.dispatched_at).map_or(String::new(), |at| ago(at, now))),
            (Shade::Plain, took(attempt.started_at, attempt.ended_at, now)),
            (Shade::Faint, reason.join(": ")),
        ]);
    }
    table
}

/// Bytes of users, as far as they are text.
pub(super) fn payload_text(payload: &ResultView) -> String {
    match (&payload.json, &payload.text, &payload.base64) {
        (Some(json), _, _) => json.to_string(),
        (_, Some(text), _) => text.clone(),
        (_, _, Some(base64)) => format!("{} of {} (base64)", base64, payload.content_type),
        _ => "empty".to_owned(),
    }
}
