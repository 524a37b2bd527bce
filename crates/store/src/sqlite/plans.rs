//! Tests of what SQLite makes of our SQL: plans, migrations, and how the text comes about.

use rusqlite::Connection;

use super::commit::tasks as task_writes;
use super::open::STATE;
use super::{access, commit, instances, jobs, load, prune, tasks};
use crate::sqlite::schema::Schema;

/// A new database with all migrations.
fn fresh() -> Connection {
    let mut db = Connection::open_in_memory().unwrap();
    STATE.migrate(&mut db, pendula_model::Timestamp::MIN, |_| Ok(())).unwrap();
    db
}

/// The steps of a query's plan.
fn plan(db: &Connection, sql: &str) -> Vec<String> {
    let mut statement = db.prepare(&["EXPLAIN QUERY PLAN ", sql].concat()).unwrap();
    let nulls = vec![rusqlite::types::Null; statement.parameter_count()];
    let rows = statement.query_map(rusqlite::params_from_iter(nulls), |row| row.get(3)).unwrap();
    rows.collect::<Result<_, _>>().unwrap()
}

#[test]
fn every_hot_query_uses_its_index() {
    const KEY: &str = "INTEGER PRIMARY KEY";
    const REVISION: &str = "job_revision_key";
    const BOTH_KEYS: &str = "PRIMARY KEY (instance_id=? AND id=?)";
    const FROM_ID: &str = "PRIMARY KEY (instance_id=? AND id>?)";
    let db = fresh();
    let mut expected: Vec<(&str, &[&str])> = vec![
        (commit::EPOCH, &[KEY]),
        (commit::ADVANCE_SCHEDULE, &[KEY]),
        (commit::UPDATE_INSTANCE, &[KEY]),
        (commit::END_INSTANCE, &[KEY]),
        (commit::REVISION_IS_KEPT, &[REVISION]),
        (load::APPS_OF_PARTITION, &["app_by_partition"]),
        (load::ACTIVE_OF_PARTITION, &["instance_active"]),
        (load::JOB, &[KEY, REVISION]),
        (load::REVISION, &[REVISION]),
        (jobs::DUE, &["job_due", REVISION]),
        (jobs::BY_NAME, &["job_name", REVISION]),
        (jobs::OF_APP, &["job_name", REVISION]),
        (jobs::OF_ALL_APPS, &["job_name", REVISION]),
        (jobs::REVISIONS, &[REVISION]),
        (jobs::GAPS, &["gap_by_job"]),
        (instances::BY_ID, &[KEY]),
        (instances::BY_IDEMPOTENCY_KEY, &["instance_idempotency"]),
        (instances::PAST_ATTEMPTS, &["PRIMARY KEY"]),
        (access::APP_BY_NAME, &["app_name"]),
        (access::TOKEN_BY_HASH, &["token_hash"]),
        (prune::PRUNABLE, &["instance_prune"]),
        (prune::FINISHED_JOBS, &["job_deleted", "instance_by_job"]),
        (prune::UNUSED_REVISIONS, &["job_revision_superseded", "instance_by_job", "instance_active"]),
        (task_writes::INSERT_FANOUT, &[KEY]),
        (task_writes::UPDATE_FANOUT, &[KEY]),
        (task_writes::TAKES_TASKS, &["SEARCH instance USING INTEGER", "SEARCH fanout USING INTEGER"]),
        (task_writes::HAS_ENDED, &[KEY]),
        (task_writes::UPDATE_TASK, &[BOTH_KEYS]),
        (task_writes::COPY_TASKS, &["task_under_way (instance_id=?)", "task_unsuccessful (instance_id=?)", FROM_ID]),
        (load::FANOUTS_OF_PARTITION, &["instance_active (partition=?)", "SEARCH fanout USING INTEGER"]),
        (tasks::UNDER_WAY, &["task_under_way (instance_id=?)"]),
        (tasks::WAITING, &[FROM_ID]),
        (tasks::RESULTS, &[FROM_ID]),
        (tasks::BY_ID, &[BOTH_KEYS]),
        (tasks::FANOUT, &["SEARCH instance USING INTEGER", "SEARCH fanout USING INTEGER"]),
        (tasks::EXTENT, &["SEARCH instance USING INTEGER", "SEARCH fanout USING INTEGER"]),
        (tasks::ALL, &[FROM_ID]),
        (tasks::FRESH, &[FROM_ID]),
        (tasks::LISTED_UNDER_WAY, &["task_under_way (instance_id=? AND id>?)"]),
        (tasks::UNSUCCESSFUL, &["task_unsuccessful (instance_id=? AND id>?)"]),
        (prune::FIRST_TASK_LEFT, &["PRIMARY KEY (instance_id=?)"]),
        (prune::FIRST_ATTEMPT_LEFT, &["PRIMARY KEY (instance_id=?)"]),
        (prune::DELETE_TASKS, &["PRIMARY KEY (instance_id=? AND id<?)"]),
        (prune::DELETE_ATTEMPTS, &["PRIMARY KEY (instance_id=? AND task_id<?)"]),
        // The largest of each table.
        (load::LAST_ID, &["PRIMARY KEY"]),
    ];
    expected.extend([
        (instances::ALL, &[KEY][..]),
        (instances::OF_APP, &["instance_by_app (app_id=? AND id"]),
        (instances::OF_JOB, &["instance_by_job (job_id=? AND id"]),
        (instances::ACTIVE, &["instance_active (partition=?)"]),
        (instances::ACTIVE_OF_APP, &["instance_active (partition=? AND app_id=?)"]),
        (instances::ACTIVE_OF_JOB, &["instance_active (partition=? AND app_id=? AND job_id=? AND rowid"]),
        (instances::UNSUCCESSFUL, &["instance_unsuccessful (state=? AND id"]),
        (instances::UNSUCCESSFUL_OF_APP, &["instance_unsuccessful_by_app (app_id=? AND state=? AND id"]),
        (instances::UNSUCCESSFUL_OF_JOB, &["instance_unsuccessful_by_job (job_id=? AND state=? AND id"]),
    ]);
    for (sql, indexes) in expected {
        let steps = plan(&db, sql);
        for index in indexes {
            assert!(steps.iter().any(|step| step.contains(index)), "{index} is not used: {steps:?}\n{sql}");
        }
        for table in ["instance", "job", "app", "token", "past_attempt", "fanout", "task"] {
            // A partial index that holds nothing but what is wanted may be walked from end to end.
            let scans = |step: &&String| {
                let is_small = ["job_deleted", "job_revision_superseded"].iter().any(|index| step.contains(index));
                step.split(" USING ").next() == Some(&["SCAN ", table].concat()) && !is_small
            };
            assert_eq!(steps.iter().find(scans), None, "{steps:?}\n{sql}");
        }
    }
    // Newest first without sorting, where history may be long.
    let history = [instances::ALL, instances::OF_APP, instances::OF_JOB, instances::UNSUCCESSFUL];
    let others = [jobs::DUE, jobs::OF_APP, jobs::OF_ALL_APPS, prune::PRUNABLE];
    let of_tasks = [tasks::WAITING, tasks::RESULTS, tasks::ALL, tasks::FRESH];
    let little = [tasks::UNDER_WAY, tasks::LISTED_UNDER_WAY, tasks::UNSUCCESSFUL];
    for sql in history.into_iter().chain(others).chain(of_tasks).chain(little) {
        let steps = plan(&db, sql);
        assert!(!steps.iter().any(|step| step.contains("TEMP B-TREE")), "{steps:?}\n{sql}");
    }
}

