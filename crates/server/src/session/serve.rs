//! One worker's session, from its hello to its end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use pendula_engine::{Input, Mapping, NewTask, WorkerHello};
use pendula_model::worker::{HostMetrics, WorkerRef};
use pendula_model::{AppId, AttemptKey, InstanceId, PartitionId, SessionId};
use pendula_store::StoreError;
use pendula_wire::map::{EmittedTask, MapAnswer, WorkerMap};
use pendula_wire::report::WorkerReport;
use pendula_wire::results::PageRequest;
use pendula_wire::v1::to_server::Message as Said;
use pendula_wire::{WireError, held, v1};
use tokio::time::timeout;
use tonic::{Status, Streaming};

use super::outbox::{Outbox, Parcel};
use super::refusals::Refusals;
use super::results::Desk;
use super::transcript::Intake;
use super::{SILENCE, reports};
use crate::auth::Principal;
use crate::partition::{CommandError, Message};
use crate::state::ServerState;

/// How often we look whether the worker still reads.
const LOOK: Duration = Duration::from_secs(1);
/// Pause before the store is asked again that could not answer.
const AGAIN: Duration = Duration::from_millis(500);

pub(super) struct Session {
    pub(super) id: SessionId,
    pub(super) app: AppId,
    pub(super) partition: PartitionId,
    pub(super) peer: SocketAddr,
    pub(super) principal: Arc<Principal>,
    pub(super) worker: WorkerRef,
    pub(super) outbox: Arc<Outbox>,
    /// Where log chunks go, apart from everything else: a slow disk must not delay reports.
    pub(super) transcript: Intake,
    /// Where requests for results go: they are read without the partition.
    pub(super) results: Desk,
    pub(super) state: ServerState,
    pub(super) refusals: Arc<Refusals>,
}

impl Session {
    /// Carries messages until either side ends it, and then tells the partition.
    pub(super) async fn serve(self, hello: WorkerHello, inbound: Streaming<v1::ToServer>) {
        let (session, app, worker, peer) = (self.id, self.app, &self.worker, self.peer);
        tracing::info!(%session, %worker, %app, %peer, "worker connected");
        let counted = self.state.metrics.session_opened();
        let farewell = tokio::select! {
            farewell = self.read(hello, inbound) => farewell,
            farewell = self.watch() => farewell,
            why = self.state.auth.ended(&self.principal) => Status::unauthenticated(why),
            () = self.outbox.closed() => Status::aborted("closed by the partition"),
        };
        tracing::info!(%session, %worker, why = farewell.message(), "worker disconnected");
        self.outbox.close(farewell);
        drop(counted);
        // Fails only when the partition's loop is gone, and its memory with it.
        let _ = self.tell(Input::WorkerDisconnected { session }).await;
    }

    /// Passes on what the worker says until it says no more.
    async fn read(&self, hello: WorkerHello, mut inbound: Streaming<v1::ToServer>) -> Status {
        let connected = Message::Connected { hello: Box::new(hello), outbox: self.outbox.clone() };
        let mut told = self.state.partitions.tell(self.partition, connected).await;
        loop {
            if let Err(error) = told {
                return Status::unavailable(error.to_string());
            }
            // Only the time that we wait for the worker counts, not the time that it waits for us.
            let said = match timeout(SILENCE, inbound.message()).await {
                Ok(Ok(Some(said))) => said,
                Ok(Ok(None)) => return Status::ok("the worker closed the session"),
                Ok(Err(status)) => return Status::cancelled(format!("the connection broke: {}", status.message())),
                Err(_) => return Status::deadline_exceeded(format!("not a word for {} s", SILENCE.as_secs())),
            };
            told = self.take(said).await;
        }
    }

    /// Resolves when the worker reads nothing any more.
    async fn watch(&self) -> Status {
        loop {
            tokio::time::sleep(LOOK).await;
            if self.outbox.stuck_for() > SILENCE {
                return Status::resource_exhausted("the worker does not read what it is sent");
            }
        }
    }

    async fn take(&self, said: v1::ToServer) -> Result<(), CommandError> {
        let session = self.id;
        match said.message {
            Some(Said::Reports(reports)) => self.report(reports).await,
            Some(Said::Maps(maps)) => self.map(maps).await,
            Some(Said::Results(requests)) => self.read_results(requests).await,
            Some(Said::Heartbeat(heartbeat)) => {
                // Answered here: a partition that waits for its store must not look like a dead server.
                self.outbox.put(Parcel { answer: true, ..Parcel::default() });
                match held::all(&heartbeat.held) {
                    Ok(held) => {
                        let metrics = heartbeat.metrics.as_ref().map(HostMetrics::from);
                        let dispatches_seen = heartbeat.dispatches_seen;
                        self.tell(Input::WorkerAlive { session, dispatches_seen, held, metrics }).await
                    }
                    Err(error) => self.complain(&error),
                }
            }
            Some(Said::Logs(logs)) => {
                self.transcript.put(logs.chunks).await;
                Ok(())
            }
            Some(Said::Draining(v1::Draining {})) => self.tell(Input::WorkerDraining { session }).await,
            Some(Said::Hello(_)) => self.complain(&WireError::new("ToServer", "hello", "was said twice")),
            None => self.complain(&WireError::new("ToServer", "message", "is missing or unknown to this version")),
        }
    }

