//! `pendula config`: a server's configuration, checked or shown.

use clap::Subcommand;
use serde::Serialize;

use super::server::ServerOptions;
use crate::failure::{Failure, Outcome};
use crate::output::{Screen, Shade};

const EXAMPLES: &str = "\
Examples:
  pendula config check --config pendula.toml   exit code 2 names what is wrong, and where
  pendula config show > pendula.toml           every option with its meaning, as a file to start from
  pendula config show --output json";

/// Check or show a server's configuration
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Check file, environment and flags without starting anything
    Check {
        #[command(flatten)]
        options: ServerOptions,
    },
    /// Show every option with its meaning and value; secrets are left out
    Show {
        #[command(flatten)]
        options: ServerOptions,
    },
}

#[derive(Serialize)]
struct Checked {
    valid: bool,
    warnings: Vec<String>,
}

pub fn run(args: Args, screen: Screen) -> Outcome {
    match args.command {
        Command::Check { options } => {
            let config = options.load()?;
            if let Some(secret) = &config.admin_token {
                pendula_server::auth::Secret::configured(secret)
                    .map_err(|weak| Failure::usage(format!("admin_token: {weak}")))?;
            }
            let checked = Checked { valid: true, warnings: config.warnings };
            screen.show(&checked, |screen| {
                for warning in &checked.warnings {
                    screen.line(screen.paint(Shade::Busy, &format!("warning: {warning}")))?;
                }
                screen.line("the configuration is valid")
            })
        }
        Command::Show { options } => {
            let text = options.load()?.to_toml_documented();
            if screen.is_table() {
                return screen.line(text.trim_end());
            }
            let table: toml::Table =
                text.parse().map_err(|error| Failure::refused(format!("reading back the configuration: {error}")))?;
            screen.document(&table)
        }
    }
}
