//! The store on PostgreSQL, which several servers share.

mod connect;
mod error;
mod migrate;
mod open;
mod plan;
mod refusal;
mod seed;
mod tls;
mod url;
mod verify;

pub use self::plan::{MigrationPlan, MigrationState, MigrationStep, migration_apply, migration_plan};
