//! How a worker is spoken to.

use std::fmt;
use std::net::SocketAddr;

use http::{HeaderMap, HeaderValue};
use pendula_akka::artery::Address;
use pendula_akka::kryo::Dialect;

/// A header of messages that came over Akka: the dialect in which the worker wrote them, and wants to be written to. It goes
/// along when a message is carried to another server.
const DIALECT: &str = "pendula-powerjob-dialect";

/// What a worker speaks. Those that work on one instance together speak the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Speech {
    Http,
    Akka(Dialect),
}

impl Speech {
    /// How the message with these headers came.
    pub(crate) fn of(headers: &HeaderMap) -> Speech {
        match headers.get(DIALECT).map(HeaderValue::as_bytes) {
            Some(b"plain") => Speech::Akka(Dialect::Plain),
            Some(_) => Speech::Akka(Dialect::Named),
            None => Speech::Http,
        }
    }
}

/// Marks a message that came over Akka.
pub(crate) fn mark(headers: &mut HeaderMap, dialect: Dialect) {
    let value = match dialect {
        Dialect::Plain => "plain",
        Dialect::Named => "named",
    };
    headers.insert(DIALECT, HeaderValue::from_static(value));
}

/// Where a worker is called, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Http(SocketAddr),
    Akka(Address, Dialect),
}

impl Way {
    pub(crate) fn speech(&self) -> Speech {
        match self {
            Way::Http(_) => Speech::Http,
            Way::Akka(_, dialect) => Speech::Akka(*dialect),
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
