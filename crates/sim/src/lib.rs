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
mod reads;
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
use pendula_model::job::JobSpec;
use world::World;

/// Lines of a traced history that an ending has.
const TOLD: usize = 200;

/// How a history ended.
#[derive(Clone, Debug)]
pub struct Ending {
    pub violation: Option<Violation>,
    pub counts: Counts,
    /// Steps of owners before everything was repaired; between any two of them one may crash.
    pub steps: u64,
    /// Of the whole trace; 0 when it was off.
    pub hash: u64,
    /// The last lines of the trace.
    pub tail: String,
}

/// Lives through one history. With `traced` it also tells it, which takes several times as long.
pub fn live(seed: u64, profile: &Profile, breakage: Option<Breakage>, traced: bool) -> Ending {
    ending_of(World::new(seed, profile.clone(), breakage, traced), |world| {
        world.set_up();
        world.live();
    })
}

/// A history in which users only create `jobs`, and the owner dies once, `crash_in` steps after they were told so.
pub fn live_until_crash(seed: u64, profile: &Profile, jobs: Vec<JobSpec>, crash_in: Option<u32>) -> Ending {
    ending_of(World::new(seed, profile.clone(), None, false), |world| {
        world.set_up();
        world.apply(jobs);
        world.live_until_crash(crash_in);
    })
}

fn ending_of(world: World, story: impl FnOnce(&mut World)) -> Ending {
    let world = RefCell::new(world);
    let lived = std::panic::catch_unwind(AssertUnwindSafe(|| {
        let world = &mut *world.borrow_mut();
        story(world);
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
        steps: world.steps_lived,
        hash: world.trace.hash(),
        tail: world.trace.tail(TOLD),
    }
}

/// The mix that a seed is lived through with.
pub fn profile_of(seed: u64) -> &'static Profile {
    &PROFILES[(seed % PROFILES.len() as u64) as usize]
}

/// The mix of this name.
pub fn profile_named(name: &str) -> Option<&'static Profile> {
    PROFILES.iter().find(|profile| profile.name == name)
}
