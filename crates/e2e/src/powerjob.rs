//! Real PowerJob workers and clients, as Maven Central has them, with the small programs under `e2e/powerjob`.

use std::collections::HashMap;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use pendula_client::{Client, RunKey};
use pendula_model::InstanceId;
use pendula_model::api::{AppCreate, InstanceView, RunJob, TokenCreate, TokenKind, WorkerView};
use pendula_model::job::JobSpec;
use pendula_model::powerjob::{PowerJob, PowerJobExecuteType};
use pendula_model::processor::Processor;
use pendula_model::worker::LabelRule;
use rustix::process::Signal;

use crate::process::{Process, eventually};
use crate::server::Server;

/// The app of every yard.
pub const APP: &str = "yard";
/// A JVM on a machine that does other things too takes its time.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// What a worker speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// From 4.3.0 on.
    Http,
    /// All versions; before 4.3.0 there is nothing else.
    Akka,
}

impl Protocol {
    /// As PowerJob writes it.
    pub fn name(self) -> &'static str {
        match self {
            Protocol::Http => "HTTP",
            Protocol::Akka => "AKKA",
        }
    }
}

/// The programs, compiled against one version of PowerJob.
#[derive(Clone, Debug)]
pub struct Programs {
    pub version: String,
    class_path: Arc<str>,
    /// Where the programs' own classes are, first on the class path.
    pub classes: PathBuf,
}

type Compiled = HashMap<(&'static str, String), Programs>;
static COMPILED: LazyLock<Mutex<Compiled>> = LazyLock::new(Mutex::default);

impl Programs {
    /// A worker and its processors. Fetches that version and compiles against it, once per process; what was fetched
    /// before needs no network.
    ///
    /// # Panics
    /// When Maven is not there or fails, with what to do.
    pub fn worker(version: &str) -> Programs {
        Programs::of("worker", version)
    }

    /// The same for a client.
    pub fn client(version: &str) -> Programs {
        Programs::of("client", version)
    }

    fn of(which: &'static str, version: &str) -> Programs {
        // Held meanwhile: one Maven at a time. One that failed must not keep the others from saying why they do.
        let mut compiled = COMPILED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(programs) = compiled.get(&(which, version.to_owned())) {
            return programs.clone();
        }
        let project = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../e2e/powerjob").join(which);
        let out = project.join("target").join(version);
        let jars = out.join("classpath");
        if !is_current(&jars, &project) {
            fetch(version, &project, &jars);
        }
        let jars = std::fs::read_to_string(jars).expect("Maven wrote it");
        let (version, class_path) = (version.to_owned(), jars.trim().into());
        let programs = Programs { version: version.clone(), class_path, classes: out.join("classes") };
        compiled.insert((which, version), programs.clone());
        programs
    }

    /// The same with other classes of its own.
    pub fn with_classes(self, classes: PathBuf) -> Programs {
        Programs { classes, ..self }
    }

    fn java(&self, main: &str, home: &Path, options: &[String]) -> Command {
        let mut java = Command::new("java");
        java.args(["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto"])
            .args(["-Dpowerjob.network.local.address=127.0.0.1", "-Dpowerjob.worker.status-check.normal.period=2"])
            .arg(format!("-Duser.home={}", home.display()))
            .args(options)
            .arg("-cp")
            .arg(format!("{}:{}", self.classes.display(), self.class_path))
            .arg(format!("org.pendula.compat.{main}"));
        java
    }
}

/// Whether what Maven made is newer than what it is made of.
fn is_current(made: &Path, project: &Path) -> bool {
    let changed = |path: &Path| path.metadata().and_then(|data| data.modified()).ok();
    let sources = ["pom.xml", "src/main/resources/logback.xml"].map(|name| project.join(name));
    let java = std::fs::read_dir(project.join("src/main/java/org/pendula/compat")).into_iter().flatten();
    let java = java.filter_map(|entry| Some(entry.ok()?.path()));
    let latest = sources.into_iter().chain(java).filter_map(|path| changed(&path)).max();
    changed(made).is_some_and(|made| latest.is_some_and(|latest| made > latest))
}

fn fetch(version: &str, project: &Path, jars: &Path) {
    let output = Command::new("mvn")
        .args(["-q", "-B", "-ntp"])
        .arg(format!("-Dpowerjob.version={version}"))
        .arg(format!("-Dofficial.version={}", official(version)))
        .args(["compile", "dependency:build-classpath"])
        .arg(format!("-Dmdep.outputFile={}", jars.display()))
        .current_dir(project)
        .output();
    let output = match output {
        Ok(output) => output,
        Err(error) => panic!("mvn cannot be started ({error}): install a JDK and Maven, as `make prepare` does"),
    };
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "Maven cannot fetch or compile PowerJob {version}:\n{printed}");
}

