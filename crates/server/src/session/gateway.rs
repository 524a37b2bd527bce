//! Sessions of workers that speak another protocol than ours.
//!
//! A gateway is a crate of its own: it listens, translates, and calls its workers. To the engine they are workers like all
//! others, with a session each ([`Gateway::connect`]). What arrives at a server that does not own the app is carried to
//! the one that does ([`Gateway::find_owner`]), to the routes that the gateway has there ([`Gateway::serve_peers`]). What the
//! owner cannot do itself it asks of the server that carried it ([`Gateway::ask_peer`]).

use std::collections::VecDeque;
use std::future::poll_fn;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, RwLock};

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::future::BoxFuture;
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{Extensions, HeaderMap, Method, StatusCode};
use http_body_util::{BodyExt, Limited};
use pendula_engine::input::NewTask;
use pendula_engine::{Dispatch, Input, Mapping, Report, WorkerHello};
use pendula_model::api::ListenerView;
use pendula_model::worker::{BootId, HostMetrics, WorkerInfo};
use pendula_model::{AppId, AttemptKey, PartitionId, SessionId};
use pendula_store::StoreError;
use pendula_store::logs::{LogAppend, LogKey};
use pendula_wire::map::MapAnswer;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use super::outbox::{Outbox, Taken};
use super::{Peer, Refusals};
pub use crate::cluster::Lost;
use crate::cluster::{NOT_OWNER, Place, Relayed, is_not_owner};
use crate::logs::News;
use crate::partition::{CommandError, Message};
pub use crate::readings::{Reading, Value};
use crate::state::ServerState;

/// Bytes of what a peer answers to a question.
const ANSWER: usize = 8 << 20;
/// Where a peer's requests to gateways arrive; nobody else gets in.
pub(crate) const PEERS: &str = "/peer/gateway/{name}/{*path}";

/// Complaints about peers that are wrong in the same way again and again.
#[derive(Default)]
pub struct Complaints(Refusals);

impl Complaints {
    /// Whether a line about `peer` may be written now; says yes once a minute.
    pub fn may_log(&self, peer: IpAddr) -> bool {
        self.0.may_log(peer)
    }
}

/// The routes that gateways have for peers, by name.
#[derive(Clone, Default)]
pub(crate) struct Doors {
    routes: Arc<RwLock<Vec<(String, Router)>>>,
}

impl Doors {
    fn find(&self, name: &str) -> Option<Router> {
        let routes = self.routes.read().expect("nothing panics while it holds this lock");
        routes.iter().find(|(known, _)| known == name).map(|(_, router)| router.clone())
    }

    /// What a stopped gateway would keep alive otherwise.
    pub(crate) fn close(&self) {
        self.routes.write().expect("nothing panics while it holds this lock").clear();
    }
}

/// What a gateway may use of a server. Cheap to clone.
#[derive(Clone)]
pub struct Gateway {
    name: &'static str,
    state: ServerState,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// Who answers a request.
pub enum Owner {
    /// We do: here it is again.
    Here(Request),
    /// Somebody else did.
    Answered(Response),
}

/// Something for one worker.
#[derive(Debug)]
pub enum Errand {
    /// The session may be used; the worker must not go on with these attempts.
    Welcome {
        abort: Vec<AttemptKey>,
    },
    Dispatch(Box<Dispatch>),
    /// `abandon`: the attempt is not the worker's any more, and nobody waits for news of it.
    Stop {
        attempt: AttemptKey,
        abandon: bool,
    },
    /// The end of the attempt, which was reported, is on disk.
    Ack(AttemptKey),
    /// So many of the sub-tasks that a running task emits are on disk; or why no more will be.
    Mapped {
        attempt: AttemptKey,
        reply: Result<u64, String>,
    },
    /// The worker shall finish and go.
    Drain,
}

/// The way from a worker's session to its partition.
#[derive(Clone)]
pub struct Link {
    session: SessionId,
    partition: PartitionId,
    outbox: Arc<Outbox>,
    state: ServerState,
}

/// What the partition has for the worker of one session.
pub struct Errands {
    outbox: Arc<Outbox>,
    waiting: VecDeque<Errand>,
}

impl Gateway {
    pub(crate) fn new(name: &'static str, state: ServerState, tasks: TaskTracker, stop: CancellationToken) -> Self {
        Gateway { name, state, tasks, stop }
    }

    /// The server's parts.
    pub fn server(&self) -> &ServerState {
        &self.state
    }

