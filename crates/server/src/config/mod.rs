//! Configuration, in two steps: what was written ([`raw`]: texts with their origins) and what it means ([`Config`]).
//!
//! Defaults < file < environment (`PENDULA_LISTEN`, `PENDULA_TLS_CERT`, …) < flags. Every option is described once, in
//! [`options`], from where `config show` and error messages take it. Nobody else reads the environment.

mod networks;
mod options;
mod raw;
mod values;

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use pendula_engine::Settings;

pub use networks::{AppNetworks, Network};
pub use options::{OPTIONS, Opt};
pub use raw::{ConfigSources, Flags};

use raw::Raw;

/// A setting that is not acceptable: where it was written, what, and what is allowed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    #[error("{origin}: `{value}` is not allowed; {allowed}")]
    Value { origin: String, value: String, allowed: String },
    #[error("{origin}: there is no such option{}", nearest.map(|nearest| format!("; did you mean `{nearest}`?")).unwrap_or_default())]
    Unknown { origin: String, nearest: Option<&'static str> },
    #[error("{file}: {why}")]
    File { file: String, why: String },
    /// Settings that do not go together.
    #[error("{0}")]
    Together(String),
}

/// A server's configuration, complete and checked.
#[derive(Clone, PartialEq)]
pub struct Config {
    /// `host:port`; port 0 takes a free one.
    pub listen: String,
    /// `host:port` under which other servers reach this one, where it differs from `listen`.
    pub advertise: Option<String>,
    /// What it is called among other servers.
    pub name: Option<String>,
    pub database: Database,
    /// Bytes.
    pub database_cache: u64,
    /// A secret to administer the server with, instead of one made on the first start.
    pub admin_token: Option<String>,
    pub partitions: u16,
    pub retention: Duration,
    pub shutdown_within: Duration,
    pub tls: Option<Tls>,
    /// What other servers' certificates are checked with, where it is not the system's.
    pub peer_ca: Option<PathBuf>,
    pub engine: Engine,
    pub limits: Limits,
    pub log: Log,
    /// The gateway for PowerJob's workers and clients; nothing when it is off.
    pub powerjob: Option<PowerJob>,
    /// What was noticed and does not keep the server from starting.
    pub warnings: Vec<String>,
    raw: Raw,
}

/// Where everything is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Database {
    /// A directory that belongs to one server.
    Sqlite { directory: PathBuf },
    /// A database that any number of servers share.
    Postgres(DatabaseUrl),
}

/// A URL that may have a password in it, which is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct DatabaseUrl(String);

impl DatabaseUrl {
    /// All of it, to connect with.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&raw::without_password(&self.0))
    }
}

/// Files in PEM format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    pub cert: PathBuf,
    pub key: PathBuf,
}

/// The gateway for PowerJob's workers and clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PowerJob {
    /// `host:port`; port 0 takes a free one.
    pub listen: String,
    /// `host:port` under which workers reach the gateway, where it differs from `listen`.
    pub advertise: Option<String>,
    /// From where workers may come, and where they may be.
    pub allow: AppNetworks,
    /// Whether clients of its OpenAPI are served.
    pub openapi: bool,
    /// The port for workers that speak Akka, if they are served.
    pub akka: Option<PowerJobPort>,
}

/// A further port of that gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PowerJobPort {
    /// `host:port`; port 0 takes a free one.
    pub listen: String,
    /// `host:port` under which workers reach it, where it differs from `listen`.
    pub advertise: Option<String>,
}

/// A protocol that PowerJob's workers may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PowerJobProtocol {
    Http,
    Akka,
}

impl PowerJobProtocol {
    /// Reads a list as people and workers write it: in any case, with spaces, with one comma too many, or with a comma of
    /// the keyboard that they use.
    ///
    /// # Errors
    /// What is allowed.
    pub fn list(text: &str) -> Result<Vec<PowerJobProtocol>, String> {
        let mut found = Vec::new();
        for word in text.split([',', '\u{ff0c}']).map(str::trim).filter(|word| !word.is_empty()) {
            let protocol = match word.to_ascii_uppercase().as_str() {
                "HTTP" => PowerJobProtocol::Http,
                "AKKA" => PowerJobProtocol::Akka,
                _ => return Err(format!("`{word}` is unknown; allowed: HTTP, AKKA")),
            };
            if !found.contains(&protocol) {
                found.push(protocol);
            }
        }
        if found.is_empty() { Err("names no protocol; allowed: HTTP, AKKA".to_owned()) } else { Ok(found) }
    }
}

