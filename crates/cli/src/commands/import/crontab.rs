//! `pendula import crontab`: the lines of crontabs as jobs.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use pendula_client::Client;
use pendula_model::Timestamp;
use pendula_model::api::{AppliedJob, ApplyAction};
use pendula_model::job::JobSpec;
use pendula_schedule::Plan;
use serde::Serialize;

use super::super::apply::count;
use super::timezone;
use crate::connect::{AppArg, ConnectArgs, Session};
use crate::crontab::{self, Crontab, Fate, Imported, Layout, Line, MARK, Options};
use crate::definitions::{Document, now};
use crate::failure::{Failure, Outcome};
use crate::output::{Screen, Shade, Table, yaml};

const EXAMPLES: &str = "\
Every line that is no comment is accounted for: imported, env (a setting), unsupported, or broken.
Importing again updates the jobs of the same file instead of making new ones.

/etc/crontab and files in a cron.d directory have a user column; other files are read as user
crontabs unless --system says otherwise. A directory stands for the files that cron would read in it.

Examples:
  pendula import crontab /etc/crontab /etc/cron.d --dry-run     show the plan
  crontab -l | pendula import crontab - --app demo --user $USER
  pendula import crontab /etc/cron.d/backup --save jobs.yaml    a definitions file instead of jobs
  pendula import crontab /etc/crontab --disabled                first look, then enable one by one

Cron goes on running what you imported until you take it out of the crontab.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Crontab, directory of crontabs, or - for standard input
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Only show what would be imported
    #[arg(long)]
    dry_run: bool,
    /// Write a definitions file instead of saving jobs
    #[arg(long, value_name = "FILE", conflicts_with = "dry_run")]
    save: Option<PathBuf>,
    /// The files have a user column
    #[arg(long, conflicts_with = "user")]
    system: bool,
    /// The files are crontabs of this user
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// Run the jobs as their crontab's user; the workers must be allowed to change user
    #[arg(long)]
    run_as: bool,
    /// Zone of the schedules, where the file sets no CRON_TZ [default: this machine's]
    #[arg(long, value_name = "ZONE")]
    timezone: Option<String>,
    /// Save the jobs without letting them fire
    #[arg(long)]
    disabled: bool,
    #[command(flatten)]
    app: AppArg,
    #[command(flatten)]
    connect: ConnectArgs,
}

pub async fn run(args: Args, screen: Screen) -> Outcome {
    let (timezone, zone_note) = timezone(args.timezone.as_deref())?;
    let options = Options { timezone, run_as: args.run_as, enabled: !args.disabled };
    let now = now();
    let (crontabs, mut notes) = gather(&args)?;
    notes.extend(zone_note);
    let imported = crontab::read(&crontabs, &options, now);
    let jobs: Vec<JobSpec> = imported.iter().flat_map(|file| &file.lines).filter_map(imported_job).cloned().collect();

    let mut report = Report::new(&imported, notes, now);
    if let Some(file) = &args.save {
        save(file, args.app.app.clone(), jobs)?;
        print(&screen, &report)?;
        return screen.done(format!("written to {}; apply it with `pendula apply -f`", file.display()));
    }
    // A plan needs no server; with one, it also says what is there already.
    let session = match args.connect.open() {
        Ok(session) => session,
        Err(_) if args.dry_run => return print(&screen, &report),
        Err(failure) => return Err(failure),
    };
    let app = match session.app(&args.app).await {
        Ok(app) => app,
        Err(_) if args.dry_run && args.app.app.is_none() => return print(&screen, &report),
        Err(failure) => return Err(failure),
    };
    report.apply(&session, &app, jobs, args.dry_run).await?;
    report.stale = stale(&session.client, &app, &imported).await?;
    print(&screen, &report)?;
    report.verdict(&app)
}

fn gather(args: &Args) -> Outcome<(Vec<Crontab>, Vec<String>)> {
    let (mut crontabs, mut notes) = (Vec::new(), Vec::new());
    for path in &args.files {
        if !path.is_dir() {
            crontabs.push(crontab(path, Layout::of_path(path), args)?);
            continue;
        }
        let context = |error: std::io::Error| Failure::usage(format!("reading {}: {error}", path.display()));
        let entries: Result<Vec<_>, _> = std::fs::read_dir(path).map_err(context)?.collect();
        let mut entries: Vec<_> =
            entries.map_err(context)?.into_iter().map(|entry| entry.path()).filter(|path| path.is_file()).collect();
        entries.sort();
        for file in entries {
            let name = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            if crontab::is_read_from_cron_d(&name) {
                crontabs.push(crontab(&file, Layout::of_path(&file), args)?);
            } else {
                notes.push(format!("{}: left out, because cron does not read files of such a name", file.display()));
            }
        }
    }
    Ok((crontabs, notes))
}

