//! A process that behaves as a Java worker does, or not quite.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use pendula_akka::artery::control::Control;
use pendula_akka::artery::envelope::Envelope;
use pendula_akka::artery::{Address, UniqueAddress};
use pendula_akka::transport::{Associations, Gate, Inbound, Limits, Node, Options};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tokio::time::timeout;

/// Long enough for any machine; nothing here waits for it to pass.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// Lets in who is on this machine, and dials nobody else.
pub(crate) struct Loopback;

#[async_trait::async_trait]
impl Gate for Loopback {
    fn admits(&self, peer: IpAddr) -> bool {
        peer.is_loopback()
    }

    async fn target(&self, worker: &Address, _peer: Option<IpAddr>) -> Result<SocketAddr, String> {
        let host = if worker.host() == "localhost" { "127.0.0.1" } else { worker.host() };
        match host.parse::<IpAddr>() {
            Ok(ip) if ip.is_loopback() => Ok(SocketAddr::new(ip, worker.port())),
            _ => Err("it is not on this machine".to_owned()),
        }
    }
}

/// The same, but who is at 127.0.0.2 is of another app than the others.
pub(crate) struct Apart;

#[async_trait::async_trait]
impl Gate for Apart {
    fn admits(&self, peer: IpAddr) -> bool {
        Loopback.admits(peer)
    }

    async fn target(&self, worker: &Address, peer: Option<IpAddr>) -> Result<SocketAddr, String> {
        match peer {
            Some(peer) if peer == IpAddr::from([127, 0, 0, 2]) => Err("it is of another app".to_owned()),
            _ => Loopback.target(worker, peer).await,
        }
    }
}

pub(crate) fn limits() -> Limits {
    Limits { backoff: Duration::from_millis(1), backoff_max: Duration::from_millis(1), ..Limits::default() }
}

/// A node on a free port, and what comes out of it.
pub(crate) async fn node(limits: Limits) -> (Node, mpsc::Receiver<Inbound>) {
    node_with(limits, Loopback).await
}

pub(crate) async fn node_with(limits: Limits, gate: impl Gate) -> (Node, mpsc::Receiver<Inbound>) {
    let advertised = Address::new("oms-server", "server.test", 10086).unwrap();
    let options = Options { advertised, tracks: true, limits };
    let port = TcpListener::bind("127.0.0.1:0").await.expect("loopback has free ports");
    Node::start(port, options, Arc::new(gate)).expect("the limits are good")
}

/// An envelope of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Received {
    pub(crate) uid: u64,
    pub(crate) serializer: i32,
    pub(crate) sender: String,
    pub(crate) recipient: String,
    pub(crate) manifest: String,
    pub(crate) payload: Vec<u8>,
}

impl Received {
    pub(crate) fn control(&self) -> Option<Control> {
        (self.serializer == 17).then(|| Control::parse(&self.manifest, &self.payload).expect("a control message"))
    }
}

/// A worker's listening side: what the server says to it.
pub(crate) struct Peer {
    pub(crate) me: UniqueAddress,
    port: TcpListener,
}

