//! PostgreSQL servers for tests, and MariaDB's to import from: made in a temporary directory, gone with the process that
//! asked for them.
//!
//! They are set up to be unlike a developer's machine where that could hide a mistake: the time zone is not UTC and texts
//! do not sort by their bytes (where the version can do that). All calls block, and panic when something does not work,
//! with what to do about it.

mod control;
mod guardian;
mod install;
mod mariadb;
mod replica;

use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use guardian::Guardian;
use install::Install;
pub use mariadb::MariaDb;

/// The role that may do everything; it needs no password.
const ROLE: &str = "pendula";

/// A PostgreSQL server on the loopback address. Dropping it stops it and deletes its directory; the same happens when the
/// process ends in whatever way.
pub struct Postgres {
    install: &'static Install,
    port: u16,
    process: Mutex<Option<Child>>,
    databases: AtomicU32,
    replicas: AtomicU32,
    // Last: the directory goes when the server has stopped.
    guardian: Guardian,
}

impl Postgres {
    /// The server that all tests of this process share: made at the first call. Whoever stops, kills or reconfigures it
    /// takes one of their own ([`Postgres::start`]).
    pub fn shared() -> &'static Postgres {
        static SHARED: OnceLock<Postgres> = OnceLock::new();
        SHARED.get_or_init(Postgres::start)
    }

    /// A server of one's own.
    pub fn start() -> Postgres {
        let install = Install::find();
        let guardian = install.guardian();
        install.initdb(&data_of(&guardian));
        Postgres::run(install, guardian, SETTINGS)
    }

    /// Takes the port and starts what lies in the directory, with `settings` added to its configuration.
    fn run(install: &'static Install, guardian: Guardian, settings: &str) -> Postgres {
        let port = control::free_port();
        control::configure(&data_of(&guardian), &format!("{settings}port = {port}\n"));
        let server = Postgres {
            install,
            port,
            process: Mutex::new(None),
            databases: AtomicU32::new(0),
            replicas: AtomicU32::new(0),
            guardian,
        };
        server.start_again();
        server
    }

    /// The URL of a fresh, empty database. It stays until the server goes.
    pub fn database(&self) -> String {
        let name = format!("test_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        self.query("postgres", &format!("CREATE DATABASE {name} TEMPLATE template0"));
        self.url(&name)
    }

    /// The URL of a database of that name, whether there is one or not.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://{ROLE}@127.0.0.1:{}/{database}", self.port)
    }

    /// Runs SQL in a database of that name by `psql`. Returns a line per row, columns separated by `|`.
    pub fn query(&self, database: &str, sql: &str) -> String {
        self.install.query(self.port, database, sql)
    }

    /// Process id of the server.
    ///
    /// # Panics
    ///
    /// When it is stopped.
    pub fn pid(&self) -> u32 {
        self.process().as_ref().expect("the PostgreSQL server runs").id()
    }

    /// Stays the same when the server is started again.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// What the server writes about itself.
    pub fn log(&self) -> PathBuf {
        self.guardian.directory().join("log")
    }

    fn process(&self) -> MutexGuard<'_, Option<Child>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn data(&self) -> PathBuf {
        data_of(&self.guardian)
    }
}

fn data_of(guardian: &Guardian) -> PathBuf {
    let directory: &Path = guardian.directory();
    directory.join("data")
}

/// Durable as in production, small in memory, open for many tests at once.
const SETTINGS: &str = "\
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
max_connections = 200
shared_buffers = 32MB
max_wal_size = 256MB
fsync = on
synchronous_commit = on
timezone = 'Asia/Kolkata'
log_timezone = 'UTC'
log_line_prefix = '%m [%p] %d %a '
";
