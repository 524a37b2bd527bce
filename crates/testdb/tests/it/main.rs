//! The throw-away servers.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use pendula_testdb::{MariaDb, Postgres};

/// The part of a URL after the last slash.
fn name(url: &str) -> &str {
    url.rsplit_once('/').expect("a URL names a database").1
}

#[test]
fn databases_are_fresh_and_apart() {
    let server = Postgres::shared();
    let (first, second) = (server.database(), server.database());
    assert_ne!(first, second);
    server.query(name(&first), "CREATE TABLE t (a int)");
    let count = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'";
    assert_eq!((server.query(name(&first), count), server.query(name(&second), count)), ("1".into(), "0".into()));
    assert_eq!(server.query(name(&first), "SHOW timezone"), "Asia/Kolkata");
    if server.query(name(&first), "SELECT current_setting('server_version_num')::int >= 150000") == "t" {
        assert_eq!(server.query(name(&first), "SELECT 'a' < 'B'"), "t", "texts sort by their bytes");
    }
}

#[test]
fn what_was_committed_outlives_every_kind_of_end() {
    let server = Postgres::start();
    let (url, port) = (server.database(), server.port());
    let database = name(&url);
    server.query(database, "CREATE TABLE t (a int)");
    let ends: [fn(&Postgres); 3] = [
        |server| {
            server.stop();
            server.start_again();
        },
        |server| {
            server.kill();
            server.start_again();
        },
        Postgres::restart_immediately,
    ];
    for (number, end) in ends.into_iter().enumerate() {
        let before = server.pid();
        server.query(database, &format!("INSERT INTO t VALUES ({number})"));
        end(&server);
        assert_ne!(server.pid(), before);
        assert_eq!(server.port(), port);
        assert_eq!(server.query(database, "SELECT count(*) FROM t"), (number + 1).to_string());
    }
}

#[test]
fn a_standby_has_what_was_acknowledged_and_takes_over() {
    let server = Postgres::start();
    let url = server.database();
    let standby = server.standby();
    assert!(standby.is_standby() && !server.is_standby());
    server.query(name(&url), "CREATE TABLE t AS SELECT 7 AS a");
    server.kill();
    standby.promote();
    assert!(!standby.is_standby());
    assert_eq!(standby.query(name(&url), "SELECT a FROM t"), "7");
    // It waits for no replica of its own.
    standby.query(name(&url), "INSERT INTO t VALUES (8)");
}

/// The test below starts this test alone in a process, and kills that.
#[test]
fn owner() {
    let Some(file) = std::env::var_os("TESTDB_OWNER").map(PathBuf::from) else { return };
    // In a thread that ends before the process does: this is how tests run.
    let (pid, log) = if std::env::var_os("TESTDB_MARIADB").is_some() {
        let server = std::thread::spawn(MariaDb::start).join().expect("it starts");
        (server.pid(), Box::leak(Box::new(server)).log())
    } else {
        let server = std::thread::spawn(Postgres::start).join().expect("it starts");
        (server.pid(), Box::leak(Box::new(server)).log())
    };
    let directory = log.parent().expect("the log is in it").display();
    std::fs::write(file.with_extension("new"), format!("{pid}\n{directory}")).unwrap();
    std::fs::rename(file.with_extension("new"), file).unwrap();
    loop {
        std::thread::park();
    }
}

#[test]
fn nothing_is_left_of_a_killed_owner() {
    is_left_without_owner(&[]);
    is_left_without_owner(&[("TESTDB_MARIADB", "yes")]);
}

/// Kills the owner of a server, which then has to go by itself.
fn is_left_without_owner(environment: &[(&str, &str)]) {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("owner");
    let mut owner = Command::new(std::env::current_exe().unwrap())
        .args(["owner", "--exact"])
        .env("TESTDB_OWNER", &file)
        .envs(environment.iter().copied())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let told = loop {
        if let Ok(told) = std::fs::read_to_string(&file) {
            break told;
        }
        assert!(owner.try_wait().unwrap().is_none(), "the owner ended by itself");
        std::thread::sleep(Duration::from_millis(10));
    };
    let (pid, place) = told.split_once('\n').unwrap();
    let is_running = || std::fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.contains(place));
    assert!(is_running() && PathBuf::from(place).exists());
    owner.kill().unwrap();
    owner.wait().unwrap();
    let began = Instant::now();
    while is_running() || PathBuf::from(place).exists() {
        assert!(began.elapsed() < Duration::from_secs(10), "{pid} in {place} outlived its owner");
        std::thread::sleep(Duration::from_millis(10));
    }
}
