//! What a PowerJob database defines, as definitions of ours.
//!
//! [`read`] takes what is needed from the database or its export and changes nothing there; [`plan`] decides, without
//! touching anything, what becomes of each app, job, workflow and user. Whoever asks for the plan carries it out.
//!
//! Each source (`mysql`, `postgres`, `h2`) knows its own SQL and gives pages of rows with texts; `schema` finds the tables
//! in what the source has; `contents` reads them; `plan`, `job` and `names` make the plan. A job's row is turned into the
//! request with which a client would save it, so that the OpenAPI and the import translate alike.

mod contents;
mod error;
mod h2;
mod job;
mod mysql;
mod names;
mod plan;
mod postgres;
mod schema;
mod source;

pub use contents::{Contents, read};
pub use error::ImportError;
pub use plan::{AppPlan, Fate, JobPlan, Options, Plan, UserPlan, WorkflowPlan, plan};
