//! A harness for tests with real processes: servers and workers that can be killed, networks that can be broken, and
//! what they leave behind.

pub mod binary;
pub mod effects;
pub mod fleet;
mod listing;
pub mod notes;
pub mod powerjob;
pub mod process;
pub mod proxy;
pub mod ring;
pub mod server;
pub mod witness;
pub mod worker;

pub use effects::Effects;
pub use fleet::Fleet;
pub use listing::all_instances;
pub use notes::Noter;
pub use proxy::Proxy;
pub use ring::Ring;
pub use server::Server;
pub use witness::Witness;
pub use worker::ShellWorker;
