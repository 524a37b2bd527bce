//! Starting the gateway beside a server.

use std::fmt::Display;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Once};

use anyhow::Context;
use axum::Router;
use axum::routing::{get, post};
use pendula_akka::artery::Address;
use pendula_akka::artery::address::SERVER_SYSTEM;
use pendula_akka::transport::{Associations, Inbound, Limits, Node, Options};
use pendula_model::AppId;
use pendula_model::app::App;
use pendula_server::Server;
use pendula_server::config::{AppNetworks, PowerJobPort};
use pendula_server::gateway::{Complaints, Gateway};
use pendula_store::StoreError;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc};

use crate::dial::Dialer;
use crate::gate::Gate;
use crate::log_lines::LogLines;
use crate::session::Surroundings;
use crate::workers::{Timing, Workers};
use crate::{akka, discovery, listener, on_behalf, openapi, task_tracker, transport};

/// Looks at where workers are about to listen, at once.
const PROBES: usize = 16;

/// What all handlers share. Cheap to clone.
pub(crate) type Shared = Arc<Parts>;

pub(crate) struct Parts {
    pub(crate) gateway: Gateway,
    pub(crate) around: Surroundings,
    pub(crate) gate: Gate,
    /// Where workers reach this server, if it has a port for them.
    pub(crate) advertised: Option<String>,
    /// The same for those who speak Akka.
    pub(crate) akka_advertised: Option<String>,
    pub(crate) probes: Semaphore,
    pub(crate) known_clients: openapi::KnownClients,
    /// Says once that other servers call for this one.
    pub(crate) says_unequal: Once,
    complaints: Complaints,
}

impl Parts {
    pub(crate) async fn app(&self, id: AppId) -> Result<Option<App>, StoreError> {
        self.gateway.server().store.app_by_id(id).await
    }

    /// Counts that somebody is refused, and logs why: once a minute for each peer.
    pub(crate) fn complain(&self, peer: IpAddr, why: &impl Display) {
        self.gateway.refuses();
        if self.complaints.may_log(peer) {
            tracing::warn!(%peer, %why, "the PowerJob gateway refused a request (this peer is not logged for a minute)");
        }
    }
}

/// A gateway that serves until its server stops.
#[derive(Clone, Debug)]
pub struct PowerJobGateway {
    /// Where it listens, with the port that was chosen for port 0.
    pub local_addr: SocketAddr,
    /// Where workers are told to go.
    pub advertised: String,
    /// The same two for workers that speak Akka, if they are served.
    pub akka: Option<(SocketAddr, String)>,
}

/// Starts the gateway of a server that has one configured, and returns where it is. Without that, a server that shares its
/// database opens no port, and serves the workers that others hear.
///
/// # Errors
/// When its port cannot be opened.
pub async fn start(server: &Server) -> anyhow::Result<Option<PowerJobGateway>> {
    start_with(server, Timing::default()).await
}

/// The same in another hurry, for tests.
pub async fn start_with(server: &Server, timing: Timing) -> anyhow::Result<Option<PowerJobGateway>> {
    let gateway = server.gateway("powerjob");
    let Some(config) = server.state().config.powerjob.clone() else {
        if gateway.has_peers() {
            let shared = shared(&gateway, Gate::new(AppNetworks::default()), timing, Ports::default())?;
            gateway.serve_peers(for_peers(&shared));
        }
        return Ok(None);
    };
    let port = TcpListener::bind(&config.listen)
        .await
        .with_context(|| format!("opening {} for PowerJob's workers (powerjob.http.listen)", config.listen))?;
    let local_addr = port.local_addr()?;
    let advertised = config.advertise.clone().unwrap_or_else(|| {
        let host = config.listen.rsplit_once(':').map_or("127.0.0.1", |(host, _)| host);
        format!("{host}:{}", local_addr.port())
    });
    let gate = Gate::new(config.allow.clone());
    let akka = match &config.akka {
        Some(akka) => Some(open_akka(akka, &gate, server.state().config.limits.sessions as usize).await?),
        None => None,
    };
    let (akka, akka_at) = akka.map_or((None, None), |(served, at)| (Some(served), Some(at)));
    let ports = Ports {
        http: Some(advertised.clone()),
        akka: akka_at.as_ref().map(|(_, advertised)| advertised.clone()),
        associations: akka.as_ref().map(|(node, _)| node.associations().clone()),
    };
    let shared = shared(&gateway, gate, timing, ports)?;
    gateway.serve_peers(for_peers(&shared));
    let mut routes = for_workers(&shared);
    if let (Some((node, inbox)), Some((address, advertised))) = (akka, &akka_at) {
        gateway.listens("akka", *address, false);
        let to = node.associations().clone();
        gateway.shows(move || akka::readings(&to));
        tracing::warn!(%address, advertised, "serving PowerJob's workers over Akka; this port is unauthenticated");
        gateway.spawn(akka::serve(shared.clone(), node, inbox, routes.clone()));
    }
    if config.openapi {
        routes = routes.merge(openapi::routes(shared));
    }
    gateway.listens("http", local_addr, false);
    gateway.spawn(listener::accept(gateway.clone(), port, routes));
    let apps = config.allow.iter().map(|(app, _)| app).collect::<Vec<_>>().join(", ");
    tracing::warn!(address = %local_addr, advertised, apps, "serving PowerJob's workers; this port is unauthenticated");
    Ok(Some(PowerJobGateway { local_addr, advertised, akka: akka_at }))
}

