//! `/cluster`: the servers on one store.

use pendula_model::api::ClusterOverview;
use reqwest::Method;

use crate::connection::Client;
use crate::error::ClientError;

impl Client {
    /// Servers, and who owns what, as seen from the server that `from` names, or from the one that is asked.
    pub async fn cluster(&self, from: Option<&str>) -> Result<ClusterOverview, ClientError> {
        let request = self.request(Method::GET, &["cluster"]);
        let request = if let Some(from) = from { request.query(&[("from", from)]) } else { request };
        self.json(request).await
    }

    /// Has a server give its partitions away and take none; named by its name or boot id.
    pub async fn server_drain(&self, server: &str) -> Result<(), ClientError> {
        let path = ["cluster", "servers", server, "drain"];
        self.send(self.request(Method::POST, &path).repeatable()).await.map(drop)
    }

    /// Has it take partitions again.
    pub async fn server_undrain(&self, server: &str) -> Result<(), ClientError> {
        let path = ["cluster", "servers", server, "drain"];
        self.send(self.request(Method::DELETE, &path).repeatable()).await.map(drop)
    }
}
