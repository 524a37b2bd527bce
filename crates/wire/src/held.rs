//! `Held` names one attempt at one task.

use pendula_model::{AttemptKey, InstanceId, TaskId};

use crate::error::WireError;
use crate::v1::Held;

impl Held {
    /// An attempt at the root task of `instance`, the only task of a standalone instance.
    pub fn root(instance: InstanceId, attempt: u32) -> Self {
        AttemptKey::root(instance, attempt).into()
    }

    /// Refuses what names nothing: instances and attempts count from 1. Any task may be named; the first one is 0.
    pub fn check(&self) -> Result<(), WireError> {
        if self.instance <= 0 {
            return Err(WireError::new("Held", "instance", format!("{} is no instance", self.instance)));
        }
        if self.attempt == 0 {
            return Err(WireError::new("Held", "attempt", "is missing; attempts count from 1"));
        }
        Ok(())
    }
}

impl From<AttemptKey> for Held {
    fn from(key: AttemptKey) -> Self {
        Held { instance: key.instance.0, attempt: key.attempt, task: key.task.0 }
    }
}

impl TryFrom<&Held> for AttemptKey {
    type Error = WireError;

    /// # Errors
    /// When it names nothing.
    fn try_from(held: &Held) -> Result<Self, WireError> {
        held.check()?;
        Ok(AttemptKey { instance: InstanceId(held.instance), task: TaskId(held.task), attempt: held.attempt })
    }
}

/// The attempt that an optional field names.
///
/// # Errors
/// As the conversion of [`Held`]; also when the field is absent.
pub fn required(held: Option<&Held>, message: &'static str, field: &'static str) -> Result<AttemptKey, WireError> {
    held.ok_or_else(|| WireError::new(message, field, "is missing"))?.try_into()
}

/// Each attempt of a list; one bad entry refuses all.
///
/// # Errors
/// As the conversion of [`Held`].
pub fn all(held: &[Held]) -> Result<Vec<AttemptKey>, WireError> {
    held.iter().map(TryInto::try_into).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_names_nothing_is_refused() {
        let good = Held::root(InstanceId(7), 2);
        assert_eq!((&good).try_into(), Ok(AttemptKey::root(InstanceId(7), 2)));
        for (held, field) in [
            (Held::default(), "instance"),
            (Held { instance: -1, ..good }, "instance"),
            (Held { attempt: 0, ..good }, "attempt"),
        ] {
            assert_eq!(all(&[good, held]).unwrap_err().field, field);
        }
        assert_eq!(required(None, "Report", "task").unwrap_err().to_string(), "Report.task: is missing");
    }

    #[test]
    fn any_task_of_an_instance_can_be_named() {
        for task in [0, 3, u64::MAX] {
            let key = AttemptKey { instance: InstanceId(7), task: TaskId(task), attempt: 2 };
            assert_eq!(required(Some(&key.into()), "Report", "task"), Ok(key));
        }
    }
}
