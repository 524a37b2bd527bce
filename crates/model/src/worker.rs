//! Workers as the server sees them.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::invalid::Invalid;
use crate::limits;

/// A random number that a worker process draws when it starts: two processes with one name are two identities.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BootId(pub u64);

impl fmt::Display for BootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for BootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for BootId {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        u64::from_str_radix(text, 16).map(BootId)
    }
}

impl Serialize for BootId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for BootId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A worker process.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct WorkerRef {
    pub name: Arc<str>,
    pub boot: BootId,
}

impl fmt::Display for WorkerRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.name, self.boot)
    }
}

/// What a worker says of itself when it connects.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WorkerInfo {
    pub worker: WorkerRef,
    /// Version of the worker's software, for people.
    pub version: String,
    /// Names of the processors that it offers.
    pub processors: Vec<String>,
    pub labels: BTreeMap<String, String>,
    /// Tasks that it runs at once at most.
    pub slots: u32,
    /// What it can do beyond the first version of the protocol: see `pendula-wire`'s `CAPABILITIES`.
    #[serde(default)]
    pub capabilities: Vec<String>,
    /// Where it connects from, for people; never dialled.
    pub address: String,
    pub metrics: HostMetrics,
}

impl WorkerInfo {
    /// Whether it may run the processor that is offered under `name`: it offers that, or all that begin alike (`prefix:*`),
    /// because which of them it has shows only when it is asked to run one.
    pub fn offers(&self, name: &str) -> bool {
        let offers = |offered: &String| match offered.strip_suffix('*') {
            Some(prefix) if prefix.ends_with(':') => name.starts_with(prefix),
            _ => offered == name,
        };
        self.processors.iter().any(offers)
    }
}

/// The capability without which a worker gets whole instances only.
pub const TASKS: &str = "tasks";

/// Load of the worker's host or container, as far as it can tell.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct HostMetrics {
    /// Processors that it may use; fractions where a cgroup limits it.
    pub cpu_cores: f64,
    /// Cores' worth of work in the last interval.
    pub cpu_used: f64,
    pub memory_bytes: u64,
    pub memory_used_bytes: u64,
    pub disk_bytes: u64,
    pub disk_used_bytes: u64,
}

/// Which workers a job may run on, and which of them is chosen. Empty allows all and takes the least loaded.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct WorkerSelector {
    /// What a worker's labels must be: a value, or a rule.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, LabelRule>,
    /// Names of workers; others are not considered.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<String>,
    /// What must be free on a worker's host, as it told last.
    #[serde(default, skip_serializing_if = "Minimum::is_empty")]
    pub min: Minimum,
    /// Which of those that may run it and have a free slot.
    #[serde(default, skip_serializing_if = "is_default")]
    pub strategy: Strategy,
    /// Only so many of them, the least loaded, are considered by the strategy. From 1; none considers all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub best: Option<u32>,
}

/// What one label must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LabelRule {
    /// This value.
    Is(String),
    /// One of these.
    In(Vec<String>),
    /// Absent, or none of these.
    NotIn(Vec<String>),
    /// There, whatever its value; or not there.
    Exists(bool),
}

/// What must be free. A worker that tells nothing of it has none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Minimum {
    /// Cores.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Bytes>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk: Option<Bytes>,
}

/// An amount of bytes; `4GiB` in text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bytes(pub u64);

/// Which worker of several.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Strategy {
    /// The one with the smallest share of its slots taken; of equals, the one that connected first.
    #[default]
    LeastLoaded,
    /// Each in turn.
    RoundRobin,
    Random,
    /// The one that connected first.
    First,
    /// Always the same one for the same value of this parameter (for a sub-task: for its name), as long as it has a free
    /// slot; else the next in an order that depends on the value alone.
    StickyHash(String),
}

impl Minimum {
    pub fn is_empty(&self) -> bool {
        *self == Minimum::default()
    }

    /// Why a host has not enough, or `None` if it has.
    pub fn mismatch(&self, metrics: &HostMetrics) -> Option<String> {
        let cpu = (metrics.cpu_cores - metrics.cpu_used).max(0.0);
        if let Some(wanted) = self.cpu.filter(|wanted| cpu < *wanted) {
            return Some(format!("{cpu:.1} cores free, wanted {wanted}"));
        }
        let memory = metrics.memory_bytes.saturating_sub(metrics.memory_used_bytes);
        let disk = metrics.disk_bytes.saturating_sub(metrics.disk_used_bytes);
        [("memory", self.memory, memory), ("disk", self.disk, disk)].into_iter().find_map(|(what, wanted, free)| {
            let wanted = wanted.filter(|wanted| free < wanted.0)?;
            Some(format!("{} of {what} free, wanted {wanted}", Bytes(free)))
        })
    }
}

