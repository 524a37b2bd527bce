//! The URL of a database: `postgres://user:password@host1:5432,host2:5432/database?sslmode=verify-full`.

use std::borrow::Cow;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use percent_encoding::percent_decode_str;
use tokio_postgres::config::{ChannelBinding, SslNegotiation};

use super::tls::{Mode, Wishes};

/// What else may follow the question mark.
const PARAMETERS: &str = "application_name, channel_binding, connect_timeout, dbname, host, options, password, port, sslcert, \
                          sslkey, sslmode, sslnegotiation, sslrootcert, target_session_attrs, user";

/// A database and how to reach it. Shows itself without the password.
#[derive(Clone)]
pub(super) struct Url {
    /// The user of the operating system when absent.
    pub user: Option<String>,
    pub password: Option<String>,
    /// Names, addresses, or directories of sockets. At least one; any of them may be the primary.
    pub hosts: Vec<(String, u16)>,
    pub database: Option<String>,
    pub tls: Wishes,
    pub negotiation: SslNegotiation,
    pub channel_binding: ChannelBinding,
    /// Until a host has taken the connection.
    pub connect_timeout: Option<Duration>,
    pub application_name: Option<String>,
    pub options: Option<String>,
}

impl Url {
    /// # Errors
    ///
    /// What is wrong with it, and never more of it than names of parameters.
    pub fn parse(text: &str) -> Result<Url, String> {
        let rest = text.strip_prefix("postgres://").or_else(|| text.strip_prefix("postgresql://"));
        let rest = rest.ok_or("the URL of a database begins with postgres://")?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (credentials, places) = match authority.split_once('@') {
            Some((credentials, places)) => (Some(credentials), places),
            None => (None, authority),
        };
        if places.contains('@') || path.contains(['@', '/']) {
            // The text may hold a part of the password: it is not shown.
            return Err("the URL of the database cannot be taken apart: in user, password and names the characters @ : / ? # & \
                        and % must be written as %40 %3A %2F %3F %23 %26 and %25"
                .to_owned());
        }
        let mut url = Url {
            user: None,
            password: None,
            hosts: Vec::new(),
            database: Some(decode("the name of the database", path)?).filter(|name| !name.is_empty()),
            tls: Wishes::default(),
            negotiation: SslNegotiation::Postgres,
            channel_binding: ChannelBinding::Prefer,
            connect_timeout: None,
            application_name: None,
            options: None,
        };
        if let Some(credentials) = credentials {
            let (user, password) =
                credentials.split_once(':').map_or((credentials, None), |(user, it)| (user, Some(it)));
            url.user = Some(decode("the user", user)?).filter(|user| !user.is_empty());
            url.password = password.map(|password| decode("the password", password)).transpose()?;
        }
        url.hosts = places.split(',').filter(|place| !place.is_empty()).map(host_and_port).collect::<Result<_, _>>()?;
        url.take_parameters(query)?;
        if url.hosts.is_empty() {
            return Err("the URL names no host: postgres://user@HOST:5432/database".to_owned());
        }
        Ok(url)
    }

    fn take_parameters(&mut self, query: &str) -> Result<(), String> {
        let (mut certificate, mut key, mut hosts, mut ports) = (None, None, None, None);
        for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
            let (name, value) = parameter.split_once('=').ok_or("a parameter of the URL has no value")?;
            let value = decode("a parameter", value)?;
            let wrong = |allowed: &str| Err(format!("{name} of the URL must be {allowed}"));
            match name {
                "user" => self.user = Some(value),
                "password" => self.password = Some(value),
                "dbname" => self.database = Some(value),
                "application_name" => self.application_name = Some(value),
                "options" => self.options = Some(value),
                "host" => hosts = Some(value),
                "port" => ports = Some(value),
                "sslrootcert" => self.tls.root = Some(PathBuf::from(value)),
                "sslcert" => certificate = Some(PathBuf::from(value)),
                "sslkey" => key = Some(PathBuf::from(value)),
                "sslmode" => match Mode::parse(&value) {
                    Some(mode) => self.tls.mode = mode,
                    None => return wrong(Mode::WORDS),
                },
                "sslnegotiation" => match value.as_str() {
                    "postgres" => self.negotiation = SslNegotiation::Postgres,
                    "direct" => self.negotiation = SslNegotiation::Direct,
                    _ => return wrong("postgres or direct"),
                },
                "channel_binding" => match value.as_str() {
                    "disable" => self.channel_binding = ChannelBinding::Disable,
                    "prefer" => self.channel_binding = ChannelBinding::Prefer,
                    "require" => self.channel_binding = ChannelBinding::Require,
                    _ => return wrong("disable, prefer or require"),
                },
                "connect_timeout" => match value.parse() {
                    Ok(seconds @ 1..=600) => self.connect_timeout = Some(Duration::from_secs(seconds)),
                    _ => return wrong("seconds from 1 to 600"),
                },
                "target_session_attrs" => match value.as_str() {
                    // Others cannot be written to.
                    "read-write" | "primary" | "any" => {}
                    _ => return wrong("read-write: it is the primary that Pendula needs"),
                },
                _ => return Err(format!("the URL has a parameter that is not known; allowed are {PARAMETERS}")),
            }
        }
        self.tls.identity = match (certificate, key) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            _ => return Err("sslcert and sslkey go together: name both in the URL, or none".to_owned()),
        };
        if let Some(hosts) = hosts {
            let ports: Vec<_> = ports.iter().flat_map(|ports| ports.split(',')).collect();
            for (index, host) in hosts.split(',').enumerate() {
                let port = ports.get(index).or(ports.first()).copied().unwrap_or_default();
                self.hosts.push((host.to_owned(), port_number(port)?));
            }
        }
        Ok(())
    }
}

