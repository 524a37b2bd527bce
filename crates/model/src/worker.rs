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
    /// Where it connects from, for people; never dialled.
    pub address: String,
    pub metrics: HostMetrics,
}

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

/// Which workers a job may run on. Empty allows all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct WorkerSelector {
    /// Labels that a worker must have, with these values.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Names of workers; others are not considered.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<String>,
}

impl WorkerSelector {
    /// Whether nothing is demanded.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.names.is_empty()
    }

    /// Why a worker is not allowed, or `None` if it is.
    pub fn mismatch(&self, info: &WorkerInfo) -> Option<String> {
        if !self.names.is_empty() && !self.names.iter().any(|name| **name == *info.worker.name) {
            return Some("not among the named workers".to_owned());
        }
        self.labels.iter().find_map(|(key, wanted)| match info.labels.get(key) {
            Some(value) if value == wanted => None,
            Some(value) => Some(format!("label {key}={value}, wanted {wanted}")),
            None => Some(format!("no label {key}, wanted {wanted}")),
        })
    }

    pub fn validate(&self) -> Result<(), Invalid> {
        if self.labels.len() > limits::LABELS {
            return Err(Invalid::new("labels", format!("{} labels; at most {}", self.labels.len(), limits::LABELS)));
        }
        Ok(())
    }
}
