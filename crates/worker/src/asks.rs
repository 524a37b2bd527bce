//! What a running task asks the server: to take sub-tasks, and to show results. Questions wait here until the loop sends
//! them, and for their answers; both survive a lost connection.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use pendula_model::{AttemptKey, TaskId};
use pendula_wire::results::{Page, PageRequest};
use pendula_wire::v1;
use tokio::sync::{Notify, oneshot};

use crate::handler::Failure;

/// The questions of one attempt.
#[derive(Debug, Default)]
pub(crate) struct Asks {
    /// Held by the one who emits: of several at once the others wait.
    pub(crate) turn: tokio::sync::Mutex<()>,
    state: Mutex<Open>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Open {
    /// How many sub-tasks were handed over, those that earlier tries emitted included.
    position: u64,
    /// Not sent in this session.
    unsent: VecDeque<Emission>,
    /// Sent and not answered. Answers come in this order.
    sent: VecDeque<Emission>,
    pages: Vec<PageAsk>,
    page_requests: u64,
    /// Whether the loop knows that there is something to send.
    announced: bool,
    /// Why nothing is asked any more.
    closed: Option<Failure>,
}

/// Sub-tasks that travel together.
#[derive(Debug)]
pub(crate) struct Emission {
    first: u64,
    tasks: Vec<v1::SubTask>,
}

#[derive(Debug)]
struct PageAsk {
    request: u64,
    from: TaskId,
    sent: bool,
    reader: oneshot::Sender<Result<Page, Failure>>,
}

impl Asks {
    // The handler's side.

    /// How many sub-tasks were handed over so far.
    pub(crate) fn position(&self) -> u64 {
        self.lock().position
    }

    /// Counts a sub-task that an earlier try emitted, which is not sent again.
    pub(crate) fn skip(&self) {
        self.lock().position += 1;
    }

    /// Hands sub-tasks over. Returns whether the loop must be told.
    pub(crate) fn emit(&self, tasks: Vec<v1::SubTask>) -> Result<bool, Failure> {
        let mut open = self.lock();
        if let Some(failure) = &open.closed {
            return Err(failure.clone());
        }
        let first = open.position;
        open.position += tasks.len() as u64;
        open.unsent.push_back(Emission { first, tasks });
        Ok(!std::mem::replace(&mut open.announced, true))
    }

    /// Requests that were not answered yet.
    pub(crate) fn unanswered(&self) -> Result<usize, Failure> {
        let open = self.lock();
        match &open.closed {
            Some(failure) => Err(failure.clone()),
            None => Ok(open.unsent.len() + open.sent.len()),
        }
    }

    /// Completes when fewer than `count` requests are unanswered, or nothing is asked any more.
    pub(crate) async fn answered_below(&self, count: usize) {
        loop {
            // Enabled before the state is read, so that a change in between is not missed.
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            if self.unanswered().is_ok_and(|unanswered| unanswered >= count) {
                changed.await;
            } else {
                return;
            }
        }
    }

    /// Asks for results from `from` on. Returns where the answer comes, and whether the loop must be told.
    pub(crate) fn ask_page(&self, from: TaskId) -> (oneshot::Receiver<Result<Page, Failure>>, bool) {
        let (reader, answer) = oneshot::channel();
        let mut open = self.lock();
        if let Some(failure) = &open.closed {
            let _ = reader.send(Err(failure.clone()));
            return (answer, false);
        }
        open.page_requests += 1;
        let request = open.page_requests;
        open.pages.push(PageAsk { request, from, sent: false, reader });
        (answer, !std::mem::replace(&mut open.announced, true))
    }

    // The loop's side.

    /// The next request to send. Once there is none, the next emission announces itself again.
    pub(crate) fn next_map(&self, at: AttemptKey) -> Option<v1::MapRequest> {
        let mut open = self.lock();
        let Some(emission) = open.unsent.pop_front() else {
            open.announced = false;
            return None;
        };
        let request = v1::MapRequest { task: Some(at.into()), first: emission.first, tasks: emission.tasks.clone() };
        open.sent.push_back(emission);
        Some(request)
    }

    /// The next page to ask for. Once there is none, the next question announces itself again.
    pub(crate) fn next_page(&self, at: AttemptKey) -> Option<v1::ResultRequest> {
        let mut open = self.lock();
        open.pages.retain(|ask| !ask.reader.is_closed());
        let Some(ask) = open.pages.iter_mut().find(|ask| !ask.sent) else {
            open.announced = false;
            return None;
        };
        ask.sent = true;
        Some(PageRequest { attempt: at, request: ask.request, from: ask.from }.into())
    }

    /// The server answered the oldest request: so many are accepted, or why none is any more.
    pub(crate) fn mapped(&self, reply: Result<u64, String>) {
        let failure = {
            let mut open = self.lock();
            let Some(emission) = open.sent.pop_front() else { return };
            let end = emission.first + emission.tasks.len() as u64;
            match reply {
                Ok(emitted) if emitted >= end => None,
                Ok(emitted) => {
                    let why = format!("the server has {emitted} sub-tasks of this task, after {end} were sent");
                    Some(map_refused(why))
                }
                Err(why) => Some(map_refused(format!("the server refused the sub-tasks: {why}")).without_retry()),
            }
        };
        match failure {
            None => self.changed.notify_waiters(),
            Some(failure) => self.close(failure),
        }
    }

