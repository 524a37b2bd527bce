//! The tasks of an instance: a listing, and one of them with all that belongs to it.

use pendula_client::{Client, TaskFilter};
use pendula_model::api::TaskView;
use pendula_model::instance::TaskState;
use pendula_model::{InstanceId, TaskId, Timestamp};

use super::{because, show, took};
use crate::definitions::now;
use crate::failure::Outcome;
use crate::output::{Screen, Shade, Table, clock, count, task_shade, yaml};

const EXAMPLES: &str = "\
Examples:
  pendula instance tasks 123456789 --state failed,lost
  pendula instance tasks 123456789 --name .txt -n 100
  pendula instance tasks 123456789 --output json";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct ListArgs {
    id: InstanceId,
    /// Only in these states, separated by commas: waiting, dispatched, running, succeeded, failed, lost, stopped
    #[arg(long, short, value_delimiter = ',', value_name = "STATE")]
    state: Vec<TaskState>,
    /// Only those whose name contains this
    #[arg(long, value_name = "TEXT")]
    name: Option<String>,
    /// How many
    #[arg(long, short = 'n', default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,
    /// Go on where the page before ended
    #[arg(long)]
    cursor: Option<String>,
}

pub(super) async fn list(screen: &Screen, client: &Client, args: ListArgs) -> Outcome {
    let ListArgs { id, state: states, name, limit, cursor } = args;
    let filter = TaskFilter { states, name, cursor, limit: Some(limit) };
    let page = client.instance_tasks(id, &filter).await?;
    screen.show(&page, |screen| {
        if page.items.is_empty() {
            return screen.line("no tasks");
        }
        screen.table(task_table(&page.items, now()))?;
        match &page.next_cursor {
            Some(cursor) => screen.line(screen.paint(Shade::Faint, &format!("more: --cursor {cursor}"))),
            None => Ok(()),
        }
    })
}

fn task_table(tasks: &[TaskView], now: Timestamp) -> Table {
    let headings = ["TASK", "NAME", "KIND", "STATE", "ATTEMPT", "TOOK", "WORKER", "REASON"];
    let mut table = Table::listing(headings, &[1, 6, 7]);
    for task in tasks {
        table.shaded_row([
            (Shade::Plain, task.task.to_string()),
            (Shade::Plain, task.name.clone()),
            (Shade::Faint, task.role.map(|role| role.to_string()).unwrap_or_default()),
            (task_shade(task.state), task.state.to_string()),
            (Shade::Plain, task.attempt.to_string()),
            (Shade::Plain, took(task.started_at, task.ended_at, now)),
            (Shade::Plain, task.worker.clone().or(task.target.clone()).unwrap_or_default()),
            (Shade::Faint, because(task.reason.as_deref(), task.message.as_deref())),
        ]);
    }
    table
}

pub(super) async fn show(screen: &Screen, client: &Client, id: InstanceId, number: TaskId) -> Outcome {
    let detail = client.task_fetch(id, number).await?;
    if !screen.is_table() {
        return screen.document(&detail);
    }
    let (task, now) = (&detail.task, now());
    let mut facts = Table::of_facts();
    facts.fact("task", format!("{number} of instance {id}"));
    if !task.name.is_empty() {
        facts.fact("name", task.name.clone());
    }
    if let Some(role) = task.role {
        let parent = task.parent.map(|parent| format!(", emitted by task {parent}")).unwrap_or_default();
        facts.fact("kind", format!("{role}{parent}"));
    }
    facts.shaded_row([(Shade::Faint, "state".to_owned()), (task_shade(task.state), task.state.to_string())]);
    let why: Vec<_> = [task.reason.clone(), task.message.clone()].into_iter().flatten().collect();
    if !why.is_empty() {
        facts.fact("because", why.join(": "));
    }
    for (name, worker) in [("worker", &task.worker), ("bound to", &task.target)] {
        if let Some(worker) = worker {
            facts.fact(name, worker.clone());
        }
    }
    let due = task.due_at.filter(|_| task.state == TaskState::Waiting);
    for (name, at) in [("due", due), ("started", task.started_at), ("ended", task.ended_at)] {
        if let Some(at) = at {
            facts.fact(name, clock(at, now));
        }
    }
    if task.started_at.is_some() {
        facts.fact("took", took(task.started_at, task.ended_at, now));
    }
    if detail.emitted > 0 {
        facts.fact("emitted", format!("{} sub-tasks", count(detail.emitted)));
    }
    for (name, payload) in [("input", &detail.input), ("result", &detail.result)] {
        if let Some(payload) = payload {
            facts.fact(name, show::payload_text(payload));
        }
    }
    screen.table(facts)?;
    if !detail.attempts.is_empty() {
        screen.line("")?;
        screen.table(show::attempt_table(&detail.attempts, now))?;
    }
    if let Some(placement) = detail.attempts.last().and_then(|attempt| attempt.placement.as_ref()) {
        screen.line(format!("\nplacement of the latest attempt:\n{}", yaml(placement)?.trim_end()))?;
    }
    screen.line(screen.paint(Shade::Faint, &format!("\nlog: pendula instance logs {id} --task {number}")))
}

/// The bytes of a result, for a file or a pipe.
pub(super) async fn result(screen: &Screen, client: &Client, id: InstanceId, number: TaskId) -> Outcome {
    screen.raw(&client.task_result(id, number).await?.bytes)
}
