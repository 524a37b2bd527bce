//! `pendula diff`: what an apply would change, field by field.

use std::path::PathBuf;

use super::apply::{AppPlan, check_refused, print_plan};
use crate::connect::{AppArg, ConnectArgs};
use crate::definitions::Definitions;
use crate::failure::Outcome;
use crate::output::Screen;

const EXAMPLES: &str = "\
Examples:
  pendula diff -f jobs.yaml
  pendula diff -f jobs/ --output json | jq '.[].jobs[] | select(.action != \"unchanged\")'";

/// Compare definitions files with what is saved, field by field; changes nothing
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// YAML or JSON file, directory of such files, or - for standard input; may be repeated
    #[arg(short, long = "file", value_name = "PATH", required = true)]
    files: Vec<PathBuf>,
    #[command(flatten)]
    app: AppArg,
    #[command(flatten)]
    connect: ConnectArgs,
}

pub async fn run(args: Args, screen: Screen) -> Outcome {
    let session = args.connect.open()?;
    let default_app = session.named_app(&args.app);
    let definitions = Definitions::read(&args.files, default_app.as_deref())?;
    let mut plans = Vec::new();
    for (app, defined) in &definitions.apps {
        let specs = defined.iter().map(|job| job.spec.clone()).collect();
        let jobs = session.client.apply_all(app, specs, true).await?.jobs;
        plans.push(AppPlan { app: app.clone(), dry_run: true, jobs, deleted: Vec::new() });
    }
    screen.show(&plans, |screen| {
        plans.iter().try_for_each(|plan| print_plan(screen, plan, &definitions.apps[&plan.app], true))
    })?;
    check_refused(&plans)
}
