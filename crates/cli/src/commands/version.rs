//! `pendula version`: ours and, if asked, the server's.

use serde::Serialize;

use crate::connect::ConnectArgs;
use crate::failure::Outcome;
use crate::output::Screen;

/// Print the version
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Ask the server too
    #[arg(long)]
    remote: bool,
    #[command(flatten)]
    connect: ConnectArgs,
}

#[derive(Serialize)]
struct Versions {
    pendula: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    server: Option<String>,
}

pub async fn run(args: Args, screen: Screen) -> Outcome {
    let server = if args.remote { Some(args.connect.open()?.client.status().await?.version) } else { None };
    let versions = Versions { pendula: env!("CARGO_PKG_VERSION"), server };
    screen.show(&versions, |screen| {
        screen.line(format!("pendula {}", versions.pendula))?;
        versions.server.iter().try_for_each(|server| screen.line(format!("server  {server}")))
    })
}
