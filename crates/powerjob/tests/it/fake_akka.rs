//! A worker over Akka, in either dialect, as far as the tests need it.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pendula_akka::artery::Address;
use pendula_akka::kryo::{Class, Dialect, Message, decode, encode};
use pendula_akka::transport::{Associations, Gate, Limits, Node, Options};
use pendula_model::AppId;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::world::{World, soon};

pub struct AkkaWorker {
    node: Option<Node>,
    pub me: Address,
    pub server: Address,
    app: i64,
    dialect: Dialect,
    pub trackers: Arc<Mutex<HashSet<i64>>>,
    received: tokio::sync::Mutex<mpsc::UnboundedReceiver<Message>>,
    tasks: Vec<JoinHandle<()>>,
}

struct Anybody;

#[async_trait::async_trait]
impl Gate for Anybody {
    fn admits(&self, _: IpAddr) -> bool {
        true
    }

    async fn target(&self, to: &Address, _: Option<IpAddr>) -> Result<SocketAddr, String> {
        Ok(to.host_and_port().parse().expect("an address of this machine"))
    }
}

impl Drop for AkkaWorker {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl AkkaWorker {
    pub async fn start(world: &World, dialect: Dialect) -> AkkaWorker {
        let port = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        AkkaWorker::start_at(world.gateway.local_addr, world.app, port, dialect).await
    }

    /// Finds its server as a real one does.
    pub async fn start_at(gateway: SocketAddr, app: AppId, port: TcpListener, dialect: Dialect) -> AkkaWorker {
        let answer = acquire_from(gateway, app, "akka").await;
        let (host, number) = answer["data"].as_str().and_then(|at| at.split_once(':')).expect("an address");
        let server = Address::new("oms-server", host, number.parse().expect("a port")).expect("an address");
        AkkaWorker::start_to(server, app, port, dialect)
    }

    /// Talks to that server, whoever owns the app.
    pub fn start_to(server: Address, app: AppId, port: TcpListener, dialect: Dialect) -> AkkaWorker {
        let me = port.local_addr().expect("it is bound");
        let me = Address::new("oms", "127.0.0.1", me.port()).expect("an address");
        let options = Options { advertised: me.clone(), tracks: false, limits: Limits::default() };
        let (node, mut told) = Node::start(port, options, Arc::new(Anybody)).expect("it starts");
        let (sender, received) = mpsc::unbounded_channel();
        let trackers: Arc<Mutex<HashSet<i64>>> = Arc::default();
        let (to, known) = (node.associations().clone(), trackers.clone());
        let serving = tokio::spawn(async move {
            while let Some(inbound) = told.recv().await {
                let (message, spoken) = decode(&inbound.payload).expect("the server can be read");
                assert_eq!(spoken, dialect);
                let instance = message.get("instanceId").as_long().expect("about an instance");
                match message.class() {
                    Class::ServerQueryInstanceStatusReq => {
                        let answer = match known.lock().expect("no panic").contains(&instance) {
                            true => json!({ "success": true, "data": "eyJzdGF0dXMiOjN9" }),
                            false => json!({ "success": false, "message": "can't find TaskTracker" }),
                        };
                        let answer = encode(&Message::from_json(Class::AskResponse, &answer).expect("fits"), dialect);
                        to.reply(&inbound.reply.expect("a question"), answer).await.expect("it is answered");
                        continue;
                    }
                    Class::ServerScheduleJobReq => drop(known.lock().expect("no panic").insert(instance)),
                    Class::ServerStopInstanceReq => drop(known.lock().expect("no panic").remove(&instance)),
                    other => panic!("the server sent a {other:?}"),
                }
                let _ = sender.send(message);
            }
        });
        let (app, received) = (app.0, tokio::sync::Mutex::new(received));
        AkkaWorker { node: Some(node), me, server, app, dialect, trackers, received, tasks: vec![serving] }
    }

    pub fn to(&self) -> &Associations {
        self.node.as_ref().expect("it lives").associations()
    }

    /// As if it were killed; its port is free then.
    pub async fn close(mut self) {
        self.tasks.drain(..).for_each(|task| task.abort());
        self.node.take().expect("it lives").close().await;
    }

