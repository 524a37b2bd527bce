//! The log of an instance, or of one of its tasks.

use futures::StreamExt;
use pendula_client::{Client, FollowOptions, LogRange};
use pendula_model::{InstanceId, TaskId};

use crate::commands::watch::{CUT_OFF, watch};
use crate::failure::Outcome;
use crate::output::Screen;

/// Bytes of one piece of a log.
const PIECE: u64 = 1024 * 1024;

#[derive(Debug, clap::Args)]
pub struct LogArgs {
    id: InstanceId,
    /// Log of this task [default: 0, the only one, or the root of a map]
    #[arg(long, value_name = "TASK")]
    task: Option<TaskId>,
    /// Follow live until the instance, or the task, ends, then exit with its result
    #[arg(long, short)]
    follow: bool,
    /// Log of this attempt [default: the latest; all when following]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    attempt: Option<u32>,
    /// Only the last lines
    #[arg(long, short = 'n', value_name = "LINES", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    tail: Option<u32>,
}

pub(super) async fn logs(screen: &Screen, client: &Client, args: LogArgs) -> Outcome {
    let LogArgs { id, task, follow, attempt, tail } = args;
    if follow {
        // Following waits for a server that restarts; one that is not there at all is told of at once.
        client.instance_fetch(id).await?;
        let options = FollowOptions { task, attempt, tail, ..FollowOptions::default() };
        return watch(screen, client, id, options).await?.verdict(screen, id, task);
    }
    let range = LogRange { task, attempt, tail, limit: Some(PIECE), ..LogRange::default() };
    if tail.is_some() {
        return last_lines(screen, client, id, range).await;
    }
    if !screen.is_table() {
        return screen.document(&client.log_fetch(id, range).await?);
    }
    let mut chunks = std::pin::pin!(client.log_download(id, task, attempt).await?);
    while let Some(chunk) = chunks.next().await {
        screen.raw(&chunk?)?;
    }
    Ok(())
}

async fn last_lines(screen: &Screen, client: &Client, id: InstanceId, mut range: LogRange) -> Outcome {
    loop {
        let piece = client.log_fetch(id, range).await?;
        if !screen.is_table() {
            return screen.document(&piece);
        }
        screen.raw(piece.data.as_bytes())?;
        if piece.cut_off {
            eprintln!("pendula: {CUT_OFF}");
        }
        if piece.end || piece.data.is_empty() {
            return Ok(());
        }
        range = LogRange { attempt: Some(piece.attempt), offset: Some(piece.next_offset), tail: None, ..range };
    }
}