#[test]
fn all_ways_to_this_schema_end_alike() {
    let shape = |db: &Connection| -> Vec<(String, String)> {
        let sql = "SELECT name, coalesce(sql, '') FROM sqlite_schema ORDER BY name";
        let mut statement = db.prepare(sql).unwrap();
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
        rows.collect::<Result<_, _>>().unwrap()
    };
    let wanted = shape(&fresh());
    for older in 0..STATE.migrations.len() {
        let mut db = Connection::open_in_memory().unwrap();
        let past = Schema { migrations: &STATE.migrations[..older], ..STATE };
        past.migrate(&mut db, pendula_model::Timestamp::MIN, |_| Ok(())).unwrap();
        STATE.migrate(&mut db, pendula_model::Timestamp::MIN, |_| Ok(())).unwrap();
        assert_eq!(shape(&db), wanted, "from schema {older}");
        assert_eq!(STATE.faults(&db).unwrap(), Vec::<String>::new());
    }
    let numbers: Vec<_> = STATE.migrations.iter().map(|migration| migration.number as usize).collect();
    assert_eq!(numbers, (1..=STATE.migrations.len()).collect::<Vec<_>>());
}

/// The columns that say what an instance is never stand in an update.
#[test]
fn updates_of_instances_leave_what_is_frozen() {
    let frozen = ["partition", "app_id", "job_id", "revision", "origin", "fire_time", "missed_before", "rerun_of"];
    let frozen = frozen.iter().chain(&["priority", "created_at", "idempotency_key", "params"]);
    for column in frozen {
        for sql in [commit::UPDATE_INSTANCE, commit::END_INSTANCE] {
            assert!(!sql.contains(&[" ", column, " ="].concat()), "{column} is written by {sql}");
        }
    }
    assert!(commit::INSERT_INSTANCE.contains("partition"));
}

