//! Access tokens: who may do what. The secret itself is never stored, only its hash.

use serde::{Deserialize, Serialize};

use crate::id::{AppId, TokenId};
use crate::time::Timestamp;

/// What a token opens. Users and roles come later and will resolve to the same scopes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Scope {
    /// Everything.
    Admin,
    /// One app's jobs, instances, logs and workers, by the REST API.
    App { app: AppId },
    /// Running one app's work; nothing of the REST API.
    Worker { app: AppId },
    /// Reading `/metrics`.
    Metrics,
}

impl Scope {
    pub fn kind(&self) -> &'static str {
        match self {
            Scope::Admin => "admin",
            Scope::App { .. } => "app",
            Scope::Worker { .. } => "worker",
            Scope::Metrics => "metrics",
        }
    }

    pub fn app(&self) -> Option<AppId> {
        match self {
            Scope::Admin | Scope::Metrics => None,
            Scope::App { app } | Scope::Worker { app } => Some(*app),
        }
    }
}

/// A token's row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    pub id: TokenId,
    /// For people.
    pub name: String,
    pub scope: Scope,
    /// SHA-256 of the secret, which has 256 random bits and so needs no slow hash.
    pub hash: [u8; 32],
    pub created_at: Timestamp,
    pub expires_at: Option<Timestamp>,
}
