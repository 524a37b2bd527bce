//! The official client, and how often it has to say what it wants.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};

use pendula_e2e::powerjob::{Programs, Yard};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::features::Tried;

/// Between a client and the gateway; keeps what the client sent.
struct Ear {
    port: u16,
    heard: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Ear {
    async fn start(gateway: u16) -> Ear {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let port = listener.local_addr().expect("it is bound").port();
        let heard = Arc::<Mutex<Vec<Vec<u8>>>>::default();
        let all = heard.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let place = {
                    let mut all = all.lock().expect("nothing panics while it holds this lock");
                    all.push(Vec::new());
                    all.len() - 1
                };
                tokio::spawn(carry(client, gateway, all.clone(), place));
            }
        });
        Ear { port, heard }
    }

    /// How often each call was made.
    fn calls(&self) -> BTreeMap<String, usize> {
        let heard = self.heard.lock().expect("nothing panics while it holds this lock");
        let mut calls = BTreeMap::new();
        for bytes in heard.iter() {
            let text = String::from_utf8_lossy(bytes);
            for rest in text.split("POST /openApi/").skip(1) {
                let call = rest.split([' ', '?']).next().unwrap_or_default();
                *calls.entry(call.to_owned()).or_default() += 1;
            }
        }
        calls
    }
}

async fn carry(client: TcpStream, gateway: u16, all: Arc<Mutex<Vec<Vec<u8>>>>, place: usize) -> io::Result<()> {
    let server = TcpStream::connect(("127.0.0.1", gateway)).await?;
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let back = tokio::spawn(async move { tokio::io::copy(&mut from_server, &mut to_client).await });
    let mut buffer = vec![0; 64 << 10];
    loop {
        let count = from_client.read(&mut buffer).await?;
        if count == 0 {
            break;
        }
        all.lock().expect("nothing panics while it holds this lock")[place].extend_from_slice(&buffer[..count]);
        to_server.write_all(&buffer[..count]).await?;
    }
    drop(to_server);
    let _ = back.await;
    Ok(())
}

/// Runs the client of a version against a worker; every call has to arrive exactly once.
pub async fn client(yard: &Yard, programs: &Programs, worker: &str) -> Tried {
    let secret = yard.secret(&format!("client-{}", programs.version)).await;
    let ear = Ear::start(yard.gateway()).await;
    let mut command = yard.java_client(programs, ear.port, &[&secret, &programs.version, worker]);
    let output = tokio::task::spawn_blocking(move || command.output().expect("java runs")).await.expect("no panic");
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        let last: Vec<_> = printed.lines().rev().take(3).collect();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        let errors: Vec<_> = errors.lines().take(5).collect();
        return Err(format!("{} {}", last.join(" / "), errors.join(" / ")));
    }
    let made: BTreeMap<String, usize> = printed
        .lines()
        .filter_map(|line| {
            let (call, count) = line.strip_prefix("calls ")?.split_once(' ')?;
            Some((call.to_owned(), count.parse().ok()?))
        })
        .collect();
    let mut heard = ear.calls();
    // How a client introduces itself is its own affair.
    heard.retain(|call, _| !matches!(&**call, "assert" | "authApp"));
    if made == heard && made.len() > 15 { Ok(()) } else { Err(format!("it made {made:?}, and {heard:?} arrived")) }
}
