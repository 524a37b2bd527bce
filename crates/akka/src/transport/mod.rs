//! The sockets: who is at the other end, what came, what is to go.
//!
//! Artery uses each connection in one direction. A worker opens two to us and only writes; we open one to it, write to that
//! and to nothing else, and read it only to see it end. So there is an [`Associations`] entry for each worker that said
//! who it is, with its own number for us, its queue, and its connection, which is made when there is something to say.
//!
//! Whoever said so is not proven: the protocol has no credentials. [`Gate`] decides whose connections are taken and which
//! addresses are dialled.

mod association;
mod associations;
mod counters;
mod frames;
mod gate;
mod inbound;
mod limits;
mod listener;
mod room;

pub use association::SendError;
pub use associations::{AskError, Associations, Hearer};
pub use counters::{Counters, Refused};
pub use gate::Gate;
pub use inbound::{Inbound, Payload, ReplyTo};
pub use limits::{Limits, LimitsError};
pub use listener::{Node, Options};
