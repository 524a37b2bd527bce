//! A PowerJob database is imported: each kind of database gives the same jobs, and nothing is dropped silently.

use std::collections::BTreeMap;

use pendula_testdb::{MariaDb, Postgres};
use serde_json::Value;

use crate::command::{Done, Pendula};
use crate::live::{Live, blocking};
use crate::powerjob_database::{Database, ORDINARY, mysql, postgres};

/// Without a server.
fn alone() -> Pendula {
    Pendula::new().with("PENDULA_SERVER", "http://127.0.0.1:1").with("PENDULA_TOKEN", "none")
}

/// But for the next fires, which pass while tests run.
fn plan(pendula: &Pendula, from: &str) -> Value {
    let mut plan = pendula.json(&["import", "powerjob", "--from", from, "--dry-run", "--timezone", "Asia/Shanghai"]);
    let mut fires = 0;
    for app in plan["apps"].as_array_mut().expect("apps") {
        for job in app["jobs"].as_array_mut().expect("jobs") {
            fires += usize::from(job.as_object_mut().expect("an object").remove("next").is_some());
        }
    }
    assert!(fires > ORDINARY / 10, "{fires}");
    plan
}

/// The jobs of all apps, by their ids there.
fn jobs(report: &Value) -> BTreeMap<i64, &Value> {
    let apps = report["apps"].as_array().expect("apps");
    let listed = apps.iter().flat_map(|app| app["jobs"].as_array().expect("jobs"));
    let orphans = report["orphans"].as_array().expect("orphans");
    listed.chain(orphans).map(|job| (job["id"].as_i64().expect("an id"), job)).collect()
}

/// How many jobs have which word in a field.
fn tally(report: &Value, field: &str) -> Vec<(String, usize)> {
    let mut tally = BTreeMap::new();
    for job in jobs(report).values() {
        *tally.entry(job[field].as_str().unwrap_or("none").to_owned()).or_default() += 1;
    }
    tally.into_iter().collect()
}

