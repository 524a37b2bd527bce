//! `Held` names one attempt at one task.

use pendula_model::InstanceId;

use crate::error::WireError;
use crate::v1::Held;

impl Held {
    /// An attempt at the root task of `instance`, the only task of a standalone instance.
    pub fn root(instance: InstanceId, attempt: u32) -> Self {
        Held { instance: instance.0, attempt, task: 0 }
    }

    /// Refuses what names nothing: instances and attempts count from 1.
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

impl TryFrom<&Held> for (InstanceId, u32) {
    type Error = WireError;

    /// # Errors
    /// When it names nothing, or a task other than the root.
    fn try_from(held: &Held) -> Result<Self, WireError> {
        held.check()?;
        if held.task != 0 {
            return Err(WireError::new("Held", "task", format!("{} is not the root task", held.task)));
        }
        Ok((InstanceId(held.instance), held.attempt))
    }
}

/// The instance and attempt that an optional field names.
///
/// # Errors
/// As the conversion of [`Held`]; also when the field is absent.
pub fn required(
    held: Option<&Held>,
    message: &'static str,
    field: &'static str,
) -> Result<(InstanceId, u32), WireError> {
    held.ok_or_else(|| WireError::new(message, field, "is missing"))?.try_into()
}

/// Each attempt of a list; one bad entry refuses all.
///
/// # Errors
/// As the conversion of [`Held`].
pub fn all(held: &[Held]) -> Result<Vec<(InstanceId, u32)>, WireError> {
    held.iter().map(TryInto::try_into).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_names_nothing_is_refused() {
        let good = Held::root(InstanceId(7), 2);
        assert_eq!((&good).try_into(), Ok((InstanceId(7), 2)));
        for (held, field) in [
            (Held::default(), "instance"),
            (Held { instance: -1, ..good }, "instance"),
            (Held { attempt: 0, ..good }, "attempt"),
            (Held { task: 3, ..good }, "task"),
        ] {
            assert_eq!(all(&[good, held]).unwrap_err().field, field);
        }
        assert_eq!(required(None, "Report", "task").unwrap_err().to_string(), "Report.task: is missing");
    }
}
