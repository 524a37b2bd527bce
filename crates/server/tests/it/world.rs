//! A server on a store of its own, and what tests do with it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use pendula_engine::{Command, Reply, RunRequest};
use pendula_model::AppId;
use pendula_model::InstanceId;
use pendula_model::instance::Instance;
use pendula_model::job::JobSpec;
use pendula_model::processor::{Handler, Processor};
use pendula_model::token::Scope;
use pendula_server::{CommandError, Config, ConfigSources, Flags, Server, SystemClock};
use pendula_store::Store;
use pendula_store::logs::SqliteLogStore;
use pendula_store::sqlite::{Options, SqliteStore};
use pendula_worker::worker::Timing;
use pendula_worker::{Shutdown, Worker, WorkerBuilder};
use tempfile::TempDir;

/// Nothing in these tests takes so long unless it is broken.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub struct World {
    pub server: Option<Server>,
    pub directory: TempDir,
    pub app: AppId,
    pub worker_token: String,
    /// The same port again after a restart.
    listen: String,
}

/// Waits for `future`, and fails the test when it takes too long.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("waited in vain: {what}"),
    }
}

/// Repeats a question until the answer is yes, for what has no signal.
pub async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    soon(what, async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

pub fn config(listen: &str, directory: &Path, set: &[&str]) -> Config {
    let flags = Flags {
        listen: Some(listen.to_owned()),
        database: Some(format!("sqlite:{}", directory.display())),
        set: [&["partitions=4"], set].concat().into_iter().map(str::to_owned).collect(),
        ..Flags::default()
    };
    Config::load(&ConfigSources { flags, ..ConfigSources::default() }).expect("a good configuration")
}

pub fn open_store(directory: &Path) -> SqliteStore {
    let options = Options { partitions: 4, ..Options::default() };
    SqliteStore::open(directory, options).expect("an empty directory becomes a store")
}

impl World {
    pub async fn new() -> World {
        World::with(|store| store).await
    }

    /// With a store that `wrap` puts around the real one.
    pub async fn with(wrap: impl FnOnce(Arc<dyn Store>) -> Arc<dyn Store>) -> World {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let store = wrap(Arc::new(open_store(directory.path())));
        let logs = Arc::new(SqliteLogStore::open(directory.path()).expect("an empty log store"));
        let config = config("127.0.0.1:0", directory.path(), &[]);
        let server = Server::start_with(config, Arc::new(SystemClock), store, logs).await.expect("it starts");
        let listen = server.local_addr().to_string();
        let create =
            Command::AppCreate { name: "demo".to_owned(), namespace: "default".to_owned(), allow_scripts: true };
        let partition = server.state().partitions.of_app_name("demo");
        let reply = server.state().partitions.command(partition, create, PATIENCE).await;
        let Ok(Reply::App(app)) = reply else { panic!("{reply:?}") };
        let (_, secret) =
            server.state().auth.create("w", Scope::Worker { app: app.id }, None).await.expect("a new token");
        World { server: Some(server), directory, app: app.id, worker_token: secret.reveal().to_owned(), listen }
    }

    pub fn server(&self) -> &Server {
        self.server.as_ref().expect("the server runs")
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.listen)
    }

    pub async fn stop(&mut self) {
        if let Some(server) = self.server.take() {
            soon("the server stops", server.stop()).await;
        }
    }

    /// Starts again on the same directory and port.
    pub async fn start(&mut self) {
        let config = config(&self.listen, self.directory.path(), &[]);
        self.server = Some(Server::start(config, Arc::new(SystemClock)).await.expect("it starts again"));
    }

    pub async fn command(&self, command: Command) -> Result<Reply, CommandError> {
        self.command_within(command, PATIENCE).await
    }

    pub async fn command_within(&self, command: Command, deadline: Duration) -> Result<Reply, CommandError> {
        self.server().state().partitions.command(self.app.partition(), command, deadline).await
    }

    /// A job for the handler of the same name.
    pub async fn job(&self, name: &str, edit: impl FnOnce(&mut JobSpec)) {
        let mut spec = JobSpec::new(name, Processor::Handler(Handler { name: name.to_owned(), config: None }));
        edit(&mut spec);
        let apply = Command::JobApply { app: self.app, spec: Arc::new(spec), expected_version: None };
        let reply = self.command(apply).await;
        assert!(matches!(reply, Ok(Reply::Job { .. })), "{reply:?}");
    }

    pub fn run_command(&self, job: &str) -> Command {
        Command::JobRun(Box::new(RunRequest {
            app: self.app,
            job: job.to_owned(),
            params: None,
            due_at: None,
            idempotency_key: None,
            rerun_of: None,
            only_unsuccessful: false,
            priority: None,
        }))
    }

    pub async fn run(&self, job: &str) -> InstanceId {
        let reply = self.command(self.run_command(job)).await;
        let Ok(Reply::Instance { id, created: true }) = reply else { panic!("{reply:?}") };
        id
    }

    pub async fn instance(&self, id: InstanceId) -> Instance {
        let found = self.server().state().store.instance(id).await.expect("the store answers");
        found.expect("the instance was acknowledged, so it exists")
    }

    /// Waits until the instance ended.
    pub async fn ended(&self, id: InstanceId) -> Instance {
        let mut news = self.server().state().log_hub.subscribe(id);
        soon("the instance ends", async {
            loop {
                let instance = self.instance(id).await;
                if instance.state.is_ended() {
                    return instance;
                }
                news.next().await;
            }
        })
        .await
    }

    /// A worker that reconnects fast.
    pub fn worker(&self) -> WorkerBuilder {
        self.worker_at(&self.url())
    }

    pub fn worker_at(&self, url: &str) -> WorkerBuilder {
        let timing = Timing {
            reconnect_first: Duration::from_millis(20),
            reconnect_max: Duration::from_millis(200),
            ..Timing::default()
        };
        Worker::builder(url).app("demo").token(&self.worker_token).name("w1").timing(timing)
    }

    pub async fn sessions_are(&self, count: usize) {
        until("workers connect or leave", async || self.server().state().partitions.status().gauges.sessions == count)
            .await;
    }
}

/// A worker in the background. Dropping it drops its connection, as a crash would.
pub struct Running {
    task: tokio::task::JoinHandle<()>,
}

pub fn start(worker: WorkerBuilder) -> Running {
    let worker = worker.build().expect("a good worker");
    let task = tokio::spawn(async move {
        worker.run(Shutdown::new()).await.expect("it runs until it is told to stop");
    });
    Running { task }
}

impl Running {
    /// Waits until the worker ends by itself.
    pub async fn ended(mut self) {
        soon("the worker ends", &mut self.task).await.expect("it ends well");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}
