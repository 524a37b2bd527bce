//! Where the programs under test are.

use std::path::PathBuf;

/// `PENDULA_BIN`, or the binary that this very build made beside the tests.
///
/// # Panics
/// When there is none, with the command that makes it.
pub fn pendula() -> PathBuf {
    match std::env::var_os("PENDULA_BIN") {
        Some(path) => path.into(),
        None => beside_the_tests("pendula", "pendula"),
    }
}

/// A program of the examples.
///
/// # Panics
/// When it is not there, with the command that makes it.
pub fn example(name: &str) -> PathBuf {
    beside_the_tests(name, "pendula-examples")
}

fn beside_the_tests(name: &str, package: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a test knows its own path");
    let profile = test.parent().and_then(|deps| deps.parent()).expect("tests lie in target/PROFILE/deps");
    let binary = profile.join(name);
    assert!(binary.exists(), "{} is missing; make it with: cargo build -p {package}", binary.display());
    binary
}

/// The binary that an upgrade starts from: `PENDULA_OLD_BIN`, or the same one.
pub fn old_pendula() -> PathBuf {
    std::env::var_os("PENDULA_OLD_BIN").map_or_else(pendula, PathBuf::from)
}
