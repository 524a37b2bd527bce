//! Histories of one partition, made up from seeds: the real engine over the real memory store, in virtual time, with an
//! owner that crashes between any two steps, a network that loses, repeats and delays, workers that die or stand still,
//! clocks that jump, and users who ask again. After every commit, effect and start of a handler the laws are checked.
//!
//! Read [`world`] for the loop, [`owner`] for the model of the server's shell, [`worker`] for that of a worker, [`audit`]
//! for the laws, [`faults`] for what goes wrong, and `README.md` for how it was seen that the laws bite.

#![allow(rustdoc::private_intra_doc_links, reason = "the modules are for readers of the source")]

mod audit;
mod breakage;
mod dice;
mod faults;
mod finale;
mod jobs;
mod network;
mod owner;
mod store;
mod telling;
mod trace;
mod user;
mod worker;
mod world;

use std::cell::RefCell;
use std::panic::AssertUnwindSafe;

pub use audit::{Counts, Violation};
pub use breakage::Breakage;
pub use faults::{Fault, PROFILES, Profile};
use world::World;

/// Lines of a traced history that are kept.
const KEPT_LINES: usize = 150;

/// How a history ended.
#[derive(Clone, Debug)]
pub struct Ending {
    pub violation: Option<Violation>,
    pub counts: Counts,
    /// Steps of owners, between any two of which one may crash.
    pub steps: u64,
    /// Of the whole trace; 0 when it was off.
    pub hash: u64,
    /// The last lines of the trace.
    pub tail: String,
}

/// Lives through one history. With `traced` it also tells it, which takes several times as long.
pub fn live(seed: u64, profile: &Profile, breakage: Option<Breakage>, traced: bool) -> Ending {
    let world = RefCell::new(World::new(seed, profile.clone(), breakage, traced));
    let lived = std::panic::catch_unwind(AssertUnwindSafe(|| {
        let world = &mut *world.borrow_mut();
        world.set_up();
        world.live();
        if world.violation().is_none() {
            world.conclude();
        }
    }));
    let world = world.into_inner();
    let violation = match lived {
        Ok(()) => world.violation().cloned(),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            Some(Violation { law: "no_panic", what: text.unwrap_or_default() })
        }
    };
    Ending {
        violation,
        counts: world.audit.counts,
        steps: world.steps,
        hash: world.trace.hash(),
        tail: world.trace.tail(KEPT_LINES),
    }
}

/// The mix that a seed is lived through with.
pub fn profile_of(seed: u64) -> &'static Profile {
    &PROFILES[(seed % PROFILES.len() as u64) as usize]
}
