//! The directory of one attempt: script, parameters, input, result, and an empty place to work in. Readable by nobody
//! else, and gone when the attempt has ended.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use pendula_model::limits;
use rustix::fs::{Gid, OFlags, Uid};
use tempfile::TempDir;

use super::plan::Program;
use super::user::Account;
use crate::facts::Facts;
use crate::supervisor::User;

pub(super) struct Scratch {
    directory: TempDir,
    path_text: String,
    script: &'static str,
    has_stdin: bool,
}

impl Scratch {
    /// Fills `directory`; all in it belongs to the user who will run the script. It is removed with the value.
    pub(super) fn create(
        directory: TempDir,
        program: &Program,
        facts: &Facts,
        account: Option<&Account>,
    ) -> io::Result<Scratch> {
        let path_text = directory
            .path()
            .to_str()
            .ok_or_else(|| io::Error::other("the path of the scratch directory is not UTF-8"))?
            .to_owned();
        let scratch = Scratch { directory, path_text, script: program.file_name, has_stdin: program.stdin.is_some() };
        let owner = account.map(|account| &account.rights);
        scratch.write(program.file_name, &program.text, owner)?;
        scratch.write("params.json", &facts.params_json(), owner)?;
        if let Some(stdin) = &program.stdin {
            scratch.write("stdin", stdin, owner)?;
        }
        let work = scratch.work_directory();
        DirBuilder::new().mode(0o700).create(&work)?;
        give(&work, owner)?;
        give(scratch.path(), owner)?;
        Ok(scratch)
    }

    fn write(&self, name: &str, text: &str, owner: Option<&User>) -> io::Result<()> {
        let path = self.path().join(name);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        file.write_all(text.as_bytes())?;
        give(&path, owner)
    }

    pub(super) fn path(&self) -> &Path {
        self.directory.path()
    }

    pub(super) fn path_text(&self) -> String {
        self.path_text.clone()
    }

    pub(super) fn work_directory(&self) -> PathBuf {
        self.path().join("work")
    }

    pub(super) fn stdin_file(&self) -> Option<PathBuf> {
        self.has_stdin.then(|| self.path().join("stdin"))
    }

    pub(super) fn script_file(&self) -> String {
        self.file(self.script)
    }

    pub(super) fn params_file(&self) -> String {
        self.file("params.json")
    }

    pub(super) fn result_file(&self) -> String {
        self.file("result")
    }

    fn file(&self, name: &str) -> String {
        format!("{}/{name}", self.path_text)
    }

    /// What the script wrote to its result file, if it did. Call it when no process of the attempt is left.
    ///
    /// # Errors
    /// When there is something that cannot be a result: too large, or no file of the script's own.
    pub(super) async fn read_result(&self, user: Option<&User>) -> Result<Option<Vec<u8>>, ResultFileError> {
        let path = PathBuf::from(self.result_file());
        let owner = user.map_or_else(|| rustix::process::geteuid().as_raw(), |user| user.uid);
        let read = tokio::task::spawn_blocking(move || read_own_file(&path, owner));
        read.await.unwrap_or_else(|_| Err(ResultFileError::Unreadable("the reader panicked".to_owned())))
    }
}

/// Why a result file is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ResultFileError {
    #[error("the result file has more than {} bytes", limits::RESULT_BYTES)]
    TooLarge,
    #[error("the result file cannot be read: {0}")]
    Unreadable(String),
}

/// A worker that runs as root must not be made to read what the script may not: no links of either kind, no devices.
fn read_own_file(path: &Path, owner: u32) -> Result<Option<Vec<u8>>, ResultFileError> {
    let unreadable = |message: String| ResultFileError::Unreadable(message);
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    let file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unreadable(error.to_string())),
    };
    let about = file.metadata().map_err(|error| unreadable(error.to_string()))?;
    if !about.is_file() || about.nlink() != 1 || about.uid() != owner {
        return Err(unreadable("it must be a plain file that the script made".to_owned()));
    }
    read_bounded(file).map_err(|error| unreadable(error.to_string()))?.map(Some).ok_or(ResultFileError::TooLarge)
}

fn read_bounded(file: File) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    file.take(limits::RESULT_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    Ok((bytes.len() <= limits::RESULT_BYTES).then_some(bytes))
}

fn give(path: &Path, owner: Option<&User>) -> io::Result<()> {
    if let Some(user) = owner {
        rustix::fs::chown(path, Some(Uid::from_raw(user.uid)), Some(Gid::from_raw(user.gid)))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sec_5_a_result_file_that_leads_elsewhere_is_not_read() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let owner = rustix::process::geteuid().as_raw();
        std::fs::write(at("plain"), "{}").unwrap();
        assert_eq!(read_own_file(&at("plain"), owner), Ok(Some(b"{}".to_vec())));
        assert_eq!(read_own_file(&at("none"), owner), Ok(None));
        assert!(read_own_file(&at("plain"), owner + 1).is_err());

        std::os::unix::fs::symlink("/etc/passwd", at("symlink")).unwrap();
        std::fs::hard_link(at("plain"), at("hardlink")).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, at("fifo"), rustix::fs::Mode::RWXU).unwrap();
        for name in ["symlink", "hardlink", "fifo", "."] {
            assert!(matches!(read_own_file(&at(name), owner), Err(ResultFileError::Unreadable(_))), "{name}");
        }
        std::fs::write(at("large"), vec![b'x'; limits::RESULT_BYTES + 1]).unwrap();
        assert_eq!(read_own_file(&at("large"), owner), Err(ResultFileError::TooLarge));
    }
}
