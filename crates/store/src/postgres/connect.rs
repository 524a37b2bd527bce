//! From a URL to connections with the primary, whichever of the hosts that is now.
//!
//! Nothing here has to be repeated when the database was away: whoever asks a [`Lane`] for a connection gets a new one as
//! soon as there is a primary again.
//!
//! A connection is a session with settings and prepared statements of its own. A proxy in between must leave it that (pool
//! by session, not by transaction or statement).

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use deadpool_postgres::{ClientWrapper, Connect, Manager, Object, Pool, PoolError, Runtime, TimeoutType, Timeouts};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::task::JoinHandle;
use tokio_postgres::config::TargetSessionAttrs;
use tokio_postgres::{Client, Config, NoTls};

use super::refusal::Refusal;
use super::tls::Tls;
use super::url::{Place, Url};
use crate::port::StoreError;

/// Until a host has taken a connection, where the URL does not say otherwise.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Until a connection can be used: also one that a host took in whose database then says nothing.
const ATTEMPT: Duration = Duration::from_secs(5);

/// So long a host may keep the next one waiting. A primary that vanished without a word must not cost its successor a
/// whole timeout.
const STAGGER: Duration = Duration::from_millis(500);

/// A connection whose other end has gone without a word is noticed after about as long: what was sent is not
/// acknowledged, or nothing answers the probes that are sent where nothing happens.
const SILENCE: Duration = Duration::from_secs(5);

/// How long a caller waits for one of the connections of a [`Lane`] that are all in use.
const WAIT: Duration = Duration::from_secs(5);

/// How the planner is told to think, where it has these settings. Each of our statements has an index by which it should
/// seek row after row; but its plan is made when a table may be empty yet, and kept for as long as the session lasts, and of
/// the number of rows in an array the planner knows nothing.
const PLANNING: &str = "
    SELECT set_config(wanted.name, wanted.value, FALSE)
    FROM (SELECT 'enable_seqscan' AS name, 'off' AS value UNION ALL SELECT 'enable_hashjoin', 'off'
          UNION ALL SELECT 'enable_mergejoin', 'off' UNION ALL SELECT 'enable_bitmapscan', 'off'
          UNION ALL SELECT 'random_page_cost', '1.1' UNION ALL SELECT 'plan_cache_mode', 'force_generic_plan'
          UNION ALL SELECT 'jit', 'off') AS wanted
    JOIN pg_settings ON pg_settings.name = wanted.name";

/// What a session may do to others: by these a client that vanished, or a statement that went wrong, lets go of its locks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// `statement_timeout`; zero for none.
    pub statement: Duration,
    /// `lock_timeout`; zero for none.
    pub lock: Duration,
    /// `idle_in_transaction_session_timeout`; zero for none.
    pub idle_in_transaction: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            statement: Duration::from_secs(10),
            lock: Duration::from_secs(4),
            idle_in_transaction: Duration::from_secs(5),
        }
    }
}

impl Limits {
    /// For migrations and checks, which may take as long as they take once they have what they wait for.
    pub const UPKEEP: Limits = Limits {
        statement: Duration::ZERO,
        lock: Duration::from_secs(10),
        idle_in_transaction: Duration::from_secs(60),
    };

    /// What a new session is told. UTC, so that whatever the server shows of times is the same everywhere.
    fn sql(self) -> String {
        format!(
            "SET timezone = 'UTC'; SET statement_timeout = {}; SET lock_timeout = {}; \
             SET idle_in_transaction_session_timeout = {}; {PLANNING}",
            self.statement.as_millis(),
            self.lock.as_millis(),
            self.idle_in_transaction.as_millis()
        )
    }
}

/// A database and how to reach it. Cheap to clone; shows itself without the password.
#[derive(Clone)]
pub(crate) struct Database {
    shared: Arc<Shared>,
}

struct Shared {
    url: Url,
    /// One for each host of the URL.
    hosts: Vec<Config>,
    tls: Tls,
    /// Which of them was the primary at last.
    primary: AtomicUsize,
}

