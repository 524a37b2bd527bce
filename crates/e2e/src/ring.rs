//! Several real server processes on one real PostgreSQL, with a network between them and it that can be broken.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use pendula_client::Client;
use pendula_model::api::{AppCreate, ClusterOverview, TokenCreate, TokenKind};
use pendula_testdb::Postgres;
use rustix::process::Signal;
use tempfile::TempDir;

use crate::binary::pendula;
use crate::process::{Process, eventually};
use crate::proxy::Proxy;

/// How long a server may take to be ready, on a machine that does other things too.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// How long a server may take to stop that has somebody to give its partitions to.
const STOPPED_WITHIN: Duration = Duration::from_secs(8);

/// Servers, their database, and the way to it.
pub struct Ring {
    pub servers: Vec<Member>,
    pub postgres: Postgres,
    /// Between the servers and the database.
    pub network: Proxy,
    directory: TempDir,
    database: String,
    /// An administrator's secret.
    pub token: String,
    arguments: Vec<String>,
    program: PathBuf,
}

/// One server process, or the place of one that is not running.
pub struct Member {
    process: Option<Process>,
    port: u16,
    log: PathBuf,
    token: String,
    database: String,
    arguments: Vec<String>,
    program: PathBuf,
}

impl Ring {
    /// `count` servers on an empty database, all of them ready.
    pub async fn start(count: usize) -> Ring {
        Ring::start_with(count, &[]).await
    }

    /// The same with further arguments for each server.
    pub async fn start_with(count: usize, arguments: &[&str]) -> Ring {
        Ring::start_as(count, arguments, &pendula()).await
    }

    /// The same with servers that run `program`.
    pub async fn start_as(count: usize, arguments: &[&str], program: &Path) -> Ring {
        let postgres = Postgres::start();
        let url = postgres.database();
        let network = Proxy::start(postgres.port()).await;
        let database = url.replace(&format!(":{}/", postgres.port()), &format!(":{}/", network.port()));
        Ring::start_on(postgres, network, database, count, arguments, program).await
    }

    /// The same on a database that is there already, behind a URL that need not lead through `network`, with servers that
    /// run `program`.
    pub async fn start_on(
        postgres: Postgres,
        network: Proxy,
        database: String,
        count: usize,
        arguments: &[&str],
        program: &Path,
    ) -> Ring {
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        let token = format!("e2e-{:032x}{:032x}", rand::random::<u128>(), rand::random::<u128>());
        let arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        let (servers, program) = (Vec::new(), program.to_owned());
        let mut ring = Ring { servers, postgres, network, directory, database, token, arguments, program };
        for _ in 0..count {
            ring.join().await;
        }
        ring.settled().await;
        ring
    }

    /// One more server, ready. Returns its place.
    pub async fn join(&mut self) -> usize {
        let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port is free").port();
        let log = self.directory.path().join(format!("server-{port}.log"));
        let (token, database, arguments) = (self.token.clone(), self.database.clone(), self.arguments.clone());
        let program = self.program.clone();
        let mut member = Member { process: None, port, log, token, database, arguments, program };
        member.launch();
        member.ready().await;
        self.servers.push(member);
        self.servers.len() - 1
    }

    /// What servers that join from now on are told.
    pub fn arguments(&mut self, arguments: &[&str]) {
        self.arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
    }

    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The name of the database on [`Ring::postgres`].
    pub fn database(&self) -> &str {
        let (_, name) = self.database.rsplit_once('/').expect("a URL has a path");
        name.split('?').next().expect("there is something before it")
    }

    pub fn client(&self, place: usize) -> Client {
        self.servers[place].client()
    }

    /// Addresses of all servers, for workers.
    pub fn urls(&self) -> Vec<String> {
        self.servers.iter().map(Member::url).collect()
    }

    /// Places of servers that run.
    pub fn running(&self) -> Vec<usize> {
        (0..self.servers.len()).filter(|place| self.servers[*place].process.is_some()).collect()
    }

