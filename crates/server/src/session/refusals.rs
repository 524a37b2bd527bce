//! Logs about peers that are wrong in the same way again and again: at most one line per minute and peer.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;

const PAUSE: Duration = Duration::from_secs(60);
/// Peers that are remembered. Beyond, the quiet ones are forgotten.
const PEERS: usize = 4_096;

#[derive(Default)]
pub(crate) struct Refusals {
    logged: Mutex<HashMap<IpAddr, Instant>>,
}

impl Refusals {
    /// Whether a line about `peer` may be written now; says yes once a minute.
    pub(crate) fn may_log(&self, peer: IpAddr) -> bool {
        let now = Instant::now();
        let mut logged = self.logged.lock().expect("nothing panics while it holds this lock");
        if logged.get(&peer).is_some_and(|last| now.duration_since(*last) < PAUSE) {
            return false;
        }
        if logged.len() >= PEERS {
            logged.retain(|_, last| now.duration_since(*last) < PAUSE);
            if logged.len() >= PEERS {
                return false;
            }
        }
        logged.insert(peer, now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn s1_5_one_line_per_minute_and_peer() {
        let refusals = Refusals::default();
        let (a, b) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        assert!(refusals.may_log(a));
        assert!(!refusals.may_log(a));
        assert!(refusals.may_log(b));
        tokio::time::advance(PAUSE).await;
        assert!(refusals.may_log(a));
    }
}
