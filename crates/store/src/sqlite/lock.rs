//! One process per data directory.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use crate::port::StoreError;

/// Holds the lock on a data directory until it is dropped, or the process ends in whatever way.
pub(crate) struct DirectoryLock {
    _file: File,
}

impl DirectoryLock {
    /// Makes the directory (mode 0700) if there is none, and locks it.
    ///
    /// # Errors
    ///
    /// [`StoreError::Refused`], naming the directory: another process has it, or we may not write there.
    pub fn acquire(directory: &Path) -> Result<DirectoryLock, StoreError> {
        let shown = directory.display();
        let refused = |what: &str, error: std::io::Error| {
            let hint = "the store needs a directory that it may write to";
            StoreError::Refused(format!("cannot {what} the data directory {shown}: {error}; {hint}"))
        };
        let made = DirBuilder::new().recursive(true).mode(0o700).create(directory);
        made.map_err(|error| refused("make or enter", error))?;
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let mut file = options.open(directory.join("lock")).map_err(|error| refused("open `lock` in", error))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut pid = String::new();
                // The number is for people; without it the refusal still stands.
                let _ = file.read_to_string(&mut pid);
                let pid = if pid.trim().is_empty() { "unknown" } else { pid.trim() };
                return Err(StoreError::Refused(format!(
                    "the data directory {shown} is in use by another process (pid {pid}); \
                     stop that one, or start this one with a directory of its own"
                )));
            }
            Err(TryLockError::Error(error)) => return Err(refused("lock", error)),
        }
        let named = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
        named.map_err(|error| refused("write to `lock` in", error))?;
        Ok(DirectoryLock { _file: file })
    }
}
