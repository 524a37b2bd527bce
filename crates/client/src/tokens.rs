//! `/tokens`.

use pendula_model::TokenId;
use pendula_model::api::{TokenCreate, TokenView};

use crate::connection::Client;
use crate::error::ClientError;

impl Client {
    pub async fn token_list(&self) -> Result<Vec<TokenView>, ClientError> {
        self.all(&["tokens"]).await
    }

    /// The answer holds the secret, which the server does not keep and never shows again.
    pub async fn token_create(&self, token: &TokenCreate) -> Result<TokenView, ClientError> {
        self.post(&["tokens"], token).await
    }

    /// Revokes it at once.
    pub async fn token_revoke(&self, id: TokenId) -> Result<(), ClientError> {
        self.delete(&["tokens", &id.to_string()]).await
    }
}
