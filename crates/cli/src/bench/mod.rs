//! `pendula bench`: what this machine, this store and this build can do.
//!
//! Every scenario runs against a real server process of this very binary, with an empty database in a temporary directory
//! and workers that dial it over loopback. The machine is probed before and after, because figures from a machine that
//! was busy meanwhile mean little. Load is bounded in number and time.

mod cluster;
mod map;
mod probes;
mod rig;
mod scenarios;
mod watch;

use std::time::Duration;

use serde::Serialize;

use crate::failure::{Failure, Outcome};
use crate::output::{Screen, Table};
use probes::Probes;

/// Measure this machine
///
/// Starts a server and workers of this binary on loopback, loads them, and prints a table. Takes about four minutes and
/// two gigabytes of temporary disk; `--quick` a minute and a tenth of it.
#[derive(Clone, Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct BenchArgs {
    #[command(subcommand)]
    command: Option<BenchCommand>,
    /// Smaller numbers
    #[arg(long)]
    quick: bool,
    /// Only these scenarios (may be repeated)
    #[arg(long, value_enum, value_name = "NAME")]
    scenario: Vec<Scenario>,
}

#[derive(Clone, Debug, clap::Subcommand)]
enum BenchCommand {
    Map(map::MapArgs),
    Cluster(cluster::ClusterArgs),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Scenario {
    /// Empty directory to first finished job, and memory at rest
    Startup,
    /// Durable submission, in bulk and one by one
    Submit,
    /// Finish a backlog of no-op instances
    Drain,
    /// Submit to handler, at an open loop of 100 per second
    Latency,
    /// Fire time to handler, at 1,000 fires per second
    Lateness,
    /// The same with a million registered jobs
    LatenessMillion,
    /// 20,000 jobs due in the same second
    Storm,
}

impl Scenario {
    const ALL: [Scenario; 7] = {
        use Scenario::*;
        [Startup, Submit, Drain, Latency, Lateness, LatenessMillion, Storm]
    };
}

/// One line of the report.
#[derive(Clone, Debug, Serialize)]
pub struct Measure {
    pub scenario: &'static str,
    pub what: String,
    pub value: f64,
    pub unit: &'static str,
}

impl Measure {
    pub fn new(scenario: &'static str, what: impl Into<String>, value: f64, unit: &'static str) -> Self {
        Measure { scenario, what: what.into(), value, unit }
    }

    /// The percentiles of durations in microseconds, as milliseconds.
    pub fn percentiles(scenario: &'static str, what: &str, micros: &hdrhistogram::Histogram<u64>) -> Vec<Measure> {
        let at = |quantile| micros.value_at_quantile(quantile) as f64 / 1000.0;
        [("p50", at(0.5)), ("p99", at(0.99)), ("p99.9", at(0.999)), ("max", micros.max() as f64 / 1000.0)]
            .map(|(name, value)| Measure::new(scenario, format!("{what} {name}"), value, "ms"))
            .into()
    }
}

#[derive(Serialize)]
struct Report {
    version: &'static str,
    cores: usize,
    debug_build: bool,
    probes_before: Probes,
    probes_after: Probes,
    measures: Vec<Measure>,
}

pub async fn run(args: BenchArgs, screen: Screen) -> Outcome {
    match args.command {
        Some(BenchCommand::Map(args)) => return map::run(args, screen).await,
        Some(BenchCommand::Cluster(args)) => return cluster::run(args, screen).await,
        None => {}
    }
    let wanted = if args.scenario.is_empty() { Scenario::ALL.to_vec() } else { args.scenario.clone() };
    let probes_before = probes::probe().map_err(failed)?;
    let mut measures = Vec::new();
    for scenario in wanted {
        if args.quick && args.scenario.is_empty() && scenario == Scenario::LatenessMillion {
            continue;
        }
        eprintln!("{} …", name(scenario));
        measures.extend(measure(scenario, args.quick).await.map_err(failed)?);
    }
    let probes_after = probes::probe().map_err(failed)?;
    let report = Report {
        version: env!("CARGO_PKG_VERSION"),
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        debug_build: cfg!(debug_assertions),
        probes_before,
        probes_after,
        measures,
    };
    if !screen.is_table() {
        return screen.document(&report);
    }
    print(&report, screen)
}

async fn measure(scenario: Scenario, quick: bool) -> anyhow::Result<Vec<Measure>> {
    let small = |full: usize, quick_size: usize| if quick { quick_size } else { full };
    let seconds = Duration::from_secs(small(20, 8) as u64);
    match scenario {
        Scenario::Startup => scenarios::startup::measure().await,
        Scenario::Submit => scenarios::submit::measure(small(200_000, 50_000), small(40_000, 10_000)).await,
        Scenario::Drain => scenarios::drain::measure(small(200_000, 50_000)).await,
        Scenario::Latency => scenarios::latency::measure(seconds).await,
        Scenario::Lateness => scenarios::lateness::measure("lateness", small(100_000, 20_000), seconds).await,
        Scenario::LatenessMillion => scenarios::lateness::measure("lateness-million", 1_000_000, seconds).await,
        Scenario::Storm => scenarios::storm::measure(small(20_000, 5_000)).await,
    }
}

fn name(scenario: Scenario) -> String {
    use clap::ValueEnum;
    scenario.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

fn print(report: &Report, screen: Screen) -> Outcome {
    screen.line(format!("pendula {} on {} cores", report.version, report.cores))?;
    if report.debug_build {
        screen.line("This is a debug build: its figures say nothing about the product.")?;
    }
    let mut table = Table::new(["SCENARIO", "WHAT", "VALUE", "UNIT"]);
    for (when, probes) in [("machine before", &report.probes_before), ("machine after", &report.probes_after)] {
        for (what, value) in probes.lines() {
            table.row([when.to_owned(), what.to_owned(), format!("{value:.3}"), "ms".to_owned()]);
        }
    }
    for measure in &report.measures {
        let value = match measure.value {
            large if large >= 1000.0 => format!("{large:.0}"),
            small if small < 0.1 => format!("{small:.4}"),
            value => format!("{value:.2}"),
        };
        table.row([measure.scenario.to_owned(), measure.what.clone(), value, measure.unit.to_owned()]);
    }
    screen.table(table)
}

fn failed(error: anyhow::Error) -> Failure {
    Failure::refused(format!("the measurement did not succeed: {error:#}"))
}
