//! A server without mind: it accepts sessions and lets the test speak.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::{Stream, StreamExt};
use pendula_wire::v1::report::Event;
use pendula_wire::v1::worker_service_server::{WorkerService, WorkerServiceServer};
use pendula_wire::v1::{self, to_server, to_worker};
use pendula_worker::worker::Timing;
use pendula_worker::{Shutdown, Summary, TaskRole, Worker, WorkerBuilder, WorkerError};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataMap;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

/// Longer than anything takes that is not broken.
const PATIENCE: Duration = Duration::from_secs(20);

pub type ToWorkerStream = Pin<Box<dyn Stream<Item = Result<v1::ToWorker, Status>> + Send>>;

/// Listens until it is dropped.
pub struct FakeServer {
    pub url: String,
    pub address: SocketAddr,
    sessions: mpsc::UnboundedReceiver<Peer>,
    /// When set, sessions are refused with this.
    pub refusal: Arc<Mutex<Option<Status>>>,
    refused: mpsc::UnboundedReceiver<()>,
    task: tokio::task::JoinHandle<()>,
}

/// The server's end of one session.
pub struct Peer {
    pub hello: v1::Hello,
    pub metadata: MetadataMap,
    incoming: Streaming<v1::ToServer>,
    outgoing: mpsc::Sender<Result<v1::ToWorker, Status>>,
    sequence: u64,
    /// Reports of a frame that were not asked for yet.
    reports: Vec<v1::Report>,
}

struct Door {
    sessions: mpsc::UnboundedSender<Peer>,
    refusal: Arc<Mutex<Option<Status>>>,
    refused: mpsc::UnboundedSender<()>,
}

#[tonic::async_trait]
impl WorkerService for Door {
    type SessionStream = ToWorkerStream;

    async fn session(&self, request: Request<Streaming<v1::ToServer>>) -> Result<Response<ToWorkerStream>, Status> {
        if let Some(status) = self.refusal.lock().unwrap().clone() {
            let _ = self.refused.send(());
            return Err(status);
        }
        let metadata = request.metadata().clone();
        let mut incoming = request.into_inner();
        let first = incoming.message().await?.and_then(|frame| frame.message);
        let Some(to_server::Message::Hello(hello)) = first else { panic!("no hello but {first:?}") };
        let (outgoing, frames) = mpsc::channel(64);
        let peer = Peer { hello, metadata, incoming, outgoing, sequence: 0, reports: Vec::new() };
        self.sessions.send(peer).map_err(|_| Status::unavailable("the test is over"))?;
        Ok(Response::new(ReceiverStream::new(frames).boxed()))
    }
}

impl FakeServer {
    pub async fn start() -> Self {
        Self::start_with(Server::builder()).await
    }

    pub async fn start_with(builder: Server) -> Self {
        Self::start_at("127.0.0.1:0".parse().unwrap(), builder)
    }

    pub fn start_at(address: SocketAddr, mut builder: Server) -> Self {
        let (send, sessions) = mpsc::unbounded_channel();
        let (send_refused, refused) = mpsc::unbounded_channel();
        let refusal = Arc::default();
        let door = Door { sessions: send, refusal: Arc::clone(&refusal), refused: send_refused };
        let incoming = TcpIncoming::bind(address).unwrap();
        let address = incoming.local_addr().unwrap();
        let url = format!("http://{address}");
        let service = WorkerServiceServer::new(door);
        let router = builder.add_service(service);
        let task = tokio::spawn(async move { router.serve_with_incoming(incoming).await.unwrap() });
        FakeServer { url, address, sessions, refusal, refused, task }
    }

    /// The next session, not welcomed yet.
    pub async fn knock(&mut self) -> Peer {
        within(self.sessions.recv()).await.expect("the server lives")
    }

    /// The next session, welcomed with long periods.
    pub async fn accept(&mut self) -> Peer {
        let mut peer = self.knock().await;
        peer.welcome(welcome()).await;
        peer
    }

