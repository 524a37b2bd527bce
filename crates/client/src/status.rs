//! What the server says of itself and of the caller.

use pendula_model::api::{StatusView, WhoAmI};

use crate::connection::Client;
use crate::error::ClientError;

impl Client {
    pub async fn whoami(&self) -> Result<WhoAmI, ClientError> {
        self.get(&["whoami"]).await
    }

    pub async fn status(&self) -> Result<StatusView, ClientError> {
        self.get(&["status"]).await
    }

    /// Whether the process answers at all; needs no token.
    pub async fn livez(&self) -> Result<(), ClientError> {
        self.send(self.request_root("livez")).await.map(drop)
    }

    /// Whether it can serve; needs no token.
    pub async fn readyz(&self) -> Result<(), ClientError> {
        self.send(self.request_root("readyz")).await.map(drop)
    }

    /// All metrics, in the OpenMetrics text format.
    pub async fn metrics(&self) -> Result<String, ClientError> {
        let (_, text) = self.fetch(self.request_root("metrics")).await?;
        String::from_utf8(text.into()).map_err(|error| self.protocol(error.to_string()))
    }
}
