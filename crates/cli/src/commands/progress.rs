//! How far the tasks of an instance are, while it changes: a bar for those who look, some lines for those who read later.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use pendula_model::api::TasksView;
use pendula_model::task::Phase;

use crate::failure::Outcome;
use crate::output::{Screen, progress_line};

/// How often a line is written where there is no bar, at most.
const LINES_EVERY: Duration = Duration::from_secs(2);

/// Where the lines go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lines {
    /// They are the answer.
    Out,
    /// They go with it.
    Error,
}

/// See the [module](self).
pub(super) struct Progress<'a> {
    screen: &'a Screen,
    lines: Lines,
    bar: Option<ProgressBar>,
    last_line: Option<Instant>,
    /// The latest news, if it was not written.
    unsaid: Option<TasksView>,
}

impl<'a> Progress<'a> {
    pub(super) fn new(screen: &'a Screen, lines: Lines) -> Self {
        let is_watched = screen.is_table() && std::io::stderr().is_terminal();
        let bar = is_watched.then(|| {
            let style =
                ProgressStyle::with_template("{bar:30} {percent}% {msg} ({elapsed})").expect("a valid template");
            ProgressBar::new(0).with_style(style.progress_chars("=> "))
        });
        Progress { screen, lines, bar, last_line: None, unsaid: None }
    }

    pub(super) fn show(&mut self, tasks: &TasksView) -> Outcome {
        if let Some(bar) = &self.bar {
            bar.set_length(tasks.counts.total);
            bar.set_position(tasks.counts.ended());
            bar.set_message(format!("{}{}", phase(tasks), progress_line(tasks)));
            return Ok(());
        }
        self.unsaid = Some(tasks.clone());
        if self.last_line.is_none_or(|last| last.elapsed() >= LINES_EVERY) {
            return self.write();
        }
        Ok(())
    }

    /// Takes the bar away, or writes the last line.
    pub(super) fn finish(&mut self) -> Outcome {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        self.write()
    }

    fn write(&mut self) -> Outcome {
        let Some(tasks) = self.unsaid.take().filter(|_| self.screen.is_table()) else { return Ok(()) };
        self.last_line = Some(Instant::now());
        let line = format!("{}{}", phase(&tasks), progress_line(&tasks));
        match self.lines {
            Lines::Out => self.screen.line(line),
            Lines::Error => {
                eprintln!("pendula: {line}");
                Ok(())
            }
        }
    }
}

/// A bar that is left behind would look as if it went on.
impl Drop for Progress<'_> {
    fn drop(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

/// What else goes on, where it is not the tasks themselves.
fn phase(tasks: &TasksView) -> &'static str {
    match tasks.phase {
        Phase::Before => "before the tasks: ",
        Phase::Main => "",
        Phase::After => "after the tasks: ",
    }
}
