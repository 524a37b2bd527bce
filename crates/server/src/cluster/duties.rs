//! Which partitions a server should have: the same answer on every server that sees the same.
//!
//! Nobody decides for others. Each server looks at who is alive and what is free, and takes or gives its own part. Those
//! who look at different moments may want the same partition; the store lets one of them have it.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use pendula_model::worker::BootId;
use pendula_model::{Epoch, PartitionId};
use pendula_store::ClusterView;

/// What one server is to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Duties {
    /// Partitions that are its own and stay so.
    pub(crate) keep: BTreeSet<PartitionId>,
    /// Free ones that it should claim, with the epochs that they were seen under.
    pub(crate) take: BTreeMap<PartitionId, Epoch>,
}

/// What `me` is to do.
///
/// Everybody keeps what they have up to an even share, free partitions go to those who have least, and one that has too
/// many lets go of one at a time, while nothing is free: a partition that moves serves nobody for a moment.
pub(crate) fn duties(view: &ClusterView, me: BootId) -> Duties {
    let is_alive = |boot: BootId| view.servers.iter().any(|server| server.seat.boot == boot && server.is_alive());
    let candidates: Vec<BootId> = view
        .servers
        .iter()
        .filter(|server| server.is_alive() && !server.is_leaving)
        .map(|server| server.seat.boot)
        .collect();
    let mut owned: BTreeMap<BootId, usize> = candidates.iter().map(|boot| (*boot, 0)).collect();
    let mut free = Vec::new();
    let mut mine = BTreeSet::new();
    for holding in &view.holdings {
        match holding.owner.filter(|owner| is_alive(*owner)) {
            Some(owner) => {
                if let Some(count) = owned.get_mut(&owner) {
                    *count += 1;
                }
                if owner == me {
                    mine.insert(holding.partition);
                }
            }
            None => free.push((holding.partition, holding.epoch)),
        }
    }
    if !owned.contains_key(&me) {
        return Duties::default();
    }
    let shares = shares(&owned, view.holdings.len());
    if free.is_empty() && owned[&me] > shares[&me] {
        mine.pop_last();
    }
    let mut take = BTreeMap::new();
    for (partition, epoch) in free {
        let missing = |boot: &BootId| shares[boot].saturating_sub(owned[boot]);
        let Some(next) = candidates.iter().copied().max_by_key(|boot| (missing(boot), Reverse(*boot))) else { break };
        *owned.entry(next).or_default() += 1;
        if next == me {
            take.insert(partition, epoch);
        }
    }
    Duties { keep: mine, take }
}

