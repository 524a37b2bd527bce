//! Histories from seeds.

mod histories;
mod laws_bite;
