//! Where requests may go: the public Internet, and what the worker's owner allowed besides.
//!
//! A definition must not make a worker reach what only the worker can reach: itself, its network, the metadata service
//! of its cloud. So the *address* decides, at the moment when it is dialled: names are resolved by [`GuardedResolver`],
//! which hands only permitted addresses to the connection (a name that resolves differently the next time gains
//! nothing), literal addresses are checked before each request, and so is every redirect. Odd spellings (`0x7f.1`,
//! `2130706433`, `[::ffff:127.0.0.1]`) are addresses to the URL parser before they come here.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// What may be reached besides public addresses. Default: nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EgressPolicy {
    pub allow: Vec<EgressRule>,
}

/// One permission, written as `10.1.0.0/16`, `127.0.0.1`, `fd12::/16`, `intranet.example.com`, or `.example.com` for a
/// domain and all below it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EgressRule {
    /// Every address that begins with the first `prefix` bits of `address`.
    Network { address: IpAddr, prefix: u8 },
    /// Whatever the name resolves to, except addresses of metadata services and link-local ones, which only a network
    /// can allow. A leading dot includes the names below.
    Host(String),
}

/// An address or a name that must not be reached.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{target} is {kind}, which this worker's configuration does not allow http jobs to reach")]
pub struct EgressDenied {
    target: String,
    kind: &'static str,
}

/// A rule that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is neither an address, a network (10.1.0.0/16) nor a host name (intranet.example.com, .example.com)")]
pub struct BadEgressRule(String);

impl EgressPolicy {
    /// Whether a connection to `address`, found under `host` (none if the URL has the address itself), is permitted.
    ///
    /// # Errors
    /// Names what is denied and as what.
    pub fn check(&self, host: Option<&str>, address: IpAddr) -> Result<(), EgressDenied> {
        let address = address.to_canonical();
        let Some(kind) = special_kind(address) else { return Ok(()) };
        let is_allowed = self.allow.iter().any(|rule| match rule {
            EgressRule::Network { address: network, prefix } => contains(*network, *prefix, address),
            EgressRule::Host(pattern) => !kind.needs_network && host.is_some_and(|host| matches(pattern, host)),
        });
        if is_allowed {
            return Ok(());
        }
        let target = match host {
            Some(host) => format!("{host} ({address})"),
            None => address.to_string(),
        };
        Err(EgressDenied { target, kind: kind.name })
    }

    /// Checks a host as it stands in a URL, if it is an address; names are checked when they are resolved.
    ///
    /// # Errors
    /// As [`EgressPolicy::check`].
    pub fn check_literal(&self, host: &str) -> Result<(), EgressDenied> {
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        match bare.parse() {
            Ok(address) => self.check(None, address),
            Err(_) => Ok(()),
        }
    }
}

impl FromStr for EgressRule {
    type Err = BadEgressRule;

    fn from_str(text: &str) -> Result<Self, BadEgressRule> {
        let bad = || BadEgressRule(text.to_owned());
        if let Some((address, prefix)) = text.split_once('/') {
            let address: IpAddr = address.parse().map_err(|_| bad())?;
            let prefix: u8 = prefix.parse().map_err(|_| bad())?;
            let bits = if address.is_ipv4() { 32 } else { 128 };
            return if prefix <= bits { Ok(EgressRule::Network { address, prefix }) } else { Err(bad()) };
        }
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(EgressRule::Network { address, prefix: if address.is_ipv4() { 32 } else { 128 } });
        }
        let labels = text.strip_prefix('.').unwrap_or(text).split('.');
        let is_label = |label: &str| {
            !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        };
        // What ends in a number would be an address to the URL parser, so a rule for it would never match.
        let is_number = text.rsplit('.').next().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit()));
        if labels.into_iter().all(is_label) && !is_number {
            Ok(EgressRule::Host(text.to_ascii_lowercase()))
        } else {
            Err(bad())
        }
    }
}

impl fmt::Display for EgressRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EgressRule::Network { address, prefix } => write!(f, "{address}/{prefix}"),
            EgressRule::Host(pattern) => f.write_str(pattern),
        }
    }
}

fn matches(pattern: &str, host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    match pattern.strip_prefix('.') {
        Some(domain) => host == domain || host.ends_with(pattern),
        None => host == pattern,
    }
}

