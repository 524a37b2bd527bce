//! `pendula server`: the server, until a signal ends it.

use std::path::PathBuf;
use std::sync::Arc;

use pendula_server::{Config, ConfigSources, Flags, Server, SystemClock, telemetry};

use crate::failure::{Failure, Outcome};
use crate::signals;

const EXAMPLES: &str = "\
Examples:
  pendula server                               data in ./pendula-data, 127.0.0.1:7700
  pendula server --database sqlite:/var/lib/pendula --listen 0.0.0.0:7700
  pendula server --config /etc/pendula.toml --set log.filter=debug
  pendula config show                          every option, its meaning and its value

The first start prints a token that administers the server, once; `pendula login` saves it.
SIGTERM or Ctrl-C stops in order: running tasks go on at their workers. A second one exits at once.";

/// Run a server
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    pub(super) options: ServerOptions,
}

/// Where a server's configuration comes from: defaults, file, environment, flags, the later the stronger.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct ServerOptions {
    /// Configuration file, TOML
    #[arg(long, short, env = "PENDULA_CONFIG", value_name = "FILE", hide_env_values = true)]
    config: Option<PathBuf>,
    /// Where everything is kept: sqlite:DIRECTORY
    #[arg(long, value_name = "URL")]
    database: Option<String>,
    /// Where to listen, host:port
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// Where others reach the server, host:port, if elsewhere
    #[arg(long, value_name = "ADDRESS")]
    advertise: Option<String>,
    /// How the server's own log lines look: text or json
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,
    /// Any option, as engine.lost_after=20s; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

impl ServerOptions {
    pub(super) fn load(self) -> Outcome<Config> {
        let ServerOptions { config, database, listen, advertise, log_format, set } = self;
        let flags = Flags { listen, advertise, database, log_format, set };
        let sources = ConfigSources::of_process(config, flags);
        Config::load(&sources)
            .map_err(|error| Failure::usage(error.to_string()).hint("`pendula config show` lists every option"))
    }
}

pub async fn run(args: Args) -> Outcome {
    let config = args.options.load()?;
    telemetry::init(config.log.format, &config.log.filter)
        .map_err(|error| Failure::usage(format!("log.filter: {error:#}")))?;
    let signal = signals::once_then_exit().map_err(|error| Failure::refused(format!("receiving signals: {error}")))?;
    let gateways = async |server: &Server| pendula_powerjob::start(server).await.map(drop);
    pendula_server::run_with(config, Arc::new(SystemClock), gateways, signal)
        .await
        .map_err(|error| Failure::refused(format!("{error:#}")))
}
