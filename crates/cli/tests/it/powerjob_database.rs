//! A PowerJob database as its servers would have filled it, for each kind of database.

use pendula_testdb::{MariaDb, Postgres};

/// Texts, or NULL.
pub type Cell = Option<String>;

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Long,
    Int,
    Short,
    Text,
    Double,
    Time,
}

#[derive(Clone)]
pub struct Table {
    pub name: String,
    pub columns: Vec<(&'static str, Kind)>,
    pub rows: Vec<Vec<Cell>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    MySql,
    Postgres,
    H2,
}

impl Dialect {
    fn name(self, name: &str) -> String {
        match self {
            Dialect::MySql => format!("`{name}`"),
            Dialect::Postgres => format!("\"{name}\""),
            Dialect::H2 => format!("\"{}\"", name.to_uppercase()),
        }
    }

    fn table(self, name: &str) -> String {
        if self == Dialect::H2 { format!("\"PUBLIC\".{}", self.name(name)) } else { self.name(name) }
    }

    fn kind(self, kind: Kind) -> &'static str {
        match (kind, self) {
            (Kind::Long, _) => "bigint",
            (Kind::Int, _) => "int",
            (Kind::Short, Dialect::H2) => "CHARACTER VARYING(255)",
            (Kind::Short, _) => "varchar(255)",
            (Kind::Text, Dialect::MySql) => "longtext",
            (Kind::Text, Dialect::Postgres) => "text",
            (Kind::Text, Dialect::H2) => "CHARACTER LARGE OBJECT",
            (Kind::Double, Dialect::MySql) => "double",
            (Kind::Double, Dialect::Postgres) => "double precision",
            (Kind::Double, Dialect::H2) => "FLOAT(53)",
            (Kind::Time, Dialect::MySql) => "datetime(6)",
            (Kind::Time, _) => "timestamp(6)",
        }
    }

    fn value(self, kind: Kind, cell: &Cell) -> String {
        let Some(text) = cell else { return "NULL".to_owned() };
        match kind {
            Kind::Long | Kind::Int => text.clone(),
            Kind::Double if self == Dialect::H2 => format!("{text}E0"),
            Kind::Double => text.clone(),
            Kind::Time if self == Dialect::H2 => format!("TIMESTAMP '{text}'"),
            Kind::Time => format!("'{text}'"),
            Kind::Short | Kind::Text => match self {
                Dialect::MySql => format!("'{}'", text.replace('\\', "\\\\").replace('\'', "''")),
                Dialect::Postgres => format!("'{}'", text.replace('\'', "''")),
                Dialect::H2 => h2_text(text),
            },
        }
    }
}

/// As H2 2.x writes a text.
fn h2_text(text: &str) -> String {
    let plain = |c: char| (' '..='~').contains(&c) && c != '\\';
    if text.chars().all(plain) {
        return format!("'{}'", text.replace('\'', "''"));
    }
    let escaped: String = text
        .encode_utf16()
        .map(|unit| match char::from_u32(u32::from(unit)) {
            Some('\'') => "''".to_owned(),
            Some(c) if plain(c) => c.to_string(),
            _ => format!("\\{unit:04x}"),
        })
        .collect();
    format!("U&'{escaped}'")
}

