//! What a script, a template or a request may know about the attempt that it belongs to.

use jiff::Zoned;
use jiff::tz::TimeZone;
use pendula_model::time::Timestamp;
use pendula_worker::{Shard, Task, TaskRole};
use serde_json::{Map, Value};

/// The facts of one attempt, free of the machinery that delivered it.
#[derive(Clone, Debug)]
pub struct Facts {
    pub instance: String,
    pub attempt: u32,
    pub app: String,
    pub job: String,
    /// The nominal time, in the zone of the trigger.
    pub fire_time: Zoned,
    /// When the instance was created, in the zone of the trigger.
    pub created_time: Zoned,
    /// The parameters of the instance.
    pub params: Map<String, Value>,
    /// Of an instance with many tasks: which one this is.
    pub part: Option<Part>,
}

/// One task of an instance with many.
#[derive(Clone, Debug)]
pub struct Part {
    pub role: TaskRole,
    pub id: u64,
    /// May be empty.
    pub name: String,
    pub input: Option<Input>,
    pub shard: Option<Shard>,
}

/// What a task was given by who emitted it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Input {
    pub bytes: Vec<u8>,
    pub content_type: String,
}

impl Input {
    /// The input as text, if it is.
    pub fn text(&self) -> Option<&str> {
        std::str::from_utf8(&self.bytes).ok()
    }

    /// The input as JSON, if it says that it is and is.
    pub fn json(&self) -> Option<Value> {
        is_json(&self.content_type).then(|| serde_json::from_slice(&self.bytes).ok()).flatten()
    }
}

impl Part {
    fn of(task: &Task) -> Option<Part> {
        let has_input = !task.input().is_empty() || !task.input_content_type().is_empty();
        let input = || Input { bytes: task.input().to_vec(), content_type: task.input_content_type().to_owned() };
        Some(Part {
            role: task.role()?,
            id: task.task_id().0,
            name: task.task_name().to_owned(),
            input: has_input.then(input),
            shard: task.shard(),
        })
    }
}

impl Facts {
    /// The facts of `task`.
    ///
    /// # Errors
    /// When the parameters are not a JSON object.
    pub fn of(task: &Task) -> Result<Facts, serde_json::Error> {
        let params = match task.params() {
            [] => Map::new(),
            bytes => serde_json::from_slice(bytes)?,
        };
        Ok(Facts {
            instance: task.instance().to_string(),
            attempt: task.attempt(),
            app: task.app().to_owned(),
            job: task.job().to_owned(),
            fire_time: in_zone(task.fire_time(), task.timezone()),
            created_time: in_zone(task.created_at(), task.timezone()),
            params,
            part: Part::of(task),
        })
    }

    /// The fire time as RFC 3339, with the offset of the trigger's zone.
    pub fn fire_time_text(&self) -> String {
        rfc3339(&self.fire_time)
    }

    /// The parameters as one line of JSON.
    pub fn params_json(&self) -> String {
        serde_json::to_string(&self.params).expect("a map of JSON values always becomes JSON")
    }
}

/// RFC 3339 with the offset of the zone, as `2026-11-21T08:00:00+01:00`; a fraction only where there is one.
pub fn rfc3339(at: &Zoned) -> String {
    let pattern = if at.subsec_nanosecond() == 0 { "%Y-%m-%dT%H:%M:%S%:z" } else { "%Y-%m-%dT%H:%M:%S%.f%:z" };
    at.strftime(pattern).to_string()
}

/// Whether a content type means JSON.
pub(crate) fn is_json(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case("application/json") || essence.to_ascii_lowercase().ends_with("+json")
}

/// A zone that this machine does not know (the server checked the name against its own data) is taken for UTC.
fn in_zone(at: Timestamp, zone: &str) -> Zoned {
    let zone = if zone.is_empty() { TimeZone::UTC } else { TimeZone::get(zone).unwrap_or(TimeZone::UTC) };
    at.to_jiff().to_zoned(zone)
}

#[cfg(test)]
pub(crate) fn sample(params: Value) -> Facts {
    let Value::Object(params) = params else { panic!("parameters are an object") };
    let at: Zoned = "2026-11-21T02:30:00[Asia/Shanghai]".parse().expect("a valid time");
    Facts {
        instance: "7001".to_owned(),
        attempt: 2,
        app: "demo".to_owned(),
        job: "nightly".to_owned(),
        fire_time: at.clone(),
        created_time: at,
        params,
        part: None,
    }
}