    /// Whether nobody asked for a session that was not taken yet.
    pub fn is_left_alone(&self) -> bool {
        self.sessions.is_empty()
    }

    /// Returns when nobody listens any more. Open sessions are in the hands of their peers.
    pub async fn stop(mut self) {
        self.task.abort();
        let _ = within(&mut self.task).await;
    }

    /// Waits until a session was refused.
    pub async fn refused(&mut self) {
        within(self.refused.recv()).await.expect("the server lives");
    }
}

impl Drop for FakeServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub fn welcome() -> v1::Welcome {
    v1::Welcome {
        protocol: 1,
        capabilities: pendula_wire::CAPABILITIES.iter().map(|&name| name.to_owned()).collect(),
        server_version: "test".to_owned(),
        session: 7,
        heartbeat_millis: 60_000,
        silence_millis: 180_000,
        ..v1::Welcome::default()
    }
}

pub async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future).await.expect("took too long")
}

pub fn held(instance: i64, attempt: u32) -> v1::Held {
    v1::Held { instance, attempt, task: 0 }
}

pub fn dispatch(processor: &str, instance: i64, attempt: u32) -> v1::Dispatch {
    v1::Dispatch {
        task: Some(held(instance, attempt)),
        processor: processor.to_owned(),
        app: "demo".to_owned(),
        job: "job".to_owned(),
        revision: 3,
        stop_grace_millis: 60_000,
        ..v1::Dispatch::default()
    }
}

/// One task of an instance with many.
pub fn part(role: TaskRole, processor: &str, task: v1::Held) -> v1::Dispatch {
    let role = v1::TaskRole::from(role).into();
    v1::Dispatch { task: Some(task), role, ..dispatch(processor, task.instance, task.attempt) }
}

impl Peer {
    pub async fn say(&mut self, message: to_worker::Message) {
        within(self.outgoing.send(Ok(v1::ToWorker { message: Some(message) }))).await.expect("the session is open");
    }

    pub async fn welcome(&mut self, welcome: v1::Welcome) {
        self.say(to_worker::Message::Welcome(welcome)).await;
    }

    pub async fn dispatch(&mut self, mut dispatch: v1::Dispatch) {
        self.sequence += 1;
        dispatch.sequence = self.sequence;
        self.say(to_worker::Message::Dispatches(v1::Dispatches { dispatches: vec![dispatch] })).await;
    }

    pub async fn stop(&mut self, task: v1::Held, grace_millis: u64, abandon: bool) {
        let stops = vec![v1::Stop { task: Some(task), grace_millis, abandon }];
        self.say(to_worker::Message::Stops(v1::Stops { stops })).await;
    }

    pub async fn ack(&mut self, task: v1::Held) {
        self.say(to_worker::Message::Acks(v1::Acks { tasks: vec![task] })).await;
    }

    pub async fn ack_log(&mut self, task: v1::Held, offset: u64) {
        let acks = vec![v1::LogAck { task: Some(task), offset }];
        self.say(to_worker::Message::LogAcks(v1::LogAcks { acks })).await;
    }

    /// Returns once the worker has read everything said so far, which it shows by refusing a task.
    pub async fn be_heard(&mut self) {
        let nobody = held(i64::MAX, self.sequence as u32 + 1);
        self.dispatch(dispatch("nobody's", nobody.instance, nobody.attempt)).await;
        assert_eq!(self.end_of(nobody).await.outcome(), v1::Outcome::Rejected);
        self.ack(nobody).await;
    }

    /// Ends the session as a server that crashed does.
    pub async fn hang_up(self, status: Status) {
        let _ = self.outgoing.send(Err(status)).await;
    }

    /// What the worker says next; `None` when it closed the session.
    pub async fn hear(&mut self) -> Option<to_server::Message> {
        within(self.incoming.message()).await.ok().flatten().and_then(|frame| frame.message)
    }

