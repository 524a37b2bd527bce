//! Where clients before 5.1.0 were seen.
//!
//! Two of their calls carry nothing but the id of an instance: how is it, and what is known of it. They are answered to
//! an address that proved itself a while ago, because nothing else can be known of who asks.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Mutex;
use std::time::Duration;

use pendula_model::{AppId, TokenId};
use tokio::time::Instant;

/// From the last call that proved who it was.
const REMEMBERED: Duration = Duration::from_secs(24 * 3600);
/// Addresses and apps at once; the oldest make room.
const MOST: usize = 10_000;

#[derive(Default)]
pub(crate) struct KnownClients {
    seen: Mutex<HashMap<(IpAddr, AppId), (TokenId, Instant)>>,
}

impl KnownClients {
    /// A call from there proved itself by that secret of the app's.
    pub(super) fn note(&self, peer: IpAddr, app: AppId, secret: TokenId) {
        let mut seen = self.seen.lock().expect("nothing panics while it holds this lock");
        let is_new = !seen.contains_key(&(peer, app));
        if is_new && seen.len() >= MOST {
            seen.retain(|_, (_, at)| at.elapsed() < REMEMBERED);
            let oldest = seen.iter().min_by_key(|(_, (_, at))| *at).map(|(key, _)| *key);
            oldest.filter(|_| seen.len() >= MOST).and_then(|key| seen.remove(&key));
        }
        seen.insert((peer, app), (secret, Instant::now()));
    }

    /// The apps that were proved from there, each with the secret.
    pub(super) fn of(&self, peer: IpAddr) -> Vec<(AppId, TokenId)> {
        let seen = self.seen.lock().expect("nothing panics while it holds this lock");
        let mut found: Vec<_> = seen
            .iter()
            .filter(|((from, _), (_, at))| *from == peer && at.elapsed() < REMEMBERED)
            .map(|((_, app), (secret, _))| (*app, *secret))
            .collect();
        found.sort();
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_address_is_known_for_a_day_and_the_oldest_makes_room() {
        let known = KnownClients::default();
        let address = |number: u32| IpAddr::from(number.to_be_bytes());
        known.note(address(1), AppId(1), TokenId(7));
        assert_eq!(known.of(address(1)), [(AppId(1), TokenId(7))]);
        assert!(known.of(address(2)).is_empty());
        tokio::time::advance(REMEMBERED).await;
        assert!(known.of(address(1)).is_empty());
        for number in 0..MOST as u32 + 5 {
            tokio::time::advance(Duration::from_millis(1)).await;
            known.note(address(number), AppId(1), TokenId(7));
        }
        assert_eq!(known.seen.lock().unwrap().len(), MOST);
        assert!(known.of(address(0)).is_empty());
        assert!(!known.of(address(MOST as u32 + 4)).is_empty());
    }
}
