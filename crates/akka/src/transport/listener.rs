//! The port, and the connections that workers make to it.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::associations::Associations;
use super::counters::{Counters, Refused};
use super::frames::{Frame, FrameError, Frames};
use super::gate::Gate;
use super::inbound::{Inbound, Payload, ReplyTo};
use super::limits::Limits;
use super::room::{Place, Room};
use crate::artery::address::WORKER_SYSTEM;
use crate::artery::control::Control;
use crate::artery::envelope::{CONTROL, Envelope, EnvelopeError, POWERJOB, SELECTION};
use crate::artery::selection::Selection;
use crate::artery::{Address, UniqueAddress, outgoing};

/// After how much silence the system looks whether the peer is still there. Workers keep connections open on which they
/// say nothing for days, so that silence alone is no reason to close one.
const PROBE_AFTER: Duration = Duration::from_secs(30);
const PROBE_EACH: Duration = Duration::from_secs(10);
const PROBES: u32 = 3;

/// How a node runs.
#[derive(Clone, Debug)]
pub struct Options {
    /// Who we are to workers that have not dialled us: `oms-server` at the address that discovery gives out.
    /// Towards all others we are at the address that they dialled. Its system is the one that handshakes must be for; with
    /// that of workers, a node is one, and has one number towards all servers.
    pub advertised: Address,
    /// Workers tell who tracks an instance about its tasks, as if that were a worker: with `true` we are that too, at the
    /// same port.
    pub tracks: bool,
    /// How much may be kept, and for how long.
    pub limits: Limits,
}

/// A port that is open for workers, and all connections to and from them. Dropping it closes everything.
pub struct Node {
    address: SocketAddr,
    associations: Associations,
    tasks: TaskTracker,
    stop: DropGuard,
}

