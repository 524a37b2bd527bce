//! The worker: its settings, and [`Worker::run`].

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use pendula_model::limits;
use pendula_wire::v1;

use crate::connection::{Dialer, Tls};
use crate::hand::Hand;
use crate::handler::Handler;
use crate::host::HostProbe;
use crate::shutdown::Shutdown;

/// Why a worker could not be built, or gave up.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// A setting is not acceptable.
    #[error("{setting}: {why}")]
    Setting {
        /// Name of the builder's method.
        setting: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// No server could be reached for as long as [`WorkerBuilder::give_up_after`] allows.
    #[error("no server accepted this worker for {0:?}; the last error was: {1}")]
    Unreachable(Duration, String),
}

impl WorkerError {
    pub(crate) fn setting(setting: &'static str, why: impl Into<String>) -> Self {
        WorkerError::Setting { setting, why: why.into() }
    }
}

/// What a worker did, counted until [`Worker::run`] returned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Attempts that ended well.
    pub succeeded: u64,
    /// Attempts that failed.
    pub failed: u64,
    /// Attempts that were stopped.
    pub stopped: u64,
    /// Attempts that were refused before they started.
    pub rejected: u64,
    /// Attempts that were given back because the worker shut down.
    pub handed_back: u64,
    /// Ends that no server acknowledged; the server will count these attempts as lost, or learns of them never.
    pub unacknowledged: u64,
    /// Handlers that did not end in spite of everything.
    pub still_running: u64,
}

/// Periods of the worker's loop. The defaults are right outside of tests and unusual networks.
#[derive(Clone, Debug)]
pub struct Timing {
    /// An attempt that runs longer is reported as started. Default 100 ms.
    pub started_after: Duration,
    /// From the forced stop to the drop of the handler's future. Default 1 s.
    pub kill_moment: Duration,
    /// An end that is not acknowledged for so long is reported again. Default 10 s.
    pub report_again: Duration,
    /// Between the polite and the forced stop of what is handed back. Default 5 s, or the task's own if shorter.
    pub hand_back_grace: Duration,
    /// After saying that it drains, a worker stays at least so long, because dispatches may be on their way. Default
    /// 200 ms.
    pub listen_on: Duration,
    /// How long to wait for acknowledgements before leaving. Default 5 s.
    pub farewell: Duration,
    /// For a server to be reached and to show that it lives. Default 5 s; 1.5 s at most for servers that others told of.
    pub connect_timeout: Duration,
    /// How long one address is tried alone before the next is tried as well. Default 1 s. What a dead first address costs.
    pub head_start: Duration,
    /// From there to the welcome: longer than an app may be without an owner. Default 12 s.
    pub welcome_timeout: Duration,
    /// First pause between rounds through the addresses; doubles up to `reconnect_max`, each drawn from 0 to that. Default
    /// 100 ms. It does not grow after a server said that it cannot serve this worker now.
    pub reconnect_first: Duration,
    /// Longest pause between attempts to connect. Default 5 s.
    pub reconnect_max: Duration,
    /// Longest pause after a server refused the token or the protocol version. Default 30 s.
    pub refused_max: Duration,
    /// A worker whose token is not accepted for so long aborts what it runs: nobody would take the results, and the
    /// server has given the work to others. Default 60 s.
    pub unauthorized_abort: Duration,
    /// Logs that the server does not acknowledge are dropped so long after their attempt ended. Default 5 min.
    pub log_linger: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Timing {
            started_after: Duration::from_millis(100),
            kill_moment: Duration::from_secs(1),
            report_again: Duration::from_secs(10),
            hand_back_grace: Duration::from_secs(5),
            listen_on: Duration::from_millis(200),
            farewell: Duration::from_secs(5),
            connect_timeout: Duration::from_secs(5),
            head_start: Duration::from_secs(1),
            welcome_timeout: Duration::from_secs(12),
            reconnect_first: Duration::from_millis(100),
            reconnect_max: Duration::from_secs(5),
            refused_max: Duration::from_secs(30),
            unauthorized_abort: Duration::from_secs(60),
            log_linger: Duration::from_secs(300),
        }
    }
}

