//! Several servers on one store: who is named, and what becomes of what reaches the wrong one.

use std::net::SocketAddr;
use std::sync::Arc;

use pendula_akka::artery::Address;
use pendula_akka::kryo::{Class, Dialect};
use pendula_engine::{Command, Reply, RunRequest};
use pendula_model::instance::{Instance, InstanceState};
use pendula_model::job::{Job, JobSpec};
use pendula_model::powerjob::PowerJobExecuteType::Standalone;
use pendula_model::{AppId, InstanceId, PartitionId};
use pendula_powerjob::{PowerJobGateway, Timing};
use pendula_server::{Server, SystemClock};
use pendula_store::logs::SqliteLogStore;
use pendula_store::{MemoryStore, Store};
use serde_json::json;
use tokio::net::TcpListener;

use crate::fake::FakeWorker;
use crate::fake_akka::AkkaWorker;
use crate::world::{HURRY, PATIENCE, config, job, until};

const PARTITIONS: u16 = 4;

/// Servers with their gateways, if they have one.
pub struct Ring {
    pub store: Arc<MemoryStore>,
    pub logs: Arc<SqliteLogStore>,
    pub servers: Vec<Option<(Server, Option<PowerJobGateway>)>>,
    timing: Timing,
    directory: tempfile::TempDir,
}

/// Of a server for workers of this machine.
pub const HTTP: &[&str] = &["powerjob.allow=demo=127.0.0.0/8", "powerjob.http.listen=127.0.0.1:0"];
/// The same over both protocols.
pub const BOTH: &[&str] =
    &["powerjob.allow=demo=127.0.0.0/8", "powerjob.http.listen=127.0.0.1:0", "powerjob.akka.listen=127.0.0.1:0"];

impl Ring {
    fn on(partitions: u16, timing: Timing) -> Ring {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let store = Arc::new(MemoryStore::shared(partitions, [7; 32]));
        let logs = Arc::new(SqliteLogStore::open(directory.path()).expect("an empty log store"));
        Ring { store, logs, servers: Vec::new(), timing, directory }
    }

    async fn join(&mut self, set: &[&str]) {
        let set: Vec<String> = set.iter().map(|text| (*text).to_owned()).collect();
        let config = config("127.0.0.1:0", self.directory.path(), &set);
        let server = Server::start_with(config, Arc::new(SystemClock), self.store.clone(), self.logs.clone()).await;
        let server = server.expect("it starts");
        let gateway = pendula_powerjob::start_with(&server, self.timing).await.expect("it starts");
        self.servers.push(Some((server, gateway)));
    }

    async fn of(count: usize) -> Ring {
        let mut ring = Ring::on(PARTITIONS, HURRY);
        for _ in 0..count {
            ring.join(BOTH).await;
        }
        until("the partitions are shared", async || {
            let owned = |server: &Option<(Server, _)>| {
                server.as_ref().map_or(0, |(server, _)| server.state().partitions.status().owned)
            };
            let owned: Vec<u32> = ring.servers.iter().map(owned).collect();
            owned.iter().sum::<u32>() == u32::from(PARTITIONS) && owned.iter().all(|count| *count > 0)
        })
        .await;
        ring
    }

    /// One server for each of these settings; the first owns everything, the app `demo` included.
    pub async fn unequal(settings: &[&[&str]]) -> (Ring, AppId) {
        // While a server stops, its workers are silent for as long as that takes.
        let timing = Timing { silent: PATIENCE, lost_after: PATIENCE, ..HURRY };
        let mut ring = Ring::on(1, timing);
        for set in settings {
            ring.join(set).await;
            until("the first one owns all", async || ring.owner() == Some(0)).await;
        }
        let create =
            Command::AppCreate { name: "demo".to_owned(), namespace: "default".to_owned(), allow_scripts: false };
        let Reply::App(app) = ring.command(create).await else { panic!("a new app") };
        // Messages for it may come to any of them now.
        let client = reqwest::Client::builder().no_proxy().build().expect("a client");
        for (server, _) in ring.servers.iter().flatten() {
            let ready = client.get(format!("http://{}/readyz", server.local_addr()));
            let ready = || ready.try_clone().expect("it has no body").send();
            until("it looked at the others", async || ready().await.is_ok_and(|answer| answer.status() == 200)).await;
        }
        (ring, app.id)
    }

    pub fn owner(&self) -> Option<usize> {
        let partition = PartitionId::of_app("demo", self.store.partitions());
        let has = |server: &Option<(Server, Option<PowerJobGateway>)>| {
            server.as_ref().is_some_and(|(server, _)| server.state().partitions.is_here(partition))
        };
        self.servers.iter().position(has)
    }

    pub fn server(&self, place: usize) -> &Server {
        &self.servers[place].as_ref().expect("it runs").0
    }

    /// Of a server that has one.
    pub fn powerjob(&self, place: usize) -> &PowerJobGateway {
        self.servers[place].as_ref().and_then(|(_, gateway)| gateway.as_ref()).expect("it has a gateway")
    }

    pub fn gateway(&self, place: usize) -> SocketAddr {
        self.powerjob(place).local_addr
    }

    pub async fn apply(&self, app: AppId, spec: JobSpec) -> Job {
        let apply = Command::JobApply { app, spec: Arc::new(spec), expected_version: None };
        let Reply::Job { job, .. } = self.command(apply).await else { panic!("the job is refused") };
        *job
    }

