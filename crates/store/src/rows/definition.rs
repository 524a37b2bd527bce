//! Definitions as they are stored, by this version or by a newer one.
//!
//! While servers are upgraded one by one, a definition may have been saved by a newer version, with fields that this one
//! does not know. What the API refuses as a mistake is ignored here: the text stays in its row as it is, and the newer
//! version finds its fields again. A word that this version does not know in a place where it must (a kind of processor)
//! remains unreadable.

use std::borrow::Cow;

use pendula_model::job::JobSpec;
use serde_json::Value;

/// So many unknown fields are passed over.
const UNKNOWN: usize = 64;

/// Reads a stored definition.
///
/// # Errors
///
/// Why it is none.
pub(crate) fn definition(text: &str) -> Result<JobSpec, String> {
    let strict = match serde_json::from_str(text) {
        Ok(spec) => return Ok(spec),
        Err(error) => error.to_string(),
    };
    let mut value: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    for _ in 0..UNKNOWN {
        let error = match serde_path_to_error::deserialize::<_, JobSpec>(&value) {
            Ok(spec) => return Ok(spec),
            Err(error) => error,
        };
        let Some(field) = unknown_field(&error.inner().to_string()).map(Cow::into_owned) else { return Err(strict) };
        if !remove(&mut value, error.path(), &field) {
            return Err(strict);
        }
    }
    Err(strict)
}

/// What serde calls the field that it was told to refuse.
fn unknown_field(message: &str) -> Option<Cow<'_, str>> {
    let rest = message.strip_prefix("unknown field `")?;
    rest.split_once('`').map(|(field, _)| Cow::Borrowed(field))
}

/// Removes the field from the object that the path leads to, or to whose field it leads.
fn remove(value: &mut Value, path: &serde_path_to_error::Path, field: &str) -> bool {
    use serde_path_to_error::Segment;
    let mut pointer = String::new();
    for segment in path {
        let step = match segment {
            Segment::Map { key } if key != field => key.replace('~', "~0").replace('/', "~1"),
            Segment::Seq { index } => index.to_string(),
            // Names of variants are keys as well.
            Segment::Enum { variant } => variant.clone(),
            // The path ends at the field itself.
            _ => break,
        };
        let longer = format!("{pointer}/{step}");
        if value.pointer(&longer).is_some() {
            pointer = longer;
        }
    }
    let object = value.pointer_mut(&pointer).and_then(Value::as_object_mut);
    object.is_some_and(|object| object.remove(field).is_some())
}

#[cfg(test)]
mod tests {
    use pendula_model::processor::{Processor, Script};
    use pendula_model::trigger::Trigger;
    use serde_json::json;

    use super::*;

    fn stored() -> (JobSpec, Value) {
        let spec = JobSpec {
            trigger: Some(Trigger { cron: Some("0 0 * * * ?".to_owned()), ..Trigger::default() }),
            ..JobSpec::new("j", Processor::Shell(Script::new("true")))
        };
        let value = serde_json::to_value(&spec).unwrap();
        (spec, value)
    }

    #[test]
    fn s1_7_fields_of_a_newer_version_are_passed_over_wherever_they_are() {
        let (spec, mut value) = stored();
        assert_eq!(definition(&value.to_string()).unwrap(), spec);
        value["sla"] = json!({ "within": "5m", "then": ["alert", "stop"] });
        value["trigger"]["calendar"] = json!("holidays");
        let retry = json!({ "attempts": 2, "budget": "1h" });
        value["retry"] = retry;
        let read = definition(&value.to_string()).unwrap();
        assert_eq!(read.trigger, spec.trigger);
        assert_eq!(read.retry.attempts, 2);
        assert_eq!(read.processor, spec.processor);
    }

    #[test]
    fn s1_7_a_word_that_must_be_understood_and_is_not_remains_unreadable() {
        let (_, mut value) = stored();
        value["processor"] = json!({ "teleport": "mars" });
        assert!(definition(&value.to_string()).is_err());
        let (_, mut value) = stored();
        value["trigger"] = json!("later");
        assert!(definition(&value.to_string()).unwrap_err().contains("invalid type"));
        assert!(definition("{").is_err());
    }
}
