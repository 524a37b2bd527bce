//! The shell around the engine: everything that reads a clock, a socket or a disk.
//!
//! Follow one instance: [`api`] turns a request into a command and hands it to [`partition`], whose loop lets the engine
//! decide, commits, and only then performs; [`session`] carries the dispatch to a worker and its report back; [`logs`]
//! spreads what the task printed. Start reading at [`Server::start`](run::Server::start).
//!
//! The server decides nothing about instances: that is the engine's part. It stores nothing outside of the store's port.

pub mod api;
pub mod auth;
pub mod clock;
mod cluster;
pub mod config;
pub mod health;
mod listener;
pub mod logs;
pub mod metrics;
pub mod partition;
mod readings;
pub mod retention;
pub mod run;
pub mod session;
pub mod state;
mod storage;
pub mod telemetry;
mod tls;

pub use clock::{Clock, SystemClock};
pub use config::{Config, ConfigSources, Flags};
pub use partition::{CommandError, Partitions};
pub use run::{Server, run, run_with};
pub use session::gateway::{self, Gateway};
pub use state::ServerState;
