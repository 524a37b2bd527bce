//! `pendula import powerjob`: a PowerJob database as apps and jobs.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use pendula_client::{Client, ClientError};
use pendula_model::Timestamp;
use pendula_model::api::{AppCreate, AppliedJob, ApplyAction};
use pendula_model::job::JobSpec;
use pendula_model::processor::Processor;
use pendula_model::trigger::Trigger;
use pendula_powerjob::import::{self, AppPlan, Fate, ImportError, JobPlan, Options, Plan, UserPlan, WorkflowPlan};
use pendula_schedule::Plan as Schedule;
use serde::Serialize;

use super::super::apply::count;
use super::timezone;
use crate::connect::{ConnectArgs, Session};
use crate::definitions::{Document, now};
use crate::failure::{Failure, Outcome};
use crate::output::{Screen, Shade, Table, trigger_line, yaml};

const EXAMPLES: &str = "\
Apps keep their names, so that workers need only another server address. Every job is accounted
for: imported (with what is different here), unsupported, or broken. Workflows, users and roles
are listed; there are none here yet. Passwords, instances and logs are not read. Nothing is
changed in that database. Importing again updates the same jobs.

FILE is what H2's SCRIPT statement writes: SCRIPT TO 'powerjob.sql'.

Examples:
  pendula import powerjob --from mysql://ann:secret@db/powerjob --dry-run    show the plan
  pendula import powerjob --from postgres://ann@db/powerjob --timezone Asia/Shanghai
  pendula import powerjob --from powerjob.sql --dry-run --output json
  pendula import powerjob --from powerjob.sql --save jobs.yaml    a definitions file instead of jobs
  pendula import powerjob --disabled --app billing   from what PENDULA_IMPORT_FROM names

Jobs that are enabled fire at once, and wait for a worker: either import with --disabled, move the
workers and import again without it, or stop PowerJob's server first.
Other users of this machine see the arguments of processes: name a URL with a password in
PENDULA_IMPORT_FROM rather than in --from.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Database (mysql://USER:PASSWORD@HOST/DATABASE or postgres://…), or a file that H2 exported
    #[arg(long, value_name = "URL|FILE", env = "PENDULA_IMPORT_FROM", hide_env_values = true)]
    from: String,
    /// Only show what would be imported
    #[arg(long)]
    dry_run: bool,
    /// Write a definitions file instead of saving jobs
    #[arg(long, value_name = "FILE", conflicts_with = "dry_run")]
    save: Option<PathBuf>,
    /// Only this app; may be repeated
    #[arg(long = "app", short = 'a', value_name = "NAME")]
    apps: Vec<String>,
    /// Zone of PowerJob's servers, in which they read schedules [default: this machine's]
    #[arg(long, value_name = "ZONE")]
    timezone: Option<String>,
    /// Save the jobs without letting them fire
    #[arg(long)]
    disabled: bool,
    /// What the names of PowerJob's tables begin with, where there are several sets
    #[arg(long, value_name = "PREFIX")]
    table_prefix: Option<String>,
    #[command(flatten)]
    connect: ConnectArgs,
}

pub async fn run(args: Args, screen: Screen) -> Outcome {
    let (zone, mut notes) = timezone(args.timezone.as_deref())?;
    if args.timezone.is_none() && notes.is_none() {
        notes = Some(format!(
            "schedules are read in {zone}, the zone of this machine; PowerJob reads them in that of its servers (its Docker \
             image is in Asia/Shanghai): --timezone names another"
        ));
    }
    let options = Options { timezone: zone.clone(), enabled: !args.disabled, apps: args.apps.clone() };
    let contents = import::read(&args.from, args.table_prefix.as_deref()).await.map_err(failure)?;
    let now = now();
    let plan = import::plan(&contents, &options, now);
    let specs = specs(&plan);
    let mut report = Report::new(plan, zone, notes, now);

    if let Some(file) = &args.save {
        save(file, specs)?;
        print(&screen, &report)?;
        return screen.done(format!("written to {}; create the apps, then `pendula apply -f`", file.display()));
    }
    // A plan needs no server; with one, it also says what is there already.
    let session = match args.connect.open() {
        Ok(session) => session,
        Err(_) if args.dry_run => return print(&screen, &report),
        Err(failure) => return Err(failure),
    };
    match report.apply(&session, specs, args.dry_run).await {
        Ok(()) => {}
        Err(failure) if args.dry_run => {
            report.notes.push(format!("what is there already is unknown: {failure}"));
            return print(&screen, &report);
        }
        Err(failure) => return Err(failure),
    }
    print(&screen, &report)?;
    report.verdict()
}