impl Database {
    /// Understands a URL and reads the files that it names; connects to nobody.
    ///
    /// # Errors
    ///
    /// [`StoreError::Refused`], without any part of the URL that may be secret.
    pub fn new(url: &str) -> Result<Database, StoreError> {
        let url = Url::parse(url).map_err(StoreError::Refused)?;
        let tls = Tls::new(&url.tls).map_err(|why| StoreError::Refused(format!("{url}: {why}")))?;
        let hosts = url.hosts.iter().map(|(host, port)| config(&url, host, *port)).collect();
        Ok(Database { shared: Arc::new(Shared { url, hosts, tls, primary: AtomicUsize::new(0) }) })
    }

    /// A connection of one's own, outside of any lane.
    ///
    /// # Errors
    ///
    /// [`StoreError::Refused`] when trying again cannot help before somebody changed something (the password, the name of
    /// the database), otherwise [`StoreError::Unavailable`]; both with what to do.
    pub async fn session(&self, limits: Limits) -> Result<ClientWrapper, StoreError> {
        match self.shared.connect(limits).await {
            Ok((client, task)) => Ok(ClientWrapper::new(client, task)),
            Err(refusals) => {
                let why = self.shared.explain(&refusals);
                let is_final = refusals.iter().all(|refusal| refusal.is_final);
                Err(if is_final { StoreError::Refused(why) } else { StoreError::Unavailable { why } })
            }
        }
    }

    /// At most `size` connections for one kind of work, opened when they are needed.
    pub fn lane(&self, size: usize, limits: Limits) -> Lane {
        let why = Arc::default();
        let connector = Connector { shared: self.shared.clone(), limits, why: Arc::clone(&why) };
        let manager = Manager::from_connect(Config::new(), connector, deadpool_postgres::ManagerConfig::default());
        // The connector has its own deadlines, and nothing is asked of a connection that comes back.
        let timeouts = Timeouts { wait: Some(WAIT), ..Timeouts::default() };
        let pool = Pool::builder(manager).max_size(size).timeouts(timeouts).runtime(Runtime::Tokio1).build();
        Lane { pool: pool.expect("it has a runtime"), size, why }
    }
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.shared.url)
    }
}

impl fmt::Display for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.shared.url)
    }
}

/// What the driver needs to know to try one host.
fn config(url: &Url, host: &str, port: u16) -> Config {
    let mut config = Config::new();
    config
        .host(host)
        .port(port)
        .application_name(url.application_name.as_deref().unwrap_or("pendula"))
        .connect_timeout(url.connect_timeout.unwrap_or(CONNECT_TIMEOUT))
        .tcp_user_timeout(SILENCE)
        .keepalives_idle(Duration::from_secs(2))
        .keepalives_interval(Duration::from_secs(1))
        .keepalives_retries(3)
        .target_session_attrs(TargetSessionAttrs::ReadWrite)
        .ssl_negotiation(url.negotiation)
        .channel_binding(url.channel_binding);
    // What goes through a file does not leave the machine.
    let is_socket = host.starts_with('/');
    config.ssl_mode(if is_socket { tokio_postgres::config::SslMode::Disable } else { url.tls.mode.driver() });
    if let Some(user) = &url.user {
        config.user(user);
    }
    if let Some(password) = &url.password {
        config.password(password);
    }
    if let Some(database) = &url.database {
        config.dbname(database);
    }
    if let Some(options) = &url.options {
        config.options(options);
    }
    config
}

impl Shared {
    /// Tries the hosts, beginning with the one that was the primary at last, until one of them is.
    async fn connect(&self, limits: Limits) -> Result<(Client, JoinHandle<()>), Vec<Refusal>> {
        let first = self.primary.load(Ordering::Relaxed);
        let count = self.hosts.len();
        let mut others = (0..count).map(|index| (first + index) % count).peekable();
        let (mut attempts, mut refusals) = (FuturesUnordered::new(), Vec::new());
        loop {
            attempts.extend(others.next().map(|index| self.attempt(index, limits)));
            let outcome = if others.peek().is_some() {
                // One that says nothing goes on trying beside the next one.
                let Ok(outcome) = tokio::time::timeout(STAGGER, attempts.next()).await else { continue };
                outcome
            } else {
                attempts.next().await
            };
            match outcome {
                Some(Ok(connection)) => return Ok(connection),
                Some(Err(refusal)) => refusals.push(refusal),
                None => return Err(refusals),
            }
        }
    }

