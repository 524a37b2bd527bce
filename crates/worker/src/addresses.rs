//! Which servers there are, and in which order they are asked. Pure.
//!
//! An outage begins when a session ends and goes on in rounds. A round asks the configured addresses, each once; when none
//! of them could be reached it goes on with some of those that a server told of in its welcome, and from then on these are
//! asked along with the configured ones. So the address of a load balancer stays the first choice, and one that leads
//! nowhere is not waited for.

use std::collections::VecDeque;

use tonic::transport::Uri;

use crate::connection::Failed;

/// Learned addresses that one round asks. The others have their turn in rounds to come.
const LEARNED_AT_ONCE: usize = 4;
/// How often in a row "not now" is followed by a short pause. A server that says it for ever is left for others.
const NOT_NOW_AT_ONCE: u32 = 8;

/// One of the servers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    /// By its place among those that the user named.
    Configured(usize),
    Learned(String),
}

/// Who was asked, of those that [`Addresses::next`] named.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Asked {
    /// So many, from the first on.
    pub(crate) count: usize,
    /// The places of those that did not answer in time.
    pub(crate) silent: Vec<usize>,
}

/// What stands before the next round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pause {
    /// A short one: somebody is about to take the partition over.
    NotNow,
    /// One that grows with each round.
    Unreachable,
    /// A long one: somebody has to change something.
    Refused,
}

#[derive(Debug)]
pub(crate) struct Addresses {
    /// Scheme, host and port of the configured ones.
    configured: Vec<String>,
    learned: Vec<String>,
    /// The configured one that begins a round.
    first: usize,
    /// The learned one that has its turn next.
    turn: usize,
    /// Who is still to be asked in this round.
    left: VecDeque<Address>,
    /// The configured ones that let us wait for nothing in this outage: they are asked last.
    silent: Vec<bool>,
    asks_learned: bool,
    /// Every configured one failed in this outage.
    is_lost: bool,
    refused: bool,
    not_now: bool,
    not_nows: u32,
}

impl Addresses {
    pub(crate) fn new(configured: &[Uri]) -> Self {
        let configured: Vec<_> = configured.iter().map(origin).collect();
        let silent = vec![false; configured.len()];
        let mut addresses = Addresses {
            configured,
            learned: Vec::new(),
            first: 0,
            turn: 0,
            left: VecDeque::new(),
            silent,
            asks_learned: false,
            is_lost: false,
            refused: false,
            not_now: false,
            not_nows: 0,
        };
        addresses.begin_round();
        addresses
    }

    /// Who is to be asked, in this order.
    pub(crate) fn next(&self) -> Vec<Address> {
        self.left.iter().cloned().collect()
    }

    /// Whether it said nothing to us earlier in this outage, while there are others that may.
    pub(crate) fn is_silent(&self, address: &Address) -> bool {
        matches!(address, Address::Configured(at) if self.silent[*at]) && !self.silent.iter().all(|silent| *silent)
    }

    /// There is a session. What its server told of others replaces what was learned before. Addresses to which the token
    /// must not be sent are left out: without TLS, where all that were configured have it.
    pub(crate) fn connected<'a>(&mut self, to: &Address, learned: impl Iterator<Item = &'a str>) {
        if let Address::Configured(at) = to {
            self.first = *at;
        }
        let needs_tls = self.configured.iter().all(|url| url.starts_with("https:"));
        self.learned.clear();
        for url in learned.filter_map(server_of).filter(|url| !needs_tls || url.starts_with("https:")) {
            if !self.configured.contains(&url) && !self.learned.contains(&url) {
                self.learned.push(url);
            }
        }
        self.turn = 0;
    }

    /// A session that lasted: whatever was wrong before is over.
    pub(crate) fn lasted(&mut self) {
        self.not_nows = 0;
    }

    /// The session with `to` ended. Returns the pause before somebody is asked.
    pub(crate) fn lost(&mut self, to: &Address, failed: &Failed) -> Pause {
        if let (Address::Configured(at), Failed::Unreachable { .. }) = (to, failed) {
            self.first = (at + 1) % self.configured.len();
        }
        self.silent.fill(false);
        self.is_lost = false;
        self.note(failed);
        self.end_round()
    }

    /// Asking did not lead to a session. Returns the pause before the next is asked, if there should be one.
    pub(crate) fn failed(&mut self, asked: &Asked, failed: &Failed) -> Option<Pause> {
        for at in &asked.silent {
            if let Some(Address::Configured(at)) = self.left.get(*at) {
                self.silent[*at] = true;
            }
        }
        self.left.drain(..asked.count.min(self.left.len()));
        self.note(failed);
        if !self.left.is_empty() {
            return None;
        }
        let is_reached = self.refused || self.not_now;
        if !is_reached {
            self.is_lost = true;
            if !self.asks_learned && !self.learned.is_empty() {
                self.ask_learned();
                return None;
            }
        }
        Some(self.end_round())
    }

    fn note(&mut self, failed: &Failed) {
        self.refused |= failed.is_refused();
        if let Failed::NotNow { .. } = failed {
            self.not_nows += 1;
            self.not_now |= self.not_nows <= NOT_NOW_AT_ONCE;
        }
    }

    fn end_round(&mut self) -> Pause {
        let pause = match (self.refused, self.not_now) {
            (true, _) => Pause::Refused,
            (false, true) => Pause::NotNow,
            (false, false) => Pause::Unreachable,
        };
        self.begin_round();
        pause
    }

    fn begin_round(&mut self) {
        (self.refused, self.not_now, self.asks_learned) = (false, false, false);
        let count = self.configured.len();
        let mut order: Vec<usize> = (0..count).map(|step| (self.first + step) % count).collect();
        order.sort_by_key(|at| self.silent[*at]);
        self.left = order.into_iter().map(Address::Configured).collect();
        if self.is_lost {
            self.ask_learned();
        }
    }

    fn ask_learned(&mut self) {
        self.asks_learned = true;
        let count = self.learned.len().min(LEARNED_AT_ONCE);
        for _ in 0..count {
            self.left.push_back(Address::Learned(self.learned[self.turn % self.learned.len()].clone()));
            self.turn = (self.turn + 1) % self.learned.len();
        }
    }
}