fn failure(error: ImportError) -> Failure {
    match error {
        ImportError::Usage(why) => Failure::usage(why),
        ImportError::Unreachable(why) => Failure::unreachable(why),
        ImportError::Refused(why) => Failure::refused(why),
    }
}

/// The definitions of each app, in the order of the plan.
fn specs(plan: &Plan) -> BTreeMap<String, Vec<JobSpec>> {
    let of = |app: &AppPlan| {
        let spec = |job: &JobPlan| match &job.fate {
            Fate::Imported { spec, .. } => Some((**spec).clone()),
            _ => None,
        };
        (app.name.clone(), app.jobs.iter().filter_map(spec).collect())
    };
    plan.apps.iter().filter(|app| app.problem.is_none()).map(of).collect()
}

fn save(file: &Path, specs: BTreeMap<String, Vec<JobSpec>>) -> Outcome {
    let documents: Result<Vec<_>, _> =
        specs.into_iter().map(|(app, jobs)| yaml(&Document { app: Some(app), jobs })).collect();
    std::fs::write(file, documents?.join("---\n"))
        .map_err(|error| Failure::usage(format!("writing {}: {error}", file.display())))
}

/// The answer, for people and programs.
#[derive(Serialize)]
struct Report {
    source: String,
    /// Of PowerJob's tables.
    version: &'static str,
    timezone: String,
    /// Whether jobs were saved.
    saved: bool,
    apps: Vec<AppReport>,
    /// Jobs of apps that do not exist.
    orphans: Vec<JobReport>,
    /// Of whom there are none here yet.
    users: Vec<UserPlan>,
    notes: Vec<String>,
}

#[derive(Serialize)]
struct AppReport {
    app: String,
    /// In PowerJob.
    id: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    namespace: Option<String>,
    /// `created` (or to be), `exists`, `refused`; absent when no server was asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    action: Option<&'static str>,
    jobs: Vec<JobReport>,
    /// Deleted jobs, which PowerJob keeps and which are left out.
    deleted: u64,
    /// Not yet imported.
    workflows: Vec<WorkflowPlan>,
    notes: Vec<String>,
    /// Jobs here, for PowerJob's workers, that the database does not have (any more).
    stale: Vec<String>,
}

#[derive(Serialize)]
struct JobReport {
    /// In PowerJob.
    id: i64,
    /// In PowerJob; `job` has the name here.
    name: String,
    /// `imported`, `unsupported` or `broken`.
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    job: Option<JobSpec>,
    /// What the server does, or would do, with the job.
    #[serde(skip_serializing_if = "Option::is_none")]
    action: Option<ApplyAction>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<Timestamp>,
    /// What is different here, has no equivalent, or prevents the import.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    notes: Vec<String>,
}

impl Report {
    fn new(plan: Plan, timezone: String, note: Option<String>, now: Timestamp) -> Self {
        Report {
            source: plan.source,
            version: plan.version,
            timezone,
            saved: false,
            apps: plan.apps.into_iter().map(|app| AppReport::new(app, now)).collect(),
            orphans: plan.orphans.into_iter().map(|job| JobReport::new(job, now)).collect(),
            users: plan.users,
            notes: plan.notes.into_iter().chain(note).collect(),
        }
    }

    /// Saves apps and jobs, or asks what saving would do.
    async fn apply(&mut self, session: &Session, mut specs: BTreeMap<String, Vec<JobSpec>>, dry_run: bool) -> Outcome {
        let client = &session.client;
        let existing = client.app_list().await?;
        let existing: BTreeMap<_, _> = existing.into_iter().map(|app| (app.name, app.namespace)).collect();
        for app in &mut self.apps {
            let Some(jobs) = specs.remove(&app.app) else { continue };
            match existing.get(&app.app) {
                Some(namespace) => {
                    app.action = Some("exists");
                    if app.namespace.as_ref().is_some_and(|wanted| wanted != namespace) {
                        app.notes.push(format!("it is in the namespace {namespace} here, and stays there"));
                    }
                }
                None if dry_run => app.action = Some("created"),
                None => app.create(client).await?,
            }
            match app.action {
                Some("refused") => continue,
                Some("created") if dry_run => app.say(|_| (Some(ApplyAction::Created), None)),
                _ => {
                    app.carry_out(client, jobs, dry_run).await?;
                    app.stale = stale(client, app).await?;
                }
            }
        }
        self.saved = !dry_run;
        Ok(())
    }

    fn jobs(&self) -> impl Iterator<Item = &JobReport> {
        self.apps.iter().flat_map(|app| &app.jobs).chain(&self.orphans)
    }

    fn count(&self, status: &str) -> usize {
        self.jobs().filter(|job| job.status == status).count()
    }

