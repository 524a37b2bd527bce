//! Tests with real processes.

mod arrows;
mod install;
mod kill;
mod logs;
mod stop;
mod tour;
