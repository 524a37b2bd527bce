//! What PowerJob's workers speak when they speak Akka: Artery over TCP, and in it messages in Kryo.
//!
//! - [`kryo`] reads and writes the messages, in the dialect of 4.0 and in that of later versions.
//! - [`artery`] reads and writes the frames that carry them.
//! - [`transport`] has the sockets: it listens, knows who is at the other end, and sends.
//!
//! Nothing here knows Pendula: it turns bytes into messages and messages into bytes, and decides nothing. Nothing panics on bytes
//! from outside, and all that they can make us keep is bounded.

#![warn(missing_docs)]

pub mod artery;
pub mod kryo;
pub mod transport;
