//! `pendula job`: look at jobs, run them, switch them on and off.

use std::time::Duration;

use clap::Subcommand;
use pendula_client::{Client, InstanceFilter, RunKey};
use pendula_model::api::{JobView, RunJob};
use pendula_model::{InstanceId, Timestamp, duration};
use serde_json::{Map, Value};

use super::ask::{confirm, random_key};
use super::instance::instance_table;
use super::moment::{parse_duration, parse_time};
use super::watch::{find, wait};
use crate::connect::{AppArg, ConnectArgs};
use crate::definitions::now;
use crate::failure::{Failure, Outcome};
use crate::output::{Screen, Shade, Table, ago, clock, instant, processor_line, trigger_line, yaml};

const EXAMPLES: &str = "\
Examples:
  pendula job list
  pendula job show nightly-report              definition, next fires, latest runs
  pendula job run nightly-report --wait        run now, follow the log, exit with the result
  pendula job run report --param day=2026-11-21 --param dry=true
  pendula job run report --params '{\"days\": [1, 2]}' --delay 30s
  pendula job next nightly-report -n 20
  pendula job disable nightly-report
  pendula job history nightly-report           its runs; --revisions and --gaps for the rest";

/// List, show, run, enable, disable and delete jobs
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
    /// List the jobs of an app
    #[command(visible_alias = "ls")]
    List,
    /// Show a job: its definition, next fires and latest runs
    Show { job: String },
    /// Run a job now or later
    Run(RunArgs),
    /// Let the trigger fire again, from now on
    Enable { job: String },
    /// Keep the trigger from firing; the job can still be run by hand
    Disable { job: String },
    /// Delete a job; its history stays until retention prunes it
    #[command(visible_alias = "rm")]
    Delete {
        job: String,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
    },
    /// Show when a job fires next
    Next {
        job: String,
        /// How many fires
        #[arg(long, short = 'n', default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
        count: u32,
        /// Only fires after this time [default: now]
        #[arg(long, value_parser = parse_time, value_name = "TIME")]
        after: Option<Timestamp>,
    },
    /// Show a job's runs, its earlier definitions, or the fires that it missed
    History {
        job: String,
        /// How many runs
        #[arg(long, short = 'n', default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
        limit: u32,
        /// Show the definitions that it had instead
        #[arg(long, conflicts_with = "gaps")]
        revisions: bool,
        /// Show the fire times that made no instance instead
        #[arg(long)]
        gaps: bool,
    },
}

const RUN_HELP: &str = "\
The parameters reach the job beside those of its definition; a key given here wins.
With --wait the exit code is 0 when the instance succeeded and 1 when it did not; a server
that restarts meanwhile is waited for. Ctrl-C ends the waiting, not the instance. An instance
with many tasks shows how far they are instead of their logs, and at the end what failed.

Examples:
  pendula job run report --wait
  pendula job run report --param day=2026-11-21 --idempotency-key report-2026-11-21
  pendula job run report --at '2026-11-22 03:00'";

#[derive(Debug, clap::Args)]
#[command(after_help = RUN_HELP)]
struct RunArgs {
    job: String,
    /// Parameter as text; may be repeated
    #[arg(long = "param", short = 'p', value_name = "KEY=VALUE", value_parser = key_value)]
    param: Vec<(String, String)>,
    /// Parameters as a JSON object; @FILE reads it from a file
    #[arg(long, value_name = "JSON")]
    params: Option<String>,
    /// Start so much later, as 30s
    #[arg(long, value_parser = parse_duration, value_name = "DURATION", conflicts_with = "at")]
    delay: Option<Duration>,
    /// Start at a time: 2026-11-21T08:00:00Z, or '2026-11-21 08:00' in this machine's zone
    #[arg(long, value_parser = parse_time, value_name = "TIME")]
    at: Option<Timestamp>,
    /// -100 to 100; higher goes first among what waits
    #[arg(long, allow_negative_numbers = true)]
    priority: Option<i8>,
    /// Follow the log, or the progress of many tasks, and exit with the result
    #[arg(long, short)]
    wait: bool,
    /// The same key means the same run, however often the command is repeated
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
}

