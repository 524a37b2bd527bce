//! How tasks that the server tracks are called towards workers, and what they carry.

use pendula_engine::input::NewTask;
use pendula_model::instance::Payload;
use pendula_model::{AttemptKey, InstanceId, TaskId, limits};

use crate::messages::ProcessorMapTaskRequest;

/// What sub-tasks carry. Workers send whole buffers, whose zeros at the end are not worth storing: `length` tells how many
/// bytes there were.
const CONTENT_TYPE: &str = "application/x-powerjob-task; length=";

/// Task and attempt: a worker repeats it in all that it says of the task.
pub(crate) fn task_id(key: AttemptKey) -> String {
    format!("{}-{}", key.task.0, key.attempt)
}

/// The same back. Nothing of what was not written here.
pub(crate) fn attempt(instance: i64, task_id: &str) -> Option<AttemptKey> {
    let (task, attempt) = task_id.split_once('-')?;
    let (task, attempt): (u64, u32) = (task.parse().ok()?, attempt.parse().ok()?);
    (attempt > 0).then_some(AttemptKey { instance: InstanceId(instance), task: TaskId(task), attempt })
}

/// What one call of `map` emits.
#[derive(Debug)]
pub(crate) struct SubTasks {
    pub(crate) parent: AttemptKey,
    /// Position of the first among all that the parent emits: workers count them.
    pub(crate) first: u64,
    pub(crate) tasks: Vec<NewTask>,
}

/// # Errors
/// Why it cannot be taken, for people.
pub(crate) fn sub_tasks(request: ProcessorMapTaskRequest) -> Result<SubTasks, String> {
    let name = limits::cut(&request.task_name, limits::TASK_NAME_BYTES);
    if name.is_empty() {
        return Err("the sub-tasks have no name".to_owned());
    }
    let mut found: Option<(AttemptKey, u64)> = None;
    let mut tasks = Vec::with_capacity(request.sub_tasks.len());
    for (number, sub_task) in (0..).zip(request.sub_tasks) {
        let wrong = || format!("`{}` is no number of a sub-task here", limits::cut(&sub_task.task_id, 100));
        let (parent, position) = sub_task.task_id.rsplit_once('.').ok_or_else(wrong)?;
        let parent = attempt(request.instance_id, parent).ok_or_else(wrong)?;
        let position: u64 = position.parse().map_err(|_| wrong())?;
        let (first_parent, first) = *found.get_or_insert((parent, position));
        if parent != first_parent || position != first + number {
            return Err(wrong());
        }
        let input = sub_task.task_content.map(payload).transpose()?;
        tasks.push(NewTask { name: name.as_str().into(), input: input.map(Into::into) });
    }
    let (parent, first) = found.ok_or("there are no sub-tasks")?;
    Ok(SubTasks { parent, first, tasks })
}

fn payload(content: Vec<u8>) -> Result<Payload, String> {
    let length = content.len();
    let used = content.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    if used > limits::TASK_INPUT_BYTES || length > 2 * limits::TASK_INPUT_BYTES {
        return Err(format!("a sub-task of {used} bytes; at most {} are taken", limits::TASK_INPUT_BYTES));
    }
    let mut bytes = content;
    bytes.truncate(used);
    Ok(Payload { content_type: format!("{CONTENT_TYPE}{length}"), bytes })
}

/// The bytes as they came.
pub(crate) fn content(payload: &Payload) -> Vec<u8> {
    let length = payload.content_type.strip_prefix(CONTENT_TYPE).and_then(|length| length.parse().ok());
    let mut bytes = payload.bytes.clone();
    let length: usize = length.unwrap_or(bytes.len()).clamp(bytes.len(), bytes.len().max(2 * limits::TASK_INPUT_BYTES));
    bytes.resize(length, 0);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::messages::SubTask;

    fn key(task: u64, attempt: u32) -> AttemptKey {
        AttemptKey { instance: InstanceId(7), task: TaskId(task), attempt }
    }

    #[test]
    fn tasks_are_known_again_by_their_ids() {
        for key in [key(0, 1), key(18_446_744_073_709_551_615, 4_294_967_295)] {
            assert_eq!(attempt(7, &task_id(key)), Some(key));
        }
        for other in ["", "0", "0-", "-1", "0-0", "0-1.3", "x-1", "0.1-1", "00x-1"] {
            assert_eq!(attempt(7, other), None, "{other}");
        }
    }

    fn request(ids: &[&str]) -> ProcessorMapTaskRequest {
        let sub_task = |id: &&str| SubTask { task_id: (*id).to_owned(), task_content: Some(vec![1, 0, 2, 0, 0, 0]) };
        ProcessorMapTaskRequest {
            instance_id: 7,
            task_name: "SHARD".to_owned(),
            sub_tasks: ids.iter().map(sub_task).collect(),
        }
    }

    #[test]
    fn sub_tasks_say_their_parent_and_their_place() {
        let found = sub_tasks(request(&["3-2.5", "3-2.6"])).unwrap();
        assert_eq!((found.parent, found.first, found.tasks.len()), (key(3, 2), 5, 2));
        let input = found.tasks[1].input.clone().unwrap();
        assert_eq!(input.bytes, [1, 0, 2]);
        assert_eq!(content(&input), [1, 0, 2, 0, 0, 0], "zeros may mean something");
        for ids in [&["3-2.5", "3-2.7"][..], &["3-2.5", "4-2.6"], &["3-2"], &["0.1"], &["3-2.x"], &[]] {
            assert!(sub_tasks(request(ids)).is_err(), "{ids:?}");
        }
    }
}
