//! The SDK for Pendula workers in Rust: register handlers, connect, run.
//!
//! ```no_run
//! use pendula_worker::{Output, Shutdown, Task, Worker};
//!
//! #[tokio::main]
//! async fn main() -> Result<(), pendula_worker::WorkerError> {
//!     Worker::builder("http://127.0.0.1:7700")
//!         .app("demo")
//!         .token(std::env::var("PENDULA_TOKEN").unwrap_or_default())
//!         .handler("greet", |task: Task| async move {
//!             task.log_line("hello");
//!             Ok(Output::text("done"))
//!         })
//!         .build()?
//!         .run(Shutdown::on_signals())
//!         .await?;
//!     Ok(())
//! }
//! ```
//!
//! A worker dials out, keeps one connection, and holds what it did until the server has it on disk: a server that
//! restarts disturbs no running task. Read [`handler`] for what you write and [`task`] for what it gets; for work that is
//! spread over many workers, [`part`] for what each piece knows, [`map`] to emit pieces, [`results`] to read what they
//! left. Inside,
//! [`Worker::run`] is a loop (`hand.rs`) around a ledger that makes every decision (`ledger.rs`, pure).

#![warn(missing_docs)]

mod addresses;
mod asks;
mod backoff;
mod connection;
mod event;
mod hand;
pub mod handler;
mod host;
mod ledger;
pub mod log;
pub mod map;
pub mod part;
pub mod results;
pub mod shutdown;
mod stop;
pub mod task;
pub mod testing;
pub mod worker;

pub use handler::{Failure, Handler, Output};
pub use log::LogWriter;
pub use map::SubTask;
pub use part::Shard;
pub use pendula_model::instance::{Payload, Reason};
pub use pendula_model::task::TaskRole;
pub use pendula_model::{InstanceId, TaskId, Timestamp};
pub use pendula_wire::results::{TaskOutcome, TaskResult};
pub use results::TaskResults;
pub use shutdown::Shutdown;
pub use task::Task;
pub use worker::{Summary, Worker, WorkerBuilder, WorkerError};
