//! The words of Pendula: ids, time, definitions, instances, tasks, their states and their limits.
//!
//! This crate only names and validates things. It does no I/O, reads no clock, and knows neither the engine nor any
//! store or wire format; everyone else speaks in its words. Read [`job`] for what a user defines, [`instance`] for what
//! the engine makes of it, and [`change`] for how a decision is written down.

pub mod api;
pub mod app;
pub mod change;
pub mod duration;
pub mod id;
pub mod instance;
pub mod invalid;
pub mod job;
pub mod limits;
pub mod mode;
#[cfg(feature = "openapi")]
mod openapi;
pub mod policy;
pub mod powerjob;
pub mod processor;
pub mod snapshot;
pub mod task;
pub mod time;
pub mod token;
pub mod trigger;
pub mod worker;

pub use id::{AppId, Epoch, InstanceId, JobId, PartitionId, Revision, SessionId, TokenId};
pub use invalid::Invalid;
pub use task::{AttemptKey, TaskId, TaskKey};
pub use time::Timestamp;