impl LabelRule {
    /// Why a worker with this value (or without the label) is not allowed, or `None` if it is.
    fn mismatch(&self, key: &str, value: Option<&String>) -> Option<String> {
        let shown = || value.map_or_else(|| format!("no label {key}"), |value| format!("label {key}={value}"));
        let (allowed, wanted) = match (self, value) {
            (LabelRule::Is(wanted), _) => (value == Some(wanted), format!("wanted {wanted}")),
            (LabelRule::In(several), _) => {
                (value.is_some_and(|value| several.contains(value)), format!("wanted one of {}", several.join(", ")))
            }
            (LabelRule::NotIn(several), _) => {
                (value.is_none_or(|value| !several.contains(value)), format!("wanted none of {}", several.join(", ")))
            }
            (LabelRule::Exists(exists), _) => {
                (value.is_some() == *exists, if *exists { "wanted it" } else { "wanted none" }.to_owned())
            }
        };
        (!allowed).then(|| format!("{}, {wanted}", shown()))
    }
}

impl WorkerSelector {
    /// Whether nothing is demanded.
    pub fn is_empty(&self) -> bool {
        *self == WorkerSelector::default()
    }

    /// Why a worker is not allowed, or `None` if it is. What changes from moment to moment ([`WorkerSelector::min`]) is not
    /// asked here.
    pub fn mismatch(&self, info: &WorkerInfo) -> Option<String> {
        if !self.names.is_empty() && !self.names.iter().any(|name| **name == *info.worker.name) {
            return Some("not among the named workers".to_owned());
        }
        self.labels.iter().find_map(|(key, rule)| rule.mismatch(key, info.labels.get(key)))
    }

    pub fn validate(&self) -> Result<(), Invalid> {
        if self.labels.len() > limits::LABELS {
            return Err(Invalid::new("labels", format!("{} labels; at most {}", self.labels.len(), limits::LABELS)));
        }
        for (key, rule) in &self.labels {
            let several = match rule {
                LabelRule::In(several) | LabelRule::NotIn(several) => several,
                LabelRule::Is(_) | LabelRule::Exists(_) => continue,
            };
            if several.is_empty() || several.len() > limits::LABELS {
                let message = format!("{} values; 1 to {}", several.len(), limits::LABELS);
                return Err(Invalid::new(format!("labels.{key}"), message));
            }
        }
        if self.best == Some(0) {
            return Err(Invalid::new("best", "0 is not allowed; from 1, or leave it out"));
        }
        if self.min.cpu.is_some_and(|cpu| !cpu.is_finite() || cpu < 0.0) {
            return Err(Invalid::new("min.cpu", "must be a number of cores from 0"));
        }
        if matches!(&self.strategy, Strategy::StickyHash(parameter) if parameter.is_empty()) {
            return Err(Invalid::new("strategy.sticky_hash", "is empty; name a parameter"));
        }
        Ok(())
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, size) in [("TiB", 1_u64 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)] {
            if self.0 >= size && self.0.is_multiple_of(size) {
                return write!(f, "{}{unit}", self.0 / size);
            }
        }
        for (unit, size) in [("GiB", 1_u64 << 30), ("MiB", 1 << 20)] {
            if self.0 >= size && f.alternate() {
                return write!(f, "{:.1}{unit}", self.0 as f64 / size as f64);
            }
        }
        write!(f, "{}", self.0)
    }
}

impl FromStr for Bytes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let trimmed = text.trim();
        let end = trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(trimmed.len());
        let (number, unit) = trimmed.split_at(end);
        let refuse = || format!("`{text}` is not an amount of bytes; write for instance 512MiB or 4GiB");
        let size: u64 = match unit.trim().to_ascii_lowercase().as_str() {
            "" | "b" => 1,
            "k" | "kb" | "kib" => 1 << 10,
            "m" | "mb" | "mib" => 1 << 20,
            "g" | "gb" | "gib" => 1 << 30,
            "t" | "tb" | "tib" => 1 << 40,
            _ => return Err(refuse()),
        };
        let number: f64 = number.parse().map_err(|_| refuse())?;
        Ok(Bytes((number * size as f64) as u64))
    }
}

impl Serialize for Bytes {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum NumberOrText {
            Number(u64),
            Text(String),
        }
        match NumberOrText::deserialize(deserializer)? {
            NumberOrText::Number(number) => Ok(Bytes(number)),
            NumberOrText::Text(text) => text.parse().map_err(serde::de::Error::custom),
        }
    }
}

