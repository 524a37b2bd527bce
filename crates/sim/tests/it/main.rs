//! Histories from seeds.

mod histories;
