//! Letting a worker in.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use http::HeaderMap;
use pendula_engine::WorkerHello;
use pendula_model::app::App;
use pendula_model::token::Scope;
use pendula_model::{PartitionId, SessionId};
use pendula_store::StoreError;
use pendula_wire::v1::to_server::Message as Said;
use pendula_wire::v1::worker_service_server::WorkerService;
use pendula_wire::{held, hello, v1, version};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status, Streaming};

use super::frames::Frames;
use super::outbox::Outbox;
use super::refusals::Refusals;
use super::serve::Session;
use super::{HELLO_WITHIN, results, transcript};
use crate::auth::{AuthError, Permission, Principal};
use crate::state::ServerState;

/// Where a connection comes from; the listener attaches it to every request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer(pub(crate) SocketAddr);

/// The gRPC service for workers.
#[derive(Clone)]
pub(crate) struct Sessions {
    state: ServerState,
    refusals: Arc<Refusals>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Sessions {
    pub(crate) fn new(state: ServerState, tasks: TaskTracker, stop: CancellationToken) -> Self {
        Sessions { state, refusals: Arc::default(), tasks, stop }
    }

    async fn open(&self, peer: SocketAddr, request: Request<Streaming<v1::ToServer>>) -> Result<Frames, Status> {
        if self.stop.is_cancelled() {
            return Err(Status::unavailable("the server is shutting down"));
        }
        let most = self.state.config.limits.sessions;
        if self.state.metrics.open_sessions() >= i64::from(most) {
            return Err(Status::resource_exhausted(format!("the server is at its limit of {most} workers")));
        }
        let (principal, app) = self.authenticate(peer.ip(), request.metadata().as_ref()).await?;
        if !self.state.partitions.is_here(app.partition) {
            return Err(Status::unavailable("the app's partition is not on this server; connect again"));
        }
        let mut inbound = request.into_inner();
        let first = match tokio::time::timeout(HELLO_WITHIN, inbound.message()).await {
            Ok(first) => first?,
            Err(_) => return Err(Status::deadline_exceeded("no hello in time")),
        };
        let Some(v1::ToServer { message: Some(Said::Hello(hello)) }) = first else {
            return Err(Status::invalid_argument("the first message must be a hello"));
        };
        let protocol = version::choose(&hello)?;
        let capabilities = version::shared_capabilities(&hello.capabilities);
        let session = SessionId(rand::random_range(1..=u64::MAX));
        let introduction = WorkerHello {
            session,
            app: app.id,
            info: hello::worker_info(&hello, peer.to_string())?,
            running: held::all(&hello.running)?,
            finished: held::all(&hello.finished)?,
        };
        let outbox = Arc::new(Outbox::new());
        let servers = self.state.relay.as_ref().map(|relay| relay.member.addresses()).unwrap_or_default();
        let frames = Frames::new(outbox.clone(), session, protocol, capabilities, servers);
        let worker = introduction.info.worker.clone();
        let results = results::start(self.state.clone(), app.id, worker.clone(), outbox.clone(), &self.tasks);
        let session = Session {
            id: session,
            app: app.id,
            partition: app.id.partition(),
            peer,
            principal,
            worker,
            outbox: outbox.clone(),
            results,
            transcript: transcript::start(self.state.clone(), app.id, outbox, &self.tasks),
            state: self.state.clone(),
            refusals: self.refusals.clone(),
        };
        self.tasks.spawn(session.serve(introduction, inbound));
        Ok(frames)
    }

    /// The partition of the app that a worker is about to serve.
    pub(super) async fn partition_of(&self, peer: Peer, headers: &HeaderMap) -> Result<PartitionId, Status> {
        let peer = peer.0;
        match self.authenticate(peer.ip(), headers).await {
            Ok((_, app)) => Ok(app.partition),
            Err(status) => {
                self.refused(peer, &status);
                Err(status)
            }
        }
    }

    fn refused(&self, peer: SocketAddr, status: &Status) {
        self.state.metrics.session_refused();
        if self.refusals.may_log(peer.ip()) {
            let (code, why) = (status.code(), status.message());
            tracing::warn!(%peer, ?code, why, "refused a worker (further refusals of this peer are not logged for a minute)");
        }
    }

    async fn authenticate(&self, peer: IpAddr, headers: &HeaderMap) -> Result<(Arc<Principal>, App), Status> {
        let text = |key| headers.get(key).and_then(|value| value.to_str().ok());
        let principal = self.state.auth.authenticate_from(peer, text("authorization")).await.map_err(refused)?;
        let Scope::Worker { app } = principal.scope else {
            return Err(Status::permission_denied("only a worker's token opens a session"));
        };
        if !principal.may(Permission::ServeWork, Some(app)) {
            return Err(Status::permission_denied("the token does not allow to run work"));
        }
        let app = self.state.store.app_by_id(app).await.map_err(store_away)?;
        let app = app.ok_or_else(|| Status::permission_denied("the token's app does not exist any more"))?;
        if let Some(meant) = text(pendula_wire::APP_METADATA)
            && meant != pendula_wire::app_metadata(&app.name)
        {
            let message = format!("the worker means to serve app `{meant}`, but its token is for another");
            return Err(Status::permission_denied(message));
        }
        Ok((principal, app))
    }
}

#[tonic::async_trait]
impl WorkerService for Sessions {
    type SessionStream = Frames;

    async fn session(&self, request: Request<Streaming<v1::ToServer>>) -> Result<Response<Frames>, Status> {
        let Some(Peer(peer)) = request.extensions().get::<Peer>().copied() else {
            return Err(Status::internal("the listener did not say where the connection comes from"));
        };
        let opened = self.open(peer, request).await;
        if let Err(status) = &opened {
            self.refused(peer, status);
        }
        opened.map(Response::new)
    }
}

fn refused(error: AuthError) -> Status {
    match error {
        AuthError::Missing | AuthError::Invalid => Status::unauthenticated(error.to_string()),
        AuthError::TooManyFailures(_) => Status::resource_exhausted(error.to_string()),
        AuthError::Store(error) => store_away(error),
    }
}

fn store_away(error: StoreError) -> Status {
    tracing::warn!(%error, "a worker could not be let in");
    Status::unavailable("the server cannot read its store now")
}
