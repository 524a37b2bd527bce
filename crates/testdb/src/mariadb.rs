//! MariaDB servers, for what reads databases of other programs.

use std::fs::{File, OpenOptions};
use std::io::{Seek, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::guardian::Guardian;
use crate::install::{own, run, unprivileged};
use crate::{ROLE, control};

/// What a server lets in with the role that may do everything.
const PASSWORD: &str = "a secret?";
/// Databases that are made with a server: without a client there is no other moment.
const DATABASES: u32 = 64;
/// Between two looks at the log, and how long a start may take.
const LOOK: Duration = Duration::from_millis(20);
const PATIENCE: Duration = Duration::from_secs(60);
/// Beside its data, as for PostgreSQL.
const PID_FILE: &str = "mariadb.pid";

/// A MariaDB server on the loopback address, which goes with its directory when the process ends in whatever way.
pub struct MariaDb {
    port: u16,
    process: Child,
    databases: AtomicU32,
    // Last: the directory goes when the server has stopped.
    guardian: Guardian,
}

impl MariaDb {
    /// The server that all tests of this process share: made at the first call.
    pub fn shared() -> &'static MariaDb {
        static SHARED: OnceLock<MariaDb> = OnceLock::new();
        SHARED.get_or_init(MariaDb::start)
    }

    /// A server of one's own.
    pub fn start() -> MariaDb {
        let program = program();
        let user = unprivileged();
        let guardian = Guardian::new(user, PID_FILE);
        let directory = guardian.directory();
        let data = directory.join("data");
        std::fs::create_dir(&data).expect("a directory of ours");
        own(&data, user);
        let command = |arguments: &[&str]| {
            let mut command = Command::new(&program);
            if let Some((user, group)) = user {
                command.uid(user).gid(group);
            }
            command.arg("--no-defaults").arg(option("datadir", &data)).args(SETTINGS).args(arguments);
            command.process_group(0).stdin(Stdio::null()).current_dir("/");
            command
        };
        run(command(&["--bootstrap"]).stdin(tables(directory)));

        let begin = directory.join("begin.sql");
        std::fs::write(&begin, statements()).expect("a directory of ours");
        own(&begin, user);
        let port = control::free_port();
        let log = directory.join("log");
        let file = OpenOptions::new().create(true).append(true).open(&log).expect("the log can be written");
        let errors = file.try_clone().expect("a file can be shared");
        let mut server = command(&["--bind-address=127.0.0.1", &format!("--port={port}")]);
        server
            .arg(option("init-file", &begin))
            .arg(option("pid-file", &data.join(PID_FILE)))
            .arg(option("socket", &directory.join("socket")));
        let spawned = server.stdout(Stdio::from(file)).stderr(Stdio::from(errors)).spawn();
        let mut process = spawned.unwrap_or_else(|error| panic!("cannot start {server:?}: {error}"));
        let began = Instant::now();
        loop {
            let said = std::fs::read_to_string(&log).unwrap_or_default();
            if said.contains("ready for connections") {
                break;
            }
            let ended = process.try_wait().expect("a child can be asked");
            assert!(ended.is_none() && began.elapsed() < PATIENCE, "MariaDB did not start:\n{said}");
            sleep(LOOK);
        }
        MariaDb { port, process, databases: AtomicU32::new(0), guardian }
    }

    /// The URL of a fresh, empty database. It stays until the server goes.
    pub fn database(&self) -> String {
        let number = self.databases.fetch_add(1, Ordering::Relaxed);
        assert!(number < DATABASES, "a server has {DATABASES} databases");
        self.url(&format!("test_{number}"))
    }

    /// The URL of a database of that name, whether there is one or not.
    pub fn url(&self, database: &str) -> String {
        format!(
            "mysql://{ROLE}:{}@127.0.0.1:{}/{database}",
            PASSWORD.replace(' ', "%20").replace('?', "%3F"),
            self.port
        )
    }

    /// Process id of the server.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// What the server writes about itself.
    pub fn log(&self) -> PathBuf {
        self.guardian.directory().join("log")
    }
}

impl Drop for MariaDb {
    fn drop(&mut self) {
        // Nobody needs what is in it.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Small, and without what a throw-away server does not need. Nothing has to survive a power cut.
const SETTINGS: [&str; 5] = [
    "--innodb-buffer-pool-size=32M",
    "--innodb-log-file-size=16M",
    "--innodb-flush-log-at-trx-commit=0",
    "--skip-name-resolve",
    "--character-set-server=utf8mb4",
];

fn option(name: &str, path: &Path) -> String {
    format!("--{name}={}", path.display())
}

/// `PENDULA_MARIADB_BIN` is the directory of `mariadbd`, or it is where Debian's package has it, or in `PATH`.
fn program() -> PathBuf {
    let named = std::env::var_os("PENDULA_MARIADB_BIN").map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = named.into_iter().chain([PathBuf::from("/usr/sbin")]).chain(std::env::split_paths(&path));
    places.map(|place| place.join("mariadbd")).find(|program| program.exists()).unwrap_or_else(|| {
        panic!(
            "this test needs the server of MariaDB (mariadbd): `apt-get install mariadb-server-core` on Debian or Ubuntu, or \
             name its directory in PENDULA_MARIADB_BIN"
        )
    })
}

/// The statements that make the system's own tables, as a file to read from.
fn tables(directory: &Path) -> Stdio {
    let share = ["/usr/share/mysql", "/usr/share/mariadb"];
    let share = share.iter().map(Path::new).find(|share| share.join("mysql_system_tables.sql").exists());
    let share = share.expect("mysql_system_tables.sql comes with the server of MariaDB");
    let path = directory.join("tables.sql");
    let mut file =
        File::options().create(true).truncate(true).read(true).write(true).open(&path).expect("a file of ours");
    let mut write = |text: &[u8]| file.write_all(text).expect("a file of ours");
    write(b"create database mysql;\nuse mysql;\n");
    for part in ["mysql_system_tables.sql", "mysql_system_tables_data.sql"] {
        write(&std::fs::read(share.join(part)).expect("the package is complete"));
    }
    file.rewind().expect("a file of ours");
    Stdio::from(file)
}

/// One statement a line.
fn statements() -> String {
    let mut text: String = (0..DATABASES).map(|number| format!("CREATE DATABASE test_{number};\n")).collect();
    text.push_str(&format!("CREATE USER '{ROLE}'@'%' IDENTIFIED BY '{PASSWORD}';\n"));
    text.push_str(&format!("GRANT ALL ON *.* TO '{ROLE}'@'%';\n"));
    text
}
