//! The processors that every worker can offer: `shell`, `python`, `http`, and `noop` for measurements.
//!
//! ```no_run
//! use pendula_processors::{ProcessorConfig, register};
//! use pendula_worker::{Shutdown, Worker};
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     // First of all: this same program watches over scripts.
//!     pendula_processors::supervisor::main_if_supervisor();
//!     tokio::runtime::Runtime::new()?.block_on(async {
//!         let builder = Worker::builder("http://127.0.0.1:7700").app("demo");
//!         register(builder, ProcessorConfig::default())?.build()?.run(Shutdown::on_signals()).await?;
//!         Ok(())
//!     })
//! }
//! ```
//!
//! Read [`script`] for scripts, [`supervisor`] for why none of their processes survives, [`template`] for `${…}`, and
//! [`http`] with [`http::egress`] for requests. `docs/processors.md` is the manual for people who write definitions.

pub mod facts;
pub mod http;
mod noop;
mod register;
pub mod script;
pub mod supervisor;
pub mod template;

pub use register::{ProcessorConfig, register};