    /// The server answered this request for a page.
    pub(crate) fn paged(&self, request: u64, page: Result<Page, Failure>) {
        let mut open = self.lock();
        if let Some(at) = open.pages.iter().position(|ask| ask.request == request) {
            // Nobody waits only when the reader was dropped.
            let _ = open.pages.swap_remove(at).reader.send(page);
        }
    }

    /// A new session has heard nothing. Returns whether there is something to send, of which the loop then knows.
    pub(crate) fn rewind(&self) -> bool {
        let mut open = self.lock();
        while let Some(emission) = open.sent.pop_back() {
            open.unsent.push_front(emission);
        }
        for ask in &mut open.pages {
            ask.sent = false;
        }
        open.announced = !open.unsent.is_empty() || !open.pages.is_empty();
        open.announced
    }

    /// Nothing is asked any more; what waits for an answer gets `failure`.
    pub(crate) fn close(&self, failure: Failure) {
        let mut open = self.lock();
        open.unsent.clear();
        open.sent.clear();
        for ask in open.pages.drain(..) {
            let _ = ask.reader.send(Err(failure.clone()));
        }
        open.closed.get_or_insert(failure);
        drop(open);
        self.changed.notify_waiters();
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A failure to emit sub-tasks.
pub(crate) fn map_refused(why: impl Into<String>) -> Failure {
    Failure::new(crate::Reason::from_wire("map_refused"), why)
}

/// A failure to read results.
pub(crate) fn results_refused(why: impl Into<String>) -> Failure {
    Failure::new(crate::Reason::from_wire("results_refused"), why)
}

#[cfg(test)]
mod tests {
    use super::*;
    use pendula_model::InstanceId;

    fn at() -> AttemptKey {
        AttemptKey::root(InstanceId(1), 1)
    }

    fn some(count: usize) -> Vec<v1::SubTask> {
        vec![v1::SubTask::default(); count]
    }

    fn firsts(asks: &Asks) -> Vec<u64> {
        std::iter::from_fn(|| asks.next_map(at())).map(|request| request.first).collect()
    }

    #[test]
    fn requests_are_announced_once_and_sent_in_order_again_after_a_reconnect() {
        let asks = Asks::default();
        assert_eq!((asks.emit(some(2)), asks.emit(some(3))), (Ok(true), Ok(false)));
        assert_eq!(asks.next_map(at()).unwrap().first, 0);
        asks.mapped(Ok(2));
        assert_eq!(firsts(&asks), [2]);
        assert_eq!(asks.emit(some(1)), Ok(true));
        assert!(asks.rewind());
        assert_eq!(asks.emit(some(1)), Ok(false));
        assert_eq!(firsts(&asks), [2, 5, 6]);
        for (emitted, left) in [(5, 2), (6, 1), (7, 0)] {
            asks.mapped(Ok(emitted));
            assert_eq!(asks.unanswered(), Ok(left));
        }
        // What nobody waits for is ignored.
        asks.mapped(Ok(9));
        asks.paged(9, Ok(Page::default()));
        assert!(!asks.rewind());
    }

    #[test]
    fn a_refusal_is_the_answer_to_all() {
        let asks = Asks::default();
        asks.emit(some(1)).unwrap();
        asks.emit(some(1)).unwrap();
        asks.next_map(at());
        asks.mapped(Err("too many".to_owned()));
        let failure = asks.unanswered().unwrap_err();
        assert!(failure.message.ends_with("too many") && !failure.retry, "{failure:?}");
        assert_eq!(asks.emit(some(1)), Err(failure));
        assert_eq!(firsts(&asks), Vec::<u64>::new());
    }

    #[test]
    fn an_answer_that_does_not_cover_its_request_is_no_consent() {
        let asks = Asks::default();
        asks.emit(some(5)).unwrap();
        asks.next_map(at());
        asks.mapped(Ok(4));
        assert!(asks.unanswered().is_err());
    }

    #[test]
    fn pages_find_their_reader_also_after_a_reconnect() {
        let asks = Asks::default();
        let ((mut first, told), (second, again)) = (asks.ask_page(TaskId(1)), asks.ask_page(TaskId(5)));
        assert!(told && !again);
        drop(second);
        assert_eq!((asks.next_page(at()).unwrap().from, asks.next_page(at())), (1, None));
        assert!(asks.rewind());
        let request = asks.next_page(at()).unwrap();
        assert_eq!(request.from, 1);
        asks.paged(request.request, Ok(Page { next: TaskId(9), ..Page::default() }));
        assert_eq!(first.try_recv().unwrap().unwrap().next, TaskId(9));
        let (mut closed, _) = asks.ask_page(TaskId(9));
        asks.close(results_refused("the end"));
        assert_eq!(closed.try_recv().unwrap().unwrap_err().message, "the end");
        assert!(asks.ask_page(TaskId(9)).0.try_recv().unwrap().is_err());
    }
}
