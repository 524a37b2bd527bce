//! One file per command, or group of them. Each has its arguments, its help, and what it does.

pub mod app;
pub mod apply;
pub mod cluster;
pub mod completions;
pub mod config;
pub mod copy;
pub mod dev;
pub mod diff;
pub mod doctor;
pub mod export;
pub mod import;
pub mod instance;
pub mod job;
pub mod login;
pub mod migrate;
pub mod server;
pub mod token;
pub mod version;
pub mod worker;

mod ask;
mod database;
mod moment;
mod progress;
mod watch;
