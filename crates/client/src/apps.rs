//! `/apps`.

use pendula_model::api::{AppCreate, AppUpdate, AppView};
use reqwest::Method;

use crate::connection::Client;
use crate::error::ClientError;

impl Client {
    /// The apps that the token may see.
    pub async fn app_list(&self) -> Result<Vec<AppView>, ClientError> {
        self.all(&["apps"]).await
    }

    pub async fn app_create(&self, app: &AppCreate) -> Result<AppView, ClientError> {
        self.post(&["apps"], app).await
    }

    pub async fn app_fetch(&self, app: &str) -> Result<AppView, ClientError> {
        self.get(&["apps", app]).await
    }

    pub async fn app_update(&self, app: &str, update: &AppUpdate) -> Result<AppView, ClientError> {
        self.json(self.request(Method::PATCH, &["apps", app]).json(update)).await
    }

    /// Deletes an app that has no jobs left.
    pub async fn app_delete(&self, app: &str) -> Result<(), ClientError> {
        self.delete(&["apps", app]).await
    }
}
