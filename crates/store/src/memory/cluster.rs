//! Servers and whose partitions are, in memory: several servers of one process share it, in tests and in the simulator.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use pendula_model::worker::BootId;
use pendula_model::{Epoch, PartitionId, Timestamp};

use super::MemoryStore;
use crate::cluster::{Cluster, ClusterView, Holding, Renewal, Seat, Seated};
use crate::port::StoreError;

/// A server's row.
#[derive(Clone, Debug)]
struct Lease {
    seat: Seat,
    joined_at: Timestamp,
    expires_at: Timestamp,
    is_leaving: bool,
    skew_micros: i64,
}

#[derive(Default)]
pub(super) struct Servers {
    leases: BTreeMap<BootId, Lease>,
    /// Those that were ever claimed or let go.
    owners: BTreeMap<PartitionId, (Option<BootId>, Timestamp)>,
}

impl Servers {
    fn is_alive(&self, boot: BootId, now: Timestamp) -> bool {
        self.leases.get(&boot).is_some_and(|lease| lease.expires_at > now)
    }
}

/// The questions of [`Cluster`] without a runtime, each with the time that it is.
impl MemoryStore {
    /// [`Cluster::join`].
    pub fn join_sync(&self, seat: &Seat, ttl: Duration, now: Timestamp) {
        let lease =
            Lease { seat: seat.clone(), joined_at: now, expires_at: now.plus(ttl), is_leaving: false, skew_micros: 0 };
        self.tables().servers.leases.insert(seat.boot, lease);
    }

    /// [`Cluster::renew`].
    pub fn renew_sync(&self, renewal: Renewal, now: Timestamp) -> bool {
        match self.tables().servers.leases.get_mut(&renewal.boot) {
            Some(lease) if lease.expires_at > now => {
                lease.expires_at = now.plus(renewal.ttl);
                lease.is_leaving = renewal.is_leaving;
                lease.skew_micros = renewal.skew_micros;
                true
            }
            _ => false,
        }
    }

    /// [`Cluster::view`].
    pub fn view_sync(&self, now: Timestamp) -> ClusterView {
        let tables = self.tables();
        let seated = |lease: &Lease| Seated {
            seat: lease.seat.clone(),
            joined_at: lease.joined_at,
            expires_in: lease.expires_at.since(now),
            is_leaving: lease.is_leaving,
            skew_micros: lease.skew_micros,
        };
        let holding = |(partition, epoch): (u16, &Epoch)| {
            let partition = PartitionId(partition);
            let owner = tables.servers.owners.get(&partition).copied();
            let (owner, since) = owner.unwrap_or((None, Timestamp::from_micros(0)));
            Holding { partition, owner, epoch: *epoch, since }
        };
        ClusterView {
            now,
            servers: tables.servers.leases.values().map(seated).collect(),
            holdings: (0..).zip(&tables.epochs).map(holding).collect(),
        }
    }

    /// [`Cluster::claim`].
    pub fn claim_from_sync(
        &self,
        partition: PartitionId,
        boot: BootId,
        seen: Epoch,
        now: Timestamp,
    ) -> Result<Option<Epoch>, StoreError> {
        let mut tables = self.tables();
        let owner = tables.servers.owners.get(&partition).and_then(|owner| owner.0);
        let is_free = owner.is_none_or(|owner| owner == boot || !tables.servers.is_alive(owner, now));
        if !is_free || !tables.servers.is_alive(boot, now) {
            return Ok(None);
        }
        let epoch = self.epoch(&mut tables, partition)?;
        if *epoch != seen {
            return Ok(None);
        }
        epoch.0 += 1;
        let epoch = *epoch;
        tables.servers.owners.insert(partition, (Some(boot), now));
        tables.numbers.remove(&partition);
        Ok(Some(epoch))
    }

    /// [`Cluster::release`].
    pub fn release_sync(&self, partition: PartitionId, boot: BootId, epoch: Epoch, now: Timestamp) -> bool {
        let mut tables = self.tables();
        let is_current = tables.epochs.get(usize::from(partition.0)) == Some(&epoch);
        match tables.servers.owners.get_mut(&partition) {
            Some(owner) if is_current && owner.0 == Some(boot) => {
                *owner = (None, now);
                true
            }
            _ => false,
        }
    }

    /// [`Cluster::leave`].
    pub fn leave_sync(&self, boot: BootId, now: Timestamp) {
        let mut tables = self.tables();
        tables.servers.leases.remove(&boot);
        for owner in tables.servers.owners.values_mut().filter(|owner| owner.0 == Some(boot)) {
            *owner = (None, now);
        }
    }

    fn clock(&self) -> Timestamp {
        self.made_at.1.plus(self.made_at.0.elapsed())
    }
}

#[async_trait]
impl Cluster for MemoryStore {
    async fn join(&self, seat: &Seat, ttl: Duration) -> Result<(), StoreError> {
        self.join_sync(seat, ttl, self.clock());
        Ok(())
    }

    async fn renew(&self, renewal: Renewal) -> Result<bool, StoreError> {
        Ok(self.renew_sync(renewal, self.clock()))
    }

    async fn view(&self) -> Result<ClusterView, StoreError> {
        Ok(self.view_sync(self.clock()))
    }

    async fn claim(&self, partition: PartitionId, boot: BootId, seen: Epoch) -> Result<Option<Epoch>, StoreError> {
        self.claim_from_sync(partition, boot, seen, self.clock())
    }

    async fn release(&self, partition: PartitionId, boot: BootId, epoch: Epoch) -> Result<bool, StoreError> {
        Ok(self.release_sync(partition, boot, epoch, self.clock()))
    }

    async fn leave(&self, boot: BootId) -> Result<(), StoreError> {
        self.leave_sync(boot, self.clock());
        Ok(())
    }

    async fn forget_servers(&self, longer_than: Duration) -> Result<usize, StoreError> {
        let now = self.clock();
        let mut tables = self.tables();
        let owners: Vec<BootId> = tables.servers.owners.values().filter_map(|owner| owner.0).collect();
        let before = tables.servers.leases.len();
        tables.servers.leases.retain(|boot, lease| lease.expires_at.plus(longer_than) > now || owners.contains(boot));
        Ok(before - tables.servers.leases.len())
    }

    async fn secret(&self) -> Result<[u8; 32], StoreError> {
        Ok(self.secret)
    }
}
