//! Whether this server can do its work, and if not, why: behind `/readyz` and `/api/v1/status`.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use pendula_model::Timestamp;

use crate::metrics::Tick;

/// What is wrong right now. Parts of the server report and withdraw their own problems.
#[derive(Debug, Default)]
pub struct Health {
    problems: Mutex<BTreeMap<String, Problem>>,
    loops: Mutex<BTreeMap<String, Tick>>,
}

#[derive(Clone, Debug)]
struct Problem {
    text: String,
    blocking: bool,
    /// To be expected: neither its coming nor its going is news.
    expected: bool,
}

impl Health {
    /// Something keeps the server from its work: it is not ready until `part` calls [`Health::recovered`].
    pub fn broken(&self, part: &str, why: impl Into<String>) {
        self.set(part, why.into(), true);
    }

    /// As [`Health::broken`], for what is to be expected and says nothing in the log.
    pub(crate) fn not_yet(&self, part: &str, why: impl Into<String>) {
        let problem = Problem { text: why.into(), blocking: true, expected: true };
        self.problems.lock().expect("nothing panics while it holds this lock").insert(part.to_owned(), problem);
    }

    /// Something should worry somebody, but the server works.
    pub fn worrying(&self, part: &str, why: impl Into<String>) {
        self.set(part, why.into(), false);
    }

    /// `part` is well again.
    pub fn recovered(&self, part: &str) {
        let was = self.problems.lock().expect("nothing panics while it holds this lock").remove(part);
        if let Some(problem) = was {
            match problem.expected {
                true => tracing::debug!(part, was = problem.text, "is well"),
                false => tracing::info!(part, was = problem.text, "is well"),
            }
        }
    }

    /// Whether nothing keeps the server from its work.
    pub fn is_ready(&self) -> bool {
        let problems = self.problems.lock().expect("nothing panics while it holds this lock");
        !problems.values().any(|problem| problem.blocking)
    }

    /// What keeps `part` from its work, if something does.
    pub(crate) fn why_broken(&self, part: &str) -> Option<String> {
        let problems = self.problems.lock().expect("nothing panics while it holds this lock");
        problems.get(part).filter(|problem| problem.blocking).map(|problem| problem.text.clone())
    }

    /// Each as `part: what`, what blocks readiness and what does not.
    pub fn problems(&self) -> Vec<String> {
        let problems = self.problems.lock().expect("nothing panics while it holds this lock");
        problems.iter().map(|(part, problem)| format!("{part}: {}", problem.text)).collect()
    }

    /// Shows when the background loop `name` last completed a round.
    pub(crate) fn watch(&self, name: &str, tick: Tick) {
        self.loops.lock().expect("nothing panics while it holds this lock").insert(name.to_owned(), tick);
    }

    /// The loop `name` has ended and shows nothing any more.
    pub(crate) fn forget(&self, name: &str) {
        self.loops.lock().expect("nothing panics while it holds this lock").remove(name);
    }

    /// How long ago each background loop completed a round.
    pub fn loops(&self, now: Timestamp) -> BTreeMap<String, Duration> {
        let loops = self.loops.lock().expect("nothing panics while it holds this lock");
        loops.iter().map(|(name, tick)| (name.clone(), now.since(tick.last()))).collect()
    }

    fn set(&self, part: &str, text: String, blocking: bool) {
        let mut problems = self.problems.lock().expect("nothing panics while it holds this lock");
        let problem = Problem { text, blocking, expected: false };
        let before = problems.insert(part.to_owned(), problem.clone());
        if before.is_none_or(|before| before.text != problem.text) {
            tracing::warn!(part, problem = problem.text, "a problem was noticed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_blocking_problems_take_readiness_away_and_recovery_gives_it_back() {
        let health = Health::default();
        assert!(health.is_ready());
        health.worrying("clock", "jumped");
        assert!(health.is_ready());
        health.broken("store", "disk full");
        assert!(!health.is_ready());
        assert_eq!(health.problems(), ["clock: jumped", "store: disk full"]);
        health.recovered("store");
        assert!(health.is_ready());
    }

    #[test]
    fn what_is_expected_blocks_readiness_too() {
        let health = Health::default();
        health.not_yet("partitions", "they are being loaded");
        assert!(!health.is_ready());
        health.recovered("partitions");
        assert!(health.is_ready());
    }
}
