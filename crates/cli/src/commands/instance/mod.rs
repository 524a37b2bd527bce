//! `pendula instance`: what ran, what runs, what waits and why.

mod logs;
mod retry;
mod show;
mod tasks;
mod why;

use std::time::Duration;

use clap::Subcommand;
use pendula_client::{Client, InstanceFilter};
use pendula_model::api::InstanceView;
use pendula_model::instance::InstanceState;
use pendula_model::{InstanceId, TaskId, Timestamp};

use super::moment::{parse_duration, parse_time};
use crate::connect::{AppArg, ConnectArgs};
use crate::definitions::now;
use crate::failure::Outcome;
use crate::output::{Screen, Shade, Table, ago, count, span, state_shade};

const EXAMPLES: &str = "\
Examples:
  pendula instance list --state running,waiting
  pendula instance list --job nightly-report --since 7d
  pendula instance show 123456789              attempts, result, why that worker
  pendula instance show -f 123456789           watch it until it ends
  pendula instance logs -f 123456789           follow its log until it ends
  pendula instance why 123456789               why it waits, or what became of it
  pendula instance retry 123456789 --wait

Of one with many tasks (broadcast, sharded, map, map_reduce):
  pendula instance tasks 123456789 --state failed,lost
  pendula instance task 123456789 7            its input, result and attempts
  pendula instance logs 123456789 --task 7
  pendula instance why 123456789 --task 7
  pendula instance retry-tasks 123456789       while it is active: what failed or was lost
  pendula instance retry 123456789 --only-unsuccessful";

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
    /// Show an instance with its attempts, or with how far its tasks are
    Show {
        id: InstanceId,
        /// Watch it until it ends, then exit with its result
        #[arg(long, short)]
        follow: bool,
    },
    /// Print a log, or follow it
    Logs(logs::LogArgs),
    /// List the tasks of an instance
    Tasks(tasks::ListArgs),
    /// Show one task with its input, result and attempts
    Task {
        id: InstanceId,
        /// Its number, from 0
        #[arg(value_name = "TASK")]
        task: TaskId,
        /// Write its result and nothing else, byte by byte
        #[arg(long)]
        result: bool,
    },
    /// Stop an instance, whether it waits or runs
    Stop { id: InstanceId },
    /// Cancel an instance that has not started
    Cancel { id: InstanceId },
    /// Run an ended instance again, with the same parameters
    Retry {
        id: InstanceId,
        /// Only the sub-tasks or shards that did not succeed; reduce reads the results of the others too
        #[arg(long)]
        only_unsuccessful: bool,
        /// Follow the log or the progress, and exit with the result
        #[arg(long, short)]
        wait: bool,
    },
    /// Let tasks of an active instance that failed or were lost be tried again
    RetryTasks {
        id: InstanceId,
        /// Their numbers [default: all that failed or were lost]
        #[arg(value_name = "TASK")]
        tasks: Vec<TaskId>,
    },
    /// Explain why an instance or a task waits, or why it went where it went
    Why {
        id: InstanceId,
        /// Only this task of it
        #[arg(long, value_name = "TASK")]
        task: Option<TaskId>,
    },
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
        Command::Show { id, follow: false } => show::show(&screen, client, id).await,
        Command::Show { id, follow: true } => show::follow(&screen, client, id).await,
        Command::Logs(log_args) => logs::logs(&screen, client, log_args).await,
        Command::Tasks(list_args) => tasks::list(&screen, client, list_args).await,
        Command::Task { id, task, result: false } => tasks::show(&screen, client, id, task).await,
        Command::Task { id, task, result: true } => tasks::result(&screen, client, id, task).await,
        Command::Stop { id } => {
            let view = client.instance_stop(id).await?;
            screen.show(&view, |screen| screen.line(format!("instance {id} is {}", view.state)))
        }
        Command::Cancel { id } => {
            let view = client.instance_cancel(id).await?;
            screen.show(&view, |screen| screen.line(format!("instance {id} is {}", view.state)))
        }
        Command::Retry { id, only_unsuccessful, wait } => {
            retry::retry(&screen, client, id, only_unsuccessful, wait).await
        }
        Command::RetryTasks { id, tasks } => retry::retry_tasks(&screen, client, id, tasks).await,
        Command::Why { id, task } => why::why(&screen, client, id, task).await,
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
        let reason = because(instance.reason.as_deref(), instance.message.as_deref());
        table.shaded_row([
            (Shade::Plain, instance.id.to_string()),
            (Shade::Plain, instance.job.clone()),
            (state_shade(instance.state), instance.state.to_string()),
            (Shade::Plain, ago(instance.created_at, now)),
            (Shade::Plain, took(instance.started_at, instance.ended_at, now)),
            (Shade::Plain, instance.worker.clone().unwrap_or_else(|| on_many(instance))),
            (Shade::Faint, reason),
        ]);
    }
    table
}

/// In the place of a worker: how far its many tasks are.
fn on_many(instance: &InstanceView) -> String {
    let counts = instance.tasks.as_ref().map(|tasks| tasks.counts);
    counts.map_or(String::new(), |counts| format!("{} of {} tasks", count(counts.ended()), count(counts.total)))
}

fn took(started: Option<Timestamp>, ended: Option<Timestamp>, now: Timestamp) -> String {
    started.map_or(String::new(), |started| span(ended.unwrap_or(now).since(started)))
}

/// Why something ended, in one line.
pub(super) fn because(reason: Option<&str>, message: Option<&str>) -> String {
    match (reason, message) {
        (Some(reason), Some(message)) => {
            format!("{reason}: {}", pendula_model::limits::cut(message.lines().next().unwrap_or(""), 80))
        }
        (Some(reason), None) => reason.to_owned(),
        (None, _) => String::new(),
    }
}
