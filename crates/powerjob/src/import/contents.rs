//! What is read of a database: all of it before anything is decided.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::error::ImportError;
use super::schema::{Schema, Table};
use super::source::{PAGE, Row, Source};

/// Status of a row that PowerJob's users deleted.
const DELETED: i64 = 99;

const JOB_COLUMNS: [&str; 29] = [
    "id",
    "app_id",
    "job_name",
    "job_description",
    "job_params",
    "status",
    "time_expression_type",
    "time_expression",
    "execute_type",
    "processor_type",
    "processor_info",
    "max_instance_num",
    "concurrency",
    "instance_time_limit",
    "instance_retry_num",
    "task_retry_num",
    "min_cpu_cores",
    "min_memory_space",
    "min_disk_space",
    "designated_workers",
    "max_worker_count",
    "dispatch_strategy",
    "dispatch_strategy_config",
    "lifecycle",
    "alarm_config",
    "log_config",
    "advanced_runtime_config",
    "notify_user_ids",
    "tag",
];

/// What a PowerJob database defines. Instances, their results and logs are no part of it, nor are passwords.
#[derive(Debug)]
pub struct Contents {
    pub(super) source: String,
    pub(super) version: &'static str,
    pub(super) apps: Vec<App>,
    /// Of each app, those that were not deleted, by their ids.
    pub(super) jobs: BTreeMap<i64, Vec<Row>>,
    /// Deleted jobs of each app.
    pub(super) deleted: BTreeMap<i64, u64>,
    pub(super) workflows: Vec<Workflow>,
    pub(super) namespaces: Vec<Namespace>,
    pub(super) users: Vec<User>,
    pub(super) containers: Vec<(i64, String)>,
    pub(super) notes: Vec<String>,
}

#[derive(Debug)]
pub(super) struct App {
    pub id: i64,
    pub name: String,
    pub namespace: Option<i64>,
}

#[derive(Debug)]
pub(super) struct Workflow {
    pub id: i64,
    pub app: i64,
    pub name: String,
    pub enabled: bool,
    pub nodes: Vec<Node>,
}

#[derive(Clone, Debug)]
pub(super) struct Node {
    pub name: String,
    /// 1 job, 2 decision, 3 workflow.
    pub kind: i64,
    /// A job, or a workflow.
    pub target: Option<i64>,
}

#[derive(Debug)]
pub(super) struct Namespace {
    pub id: i64,
    pub code: String,
}

#[derive(Debug)]
pub(super) struct User {
    pub name: String,
    pub grants: Vec<Grant>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Grant {
    /// 1 namespace, 10 app, 666 everything.
    pub scope: i64,
    pub target: i64,
    pub role: i64,
}

/// Reads a database (`mysql://…`, `postgres://…`) or a file that H2's `SCRIPT` statement wrote. `prefix` is what the names of
/// PowerJob's tables begin with; it is found out where there is only one. Changes nothing there.
///
/// # Errors
///
/// What is wrong with `from`, why nobody answers, or what is missing for a database of PowerJob 4.3 or 5.x.
pub async fn read(from: &str, prefix: Option<&str>) -> Result<Contents, ImportError> {
    let mut source = Source::open(from).await?;
    let schema = Schema::find(&source.tables().await?, prefix)?;
    let mut contents = Contents {
        source: source.shown().to_owned(),
        version: schema.version,
        apps: Vec::new(),
        jobs: BTreeMap::new(),
        deleted: BTreeMap::new(),
        workflows: Vec::new(),
        namespaces: Vec::new(),
        users: Vec::new(),
        containers: Vec::new(),
        notes: schema.notes.clone(),
    };
    let mut reader = Reader { source: &mut source, schema: &schema };
    reader.apps(&mut contents).await?;
    reader.jobs(&mut contents).await?;
    reader.workflows(&mut contents).await?;
    reader.users(&mut contents).await?;
    Ok(contents)
}

struct Reader<'a> {
    source: &'a mut Source,
    schema: &'a Schema,
}

