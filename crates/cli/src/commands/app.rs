//! `pendula app`: apps, which own jobs and workers.

use clap::Subcommand;
use pendula_model::api::{AppCreate, AppUpdate, AppView};

use super::ask::confirm;
use crate::connect::ConnectArgs;
use crate::definitions::now;
use crate::failure::Outcome;
use crate::output::{Screen, Table, clock};

const EXAMPLES: &str = "\
Examples:
  pendula app list
  pendula app create reports --allow-scripts   shell and python jobs may be defined in it
  pendula app update reports --allow-scripts false
  pendula app delete reports                   only when its jobs are gone";

/// List, show, create, update and delete apps
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    connect: ConnectArgs,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List the apps that the token can see
    #[command(visible_alias = "ls")]
    List,
    /// Show an app
    Show { app: String },
    /// Create an app
    Create {
        app: String,
        #[arg(long)]
        namespace: Option<String>,
        /// Let its jobs contain scripts, which its workers then run
        #[arg(long)]
        allow_scripts: bool,
    },
    /// Change an app
    Update {
        app: String,
        /// Whether its jobs may contain scripts; those that do cannot run while it is false
        #[arg(long, action = clap::ArgAction::Set)]
        allow_scripts: bool,
    },
    /// Delete an app that has no jobs left, with its tokens
    #[command(visible_alias = "rm")]
    Delete {
        app: String,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
    },
}

pub async fn run(args: Args, screen: Screen) -> Outcome {
    let session = args.connect.open()?;
    let client = &session.client;
    match args.command {
        Command::List => {
            let apps = client.app_list().await?;
            screen.show(&apps, |screen| {
                if apps.is_empty() {
                    return screen.line("no apps; `pendula app create NAME` makes one");
                }
                let mut table = Table::new(["NAME", "NAMESPACE", "SCRIPTS", "CREATED"]);
                for app in &apps {
                    let scripts = if app.allow_scripts { "allowed" } else { "refused" };
                    table.row([
                        app.name.clone(),
                        app.namespace.clone(),
                        scripts.to_owned(),
                        clock(app.created_at, now()),
                    ]);
                }
                screen.table(table)
            })
        }
        Command::Show { app } => {
            let view = client.app_fetch(&app).await?;
            screen.show(&view, |screen| screen.table(facts(&view)))
        }
        Command::Create { app, namespace, allow_scripts } => {
            let view = client.app_create(&AppCreate { name: app, namespace, allow_scripts }).await?;
            screen.show(&view, |screen| {
                screen.line(format!("created app {0}\n  a token for its workers: pendula token create {0}-worker --kind worker --app {0}", view.name))
            })
        }
        Command::Update { app, allow_scripts } => {
            let view = client.app_update(&app, &AppUpdate { allow_scripts }).await?;
            screen.show(&view, |screen| screen.table(facts(&view)))
        }
        Command::Delete { app, yes } => {
            client.app_fetch(&app).await?;
            confirm(&format!("delete app `{app}` and its tokens?"), yes)?;
            client.app_delete(&app).await?;
            screen.done(format!("deleted app {app}"))
        }
    }
}

fn facts(app: &AppView) -> Table {
    let mut facts = Table::of_facts();
    facts.fact("app", app.name.clone());
    facts.fact("id", app.id.to_string());
    facts.fact("namespace", app.namespace.clone());
    facts.fact("scripts", if app.allow_scripts { "allowed" } else { "refused" });
    facts.fact("partition", app.partition.to_string());
    facts.fact("created", clock(app.created_at, now()));
    facts
}
