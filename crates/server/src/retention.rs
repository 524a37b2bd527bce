//! Forgetting: ended instances whose time has come, and their logs.

use std::time::Duration;

use pendula_model::PartitionId;
use pendula_store::StoreError;
use tokio::time::Instant;

use crate::state::ServerState;

/// How often we look.
const ROUND: Duration = Duration::from_secs(60);
/// Whoever owns this partition keeps the house.
const HOUSEKEEPER: PartitionId = PartitionId(0);
/// How often a server looks whether it is the one.
const LOOK: Duration = Duration::from_secs(1);
/// Servers are forgotten when their lease has run out for so long.
const SERVERS_REMEMBERED: Duration = Duration::from_secs(3600);
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
        // Once for all servers on the store.
        if !state.partitions.is_owned(HOUSEKEEPER) {
            tick.at(state.clock.now());
            tokio::time::sleep(LOOK).await;
            continue;
        }
        match round(&state).await {
            Ok(0) => {}
            Ok(count) => tracing::info!(count, "forgot ended instances"),
            Err(error) => tracing::warn!(%error, "pruning failed; trying again later"),
        }
        if let Some(cluster) = state.store.cluster() {
            match cluster.forget_servers(SERVERS_REMEMBERED).await {
                Ok(0) => {}
                Ok(count) => tracing::info!(count, "forgot servers that are gone"),
                Err(error) => tracing::warn!(%error, "servers that are gone could not be forgotten"),
            }
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
