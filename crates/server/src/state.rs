//! What every route and session may use.

use std::sync::Arc;

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

/// The server's parts, cheap to clone.
#[derive(Clone)]
pub struct ServerState {
    /// The way to the other servers; nothing when this one is alone on its store.
    pub(crate) relay: Option<Relay>,
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
    pub listeners: Arc<[ListenerView]>,
}
