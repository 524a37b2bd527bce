use std::net::{Ipv4Addr, TcpListener};
use std::time::Instant;

use pendula_testdb::Postgres;

use super::*;

async fn ask(database: &Database, sql: &str) -> String {
    let session = database.session(Limits::default()).await.unwrap();
    session.query_one(sql, &[]).await.unwrap().get(0)
}

fn unavailable<T>(result: Result<T, StoreError>) -> String {
    match result {
        Err(StoreError::Unavailable { why }) => why,
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("there is a connection"),
    }
}

/// What is said about a session that must not come about before somebody changed something.
async fn refused(url: &str) -> String {
    match Database::new(url).unwrap().session(Limits::default()).await {
        Err(StoreError::Refused(text)) => text,
        Err(other) => panic!("{url}: {other:?}"),
        Ok(_) => panic!("{url}: there is a connection"),
    }
}

/// A host that takes connections and never says a word.
struct Mute {
    listener: TcpListener,
}

impl Mute {
    fn new() -> Mute {
        Mute { listener: TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap() }
    }

    fn port(&self) -> u16 {
        self.listener.local_addr().unwrap().port()
    }
}

/// A port where nobody listens.
fn closed_port() -> u16 {
    Mute::new().port()
}

#[tokio::test]
async fn a_session_is_told_how_to_behave() {
    let database = Database::new(&Postgres::shared().database()).unwrap();
    let session = database.session(Limits::default()).await.unwrap();
    for (name, value) in [
        ("timezone", "UTC"),
        ("application_name", "pendula"),
        ("statement_timeout", "10s"),
        ("lock_timeout", "4s"),
        ("idle_in_transaction_session_timeout", "5s"),
    ] {
        let shown: String = session.query_one(&format!("SHOW {name}"), &[]).await.unwrap().get(0);
        assert_eq!(shown, value, "{name}");
    }
    let session = database.session(Limits::UPKEEP).await.unwrap();
    let shown: String = session.query_one("SHOW statement_timeout", &[]).await.unwrap().get(0);
    assert_eq!(shown, "0");
}

#[tokio::test]
async fn what_a_vanished_client_locked_is_free_soon() {
    let database = Database::new(&Postgres::shared().database()).unwrap();
    let limits = Limits { idle_in_transaction: Duration::from_millis(200), ..Limits::default() };
    let session = database.session(limits).await.unwrap();
    session.batch_execute("CREATE TABLE t (a int); INSERT INTO t VALUES (1)").await.unwrap();
    session.batch_execute("BEGIN; UPDATE t SET a = 2").await.unwrap();
    // It waits for the lock, and gets it although nobody ever ends the other transaction.
    let other = database.session(Limits::default()).await.unwrap();
    assert_eq!(other.execute("UPDATE t SET a = 3 WHERE a = 1", &[]).await.unwrap(), 1);
    assert!(session.batch_execute("COMMIT").await.is_err());
}

