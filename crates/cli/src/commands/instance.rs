//! `pendula instance`: what ran, what runs, what waits and why.

use std::time::Duration;

use clap::Subcommand;
use futures::StreamExt;
use pendula_client::{Client, FollowOptions, InstanceFilter, LogRange, RunKey};
use pendula_model::api::{AttemptView, InstanceView, ResultView};
use pendula_model::instance::InstanceState;
use pendula_model::{InstanceId, Timestamp};

use super::moment::{parse_duration, parse_time};
use super::watch::watch;
use crate::connect::{AppArg, ConnectArgs};
use crate::definitions::now;
use crate::failure::{Failure, Outcome};
use crate::output::{Screen, Shade, Table, ago, clock, span, state_shade, task_shade, yaml};

const EXAMPLES: &str = "\
Examples:
  pendula instance list --state running,waiting
  pendula instance list --job nightly-report --since 7d
  pendula instance show 123456789              attempts, result, why that worker
  pendula instance logs -f 123456789           follow live until it ends
  pendula instance why 123456789               why it waits, or what became of it
  pendula instance retry 123456789 --wait";

/// List, show, follow, stop, cancel and retry instances
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    app: AppArg,
    #[command(flatten)]
    connect: ConnectArgs,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List instances, newest first
    #[command(visible_alias = "ls")]
    List(ListArgs),
    /// Show an instance with its attempts
    Show { id: InstanceId },
    /// Print the log of an instance, or follow it
    Logs {
        id: InstanceId,
        /// Follow live until the instance ends, then exit with its result
        #[arg(long, short)]
        follow: bool,
        /// Log of this attempt [default: the latest; all when following]
        #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
        attempt: Option<u32>,
        /// Only the last lines
        #[arg(long, short = 'n', value_name = "LINES", value_parser = clap::value_parser!(u32).range(1..=10_000))]
        tail: Option<u32>,
    },
    /// Stop an instance, whether it waits or runs
    Stop { id: InstanceId },
    /// Cancel an instance that has not started
    Cancel { id: InstanceId },
    /// Run an ended instance again, with the same parameters
    Retry {
        id: InstanceId,
        /// Follow the log and exit with the result
        #[arg(long, short)]
        wait: bool,
    },
    /// Explain why an instance waits, or why it went where it went
    Why { id: InstanceId },
}

#[derive(Debug, clap::Args)]
struct ListArgs {
    /// Only this job's
    #[arg(long, short)]
    job: Option<String>,
    /// Only in these states, separated by commas
    #[arg(long, short, value_delimiter = ',', value_name = "STATE")]
    state: Vec<InstanceState>,
    /// Only those of the last so long, as 1h
    #[arg(long, value_parser = parse_duration, value_name = "DURATION", conflicts_with = "from")]
    since: Option<Duration>,
    /// Only those created at this time or later
    #[arg(long, value_parser = parse_time, value_name = "TIME")]
    from: Option<Timestamp>,
    /// Only those created before this time
    #[arg(long, value_parser = parse_time, value_name = "TIME")]
    before: Option<Timestamp>,
    /// How many
    #[arg(long, short = 'n', default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,
    /// Go on where the page before ended
    #[arg(long)]
    cursor: Option<String>,
    /// Of all apps that the token can see
    #[arg(long, conflicts_with = "job")]
    all_apps: bool,
}

pub async fn run(args: Args, screen: Screen) -> Outcome {
    let session = args.connect.open()?;
    let client = &session.client;
    match args.command {
        Command::List(list_args) => {
            let app = if list_args.all_apps { None } else { Some(session.app(&args.app).await?) };
            list(&screen, client, app, list_args).await
        }
        Command::Show { id } => show(&screen, client, id).await,
        Command::Logs { id, follow: false, attempt, tail } => logs(&screen, client, id, attempt, tail).await,
        Command::Logs { id, follow: true, attempt, tail } => {
            let options = FollowOptions { attempt, tail, ..FollowOptions::default() };
            watch(&screen, client, id, options).await?.verdict(&screen, id)
        }
        Command::Stop { id } => {
            let view = client.instance_stop(id).await?;
            screen.show(&view, |screen| screen.line(format!("instance {id} is {}", view.state)))
        }
        Command::Cancel { id } => {
            let view = client.instance_cancel(id).await?;
            screen.show(&view, |screen| screen.line(format!("instance {id} is {}", view.state)))
        }
        Command::Retry { id, wait } => retry(&screen, client, id, wait).await,
        Command::Why { id } => {
            let why = client.instance_explain(id).await?;
            screen.show(&why, |screen| {
                screen.line(why["why"].as_str().unwrap_or("the server gave no reason"))?;
                let placement = &why["placement"];
                if placement.is_null() { Ok(()) } else { screen.line(yaml(placement)?.trim_end()) }
            })
        }
    }
}

