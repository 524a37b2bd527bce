//! Where a worker makes the directories of its attempts, and how what a killed worker left is cleared away.
//!
//! Each worker has a directory of its own, `pendula-scripts-…`, which it keeps locked as long as it lives. A directory
//! that nobody holds was left by a worker that could not remove it any more, and the next one does. The lock is on the
//! directory itself, which also keeps systemd's cleaner of temporary files away from it.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rustix::fs::FlockOperation;
use tempfile::TempDir;

const PREFIX: &str = "pendula-scripts-";
/// Others may pass through, on the way to an attempt that belongs to them by `run_as`, but list nothing.
const MODE: u32 = 0o711;
/// How often a place is made for one attempt.
const TRIES: u32 = 3;

#[derive(Debug)]
pub(super) struct Workplace {
    base: PathBuf,
    own: Mutex<Option<Own>>,
}

/// Removed when dropped.
#[derive(Debug)]
struct Own {
    directory: TempDir,
    _lock: File,
}

impl Workplace {
    /// A place below `base`. Removes what dead workers left there; makes nothing yet.
    pub(super) fn new(base: PathBuf) -> Self {
        remove_abandoned(&base);
        Workplace { base, own: Mutex::default() }
    }

    /// A new directory for one attempt, removed when dropped.
    pub(super) fn attempt(&self) -> io::Result<TempDir> {
        let mut own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        let mut tries = 0;
        loop {
            let made = match &*own {
                Some(own) => own.attempt(),
                None => Err(io::ErrorKind::NotFound.into()),
            };
            match made {
                Err(_) if tries < TRIES => tries += 1,
                made => return made,
            }
            // Ours may be gone: removed by somebody, or by a worker that starts and saw it before it was locked.
            match Own::create(&self.base) {
                Ok(created) => *own = Some(created),
                Err(error) if tries == TRIES => return Err(error),
                Err(_) => {}
            }
        }
    }
}

impl Own {
    fn create(base: &Path) -> io::Result<Own> {
        fs::create_dir_all(base)?;
        let permissions = Permissions::from_mode(MODE);
        let directory = tempfile::Builder::new().prefix(PREFIX).permissions(permissions).tempdir_in(base)?;
        let lock = File::open(directory.path())?;
        rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
        Ok(Own { directory, _lock: lock })
    }

    fn attempt(&self) -> io::Result<TempDir> {
        let permissions = Permissions::from_mode(0o700);
        tempfile::Builder::new().prefix("attempt-").permissions(permissions).tempdir_in(self.directory.path())
    }
}

fn remove_abandoned(base: &Path) {
    let own_uid = rustix::process::geteuid().as_raw();
    for entry in fs::read_dir(base).into_iter().flatten().flatten() {
        let is_ours = entry.file_name().to_string_lossy().starts_with(PREFIX)
            // Of the entry itself, not of what a link leads to.
            && entry.metadata().is_ok_and(|about| about.is_dir() && about.uid() == own_uid);
        if is_ours && is_unlocked(&entry.path()) {
            match fs::remove_dir_all(entry.path()) {
                Ok(()) => tracing::info!(path = %entry.path().display(), "removed what a dead worker left"),
                Err(error) => tracing::warn!(%error, path = %entry.path().display(), "a dead worker's files stay"),
            }
        }
    }
}

fn is_unlocked(path: &Path) -> bool {
    File::open(path).is_ok_and(|file| rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_dead_worker_left_is_removed_and_what_a_living_one_has_is_not() {
        let base = tempfile::tempdir().unwrap();
        let living = Workplace::new(base.path().to_owned());
        let attempt = living.attempt().unwrap();
        let dead = base.path().join("pendula-scripts-dead");
        fs::create_dir_all(dead.join("attempt-1/work")).unwrap();
        let unrelated = base.path().join("pendula-data");
        fs::create_dir(&unrelated).unwrap();

        let next = Workplace::new(base.path().to_owned());
        assert!(attempt.path().is_dir() && unrelated.is_dir() && !dead.exists());
        let other = next.attempt().unwrap();
        assert_ne!(attempt.path().parent(), other.path().parent());
    }

    #[test]
    fn a_place_that_was_removed_is_made_again_and_goes_with_its_worker() {
        let base = tempfile::tempdir().unwrap();
        let place = Workplace::new(base.path().join("not/yet"));
        let attempt = place.attempt().unwrap();
        fs::remove_dir_all(attempt.path().parent().unwrap()).unwrap();
        assert!(place.attempt().unwrap().path().is_dir());
        drop(place);
        assert_eq!(fs::read_dir(base.path().join("not/yet")).unwrap().count(), 0);
    }
}
