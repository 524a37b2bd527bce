//! The storage port: what the server needs kept, as verbs of the domain, and its implementations.
//!
//! Writes that a partition decided are data ([`pendula_model::change::Change`]) and go through [`Store::commit`], all or none, under the epoch
//! of the partition's lease. Reads are named after the question they answer. [`MemoryStore`], [`SqliteStore`] and
//! [`PostgresStore`] pass one suite (`conformance`), which is why what the simulator shows on the first holds for the
//! others. What several servers on one store need of it is [`Cluster`].

mod cluster;
pub mod conformance;
mod ended;
mod laws;
pub mod logs;
mod memory;
mod port;
pub mod postgres;
mod rows;
pub mod sqlite;
mod unreadable;

pub use cluster::*;
pub use memory::MemoryStore;
pub use port::*;
pub use postgres::PostgresStore;
pub use sqlite::SqliteStore;