impl Node {
    /// Serves the port. What workers say is to be taken from the receiver: when nobody does, nothing more is read.
    ///
    /// # Errors
    /// The port is not open, or the limits cannot be met.
    pub fn start(
        port: TcpListener,
        options: Options,
        gate: Arc<dyn Gate>,
    ) -> io::Result<(Self, mpsc::Receiver<Inbound>)> {
        let Options { advertised, tracks, limits } = options;
        limits.check().map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        let address = port.local_addr()?;
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let (inbox, received) = mpsc::channel(limits.inbox);
        let room = Room::new(limits);
        let systems = [Some(advertised.system()), tracks.then_some(WORKER_SYSTEM)];
        let systems = systems.into_iter().flatten().map(Arc::from).collect();
        let associations =
            Associations::new(advertised, limits, gate.clone(), room.clone(), tasks.clone(), stop.clone());
        let entrance = Entrance { associations: associations.clone(), systems, gate, inbox, limits, room };
        let accept = entrance.accept(port, tasks.clone(), stop.clone());
        let stopped = stop.clone();
        tasks.spawn(async move {
            tokio::select! {
                () = accept => {}
                () = stopped.cancelled() => {}
            }
        });
        Ok((Node { address, associations, tasks, stop: stop.drop_guard() }, received))
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// The way to workers.
    pub fn associations(&self) -> &Associations {
        &self.associations
    }

    /// Closes everything and returns when nothing runs any more. Workers connect again as soon as there is a server.
    pub async fn close(self) {
        drop(self.stop);
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// Frames of one connection that wait until it is known who sends them. A worker that lost its connection, and not its
/// memory of having said who it is, may say something first.
const EARLY: usize = 16;

/// Who is at the other end of a connection.
struct Visitor {
    peer: IpAddr,
    /// As it said on this very connection.
    sender: Option<UniqueAddress>,
    early: VecDeque<Frame>,
}

/// What every connection from outside needs.
#[derive(Clone)]
struct Entrance {
    associations: Associations,
    /// Who we are.
    systems: Arc<[Arc<str>]>,
    gate: Arc<dyn Gate>,
    inbox: mpsc::Sender<Inbound>,
    limits: Limits,
    room: Arc<Room>,
}

impl Entrance {
    async fn accept(self, port: TcpListener, tasks: TaskTracker, stop: CancellationToken) {
        loop {
            let (stream, peer) = match port.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Usually no file descriptors are left: some connection must end first.
                    tracing::warn!(%error, "connections of PowerJob workers cannot be accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let ip = peer.ip().to_canonical();
            let place = if self.gate.admits(ip) { self.room.enter(ip).ok() } else { None };
            let Some(place) = place else {
                self.counters().add_refused(Refused::Connection);
                continue;
            };
            let (entrance, stop) = (self.clone(), stop.clone());
            tasks.spawn(async move {
                let served = tokio::select! {
                    served = entrance.serve(stream, ip, place) => served,
                    () = stop.cancelled() => Ok(()),
                };
                if let Err(error) = served {
                    if let Some(why) = error.counts_as() {
                        entrance.counters().add_refused(why);
                    }
                    tracing::debug!(peer = %ip, %error, "a connection of a PowerJob worker was given up");
                }
            });
        }
    }

    fn counters(&self) -> &Counters {
        self.associations.counters()
    }

    /// Reads to the end. Nothing is ever written here, not even an end of our own: the worker would take that for an error.
    async fn serve(&self, stream: TcpStream, peer: IpAddr, place: Place) -> Result<(), FrameError> {
        let _ = quiet_peers_are_noticed(&stream, None);
        let mut frames = Frames::new(stream, place, self.limits);
        let mut visitor = Visitor { peer, sender: None, early: VecDeque::new() };
        while let Some(frame) = frames.next().await? {
            self.counters().add_received();
            // Who it is may have been said on another connection meanwhile, or just now.
            self.on_early(&mut visitor).await?;
            self.on_frame(&mut visitor, frame).await?;
            self.on_early(&mut visitor).await?;
        }
        for _ in visitor.early {
            self.counters().add_refused(Refused::Stranger);
        }
        Ok(())
    }

    /// Looks again at what came before it was known from whom.
    async fn on_early(&self, visitor: &mut Visitor) -> Result<(), FrameError> {
        for frame in std::mem::take(&mut visitor.early) {
            self.on_frame(visitor, frame).await?;
        }
        Ok(())
    }

    async fn on_frame(&self, visitor: &mut Visitor, frame: Frame) -> Result<(), FrameError> {
        let refuse = |why| self.counters().add_refused(why);
        let envelope = match Envelope::parse(&frame.bytes) {
            Ok(envelope) => envelope,
            Err(EnvelopeError::Malformed) => return Err(FrameError::Preamble),
            Err(EnvelopeError::Version | EnvelopeError::Compressed) => {
                refuse(Refused::Unknown);
                return Ok(());
            }
        };
        match envelope.serializer {
            CONTROL => self.on_control(&envelope, visitor).await,
            SELECTION => {
                let Some(from) = self.sender(&envelope, visitor) else {
                    visitor.early.push_back(frame);
                    if visitor.early.len() > EARLY {
                        visitor.early.pop_front();
                        refuse(Refused::Stranger);
                    }
                    return Ok(());
                };
                let Ok(Some(Selection { payload, actor })) = Selection::parse(envelope.payload) else {
                    refuse(Refused::Unknown);
                    return Ok(());
                };
                let recipient = envelope.sender.to_owned();
                let worker = UniqueAddress { address: from.clone(), uid: envelope.uid };
                let reply = (!recipient.is_empty()).then_some(ReplyTo { worker, recipient });
                let payload = Payload::new(payload, frame.held);
                let (process, peer, actor) = (envelope.uid, visitor.peer, actor.to_owned());
                let inbound = Inbound { from, process, peer, actor, reply, payload };
                // When nobody takes it, the node is closing.
                let _ = self.inbox.send(inbound).await;
            }
            POWERJOB => {
                // Whoever has the name that we drew for a question was asked it; a worker may answer before it says who it is.
                let payload = Payload::new(envelope.payload, frame.held);
                let name = outgoing::asked_as(envelope.recipient).unwrap_or_default();
                if !self.associations.answered(name, payload) {
                    refuse(Refused::LateAnswer);
                }
            }
            _ => refuse(Refused::Unknown),
        }
        Ok(())
    }

    /// Whose message it is. It says so by number; who that is was said on this connection, as a rule, or on another one.
    fn sender(&self, envelope: &Envelope<'_>, visitor: &Visitor) -> Option<Address> {
        let here = visitor.sender.as_ref().filter(|sender| sender.uid == envelope.uid);
        let from = here.map(|sender| sender.address.clone());
        let from = from.or_else(|| self.associations.known(envelope.uid, visitor.peer))?;
        self.associations.heard(&from);
        Some(from)
    }

    /// Whether a message about `from` is from it.
    fn is_from(&self, from: &UniqueAddress, envelope: &Envelope<'_>, visitor: &Visitor) -> bool {
        from.uid == envelope.uid
            && (visitor.sender.as_ref() == Some(from)
                || self.associations.known(from.uid, visitor.peer).as_ref() == Some(&from.address))
    }

    async fn on_control(&self, envelope: &Envelope<'_>, visitor: &mut Visitor) {
        let refuse = |why| self.counters().add_refused(why);
        let peer = visitor.peer;
        match Control::parse(envelope.manifest, envelope.payload) {
            Ok(Control::HandshakeReq { from, to }) => {
                if !self.systems.iter().any(|system| **system == *to.system()) || from.uid != envelope.uid {
                    return refuse(Refused::Handshake);
                }
                match self.associations.greeted(&from, &to, peer).await {
                    Ok(()) => visitor.sender = Some(from),
                    Err(why) => {
                        tracing::debug!(%peer, worker = %from.address, %why, "a PowerJob worker is not let in");
                        refuse(Refused::Handshake);
                    }
                }
            }
            // To a greeting of ours. Only whom we greeted has an association by now.
            Ok(Control::HandshakeRsp(from)) => {
                if from.uid == envelope.uid && self.associations.introduced(&from, peer).await {
                    visitor.sender = Some(from);
                } else {
                    refuse(Refused::Handshake);
                }
            }
            // Only from whom they are about.
            Ok(Control::Terminating(from)) if self.is_from(&from, envelope, visitor) => {
                self.associations.acknowledge(&from.address, envelope.sender);
            }
            Ok(Control::Quarantined { from, to }) if self.is_from(&from, envelope, visitor) => {
                tracing::info!(worker = %from.address, "a PowerJob worker had quarantined us: greeting it anew");
                self.associations.quarantined(&from.address, to.uid);
            }
            Ok(Control::Terminating(_) | Control::Quarantined { .. }) => refuse(Refused::Stranger),
            Ok(Control::Advertisement | Control::TerminatingAck(_)) => {}
            Ok(Control::Other) | Err(_) => refuse(Refused::Unknown),
        }
    }
}

/// Has the system find out when the peer's machine is gone. `unread` is how long what we wrote may stay unacknowledged.
pub(super) fn quiet_peers_are_noticed(stream: &TcpStream, unread: Option<Duration>) -> io::Result<()> {
    use rustix::net::sockopt;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, PROBE_AFTER)?;
    sockopt::set_tcp_keepintvl(stream, PROBE_EACH)?;
    sockopt::set_tcp_keepcnt(stream, PROBES)?;
    #[cfg(target_os = "linux")]
    if let Some(unread) = unread {
        sockopt::set_tcp_user_timeout(stream, u32::try_from(unread.as_millis()).unwrap_or(u32::MAX))?;
    }
    #[cfg(not(target_os = "linux"))]
    let _ = unread;
    Ok(())
}
