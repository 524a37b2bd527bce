//! `pendula worker`: a worker with the built-in processors; and the workers that a server knows.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Subcommand, ValueEnum};
use pendula_processors::http::egress::{EgressPolicy, EgressRule};
use pendula_processors::script::ScriptConfig;
use pendula_processors::{ProcessorConfig, register};
use pendula_server::config::LogFormat;
use pendula_server::telemetry;
use pendula_worker::{Shutdown, Worker, WorkerError};

use super::moment::parse_duration;
use crate::connect::{AppArg, ConnectArgs};
use crate::definitions::now;
use crate::failure::{Failure, Outcome};
use crate::output::{Screen, Shade, Table, ago};

const EXAMPLES: &str = "\
Examples:
  export PENDULA_TOKEN=$(pendula token create w1 --kind worker --app demo --quiet)
  pendula worker --server http://pendula.example:7700 --app demo
  pendula worker --server http://server1:7700,http://server2:7700 --app demo
  pendula worker --app demo --slots 32 --label zone=a --label gpu=no
  pendula worker --app demo --processors http --egress-allow 10.1.0.0/16
  pendula worker list --app demo
  pendula worker drain w1 --app demo           finish what it has, then exit

A worker dials out and listens nowhere. SIGTERM or Ctrl-C drains it; a second one exits at once.";

/// Run a worker; list and drain workers
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES, args_conflicts_with_subcommands = true)]
pub struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    run: RunArgs,
    #[command(flatten)]
    app: AppArg,
    #[command(flatten)]
    connect: ConnectArgs,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List the workers of an app
    #[command(visible_alias = "ls")]
    List,
    /// Ask a worker to take nothing new, finish what it has and exit
    Drain { worker: String },
}

#[derive(Debug, clap::Args)]
struct RunArgs {
    /// How many tasks run at once
    #[arg(long, default_value_t = 16)]
    slots: u32,
    /// Label by which jobs choose workers; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = label)]
    label: Vec<(String, String)>,
    /// Name of this worker [default: the host's]
    #[arg(long)]
    name: Option<String>,
    /// What it runs
    #[arg(long, value_delimiter = ',', default_value = "shell,python,http", value_name = "LIST")]
    processors: Vec<BuiltIn>,
    /// Address, network or host name that http jobs may reach though it is not public; may be repeated
    #[arg(long, value_name = "RULE", value_parser = egress_rule)]
    egress_allow: Vec<EgressRule>,
    /// User that jobs may name in run_as; needs a worker that runs as root; may be repeated
    #[arg(long, value_name = "USER")]
    run_as: Vec<String>,
    /// Environment variable that scripts get; may be repeated
    #[arg(long, value_name = "NAME")]
    pass_env: Vec<String>,
    /// Where the directories of attempts are made [default: the system's temporary directory]
    #[arg(long, value_name = "DIRECTORY")]
    scratch: Option<PathBuf>,
    /// How long running tasks may go on when the worker is told to end
    #[arg(long, default_value = "30s", value_parser = parse_duration, value_name = "DURATION")]
    drain_budget: Duration,
    /// Give up, with exit code 4, when no server accepts the worker for so long [default: never]
    #[arg(long, value_parser = parse_duration, value_name = "DURATION")]
    give_up_after: Option<Duration>,
    /// How its own log lines look
    #[arg(long, default_value = "text", value_name = "FORMAT")]
    log_format: Lines,
    /// Which of its log lines are written, as info or pendula_worker=debug
    #[arg(long, default_value = "info", value_name = "FILTER")]
    log_filter: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum BuiltIn {
    Shell,
    Python,
    Http,
    /// Does nothing, for measurements
    Noop,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Lines {
    Text,
    Json,
}

fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => Ok((key.trim().to_owned(), value.trim().to_owned())),
        _ => Err("write KEY=VALUE".to_owned()),
    }
}

fn egress_rule(text: &str) -> Result<EgressRule, String> {
    text.trim().parse().map_err(|error: pendula_processors::http::egress::BadEgressRule| error.to_string())
}