    /// Makes an app that may run scripts, and a token for its workers.
    pub async fn app(&self, name: &str) -> String {
        let client = self.client(0);
        let app = AppCreate { name: name.to_owned(), namespace: None, allow_scripts: true };
        client.app_create(&app).await.expect("the app is new");
        let (name, app) = (format!("{name}-workers"), Some(name.to_owned()));
        let token = TokenCreate { name, kind: TokenKind::Worker, app, expires_in: None };
        client.token_create(&token).await.expect("an administrator makes tokens").secret.expect("shown once")
    }

    /// How many partitions a server owns, as `overview` has it.
    pub fn owned(&self, overview: &ClusterOverview, place: usize) -> u32 {
        let port = format!(":{}", self.servers[place].port);
        // A process that is gone may have a lease still, and its address another process.
        let alive = overview.servers.iter().filter(|server| server.lease_seconds > 0.0 && server.reach.reached);
        alive.filter(|server| server.address.ends_with(&port)).map(|server| server.partitions).sum()
    }

    /// The place of the server that owns most.
    pub async fn busiest(&self) -> usize {
        let running = self.running();
        let overview = eventually("some server tells who owns what", READY_WITHIN, || async {
            for place in &running {
                if let Ok(overview) = self.client(*place).cluster(None).await {
                    return Some(overview);
                }
            }
            None
        })
        .await;
        running.into_iter().max_by_key(|place| self.owned(&overview, *place)).expect("a server runs")
    }

    /// Waits until every partition has an owner that runs, and none has more than one more than another.
    pub async fn settled(&self) {
        let running = self.running();
        let client = self.client(running[0]);
        eventually("the partitions are shared evenly", READY_WITHIN, || async {
            let overview = client.cluster(None).await.ok()?;
            let owned: Vec<u32> = running.iter().map(|place| self.owned(&overview, *place)).collect();
            let even = owned.iter().max()? - owned.iter().min()? <= 1;
            (even && owned.iter().sum::<u32>() as usize == overview.partitions.len()).then_some(())
        })
        .await;
    }
}

impl Member {
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// The name under which it is known among the servers.
    pub fn name(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub fn client(&self) -> Client {
        Client::new(&self.url(), &*self.token).expect("the address is well-formed")
    }

    pub fn pid(&self) -> u32 {
        self.process.as_ref().expect("it runs").id()
    }

    /// Everything that it printed, over all its lives.
    pub fn output(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// SIGTERM, and waits until it is gone.
    pub async fn stop(&mut self) {
        let Some(mut process) = self.process.take() else { return };
        let begun = std::time::Instant::now();
        process.signal(Signal::TERM);
        let code = tokio::task::spawn_blocking(move || process.wait(READY_WITHIN)).await.expect("no panic");
        assert_eq!(code, Some(0), "a server that is told to stop ends well");
        assert!(begun.elapsed() < STOPPED_WITHIN, "it took {:?}:\n{}", begun.elapsed(), self.output());
    }

    pub fn signal(&self, signal: Signal) {
        self.process.as_ref().expect("it runs").signal(signal);
    }

    /// What it runs from its next start on.
    pub fn set_program(&mut self, program: &Path) {
        program.clone_into(&mut self.program);
    }

    /// Starts it again, under the same address.
    pub fn launch(&mut self) {
        let mut command = Command::new(&self.program);
        command
            .arg("server")
            .args(["--listen", &format!("127.0.0.1:{}", self.port)])
            .args(&self.arguments)
            // Ours, not the server's.
            .env_remove("PENDULA_BIN")
            .env_remove("PENDULA_OLD_BIN")
            .env("PENDULA_DATABASE", &self.database)
            .env("PENDULA_ADMIN_TOKEN", &self.token);
        self.process = Some(Process::start(&mut command, &self.log).expect("the server's program can be started"));
    }

    pub async fn ready(&self) {
        let client = self.client();
        eventually("the server is ready", READY_WITHIN, || async { client.readyz().await.ok() }).await;
    }
}
