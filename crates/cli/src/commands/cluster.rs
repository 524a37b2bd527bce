//! `pendula cluster`: the servers on one database.

use std::time::{Duration, Instant};

use clap::Subcommand;
use pendula_client::Client;
use pendula_model::api::{ClusterOverview, ServerView};

use crate::connect::ConnectArgs;
use crate::definitions::now;
use crate::failure::{Failure, Outcome};
use crate::output::{Screen, Shade, Table, clock, span};

const EXAMPLES: &str = "\
Examples:
  pendula cluster status                       servers, leases, clocks, and what each of them says
  pendula cluster status --partitions          whose each partition is, under which epoch
  pendula cluster status --from 10.0.0.2:7700  as that server sees the others
  pendula cluster drain 10.0.0.2:7700          before maintenance: its work moves, nothing waits
  pendula cluster drain 10.0.0.2:7700 --undo

A server that stops (SIGTERM) gives its partitions away by itself; drain is for one that stays up.";

/// See the servers that share a database, and move work between them
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
    /// Show servers and partitions
    Status {
        /// List every partition too
        #[arg(long, short)]
        partitions: bool,
        /// The server that looks at the others, by name or boot id [default: the one that is asked]
        #[arg(long, value_name = "SERVER")]
        from: Option<String>,
    },
    /// Have a server give its partitions to the others and take none
    Drain {
        /// Name or boot id
        server: String,
        /// Have it take partitions again
        #[arg(long)]
        undo: bool,
        /// Do not wait until it has none left
        #[arg(long)]
        no_wait: bool,
    },
}

/// Longest wait for a server to give everything away.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK_AGAIN: Duration = Duration::from_millis(200);
/// A background loop that has not come round for so long hangs.
const LOOP_STUCK_SECONDS: f64 = 60.0;
/// Clocks that are further apart make times hard to compare.
const SKEWED_SECONDS: f64 = 0.5;

pub async fn run(args: Args, screen: Screen) -> Outcome {
    let session = args.connect.open()?;
    let client = &session.client;
    match args.command {
        Command::Status { partitions, from } => {
            let overview = client.cluster(from.as_deref()).await?;
            screen.show(&overview, |screen| show(screen, &overview, partitions))
        }
        Command::Drain { server, undo: true, .. } => {
            client.server_undrain(&server).await?;
            screen.done(format!("{server} takes partitions again"))
        }
        Command::Drain { server, undo: false, no_wait } => {
            let overview = client.cluster(None).await?;
            let others = overview.servers.iter().any(|other| {
                other.lease_seconds > 0.0 && !other.draining && other.name != server && other.boot != server
            });
            if !others {
                return Err(Failure::refused("there is no other server to take its partitions")
                    .hint("start another one on the same database first"));
            }
            client.server_drain(&server).await?;
            if no_wait {
                return screen.done(format!("{server} was told to give its partitions away"));
            }
            emptied(client, &server).await?;
            screen.done(format!("{server} owns no partition any more; it takes none until `--undo` or a restart"))
        }
    }
}

async fn emptied(client: &Client, server: &str) -> Result<(), Failure> {
    let begun = Instant::now();
    loop {
        let overview = client.cluster(None).await?;
        let is_meant =
            |other: &&ServerView| other.lease_seconds > 0.0 && (other.name == server || other.boot == server);
        let left = overview.servers.iter().find(is_meant).map_or(0, |server| server.partitions);
        if left == 0 {
            return Ok(());
        }
        if begun.elapsed() > PATIENCE {
            return Err(Failure::refused(format!("{server} still owns {left} partitions after {}", span(PATIENCE)))
                .hint("look at `pendula cluster status`; do the other servers live?"));
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

fn show(screen: &Screen, overview: &ClusterOverview, with_partitions: bool) -> Outcome {
    let mut table = Table::new([
        "SERVER",
        "STATE",
        "PARTITIONS",
        "LEASE",
        "SINCE",
        "VERSION",
        "SKEW",
        "WORKERS",
        "ANSWERS",
        "LAST TICK",
    ]);
    for server in &overview.servers {
        let (shade, state) = state(overview, server);
        let status = server.status.as_ref();
        let slowest = status.and_then(|status| status.loops.values().copied().reduce(f64::max));
        table.shaded_row([
            (Shade::Plain, server.name.clone()),
            (shade, state.to_owned()),
            (Shade::Plain, server.partitions.to_string()),
            (Shade::Plain, if overview.shared { seconds(server.lease_seconds) } else { "-".to_owned() }),
            (Shade::Plain, clock(server.joined_at, now())),
            (Shade::Plain, server.version.clone()),
            (
                if server.skew_seconds.abs() > SKEWED_SECONDS { Shade::Busy } else { Shade::Plain },
                skew(server.skew_seconds),
            ),
            (Shade::Plain, status.map_or("-".to_owned(), |status| status.workers.to_string())),
            match &server.reach.problem {
                None => (Shade::Plain, format!("in {:.1} ms", server.reach.milliseconds)),
                Some(problem) => (Shade::Bad, problem.clone()),
            },
            (
                if slowest.is_some_and(|age| age > LOOP_STUCK_SECONDS) { Shade::Bad } else { Shade::Plain },
                slowest.map_or("-".to_owned(), |age| format!("{} ago", seconds(age))),
            ),
        ]);
    }
    screen.table(table)?;
    for server in &overview.servers {
        for problem in server.status.iter().flat_map(|status| &status.problems) {
            screen.line(format!("{}: {problem}", server.name))?;
        }
    }
    let ownerless = overview.partitions.iter().filter(|partition| partition.owner.is_none()).count();
    if ownerless > 0 {
        screen.line(format!("{ownerless} partitions have no owner at the moment"))?;
    }
    if with_partitions {
        let mut table = Table::new(["PARTITION", "OWNER", "EPOCH", "SINCE"]);
        for partition in &overview.partitions {
            table.row([
                partition.partition.to_string(),
                partition.owner.clone().unwrap_or_else(|| "nobody".to_owned()),
                partition.epoch.to_string(),
                clock(partition.since, now()),
            ]);
        }
        screen.table(table)?;
    }
    Ok(())
}

fn state(overview: &ClusterOverview, server: &ServerView) -> (Shade, &'static str) {
    match &server.status {
        _ if overview.shared && server.lease_seconds <= 0.0 => (Shade::Bad, "gone"),
        _ if server.draining => (Shade::Busy, "draining"),
        None => (Shade::Bad, "silent"),
        Some(status) if status.ready => (Shade::Good, "ready"),
        Some(_) => (Shade::Busy, "not ready"),
    }
}

fn seconds(seconds: f64) -> String {
    format!("{seconds:.1}s")
}

fn skew(seconds: f64) -> String {
    format!("{:+.0} ms", seconds * 1e3)
}
