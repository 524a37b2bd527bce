//! A real server process on a free port with a directory of its own.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use pendula_client::Client;
use pendula_model::api::{AppCreate, TokenCreate, TokenKind};
use tempfile::TempDir;

use crate::binary::pendula;
use crate::process::{Process, eventually};

/// How long a server may take to be ready, on a machine that does other things too.
const READY_WITHIN: Duration = Duration::from_secs(60);

pub struct Server {
    process: Process,
    host: &'static str,
    port: u16,
    directory: TempDir,
    /// An administrator's secret.
    pub token: String,
    arguments: Vec<String>,
}

impl Server {
    /// Starts a server with an empty database.
    pub async fn start() -> Server {
        Server::start_with(&[]).await
    }

    /// The same with further arguments.
    pub async fn start_with(arguments: &[&str]) -> Server {
        Server::start_on("127.0.0.1", arguments).await
    }

    /// The same on another address of this machine, as URLs have it.
    pub async fn start_on(host: &'static str, arguments: &[&str]) -> Server {
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        let port = TcpListener::bind(format!("{host}:0")).and_then(|l| l.local_addr()).expect("a port is free").port();
        let token = format!("e2e-{:032x}{:032x}", rand::random::<u128>(), rand::random::<u128>());
        let arguments: Vec<_> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        let process = launch(directory.path(), &format!("{host}:{port}"), &token, &arguments);
        let server = Server { process, host, port, directory, token, arguments };
        server.ready().await;
        server
    }

    pub fn url(&self) -> String {
        format!("http://{}:{}", self.host, self.port)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Everything that it printed, over all its lives.
    pub fn output(&self) -> String {
        std::fs::read_to_string(log_of(self.directory.path())).unwrap_or_default()
    }

    /// A client with the administrator's token.
    pub fn client(&self) -> Client {
        Client::new(&self.url(), &*self.token).expect("the address is well-formed")
    }

    /// Makes an app that may run scripts, and a token for its workers.
    pub async fn app(&self, name: &str) -> String {
        let client = self.client();
        let app = AppCreate { name: name.to_owned(), namespace: None, allow_scripts: true };
        client.app_create(&app).await.expect("the app is new");
        self.worker_token(name).await
    }

    pub async fn worker_token(&self, app: &str) -> String {
        let (name, kind) = (format!("{app}-workers"), TokenKind::Worker);
        let token = TokenCreate { name, kind, app: Some(app.to_owned()), expires_in: None };
        self.client().token_create(&token).await.expect("an administrator makes tokens").secret.expect("shown once")
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Starts it again on the same port and directory.
    pub async fn restart(&mut self) {
        self.kill();
        self.process =
            launch(self.directory.path(), &format!("{}:{}", self.host, self.port), &self.token, &self.arguments);
        self.ready().await;
    }

    async fn ready(&self) {
        let client = self.client();
        eventually("the server is ready", READY_WITHIN, || async { client.readyz().await.ok() }).await;
    }
}

fn log_of(directory: &Path) -> PathBuf {
    directory.join("output.log")
}

fn launch(directory: &Path, listen: &str, token: &str, arguments: &[String]) -> Process {
    let mut command = Command::new(pendula());
    command
        .arg("server")
        .args(["--listen", listen])
        .args(["--database", &format!("sqlite:{}", directory.join("data").display())])
        .args(arguments)
        .env("PENDULA_ADMIN_TOKEN", token);
    Process::start(&mut command, &log_of(directory)).expect("the server's program can be started")
}
