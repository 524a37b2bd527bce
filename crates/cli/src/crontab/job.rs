//! A crontab's entry and its settings as a job.

use std::collections::BTreeMap;

use pendula_model::job::JobSpec;
use pendula_model::policy::Delivery;
use pendula_model::processor::{Processor, Script};
use pendula_model::trigger::{Misfire, Trigger};

use super::line::{Entry, Setting};
use super::name::Names;
use super::{Crontab, Fate, Layout, Options, percent};

/// Descriptions of imported jobs begin with it, followed by the file.
pub const MARK: &str = "Imported from crontab ";

/// The settings in force at a line: like cron, an entry sees those above it.
pub(super) struct Environment {
    variables: BTreeMap<String, String>,
    shell: Option<String>,
    home: Option<String>,
    mail_to: Option<String>,
    timezone: String,
    /// The line of a `CRON_TZ` that names no zone: nothing below it can be scheduled.
    lost_zone: Option<usize>,
}

/// Variables that only say how cron sends mail.
const MAIL: [&str; 3] = ["MAILFROM", "CONTENT_TYPE", "CONTENT_TRANSFER_ENCODING"];

impl Environment {
    pub(super) fn new(timezone: &str) -> Self {
        Environment {
            variables: BTreeMap::new(),
            shell: None,
            home: None,
            mail_to: None,
            timezone: timezone.to_owned(),
            lost_zone: None,
        }
    }

    /// Takes in a setting found on `line`.
    pub(super) fn set(&mut self, setting: Setting, line: usize) -> Fate {
        let Setting { name, value } = setting;
        let noted = |note: &str| Fate::Env { note: Some(note.to_owned()) };
        match name.as_str() {
            "MAILTO" => {
                let wanted = !value.is_empty();
                self.mail_to = wanted.then_some(value);
                if !wanted {
                    return noted("no mail is wanted, and none is sent");
                }
                return Fate::Unsupported {
                    why: "no mail is sent yet; kept in the descriptions of the jobs below".to_owned(),
                };
            }
            name if MAIL.contains(&name) => return Fate::Unsupported { why: "no mail is sent yet".to_owned() },
            "CRON_TZ" => {
                let known = jiff::tz::TimeZone::get(&value).is_ok();
                self.lost_zone = (!known).then_some(line);
                self.timezone = value;
                return match known {
                    true => noted("the zone of the schedules below"),
                    false => Fate::Broken {
                        why: format!("`{}` is not a time zone; the entries below cannot be scheduled", self.timezone),
                    },
                };
            }
            "RANDOM_DELAY" | "START_HOURS_RANGE" => {
                return Fate::Unsupported { why: "jobs start on time, not after a random delay".to_owned() };
            }
            "LOGNAME" | "USER" => return noted("cron sets it to the user itself; left out"),
            _ => {}
        }
        let plain = !name.starts_with(|c: char| c.is_ascii_digit())
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        if name.is_empty() || !plain {
            return Fate::Unsupported { why: format!("`{name}` cannot be the name of an environment variable here") };
        }
        self.variables.insert(name.clone(), value.clone());
        match name.as_str() {
            "SHELL" => {
                let note = (value != "/bin/sh").then(|| format!("commands below are read by {value}"));
                self.shell = Some(value);
                Fate::Env { note }
            }
            "HOME" => {
                self.home = Some(value);
                noted("the working directory of the jobs below")
            }
            "TZ" => noted("the commands' zone; as in cron it does not move the schedule (CRON_TZ and --timezone do)"),
            _ => Fate::Env { note: None },
        }
    }

    /// Whether entries can be read under these settings.
    pub(super) fn usable(&self) -> Result<(), String> {
        match self.lost_zone {
            Some(line) => Err(format!("its zone, set on line {line}, is unknown")),
            None => Ok(()),
        }
    }
}

/// A definition and what its reader should know.
pub(super) struct Made {
    pub job: JobSpec,
    pub notes: Vec<String>,
}

pub(super) fn make(
    entry: &Entry<'_>,
    crontab: &Crontab,
    options: &Options,
    environment: &Environment,
    names: &mut Names,
) -> Made {
    let mut notes = Vec::new();
    let (command, input) = percent::split(entry.command);
    let user = match &crontab.layout {
        Layout::System => entry.user,
        Layout::User(user) => user.as_deref(),
    };
    let file = match &crontab.layout {
        Layout::User(Some(user)) => user.clone(),
        _ => crontab.path.file_name().map_or_else(|| "crontab".to_owned(), |name| name.to_string_lossy().into_owned()),
    };
    let file = if file == "-" { "crontab".to_owned() } else { file };
    let mut script = Script::new(shell_text(&command));
    script.stdin = input.map(|input| plain_text(&input));
    script.env = environment.variables.iter().map(|(name, value)| (name.clone(), plain_text(value))).collect();
    script.directory = environment.home.clone();
    script.interpreter = environment.shell.iter().filter(|shell| *shell != "/bin/sh").cloned().collect();
    let mut description = format!("{MARK}{}", crontab.path.display());
    match user {
        Some(user) if options.run_as => script.run_as = Some(user.to_owned()),
        Some(user) => description.push_str(&format!(", user {user}")),
        None => {}
    }
    if let Some(mail_to) = &environment.mail_to {
        description.push_str(&format!(", MAILTO={mail_to}"));
    }
    if entry.quiet {
        notes.push("the leading `-` (do not log) is left out".to_owned());
    }
    let mut job = JobSpec::new(names.give(&file, user, entry.command), Processor::Shell(script));
    job.description = pendula_model::limits::cut(&description, pendula_model::limits::MESSAGE_BYTES);
    job.trigger = Some(Trigger {
        cron: Some(entry.schedule.clone()),
        timezone: environment.timezone.clone(),
        // Cron does not make up for what it missed, and does not run again what a crash interrupted.
        misfire: Misfire::Skip,
        ..Trigger::default()
    });
    job.delivery = Delivery::AtMostOnce;
    job.enabled = options.enabled;
    Made { job, notes }
}

/// The names that Pendula would replace in shell text; anything else in `${…}` is the shell's own.
const TEMPLATE_NAMES: [&str; 6] = ["fire_time", "created_time", "instance", "attempt", "app", "job"];

/// A command with `${app}` and the like written as `$${app}`, so that the shell gets what cron would have given it.
fn shell_text(command: &str) -> String {
    let mut out = String::with_capacity(command.len());
    let mut rest = command;
    while let Some(at) = rest.find("${") {
        let (before, from) = rest.split_at(at);
        out.push_str(before);
        let escaped = before.len() - before.trim_end_matches('\\').len();
        let inside = from[2..].split('}').next().unwrap_or_default().trim();
        if TEMPLATE_NAMES.contains(&inside) && escaped % 2 == 0 {
            out.push('$');
        }
        out.push_str("${");
        rest = &from[2..];
    }
    out + rest
}

/// Text in which cron expands nothing, so that neither must we.
fn plain_text(text: &str) -> String {
    text.replace("${", "$${")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_that_cron_does_not_know_stay_text() {
        for (command, expect) in [
            ("echo ${HOME} ${app:-x}", "echo ${HOME} ${app:-x}"),
            ("echo ${app} ${ job }", "echo $${app} $${ job }"),
            ("echo \\${app} \\\\${app}", "echo \\${app} \\\\$${app}"),
        ] {
            assert_eq!(shell_text(command), expect);
        }
        assert_eq!(plain_text("$${HOME}"), "$$${HOME}");
    }
}
