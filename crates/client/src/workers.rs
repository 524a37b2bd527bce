//! `/apps/{app}/workers`.

use pendula_model::api::WorkerView;

use crate::connection::Client;
use crate::error::ClientError;

impl Client {
    /// The workers that are connected, or whose return is awaited.
    pub async fn worker_list(&self, app: &str) -> Result<Vec<WorkerView>, ClientError> {
        self.all(&["apps", app, "workers"]).await
    }

    /// Asks a worker to take nothing new, end what it has, and exit.
    pub async fn worker_drain(&self, app: &str, worker: &str) -> Result<(), ClientError> {
        self.act(&["apps", app, "workers", worker, "drain"]).await
    }
}
