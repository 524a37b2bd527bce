//! Reading what the other tasks of an instance left.

use pendula_model::TaskId;
use pendula_wire::results::{Page, TaskResult};
use tokio::sync::oneshot;

use crate::asks::results_refused;
use crate::handler::Failure;
use crate::task::Task;

/// Reads the results of an instance's tasks in order of their numbers; made by [`Task::results`].
///
/// They come in pages of about a mebibyte, of which at most two are in memory: the one that is read, and the next one.
#[derive(Debug)]
pub struct TaskResults {
    task: Task,
    page: std::vec::IntoIter<TaskResult>,
    /// Where the page after this one begins; `None` after the last one.
    next: Option<TaskId>,
    asked: Option<oneshot::Receiver<Result<Page, Failure>>>,
}

impl Task {
    /// The results of all tasks proper of this instance: sub-tasks, targets, shards, also of those that did not succeed.
    /// May be called again, to read from the beginning.
    ///
    /// # Errors
    /// When this task is neither the `reduce` of a map nor the `post` of a broadcast.
    pub fn results(&self) -> Result<TaskResults, Failure> {
        let why = match self.role() {
            Some(role) if role.may_read_results() => {
                let (page, next) = (Vec::new().into_iter(), Some(TaskId::ROOT));
                return Ok(TaskResults { task: self.clone(), page, next, asked: None });
            }
            Some(role) => format!("a task with role {role} cannot read results; `reduce` and `post` can"),
            None => "a standalone instance has no other tasks whose results could be read".to_owned(),
        };
        Err(results_refused(why).without_retry())
    }
}

impl TaskResults {
    /// The next result; `None` after the last one. Nothing is lost when the future is dropped.
    ///
    /// # Errors
    /// When the server refuses, or the task is asked to stop meanwhile.
    pub async fn next(&mut self) -> Result<Option<TaskResult>, Failure> {
        loop {
            if let Some(result) = self.page.next() {
                return Ok(Some(result));
            }
            let Some(from) = self.next else { return Ok(None) };
            let asked = self.asked.get_or_insert_with(|| ask(&self.task, from));
            let answer = tokio::select! {
                answer = asked => answer,
                () = self.task.cancelled() => {
                    return Err(results_refused("this task was asked to stop while it read results"));
                }
            };
            self.asked = None;
            let page = answer.unwrap_or_else(|_| Err(results_refused("the worker is gone")))?;
            if !page.end && page.next <= from {
                return Err(results_refused(format!("the server leads from task {from} back to {}", page.next)));
            }
            self.next = (!page.end).then_some(page.next);
            self.page = page.results.into_iter();
            // Comes while this one is read.
            self.asked = self.next.map(|next| ask(&self.task, next));
        }
    }
}

fn ask(task: &Task, from: TaskId) -> oneshot::Receiver<Result<Page, Failure>> {
    let (answer, is_news) = task.state.asks().ask_page(from);
    if is_news {
        task.tell_of_question();
    }
    answer
}
