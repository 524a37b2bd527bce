//! What the tasks of an instance left, as `post` and `reduce` read it.

use std::sync::Arc;

use pendula_model::instance::{Payload, Reason, TaskState};
use pendula_model::task::Task;
use pendula_model::{AttemptKey, TaskId, limits};

use crate::error::WireError;
use crate::held;
use crate::map::refusal;
use crate::v1;

/// A wish for one page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageRequest {
    /// Who reads.
    pub attempt: AttemptKey,
    /// Repeated in the answer.
    pub request: u64,
    /// The first task that is wanted.
    pub from: TaskId,
}

/// The answer to a [`PageRequest`].
#[derive(Clone, Debug, PartialEq)]
pub struct PageAnswer {
    /// Who reads.
    pub attempt: AttemptKey,
    /// Of the request.
    pub request: u64,
    /// The page, or why nothing can be read, for people.
    pub page: Result<Page, String>,
}

/// Some results, in order of the tasks' numbers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Page {
    /// May be empty although more follow.
    pub results: Vec<TaskResult>,
    /// Where the next page begins.
    pub next: TaskId,
    /// Nothing follows.
    pub end: bool,
}

/// How one task ended and what it left.
#[derive(Clone, Debug, PartialEq)]
pub struct TaskResult {
    /// Its number.
    pub task: TaskId,
    /// Given by who emitted it; of a broadcast's tasks, the worker's name. May be empty.
    pub name: String,
    /// How it ended.
    pub outcome: TaskOutcome,
    /// What it produced; at most [`limits::TASK_RESULT_BYTES`].
    pub result: Option<Payload>,
    /// Why it did not succeed, machine-readable.
    pub reason: Option<Reason>,
    /// For people; at most [`limits::MESSAGE_BYTES`].
    pub message: Option<String>,
    /// Name of the worker that had it last.
    pub worker: Option<String>,
}

/// The `TaskOutcome` of the wire. A value that this version does not know keeps its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskOutcome {
    /// Well.
    Succeeded,
    /// Not well.
    Failed,
    /// Its worker vanished.
    Lost,
    /// It was stopped, or never ran.
    Stopped,
    /// Something that a newer server says; whether well is not known.
    Unknown(i32),
}

impl TaskOutcome {
    /// Whether it ended well.
    pub fn is_success(self) -> bool {
        self == TaskOutcome::Succeeded
    }
}

impl std::fmt::Display for TaskOutcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            TaskOutcome::Succeeded => "succeeded",
            TaskOutcome::Failed => "failed",
            TaskOutcome::Lost => "lost",
            TaskOutcome::Stopped => "stopped",
            TaskOutcome::Unknown(number) => return write!(f, "unknown_{number}"),
        })
    }
}

impl TryFrom<v1::ResultRequest> for PageRequest {
    type Error = WireError;

    /// # Errors
    /// When it names no attempt.
    fn try_from(request: v1::ResultRequest) -> Result<Self, WireError> {
        let attempt = held::required(request.task.as_ref(), "ResultRequest", "task")?;
        Ok(PageRequest { attempt, request: request.request, from: TaskId(request.from) })
    }
}

impl From<PageRequest> for v1::ResultRequest {
    fn from(request: PageRequest) -> Self {
        v1::ResultRequest { task: Some(request.attempt.into()), request: request.request, from: request.from.0 }
    }
}

impl TryFrom<v1::ResultPage> for PageAnswer {
    type Error = WireError;

    /// # Errors
    /// When it names no attempt, when one result makes no sense, and when neither the next page nor the end is told.
    fn try_from(page: v1::ResultPage) -> Result<Self, WireError> {
        let attempt = held::required(page.task.as_ref(), "ResultPage", "task")?;
        let request = page.request;
        if !page.refusal.is_empty() {
            let why = limits::cut(&page.refusal, limits::MESSAGE_BYTES);
            return Ok(PageAnswer { attempt, request, page: Err(why) });
        }
        if page.next == 0 && !page.end {
            return Err(WireError::new("ResultPage", "next", "is missing"));
        }
        let results = page.results.into_iter().map(TaskResult::try_from).collect::<Result<_, _>>()?;
        Ok(PageAnswer { attempt, request, page: Ok(Page { results, next: TaskId(page.next), end: page.end }) })
    }
}

