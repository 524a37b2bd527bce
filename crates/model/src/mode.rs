//! How an instance becomes tasks.
//!
//! In a definition a mode is a word (`mode: broadcast`) or a word with settings (`mode: { map: { tolerate: 1% } }`).
//! `retry`, `delivery` and the rest of a job's policies hold for each of its tasks; `timeout` for the instance as a whole.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::invalid::Invalid;
use crate::limits;

/// How an instance becomes tasks.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum ExecutionMode {
    /// One task on one worker.
    #[default]
    Standalone,
    /// One task on each eligible worker; the list is frozen when the instance begins.
    Broadcast(Broadcast),
    /// A fixed number of tasks, each with its index and the total, on any workers.
    Sharded(Sharded),
    /// A root task whose handler emits sub-tasks, each of which may emit more.
    Map(Map),
    /// The same, and a last task that reads all results.
    MapReduce(Map),
}

/// Settings of `broadcast`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Broadcast {
    /// Runs once, on one worker, before all others; when it fails, no other task is made.
    #[serde(skip_serializing_if = "is_default")]
    pub pre: bool,
    /// Runs once, on one worker, after all others, and can read their outcomes. Its result is the instance's.
    #[serde(skip_serializing_if = "is_default")]
    pub post: bool,
    /// When the instance counts as succeeded. Default `all`.
    #[serde(skip_serializing_if = "is_default")]
    pub success: BroadcastSuccess,
    /// Whether work that was lost with its worker runs again when a worker of the same name connects. Default no.
    #[serde(skip_serializing_if = "is_default")]
    pub rerun_on_same_worker: bool,
    /// How long to wait for that worker. Default 10 min, at most 7 d.
    #[serde(with = "crate::duration::option", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub rerun_within: Option<Duration>,
    /// Whether workers that connect while it runs get a task too, each once. Default no.
    #[serde(skip_serializing_if = "is_default")]
    pub include_late_joiners: bool,
    /// Longest run of one attempt of one task, from dispatch. None means no limit.
    #[serde(with = "crate::duration::option", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub task_timeout: Option<Duration>,
}

impl Broadcast {
    /// How long a lost task waits for a worker of the same name.
    pub fn rerun_within(&self) -> Duration {
        self.rerun_within.unwrap_or(Duration::from_secs(600))
    }
}

/// When a broadcast counts as succeeded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BroadcastSuccess {
    /// Every target succeeded.
    #[default]
    All,
    /// At least one did.
    Any,
    /// So many, or this share of all targets (rounded up), did.
    AtLeast(Share),
    /// `post` decides: its outcome is the instance's.
    Post,
}

/// Settings of `sharded`; `sharded: 8` is short for `{ total: 8 }`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Sharded {
    /// From 1 to 10,000.
    pub total: u32,
    /// Tasks of one instance that one worker runs at once at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_worker: Option<u32>,
    /// Workers that one instance uses at once at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_workers: Option<u32>,
    /// Shards that may fail, as a number or a share, without failing the instance. Default 0.
    #[serde(default, skip_serializing_if = "is_default")]
    pub tolerate: Share,
    /// Whether the rest is stopped as soon as more failed than is tolerated. Default no: it may finish.
    #[serde(default, skip_serializing_if = "is_default")]
    pub fail_fast: bool,
    /// Longest run of one attempt of one task, from dispatch. None means no limit.
    #[serde(default, with = "crate::duration::option", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub task_timeout: Option<Duration>,
}

/// Settings of `map` and `map_reduce`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Map {
    /// Tasks of one instance that one worker runs at once at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per_worker: Option<u32>,
    /// Workers that one instance uses at once at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_workers: Option<u32>,
    /// Sub-tasks that may fail, as a number or a share, without failing the instance. Default 0.
    #[serde(skip_serializing_if = "is_default")]
    pub tolerate: Share,
    /// Whether the rest is stopped as soon as more failed than is tolerated. Default no: it may finish.
    #[serde(skip_serializing_if = "is_default")]
    pub fail_fast: bool,
    /// Longest run of one attempt of one task, from dispatch. None means no limit.
    #[serde(with = "crate::duration::option", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub task_timeout: Option<Duration>,
}