/// `host`, `host:port`, `[::1]:port`, or the directory of a socket as `%2Fvar%2Frun%2Fpostgresql`.
fn host_and_port(text: &str) -> Result<(String, u16), String> {
    let unreadable = "a host of the URL cannot be understood: HOST:PORT, or [ADDRESS]:PORT for IPv6";
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']').ok_or(unreadable)?;
            (host, if port.is_empty() { "" } else { port.strip_prefix(':').ok_or(unreadable)? })
        }
        None => text.split_once(':').unwrap_or((text, "")),
    };
    Ok((decode("a host", host)?, port_number(port)?))
}

fn port_number(text: &str) -> Result<u16, String> {
    if text.is_empty() {
        return Ok(5432);
    }
    text.parse()
        .ok()
        .filter(|port| *port > 0)
        .ok_or_else(|| "a port of the URL is no number from 1 to 65535".to_owned())
}

fn decode(what: &str, text: &str) -> Result<String, String> {
    let decoded = percent_decode_str(text).decode_utf8().map(Cow::into_owned);
    decoded.map_err(|_| format!("{what} in the URL of the database is no UTF-8 after its %-escapes are resolved"))
}

/// As a person may see it.
impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("postgres://")?;
        if let Some(user) = &self.user {
            write!(f, "{user}@")?;
        }
        for (index, (host, port)) in self.hosts.iter().enumerate() {
            f.write_str(if index == 0 { "" } else { "," })?;
            write!(f, "{}", Place { host, port: *port })?;
        }
        write!(f, "/{}", self.database.as_deref().unwrap_or_default())
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// One host, for messages.
pub(super) struct Place<'a> {
    pub host: &'a str,
    pub port: u16,
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart() {
        for (text, shown) in [
            ("postgres://h", "postgres://h:5432/"),
            ("postgresql://u@h:1/d", "postgres://u@h:1/d"),
            ("postgres://u:secret@a:1,b,[::1]:3/d?sslmode=require", "postgres://u@a:1,b:5432,[::1]:3/d"),
            ("postgres://u%40x:%73ecret@h/d%2Fe", "postgres://u@x@h:5432/d/e"),
            ("postgres:///d?host=/run/a,b&port=1,2&user=u&password=secret", "postgres://u@/run/a:1,b:2/d"),
            ("postgres://%2Frun%2Fpg/d?options=-c%20a%3Db", "postgres:///run/pg:5432/d"),
        ] {
            let url = Url::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(url.to_string(), shown);
            assert_eq!(format!("{url:?}"), shown);
            assert_eq!(url.password.as_deref(), text.contains("ecret").then_some("secret"), "{text}");
        }
        let url = Url::parse(
            "postgres://h/d?sslmode=verify-full&sslrootcert=/ca%20.pem&connect_timeout=2&channel_binding=require",
        );
        let url = url.unwrap();
        assert_eq!((url.tls.mode, url.tls.root), (Mode::VerifyFull, Some(PathBuf::from("/ca .pem"))));
        assert_eq!((url.connect_timeout, url.channel_binding), (Some(Duration::from_secs(2)), ChannelBinding::Require));
    }

    #[test]
    fn what_is_wrong_is_said_without_the_secret() {
        for (text, said) in [
            ("sqlite:secret", "begins with postgres://"),
            ("postgres://u:secret@", "names no host"),
            ("postgres://u:@secret@h/d", "%40"),
            ("postgres://u:x/secret@h/d", "%40"),
            ("postgres://u:secret@h:x/d", "a port of the URL"),
            ("postgres://u:secret@h:0/d", "a port of the URL"),
            ("postgres://u:secret@[::1/d", "[ADDRESS]:PORT"),
            ("postgres://u:%ffsecret@h/d", "the password in the URL"),
            ("postgres://u:secret@h/d?sslmode=maybe", "verify-full"),
            ("postgres://u:secret@h/d?sslcert=a", "sslkey"),
            ("postgres://u:secret@h/d?target_session_attrs=read-only", "primary"),
            ("postgres://u:secret@h/d?connect_timeout=0", "1 to 600"),
            ("postgres://u:x?secret@h/d", "a port of the URL"),
            ("postgres://h/d?secret", "has no value"),
            ("postgres://u@h/d?secret=1", "connect_timeout"),
        ] {
            let error = Url::parse(text).unwrap_err();
            assert!(error.contains(said) && !error.contains("secret"), "{text}: {error}");
        }
    }
}
