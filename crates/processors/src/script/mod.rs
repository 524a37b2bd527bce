//! The `shell` and `python` processors.
//!
//! One attempt: [`plan`] turns definition and facts into a program with its environment (pure), [`scratch`] makes the
//! directory of the attempt, a supervisor runs the program ([`crate::supervisor`]), [`output`] turns what it prints into
//! log and results, and [`outcome`] tells how it went. In an instance with many tasks, `sub_tasks` emits what the script
//! writes, and `results` lays ready what the others left.

mod environment;
pub mod outcome;
pub mod output;
mod plan;
mod pump;
mod results;
mod scratch;
mod sub_tasks;
mod user;
mod workplace;

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use pendula_model::instance::Reason;
use pendula_model::processor::Script;
use pendula_worker::{Failure, Handler, Output, Task};
use tokio::time::{Instant, sleep_until};

use crate::facts::Facts;
use crate::supervisor::{self, Command, Report, Supervision};
use outcome::Ending;
use pump::Pump;
use scratch::Scratch;
use sub_tasks::Emitter;
use workplace::Workplace;

/// What the worker's owner allows and limits.
#[derive(Clone, Debug)]
pub struct ScriptConfig {
    /// How scripts are watched. Default: by the worker's own program.
    pub supervision: Supervision,
    /// Where the directories of attempts are made, and what dead workers left there is removed. Default: the system's
    /// directory for temporary files.
    pub scratch: PathBuf,
    /// Bytes of output that one attempt may log; the rest is dropped, and the log says so. Default 64 MiB.
    pub log_bytes: u64,
    /// Users that definitions may name in `run_as`; never `root`. Needs a worker that runs as root. Default: none.
    pub run_as: Vec<String>,
    /// Further variables of the worker's environment that scripts get. Names that begin with `PENDULA_` are never
    /// passed. Default: none.
    pub pass_environment: Vec<String>,
}

impl Default for ScriptConfig {
    fn default() -> Self {
        ScriptConfig {
            supervision: Supervision::default(),
            scratch: std::env::temp_dir(),
            log_bytes: 64 * 1024 * 1024,
            run_as: Vec::new(),
            pass_environment: Vec::new(),
        }
    }
}

/// Who reads the script.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    /// `/bin/sh`, or what the script's first line or its definition names. Templates in the text become variables.
    Shell,
    /// `python3`. The text is left as it is: values come by environment, arguments, standard input or file.
    Python,
}

/// The handler behind `shell` and `python`.
#[derive(Clone, Debug)]
pub struct ScriptHandler {
    language: Language,
    config: Arc<ScriptConfig>,
    workplace: Arc<Workplace>,
}

impl ScriptHandler {
    /// Also removes what workers that were killed left in the directory for attempts.
    pub fn new(language: Language, config: Arc<ScriptConfig>) -> Self {
        let workplace = Arc::new(Workplace::new(config.scratch.clone()));
        ScriptHandler { language, config, workplace }
    }
}

#[async_trait]
impl Handler for ScriptHandler {
    async fn run(&self, task: Task) -> Result<Output, Failure> {
        let script: Script = task.config_json()?;
        let facts =
            Facts::of(&task).map_err(|error| invalid(format!("the parameters are not a JSON object: {error}")))?;
        let user = user::permitted(script.run_as.as_deref(), &self.config)?;
        let program = plan::plan(self.language, &script, &facts).map_err(|error| invalid(error.to_string()))?;
        if let Some(directory) = &script.directory {
            check_directory(directory)?;
        }

        let settings = (self.config.clone(), self.workplace.clone(), facts, program, user);
        let prepared = tokio::task::spawn_blocking(move || {
            let (config, workplace, facts, program, user) = settings;
            let scratch = Scratch::create(workplace.attempt()?, &program, &facts, user.as_ref())?;
            let launch = environment::launch(program, &facts, user, &scratch, &config);
            std::io::Result::Ok((scratch, launch))
        });
        let (mut scratch, launch) = prepared.await.map_err(Failure::from_display)?.map_err(|error| {
            Failure::new(Reason::FAILED, format!("preparing the directory of the attempt: {error}"))
        })?;

        if let Some(file) = scratch.results.take() {
            results::write(&task, file).await?;
        }
        let mut emitter = scratch.tasks.take().map(|fifo| Emitter::start(fifo, task.clone())).transpose()?;

        let (reader, writer) = std::io::pipe()?;
        let pump = Pump::start(reader, task.clone(), self.config.log_bytes)?;
        let ending = supervise(&task, &self.config, &launch, writer, &pump, emitter.as_mut()).await;
        let emitted = match emitter {
            Some(emitter) => emitter.finish().await,
            None => Ok(()),
        };
        let collected = pump.finish().await;
        let result = scratch.read_result(launch.user.as_ref()).await;
        // Removal may take long where a script left many files.
        tokio::task::spawn_blocking(move || drop(scratch));
        // A script that was ended because of its sub-tasks failed for that reason.
        let ending = ending?;
        emitted?;
        outcome::judge(ending, &script.success_codes, collected?, result)
    }
}

