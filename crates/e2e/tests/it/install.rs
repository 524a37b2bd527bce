//! What a default installation opens, refuses and says.

use std::process::Command;
use std::time::Duration;

use pendula_client::Client;
use pendula_e2e::binary::pendula;
use pendula_e2e::process::{eventually, listening};
use pendula_e2e::{Server, ShellWorker};

async fn connected(client: &Client) {
    eventually("the worker is connected", Duration::from_secs(20), || async {
        let workers = client.worker_list("demo").await.ok()?;
        (!workers.is_empty()).then_some(())
    })
    .await;
}

/// Scenario S5-9: exactly the documented port, and every route but the two probes wants a credential.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s5_9_a_default_installation_listens_on_one_authenticated_port() {
    let server = Server::start().await;
    let token = server.app("demo").await;
    let worker = ShellWorker::start(&server.url(), "demo", &token, "w", server.directory());
    let client = server.client();
    connected(&client).await;
    let expected = format!("0100007F:{:04X}", server.port());
    assert_eq!(listening(server.pid()), vec![expected], "the server listens on the one port");
    assert_eq!(listening(worker.pid()), Vec::<String>::new(), "a worker listens on none");

    let http = reqwest::Client::new();
    for path in ["/livez", "/readyz"] {
        let answer = http.get(format!("{}{path}", server.url())).send().await.expect("it answers");
        assert_eq!(answer.status(), 200, "{path}");
    }
    for path in ["/", "/metrics", "/api/openapi.json", "/api/v1/apps", "/api/v1/status", "/admin", "/console"] {
        let answer = http.get(format!("{}{path}", server.url())).send().await.expect("it answers");
        assert!(matches!(answer.status().as_u16(), 401 | 404), "{path}: {}", answer.status());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_server_on_the_same_directory_is_refused() {
    let server = Server::start().await;
    let database = format!("sqlite:{}", server.directory().join("data").display());
    let output = Command::new(pendula())
        .args(["server", "--listen", "127.0.0.1:0", "--database", &database])
        .output()
        .expect("the program starts");
    let text = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert!(!output.status.success(), "{text}");
    assert!(
        text.contains("data") && text.contains(&server.pid().to_string()),
        "it names directory and process: {text}"
    );
    server.client().status().await.expect("the first one is not disturbed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_taken_port_is_named() {
    let server = Server::start().await;
    let other = tempfile::tempdir().expect("a temporary directory can be made");
    let listen = format!("127.0.0.1:{}", server.port());
    let output = Command::new(pendula())
        .args(["server", "--listen", &listen, "--database", &format!("sqlite:{}", other.path().display())])
        .output()
        .expect("the program starts");
    let text = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert!(!output.status.success() && text.contains(&listen), "{text}");
}

/// Scenario SEC-2: weak secrets are refused by name, and two installations share no secret.
#[test]
fn sec_2_weak_admin_secrets_are_refused_at_start() {
    for weak in ["powerjob_admin", "default_token", "123456", "admin", "short"] {
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        let output = Command::new(pendula())
            .args(["server", "--listen", "127.0.0.1:0"])
            .args(["--database", &format!("sqlite:{}", directory.path().display())])
            .env("PENDULA_ADMIN_TOKEN", weak)
            .output()
            .expect("the program starts");
        let text = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
        assert!(!output.status.success(), "{weak} was accepted");
        assert!(text.contains("PENDULA_ADMIN_TOKEN"), "the message names the setting: {text}");
    }
}

/// The server ends on TERM within seconds and frees its directory, with work going on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn term_ends_server_and_worker_gracefully() {
    let mut server = Server::start().await;
    let token = server.app("demo").await;
    let mut worker = ShellWorker::start(&server.url(), "demo", &token, "w", server.directory());
    connected(&server.client()).await;
    server.process().signal(rustix::process::Signal::TERM);
    assert_eq!(server.process().wait(Duration::from_secs(20)), Some(0), "{}", server.output());
    worker.process().signal(rustix::process::Signal::TERM);
    assert_eq!(worker.process().wait(Duration::from_secs(40)), Some(0));
    server.restart().await;
    server.client().app_fetch("demo").await.expect("what was acknowledged is there");
}