    async fn report(&self, reports: v1::Reports) -> Result<(), CommandError> {
        let now = self.state.clock.now();
        let mut accepted = Vec::with_capacity(reports.reports.len());
        let mut bytes = 0;
        for report in reports.reports {
            match WorkerReport::try_from(report) {
                // Whether the attempt is this worker's the engine knows; another partition's it cannot even see.
                Ok(report) if report.attempt.instance.partition() != self.partition => {
                    self.complain(&WireError::new("Report", "task", "belongs to another app"))?;
                }
                Ok(mut report) => {
                    if reports::is_large_for_an_instance(&report) && !self.has_many(report.attempt.instance).await {
                        reports::without_large_result(&mut report);
                    }
                    bytes += reports::result_bytes(&report);
                    accepted.push(reports::report(now, report));
                }
                Err(error) => self.complain(&error)?,
            }
        }
        if accepted.is_empty() {
            return Ok(());
        }
        self.tell_much(Input::Reported { session: self.id, reports: accepted }, bytes).await
    }

    /// Whether an instance has many tasks. Waits for a store that is away.
    async fn has_many(&self, instance: InstanceId) -> bool {
        loop {
            match self.state.store.fanout(instance).await {
                Ok(fanout) => return fanout.is_some(),
                Err(StoreError::Unavailable { .. }) => tokio::time::sleep(AGAIN).await,
                Err(error) => {
                    tracing::warn!(%instance, %error, "a report has no readable instance");
                    return false;
                }
            }
        }
    }

    async fn map(&self, maps: v1::MapRequests) -> Result<(), CommandError> {
        let mut accepted = Vec::with_capacity(maps.requests.len());
        let mut bytes = 0;
        for request in maps.requests {
            let attempt = held::required(request.task.as_ref(), "MapRequest", "task");
            match (attempt, WorkerMap::try_from(request)) {
                (Ok(attempt), _) if attempt.instance.partition() != self.partition => {
                    self.refuse(attempt, &WireError::new("MapRequest", "task", "belongs to another app"))?;
                }
                (_, Ok(WorkerMap { attempt, first, tasks })) => {
                    bytes += tasks.iter().map(weight).sum::<usize>();
                    let tasks = tasks.into_iter().map(|task| NewTask { name: task.name, input: task.input });
                    accepted.push(Mapping { attempt, first, tasks: tasks.collect() });
                }
                // Somebody waits for the answer.
                (Ok(attempt), Err(error)) => self.refuse(attempt, &error)?,
                (Err(error), _) => self.complain(&error)?,
            }
        }
        if accepted.is_empty() {
            return Ok(());
        }
        self.tell_much(Input::Mapped { session: self.id, maps: accepted }, bytes).await
    }

    fn refuse(&self, attempt: AttemptKey, error: &WireError) -> Result<(), CommandError> {
        let mapped = vec![MapAnswer { attempt, reply: Err(error.to_string()) }];
        self.outbox.put(Parcel { mapped, ..Parcel::default() });
        self.complain(error)
    }

    async fn read_results(&self, requests: v1::ResultRequests) -> Result<(), CommandError> {
        for request in requests.requests {
            match PageRequest::try_from(request) {
                // Fails only when the session is over.
                Ok(request) => drop(self.results.send(request).await),
                Err(error) => self.complain(&error)?,
            }
        }
        Ok(())
    }

    async fn tell(&self, input: Input) -> Result<(), CommandError> {
        self.state.partitions.tell(self.partition, Message::Input(input)).await
    }

    /// The same for what brings bytes, of which only so many may wait.
    async fn tell_much(&self, input: Input, bytes: usize) -> Result<(), CommandError> {
        self.state.partitions.tell_much(self.partition, input, bytes).await
    }

    /// What a worker says and we cannot accept is left out, and the session goes on: the rest of it is work that
    /// somebody waits for.
    fn complain(&self, error: &WireError) -> Result<(), CommandError> {
        if self.refusals.may_log(self.peer.ip()) {
            let (session, worker) = (self.id, &self.worker);
            tracing::warn!(%session, %worker, %error, "left out what a worker said (more of it is not logged for a minute)");
        }
        Ok(())
    }
}

/// Bytes that a sub-task needs while it waits to be stored.
fn weight(task: &EmittedTask) -> usize {
    size_of::<NewTask>() + task.name.len() + task.input.as_ref().map_or(0, |input| input.bytes.len())
}
