//! What scripts leave behind on disk: who ran what, counted by nobody but the file system.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use pendula_model::InstanceId;

/// One execution, as the script itself wrote it down.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Execution {
    /// Name of the worker whose process the script ran under.
    pub worker: String,
    pub role: String,
    pub task: u64,
    pub attempt: u32,
}

/// A directory in which scripts of [`ShellWorker`](crate::ShellWorker)s write down what they do, and wait for what the
/// test lets them do.
pub struct Effects {
    directory: PathBuf,
}

impl Effects {
    pub fn new(directory: &Path) -> Effects {
        let directory = directory.join("effects");
        std::fs::create_dir(&directory).expect("the directory is new");
        Effects { directory }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// A line of a script: writes down that the task has begun here.
    pub fn begin(&self) -> String {
        self.note("begun")
    }

    /// A line of a script: writes down that the task has come so far.
    pub fn end(&self) -> String {
        self.note("ended")
    }

    fn note(&self, what: &str) -> String {
        let line = "$E2E_WORKER $PENDULA_TASK_ROLE $PENDULA_TASK_ID $PENDULA_ATTEMPT";
        format!("echo \"{line}\" >> {}/$PENDULA_INSTANCE.{what}\n", self.directory.display())
    }

    /// A line of a script: waits until the test opens the gate. The name may hold variables of the shell.
    pub fn gate(&self, name: &str) -> String {
        format!("while [ ! -e {}/gate-{name} ]; do sleep 0.05; done\n", self.directory.display())
    }

    /// Lets scripts pass.
    pub fn open(&self, gate: &str) {
        std::fs::write(self.path(&format!("gate-{gate}")), "").expect("the directory is writable");
    }

    /// Everything that began for an instance, in order of worker, role, task and attempt; one entry per execution.
    pub fn begun(&self, instance: InstanceId) -> Vec<Execution> {
        self.read(instance, "begun")
    }

    /// Everything that came to its end.
    pub fn ended(&self, instance: InstanceId) -> Vec<Execution> {
        self.read(instance, "ended")
    }

    /// How often something began on each worker.
    pub fn per_worker(&self, instance: InstanceId) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for execution in self.begun(instance) {
            *counts.entry(execution.worker).or_default() += 1;
        }
        counts
    }

    fn read(&self, instance: InstanceId, what: &str) -> Vec<Execution> {
        let text = std::fs::read_to_string(self.path(&format!("{instance}.{what}"))).unwrap_or_default();
        let mut found: Vec<_> = text
            .lines()
            .map(|line| {
                let words: Vec<_> = line.split(' ').collect();
                let [worker, role, task, attempt] = words[..] else { panic!("a script wrote {line:?}") };
                let (worker, role) = (worker.to_owned(), role.to_owned());
                let number = |text: &str| text.parse().expect("scripts write numbers");
                Execution { worker, role, task: number(task), attempt: number(attempt) as u32 }
            })
            .collect();
        found.sort();
        found
    }
}
