//! A server process of this binary, its client, and worker processes; all gone when dropped.

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use pendula_client::Client;
use pendula_model::api::{AppCreate, TokenCreate, TokenKind};
use pendula_model::job::JobSpec;
use pendula_model::processor::{Handler, Processor};

pub const APP: &str = "bench";
const READY_WITHIN: Duration = Duration::from_secs(30);

pub struct Rig {
    server: Process,
    directory: tempfile::TempDir,
    port: u16,
    pub client: Client,
    pub worker_token: String,
}

impl Rig {
    /// An empty server with one app.
    pub async fn start() -> anyhow::Result<Rig> {
        let directory = tempfile::tempdir()?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let token = format!("bench-{:032x}{:032x}", rand::random::<u128>(), rand::random::<u128>());
        let mut command = Command::new(std::env::current_exe()?);
        command
            .args(["server", "--listen", &format!("127.0.0.1:{port}")])
            .args(["--database", &format!("sqlite:{}", directory.path().join("data").display())])
            .env("PENDULA_ADMIN_TOKEN", &token);
        let server = Process::start(command, &directory.path().join("server.log"))?;
        let client = Client::new(&format!("http://127.0.0.1:{port}"), token)?;
        let mut rig = Rig { server, directory, port, client, worker_token: String::new() };
        rig.wait_ready().await?;
        let app = AppCreate { name: APP.to_owned(), namespace: None, allow_scripts: false };
        rig.client.app_create(&app).await?;
        let (name, kind) = ("bench".to_owned(), TokenKind::Worker);
        let token = TokenCreate { name, kind, app: Some(APP.to_owned()), expires_in: None };
        rig.worker_token = rig.client.token_create(&token).await?.secret.context("a new token has a secret")?;
        Ok(rig)
    }

    async fn wait_ready(&mut self) -> anyhow::Result<()> {
        let begin = Instant::now();
        while self.client.readyz().await.is_err() {
            let output = || std::fs::read_to_string(self.directory.path().join("server.log")).unwrap_or_default();
            if let Some(status) = self.server.child.try_wait()? {
                bail!("the server ended ({status}): {}", output());
            }
            if begin.elapsed() > READY_WITHIN {
                bail!("the server was not ready within {READY_WITHIN:?}: {}", output());
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub fn server(&self) -> &Process {
        &self.server
    }

    /// A worker process that offers `noop`.
    pub fn noop_worker(&self, name: &str, slots: u32) -> anyhow::Result<Process> {
        let mut command = Command::new(std::env::current_exe()?);
        command
            .args(["worker", "--server", &self.url(), "--app", APP, "--name", name])
            .args(["--processors", "noop", "--slots", &slots.to_string()])
            .env("PENDULA_TOKEN", &self.worker_token);
        Process::start(command, &self.directory.path().join(format!("worker-{name}.log")))
    }

    /// How many instances are under way.
    pub async fn active(&self) -> anyhow::Result<u64> {
        Ok(self.client.status().await?.active_instances)
    }
}

/// A job for a handler, without trigger.
pub fn handler_job(name: impl Into<String>, handler: &str) -> JobSpec {
    JobSpec::new(name, Processor::Handler(Handler { name: handler.to_owned(), config: None }))
}

/// A child that is killed when dropped.
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    pub fn start(mut command: Command, log: &Path) -> anyhow::Result<Process> {
        let output = File::create(log)?;
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        // A measurement is of the defaults, not of what this shell happens to set.
        for variable in ["PENDULA_CONFIG", "PENDULA_SERVER", "PENDULA_PROFILE", "PENDULA_APP"] {
            command.env_remove(variable);
        }
        let child = command.spawn().with_context(|| format!("starting {command:?}"))?;
        Ok(Process { child, log: log.to_owned() })
    }

    /// CPU time used so far, in seconds.
    pub fn cpu_seconds(&self) -> anyhow::Result<f64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()))
            .with_context(|| format!("the process ended; see {}", self.log.display()))?;
        // The second field is the name in parentheses and may contain spaces; utime and stime are fields 14 and 15.
        let fields: Vec<_> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
        let ticks: f64 = [11, 12].iter().filter_map(|field| fields.get(*field)?.parse::<f64>().ok()).sum();
        Ok(ticks / rustix::param::clock_ticks_per_second() as f64)
    }

    /// Resident memory in MiB.
    pub fn resident_mib(&self) -> anyhow::Result<f64> {
        self.memory_mib("VmRSS:")
    }

    /// The most that was ever resident, in MiB.
    pub fn peak_mib(&self) -> anyhow::Result<f64> {
        self.memory_mib("VmHWM:")
    }

    fn memory_mib(&self, which: &str) -> anyhow::Result<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix(which)).context("no such line")?;
        let kib: f64 = line.trim().trim_end_matches("kB").trim().parse()?;
        Ok(kib / 1024.0)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may be gone already; either way it is after the wait.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