/// A learned address as we write it; nothing for what is none: it names a server and nothing else.
fn server_of(text: &str) -> Option<String> {
    let uri: Uri = text.parse().ok()?;
    let authority = uri.authority()?;
    let is_plain = !authority.as_str().contains('@') && !authority.host().is_empty();
    let is_server = matches!(uri.scheme_str(), Some("http" | "https")) && uri.path() == "/" && uri.query().is_none();
    (is_plain && is_server).then(|| origin(&uri))
}

/// `http://host:port`, in small letters.
fn origin(uri: &Uri) -> String {
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    format!("{}://{authority}", uri.scheme_str().unwrap_or_default()).to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(configured: &[&str]) -> Addresses {
        Addresses::new(&configured.iter().map(|url| url.parse().unwrap()).collect::<Vec<_>>())
    }

    fn failed(how: fn(String, String) -> Failed) -> Failed {
        how("s".to_owned(), "why".to_owned())
    }

    fn unreachable() -> Failed {
        failed(|server, why| Failed::Unreachable { server, why })
    }

    fn not_now() -> Failed {
        failed(|server, why| Failed::NotNow { server, why })
    }

    fn refused() -> Failed {
        failed(|server, why| Failed::Refused { server, why })
    }

    fn asked(count: usize) -> Asked {
        Asked { count, silent: Vec::new() }
    }

    /// Fails all whose turn it is.
    fn all_fail(addresses: &mut Addresses) -> Option<Pause> {
        addresses.failed(&asked(addresses.next().len()), &unreachable())
    }

    fn turns(addresses: &Addresses) -> Vec<String> {
        let named = |address: &Address| match address {
            Address::Configured(at) => at.to_string(),
            Address::Learned(url) => url.clone(),
        };
        addresses.next().iter().map(named).collect()
    }

    #[test]
    fn all_configured_are_asked_before_a_pause() {
        let mut addresses = addresses(&["http://a", "http://b", "http://c"]);
        assert_eq!(turns(&addresses), ["0", "1", "2"]);
        // The first answered and did not open a session, then the second, then nobody did.
        assert_eq!(addresses.failed(&asked(1), &not_now()), None);
        assert_eq!(turns(&addresses), ["1", "2"]);
        assert_eq!(addresses.failed(&asked(1), &unreachable()), None);
        assert_eq!(addresses.failed(&asked(1), &unreachable()), Some(Pause::NotNow));
        assert_eq!(turns(&addresses), ["0", "1", "2"]);
        assert_eq!(all_fail(&mut addresses), Some(Pause::Unreachable));
        assert_eq!(addresses.failed(&asked(2), &refused()), None);
        assert_eq!(addresses.failed(&asked(1), &unreachable()), Some(Pause::Refused));
    }

    #[test]
    fn the_one_that_had_us_is_the_first_unless_it_broke() {
        let mut addresses = addresses(&["http://a", "http://b"]);
        let b = Address::Configured(1);
        addresses.connected(&b, std::iter::empty());
        assert_eq!(addresses.lost(&b, &not_now()), Pause::NotNow);
        assert_eq!(turns(&addresses), ["1", "0"]);
        addresses.connected(&b, std::iter::empty());
        assert_eq!(addresses.lost(&b, &unreachable()), Pause::Unreachable);
        assert_eq!(turns(&addresses), ["0", "1"]);
    }

    #[test]
    fn learned_ones_come_after_all_configured_failed_once() {
        let mut addresses = addresses(&["http://balancer"]);
        let learned: Vec<String> = (1..=6).map(|n| format!("http://s{n}")).collect();
        let balancer = Address::Configured(0);
        addresses.connected(&balancer, learned.iter().map(String::as_str));
        assert_eq!(addresses.lost(&balancer, &unreachable()), Pause::Unreachable);
        assert_eq!(turns(&addresses), ["0"]);
        assert_eq!(all_fail(&mut addresses), None, "without a pause");
        assert_eq!(turns(&addresses), ["http://s1", "http://s2", "http://s3", "http://s4"]);
        assert_eq!(all_fail(&mut addresses), Some(Pause::Unreachable));
        // From now on beside the first choice, and each has its turn.
        assert_eq!(turns(&addresses), ["0", "http://s5", "http://s6", "http://s1", "http://s2"]);
        assert_eq!(all_fail(&mut addresses), Some(Pause::Unreachable));

        // Another outage is another matter.
        let s5 = Address::Learned("http://s5".to_owned());
        addresses.connected(&s5, ["http://s9"].into_iter());
        assert_eq!(addresses.lost(&s5, &not_now()), Pause::NotNow);
        assert_eq!(turns(&addresses), ["0"]);
        assert_eq!(all_fail(&mut addresses), None);
        assert_eq!(turns(&addresses), ["http://s9"], "what was learned before is forgotten");
    }

    #[test]
    fn who_was_reached_is_asked_again_soon_but_not_for_ever() {
        let mut addresses = addresses(&["http://balancer"]);
        let balancer = Address::Configured(0);
        addresses.connected(&balancer, ["http://s1"].into_iter());
        assert_eq!(addresses.lost(&balancer, &not_now()), Pause::NotNow);
        for _ in 1..NOT_NOW_AT_ONCE {
            assert_eq!(turns(&addresses), ["0"]);
            assert_eq!(addresses.failed(&asked(1), &not_now()), Some(Pause::NotNow));
        }
        assert_eq!(addresses.failed(&asked(1), &not_now()), None);
        assert_eq!(turns(&addresses), ["http://s1"]);
        assert_eq!(addresses.failed(&asked(1), &not_now()), Some(Pause::Unreachable));
        // Sessions that are cut at once change nothing; one that lasted does.
        addresses.connected(&balancer, std::iter::empty());
        assert_eq!(addresses.lost(&balancer, &not_now()), Pause::Unreachable);
        addresses.connected(&balancer, std::iter::empty());
        addresses.lasted();
        assert_eq!(addresses.lost(&balancer, &not_now()), Pause::NotNow);
    }

    #[test]
    fn a_refusal_is_not_carried_to_others() {
        let mut addresses = addresses(&["http://balancer"]);
        let balancer = Address::Configured(0);
        addresses.connected(&balancer, ["http://s1"].into_iter());
        assert_eq!(addresses.lost(&balancer, &refused()), Pause::Refused);
        assert_eq!(addresses.failed(&asked(1), &refused()), Some(Pause::Refused));
        assert_eq!(turns(&addresses), ["0"]);
    }

    #[test]
    fn the_silent_are_asked_last_and_forgiven_with_the_next_session() {
        let mut addresses = addresses(&["http://dead", "http://b"]);
        let (dead, b) = (Address::Configured(0), Address::Configured(1));
        assert!(!addresses.is_silent(&dead));
        let one = Asked { count: 2, silent: vec![0] };
        assert_eq!(addresses.failed(&one, &unreachable()), Some(Pause::Unreachable));
        assert_eq!(turns(&addresses), ["1", "0"]);
        assert!(addresses.is_silent(&dead) && !addresses.is_silent(&b));
        let both = Asked { count: 2, silent: vec![0, 1] };
        addresses.failed(&both, &unreachable());
        assert!(!addresses.is_silent(&dead), "where nobody says anything, all have their time");
        addresses.connected(&b, std::iter::empty());
        addresses.lost(&b, &not_now());
        assert!(!addresses.is_silent(&dead));
    }

    #[test]
    fn only_servers_are_learned_and_each_once() {
        let mut addresses = addresses(&["http://Balancer:7700"]);
        let told = [
            "http://balancer:7700/",
            "http://s1:7700",
            "HTTP://S1:7700/",
            "http://s2:7700/path",
            "http://s2:7700/?query",
            "http://user@s2",
            "http://:7700",
            "http://s 2",
            "ftp://s2",
            "https://[::1]:7700",
        ];
        addresses.connected(&Address::Configured(0), told.into_iter());
        assert_eq!(addresses.learned, ["http://s1:7700", "https://[::1]:7700"]);
        addresses.connected(&Address::Configured(0), std::iter::empty());
        assert!(addresses.learned.is_empty());
    }

    #[test]
    fn a_token_that_travels_by_tls_goes_on_doing_so() {
        let told = || ["http://s1", "https://s2"].into_iter();
        let mut secure = addresses(&["https://a", "https://b"]);
        secure.connected(&Address::Configured(0), told());
        assert_eq!(secure.learned, ["https://s2"]);
        let mut mixed = addresses(&["https://a", "http://b"]);
        mixed.connected(&Address::Configured(0), told());
        assert_eq!(mixed.learned, ["http://s1", "https://s2"]);
    }
}
