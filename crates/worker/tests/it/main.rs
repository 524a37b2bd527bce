//! The real SDK against a server that the test plays word by word.

mod addresses;
mod admission;
mod draining;
mod logging;
mod reconnecting;
mod server;
mod stopping;
mod tasks;
mod tls;
