//! Which versions of the protocol exist here, and how two peers agree on one.

use crate::v1::Hello;

/// Oldest version that this code speaks.
pub const PROTOCOL_MIN: u32 = 1;
/// Newest version that this code speaks.
pub const PROTOCOL_MAX: u32 = 1;

/// Names of what only some peers of the same protocol version can do. `tasks`: instances with many tasks, that is `role`
/// and what follows it in a dispatch, maps and results. A peer without it gets whole instances only.
pub const CAPABILITIES: &[&str] = &[pendula_model::worker::TASKS];

/// Two peers without a version in common. The session ends with `FAILED_PRECONDITION` and this text; work that the
/// worker runs is not failed for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "no common protocol version: the worker speaks {worker_min} to {worker_max}, \
     the server {PROTOCOL_MIN} to {PROTOCOL_MAX}; upgrade the older one"
)]
pub struct VersionRefused {
    /// Oldest version of the worker.
    pub worker_min: u32,
    /// Newest version of the worker.
    pub worker_max: u32,
}

impl From<VersionRefused> for tonic::Status {
    fn from(refused: VersionRefused) -> Self {
        tonic::Status::failed_precondition(refused.to_string())
    }
}

/// The newest version that both speak.
///
/// # Errors
/// When there is none; a range that is empty or starts at 0 has none either.
pub fn choose(hello: &Hello) -> Result<u32, VersionRefused> {
    let (worker_min, worker_max) = (hello.protocol_min, hello.protocol_max);
    let chosen = worker_max.min(PROTOCOL_MAX);
    if worker_min == 0 || chosen < worker_min.max(PROTOCOL_MIN) {
        return Err(VersionRefused { worker_min, worker_max });
    }
    Ok(chosen)
}

/// The capabilities that a peer named and that we have too: the only ones to be used with it.
pub fn shared_capabilities(theirs: &[String]) -> Vec<String> {
    CAPABILITIES.iter().filter(|ours| theirs.iter().any(|name| name == *ours)).map(|&name| name.to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s1_5_a_peer_too_old_or_too_new_is_refused_with_both_ranges() {
        let choose = |protocol_min, protocol_max| choose(&Hello { protocol_min, protocol_max, ..Hello::default() });
        assert_eq!(choose(1, 1), Ok(1));
        assert_eq!(choose(1, 9), Ok(1));
        for (min, max) in [(0, 0), (0, 1), (2, 9), (2, 1)] {
            let refused = choose(min, max).unwrap_err();
            assert!(refused.to_string().contains(&format!("speaks {min} to {max}, the server 1 to 1")), "{refused}");
        }
    }

    #[test]
    fn capabilities_of_the_future_are_not_used() {
        assert!(shared_capabilities(&["time_travel".to_owned()]).is_empty());
    }
}
