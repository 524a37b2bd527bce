//! `pendula bench cluster`: what more servers on one PostgreSQL give.

use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use futures::future::try_join_all;
use pendula_client::Client;
use pendula_model::api::{AppCreate, RunJob, RunMany, TokenCreate, TokenKind};
use pendula_model::instance::InstanceState;
use serde::Serialize;

use super::failed;
use super::probes::{self, Probes};
use super::rig::{Process, handler_job};
use crate::failure::Outcome;
use crate::output::{Screen, Table, count};

const EXAMPLES: &str = "\
Examples:
  createdb pendula_bench
  pendula bench cluster --database postgres://postgres@127.0.0.1/pendula_bench
  PENDULA_BENCH_DATABASE=postgres://… pendula bench cluster --count 20000 --output json

The database should be empty, and is not emptied afterwards: throw it away.";

/// Measure one, two and three servers on one PostgreSQL
///
/// Each round works off a backlog of no-op instances of eight apps with two workers, through as many servers. Server,
/// worker and everything else's processor time are told apart, because on one machine they compete.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct ClusterArgs {
    /// An empty database
    #[arg(long, env = "PENDULA_BENCH_DATABASE", hide_env_values = true, value_name = "URL")]
    database: String,
    /// Up to how many servers
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=16))]
    servers: u32,
    /// Instances of each round
    #[arg(long, default_value_t = 200_000, value_name = "N", value_parser = clap::value_parser!(u32).range(1_000..=10_000_000))]
    count: u32,
    /// Slots of each of the two workers of an app
    #[arg(long, default_value_t = 250, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    slots: u32,
}

/// Enough to hash to partitions of every server.
const APPS: u32 = 8;
const JOB: &str = "drain";
/// Runs of one request.
const BULK: u32 = 2_000;
const READY_WITHIN: Duration = Duration::from_secs(60);
const LONGEST: Duration = Duration::from_secs(600);

#[derive(Serialize)]
struct ClusterReport {
    version: &'static str,
    cores: usize,
    debug_build: bool,
    count: u32,
    probes_before: Probes,
    probes_after: Probes,
    rounds: Vec<Round>,
}

#[derive(Serialize)]
struct Round {
    servers: usize,
    submitted_per_second: f64,
    drained_per_second: f64,
    /// Seconds of processor time while the backlog was worked off.
    servers_cpu: f64,
    workers_cpu: f64,
    /// Of everything else on this machine: the database, if it is here.
    others_cpu: f64,
}

pub async fn run(args: ClusterArgs, screen: Screen) -> Outcome {
    let report = measure(&args).await.map_err(failed)?;
    if !screen.is_table() {
        return screen.document(&report);
    }
    screen.line(format!(
        "pendula {} on {} cores, {} instances per round{}",
        report.version,
        report.cores,
        count(args.count.into()),
        if report.debug_build { ", debug build" } else { "" }
    ))?;
    let mut table = Table::new(["SERVERS", "SUBMITTED/S", "DRAINED/S", "SERVERS CPU", "WORKERS CPU", "OTHERS CPU"]);
    for round in &report.rounds {
        table.row([
            round.servers.to_string(),
            count(round.submitted_per_second as u64),
            count(round.drained_per_second as u64),
            format!("{:.1} s", round.servers_cpu),
            format!("{:.1} s", round.workers_cpu),
            format!("{:.1} s", round.others_cpu),
        ]);
    }
    screen.table(table)
}

async fn measure(args: &ClusterArgs) -> anyhow::Result<ClusterReport> {
    let directory = tempfile::tempdir()?;
    let token = format!("bench-{:032x}{:032x}", rand::random::<u128>(), rand::random::<u128>());
    let probes_before = probes::probe()?;
    let mut servers: Vec<(Process, Client)> = Vec::new();
    let mut rounds = Vec::new();
    for number in 1..=args.servers {
        eprintln!("{number} servers …");
        servers.push(server(args, &token, directory.path(), number).await?);
        is_shared(&servers).await?;
        rounds.push(round(args, &servers, directory.path()).await?);
    }
    Ok(ClusterReport {
        version: env!("CARGO_PKG_VERSION"),
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        debug_build: cfg!(debug_assertions),
        count: args.count,
        probes_before,
        probes_after: probes::probe()?,
        rounds,
    })
}

