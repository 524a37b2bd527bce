//! What workers say.

use std::fmt;
use std::net::IpAddr;
use std::ops::Deref;

use super::room::Held;
use crate::artery::{Address, UniqueAddress};

/// A message from a worker.
#[derive(Debug)]
pub struct Inbound {
    /// Who says it is from; where it is dialled.
    pub from: Address,
    /// The number of its process, as with [`UniqueAddress`]. How it speaks is known of this one and of no other.
    pub process: u64,
    /// Where the connection came from.
    pub peer: IpAddr,
    /// The name of the actor that it is for, below `/user/`.
    pub actor: String,
    /// There when the worker waits for an answer; it does so for 5 s.
    pub reply: Option<ReplyTo>,
    /// Kryo, padded with zeros.
    pub payload: Payload,
}

/// Where an answer goes.
#[derive(Clone, Debug)]
pub struct ReplyTo {
    pub(super) worker: UniqueAddress,
    pub(super) recipient: String,
}

impl ReplyTo {
    /// Who asked.
    pub fn worker(&self) -> &Address {
        &self.worker.address
    }
}

/// Bytes from outside. They count as held until this is dropped, so drop it once they are read.
pub struct Payload {
    bytes: Box<[u8]>,
    _held: Held,
}

impl Payload {
    pub(super) fn new(bytes: &[u8], held: Held) -> Self {
        Payload { bytes: bytes.into(), _held: held }
    }
}

impl Deref for Payload {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.bytes.len())
    }
}