/// Settings of a [`Worker`]; made by [`Worker::builder`].
pub struct WorkerBuilder {
    servers: Vec<String>,
    app: Option<String>,
    token: String,
    name: Option<String>,
    version: String,
    labels: BTreeMap<String, String>,
    slots: u32,
    handlers: HashMap<String, Arc<dyn Handler>>,
    duplicate: Option<String>,
    tls: Tls,
    drain_budget: Duration,
    give_up_after: Option<Duration>,
    log_bytes: usize,
    log_bytes_total: usize,
    disk: PathBuf,
    timing: Timing,
}

impl WorkerBuilder {
    /// One more server to try when the others do not answer; or several, separated by commas.
    pub fn server(mut self, url: impl Into<String>) -> Self {
        self.servers.push(url.into());
        self
    }

    /// Name of the app to serve. The token names it too; a server refuses the worker when both differ.
    pub fn app(mut self, app: impl Into<String>) -> Self {
        self.app = Some(app.into());
        self
    }

    /// The worker token of the app.
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.token = token.into();
        self
    }

    /// Name of this worker, by which jobs may choose it. Default: the host's.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Version of your software, shown to people. Default: this SDK's.
    pub fn version(mut self, version: impl Into<String>) -> Self {
        self.version = version.into();
        self
    }

    /// A label by which jobs may choose this worker.
    pub fn label(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.labels.insert(key.into(), value.into());
        self
    }

    /// How many tasks may run at once. Default 16.
    pub fn slots(mut self, slots: u32) -> Self {
        self.slots = slots;
        self
    }

    /// Registers the code for a processor name.
    pub fn handler(mut self, processor: impl Into<String>, handler: impl Handler) -> Self {
        let processor = processor.into();
        if self.handlers.insert(processor.clone(), Arc::new(handler)).is_some() {
            self.duplicate = Some(processor);
        }
        self
    }

    /// Certificates (PEM) to trust for `https` servers, besides the system's.
    pub fn ca_certificate(mut self, pem: impl AsRef<[u8]>) -> Self {
        self.tls.ca_certificates.push(pem.as_ref().to_vec());
        self
    }

    /// The name to expect in the servers' certificates. Default: the host of the URL.
    pub fn tls_domain(mut self, domain: impl Into<String>) -> Self {
        self.tls.domain = Some(domain.into());
        self
    }

    /// How long running tasks may go on after the first shutdown signal. Default 30 s.
    pub fn drain_budget(mut self, budget: Duration) -> Self {
        self.drain_budget = budget;
        self
    }

    /// Return an error when no server accepted the worker for so long. Default: try for ever.
    pub fn give_up_after(mut self, patience: Duration) -> Self {
        self.give_up_after = Some(patience);
        self
    }

    /// Bytes of log that one attempt, and all together, may have unacknowledged. Default 1 MiB and 64 MiB; at least
    /// 128 KiB each.
    pub fn log_bytes(mut self, per_attempt: usize, total: usize) -> Self {
        (self.log_bytes, self.log_bytes_total) = (per_attempt, total);
        self
    }

    /// The directory whose file system is reported in the metrics. Default: the working directory.
    pub fn disk(mut self, directory: impl Into<PathBuf>) -> Self {
        self.disk = directory.into();
        self
    }

    /// Other periods than the usual.
    pub fn timing(mut self, timing: Timing) -> Self {
        self.timing = timing;
        self
    }

    /// Checks the settings. Does not connect.
    ///
    /// # Errors
    /// [`WorkerError::Setting`] for what no server would accept.
    pub fn build(self) -> Result<Worker, WorkerError> {
        if let Some(processor) = self.duplicate {
            return Err(WorkerError::setting("handler", format!("`{processor}` is registered twice")));
        }
        const LEAST_LOG: usize = 128 * 1024;
        if self.log_bytes < LEAST_LOG || self.log_bytes_total < LEAST_LOG {
            return Err(WorkerError::setting("log_bytes", format!("at least {LEAST_LOG}")));
        }
        let hello = v1::Hello {
            protocol_min: pendula_wire::PROTOCOL_MIN,
            protocol_max: pendula_wire::PROTOCOL_MAX,
            capabilities: pendula_wire::CAPABILITIES.iter().map(|&name| name.to_owned()).collect(),
            name: self.name.unwrap_or_else(host_name),
            boot_id: rand::random_range(1..=u64::MAX),
            version: self.version,
            processors: self.handlers.keys().cloned().collect(),
            labels: self.labels,
            slots: self.slots,
            ..v1::Hello::default()
        };
        // The server's own check, so that its refusals come at build time.
        pendula_wire::hello::worker_info(&hello, String::new())
            .map_err(|refused| WorkerError::setting(setting_of(refused.field), refused.why))?;
        if let Some(app) = &self.app {
            limits::check_name("", app).map_err(|refused| WorkerError::setting("app", refused.message))?;
        }
        let dialer = Dialer::new(&self.servers, &self.token, self.app.as_deref(), self.tls, &self.timing)?;
        let settings = Settings {
            hello,
            handlers: self.handlers,
            drain_budget: self.drain_budget,
            give_up_after: self.give_up_after,
            log_bytes: self.log_bytes,
            log_bytes_total: self.log_bytes_total,
            timing: self.timing,
        };
        Ok(Worker { settings, dialer, probe: HostProbe::of_this_host(self.disk) })
    }
}

