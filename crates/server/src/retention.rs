//! Forgetting: ended instances whose time has come, and their logs.

use std::time::Duration;

use pendula_store::StoreError;
use tokio::time::Instant;

use crate::state::ServerState;

/// How often we look.
const ROUND: Duration = Duration::from_secs(60);
/// Instances per transaction, so that nobody waits for it.
const PAGE: usize = 500;
/// Pause between pages, for everyone else's commits.
const BREATH: Duration = Duration::from_millis(20);

const AGAIN: Duration = Duration::from_secs(10);

/// Prunes for ever.
pub(crate) async fn prune(state: ServerState) {
    let tick = state.metrics.tick("retention");
    state.health.watch("retention", tick.clone());
    loop {
        match round(&state).await {
            Ok(0) => {}
            Ok(count) => tracing::info!(count, "forgot ended instances"),
            Err(error) => tracing::warn!(%error, "pruning failed; trying again later"),
        }
        tick.at(state.clock.now());
        tokio::time::sleep(ROUND).await;
    }
}

/// Prunes what is due; returns how many instances went.
async fn round(state: &ServerState) -> Result<usize, StoreError> {
    let mut count = 0;
    loop {
        let started = Instant::now();
        let gone = state.store.prune(state.clock.now(), PAGE).await?;
        state.metrics.store_took("prune", started.elapsed());
        state.metrics.instances_pruned(gone.len());
        count += gone.len();
        let is_last = gone.len() < PAGE;
        if !gone.is_empty() {
            // After the rows: a crash in between leaves logs that nobody finds, never rows without their logs.
            while let Err(error) = state.logs.delete(gone.clone()).await {
                tracing::warn!(%error, "logs could not be deleted; trying again");
                tokio::time::sleep(AGAIN).await;
            }
        }
        if is_last {
            return Ok(count);
        }
        tokio::time::sleep(BREATH).await;
    }
}
