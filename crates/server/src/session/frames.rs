//! From what an outbox holds to messages on the wire.

use std::collections::{HashMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::Stream;
use pendula_engine::{Dispatch, Part};
use pendula_model::instance::Payload;
use pendula_model::job::JobSpec;
use pendula_model::{JobId, Revision, SessionId};
use pendula_wire::frame::batches;
use pendula_wire::v1;
use pendula_wire::v1::to_worker::Message;

use super::outbox::{Outbox, Parcel, Taken};
use super::{HEARTBEAT, SILENCE};

/// Definitions whose encoded settings are kept; beyond, all are forgotten and encoded again when needed.
const DEFINITIONS: usize = 4_096;
/// How long a worker that is asked to drain may take. The worker's own setting may be shorter.
const DRAIN_BUDGET_MILLIS: u64 = 10 * 60 * 1000;

/// The server's half of a session. Ends when the outbox is closed; dropping it closes the outbox.
pub(crate) struct Frames {
    pub(super) outbox: Arc<Outbox>,
    pub(super) session: SessionId,
    /// Chosen with the worker when it introduced itself.
    pub(super) protocol: u32,
    pub(super) capabilities: Vec<String>,
    /// Where the servers were then, for the welcome.
    servers: Vec<String>,
    ready: VecDeque<v1::ToWorker>,
    definitions: HashMap<(JobId, Revision), Definition>,
}

/// The parts of a definition that every dispatch of it repeats, encoded once.
struct Definition {
    config: Bytes,
    params: Bytes,
}

impl Frames {
    pub(super) fn new(
        outbox: Arc<Outbox>,
        session: SessionId,
        protocol: u32,
        capabilities: Vec<String>,
        servers: Vec<String>,
    ) -> Self {
        let (ready, definitions) = (VecDeque::new(), HashMap::new());
        Frames { outbox, session, protocol, capabilities, servers, ready, definitions }
    }

    fn prepare(&mut self, parcel: Parcel) {
        let Parcel { welcome, acks, log_acks, dispatches, stops, mapped, pages, drain, answer } = parcel;
        if let Some(abort) = welcome {
            let servers = std::mem::take(&mut self.servers);
            self.ready(Message::Welcome(v1::Welcome {
                protocol: self.protocol,
                capabilities: self.capabilities.clone(),
                server_version: env!("CARGO_PKG_VERSION").to_owned(),
                session: self.session.0,
                heartbeat_millis: HEARTBEAT.as_millis() as u32,
                silence_millis: SILENCE.as_millis() as u32,
                abort: abort.into_iter().map(Into::into).collect(),
                servers,
            }));
        }
        for tasks in batches(acks.into_iter().map(v1::Held::from)) {
            self.ready(Message::Acks(v1::Acks { tasks }));
        }
        for acks in batches(log_acks) {
            self.ready(Message::LogAcks(v1::LogAcks { acks }));
        }
        let dispatches: Vec<v1::Dispatch> = dispatches.into_iter().map(|dispatch| self.dispatch(*dispatch)).collect();
        for dispatches in batches(dispatches) {
            self.ready(Message::Dispatches(v1::Dispatches { dispatches }));
        }
        let stops = stops.into_iter().map(|(attempt, grace, abandon)| v1::Stop {
            task: Some(attempt.into()),
            grace_millis: grace.as_millis() as u64,
            abandon,
        });
        for stops in batches(stops) {
            self.ready(Message::Stops(v1::Stops { stops }));
        }
        for replies in batches(mapped.into_iter().map(v1::MapReply::from)) {
            self.ready(Message::Maps(v1::MapReplies { replies }));
        }
        for pages in batches(pages) {
            self.ready(Message::Results(v1::ResultPages { pages }));
        }
        if drain {
            self.ready(Message::Drain(v1::DrainRequest { budget_millis: DRAIN_BUDGET_MILLIS }));
        }
        if answer && self.ready.is_empty() {
            self.ready(Message::Acks(v1::Acks::default()));
        }
    }

    fn ready(&mut self, message: Message) {
        self.ready.push_back(v1::ToWorker { message: Some(message) });
    }

    fn dispatch(&mut self, dispatch: Dispatch) -> v1::Dispatch {
        let Dispatch { spec, .. } = &dispatch;
        if self.definitions.len() >= DEFINITIONS {
            self.definitions.clear();
        }
        let key = (dispatch.job, dispatch.revision);
        let definition = self.definitions.entry(key).or_insert_with(|| Definition::encode(spec));
        let params = match &dispatch.params {
            Some(params) => Bytes::copy_from_slice(params.as_bytes()),
            None => definition.params.clone(),
        };
        let limit = match &dispatch.part {
            Some(_) => spec.mode.limits().task_timeout,
            None => spec.timeout,
        };
        let whole = v1::Dispatch {
            task: Some(dispatch.key().into()),
            sequence: dispatch.sequence,
            processor: spec.processor.name().to_owned(),
            config: definition.config.clone(),
            params,
            params_content_type: "application/json".to_owned(),
            fire_time_micros: dispatch.fire_time.unwrap_or(dispatch.created_at).as_micros(),
            app: dispatch.app_name.as_ref().to_owned(),
            job: spec.name.clone(),
            revision: dispatch.revision.0,
            timeout_millis: limit.map_or(0, |limit| limit.as_millis() as u64),
            stop_grace_millis: spec.stop_grace().as_millis() as u64,
            timezone: spec.trigger.as_ref().map_or_else(|| "UTC".to_owned(), |trigger| trigger.timezone.clone()),
            failures: dispatch.failures,
            created_micros: dispatch.created_at.as_micros(),
            ..v1::Dispatch::default()
        };
        match dispatch.part {
            Some(part) => one_of_many(whole, *part),
            None => whole,
        }
    }
}

/// What a task of an instance with many is told besides.
fn one_of_many(whole: v1::Dispatch, part: Part) -> v1::Dispatch {
    let Part { role, name, input, shard, emitted } = part;
    let (shard_index, shard_total) = shard.unwrap_or_default();
    let input_content_type = input.as_ref().map(|input| input.content_type.clone()).unwrap_or_default();
    v1::Dispatch {
        role: v1::TaskRole::from(role).into(),
        task_name: name.as_ref().to_owned(),
        input: input.map_or_else(Bytes::new, |input| Bytes::from_owner(Shared(input))),
        input_content_type,
        shard_index,
        shard_total,
        emitted,
        ..whole
    }
}

/// An input as the engine has it, so that it is copied into the frame and nowhere else.
struct Shared(Arc<Payload>);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        &self.0.bytes
    }
}

impl Definition {
    fn encode(spec: &JobSpec) -> Self {
        let params = serde_json::to_vec(&spec.params).expect("a JSON object has a text");
        Definition { config: spec.processor.config_json().into(), params: params.into() }
    }
}

impl Stream for Frames {
    type Item = Result<v1::ToWorker, tonic::Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(frame) = self.ready.pop_front() {
                return Poll::Ready(Some(Ok(frame)));
            }
            match std::task::ready!(self.outbox.poll_take(cx)) {
                Taken::Parcel(parcel) => self.prepare(parcel),
                Taken::Closed(farewell) => return Poll::Ready(farewell.map(Err)),
            }
        }
    }
}

impl Drop for Frames {
    fn drop(&mut self) {
        self.outbox.close(tonic::Status::cancelled("the connection is gone"));
    }
}