async fn server(args: &ClusterArgs, token: &str, directory: &Path, number: u32) -> anyhow::Result<(Process, Client)> {
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let mut command = Command::new(std::env::current_exe()?);
    command
        .args(["server", "--listen", &format!("127.0.0.1:{port}")])
        .env("PENDULA_DATABASE", &args.database)
        .env("PENDULA_ADMIN_TOKEN", token);
    let log = directory.join(format!("server-{number}.log"));
    let process = Process::start(command, &log)?;
    let client = Client::new(&format!("http://127.0.0.1:{port}"), token)?;
    let begin = Instant::now();
    while client.readyz().await.is_err() {
        if begin.elapsed() > READY_WITHIN {
            bail!("a server was not ready: {}", std::fs::read_to_string(&log).unwrap_or_default());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok((process, client))
}

/// Waits until each server has its part.
async fn is_shared(servers: &[(Process, Client)]) -> anyhow::Result<()> {
    let begin = Instant::now();
    loop {
        let overview = servers[0].1.cluster(None).await?;
        let alive: Vec<u32> = overview
            .servers
            .iter()
            .filter(|server| server.lease_seconds > 0.0)
            .map(|server| server.partitions)
            .collect();
        let even = alive.iter().max().zip(alive.iter().min()).is_some_and(|(most, least)| most - least <= 1);
        if alive.len() == servers.len() && even && alive.iter().sum::<u32>() as usize == overview.partitions.len() {
            return Ok(());
        }
        if begin.elapsed() > READY_WITHIN {
            bail!("the partitions were not shared evenly: {alive:?}");
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn round(args: &ClusterArgs, servers: &[(Process, Client)], directory: &Path) -> anyhow::Result<Round> {
    let client = &servers[0].1;
    let mut apps = Vec::new();
    for number in 0..APPS {
        let name = format!("bench-{}-{number}", servers.len());
        client.app_create(&AppCreate { name: name.clone(), namespace: None, allow_scripts: false }).await?;
        client.job_create(&name, &handler_job(JOB, "noop")).await?;
        let token =
            TokenCreate { name: name.clone(), kind: TokenKind::Worker, app: Some(name.clone()), expires_in: None };
        let token = client.token_create(&token).await?.secret.context("a new token has a secret")?;
        apps.push((name, token));
    }
    let each = args.count / APPS;
    let begin = Instant::now();
    try_join_all(apps.iter().enumerate().map(async |(number, (app, _))| -> anyhow::Result<()> {
        let client = &servers[number % servers.len()].1;
        for from in (0..each).step_by(BULK as usize) {
            let runs = RunMany { runs: vec![RunJob::default(); BULK.min(each - from) as usize] };
            let answer = client.job_run_many(app, JOB, &runs).await?;
            if let Some(run) = answer.runs.iter().find(|run| run.instance.is_none()) {
                bail!("a run was refused: {:?}", run.problem);
            }
        }
        Ok(())
    }))
    .await?;
    let total = each * APPS;
    let submitted_per_second = f64::from(total) / begin.elapsed().as_secs_f64();

    let (machine, before) = (busy_seconds()?, sum(servers.iter().map(|server| &server.0))?);
    let begin = Instant::now();
    let mut workers = Vec::new();
    for (number, (app, token)) in apps.iter().enumerate() {
        for worker in 0..2 {
            let port = servers[(number + worker) % servers.len()].1.addresses()[0].to_string();
            let mut command = Command::new(std::env::current_exe()?);
            command
                .args(["worker", "--server", &port, "--app", app, "--name", &format!("w{worker}")])
                .args(["--processors", "noop", "--slots", &args.slots.to_string()])
                .env("PENDULA_TOKEN", token);
            workers.push(Process::start(command, &directory.join(format!("{app}-w{worker}.log")))?);
        }
    }
    loop {
        let active = try_join_all(servers.iter().map(|server| server.1.status())).await?;
        if active.iter().map(|status| status.active_instances).sum::<u64>() == 0 {
            break;
        }
        if begin.elapsed() > LONGEST {
            bail!("not worked off within {LONGEST:?}");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let took = begin.elapsed().as_secs_f64();
    let servers_cpu = sum(servers.iter().map(|server| &server.0))? - before;
    let workers_cpu = sum(workers.iter())?;
    let others_cpu = busy_seconds()? - machine - servers_cpu - workers_cpu;
    let filter = pendula_client::InstanceFilter {
        app: Some(apps[0].0.clone()),
        states: vec![InstanceState::Failed],
        limit: Some(1),
        ..pendula_client::InstanceFilter::default()
    };
    anyhow::ensure!(client.instance_list(&filter).await?.items.is_empty(), "instances failed");
    Ok(Round {
        servers: servers.len(),
        submitted_per_second,
        drained_per_second: f64::from(total) / took,
        servers_cpu,
        workers_cpu,
        others_cpu,
    })
}

fn sum<'a>(processes: impl Iterator<Item = &'a Process>) -> anyhow::Result<f64> {
    processes.map(Process::cpu_seconds).sum()
}

/// Seconds that all processors of this machine were busy since it started.
fn busy_seconds() -> anyhow::Result<f64> {
    let stat = std::fs::read_to_string("/proc/stat")?;
    let line = stat.lines().next().context("/proc/stat is empty")?;
    let ticks: Vec<f64> = line.split_whitespace().skip(1).filter_map(|field| field.parse().ok()).collect();
    // user, nice, system, idle, iowait, irq, softirq, …
    let busy: f64 = ticks.iter().enumerate().filter(|(place, _)| !matches!(place, 3 | 4)).map(|(_, ticks)| ticks).sum();
    Ok(busy / rustix::param::clock_ticks_per_second() as f64)
}
