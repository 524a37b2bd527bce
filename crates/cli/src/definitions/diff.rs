//! What an apply would change, field by field.

use pendula_model::api::{AppliedJob, ApplyAction};
use pendula_model::job::JobSpec;
use serde_json::Value;

use crate::output::Shade;

/// One differing field: its dotted path, the old and the new value as JSON; none where it was left to its default.
#[derive(Debug, PartialEq)]
pub struct Changed {
    pub path: String,
    pub before: Option<Value>,
    pub after: Option<Value>,
}

/// The fields in which two definitions differ, in the order of the old, then new ones.
pub fn changes(before: &JobSpec, after: &JobSpec) -> Vec<Changed> {
    let json = |spec: &JobSpec| serde_json::to_value(spec).expect("definitions are made of JSON");
    let mut changed = Vec::new();
    compare("", Some(&json(before)), Some(&json(after)), &mut changed);
    changed
}

fn compare(path: &str, before: Option<&Value>, after: Option<&Value>, changed: &mut Vec<Changed>) {
    if before == after {
        return;
    }
    let (Some(Value::Object(old)), Some(Value::Object(new))) = (before, after) else {
        changed.push(Changed { path: path.to_owned(), before: before.cloned(), after: after.cloned() });
        return;
    };
    let keys = old.keys().chain(new.keys().filter(|key| !old.contains_key(*key)));
    for key in keys {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        compare(&path, old.get(key), new.get(key), changed);
    }
}

/// The sign, colour and name of one job of a plan.
pub fn plan_line(job: &AppliedJob) -> (Shade, String) {
    let name = &job.name;
    match job.action {
        ApplyAction::Created => (Shade::Good, format!("+ {name}")),
        ApplyAction::Updated => (Shade::Busy, format!("~ {name}")),
        ApplyAction::Unchanged => (Shade::Faint, format!("= {name}")),
        ApplyAction::Refused => (Shade::Bad, format!("! {name}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_differs_is_listed_by_its_path() {
        let spec = |json: &str| serde_json::from_str::<JobSpec>(json).expect(json);
        let before = spec(r#"{"name":"a","processor":{"shell":"ls"},"trigger":{"cron":"0 1 * * *"},"timeout":"5m"}"#);
        let after = spec(r#"{"name":"a","processor":{"shell":"ls"},"trigger":{"cron":"0 2 * * *"},"priority":3}"#);
        let changed = changes(&before, &after);
        let lines: Vec<_> = changed.iter().map(|c| (c.path.as_str(), c.before.clone(), c.after.clone())).collect();
        let text = |text: &str| Some(Value::from(text));
        assert_eq!(lines.len(), 3, "{lines:?}");
        assert!(lines.contains(&("trigger.cron", text("0 1 * * *"), text("0 2 * * *"))), "{lines:?}");
        assert!(lines.contains(&("timeout", text("5m"), None)), "{lines:?}");
        assert!(lines.contains(&("priority", None, Some(Value::from(3)))), "{lines:?}");
        assert!(super::changes(&before, &before).is_empty());
    }
}