/// A number (`5`) or a share of all (`"2.5%"`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Share {
    Count(u64),
    /// Hundredths of a percent, 0 to 10,000.
    BasisPoints(u32),
}

impl Default for Share {
    fn default() -> Self {
        Share::Count(0)
    }
}

impl Share {
    /// How many of `total` it means at most: rounded down.
    pub fn at_most(self, total: u64) -> u64 {
        match self {
            Share::Count(count) => count,
            Share::BasisPoints(points) => (u128::from(total) * u128::from(points) / 10_000) as u64,
        }
    }

    /// How many of `total` it means at least: rounded up.
    pub fn at_least(self, total: u64) -> u64 {
        match self {
            Share::Count(count) => count,
            Share::BasisPoints(points) => (u128::from(total) * u128::from(points)).div_ceil(10_000) as u64,
        }
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Share::Count(count) => fmt::Display::fmt(count, f),
            Share::BasisPoints(points) if points % 100 == 0 => write!(f, "{}%", points / 100),
            Share::BasisPoints(points) => write!(f, "{}%", f64::from(*points) / 100.0),
        }
    }
}

impl FromStr for Share {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refuse = || format!("`{text}` is neither a number (5) nor a share (2.5%)");
        match text.trim().strip_suffix('%') {
            None => text.trim().parse().map(Share::Count).map_err(|_| refuse()),
            Some(percent) => {
                let percent: f64 = percent.trim().parse().map_err(|_| refuse())?;
                if !(0.0..=100.0).contains(&percent) {
                    return Err(format!("`{text}` lies outside of 0% to 100%"));
                }
                Ok(Share::BasisPoints((percent * 100.0).round() as u32))
            }
        }
    }
}

impl Serialize for Share {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Share::Count(count) => serializer.serialize_u64(*count),
            Share::BasisPoints(_) => serializer.collect_str(self),
        }
    }
}

impl<'de> Deserialize<'de> for Share {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NumberOrText;

        impl Visitor<'_> for NumberOrText {
            type Value = Share;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number (5) or a share (2.5%)")
            }

            fn visit_u64<E>(self, count: u64) -> Result<Share, E> {
                Ok(Share::Count(count))
            }

            fn visit_i64<E: serde::de::Error>(self, count: i64) -> Result<Share, E> {
                u64::try_from(count).map(Share::Count).map_err(|_| E::custom(format!("{count} is negative")))
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Share, E> {
                text.parse().map_err(E::custom)
            }
        }

        deserializer.deserialize_any(NumberOrText)
    }
}

/// What holds for the tasks of an instance together, whatever its mode.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct TaskLimits {
    pub per_worker: Option<u32>,
    pub max_workers: Option<u32>,
    pub tolerate: Share,
    pub fail_fast: bool,
    pub task_timeout: Option<Duration>,
}