/// The version of the official processors for workers of `version`: for some, none were published.
pub fn official(version: &str) -> &str {
    match version {
        "4.0.0" | "4.0.1" | "4.1.1" | "4.2.0" => "1.2.2",
        "4.3.0" | "4.3.2" => "4.3.3",
        "5.1.2" => "5.1.1",
        other => other,
    }
}

/// A worker's process.
pub struct JavaWorker {
    pub programs: Programs,
    /// Its tag.
    pub name: String,
    pub protocol: Protocol,
    pub port: u16,
    process: Process,
}

impl JavaWorker {
    /// SIGKILL.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}

/// What Akka writes into a worker's log when the other side does not speak as it should.
const COMPLAINTS: [&str; 6] =
    ["Failed to deserialize", "Dropping", "uarantin", "UID collision", "Unexpected incoming bytes", "KryoException"];

/// Servers with PowerJob's gateway, usually one, and Java workers.
pub struct Yard<S = Server> {
    pub server: S,
    pub client: Client,
    /// Where workers and PowerJob's clients find the servers.
    gateways: Vec<u16>,
    directory: PathBuf,
    pub workers: Vec<JavaWorker>,
    /// Of workers that are started from now on.
    pub protocol: Protocol,
    /// Between two heartbeats.
    pub heartbeat: Duration,
    pub heap: &'static str,
}

impl Yard {
    pub async fn start() -> Yard {
        let (gateway, options) = gateway();
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        let server = Server::start_with(&options).await;
        let (client, directory) = (server.client(), server.directory().to_owned());
        Yard::around(server, client, &directory, vec![gateway]).await
    }

    /// Where workers and PowerJob's clients find the server.
    pub fn gateway(&self) -> u16 {
        self.gateways[0]
    }
}

/// What a server is told that shall have a gateway, and the port on which workers find it.
pub fn gateway() -> (u16, Vec<String>) {
    let port = free_port();
    let http = format!("powerjob.http.listen=127.0.0.1:{port}");
    let akka = format!("powerjob.akka.listen=127.0.0.1:{}", free_port());
    let allow = format!("powerjob.allow={APP}=127.0.0.0/8");
    let options = [http, akka, allow].into_iter().flat_map(|option| ["--set".to_owned(), option]);
    (port, options.collect())
}

impl<S> Yard<S> {
    /// A yard of servers that run and have gateways on these ports.
    pub async fn around(server: S, client: Client, directory: &Path, gateways: Vec<u16>) -> Yard<S> {
        let app = AppCreate { name: APP.to_owned(), namespace: None, allow_scripts: true };
        client.app_create(&app).await.expect("the app is new");
        std::fs::create_dir(directory.join("notes")).expect("the directory is new");
        Yard {
            server,
            client,
            gateways,
            directory: directory.to_owned(),
            workers: Vec::new(),
            protocol: Protocol::Http,
            heartbeat: Duration::from_secs(10),
            heap: "-Xmx192m",
        }
    }

    /// Starts a worker; its tag is its name.
    pub fn add(&mut self, programs: &Programs, name: &str) {
        self.launch(programs, name, self.protocol, free_port());
    }

