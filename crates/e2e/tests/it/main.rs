//! Tests with real processes.

mod arrows;
mod broadcast;
mod chaos;
mod clocks;
mod crew;
mod database;
mod frozen;
mod herd;
mod install;
mod kill;
mod logs;
mod maps;
mod networks;
mod powerjob;
mod pressure;
mod readme;
mod shards;
mod stop;
mod takeover;
mod tour;
