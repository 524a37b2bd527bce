//! Why an instance or a task waits, where it runs and why there, or how it ended.

use pendula_client::Client;
use pendula_model::{InstanceId, TaskId};
use serde_json::Value;

use crate::failure::Outcome;
use crate::output::{Screen, Shade, Table};

pub(super) async fn why(screen: &Screen, client: &Client, id: InstanceId, task: Option<TaskId>) -> Outcome {
    let told = client.instance_explain(id, task).await?;
    screen.show(&told, |screen| {
        screen.line(told["why"].as_str().unwrap_or("the server gave no reason"))?;
        if let Some(hint) = told["hint"].as_str() {
            screen.line(format!("  → {hint}"))?;
        }
        // What it waits for, or else why it went where it went.
        let placement = &told["placement"];
        let candidates = told["candidates"].as_array().or_else(|| placement["candidates"].as_array());
        if let Some(candidates) = candidates.filter(|candidates| !candidates.is_empty()) {
            screen.line("")?;
            screen.table(candidate_table(candidates, placement["chosen"].as_str()))?;
        }
        match told["workers"].as_array().filter(|workers| !workers.is_empty()) {
            Some(workers) => {
                screen.line("")?;
                screen.table(worker_table(workers))
            }
            None => Ok(()),
        }
    })
}

/// Workers with what speaks against each.
fn candidate_table(candidates: &[Value], chosen: Option<&str>) -> Table {
    let mut table = Table::new(["WORKER", "SLOTS TAKEN", "AGAINST IT"]);
    for candidate in candidates {
        let worker = candidate["worker"].as_str().unwrap_or_default();
        let rejected = candidate["rejected"].as_str();
        let (shade, against) = match rejected {
            Some(rejected) => (Shade::Faint, rejected),
            None if chosen == Some(worker) => (Shade::Good, "nothing; it was chosen"),
            None => (Shade::Plain, "nothing"),
        };
        table.shaded_row([
            (shade, worker.to_owned()),
            (shade, format!("{} of {}", candidate["running"], candidate["slots"])),
            (shade, against.to_owned()),
        ]);
    }
    table
}

/// Workers that have tasks of the instance.
fn worker_table(workers: &[Value]) -> Table {
    let mut table = Table::new(["WORKER", "TASKS", "CONNECTED"]);
    for worker in workers {
        table.row([
            worker["worker"].as_str().unwrap_or_default().to_owned(),
            worker["tasks"].to_string(),
            if worker["connected"] == true { "yes" } else { "no" }.to_owned(),
        ]);
    }
    table
}
