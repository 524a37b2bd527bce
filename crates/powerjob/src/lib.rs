//! The gateway for PowerJob's workers and clients, over HTTP and Akka.
//!
//! Workers of PowerJob 4.3.0 to 5.1.x and its OpenAPI clients need nothing but another address. To the engine each worker
//! is one like all others, with a session; an instance is one attempt on it, however the worker spreads that among its
//! neighbours. The gateway translates and decides nothing: states, retries, stops and timeouts are the engine's.
//!
//! Follow one instance: a heartbeat ([`transport`]) opens a session ([`workers`], [`session`]); a dispatch becomes a
//! `runJob` ([`translate`], [`dial`]); the worker's reports come back through [`transport`] and are answered when they are
//! on disk. [`akka`] carries the same messages for workers that speak Akka, from 4.0 on. [`discovery`] tells workers where to go, [`openapi`] serves clients, [`listener`] is the port of them all.
//!
//! A map of ours is the exception: its tasks are the engine's, and go to a worker's threads one by one ([`mapped`]); what
//! workers say of them comes back through [`task_tracker`].
//!
//! Servers of a cluster need not be configured alike. Who owns an app has its workers' sessions, also without a port for them;
//! messages are carried there from where they arrive, and calls to workers go back that way ([`way`], [`on_behalf`]).
//!
//! Workers cannot authenticate. What they may do is bounded by where they are: see [`gate`].

mod akka;
mod dial;
mod discovery;
mod exact_case;
mod gate;
pub mod import;
mod json;
mod listener;
mod log_lines;
mod mapped;
pub mod messages;
mod on_behalf;
mod openapi;
mod run;
mod session;
mod task_tracker;
mod tasks;
mod translate;
mod transport;
mod version;
mod way;
mod workers;

pub use exact_case::ExactCase;
pub use run::{PowerJobGateway, start, start_with};
pub use workers::Timing;
