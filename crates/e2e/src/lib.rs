//! A harness for tests with real processes: servers and workers that can be killed, and what they leave behind.

pub mod binary;
pub mod process;
pub mod server;
pub mod witness;
pub mod worker;

pub use server::Server;
pub use witness::Witness;
pub use worker::ShellWorker;