impl ExecutionMode {
    /// The word for it.
    pub fn as_str(&self) -> &'static str {
        match self {
            ExecutionMode::Standalone => "standalone",
            ExecutionMode::Broadcast(_) => "broadcast",
            ExecutionMode::Sharded(_) => "sharded",
            ExecutionMode::Map(_) => "map",
            ExecutionMode::MapReduce(_) => "map_reduce",
        }
    }

    /// Whether its instances have tasks of their own: all but `standalone`.
    pub fn has_tasks(&self) -> bool {
        *self != ExecutionMode::Standalone
    }

    pub fn limits(&self) -> TaskLimits {
        match self {
            ExecutionMode::Standalone => TaskLimits::default(),
            ExecutionMode::Broadcast(broadcast) => {
                TaskLimits { task_timeout: broadcast.task_timeout, ..TaskLimits::default() }
            }
            ExecutionMode::Sharded(Sharded { per_worker, max_workers, tolerate, fail_fast, task_timeout, .. })
            | ExecutionMode::Map(Map { per_worker, max_workers, tolerate, fail_fast, task_timeout })
            | ExecutionMode::MapReduce(Map { per_worker, max_workers, tolerate, fail_fast, task_timeout }) => {
                TaskLimits {
                    per_worker: *per_worker,
                    max_workers: *max_workers,
                    tolerate: *tolerate,
                    fail_fast: *fail_fast,
                    task_timeout: *task_timeout,
                }
            }
        }
    }

    pub fn validate(&self) -> Result<(), Invalid> {
        self.check().map_err(|invalid| invalid.inside(self.as_str()))
    }

    fn check(&self) -> Result<(), Invalid> {
        let limits = self.limits();
        for (field, value) in [("per_worker", limits.per_worker), ("max_workers", limits.max_workers)] {
            if value == Some(0) {
                return Err(Invalid::new(field, "0 is not allowed; from 1, or leave it out for no limit"));
            }
        }
        let longest = Duration::from_secs(366 * 86_400);
        if limits.task_timeout.is_some_and(|timeout| timeout < Duration::from_millis(1) || timeout > longest) {
            return Err(Invalid::new("task_timeout", "must lie between 1ms and 366d"));
        }
        match self {
            ExecutionMode::Sharded(sharded) if sharded.total == 0 || sharded.total > limits::SHARDS => {
                let message = format!("{} is not allowed; 1 to {}", sharded.total, limits::SHARDS);
                Err(Invalid::new("total", message))
            }
            ExecutionMode::Broadcast(Broadcast { success: BroadcastSuccess::Post, post: false, .. }) => {
                Err(Invalid::new("success", "`post` can only decide where `post: true` makes it run"))
            }
            ExecutionMode::Broadcast(broadcast) if broadcast.rerun_within() > Duration::from_secs(7 * 86_400) => {
                Err(Invalid::new("rerun_within", "at most 7d"))
            }
            _ => Ok(()),
        }
    }
}

