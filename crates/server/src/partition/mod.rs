//! Partitions: one loop each, which alone owns the engine's state.
//!
//! [`owner`] claims, restores and starts again; [`rounds`] is the loop itself: take inputs, let the engine decide, commit,
//! perform. [`handle`] is how everyone else reaches it.

mod followers;
mod gathered;
mod handle;
mod load;
mod owner;
mod replies;
mod rounds;
mod time;

pub(crate) use handle::Message;
pub use handle::{CommandError, Partitions, PartitionsStatus};
pub(crate) use owner::{Owner, start};