async fn list(screen: &Screen, client: &Client, app: Option<String>, args: ListArgs) -> Outcome {
    let now = now();
    let filter = InstanceFilter {
        app,
        job: args.job,
        states: args.state,
        from: args.from.or(args.since.map(|since| now.minus(since))),
        before: args.before,
        cursor: args.cursor,
        limit: Some(args.limit),
    };
    let page = client.instance_list(&filter).await?;
    screen.show(&page, |screen| {
        if page.items.is_empty() {
            return screen.line("no instances");
        }
        screen.table(instance_table(&page.items, now))?;
        match &page.next_cursor {
            Some(cursor) => screen.line(screen.paint(Shade::Faint, &format!("more: --cursor {cursor}"))),
            None => Ok(()),
        }
    })
}

/// The columns that every listing of instances has.
pub(super) fn instance_table(instances: &[InstanceView], now: Timestamp) -> Table {
    let mut table = Table::listing(["INSTANCE", "JOB", "STATE", "CREATED", "TOOK", "WORKER", "REASON"], &[1, 5, 6]);
    for instance in instances {
        let reason = match (&instance.reason, &instance.message) {
            (Some(reason), Some(message)) => {
                format!("{reason}: {}", pendula_model::limits::cut(message.lines().next().unwrap_or(""), 80))
            }
            (Some(reason), None) => reason.clone(),
            (None, _) => String::new(),
        };
        table.shaded_row([
            (Shade::Plain, instance.id.to_string()),
            (Shade::Plain, instance.job.clone()),
            (state_shade(instance.state), instance.state.to_string()),
            (Shade::Plain, ago(instance.created_at, now)),
            (Shade::Plain, took(instance.started_at, instance.ended_at, now)),
            (Shade::Plain, instance.worker.clone().unwrap_or_default()),
            (Shade::Faint, reason),
        ]);
    }
    table
}

fn took(started: Option<Timestamp>, ended: Option<Timestamp>, now: Timestamp) -> String {
    started.map_or(String::new(), |started| span(ended.unwrap_or(now).since(started)))
}

async fn show(screen: &Screen, client: &Client, id: InstanceId) -> Outcome {
    let view = client.instance_fetch(id).await?;
    if !screen.is_table() {
        return screen.document(&view);
    }
    let now = now();
    let mut facts = Table::of_facts();
    facts.fact("instance", view.id.to_string());
    facts.fact("job", format!("{} of app {}, revision {}", view.job, view.app, view.revision));
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
        facts.fact("result", result_text(result));
    }
    screen.table(facts)?;
    if !view.attempts.is_empty() {
        screen.line("")?;
        screen.table(attempt_table(&view.attempts, now))?;
    }
    if let Some(placement) = view.attempts.last().and_then(|attempt| attempt.placement.as_ref()) {
        screen.line(format!("\nplacement of the latest attempt:\n{}", yaml(placement)?.trim_end()))?;
    }
    screen.line(screen.paint(Shade::Faint, &format!("\nlog: pendula instance logs {id}")))
}

fn attempt_table(attempts: &[AttemptView], now: Timestamp) -> Table {
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

fn result_text(result: &ResultView) -> String {
    match (&result.json, &result.text, &result.base64) {
        (Some(json), _, _) => json.to_string(),
        (_, Some(text), _) => text.clone(),
        (_, _, Some(base64)) => format!("{} of {} (base64)", base64, result.content_type),
        _ => "empty".to_owned(),
    }
}

async fn logs(screen: &Screen, client: &Client, id: InstanceId, attempt: Option<u32>, tail: Option<u32>) -> Outcome {
    if let Some(lines) = tail {
        let mut range = LogRange { attempt, tail: Some(lines), limit: Some(1024 * 1024), ..LogRange::default() };
        loop {
            let piece = client.log_fetch(id, range).await?;
            if !screen.is_table() {
                return screen.document(&piece);
            }
            screen.raw(piece.data.as_bytes())?;
            if piece.cut_off {
                eprintln!("pendula: {}", super::watch::CUT_OFF);
            }
            if piece.end || piece.data.is_empty() {
                return Ok(());
            }
            range = LogRange {
                attempt: Some(piece.attempt),
                offset: Some(piece.next_offset),
                tail: None,
                limit: range.limit,
            };
        }
    }
    if !screen.is_table() {
        return screen.document(
            &client.log_fetch(id, LogRange { attempt, limit: Some(1024 * 1024), ..LogRange::default() }).await?,
        );
    }
    let mut chunks = std::pin::pin!(client.log_download(id, attempt).await?);
    while let Some(chunk) = chunks.next().await {
        screen.raw(&chunk?)?;
    }
    Ok(())
}

async fn retry(screen: &Screen, client: &Client, id: InstanceId, wait: bool) -> Outcome {
    let result = client.instance_retry(id, RunKey::Random).await?;
    let again = result.instance.ok_or_else(|| Failure::refused("the server made no instance"))?;
    if !wait {
        return screen.show(&result, |screen| {
            screen.line(format!("instance {again} runs what {id} ran\n  follow it: pendula instance logs -f {again}"))
        });
    }
    watch(screen, client, again, FollowOptions::default()).await?.verdict(screen, again)
}
