//! The promise that old and new can read each other.

mod adversary;
mod corpus;
mod schema;