pub async fn run(args: Args, screen: Screen) -> Outcome {
    let session = args.connect.open()?;
    let app = session.app(&args.app).await?;
    let client = &session.client;
    match args.command {
        Command::List => list(&screen, client, &app).await,
        Command::Show { job } => show(&screen, client, &app, &job).await,
        Command::Run(run) => run_job(&screen, client, &app, run).await,
        Command::Enable { job } => {
            let view = client.job_enable(&app, &job).await?;
            screen.show(&view, |screen| screen.line(format!("enabled {job}; {}", next_words(&view))))
        }
        Command::Disable { job } => {
            let view = client.job_disable(&app, &job).await?;
            screen.show(&view, |screen| screen.line(format!("disabled {job}; it runs only by hand now")))
        }
        Command::Delete { job, yes } => {
            // Asked after the look, so that nobody confirms the deletion of what is not there.
            client.job_fetch(&app, &job).await?;
            confirm(&format!("delete job `{job}` of app `{app}`?"), yes)?;
            client.job_delete(&app, &job).await?;
            screen.done(format!("deleted {job}"))
        }
        Command::Next { job, count, after } => next(&screen, client, &app, &job, count, after).await,
        Command::History { job, revisions: true, .. } => revisions(&screen, client, &app, &job).await,
        Command::History { job, gaps: true, .. } => gaps(&screen, client, &app, &job).await,
        Command::History { job, limit, .. } => {
            let filter =
                InstanceFilter { app: Some(app), job: Some(job), limit: Some(limit), ..InstanceFilter::default() };
            let page = client.instance_list(&filter).await?;
            screen.show(&page, |screen| screen.table(instance_table(&page.items, now())))
        }
    }
}

async fn list(screen: &Screen, client: &Client, app: &str) -> Outcome {
    let jobs = client.job_list(app).await?;
    screen.show(&jobs, |screen| {
        if jobs.is_empty() {
            return screen.line(format!(
                "app {app} has no jobs; `pendula apply -f FILE` and `pendula import crontab FILE` make some"
            ));
        }
        let now = now();
        let mut table = Table::listing(["NAME", "ENABLED", "NEXT", "LAST", "WHEN", "RUNS"], &[4, 5]);
        for job in &jobs {
            let shade = if job.spec.enabled { Shade::Plain } else { Shade::Faint };
            let distance = |at: Option<Timestamp>| at.map_or("-".to_owned(), |at| ago(at, now));
            table.shaded_row([
                (shade, job.spec.name.clone()),
                (shade, if job.spec.enabled { "yes" } else { "no" }.to_owned()),
                (shade, distance(job.next_fire)),
                (shade, distance(job.last_fire)),
                (shade, trigger_line(job.spec.trigger.as_ref())),
                (shade, processor_line(&job.spec.processor)),
            ]);
        }
        screen.table(table)
    })
}

async fn show(screen: &Screen, client: &Client, app: &str, job: &str) -> Outcome {
    let view = client.job_fetch(app, job).await?;
    if !screen.is_table() {
        return screen.document(&view);
    }
    let fires = client.job_next(app, job, 3, None).await?;
    let filter = InstanceFilter {
        app: Some(app.to_owned()),
        job: Some(job.to_owned()),
        limit: Some(5),
        ..InstanceFilter::default()
    };
    let latest = client.instance_list(&filter).await?.items;
    let now = now();
    let mut facts = Table::of_facts();
    facts.fact("job", format!("{} of app {}", view.spec.name, view.app));
    facts.fact("id", view.id.to_string());
    facts.fact("revision", format!("{}, saved {}", view.revision, clock(view.updated_at, now)));
    facts.fact("enabled", if view.spec.enabled { "yes" } else { "no" });
    facts.fact("fires", trigger_line(view.spec.trigger.as_ref()));
    let next: Vec<_> = fires.fires.iter().map(|at| clock(*at, now)).chain(fires.note).collect();
    facts.fact("next", if next.is_empty() { "-".to_owned() } else { next.join("\n") });
    facts.fact("last", view.last_fire.map_or("-".to_owned(), |at| clock(at, now)));
    if view.missed > 0 {
        facts.fact("missed", format!("{} fires; pendula job history {job} --gaps", view.missed));
    }
    screen.table(facts)?;
    screen.line(format!("\n{}", yaml(&view.spec)?.trim_end()))?;
    if !latest.is_empty() {
        screen.line("")?;
        screen.table(instance_table(&latest, now))?;
    }
    Ok(())
}

async fn run_job(screen: &Screen, client: &Client, app: &str, args: RunArgs) -> Outcome {
    let run = RunJob {
        params: params(args.params.as_deref(), &args.param)?,
        delay: args.delay.map(duration::format),
        due_at: args.at,
        priority: args.priority,
        idempotency_key: None,
    };
    // A key of our own lets us repeat the request when its answer was lost.
    let key = args.idempotency_key.unwrap_or_else(random_key);
    let result = client.job_run(app, &args.job, &run, RunKey::Given(&key)).await?;
    let id = result.instance.ok_or_else(|| Failure::refused("the server made no instance"))?;
    if !args.wait {
        return screen.show(&result, |screen| announce(screen, &args.job, id, result.created));
    }
    let ended = wait(screen, client, id).await?;
    if !screen.is_table() {
        screen.document(&find(client, id).await?)?;
    }
    ended.verdict(screen, id, None)
}

