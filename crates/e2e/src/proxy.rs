//! A network that can be broken: a TCP proxy between a worker and its server, or a server and its database (which is
//! the server then, and the other the worker).

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    ToServer,
    ToWorker,
}

/// Carries connections to a port of this machine, until it is told otherwise.
pub struct Proxy {
    port: u16,
    network: Arc<Network>,
    accepting: JoinHandle<()>,
}

/// What a network does to what it carries, however well it is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Shape {
    /// Bytes take so long, each way.
    pub delay: Duration,
    /// One packet in so many is lost and sent again, so that it and all behind it are `again` late; never when 0.
    pub lost_one_in: u64,
    pub again: Duration,
    /// A connection that carries nothing for so long is ended, as balancers do.
    pub idle_limit: Option<Duration>,
}

#[derive(Default)]
struct Network {
    shape: Shape,
    lines: Mutex<Vec<Arc<Line>>>,
    is_unplugged: AtomicBool,
    refused: AtomicU64,
}

/// One connection. What swallowed a byte carries nothing more that way: the rest would make no sense to the receiver.
struct Line {
    shape: Shape,
    swallows: [AtomicBool; 2],
    swallowed: [AtomicU64; 2],
    used_at: Mutex<Instant>,
    cut: CancellationToken,
}

impl Line {
    fn new(shape: Shape) -> Self {
        let used_at = Mutex::new(Instant::now());
        Line {
            shape,
            swallows: [const { AtomicBool::new(false) }; 2],
            swallowed: Default::default(),
            used_at,
            cut: CancellationToken::new(),
        }
    }

    fn used_at(&self) -> Instant {
        *self.used_at.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_used(&self) {
        *self.used_at.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// Resolves when it was idle for too long.
    async fn idle(&self) {
        let Some(limit) = self.shape.idle_limit else { return std::future::pending().await };
        while self.used_at().elapsed() < limit {
            tokio::time::sleep_until(self.used_at() + limit).await;
        }
    }
}

impl Proxy {
    /// Between its own port and `port`.
    pub async fn start(port: u16) -> Proxy {
        Proxy::balance(vec![port]).await
    }

    /// Between its own port and each of `ports` in turn, whether anybody is there or not.
    pub async fn balance(ports: Vec<u16>) -> Proxy {
        Proxy::shaped(ports, Shape::default()).await
    }

    /// The same on a network of some shape.
    pub async fn shaped(ports: Vec<u16>, shape: Shape) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let own = listener.local_addr().expect("it is bound").port();
        let network = Arc::new(Network { shape, ..Network::default() });
        let accepting = tokio::spawn(accept(listener, ports, network.clone()));
        Proxy { port: own, network, accepting }
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// What a worker dials.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// From now on everything that open connections send this way vanishes. The sender cannot see it: its system is
    /// told that all arrived.
    pub fn swallow(&self, way: Way) {
        self.network.each(|line| line.swallows[way as usize].store(true, Ordering::SeqCst));
    }

    /// How many bytes have vanished this way, on connections that are open.
    pub fn swallowed(&self, way: Way) -> u64 {
        let mut bytes = 0;
        self.network.each(|line| bytes += line.swallowed[way as usize].load(Ordering::SeqCst));
        bytes
    }

    /// Pulls the cable: open connections carry nothing either way and nobody is told; new ones are not made.
    pub fn unplug(&self) {
        self.network.is_unplugged.store(true, Ordering::SeqCst);
        self.swallow(Way::ToServer);
        self.swallow(Way::ToWorker);
    }

    /// Puts it back: new connections are made; what was open stays silent.
    pub fn plug_in(&self) {
        self.network.is_unplugged.store(false, Ordering::SeqCst);
    }

    /// How often somebody dialled in vain.
    pub fn refused(&self) -> u64 {
        self.network.refused.load(Ordering::SeqCst)
    }

    /// Ends all open connections, for both sides to see; new ones carry everything.
    pub fn cut(&self) {
        self.network.each(|line| line.cut.cancel());
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Network {
    fn each(&self, mut act: impl FnMut(&Line)) {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.retain(|line| !line.cut.is_cancelled());
        lines.iter().for_each(|line| act(line));
    }
}

async fn accept(listener: TcpListener, ports: Vec<u16>, network: Arc<Network>) {
    let mut next = 0;
    // Ends with this future, and all lines with it.
    let mut carrying = JoinSet::new();
    loop {
        let Ok((worker, _)) = listener.accept().await else { continue };
        if network.is_unplugged.load(Ordering::SeqCst) {
            network.refused.fetch_add(1, Ordering::SeqCst);
            continue;
        }
        let line = Arc::new(Line::new(network.shape));
        network.lines.lock().unwrap_or_else(PoisonError::into_inner).push(line.clone());
        let port = ports[next % ports.len()];
        next += 1;
        carrying.spawn(async move {
            // When the server is away, the worker sees its connection end, as it would without us.
            let _ = carry(worker, port, &line).await;
            line.cut.cancel();
        });
        while carrying.try_join_next().is_some() {}
    }
}

async fn carry(worker: TcpStream, port: u16, line: &Line) -> io::Result<()> {
    let server = TcpStream::connect(("127.0.0.1", port)).await?;
    worker.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (from_worker, to_worker) = worker.into_split();
    let (from_server, to_server) = server.into_split();
    tokio::select! {
        ended = pump(from_worker, to_server, line, Way::ToServer) => ended,
        ended = pump(from_server, to_worker, line, Way::ToWorker) => ended,
        () = line.cut.cancelled() => Ok(()),
        () = line.idle() => Ok(()),
    }
}

/// Packets on their way at most; whoever sends more waits.
const ON_THE_WAY: usize = 64;

async fn pump(from: OwnedReadHalf, to: OwnedWriteHalf, line: &Line, way: Way) -> io::Result<()> {
    let (sent, arrives) = mpsc::channel(ON_THE_WAY);
    let (taken, delivered) = tokio::join!(take(from, sent, line, way), deliver(arrives, to));
    taken.and(delivered)
}

async fn take(
    mut from: OwnedReadHalf,
    sent: mpsc::Sender<(Instant, Vec<u8>)>,
    line: &Line,
    way: Way,
) -> io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    let swallows = || line.swallows[way as usize].load(Ordering::SeqCst);
    let Shape { delay, lost_one_in, again, .. } = line.shape;
    for packet in 1.. {
        let read = from.read(&mut buffer).await.unwrap_or(0);
        line.is_used();
        match read {
            // The end is news too.
            0 if swallows() => return std::future::pending().await,
            0 => return Ok(()),
            read if swallows() => drop(line.swallowed[way as usize].fetch_add(read as u64, Ordering::SeqCst)),
            read => {
                let is_lost = lost_one_in > 0 && packet % lost_one_in == 0;
                let due = Instant::now() + delay + if is_lost { again } else { Duration::ZERO };
                if sent.send((due, buffer[..read].to_vec())).await.is_err() {
                    return Ok(());
                }
            }
        }
    }
    unreachable!("there is always another packet")
}

async fn deliver(mut arrives: mpsc::Receiver<(Instant, Vec<u8>)>, mut to: OwnedWriteHalf) -> io::Result<()> {
    while let Some((due, bytes)) = arrives.recv().await {
        tokio::time::sleep_until(due).await;
        to.write_all(&bytes).await?;
    }
    Ok(())
}
