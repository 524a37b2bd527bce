//! Apps: who owns jobs, workers and secrets.

use serde::{Deserialize, Serialize};

use crate::id::{AppId, PartitionId};
use crate::time::Timestamp;

/// A tenant. Its name is unique in the installation and decides its partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct App {
    pub id: AppId,
    pub name: String,
    /// A group of apps; default `default`.
    pub namespace: String,
    pub partition: PartitionId,
    /// Whether definitions may contain scripts (`shell`, `python`). Off until an administrator allows it.
    pub allow_scripts: bool,
    pub created_at: Timestamp,
    /// Grows with each edit.
    pub version: u64,
}
