//! Who is let in.

use std::net::{IpAddr, SocketAddr};

use crate::artery::Address;

/// The operator's rule. Called often; answers soon.
#[async_trait::async_trait]
pub trait Gate: Send + Sync + 'static {
    /// Whether connections from `peer` are taken.
    fn admits(&self, peer: IpAddr) -> bool;

    /// Where a worker is dialled that calls itself `worker`. The address is what it claimed, over a connection from
    /// `peer`, or what somebody here asked for.
    ///
    /// Asked before each connection, so that a host name may lead elsewhere than last time.
    ///
    /// # Errors
    /// It is not dialled, for that reason.
    async fn target(&self, worker: &Address, peer: Option<IpAddr>) -> Result<SocketAddr, String>;
}
