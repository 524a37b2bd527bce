//! `pendula import`: jobs from elsewhere.

mod crontab;
mod powerjob;

use clap::Subcommand;

use crate::failure::{Failure, Outcome};
use crate::output::Screen;

/// Import jobs from elsewhere
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Import crontabs: a user's, /etc/crontab, /etc/cron.d
    Crontab(crontab::Args),
    /// Import the apps and jobs of a PowerJob database
    #[command(name = "powerjob")]
    PowerJob(powerjob::Args),
}

pub async fn run(args: Args, screen: Screen) -> Outcome {
    match args.command {
        Command::Crontab(args) => crontab::run(args, screen).await,
        Command::PowerJob(args) => powerjob::run(args, screen).await,
    }
}

/// The zone that schedules were read in on this machine, or the one that was named; with a note where neither is known.
fn timezone(named: Option<&str>) -> Outcome<(String, Option<String>)> {
    if let Some(name) = named {
        let zone = jiff::tz::TimeZone::get(name).map_err(|_| {
            Failure::usage(format!("`{name}` is not a time zone; write an IANA name such as Europe/Berlin"))
        })?;
        return Ok((zone.iana_name().unwrap_or(name).to_owned(), None));
    }
    match jiff::tz::TimeZone::system().iana_name() {
        Some(name) => Ok((name.to_owned(), None)),
        None => Ok((
            "UTC".to_owned(),
            Some(
                "the name of this machine's zone is unknown: schedules are in UTC; --timezone names another".to_owned(),
            ),
        )),
    }
}