impl From<PageAnswer> for v1::ResultPage {
    /// A refusal without text gets one, because an empty one would read as an empty page.
    fn from(answer: PageAnswer) -> Self {
        let base = v1::ResultPage { task: Some(answer.attempt.into()), request: answer.request, ..Default::default() };
        match answer.page {
            Ok(Page { results, next, end }) => {
                v1::ResultPage { results: results.into_iter().map(Into::into).collect(), next: next.0, end, ..base }
            }
            Err(why) => v1::ResultPage { refusal: refusal(&why), ..base },
        }
    }
}

impl TryFrom<v1::TaskResult> for TaskResult {
    type Error = WireError;

    /// # Errors
    /// Without an outcome, and beyond the limits of a result.
    fn try_from(result: v1::TaskResult) -> Result<Self, WireError> {
        let outcome = match v1::TaskOutcome::try_from(result.outcome) {
            Ok(v1::TaskOutcome::Unspecified) => return Err(WireError::new("TaskResult", "outcome", "is missing")),
            Ok(v1::TaskOutcome::Succeeded) => TaskOutcome::Succeeded,
            Ok(v1::TaskOutcome::Failed) => TaskOutcome::Failed,
            Ok(v1::TaskOutcome::Lost) => TaskOutcome::Lost,
            Ok(v1::TaskOutcome::Stopped) => TaskOutcome::Stopped,
            Err(_) => TaskOutcome::Unknown(result.outcome),
        };
        if result.result.len() > limits::TASK_RESULT_BYTES {
            let why = format!("{} bytes; at most {}", result.result.len(), limits::TASK_RESULT_BYTES);
            return Err(WireError::new("TaskResult", "result", why));
        }
        if result.content_type.len() > limits::MESSAGE_BYTES {
            return Err(WireError::new("TaskResult", "content_type", "is too long"));
        }
        let has_result = !result.result.is_empty() || !result.content_type.is_empty();
        let payload = || Payload { content_type: result.content_type, bytes: result.result.to_vec() };
        Ok(TaskResult {
            task: TaskId(result.task),
            name: result.name,
            outcome,
            result: has_result.then(payload),
            reason: (!result.reason.is_empty()).then(|| Reason::from_wire(&result.reason)),
            message: (!result.message.is_empty()).then(|| limits::cut(&result.message, limits::MESSAGE_BYTES)),
            worker: (!result.worker.is_empty()).then_some(result.worker),
        })
    }
}

impl From<TaskResult> for v1::TaskResult {
    fn from(result: TaskResult) -> Self {
        let outcome = match result.outcome {
            TaskOutcome::Succeeded => v1::TaskOutcome::Succeeded.into(),
            TaskOutcome::Failed => v1::TaskOutcome::Failed.into(),
            TaskOutcome::Lost => v1::TaskOutcome::Lost.into(),
            TaskOutcome::Stopped => v1::TaskOutcome::Stopped.into(),
            TaskOutcome::Unknown(number) => number,
        };
        let (content_type, bytes) = match result.result {
            Some(Payload { content_type, bytes }) => (content_type, bytes),
            None => Default::default(),
        };
        v1::TaskResult {
            task: result.task.0,
            name: result.name,
            outcome,
            result: bytes.into(),
            content_type,
            reason: result.reason.map(|reason| reason.as_str().to_owned()).unwrap_or_default(),
            message: result.message.unwrap_or_default(),
            worker: result.worker.unwrap_or_default(),
        }
    }
}

