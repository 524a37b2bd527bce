//! How many failed authentications a peer may make: enough for mistakes, too few to keep the store busy.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Failures that a peer may make in a row.
const BURST: f64 = 20.0;
/// Failures that are forgotten per second.
const FORGIVEN_PER_SECOND: f64 = 0.5;
/// Peers that are remembered; the rest share one allowance.
const PEERS: usize = 4096;

/// Recent failures per peer, in bounded memory.
#[derive(Debug, Default)]
pub(super) struct Failures {
    peers: Mutex<HashMap<IpAddr, Recent>>,
}

#[derive(Clone, Copy, Debug)]
struct Recent {
    failures: f64,
    since: Instant,
}

impl Recent {
    fn at(self, now: Instant) -> f64 {
        let forgiven = now.saturating_duration_since(self.since).as_secs_f64() * FORGIVEN_PER_SECOND;
        (self.failures - forgiven).max(0.0)
    }
}

impl Failures {
    /// How long the peer has to wait before it may fail again.
    pub(super) fn blocked(&self, peer: IpAddr, now: Instant) -> Option<Duration> {
        let peers = self.peers.lock().expect("nothing panics while it holds this lock");
        let recent =
            peers.get(&network(peer)).or_else(|| (peers.len() >= PEERS).then(|| peers.get(&OTHERS)).flatten())?;
        let over = recent.at(now) - BURST + 1.0;
        (over > 0.0).then(|| Duration::from_secs_f64((over / FORGIVEN_PER_SECOND).ceil()))
    }

    /// The peer failed once more.
    pub(super) fn record(&self, peer: IpAddr, now: Instant) {
        let mut peers = self.peers.lock().expect("nothing panics while it holds this lock");
        let mut peer = network(peer);
        if peers.len() >= PEERS && !peers.contains_key(&peer) {
            peers.retain(|known, recent| *known == OTHERS || recent.at(now) > 0.0);
            if peers.len() >= PEERS {
                peer = OTHERS;
            }
        }
        let recent = peers.entry(peer).or_insert(Recent { failures: 0.0, since: now });
        *recent = Recent { failures: (recent.at(now) + 1.0).min(BURST), since: now };
    }
}

/// Stands for all peers beyond those that are remembered.
const OTHERS: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);

/// What one party can easily have many addresses of counts as one: the /64 of an IPv6 address.
fn network(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX))),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_blocked_after_a_burst_and_forgiven_with_time() {
        let (failures, start) = (Failures::default(), Instant::now());
        let peer: IpAddr = "192.0.2.1".parse().unwrap();
        for _ in 0..20 {
            assert_eq!(failures.blocked(peer, start), None);
            failures.record(peer, start);
        }
        let wait = failures.blocked(peer, start).expect("the burst is used up");
        assert_eq!(failures.blocked("192.0.2.2".parse().unwrap(), start), None);
        assert_eq!(failures.blocked(peer, start + wait), None);
    }

    #[test]
    fn memory_is_bounded_and_one_ipv6_network_is_one_peer() {
        let (failures, start) = (Failures::default(), Instant::now());
        for number in 0..20_000_u32 {
            failures.record(IpAddr::V4(number.into()), start);
        }
        assert!(failures.peers.lock().unwrap().len() <= PEERS + 1);
        let failures = Failures::default();
        for number in 0..20_u16 {
            failures.record(IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, number)), start);
        }
        assert!(failures.blocked("2001:db8::ffff".parse().unwrap(), start).is_some());
    }
}
