//! Real workers of several versions over Akka against this crate, all at once: `cargo run -p pendula-akka --example real_workers`.
//!
//! Needs a JDK and Maven. Versions are the arguments, 4.0.1, 4.3.6 and 5.1.1 without any. Each worker joins, runs a job, is
//! asked and stopped, loses its server, is killed and comes back, and stops; then its log is searched for what Akka complains
//! about. Prints what was seen and exits with 1 when something was not.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use pendula_akka::artery::Address;
use pendula_akka::kryo::{Class, Dialect, Message, decode, encode};
use pendula_akka::transport::{Counters, Gate, Inbound, Limits, Node, Options, Refused};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

/// What a worker's log must not say.
const COMPLAINTS: [&str; 8] = [
    "Failed to deserialize",
    "Dropping",
    "uarantin",
    "UID collision",
    "Unexpected incoming bytes",
    "dead letters encountered",
    "flush",
    "Unable to",
];

#[tokio::main]
async fn main() {
    let versions: Vec<String> = std::env::args().skip(1).collect();
    let versions = if versions.is_empty() { ["4.0.1", "4.3.6", "5.1.1"].map(str::to_owned).to_vec() } else { versions };
    let project = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../e2e/powerjob/akka");
    let home = std::env::temp_dir().join(format!("pendula-akka-{}", std::process::id()));

    let discovery = TcpListener::bind("127.0.0.1:0").await.expect("loopback has free ports");
    let server = Server::start("127.0.0.1:0".parse().expect("an address")).await;
    let asked_at = discovery.local_addr().expect("it listens");
    tokio::spawn(discover(discovery, server.at));
    println!("discovery on {asked_at}, Akka on {}", server.at);

    let mut run = Run { server, workers: Vec::new(), failures: Vec::new() };
    for version in &versions {
        let class_path = fetch(&project, version);
        let home = home.join(version);
        std::fs::create_dir_all(&home).expect("a temporary directory");
        let port = free_port();
        let mut worker = Worker {
            version: version.clone(),
            address: Address::of_worker(&format!("127.0.0.1:{port}")).expect("an address"),
            class_path,
            home,
            discovery: asked_at,
            process: None,
            dialect: None,
        };
        worker.start();
        run.workers.push(worker);
    }
    run.all().await;
    for worker in &mut run.workers {
        run.failures.extend(worker.complaints());
        if let Some(mut process) = worker.process.take() {
            let _ = process.kill().await;
        }
    }
    for why in Refused::ALL {
        println!("refused as {why:?}: {}", run.server.counters().refused(why));
    }
    println!("logs: {}", home.display());
    match run.failures.as_slice() {
        [] => println!("all seen"),
        failures => {
            failures.iter().for_each(|failure| println!("FAILED: {failure}"));
            std::process::exit(1);
        }
    }
}

/// The server's side.
struct Server {
    at: SocketAddr,
    node: Node,
    inbox: mpsc::Receiver<Inbound>,
    /// What came while something else was waited for.
    seen: Vec<(Address, Message)>,
}

struct Loopback;

#[async_trait::async_trait]
impl Gate for Loopback {
    fn admits(&self, peer: IpAddr) -> bool {
        peer.is_loopback()
    }

    async fn target(&self, worker: &Address, _peer: Option<IpAddr>) -> Result<SocketAddr, String> {
        Ok(SocketAddr::new(worker.host().parse().map_err(|_| "a name")?, worker.port()))
    }
}

impl Server {
    async fn start(listen: SocketAddr) -> Self {
        // Where it was before, the port may be in use for a moment.
        let port = loop {
            match TcpListener::bind(listen).await {
                Ok(port) => break port,
                Err(error) => println!("{error}"),
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        };
        let at = port.local_addr().expect("it listens");
        let advertised = Address::new("oms-server", "127.0.0.1", at.port()).expect("an address");
        let options = Options { advertised, limits: Limits::default() };
        let (node, inbox) = Node::start(port, options, Arc::new(Loopback)).expect("the limits are good");
        Server { at: node.local_addr(), node, inbox, seen: Vec::new() }
    }

    fn counters(&self) -> &Counters {
        self.node.associations().counters()
    }
}

struct Worker {
    version: String,
    address: Address,
    class_path: String,
    home: PathBuf,
    discovery: SocketAddr,
    process: Option<Child>,
    dialect: Option<Dialect>,
}

impl Worker {
    fn start(&mut self) {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.log()).expect("a log");
        let child = Command::new("java")
            .arg("-Xmx256m")
            .arg("-Dpowerjob.network.local.address=127.0.0.1")
            .arg(format!("-Duser.home={}", self.home.display()))
            .args(["-cp", &self.class_path, "org.pendula.smoke.SmokeWorker", "demo"])
            .arg(self.discovery.to_string())
            .arg(self.address.port().to_string())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("java can be started");
        self.process = Some(child);
    }

