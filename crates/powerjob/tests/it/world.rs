//! A server with the gateway, on a store of its own.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use pendula_engine::{Command, Reply, RunRequest};
use pendula_model::instance::Instance;
use pendula_model::job::{Job, JobSpec};
use pendula_model::powerjob::{PowerJob, PowerJobExecuteType};
use pendula_model::processor::Processor;
use pendula_model::{AppId, InstanceId};
use pendula_powerjob::{PowerJobGateway, Timing};
use pendula_server::{Config, ConfigSources, Flags, Server, SystemClock};
use pendula_store::Store;
use pendula_store::logs::{LogKey, LogStore};
use tempfile::TempDir;

/// Nothing in these tests takes so long unless it is broken.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A hurried gateway.
pub const HURRY: Timing = Timing {
    silent: Duration::from_secs(4),
    ask_after: Duration::from_secs(1),
    lost_after: Duration::from_secs(3),
    look: Duration::from_millis(50),
    ask_again: Duration::from_millis(200),
    settle: Duration::ZERO,
    answer_within: Duration::from_secs(4),
};

pub struct World {
    server: Option<Server>,
    pub directory: TempDir,
    pub app: AppId,
    pub gateway: PowerJobGateway,
    set: Vec<String>,
    timing: Timing,
}

pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("waited in vain: {what}"),
    }
}

pub async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    soon(what, async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

pub fn config(listen: &str, directory: &Path, set: &[String]) -> Config {
    let flags = Flags {
        listen: Some(listen.to_owned()),
        database: Some(format!("sqlite:{}", directory.display())),
        set: [&["partitions=4".to_owned(), "engine.lost_after=1s".to_owned()], set].concat(),
        ..Flags::default()
    };
    Config::load(&ConfigSources { flags, ..ConfigSources::default() }).expect("a good configuration")
}

/// A job for a processor of that class.
pub fn job(name: &str, execute_type: PowerJobExecuteType) -> JobSpec {
    let powerjob = PowerJob { execute_type, ..PowerJob::new(format!("com.acme.{name}")) };
    JobSpec::new(name, Processor::PowerJob(powerjob))
}

impl World {
    pub async fn new() -> World {
        World::with(&["powerjob.allow=demo=127.0.0.0/8"], HURRY).await
    }

    pub async fn with(set: &[&str], timing: Timing) -> World {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mut set: Vec<String> = set.iter().map(|text| (*text).to_owned()).collect();
        set.push("powerjob.http.listen=127.0.0.1:0".to_owned());
        let config = config("127.0.0.1:0", directory.path(), &set);
        let server = Server::start(config, Arc::new(SystemClock)).await.expect("it starts");
        let create =
            Command::AppCreate { name: "demo".to_owned(), namespace: "default".to_owned(), allow_scripts: true };
        let partition = server.state().partitions.of_app_name("demo");
        let reply = server.state().partitions.command(partition, create, PATIENCE).await;
        let Ok(Reply::App(app)) = reply else { panic!("{reply:?}") };
        let gateway =
            pendula_powerjob::start_with(&server, timing).await.expect("it starts").expect("it is configured");
        // The same ports after a restart: the later of two that are set counts.
        set.push(format!("powerjob.http.listen={}", gateway.local_addr));
        set.extend(gateway.akka.iter().map(|(address, _)| format!("powerjob.akka.listen={address}")));
        World { server: Some(server), directory, app: app.id, gateway, set, timing }
    }

    pub fn server(&self) -> &Server {
        self.server.as_ref().expect("the server runs")
    }

    pub async fn stop(&mut self) {
        if let Some(server) = self.server.take() {
            soon("the server stops", server.stop()).await;
        }
    }

    /// As after a crash, for whoever is connected: nothing was said, another process has the port.
    pub async fn restart(&mut self) {
        self.stop().await;
        let config = config("127.0.0.1:0", self.directory.path(), &self.set);
        let server = Server::start(config, Arc::new(SystemClock)).await.expect("it starts again");
        let gateway = pendula_powerjob::start_with(&server, self.timing).await.expect("it starts again");
        self.gateway = gateway.expect("it is configured");
        self.server = Some(server);
    }

    pub fn store(&self) -> Arc<dyn Store> {
        self.server().state().store.clone()
    }

    pub async fn command(&self, command: Command) -> Reply {
        let reply = self.server().state().partitions.command(self.app.partition(), command, PATIENCE).await;
        reply.expect("the partition answers")
    }

    pub async fn apply(&self, spec: JobSpec) -> Job {
        let apply = Command::JobApply { app: self.app, spec: Arc::new(spec), expected_version: None };
        let Reply::Job { job, .. } = self.command(apply).await else { panic!("the job is refused") };
        *job
    }

    pub async fn run(&self, name: &str) -> InstanceId {
        self.run_with(name, None).await
    }

    pub async fn run_with(&self, name: &str, params: Option<serde_json::Value>) -> InstanceId {
        let params = params.map(|params| params.as_object().expect("an object").clone());
        let run = RunRequest {
            app: self.app,
            job: name.to_owned(),
            params,
            due_at: None,
            idempotency_key: None,
            rerun_of: None,
            only_unsuccessful: false,
            priority: None,
        };
        let Reply::Instance { id, .. } = self.command(Command::JobRun(Box::new(run))).await else {
            panic!("the run is refused")
        };
        id
    }

    pub async fn instance(&self, id: InstanceId) -> Instance {
        self.store().instance(id).await.expect("the store answers").expect("it was acknowledged")
    }

    pub async fn ended(&self, id: InstanceId) -> Instance {
        let mut row = self.instance(id).await;
        until("the instance ends", async || {
            row = self.instance(id).await;
            row.state.is_ended()
        })
        .await;
        row
    }

    pub async fn log(&self, instance: InstanceId, attempt: u32) -> String {
        self.log_of(instance, 0, attempt).await
    }

    pub async fn log_of(&self, instance: InstanceId, task: u32, attempt: u32) -> String {
        let key = LogKey { app: self.app, instance, attempt, task };
        let logs: &Arc<dyn LogStore> = &self.server().state().logs;
        let part = logs.read(key, 0, 1 << 20).await.expect("the log store answers");
        String::from_utf8(part.data).expect("the log is text")
    }

    pub async fn sessions_are(&self, count: usize) {
        until("workers connect or leave", async || self.server().state().partitions.status().gauges.sessions == count)
            .await;
    }
}
