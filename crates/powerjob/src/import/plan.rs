//! What becomes of everything in a database, decided and not done.

use std::collections::{BTreeMap, HashMap};

use pendula_model::Timestamp;
use pendula_model::job::JobSpec;
use pendula_model::limits::check_name;
use serde::Serialize;

use super::contents::{Contents, Grant, Node, Workflow};
use super::{job, names};

/// What the importer decides.
#[derive(Clone, Debug)]
pub struct Options {
    /// IANA name of the zone in which PowerJob's servers read times.
    pub timezone: String,
    /// Whether jobs that are enabled there may fire here at once.
    pub enabled: bool,
    /// Only apps of these names; none means all.
    pub apps: Vec<String>,
}

/// What would be saved, and what not.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The database or file, without a password.
    pub source: String,
    /// `5.x`, `4.3` or `before 4.3`.
    pub version: &'static str,
    pub apps: Vec<AppPlan>,
    /// Jobs whose app does not exist.
    pub orphans: Vec<JobPlan>,
    pub users: Vec<UserPlan>,
    /// About the database as a whole.
    pub notes: Vec<String>,
}

/// An app, which keeps its name.
#[derive(Clone, Debug)]
pub struct AppPlan {
    /// Its id in PowerJob.
    pub id: i64,
    pub name: String,
    /// That of PowerJob 5.x, where it has one.
    pub namespace: Option<String>,
    /// Why it cannot be an app here; then nothing of it is imported.
    pub problem: Option<String>,
    pub jobs: Vec<JobPlan>,
    /// Jobs that were deleted in PowerJob, which keeps them; they are left out.
    pub deleted: u64,
    pub workflows: Vec<WorkflowPlan>,
    pub notes: Vec<String>,
}

/// A job of PowerJob.
#[derive(Clone, Debug)]
pub struct JobPlan {
    /// Its id in PowerJob.
    pub id: i64,
    /// Its name in PowerJob.
    pub name: String,
    pub fate: Fate,
}

/// What becomes of a job.
#[derive(Clone, Debug)]
pub enum Fate {
    Imported {
        spec: Box<JobSpec>,
        /// What is different here, or has no equivalent.
        notes: Vec<String>,
    },
    /// It means something that does not exist here.
    Unsupported { why: String },
    /// It cannot be read, or could not run there either.
    Broken { why: String },
}

/// A workflow, of which there are none here yet.
#[derive(Clone, Debug, Serialize)]
pub struct WorkflowPlan {
    /// Its id in PowerJob.
    pub id: i64,
    pub name: String,
    pub enabled: bool,
    /// What its nodes run: names of jobs here, where there are such.
    pub nodes: Vec<String>,
}

/// A user, of which there are none here yet.
#[derive(Clone, Debug, Serialize)]
pub struct UserPlan {
    pub name: String,
    pub roles: Vec<String>,
}

/// Decides. `now` is when: it tells what does not fire any more.
pub fn plan(contents: &Contents, options: &Options, now: Timestamp) -> Plan {
    let wanted = |name: &str| options.apps.is_empty() || options.apps.iter().any(|wanted| wanted == name);
    let apps: Vec<_> = contents
        .apps
        .iter()
        .filter(|app| wanted(&app.name))
        .map(|app| {
            let namespace = app.namespace.and_then(|id| contents.namespaces.iter().find(|space| space.id == id));
            let mut plan = AppPlan {
                id: app.id,
                name: app.name.clone(),
                namespace: None,
                problem: check_name("name", &app.name).err().map(|invalid| {
                    format!("{}; its workers know it by this name, so it cannot be another", invalid.message)
                }),
                jobs: jobs(contents, app.id, options, now),
                deleted: contents.deleted.get(&app.id).copied().unwrap_or(0),
                workflows: Vec::new(),
                notes: Vec::new(),
            };
            match namespace {
                Some(space) if check_name("namespace", &space.code).is_ok() => {
                    plan.namespace = Some(space.code.clone())
                }
                Some(space) => plan.notes.push(format!("its namespace {:?} cannot be a name here", space.code)),
                None if app.namespace.is_some() => plan.notes.push("its namespace does not exist".to_owned()),
                None => {}
            }
            let containers: Vec<_> =
                contents.containers.iter().filter(|(of, _)| *of == app.id).map(|(_, name)| name.as_str()).collect();
            if !containers.is_empty() {
                plan.notes.push(format!("containers are not served yet: {}", containers.join(", ")));
            }
            plan.workflows = workflows(contents, app.id, &plan.jobs);
            if plan.problem.is_some() {
                let fate = Fate::Unsupported { why: "its app cannot be made here".to_owned() };
                plan.jobs.iter_mut().for_each(|job| job.fate = fate.clone());
            }
            plan
        })
        .collect();
    let mut notes = contents.notes.clone();
    let missing = options.apps.iter().filter(|wanted| !contents.apps.iter().any(|app| app.name == **wanted));
    notes.extend(missing.map(|name| format!("there is no app `{name}` in it")));
    let known: Vec<_> = contents.apps.iter().map(|app| app.id).collect();
    let orphans = if options.apps.is_empty() { orphans(contents, &known) } else { Vec::new() };
    let users = contents.users.iter().map(|user| UserPlan {
        name: user.name.clone(),
        roles: user.grants.iter().map(|grant| role(contents, *grant)).collect(),
    });
    Plan { source: contents.source.clone(), version: contents.version, apps, orphans, users: users.collect(), notes }
}

