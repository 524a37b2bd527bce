//! `pendula completions`: what shells need to complete our commands.

use clap::CommandFactory;
use clap_complete::Shell;

use crate::failure::Outcome;
use crate::output::Screen;

const EXAMPLES: &str = "\
Examples:
  pendula completions bash > ~/.local/share/bash-completion/completions/pendula
  pendula completions zsh > ~/.zfunc/_pendula
  pendula completions fish > ~/.config/fish/completions/pendula.fish";

/// Print a completion script for a shell
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    shell: Shell,
}

pub fn run(args: Args, screen: Screen) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut crate::cli::Cli::command(), "pendula", &mut script);
    screen.raw(&script)
}
