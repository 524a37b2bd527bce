//! A server's first message, checked.

use std::time::Duration;

use crate::error::WireError;
use crate::v1::{Held, Welcome};
use crate::version::{PROTOCOL_MAX, PROTOCOL_MIN};

/// Addresses of servers that a worker takes from one welcome.
pub const SERVERS_MAX: usize = 64;
/// Bytes of one of them.
pub const SERVER_BYTES_MAX: usize = 256;

/// What both sides keep to in a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// How often the worker sends a heartbeat, each of which the server answers.
    pub heartbeat: Duration,
    /// After so long without a word each side gives the connection up.
    pub silence: Duration,
}

impl Welcome {
    /// The terms of the session.
    ///
    /// # Errors
    /// For a version that we did not offer, a missing session number, a silence that is no longer than the heartbeat,
    /// and an attempt to abort that names nothing.
    pub fn terms(&self) -> Result<Terms, WireError> {
        let refuse = |field, why: String| Err(WireError::new("Welcome", field, why));
        if !(PROTOCOL_MIN..=PROTOCOL_MAX).contains(&self.protocol) {
            let why = format!("{} was not offered; we speak {PROTOCOL_MIN} to {PROTOCOL_MAX}", self.protocol);
            return refuse("protocol", why);
        }
        if self.session == 0 {
            return refuse("session", "is missing".to_owned());
        }
        if self.heartbeat_millis == 0 || self.silence_millis <= self.heartbeat_millis {
            let why =
                format!("{} ms must be longer than a heartbeat of {} ms", self.silence_millis, self.heartbeat_millis);
            return refuse("silence_millis", why);
        }
        self.abort.iter().try_for_each(Held::check)?;
        Ok(Terms {
            heartbeat: Duration::from_millis(u64::from(self.heartbeat_millis)),
            silence: Duration::from_millis(u64::from(self.silence_millis)),
        })
    }

    /// Where the servers are, in the sender's order: at most [`SERVERS_MAX`], each `http://` or `https://` and at most
    /// [`SERVER_BYTES_MAX`] long. What is not is left out: it is advice, and no reason to do without a session.
    pub fn addresses(&self) -> impl Iterator<Item = &str> {
        let is_one = |url: &&str| {
            let rest = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
            url.len() <= SERVER_BYTES_MAX && rest.is_some_and(|host| !host.is_empty())
        };
        self.servers.iter().map(String::as_str).filter(is_one).take(SERVERS_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms_that_cannot_be_kept_are_refused() {
        let good =
            Welcome { protocol: 1, session: 9, heartbeat_millis: 1000, silence_millis: 5000, ..Default::default() };
        assert_eq!(good.terms().unwrap().silence, Duration::from_secs(5));
        for (welcome, field) in [
            (Welcome::default(), "protocol"),
            (Welcome { protocol: 2, ..good.clone() }, "protocol"),
            (Welcome { session: 0, ..good.clone() }, "session"),
            (Welcome { heartbeat_millis: 0, ..good.clone() }, "silence_millis"),
            (Welcome { silence_millis: 1000, ..good.clone() }, "silence_millis"),
            (Welcome { abort: vec![Held::default()], ..good.clone() }, "instance"),
        ] {
            assert_eq!(welcome.terms().unwrap_err().field, field);
        }
    }

    #[test]
    fn addresses_are_bounded_and_what_is_none_is_left_out() {
        let servers = ["http://a:1", "", "ftp://a", "https://", "a:1", "https://b", "HTTP://c"];
        let welcome = |servers: Vec<String>| Welcome { servers, ..Welcome::default() };
        let few = welcome(servers.map(str::to_owned).to_vec());
        assert_eq!(few.addresses().collect::<Vec<_>>(), ["http://a:1", "https://b"]);
        let long = |bytes: usize| format!("http://{}", "x".repeat(bytes - "http://".len()));
        let many = welcome([long(SERVER_BYTES_MAX + 1)].into_iter().chain(vec![long(SERVER_BYTES_MAX); 100]).collect());
        assert_eq!(many.addresses().count(), SERVERS_MAX);
    }
}