    /// The next report. Nothing else may come before it.
    pub async fn report(&mut self) -> v1::Report {
        if self.reports.is_empty() {
            match self.hear().await {
                Some(to_server::Message::Reports(reports)) => self.reports = reports.reports,
                other => panic!("expected reports, not {other:?}"),
            }
        }
        self.reports.remove(0)
    }

    /// The next report, which must be this attempt's end, whether or not it was reported as started.
    pub async fn end_of(&mut self, task: v1::Held) -> v1::Ended {
        loop {
            let report = self.report().await;
            assert_eq!(report.task, Some(task), "{report:?}");
            match report.event.expect("reports tell something") {
                Event::Ended(ended) => return ended,
                Event::Started(_) => {}
                other => panic!("expected an end, not {other:?}"),
            }
        }
    }

    /// The next piece of log.
    pub async fn log(&mut self) -> Vec<v1::LogChunk> {
        match self.hear().await {
            Some(to_server::Message::Logs(logs)) => logs.chunks,
            other => panic!("expected logs, not {other:?}"),
        }
    }

    /// The next requests to take sub-tasks. Nothing else may come before them.
    pub async fn maps(&mut self) -> Vec<v1::MapRequest> {
        match self.hear().await {
            Some(to_server::Message::Maps(maps)) => maps.requests,
            other => panic!("expected sub-tasks, not {other:?}"),
        }
    }

    /// So many sub-tasks of `task` are stored; or they are refused.
    pub async fn answer_map(&mut self, task: v1::Held, emitted: u64, refusal: &str) {
        let replies = vec![v1::MapReply { task: Some(task), emitted, refusal: refusal.to_owned() }];
        self.say(to_worker::Message::Maps(v1::MapReplies { replies })).await;
    }

    /// The next wish for a page of results. Nothing else may come before it.
    pub async fn wish(&mut self) -> v1::ResultRequest {
        match self.hear().await {
            Some(to_server::Message::Results(wishes)) if wishes.requests.len() == 1 => wishes.requests[0],
            other => panic!("expected a wish for results, not {other:?}"),
        }
    }

    /// The page that was wished for.
    pub async fn show(&mut self, wish: v1::ResultRequest, page: v1::ResultPage) {
        let pages = vec![v1::ResultPage { task: wish.task, request: wish.request, ..page }];
        self.say(to_worker::Message::Results(v1::ResultPages { pages })).await;
    }

    /// The next heartbeat, skipping what else is said.
    pub async fn heartbeat(&mut self) -> v1::Heartbeat {
        loop {
            match self.hear().await.expect("the session is open") {
                to_server::Message::Heartbeat(heartbeat) => return heartbeat,
                _ => continue,
            }
        }
    }
}

/// Quick periods, so that tests need not wait.
pub fn quick() -> Timing {
    Timing {
        started_after: Duration::from_secs(3600),
        kill_moment: Duration::from_millis(100),
        hand_back_grace: Duration::from_millis(100),
        listen_on: Duration::from_millis(20),
        farewell: Duration::from_millis(300),
        reconnect_first: Duration::from_millis(5),
        reconnect_max: Duration::from_millis(50),
        refused_max: Duration::from_millis(20),
        ..Timing::default()
    }
}

pub fn builder(server: &FakeServer) -> WorkerBuilder {
    Worker::builder(&server.url).app("demo").token("secret").name("w1").slots(4).timing(quick())
}

/// A worker at work.
pub struct Running {
    pub shutdown: Shutdown,
    task: tokio::task::JoinHandle<Result<Summary, WorkerError>>,
}

pub fn run(builder: WorkerBuilder) -> Running {
    let worker = builder.build().unwrap();
    let shutdown = Shutdown::new();
    let task = tokio::spawn(worker.run(shutdown.clone()));
    Running { shutdown, task }
}

impl Running {
    pub async fn result(self) -> Result<Summary, WorkerError> {
        within(self.task).await.expect("the worker does not panic")
    }
}
