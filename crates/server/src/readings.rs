//! Numbers that a gateway keeps itself, read when somebody looks at the server's metrics.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

/// What a gateway shows under one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    /// Comes behind the name of the gateway; without a unit, and without `_total`.
    pub name: &'static str,
    /// What it tells, without a full stop.
    pub help: &'static str,
    /// What it is now.
    pub value: Value,
}

/// What was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Only grows, until the server ends.
    Counter(u64),
    /// Several of those, told apart by a label with these values.
    Counters(&'static str, Vec<(&'static str, u64)>),
    /// How many there are now.
    Gauge(usize),
    /// How many bytes that are now.
    Bytes(usize),
}

type Read = Box<dyn Fn() -> Vec<Reading> + Send + Sync>;

/// Where the numbers of all gateways are read.
#[derive(Clone, Default)]
pub(crate) struct Readers {
    readers: Arc<RwLock<Vec<(&'static str, Read)>>>,
}

impl Readers {
    /// From now on. The latest counts for each name.
    pub(crate) fn add(&self, gateway: &'static str, read: Read) {
        let mut readers = self.readers.write().unwrap_or_else(PoisonError::into_inner);
        readers.retain(|(known, _)| *known != gateway);
        readers.push((gateway, read));
    }
}

impl fmt::Debug for Readers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Readers").finish_non_exhaustive()
    }
}

impl Collector for Readers {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let readers = self.readers.read().unwrap_or_else(PoisonError::into_inner);
        for (gateway, read) in &*readers {
            for Reading { name, help, value } in read() {
                let (name, help) = (format!("{gateway}_{name}"), format!("{help}."));
                let gauge = |value: usize| ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
                match value {
                    Value::Counter(value) => {
                        let counter = ConstCounter::new(value);
                        counter.encode(encoder.encode_descriptor(&name, &help, None, counter.metric_type())?)?;
                    }
                    Value::Counters(label, values) => {
                        let kind = ConstCounter::new(0_u64).metric_type();
                        let mut family = encoder.encode_descriptor(&name, &help, None, kind)?;
                        for (of, value) in values {
                            ConstCounter::new(value).encode(family.encode_family(&[(label, of)])?)?;
                        }
                    }
                    Value::Gauge(value) => {
                        let gauge = gauge(value);
                        gauge.encode(encoder.encode_descriptor(&name, &help, None, gauge.metric_type())?)?;
                    }
                    Value::Bytes(value) => {
                        let gauge = gauge(value);
                        let unit = Some(&Unit::Bytes);
                        gauge.encode(encoder.encode_descriptor(&name, &help, unit, gauge.metric_type())?)?;
                    }
                }
            }
        }
        Ok(())
    }
}
