//! The server's numbers, for Prometheus. Every label has a bounded set of values.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use pendula_engine::Gauges;
use pendula_engine::effect::Observation;
use pendula_model::Timestamp;
use pendula_model::instance::{Reason, TaskState};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use crate::readings::{Readers, Reading};

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Ended {
    state: &'static str,
    reason: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct EndedTask {
    state: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ForReason {
    reason: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Operation {
    operation: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Relayed {
    outcome: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Listening {
    listener: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Loop {
    r#loop: String,
}

type Fraction = Gauge<f64, AtomicU64>;

/// All metrics of a server.
pub struct Metrics {
    registry: Registry,
    fires: Counter,
    fire_lateness: Histogram,
    missed_fires: Counter,
    dispatch_latency: Histogram,
    ended: Family<Ended, Counter>,
    instance_seconds: Histogram,
    tasks_ended: Family<EndedTask, Counter>,
    attempts_failed: Family<ForReason, Counter>,
    workers_lost: Counter,
    quarantined: Counter,
    waiting: Gauge,
    ready: Gauge,
    running: Gauge,
    tasks_running: Gauge,
    slots: Gauge,
    jobs_in_memory: Gauge,
    sessions: Gauge,
    sessions_refused: Counter,
    commit_batch_changes: Histogram,
    commit_seconds: Histogram,
    commit_retries: Counter,
    partition_reloads: Counter,
    store_seconds: Family<Operation, Histogram, fn() -> Histogram>,
    log_bytes: Counter,
    log_bytes_lost: Counter,
    pruned: Counter,
    unauthenticated_listeners: Family<Listening, Gauge>,
    gateway_refused: Family<Listening, Counter>,
    connections: Gauge,
    connections_refused: Counter,
    last_tick: Family<Loop, Fraction>,
    servers_alive: Gauge,
    partitions_owned: Gauge,
    partitions_unserved: Gauge,
    clock_skew: Fraction,
    relayed: Family<Relayed, Counter>,
    of_gateways: Readers,
}

/// Seconds, from a fifth of a millisecond to a minute.
fn latency() -> Histogram {
    Histogram::new([
        0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
    ])
}

impl Default for Metrics {
    fn default() -> Self {
        Metrics::new()
    }
}

impl Metrics {
    pub fn new() -> Self {
        let mut metrics = Metrics {
            registry: Registry::with_prefix("pendula"),
            fires: Counter::default(),
            fire_lateness: latency(),
            missed_fires: Counter::default(),
            dispatch_latency: latency(),
            ended: Family::default(),
            instance_seconds: Histogram::new([0.01, 0.1, 1.0, 10.0, 60.0, 600.0, 3600.0, 21600.0, 86400.0]),
            tasks_ended: Family::default(),
            attempts_failed: Family::default(),
            workers_lost: Counter::default(),
            quarantined: Counter::default(),
            waiting: Gauge::default(),
            ready: Gauge::default(),
            running: Gauge::default(),
            tasks_running: Gauge::default(),
            slots: Gauge::default(),
            jobs_in_memory: Gauge::default(),
            sessions: Gauge::default(),
            sessions_refused: Counter::default(),
            commit_batch_changes: Histogram::new([
                1.0, 2.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 2500.0, 5000.0, 10000.0,
            ]),
            commit_seconds: latency(),
            commit_retries: Counter::default(),
            partition_reloads: Counter::default(),
            store_seconds: Family::new_with_constructor(latency),
            log_bytes: Counter::default(),
            log_bytes_lost: Counter::default(),
            pruned: Counter::default(),
            unauthenticated_listeners: Family::default(),
            gateway_refused: Family::default(),
            connections: Gauge::default(),
            connections_refused: Counter::default(),
            last_tick: Family::default(),
            servers_alive: Gauge::default(),
            partitions_owned: Gauge::default(),
            partitions_unserved: Gauge::default(),
            clock_skew: Gauge::default(),
            relayed: Family::default(),
            of_gateways: Readers::default(),
        };
        metrics.register();
        metrics
    }

    #[rustfmt::skip]
    fn register(&mut self) {
        let r = &mut self.registry;
        r.register("fires", "Instances made by triggers", self.fires.clone());
        r.register_with_unit("fire_lateness", "Time from a fire time to its instance's creation", Unit::Seconds, self.fire_lateness.clone());
        r.register("missed_fires", "Fire times that passed without an instance", self.missed_fires.clone());
        r.register_with_unit("dispatch_latency", "Time from when an attempt was due to the decision where it runs", Unit::Seconds, self.dispatch_latency.clone());
        r.register("instances_ended", "Instances that ended, by state and reason", self.ended.clone());
        r.register_with_unit("instance_duration", "Time from an instance's creation to its end", Unit::Seconds, self.instance_seconds.clone());
        r.register("tasks_ended", "Tasks of instances with many that ended, by state", self.tasks_ended.clone());
        r.register("attempts_failed", "Attempts that did not succeed, by reason", self.attempts_failed.clone());
        r.register("workers_lost", "Workers that did not come back in time", self.workers_lost.clone());
        r.register("instances_quarantined", "Stored instances that could not be read and were set aside", self.quarantined.clone());
        r.register("instances_waiting", "Active instances that wait for a time, a limit or a worker", self.waiting.clone());
        r.register("instances_ready", "Waiting instances that a free slot could take now", self.ready.clone());
        r.register("instances_running", "Instances that a worker has", self.running.clone());
        r.register("tasks_running", "Tasks of instances with many that a worker has", self.tasks_running.clone());
        r.register("worker_slots", "Slots of all connected workers", self.slots.clone());
        r.register("jobs_in_memory", "Jobs in the look-ahead window or with active instances", self.jobs_in_memory.clone());
        r.register("sessions", "Connected workers", self.sessions.clone());
        r.register("sessions_refused", "Workers that were not let in", self.sessions_refused.clone());
        r.register("commit_batch_changes", "Changes per commit of a partition", self.commit_batch_changes.clone());
        r.register_with_unit("commit", "Time from handing a batch to the store until it is durable", Unit::Seconds, self.commit_seconds.clone());
        r.register("commit_retries", "Commits that were repeated because the store was unavailable", self.commit_retries.clone());
        r.register("partition_reloads", "Partitions that were dropped and read again after a refused commit", self.partition_reloads.clone());
        r.register_with_unit("store", "Time of the store's other operations", Unit::Seconds, self.store_seconds.clone());
        r.register_with_unit("log", "Log text that was stored", Unit::Bytes, self.log_bytes.clone());
        r.register_with_unit("log_lost", "Log text that workers had to drop", Unit::Bytes, self.log_bytes_lost.clone());
        r.register("instances_pruned", "Ended instances that were forgotten", self.pruned.clone());
        r.register("unauthenticated_listeners", "Ports of gateways whose workers cannot authenticate", self.unauthenticated_listeners.clone());
        r.register("gateway_refused", "Requests and messages that gateways refused; their log says why", self.gateway_refused.clone());
        r.register("connections", "Open connections on the listener", self.connections.clone());
        r.register("connections_refused", "Connections that were closed because there were too many", self.connections_refused.clone());
        r.register_with_unit("loop_last_tick", "When each background loop last completed a round, as Unix time", Unit::Seconds, self.last_tick.clone());
        r.register("servers_alive", "Servers on the same database whose lease has not run out", self.servers_alive.clone());
        r.register("partitions_owned", "Partitions that the database says are this server's", self.partitions_owned.clone());
        r.register("partitions_unserved", "Partitions whose owner has no lease, or that have none", self.partitions_unserved.clone());
        r.register_with_unit("clock_skew", "By how much this server's clock is ahead of the database's", Unit::Seconds, self.clock_skew.clone());
        r.register("relayed", "Requests and sessions sent on to another server, by outcome", self.relayed.clone());
        r.register_collector(Box::new(self.of_gateways.clone()));
    }

    /// All metrics in the OpenMetrics text format, to be served as [`Metrics::CONTENT_TYPE`].
    pub fn encode(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("writing to a string does not fail");
        text
    }

    pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

    /// Counts what the engine observed.
    pub fn observe(&self, observation: &Observation) {
        match observation {
            Observation::Fired { lateness } => {
                self.fires.inc();
                self.fire_lateness.observe(lateness.as_secs_f64());
            }
            Observation::Missed { count, .. } => {
                self.missed_fires.inc_by(*count);
            }
            Observation::Dispatched { waited } => self.dispatch_latency.observe(waited.as_secs_f64()),
            Observation::Ended { state, reason, duration, .. } => {
                let reason = reason.as_ref().map_or("", known);
                self.ended.get_or_create(&Ended { state: state.as_str(), reason }).inc();
                self.instance_seconds.observe(duration.as_secs_f64());
            }
            Observation::TasksEnded { since, .. } => {
                for (state, count) in [
                    (TaskState::Succeeded, since.succeeded),
                    (TaskState::Failed, since.failed),
                    (TaskState::Lost, since.lost),
                    (TaskState::Stopped, since.stopped),
                ] {
                    if count > 0 {
                        self.tasks_ended.get_or_create(&EndedTask { state: state.as_str() }).inc_by(count);
                    }
                }
            }
            Observation::AttemptFailed { reason, .. } => {
                self.attempts_failed.get_or_create(&ForReason { reason: known(reason) }).inc();
            }
            Observation::WorkerLost { .. } => {
                self.workers_lost.inc();
            }
            Observation::Quarantined { .. } => {
                self.quarantined.inc();
            }
            Observation::StopRequested { .. }
            | Observation::NoWorker { .. }
            | Observation::WorkerConnected { .. }
            | Observation::Progress { .. } => {}
        }
    }

    /// Replaces what one partition contributes to the gauges.
    pub(crate) fn gauges_moved(&self, before: &Gauges, after: &Gauges) {
        let moved = |gauge: &Gauge, before: usize, after: usize| {
            if before != after {
                gauge.inc_by(after as i64 - before as i64);
            }
        };
        moved(&self.waiting, before.waiting, after.waiting);
        moved(&self.ready, before.ready, after.ready);
        moved(&self.running, before.placed, after.placed);
        moved(&self.tasks_running, before.tasks_placed, after.tasks_placed);
        moved(&self.slots, before.slots, after.slots);
        moved(&self.jobs_in_memory, before.jobs_in_memory, after.jobs_in_memory);
    }

    pub(crate) fn committed(&self, changes: usize, took: Duration) {
        self.commit_batch_changes.observe(changes as f64);
        self.commit_seconds.observe(took.as_secs_f64());
    }

    pub(crate) fn commit_retried(&self) {
        self.commit_retries.inc();
    }

    pub(crate) fn partition_reloaded(&self) {
        self.partition_reloads.inc();
    }

    /// Time of a store operation other than a commit.
    pub fn store_took(&self, operation: &'static str, took: Duration) {
        self.store_seconds.get_or_create(&Operation { operation }).observe(took.as_secs_f64());
    }

    /// Counts a session until the answer is dropped.
    pub(crate) fn session_opened(&self) -> Counted {
        Counted::one(&self.sessions)
    }

    pub(crate) fn open_sessions(&self) -> i64 {
        self.sessions.get()
    }

    pub fn open_connections(&self) -> i64 {
        self.connections.get()
    }

    pub(crate) fn session_refused(&self) {
        self.sessions_refused.inc();
    }

    pub(crate) fn log_stored(&self, bytes: u64, lost: u64) {
        self.log_bytes.inc_by(bytes);
        self.log_bytes_lost.inc_by(lost);
    }

    pub(crate) fn instances_pruned(&self, count: usize) {
        self.pruned.inc_by(count as u64);
    }

    /// A gateway listens.
    pub(crate) fn listens(&self, listener: &'static str, authenticated: bool) {
        if !authenticated {
            self.unauthenticated_listeners.get_or_create(&Listening { listener }).inc();
        }
    }

    pub(crate) fn gateway_refused(&self, listener: &'static str) {
        self.gateway_refused.get_or_create(&Listening { listener }).inc();
    }

    /// Reads a gateway's own numbers whenever somebody looks.
    pub(crate) fn gateway_reads(&self, gateway: &'static str, read: impl Fn() -> Vec<Reading> + Send + Sync + 'static) {
        self.of_gateways.add(gateway, Box::new(read));
    }

    /// Counts a connection until the answer is dropped.
    pub(crate) fn connection_opened(&self) -> Counted {
        Counted::one(&self.connections)
    }

    pub(crate) fn connection_refused(&self) {
        self.connections_refused.inc();
    }

    /// What was seen of the servers on the same database.
    pub(crate) fn cluster_seen(&self, servers: usize, owned: usize, unserved: usize, skew_micros: i64) {
        self.servers_alive.set(servers as i64);
        self.partitions_owned.set(owned as i64);
        self.partitions_unserved.set(unserved as i64);
        self.clock_skew.set(skew_micros as f64 / 1e6);
    }

    /// Something was sent on to another server: `answered`, `unreachable` or `lost`.
    pub(crate) fn relayed(&self, outcome: &'static str) {
        self.relayed.get_or_create(&Relayed { outcome }).inc();
    }

    /// For the background loop `name` to tell that it completes its rounds.
    pub(crate) fn tick(&self, name: &str) -> Tick {
        let gauge = self.last_tick.get_or_create(&Loop { r#loop: name.to_owned() });
        Tick(Gauge::clone(&gauge))
    }
}

/// One in a gauge, for as long as it lives, panics included.
pub(crate) struct Counted(Gauge);

impl Counted {
    fn one(gauge: &Gauge) -> Self {
        gauge.inc();
        Counted(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// When a background loop last completed a round.
#[derive(Clone, Debug)]
pub(crate) struct Tick(Fraction);

impl Tick {
    pub(crate) fn at(&self, now: Timestamp) {
        self.0.set(now.as_micros() as f64 / 1e6);
    }

    pub(crate) fn last(&self) -> Timestamp {
        Timestamp::from_micros((self.0.get() * 1e6) as i64)
    }
}

/// The reason as a label: our own words, and `other` for what workers made up.
fn known(reason: &Reason) -> &'static str {
    const KNOWN: &[Reason] = &[
        Reason::TIMEOUT,
        Reason::EXPIRED,
        Reason::WORKER_LOST,
        Reason::WORKER_DRAINED,
        Reason::BY_USER,
        Reason::STOP_UNCONFIRMED,
        Reason::CONCURRENCY_LIMIT,
        Reason::SKIPPED,
        Reason::REPLACED,
        Reason::JOB_DELETED,
        Reason::SCRIPTS_NOT_ALLOWED,
        Reason::PROCESSOR_MISSING,
        Reason::NO_WORKER,
        Reason::ALL_TARGETS_LOST,
        Reason::TASKS_FAILED,
        Reason::ROOT_FAILED,
        Reason::PRE_FAILED,
        Reason::POST_FAILED,
        Reason::REDUCE_FAILED,
        Reason::INSTANCE_ENDED,
        Reason::REJECTED,
        Reason::QUARANTINED,
        Reason::FAILED,
        Reason::PANICKED,
        Reason::EXIT_CODE,
        Reason::SIGNAL,
        Reason::INVALID_DEFINITION,
    ];
    // A static, because the words are borrowed from it for ever.
    static WORDS: &[Reason] = KNOWN;
    WORDS.iter().find(|word| *word == reason).map_or("other", |word| word.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use pendula_model::instance::InstanceState;
    use pendula_model::task::TaskCounts;
    use pendula_model::{InstanceId, JobId};

    #[test]
    fn reasons_that_workers_invent_share_one_label_value() {
        let metrics = Metrics::new();
        for word in ["exit_code", "robert_tables", "x1", "x2"] {
            metrics.observe(&Observation::Ended {
                instance: InstanceId(1),
                job: JobId(1),
                state: InstanceState::Failed,
                reason: Some(Reason::from_wire(word)),
                duration: Duration::from_secs(1),
            });
        }
        let text = metrics.encode();
        assert!(text.contains(r#"pendula_instances_ended_total{state="failed",reason="exit_code"} 1"#), "{text}");
        assert!(text.contains(r#"pendula_instances_ended_total{state="failed",reason="other"} 3"#), "{text}");
        assert!(!text.contains("robert"), "{text}");
    }

    #[test]
    fn gateways_show_numbers_of_their_own() {
        use crate::readings::Value;
        let metrics = Metrics::new();
        metrics.gateway_reads("other", Vec::new);
        metrics.gateway_reads("carrier", || panic!("the later of two counts"));
        metrics.gateway_reads("carrier", || {
            let reading = |name, value| Reading { name, help: "Pigeons", value };
            let by = vec![("hungry", 2), ("lost", 0)];
            vec![
                reading("sent", Value::Counter(7)),
                reading("delayed", Value::Counters("reason", by)),
                reading("flying", Value::Gauge(3)),
                reading("carried", Value::Bytes(40)),
            ]
        });
        let text = metrics.encode();
        let shown: Vec<&str> = text.lines().filter(|line| line.contains("pendula_carrier_")).collect();
        let expected = [
            "# HELP pendula_carrier_sent Pigeons.",
            "# TYPE pendula_carrier_sent counter",
            "pendula_carrier_sent_total 7",
            "# HELP pendula_carrier_delayed Pigeons.",
            "# TYPE pendula_carrier_delayed counter",
            r#"pendula_carrier_delayed_total{reason="hungry"} 2"#,
            r#"pendula_carrier_delayed_total{reason="lost"} 0"#,
            "# HELP pendula_carrier_flying Pigeons.",
            "# TYPE pendula_carrier_flying gauge",
            "pendula_carrier_flying 3",
            "# HELP pendula_carrier_carried_bytes Pigeons.",
            "# TYPE pendula_carrier_carried_bytes gauge",
            "# UNIT pendula_carrier_carried_bytes bytes",
            "pendula_carrier_carried_bytes 40",
        ];
        assert_eq!(shown, expected);
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn tasks_are_counted_by_how_they_ended() {
        let metrics = Metrics::new();
        let since = TaskCounts { succeeded: 40, lost: 2, ..TaskCounts::default() };
        metrics.observe(&Observation::TasksEnded { instance: InstanceId(1), since });
        metrics.observe(&Observation::TasksEnded { instance: InstanceId(2), since });
        let text = metrics.encode();
        assert!(text.contains(r#"pendula_tasks_ended_total{state="succeeded"} 80"#), "{text}");
        assert!(text.contains(r#"pendula_tasks_ended_total{state="lost"} 4"#), "{text}");
        assert!(!text.contains(r#"pendula_tasks_ended_total{state="failed"}"#), "{text}");
    }
}
