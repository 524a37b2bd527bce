//! `pendula copy`: an installation moves from one machine into a database for many servers.

use std::io::IsTerminal;
use std::path::PathBuf;

use indicatif::{ProgressBar, ProgressStyle};
use pendula_store::postgres::{self, CopyProgress, CopyReport};
use serde::Serialize;

use super::database::{checked, failure};
use crate::failure::Outcome;
use crate::output::{Screen, Table, count};

const EXAMPLES: &str = "\
Apps, jobs with their history, instances under way and ended, tasks, tokens and logs arrive with
the ids they have. Stop the server first: nothing may change meanwhile. Afterwards start servers
with the database instead of the directory, which stays as it is until you delete it. Workers
reconnect and go on with what they run.

The database must be empty. A copy that was interrupted is repeated with the same command; until
one is complete, no server starts on that database.

Examples:
  pendula copy --from sqlite:/var/lib/pendula --to postgres://pendula@db1,db2/pendula
  pendula copy --from sqlite:data --to 'postgres://ann:secret@db/pendula?sslmode=verify-full'
  PENDULA_DATABASE=postgres://ann:secret@db/pendula pendula copy --from sqlite:data

Other users of this machine see the arguments of processes: name a URL with a password in
PENDULA_DATABASE rather than in --to.";

/// Copy an installation from a data directory into an empty PostgreSQL database
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Data directory, as sqlite:DIR
    #[arg(long, value_name = "sqlite:DIR", value_parser = parse_source)]
    from: PathBuf,
    /// Database, as postgres://USER:PASSWORD@HOST/DATABASE
    #[arg(long, value_name = "URL", env = "PENDULA_DATABASE", hide_env_values = true)]
    to: String,
}

fn parse_source(text: &str) -> Result<PathBuf, String> {
    match text.strip_prefix("sqlite:") {
        Some(directory) if !directory.is_empty() => Ok(PathBuf::from(directory)),
        _ => Err("it has to be sqlite:DIR, with the data directory of a server".to_owned()),
    }
}

/// The answer, for programs.
#[derive(Serialize)]
struct Copied {
    database: String,
    installation: String,
    partitions: u16,
    rows: u64,
    tables: Vec<CopiedTable>,
}

#[derive(Serialize)]
struct CopiedTable {
    table: &'static str,
    rows: u64,
}

pub async fn run(args: Args, screen: Screen) -> Outcome {
    let to = checked("--to", &args.to)?;
    let bar = std::io::stderr().is_terminal().then(|| {
        let style = ProgressStyle::with_template("{bar:30} {percent}% {human_pos}/{human_len} {msg} ({elapsed})");
        ProgressBar::new(0).with_style(style.expect("a valid template").progress_chars("=> "))
    });
    let on_progress = |progress: CopyProgress| {
        if let Some(bar) = &bar {
            bar.set_length(progress.rows_of_all);
            bar.set_position(progress.rows_in_all);
            bar.set_message(progress.table);
        }
    };
    let copied = postgres::copy(&args.from, to, on_progress).await;
    if let Some(bar) = &bar {
        bar.finish_and_clear();
    }
    let copied = answer(copied.map_err(failure)?);
    screen.show(&copied, |screen| {
        let mut table = Table::new(["TABLE", "ROWS"]);
        for CopiedTable { table: name, rows } in &copied.tables {
            table.row([(*name).to_owned(), count(*rows)]);
        }
        screen.table(table)?;
        screen.line(format!(
            "{} rows copied to {}; start servers with this database instead of {}",
            count(copied.rows),
            copied.database,
            args.from.display()
        ))
    })
}

fn answer(report: CopyReport) -> Copied {
    Copied {
        database: report.database,
        installation: report.installation,
        partitions: report.partitions,
        rows: report.tables.iter().map(|(_, rows)| rows).sum(),
        tables: report.tables.into_iter().map(|(table, rows)| CopiedTable { table, rows }).collect(),
    }
}
