use pendula_sim::{PROFILES, live, profile_of};

/// Tells a failing seed again, with everything that led to it.
fn tell(seed: u64) -> String {
    let profile = profile_of(seed);
    let ending = live(seed, profile, None, true);
    let law = ending.violation.as_ref().map_or("none", |violation| violation.law);
    let what = ending.violation.as_ref().map_or("", |violation| &violation.what);
    format!("{}\nseed {seed} ({}) broke {law}: {what}\nSIM_SEED={seed} cargo test -p pendula-sim replay", ending.tail, profile.name)
}

fn seeds() -> u64 {
    std::env::var("SIM_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(10_000)
}

#[test]
fn every_history_keeps_the_laws() {
    let mut per_profile = vec![(0u64, 0u64, 0u64, 0u64, 0u64, std::time::Duration::ZERO); PROFILES.len()];
    let mut failed = Vec::new();
    for seed in 0..seeds() {
        let began = std::time::Instant::now();
        let ending = live(seed, profile_of(seed), None, false);
        let sum = &mut per_profile[(seed % PROFILES.len() as u64) as usize];
        sum.0 += 1;
        sum.1 += ending.counts.instances;
        sum.2 += ending.counts.fires;
        sum.3 += ending.counts.restores;
        sum.4 += ending.counts.written_off;
        sum.5 += began.elapsed();
        if let Some(violation) = ending.violation {
            failed.push((seed, violation));
        }
    }
    for (profile, sum) in PROFILES.iter().zip(&per_profile) {
        println!("{:<12} {sum:?}", profile.name);
    }
    if let Some((seed, _)) = failed.first() {
        let mut laws: std::collections::BTreeMap<String, (u64, u64)> = Default::default();
        for (seed, violation) in &failed {
            let entry = laws.entry(format!("{} {}", profile_of(*seed).name, violation.law)).or_insert((0, *seed));
            entry.0 += 1;
        }
        panic!("{}\n{} failed: {laws:#?}", tell(*seed), failed.len());
    }
}

/// `SIM_SEED=123 cargo test -p pendula-sim replay -- --nocapture` tells one history.
#[test]
fn replay() {
    let Some(seed) = std::env::var("SIM_SEED").ok().and_then(|text| text.parse().ok()) else { return };
    let told = tell(seed);
    println!("{told}");
    assert!(live(seed, profile_of(seed), None, false).violation.is_none());
}
