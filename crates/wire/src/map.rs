//! The sub-tasks that a running task emits, checked, and the answers to it.

use std::sync::Arc;

use pendula_model::instance::Payload;
use pendula_model::{AttemptKey, limits};

use crate::error::WireError;
use crate::frame;
use crate::held;
use crate::v1;

/// Bytes of the content type of an input.
pub const CONTENT_TYPE_BYTES: usize = 256;

/// Sub-tasks that one attempt emits.
#[derive(Clone, Debug, PartialEq)]
pub struct WorkerMap {
    /// Who emits them.
    pub attempt: AttemptKey,
    /// Position of the first of them among all that the task emits, from 0.
    pub first: u64,
    /// At most [`frame::BATCH_ENTRIES`]. None only asks how many were accepted.
    pub tasks: Vec<EmittedTask>,
}

/// One sub-task.
#[derive(Clone, Debug, PartialEq)]
pub struct EmittedTask {
    /// For people; may be empty. At most [`limits::TASK_NAME_BYTES`], without control characters.
    pub name: Arc<str>,
    /// At most [`limits::TASK_INPUT_BYTES`].
    pub input: Option<Arc<Payload>>,
}

/// The answer to one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapAnswer {
    /// Who asked.
    pub attempt: AttemptKey,
    /// How many are on disk, of all that the task emits; or why these are refused, for people.
    pub reply: Result<u64, String>,
}

impl v1::SubTask {
    /// Refuses what no server takes; for both sides.
    ///
    /// # Errors
    /// For a name or content type that is too long or has control characters, and for an input beyond
    /// [`limits::TASK_INPUT_BYTES`].
    pub fn check(&self) -> Result<(), WireError> {
        let text = |field, text: &str, bytes: usize| {
            if text.len() > bytes {
                return Err(WireError::new("SubTask", field, format!("{} bytes; at most {bytes}", text.len())));
            }
            match text.chars().find(|c| c.is_control()) {
                Some(c) => Err(WireError::new("SubTask", field, format!("the control character {c:?} is not allowed"))),
                None => Ok(()),
            }
        };
        text("name", &self.name, limits::TASK_NAME_BYTES)?;
        text("content_type", &self.content_type, CONTENT_TYPE_BYTES)?;
        if self.input.len() > limits::TASK_INPUT_BYTES {
            let why = format!("{} bytes; at most {}", self.input.len(), limits::TASK_INPUT_BYTES);
            return Err(WireError::new("SubTask", "input", why));
        }
        Ok(())
    }
}

impl TryFrom<v1::SubTask> for EmittedTask {
    type Error = WireError;

    /// # Errors
    /// As [`v1::SubTask::check`].
    fn try_from(task: v1::SubTask) -> Result<Self, WireError> {
        task.check()?;
        let has_input = !task.input.is_empty() || !task.content_type.is_empty();
        let input = || Arc::new(Payload { content_type: task.content_type, bytes: task.input.to_vec() });
        Ok(EmittedTask { name: Arc::from(task.name), input: has_input.then(input) })
    }
}

impl From<EmittedTask> for v1::SubTask {
    fn from(task: EmittedTask) -> Self {
        let (content_type, input) = match task.input.map(Arc::unwrap_or_clone) {
            Some(Payload { content_type, bytes }) => (content_type, bytes),
            None => Default::default(),
        };
        v1::SubTask { name: task.name.as_ref().to_owned(), input: input.into(), content_type }
    }
}

impl TryFrom<v1::MapRequest> for WorkerMap {
    type Error = WireError;

    /// # Errors
    /// When it names no attempt, has more than [`frame::BATCH_ENTRIES`] sub-tasks or positions that do not exist, or when
    /// one sub-task is refused.
    fn try_from(request: v1::MapRequest) -> Result<Self, WireError> {
        let attempt = held::required(request.task.as_ref(), "MapRequest", "task")?;
        let count = request.tasks.len();
        if count > frame::BATCH_ENTRIES {
            let why = format!("{count} in one request; at most {}", frame::BATCH_ENTRIES);
            return Err(WireError::new("MapRequest", "tasks", why));
        }
        if request.first.checked_add(count as u64).is_none() {
            return Err(WireError::new("MapRequest", "first", format!("{} is no position", request.first)));
        }
        let tasks = request.tasks.into_iter().map(EmittedTask::try_from).collect::<Result<_, _>>()?;
        Ok(WorkerMap { attempt, first: request.first, tasks })
    }
}

