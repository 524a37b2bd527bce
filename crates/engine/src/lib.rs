//! What next: the pure state machine of one partition.
//!
//! [`Partition::handle`] takes the time and one [`Input`] and appends to an [`Output`] what must be written
//! ([`Change`](pendula_model::change::Change)) and what must then be done ([`Effect`]). It reads no clock, draws no
//! randomness beyond its seed, does no I/O and never awaits. The caller keeps four promises:
//!
//! 1. `now` never decreases (the caller clamps its clock), and inputs are handled one at a time;
//! 2. changes are committed in the order in which they were emitted, a batch entirely or not at all;
//! 3. effects are performed only after the commit of everything emitted before them;
//! 4. when a commit is refused, the partition is dropped and a new one is built from the store.
//!
//! Entry points: [`input`] (what can happen), [`effect`] (what can follow), [`partition`] (the state and the dispatcher),
//! [`lifecycle`] (the state machine of an instance, as a table).

pub mod effect;
pub mod input;
pub mod lifecycle;
pub mod partition;

pub use effect::{Dispatch, Effect, Part, Reply, ReplyTo};
pub use input::{Command, Fact, Input, Mapping, Need, NewTask, Report, ReportEvent, RunRequest, WorkerHello};
pub use partition::{Gauges, Output, Partition, Settings};
