//! `pendula bench map`: how instances with very many tasks grow.

use serde::Serialize;

use super::failed;
use super::probes::{self, Probes};
use super::scenarios::map::{self, Canceled, Killed, Sized};
use crate::failure::Outcome;
use crate::output::{Screen, Table, count};

const SIZES: [u64; 3] = [10_000, 100_000, 1_000_000];

const EXAMPLES: &str = "\
Examples:
  pendula bench map --quick
  pendula bench map --tasks 250000 --slots 500
  pendula bench map --output json";

/// Measure map-reduce with very many sub-tasks on two workers
///
/// Runs one job over the no-op handler with 10,000, 100,000 and 1,000,000 sub-tasks; then again, killing one worker when
/// half have ended, and stopping it when half have ended. Takes some minutes and a gigabyte of temporary disk.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct MapArgs {
    /// Without the largest size
    #[arg(long)]
    quick: bool,
    /// Only this many sub-tasks
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1_000..=100_000_000))]
    tasks: Option<u64>,
    /// Slots of each of the two workers
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    slots: u32,
}

#[derive(Serialize)]
struct MapReport {
    version: &'static str,
    cores: usize,
    debug_build: bool,
    slots: u32,
    probes_before: Probes,
    probes_after: Probes,
    sizes: Vec<Sized>,
    worker_killed: Killed,
    canceled: Canceled,
}

pub async fn run(args: MapArgs, screen: Screen) -> Outcome {
    let sizes = match args.tasks {
        Some(tasks) => vec![tasks],
        None if args.quick => SIZES[..2].to_vec(),
        None => SIZES.to_vec(),
    };
    let largest = sizes.last().copied().unwrap_or(SIZES[0]);
    let probes_before = probes::probe().map_err(failed)?;
    let mut measured = Vec::new();
    for tasks in sizes {
        eprintln!("{} tasks …", count(tasks));
        measured.push(map::size(tasks, args.slots).await.map_err(failed)?);
    }
    eprintln!("{} tasks, one worker killed …", count(largest));
    let worker_killed = map::kill(largest, args.slots).await.map_err(failed)?;
    eprintln!("{} tasks, stopped half way …", count(largest));
    let canceled = map::cancel(largest, args.slots).await.map_err(failed)?;
    let report = MapReport {
        version: env!("CARGO_PKG_VERSION"),
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        debug_build: cfg!(debug_assertions),
        slots: args.slots,
        probes_before,
        probes_after: probes::probe().map_err(failed)?,
        sizes: measured,
        worker_killed,
        canceled,
    };
    if screen.is_table() { print(&report, screen) } else { screen.document(&report) }
}

fn print(report: &MapReport, screen: Screen) -> Outcome {
    screen.line(format!(
        "pendula {} on {} cores, two workers with {} slots each",
        report.version,
        report.cores,
        count(report.slots.into())
    ))?;
    if report.debug_build {
        screen.line("This is a debug build: its figures say nothing about the product.")?;
    }
    for (when, probes) in [("before", &report.probes_before), ("after", &report.probes_after)] {
        screen.line(format!(
            "machine {when}: append 4 KiB and sync p50 {:.3} ms, p99 {:.3} ms; loopback p50 {:.3} ms",
            probes.sync_p50, probes.sync_p99, probes.loopback_p50
        ))?;
    }
    let mut table =
        Table::new(["TASKS", "FIRST STARTED", "TASKS/S", "TOTAL", "REDUCE", "OWNER PEAK", "WORKER PEAK", "STORE"]);
    for size in &report.sizes {
        table.row([
            count(size.tasks),
            format!("{:.1} ms", size.first_started_ms),
            count(size.tasks_per_second.round() as u64),
            format!("{:.2} s", size.total_seconds),
            format!("{:.2} s", size.reduce_seconds),
            format!("{:.0} MiB", size.owner_peak_mib),
            format!("{:.0} MiB", size.worker_peak_mib),
            format!("{:.0} MiB", size.store_mib),
        ]);
    }
    screen.line("")?;
    screen.table(table)?;
    let Killed { tasks, run_again, share_percent, total_seconds } = &report.worker_killed;
    screen.line(format!(
        "\none worker killed half way through {} tasks: {} ran again ({share_percent:.3} %), {total_seconds:.2} s in all",
        count(*tasks),
        count(*run_again)
    ))?;
    let Canceled { tasks, ended_when_asked, seconds } = &report.canceled;
    screen.line(format!(
        "stopped after {} of {} tasks: ended {seconds:.3} s later",
        count(*ended_when_asked),
        count(*tasks)
    ))
}
