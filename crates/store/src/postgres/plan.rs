//! Migrations as an operator sees them: what is pending, what may be applied now, and applying it.

use pendula_model::{PartitionId, Timestamp};
use tokio_postgres::Client;

use super::connect::{Database, Limits};
use super::migrate::{self, Applied, Contents, Extent, Kind, MIGRATIONS, Migration};
use super::verify;
use crate::port::StoreError;

/// The steps of a database; see [`migration_plan`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MigrationPlan {
    /// Without the password.
    pub database: String,
    /// What the database has; 0 when it is empty.
    pub schema: u32,
    /// What this program knows. Smaller than `schema` when a newer version only added to it.
    pub known_schema: u32,
    /// In order: those that were applied, then those that were not.
    pub steps: Vec<MigrationStep>,
    /// Name and version of each server that uses the database now.
    pub servers: Vec<(String, String)>,
}

/// One step of a [`MigrationPlan`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MigrationStep {
    pub number: u32,
    pub name: String,
    /// Whether it takes something away that older programs need; unknown of those that a newer version applied.
    pub takes_away: Option<bool>,
    pub state: MigrationState,
}

/// How far a step is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MigrationState {
    /// By the database's clock.
    Applied(Timestamp),
    /// It may be applied now.
    Pending,
    /// Why it may not.
    Waiting(String),
}

impl MigrationPlan {
    fn new(
        database: String,
        known: &[Migration],
        applied: &[Applied],
        servers: Vec<(String, String)>,
    ) -> MigrationPlan {
        let mut steps: Vec<MigrationStep> = applied
            .iter()
            .map(|row| {
                let step = known.iter().find(|step| step.number == row.number);
                MigrationStep {
                    number: row.number,
                    name: row.name.clone(),
                    takes_away: step.map(|step| step.kind != Kind::Expand),
                    state: MigrationState::Applied(row.applied_at),
                }
            })
            .collect();
        let mut waits_for: Option<u32> = None;
        for step in &known[applied.len().min(known.len())..] {
            let objection = match waits_for {
                Some(number) => Some(format!("step {number} comes first")),
                None => migrate::objection(step, &servers),
            };
            if objection.is_some() {
                waits_for.get_or_insert(step.number);
            }
            steps.push(MigrationStep {
                number: step.number,
                name: step.name.to_owned(),
                takes_away: Some(step.kind != Kind::Expand),
                state: objection.map_or(MigrationState::Pending, MigrationState::Waiting),
            });
        }
        let schema = applied.len() as u32;
        MigrationPlan { database, schema, known_schema: known.len() as u32, steps, servers }
    }

    /// Whether nothing is left to apply.
    pub fn is_done(&self) -> bool {
        self.steps.iter().all(|step| matches!(step.state, MigrationState::Applied(_)))
    }
}

/// What `pendula migrate plan` shows of the database behind the URL. Changes nothing.
///
/// # Errors
///
/// As of [`PostgresStore`](super::PostgresStore)'s opening: no database of ours, or too new for this program.
pub async fn migration_plan(url: &str) -> Result<MigrationPlan, StoreError> {
    let database = Database::new(url)?;
    let session = database.session(Limits::UPKEEP).await?;
    read(&session, database.to_string(), MIGRATIONS).await
}

/// Applies what is pending, also what takes something away when no older server is alive. An empty database becomes an
/// installation with so many partitions. `on_step` hears number and name of each step before it begins. Returns the plan as
/// it is then.
///
/// # Errors
///
/// [`StoreError::Refused`] when a step must wait for older servers to end; those before it were applied. Each step is
/// applied entirely or not at all.
pub async fn migration_apply(
    url: &str,
    partitions: u16,
    mut on_step: impl FnMut(u32, &str) + Send,
) -> Result<MigrationPlan, StoreError> {
    let database = Database::new(url)?;
    let session = database.session(Limits::UPKEEP).await?;
    let settings = verify::settings(&session).await?;
    if !settings.faults.is_empty() {
        return Err(StoreError::Refused(format!("cannot use the database {database}: {}", settings.faults.join("; "))));
    }
    let partitions = partitions.clamp(1, PartitionId::LIMIT);
    let on_step = |step: &Migration| on_step(step.number, step.name);
    migrate::apply(&session, MIGRATIONS, partitions, Extent::Everything, on_step).await?;
    read(&session, database.to_string(), MIGRATIONS).await
}

async fn read(client: &Client, database: String, known: &[Migration]) -> Result<MigrationPlan, StoreError> {
    let contents = migrate::look(client).await?;
    migrate::pending(known, contents.applied())?;
    let servers = match contents {
        Contents::Nothing => Vec::new(),
        Contents::Ours(_) => migrate::live_servers(client).await?,
    };
    Ok(MigrationPlan::new(database, known, contents.applied(), servers))
}

#[cfg(test)]
mod tests;
