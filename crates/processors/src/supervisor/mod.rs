//! The process between worker and script that leaves nothing behind.
//!
//! A script may start children, which may leave its process group (`setsid`), forget their parent (double fork) and
//! ignore TERM. A worker cannot follow them: their parent becomes process 1. So each script gets a supervisor, a second
//! run of the worker's own program, that declares itself the *subreaper* of all that descends from it: whoever loses
//! its parent becomes a child of the supervisor. From that follow the guarantees:
//!
//! - the whole tree can be signalled, because all of it hangs below the supervisor;
//! - the tree is empty exactly when the supervisor has no child left, which the kernel says (`ECHILD`);
//! - when the worker dies, by whatever signal, the pipe that it held open ends, and the supervisor kills the tree.
//!
//! A death signal from the kernel (`PR_SET_PDEATHSIG`) is deliberately not used: it is sent when the *thread* that
//! started the process ends, and runtimes end threads at will.
//!
//! A program that links this crate calls [`main_if_supervisor`] first in `main`. One that cannot do so names the
//! program `pendula-script-supervisor` in its configuration. With neither, scripts run in the weaker mode of
//! [`unsupervised`]: see there for what it does not promise.
//!
//! The supervisor reads a [`Launch`] and then [`Command`]s from its standard input, writes [`Report`]s to its standard
//! output, all as lines of JSON, and hands its standard error to the script as both standard output and error.

mod process_tree;
pub mod unsupervised;
mod watch;
mod watched;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::{Deserialize, Serialize};

pub(crate) use watched::start;

/// The first argument that makes a program a supervisor.
const ARGUMENT: &str = "pendula-script-supervisor";
/// Names the directory of the attempt in the environment of a script; by it the processes of an attempt are found
/// again when their supervisor was killed.
pub(crate) const SCRATCH_VARIABLE: &str = "PENDULA_SCRATCH";

static CALLED: AtomicBool = AtomicBool::new(false);

/// Turns this process into the supervisor of a script when it was started as one, and does not return then.
///
/// Call it first in `main`, before threads, runtimes and the reading of arguments. The crate's front page has an
/// example.
pub fn main_if_supervisor() {
    if std::env::args_os().nth(1).as_deref() == Some(OsStr::new(ARGUMENT)) {
        watch::run();
    }
    CALLED.store(true, Ordering::Relaxed);
}

/// How scripts are watched.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Supervision {
    /// By this program, if it called [`main_if_supervisor`]; else the weaker mode of [`unsupervised`].
    #[default]
    Automatic,
    /// By the program `pendula-script-supervisor`, or any other that calls [`main_if_supervisor`].
    Program(PathBuf),
}

impl Supervision {
    /// The program to start as supervisor, if there is one.
    pub(crate) fn program(&self) -> Option<PathBuf> {
        match self {
            // The link leads to the running program even after its file was replaced by an update.
            Supervision::Automatic => CALLED.load(Ordering::Relaxed).then(|| PathBuf::from("/proc/self/exe")),
            Supervision::Program(path) => Some(path.clone()),
        }
    }
}

/// What a script is to be started with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Launch {
    /// Program and arguments.
    pub(crate) command: Vec<String>,
    /// The whole environment.
    pub(crate) environment: BTreeMap<String, String>,
    pub(crate) directory: PathBuf,
    /// File for standard input; none is an empty one.
    pub(crate) stdin: Option<PathBuf>,
    pub(crate) user: Option<User>,
    /// The directory of the attempt, which the supervisor removes when the worker is gone.
    pub(crate) scratch: PathBuf,
}

/// Whose rights a script has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct User {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
}

/// From the worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Command {
    /// TERM for every process of the tree.
    Terminate,
    /// KILL until none is left.
    Kill,
}

/// To the worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Report {
    Started,
    /// The script could not be started; the last report.
    NotStarted {
        missing: bool,
        message: String,
    },
    /// The script itself ended, by a code or by a signal. Others that it started may still run.
    Ended {
        code: Option<i32>,
        signal: Option<i32>,
    },
    /// These outlived the script and are being ended.
    LeftBehind {
        processes: Vec<String>,
    },
    /// Nothing is left; the last report.
    Empty,
}
