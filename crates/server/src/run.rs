//! Starting and stopping: the only place that knows all parts.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use anyhow::Context;
use axum::body::Body;
use axum::middleware::from_fn_with_state;
use axum::routing::any;
use futures::StreamExt;
use http::{Response, header};
use pendula_model::api::ListenerView;
use pendula_model::worker::BootId;
use pendula_store::logs::LogStore;
use pendula_store::{Seat, Store};
use pendula_wire::frame::MAX_MESSAGE_BYTES;
use pendula_wire::v1::worker_service_server::{SERVICE_NAME, WorkerServiceServer};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::auth::{self, Authenticator, Secret};
use crate::clock::{self, Clock};
use crate::cluster::{self, Member, PeerKey, Relay};
use crate::config::Config;
use crate::health::Health;
use crate::listener::{self, Listener};
use crate::logs::LogHub;
use crate::metrics::Metrics;
use crate::partition::{self, Owner, Partitions};
use crate::session::gateway::{Doors, Gateway, PEERS, for_gateway};
use crate::session::{Entry, Refusals, Sessions, enter};
use crate::state::{Listeners, ServerState};
use crate::{api, retention, storage, tls};

/// How long a stopping server tries to give its partitions away.
const GIVING_AWAY: Duration = Duration::from_secs(5);
/// How long a stopped server waits for the last users of its store.
const LAST_USERS: Duration = Duration::from_secs(5);

/// How long a server that gave all away waits for others to have it.
const SUCCEEDED_WITHIN: Duration = Duration::from_secs(1);

/// Runs a server until `shutdown` resolves, and then stops it in order.
///
/// # Errors
/// When it cannot start; the message says what to do about it.
pub async fn run(config: Config, clock: Arc<dyn Clock>, shutdown: impl Future<Output = ()>) -> anyhow::Result<()> {
    run_with(config, clock, async |_: &Server| Ok(()), shutdown).await
}

/// The same, with gateways that are started beside it.
///
/// # Errors
/// When it, or one of them, cannot start.
pub async fn run_with(
    config: Config,
    clock: Arc<dyn Clock>,
    beside: impl AsyncFnOnce(&Server) -> anyhow::Result<()>,
    shutdown: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let server = Server::start(config, clock).await?;
    if let Err(error) = beside(&server).await {
        server.stop().await;
        return Err(error);
    }
    if let Some(secret) = server.first_admin() {
        println!("First start. This token administers the server and is shown only now:\n\n    {}\n", secret.reveal());
    }
    shutdown.await;
    server.stop().await;
    Ok(())
}

/// A running server. Dropping it ends it at once; [`Server::stop`] does so in order.
pub struct Server {
    local_addr: SocketAddr,
    first_admin: Option<Secret>,
    state: ServerState,
    stop: CancellationToken,
    kill: CancellationToken,
    /// Open requests, sessions and partitions: what stopping waits for.
    tasks: TaskTracker,
    _dropped: (DropGuard, DropGuard),
}

impl Server {
    /// Opens the port and the store and begins to serve.
    ///
    /// # Errors
    /// When the port or the store cannot be opened, or a setting makes no sense.
    pub async fn start(config: Config, clock: Arc<dyn Clock>) -> anyhow::Result<Server> {
        let tcp = listener::bind(&config.listen).await?;
        let metrics = Arc::new(Metrics::new());
        let (store, logs) = storage::open(&config, clock.as_ref(), &metrics).await?;
        Server::start_on(config, clock, tcp, store, logs, metrics).await
    }

    /// The same on a store that is open already.
    pub async fn start_with(
        config: Config,
        clock: Arc<dyn Clock>,
        store: Arc<dyn Store>,
        logs: Arc<dyn LogStore>,
    ) -> anyhow::Result<Server> {
        let tcp = listener::bind(&config.listen).await?;
        Server::start_on(config, clock, tcp, store, logs, Arc::new(Metrics::new())).await
    }

