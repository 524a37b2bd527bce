//! `pendula dev`: a server, a worker and sample jobs in one process, for trying and for developing.

use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use pendula_client::{Client, ClientError};
use pendula_model::api::{AppCreate, TokenCreate, TokenKind};
use pendula_model::job::JobSpec;
use pendula_processors::http::egress::EgressPolicy;
use pendula_processors::{ProcessorConfig, register};
use pendula_server::{Config, ConfigSources, Flags, Server, SystemClock, telemetry};
use pendula_worker::{Shutdown, Worker};
use rand::distr::{Alphanumeric, SampleString};

use crate::failure::{Failure, Outcome};
use crate::output::{Screen, Shade};
use crate::profiles::{self, Profile, Profiles};
use crate::signals;

const EXAMPLES: &str = "\
Examples:
  pendula dev                                  then, in another terminal: pendula job list
  pendula dev --port 7800 --data ./pendula-dev
  pendula dev --fresh                          forget everything and begin again

It listens on the loopback interface alone. Other commands find the server and its token by
themselves, through the profile `dev`.";

/// Run a server and a worker in one process, with sample jobs
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Port on 127.0.0.1; 0 takes a free one
    #[arg(long, default_value_t = 7700)]
    port: u16,
    /// Where everything is kept [default: ~/.local/share/pendula/dev]
    #[arg(long, value_name = "DIRECTORY")]
    data: Option<PathBuf>,
    /// Delete what an earlier run left in the data directory
    #[arg(long)]
    fresh: bool,
    /// How many tasks run at once
    #[arg(long, default_value_t = 8)]
    slots: u32,
    /// Which log lines are written, as info or pendula_server=debug
    #[arg(long, default_value = "warn", value_name = "FILTER")]
    log_filter: String,
}

const APP: &str = "demo";
/// Names the directory as ours, so that `--fresh` deletes nothing else.
const TOKEN_FILE: &str = "admin-token";
const STORE: &str = "store";

/// What a newcomer finds: each shows one thing.
const SAMPLES: &str = r#"
- name: heartbeat
  description: A line each minute, so that there is something to see.
  trigger: { cron: "* * * * *" }
  processor: { shell: 'echo "still alive at $(date +%T), fire time ${fire_time}"' }
- name: hello
  description: Greets on request, with a parameter.
  processor: { shell: 'echo "hello, ${params.who | default(''world'')}"; echo "::output greeted=yes"' }
- name: countdown
  description: Takes ten seconds, so that its log can be followed and it can be stopped.
  processor: { shell: 'for n in 9 8 7 6 5 4 3 2 1 0; do echo "$n"; sleep 1; done' }
  concurrency: { limit: 1, overflow: queue }
- name: flaky
  description: Fails twice, and is tried again.
  processor: { shell: 'n=${attempt}; echo "attempt $n of 3"; [ "$n" -ge 3 ]' }
  retry: { attempts: 3, backoff: { fixed: 1s } }
"#;

pub async fn run(args: Args, screen: Screen) -> Outcome {
    telemetry::init(pendula_server::config::LogFormat::Text, &args.log_filter)
        .map_err(|error| Failure::usage(format!("--log-filter: {error:#}")))?;
    let data = match args.data {
        Some(data) => data,
        None => profiles::user_directory("XDG_DATA_HOME", ".local/share")?.join("pendula/dev"),
    };
    let token = prepare(&data, args.fresh)?;
    let flags = Flags {
        listen: Some(format!("127.0.0.1:{}", args.port)),
        database: Some(format!("sqlite:{}", data.join(STORE).display())),
        ..Flags::default()
    };
    // Not the environment: what is set there is meant for a server, and `dev` promises loopback and defaults.
    let sources = ConfigSources { file: None, environment: Vec::new(), flags };
    let mut config = Config::load(&sources).map_err(|error| Failure::usage(error.to_string()))?;
    config.admin_token = Some(token.clone());
    let stop = signals::once_then_exit().map_err(|error| Failure::refused(format!("receiving signals: {error}")))?;
    let server = Server::start(config, Arc::new(SystemClock)).await.map_err(|error| {
        Failure::refused(format!("{error:#}")).hint("--port and --data choose others, if another `pendula dev` runs;\n--fresh begins again without what an earlier one saved")
    })?;
    let url = format!("http://{}", server.local_addr());
    let worker_token = furnish(&Client::new(&url, &token)?).await?;
    let saved = save_profile(&url, &token);

    let builder = Worker::builder(&url)
        .app(APP)
        .token(worker_token)
        .name("dev")
        .slots(args.slots)
        .drain_budget(Duration::from_secs(5));
    let processors = ProcessorConfig { egress: EgressPolicy::default(), noop: true, ..ProcessorConfig::default() };
    let builder = register(builder, processors).map_err(|error| Failure::refused(error.to_string()))?;
    let worker = builder.build().map_err(|error| Failure::refused(error.to_string()))?;
    let shutdown = Shutdown::new();
    let running = tokio::spawn(worker.run(shutdown.clone()));

    banner(&screen, &url, &data, saved)?;
    stop.await;
    screen.done("stopping: running tasks have 5s; Ctrl-C again exits at once")?;
    shutdown.drain();
    // The worker goes first, so that what it finished is on disk when the server goes.
    match running.await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => tracing::warn!(%error, "the worker ended badly"),
        Err(panic) => tracing::error!(%panic, "the worker panicked"),
    }
    server.stop().await;
    Ok(())
}

