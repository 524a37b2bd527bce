//! Workers that write down what they run, and what they wrote.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use pendula_model::InstanceId;

use crate::process::Process;

/// How often each (instance, task, attempt) was executed.
pub type Notes = BTreeMap<(InstanceId, u64, u32), u32>;

/// A process of `pendula-e2e-noter`.
pub struct Noter {
    process: Process,
    arguments: Vec<String>,
    name: String,
    file: PathBuf,
    program: PathBuf,
}

impl Noter {
    /// Starts one that dials `urls`. `program` is its executable.
    pub fn start(program: &Path, urls: &[String], app: &str, token: &str, name: &str, directory: &Path) -> Noter {
        let file = directory.join(format!("{app}-{name}.notes"));
        let arguments = [&urls.join(","), app, token, name, "64"].map(str::to_owned).to_vec();
        let process = launch(program, &arguments, &file);
        Noter { process, arguments, name: name.to_owned(), file, program: program.to_owned() }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// SIGKILL, and another process under the same name.
    pub fn kill_and_restart(&mut self) {
        self.process.kill();
        self.process = launch(&self.program, &self.arguments, &self.file);
    }

    /// What it ran, over all its lives.
    pub fn notes(&self) -> Notes {
        let text = std::fs::read_to_string(&self.file).unwrap_or_default();
        let mut notes = Notes::new();
        for line in text.lines() {
            let words: Vec<_> = line.split(' ').collect();
            let [instance, task, attempt] = words[..] else { panic!("a worker wrote {line:?}") };
            let instance = instance.parse().expect("workers write ids");
            let number = |text: &str| text.parse::<u64>().expect("workers write numbers");
            *notes.entry((instance, number(task), number(attempt) as u32)).or_default() += 1;
        }
        notes
    }
}

fn launch(program: &Path, arguments: &[String], file: &Path) -> Process {
    let mut command = Command::new(program);
    command.args(arguments).arg(file);
    Process::start(&mut command, &file.with_extension("log")).expect("the worker's program can be started")
}

/// What several ran together.
pub fn together<'a>(noters: impl IntoIterator<Item = &'a Noter>) -> Notes {
    let mut all = Notes::new();
    for noter in noters {
        for (key, count) in noter.notes() {
            *all.entry(key).or_default() += count;
        }
    }
    all
}
