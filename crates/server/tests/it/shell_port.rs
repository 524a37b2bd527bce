//! The port itself: who may open it, and what strangers on it can do.

use std::sync::Arc;
use std::time::{Duration, Instant};

use pendula_server::{Server, SystemClock};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::world::{World, config, soon};

async fn serve(set: &[&str]) -> (Server, tempfile::TempDir) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let config = config("127.0.0.1:0", directory.path(), set);
    (Server::start(config, Arc::new(SystemClock)).await.expect("it starts"), directory)
}

/// What the server answers to `bytes` until it closes the connection.
async fn answer(server: &Server, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(server.local_addr()).await.expect("the port is open");
    stream.write_all(bytes).await.expect("it is read");
    let mut answer = Vec::new();
    // A reset is an end too.
    let _ = soon("the server closes the connection", stream.read_to_end(&mut answer)).await;
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_in_use_is_named() {
    let world = World::new().await;
    let address = world.server().local_addr().to_string();
    let directory = tempfile::tempdir().expect("a temporary directory");
    let second = Server::start(config(&address, directory.path(), &[]), Arc::new(SystemClock)).await;
    let error = format!("{:#}", second.err().expect("the port is taken"));
    assert!(error.contains(&address) && error.contains("in use"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_server_on_the_same_directory_is_refused() {
    let world = World::new().await;
    let second = Server::start(config("127.0.0.1:0", world.directory.path(), &[]), Arc::new(SystemClock)).await;
    let error = format!("{:#}", second.err().expect("the directory is taken"));
    assert!(error.contains("in use by another process"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn sec_14_a_client_that_dawdles_is_let_go() {
    let (server, _directory) = serve(&["limits.header_timeout=1s"]).await;
    for dawdler in ["", "GET /livez HT", "GET /livez HTTP/1.1\r\nhost: a\r\n", "PRI * HT", "PRI * HTTP/2.0\r\n"] {
        let began = Instant::now();
        answer(&server, dawdler.as_bytes()).await;
        assert!(began.elapsed() < Duration::from_secs(3), "{dawdler:?} took {:?}", began.elapsed());
    }
    soon("it stops", server.stop()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_beyond_the_limit_are_closed() {
    let (server, _directory) = serve(&["limits.connections=1"]).await;
    let mut first = TcpStream::connect(server.local_addr()).await.expect("the port is open");
    first.write_all(b"GET /livez HTTP/1.1\r\nhost: a\r\n\r\n").await.expect("it is read");
    let mut head = [0; 12];
    soon("an answer", first.read_exact(&mut head)).await.expect("the first one is served");
    assert_eq!(&head, b"HTTP/1.1 200");
    assert_eq!(answer(&server, b"GET /livez HTTP/1.1\r\nhost: a\r\n\r\n").await, "");
    drop(first);
    soon("it stops", server.stop()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s5_9_plain_text_to_a_tls_port_is_told_so_and_tls_is_served() {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let files = tempfile::tempdir().expect("a temporary directory");
    let (cert, key) = (files.path().join("cert.pem"), files.path().join("key.pem"));
    std::fs::write(&cert, made.cert.pem()).expect("a small file");
    std::fs::write(&key, made.signing_key.serialize_pem()).expect("a small file");
    let set = [format!("tls.cert={}", cert.display()), format!("tls.key={}", key.display())];
    let (server, _directory) = serve(&[&set[0], &set[1]]).await;

    let told = answer(&server, b"GET /livez HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert!(told.starts_with("HTTP/1.1 400") && told.contains("Use https"), "{told}");

    let certificate = reqwest::Certificate::from_pem(made.cert.pem().as_bytes()).expect("our own certificate");
    let address = server.local_addr();
    let client = reqwest::Client::builder().tls_certs_only([certificate]).resolve("localhost", address);
    let client = client.build().expect("a client");
    let livez = client.get(format!("https://localhost:{}/livez", address.port())).send().await.expect("an answer");
    assert!(livez.status().is_success());
    soon("it stops", server.stop()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_cannot_be_read_is_named() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let set = ["tls.cert=/nonexistent/cert.pem", "tls.key=/nonexistent/key.pem"];
    let started = Server::start(config("127.0.0.1:0", directory.path(), &set), Arc::new(SystemClock)).await;
    let error = format!("{:#}", started.err().expect("there is no such file"));
    assert!(error.contains("tls.cert") && error.contains("/nonexistent/cert.pem"), "{error}");
}