    fn log(&self) -> PathBuf {
        self.home.join("worker.log")
    }

    fn complaints(&self) -> Vec<String> {
        let log = std::fs::read_to_string(self.log()).unwrap_or_default();
        let complains = |line: &&str| COMPLAINTS.iter().any(|complaint| line.contains(complaint));
        log.lines().filter(complains).map(|line| format!("{}: {line}", self.version)).collect()
    }
}

struct Run {
    server: Server,
    workers: Vec<Worker>,
    failures: Vec<String>,
}

impl Run {
    async fn all(&mut self) {
        for index in 0..self.workers.len() {
            self.heartbeat(index, true).await;
        }
        for index in 0..self.workers.len() {
            self.job(index, 100 + index as i64, "你好 😀", "2000").await;
            self.job(index, 200 + index as i64, &"x".repeat(200_000), "").await;
            self.unknown(index).await;
            self.stop(index, 300 + index as i64).await;
        }

        println!("-- workers are frozen for 12 s, and told something meanwhile");
        for index in 0..self.workers.len() {
            self.signal(index, Signal::STOP);
            self.dispatch(index, 500 + index as i64, "while frozen", "").await;
        }
        tokio::time::sleep(Duration::from_secs(12)).await;
        for index in 0..self.workers.len() {
            self.signal(index, Signal::CONT);
        }
        self.server.seen.clear();
        for index in 0..self.workers.len() {
            self.end(index, 500 + index as i64, "while frozen").await;
            self.heartbeat(index, false).await;
        }

        println!("-- the server is restarted");
        let at = self.server.at;
        let started = Instant::now();
        let old = std::mem::replace(&mut self.server, Server::start("127.0.0.1:0".parse().expect("an address")).await);
        old.node.close().await;
        self.server = Server::start(at).await;
        // Before any worker has said a word.
        for index in 0..self.workers.len() {
            self.unknown(index).await;
        }
        for index in 0..self.workers.len() {
            self.heartbeat(index, false).await;
        }
        println!("   all heard again after {:.1} s", started.elapsed().as_secs_f64());

        println!("-- workers are killed and started at the same ports");
        for index in 0..self.workers.len() {
            let worker = &mut self.workers[index];
            let mut process = worker.process.take().expect("it runs");
            process.kill().await.expect("it is killed");
            worker.start();
        }
        self.server.seen.clear();
        for index in 0..self.workers.len() {
            self.heartbeat(index, false).await;
            self.job(index, 400 + index as i64, "after a kill", "").await;
        }

        println!("-- workers are stopped");
        for index in 0..self.workers.len() {
            let began = Instant::now();
            self.signal(index, Signal::TERM);
            let worker = &mut self.workers[index];
            let mut process = worker.process.take().expect("it runs");
            match timeout_at(began + Duration::from_secs(30), process.wait()).await {
                Ok(_) => println!("   {} stopped after {:.1} s", worker.version, began.elapsed().as_secs_f64()),
                Err(_) => self.failures.push(format!("{} does not stop", worker.version)),
            }
        }
    }

    async fn heartbeat(&mut self, index: usize, show: bool) {
        let Some(heartbeat) = self.wait(index, "a heartbeat", |class, _| class == Class::WorkerHeartbeat).await else {
            return;
        };
        let Worker { version, dialect, .. } = &self.workers[index];
        println!("{version}: heartbeat, dialect {dialect:?}");
        if show {
            println!("   {}", heartbeat.to_json());
        }
    }

    async fn tell(&mut self, index: usize, class: Class, json: Value) {
        let worker = &self.workers[index];
        let message = Message::from_json(class, &json).expect("a message");
        let bytes = encode(&message, worker.dialect.expect("it was heard"));
        if let Err(error) = self.server.node.associations().tell(&worker.address, "worker", bytes).await {
            self.failures.push(format!("{} was not told {class:?}: {error}", worker.version));
        }
    }

