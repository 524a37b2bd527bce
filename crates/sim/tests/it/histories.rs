//! Many seeds, each lived through once.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::OnceLock;

use pendula_sim::{Counts, Ending, live, profile_of};

/// Seeds without `SIM_SEEDS`.
const SEEDS: u64 = 10_000;

fn number_from(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable}={text} is not a number")))
}

/// Tells a seed again, with what led to its end.
fn told(seed: u64) -> String {
    let Ending { violation, tail, counts, .. } = live(seed, profile_of(seed), None, true);
    let name = profile_of(seed).name;
    match violation {
        Some(violation) => format!(
            "{tail}\nseed {seed} ({name}) broke {}: {}\nreplay: SIM_SEED={seed} cargo test -p pendula-sim replay -- --nocapture",
            violation.law, violation.what
        ),
        None => format!("{tail}\nseed {seed} ({name}) kept all laws: {counts:?}"),
    }
}

/// What happened per profile, and the seeds that failed.
#[derive(Default)]
pub(crate) struct Sum {
    profiles: BTreeMap<&'static str, (u64, Counts)>,
    pub(crate) failed: BTreeMap<u64, &'static str>,
}

impl Sum {
    fn add(&mut self, seed: u64, ending: Ending) {
        let (lived, sum) = self.profiles.entry(profile_of(seed).name).or_default();
        *lived += 1;
        sum.add(&ending.counts);
        if let Some(violation) = ending.violation {
            self.failed.insert(seed, violation.law);
        }
    }

    /// How many histories, and what happened in all of them.
    pub(crate) fn total(&self) -> (u64, Counts) {
        let mut total = (0, Counts::default());
        for (lived, counts) in self.profiles.values() {
            total.0 += lived;
            total.1.add(counts);
        }
        total
    }

    fn table(&self) -> String {
        let mut table = String::new();
        for (name, (lived, counts)) in &self.profiles {
            writeln!(table, "{name:<10} {lived:>6} histories {counts:?}").expect("a string takes everything");
        }
        table
    }
}

/// All histories of this run, lived through once for all tests that look at them.
pub(crate) fn lived() -> &'static Sum {
    static LIVED: OnceLock<Sum> = OnceLock::new();
    LIVED.get_or_init(|| {
        let first = number_from("SIM_FIRST").unwrap_or(0);
        let seeds = first..first + number_from("SIM_SEEDS").unwrap_or(SEEDS);
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let sums: Vec<Sum> = std::thread::scope(|scope| {
            let share = |thread: usize| seeds.clone().skip(thread).step_by(threads);
            let threads: Vec<_> = (0..threads)
                .map(|thread| {
                    let share = share(thread);
                    scope.spawn(move || {
                        let mut sum = Sum::default();
                        share.for_each(|seed| sum.add(seed, live(seed, profile_of(seed), None, false)));
                        sum
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().expect("histories catch their panics")).collect()
        });
        let mut total = Sum::default();
        for sum in sums {
            for (name, (lived, counts)) in sum.profiles {
                let (all, total) = total.profiles.entry(name).or_default();
                *all += lived;
                total.add(&counts);
            }
            total.failed.extend(sum.failed);
        }
        total
    })
}

/// `SIM_SEEDS=100000` lives through more, `SIM_FIRST=…` through others.
#[test]
fn every_history_keeps_the_laws() {
    let lived = lived();
    println!("{}", lived.table());
    if let Some((seed, _)) = lived.failed.first_key_value() {
        let failed: Vec<_> = lived.failed.iter().take(20).map(|(seed, law)| format!("{seed} {law}")).collect();
        panic!("{}\n{} seeds failed, the first of them: {failed:?}", told(*seed), lived.failed.len());
    }
}

/// `SIM_SEED=123 cargo test -p pendula-sim replay -- --nocapture` tells one history.
#[test]
fn replay() {
    let Some(seed) = number_from("SIM_SEED") else { return };
    println!("{}", told(seed));
    let violation = live(seed, profile_of(seed), None, false).violation;
    assert_eq!(violation, None);
}

#[test]
fn a_seed_always_tells_the_same_story() {
    for seed in 0..48 {
        let [first, second] = [(); 2].map(|()| live(seed, profile_of(seed), None, true));
        assert_ne!(first.hash, 0);
        assert_eq!(first.hash, second.hash, "seed {seed}:\n{}\n---\n{}", first.tail, second.tail);
        let untold = live(seed, profile_of(seed), None, false);
        assert_eq!(untold.steps, first.steps, "telling seed {seed} changes it");
    }
}