impl v1::TaskResult {
    /// What a stored task left; `None` of one that has not ended.
    pub fn of(task: &Task) -> Option<Self> {
        let outcome = match task.state {
            TaskState::Succeeded => v1::TaskOutcome::Succeeded,
            TaskState::Failed => v1::TaskOutcome::Failed,
            TaskState::Lost => v1::TaskOutcome::Lost,
            TaskState::Stopped => v1::TaskOutcome::Stopped,
            TaskState::Waiting | TaskState::Dispatched | TaskState::Running => return None,
        };
        let text = |text: &Option<Arc<str>>| text.as_deref().unwrap_or_default().to_owned();
        let result = task.result.as_deref();
        Some(v1::TaskResult {
            task: task.id.0,
            name: task.name.as_ref().to_owned(),
            outcome: outcome.into(),
            result: result.map(|result| result.bytes.clone().into()).unwrap_or_default(),
            content_type: result.map(|result| result.content_type.clone()).unwrap_or_default(),
            reason: task.reason.as_ref().map(|reason| reason.as_str().to_owned()).unwrap_or_default(),
            message: text(&task.message),
            worker: task.worker.as_ref().map(|worker| worker.name.as_ref().to_owned()).unwrap_or_default(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pendula_model::task::TaskRole;
    use pendula_model::worker::{BootId, WorkerRef};
    use pendula_model::{InstanceId, Timestamp};

    fn failed() -> TaskResult {
        TaskResult {
            task: TaskId(3),
            name: "part".to_owned(),
            outcome: TaskOutcome::Failed,
            result: Some(Payload::json("{}")),
            reason: Some(Reason::EXIT_CODE),
            message: Some("code 3".to_owned()),
            worker: Some("w1".to_owned()),
        }
    }

    fn answer(page: Result<Page, String>) -> PageAnswer {
        PageAnswer { attempt: AttemptKey::root(InstanceId(5), 1), request: 9, page }
    }

    #[test]
    fn pages_survive_the_way_and_back() {
        let bare = TaskResult { result: None, reason: None, message: None, worker: None, ..failed() };
        let unknown = TaskResult { outcome: TaskOutcome::Unknown(77), ..bare.clone() };
        let page = Page { results: vec![failed(), bare, unknown], next: TaskId(8), end: false };
        for page in [Ok(page), Ok(Page { end: true, ..Page::default() }), Err("not yours".to_owned())] {
            assert_eq!(PageAnswer::try_from(v1::ResultPage::from(answer(page.clone()))), Ok(answer(page)));
        }
        let request = PageRequest { attempt: AttemptKey::root(InstanceId(5), 1), request: 9, from: TaskId(4) };
        assert_eq!(PageRequest::try_from(v1::ResultRequest::from(request)), Ok(request));
    }

    #[test]
    fn what_decodes_to_defaults_or_is_too_large_is_refused() {
        assert_eq!(PageRequest::try_from(v1::ResultRequest::default()).unwrap_err().field, "task");
        assert_eq!(PageAnswer::try_from(v1::ResultPage::default()).unwrap_err().field, "task");
        let endless = v1::ResultPage { next: 0, ..answer(Ok(Page::default())).into() };
        assert_eq!(PageAnswer::try_from(endless).unwrap_err().field, "next");
        assert_eq!(TaskResult::try_from(v1::TaskResult::default()).unwrap_err().field, "outcome");
        let result = vec![0; limits::TASK_RESULT_BYTES + 1].into();
        let large = v1::TaskResult { result, ..failed().into() };
        assert_eq!(TaskResult::try_from(large).unwrap_err().field, "result");
    }

    #[test]
    fn a_stored_task_tells_its_result_once_it_ended() {
        let at = Timestamp::from_micros(0);
        let mut task = Task::new(InstanceId(5), TaskId(3), TaskRole::Sub, "part".into(), at);
        assert_eq!(v1::TaskResult::of(&task), None);
        task.state = TaskState::Failed;
        task.result = Some(Arc::new(Payload::json("{}")));
        task.reason = Some(Reason::EXIT_CODE);
        task.message = Some("code 3".into());
        task.worker = Some(WorkerRef { name: "w1".into(), boot: BootId(7) });
        assert_eq!(TaskResult::try_from(v1::TaskResult::of(&task).unwrap()), Ok(failed()));
    }
}