fn jobs(contents: &Contents, app: i64, options: &Options, now: Timestamp) -> Vec<JobPlan> {
    let rows = contents.jobs.get(&app).map(Vec::as_slice).unwrap_or_default();
    let name = |row: &super::source::Row| row.0.get("job_name").cloned().unwrap_or_default();
    let known: Vec<_> = rows.iter().map(|row| (row.long("id").unwrap_or(0), name(row))).collect();
    let names = names::assign(known.iter().map(|(id, name)| (*id, name.as_str())));
    let jobs = rows.iter().zip(known).zip(names);
    jobs.map(|((row, (id, name)), named)| JobPlan { id, name, fate: job::fate(row, named, options, now) }).collect()
}

fn orphans(contents: &Contents, known: &[i64]) -> Vec<JobPlan> {
    let lost = contents.jobs.iter().filter(|(app, _)| !known.contains(app));
    lost.flat_map(|(app, rows)| {
        rows.iter().map(move |row| JobPlan {
            id: row.long("id").unwrap_or(0),
            name: row.0.get("job_name").cloned().unwrap_or_default(),
            fate: Fate::Broken { why: format!("its app does not exist (app_id {app}, which app_info does not have)") },
        })
    })
    .collect()
}

fn workflows(contents: &Contents, app: i64, jobs: &[JobPlan]) -> Vec<WorkflowPlan> {
    let names: HashMap<i64, &str> = jobs
        .iter()
        .map(|job| match &job.fate {
            Fate::Imported { spec, .. } => (job.id, spec.name.as_str()),
            _ => (job.id, job.name.as_str()),
        })
        .collect();
    let workflow_names: BTreeMap<i64, &str> =
        contents.workflows.iter().map(|workflow| (workflow.id, workflow.name.as_str())).collect();
    let node = |node: &Node| match (node.kind, node.target) {
        (2, _) => format!("decision {}", node.name).trim_end().to_owned(),
        (3, Some(id)) => format!("workflow {}", workflow_names.get(&id).copied().unwrap_or("?")),
        (_, Some(id)) => {
            names.get(&id).map_or_else(|| format!("a job that is not there (id {id})"), |name| (*name).to_owned())
        }
        _ => format!("{} (of no job)", node.name),
    };
    let of_app = contents.workflows.iter().filter(|workflow| workflow.app == app);
    let plan = |workflow: &Workflow| WorkflowPlan {
        id: workflow.id,
        name: workflow.name.clone(),
        enabled: workflow.enabled,
        nodes: workflow.nodes.iter().map(node).collect(),
    };
    of_app.map(plan).collect()
}

fn role(contents: &Contents, grant: Grant) -> String {
    let role = match grant.role {
        10 => "OBSERVER".to_owned(),
        20 => "QA".to_owned(),
        30 => "DEVELOPER".to_owned(),
        40 => "ADMIN".to_owned(),
        other => format!("role {other}"),
    };
    match grant.scope {
        1 => {
            let space = contents.namespaces.iter().find(|space| space.id == grant.target);
            format!("{role} of namespace {}", space.map_or("?", |space| &space.code))
        }
        10 => {
            let app = contents.apps.iter().find(|app| app.id == grant.target);
            format!("{role} of app {}", app.map_or("?", |app| &app.name))
        }
        _ => format!("{role} of everything"),
    }
}
