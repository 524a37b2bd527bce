//! The port, and the connections that workers make to it.

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
use crate::artery::address::SERVER_SYSTEM;
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
    /// Towards all others we are at the address that they dialled.
    pub advertised: Address,
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
    /// Opens the port. What workers say is to be taken from the receiver: when nobody does, nothing more is read.
    ///
    /// # Errors
    /// The port cannot be opened, or the limits cannot be met.
    pub async fn bind(
        listen: SocketAddr,
        options: Options,
        gate: Arc<dyn Gate>,
    ) -> io::Result<(Self, mpsc::Receiver<Inbound>)> {
        let Options { advertised, limits } = options;
        limits.check().map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        let port = TcpListener::bind(listen).await?;
        let address = port.local_addr()?;
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let (inbox, received) = mpsc::channel(limits.inbox);
        let room = Room::new(limits);
        let associations =
            Associations::new(advertised, limits, gate.clone(), room.clone(), tasks.clone(), stop.clone());
        let entrance = Entrance { associations: associations.clone(), gate, inbox, limits, room };
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

/// What every connection from outside needs.
#[derive(Clone)]
struct Entrance {
    associations: Associations,
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
        let mut sender = None;
        while let Some(Frame { bytes, held }) = frames.next().await? {
            self.counters().add_received();
            let envelope = match Envelope::parse(&bytes) {
                Ok(envelope) => envelope,
                Err(EnvelopeError::Malformed) => return Err(FrameError::Preamble),
                Err(EnvelopeError::Version | EnvelopeError::Compressed) => {
                    self.counters().add_refused(Refused::Unknown);
                    continue;
                }
            };
            match envelope.serializer {
                CONTROL => self.on_control(&envelope, peer, &mut sender).await,
                SELECTION => {
                    let Some(from) = self.sender(&envelope, peer, sender.as_ref()) else { continue };
                    let Ok(Some(Selection { payload, actor })) = Selection::parse(envelope.payload) else {
                        self.counters().add_refused(Refused::Unknown);
                        continue;
                    };
                    let recipient = envelope.sender.to_owned();
                    let reply = (!recipient.is_empty()).then(|| ReplyTo { worker: from.clone(), recipient });
                    let payload = Payload::new(payload, held);
                    let inbound = Inbound { from, peer, actor: actor.to_owned(), reply, payload };
                    // Nobody takes it: the node is closing.
                    let Ok(()) = self.inbox.send(inbound).await else { return Ok(()) };
                }
                POWERJOB => {
                    if self.sender(&envelope, peer, sender.as_ref()).is_none() {
                        continue;
                    }
                    let payload = Payload::new(envelope.payload, held);
                    let name = outgoing::asked_as(envelope.recipient).unwrap_or_default();
                    if !self.associations.answered(name, payload) {
                        self.counters().add_refused(Refused::LateAnswer);
                    }
                }
                _ => self.counters().add_refused(Refused::Unknown),
            }
        }
        Ok(())
    }

    /// Whose message it is. It says so by number; who that is was said on this connection, as a rule, or on another one.
    fn sender(&self, envelope: &Envelope<'_>, peer: IpAddr, sender: Option<&UniqueAddress>) -> Option<Address> {
        let here = sender.filter(|sender| sender.uid == envelope.uid).map(|sender| sender.address.clone());
        let from = here.or_else(|| self.associations.known(envelope.uid, peer));
        match &from {
            Some(from) => self.associations.heard(from),
            None => self.counters().add_refused(Refused::Stranger),
        }
        from
    }

    fn is_from(
        &self,
        from: &UniqueAddress,
        envelope: &Envelope<'_>,
        peer: IpAddr,
        sender: Option<&UniqueAddress>,
    ) -> bool {
        from.uid == envelope.uid
            && (sender == Some(from) || self.associations.known(from.uid, peer).as_ref() == Some(&from.address))
    }

    async fn on_control(&self, envelope: &Envelope<'_>, peer: IpAddr, sender: &mut Option<UniqueAddress>) {
        let refuse = |why| self.counters().add_refused(why);
        match Control::parse(envelope.manifest, envelope.payload) {
            Ok(Control::HandshakeReq { from, to }) => {
                if to.system() != SERVER_SYSTEM || from.uid != envelope.uid {
                    return refuse(Refused::Handshake);
                }
                match self.associations.greeted(&from, &to, peer).await {
                    Ok(()) => *sender = Some(from),
                    Err(why) => {
                        tracing::debug!(%peer, worker = %from.address, %why, "a PowerJob worker is not let in");
                        refuse(Refused::Handshake);
                    }
                }
            }
            // Only from whom they are about.
            Ok(Control::Terminating(from)) if self.is_from(&from, envelope, peer, sender.as_ref()) => {
                self.associations.acknowledge(&from.address, envelope.sender);
            }
            Ok(Control::Quarantined { from, to }) if self.is_from(&from, envelope, peer, sender.as_ref()) => {
                tracing::info!(worker = %from.address, "a PowerJob worker had quarantined us: greeting it anew");
                self.associations.quarantined(&from.address, to.uid);
            }
            Ok(Control::HandshakeRsp(_) | Control::TerminatingAck(_)) => {}
            Ok(Control::Terminating(_) | Control::Quarantined { .. }) => refuse(Refused::Stranger),
            Ok(Control::Advertisement) => {}
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
