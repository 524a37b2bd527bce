//! The processors against real processes and a real HTTP server.

mod attempt;
mod http;
mod mapping;
mod processes;
mod scripts;
mod shell_quoting;
mod supervision;
