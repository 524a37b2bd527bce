//! Several servers on one store: who is named, and what becomes of what reaches the wrong one.

use std::net::SocketAddr;
use std::sync::Arc;

use pendula_akka::artery::Address;
use pendula_akka::kryo::{Class, Dialect};
use pendula_engine::{Command, Reply, RunRequest};
use pendula_model::PartitionId;
use pendula_model::instance::InstanceState;
use pendula_model::powerjob::PowerJobExecuteType::Standalone;
use pendula_server::{Server, SystemClock};
use pendula_store::logs::SqliteLogStore;
use pendula_store::{MemoryStore, Store};
use serde_json::json;
use tokio::net::TcpListener;

use crate::fake::FakeWorker;
use crate::fake_akka::AkkaWorker;
use crate::world::{HURRY, PATIENCE, config, job, until};

const PARTITIONS: u16 = 4;

struct Ring {
    store: Arc<MemoryStore>,
    servers: Vec<Option<(Server, SocketAddr)>>,
    /// Where each is over Akka.
    akka: Vec<SocketAddr>,
    _directory: tempfile::TempDir,
}

impl Ring {
    async fn of(count: usize) -> Ring {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let store = Arc::new(MemoryStore::shared(PARTITIONS, [7; 32]));
        let logs = Arc::new(SqliteLogStore::open(directory.path()).expect("an empty log store"));
        let set =
            ["powerjob.allow=demo=127.0.0.0/8", "powerjob.http.listen=127.0.0.1:0", "powerjob.akka.listen=127.0.0.1:0"];
        let set = set.map(str::to_owned);
        let (mut servers, mut akka) = (Vec::new(), Vec::new());
        for _ in 0..count {
            let config = config("127.0.0.1:0", directory.path(), &set);
            let server = Server::start_with(config, Arc::new(SystemClock), store.clone(), logs.clone()).await;
            let server = server.expect("it starts");
            let gateway = pendula_powerjob::start_with(&server, HURRY).await.expect("it starts").expect("it is on");
            servers.push(Some((server, gateway.local_addr)));
            akka.push(gateway.akka.expect("it is served").0);
        }
        let ring = Ring { store, servers, akka, _directory: directory };
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

    fn owner(&self) -> Option<usize> {
        let partition = PartitionId::of_app("demo", PARTITIONS);
        let has = |server: &Option<(Server, SocketAddr)>| {
            server.as_ref().is_some_and(|(server, _)| server.state().partitions.is_here(partition))
        };
        self.servers.iter().position(has)
    }

    fn gateway(&self, place: usize) -> SocketAddr {
        self.servers[place].as_ref().expect("it runs").1
    }

    /// Carried out at the owner, wherever that is now.
    async fn command(&self, command: Command) -> Reply {
        let partition = PartitionId::of_app("demo", PARTITIONS);
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
    let apply = Command::JobApply { app: app.id, spec: Arc::new(job("A", Standalone)), expected_version: None };
    ring.command(apply).await;
    let run = async || {
        let run = RunRequest {
            app: app.id,
            job: "A".to_owned(),
            params: None,
            due_at: None,
            idempotency_key: None,
            rerun_of: None,
            only_unsuccessful: false,
            priority: None,
        };
        let Reply::Instance { id, .. } = ring.command(Command::JobRun(Box::new(run))).await else {
            panic!("an instance")
        };
        id
    };
    let comes_to = async |id, state: InstanceState| {
        until(state.as_str(), async || {
            ring.store.instance(id).await.expect("the store answers").expect("it is there").state == state
        })
        .await;
    };
    let stranger = 1 - ring.owner().expect("somebody has it");
    let server = Address::new("oms-server", "127.0.0.1", ring.akka[stranger].port()).expect("an address");
    let port = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let mut worker = AkkaWorker::start_to(server.clone(), app.id, port, Dialect::Plain);
    worker.beat(None);
    let first = run().await;
    worker.received(Class::ServerScheduleJobReq).await;
    worker.report(first.0, 3, "").await;
    comes_to(first, InstanceState::Running).await;

    let at = worker.me.port();
    worker.close().await;
    let port = TcpListener::bind(("127.0.0.1", at)).await.expect("it is free");
    let mut worker = AkkaWorker::start_to(server, app.id, port, Dialect::Named);
    ring.command(Command::InstanceStop { instance: first }).await;
    until("the owner comes and says who it is", async || worker.to().counters().received() > 0).await;
    // Anything said together with that would have been in the other dialect, at which this one panics.
    worker.beat(None);
    comes_to(first, InstanceState::Stopped).await;
    let second = run().await;
    assert_eq!(worker.received(Class::ServerScheduleJobReq).await["instanceId"], second.0);
    worker.report(second.0, 5, "").await;
    comes_to(second, InstanceState::Succeeded).await;
}

#[tokio::test]
async fn any_server_names_the_owner_and_carries_to_it_what_reaches_the_wrong_one() {
    let mut ring = Ring::of(3).await;
    let create = Command::AppCreate { name: "demo".to_owned(), namespace: "default".to_owned(), allow_scripts: false };
    let Reply::App(app) = ring.command(create).await else { panic!("a new app") };
    let apply = Command::JobApply { app: app.id, spec: Arc::new(job("A", Standalone)), expected_version: None };
    ring.command(apply).await;
    let owner = ring.owner().expect("somebody has it");
    let strangers: Vec<usize> = (0..3).filter(|place| *place != owner).collect();

    // The same name from each of them, again and again.
    let mut worker = FakeWorker::start(ring.gateway(strangers[0]), "demo").await;
    let path = format!("/server/acquire?appId={}&protocol=HTTP&currentServer=x:1", app.id.0);
    for _ in 0..5 {
        for place in 0..3 {
            worker.gateway = ring.gateway(place);
            assert_eq!(worker.discover(&path).await["data"], ring.gateway(owner).to_string());
        }
    }

    // A worker that talks to a stranger is served by the owner all the same.
    worker.gateway = ring.gateway(strangers[1]);
    let worker = Arc::new(worker);
    worker.heartbeat().await;
    worker.beat();
    let run = || {
        Command::JobRun(Box::new(RunRequest {
            app: app.id,
            job: "A".to_owned(),
            params: None,
            due_at: None,
            idempotency_key: None,
            rerun_of: None,
            only_unsuccessful: false,
            priority: None,
        }))
    };
    let Reply::Instance { id: first, .. } = ring.command(run()).await else { panic!("a new instance") };
    worker.received("runJob").await;
    assert_eq!(worker.report(first.0, 5, (1000, 2000), None).await, json!({ "success": true }));

    // The owner goes while another one runs: whoever takes over adopts it, and nothing runs twice.
    let Reply::Instance { id: second, .. } = ring.command(run()).await else { panic!("a new instance") };
    worker.received("runJob").await;
    worker.report(second.0, 3, (3000, 4000), None).await;
    let (server, _) = ring.servers[owner].take().expect("it runs");
    server.stop().await;
    until("the end is taken", async || {
        worker.report(second.0, 5, (3000, 9000), Some("at last")).await["success"] == true
    })
    .await;
    let row = ring.store.instance(second).await.expect("the store answers").expect("it is there");
    assert_eq!((row.state, row.attempt), (InstanceState::Succeeded, 1));
    let named = worker.discover(&path).await["data"].as_str().expect("an address").to_owned();
    assert_eq!(named, ring.gateway(ring.owner().expect("somebody has it")).to_string());
}
