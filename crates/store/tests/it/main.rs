//! The stores from outside.

mod conformance;
mod copy;
mod damage;
mod differential;
mod durability;
mod log_store;
mod opening;
mod postgres_state;
mod rows;
mod unreadable_rows;