impl Reader<'_> {
    /// Hands over the rows of a table, page by page, by `id`; none when the installation does not have it.
    async fn each(&mut self, table: &str, columns: &[&str], mut take: impl FnMut(i64, Row)) -> Result<(), ImportError> {
        let Some(table) = self.schema.table(table).filter(|table| table.has("id")).cloned() else { return Ok(()) };
        let table: Table = table;
        // The smallest number that can be written without leaving the type of an id.
        let mut after = i64::MIN + 1;
        loop {
            let before = after;
            let page = self.source.page(&table, columns, after).await?;
            let is_full = page.len() == PAGE;
            for row in page {
                let Some(id) = row.long("id") else { continue };
                after = id;
                take(id, row);
            }
            if !is_full || after == before {
                return Ok(());
            }
        }
    }

    async fn apps(&mut self, contents: &mut Contents) -> Result<(), ImportError> {
        let apps = &mut contents.apps;
        self.each("app_info", &["id", "app_name", "namespace_id"], |id, row| {
            let name = row.0.get("app_name").cloned().unwrap_or_default();
            apps.push(App { id, name, namespace: row.long("namespace_id") });
        })
        .await?;
        let namespaces = &mut contents.namespaces;
        self.each("namespace", &["id", "code"], |id, row| {
            namespaces.push(Namespace { id, code: row.0.get("code").cloned().unwrap_or_default() });
        })
        .await?;
        let containers = &mut contents.containers;
        self.each("container_info", &["id", "app_id", "container_name", "status"], |id, row| {
            if row.long("status") != Some(DELETED) {
                let name = row.text("container_name").unwrap_or("?");
                containers.push((row.long("app_id").unwrap_or(0), format!("{name} (id {id})")));
            }
        })
        .await
    }

    async fn jobs(&mut self, contents: &mut Contents) -> Result<(), ImportError> {
        let (jobs, deleted) = (&mut contents.jobs, &mut contents.deleted);
        let columns = [JOB_COLUMNS.as_slice(), &["extra"]].concat();
        self.each("job_info", &columns, |_, row| {
            let app = row.long("app_id").unwrap_or(0);
            match row.long("status") {
                Some(DELETED) => *deleted.entry(app).or_default() += 1,
                _ => jobs.entry(app).or_default().push(row),
            }
        })
        .await
    }

    async fn workflows(&mut self, contents: &mut Contents) -> Result<(), ImportError> {
        let mut nodes: BTreeMap<i64, BTreeMap<i64, Node>> = BTreeMap::new();
        self.each("workflow_node_info", &["id", "workflow_id", "type", "job_id", "node_name"], |id, row| {
            let node = Node {
                name: row.text("node_name").unwrap_or_default().to_owned(),
                kind: row.long("type").unwrap_or(1),
                target: row.long("job_id"),
            };
            nodes.entry(row.long("workflow_id").unwrap_or(0)).or_default().insert(id, node);
        })
        .await?;
        let workflows = &mut contents.workflows;
        self.each("workflow_info", &["id", "app_id", "wf_name", "status", "pedag"], |id, row| {
            if row.long("status") == Some(DELETED) {
                return;
            }
            let mut nodes = nodes.remove(&id).unwrap_or_default();
            // Nodes that were taken out of the graph stay in their table for a day.
            if let Some(drawn) = row.text("pedag").and_then(drawn) {
                nodes.retain(|id, _| drawn.contains(id));
            }
            workflows.push(Workflow {
                id,
                app: row.long("app_id").unwrap_or(0),
                name: row.text("wf_name").unwrap_or_default().to_owned(),
                enabled: row.long("status") == Some(1),
                nodes: nodes.into_values().collect(),
            });
        })
        .await
    }

    async fn users(&mut self, contents: &mut Contents) -> Result<(), ImportError> {
        let mut grants: BTreeMap<i64, Vec<Grant>> = BTreeMap::new();
        self.each("user_role", &["id", "user_id", "scope", "target", "role"], |_, row| {
            let number = |column: &str| row.long(column).unwrap_or(0);
            let grant = Grant { scope: number("scope"), target: number("target"), role: number("role") };
            grants.entry(number("user_id")).or_default().push(grant);
        })
        .await?;
        let users = &mut contents.users;
        self.each("user_info", &["id", "username"], |id, row| {
            let name = row.text("username").unwrap_or("?").to_owned();
            users.push(User { name, grants: grants.remove(&id).unwrap_or_default() });
        })
        .await
    }
}

/// The nodes of a graph as it is stored.
fn drawn(graph: &str) -> Option<BTreeSet<i64>> {
    let graph: Value = serde_json::from_str(graph).ok()?;
    let nodes = graph.get("nodes")?.as_array()?;
    Some(nodes.iter().filter_map(|node| node.get("nodeId").and_then(crate::openapi::fields::as_long)).collect())
}