impl Table {
    fn new(name: &str, columns: &[(&'static str, Kind)]) -> Table {
        Table { name: name.to_owned(), columns: columns.to_vec(), rows: Vec::new() }
    }

    /// A row with these values, and NULL for the others.
    fn row(&mut self, values: &[(&str, &str)]) {
        for (column, _) in values {
            assert!(self.columns.iter().any(|(known, _)| known == column), "{}.{column}", self.name);
        }
        let cell = |(column, _): &(&str, Kind)| {
            values.iter().rev().find(|(of, _)| of == column).map(|(_, text)| (*text).to_owned())
        };
        self.rows.push(self.columns.iter().map(cell).collect());
    }

    /// Statements that make and fill it.
    fn sql(&self, dialect: Dialect) -> Vec<String> {
        let columns: Vec<_> = self
            .columns
            .iter()
            .map(|(name, kind)| {
                let key = if *name == "id" { " NOT NULL PRIMARY KEY" } else { "" };
                format!("{} {}{key}", dialect.name(name), dialect.kind(*kind))
            })
            .collect();
        let table = dialect.table(&self.name);
        let mut statements = vec![format!("CREATE TABLE {table} (\n    {}\n)", columns.join(",\n    "))];
        for rows in self.rows.chunks(100) {
            let rows: Vec<_> = rows
                .iter()
                .map(|row| {
                    let cells = row.iter().zip(&self.columns).map(|(cell, (_, kind))| dialect.value(*kind, cell));
                    format!("({})", cells.collect::<Vec<_>>().join(", "))
                })
                .collect();
            statements.push(format!("INSERT INTO {table} VALUES\n{}", rows.join(",\n")));
        }
        statements
    }
}

/// PowerJob's tables, with apps and jobs of every kind.
pub struct Database {
    pub tables: Vec<Table>,
}

const DAILY: &str = r#"{"interval":30,"intervalUnit":"MINUTES","startTimeOfDay":"08:00:00","endTimeOfDay":"20:00:00","daysOfWeek":[1,2,3,4,5]}"#;

/// Jobs whose number is that of the ordinary ones.
pub const ORDINARY: usize = 500;

impl Database {
    /// Of PowerJob 5.x.
    pub fn new() -> Database {
        use Kind::{Double, Int, Long, Short, Text, Time};
        let mut apps = Table::new(
            "app_info",
            &[
                ("id", Long),
                ("app_name", Short),
                ("creator", Long),
                ("current_server", Short),
                ("gmt_create", Time),
                ("namespace_id", Long),
                ("password", Short),
                ("tags", Short),
                ("title", Short),
            ],
        );
        for (id, name, namespace) in
            [("1", "billing", "1"), ("2", "reports", "2"), ("3", "a/b", "1"), ("4", "empty", "9")]
        {
            let time = ("gmt_create", "2024-03-02 18:51:36.123456");
            apps.row(&[("id", id), ("app_name", name), ("namespace_id", namespace), ("password", "hunter2"), time]);
        }
        let mut jobs = Table::new(
            "job_info",
            &[
                ("id", Long),
                ("advanced_runtime_config", Short),
                ("alarm_config", Short),
                ("app_id", Long),
                ("concurrency", Int),
                ("designated_workers", Short),
                ("dispatch_strategy", Int),
                ("dispatch_strategy_config", Short),
                ("execute_type", Int),
                ("extra", Short),
                ("gmt_create", Time),
                ("instance_retry_num", Int),
                ("instance_time_limit", Long),
                ("job_description", Short),
                ("job_name", Short),
                ("job_params", Text),
                ("lifecycle", Short),
                ("log_config", Short),
                ("max_instance_num", Int),
                ("max_worker_count", Int),
                ("min_cpu_cores", Double),
                ("min_disk_space", Double),
                ("min_memory_space", Double),
                ("next_trigger_time", Long),
                ("notify_user_ids", Short),
                ("processor_info", Short),
                ("processor_type", Int),
                ("status", Int),
                ("tag", Short),
                ("task_retry_num", Int),
                ("time_expression", Short),
                ("time_expression_type", Int),
            ],
        );
        for number in 1..=ORDINARY {
            ordinary(&mut jobs, number);
        }
        special(&mut jobs);
        let mut namespaces =
            Table::new("namespace", &[("id", Long), ("code", Short), ("name", Short), ("token", Short)]);
        namespaces.row(&[("id", "1"), ("code", "finance"), ("name", "Finance"), ("token", "hunter2")]);
        namespaces.row(&[("id", "2"), ("code", "default_namespace"), ("name", "Default Namespace")]);
        let mut users =
            Table::new("user_info", &[("id", Long), ("username", Short), ("password", Short), ("phone", Short)]);
        users.row(&[("id", "1"), ("username", "PWJB_ADMIN"), ("password", "hunter2"), ("phone", "555")]);
        users.row(&[("id", "2"), ("username", "PWJB_ann")]);
        let mut roles = Table::new(
            "user_role",
            &[("id", Long), ("role", Int), ("scope", Int), ("target", Long), ("user_id", Long)],
        );
        roles.row(&[("id", "1"), ("role", "40"), ("scope", "666"), ("target", "1"), ("user_id", "1")]);
        roles.row(&[("id", "2"), ("role", "10"), ("scope", "10"), ("target", "2"), ("user_id", "2")]);
        roles.row(&[("id", "3"), ("role", "30"), ("scope", "1"), ("target", "1"), ("user_id", "2")]);
        let mut workflows = Table::new(
            "workflow_info",
            &[("id", Long), ("app_id", Long), ("wf_name", Short), ("status", Int), ("pedag", Text)],
        );
        let graph = r#"{"nodes":[{"nodeId":1},{"nodeId":2},{"nodeId":3}],"edges":[{"from":1,"to":2}]}"#;
        workflows.row(&[("id", "1"), ("app_id", "1"), ("wf_name", "month's end"), ("status", "1"), ("pedag", graph)]);
        workflows.row(&[("id", "2"), ("app_id", "1"), ("wf_name", "gone"), ("status", "99"), ("pedag", "{}")]);
        let mut nodes = Table::new(
            "workflow_node_info",
            &[("id", Long), ("workflow_id", Long), ("type", Int), ("job_id", Long), ("node_name", Short)],
        );
        for (id, kind, job, name) in
            [("1", "1", "2", "a"), ("2", "2", "0", "enough?"), ("3", "1", "503", "b"), ("4", "1", "5", "taken out")]
        {
            nodes.row(&[("id", id), ("workflow_id", "1"), ("type", kind), ("job_id", job), ("node_name", name)]);
        }
        let mut containers =
            Table::new("container_info", &[("id", Long), ("app_id", Long), ("container_name", Short), ("status", Int)]);
        containers.row(&[("id", "3"), ("app_id", "1"), ("container_name", "rules"), ("status", "1")]);
        let instances = Table::new(
            "instance_info",
            &[("id", Long), ("app_id", Long), ("job_id", Long), ("result", Text), ("status", Int)],
        );
        let tables = vec![apps, jobs, namespaces, users, roles, workflows, nodes, containers, instances];
        Database { tables }
    }

    pub fn table(&mut self, name: &str) -> &mut Table {
        self.tables.iter_mut().find(|table| table.name == name).expect("it is one of PowerJob's")
    }

    /// As PowerJob 4.3 has it: without namespaces and roles.
    pub fn of_4_3(mut self) -> Database {
        self.tables.retain(|table| !["namespace", "user_role"].contains(&table.name.as_str()));
        let apps = self.table("app_info");
        let position = apps.columns.iter().position(|(name, _)| *name == "namespace_id").expect("it has one");
        apps.columns.remove(position);
        apps.rows.iter_mut().for_each(|row| drop(row.remove(position)));
        self
    }

    /// With other names of tables, as some installations have them.
    pub fn prefixed(mut self, prefix: &str) -> Database {
        self.tables.iter_mut().for_each(|table| table.name = format!("{prefix}{}", table.name));
        self
    }

    pub fn sql(&self, dialect: Dialect) -> Vec<String> {
        self.tables.iter().flat_map(|table| table.sql(dialect)).collect()
    }

    /// A fresh database of this content on MariaDB, with so many instances; its URL.
    pub async fn on_mariadb(&self, instances: u32) -> String {
        let url = MariaDb::shared().database();
        let mut statements = self.sql(Dialect::MySql);
        if instances > 0 {
            statements.push(format!(
                "INSERT INTO instance_info SELECT seq, 1, 1, REPEAT('x', 200), 5 FROM seq_1_to_{instances}"
            ));
        }
        mysql(&url, &statements).await;
        url
    }

    /// The same on PostgreSQL.
    pub fn on_postgres(&self) -> String {
        let url = Postgres::shared().database();
        // One by one: an argument of a program has a limit.
        self.sql(Dialect::Postgres).iter().for_each(|statement| postgres(&url, statement));
        url
    }

    /// What H2's `SCRIPT` statement would write, with so many instances.
    pub fn h2_script(&self, instances: u32) -> String {
        let mut text = "-- H2 2.2.224;\n;\nCREATE USER IF NOT EXISTS \"SA\" SALT 'a;b' HASH 'c' ADMIN;\n".to_owned();
        for statement in self.sql(Dialect::H2) {
            text.push_str(&statement.replacen("CREATE TABLE", "CREATE CACHED TABLE", 1));
            text.push_str(";\n");
        }
        for first in (1..=instances).step_by(100) {
            let rows: Vec<_> = (first..first + 100).map(|id| format!("({id}, 1, 1, 'it''s; {id}', 5)")).collect();
            text.push_str(&format!("INSERT INTO \"PUBLIC\".\"INSTANCE_INFO\" VALUES\n{};\n", rows.join(",\n")));
        }
        text
    }
}

pub async fn mysql(url: &str, statements: &[String]) {
    use mysql_async::prelude::Queryable;
    let options = mysql_async::OptsBuilder::from_opts(mysql_async::Opts::from_url(url).expect("a URL"));
    let mut connection = mysql_async::Conn::new(options.prefer_socket(false)).await.expect("connected");
    for statement in statements {
        connection.query_drop(statement).await.unwrap_or_else(|error| panic!("{error}: {statement}"));
    }
    connection.disconnect().await.expect("disconnected");
}

pub fn postgres(url: &str, sql: &str) {
    Postgres::shared().query(url.rsplit_once('/').expect("a name").1, sql);
}

fn ordinary(jobs: &mut Table, number: usize) {
    let pick = |of: &[&'static str]| of[number % of.len()];
    let (kind, expression) = [
        ("2", "0 0 3 * * ?"),
        ("1", ""),
        ("3", "30000"),
        ("4", "15000"),
        ("5", ""),
        ("11", DAILY),
        ("2", "0 15 10 ? * 6L"),
    ][number % 7];
    let (name, params) = (format!("job-{number:03}"), format!("n={number}"));
    let id = number.to_string();
    let mut values = vec![
        ("id", id.as_str()),
        ("job_name", name.as_str()),
        ("job_params", params.as_str()),
        ("app_id", pick(&["1", "2"])),
        ("status", if number.is_multiple_of(50) { "99" } else { pick(&["1", "1", "2"]) }),
        ("time_expression_type", kind),
        ("execute_type", pick(&["1", "2", "3", "4"])),
        ("processor_type", "1"),
        ("processor_info", pick(&["com.acme.Nightly", "bean#handler", "com.acme.Sub$Inner"])),
        ("concurrency", "5"),
        ("max_instance_num", pick(&["0", "1", "3"])),
        ("instance_time_limit", pick(&["0", "60000"])),
        ("instance_retry_num", pick(&["0", "2"])),
        ("task_retry_num", pick(&["0", "1", "1"])),
        ("min_cpu_cores", pick(&["0.0", "1.5"])),
        ("min_memory_space", pick(&["0.0", "0.25"])),
        ("min_disk_space", "0.0"),
        ("max_worker_count", pick(&["0", "4"])),
        ("dispatch_strategy", pick(&["1", "2"])),
        ("gmt_create", "2024-03-02 18:51:36.123456"),
        ("alarm_config", r#"{"alertThreshold":0,"statisticWindowLen":0,"silenceWindowLen":0}"#),
        ("log_config", r#"{"type":1,"level":2}"#),
    ];
    if !expression.is_empty() {
        values.push(("time_expression", expression));
    }
    if number.is_multiple_of(5) {
        values.push(("designated_workers", pick(&["blue,green", "10.0.0.1:27777"])));
    }
    jobs.row(&values);
}

/// What needs a decision each.
fn special(jobs: &mut Table) {
    let long = "x".repeat(200);
    let params = format!("it's \\ \"quoted\"\nnaïve 日报 😀; {}", "long ".repeat(1000));
    let cases: &[&[(&str, &str)]] = &[
        &[("job_name", "job-002")],
        &[("job_name", &long)],
        &[("job_name", "a/b")],
        &[("time_expression", "0 0 25 * * ?")],
        &[("app_id", "77")],
        &[("processor_type", "2"), ("processor_info", "echo hi")],
        &[("processor_info", "tech.powerjob.official.processors.impl.script.ShellProcessor"), ("job_params", &params)],
        &[("processor_type", "4"), ("processor_info", "3#com.acme.A")],
        &[("designated_workers", "blue,10.0.0.1:27777")],
        &[("tag", "money"), ("extra", "x"), ("notify_user_ids", "1,2")],
        &[("app_id", "3")],
        &[("lifecycle", r#"{"start":1700000000000,"end":1710000000000}"#)],
    ];
    for (index, case) in cases.iter().enumerate() {
        let (id, name) = ((ORDINARY + 1 + index).to_string(), format!("special-{}", index + 1));
        let usual: [(&str, &str); 8] = [
            ("id", &id),
            ("job_name", &name),
            ("app_id", "1"),
            ("status", "1"),
            ("time_expression_type", "2"),
            ("time_expression", "0 0 4 * * ?"),
            ("execute_type", "1"),
            ("processor_type", "1"),
        ];
        let more = [
            ("processor_info", "com.acme.A"),
            ("min_cpu_cores", "0.0"),
            ("min_memory_space", "0.0"),
            ("min_disk_space", "0.0"),
        ];
        jobs.row(&[&usual[..], &more, case].concat());
    }
}