    /// Shows the gateway's port for `protocol` among what the server listens on.
    pub fn listens(&self, protocol: &str, address: SocketAddr, authenticated: bool) {
        let (name, address) = (format!("{} {protocol}", self.name), address.to_string());
        self.state.listeners.add(ListenerView { name, address, tls: false, authenticated });
        self.state.metrics.listens(self.name, authenticated);
    }

    /// Counts a request or a message that was refused.
    pub fn refuses(&self) {
        self.state.metrics.gateway_refused(self.name);
    }

    /// Shows numbers that the gateway keeps itself among the server's metrics, under the gateway's name. `read` is called
    /// whenever somebody looks, and answers at once.
    pub fn shows(&self, read: impl Fn() -> Vec<Reading> + Send + Sync + 'static) {
        self.state.metrics.gateway_reads(self.name, read);
    }

    /// Runs something for as long as the server does not stop.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            stop.run_until_cancelled(task).await;
        });
    }

    /// Cancelled when the server begins to stop.
    pub fn stopping(&self) -> &CancellationToken {
        &self.stop
    }

    /// Opens a session for a worker. The partition must be here ([`Gateway::find_owner`]).
    ///
    /// # Errors
    /// When the partition is not here, or the server stops.
    pub async fn connect(
        &self,
        app: AppId,
        info: WorkerInfo,
        running: Vec<AttemptKey>,
        finished: Vec<AttemptKey>,
    ) -> Result<(Link, Errands), CommandError> {
        let session = SessionId(rand::random_range(1..=u64::MAX));
        let hello = Box::new(WorkerHello { session, app, info, running, finished });
        let outbox = Arc::new(Outbox::new());
        let partition = app.partition();
        self.state.partitions.tell(partition, Message::Connected { hello, outbox: outbox.clone() }).await?;
        let link = Link { session, partition, outbox: outbox.clone(), state: self.state.clone() };
        Ok((link, Errands { outbox, waiting: VecDeque::new() }))
    }

    /// Appends to the log of an attempt of `app`, at its end. For one writer at a time. Nothing is kept of a task beyond
    /// those that a log can have.
    pub async fn append_log(&self, app: AppId, of: AttemptKey, text: &str, end: bool) -> Result<(), StoreError> {
        let AttemptKey { instance, task, attempt } = of;
        let Ok(number) = u32::try_from(task.0) else { return Ok(()) };
        let key = LogKey { app, instance, attempt, task: number };
        let offset = self.state.logs.tail(key, 1).await?.total;
        let data = Bytes::copy_from_slice(text.as_bytes());
        let piece = LogAppend { key, offset, data: data.to_vec(), end };
        let appended = self.state.logs.append(vec![piece]).await?;
        self.state.metrics.log_stored(data.len() as u64, 0);
        let dropped = appended.first().is_some_and(|appended| appended.dropped);
        let hub = &self.state.log_hub;
        if !data.is_empty() && dropped {
            let bytes = data.len() as u64;
            hub.publish(instance, || News::Gap { task, attempt, offset, bytes });
        } else if !data.is_empty() {
            hub.publish(instance, || News::Text { task, attempt, offset, data });
        }
        if end {
            hub.publish(instance, || News::LogEnd { task, attempt });
        }
        Ok(())
    }

    /// Whether other servers may be on the same store.
    pub fn has_peers(&self) -> bool {
        self.state.relay.is_some()
    }

    /// Answers what peers carry here, and ask, with `routes`.
    pub fn serve_peers(&self, routes: Router) {
        let mut known = self.state.doors.routes.write().expect("nothing panics while it holds this lock");
        known.retain(|(name, _)| name != self.name);
        known.push((self.name.to_owned(), routes));
    }

    /// Whether this server owns the partition, and has read it.
    pub fn is_owned(&self, partition: PartitionId) -> bool {
        self.state.partitions.is_owned(partition)
    }

    /// Whether this server has the partition, or is about to.
    pub fn is_here(&self, partition: PartitionId) -> bool {
        self.state.partitions.is_here(partition)
    }

    /// Who owns the partition answers: we, or the server that the request is carried to. Waits until `deadline` for an
    /// owner. What may have been carried out there is not sent a second time unless it is `repeatable`.
    pub async fn find_owner(
        &self,
        partition: PartitionId,
        parts: Parts,
        body: Bytes,
        repeatable: bool,
        deadline: Instant,
    ) -> Owner {
        let again = |parts: Parts| Request::from_parts(parts, Body::from(body.clone()));
        let Some(relay) = &self.state.relay else { return Owner::Here(again(parts)) };
        if parts.extensions.get::<Relayed>().is_some() {
            let is_here = self.is_here(partition);
            return if is_here { Owner::Here(again(parts)) } else { Owner::Answered(not_owner()) };
        }
        let path = parts.uri.path_and_query().map_or("/", PathAndQuery::as_str);
        let Ok(path) = format!("/peer/gateway/{}{path}", self.name).parse::<PathAndQuery>() else {
            return Owner::Answered(StatusCode::BAD_REQUEST.into_response());
        };
        let client = parts.extensions.get::<Peer>().map(|peer| peer.0);
        loop {
            if self.is_here(partition) {
                return Owner::Here(again(parts));
            }
            if let Place::There(seat) = relay.member.place(partition) {
                let body = Body::from(body.clone());
                let sent = relay.send(&seat, parts.method.clone(), Some(&path), &parts.headers, client, body);
                match timeout_at(deadline, sent).await {
                    Ok(Ok(answer)) if !is_not_owner(&answer) => return Owner::Answered(answer),
                    Ok(Ok(_)) | Ok(Err(Lost::NotSent(_))) => {}
                    Ok(Err(lost)) if !repeatable => {
                        tracing::debug!(peer = seat.name, %partition, error = %lost, "the owner did not answer");
                        return Owner::Answered(StatusCode::BAD_GATEWAY.into_response());
                    }
                    Ok(Err(_)) => {}
                    Err(_) => return Owner::Answered(StatusCode::GATEWAY_TIMEOUT.into_response()),
                }
            }
            // Of a server that stops nobody sees who takes over.
            if relay.member.has_left() {
                return Owner::Answered(StatusCode::SERVICE_UNAVAILABLE.into_response());
            }
            relay.member.look_again(deadline).await;
            if Instant::now() >= deadline {
                return Owner::Answered(StatusCode::SERVICE_UNAVAILABLE.into_response());
            }
        }
    }

    /// Posts `body` to the route that this gateway has for peers at `path` on the server process `boot`, once.
    ///
    /// # Errors
    /// [`Lost::NotSent`] also when the process is gone, or has no such route or refuses the request: nothing was done.
    /// [`Lost::NoAnswer`] when there is no whole answer until `deadline`.
    pub async fn ask_peer(&self, boot: BootId, path: &str, body: Bytes, deadline: Instant) -> Result<Bytes, Lost> {
        let not_sent = |why: &str| Lost::NotSent(why.to_owned());
        let relay = self.state.relay.as_ref().ok_or_else(|| not_sent("this server is alone on its database"))?;
        let path = format!("/peer/gateway/{}{path}", self.name).parse::<PathAndQuery>();
        let path = path.map_err(|error| not_sent(&error.to_string()))?;
        let mut seat = relay.member.seat_of(boot);
        if seat.is_none() {
            // It may have come after we looked.
            relay.member.look_again(deadline).await;
            seat = relay.member.seat_of(boot);
        }
        let seat = seat.ok_or_else(|| not_sent("the server is gone"))?;
        let exchange = async {
            let body = Body::from(body);
            let answer = relay.send(&seat, Method::POST, Some(&path), &HeaderMap::new(), None, body).await?;
            let status = answer.status();
            if status.is_client_error() {
                return Err(Lost::NotSent(format!("{} answers {status}", seat.name)));
            }
            if status != StatusCode::OK {
                return Err(Lost::NoAnswer(format!("{} answers {status}", seat.name)));
            }
            let whole = Limited::new(answer.into_body(), ANSWER).collect().await;
            Ok(whole.map_err(|error| Lost::NoAnswer(error.to_string()))?.to_bytes())
        };
        let answer = timeout_at(deadline, exchange).await;
        answer.unwrap_or_else(|_| Err(Lost::NoAnswer(format!("{} does not answer in time", seat.name))))
    }
}

