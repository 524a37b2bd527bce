//! Workers' sessions: one bidirectional gRPC stream each.
//!
//! [`entry`] sends a session to its owner, [`service`] lets a worker in (token, hello, version), [`serve`] turns what it says into inputs of its app's
//! partition, [`outbox`] and [`frames`] bring it what the partition has for it, [`transcript`] stores the logs,
//! [`results`] reads what tasks left. Nothing here decides about instances.

mod entry;
mod frames;
pub mod gateway;
mod outbox;
mod refusals;
mod reports;
mod results;
mod serve;
mod service;
mod transcript;

pub(crate) use entry::{Entry, enter};
pub(crate) use outbox::{Outbox, Parcel};
pub(crate) use refusals::Refusals;
pub(crate) use service::{Peer, Sessions};

use std::time::Duration;

/// How often a worker must say something.
pub const HEARTBEAT: Duration = Duration::from_secs(3);
/// After this long without a word a worker's connection is given up.
pub const SILENCE: Duration = Duration::from_secs(10);
/// A worker that connected must have introduced itself by then.
const HELLO_WITHIN: Duration = Duration::from_secs(10);