impl From<MapAnswer> for v1::MapReply {
    /// A refusal without text gets one, because an empty one would read as consent.
    fn from(answer: MapAnswer) -> Self {
        let task = Some(answer.attempt.into());
        match answer.reply {
            Ok(emitted) => v1::MapReply { task, emitted, refusal: String::new() },
            Err(why) => v1::MapReply { task, emitted: 0, refusal: refusal(&why) },
        }
    }
}

impl TryFrom<v1::MapReply> for MapAnswer {
    type Error = WireError;

    /// # Errors
    /// When it names no attempt.
    fn try_from(reply: v1::MapReply) -> Result<Self, WireError> {
        let attempt = held::required(reply.task.as_ref(), "MapReply", "task")?;
        let reply = if reply.refusal.is_empty() {
            Ok(reply.emitted)
        } else {
            Err(limits::cut(&reply.refusal, limits::MESSAGE_BYTES))
        };
        Ok(MapAnswer { attempt, reply })
    }
}

/// What stands in a field whose emptiness means consent.
pub(crate) fn refusal(why: &str) -> String {
    if why.is_empty() { "refused".to_owned() } else { limits::cut(why, limits::MESSAGE_BYTES) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pendula_model::InstanceId;

    fn sub(name: &str, input: &[u8], content_type: &str) -> v1::SubTask {
        v1::SubTask { name: name.to_owned(), input: input.to_vec().into(), content_type: content_type.to_owned() }
    }

    fn request(tasks: Vec<v1::SubTask>) -> v1::MapRequest {
        v1::MapRequest { task: Some(v1::Held::root(InstanceId(5), 1)), first: 7, tasks }
    }

    #[test]
    fn sub_tasks_survive_the_way_and_back() {
        let sent =
            vec![sub("a", b"1", "text/plain"), sub("", b"", ""), sub("每日", b"", "text/plain"), sub("b", b"x", "")];
        let map = WorkerMap::try_from(request(sent.clone())).unwrap();
        assert_eq!((map.attempt, map.first), (AttemptKey::root(InstanceId(5), 1), 7));
        assert_eq!(map.tasks[1].input, None);
        assert_eq!(map.tasks[2].input.as_deref().map(|input| input.bytes.len()), Some(0));
        assert_eq!(map.tasks.into_iter().map(v1::SubTask::from).collect::<Vec<_>>(), sent);
        assert_eq!(WorkerMap::try_from(request(Vec::new())).unwrap().tasks, []);
    }

    #[test]
    fn what_no_server_takes_is_refused_with_its_field() {
        let long = "x".repeat(limits::TASK_NAME_BYTES + 1);
        for (tasks, field) in [
            (vec![sub(&long, b"", "")], "name"),
            (vec![sub("ok", b"", ""), sub("a\nb", b"", "")], "name"),
            (vec![sub("", b"", &long)], "content_type"),
            (vec![sub("", &vec![0; limits::TASK_INPUT_BYTES + 1], "")], "input"),
            (vec![sub("", b"", ""); frame::BATCH_ENTRIES + 1], "tasks"),
        ] {
            assert_eq!(WorkerMap::try_from(request(tasks)).unwrap_err().field, field);
        }
        let most = vec![sub(&long[1..], &vec![0; limits::TASK_INPUT_BYTES], "a/b"); 2];
        assert_eq!(WorkerMap::try_from(request(most)).unwrap().tasks.len(), 2);
        assert_eq!(WorkerMap::try_from(v1::MapRequest::default()).unwrap_err().field, "task");
        let beyond = v1::MapRequest { first: u64::MAX, ..request(vec![sub("", b"", "")]) };
        assert_eq!(WorkerMap::try_from(beyond).unwrap_err().field, "first");
    }

    #[test]
    fn answers_survive_and_a_refusal_never_reads_as_consent() {
        let attempt = AttemptKey::root(InstanceId(5), 1);
        for (reply, read) in [
            (Ok(7), Ok(7)),
            (Err("no".to_owned()), Err("no".to_owned())),
            (Err(String::new()), Err("refused".to_owned())),
        ] {
            let answer = MapAnswer { attempt, reply };
            assert_eq!(MapAnswer::try_from(v1::MapReply::from(answer)), Ok(MapAnswer { attempt, reply: read }));
        }
        assert_eq!(MapAnswer::try_from(v1::MapReply::default()).unwrap_err().field, "task");
    }
}
