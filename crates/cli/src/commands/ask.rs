//! Questions before something is lost, and keys so that nothing is done twice.

use std::io::{BufRead, IsTerminal, Write};

use rand::distr::{Alphanumeric, SampleString};

use crate::failure::{Failure, Outcome};

/// Goes on when the user says yes, or said so by `--yes`. Without a terminal to ask on, `--yes` is needed.
pub(super) fn confirm(question: &str, yes: bool) -> Outcome {
    if yes {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() {
        return Err(Failure::usage(format!("{question} needs a yes")).hint("add --yes"));
    }
    eprint!("{question} [y/N] ");
    let _ = std::io::stderr().flush();
    let mut answer = String::new();
    std::io::stdin()
        .lock()
        .read_line(&mut answer)
        .map_err(|error| Failure::usage(format!("reading the answer: {error}")))?;
    if matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes") {
        Ok(())
    } else {
        Err(Failure::refused("not done"))
    }
}

/// A key of our own for a run, by which the server knows the request again when it is repeated.
pub(super) fn random_key() -> String {
    format!("cli-{}", Alphanumeric.sample_string(&mut rand::rng(), 24))
}