fn crontab(path: &Path, found: Layout, args: &Args) -> Outcome<Crontab> {
    let text = if path == Path::new("-") {
        let mut text = Vec::new();
        std::io::Read::read_to_end(&mut std::io::stdin(), &mut text).map(|_| text)
    } else {
        std::fs::read(path)
    };
    let text = text.map_err(|error| Failure::usage(format!("reading {}: {error}", path.display())))?;
    let layout = match (&args.user, args.system) {
        (Some(user), _) => Layout::User(Some(user.clone())),
        (None, true) => Layout::System,
        (None, false) => found,
    };
    Ok(Crontab { path: path.to_owned(), layout, text })
}

fn imported_job(line: &Line) -> Option<&JobSpec> {
    match &line.fate {
        Fate::Imported { job, .. } => Some(job),
        _ => None,
    }
}

fn save(file: &Path, app: Option<String>, jobs: Vec<JobSpec>) -> Outcome {
    let text = yaml(&Document { app, jobs })?;
    std::fs::write(file, text).map_err(|error| Failure::usage(format!("writing {}: {error}", file.display())))
}

/// Jobs that an earlier import of the same files made, and that are in them no more.
async fn stale(client: &Client, app: &str, imported: &[Imported]) -> Outcome<Vec<String>> {
    let marks: BTreeSet<String> = imported.iter().map(|file| format!("{MARK}{}", file.path.display())).collect();
    let names: BTreeSet<_> =
        imported.iter().flat_map(|file| &file.lines).filter_map(imported_job).map(|job| &job.name).collect();
    let jobs = client.job_list(app).await?.into_iter().map(|job| job.spec);
    let ours = |job: &JobSpec| {
        let origin = job.description.split(", user ").next().unwrap_or_default();
        marks.contains(origin.split(", MAILTO=").next().unwrap_or_default())
    };
    Ok(jobs.filter(|job| ours(job) && !names.contains(&job.name)).map(|job| job.name).collect())
}

/// The answer, for people and programs.
#[derive(Serialize)]
struct Report {
    #[serde(skip_serializing_if = "Option::is_none")]
    app: Option<String>,
    /// Whether jobs were saved.
    saved: bool,
    files: Vec<FileReport>,
    notes: Vec<String>,
    /// Imported earlier from these files, and in them no more.
    stale: Vec<String>,
}

#[derive(Serialize)]
struct FileReport {
    file: String,
    layout: &'static str,
    lines: Vec<LineReport>,
    notes: Vec<String>,
}

#[derive(Serialize)]
struct LineReport {
    line: usize,
    text: String,
    /// `imported`, `env`, `unsupported` or `broken`.
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    job: Option<JobSpec>,
    /// What the server does, or would do, with the job.
    #[serde(skip_serializing_if = "Option::is_none")]
    action: Option<ApplyAction>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    next: Vec<Timestamp>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    notes: Vec<String>,
}

impl Report {
    fn new(imported: &[Imported], notes: Vec<String>, now: Timestamp) -> Self {
        let files = imported.iter().map(|file| FileReport {
            file: file.path.display().to_string(),
            layout: match file.layout {
                Layout::User(_) => "user",
                Layout::System => "system",
            },
            lines: file.lines.iter().map(|line| LineReport::new(line, now)).collect(),
            notes: file.notes.clone(),
        });
        Report { app: None, saved: false, files: files.collect(), notes, stale: Vec::new() }
    }

    /// Saves the jobs, or asks what saving would do.
    async fn apply(&mut self, session: &Session, app: &str, jobs: Vec<JobSpec>, dry_run: bool) -> Outcome {
        let applied = session.client.apply_all(app, jobs, dry_run).await?.jobs;
        self.app = Some(app.to_owned());
        self.saved = !dry_run;
        let lines = self.files.iter_mut().flat_map(|file| &mut file.lines).filter(|line| line.job.is_some());
        for (line, AppliedJob { action, problem, .. }) in lines.zip(applied) {
            line.action = Some(action);
            line.notes.extend(
                problem.map(|problem| format!("{} ({})", problem.detail.unwrap_or(problem.title), problem.code)),
            );
        }
        Ok(())
    }

    fn lines(&self) -> impl Iterator<Item = &LineReport> {
        self.files.iter().flat_map(|file| &file.lines)
    }

    fn count(&self, status: &str) -> usize {
        self.lines().filter(|line| line.status == status).count()
    }

