//! Crontabs to jobs. What cron(8) of Debian would do with a line decides; each line that is no comment has a fate, and
//! none is dropped silently.
//!
//! [`read`] walks the lines; [`line`] tells settings from entries, [`percent`] cuts the command from its standard input,
//! [`name`] finds a stable name, [`job`] makes the definition. Nothing here touches a server or the clock.

mod job;
mod line;
mod name;
mod percent;

use std::path::{Path, PathBuf};

use pendula_model::Timestamp;
use pendula_model::job::JobSpec;
use pendula_schedule::Plan;

use job::Environment;
pub use job::MARK;

/// Which of the two formats a file has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Layout {
    /// `crontab -e`: five time fields, command. All of it belongs to one user, if we know whom.
    User(Option<String>),
    /// `/etc/crontab` and `/etc/cron.d`: five time fields, user, command.
    System,
}

/// A crontab to import.
#[derive(Clone, Debug)]
pub struct Crontab {
    pub path: PathBuf,
    pub layout: Layout,
    pub text: Vec<u8>,
}

/// How to import.
#[derive(Clone, Debug)]
pub struct Options {
    /// Zone of the machine whose cron read the file; `CRON_TZ` in the file wins.
    pub timezone: String,
    /// Let the jobs run as the user that the crontab names.
    pub run_as: bool,
    /// Whether the jobs fire once they are saved.
    pub enabled: bool,
}

/// A line that is neither empty nor a comment.
#[derive(Clone, Debug)]
pub struct Line {
    /// From 1.
    pub number: usize,
    pub text: String,
    pub fate: Fate,
}

/// What became of a line.
#[derive(Clone, Debug)]
pub enum Fate {
    Imported {
        job: Box<JobSpec>,
        notes: Vec<String>,
    },
    /// A setting that the jobs below it have.
    Env {
        note: Option<String>,
    },
    /// Right for cron, but there is no counterpart for it.
    Unsupported {
        why: String,
    },
    /// Cron would refuse it too, or should have.
    Broken {
        why: String,
    },
}

/// A file's lines, and remarks about the file as a whole.
#[derive(Clone, Debug)]
pub struct Imported {
    pub path: PathBuf,
    pub layout: Layout,
    pub lines: Vec<Line>,
    pub notes: Vec<String>,
}

impl Layout {
    /// What the place of a file says about its format: `/etc/crontab` and files in a `cron.d` have the user column; in
    /// a `crontabs` directory, where crontab(1) keeps them, the file's name is the user's.
    pub fn of_path(path: &Path) -> Layout {
        let name = |path: Option<&Path>| path.and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
        let (file, directory) = (name(Some(path)), name(path.parent()));
        match (file.as_deref(), directory.as_deref()) {
            (_, Some("cron.d")) | (Some("crontab"), Some("etc")) => Layout::System,
            (Some(user), Some("crontabs")) => Layout::User(Some(user.to_owned())),
            _ => Layout::User(None),
        }
    }
}

/// Whether cron reads a file of this name in `/etc/cron.d`: letters, digits, `_` and `-` only, which leaves out what
/// editors and package managers leave behind.
pub fn is_read_from_cron_d(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-')
}

/// Imports files together, so that no two jobs get one name. `now` stands in for the time at which they are saved.
pub fn read(crontabs: &[Crontab], options: &Options, now: Timestamp) -> Vec<Imported> {
    let mut names = name::Names::default();
    crontabs.iter().map(|crontab| read_one(crontab, options, now, &mut names)).collect()
}

fn read_one(crontab: &Crontab, options: &Options, now: Timestamp, names: &mut name::Names) -> Imported {
    let mut notes = Vec::new();
    let text = crontab.text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&crontab.text);
    if text.len() < crontab.text.len() {
        notes.push("begins with a byte order mark, which cron would not understand; left out".to_owned());
    }
    if !text.is_empty() && !text.ends_with(b"\n") {
        notes.push("the last line has no end; cron would ignore the whole file".to_owned());
    }
    if text.windows(2).any(|pair| pair == b"\r\n") {
        notes.push(
            "has Windows line ends; cron would pass the carriage returns on to the commands, they are left out"
                .to_owned(),
        );
    }
    if crontab.path.file_name().is_some_and(|name| name == "anacrontab") {
        notes.push("an anacrontab has periods, not times; write `fixed_rate` triggers for its jobs".to_owned());
    }
    let mut environment = Environment::new(&options.timezone);
    let mut lines = Vec::new();
    for (number, bytes) in text.split(|byte| *byte == b'\n').enumerate() {
        let bytes = bytes.strip_suffix(b"\r").unwrap_or(bytes);
        let text = String::from_utf8_lossy(bytes).into_owned();
        let trimmed = text.trim_start_matches([' ', '\t']);
        if trimmed.is_empty() || trimmed.starts_with('#') {
            continue;
        }
        let fate = if std::str::from_utf8(bytes).is_err() {
            Fate::Broken { why: "is not UTF-8".to_owned() }
        } else if trimmed.contains('\0') {
            Fate::Broken { why: "contains a NUL character".to_owned() }
        } else if let Some(setting) = line::setting(trimmed) {
            environment.set(setting, number + 1)
        } else {
            entry(trimmed, crontab, options, &environment, now, names)
        };
        lines.push(Line { number: number + 1, text, fate });
    }
    if matches!(crontab.layout, Layout::User(_)) && looks_like_system(&lines) {
        notes.push("each command begins with `root`: if that is a user column, import it with --system".to_owned());
    }
    Imported { path: crontab.path.clone(), layout: crontab.layout.clone(), lines, notes }
}

fn entry(
    text: &str,
    crontab: &Crontab,
    options: &Options,
    environment: &Environment,
    now: Timestamp,
    names: &mut name::Names,
) -> Fate {
    let entry = match line::entry(text, crontab.layout == Layout::System) {
        Ok(entry) => entry,
        Err(why) => return Fate::Broken { why },
    };
    if entry.schedule.eq_ignore_ascii_case("@reboot") {
        let why = "@reboot: there is no trigger for the start of a machine; keep it in cron or make it a systemd unit"
            .to_owned();
        return Fate::Unsupported { why };
    }
    if let Err(why) = environment.usable() {
        return Fate::Broken { why };
    }
    let made = job::make(&entry, crontab, options, environment, names);
    let trigger = made.job.trigger.as_ref().expect("an entry has a schedule");
    let checked = made.job.validate().and_then(|()| Plan::compile(trigger, now).map(drop));
    match checked {
        Ok(()) => Fate::Imported { job: Box::new(made.job), notes: made.notes },
        Err(invalid) => Fate::Broken { why: invalid.to_string() },
    }
}

fn looks_like_system(lines: &[Line]) -> bool {
    let mut commands = lines.iter().filter_map(|line| match &line.fate {
        Fate::Imported { job, .. } => Some(job),
        _ => None,
    });
    let begins_with_root = |job: &JobSpec| match &job.processor {
        pendula_model::processor::Processor::Shell(script) => {
            script.script.split_ascii_whitespace().next() == Some("root")
        }
        _ => false,
    };
    commands.next().is_some_and(|first| begins_with_root(first) && commands.all(|job| begins_with_root(job)))
}

impl Fate {
    /// The word of the report.
    pub fn word(&self) -> &'static str {
        match self {
            Fate::Imported { .. } => "imported",
            Fate::Env { .. } => "env",
            Fate::Unsupported { .. } => "unsupported",
            Fate::Broken { .. } => "broken",
        }
    }
}

#[cfg(test)]
mod tests;
