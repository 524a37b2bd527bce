//! How a worker is spoken to.

use std::fmt;
use std::net::SocketAddr;

use http::{HeaderMap, HeaderValue};
use pendula_akka::artery::Address;
use pendula_akka::kryo::Dialect;

/// A header of messages that came over Akka: who wrote them, and how. It goes along when a message is carried to another
/// server.
const SPOKEN: &str = "pendula-powerjob-spoken";

/// How a worker's process spoke: in this dialect it wants to be written to, and no other process at its address is.
///
/// The wrong dialect is not always an error for who reads it, and whoever has the address next may speak the other one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Spoken {
    pub(crate) dialect: Dialect,
    /// The number of its actor system.
    pub(crate) process: u64,
}

impl Spoken {
    /// How the message with these headers was written, if it came over Akka.
    pub(crate) fn of(headers: &HeaderMap) -> Option<Spoken> {
        let (dialect, process) = headers.get(SPOKEN)?.to_str().ok()?.split_once(' ')?;
        let dialect = match dialect {
            "plain" => Dialect::Plain,
            "named" => Dialect::Named,
            _ => return None,
        };
        Some(Spoken { dialect, process: process.parse().ok()? })
    }

    /// Marks a message that came over Akka.
    pub(crate) fn mark(self, headers: &mut HeaderMap) {
        let dialect = match self.dialect {
            Dialect::Plain => "plain",
            Dialect::Named => "named",
        };
        let value = HeaderValue::try_from(format!("{dialect} {}", self.process)).expect("a word and a number");
        headers.insert(SPOKEN, value);
    }
}

/// What a worker speaks. Those that work on one instance together speak the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Speech {
    Http,
    Akka(Dialect),
}

impl Speech {
    /// How the message with these headers came.
    pub(crate) fn of(headers: &HeaderMap) -> Speech {
        Spoken::of(headers).map_or(Speech::Http, |spoken| Speech::Akka(spoken.dialect))
    }
}

/// Where a worker is called, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Http(SocketAddr),
    Akka(Address, Spoken),
}

impl Way {
    pub(crate) fn speech(&self) -> Speech {
        match self {
            Way::Http(_) => Speech::Http,
            Way::Akka(_, spoken) => Speech::Akka(spoken.dialect),
        }
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Way::Http(address) => write!(f, "http://{address}"),
            Way::Akka(address, _) => address.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_spoken_is_carried_along() {
        for dialect in [Dialect::Plain, Dialect::Named] {
            for process in [1, u64::MAX] {
                let mut headers = HeaderMap::new();
                let spoken = Spoken { dialect, process };
                spoken.mark(&mut headers);
                assert_eq!((Spoken::of(&headers), Speech::of(&headers)), (Some(spoken), Speech::Akka(dialect)));
            }
        }
        for odd in ["", "plain", "plain x", "other 1"] {
            let headers = HeaderMap::from_iter([(SPOKEN.parse().unwrap(), HeaderValue::from_static(odd))]);
            assert_eq!(Spoken::of(&headers), None, "{odd}");
        }
    }
}