    fn verdict(&self, app: &str) -> Outcome {
        let refused = self.lines().filter(|line| line.action == Some(ApplyAction::Refused)).count();
        if refused == 0 {
            return Ok(());
        }
        let failure = Failure::refused(format!("the server refused {}", count(refused, "job")));
        let scripts = self.lines().flat_map(|line| &line.notes).any(|note| note.contains("(scripts_not_allowed)"));
        Err(if scripts { failure.hint(format!("pendula app update {app} --allow-scripts true")) } else { failure })
    }
}

impl LineReport {
    fn new(line: &Line, now: Timestamp) -> Self {
        let (job, notes) = match &line.fate {
            Fate::Imported { job, notes } => (Some((**job).clone()), notes.clone()),
            Fate::Env { note } => (None, note.iter().cloned().collect()),
            Fate::Unsupported { why } | Fate::Broken { why } => (None, vec![why.clone()]),
        };
        let plan = job.as_ref().and_then(|job| Plan::compile(job.trigger.as_ref()?, now).ok());
        let next = plan.map(|plan| plan.preview(now, 3)).unwrap_or_default();
        LineReport {
            line: line.number,
            text: line.text.clone(),
            status: line.fate.word(),
            job,
            action: None,
            next,
            notes,
        }
    }
}

fn print(screen: &Screen, report: &Report) -> Outcome {
    screen.show(report, |screen| {
        for file in &report.files {
            screen.line(format!("{} ({} crontab)", file.file, file.layout))?;
            let mut table = Table::new(["LINE", "STATUS", "SCHEDULE", "NEXT FIRES", "JOB OR REASON"]);
            for line in &file.lines {
                table.shaded_row(cells(line));
            }
            if table.is_empty() {
                screen.line("no settings and no entries")?;
            } else {
                screen.table(table)?;
            }
            for note in &file.notes {
                screen.line(screen.paint(Shade::Busy, &format!("note: {note}")))?;
            }
            screen.line("")?;
        }
        for note in &report.notes {
            screen.line(screen.paint(Shade::Busy, &format!("note: {note}")))?;
        }
        if !report.stale.is_empty() {
            screen.line(screen.paint(Shade::Busy, "note: imported earlier, and no longer in these files:"))?;
            for name in &report.stale {
                screen.line(format!("  pendula job delete {name}"))?;
            }
        }
        let words = ["imported", "env", "unsupported", "broken"];
        let counts: Vec<_> = words.iter().map(|word| format!("{} {word}", report.count(word))).collect();
        let done = if report.saved { "saved" } else { "nothing was saved" };
        screen.line(format!("{}: {}; {done}", count(report.lines().count(), "line"), counts.join(", ")))
    })
}

fn cells(line: &LineReport) -> [(Shade, String); 5] {
    let shade = match (line.status, line.action) {
        (_, Some(ApplyAction::Refused)) | ("broken", _) => Shade::Bad,
        ("unsupported", _) => Shade::Busy,
        ("env", _) => Shade::Faint,
        _ => Shade::Good,
    };
    let trigger = line.job.as_ref().and_then(|job| job.trigger.as_ref());
    let schedule = trigger.map(|trigger| format!("{}\n{}", trigger.cron.clone().unwrap_or_default(), trigger.timezone));
    let zone = trigger.and_then(|trigger| jiff::tz::TimeZone::get(&trigger.timezone).ok());
    let next: Vec<_> = line
        .next
        .iter()
        .map(|at| {
            let zone = zone.clone().unwrap_or(jiff::tz::TimeZone::UTC);
            at.to_jiff().to_zoned(zone).strftime("%a %m-%d %H:%M").to_string()
        })
        .collect();
    let status = match line.action {
        Some(ApplyAction::Created) => "imported, new".to_owned(),
        Some(ApplyAction::Updated) => "imported, updated".to_owned(),
        Some(ApplyAction::Unchanged) => "imported, unchanged".to_owned(),
        Some(ApplyAction::Refused) => "refused".to_owned(),
        None => line.status.to_owned(),
    };
    let mut detail: Vec<String> = match &line.job {
        Some(job) => vec![job.name.clone()],
        None => vec![pendula_model::limits::cut(line.text.trim(), 80)],
    };
    detail.extend(line.notes.iter().cloned());
    [
        (Shade::Plain, line.line.to_string()),
        (shade, status),
        (Shade::Plain, schedule.unwrap_or_default()),
        (Shade::Plain, next.join("\n")),
        (Shade::Plain, detail.join("\n")),
    ]
}