    async fn start_on(
        config: Config,
        clock: Arc<dyn Clock>,
        tcp: TcpListener,
        store: Arc<dyn Store>,
        logs: Arc<dyn LogStore>,
        metrics: Arc<Metrics>,
    ) -> anyhow::Result<Server> {
        let local_addr = tcp.local_addr()?;
        let tls = config.tls.as_ref().map(tls::acceptor).transpose()?;
        let first_admin = auth::bootstrap(store.as_ref(), clock.as_ref(), config.admin_token.as_deref()).await?;
        for warning in &config.warnings {
            tracing::warn!("{warning}");
        }

        let member = match store.cluster() {
            None => None,
            Some(cluster) => {
                let advertised = config.peer_address(local_addr)?;
                let seat = Seat {
                    boot: BootId(rand::random_range(1..=u64::MAX)),
                    name: config.name.clone().unwrap_or_else(|| host_and_port(&advertised).to_owned()),
                    address: advertised,
                    version: env!("CARGO_PKG_VERSION").to_owned(),
                };
                let key = PeerKey::new(cluster.secret().await?);
                let member = Member::new(seat, store.clone());
                member.join().await.context("taking a seat among the servers on this database")?;
                Some((Relay::new(member.clone(), key, config.peer_ca.as_deref(), metrics.clone())?, member))
            }
        };
        let (relay, member) = member.unzip();

        let (stop, kill, tasks) = (CancellationToken::new(), CancellationToken::new(), TaskTracker::new());
        let (partitions, mailboxes) = Partitions::new(store.partitions());
        let state = ServerState {
            relay,
            doors: Doors::default(),
            auth: Arc::new(Authenticator::new(store.clone(), clock.clone())),
            store,
            logs,
            log_hub: LogHub::default(),
            partitions,
            metrics,
            config: Arc::new(config),
            started_at: clock.now(),
            clock,
            health: Arc::new(Health::default()),
            listeners: Listeners::new(ListenerView {
                name: "api".to_owned(),
                address: local_addr.to_string(),
                tls: tls.is_some(),
                authenticated: true,
            }),
        };

        let (jumped, clock_jumps) = watch::channel(0);
        let watch = clock::watch_for_jumps(state.clock.clone(), state.health.clone(), state.metrics.clone(), jumped);
        until_stopped(&tasks, &stop, watch);
        until_stopped(&tasks, &stop, retention::prune(state.clone()));
        if let Some(member) = &member {
            let (clock, health, metrics) = (state.clock.clone(), state.health.clone(), state.metrics.clone());
            state.health.not_yet("lease", "looking at the other servers");
            until_stopped(&tasks, &stop, cluster::attend(member.clone(), clock, health, metrics));
        }
        if let Some(relay) = &state.relay {
            until_stopped(&tasks, &stop, relay.clone().tell_of_moves());
            until_stopped(&tasks, &stop, relay.clone().watch_peers(state.health.clone()));
            until_stopped(&tasks, &stop, auth::watch_store(state.auth.clone()));
        }
        let owner = Owner {
            name: format!("{local_addr} pid {}", std::process::id()),
            member: member.clone(),
            store: state.store.clone(),
            clock: state.clock.clone(),
            metrics: state.metrics.clone(),
            health: state.health.clone(),
            log_hub: state.log_hub.clone(),
            settings: state.config.settings(),
            clock_jumps,
            stop: stop.clone(),
            missing: AtomicUsize::new(0),
        };
        partition::start(Arc::new(owner), mailboxes, &tasks);

        let listener = Listener {
            tls,
            routes: routes(&state, &tasks, &stop),
            metrics: state.metrics.clone(),
            most_connections: state.config.limits.connections,
            header_timeout: state.config.limits.header_timeout,
            stop: stop.clone(),
            kill: kill.clone(),
            tasks: tasks.clone(),
            refusals: Refusals::default(),
        };
        tasks.spawn(listener.accept(tcp));
        let advertised = member.as_ref().map(|member| member.seat().address.as_str());
        tracing::info!(address = %local_addr, advertised, version = env!("CARGO_PKG_VERSION"), "serving");
        let _dropped = (stop.clone().drop_guard(), kill.clone().drop_guard());
        Ok(Server { local_addr, first_admin, state, stop, kill, tasks, _dropped })
    }

    /// Where it listens, with the port that was chosen for port 0.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// The token that was made because nobody could administer the installation; known only now.
    pub fn first_admin(&self) -> Option<&Secret> {
        self.first_admin.as_ref()
    }

    /// The parts, for whoever runs a server inside of another program.
    pub fn state(&self) -> &ServerState {
        &self.state
    }

