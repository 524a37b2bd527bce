//! Where the program under test is.

use std::path::PathBuf;

/// `PENDULA_BIN`, or the binary that this very build made beside the tests.
///
/// # Panics
/// When there is none, with the command that makes it.
pub fn pendula() -> PathBuf {
    if let Some(path) = std::env::var_os("PENDULA_BIN") {
        return path.into();
    }
    let test = std::env::current_exe().expect("a test knows its own path");
    let profile = test.parent().and_then(|deps| deps.parent()).expect("tests lie in target/PROFILE/deps");
    let binary = profile.join("pendula");
    assert!(binary.exists(), "{} is missing; make it with: cargo build --bin pendula", binary.display());
    binary
}