fn contains(network: IpAddr, prefix: u8, address: IpAddr) -> bool {
    let first_bits = |value: u128, width: u32| value.checked_shr(width - u32::from(prefix)).unwrap_or(0);
    match (network, address) {
        (IpAddr::V4(network), IpAddr::V4(address)) => {
            first_bits(network.to_bits().into(), 32) == first_bits(address.to_bits().into(), 32)
        }
        (IpAddr::V6(network), IpAddr::V6(address)) => {
            first_bits(network.to_bits(), 128) == first_bits(address.to_bits(), 128)
        }
        _ => false,
    }
}

/// Why an address is not public.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Special {
    name: &'static str,
    /// Whether the permission for a host name does not suffice.
    needs_network: bool,
}

const fn special(name: &'static str) -> Option<Special> {
    Some(Special { name, needs_network: false })
}

const METADATA: Option<Special> = Some(Special { name: "a cloud's metadata service", needs_network: true });
const LINK_LOCAL: Option<Special> = Some(Special { name: "a link-local address", needs_network: true });

/// `None` for public addresses.
fn special_kind(address: IpAddr) -> Option<Special> {
    match address {
        IpAddr::V4(address) => special_v4(address),
        IpAddr::V6(address) => special_v6(address),
    }
}

/// After the IANA registry of special-purpose addresses, and the metadata services outside of it.
fn special_v4(address: Ipv4Addr) -> Option<Special> {
    match address.octets() {
        // AWS, Google, Azure and others; Alibaba; Azure's host agent, on an address that looks public; Oracle.
        [169, 254, 169, 254] | [100, 100, 100, 200] | [168, 63, 129, 16] | [192, 0, 0, 192] => METADATA,
        [0, ..] => special("an unspecified address"),
        [127, ..] => special("a loopback address"),
        [10, ..] | [172, 16..=31, ..] | [192, 168, ..] => special("a private address"),
        [100, 64..=127, ..] => special("a shared address (carrier NAT)"),
        [169, 254, ..] => LINK_LOCAL,
        [192, 0, 0, _]
        | [192, 0, 2, _]
        | [192, 88, 99, _]
        | [198, 18..=19, ..]
        | [198, 51, 100, _]
        | [203, 0, 113, _] => special("a reserved address"),
        [224..=239, ..] => special("a multicast address"),
        [240..=255, ..] => special("a reserved address"),
        _ => None,
    }
}

fn special_v6(address: Ipv6Addr) -> Option<Special> {
    let segments = address.segments();
    let embedded = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        special_v4(Ipv4Addr::new(a, b, c, d))
    };
    match segments {
        [0, 0, 0, 0, 0, 0, 0, 0] => special("an unspecified address"),
        [0, 0, 0, 0, 0, 0, 0, 1] => special("a loopback address"),
        [0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x0254] | [0xfd20, 0x00ce, 0, 0, 0, 0, 0, 0x0254] => METADATA,
        // Translated to IPv4 on the way: what counts is where it ends.
        [0, 0, 0, 0, 0, 0xffff, high, low] => embedded(high, low),
        [0x0064, 0xff9b, 0, 0, 0, 0, high, low] => embedded(high, low),
        [0x2002, high, low, ..] => embedded(high, low),
        [0xfc00..=0xfdff, ..] => special("a unique local address"),
        [0xfe80..=0xfebf, ..] => LINK_LOCAL,
        [0xfec0..=0xfeff, ..] => special("a site-local address"),
        [0xff00..=0xffff, ..] => special("a multicast address"),
        // Protocol assignments, Teredo among them; documentation.
        [0x2001, 0x0000..=0x01ff, ..] | [0x2001, 0x0db8, ..] | [0x3fff, 0x0000..=0x0fff, ..] => {
            special("a reserved address")
        }
        [0x2000..=0x3fff, ..] => None,
        // Nothing else is assigned to the public Internet.
        _ => special("a reserved address"),
    }
}

/// Resolves names by the system's resolver and lets only permitted addresses through.
pub struct GuardedResolver {
    policy: Arc<EgressPolicy>,
}

impl GuardedResolver {
    pub fn new(policy: Arc<EgressPolicy>) -> Self {
        GuardedResolver { policy }
    }
}

impl Resolve for GuardedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let policy = self.policy.clone();
        Box::pin(async move {
            let host = name.as_str();
            let found: Vec<SocketAddr> = tokio::net::lookup_host((host, 0)).await?.collect();
            let permitted = permitted(&policy, host, found)?;
            Ok(Box::new(permitted.into_iter()) as Addrs)
        })
    }
}

