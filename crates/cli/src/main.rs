//! The `pendula` binary: server, worker, and every command that talks to them.
//!
//! [`cli`] lists the commands, `commands/` has one file for each; [`connect`] finds server and token, [`output`] prints,
//! [`failure`] maps what goes wrong to a message and an exit code. [`crontab`] and [`definitions`] read files and know no
//! server; [`bench`] starts two of them and measures. All parts of Pendula meet here and only here.

mod bench;
mod cli;
mod commands;
mod connect;
mod crontab;
mod definitions;
mod failure;
mod output;
mod profiles;
mod signals;

use std::process::ExitCode;

use clap::Parser;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // Before anything else: the worker starts this same program as the guard of a script's processes.
    pendula_processors::supervisor::main_if_supervisor();
    let cli = cli::Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failure::Failure::refused(format!("starting threads: {error}")).report(),
    };
    let outcome = runtime.block_on(cli.run());
    // What still blocks, such as a read from the terminal, must not hold up the exit.
    runtime.shutdown_background();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}