    async fn ask(&mut self, index: usize, instance: i64) -> Option<Value> {
        let worker = &self.workers[index];
        let json = json!({"instanceId": instance});
        let message = Message::from_json(Class::ServerQueryInstanceStatusReq, &json).expect("a message");
        let bytes = encode(&message, worker.dialect.expect("it was heard"));
        let to = self.server.node.associations();
        match to.ask(&worker.address, "worker", bytes, Duration::from_secs(5)).await {
            Ok(answer) => {
                let (answer, dialect) = decode(&answer).expect("an answer");
                assert_eq!(Some(dialect), worker.dialect);
                Some(answer.to_json())
            }
            Err(error) => {
                self.failures.push(format!("{} did not answer: {error}", worker.version));
                None
            }
        }
    }

    fn signal(&self, index: usize, signal: Signal) {
        let process = self.workers[index].process.as_ref().and_then(Child::id);
        let id = process.and_then(|id| Pid::from_raw(id as i32)).expect("it runs");
        kill_process(id, signal).expect("it is there");
    }

    async fn dispatch(&mut self, index: usize, instance: i64, params: &str, wait: &str) {
        let json = json!({
            "allWorkerAddress": [self.workers[index].address.host_and_port()],
            "executeType": "STANDALONE", "processorType": "BUILT_IN",
            "processorInfo": "org.pendula.smoke.SmokeWorker$Echo",
            "jobId": 1, "instanceId": instance, "jobParams": params, "instanceParams": wait,
            "instanceTimeoutMS": 0, "taskRetryNum": 0, "threadConcurrency": 1,
            "timeExpressionType": "API", "maxInstanceNum": 0, "maxWorkerCount": 0,
        });
        self.tell(index, Class::ServerScheduleJobReq, json).await;
    }

