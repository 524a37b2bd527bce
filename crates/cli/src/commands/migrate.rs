//! `pendula migrate`: the schema of a database that servers share, from version to version.

use clap::Subcommand;
use pendula_model::Timestamp;
use pendula_store::postgres::{MigrationPlan, MigrationState, MigrationStep, migration_apply, migration_plan};
use serde::Serialize;

use super::database::{checked, failure};
use crate::definitions::now;
use crate::failure::Outcome;
use crate::output::{Screen, Table, clock};

const EXAMPLES: &str = "\
A server applies by itself what only adds to the schema: servers of the version before go on
beside it. What takes something away that they need waits for this command, and for the last of
them to end. So an upgrade is: servers one after the other, then `pendula migrate apply`.

A server that is told not to migrate starts when this was run before it.

Examples:
  pendula migrate plan --database postgres://pendula@db1,db2/pendula      changes nothing
  pendula migrate apply --database postgres://pendula@db1,db2/pendula
  PENDULA_DATABASE=postgres://ann:secret@db/pendula pendula migrate plan --output json

Other users of this machine see the arguments of processes: name a URL with a password in
PENDULA_DATABASE rather than in --database.";

/// Show or apply what a database lacks for this version
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show the steps that were applied, are pending, or must wait, and for whom
    Plan {
        #[command(flatten)]
        database: DatabaseArg,
    },
    /// Apply what is pending, as far as no older server needs what it takes away
    Apply {
        #[command(flatten)]
        database: DatabaseArg,
        /// Partitions of a new installation, when the database is empty; they never change
        #[arg(long, value_name = "NUMBER", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=1024))]
        partitions: u16,
    },
}

#[derive(Debug, clap::Args)]
struct DatabaseArg {
    /// postgres://USER:PASSWORD@HOST/DATABASE
    #[arg(long = "database", value_name = "URL", env = "PENDULA_DATABASE", hide_env_values = true)]
    url: String,
}

pub async fn run(args: Args, screen: Screen) -> Outcome {
    match args.command {
        Command::Plan { database } => {
            let plan = migration_plan(checked("--database", &database.url)?).await.map_err(failure)?;
            show(&plan, &screen)
        }
        Command::Apply { database, partitions } => {
            let announce = |number: u32, name: &str| {
                if screen.is_table() {
                    eprintln!("applying {number} ({name})");
                }
            };
            let plan =
                migration_apply(checked("--database", &database.url)?, partitions, announce).await.map_err(failure)?;
            show(&plan, &screen)
        }
    }
}

/// The answer, for programs.
#[derive(Serialize)]
struct Answer<'p> {
    database: &'p str,
    schema: u32,
    known_schema: u32,
    done: bool,
    steps: Vec<Step<'p>>,
    servers: Vec<Server<'p>>,
}

#[derive(Serialize)]
struct Step<'p> {
    number: u32,
    name: &'p str,
    #[serde(skip_serializing_if = "Option::is_none")]
    takes_away: Option<bool>,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    applied_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'p str>,
}

#[derive(Serialize)]
struct Server<'p> {
    name: &'p str,
    version: &'p str,
}

impl<'p> Answer<'p> {
    fn new(plan: &'p MigrationPlan) -> Answer<'p> {
        Answer {
            database: &plan.database,
            schema: plan.schema,
            known_schema: plan.known_schema,
            done: plan.is_done(),
            steps: plan.steps.iter().map(Step::new).collect(),
            servers: plan.servers.iter().map(|(name, version)| Server { name, version }).collect(),
        }
    }
}

impl<'p> Step<'p> {
    fn new(step: &'p MigrationStep) -> Step<'p> {
        let (state, applied_at, reason) = match &step.state {
            MigrationState::Applied(at) => ("applied", Some(*at), None),
            MigrationState::Pending => ("pending", None, None),
            MigrationState::Waiting(reason) => ("waiting", None, Some(reason.as_str())),
        };
        let MigrationStep { number, name, takes_away, .. } = step;
        Step { number: *number, name, takes_away: *takes_away, state, applied_at, reason }
    }
}

fn show(plan: &MigrationPlan, screen: &Screen) -> Outcome {
    screen.show(&Answer::new(plan), |screen| {
        let mut table = Table::new(["STEP", "NAME", "KIND", "STATE"]);
        for step in &plan.steps {
            let kind = match step.takes_away {
                Some(false) => "adds",
                Some(true) => "takes away",
                None => "of a newer version",
            };
            let state = match &step.state {
                MigrationState::Applied(at) => format!("applied {}", clock(*at, now())),
                MigrationState::Pending => "pending".to_owned(),
                MigrationState::Waiting(reason) => format!("waits: {reason}"),
            };
            table.row([step.number.to_string(), step.name.clone(), kind.to_owned(), state]);
        }
        screen.table(table)?;
        let servers: Vec<_> = plan.servers.iter().map(|(name, version)| format!("{name} ({version})")).collect();
        if !servers.is_empty() {
            screen.line(format!("servers that use it now: {}", servers.join(", ")))?;
        }
        screen.line(match plan.schema {
            _ if plan.is_done() => format!("{} is up to date", plan.database),
            0 => {
                format!("{} is empty: a server makes an installation of it, or `pendula migrate apply`", plan.database)
            }
            schema => format!("{} has schema {schema} of {}", plan.database, plan.known_schema),
        })
    })
}