/// What was given with a task never stands in an update, nor does its key.
#[test]
fn updates_of_tasks_leave_what_is_frozen() {
    for column in ["instance_id", "id", "role", "parent", "name", "target_name", "input", "input_type"] {
        let set = task_writes::UPDATE_TASK.split("WHERE").next().unwrap();
        assert!(!set.contains(&[" ", column, " ="].concat()), "{column} is written");
    }
    assert!(!task_writes::UPDATE_FANOUT.contains("base_id"));
}

/// A listing reads the beginning of a row only: what may be large comes last in it.
#[test]
fn listings_of_tasks_leave_inputs_and_results_alone() {
    let db = fresh();
    let mut columns = db.prepare("SELECT name FROM pragma_table_info('task') ORDER BY cid").unwrap();
    let names: Vec<String> = columns.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
    assert_eq!(names[names.len() - 4..], ["input_type", "input", "result_type", "result"]);
    for sql in [tasks::ALL, tasks::FRESH, tasks::LISTED_UNDER_WAY, tasks::UNSUCCESSFUL] {
        assert!(!sql.contains("input") && !sql.contains("result"), "{sql}");
    }
}

/// SEC-8: values are bound, never spliced into SQL. Only tests may, on fixed words of their own.
#[test]
fn no_sql_is_built_from_strings() {
    let mut checked = 0;
    let mut folders = vec![std::path::PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/src"))];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
            let path = entry.path();
            // A copy puts statements together from the names of tables and columns, which are constants of its own.
            if path.ends_with("postgres/copy") {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") && !path.ends_with("tests.rs") {
                check_source(&path, &std::fs::read_to_string(&path).unwrap());
                checked += 1;
            }
        }
    }
    assert!(checked > 20, "{checked} files");
}

fn check_source(path: &std::path::Path, source: &str) {
    let verbs = ["SELECT ", "INSERT ", "UPDATE ", "DELETE ", "PRAGMA ", "CREATE ", "DROP ", "ALTER ", "REPLACE "];
    // What puts a value into a text; `concat!` takes literals only.
    for builder in ["format!(", "push_str(", "write!(", "format_args!("] {
        for (position, _) in source.match_indices(builder) {
            let argument = parenthesis(&source[position + builder.len()..]);
            let found = verbs.iter().find(|verb| argument.contains(&format!("\"{verb}")));
            assert_eq!(found, None, "{}: {argument}", path.display());
        }
    }
    // Statements are literals or constants: an argument called with `&` may be anything.
    for call in [".execute(&", ".prepare(&", ".prepare_cached(&", ".query_row(&", ".execute_batch(&"] {
        let is_explained = path.ends_with("plans.rs");
        assert!(is_explained || !source.contains(call), "{}: {call}", path.display());
    }
}

/// The text up to the parenthesis that closes the one before it.
fn parenthesis(text: &str) -> &str {
    let mut depth = 1;
    let end = text.find(|c: char| {
        depth += i32::from(c == '(') - i32::from(c == ')');
        depth == 0
    });
    &text[..end.unwrap_or(text.len())]
}
