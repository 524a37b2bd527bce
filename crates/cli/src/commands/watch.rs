//! An instance watched until it ends: its log on standard output, what happens to it on standard error.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use pendula_client::{Client, FollowOptions};
use pendula_model::InstanceId;
use pendula_model::api::LogEvent;
use pendula_model::instance::InstanceState;

use crate::failure::{Failure, Outcome};
use crate::output::{Screen, state_shade};

/// Said where a log stops without having ended.
pub(super) const CUT_OFF: &str = "the log is cut off here: the worker vanished with the rest";

/// How an instance ended.
pub(super) struct Ended {
    pub(super) state: InstanceState,
    reason: Option<String>,
    message: Option<String>,
}

/// Follows an instance to its end. A server that restarts meanwhile is waited for.
///
/// Ctrl-C ends the watching, not the instance.
pub(super) async fn watch(screen: &Screen, client: &Client, id: InstanceId, options: FollowOptions) -> Outcome<Ended> {
    let mut follow = client.follow(id, options);
    let mut narrator = Narrator::new(screen);
    loop {
        let event = tokio::select! {
            event = follow.next() => event,
            _ = tokio::signal::ctrl_c() => {
                narrator.quiet();
                return Err(Failure::interrupted(format!("instance {id} goes on without being watched"))
                    .hint(format!("watch again: pendula instance logs -f {id}\nstop it:     pendula instance stop {id}")));
            }
        };
        match event {
            Some(Ok(LogEvent::Log { attempt, data, .. })) => narrator.log(attempt, &data)?,
            Some(Ok(LogEvent::Gap { attempt, bytes, .. })) => narrator.gap(attempt, bytes)?,
            Some(Ok(LogEvent::CutOff { attempt, .. })) => narrator.cut_off(attempt)?,
            Some(Ok(LogEvent::State { state, attempt, worker })) => narrator.state(state, attempt, worker.as_deref()),
            Some(Ok(LogEvent::End { state, reason, message })) => {
                narrator.finish()?;
                return Ok(Ended { state, reason, message });
            }
            Some(Err(error)) => {
                narrator.quiet();
                return Err(Failure::from(error).hint(format!("the instance may go on: pendula instance show {id}")));
            }
            None => return Err(Failure::unreachable(format!("the log of instance {id} ended without a result"))),
        }
    }
}

impl Ended {
    /// Says it on standard error, and fails unless the instance succeeded.
    pub(super) fn verdict(self, screen: &Screen, id: InstanceId) -> Outcome {
        let because = [self.reason, self.message].into_iter().flatten().collect::<Vec<_>>().join(": ");
        let because = if because.is_empty() { because } else { format!(" ({because})") };
        if self.state == InstanceState::Succeeded {
            if screen.is_table() {
                eprintln!(
                    "{}",
                    screen.paint_error(state_shade(self.state), &format!("instance {id} succeeded{because}"))
                );
            }
            return Ok(());
        }
        Err(Failure::instance_failed(format!("instance {id} {}{because}", self.state))
            .hint(format!("pendula instance show {id}")))
    }
}

/// Tells people what happens, as far as they look.
struct Narrator<'a> {
    screen: &'a Screen,
    spinner: Option<ProgressBar>,
    attempt: u32,
    at_line_start: bool,
}

impl<'a> Narrator<'a> {
    fn new(screen: &'a Screen) -> Self {
        let watched = screen.is_table() && std::io::stderr().is_terminal();
        let spinner = watched.then(|| {
            let style = ProgressStyle::with_template("{spinner} {msg} ({elapsed})").expect("a valid template");
            let spinner = ProgressBar::new_spinner().with_style(style).with_message("waiting");
            spinner.enable_steady_tick(Duration::from_millis(120));
            spinner
        });
        Narrator { screen, spinner, attempt: 1, at_line_start: true }
    }

    /// Takes the spinner away; from the first text on it would only be in its way.
    fn quiet(&mut self) {
        if let Some(spinner) = self.spinner.take() {
            spinner.finish_and_clear();
        }
    }

    fn state(&mut self, state: InstanceState, attempt: u32, worker: Option<&str>) {
        if let Some(spinner) = &self.spinner {
            let place = worker.map(|worker| format!(" on {worker}")).unwrap_or_default();
            let attempt = if attempt > 1 { format!(", attempt {attempt}") } else { String::new() };
            spinner.set_message(format!("{state}{place}{attempt}"));
        }
    }

    fn log(&mut self, attempt: u32, data: &str) -> Outcome {
        self.begin(attempt)?;
        // The caller asked for a document, and text would spoil it.
        if !self.screen.is_table() {
            return Ok(());
        }
        self.at_line_start = data.ends_with('\n');
        self.screen.raw(data.as_bytes())
    }

    fn gap(&mut self, attempt: u32, bytes: u64) -> Outcome {
        self.begin(attempt)?;
        self.end_line()?;
        eprintln!("pendula: {bytes} bytes of the log were lost here");
        Ok(())
    }

    fn cut_off(&mut self, attempt: u32) -> Outcome {
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
        self.end_line()
    }
}
