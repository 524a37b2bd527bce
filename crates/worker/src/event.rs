//! What tasks tell the worker's loop.

use std::sync::Arc;

use pendula_wire::v1;
use tokio::sync::mpsc;

use crate::handler::{Failure, Output};
use crate::task::TaskState;

/// One queue for all tasks: the loop empties it in one go, which makes batches without delaying anything. Unbounded in
/// type only: a task has at most one event of each kind in it.
pub(crate) type Events = mpsc::UnboundedSender<Event>;

pub(crate) enum Event {
    /// There is more of its log to send. Said once until the loop has looked.
    Logged(Arc<TaskState>),
    /// It told how far it is. Said once until the loop has looked.
    Progressed(Arc<TaskState>),
    /// It asks the server something. Said once until the loop has looked.
    Asked(Arc<TaskState>),
    /// Its future is gone.
    Ended { held: v1::Held, how: Returned },
}

/// How the future of a handler ended.
#[derive(Debug)]
pub(crate) enum Returned {
    Done(Result<Output, Failure>),
    Panicked(String),
    /// It was dropped before it returned.
    Dropped,
}
