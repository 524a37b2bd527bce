//! Who is let in. PowerJob's workers cannot authenticate, so what counts is where they are.
//!
//! An app is served only if the operator named it in `powerjob.allow`, a request for it is taken only from the networks
//! given there, and the gateway calls no address outside of them. Nothing is allowed by default, the loopback interface
//! included.

use std::net::{IpAddr, SocketAddr};

use pendula_server::config::AppNetworks;

/// Why somebody is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Closed {
    #[error("app({0}) accepts no PowerJob workers: name it in the server's option `powerjob.allow`")]
    App(String),
    #[error("{ip} is in none of the networks that `powerjob.allow` lists for app({app})")]
    Network { app: String, ip: IpAddr },
    #[error("`{0}` is no address that a worker can have: host:port, with an IPv4 address or a host name")]
    Address(String),
}

/// The rule.
#[derive(Clone, Debug)]
pub(crate) struct Gate {
    allow: AppNetworks,
}

impl Gate {
    pub(crate) fn new(allow: AppNetworks) -> Self {
        Gate { allow }
    }

    /// Whether a request about `app` may come from `peer`.
    pub(crate) fn admit(&self, app: &str, peer: IpAddr) -> Result<(), Closed> {
        if !self.allow.has(app) {
            return Err(Closed::App(app.to_owned()));
        }
        if !self.allow.allows(app, peer) {
            return Err(Closed::Network { app: app.to_owned(), ip: peer.to_canonical() });
        }
        Ok(())
    }

    /// Where a worker of `app` is called that names itself `address`. A host name is resolved, and all that it stands for
    /// must be allowed.
    pub(crate) async fn target(&self, app: &str, address: &str) -> Result<SocketAddr, Closed> {
        let refuse = || Closed::Address(address.chars().take(100).collect());
        let (host, port) = address.split_once(':').ok_or_else(refuse)?;
        let port: u16 = port.parse().ok().filter(|port| *port != 0).ok_or_else(refuse)?;
        // Workers paste addresses into SQL.
        let is_plain =
            !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte));
        if !is_plain || address.len() > 128 {
            return Err(refuse());
        }
        let found: Vec<SocketAddr> = match host.parse::<IpAddr>() {
            Ok(ip) => vec![SocketAddr::new(ip, port)],
            Err(_) => tokio::net::lookup_host((host, port)).await.map_err(|_| refuse())?.collect(),
        };
        for address in &found {
            self.admit(app, address.ip())?;
        }
        found.first().copied().ok_or_else(refuse)
    }

    /// Whether `peer` may have us look whether `target` can be reached: both must be of one app.
    pub(crate) fn may_probe(&self, peer: IpAddr, target: IpAddr) -> bool {
        self.allow.allows_both(peer, target)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn sec_4_only_listed_networks_are_let_in_and_called() {
        let gate = Gate::new(AppNetworks::parse("billing=10.1.0.0/16,127.0.0.1; reports=10.2.0.0/16").unwrap());
        let (near, far) = ("10.1.0.9".parse().unwrap(), "10.2.0.9".parse().unwrap());
        gate.admit("billing", near).unwrap();
        assert!(matches!(gate.admit("billing", far), Err(Closed::Network { .. })));
        assert!(matches!(gate.admit("other", near), Err(Closed::App(_))));
        assert!(gate.may_probe(near, "127.0.0.1".parse().unwrap()));
        assert!(!gate.may_probe(near, far));
        assert!(!gate.may_probe(near, "169.254.169.254".parse().unwrap()));
        assert_eq!(gate.target("billing", "10.1.2.3:27777").await, Ok("10.1.2.3:27777".parse().unwrap()));
        for address in ["169.254.169.254:80", "10.2.0.1:27777"] {
            assert!(matches!(gate.target("billing", address).await, Err(Closed::Network { .. })), "{address}");
        }
        for address in ["", "10.1.0.1", "10.1.0.1:0", "10.1.0.1:x", "[::1]:80", "a'b:1", "a/b:1", "10.1.0.1:80:90"] {
            assert!(matches!(gate.target("billing", address).await, Err(Closed::Address(_))), "{address}");
        }
    }
}