/// Where a request came from first: the listener, or the peer that carried it here, says so.
pub fn client_of(extensions: &Extensions) -> Option<SocketAddr> {
    extensions.get::<Peer>().map(|peer| peer.0)
}

/// Whether a peer carried a request here, which it let in itself.
pub fn is_carried(extensions: &Extensions) -> bool {
    extensions.get::<Relayed>().is_some()
}

/// The server process that carried a request here, if one did and says so.
pub fn carrier_of(extensions: &Extensions) -> Option<BootId> {
    extensions.get::<Relayed>()?.by
}

/// For a gateway's own listener: says where a request came from.
pub fn set_client(extensions: &mut Extensions, client: SocketAddr) {
    extensions.insert(Peer(client));
}

fn not_owner() -> Response {
    (StatusCode::MISDIRECTED_REQUEST, [(NOT_OWNER, "the partition is elsewhere")]).into_response()
}

/// A request that a peer carried here for a gateway.
pub(crate) async fn for_gateway(
    State(doors): State<Doors>,
    Path((name, path)): Path<(String, String)>,
    mut request: Request,
) -> Response {
    let (relayed, client) =
        (request.extensions().get::<Relayed>().copied(), request.extensions().get::<Peer>().copied());
    let Some((router, relayed)) = doors.find(&name).zip(relayed) else { return StatusCode::NOT_FOUND.into_response() };
    let query = request.uri().query().map(|query| format!("?{query}")).unwrap_or_default();
    let Ok(uri) = format!("/{path}{query}").parse() else { return StatusCode::BAD_REQUEST.into_response() };
    *request.uri_mut() = uri;
    // The parameters of our own path would be taken for some of the gateway's.
    request.extensions_mut().clear();
    request.extensions_mut().insert(relayed);
    if let Some(client) = client {
        request.extensions_mut().insert(client);
    }
    let answered: BoxFuture<'_, _> = Box::pin(router.oneshot(request));
    answered.await.unwrap_or_else(|never| match never {})
}