/// The words that take no settings, or none that they cannot do without.
fn from_word(word: &str) -> Result<ExecutionMode, String> {
    match word {
        "standalone" => Ok(ExecutionMode::Standalone),
        "broadcast" => Ok(ExecutionMode::Broadcast(Broadcast::default())),
        "map" => Ok(ExecutionMode::Map(Map::default())),
        "map_reduce" => Ok(ExecutionMode::MapReduce(Map::default())),
        "sharded" => Err("`sharded` needs the number of shards: `{ sharded: 8 }`".to_owned()),
        _ => Err(format!("`{word}` is unknown; allowed: standalone, broadcast, sharded, map, map_reduce")),
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum WithSettings {
    Broadcast(Broadcast),
    Sharded(#[serde(deserialize_with = "number_or_settings")] Sharded),
    Map(Map),
    MapReduce(Map),
}

fn number_or_settings<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Sharded, D::Error> {
    struct NumberOrSettings;

    impl<'de> Visitor<'de> for NumberOrSettings {
        type Value = Sharded;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("the number of shards, or an object with settings")
        }

        fn visit_u64<E: serde::de::Error>(self, total: u64) -> Result<Sharded, E> {
            let total = u32::try_from(total).map_err(|_| E::custom(format!("{total} shards are too many")))?;
            let limits = TaskLimits::default();
            Ok(Sharded {
                total,
                per_worker: None,
                max_workers: None,
                tolerate: limits.tolerate,
                fail_fast: false,
                task_timeout: None,
            })
        }

        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Sharded, A::Error> {
            Sharded::deserialize(MapAccessDeserializer::new(map))
        }
    }

    deserializer.deserialize_any(NumberOrSettings)
}

impl Serialize for ExecutionMode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if from_word(self.as_str()).is_ok_and(|plain| plain == *self) {
            return serializer.serialize_str(self.as_str());
        }
        match self.clone() {
            ExecutionMode::Standalone => serializer.serialize_str("standalone"),
            ExecutionMode::Broadcast(settings) => WithSettings::Broadcast(settings).serialize(serializer),
            ExecutionMode::Sharded(settings) => WithSettings::Sharded(settings).serialize(serializer),
            ExecutionMode::Map(settings) => WithSettings::Map(settings).serialize(serializer),
            ExecutionMode::MapReduce(settings) => WithSettings::MapReduce(settings).serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for ExecutionMode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct WordOrSettings;

        impl<'de> Visitor<'de> for WordOrSettings {
            type Value = ExecutionMode;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a mode, or an object with a mode's settings")
            }

            fn visit_str<E: serde::de::Error>(self, word: &str) -> Result<ExecutionMode, E> {
                from_word(word).map_err(E::custom)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<ExecutionMode, A::Error> {
                let settings = WithSettings::deserialize(MapAccessDeserializer::new(map))?;
                Ok(match settings {
                    WithSettings::Broadcast(settings) => ExecutionMode::Broadcast(settings),
                    WithSettings::Sharded(settings) => ExecutionMode::Sharded(settings),
                    WithSettings::Map(settings) => ExecutionMode::Map(settings),
                    WithSettings::MapReduce(settings) => ExecutionMode::MapReduce(settings),
                })
            }
        }

        deserializer.deserialize_any(WordOrSettings)
    }
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> ExecutionMode {
        serde_json::from_str(json).expect(json)
    }

    #[test]
    fn modes_are_read_in_every_form_and_written_back_short() {
        for (json, word) in [
            (r#""standalone""#, "standalone"),
            (r#""broadcast""#, "broadcast"),
            (r#"{"broadcast":{"post":true,"success":{"at_least":"50%"}}}"#, "broadcast"),
            (r#"{"sharded":{"total":8}}"#, "sharded"),
            (r#""map""#, "map"),
            (r#"{"map_reduce":{"max_workers":2,"tolerate":"0.5%","task_timeout":"30s"}}"#, "map_reduce"),
        ] {
            let mode = read(json);
            assert_eq!(mode.as_str(), word);
            mode.validate().unwrap();
            assert_eq!(serde_json::to_string(&mode).unwrap(), json);
        }
        assert_eq!(read(r#"{"sharded":8}"#), read(r#"{"sharded":{"total":8}}"#));
        assert_eq!(read(r#"{"map":{}}"#), read(r#""map""#));
    }

    #[test]
    fn what_cannot_be_is_refused_with_its_field() {
        for (json, part) in [
            (r#""sharded""#, "needs the number of shards"),
            (r#""scatter""#, "allowed: standalone"),
            (r#"{"map":{"tolerat":1}}"#, "unknown field `tolerat`"),
            (r#"{"map":{"tolerate":"101%"}}"#, "outside of 0% to 100%"),
            (r#"{"map":{"tolerate":-1}}"#, "negative"),
        ] {
            let error = serde_json::from_str::<ExecutionMode>(json).unwrap_err().to_string();
            assert!(error.contains(part), "{json}: {error}");
        }
        for (json, field) in [
            (r#"{"sharded":0}"#, "sharded.total"),
            (r#"{"sharded":10001}"#, "sharded.total"),
            (r#"{"map":{"per_worker":0}}"#, "map.per_worker"),
            (r#"{"broadcast":{"success":"post"}}"#, "broadcast.success"),
            (r#"{"broadcast":{"rerun_within":"8d"}}"#, "broadcast.rerun_within"),
        ] {
            assert_eq!(read(json).validate().unwrap_err().field, field, "{json}");
        }
    }

    #[test]
    fn shares_round_to_the_careful_side() {
        let share: Share = "2.5%".parse().unwrap();
        assert_eq!((share.at_most(100), share.at_least(100)), (2, 3));
        assert_eq!((Share::Count(7).at_most(3), Share::default().at_most(1_000_000)), (7, 0));
        assert_eq!(share.to_string(), "2.5%");
        assert_eq!("50%".parse::<Share>().unwrap().to_string(), "50%");
    }
}
