//! Short scripts against [`pendula_engine::Partition`], one rule each. The simulator (crate `sim`) looks for what nobody
//! thought of; here is what somebody did.

mod broadcasts;
mod concurrency;
mod delivery;
mod edits;
mod explanations;
mod lasting;
mod maps;
mod misfires;
mod no_workers;
mod requests;
mod retries;
mod script;
mod shards;
mod sharing;
mod stale;
mod stops;
mod triggers;
