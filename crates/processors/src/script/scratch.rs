//! The directory of one attempt: script, parameters, input, result, and an empty place to work in; for a task of an
//! instance with many also the FIFO for sub-tasks or the file with results. Readable by nobody else, and gone when the
//! attempt has ended.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use pendula_model::limits;
use rustix::fs::{CWD, Gid, Mode, OFlags, Uid};
use tempfile::TempDir;

use super::plan::Program;
use super::user::Account;
use crate::facts::{Facts, Part};
use crate::supervisor::User;

pub(super) struct Scratch {
    directory: TempDir,
    path_text: String,
    script: &'static str,
    has_stdin: bool,
    /// For a task that may emit sub-tasks: the FIFO `tasks`, open for reading and writing.
    pub(super) tasks: Option<File>,
    /// For a task that may read results: the empty file `results`, open for writing.
    pub(super) results: Option<File>,
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
        let (script, has_stdin) = (program.file_name, program.stdin.is_some());
        let mut scratch = Scratch { directory, path_text, script, has_stdin, tasks: None, results: None };
        let owner = account.map(|account| &account.rights);
        scratch.write(program.file_name, &program.text, owner)?;
        scratch.write("params.json", facts.params_json(), owner)?;
        if let Some(stdin) = &program.stdin {
            scratch.write("stdin", stdin, owner)?;
        }
        if let Some(part) = &facts.part {
            scratch.make_exchange(part, owner)?;
        }
        let work = scratch.work_directory();
        DirBuilder::new().mode(0o700).create(&work)?;
        give(&work, owner)?;
        give(scratch.path(), owner)?;
        Ok(scratch)
    }

    /// What a task of an instance with many gets and gives besides.
    fn make_exchange(&mut self, part: &Part, owner: Option<&User>) -> io::Result<()> {
        if let Some(input) = &part.input {
            self.write("input", &input.bytes, owner)?;
        }
        if part.role.may_map() {
            let path = self.path().join("tasks");
            rustix::fs::mkfifoat(CWD, &path, Mode::RUSR | Mode::WUSR)?;
            give(&path, owner)?;
            // Neither end waits for the other: see `super::sub_tasks`.
            let flags = OFlags::NONBLOCK.bits().cast_signed();
            self.tasks = Some(OpenOptions::new().read(true).write(true).custom_flags(flags).open(&path)?);
        }
        if part.role.may_read_results() {
            self.results = Some(self.write("results", b"", owner)?);
        }
        Ok(())
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>, owner: Option<&User>) -> io::Result<File> {
        let path = self.path().join(name);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        file.write_all(bytes.as_ref())?;
        give(&path, owner)?;
        Ok(file)
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

    /// Variables that name what [`Scratch::make_exchange`] made.
    pub(super) fn exchange(&self, part: &Part) -> Vec<(&'static str, String)> {
        let has_input = part.input.is_some();
        [
            ("PENDULA_TASK_INPUT_FILE", has_input, "input"),
            ("PENDULA_TASKS", part.role.may_map(), "tasks"),
            ("PENDULA_RESULTS", part.role.may_read_results(), "results"),
        ]
        .into_iter()
        .filter(|(_, is_there, _)| *is_there)
        .map(|(variable, _, name)| (variable, self.file(name)))
        .collect()
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
