//! An instance watched until it ends: its log on standard output, what happens to it on standard error.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use pendula_client::{Client, FollowOptions, TaskFilter};
use pendula_model::api::{InstanceView, LogEvent, TasksView};
use pendula_model::instance::{InstanceState, TaskState};
use pendula_model::{InstanceId, TaskId};

use super::progress::{Lines, Progress};
use crate::failure::{Failure, Outcome};
use crate::output::{Screen, Table, count, progress_line, state_shade};

/// Said where a log stops without having ended.
pub(super) const CUT_OFF: &str = "the log is cut off here: the worker vanished with the rest";
/// Tasks that are named when it is summed up what did not succeed.
const SUMMED_UP: u32 = 10;
/// How long a server may be away between two requests of one command.
const RETURN: Duration = Duration::from_secs(30);
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// How an instance, or the task that was followed, ended.
pub(super) struct Ended {
    pub(super) state: InstanceState,
    reason: Option<String>,
    message: Option<String>,
}

/// Follows the log of an instance or of one of its tasks to its end. A server that restarts meanwhile is waited for.
///
/// Ctrl-C ends the watching, not the instance.
pub(super) async fn watch(screen: &Screen, client: &Client, id: InstanceId, options: FollowOptions) -> Outcome<Ended> {
    follow(client, id, options, Narrator::of_log(screen)).await
}

/// Waits for the end of an instance: with its log, or with a progress bar where the logs of many tasks would flood the
/// screen, and then with what did not succeed.
pub(super) async fn wait(screen: &Screen, client: &Client, id: InstanceId) -> Outcome<Ended> {
    if find(client, id).await?.mode == "standalone" {
        return watch(screen, client, id, FollowOptions::default()).await;
    }
    let ended = progress(screen, client, id, Lines::Error).await?;
    sum_up(screen, client, id).await?;
    Ok(ended)
}

/// An instance that was there a moment ago, from whichever server comes back.
pub(super) async fn find(client: &Client, id: InstanceId) -> Outcome<InstanceView> {
    let give_up = Instant::now() + RETURN;
    loop {
        match client.instance_fetch(id).await {
            Err(error) if error.is_retryable() && Instant::now() < give_up => tokio::time::sleep(LOOK_AGAIN).await,
            result => return Ok(result?),
        }
    }
}

/// Shows how far an instance is until it ends, without its log.
pub(super) async fn progress(screen: &Screen, client: &Client, id: InstanceId, lines: Lines) -> Outcome<Ended> {
    follow(client, id, FollowOptions::default(), Narrator::of_progress(screen, lines)).await
}

async fn follow(client: &Client, id: InstanceId, options: FollowOptions, mut narrator: Narrator<'_>) -> Outcome<Ended> {
    let mut follow = client.follow(id, options);
    loop {
        let event = tokio::select! {
            event = follow.next() => event,
            _ = tokio::signal::ctrl_c() => {
                narrator.leave();
                let again = if narrator.lines.is_some() { "show" } else { "logs" };
                return Err(Failure::interrupted(format!("instance {id} goes on without being watched")).hint(format!(
                    "watch again: pendula instance {again} -f {id}\nstop it:     pendula instance stop {id}"
                )));
            }
        };
        match event {
            Some(Ok(LogEvent::Log { attempt, data, .. })) => narrator.log(attempt, &data)?,
            Some(Ok(LogEvent::Gap { attempt, bytes, .. })) => narrator.gap(attempt, bytes)?,
            Some(Ok(LogEvent::CutOff { attempt, .. })) => narrator.cut_off(attempt)?,
            Some(Ok(LogEvent::State { state, attempt, worker })) => narrator.state(state, attempt, worker.as_deref()),
            Some(Ok(LogEvent::Tasks { tasks })) => narrator.tasks(&tasks)?,
            Some(Ok(LogEvent::End { state, reason, message })) => {
                narrator.finish()?;
                return Ok(Ended { state, reason, message });
            }
            Some(Err(error)) => {
                narrator.leave();
                return Err(Failure::from(error).hint(format!("the instance may go on: pendula instance show {id}")));
            }
            None => return Err(Failure::unreachable(format!("the log of instance {id} ended without a result"))),
        }
    }
}

/// Names the first tasks that did not succeed, on standard error.
async fn sum_up(screen: &Screen, client: &Client, id: InstanceId) -> Outcome {
    let Some(TasksView { counts, .. }) = find(client, id).await?.tasks else { return Ok(()) };
    let unsuccessful = counts.failed + counts.lost;
    if unsuccessful == 0 || !screen.is_table() {
        return Ok(());
    }
    let states = vec![TaskState::Failed, TaskState::Lost];
    let filter = TaskFilter { states, limit: Some(SUMMED_UP), ..TaskFilter::default() };
    let page = client.instance_tasks(id, &filter).await?;
    eprintln!("pendula: {} of {} tasks did not succeed", count(unsuccessful), count(counts.total));
    let mut table = Table::listing(["TASK", "NAME", "STATE", "WORKER", "REASON"], &[1, 3, 4]);
    for task in &page.items {
        table.row([
            task.task.to_string(),
            task.name.clone(),
            task.state.to_string(),
            task.worker.clone().unwrap_or_default(),
            super::instance::because(task.reason.as_deref(), task.message.as_deref()),
        ]);
    }
    if !table.is_empty() {
        screen.table_error(table);
    }
    eprintln!("  → all of them: pendula instance tasks {id} --state failed,lost");
    Ok(())
}

