//! A worker's first message, checked.

use std::collections::BTreeSet;
use std::sync::Arc;

use pendula_model::limits;
use pendula_model::worker::{BootId, HostMetrics, WorkerInfo, WorkerRef};

use crate::error::WireError;
use crate::v1;
use crate::version;

/// Characters in a label's key, or in its value.
const LABEL_CHARS: usize = 256;
/// Bytes kept of the version of the worker's software.
const VERSION_BYTES: usize = 128;

/// What a worker says of itself; of its capabilities those that we share. `address` is where its connection comes from; the message does not tell.
///
/// # Errors
/// For a name, processor or label that is not allowed, a zero boot id, and numbers beyond [`pendula_model::limits`].
pub fn worker_info(hello: &v1::Hello, address: String) -> Result<WorkerInfo, WireError> {
    let refuse = |field, why: String| Err(WireError::new("Hello", field, why));
    let name = |field, name: &str| {
        limits::check_name("", name).map_err(|invalid| WireError::new("Hello", field, invalid.message))
    };
    name("name", &hello.name)?;
    if hello.boot_id == 0 {
        return refuse("boot_id", "is missing; it is a random number other than 0".to_owned());
    }
    if hello.slots == 0 || hello.slots > limits::SLOTS {
        return refuse("slots", format!("{} is not allowed; 1 to {}", hello.slots, limits::SLOTS));
    }
    if hello.processors.is_empty() || hello.processors.len() > limits::PROCESSORS {
        let why = format!("{} processors; 1 to {} are allowed", hello.processors.len(), limits::PROCESSORS);
        return refuse("processors", why);
    }
    let mut processors = BTreeSet::new();
    for processor in &hello.processors {
        name("processors", processor)?;
        processors.insert(processor.clone());
    }
    if hello.labels.len() > limits::LABELS {
        return refuse("labels", format!("{} labels; at most {}", hello.labels.len(), limits::LABELS));
    }
    for (key, value) in &hello.labels {
        name("labels", key)?;
        if key.chars().count() > LABEL_CHARS || value.chars().count() > LABEL_CHARS {
            return refuse("labels", format!("a label is longer than {LABEL_CHARS} characters"));
        }
    }
    Ok(WorkerInfo {
        worker: WorkerRef { name: Arc::from(hello.name.as_str()), boot: BootId(hello.boot_id) },
        version: limits::cut(&hello.version, VERSION_BYTES),
        processors: processors.into_iter().collect(),
        labels: hello.labels.clone(),
        slots: hello.slots,
        capabilities: version::shared_capabilities(&hello.capabilities),
        address,
        metrics: hello.metrics.as_ref().map(HostMetrics::from).unwrap_or_default(),
    })
}

impl From<&v1::HostMetrics> for HostMetrics {
    /// Cores that are no finite, non-negative number become 0: metrics are advice and never end a session.
    fn from(metrics: &v1::HostMetrics) -> Self {
        let cores = |number: f64| if number.is_finite() { number.max(0.0) } else { 0.0 };
        HostMetrics {
            cpu_cores: cores(metrics.cpu_cores),
            cpu_used: cores(metrics.cpu_used),
            memory_bytes: metrics.memory_bytes,
            memory_used_bytes: metrics.memory_used_bytes,
            disk_bytes: metrics.disk_bytes,
            disk_used_bytes: metrics.disk_used_bytes,
        }
    }
}

impl From<&HostMetrics> for v1::HostMetrics {
    fn from(metrics: &HostMetrics) -> Self {
        v1::HostMetrics {
            cpu_cores: metrics.cpu_cores,
            cpu_used: metrics.cpu_used,
            memory_bytes: metrics.memory_bytes,
            memory_used_bytes: metrics.memory_used_bytes,
            disk_bytes: metrics.disk_bytes,
            disk_used_bytes: metrics.disk_used_bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello() -> v1::Hello {
        v1::Hello {
            protocol_min: 1,
            protocol_max: 1,
            name: "w1".to_owned(),
            boot_id: 7,
            processors: vec!["shell".to_owned(), "shell".to_owned(), "http".to_owned()],
            slots: 16,
            capabilities: vec!["time_travel".to_owned(), "tasks".to_owned()],
            ..v1::Hello::default()
        }
    }

    #[test]
    fn a_good_hello_becomes_a_worker() {
        let info = worker_info(&hello(), "10.0.0.1:5".to_owned()).unwrap();
        assert_eq!(info.worker.to_string(), "w1@0000000000000007");
        assert_eq!(info.processors, ["http", "shell"]);
        assert_eq!(info.capabilities, ["tasks"]);
        assert_eq!(info.metrics, HostMetrics::default());
    }

    #[test]
    fn a_bad_hello_is_refused_with_its_field() {
        type Spoil = fn(&mut v1::Hello);
        let cases: [(&str, Spoil); 11] = [
            ("name", |hello| *hello = v1::Hello::default()),
            ("name", |hello| hello.name = "a/b".to_owned()),
            ("boot_id", |hello| hello.boot_id = 0),
            ("slots", |hello| hello.slots = 0),
            ("slots", |hello| hello.slots = u32::MAX),
            ("processors", |hello| hello.processors.clear()),
            ("processors", |hello| hello.processors.push(String::new())),
            ("processors", |hello| hello.processors = vec!["a".to_owned(); 1001]),
            ("labels", |hello| hello.labels = (0..65).map(|n| (n.to_string(), String::new())).collect()),
            ("labels", |hello| hello.labels = [(String::new(), String::new())].into()),
            ("labels", |hello| hello.labels = [("a".to_owned(), "x".repeat(257))].into()),
        ];
        for (field, spoil) in cases {
            let mut hello = hello();
            spoil(&mut hello);
            assert_eq!(worker_info(&hello, String::new()).unwrap_err().field, field);
        }
    }

    #[test]
    fn metrics_that_are_no_numbers_become_zero() {
        let wire = v1::HostMetrics { cpu_cores: f64::NAN, cpu_used: -1.0, memory_bytes: 5, ..Default::default() };
        let metrics = HostMetrics::from(&wire);
        assert_eq!((metrics.cpu_cores, metrics.cpu_used, metrics.memory_bytes), (0.0, 0.0, 5));
    }
}
