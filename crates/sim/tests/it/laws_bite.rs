#[test]
fn explore() {
    use pendula_sim::{Breakage::*, live, profile_of};
    for breakage in [DispatchBeforeCommit, ReplyBeforeCommit, AckBeforeCommit, FencedIgnored, EpochUnchecked, FireInTwoSteps, KeysForgotten, WritesLost, EndedRowsWritten, WorkerAdmitsAll, WorkerForgetsRunning, SchedulesUnread, SilenceUnnoticed, TimersUnheard] {
        let mut laws: std::collections::BTreeMap<&str, (u64, u64)> = Default::default();
        for seed in 0..400 {
            if let Some(v) = live(seed, profile_of(seed), Some(breakage), false).violation {
                let e = laws.entry(v.law).or_insert((seed, 0));
                e.1 += 1;
            }
        }
        println!("{breakage:?}: {laws:?}");
    }
}