/// Times of the engine: see [`Settings`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Engine {
    pub look_ahead: Duration,
    pub lost_after: Duration,
    pub adoption_grace: Duration,
    pub misfire_after: Duration,
}

/// Bounds that protect the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Of one partition.
    pub active_instances: u32,
    pub connections: u32,
    pub sessions: u32,
    pub header_timeout: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    pub format: LogFormat,
    pub filter: String,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

impl Config {
    /// Reads and checks everything.
    ///
    /// # Errors
    /// The first thing that is wrong, with the place where it was written.
    pub fn load(sources: &ConfigSources) -> Result<Config, ConfigError> {
        Config::from_raw(Raw::gather(sources)?)
    }

    /// All options with their meaning, their default and their value, as a file that can be loaded again. Secrets are
    /// left out.
    pub fn to_toml_documented(&self) -> String {
        self.raw.to_toml_documented()
    }

    /// The engine's part.
    pub fn settings(&self) -> Settings {
        Settings {
            look_ahead: self.engine.look_ahead,
            lost_after: self.engine.lost_after,
            adoption_grace: self.engine.adoption_grace,
            misfire_after: self.engine.misfire_after,
            retention: self.retention,
            max_active: self.limits.active_instances as usize,
        }
    }

    fn from_raw(raw: Raw) -> Result<Config, ConfigError> {
        let tls = match (raw.get("tls.cert", values::path)?, raw.get("tls.key", values::path)?) {
            (Some(cert), Some(key)) => Some(Tls { cert, key }),
            (None, None) => None,
            _ => return Err(ConfigError::Together("set both of `tls.cert` and `tls.key`, or none of them".to_owned())),
        };
        let second = Duration::from_secs(1);
        let day = Duration::from_secs(86_400);
        let engine = Engine {
            look_ahead: raw.need("engine.look_ahead", values::duration(second, day))?,
            lost_after: raw.need("engine.lost_after", values::duration(second, day))?,
            adoption_grace: raw.need("engine.adoption_grace", values::duration(second, day))?,
            misfire_after: raw.need("engine.misfire_after", values::duration(second, day))?,
        };
        let limits = Limits {
            active_instances: raw.need("limits.active_instances", values::number(1..=100_000_000))?,
            connections: raw.need("limits.connections", values::number(1..=1_000_000))?,
            sessions: raw.need("limits.sessions", values::number(1..=1_000_000))?,
            header_timeout: raw.need("limits.header_timeout", values::duration(second, second * 600))?,
        };
        let log = Log {
            format: raw.need("log.format", values::one_of(&[("text", LogFormat::Text), ("json", LogFormat::Json)]))?,
            filter: raw.need("log.filter", values::text)?,
        };
        let powerjob = powerjob(&raw)?;
        let mut config = Config {
            listen: raw.need("listen", values::address)?,
            advertise: raw.get("advertise", values::address)?,
            name: raw.get("name", values::text)?,
            database: raw.need("database", values::database)?,
            database_cache: raw.need("database_cache", values::size(1 << 20..=64 << 30))?,
            admin_token: raw.get("admin_token", values::secret)?,
            partitions: raw.need("partitions", values::number(1..=1024))? as u16,
            retention: raw.need("retention", values::duration(second, day * 36_600))?,
            shutdown_within: raw.need("shutdown_within", values::duration(Duration::ZERO, second * 3600))?,
            peer_ca: raw.get("tls.peer_ca", values::path)?,
            tls,
            engine,
            limits,
            log,
            powerjob,
            warnings: raw.warnings.clone(),
            raw,
        };
        if let Some(powerjob) = &config.powerjob {
            let warning = match powerjob.allow.is_empty() {
                true => {
                    "the PowerJob gateway lets nobody in: name apps and their workers' networks in `powerjob.allow`"
                }
                false => {
                    "the PowerJob gateway's port is unauthenticated, because PowerJob's workers cannot authenticate: \
                          keep it to networks that you trust"
                }
            };
            config.warnings.push(warning.to_owned());
        }
        if config.tls.is_none() && !config.is_loopback() {
            let warning = "without `tls.cert` and `tls.key` tokens and logs travel in the clear; \
                           set them unless a proxy in front of the server encrypts";
            config.warnings.push(warning.to_owned());
        }
        Ok(config)
    }

