//! The gateway as a whole: a real server and store, and a worker that speaks PowerJob's protocol as the real one does.

mod access;
mod akka;
mod akka_load;
mod cluster;
mod delegated;
mod fake;
mod fake_akka;
mod mapped;
mod must;
mod openapi;
mod tracked;
mod unequal;
mod wire;
mod world;
