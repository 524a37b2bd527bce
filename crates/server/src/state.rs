//! What every route and session may use.

use std::sync::{Arc, RwLock};

use pendula_model::Timestamp;
use pendula_model::api::ListenerView;
use pendula_store::Store;
use pendula_store::logs::LogStore;

use crate::auth::Authenticator;
use crate::clock::Clock;
use crate::cluster::Relay;
use crate::config::Config;
use crate::health::Health;
use crate::logs::LogHub;
use crate::metrics::Metrics;
use crate::partition::Partitions;
use crate::session::gateway::Doors;

/// What a server listens on: its own port first, then those of gateways. Cheap to clone.
#[derive(Clone)]
pub struct Listeners {
    all: Arc<RwLock<Vec<ListenerView>>>,
}

impl Listeners {
    pub(crate) fn new(own: ListenerView) -> Self {
        Listeners { all: Arc::new(RwLock::new(vec![own])) }
    }

    pub(crate) fn add(&self, listener: ListenerView) {
        self.all.write().expect("nothing panics while it holds this lock").push(listener);
    }

    pub fn all(&self) -> Vec<ListenerView> {
        self.all.read().expect("nothing panics while it holds this lock").clone()
    }
}

/// The server's parts, cheap to clone.
#[derive(Clone)]
pub struct ServerState {
    /// The way to the other servers; nothing when this one is alone on its store.
    pub(crate) relay: Option<Relay>,
    /// What gateways answer to peers.
    pub(crate) doors: Doors,
    /// For reads; writes go through [`ServerState::partitions`].
    pub store: Arc<dyn Store>,
    pub logs: Arc<dyn LogStore>,
    pub log_hub: LogHub,
    pub partitions: Partitions,
    pub auth: Arc<Authenticator>,
    pub metrics: Arc<Metrics>,
    pub config: Arc<Config>,
    pub clock: Arc<dyn Clock>,
    pub health: Arc<Health>,
    pub started_at: Timestamp,
    /// What the server listens on, as bound.
    pub listeners: Listeners,
}
