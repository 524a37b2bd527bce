//! The server as a whole: real store, real port, real workers, in one process.

mod api;
mod cluster;
mod faulty_store;
mod shell_partitions;
mod shell_port;
mod shell_sessions;
mod shell_tasks;
mod world;
