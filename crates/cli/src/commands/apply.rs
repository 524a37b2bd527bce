//! `pendula apply`: definitions files to jobs.

use std::collections::BTreeSet;
use std::path::PathBuf;

use pendula_client::Client;
use pendula_model::api::{AppliedJob, ApplyAction};
use serde::Serialize;

use super::ask::confirm;
use crate::connect::{AppArg, ConnectArgs};
use crate::definitions::{Defined, Definitions, changes, plan_line};
use crate::failure::{Failure, Outcome};
use crate::output::{Screen, Shade};

const EXAMPLES: &str = "\
Examples:
  pendula apply -f jobs.yaml                   create and update what the file defines
  pendula apply -f jobs/ --dry-run             only show the plan for all files of a directory
  pendula apply -f jobs.yaml --prune --yes     also delete jobs that the file does not define
  pendula export | ssh prod pendula apply -f - copy the jobs of one server to another

A definitions file:
  app: demo
  jobs:
    - name: nightly-report
      trigger: { cron: \"0 30 2 * * ?\", timezone: Europe/Berlin }
      processor: { shell: \"./report.sh\" }
      timeout: 30m

Signs: + created, ~ updated, = unchanged, - deleted, ! refused.";

/// Create or update jobs by name from definitions files
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// YAML or JSON file, directory of such files, or - for standard input; may be repeated
    #[arg(short, long = "file", value_name = "PATH", required = true)]
    files: Vec<PathBuf>,
    /// Only show what would happen
    #[arg(long)]
    dry_run: bool,
    /// Delete jobs of the named apps that the files do not define
    #[arg(long)]
    prune: bool,
    /// Do not ask before deleting
    #[arg(long, short)]
    yes: bool,
    #[command(flatten)]
    app: AppArg,
    #[command(flatten)]
    connect: ConnectArgs,
}

/// The plan of one app, or what became of it.
#[derive(Serialize)]
pub(super) struct AppPlan {
    pub(super) app: String,
    pub(super) dry_run: bool,
    pub(super) jobs: Vec<AppliedJob>,
    /// Jobs that were, or would be, deleted.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) deleted: Vec<String>,
}

pub async fn run(args: Args, screen: Screen) -> Outcome {
    let session = args.connect.open()?;
    let default_app = session.named_app(&args.app);
    let definitions = Definitions::read(&args.files, default_app.as_deref())?;
    let mut plans = Vec::new();
    for (app, defined) in &definitions.apps {
        let specs = defined.iter().map(|job| job.spec.clone()).collect();
        let applied = session.client.apply_all(app, specs, args.dry_run).await?;
        let deleted = if args.prune { prune(&session.client, app, defined, &args).await? } else { Vec::new() };
        plans.push(AppPlan { app: app.clone(), dry_run: args.dry_run, jobs: applied.jobs, deleted });
    }
    screen.show(&plans, |screen| {
        for plan in &plans {
            print_plan(screen, plan, &definitions.apps[&plan.app], false)?;
        }
        Ok(())
    })?;
    check_refused(&plans)
}

async fn prune(client: &Client, app: &str, defined: &[Defined], args: &Args) -> Outcome<Vec<String>> {
    let wanted: BTreeSet<_> = defined.iter().map(|job| job.spec.name.as_str()).collect();
    let names = client.job_list(app).await?.into_iter().map(|job| job.spec.name);
    let surplus: Vec<_> = names.filter(|name| !wanted.contains(name.as_str())).collect();
    if args.dry_run || surplus.is_empty() {
        return Ok(surplus);
    }
    confirm(&format!("delete {} from app `{app}`: {}?", count(surplus.len(), "job"), surplus.join(", ")), args.yes)?;
    for name in &surplus {
        client.job_delete(app, name).await?;
    }
    Ok(surplus)
}

/// Prints a plan; with `details`, field by field.
pub(super) fn print_plan(screen: &Screen, plan: &AppPlan, defined: &[Defined], details: bool) -> Outcome {
    screen.line(format!("app {}", plan.app))?;
    for (job, defined) in plan.jobs.iter().zip(defined) {
        let (shade, line) = plan_line(job);
        screen.line(format!("  {}", screen.paint(shade, &line)))?;
        if let Some(problem) = &job.problem {
            let field = problem.field.clone().unwrap_or_default();
            let text = problem.detail.as_ref().unwrap_or(&problem.title);
            screen.line(format!(
                "      {}: {field}{}{text} ({})",
                defined.place(&field),
                if field.is_empty() { "" } else { ": " },
                problem.code
            ))?;
        }
        if let (Some(before), ApplyAction::Updated) = (&job.before, job.action) {
            for changed in changes(before, &defined.spec) {
                if details {
                    for (sign, shade, value) in [("-", Shade::Bad, &changed.before), ("+", Shade::Good, &changed.after)]
                    {
                        if let Some(value) = value {
                            screen.line(format!(
                                "      {}",
                                screen.paint(shade, &format!("{sign} {}: {}", changed.path, shown(value)))
                            ))?;
                        }
                    }
                } else {
                    screen.line(format!("      {}", changed.path))?;
                }
            }
        }
    }
    for name in &plan.deleted {
        screen.line(format!("  {}", screen.paint(Shade::Bad, &format!("- {name}"))))?;
    }
    let tally = |action| plan.jobs.iter().filter(|job| job.action == action).count();
    let parts: Vec<_> = [
        (tally(ApplyAction::Created), "created"),
        (tally(ApplyAction::Updated), "updated"),
        (tally(ApplyAction::Unchanged), "unchanged"),
        (plan.deleted.len(), "deleted"),
        (tally(ApplyAction::Refused), "refused"),
    ]
    .into_iter()
    .filter(|(count, _)| *count > 0)
    .map(|(count, word)| format!("{count} {word}"))
    .collect();
    let summary = if parts.is_empty() { "no jobs".to_owned() } else { parts.join(", ") };
    screen.line(if plan.dry_run { format!("plan: {summary}; nothing was changed") } else { summary })
}

/// A value on one line, the way YAML shows a plain one.
fn shown(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::String(text) if !text.contains('\n') => text.clone(),
        other => other.to_string(),
    }
}

pub(super) fn count(count: usize, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

/// Fails when the server refused something; everything else was done.
pub(super) fn check_refused(plans: &[AppPlan]) -> Outcome {
    let refused: Vec<_> =
        plans.iter().flat_map(|plan| &plan.jobs).filter(|job| job.action == ApplyAction::Refused).collect();
    let Some(first) = refused.first() else { return Ok(()) };
    let failure = Failure::refused(format!("{} refused", count(refused.len(), "job")));
    Err(match first.problem.as_ref().map(|problem| problem.code.as_str()) {
        Some("scripts_not_allowed") => {
            failure.hint(format!("pendula app update {} --allow-scripts true", plans[0].app))
        }
        _ => failure,
    })
}