impl Peer {
    pub(crate) async fn new(uid: u64) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").await.expect("loopback has free ports");
        Self::at(port, uid)
    }

    pub(crate) fn at(port: TcpListener, uid: u64) -> Self {
        let at = port.local_addr().expect("it listens");
        let address = Address::new("oms", "127.0.0.1", at.port()).expect("an address");
        Peer { me: UniqueAddress { address, uid }, port }
    }

    /// The same port, another process.
    pub(crate) fn restarted(self, uid: u64) -> Self {
        Self::at(self.port, uid)
    }

    /// The next connection that the server makes.
    pub(crate) async fn accept(&self) -> FromServer {
        let (stream, _) = timeout(SOON, self.port.accept()).await.expect("it dials").expect("it is accepted");
        let mut from_server = FromServer { stream };
        assert_eq!(from_server.exactly(5).await.expect("a preamble"), b"AKKA\x01");
        from_server
    }

    /// Opens a stream to the server and says who it is, as every stream of a worker begins.
    pub(crate) async fn dial(&self, node: &Node, stream: u8, us: &Address) -> ToServer {
        let mut to_server = ToServer::dial(node, stream).await;
        to_server.send(&self.handshake(us)).await;
        to_server
    }

    pub(crate) fn handshake(&self, us: &Address) -> Vec<u8> {
        let mut payload = Vec::new();
        put(&mut payload, 1, &unique(&self.me));
        put(&mut payload, 2, &address(us));
        frame(self.me.uid, 17, "", "", "d", &payload)
    }

    /// The answer to a greeting, for the control stream.
    pub(crate) fn introduction(&self) -> Vec<u8> {
        self.control("e", "", &[&self.me])
    }

    /// A tell to the server's actor, or an ask by `sender`.
    pub(crate) fn message(&self, us: &Address, sender: &str, kryo: &[u8]) -> Vec<u8> {
        frame(self.me.uid, 6, sender, &format!("{us}/"), "", &selection("server_actor", kryo))
    }

    pub(crate) fn control(&self, manifest: &str, sender: &str, about: &[&UniqueAddress]) -> Vec<u8> {
        let mut payload = Vec::new();
        for (place, about) in about.iter().enumerate() {
            put(&mut payload, place as u8 + 1, &unique(about));
        }
        frame(self.me.uid, 17, sender, "", manifest, &payload)
    }

    /// Connects and shakes hands on both streams, and returns all three connections.
    pub(crate) async fn join(&self, node: &Node) -> (ToServer, ToServer, FromServer) {
        let us = address_of(node);
        let mut control = self.dial(node, 1, &us).await;
        let ordinary = self.dial(node, 2, &us).await;
        let mut back = self.accept().await;
        back.greets(&self.me.address, &us).await;
        control.send(&self.introduction()).await;
        (control, ordinary, back)
    }
}

/// A connection of the server's, read only.
pub(crate) struct FromServer {
    stream: TcpStream,
}

impl FromServer {
    async fn exactly(&mut self, count: usize) -> Option<Vec<u8>> {
        let mut bytes = vec![0; count];
        let read = timeout(SOON, self.stream.read_exact(&mut bytes)).await.expect("it says something or ends");
        read.ok().map(|_| bytes)
    }

    /// The next frame; `None` when the server ended the connection.
    pub(crate) async fn next(&mut self) -> Option<Received> {
        let length = self.exactly(4).await?;
        let frame = self.exactly(u32::from_le_bytes(length.try_into().unwrap()) as usize).await?;
        let Envelope { uid, serializer, sender, recipient, manifest, payload } =
            Envelope::parse(&frame).expect("what the server sends can be read");
        let [sender, recipient, manifest] = [sender, recipient, manifest].map(str::to_owned);
        Some(Received { uid, serializer, sender, recipient, manifest, payload: payload.to_vec() })
    }

    pub(crate) async fn control(&mut self) -> Control {
        let received = self.next().await.expect("a frame");
        received.control().unwrap_or_else(|| panic!("a control message and not {received:?}"))
    }

    /// It says who it is and answers the worker, by the address that the worker dialled; its number.
    pub(crate) async fn greets(&mut self, worker: &Address, us: &Address) -> u64 {
        let first = self.next().await.expect("a frame");
        let from = UniqueAddress { address: us.clone(), uid: first.uid };
        assert_eq!(first.control(), Some(Control::HandshakeReq { from: from.clone(), to: worker.clone() }));
        assert_eq!(self.control().await, Control::HandshakeRsp(from));
        first.uid
    }

    /// The next frame that is not about who is who.
    pub(crate) async fn message(&mut self) -> Option<Received> {
        loop {
            let received = self.next().await?;
            if received.serializer != 17 {
                return Some(received);
            }
        }
    }
}