/// Where workers are told to go, by protocol, and the way to those who speak Akka.
#[derive(Default)]
struct Ports {
    http: Option<String>,
    akka: Option<String>,
    associations: Option<Associations>,
}

fn shared(gateway: &Gateway, gate: Gate, timing: Timing, ports: Ports) -> anyhow::Result<Shared> {
    let around = Surroundings {
        gateway: gateway.clone(),
        dialer: Dialer::new(gateway.clone(), ports.associations)?,
        workers: Workers::default(),
        log_lines: LogLines::new(gateway.clone()),
        timing,
        advertised: ports.http.as_deref().unwrap_or_default().into(),
        akka_advertised: ports.akka.as_deref().unwrap_or_default().into(),
    };
    Ok(Arc::new(Parts {
        gateway: gateway.clone(),
        around,
        gate,
        advertised: ports.http,
        akka_advertised: ports.akka,
        probes: Semaphore::new(PROBES),
        known_clients: openapi::KnownClients::default(),
        complaints: Complaints::default(),
        says_unequal: Once::new(),
    }))
}

/// What workers say.
fn for_workers(shared: &Shared) -> Router {
    Router::new()
        .route("/server/assert", get(discovery::assert))
        .route("/server/assertV2", get(discovery::assert_v2))
        .route("/server/acquire", get(discovery::acquire))
        .route("/server/checkConnectivity", get(discovery::check_connectivity))
        .route("/server/hello", get(discovery::hello))
        .route("/server/workerHeartbeat", post(transport::heartbeat))
        .route("/server/reportInstanceStatus", post(transport::report_instance_status))
        .route("/server/reportLog", post(transport::report_log))
        .route("/taskTracker/reportTaskStatus", post(task_tracker::report_task_status))
        .route("/taskTracker/reportProcessorTrackerStatus", post(task_tracker::report_processor_tracker_status))
        .route("/taskTracker/mapTask", post(task_tracker::map_task))
        .route("/server/queryJobCluster", post(transport::query_job_cluster))
        .route("/server/queryContainer", post(transport::query_container))
        .with_state(shared.clone())
}

/// What other servers heard of workers and clients, whatever is configured here, and what they ask of us.
fn for_peers(shared: &Shared) -> Router {
    let asked = Router::new().route(on_behalf::PATH, post(on_behalf::call)).with_state(shared.clone());
    for_workers(shared).merge(openapi::routes(shared.clone())).merge(asked)
}

type Akka = (Node, mpsc::Receiver<Inbound>);

/// Opens the port for Akka; with where it is, and where workers are told to go.
async fn open_akka(config: &PowerJobPort, gate: &Gate, workers: usize) -> anyhow::Result<(Akka, (SocketAddr, String))> {
    let port = TcpListener::bind(&config.listen)
        .await
        .with_context(|| format!("opening {} for PowerJob's workers (powerjob.akka.listen)", config.listen))?;
    let local_addr = port.local_addr()?;
    let (host, port_number) = match &config.advertise {
        Some(advertise) => advertise.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse().ok()?))),
        None => config.listen.rsplit_once(':').map(|(host, _)| (host, local_addr.port())),
    }
    .with_context(|| "powerjob.akka.advertise is no host:port".to_owned())?;
    let advertised = Address::new(SERVER_SYSTEM, host, port_number)
        .with_context(|| format!("{host} is no host that Akka can name (powerjob.akka.advertise)"))?;
    let told = advertised.host_and_port();
    // A worker has two connections, and one more while it begins anew.
    let limits = Limits { connections: 4 * workers, associations: 2 * workers, ..Limits::default() };
    let limits = Limits { connections_per_peer: limits.connections, ..limits };
    let served = Node::start(port, Options { advertised, tracks: true, limits }, Arc::new(gate.clone()))?;
    Ok((served, (local_addr, told)))
}
