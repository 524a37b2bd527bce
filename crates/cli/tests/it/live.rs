//! Against a real server and worker, in this process; the commands are processes of their own.

use std::sync::Arc;

use pendula_client::Client;
use pendula_model::api::{AppCreate, TokenCreate, TokenKind};
use pendula_processors::{ProcessorConfig, register};
use pendula_server::{Config, ConfigSources, Flags, Server, SystemClock};
use pendula_store::MemoryStore;
use pendula_store::logs::SqliteLogStore;
use pendula_worker::{Shutdown, Worker};

use crate::command::{Done, Pendula};

/// A secret for tests; long enough that a server takes it.
pub const ADMIN: &str = "K7q2mVx94TzLw8RbYc3NfHs6PdJgAe5U";

pub struct Live {
    server: Server,
    worker: tokio::task::JoinHandle<()>,
    shutdown: Shutdown,
    _data: tempfile::TempDir,
}

impl Live {
    pub async fn start() -> (Live, Pendula) {
        let data = tempfile::tempdir().expect("a directory");
        let flags = Flags {
            listen: Some("127.0.0.1:0".into()),
            database: Some(format!("sqlite:{}", data.path().display())),
            ..Flags::default()
        };
        let mut config = Config::load(&ConfigSources { flags, ..ConfigSources::default() }).expect("valid");
        config.admin_token = Some(ADMIN.to_owned());
        let server = Server::start(config, Arc::new(SystemClock)).await.expect("started");
        let url = format!("http://{}", server.local_addr());
        let client = Client::new(&url, ADMIN).expect("an address");
        client
            .app_create(&AppCreate { name: "demo".into(), namespace: None, allow_scripts: true })
            .await
            .expect("created");
        let create =
            TokenCreate { name: "w".into(), kind: TokenKind::Worker, app: Some("demo".into()), expires_in: None };
        let token = client.token_create(&create).await.expect("created").secret.expect("shown once");
        let builder = Worker::builder(&url).app("demo").token(token).name("w1");
        let supervised = pendula_processors::script::ScriptConfig {
            supervision: pendula_processors::supervisor::Supervision::Program(env!("CARGO_BIN_EXE_pendula").into()),
            ..Default::default()
        };
        let processors = ProcessorConfig { script: supervised, noop: true, ..ProcessorConfig::default() };
        let worker = register(builder, processors).expect("registered").build().expect("valid");
        let shutdown = Shutdown::new();
        let running = worker.run(shutdown.clone());
        let worker = tokio::spawn(async move {
            running.await.expect("it does not give up");
        });
        let pendula = Pendula::new().with("PENDULA_SERVER", &url).with("PENDULA_TOKEN", ADMIN);
        (Live { server, worker, shutdown, _data: data }, pendula)
    }

    pub async fn stop(self) {
        self.shutdown.drain();
        self.worker.await.expect("no panic");
        self.server.stop().await;
    }
}

/// The commands block, the server must go on.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.expect("no panic")
}