/// A connection of the worker's, written only.
pub(crate) struct ToServer {
    pub(crate) stream: TcpStream,
}

impl ToServer {
    pub(crate) async fn dial(node: &Node, stream: u8) -> Self {
        let mut to_server = ToServer { stream: TcpStream::connect(node.local_addr()).await.expect("it listens") };
        to_server.send(&[b'A', b'K', b'K', b'A', stream]).await;
        to_server
    }

    /// From another address of this machine.
    pub(crate) async fn dial_from(node: &Node, from: &str) -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind(SocketAddr::new(from.parse().expect("an address"), 0)).expect("an address of this machine");
        ToServer { stream: socket.connect(node.local_addr()).await.expect("it listens") }
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.expect("the server reads");
    }

    /// The server closed it. That it never wrote to it is checked on the way.
    pub(crate) async fn is_closed(&mut self) {
        let read = timeout(SOON, self.stream.read(&mut [0; 16])).await.expect("the server closes it");
        assert!(matches!(read, Ok(0) | Err(_)), "the server wrote to a connection that is not its own");
    }

    /// It is open, and nothing was ever written to it.
    pub(crate) fn is_open(&self) {
        match self.stream.try_read(&mut [0; 16]) {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            other => panic!("the server wrote to a worker's connection or closed it: {other:?}"),
        }
    }
}

/// The address under which workers know the node here.
pub(crate) fn address_of(node: &Node) -> Address {
    Address::new("oms-server", "127.0.0.1", node.local_addr().port()).unwrap()
}

/// Until it holds, looking again whenever something may have changed.
pub(crate) async fn until(what: &str, associations: &Associations, holds: impl Fn(&Associations) -> bool) {
    let seen = async {
        while !holds(associations) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(SOON, seen).await.unwrap_or_else(|_| panic!("{what}"));
}

pub(crate) fn frame(
    uid: u64,
    serializer: i32,
    sender: &str,
    recipient: &str,
    manifest: &str,
    payload: &[u8],
) -> Vec<u8> {
    let mut frame = vec![0; 28];
    frame[4..12].copy_from_slice(&uid.to_le_bytes());
    frame[12..16].copy_from_slice(&serializer.to_le_bytes());
    for (at, text) in [(16, sender), (20, recipient), (24, manifest)] {
        let offset = frame.len() as u32;
        frame[at..at + 4].copy_from_slice(&offset.to_le_bytes());
        frame.extend_from_slice(&(text.len() as u16).to_le_bytes());
        frame.extend_from_slice(text.as_bytes());
    }
    frame.extend_from_slice(payload);
    [&(frame.len() as u32).to_le_bytes()[..], &frame].concat()
}

pub(crate) fn selection(actor: &str, kryo: &[u8]) -> Vec<u8> {
    let mut payload = Vec::new();
    put(&mut payload, 1, kryo);
    payload.extend_from_slice(&[0x10, 0x91, 0xfa, 0x10]);
    for name in ["user", actor] {
        let mut step = vec![8, 1];
        put(&mut step, 2, name.as_bytes());
        put(&mut payload, 3, &step);
    }
    payload.extend_from_slice(&[0x28, 0]);
    payload
}

fn address(address: &Address) -> Vec<u8> {
    let mut out = Vec::new();
    put(&mut out, 1, b"akka");
    put(&mut out, 2, address.system().as_bytes());
    put(&mut out, 3, address.host().as_bytes());
    out.push(4 << 3);
    varint(&mut out, address.port().into());
    out
}

fn unique(unique: &UniqueAddress) -> Vec<u8> {
    let mut out = Vec::new();
    put(&mut out, 1, &address(&unique.address));
    out.push(2 << 3);
    varint(&mut out, unique.uid);
    out
}

fn put(out: &mut Vec<u8>, field: u8, bytes: &[u8]) {
    out.push(field << 3 | 2);
    varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn varint(out: &mut Vec<u8>, mut number: u64) {
    while number > 0x7f {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}