impl Serialize for LabelRule {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            LabelRule::Is(value) => serializer.serialize_str(value),
            LabelRule::In(several) => serializer.collect_map([("in", several)]),
            LabelRule::NotIn(several) => serializer.collect_map([("not_in", several)]),
            LabelRule::Exists(exists) => serializer.collect_map([("exists", exists)]),
        }
    }
}

impl<'de> Deserialize<'de> for LabelRule {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(rename_all = "snake_case")]
        enum Rule {
            In(Vec<String>),
            NotIn(Vec<String>),
            Exists(bool),
        }

        struct ValueOrRule;

        impl<'de> serde::de::Visitor<'de> for ValueOrRule {
            type Value = LabelRule;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value, or one rule: { in: [a, b] }, { not_in: [a] }, { exists: true }")
            }

            fn visit_str<E>(self, value: &str) -> Result<LabelRule, E> {
                Ok(LabelRule::Is(value.to_owned()))
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(self, map: A) -> Result<LabelRule, A::Error> {
                Ok(match Rule::deserialize(serde::de::value::MapAccessDeserializer::new(map))? {
                    Rule::In(several) => LabelRule::In(several),
                    Rule::NotIn(several) => LabelRule::NotIn(several),
                    Rule::Exists(exists) => LabelRule::Exists(exists),
                })
            }
        }

        deserializer.deserialize_any(ValueOrRule)
    }
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worker(labels: &[(&str, &str)]) -> WorkerInfo {
        WorkerInfo {
            worker: WorkerRef { name: "w".into(), boot: BootId(1) },
            version: String::new(),
            processors: Vec::new(),
            labels: labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
            slots: 1,
            capabilities: Vec::new(),
            address: String::new(),
            metrics: HostMetrics::default(),
        }
    }

    #[test]
    fn a_worker_may_offer_all_names_that_begin_alike() {
        let mut info = worker(&[]);
        info.processors = vec!["report".to_owned(), "powerjob:*".to_owned(), "*".to_owned()];
        for (name, offered) in
            [("report", true), ("reports", false), ("powerjob:com.acme.A", true), ("powerjob", false), ("shell", false)]
        {
            assert_eq!(info.offers(name), offered, "{name}");
        }
    }

    #[test]
    fn rules_on_labels_allow_and_refuse_with_a_reason() {
        let selector = r#"{"labels":{"gpu":{"exists":false},"tier":{"not_in":["spot"]},"zone":{"in":["a","b"]}}}"#;
        let selector: WorkerSelector = serde_json::from_str(selector).unwrap();
        selector.validate().unwrap();
        let again = serde_json::to_string(&selector).unwrap();
        assert_eq!(serde_json::from_str::<WorkerSelector>(&again).unwrap(), selector);
        for (labels, refused) in [
            (&[("zone", "a")][..], None),
            (&[("zone", "b"), ("tier", "fixed")], None),
            (&[("zone", "c")], Some("label zone=c, wanted one of a, b")),
            (&[], Some("no label zone, wanted one of a, b")),
            (&[("zone", "a"), ("tier", "spot")], Some("label tier=spot, wanted none of spot")),
            (&[("zone", "a"), ("gpu", "1")], Some("label gpu=1, wanted none")),
        ] {
            assert_eq!(selector.mismatch(&worker(labels)).as_deref(), refused, "{labels:?}");
        }
    }

    #[test]
    fn minimums_ask_for_what_is_free() {
        let min: Minimum = serde_json::from_str(r#"{"cpu":1.5,"memory":"1GiB"}"#).unwrap();
        let host = |used, memory_used| HostMetrics {
            cpu_cores: 4.0,
            cpu_used: used,
            memory_bytes: 2 << 30,
            memory_used_bytes: memory_used,
            ..HostMetrics::default()
        };
        assert_eq!(min.mismatch(&host(2.0, 0)), None);
        assert_eq!(min.mismatch(&host(3.0, 0)).as_deref(), Some("1.0 cores free, wanted 1.5"));
        assert_eq!(min.mismatch(&host(0.0, 3 << 29)).as_deref(), Some("512MiB of memory free, wanted 1GiB"));
    }

    #[test]
    fn bytes_and_strategies_are_read_as_people_write_them() {
        for (text, bytes) in [("4GiB", 4 << 30), ("512 mib", 512 << 20), ("1.5k", 1536), ("7", 7)] {
            assert_eq!(text.parse::<Bytes>(), Ok(Bytes(bytes)), "{text}");
        }
        assert!("4 apples".parse::<Bytes>().is_err());
        let sticky: Strategy = serde_json::from_str(r#"{"sticky_hash":"customer"}"#).unwrap();
        assert_eq!(sticky, Strategy::StickyHash("customer".to_owned()));
        assert_eq!(serde_json::from_str::<Strategy>(r#""round_robin""#).unwrap(), Strategy::RoundRobin);
    }
}
