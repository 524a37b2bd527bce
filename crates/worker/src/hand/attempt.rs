//! One attempt's future.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures::FutureExt;
use pendula_wire::v1;
use tokio::task::AbortHandle;

use crate::event::{Event, Events, Returned};
use crate::handler::Handler;
use crate::log::{LogShare, LogWriter};
use crate::task::{Task, TaskState};

/// A handler at work.
pub(super) struct Live {
    pub(super) task: Arc<TaskState>,
    pub(super) future: AbortHandle,
}

/// What the loop and the handler will share.
pub(super) fn task(dispatch: v1::Dispatch, held: v1::Held, share: &Arc<LogShare>, events: &Events) -> Arc<TaskState> {
    TaskState::new(dispatch, held, LogWriter::new(share.clone()), events.clone(), None)
}

/// Sets the handler to work. However its future ends, one [`Event::Ended`] follows, after the future is gone.
pub(super) fn spawn(handler: Arc<dyn Handler>, task: Arc<TaskState>) -> Live {
    let last_word = LastWord { task: task.clone(), how: Returned::Dropped };
    let future = tokio::spawn(work(last_word, handler)).abort_handle();
    Live { task, future }
}

/// Says how it ended when it is dropped: the only thing that happens on every path.
struct LastWord {
    task: Arc<TaskState>,
    how: Returned,
}

impl Drop for LastWord {
    fn drop(&mut self) {
        let how = std::mem::replace(&mut self.how, Returned::Dropped);
        // Nobody listens only when the worker is gone.
        let _ = self.task.events.send(Event::Ended { held: self.task.held, how });
    }
}

async fn work(mut last_word: LastWord, handler: Arc<dyn Handler>) {
    let task = Task { state: last_word.task.clone() };
    // The call itself may panic too, hence the block. What the handler shares with others after a panic is its own
    // responsibility; nothing of ours is left half changed.
    let returned = AssertUnwindSafe(async { handler.run(task).await }).catch_unwind().await;
    last_word.how = match returned {
        Ok(result) => Returned::Done(result),
        Err(panic) => Returned::Panicked(text_of(panic.as_ref())),
    };
}

fn text_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("the handler panicked").to_owned()
}