const JOBS: &str = "\
app: demo
jobs:
  - name: hello
    processor: { shell: \"echo hello ${params.who}; echo '::output greeted=yes'\" }
  - name: fails
    processor: { shell: \"echo going wrong; exit 3\" }
  - name: nightly
    trigger: { cron: \"0 30 2 * * ?\", timezone: Europe/Berlin }
    processor: { handler: noop }
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_becomes_jobs_that_run_and_are_read_back() {
    let (live, pendula) = Live::start().await;
    blocking(move || {
        let file = pendula.file("jobs.yaml", JOBS).display().to_string();
        let plan = pendula.ok(&["apply", "-f", &file, "--dry-run"]);
        assert!(plan.contains("+ hello") && plan.contains("plan: 3 created; nothing was changed"), "{plan}");
        assert!(pendula.ok(&["apply", "-f", &file]).contains("3 created"));
        assert!(pendula.ok(&["apply", "-f", &file]).contains("3 unchanged"));

        let changed = pendula
            .file("changed.yaml", &JOBS.replace("0 30 2", "0 45 2").replace("  - name: hello\n", "  - name: hi\n"))
            .display()
            .to_string();
        let diff = pendula.ok(&["diff", "-f", &changed]);
        for part in ["+ hi", "= fails", "~ nightly", "- trigger.cron: 0 30 2 * * ?", "+ trigger.cron: 0 45 2 * * ?"] {
            assert!(diff.contains(part), "no {part:?} in {diff}");
        }
        let refused = pendula.run(&["apply", "-f", &changed, "--prune"]);
        assert_eq!((refused.code, refused.err.contains("--yes")), (2, true), "{}", refused.err);
        assert!(pendula.ok(&["apply", "-f", &changed, "--prune", "--yes"]).contains("- hello"));
        assert!(pendula.ok(&["apply", "-f", &file, "--prune", "--yes"]).contains("+ hello"));

        let exported = pendula.ok(&["export", "--app", "demo"]);
        let again = pendula.run_with_input(&["diff", "-f", "-"], &exported);
        assert!(again.out.contains("plan: 3 unchanged"), "{}{}", again.out, again.err);

        let Done { code, out, err } = pendula.run(&["job", "run", "hello", "--param", "who=world", "--wait"]);
        assert_eq!((code, out.as_str()), (0, "hello world\n::output greeted=yes\n"), "{err}");
        let Done { code, out, err } = pendula.run(&["job", "run", "fails", "--wait"]);
        assert_eq!((code, out.as_str()), (1, "going wrong\n"), "{err}");
        assert!(err.contains("exit_code"), "{err}");

        let once = pendula.json(&["job", "run", "nightly", "--idempotency-key", "k"]);
        let twice = pendula.json(&["job", "run", "nightly", "--idempotency-key", "k"]);
        assert_eq!((&once["instance"], &twice["created"]), (&twice["instance"], &serde_json::Value::Bool(false)));
        let id = once["instance"].as_str().expect("an id").to_owned();
        pendula.ok(&["instance", "logs", "-f", &id]);
        assert!(pendula.ok(&["instance", "show", &id]).contains("succeeded"));
        assert!(pendula.ok(&["instance", "why", &id]).contains("succeeded"));
        assert_eq!(pendula.run(&["instance", "stop", &id]).code, 3);

        let listed = pendula.json(&["instance", "list", "--job", "fails", "--state", "failed"]);
        assert_eq!(listed["items"].as_array().expect("a page").len(), 1);
        let failed = listed["items"][0]["id"].as_str().expect("an id").to_owned();
        assert_eq!(pendula.ok(&["instance", "logs", &failed]), "going wrong\n");
        assert_eq!(pendula.run(&["instance", "retry", &failed, "--wait"]).code, 1);

        assert!(pendula.ok(&["job", "next", "nightly", "-n", "2"]).contains("02:30:00 +0"));
        pendula.ok(&["job", "disable", "nightly"]);
        assert!(pendula.ok(&["job", "next", "nightly"]).contains("disabled"));
        pendula.ok(&["job", "enable", "nightly"]);
        assert!(pendula.ok(&["job", "history", "nightly", "--revisions"]).contains("REVISION"));
        pendula.ok(&["job", "delete", "nightly", "--yes"]);
        assert_eq!(pendula.run(&["job", "show", "nightly"]).code, 3);
        assert!(pendula.ok(&["worker", "list"]).contains("w1"));
        let doctor = pendula.run(&["doctor"]);
        assert_eq!(doctor.code, 0, "{}{}", doctor.out, doctor.err);
    })
    .await;
    live.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crontab_becomes_jobs_that_run_and_a_second_import_updates_them() {
    let (live, pendula) = Live::start().await;
    blocking(move || {
        let text = "GREETING=hello ${HOME}\n0 4 * * * root cat; echo \"$GREETING\" 100\\%%from%standard input\n@reboot root boot\n";
        let file = pendula.file("etc/cron.d/sample", text).display().to_string();
        let import = |parts: &[&str]| pendula.json(&[&["import", "crontab", file.as_str(), "--timezone", "Asia/Tokyo"], parts].concat());
        let action = |report: &serde_json::Value| report["files"][0]["lines"][1]["action"].clone();
        assert_eq!(action(&import(&["--dry-run"])), "created");
        let report = import(&[]);
        assert_eq!(action(&report), "created");
        let name = report["files"][0]["lines"][1]["job"]["name"].as_str().expect("a name").to_owned();
        let shown = pendula.json(&["job", "show", &name]);
        assert_eq!(shown["next_fire"], report["files"][0]["lines"][1]["next"][0]);
        let done = pendula.run(&["job", "run", &name, "--wait"]);
        assert_eq!((done.code, done.out.as_str()), (0, "from\nstandard input\nhello ${HOME} 100%\n"), "{}", done.err);

        assert_eq!(action(&import(&[])), "unchanged");
        pendula.file("etc/cron.d/sample", &text.replace("0 4", "5 4"));
        assert_eq!(action(&import(&[])), "updated");
        pendula.file("etc/cron.d/sample", &format!("{}0 5 * * * root other\n", text.lines().next().map(|line| format!("{line}\n")).unwrap_or_default()));
        assert_eq!(import(&[])["stale"], serde_json::json!([name]));
    })
    .await;
    live.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_and_apps_are_managed_and_a_login_is_kept() {
    let (live, pendula) = Live::start().await;
    blocking(move || {
        assert!(pendula.ok(&["app", "create", "other"]).contains("other"));
        let scripts = pendula
            .file("s.yaml", "app: other\njobs:\n  - name: x\n    processor: { shell: ls }\n")
            .display()
            .to_string();
        let refused = pendula.run(&["apply", "-f", &scripts]);
        assert_eq!(
            (refused.code, refused.err.contains("pendula app update other --allow-scripts true")),
            (3, true),
            "{}{}",
            refused.out,
            refused.err
        );
        pendula.ok(&["app", "update", "other", "--allow-scripts", "true"]);
        pendula.ok(&["apply", "-f", &scripts]);
        let which = pendula.run(&["job", "list"]);
        assert_eq!((which.code, which.err.contains("demo, other")), (2, true), "{}", which.err);

        let secret =
            pendula.ok(&["token", "create", "ci", "--kind", "app", "--app", "other", "--quiet"]).trim().to_owned();
        let server = pendula.json(&["doctor"])[0]["detail"]
            .as_str()
            .expect("settings")
            .split(',')
            .next()
            .expect("an address")
            .to_owned();
        let other = Pendula::new();
        let servers = format!("http://127.0.0.1:1,{server}");
        let login = other.run_with_input(&["login", "ci", "--server", &servers, "--token-file", "-"], &secret);
        assert_eq!(login.code, 0, "{}", login.err);
        assert!(other.ok(&["login", "--list"]).contains(&servers));
        assert!(other.ok(&["job", "list"]).contains("shell: ls"));
        assert_eq!(other.run(&["token", "list"]).code, 3);
        let id = pendula
            .json(&["token", "list"])
            .as_array()
            .expect("tokens")
            .iter()
            .find(|token| token["name"] == "ci")
            .expect("listed")["id"]
            .clone();
        pendula.ok(&["token", "revoke", id.as_str().expect("an id")]);
        let revoked = other.run(&["job", "list"]);
        assert_eq!((revoked.code, revoked.err.contains("unauthenticated")), (3, true), "{}", revoked.err);

        assert_eq!(pendula.run(&["app", "delete", "other", "--yes"]).code, 3);
        pendula.ok(&["job", "delete", "x", "--app", "other", "--yes"]);
        pendula.ok(&["app", "delete", "other", "--yes"]);
    })
    .await;
    live.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s5_6_a_doctor_names_the_servers_whose_gateways_differ() {
    let data = tempfile::tempdir().expect("a directory");
    let store = Arc::new(MemoryStore::shared(2, [7; 32]));
    let logs = Arc::new(SqliteLogStore::open(data.path()).expect("an empty log store"));
    let mut servers = Vec::new();
    for name in ["with", "without"] {
        let set = ["powerjob.http.listen=127.0.0.1:0", "powerjob.allow=demo=127.0.0.0/8"].map(str::to_owned);
        let flags = Flags {
            listen: Some("127.0.0.1:0".into()),
            database: Some(format!("sqlite:{}", data.path().display())),
            set: if name == "with" { set.to_vec() } else { Vec::new() },
            ..Flags::default()
        };
        let mut config = Config::load(&ConfigSources { flags, ..ConfigSources::default() }).expect("valid");
        (config.admin_token, config.name) = (Some(ADMIN.to_owned()), Some(name.to_owned()));
        let server = Server::start_with(config, Arc::new(SystemClock), store.clone(), logs.clone()).await;
        servers.push(server.expect("started"));
    }
    while servers.iter().any(|server| server.state().partitions.status().owned != 1) {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    let url = format!("http://{}", servers[1].local_addr());
    let pendula = Arc::new(Pendula::new().with("PENDULA_SERVER", &url).with("PENDULA_TOKEN", ADMIN));
    let doctor = async |pendula: &Arc<Pendula>| {
        let pendula = pendula.clone();
        let report = blocking(move || pendula.json(&["doctor"])).await;
        let found = report.as_array().expect("checks").iter().find(|check| check["check"] == "gateways").cloned();
        found.map(|check| (check["verdict"].clone(), check["detail"].to_string()))
    };
    assert_eq!(doctor(&pendula).await, None, "none has opened one yet");
    pendula_powerjob::start(&servers[0]).await.expect("started").expect("it is on");
    let (verdict, detail) = doctor(&pendula).await.expect("one check");
    assert_eq!(verdict, "warning");
    for part in ["with for powerjob http", "without for none"] {
        assert!(detail.contains(part), "{detail}");
    }
    for server in servers {
        server.stop().await;
    }
}