pub async fn run(args: Args, screen: Screen) -> Outcome {
    match args.command {
        None => start(args.run, &args.app, &args.connect).await,
        Some(Command::List) => {
            let session = args.connect.open()?;
            let app = session.app(&args.app).await?;
            let workers = session.client.worker_list(&app).await?;
            screen.show(&workers, |screen| {
                if workers.is_empty() {
                    return screen.line(format!("app {app} has no worker; `pendula worker --app {app}` starts one"));
                }
                let now = now();
                let mut table = Table::listing(
                    ["NAME", "STATE", "BUSY", "PROCESSORS", "LABELS", "CPU", "HEARD", "VERSION", "ADDRESS"],
                    &[3, 4, 8],
                );
                for worker in &workers {
                    let shade = match worker.state.as_str() {
                        "connected" => Shade::Good,
                        "away" => Shade::Bad,
                        _ => Shade::Busy,
                    };
                    let labels: Vec<_> = worker.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
                    let plain = |text: String| (Shade::Plain, text);
                    table.shaded_row([
                        plain(worker.name.clone()),
                        (shade, worker.state.clone()),
                        plain(format!("{}/{}", worker.running, worker.slots)),
                        plain(worker.processors.join(",")),
                        plain(labels.join(",")),
                        plain(format!("{:.1}/{:.0}", worker.metrics.cpu_used, worker.metrics.cpu_cores)),
                        plain(ago(worker.last_heard, now)),
                        plain(worker.version.clone()),
                        plain(worker.address.clone()),
                    ]);
                }
                screen.table(table)
            })
        }
        Some(Command::Drain { worker }) => {
            let session = args.connect.open()?;
            let app = session.app(&args.app).await?;
            session.client.worker_drain(&app, &worker).await?;
            screen.done(format!("{worker} was asked to drain; `pendula worker list` shows how far it is"))
        }
    }
}

async fn start(args: RunArgs, app: &AppArg, connect: &ConnectArgs) -> Outcome {
    let target = connect.target()?;
    // Not the profile's: that one opens more than a worker needs.
    let Some(token) = target.token.filter(|_| !target.token_is_saved) else {
        return Err(Failure::usage("no token for the worker").hint(
            "export PENDULA_TOKEN=$(pendula token create NAME --kind worker --app APP --quiet)\nor --token-file FILE",
        ));
    };
    let format = match args.log_format {
        Lines::Text => LogFormat::Text,
        Lines::Json => LogFormat::Json,
    };
    telemetry::init(format, &args.log_filter).map_err(|error| Failure::usage(format!("--log-filter: {error:#}")))?;
    let config = ProcessorConfig {
        shell: args.processors.contains(&BuiltIn::Shell),
        python: args.processors.contains(&BuiltIn::Python),
        http: args.processors.contains(&BuiltIn::Http),
        noop: args.processors.contains(&BuiltIn::Noop),
        script: ScriptConfig {
            run_as: args.run_as,
            pass_environment: args.pass_env,
            scratch: args.scratch.unwrap_or_else(std::env::temp_dir),
            ..ScriptConfig::default()
        },
        egress: EgressPolicy { allow: args.egress_allow },
    };
    let mut builder = Worker::builder(&target.server).token(token).slots(args.slots).drain_budget(args.drain_budget);
    if let Some(app) = app.app.as_ref().or(target.app.as_ref()) {
        builder = builder.app(app);
    }
    if let Some(name) = args.name {
        builder = builder.name(name);
    }
    if let Some(pem) = &target.authority {
        builder = builder.ca_certificate(pem);
    }
    if let Some(patience) = args.give_up_after {
        builder = builder.give_up_after(patience);
    }
    for (key, value) in args.label {
        builder = builder.label(key, value);
    }
    let builder = register(builder, config).map_err(|error| Failure::refused(error.to_string()))?;
    let worker = builder.build().map_err(|error| Failure::usage(error.to_string()))?;
    let summary = worker.run(Shutdown::on_signals()).await.map_err(|error| match error {
        WorkerError::Unreachable(..) => Failure::unreachable(error.to_string()),
        WorkerError::Setting { .. } => Failure::usage(error.to_string()),
    })?;
    tracing::info!(?summary, "ended");
    Ok(())
}