    /// What a gateway to workers of another kind may use, under a name that is the same on all servers.
    pub fn gateway(&self, name: &'static str) -> Gateway {
        Gateway::new(name, self.state.clone(), self.tasks.clone(), self.stop.clone())
    }

    /// Stops: takes nothing new, commits what was decided, answers who waits, lets workers go (which keep their tasks),
    /// and releases the store. What takes longer than `shutdown_within` is cut off.
    pub async fn stop(self) {
        tracing::info!("stopping");
        self.give_all_away().await;
        self.stop.cancel();
        self.state.doors.close();
        self.tasks.close();
        let within = self.state.config.shutdown_within;
        if tokio::time::timeout(within, self.tasks.wait()).await.is_err() {
            tracing::warn!(connections = self.state.metrics.open_connections(), "cutting off what is still open");
            self.kill.cancel();
            // Partitions end too: their commits give up soon after the stop.
            let _ = tokio::time::timeout(within.max(Duration::from_secs(10)), self.tasks.wait()).await;
        }
        // Nobody waits for a store that others have too.
        let is_shared = self.state.relay.is_some();
        let store = self.state.store.clone();
        drop(self);
        if is_shared {
            tracing::info!("stopped");
            return;
        }
        // Whoever was cut off may still let go of the store. Nobody tells when; closing it as the last one, we know that
        // the directory is free afterwards.
        let patience = Instant::now() + LAST_USERS;
        while Arc::strong_count(&store) > 1 && Instant::now() < patience {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let _ = tokio::task::spawn_blocking(move || drop(store)).await;
        tracing::info!("stopped");
    }
}

impl Server {
    /// Among others, has them take over what is here, while everything still works.
    async fn give_all_away(&self) {
        let Some(relay) = &self.state.relay else { return };
        relay.member.set_leaving(true);
        let patience = Instant::now() + GIVING_AWAY.min(self.state.config.shutdown_within);
        while self.state.partitions.status().owned > 0 && Instant::now() < patience {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        // Who asks us from here on is sent to whom we saw last: so we look until others have everything.
        let patience = patience.min(Instant::now() + SUCCEEDED_WITHIN);
        while !relay.member.is_needless() && Instant::now() < patience {
            relay.member.look();
            let _ = timeout_at(patience, relay.member.news()).await;
        }
        let kept = self.state.partitions.status().owned;
        if kept > 0 {
            tracing::warn!(kept, "could not give away all partitions; their leases run out");
        }
        relay.member.leave().await;
    }
}

fn host_and_port(address: &str) -> &str {
    address.split_once("://").map_or(address, |(_, rest)| rest)
}

/// Everything on the port: the API, and the workers' sessions.
fn routes(state: &ServerState, tasks: &TaskTracker, stop: &CancellationToken) -> axum::Router {
    let sessions = Sessions::new(state.clone(), tasks.clone(), stop.clone());
    let service = WorkerServiceServer::new(sessions.clone())
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    let entry = Arc::new(Entry { state: state.clone(), sessions, service, stop: stop.clone() });
    let stop = stop.clone();
    let routes = api::router(state.clone())
        .layer(axum::middleware::map_response(move |response| {
            let stop = stop.clone();
            async move { ends_with_the_server(response, stop) }
        }))
        .route(&format!("/{SERVICE_NAME}/{{method}}"), any(enter).with_state(entry))
        .route(PEERS, any(for_gateway).with_state(state.doors.clone()));
    match &state.relay {
        None => routes,
        Some(relay) => routes.layer(from_fn_with_state(Arc::new(relay.clone()), cluster::admit)),
    }
}

/// A stream of events has no end of its own; a stopping server ends it instead of waiting for it.
fn ends_with_the_server(response: Response<Body>, stop: CancellationToken) -> Response<Body> {
    let content_type = response.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    if !content_type.is_some_and(|kind| kind.starts_with("text/event-stream")) {
        return response;
    }
    response.map(|body| Body::from_stream(body.into_data_stream().take_until(stop.cancelled_owned())))
}

fn until_stopped(tasks: &TaskTracker, stop: &CancellationToken, task: impl Future<Output = ()> + Send + 'static) {
    let stop = stop.clone();
    tasks.spawn(async move {
        stop.run_until_cancelled(task).await;
    });
}