impl Link {
    /// A sign of life: everything that the worker holds, and the last dispatch that reached it.
    pub async fn alive(
        &self,
        dispatches_seen: u64,
        held: Vec<AttemptKey>,
        metrics: Option<HostMetrics>,
    ) -> Result<(), CommandError> {
        self.tell(Input::WorkerAlive { session: self.session, dispatches_seen, held, metrics }).await
    }

    /// News of attempts. Each end is answered with [`Errand::Ack`] once it is on disk, old news too.
    pub async fn report(&self, reports: Vec<Report>) -> Result<(), CommandError> {
        self.tell(Input::Reported { session: self.session, reports }).await
    }

    /// Sub-tasks that running tasks emit. Each is answered with [`Errand::Mapped`]. Waits while too much waits already.
    pub async fn map(&self, maps: Vec<Mapping>) -> Result<(), CommandError> {
        let weight = |task: &NewTask| task.name.len() + task.input.as_ref().map_or(0, |input| input.bytes.len());
        let bytes = maps.iter().flat_map(|map| &map.tasks).map(|task| size_of::<NewTask>() + weight(task)).sum();
        let input = Input::Mapped { session: self.session, maps };
        self.state.partitions.tell_much(self.partition, input, bytes).await
    }

    /// The worker takes nothing new.
    pub async fn draining(&self) -> Result<(), CommandError> {
        self.tell(Input::WorkerDraining { session: self.session }).await
    }

    /// The worker is gone, or its protocol has no other way to say that it is silent.
    pub async fn close(&self) {
        self.outbox.close(tonic::Status::ok("closed by the gateway"));
        // Fails only when the partition's loop is gone, and its memory with it.
        let _ = self.tell(Input::WorkerDisconnected { session: self.session }).await;
    }

    async fn tell(&self, input: Input) -> Result<(), CommandError> {
        self.state.partitions.tell(self.partition, Message::Input(input)).await
    }
}

impl Errands {
    /// The next one; nothing when the session is over (the partition moved, or the link was closed).
    pub async fn next(&mut self) -> Option<Errand> {
        loop {
            if let Some(errand) = self.waiting.pop_front() {
                return Some(errand);
            }
            let parcel = match poll_fn(|cx| self.outbox.poll_take(cx)).await {
                Taken::Parcel(parcel) => parcel,
                Taken::Closed(_) => return None,
            };
            // A worker's acknowledgements before its next work, as in our own protocol.
            self.waiting.extend(parcel.welcome.map(|abort| Errand::Welcome { abort }));
            self.waiting.extend(parcel.acks.into_iter().map(Errand::Ack));
            let mapped = parcel.mapped.into_iter();
            self.waiting.extend(mapped.map(|MapAnswer { attempt, reply }| Errand::Mapped { attempt, reply }));
            self.waiting.extend(parcel.dispatches.into_iter().map(Errand::Dispatch));
            let stops = parcel.stops.into_iter();
            self.waiting.extend(stops.map(|(attempt, _, abandon)| Errand::Stop { attempt, abandon }));
            self.waiting.extend(parcel.drain.then_some(Errand::Drain));
        }
    }
}
