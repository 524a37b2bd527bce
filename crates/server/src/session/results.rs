//! Reading what the tasks of an instance left, for its `post` or `reduce`.
//!
//! Pages come from the store, never through the partition's loop. A session reads one page at a time, and the next one
//! when the worker has taken it; who asks faster waits, in order. Nothing is remembered between two pages: where the next
//! one begins says which instance it is of.

use std::time::Duration;

use pendula_model::instance::TaskState;
use pendula_model::worker::WorkerRef;
use pendula_model::{AppId, AttemptKey, InstanceId, TaskId};
use pendula_store::{Store, StoreError};
use pendula_wire::frame::{BATCH_BYTES, entry_bytes};
use pendula_wire::results::{PageAnswer, PageRequest};
use pendula_wire::v1;
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;

use super::outbox::{Outbox, Parcel};
use crate::state::ServerState;

/// Requests of one session that wait at most; beyond, the session waits too. A worker has two under way per task.
const WAITING: usize = 1_024;
/// Results of one page at most.
const PAGE: usize = 1_000;
/// Pause before a page is read again that the store could not give.
const AGAIN: Duration = Duration::from_millis(500);
/// The upper byte of a position says how far back in the chain of repetitions it lies: 0 is the instance itself.
const DEPTH_SHIFT: u32 = 56;

/// Where a session puts its requests.
pub(super) type Desk = mpsc::Sender<PageRequest>;

/// Who reads, and for whom.
struct Reader {
    app: AppId,
    worker: WorkerRef,
    outbox: std::sync::Arc<Outbox>,
    state: ServerState,
}

/// Answers what is put on the desk until that is dropped or the session ends.
pub(super) fn start(
    state: ServerState,
    app: AppId,
    worker: WorkerRef,
    outbox: std::sync::Arc<Outbox>,
    tasks: &TaskTracker,
) -> Desk {
    let (desk, mut requests) = mpsc::channel(WAITING);
    let reader = Reader { app, worker, outbox, state };
    tasks.spawn(async move {
        let outbox = reader.outbox.clone();
        let answers = async {
            while let Some(request) = requests.recv().await {
                let page = reader.answer(request).await;
                reader.outbox.pages_left().await;
                reader.outbox.put(Parcel { pages: vec![page], ..Parcel::default() });
            }
        };
        tokio::select! {
            () = answers => {}
            () = outbox.closed() => {}
        }
    });
    desk
}

/// Why a page cannot be had.
enum Refused {
    /// For good; said to whoever reads.
    Because(String),
    Store(StoreError),
}

impl From<StoreError> for Refused {
    fn from(error: StoreError) -> Self {
        Refused::Store(error)
    }
}

fn because<T>(why: impl Into<String>) -> Result<T, Refused> {
    Err(Refused::Because(why.into()))
}

impl Reader {
    /// The page, or why there is none. Waits for a store that is away.
    async fn answer(&self, request: PageRequest) -> v1::ResultPage {
        let PageRequest { attempt, request: number, from } = request;
        let refusal = loop {
            match self.page(attempt, from).await {
                Ok(page) => return v1::ResultPage { task: Some(attempt.into()), request: number, ..page },
                Err(Refused::Because(why)) => break why,
                Err(Refused::Store(StoreError::Unavailable { .. })) => tokio::time::sleep(AGAIN).await,
                Err(Refused::Store(error)) => {
                    tracing::error!(instance = %attempt.instance, %error, "results could not be read");
                    break "what is stored of them cannot be read".to_owned();
                }
            }
        };
        PageAnswer { attempt, request: number, page: Err(refusal) }.into()
    }

    /// One page, without its address.
    async fn page(&self, reader: AttemptKey, from: TaskId) -> Result<v1::ResultPage, Refused> {
        let store = &*self.state.store;
        self.check(store, reader).await?;
        let (depth, from) = (from.0 >> DEPTH_SHIFT, TaskId(from.0 & ((1 << DEPTH_SHIFT) - 1)));
        let Some((source, has_base)) = chain(store, reader.instance, depth).await? else {
            return because(format!("there is nothing at position {from}"));
        };
        let read = store.task_results(source, from, PAGE, BATCH_BYTES).await?;
        if depth > 0 && store.fanout(source).await?.is_none() {
            return because(format!(
                "instance {source}, whose tasks this one repeats in part, was forgotten meanwhile"
            ));
        }
        let Some(mut next) = read.last().map(|last| last.id.next()) else {
            let next = (depth + 1) << DEPTH_SHIFT;
            return Ok(v1::ResultPage { next, end: !has_base, ..v1::ResultPage::default() });
        };
        let (mut results, mut bytes) = (Vec::with_capacity(read.len()), 0);
        for task in read {
            // What a repeated instance left unsuccessful is a task of the repetition.
            if depth > 0 && task.state != TaskState::Succeeded {
                continue;
            }
            let Some(result) = v1::TaskResult::of(&task) else { continue };
            bytes += entry_bytes(&result);
            if bytes > BATCH_BYTES && !results.is_empty() {
                next = task.id;
                break;
            }
            results.push(result);
        }
        Ok(v1::ResultPage { results, next: depth << DEPTH_SHIFT | next.0, ..v1::ResultPage::default() })
    }

    /// Only who has the attempt may read for it. What is no business of the worker's is answered as what does not exist.
    async fn check(&self, store: &dyn Store, reader: AttemptKey) -> Result<(), Refused> {
        const NOT_YOURS: &str = "the attempt is not the worker's own any more";
        let instance = store.instance(reader.instance).await?;
        if instance.is_none_or(|instance| instance.app != self.app || instance.state.is_ended()) {
            return because(NOT_YOURS);
        }
        let Some(task) = store.task(reader.instance, reader.task).await? else { return because(NOT_YOURS) };
        let is_held = task.state.is_placed() && task.attempt == reader.attempt;
        if !is_held || task.worker.as_ref() != Some(&self.worker) {
            return because(NOT_YOURS);
        }
        if !task.role.may_read_results() {
            return because(format!("a task of the kind `{}` cannot read the results of others", task.role));
        }
        Ok(())
    }
}

/// The instance that lies `depth` repetitions back, and whether it repeats another one.
async fn chain(store: &dyn Store, instance: InstanceId, depth: u64) -> Result<Option<(InstanceId, bool)>, Refused> {
    let mut at = instance;
    for left in (0..=depth).rev() {
        let base = match store.fanout(at).await? {
            Some(fanout) => fanout.base,
            None if at == instance => return Ok(None),
            None => {
                return because(format!("instance {at}, whose tasks this one repeats in part, is not kept any more"));
            }
        };
        match base {
            base if left == 0 => return Ok(Some((at, base.is_some()))),
            Some(base) => at = base,
            None => return Ok(None),
        }
    }
    Ok(None)
}