/// An even share for each; where it does not come out even, one more for those who have most, so that little moves.
fn shares(owned: &BTreeMap<BootId, usize>, partitions: usize) -> BTreeMap<BootId, usize> {
    let mut order: Vec<BootId> = owned.keys().copied().collect();
    order.sort_by_key(|boot| (Reverse(owned[boot]), *boot));
    let (each, rest) = (partitions / order.len(), partitions % order.len());
    order.into_iter().enumerate().map(|(place, boot)| (boot, each + usize::from(place < rest))).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use pendula_model::Timestamp;
    use pendula_store::{Holding, Seat, Seated};
    use proptest::prelude::*;

    use super::*;

    /// Servers as (boot, alive, leaving), and the owner of each partition.
    fn view(servers: &[(u64, bool, bool)], owners: &[Option<u64>]) -> ClusterView {
        let now = Timestamp::from_millis(0);
        let seated = |(boot, is_alive, is_leaving): &(u64, bool, bool)| Seated {
            seat: Seat {
                boot: BootId(*boot),
                name: format!("s{boot}"),
                address: format!("http://s{boot}:1"),
                version: "1".to_owned(),
            },
            joined_at: now,
            expires_in: Duration::from_secs(u64::from(*is_alive)),
            is_leaving: *is_leaving,
            skew_micros: 0,
        };
        let holding = |(partition, owner): (u16, &Option<u64>)| Holding {
            partition: PartitionId(partition),
            owner: owner.map(BootId),
            epoch: Epoch(1),
            since: now,
        };
        ClusterView {
            now,
            servers: servers.iter().map(seated).collect(),
            holdings: (0..).zip(owners).map(holding).collect(),
        }
    }

    /// Lets all servers act on what they see until nothing moves. Returns how many partitions changed hands.
    fn settle(view: &mut ClusterView) -> usize {
        let mut moves = 0;
        for _ in 0..10_000 {
            let seen = view.clone();
            let mut is_still = true;
            for server in seen.servers.iter().filter(|server| server.is_alive()) {
                let me = server.seat.boot;
                let duties = duties(&seen, me);
                for holding in &mut view.holdings {
                    if holding.owner == Some(me) && !duties.keep.contains(&holding.partition) {
                        holding.owner = None;
                        is_still = false;
                    }
                    if duties.take.contains_key(&holding.partition) {
                        holding.owner = Some(me);
                        is_still = false;
                        moves += 1;
                    }
                }
            }
            if is_still {
                return moves;
            }
        }
        panic!("it never comes to rest: {view:?}");
    }

    fn counts(view: &ClusterView) -> BTreeMap<u64, usize> {
        let mut counts = BTreeMap::new();
        for holding in &view.holdings {
            *counts.entry(holding.owner.expect("it has an owner").0).or_default() += 1;
        }
        counts
    }

    #[test]
    fn one_server_takes_all_and_a_second_one_gets_half_of_it_one_at_a_time() {
        let mut alone = view(&[(1, true, false)], &[None; 64]);
        assert_eq!(settle(&mut alone), 64);
        let owners = [Some(1); 64];
        let two = view(&[(1, true, false), (2, true, false)], &owners);
        assert_eq!(duties(&two, BootId(1)).keep.len(), 63);
        assert_eq!(duties(&two, BootId(2)), Duties::default());
        let mut two = two;
        assert_eq!(settle(&mut two), 32);
        assert_eq!(counts(&two), BTreeMap::from([(1, 32), (2, 32)]));
    }

    #[test]
    fn what_a_dead_server_had_is_spread_and_nothing_else_moves() {
        let owners: Vec<_> = (0..64).map(|partition| Some(1 + partition % 3)).collect();
        let mut after = view(&[(1, true, false), (2, false, false), (3, true, false)], &owners);
        let lost = owners.iter().filter(|owner| **owner == Some(2)).count();
        assert_eq!(settle(&mut after), lost);
        assert_eq!(counts(&after), BTreeMap::from([(1, 32), (3, 32)]));
    }

    #[test]
    fn who_leaves_gives_all_away_at_once_and_takes_nothing() {
        let owners = [Some(1); 4];
        let leaving = view(&[(1, true, true), (2, true, false)], &owners);
        assert_eq!(duties(&leaving, BootId(1)), Duties::default());
        // The last one that leaves lets go too; whoever comes next need not wait.
        let last = view(&[(1, true, true)], &owners);
        assert_eq!(duties(&last, BootId(1)), Duties::default());
    }

    #[test]
    fn who_has_no_lease_has_no_duties() {
        let expired = view(&[(1, false, false), (2, true, false)], &[Some(1), Some(2)]);
        assert_eq!(duties(&expired, BootId(1)), Duties::default());
        assert_eq!(duties(&expired, BootId(7)), Duties::default());
        assert_eq!(duties(&expired, BootId(2)).take.len(), 1);
    }

    proptest! {
        #[test]
        fn it_comes_to_rest_within_one_of_even(
            servers in prop::collection::vec((prop::bool::weighted(0.8), prop::bool::weighted(0.2)), 1..7),
            owners in prop::collection::vec(prop::option::of(0..8_u64), 1..70),
        ) {
            let servers: Vec<_> = (0..).zip(servers).map(|(boot, (alive, leaving))| (boot, alive, leaving)).collect();
            let mut view = view(&servers, &owners);
            settle(&mut view);
            let willing: Vec<u64> =
                servers.iter().filter(|(_, alive, leaving)| *alive && !leaving).map(|(boot, ..)| *boot).collect();
            if !willing.is_empty() {
                let counts = counts(&view);
                let of = |boot: &u64| counts.get(boot).copied().unwrap_or(0);
                let (least, most) = (willing.iter().map(of).min().unwrap(), willing.iter().map(of).max().unwrap());
                prop_assert!(most - least <= 1, "{counts:?}");
                prop_assert_eq!(willing.iter().map(of).sum::<usize>(), owners.len());
            }
        }
    }
}