    pub async fn run(&self, app: AppId, job: &str) -> InstanceId {
        let run = Command::JobRun(Box::new(RunRequest {
            app,
            job: job.to_owned(),
            params: None,
            due_at: None,
            idempotency_key: None,
            rerun_of: None,
            only_unsuccessful: false,
            priority: None,
        }));
        let Reply::Instance { id, .. } = self.command(run).await else { panic!("a new instance") };
        id
    }

    pub async fn instance(&self, id: InstanceId) -> Instance {
        self.store.instance(id).await.expect("the store answers").expect("it was acknowledged")
    }

    pub async fn is(&self, id: InstanceId, state: InstanceState) -> Instance {
        let mut row = self.instance(id).await;
        until(&format!("it is {state:?}"), async || {
            row = self.instance(id).await;
            row.state == state
        })
        .await;
        row
    }

    /// Carried out at the owner, wherever that is now.
    pub async fn command(&self, command: Command) -> Reply {
        let partition = PartitionId::of_app("demo", self.store.partitions());
        let mut reply = None;
        until("the owner answers", async || {
            let Some(owner) = self.owner() else { return false };
            let server = &self.servers[owner].as_ref().expect("it runs").0;
            reply = server.state().partitions.command(partition, command.clone(), PATIENCE).await.ok();
            reply.is_some()
        })
        .await;
        reply.expect("just looked")
    }
}

/// How a worker speaks is heard by the server that it talks to, and the owner of its app is another one, which calls it.
#[tokio::test]
async fn the_owner_speaks_to_the_process_that_another_server_heard() {
    let ring = Ring::of(2).await;
    let create = Command::AppCreate { name: "demo".to_owned(), namespace: "default".to_owned(), allow_scripts: false };
    let Reply::App(app) = ring.command(create).await else { panic!("a new app") };
    ring.apply(app.id, job("A", Standalone)).await;
    let stranger = 1 - ring.owner().expect("somebody has it");
    let (akka, _) = ring.powerjob(stranger).akka.clone().expect("it is served");
    let server = Address::new("oms-server", "127.0.0.1", akka.port()).expect("an address");
    let port = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let mut worker = AkkaWorker::start_to(server.clone(), app.id, port, Dialect::Plain);
    worker.beat(None);
    let first = ring.run(app.id, "A").await;
    worker.received(Class::ServerScheduleJobReq).await;
    worker.report(first.0, 3, "").await;
    ring.is(first, InstanceState::Running).await;

    let at = worker.me.port();
    worker.close().await;
    let port = TcpListener::bind(("127.0.0.1", at)).await.expect("it is free");
    let mut worker = AkkaWorker::start_to(server, app.id, port, Dialect::Named);
    ring.command(Command::InstanceStop { instance: first }).await;
    until("the owner comes and says who it is", async || worker.to().counters().received() > 0).await;
    // Anything said together with that would have been in the other dialect, at which this one panics.
    worker.beat(None);
    ring.is(first, InstanceState::Stopped).await;
    let second = ring.run(app.id, "A").await;
    assert_eq!(worker.received(Class::ServerScheduleJobReq).await["instanceId"], second.0);
    worker.report(second.0, 5, "").await;
    ring.is(second, InstanceState::Succeeded).await;
}

#[tokio::test]
async fn any_server_names_the_owner_and_carries_to_it_what_reaches_the_wrong_one() {
    let mut ring = Ring::of(3).await;
    let create = Command::AppCreate { name: "demo".to_owned(), namespace: "default".to_owned(), allow_scripts: false };
    let Reply::App(app) = ring.command(create).await else { panic!("a new app") };
    ring.apply(app.id, job("A", Standalone)).await;
    let owner = ring.owner().expect("somebody has it");
    let strangers: Vec<usize> = (0..3).filter(|place| *place != owner).collect();

    // The same name from each of them, again and again.
    let worker = FakeWorker::start(ring.gateway(strangers[0]), "demo").await;
    let path = format!("/server/acquire?appId={}&protocol=HTTP&currentServer=x:1", app.id.0);
    for _ in 0..5 {
        for place in 0..3 {
            worker.go_to(ring.gateway(place));
            assert_eq!(worker.discover(&path).await["data"], ring.gateway(owner).to_string());
        }
    }

    // A worker that talks to a stranger is served by the owner all the same.
    worker.go_to(ring.gateway(strangers[1]));
    let worker = Arc::new(worker);
    worker.heartbeat().await;
    worker.beat();
    let first = ring.run(app.id, "A").await;
    worker.received("runJob").await;
    assert_eq!(worker.report(first.0, 5, (1000, 2000), None).await, json!({ "success": true }));

    // The owner goes while another one runs: whoever takes over adopts it, and nothing runs twice.
    let second = ring.run(app.id, "A").await;
    worker.received("runJob").await;
    worker.report(second.0, 3, (3000, 4000), None).await;
    let (server, _) = ring.servers[owner].take().expect("it runs");
    server.stop().await;
    until("the end is taken", async || {
        worker.report(second.0, 5, (3000, 9000), Some("at last")).await["success"] == true
    })
    .await;
    let row = ring.instance(second).await;
    assert_eq!((row.state, row.attempt), (InstanceState::Succeeded, 1));
    let named = worker.discover(&path).await["data"].as_str().expect("an address").to_owned();
    assert_eq!(named, ring.gateway(ring.owner().expect("somebody has it")).to_string());
}
