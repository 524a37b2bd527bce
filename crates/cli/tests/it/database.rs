//! Commands that work on the database itself: `copy` and `migrate`.

use std::net::TcpListener;

use pendula_testdb::Postgres;

use crate::command::{Done, Pendula, done};
use crate::live::ADMIN;
use crate::restart::serve;

fn fails(done: &Done, code: i32, parts: &[&str]) {
    assert_eq!(done.code, code, "{}{}", done.out, done.err);
    for part in parts {
        assert!(done.err.contains(part), "no {part:?} in {}", done.err);
    }
    assert!(!done.err.contains("panicked") && !done.err.contains("secret"), "{}", done.err);
}

#[test]
fn an_installation_is_copied_and_its_schema_shown() {
    let address = TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("bound");
    let pendula = Pendula::new().with("PENDULA_SERVER", &format!("http://{address}"));
    let server = serve(&pendula, address);
    let as_admin = |arguments: &[&str]| {
        let mut command = pendula.command(arguments);
        let ended = done(command.env("PENDULA_TOKEN", ADMIN).spawn().expect("started"));
        assert_eq!(ended.code, 0, "{arguments:?}: {}{}", ended.out, ended.err);
    };
    as_admin(&["app", "create", "demo", "--allow-scripts"]);
    let file = pendula.file("jobs.yaml", "app: demo\njobs:\n  - name: hello\n    processor: { shell: \"true\" }\n");
    as_admin(&["apply", "-f", &file.display().to_string()]);

    let url = Postgres::shared().database();
    let from = format!("sqlite:{}", pendula.home().join("data").display());
    let copy = ["copy", "--from", &from, "--to", &url];
    fails(&pendula.run(&copy), 3, &["in use by another process"]);
    drop(server);

    let plan = pendula.json(&["migrate", "plan", "--database", &url]);
    assert_eq!((plan["schema"].as_u64(), plan["done"].as_bool()), (Some(0), Some(false)));
    assert!(
        plan["steps"].as_array().is_some_and(|steps| steps.iter().all(|step| step["state"] == "pending")),
        "{plan}"
    );
    let copied = pendula.json(&copy);
    let rows = |table: &str| {
        let tables = copied["tables"].as_array().expect("a list");
        tables.iter().find(|one| one["table"] == table).expect("it is listed")["rows"].as_u64().expect("a number")
    };
    assert_eq!((rows("app"), rows("job"), rows("job_revision"), rows("instance")), (1, 1, 1, 0));
    fails(&pendula.run(&copy), 3, &["is in use already (there are rows in app)"]);

    // By the environment, for secrets.
    let pendula = pendula.with("PENDULA_DATABASE", &url);
    let plan = pendula.json(&["migrate", "plan"]);
    assert_eq!((plan["done"].as_bool(), &plan["schema"]), (Some(true), &plan["known_schema"]));
    let shown = pendula.ok(&["migrate", "apply"]);
    assert!(shown.contains("initial") && shown.contains("is up to date"), "{shown}");

    // A fresh one, for people.
    let url = Postgres::shared().database();
    let shown = pendula.ok(&["copy", "--from", &from, "--to", &url]);
    assert!(shown.contains("job_revision") && shown.contains("start servers with this database"), "{shown}");
    let url = Postgres::shared().database();
    let applied = pendula.run(&["migrate", "apply", "--database", &url, "--partitions", "8"]);
    assert!(applied.code == 0 && applied.err.contains("applying 1 (initial)"), "{}{}", applied.out, applied.err);
}

#[test]
fn what_cannot_be_done_is_said_with_its_code_and_without_secrets() {
    let pendula = Pendula::new();
    let from = format!("sqlite:{}", pendula.home().join("nothing").display());
    let url = "postgres://ann:secret@127.0.0.1:1/pendula";
    fails(&pendula.run(&["copy", "--from", &from, "--to", url]), 3, &["state.db is missing"]);
    fails(&pendula.run(&["copy", "--from", &from]), 2, &["--to"]);
    fails(&pendula.run(&["copy", "--from", "data", "--to", url]), 2, &["sqlite:DIR"]);
    fails(
        &pendula.run(&["migrate", "plan", "--database", "mysql://ann:secret@x"]),
        2,
        &["postgres://USER:PASSWORD@HOST:PORT"],
    );
    fails(&pendula.run(&["migrate", "plan", "--database", url]), 4, &["127.0.0.1:1", "does PostgreSQL run there"]);
    let url = "postgres://ann:secret@127.0.0.1:1/pendula?sslmode=strict";
    fails(&pendula.run(&["migrate", "apply", "--database", url]), 3, &["sslmode of the URL must be"]);
    let url = Postgres::shared().database();
    Postgres::shared().query(url.rsplit_once('/').expect("a name").1, "CREATE TABLE orders (a int)");
    fails(&pendula.run(&["migrate", "apply", "--database", &url]), 3, &["tables of another program (orders)"]);
}
