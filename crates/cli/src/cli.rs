//! What can be typed: the commands, and where each of them is carried out.

use clap::{Parser, Subcommand};

use crate::commands::{
    app, apply, cluster, completions, config, copy, dev, diff, doctor, export, import, instance, job, login, migrate,
    server, token, version, worker,
};
use crate::failure::Outcome;
use crate::output::{Format, Screen};

const EXAMPLES: &str = "\
First steps:
  pendula dev                                  a server, a worker and sample jobs on this machine
  pendula job list                             in another terminal
  pendula job run hello --wait
  pendula apply -f jobs.yaml                   your own jobs, from a file
  pendula import crontab /etc/crontab          or from cron

In production:
  pendula server --config pendula.toml
  pendula worker --server https://pendula.example:7700 --app demo
  pendula login --server https://pendula.example:7700

Exit codes: 0 done, 1 the instance failed, 2 usage, 3 not found or refused, 4 unreachable.
`pendula COMMAND --help` shows examples for each command.";

/// Pendula, a distributed job scheduler
#[derive(Debug, Parser)]
#[command(name = "pendula", version, after_help = EXAMPLES, max_term_width = 100, subcommand_required = true, arg_required_else_help = true)]
pub struct Cli {
    /// How answers are written
    #[arg(
        long,
        short,
        global = true,
        value_enum,
        env = "PENDULA_OUTPUT",
        default_value_t,
        hide_env_values = true,
        ignore_case = true
    )]
    output: Format,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Dev(dev::Args),
    Server(server::Args),
    Worker(worker::Args),
    Apply(apply::Args),
    Diff(diff::Args),
    Export(export::Args),
    Job(job::Args),
    Instance(instance::Args),
    App(app::Args),
    Token(token::Args),
    Cluster(cluster::Args),
    Login(login::Args),
    Import(import::Args),
    Doctor(doctor::Args),
    Config(config::Args),
    Migrate(migrate::Args),
    Copy(copy::Args),
    Bench(crate::bench::BenchArgs),
    Version(version::Args),
    Completions(completions::Args),
}

impl Cli {
    pub async fn run(self) -> Outcome {
        let screen = Screen::new(self.output);
        match self.command {
            Command::Dev(args) => dev::run(args, screen).await,
            Command::Server(args) => server::run(args).await,
            Command::Worker(args) => worker::run(args, screen).await,
            Command::Apply(args) => apply::run(args, screen).await,
            Command::Diff(args) => diff::run(args, screen).await,
            Command::Export(args) => export::run(args, screen).await,
            Command::Job(args) => job::run(args, screen).await,
            Command::Instance(args) => instance::run(args, screen).await,
            Command::App(args) => app::run(args, screen).await,
            Command::Cluster(args) => cluster::run(args, screen).await,
            Command::Token(args) => token::run(args, screen).await,
            Command::Login(args) => login::run(args, screen).await,
            Command::Import(args) => import::run(args, screen).await,
            Command::Doctor(args) => doctor::run(args, screen).await,
            Command::Config(args) => config::run(args, screen),
            Command::Migrate(args) => migrate::run(args, screen).await,
            Command::Copy(args) => copy::run(args, screen).await,
            Command::Bench(args) => crate::bench::run(args, screen).await,
            Command::Version(args) => version::run(args, screen).await,
            Command::Completions(args) => completions::run(args, screen),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_arguments_fit_together() {
        Cli::command().debug_assert();
    }
}
