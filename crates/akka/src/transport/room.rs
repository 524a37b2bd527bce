//! How many connections and bytes there are, altogether and from each IP address.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use super::limits::Limits;

/// Room for all.
pub(super) struct Room {
    limits: Limits,
    peers: Mutex<Peers>,
    held: AtomicUsize,
}

#[derive(Default)]
struct Peers {
    connections: usize,
    /// One for each address that has a connection.
    by_ip: HashMap<IpAddr, Arc<Peer>>,
}

#[derive(Default)]
struct Peer {
    connections: AtomicUsize,
    held: AtomicUsize,
}

/// A connection's place, until it is dropped.
pub(super) struct Place {
    room: Arc<Room>,
    ip: IpAddr,
    peer: Arc<Peer>,
}

/// Bytes that are held, until this is dropped.
pub(super) struct Held {
    room: Arc<Room>,
    peer: Arc<Peer>,
    bytes: usize,
}

/// There is no room for more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Full;

impl Room {
    pub(super) fn new(limits: Limits) -> Arc<Self> {
        Arc::new(Room { limits, peers: Mutex::default(), held: AtomicUsize::new(0) })
    }

    /// A place for one more connection from `ip`.
    pub(super) fn enter(self: &Arc<Self>, ip: IpAddr) -> Result<Place, Full> {
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        if peers.connections >= self.limits.connections {
            return Err(Full);
        }
        let peer = peers.by_ip.entry(ip).or_default().clone();
        if peer.connections.load(Relaxed) >= self.limits.connections_per_peer {
            return Err(Full);
        }
        peer.connections.fetch_add(1, Relaxed);
        peers.connections += 1;
        Ok(Place { room: self.clone(), ip, peer })
    }

    pub(super) fn connections(&self) -> usize {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner).connections
    }

    pub(super) fn held(&self) -> usize {
        self.held.load(Relaxed)
    }
}

impl Place {
    /// Nothing yet.
    pub(super) fn hold(&self) -> Held {
        Held { room: self.room.clone(), peer: self.peer.clone(), bytes: 0 }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut peers = self.room.peers.lock().unwrap_or_else(PoisonError::into_inner);
        peers.connections -= 1;
        if self.peer.connections.fetch_sub(1, Relaxed) == 1 && self.peer.held.load(Relaxed) == 0 {
            peers.by_ip.remove(&self.ip);
        }
    }
}

impl Held {
    /// So many in all.
    pub(super) fn grow_to(&mut self, bytes: usize) -> Result<(), Full> {
        let more = bytes.saturating_sub(self.bytes);
        let limits = &self.room.limits;
        let take = |from: &AtomicUsize, most: usize| {
            from.fetch_update(Relaxed, Relaxed, |held| held.checked_add(more).filter(|held| *held <= most)).is_ok()
        };
        if !take(&self.peer.held, limits.held_per_peer) {
            return Err(Full);
        }
        if !take(&self.room.held, limits.held) {
            self.peer.held.fetch_sub(more, Relaxed);
            return Err(Full);
        }
        self.bytes += more;
        Ok(())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.peer.held.fetch_sub(self.bytes, Relaxed);
        self.room.held.fetch_sub(self.bytes, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_peer_leaves_room_for_others_and_gives_back_what_it_had() {
        let limits =
            Limits { connections: 3, connections_per_peer: 2, held: 100, held_per_peer: 60, ..Limits::default() };
        let room = Room::new(limits);
        let (here, there) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        let first = room.enter(here).unwrap();
        let second = room.enter(here).unwrap();
        assert!(room.enter(here).is_err());
        let other = room.enter(there).unwrap();
        assert!(room.enter(there).is_err(), "three in all");

        let mut held = first.hold();
        held.grow_to(60).unwrap();
        assert_eq!(second.hold().grow_to(1), Err(Full));
        let mut theirs = other.hold();
        assert_eq!(theirs.grow_to(41), Err(Full));
        theirs.grow_to(40).unwrap();
        drop((first, second));
        assert_eq!((room.connections(), room.held()), (1, 100));
        drop(held);
        assert_eq!(room.held(), 40);
        drop((other, theirs));
        assert_eq!((room.connections(), room.held()), (0, 0));
    }
}
