//! `noop`: does nothing, for measuring everything else.
//!
//! As the root of a map it emits as many sub-tasks as the parameter `tasks` says, each with its number as input; as the
//! `reduce` it reads all results and counts them.

use async_trait::async_trait;
use pendula_worker::{Failure, Handler, Output, SubTask, Task, TaskRole};
use serde::{Deserialize, Serialize};

pub(crate) struct Noop;

#[derive(Deserialize)]
struct Params {
    #[serde(default)]
    tasks: u64,
}

#[derive(Debug, Default, PartialEq, Serialize)]
struct Counts {
    succeeded: u64,
    unsuccessful: u64,
}

#[async_trait]
impl Handler for Noop {
    async fn run(&self, task: Task) -> Result<Output, Failure> {
        match task.role() {
            Some(TaskRole::Root) => {
                let Params { tasks } = task.params_json()?;
                task.map((0..tasks).map(|n| SubTask::text("", n.to_string()))).await?;
                Ok(Output::default())
            }
            Some(TaskRole::Reduce) => {
                let mut counts = Counts::default();
                let mut results = task.results()?;
                while let Some(result) = results.next().await? {
                    if result.outcome.is_success() {
                        counts.succeeded += 1;
                    } else {
                        counts.unsuccessful += 1;
                    }
                }
                Output::json(&counts)
            }
            _ => Ok(Output::default()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pendula_worker::testing::TestTask;
    use pendula_worker::{Payload, TaskId, TaskOutcome, TaskResult};

    #[tokio::test]
    async fn it_maps_and_counts() {
        let (task, probe) = TestTask::new("noop").role(TaskRole::Root).params(r#"{"tasks":2500}"#).build();
        assert_eq!(Noop.run(task).await, Ok(Output::default()));
        let mapped = probe.mapped();
        assert_eq!((mapped.len(), mapped[2499].input()), (2500, b"2499".as_slice()));

        let result = |id: u64| TaskResult {
            task: TaskId(id),
            name: String::new(),
            outcome: if id.is_multiple_of(10) { TaskOutcome::Lost } else { TaskOutcome::Succeeded },
            result: None,
            reason: None,
            message: None,
            worker: None,
        };
        let (task, _probe) = TestTask::new("noop").role(TaskRole::Reduce).results((1..=250).map(result)).build();
        let counted = Noop.run(task).await.unwrap().result;
        assert_eq!(counted, Some(Payload::json(r#"{"succeeded":225,"unsuccessful":25}"#)));
    }
}