impl Ended {
    /// Says it on standard error, and fails unless it (the instance, or one task of it) succeeded.
    pub(super) fn verdict(self, screen: &Screen, id: InstanceId, task: Option<TaskId>) -> Outcome {
        let whose = task.map(|task| format!("task {task} of ")).unwrap_or_default();
        let because = [self.reason, self.message].into_iter().flatten().collect::<Vec<_>>().join(": ");
        let because = if because.is_empty() { because } else { format!(" ({because})") };
        if self.state == InstanceState::Succeeded {
            if screen.is_table() {
                eprintln!(
                    "{}",
                    screen.paint_error(state_shade(self.state), &format!("{whose}instance {id} succeeded{because}"))
                );
            }
            return Ok(());
        }
        let hint = match task {
            Some(task) => format!("pendula instance task {id} {task}"),
            None => format!("pendula instance show {id}"),
        };
        Err(Failure::instance_failed(format!("{whose}instance {id} {}{because}", self.state)).hint(hint))
    }
}

/// Tells people what happens, as far as they look.
struct Narrator<'a> {
    screen: &'a Screen,
    spinner: Option<ProgressBar>,
    /// Instead of the log.
    progress: Option<Progress<'a>>,
    lines: Option<Lines>,
    attempt: u32,
    at_line_start: bool,
}

impl<'a> Narrator<'a> {
    fn of_log(screen: &'a Screen) -> Self {
        let watched = screen.is_table() && std::io::stderr().is_terminal();
        let spinner = watched.then(|| {
            let style = ProgressStyle::with_template("{spinner} {msg} ({elapsed})").expect("a valid template");
            let spinner = ProgressBar::new_spinner().with_style(style).with_message("waiting");
            spinner.enable_steady_tick(Duration::from_millis(120));
            spinner
        });
        Narrator { screen, spinner, progress: None, lines: None, attempt: 1, at_line_start: true }
    }

    fn of_progress(screen: &'a Screen, lines: Lines) -> Self {
        Narrator { lines: Some(lines), ..Narrator::of_log(screen) }
    }

    /// Takes the spinner away; from the first text on it would only be in its way.
    fn quiet(&mut self) {
        if let Some(spinner) = self.spinner.take() {
            spinner.finish_and_clear();
        }
    }

    /// Nothing more will be told.
    fn leave(&mut self) {
        self.quiet();
        self.progress = None;
    }

    fn state(&mut self, state: InstanceState, attempt: u32, worker: Option<&str>) {
        if let Some(spinner) = &self.spinner {
            let place = worker.map(|worker| format!(" on {worker}")).unwrap_or_default();
            let attempt = if attempt > 1 { format!(", attempt {attempt}") } else { String::new() };
            spinner.set_message(format!("{state}{place}{attempt}"));
        }
    }

    fn tasks(&mut self, tasks: &TasksView) -> Outcome {
        let Some(lines) = self.lines else {
            if let Some(spinner) = &self.spinner {
                spinner.set_message(progress_line(tasks));
            }
            return Ok(());
        };
        self.quiet();
        self.progress.get_or_insert_with(|| Progress::new(self.screen, lines)).show(tasks)
    }

    fn log(&mut self, attempt: u32, data: &str) -> Outcome {
        if self.lines.is_some() {
            return Ok(());
        }
        self.begin(attempt)?;
        // The caller asked for a document, and text would spoil it.
        if !self.screen.is_table() {
            return Ok(());
        }
        self.at_line_start = data.ends_with('\n');
        self.screen.raw(data.as_bytes())
    }

    fn gap(&mut self, attempt: u32, bytes: u64) -> Outcome {
        if self.lines.is_some() {
            return Ok(());
        }
        self.begin(attempt)?;
        self.end_line()?;
        eprintln!("pendula: {bytes} bytes of the log were lost here");
        Ok(())
    }

    fn cut_off(&mut self, attempt: u32) -> Outcome {
        if self.lines.is_some() {
            return Ok(());
        }
        self.begin(attempt)?;
        self.end_line()?;
        eprintln!("pendula: {CUT_OFF}");
        Ok(())
    }

    fn begin(&mut self, attempt: u32) -> Outcome {
        self.quiet();
        if attempt > self.attempt {
            self.attempt = attempt;
            self.end_line()?;
            eprintln!("pendula: attempt {attempt}");
        }
        Ok(())
    }

    fn end_line(&mut self) -> Outcome {
        if !std::mem::replace(&mut self.at_line_start, true) {
            self.screen.raw(b"\n")?;
        }
        Ok(())
    }

    fn finish(&mut self) -> Outcome {
        self.quiet();
        match &mut self.progress {
            Some(progress) => progress.finish(),
            None => self.end_line(),
        }
    }
}