    async fn attempt(&self, index: usize, limits: Limits) -> Result<(Client, JoinHandle<()>), Refusal> {
        let deadline = self.url.connect_timeout.unwrap_or_default().max(ATTEMPT);
        let (host, port) = &self.url.hosts[index];
        let place = Place { host, port: *port };
        let connect = async {
            let (client, connection) = self.hosts[index].connect(self.tls.clone()).await?;
            let task = tokio::spawn(async move {
                if let Err(error) = connection.await {
                    tracing::debug!(%error, "a connection to the database ended");
                }
            });
            client.batch_execute(&limits.sql()).await?;
            Ok((client, task))
        };
        match tokio::time::timeout(deadline, connect).await {
            Ok(Ok(connection)) => {
                self.primary.store(index, Ordering::Relaxed);
                Ok(connection)
            }
            Ok(Err(error)) => Err(Refusal::of(&place, &self.url, error)),
            Err(_) => Err(Refusal::silence(&place, deadline)),
        }
    }

    fn explain(&self, refusals: &[Refusal]) -> String {
        let all: Vec<_> = refusals.iter().map(|refusal| refusal.text.as_str()).collect();
        format!("cannot use the database {}: {}", self.url, all.join("; "))
    }
}

/// Some connections for one kind of work, which does not wait for other kinds.
#[derive(Clone)]
pub(crate) struct Lane {
    pool: Pool,
    size: usize,
    /// Why the last attempt to connect failed.
    why: Arc<Mutex<String>>,
}

impl Lane {
    /// A connection, which goes back when it is dropped. Whoever leaves it in the middle of something takes it out first
    /// ([`Object::take`]).
    ///
    /// # Errors
    ///
    /// [`StoreError::Unavailable`] when there is no primary, or all connections have been in use for seconds.
    pub async fn get(&self) -> Result<Object, StoreError> {
        let why = match self.pool.get().await {
            Ok(connection) => return Ok(connection),
            Err(PoolError::Timeout(TimeoutType::Wait)) => format!(
                "all {} connections to the database for this have been in use for {} s: it is overloaded or stuck",
                self.size,
                WAIT.as_secs()
            ),
            Err(PoolError::Backend(_)) => self.why.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            Err(error) => error.to_string(),
        };
        Err(StoreError::Unavailable { why })
    }

    /// Closes the connections that nobody uses. For when one of them turned out to lead to a server that is no primary any
    /// more.
    pub fn forget_idle(&self) {
        self.pool.retain(|_, _| false);
    }
}

/// Opens connections for a lane.
struct Connector {
    shared: Arc<Shared>,
    limits: Limits,
    why: Arc<Mutex<String>>,
}

impl Connect for Connector {
    fn connect(&self, _: &Config) -> Pin<Box<dyn Future<Output = ConnectResult> + Send + '_>> {
        Box::pin(async move {
            let refusals = match self.shared.connect(self.limits).await {
                Ok(connection) => return Ok(connection),
                Err(refusals) => refusals,
            };
            *self.why.lock().unwrap_or_else(PoisonError::into_inner) = self.shared.explain(&refusals);
            // The pool wants an error of the driver, which only the driver can make: one with no host to connect to.
            match Config::new().connect(NoTls).await {
                Err(error) => Err(error),
                Ok(_) => unreachable!("nobody is connected to without a host"),
            }
        })
    }
}

type ConnectResult = Result<(Client, JoinHandle<()>), tokio_postgres::Error>;

#[cfg(test)]
mod tests;