fn permitted(
    policy: &EgressPolicy,
    host: &str,
    found: Vec<SocketAddr>,
) -> Result<Vec<SocketAddr>, Box<dyn std::error::Error + Send + Sync>> {
    let mut denied = None;
    let mut permitted = found;
    permitted.retain(|address| match policy.check(Some(host), address.ip()) {
        Ok(()) => true,
        Err(error) => {
            denied = Some(error);
            false
        }
    });
    match denied {
        _ if !permitted.is_empty() => Ok(permitted),
        Some(error) => Err(error.into()),
        None => Err(io::Error::new(io::ErrorKind::NotFound, format!("{host} has no address")).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(policy: &[&str], host: Option<&str>, address: &str) -> bool {
        let allow = policy.iter().map(|rule| rule.parse().unwrap()).collect();
        EgressPolicy { allow }.check(host, address.parse().unwrap()).is_ok()
    }

    #[test]
    fn sec_9_only_public_addresses_are_reached_by_default() {
        for address in [
            "0.0.0.0",
            "10.0.0.1",
            "100.64.0.1",
            "100.100.100.200",
            "127.0.0.1",
            "127.9.9.9",
            "168.63.129.16",
            "169.254.1.1",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.192",
            "192.168.1.1",
            "198.18.0.1",
            "203.0.113.9",
            "224.0.0.1",
            "239.255.255.250",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::7f00:1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "64:ff9b::7f00:1",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b:1::1",
            "2002:7f00:1::",
            "2002:a00:1::1",
            "2001:0:1::1",
            "2001:db8::1",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "fec0::1",
            "ff02::1",
            "100::1",
            "5f00::1",
        ] {
            assert!(!check(&[], None, address), "{address}");
            assert!(!check(&[], Some("harmless.example"), address), "{address}");
        }
        for address in ["1.1.1.1", "172.15.0.1", "172.32.0.1", "2606:4700::1111", "64:ff9b::101:101", "2002:101:101::"]
        {
            assert!(check(&[], None, address), "{address}");
        }
    }

    #[test]
    fn sec_9_permissions_open_what_they_name_and_no_more() {
        assert!(check(&["127.0.0.1"], None, "127.0.0.1") && !check(&["127.0.0.1"], None, "127.0.0.2"));
        assert!(check(&["127.0.0.1"], None, "::ffff:127.0.0.1"));
        assert!(check(&["10.1.0.0/16"], Some("x"), "10.1.9.9") && !check(&["10.1.0.0/16"], None, "10.2.0.1"));
        assert!(check(&["0.0.0.0/0"], None, "10.2.0.1") && !check(&["0.0.0.0/0"], None, "fd00::1"));
        assert!(check(&["fd12::/16"], None, "fd12::1") && !check(&["fd12::/16"], None, "fd13::1"));
        assert!(check(&[".corp.example"], Some("A.Corp.Example."), "10.0.0.1"));
        assert!(check(&[".corp.example"], Some("corp.example"), "10.0.0.1"));
        assert!(!check(&[".corp.example"], Some("evilcorp.example"), "10.0.0.1"));
        assert!(!check(&["corp.example"], Some("a.corp.example"), "10.0.0.1"));
        assert!(!check(&["corp.example"], None, "10.0.0.1"));
        assert!(!check(&["corp.example"], Some("corp.example"), "169.254.169.254"));
        assert!(check(&["169.254.169.254"], Some("corp.example"), "169.254.169.254"));
    }

    #[test]
    fn sec_9_a_name_with_mixed_addresses_gives_the_public_ones_alone() {
        let policy = EgressPolicy::default();
        let addresses = ["10.0.0.1:0", "1.1.1.1:0"].map(|text| text.parse().unwrap());
        assert_eq!(permitted(&policy, "x", addresses.to_vec()).unwrap(), [addresses[1]]);
        let error = permitted(&policy, "x", vec![addresses[0]]).unwrap_err();
        assert!(error.downcast_ref::<EgressDenied>().is_some());
        assert!(permitted(&policy, "x", vec![]).is_err());
    }

    #[test]
    fn rules_are_read_as_they_are_written() {
        for rule in ["10.1.0.0/16", "fd12::/16", ".example.com", "a-b.example"] {
            assert_eq!(rule.parse::<EgressRule>().unwrap().to_string(), rule);
        }
        for rule in ["", ".", "10.0.0.0/33", "10.0.0/8", "a b", "*.x", "http://a", "10.0", "a..b"] {
            assert!(rule.parse::<EgressRule>().is_err(), "{rule}");
        }
    }
}
