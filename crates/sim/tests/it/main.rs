//! Histories from seeds: see the crate's documentation.

mod histories;
mod laws_bite;
mod scenarios;
mod takeovers;