/// Makes the data directory, for its owner alone, and gives the admin token that it keeps.
fn prepare(data: &Path, fresh: bool) -> Outcome<String> {
    let context = |error: std::io::Error| {
        Failure::usage(format!("data directory {}: {error}", data.display())).hint("--data chooses another")
    };
    let file = data.join(TOKEN_FILE);
    if fresh && file.exists() {
        match std::fs::remove_dir_all(data.join(STORE)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(context(error)),
            _ => {}
        }
    }
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(data).map_err(context)?;
    match std::fs::read_to_string(&file) {
        Ok(token) if !token.trim().is_empty() => return Ok(token.trim().to_owned()),
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(context(error)),
        _ => {}
    }
    let token = Alphanumeric.sample_string(&mut rand::rng(), 48);
    let mut created =
        std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&file).map_err(context)?;
    writeln!(created, "{token}").map_err(context)?;
    Ok(token)
}

/// Makes the app and, with it, the sample jobs. The answer is a token for the worker, which this start alone uses.
async fn furnish(client: &Client) -> Outcome<String> {
    let created = client.app_create(&AppCreate { name: APP.to_owned(), namespace: None, allow_scripts: true }).await;
    match created {
        Ok(_) => {
            let jobs: Vec<JobSpec> = serde_saphyr::from_str(SAMPLES).expect("a test reads the samples");
            client.apply_all(APP, jobs, false).await?;
        }
        Err(ClientError::Problem(problem)) if problem.code == "app_exists" => {}
        Err(error) => return Err(error.into()),
    }
    const NAME: &str = "dev worker";
    for old in client.token_list().await?.into_iter().filter(|token| token.name == NAME) {
        client.token_revoke(old.id).await?;
    }
    let create =
        TokenCreate { name: NAME.to_owned(), kind: TokenKind::Worker, app: Some(APP.to_owned()), expires_in: None };
    let token = client.token_create(&create).await?;
    token.secret.ok_or_else(|| Failure::refused("the server gave no secret for the worker's token"))
}

/// Lets other commands find this server. The current profile stays when it is another one.
fn save_profile(url: &str, token: &str) -> Outcome<bool> {
    let path = profiles::path()?;
    let mut profiles = Profiles::load(&path)?;
    let profile = Profile { server: url.to_owned(), token: token.to_owned(), app: Some(APP.to_owned()), ca: None };
    profiles.profiles.insert("dev".to_owned(), profile);
    let current = profiles.current.get_or_insert_with(|| "dev".to_owned()) == "dev";
    profiles.save(&path)?;
    Ok(current)
}

fn banner(screen: &Screen, url: &str, data: &Path, saved: Outcome<bool>) -> Outcome {
    let by_profile = match &saved {
        Ok(true) => "",
        Ok(false) => " --profile dev",
        Err(_) => " --token-file TOKEN",
    };
    screen.line(screen.paint(Shade::Good, &format!("Pendula {} serves on {url}", env!("CARGO_PKG_VERSION"))))?;
    screen.line(format!("  app {APP}, one worker, data in {}", data.display()))?;
    if let Err(failure) = saved {
        screen.line(format!(
            "  the profile could not be saved ({failure}); the token is in {}",
            data.join(TOKEN_FILE).display()
        ))?;
    }
    screen.line("")?;
    screen.line("In another terminal:")?;
    for (command, meaning) in [
        ("job list", "what is defined"),
        ("job run hello --param who=you --wait", "run one and see its log"),
        ("job run countdown --wait", "ten seconds of log, live"),
        ("instance list", "what ran; heartbeat runs each minute"),
        ("apply -f jobs.yaml", "your own jobs; `pendula apply --help` shows a file"),
        ("import crontab /etc/crontab --dry-run", "what cron does today"),
    ] {
        let command = format!("{command}{by_profile}");
        screen.line(format!("  pendula {command:<40} {}", screen.paint(Shade::Faint, meaning)))?;
    }
    screen.line("\nCtrl-C stops it.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_samples_are_valid() {
        let jobs: Vec<JobSpec> = serde_saphyr::from_str(SAMPLES).expect("definitions");
        for job in &jobs {
            job.validate().unwrap_or_else(|invalid| panic!("{}: {invalid}", job.name));
        }
        assert_eq!(jobs[0].name, "heartbeat");
        assert!(jobs.len() >= 3);
    }

    #[test]
    fn the_token_is_kept_and_private() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().expect("a directory");
        let data = directory.path().join("deep/dev");
        let token = prepare(&data, false).expect("prepared");
        assert_eq!(prepare(&data, true).expect("again"), token);
        let mode = std::fs::metadata(data.join(TOKEN_FILE)).expect("written").permissions().mode();
        assert_eq!((token.len(), mode & 0o777), (48, 0o600));
    }
}