fn setting_of(field: &'static str) -> &'static str {
    match field {
        "processors" => "handler",
        "labels" => "label",
        other => other,
    }
}

#[cfg(unix)]
fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

#[cfg(not(unix))]
fn host_name() -> String {
    std::env::var("COMPUTERNAME").unwrap_or_else(|_| "worker".to_owned())
}

/// What the loop needs to know.
pub(crate) struct Settings {
    /// Who we are; metrics and what is held are filled in for each connection.
    pub(crate) hello: v1::Hello,
    pub(crate) handlers: HashMap<String, Arc<dyn Handler>>,
    pub(crate) drain_budget: Duration,
    pub(crate) give_up_after: Option<Duration>,
    pub(crate) log_bytes: usize,
    pub(crate) log_bytes_total: usize,
    pub(crate) timing: Timing,
}

/// A process that runs tasks for one app.
pub struct Worker {
    settings: Settings,
    dialer: Dialer,
    probe: HostProbe,
}

impl Worker {
    /// A worker for the server at `url`: `http://host:port`, or `https://` for TLS; or for any of several, separated by
    /// commas. The address of a load balancer in front of all servers is enough. What servers tell of others is used when
    /// none of these can be reached.
    pub fn builder(url: impl Into<String>) -> WorkerBuilder {
        WorkerBuilder {
            servers: vec![url.into()],
            app: None,
            token: String::new(),
            name: None,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            labels: BTreeMap::new(),
            slots: 16,
            handlers: HashMap::new(),
            duplicate: None,
            tls: Tls::default(),
            drain_budget: Duration::from_secs(30),
            give_up_after: None,
            log_bytes: 1024 * 1024,
            log_bytes_total: 64 * 1024 * 1024,
            disk: PathBuf::from("."),
            timing: Timing::default(),
        }
    }

    /// Connects, serves and reconnects until `shutdown` or a server's drain request, then drains: takes nothing new,
    /// lets running tasks finish within the budget, hands back the rest, waits a few seconds for acknowledgements.
    ///
    /// # Errors
    /// [`WorkerError::Unreachable`], only with [`WorkerBuilder::give_up_after`]. Lost connections, refused tokens and
    /// unknown protocol versions are logged and tried again.
    pub async fn run(self, shutdown: Shutdown) -> Result<Summary, WorkerError> {
        // `shutdown` lives as long as the loop does: a switch that nobody holds is never thrown.
        Hand::new(self.settings, self.dialer, self.probe, shutdown.watch()).run().await
    }
}