    fn launch(&mut self, programs: &Programs, name: &str, protocol: Protocol, port: u16) {
        let home = self.directory.join(format!("home-{port}"));
        let options = [
            format!("-Dcompat.name={name}"),
            format!("-Dcompat.notes={}", self.directory.join("notes").display()),
            format!("-Dcompat.heartbeat={}", self.heartbeat.as_secs()),
            self.heap.to_owned(),
        ];
        let mut java = programs.java("CompatWorker", &home, &options);
        let servers: Vec<_> = self.gateways.iter().map(|port| format!("127.0.0.1:{port}")).collect();
        java.args([APP, &servers.join(","), &port.to_string(), name, protocol.name()]);
        let process = Process::start(&mut java, &self.log_of(name));
        let process = process.expect("java can be started; `make prepare` installs a JDK");
        self.workers.retain(|worker| worker.name != name);
        let (programs, name) = (programs.clone(), name.to_owned());
        self.workers.push(JavaWorker { programs, name, protocol, port, process });
    }

    fn log_of(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{name}.log"))
    }

    /// The end of what a worker printed.
    pub fn printed_by(&self, name: &str) -> String {
        let text = std::fs::read_to_string(self.log_of(name)).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }

    pub fn worker(&mut self, name: &str) -> &mut JavaWorker {
        self.workers.iter_mut().find(|worker| worker.name == name).expect("it was started")
    }

    /// Kills a worker and starts another process like it on the same port.
    pub fn replace(&mut self, name: &str) {
        let worker = self.worker(name);
        worker.kill();
        let (programs, protocol, port) = (worker.programs.clone(), worker.protocol, worker.port);
        self.launch(&programs, name, protocol, port);
    }

    /// Replaces a worker as an operator does: drains it, ends it, starts one of another version or protocol on the same
    /// port, and waits until the server knows it.
    pub async fn upgrade(&mut self, name: &str, programs: &Programs, protocol: Protocol) {
        let address = self.address_of(name);
        self.client.worker_drain(APP, &address).await.expect("it is connected");
        eventually(&format!("{name} has nothing any more"), PATIENCE, || async {
            let there = self.client.worker_list(APP).await.ok()?;
            there.iter().all(|view| view.address != address || view.running == 0).then_some(())
        })
        .await;
        let worker = self.worker(name);
        worker.process.signal(Signal::TERM);
        worker.process.wait(PATIENCE);
        let port = worker.port;
        self.launch(programs, name, protocol, port);
        let version = format!("powerjob {}", programs.version);
        eventually(&format!("{name} is there as {version}"), PATIENCE, || async {
            let there = self.client.worker_list(APP).await.ok()?;
            there.iter().any(|view| view.address == address && view.version == version).then_some(())
        })
        .await;
    }

    /// What the workers' Akka complained of.
    pub fn complaints(&self) -> Vec<String> {
        let lines = self.workers.iter().flat_map(|worker| {
            let text = std::fs::read_to_string(self.log_of(&worker.name)).unwrap_or_default();
            let named = |line: &str| format!("{}: {line}", worker.name);
            text.lines().map(named).collect::<Vec<_>>()
        });
        lines.filter(|line| COMPLAINTS.iter().any(|complaint| line.contains(complaint))).collect()
    }

    /// The address that a worker is known by.
    pub fn address_of(&self, name: &str) -> String {
        let worker = self.workers.iter().find(|worker| worker.name == name).expect("it was started");
        format!("127.0.0.1:{}", worker.port)
    }

