//! What several servers on one store need of it: who is alive, and which partition is whose.
//!
//! A server's lease is one row, which one statement prolongs; a partition's row says whose it is and under which epoch. A
//! partition may be taken when its owner has no lease any more. That the clock of a server is wrong or its process stood
//! still cannot do harm: leases run by the store's clock, and what decides is the epoch, which each commit names.

use std::time::Duration;

use async_trait::async_trait;
use pendula_model::worker::BootId;
use pendula_model::{Epoch, PartitionId, Timestamp};

use crate::port::StoreError;

/// A process of the server that wants to own partitions. Its boot id is what tells it from all others, also from an
/// earlier process under the same name and address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seat {
    pub boot: BootId,
    /// For people.
    pub name: String,
    /// Where other servers reach it: `http://host:port` or `https://host:port`.
    pub address: String,
    pub version: String,
}

/// A server as the store knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seated {
    pub seat: Seat,
    pub joined_at: Timestamp,
    /// What is left of its lease; zero when it has run out.
    pub expires_in: Duration,
    /// It gives its partitions away and takes none.
    pub is_leaving: bool,
    /// By how much its wall clock was ahead of the store's (negative: behind) when it last measured, in microseconds.
    pub skew_micros: i64,
}

impl Seated {
    /// Whether it holds its partitions still.
    pub fn is_alive(&self) -> bool {
        !self.expires_in.is_zero()
    }
}

/// Whose a partition is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holding {
    pub partition: PartitionId,
    /// Nobody's, when it was let go.
    pub owner: Option<BootId>,
    pub epoch: Epoch,
    /// When it was claimed or let go, by the store's clock.
    pub since: Timestamp,
}

/// Servers and partitions at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterView {
    /// The store's clock.
    pub now: Timestamp,
    /// In order of boot id. Those whose lease has run out are among them until they are forgotten.
    pub servers: Vec<Seated>,
    /// One for each partition, in order.
    pub holdings: Vec<Holding>,
}

/// What a server says of itself when it prolongs its lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Renewal {
    pub boot: BootId,
    /// From now on, by the store's clock.
    pub ttl: Duration,
    pub is_leaving: bool,
    /// See [`Seated::skew_micros`].
    pub skew_micros: i64,
}

/// The part of the port that only a store has which several servers share.
///
/// All of it fails with [`StoreError::Unavailable`] when the store is away. None of it waits for a commit in another
/// partition, and none for longer than a commit in the same one.
#[async_trait]
pub trait Cluster: Send + Sync {
    /// Takes a seat, or takes it again after the lease ran out (whoever does that has let go of all partitions before).
    async fn join(&self, seat: &Seat, ttl: Duration) -> Result<(), StoreError>;

    /// Prolongs a lease that has not run out, with one statement. Returns whether it had not: a lease that has is over, and
    /// so is whatever was done under it.
    async fn renew(&self, renewal: Renewal) -> Result<bool, StoreError>;

    /// Everybody and everything, at one moment.
    async fn view(&self) -> Result<ClusterView, StoreError>;

    /// Takes a partition that was last seen under the epoch `seen`, if it still is, if `boot` has a lease, and if the owner
    /// is `boot` itself, nobody, or somebody whose lease has run out. Returns the new epoch; nothing when it was not to be
    /// had. Waits for a commit of the earlier owner that is under way; none can follow.
    async fn claim(&self, partition: PartitionId, boot: BootId, seen: Epoch) -> Result<Option<Epoch>, StoreError>;

    /// Lets go of a partition that `boot` holds under `epoch`, so that others need not wait for its lease to run out.
    /// Returns whether it did hold it. The epoch stays as it is.
    async fn release(&self, partition: PartitionId, boot: BootId, epoch: Epoch) -> Result<bool, StoreError>;

    /// Gives up the seat and whatever partitions go with it.
    async fn leave(&self, boot: BootId) -> Result<(), StoreError>;

    /// Forgets servers whose lease ran out more than `longer_than` ago and that own nothing. Returns how many.
    async fn forget_servers(&self, longer_than: Duration) -> Result<usize, StoreError>;

    /// What servers of this installation know and nobody else: made with it, and the same for ever.
    async fn secret(&self) -> Result<[u8; 32], StoreError>;
}
