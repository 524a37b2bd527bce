//! Artery's bytes, without the sockets: what stands in a frame, and who it is from and for.
//!
//! Only what PowerJob uses: no compression (a receiver offers it, and we never do), no system messages, no large messages,
//! no TLS. What we send is built in [`outgoing`] alone, because a mistake there costs a worker its actor system: six
//! frames in five seconds that its dispatcher cannot take end it.

pub mod address;
pub mod control;
pub mod envelope;
pub mod outgoing;
mod protobuf;
pub mod selection;

pub use address::{Address, UniqueAddress};