    pub async fn say(&self, class: Class, json: &Value) {
        let payload = encode(&Message::from_json(class, json).expect("it fits"), self.dialect);
        // While the server is away nobody hears.
        let _ = self.to().tell(&self.server, "server_actor", payload).await;
    }

    pub fn heartbeat_message(&self, tag: Option<&str>) -> Value {
        json!({
            "workerAddress": self.me.host_and_port(), "appName": "demo", "appId": self.app, "heartbeatTime": 1,
            "containerInfos": [], "version": "UNKNOWN", "protocol": "AKKA", "tag": tag, "client": "Atlantis",
            "lightTaskTrackerNum": self.trackers.lock().expect("no panic").len(),
            "systemMetrics": { "cpuProcessors": 4, "cpuLoad": 0.5, "jvmMaxMemory": 2.0, "diskTotal": 96.7, "score": 6 },
        })
    }

    /// Heartbeats from now on.
    pub fn beat(&mut self, tag: Option<&'static str>) {
        self.beat_every(Duration::from_millis(100), tag);
    }

    pub fn beat_every(&mut self, pause: Duration, tag: Option<&'static str>) {
        let (to, server, dialect) = (self.to().clone(), self.server.clone(), self.dialect);
        let (mut message, trackers) = (self.heartbeat_message(tag), self.trackers.clone());
        self.tasks.push(tokio::spawn(async move {
            loop {
                message["lightTaskTrackerNum"] = trackers.lock().expect("no panic").len().into();
                let heartbeat = Message::from_json(Class::WorkerHeartbeat, &message).expect("it fits");
                let _ = to.tell(&server, "server_actor", encode(&heartbeat, dialect)).await;
                tokio::time::sleep(pause).await;
            }
        }));
    }

    /// The next message of the server's; questions are answered, and not shown.
    pub async fn next(&self) -> Message {
        self.received.lock().await.recv().await.expect("the worker lives")
    }

    /// The next message of that class; others before it are dropped.
    pub async fn received(&self, class: Class) -> Value {
        let mut received = self.received.lock().await;
        soon("a message", async {
            loop {
                let message = received.recv().await.expect("the worker lives");
                if message.class() == class {
                    return message.to_json();
                }
            }
        })
        .await
    }

    /// A report; a final one is asked, and repeated until it is taken.
    pub async fn report(&self, instance: i64, status: i64, result: &str) {
        let json = json!({
            "jobId": 1, "instanceId": instance, "instanceStatus": status, "result": result, "totalTaskNum": 1,
            "startTime": 1000, "reportTime": 1010, "sourceAddress": self.me.host_and_port(),
        });
        let class = Class::TaskTrackerReportInstanceStatusReq;
        if status == 3 {
            return self.say(class, &json).await;
        }
        let payload = encode(&Message::from_json(class, &json).expect("it fits"), self.dialect);
        let taken = async {
            loop {
                let to = self.to();
                let answer = to.ask(&self.server, "server_actor", payload.clone(), Duration::from_secs(5)).await;
                let Ok(answer) = answer else { continue };
                let (answer, spoken) = decode(&answer).expect("the server can be read");
                assert_eq!(spoken, self.dialect, "an answer is in the dialect of its question");
                if answer.to_json()["success"] == true {
                    self.trackers.lock().expect("no panic").remove(&instance);
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        soon("the report is taken", taken).await;
    }
}

pub async fn acquire(world: &World, protocol: &str) -> Value {
    acquire_from(world.gateway.local_addr, world.app, protocol).await
}

/// What a gateway tells a worker of `app` that asks where to go.
pub async fn acquire_from(gateway: SocketAddr, app: AppId, protocol: &str) -> Value {
    let url = format!("http://{gateway}/server/acquire?appId={}&protocol={protocol}", app.0);
    let client = reqwest::Client::builder().no_proxy().build().expect("a client");
    client.get(url).send().await.expect("the gateway answers").json().await.expect("JSON")
}

/// A number of the transport's, as the server's metrics show it.
pub fn shown(world: &World, name: &str) -> u64 {
    let text = world.server().state().metrics.encode();
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("pendula_powerjob_akka_{name} ")));
    line.unwrap_or_else(|| panic!("{name} is not shown:\n{text}")).parse().expect("a number")
}