    /// A job from its dispatch to its end; it is asked about while it waits.
    async fn job(&mut self, index: usize, instance: i64, params: &str, wait: &str) {
        self.dispatch(index, instance, params, wait).await;
        let version = self.workers[index].version.clone();
        let logged = |class, message: &Message| {
            class == Class::WorkerLogReportReq && message.to_json().to_string().contains(&instance.to_string())
        };
        if !wait.is_empty() {
            // It takes a moment to start.
            let deadline = Instant::now() + Duration::from_secs(10);
            let mut asked = 0;
            let answer = loop {
                asked += 1;
                match self.ask(index, instance).await {
                    Some(answer) if answer["success"] != true && Instant::now() < deadline => {}
                    answer => break answer.unwrap_or_default(),
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            };
            println!("{version}: asked {asked} times about {instance}: {}", answer["success"]);
            if answer["success"] != true {
                self.failures.push(format!("{version}: {answer}"));
            }
        }
        self.end(index, instance, params).await;
        self.wait(index, &format!("the log of {instance}"), logged).await;
    }

    async fn end(&mut self, index: usize, instance: i64, params: &str) {
        let version = self.workers[index].version.clone();
        let is_end = |class, message: &Message| {
            class == Class::TaskTrackerReportInstanceStatusReq
                && message.get("instanceId").as_long() == Some(instance)
                && message.get("instanceStatus").as_long() != Some(3)
        };
        if let Some(end) = self.wait(index, &format!("the end of {instance}"), is_end).await {
            let result = end.get("result").as_text().unwrap_or_default();
            let short: String = result.chars().take(40).collect();
            println!("{version}: instance {instance} ended as {:?}: {short}", end.get("instanceStatus"));
            let echo = format!("echo: {params}");
            // Workers cut long results.
            if end.get("instanceStatus").as_long() != Some(5) || !echo.starts_with(result.trim_end_matches("...")) {
                self.failures.push(format!("{version}: {short}"));
            }
        }
    }

    async fn unknown(&mut self, index: usize) {
        let version = self.workers[index].version.clone();
        if let Some(answer) = self.ask(index, 999_999).await {
            println!("{version}: asked about nothing: {}", answer["message"]);
            if !answer["message"].as_str().unwrap_or_default().to_lowercase().contains("can't find tasktracker") {
                self.failures.push(format!("{version}: {answer}"));
            }
        }
    }

    async fn stop(&mut self, index: usize, instance: i64) {
        let version = self.workers[index].version.clone();
        self.dispatch(index, instance, "to be stopped", "60000").await;
        let deadline = Instant::now() + Duration::from_secs(10);
        let mut ran = false;
        while Instant::now() < deadline && !ran {
            ran = self.ask(index, instance).await.is_some_and(|answer| answer["success"] == true);
        }
        self.tell(index, Class::ServerStopInstanceReq, json!({"instanceId": instance})).await;
        let mut runs = true;
        while Instant::now() < deadline && runs {
            tokio::time::sleep(Duration::from_millis(200)).await;
            runs = self.ask(index, instance).await.is_none_or(|answer| answer["success"] == true);
        }
        println!("{version}: instance {instance} ran: {ran}, and was stopped: {}", !runs);
        if !ran || runs {
            self.failures.push(format!("{version}: stopping does not work"));
        }
    }

    /// The first message of that worker that is wanted. All that wait for an answer get one.
    async fn wait(&mut self, index: usize, what: &str, is_wanted: impl Fn(Class, &Message) -> bool) -> Option<Message> {
        let address = self.workers[index].address.clone();
        // Seven JVMs that start at once take their time.
        let deadline = Instant::now() + Duration::from_secs(180);
        loop {
            let wanted = |(from, message): &(Address, Message)| *from == address && is_wanted(message.class(), message);
            if let Some(place) = self.server.seen.iter().position(wanted) {
                return Some(self.server.seen.remove(place).1);
            }
            let Ok(Some(inbound)) = timeout_at(deadline, self.server.inbox.recv()).await else {
                self.failures.push(format!("{}: {what} did not come", self.workers[index].version));
                return None;
            };
            self.take(inbound).await;
        }
    }

    async fn take(&mut self, inbound: Inbound) {
        let (message, dialect) = match decode(&inbound.payload) {
            Ok(decoded) => decoded,
            Err(error) => return self.failures.push(format!("{} said something unreadable: {error}", inbound.from)),
        };
        if let Some(worker) = self.workers.iter_mut().find(|worker| worker.address == inbound.from) {
            if worker.dialect.is_some_and(|known| known != dialect) {
                self.failures.push(format!("{} speaks two dialects", worker.version));
            }
            worker.dialect = Some(dialect);
        }
        if let Some(reply) = &inbound.reply {
            let done = Message::from_json(Class::AskResponse, &json!({"success": true})).expect("a message");
            if let Err(error) = self.server.node.associations().reply(reply, encode(&done, dialect)).await {
                self.failures.push(format!("{} was not answered: {error}", inbound.from));
            }
        }
        self.server.seen.push((inbound.from, message));
    }
}

/// Tells workers that the app is number 1 and where the server is.
async fn discover(port: TcpListener, server: SocketAddr) {
    let mut asked: HashMap<String, usize> = HashMap::new();
    while let Ok((mut stream, _)) = port.accept().await {
        let mut head = vec![0; 4096];
        let count = stream.read(&mut head).await.unwrap_or(0);
        let head = String::from_utf8_lossy(&head[..count]);
        let target = head.split(' ').nth(1).unwrap_or_default().to_owned();
        let data = match target.split('?').next().unwrap_or_default() {
            "/server/assert" => json!(1),
            "/server/assertV2" => json!({"appId": 1}),
            "/server/acquire" => json!(server.to_string()),
            _ => json!(true),
        };
        let times = asked.entry(target.clone()).or_default();
        *times += 1;
        if *times == 1 {
            println!("   discovery is asked: {target}");
        }
        let body = json!({"success": true, "data": data, "message": null}).to_string();
        let answer = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
            body.len()
        );
        let _ = stream.write_all(answer.as_bytes()).await;
    }
}

/// Has Maven fetch and compile what is not there yet; the class path.
fn fetch(project: &Path, version: &str) -> String {
    let made = project.join("target").join(version);
    let class_path = made.join("classpath");
    if !class_path.exists() {
        let status = std::process::Command::new("mvn")
            .args([
                "-q",
                "-B",
                "-ntp",
                &format!("-Dpowerjob.version={version}"),
                "compile",
                "dependency:build-classpath",
            ])
            .arg(format!("-Dmdep.outputFile={}", class_path.display()))
            .current_dir(project)
            .status()
            .expect("mvn can be started");
        assert!(status.success(), "Maven cannot fetch or compile PowerJob {version}");
    }
    let jars = std::fs::read_to_string(class_path).expect("the class path is readable");
    format!("{}:{jars}", made.join("classes").display())
}

fn free_port() -> u16 {
    let port = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
    port.local_addr().expect("it listens").port()
}