    fn verdict(&self) -> Outcome {
        let apps = self.apps.iter().filter(|app| app.action == Some("refused")).count();
        let jobs = self.jobs().filter(|job| job.action == Some(ApplyAction::Refused)).count();
        match (apps, jobs) {
            (0, 0) => Ok(()),
            (0, jobs) => Err(Failure::refused(format!("the server refused {}", count(jobs, "job")))),
            (apps, 0) => Err(Failure::refused(format!("{} cannot be made here", count(apps, "app")))),
            (apps, jobs) => Err(Failure::refused(format!(
                "{} cannot be made here, and the server refused {}",
                count(apps, "app"),
                count(jobs, "job")
            ))),
        }
    }
}

impl AppReport {
    fn new(app: AppPlan, now: Timestamp) -> Self {
        AppReport {
            app: app.name,
            id: app.id,
            namespace: app.namespace,
            action: app.problem.is_some().then_some("refused"),
            jobs: app.jobs.into_iter().map(|job| JobReport::new(job, now)).collect(),
            deleted: app.deleted,
            workflows: app.workflows,
            notes: app.problem.into_iter().chain(app.notes).collect(),
            stale: Vec::new(),
        }
    }

    async fn create(&mut self, client: &Client) -> Outcome {
        let create = AppCreate { name: self.app.clone(), namespace: self.namespace.clone(), allow_scripts: false };
        match client.app_create(&create).await {
            Ok(_) => self.action = Some("created"),
            Err(ClientError::Problem(problem)) => {
                self.action = Some("refused");
                let why = problem.detail.as_ref().unwrap_or(&problem.title);
                self.notes.push(format!("{why} ({})", problem.code));
            }
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    async fn carry_out(&mut self, client: &Client, jobs: Vec<JobSpec>, dry_run: bool) -> Outcome {
        let mut applied = client.apply_all(&self.app, jobs, dry_run).await?.jobs.into_iter();
        self.say(|_| match applied.next() {
            Some(AppliedJob { action, problem, .. }) => {
                let why = |problem: pendula_model::api::Problem| {
                    format!("{} ({})", problem.detail.unwrap_or(problem.title), problem.code)
                };
                (Some(action), problem.map(why))
            }
            None => (None, None),
        });
        Ok(())
    }

    /// Tells each job that is imported what becomes of it.
    fn say(&mut self, mut of: impl FnMut(&JobReport) -> (Option<ApplyAction>, Option<String>)) {
        for job in self.jobs.iter_mut().filter(|job| job.job.is_some()) {
            let (action, why) = of(job);
            job.action = action;
            job.notes.extend(why);
        }
    }
}

/// Jobs of the app that are for PowerJob's workers, and that the plan does not know.
async fn stale(client: &Client, app: &AppReport) -> Outcome<Vec<String>> {
    let planned: BTreeSet<_> = app.jobs.iter().filter_map(|job| Some(&job.job.as_ref()?.name)).collect();
    let jobs = client.job_list(&app.app).await?.into_iter().map(|job| job.spec);
    let is_theirs = |job: &JobSpec| matches!(job.processor, Processor::PowerJob(_));
    Ok(jobs.filter(|job| is_theirs(job) && !planned.contains(&job.name)).map(|job| job.name).collect())
}

impl JobReport {
    fn new(job: JobPlan, now: Timestamp) -> Self {
        let (status, spec, notes) = match job.fate {
            Fate::Imported { spec, notes } => ("imported", Some(*spec), notes),
            Fate::Unsupported { why } => ("unsupported", None, vec![why]),
            Fate::Broken { why } => ("broken", None, vec![why]),
        };
        // A rate begins when it is saved.
        let is_by_clock = |trigger: &&Trigger| trigger.cron.is_some() || trigger.daily_window.is_some();
        let trigger =
            spec.as_ref().filter(|spec| spec.enabled).and_then(|spec| spec.trigger.as_ref()).filter(is_by_clock);
        let next = trigger.and_then(|trigger| Schedule::compile(trigger, now).ok()?.next_after(now));
        JobReport { id: job.id, name: job.name, status, job: spec, action: None, next, notes }
    }
}

fn print(screen: &Screen, report: &Report) -> Outcome {
    screen.show(report, |screen| {
        screen.line(format!("{} (PowerJob {})", report.source, report.version))?;
        let note = |text: &str| screen.line(screen.paint(Shade::Busy, &format!("note: {text}")));
        for app in &report.apps {
            screen.line("")?;
            let action = app.action.map(|action| format!(", {action}")).unwrap_or_default();
            let namespace = app.namespace.as_ref().map(|name| format!(", namespace {name}")).unwrap_or_default();
            screen.line(format!("app {} (id {}{namespace}){action}", app.app, app.id))?;
            jobs(screen, &app.jobs)?;
            if app.deleted > 0 {
                note(&format!("{} that PowerJob keeps as deleted left out", count(app.deleted as usize, "job")))?;
            }
            for workflow in &app.workflows {
                let state = if workflow.enabled { "" } else { ", disabled" };
                let nodes = if workflow.nodes.is_empty() { "no nodes".to_owned() } else { workflow.nodes.join(", ") };
                note(&format!("workflow {} (id {}{state}) is not imported yet: {nodes}", workflow.name, workflow.id))?;
            }
            for text in &app.notes {
                note(text)?;
            }
            if !app.stale.is_empty() {
                note("for PowerJob's workers here, and not in the database (any more):")?;
                for name in &app.stale {
                    screen.line(format!("  pendula job delete {name} --app {}", app.app))?;
                }
            }
        }
        if !report.orphans.is_empty() {
            screen.line("\nof no app")?;
            jobs(screen, &report.orphans)?;
        }
        screen.line("")?;
        if !report.users.is_empty() {
            note("there are no users here yet; tokens give access (`pendula token create`). In PowerJob there are:")?;
            for user in &report.users {
                let roles = if user.roles.is_empty() { "no role".to_owned() } else { user.roles.join(", ") };
                screen.line(format!("  {}: {roles}", user.name))?;
            }
        }
        for text in &report.notes {
            note(text)?;
        }
        let words = ["imported", "unsupported", "broken"];
        let counts: Vec<_> = words.iter().map(|word| format!("{} {word}", report.count(word))).collect();
        let done = if report.saved { "saved" } else { "nothing was saved" };
        let (apps, jobs) = (count(report.apps.len(), "app"), count(report.jobs().count(), "job"));
        screen.line(format!("{apps}, {jobs}: {}; {done}", counts.join(", ")))?;
        let actions = [
            (ApplyAction::Created, "new"),
            (ApplyAction::Updated, "updated"),
            (ApplyAction::Unchanged, "unchanged"),
            (ApplyAction::Refused, "refused"),
        ];
        let tally = |action| report.jobs().filter(|job| job.action == Some(action)).count();
        let counts: Vec<_> = actions
            .into_iter()
            .filter(|(action, _)| tally(*action) > 0)
            .map(|(action, word)| format!("{} {word}", tally(action)))
            .collect();
        if counts.is_empty() { Ok(()) } else { screen.line(counts.join(", ")) }
    })
}

fn jobs(screen: &Screen, jobs: &[JobReport]) -> Outcome {
    if jobs.is_empty() {
        return screen.line("no jobs");
    }
    let mut table = Table::new(["ID", "STATUS", "SCHEDULE", "NEXT FIRE", "JOB OR REASON"]);
    for job in jobs {
        table.shaded_row(cells(job));
    }
    screen.table(table)
}

fn cells(job: &JobReport) -> [(Shade, String); 5] {
    let shade = match (job.status, job.action) {
        (_, Some(ApplyAction::Refused)) | ("broken", _) => Shade::Bad,
        ("unsupported", _) => Shade::Busy,
        _ => Shade::Good,
    };
    let status = match job.action {
        Some(ApplyAction::Created) => "imported, new",
        Some(ApplyAction::Updated) => "imported, updated",
        Some(ApplyAction::Unchanged) => "imported, unchanged",
        Some(ApplyAction::Refused) => "refused",
        None => job.status,
    };
    let schedule = job.job.as_ref().map(|spec| trigger_line(spec.trigger.as_ref())).unwrap_or_default();
    let next = match &job.job {
        Some(spec) if !spec.enabled => "disabled".to_owned(),
        Some(spec) => {
            let zone = spec.trigger.as_ref().and_then(|trigger| jiff::tz::TimeZone::get(&trigger.timezone).ok());
            let shown = |at: &Timestamp| {
                let zone = zone.clone().unwrap_or(jiff::tz::TimeZone::UTC);
                at.to_jiff().to_zoned(zone).strftime("%a %m-%d %H:%M").to_string()
            };
            job.next.as_ref().map(shown).unwrap_or_default()
        }
        None => String::new(),
    };
    let name = job.job.as_ref().map_or(&job.name, |spec| &spec.name);
    let mut detail = vec![pendula_model::limits::cut(name.trim(), 130)];
    detail.extend(job.notes.iter().cloned());
    [
        (Shade::Plain, job.id.to_string()),
        (shade, status.to_owned()),
        (Shade::Plain, schedule),
        (Shade::Plain, next),
        (Shade::Plain, detail.join("\n")),
    ]
}
