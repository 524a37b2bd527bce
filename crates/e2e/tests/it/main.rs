//! Tests with real processes.

mod arrows;
mod install;
mod kill;
mod stop;
mod tour;
