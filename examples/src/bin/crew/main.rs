//! A worker for jobs that many workers share, with a handler for each way to do so: a map-reduce, a broadcast, shards.
//!
//! ```text
//! PENDULA_TOKEN=<worker token> cargo run -p pendula-examples --bin crew -- NAME LOGS
//! ```
//!
//! NAME tells this process from its fellows; LOGS is the directory whose log files it may rotate. Start it several
//! times. The jobs for it lie in `examples/jobs`, and the README runs them.

mod export_table;
mod rotate_logs;
mod word_count_folder;

use anyhow::Context;
use pendula_worker::{Failure, Reason, Shutdown, Worker};

use crate::export_table::ExportTable;
use crate::rotate_logs::RotateLogs;
use crate::word_count_folder::WordCountFolder;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let (Some(name), Some(logs), None) = (arguments.next(), arguments.next(), arguments.next()) else {
        anyhow::bail!("usage: crew NAME LOGS");
    };
    let server = std::env::var("PENDULA_SERVER").unwrap_or_else(|_| "http://127.0.0.1:7700".to_owned());
    let worker = Worker::builder(server)
        .token(std::env::var("PENDULA_TOKEN").context("set PENDULA_TOKEN to a worker token of your app")?)
        .name(name)
        .slots(4)
        .handler("word_count_folder", WordCountFolder)
        .handler("rotate_logs", RotateLogs { directory: logs.into() })
        .handler("export_table", ExportTable)
        .build()?;
    let summary = worker.run(Shutdown::on_signals()).await?;
    println!("{} tasks succeeded, {} failed", summary.succeeded, summary.failed);
    Ok(())
}

/// For a job whose mode does not fit the handler that it names.
fn wrong_mode(wanted: &str) -> Failure {
    Failure::new(Reason::INVALID_DEFINITION, format!("the job's mode must be `{wanted}`")).without_retry()
}
