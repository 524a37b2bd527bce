//! Typed client of Pendula's REST API, for the CLI, for tests and for users.
//!
//! ```no_run
//! # async fn example() -> Result<(), pendula_client::ClientError> {
//! use pendula_client::{Client, RunKey};
//! use pendula_model::api::RunJob;
//!
//! let client = Client::new("http://127.0.0.1:7700", "the token")?;
//! let run = client.job_run("demo", "heartbeat", &RunJob::default(), RunKey::Random).await?;
//! println!("{:?}", run.instance);
//! # Ok(())
//! # }
//! ```
//!
//! One method per endpoint, grouped by resource in the files of this crate. It knows the API's JSON (from
//! `pendula_model::api`) and HTTP; it does not know the server, the store or the engine, keeps no state but its
//! connections, and repeats a request only where that is asked for ([`Client::follow`], [`ClientBuilder::patience`]). Of several
//! servers it asks the next when one cannot be reached.

mod address;
mod call;
mod connection;
mod error;
mod servers;

mod apps;
mod cluster;
mod instances;
mod jobs;
mod status;
mod tasks;
mod tokens;
mod workers;

mod follow;
mod sse;

pub use address::{parse_address, parse_addresses};
pub use connection::{Client, ClientBuilder};
pub use error::ClientError;
pub use follow::{Follow, FollowOptions};
pub use instances::{InstanceFilter, LogRange};
pub use jobs::RunKey;
pub use tasks::{TaskBytes, TaskFilter};