fn app<'r>(report: &'r Value, name: &str) -> &'r Value {
    let apps = report["apps"].as_array().expect("apps");
    apps.iter().find(|app| app["app"] == name).unwrap_or_else(|| panic!("no app {name} in {report}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_of_database_gives_the_same_plan() {
    let maria = Database::new().on_mariadb(100_000).await;
    blocking(move || {
        let pendula = alone();
        let script = pendula.file("powerjob.sql", &Database::new().h2_script(100_000)).display().to_string();
        let newer = Database::new().on_postgres();
        let older = Database::new().of_4_3().prefixed("pj_").on_postgres();
        let reports: Vec<_> = [maria, newer, script, older].iter().map(|from| plan(&pendula, from)).collect();
        for report in &reports {
            // Passwords of users, apps and of the URL.
            let text = report.to_string();
            assert!(!text.contains("hunter2") && !text.contains("a secret?"), "{}", report["source"]);
        }
        let [maria, postgres, script, older] = reports.as_slice() else { panic!("there are four") };
        let versions: Vec<_> = reports.iter().map(|report| report["version"].as_str().expect("a text")).collect();
        assert_eq!(versions, ["5.x", "5.x", "5.x", "4.3"]);
        for other in [postgres, script] {
            same_jobs(maria, other);
            assert!(maria["apps"] == other["apps"], "{}", other["source"]);
            assert_eq!((&maria["orphans"], &maria["users"]), (&other["orphans"], &other["users"]));
        }
        same_jobs(maria, older);
        every_job_is_accounted_for(maria);
        what_is_no_job_is_listed(maria);
    })
    .await;
}

fn same_jobs(one: &Value, other: &Value) {
    let (one, other) = (jobs(one), jobs(other));
    assert_eq!(one.keys().collect::<Vec<_>>(), other.keys().collect::<Vec<_>>());
    one.iter().for_each(|(id, job)| assert_eq!(*job, other[id]));
}

fn every_job_is_accounted_for(report: &Value) {
    let jobs = jobs(report);
    // Of the ordinary ones every fiftieth was deleted.
    assert_eq!(jobs.len(), ORDINARY - ORDINARY / 50 + 12);
    let expect = [("broken", 2), ("imported", jobs.len() - 5), ("unsupported", 3)];
    assert_eq!(tally(report, "status"), expect.map(|(status, count)| (status.to_owned(), count)));

    let ordinary = &jobs[&14]["job"];
    assert_eq!((&ordinary["name"], &ordinary["trigger"]["cron"]), (&"job-014".into(), &"0 0 3 * * ?".into()));
    assert_eq!(ordinary["trigger"]["timezone"], "Asia/Shanghai");
    assert_eq!(ordinary["processor"]["powerjob"]["job_params"], "n=14");
    assert_eq!(ordinary["processor"]["powerjob"]["execute_type"], "MAP_REDUCE");

    let special = |number: usize| jobs[&((ORDINARY + number) as i64)];
    let long = format!("{}-502", "x".repeat(124));
    for (number, status, name, note) in [
        (1, "imported", "job-002-501", "an earlier job"),
        (2, "imported", long.as_str(), "at most 128 characters"),
        (3, "imported", "a-b", "a/b"),
        (4, "broken", "", "trigger.cron"),
        (5, "broken", "", "app_id 77"),
        (6, "unsupported", "", "SHELL"),
        (7, "imported", "special-7", "ShellProcessor stays one"),
        (8, "imported", "special-8", "containers"),
        (9, "unsupported", "", "addresses and tags"),
        (10, "imported", "special-10", "money"),
        (11, "unsupported", "", "its app"),
        (12, "imported", "special-12", "any more"),
    ] {
        let job = special(number);
        assert_eq!((&job["status"], job["job"]["name"].as_str().unwrap_or_default()), (&status.into(), name), "{job}");
        assert!(job["notes"].to_string().contains(note), "no {note:?} in {job}");
    }
    assert_eq!((&jobs[&2]["job"]["name"], &special(12)["job"]["enabled"]), (&"job-002".into(), &false.into()));
    let params = special(7)["job"]["processor"]["powerjob"]["job_params"].as_str().expect("a text");
    assert!(params.starts_with("it's \\ \"quoted\"\nnaïve 日报 😀; long ") && params.len() > 5_000, "{params}");
}

fn what_is_no_job_is_listed(report: &Value) {
    let billing = app(report, "billing");
    assert_eq!((&billing["namespace"], billing["deleted"].as_u64()), (&"finance".into(), Some(10)));
    assert_eq!(billing["workflows"].as_array().map(Vec::len), Some(1));
    assert_eq!(billing["workflows"][0]["nodes"].to_string(), r#"["job-002","decision enough?","a-b"]"#);
    assert!(billing["notes"].to_string().contains("rules (id 3)"), "{billing}");
    assert_eq!(app(report, "a/b")["action"], "refused");
    let empty = app(report, "empty");
    assert!(empty["notes"].to_string().contains("namespace does not exist"), "{empty}");
    let users = report["users"].to_string();
    for part in ["PWJB_ADMIN", "ADMIN of everything", "OBSERVER of app reports", "DEVELOPER of namespace finance"] {
        assert!(users.contains(part), "no {part:?} in {users}");
    }
    assert!(report["notes"].to_string().contains("what is there already is unknown"), "{}", report["notes"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_import_is_repeated_without_changing_anything() {
    let (live, pendula) = Live::start().await;
    let url = Database::new().on_mariadb(0).await;
    let from = url.clone();
    let pendula = blocking(move || {
        let import = ["import", "powerjob", "--from", &from, "--timezone", "Asia/Shanghai"];
        let choose = ["--app", "billing", "--app", "reports", "--app", "empty"];
        let planned = pendula.json(&[&import[..], &choose, &["--dry-run"]].concat());
        let count = |word: &str, report: &Value| {
            tally(report, "action").iter().find(|(action, _)| action == word).map_or(0, |(_, count)| *count)
        };
        let all = ORDINARY - ORDINARY / 50 + 12 - 5;
        assert_eq!((count("created", &planned), &planned["saved"]), (all, &false.into()));
        assert!(!pendula.ok(&["app", "list"]).contains("billing"));

        let first = pendula.json(&[&import[..], &choose].concat());
        assert_eq!((count("created", &first), &first["saved"]), (all, &true.into()));
        assert_eq!(pendula.json(&["app", "show", "billing"])["namespace"], "finance");
        let exported = pendula.ok(&["export", "--app", "billing"]);

        let second = pendula.json(&[&import[..], &choose].concat());
        assert_eq!((count("unchanged", &second), &app(&second, "billing")["action"]), (all, &"exists".into()));
        assert_eq!(pendula.ok(&["export", "--app", "billing"]), exported);

        // One that cannot be made here does not keep the others from it, and is not passed over.
        let done = pendula.run(&import);
        assert_eq!(done.code, 3, "{}", done.err);
        assert!(done.err.contains("1 app cannot be made here"), "{}", done.err);
        for part in
            ["app a/b (id 3", "workflow month's end (id 1)", "497 unchanged", "job-002-501", "OBSERVER of app reports"]
        {
            assert!(done.out.contains(part), "no {part:?} in {}", done.out);
        }
        pendula
    })
    .await;
    let change = "UPDATE job_info SET time_expression = '0 0 5 * * ?' WHERE id = 14";
    mysql(&url, &[change.to_owned(), "UPDATE job_info SET status = 99 WHERE id = 16".to_owned()]).await;
    blocking(move || {
        // From the environment, for secrets.
        let pendula = pendula.with("PENDULA_IMPORT_FROM", &url);
        let third = pendula.json(&["import", "powerjob", "--app", "billing", "--timezone", "Asia/Shanghai"]);
        let changed =
            tally(&third, "action").into_iter().filter(|(action, _)| action == "updated" || action == "created");
        assert_eq!(changed.collect::<Vec<_>>(), [("updated".to_owned(), 1)]);
        assert_eq!(app(&third, "billing")["stale"].to_string(), r#"["job-016"]"#);
        let shown = pendula.ok(&["export", "--app", "billing"]);
        assert!(shown.contains("0 0 5 * * ?") && shown.contains("name: job-016"));
    })
    .await;
    live.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_definitions_file_can_be_made_and_jobs_kept_from_firing() {
    let url = Database::new().on_mariadb(0).await;
    blocking(move || {
        let pendula = alone();
        let file = pendula.home().join("jobs.yaml").display().to_string();
        pendula.ok(&["import", "powerjob", "--from", &url, "--save", &file, "--disabled", "--app", "reports"]);
        let text = std::fs::read_to_string(&file).expect("written");
        assert!(text.contains("app: reports") && text.contains("name: job-001") && !text.contains("billing"), "{text}");
        assert_eq!(text.matches("enabled: false").count(), text.matches("- name:").count());
        assert_eq!(text.matches("- name:").count(), ORDINARY / 2);
    })
    .await;
}

#[test]
fn long_texts_that_postgresql_keeps_elsewhere_are_read() {
    let pendula = alone();
    let url = Database::new().on_postgres();
    let before = plan(&pendula, &url);
    postgres(
        &url,
        "ALTER TABLE job_info ALTER COLUMN job_params TYPE oid USING lo_from_bytea(0, convert_to(job_params, 'UTF8'))",
    );
    same_jobs(&plan(&pendula, &url), &before);
}

fn fails(done: &Done, code: i32, parts: &[&str]) {
    assert_eq!(done.code, code, "{}{}", done.out, done.err);
    for part in parts {
        assert!(done.err.contains(part), "no {part:?} in {}", done.err);
    }
    assert!(!done.err.contains("panicked") && !done.err.contains("secret"), "{}", done.err);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_powerjob_database_is_said_without_secrets() {
    let import = |pendula: &Pendula, from: &str| pendula.run(&["import", "powerjob", "--from", from, "--dry-run"]);
    let url = MariaDb::shared().database();
    mysql(&url, &["CREATE TABLE old_job_info (id bigint, job_name text)".to_owned()]).await;
    let incomplete = Database::new().on_mariadb(0).await;
    mysql(&incomplete, &["ALTER TABLE job_info DROP COLUMN processor_info, DROP COLUMN status".to_owned()]).await;
    let twice = Database::new().on_mariadb(0).await;
    mysql(&twice, &Database::new().prefixed("test_").sql(crate::powerjob_database::Dialect::MySql)).await;
    let wrong = url.replace("a%20secret%3F", "another%20secret");
    let unknown = MariaDb::shared().url("nowhere");
    blocking(move || {
        let pendula = alone();
        fails(&import(&pendula, &url), 3, &["no database of PowerJob", "old_app_info", "column old_job_info.app_id"]);
        fails(&import(&pendula, &incomplete), 3, &["column job_info.processor_info", "column job_info.status"]);
        fails(&import(&pendula, &wrong), 3, &["Access denied", "mysql://pendula@127.0.0.1:"]);
        fails(&import(&pendula, &unknown), 3, &["Unknown database 'nowhere'"]);
        fails(&import(&pendula, &twice), 2, &["--table-prefix", "`test_`"]);
        pendula.ok(&["import", "powerjob", "--from", &twice, "--dry-run", "--table-prefix", "test_"]);
        fails(&import(&pendula, "mysql://ann:secret@127.0.0.1:1/powerjob"), 4, &["does MySQL or MariaDB run there"]);
        fails(&import(&pendula, "mysql://ann:secret@127.0.0.1:1/"), 2, &["names no database"]);
        fails(&import(&pendula, "jdbc:mysql://127.0.0.1/powerjob?password=secret"), 2, &["leave out `jdbc:`"]);
        fails(&import(&pendula, "mariadb://ann:secret@127.0.0.1/powerjob"), 2, &["write mysql://"]);

        let empty = Postgres::shared().database();
        fails(&import(&pendula, &empty), 3, &["no database of PowerJob", "app_info", "right database and schema"]);
        fails(&import(&pendula, &Postgres::shared().url("nowhere")), 3, &["\"nowhere\" does not exist"]);
        fails(&import(&pendula, "postgres://ann:secret@127.0.0.1:1/powerjob"), 4, &["does PostgreSQL run there"]);

        let script = Database::new().h2_script(0);
        let cut = pendula.file("cut.sql", &script[..script.len() - 20]).display().to_string();
        fails(&import(&pendula, &cut), 2, &["cut.sql:", "SCRIPT"]);
        let other = pendula.file("other.sql", "CREATE TABLE ORDERS(ID INT);\n").display().to_string();
        fails(&import(&pendula, &other), 3, &["no database of PowerJob"]);
        fails(&import(&pendula, "/does/not/exist"), 2, &["/does/not/exist"]);
        let zone = pendula.run(&["import", "powerjob", "--from", &cut, "--timezone", "Mars/Olympus"]);
        fails(&zone, 2, &["Mars/Olympus"]);
    })
    .await;
}
