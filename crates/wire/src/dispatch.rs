//! What servers ask of workers, checked on the worker's side.

use pendula_model::limits;

use crate::error::WireError;
use crate::v1::{Dispatch, Held};

impl Dispatch {
    /// The attempt that is to run.
    ///
    /// # Errors
    /// When it names no attempt: then nobody can be told about it.
    pub fn held(&self) -> Result<Held, WireError> {
        let held = self.task.ok_or_else(|| WireError::new("Dispatch", "task", "is missing"))?;
        held.check()?;
        Ok(held)
    }

    /// Refuses a dispatch that cannot be run as it stands.
    ///
    /// # Errors
    /// For a missing or ill-formed processor, and for parameters beyond [`limits::PARAMS_BYTES`].
    pub fn check(&self) -> Result<(), WireError> {
        limits::check_name("", &self.processor)
            .map_err(|invalid| WireError::new("Dispatch", "processor", invalid.message))?;
        if self.params.len() > limits::PARAMS_BYTES {
            let why = format!("{} bytes; at most {}", self.params.len(), limits::PARAMS_BYTES);
            return Err(WireError::new("Dispatch", "params", why));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pendula_model::InstanceId;

    #[test]
    fn defaults_are_refused() {
        assert_eq!(Dispatch::default().held().unwrap_err().field, "task");
        assert_eq!(
            Dispatch { task: Some(Held::default()), ..Default::default() }.held().unwrap_err().field,
            "instance"
        );
        let mut dispatch = Dispatch { task: Some(Held::root(InstanceId(1), 1)), ..Default::default() };
        assert_eq!(dispatch.check().unwrap_err().field, "processor");
        dispatch.processor = "shell".to_owned();
        assert_eq!(dispatch.check(), Ok(()));
        dispatch.params = vec![b' '; limits::PARAMS_BYTES + 1].into();
        assert_eq!(dispatch.check().unwrap_err().field, "params");
    }
}
