//! Histories made up from seeds: the real engine over the real memory store, in virtual time, with one server or several
//! that crash and stand still between any two steps, a network that loses, repeats and delays, workers that die, clocks
//! that jump, and users who ask again. After every commit, effect and start of a handler the laws are checked.
//!
//! Read [`world`] for the loop, [`server`] for processes, their leases and how partitions move between them, [`owner`] for
//! the model of the shell of one partition, [`worker`] for that of a worker, [`audit`] for the laws, [`faults`] for what
//! goes wrong, and `README.md` for how it was seen that the laws bite.

#![allow(rustdoc::private_intra_doc_links, reason = "the modules are for readers of the source")]

mod asking;
mod audit;
mod breakage;
mod dice;
mod faults;
mod finale;
mod jobs;
mod network;
mod owner;
mod reads;
mod routing;
mod server;
mod store;
mod telling;
mod trace;
mod user;
mod worker;
mod world;

use std::cell::RefCell;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

pub use audit::{Counts, Violation};
pub use breakage::Breakage;
pub use faults::{FailPoint, Fault, Misfortune, Move, PROFILES, Point, Profile};
use pendula_model::job::JobSpec;
use world::World;

/// Lines of a traced history that an ending has, without `SIM_LINES`.
const TOLD: usize = 200;

/// How a history ended.
#[derive(Clone, Debug)]
pub struct Ending {
    pub violation: Option<Violation>,
    pub counts: Counts,
    /// Steps of servers before everything was repaired; between any two of them one may crash.
    pub steps: u64,
    /// The longest that a partition whose owner was gone had none.
    pub longest_gap: Duration,
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

/// A history in which users only create `jobs`, their partition moves once they were told so, and nothing else goes wrong
/// but what waits for servers at `fail_points`.
pub fn live_through(
    seed: u64,
    profile: &Profile,
    jobs: Vec<JobSpec>,
    moves: Move,
    fail_points: &[FailPoint],
    traced: bool,
) -> Ending {
    ending_of(World::new(seed, profile.clone(), None, traced), |world| {
        world.set_up();
        world.apply(jobs);
        world.live_through(moves, fail_points);
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
    let lines = std::env::var("SIM_LINES").ok().and_then(|lines| lines.parse().ok()).unwrap_or(TOLD);
    Ending {
        violation,
        counts: world.audit.counts,
        steps: world.steps_lived,
        longest_gap: Duration::from_micros(world.longest_gap),
        hash: world.trace.hash(),
        tail: world.trace.tail(lines),
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