    /// Waits until all workers that were started are connected.
    ///
    /// # Panics
    /// With what they printed, when they do not.
    pub async fn connected(&self) -> Vec<WorkerView> {
        let end = std::time::Instant::now() + PATIENCE;
        loop {
            let there = self.client.worker_list(APP).await.unwrap_or_default();
            let is_there = |name: &str| {
                let address = self.address_of(name);
                there.iter().any(|view| view.address == address && view.state == "connected")
            };
            let missing: Vec<_> = self.workers.iter().filter(|worker| !is_there(&worker.name)).collect();
            if missing.is_empty() {
                return there;
            }
            if std::time::Instant::now() > end {
                let printed: Vec<_> = missing.iter().map(|worker| self.printed_by(&worker.name)).collect();
                panic!("these never connected:\n{}", printed.join("\n----\n"));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Creates a job and runs it.
    pub async fn run(&self, job: &JobSpec) -> InstanceId {
        self.run_with(job, None).await
    }

    /// The same with PowerJob's parameters of an instance.
    pub async fn run_with(&self, job: &JobSpec, instance_params: Option<&str>) -> InstanceId {
        self.client.job_create(APP, job).await.expect("the job is valid");
        let params = instance_params.map(|text| {
            let params = serde_json::json!({ "instance_params": text });
            params.as_object().expect("just made").clone()
        });
        let run = RunJob { params, ..RunJob::default() };
        let run = self.client.job_run(APP, &job.name, &run, RunKey::Random).await;
        run.expect("it can be run").instance.expect("an accepted run names its instance")
    }

    /// Waits until an instance is as wanted. `Err` says how it is instead.
    pub async fn until(
        &self,
        id: InstanceId,
        within: Duration,
        wanted: impl Fn(&InstanceView) -> bool,
    ) -> Result<InstanceView, String> {
        let end = std::time::Instant::now() + within;
        loop {
            let seen = self.client.instance_fetch(id).await;
            match seen {
                Ok(view) if wanted(&view) => return Ok(view),
                seen if std::time::Instant::now() > end => {
                    let seen = seen.map_or_else(|error| error.to_string(), |view| shown(&view));
                    return Err(format!("not within {within:?}: {seen}"));
                }
                _ => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }

    /// Waits for the end of an instance.
    pub async fn ended(&self, id: InstanceId) -> Result<InstanceView, String> {
        self.until(id, PATIENCE, |view| view.state.is_ended()).await
    }

    /// Who ran something of an instance, in order; once for each execution.
    pub fn notes(&self, id: InstanceId) -> Vec<String> {
        let path = self.directory.join("notes").join(id.to_string());
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let mut names: Vec<_> = text.lines().filter_map(|line| Some(line.split_once(' ')?.0.to_owned())).collect();
        names.sort();
        names
    }

    /// Waits until that many executions of an instance have begun.
    pub async fn begun(&self, id: InstanceId, count: usize) {
        eventually("it has begun", PATIENCE, || async { (self.notes(id).len() >= count).then_some(()) }).await;
    }

    /// A secret for PowerJob's clients.
    pub async fn secret(&self, name: &str) -> String {
        let (name, app) = (name.to_owned(), Some(APP.to_owned()));
        let token = TokenCreate { name, kind: TokenKind::Powerjob, app, expires_in: None };
        self.client.token_create(&token).await.expect("an administrator makes tokens").secret.expect("shown once")
    }

    /// The client program; `port` is where it shall find the server.
    pub fn java_client(&self, programs: &Programs, port: u16, arguments: &[&str]) -> Command {
        let mut java = programs.java("CompatClient", &self.directory.join("home-client"), &[]);
        java.args([&format!("127.0.0.1:{port}"), APP]).args(arguments);
        java
    }
}

/// In one line.
pub fn shown(view: &InstanceView) -> String {
    let (reason, message) = (view.reason.as_deref().unwrap_or(""), view.message.as_deref().unwrap_or(""));
    format!("{}: {:?} attempt {} {reason} {message} {}", view.job, view.state, view.attempt, result(view))
}

/// What an instance left behind, as text.
pub fn result(view: &InstanceView) -> String {
    view.result.as_ref().and_then(|result| result.text.clone()).unwrap_or_default()
}

/// A job of the programs' class `Processors.CLASS`, for workers of that tag.
pub fn job(name: &str, class: &str, execute_type: PowerJobExecuteType, params: &str, tag: Option<&str>) -> JobSpec {
    job_of(name, &format!("org.pendula.compat.Processors${class}"), execute_type, params, tag)
}

/// A job of any class.
pub fn job_of(name: &str, info: &str, execute_type: PowerJobExecuteType, params: &str, tag: Option<&str>) -> JobSpec {
    let powerjob = PowerJob { execute_type, job_params: Some(params.to_owned()), ..PowerJob::new(info) };
    let mut job = JobSpec::new(name, Processor::PowerJob(powerjob));
    if let Some(tag) = tag {
        job.workers.labels.insert("tag".to_owned(), LabelRule::Is(tag.to_owned()));
    }
    job
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port is free").port()
}