#[tokio::test]
async fn the_primary_is_found_among_hosts_and_not_lost_again() {
    let primary = Postgres::start();
    let url = primary.database();
    let name = url.rsplit_once('/').unwrap().1.to_owned();
    let standby = primary.standby();
    let mute = Mute::new();
    let hosts = format!("127.0.0.1:{},127.0.0.1:{},127.0.0.1:{}", mute.port(), standby.port(), primary.port());
    let database = Database::new(&format!("postgres://pendula@{hosts}/{name}")).unwrap();
    let lane = database.lane(2, Limits::default());
    let port = async |lane: &Lane| -> i32 {
        lane.get().await.unwrap().query_one("SELECT inet_server_port()", &[]).await.unwrap().get(0)
    };
    let began = Instant::now();
    assert_eq!(port(&lane).await, i32::from(primary.port()));
    // The one that says nothing did not cost its whole timeout.
    assert!(began.elapsed() < ATTEMPT, "{:?}", began.elapsed());
    primary.kill();
    // None of them can be written to.
    lane.forget_idle();
    let why = unavailable(lane.get().await);
    assert!(why.contains("is a standby or read-only") && why.contains("connection refused"), "{why}");
    assert!(why.contains(&format!("127.0.0.1:{} says nothing", mute.port())), "{why}");
    standby.promote();
    assert_eq!(port(&lane).await, i32::from(standby.port()));
    // And from now on it is asked first.
    lane.forget_idle();
    let began = Instant::now();
    assert_eq!(port(&lane).await, i32::from(standby.port()));
    assert!(began.elapsed() < STAGGER, "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_lane_outlives_the_end_of_the_database() {
    let server = Postgres::start();
    let lane = Database::new(&server.database()).unwrap().lane(1, Limits::default());
    lane.get().await.unwrap().batch_execute("CREATE TABLE t (a int)").await.unwrap();
    server.restart_immediately();
    // The old connection is closed, which its task may not have noticed yet: then whoever uses it does.
    let old = lane.get().await.unwrap();
    drop(old.batch_execute("INSERT INTO t VALUES (0)").await);
    drop(old);
    let connection = lane.get().await.unwrap();
    connection.batch_execute("INSERT INTO t VALUES (1)").await.unwrap();
    server.stop();
    assert!(connection.batch_execute("INSERT INTO t VALUES (2)").await.is_err());
    drop(connection);
    let why = unavailable(lane.get().await);
    assert!(why.contains("does PostgreSQL run there"), "{why}");
    server.start_again();
    lane.get().await.unwrap().batch_execute("INSERT INTO t VALUES (3)").await.unwrap();
}

#[tokio::test]
async fn a_lane_that_is_in_use_says_so() {
    let lane = Database::new(&Postgres::shared().database()).unwrap().lane(1, Limits::default());
    let connection = lane.get().await.unwrap();
    let why = unavailable(lane.get().await);
    assert!(why.contains("all 1 connections"), "{why}");
    drop(connection);
    drop(lane.get().await.unwrap());
}

#[tokio::test]
async fn who_takes_connections_and_says_nothing_is_given_up() {
    let mute = Mute::new();
    let url = format!("postgres://u:secret@127.0.0.1:{}/d?connect_timeout=1", mute.port());
    let database = Database::new(&url).unwrap();
    let began = Instant::now();
    let why = unavailable(database.session(Limits::default()).await);
    assert!(why.contains("says nothing for 5 s") && !why.contains("secret"), "{why}");
    assert!(began.elapsed() < 2 * ATTEMPT);
}

#[tokio::test]
async fn what_has_to_be_changed_is_said() {
    let server = Postgres::start();
    server.query("postgres", "CREATE ROLE ann LOGIN PASSWORD 'secret'");
    server.query("postgres", "CREATE DATABASE d");
    server.write_file("pg_hba.conf", "host all ann 127.0.0.1/32 scram-sha-256\nhost all pendula 127.0.0.1/32 trust\n");
    server.restart_immediately();
    let at = |credentials: &str, rest: &str| format!("postgres://{credentials}@127.0.0.1:{}/{rest}", server.port());
    assert_eq!(ask(&Database::new(&at("ann:secret", "d")).unwrap(), "SELECT 'in'").await, "in");
    for (url, said) in [
        (at("ann:secret2", "d"), "check user and password"),
        (at("ann", "d"), "postgres://USER:PASSWORD@"),
        (at("eve:secret", "d"), "pg_hba.conf"),
        (at("ann:secret", "e"), "CREATE DATABASE e"),
        (at("ann:secret", "d?sslmode=require"), "set ssl = on there"),
    ] {
        let text = refused(&url).await;
        assert!(text.contains(said) && !text.contains("secret"), "{url}: {text}");
    }
    let nobody = format!("postgres://ann:secret@127.0.0.1:{}/d", closed_port());
    let database = Database::new(&nobody).unwrap();
    let why = unavailable(database.session(Limits::default()).await);
    assert!(why.contains("does PostgreSQL run there") && !why.contains("secret"), "{why}");
    let shown = format!("{database:?} {database} {:?}", database.shared.hosts);
    assert!(shown.contains("ann@127.0.0.1") && !shown.contains("secret"), "{shown}");
    let why =
        unavailable(Database::new("postgres://u:secret@host.invalid/d").unwrap().session(Limits::default()).await);
    assert!(why.contains("host.invalid:5432") && !why.contains("secret"), "{why}");
}

/// An authority, and certificates that it signed: of the server for `localhost`, and of the user `bob`.
struct Authority {
    certificate: String,
    server: String,
    key: String,
    bob: String,
    key_of_bob: String,
}

impl Authority {
    fn new() -> Authority {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut parameters = rcgen::CertificateParams::new(Vec::new()).unwrap();
        parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let certificate = parameters.self_signed(&key).unwrap().pem();
        let issuer = rcgen::Issuer::new(parameters, key);
        let key = rcgen::KeyPair::generate().unwrap();
        let parameters = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
        let server = parameters.signed_by(&key, &issuer).unwrap().pem();
        let key_of_bob = rcgen::KeyPair::generate().unwrap();
        let mut parameters = rcgen::CertificateParams::new(Vec::new()).unwrap();
        parameters.distinguished_name.push(rcgen::DnType::CommonName, "bob");
        let bob = parameters.signed_by(&key_of_bob, &issuer).unwrap().pem();
        let (key, key_of_bob) = (key.serialize_pem(), key_of_bob.serialize_pem());
        Authority { certificate, server, key, bob, key_of_bob }
    }
}

#[tokio::test]
async fn tls_is_what_the_mode_says() {
    let server = Postgres::start();
    server.query("postgres", "CREATE ROLE ann LOGIN PASSWORD 'secret'");
    server.query("postgres", "CREATE DATABASE d");
    let (ours, others) = (Authority::new(), Authority::new());
    server.write_file("server.crt", &ours.server);
    server.write_file("server.key", &ours.key);
    let entries = [
        "hostssl all bob 127.0.0.1/32 cert",
        "hostssl all ann 127.0.0.1/32 scram-sha-256",
        "host all pendula 127.0.0.1/32 trust",
    ];
    server.write_file("pg_hba.conf", &(entries.join("\n") + "\n"));
    server.write_file("root.crt", &ours.certificate);
    server.query("postgres", "CREATE ROLE bob LOGIN");
    server.configure("ssl = on\nssl_ca_file = 'root.crt'\n");
    server.restart_immediately();
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, content: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, content).unwrap();
        path.display().to_string()
    };
    let (root, other) = (file("root.pem", &ours.certificate), file("other.pem", &others.certificate));
    let itself = file("server.pem", &ours.server);
    let bob = format!("sslcert={}&sslkey={}", file("bob.pem", &ours.bob), file("bob.key", &ours.key_of_bob));
    let url =
        |user: &str, host: &str, parameters: &str| format!("postgres://{user}@{host}:{}/d?{parameters}", server.port());
    let encrypted = "SELECT ssl::text FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    for (user, host, parameters, is_encrypted) in [
        ("pendula", "127.0.0.1", "sslmode=disable".to_owned(), "false"),
        ("pendula", "127.0.0.1", "sslmode=prefer".to_owned(), "true"),
        ("ann:secret", "127.0.0.1", String::new(), "true"),
        ("ann:secret", "127.0.0.1", "sslmode=require".to_owned(), "true"),
        ("ann:secret", "127.0.0.1", format!("sslmode=verify-ca&sslrootcert={root}"), "true"),
        ("ann:secret", "127.0.0.1", format!("sslmode=verify-ca&sslrootcert={itself}"), "true"),
        ("ann:secret", "localhost", format!("sslmode=verify-full&sslrootcert={root}&channel_binding=require"), "true"),
        ("bob", "localhost", format!("sslmode=verify-full&sslrootcert={root}&{bob}"), "true"),
    ] {
        let database = Database::new(&url(user, host, &parameters)).unwrap();
        assert_eq!(ask(&database, encrypted).await, is_encrypted, "{parameters}");
    }
    for (host, parameters, said) in [
        ("127.0.0.1", "sslmode=disable".to_owned(), "no encryption"),
        ("127.0.0.1", format!("sslmode=verify-full&sslrootcert={root}"), "sslmode=verify-ca"),
        ("127.0.0.1", format!("sslmode=require&sslrootcert={other}"), "sslrootcert=FILE"),
        ("localhost", format!("sslmode=verify-full&sslrootcert={other}"), "sslrootcert=FILE"),
        ("localhost", "sslmode=verify-full&sslrootcert=system".to_owned(), "sslrootcert=FILE"),
    ] {
        let text = refused(&url("ann:secret", host, &parameters)).await;
        assert!(text.contains(said) && !text.contains("secret"), "{parameters}: {text}");
    }
}
