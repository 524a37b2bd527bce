//! What servers ask of workers, checked on the worker's side.

use pendula_model::limits;
use pendula_model::task::TaskRole;

use crate::error::WireError;
use crate::v1::{self, Dispatch, Held};

impl From<TaskRole> for v1::TaskRole {
    fn from(role: TaskRole) -> Self {
        match role {
            TaskRole::Root => v1::TaskRole::Root,
            TaskRole::Sub => v1::TaskRole::Sub,
            TaskRole::Target => v1::TaskRole::Target,
            TaskRole::Shard => v1::TaskRole::Shard,
            TaskRole::Pre => v1::TaskRole::Pre,
            TaskRole::Post => v1::TaskRole::Post,
            TaskRole::Reduce => v1::TaskRole::Reduce,
        }
    }
}

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

    /// What the task is for; `None` for the only task of a standalone instance.
    ///
    /// # Errors
    /// For a role of a version to come: what such a task may do, nobody here knows.
    pub fn task_role(&self) -> Result<Option<TaskRole>, WireError> {
        Ok(Some(match v1::TaskRole::try_from(self.role) {
            Ok(v1::TaskRole::Unspecified) => return Ok(None),
            Ok(v1::TaskRole::Root) => TaskRole::Root,
            Ok(v1::TaskRole::Sub) => TaskRole::Sub,
            Ok(v1::TaskRole::Target) => TaskRole::Target,
            Ok(v1::TaskRole::Shard) => TaskRole::Shard,
            Ok(v1::TaskRole::Pre) => TaskRole::Pre,
            Ok(v1::TaskRole::Post) => TaskRole::Post,
            Ok(v1::TaskRole::Reduce) => TaskRole::Reduce,
            Err(_) => {
                let why = format!("{} is unknown to this version; upgrade the worker", self.role);
                return Err(WireError::new("Dispatch", "role", why));
            }
        }))
    }

    /// Refuses a dispatch that cannot be run as it stands.
    ///
    /// # Errors
    /// For a missing or ill-formed processor, an unknown role, a shard that does not exist, and for parameters or an input
    /// beyond [`limits`].
    pub fn check(&self) -> Result<(), WireError> {
        limits::check_name("", &self.processor)
            .map_err(|invalid| WireError::new("Dispatch", "processor", invalid.message))?;
        if self.params.len() > limits::PARAMS_BYTES {
            let why = format!("{} bytes; at most {}", self.params.len(), limits::PARAMS_BYTES);
            return Err(WireError::new("Dispatch", "params", why));
        }
        if self.input.len() > limits::TASK_INPUT_BYTES {
            let why = format!("{} bytes; at most {}", self.input.len(), limits::TASK_INPUT_BYTES);
            return Err(WireError::new("Dispatch", "input", why));
        }
        if self.shard_total > 0 && self.shard_index >= self.shard_total {
            let why = format!("{} of {}; they count from 0", self.shard_index, self.shard_total);
            return Err(WireError::new("Dispatch", "shard_index", why));
        }
        self.task_role().map(drop)
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

    #[test]
    fn what_makes_no_sense_of_a_task_is_refused() {
        let good = Dispatch { processor: "shell".to_owned(), shard_index: 1, shard_total: 2, ..Default::default() };
        assert_eq!((good.check(), good.task_role()), (Ok(()), Ok(None)));
        let input = vec![0; limits::TASK_INPUT_BYTES + 1].into();
        for (dispatch, field) in [
            (Dispatch { role: 8, ..good.clone() }, "role"),
            (Dispatch { shard_index: 2, ..good.clone() }, "shard_index"),
            (Dispatch { input, ..good.clone() }, "input"),
        ] {
            assert_eq!(dispatch.check().unwrap_err().field, field);
        }
        for role in TaskRole::ALL {
            let dispatch = Dispatch { role: v1::TaskRole::from(*role).into(), ..good.clone() };
            assert_eq!(dispatch.task_role(), Ok(Some(*role)));
        }
    }
}