    /// The address under which other servers reach this one, which listens at `bound`.
    ///
    /// # Errors
    /// When others cannot know it: it listens everywhere and does not say where it is.
    pub fn peer_address(&self, bound: SocketAddr) -> Result<String, ConfigError> {
        let host = match &self.advertise {
            Some(advertise) => advertise.clone(),
            None if bound.ip().is_unspecified() => {
                return Err(ConfigError::Together(format!(
                    "`listen` is {}, from which other servers cannot tell where this one is: set `advertise` to the host:port \
                     under which they reach it",
                    self.listen
                )));
            }
            None => bound.to_string(),
        };
        Ok(format!("{}://{host}", if self.tls.is_some() { "https" } else { "http" }))
    }

    fn is_loopback(&self) -> bool {
        let host = self.listen.rsplit_once(':').map_or("", |(host, _)| host);
        let host = host.trim_matches(['[', ']']);
        host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
    }
}

fn powerjob(raw: &Raw) -> Result<Option<PowerJob>, ConfigError> {
    let listen = raw.get("powerjob.http.listen", values::address)?;
    let advertise = raw.get("powerjob.http.advertise", values::address)?;
    let allow = raw.get("powerjob.allow", AppNetworks::parse)?;
    let akka = raw.get("powerjob.akka.listen", values::address)?;
    let akka_advertise = raw.get("powerjob.akka.advertise", values::address)?;
    raw.need("powerjob.protocols", |text| match PowerJobProtocol::list(text)?.contains(&PowerJobProtocol::Akka) {
        true if akka.is_none() => Err("AKKA needs `powerjob.akka.listen`; without it, allowed: HTTP".to_owned()),
        _ => Ok(()),
    })?;
    let openapi = raw.need("powerjob.openapi", values::one_of(&[("on", true), ("off", false)]))?;
    let Some(listen) = listen else {
        return match advertise.is_some() || allow.is_some() || akka.is_some() || akka_advertise.is_some() {
            true => Err(ConfigError::Together(
                "`powerjob.http.advertise`, `powerjob.allow` and `powerjob.akka` have no effect without \
                 `powerjob.http.listen`, where workers learn where to go: set it, as 0.0.0.0:7701"
                    .to_owned(),
            )),
            false => Ok(None),
        };
    };
    findable("powerjob.http", &listen, advertise.as_ref())?;
    let akka = match (akka, akka_advertise) {
        (Some(listen), advertise) => {
            findable("powerjob.akka", &listen, advertise.as_ref())?;
            Some(PowerJobPort { listen, advertise })
        }
        (None, None) => None,
        (None, Some(_)) => {
            let why =
                "`powerjob.akka.advertise` has no effect without `powerjob.akka.listen`: set it, as 0.0.0.0:10086";
            return Err(ConfigError::Together(why.to_owned()));
        }
    };
    Ok(Some(PowerJob { listen, advertise, allow: allow.unwrap_or_default(), openapi, akka }))
}

/// Whether workers can find a port of PowerJob's gateway.
fn findable(port: &str, listen: &str, advertise: Option<&String>) -> Result<(), ConfigError> {
    let host = listen.rsplit_once(':').map_or("", |(host, _)| host).trim_matches(['[', ']']);
    let is_everywhere = host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_unspecified());
    if advertise.is_none() && is_everywhere {
        return Err(ConfigError::Together(format!(
            "`{port}.listen` is {listen}, from which workers cannot tell where this server is: set \
             `{port}.advertise` to the host:port under which they reach it"
        )));
    }
    if advertise.map_or(listen, String::as_str).starts_with('[') {
        return Err(ConfigError::Together(format!(
            "PowerJob's workers understand no IPv6 address: set `{port}.advertise` to an IPv4 address or a host name, \
             with its port"
        )));
    }
    Ok(())
}

impl Default for Config {
    fn default() -> Self {
        Config::load(&ConfigSources::default()).expect("a test loads the defaults")
    }
}

/// As in a file, without secrets.
impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.raw.fmt(f)
    }
}

#[cfg(test)]
mod tests;
