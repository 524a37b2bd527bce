//! `/apps/{app}/workers`.

use pendula_model::api::WorkerView;
use reqwest::Method;

use crate::connection::Client;
use crate::error::ClientError;

impl Client {
    /// The workers that are connected, or whose return is awaited.
    pub async fn worker_list(&self, app: &str) -> Result<Vec<WorkerView>, ClientError> {
        self.all(&["apps", app, "workers"]).await
    }

    /// Asks a worker to take nothing new, end what it has, and exit.
    pub async fn worker_drain(&self, app: &str, worker: &str) -> Result<(), ClientError> {
        let path = ["apps", app, "workers", worker, "drain"];
        self.send(self.request(Method::POST, &path).repeatable()).await.map(drop)
    }
}
