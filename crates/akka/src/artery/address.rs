//! Where an actor system is, and which of those that were there.

use std::fmt;
use std::sync::Arc;

use super::protobuf::{Malformed, put_bytes, put_number, read};

/// What the actor system of every PowerJob worker is called.
pub const WORKER_SYSTEM: &str = "oms";
/// What the actor system of every PowerJob server is called.
pub const SERVER_SYSTEM: &str = "oms-server";

/// `akka://system@host:port`. Akka compares these as texts, so that a host name and its address are two systems.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address {
    system: Arc<str>,
    host: Arc<str>,
    port: u16,
}

impl Address {
    /// The address, unless a part of it could not stand in a literal: letters, digits, `-` and `_` for the system, the
    /// same with `.`, and with `:` in brackets, for the host; at most 64 and 255 of them.
    pub fn new(system: &str, host: &str, port: u16) -> Option<Self> {
        let is_word = |text: &str, more: &[u8], most: usize| {
            (1..=most).contains(&text.len())
                && text
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte) || more.contains(&byte))
        };
        let is_host = match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            Some(bracketed) => is_word(bracketed, b".:%", 253),
            None => is_word(host, b".", 255),
        };
        (is_word(system, b"", 64) && is_host && port != 0).then(|| Address {
            system: system.into(),
            host: host.into(),
            port,
        })
    }

    /// A worker's, from the `host:port` of its heartbeats.
    pub fn of_worker(address: &str) -> Option<Self> {
        let (host, port) = address.rsplit_once(':')?;
        Address::new(WORKER_SYSTEM, host, port.parse().ok()?)
    }

    /// The name of the actor system.
    pub fn system(&self) -> &str {
        &self.system
    }

    /// The host, as it was given.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `host:port`, as PowerJob has it.
    pub fn host_and_port(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    /// Splits `akka://system@host:port/path` into the address and `/path`.
    pub fn of_literal(literal: &str) -> Option<(Self, &str)> {
        let rest = literal.strip_prefix("akka://")?;
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let (system, place) = authority.split_once('@')?;
        let (host, port) = place.rsplit_once(':')?;
        Some((Address::new(system, host, port.parse().ok()?)?, path))
    }

    pub(super) fn write(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_bytes(&mut out, 1, b"akka");
        put_bytes(&mut out, 2, self.system.as_bytes());
        put_bytes(&mut out, 3, self.host.as_bytes());
        put_number(&mut out, 4, self.port.into());
        out
    }

    pub(super) fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let (mut protocol, mut system, mut host, mut port) = ("", "", "", 0);
        read(bytes, |number, field| {
            match number {
                1 => protocol = field.text()?,
                2 => system = field.text()?,
                3 => host = field.text()?,
                4 => port = field.number()?,
                _ => {}
            }
            Ok(())
        })?;
        let port = u16::try_from(port).map_err(|_| Malformed)?;
        Address::new(system, host, port).filter(|_| protocol == "akka").ok_or(Malformed)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "akka://{}@{}:{}", self.system, self.host, self.port)
    }
}

/// An actor system between its start and its end. A process that starts again has another number.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct UniqueAddress {
    /// Where it is.
    pub address: Address,
    /// Random.
    pub uid: u64,
}

impl UniqueAddress {
    pub(super) fn write(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_bytes(&mut out, 1, &self.address.write());
        put_number(&mut out, 2, self.uid);
        out
    }

    pub(super) fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let (mut address, mut uid) = (None, None);
        read(bytes, |number, field| {
            match number {
                1 => address = Some(Address::parse(field.bytes()?)?),
                2 => uid = Some(field.number()?),
                _ => {}
            }
            Ok(())
        })?;
        Ok(UniqueAddress { address: address.ok_or(Malformed)?, uid: uid.ok_or(Malformed)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_are_split_and_addresses_that_break_them_refused() {
        let worker = Address::of_worker("10.0.0.5:27777").unwrap();
        assert_eq!(worker.to_string(), "akka://oms@10.0.0.5:27777");
        let literal = "akka://oms@10.0.0.5:27777/temp/_user_server_actor$a";
        assert_eq!(Address::of_literal(literal), Some((worker.clone(), "/temp/_user_server_actor$a")));
        assert_eq!(Address::of_literal("akka://oms@10.0.0.5:27777"), Some((worker, "")));
        assert!(Address::of_worker("[fe80::1]:27777").is_some());
        for broken in ["", "a", "a:0", "a:65536", ":1", "a/b:1", "a@b:1", "::1:1", "a b:1", "é:1", "[]:1"] {
            assert_eq!(Address::of_worker(broken), None, "{broken}");
        }
        assert_eq!(Address::of_literal("akka.tcp://oms@a:1/"), None);
    }
}
