//! This server among the others on the same store: its lease, which partitions it should have, and the way to whoever has
//! one.
//!
//! [`member`] renews the lease, looks at everybody else and says what is ours to do ([`duties`]); the loops of
//! [`partition`](crate::partition) do it. [`relay`] carries requests and workers' sessions to the owner of their partition.
//! Nothing is remembered of where anything was: each request asks the latest view, and asks again when that was wrong.

mod duties;
mod lease;
mod member;
mod relay;
mod tokens;

pub(crate) use member::{Member, Place, attend};
pub use relay::Lost;
pub(crate) use relay::{NOT_OWNER, Relay, Relayed, admit, is_not_owner};
pub(crate) use tokens::PeerKey;
