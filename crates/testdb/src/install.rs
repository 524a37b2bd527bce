//! Which PostgreSQL, and as whom it runs.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use crate::ROLE;
use crate::guardian::Guardian;

/// Programs of one version of PostgreSQL.
pub(crate) struct Install {
    bin: PathBuf,
    major: u32,
    /// User and group of the server, when we are root, as whom it refuses to run.
    user: Option<(u32, u32)>,
}

impl Install {
    /// `PENDULA_POSTGRES_BIN`, or the newest that Debian's packages installed, or what `PATH` has.
    pub fn find() -> &'static Install {
        static FOUND: OnceLock<Install> = OnceLock::new();
        FOUND.get_or_init(|| {
            let bin = std::env::var_os("PENDULA_POSTGRES_BIN").map(PathBuf::from).or_else(newest_package).or_else(in_path);
            let Some(bin) = bin.filter(|bin| bin.join("initdb").exists()) else {
                panic!(
                    "tests need the programs of PostgreSQL 13 or later (initdb, postgres): `apt-get install postgresql` on \
                     Debian or Ubuntu, or name their directory in PENDULA_POSTGRES_BIN"
                );
            };
            Install { major: major(&bin), user: unprivileged(), bin }
        })
    }

    /// One of its programs, to be run as the server's user.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.bin.join(program));
        if let Some((user, group)) = self.user {
            command.uid(user).gid(group);
        }
        // Of its own group: who interrupts the tests leaves the end to the guardian. What others set for PostgreSQL's
        // programs is not meant for us.
        command.process_group(0).stdin(Stdio::null()).current_dir("/");
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"PG")) {
            command.env_remove(name);
        }
        command
    }

    /// Gives a file or directory to the server's user.
    pub fn own(&self, path: &Path) {
        own(path, self.user);
    }

    /// A guardian of a server of this version.
    pub fn guardian(&self) -> Guardian {
        Guardian::new(self.user, "postmaster.pid")
    }

    pub fn initdb(&self, data: &Path) {
        let mut command = self.command("initdb");
        command.args(["--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync", "--username", ROLE, "--pgdata"]);
        command.arg(data);
        if self.major >= 15 {
            command.args(["--locale-provider=icu", "--icu-locale=en-US"]);
        }
        run(&mut command);
    }

    pub fn query(&self, port: u16, database: &str, sql: &str) -> String {
        let mut command = self.command("psql");
        command.args(["--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--set=ON_ERROR_STOP=1"]);
        command.args(["--host=127.0.0.1", "--username", ROLE, "--dbname", database, "--command", sql]);
        command.arg(format!("--port={port}"));
        run(&mut command).trim_end().to_owned()
    }
}

/// Waits for the program and returns what it printed.
///
/// # Panics
///
/// When it fails, with what it complained about.
pub(crate) fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
    let (printed, complaint) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?} failed ({}):\n{printed}{complaint}", output.status);
    printed.into_owned()
}

fn newest_package() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?.flatten();
    let version = |path: &PathBuf| path.file_name()?.to_str()?.parse::<u32>().ok();
    let newest =
        versions.map(|entry| entry.path()).filter(|path| path.join("bin/initdb").exists()).max_by_key(version)?;
    Some(newest.join("bin"))
}

fn in_path() -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?).find(|directory| directory.join("initdb").exists())
}

/// From `postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)`.
fn major(bin: &Path) -> u32 {
    let version = run(Command::new(bin.join("postgres")).arg("--version"));
    let number = version.split_whitespace().nth(2).and_then(|version| version.split(['.', 'b', 'd', 'r']).next());
    number.and_then(|major| major.parse().ok()).unwrap_or_else(|| panic!("cannot tell the version from {version:?}"))
}

/// Gives a file or directory to a user and group.
pub(crate) fn own(path: &Path, user: Option<(u32, u32)>) {
    if let Some((user, group)) = user {
        std::os::unix::fs::chown(path, Some(user), Some(group)).expect("root may give away what it has");
    }
}

/// Whom a server runs as when we are root, as whom it refuses to.
pub(crate) fn unprivileged() -> Option<(u32, u32)> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let users = std::fs::read_to_string("/etc/passwd").expect("/etc/passwd is readable");
    let of = |name: &str| {
        let mut fields = users.lines().find(|line| line.split(':').next() == Some(name))?.split(':').skip(2);
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    };
    let user = of("postgres").or_else(|| of("nobody"));
    Some(user.expect("a database does not run as root, and there is no user postgres or nobody to run it as"))
}