/// Runs the script and whatever it starts, until nothing of it is left.
async fn supervise(
    task: &Task,
    config: &ScriptConfig,
    launch: &supervisor::Launch,
    writer: std::io::PipeWriter,
    pump: &Pump,
    mut emitter: Option<&mut Emitter>,
) -> Result<Ending, Failure> {
    let cannot = |message: String| Failure::new(Reason::PROCESSOR_MISSING, message);
    let mut watched = supervisor::start(&config.supervision, launch, writer)
        .await
        .map_err(|error| cannot(format!("cannot start `{}`: {error}", launch.command[0])))?;
    let (mut asked, mut forced) = (false, false);
    let mut ending = None;
    // When a script that was asked to end because its sub-tasks failed is ended by force.
    let mut patience: Option<Instant> = None;
    loop {
        let emission_failed = async {
            match &mut emitter {
                Some(emitter) => emitter.failed().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            report = watched.next() => match report {
                Some(Report::Started) => {}
                Some(Report::NotStarted { missing: true, .. }) => {
                    let program = &launch.command[0];
                    return Err(cannot(format!("this worker has no `{program}`, which the script needs")));
                }
                Some(Report::NotStarted { message, .. }) => {
                    return Err(cannot(format!("cannot start `{}`: {message}", launch.command[0])));
                }
                Some(Report::Ended { code, signal }) => {
                    ending = Some(Ending { code, signal, asked });
                }
                Some(Report::LeftBehind { processes }) => {
                    pump.note(left_behind(&processes)).await;
                }
                Some(Report::Empty) => {
                    return ending.ok_or_else(|| Failure::new(Reason::FAILED, "nobody knows how the script ended"));
                }
                None => {
                    watched.sweep().await;
                    let message = "the supervisor of the script was killed; its processes were ended";
                    return Err(Failure::new(Reason::FAILED, message));
                }
            },
            () = task.cancelled(), if !asked => {
                asked = true;
                let grace = task.stop_grace();
                pump.note(format!("stop requested: TERM to all processes, KILL after {grace:?}")).await;
                watched.command(Command::Terminate).await;
            }
            () = task.killed(), if !forced => {
                forced = true;
                watched.command(Command::Kill).await;
            }
            failure = emission_failed => {
                emitter = None;
                if !asked && !task.is_cancelled() {
                    pump.note(format!("the script is ended: {}", failure.message)).await;
                    patience = Some(Instant::now() + task.stop_grace());
                    watched.command(Command::Terminate).await;
                }
            }
            () = sleep_until(patience.unwrap_or_else(Instant::now)), if patience.is_some() => {
                patience = None;
                watched.command(Command::Kill).await;
            }
        }
    }
}

fn left_behind(processes: &[String]) -> String {
    const SHOWN: usize = 10;
    let more = if processes.len() > SHOWN { ", …" } else { "" };
    let shown: Vec<&str> = processes.iter().take(SHOWN).map(String::as_str).collect();
    format!(
        "the script ended and left {} process(es) behind, which are ended now: {}{more}",
        processes.len(),
        shown.join(", ")
    )
}

fn check_directory(directory: &str) -> Result<(), Failure> {
    let wrong = |what: String| Failure::new(Reason::from_wire("directory_missing"), what);
    match std::fs::metadata(directory) {
        Ok(found) if found.is_dir() => Ok(()),
        Ok(_) => Err(wrong(format!("`directory` of the definition, {directory}, is not a directory on this worker"))),
        Err(error) => Err(wrong(format!("`directory` of the definition, {directory}, cannot be used: {error}"))),
    }
}

pub(crate) fn invalid(message: impl Into<String>) -> Failure {
    Failure::new(Reason::INVALID_DEFINITION, message).without_retry()
}
