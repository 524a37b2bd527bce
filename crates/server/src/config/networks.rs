//! Which machines may take part, for what cannot authenticate.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A range of addresses: `10.1.0.0/16`, or one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

/// The networks of each app. An app that is not named has none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AppNetworks {
    apps: BTreeMap<String, Vec<Network>>,
}

impl Network {
    pub fn contains(&self, ip: IpAddr) -> bool {
        let bits = u32::from(self.prefix);
        match (self.address, ip.to_canonical()) {
            (IpAddr::V4(own), IpAddr::V4(ip)) => masked(own, bits) == masked(ip, bits),
            (IpAddr::V6(own), IpAddr::V6(ip)) => masked6(own, bits) == masked6(ip, bits),
            _ => false,
        }
    }

    fn parse(text: &str) -> Option<Network> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address.trim().parse::<IpAddr>().ok()?, Some(prefix.trim().parse().ok()?)),
            None => (text.trim().parse::<IpAddr>().ok()?, None),
        };
        let widest = if address.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.unwrap_or(widest);
        (prefix <= widest).then_some(Network { address, prefix })
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

fn masked(address: Ipv4Addr, bits: u32) -> u32 {
    address.to_bits() & u32::MAX.checked_shl(32 - bits).unwrap_or(0)
}

fn masked6(address: Ipv6Addr, bits: u32) -> u128 {
    address.to_bits() & u128::MAX.checked_shl(128 - bits).unwrap_or(0)
}

impl AppNetworks {
    /// Reads `billing=10.1.0.0/16,10.2.0.7; reports=192.168.0.0/24`.
    ///
    /// # Errors
    /// What is allowed.
    pub fn parse(text: &str) -> Result<AppNetworks, String> {
        let allowed = |what: &str| {
            format!("{what}; write APP=NETWORK,NETWORK; APP=…, as billing=10.1.0.0/16,10.2.0.7; reports=127.0.0.0/8")
        };
        let mut apps: BTreeMap<String, Vec<Network>> = BTreeMap::new();
        for part in text.split(';').map(str::trim).filter(|part| !part.is_empty()) {
            let (app, networks) = part.split_once('=').ok_or_else(|| allowed("an app has no `=`"))?;
            let app = app.trim();
            if app.is_empty() {
                return Err(allowed("an app has no name"));
            }
            let own = apps.entry(app.to_owned()).or_default();
            for network in networks.split(',').map(str::trim).filter(|network| !network.is_empty()) {
                let refuse = || allowed(&format!("`{network}` is no network"));
                own.push(Network::parse(network).ok_or_else(refuse)?);
            }
            if own.is_empty() {
                return Err(allowed(&format!("`{app}` has no network")));
            }
        }
        Ok(AppNetworks { apps })
    }

    /// Whether the app is named at all.
    pub fn has(&self, app: &str) -> bool {
        self.apps.contains_key(app)
    }

    /// Whether `ip` is in a network of the app.
    pub fn allows(&self, app: &str, ip: IpAddr) -> bool {
        self.apps.get(app).is_some_and(|networks| networks.iter().any(|network| network.contains(ip)))
    }

    /// Whether some app has both in its networks.
    pub fn allows_both(&self, one: IpAddr, other: IpAddr) -> bool {
        self.apps.keys().any(|app| self.allows(app, one) && self.allows(app, other))
    }

    pub fn is_empty(&self) -> bool {
        self.apps.is_empty()
    }

    /// App by app, in order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[Network])> {
        self.apps.iter().map(|(app, networks)| (app.as_str(), networks.as_slice()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn sec_4_only_what_is_listed_for_the_app_is_allowed() {
        let networks = AppNetworks::parse(" billing = 10.1.0.0/16, 192.0.2.7 ; reports=fd00::/8;").unwrap();
        for (app, address, allowed) in [
            ("billing", "10.1.255.255", true),
            ("billing", "10.2.0.0", false),
            ("billing", "192.0.2.7", true),
            ("billing", "192.0.2.8", false),
            ("billing", "::ffff:10.1.0.1", true),
            ("billing", "127.0.0.1", false),
            ("reports", "fd12::1", true),
            ("reports", "10.1.0.1", false),
            ("other", "10.1.0.1", false),
        ] {
            assert_eq!(networks.allows(app, ip(address)), allowed, "{app} {address}");
        }
        assert!(networks.allows_both(ip("10.1.0.1"), ip("192.0.2.7")));
        assert!(!networks.allows_both(ip("10.1.0.1"), ip("fd00::1")));
        assert!(AppNetworks::parse("a=0.0.0.0/0").unwrap().allows("a", ip("203.0.113.9")));
    }

    #[test]
    fn what_is_no_list_is_refused_with_what_is_allowed() {
        for text in ["billing", "billing=", "=10.0.0.0/8", "billing=10.0.0.0/33", "billing=office"] {
            let refusal = AppNetworks::parse(text).unwrap_err();
            assert!(refusal.contains("write APP=NETWORK"), "{text}: {refusal}");
        }
    }
}