fn announce(screen: &Screen, job: &str, id: InstanceId, created: bool) -> Outcome {
    if created {
        screen.line(format!("instance {id} of {job}\n  follow it: pendula instance logs -f {id}"))
    } else {
        screen.line(format!("instance {id} of {job}: the idempotency key was used before, this is that run"))
    }
}

fn params(json: Option<&str>, pairs: &[(String, String)]) -> Outcome<Option<Map<String, Value>>> {
    if json.is_none() && pairs.is_empty() {
        return Ok(None);
    }
    let mut params = match json {
        None => Map::new(),
        Some(text) => {
            let text = match text.strip_prefix('@') {
                Some(file) => std::fs::read_to_string(file)
                    .map_err(|error| Failure::usage(format!("--params: reading {file}: {error}")))?,
                None => text.to_owned(),
            };
            let refuse = |why: String| {
                Failure::usage(format!("--params: {why}")).hint("write a JSON object, as '{\"day\": \"2026-11-21\"}'")
            };
            match serde_json::from_str(&text) {
                Ok(Value::Object(params)) => params,
                Ok(_) => return Err(refuse("is no JSON object".to_owned())),
                Err(error) => return Err(refuse(error.to_string())),
            }
        }
    };
    params.extend(pairs.iter().map(|(key, value)| (key.clone(), Value::from(value.as_str()))));
    Ok(Some(params))
}

fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write KEY=VALUE".to_owned()),
    }
}

async fn next(screen: &Screen, client: &Client, app: &str, job: &str, count: u32, after: Option<Timestamp>) -> Outcome {
    let next = client.job_next(app, job, count, after).await?;
    screen.show(&next, |screen| {
        let now = now();
        let zone = jiff::tz::TimeZone::get(&next.timezone).ok();
        let heading = format!("IN {}", next.timezone);
        let mut table = Table::new(["HERE", heading.as_str(), "FROM NOW"]);
        for at in &next.fires {
            let there = zone.clone().map_or("-".to_owned(), |zone| {
                at.to_jiff().to_zoned(zone).strftime("%a %Y-%m-%d %H:%M:%S %:z").to_string()
            });
            table.row([instant(*at), there, ago(*at, now)]);
        }
        if !table.is_empty() {
            screen.table(table)?;
        }
        match &next.note {
            Some(note) => screen.line(screen.paint(Shade::Faint, note)),
            None => Ok(()),
        }
    })
}

async fn revisions(screen: &Screen, client: &Client, app: &str, job: &str) -> Outcome {
    let revisions = client.job_revisions(app, job).await?.items;
    screen.show(&revisions, |screen| {
        // Newest first: each is told by what it changed in the one that follows in the list.
        let now = now();
        let mut table = Table::new(["REVISION", "SAVED", "CHANGED"]);
        for (index, revision) in revisions.iter().enumerate() {
            let changed = match revisions.get(index + 1) {
                Some(older) => {
                    let changed = crate::definitions::changes(&older.spec, &revision.spec);
                    changed.into_iter().map(|changed| changed.path).collect::<Vec<_>>().join(", ")
                }
                None => "-".to_owned(),
            };
            table.row([revision.revision.to_string(), clock(revision.saved_at, now), changed]);
        }
        screen.table(table)
    })
}

async fn gaps(screen: &Screen, client: &Client, app: &str, job: &str) -> Outcome {
    let gaps = client.job_gaps(app, job).await?;
    screen.show(&gaps, |screen| {
        if gaps.gaps.is_empty() {
            return screen.line(format!("{job} missed no fire"));
        }
        let mut table = Table::new(["FIRST MISSED", "LAST MISSED", "FIRES", "NOTICED"]);
        for gap in &gaps.gaps {
            table.row([instant(gap.from), instant(gap.to), gap.count.to_string(), instant(gap.noticed_at)]);
        }
        screen.table(table)
    })
}

fn next_words(job: &JobView) -> String {
    match job.next_fire {
        Some(at) => format!("it fires next at {}", clock(at, now())),
        None => "it has no next fire".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn single_parameters_win_over_the_object() {
        let pairs = [("a".to_owned(), "1".to_owned()), ("b".to_owned(), "x=y".to_owned())];
        let merged = params(Some(r#"{"a": 0, "c": [true]}"#), &pairs).expect("valid").expect("there are some");
        assert_eq!(Value::from(merged), serde_json::json!({ "a": "1", "b": "x=y", "c": [true] }));
        assert!(params(None, &[]).expect("valid").is_none());
        assert!(params(Some("[1]"), &[]).is_err());
        assert_eq!(key_value("k=a=b"), Ok(("k".into(), "a=b".into())));
        assert!(key_value("k").is_err() && key_value("=v").is_err());
    }
}
