//! A server that gives each connection the next canned answer and records what it was asked.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

pub struct Canned {
    pub address: String,
    requests: Arc<Mutex<Vec<String>>>,
    answering: JoinHandle<()>,
}

impl Canned {
    /// Each answer is sent to one connection, which is then closed; afterwards nobody listens any more.
    pub async fn start(answers: Vec<String>) -> Canned {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = format!("http://{}", listener.local_addr().expect("bound"));
        let requests = Arc::new(Mutex::new(Vec::new()));
        let seen = requests.clone();
        let answering = tokio::spawn(async move {
            for answer in answers {
                let (mut stream, _) = listener.accept().await.expect("a connection");
                let request = read_request(&mut stream).await;
                seen.lock().expect("no panic while held").push(request);
                stream.write_all(answer.as_bytes()).await.expect("the client reads");
                stream.shutdown().await.expect("the client is there");
            }
        });
        Canned { address, requests, answering }
    }

    /// Returns when all was answered and nobody listens any more.
    pub async fn over(&mut self) {
        (&mut self.answering).await.expect("the client reads");
    }

    /// Request lines, headers and bodies so far.
    pub fn requests(&self) -> Vec<String> {
        self.requests.lock().expect("no panic while held").clone()
    }
}

async fn read_request(stream: &mut tokio::net::TcpStream) -> String {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let read = stream.read(&mut buffer).await.expect("a request");
        bytes.extend_from_slice(&buffer[..read]);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head
                .lines()
                .filter_map(|line| line.to_ascii_lowercase().strip_prefix("content-length:")?.trim().parse().ok())
                .next()
                .unwrap_or(0);
            if body.len() >= length || read == 0 {
                return text;
            }
        }
    }
}

pub fn json(status: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
    )
}

/// A refusal with a problem document.
pub fn problem(status: &str, code: &str, retryable: bool) -> String {
    let number = &status[..3];
    json(status, &format!(r#"{{"type":"t","title":"no","status":{number},"code":"{code}","retryable":{retryable}}}"#))
}

/// An event stream that is cut off after `events`, as by the end of a server's process.
pub fn events(events: &[(&str, &str)]) -> String {
    let mut answer = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: 1000000\r\n\r\n".to_owned();
    for (name, data) in events {
        answer.push_str(&format!("event: {name}\ndata: {data}\n\n"));
    }
    answer
}
