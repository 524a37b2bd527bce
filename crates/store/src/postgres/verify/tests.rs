use std::fmt::Write as _;
use std::path::Path;

use deadpool_postgres::ClientWrapper;
use pendula_testdb::Postgres;

use super::super::connect::{Database, Limits};
use super::super::migrate::{Extent, MIGRATIONS, apply};
use super::super::{Options, PostgresStore, open};
use super::*;
use crate::port::Store;

async fn migrated(count: usize) -> (String, ClientWrapper) {
    let url = Postgres::shared().database();
    let session = Database::new(&url).unwrap().session(Limits::UPKEEP).await.unwrap();
    apply(&session, &MIGRATIONS[..count], 4, Extent::Everything, |_| ()).await.unwrap();
    (url, session)
}

/// With `PENDULA_WRITE_PATTERNS=1` it writes the files that it compares with otherwise.
#[tokio::test]
async fn patterns_are_what_the_migrations_make() {
    for number in 1..=MIGRATIONS.len() {
        let (_, session) = migrated(number).await;
        let mut pattern = String::new();
        for (thing, is) in structure(&session).await.unwrap() {
            let line = if is.is_empty() { thing } else { format!("{thing} = {is}") };
            writeln!(pattern, "{line}").unwrap();
        }
        let file = format!("src/postgres/migrations/{number:04}.pattern");
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(&file);
        if std::env::var_os("PENDULA_WRITE_PATTERNS").is_some() {
            std::fs::write(&path, &pattern).unwrap();
            continue;
        }
        let stored = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            stored == pattern,
            "{file} is not what the migrations make: PENDULA_WRITE_PATTERNS=1 cargo test -p pendula-store patterns_are, then \
             look at the difference"
        );
    }
    assert_eq!(PATTERNS.len(), MIGRATIONS.len());
}

/// O-3: each table, column, index, condition and seed row in turn; the fault names it, and the store does not open.
#[tokio::test]
async fn what_is_missing_is_named_and_stops_us() {
    let (url, session) = migrated(MIGRATIONS.len()).await;
    let pattern = structure(&session).await.unwrap();
    let opened = open::open(&url, 4, true).await.unwrap();
    assert_eq!(opened.partitions, 4);
    let mut damages: Vec<(String, String)> = Vec::new();
    for thing in pattern.keys() {
        let (kind, name) = thing.split_once(' ').unwrap();
        let (table, part) = name.split_once('.').unwrap_or((name, ""));
        if table == "migration" {
            continue; // without a journal it is no database of ours
        }
        let sql = match kind {
            "table" => format!("DROP TABLE {table} CASCADE"),
            "column" => format!("ALTER TABLE {table} DROP COLUMN {part} CASCADE"),
            "index" if part.ends_with("_pkey") => format!("ALTER TABLE {table} DROP CONSTRAINT {part} CASCADE"),
            "index" => format!("DROP INDEX {part}"),
            "condition" => format!("ALTER TABLE {table} DROP CONSTRAINT {part}"),
            _ => panic!("{thing}"),
        };
        damages.push((sql, thing.clone()));
    }
    for fact in ["partitions", "installation", "created_at", "last_deleted_id", "secret"] {
        damages.push((format!("DELETE FROM meta WHERE key = '{fact}'"), format!("the row `{fact}` of `meta`")));
    }
    damages.push(("UPDATE meta SET value = '2000' WHERE key = 'partitions'".into(), "the row `partitions`".into()));
    for partition in 0..4 {
        let sql = format!("DELETE FROM partition WHERE id = {partition}");
        damages.push((sql, format!("the row of partition {partition}")));
    }
    assert!(damages.len() > 100);
    for (sql, named) in damages {
        session.batch_execute("BEGIN").await.unwrap();
        session.batch_execute(&sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        let schema = MIGRATIONS.len() as u32;
        let mut found = faults(&session, schema).await.unwrap();
        found.extend(log_faults(&session, schema).await.unwrap());
        session.batch_execute("ROLLBACK").await.unwrap();
        assert!(found.iter().any(|fault| fault.contains(&named)), "{sql}: {named} is not in {found:?}");
        assert!(!sql.starts_with("DROP TABLE") || found.len() == 1, "{sql}: {found:?}");
    }
    session.batch_execute("DELETE FROM partition WHERE id = 2").await.unwrap();
    let Err(StoreError::Corrupt { why }) = open::open(&url, 4, true).await.map(|_| ()) else { panic!("it was opened") };
    assert!(why.contains("the row of partition 2 is missing"), "{why}");
}

#[tokio::test]
async fn what_was_altered_is_named() {
    let (_, session) = migrated(MIGRATIONS.len()).await;
    for (sql, named) in [
        ("ALTER TABLE instance ALTER COLUMN version TYPE integer", "column instance.version is altered: it is integer"),
        ("ALTER TABLE instance ALTER COLUMN due_at DROP NOT NULL", "column instance.due_at is altered"),
        ("ALTER TABLE app ADD COLUMN extra text NOT NULL", "column app.extra is not known here"),
        (
            "DROP INDEX app_name; CREATE INDEX app_name ON app (name)",
            "index app.app_name is altered: it is on name, and must be unique on name",
        ),
        (
            "DROP INDEX job_due; CREATE INDEX job_due ON job (partition, next_fire, id) WHERE next_fire IS NULL",
            "index job.job_due is altered",
        ),
        (
            "DROP INDEX job_due; CREATE INDEX job_due ON job (partition, id, next_fire) WHERE next_fire IS NOT NULL",
            "index job.job_due is altered",
        ),
    ] {
        session.batch_execute("BEGIN").await.unwrap();
        session.batch_execute(sql).await.unwrap();
        let found = faults(&session, MIGRATIONS.len() as u32).await.unwrap();
        session.batch_execute("ROLLBACK").await.unwrap();
        assert!(matches!(found.as_slice(), [fault] if fault.contains(named)), "{sql}: {found:?}");
    }
    // What only adds to it harms nobody.
    let extra = "CREATE TABLE another (a int NOT NULL); CREATE INDEX more ON app (namespace);
                 ALTER TABLE app ADD COLUMN extra text NOT NULL DEFAULT ''";
    session.batch_execute(extra).await.unwrap();
    assert_eq!(faults(&session, MIGRATIONS.len() as u32).await.unwrap(), Vec::<String>::new());
    // An index that could not be completed guards nothing.
    let broken = "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'app_name'::regclass";
    session.batch_execute(broken).await.unwrap();
    let found = faults(&session, MIGRATIONS.len() as u32).await.unwrap();
    assert!(found.len() == 1 && found[0].contains("never completed"), "{found:?}");
}

#[tokio::test]
async fn settings_that_lose_what_was_acknowledged_are_named() {
    let (url, session) = migrated(MIGRATIONS.len()).await;
    assert_eq!(settings(&session).await.unwrap(), Settings::default());
    let database = url.rsplit_once('/').unwrap().1;
    for (setting, value, named) in [
        ("synchronous_commit", "off", "synchronous_commit is off"),
        ("default_transaction_isolation", "'read uncommitted'", "default_transaction_isolation is read uncommitted"),
    ] {
        let running = PostgresStore::open(&url, Options::default()).await.unwrap();
        session.batch_execute(&format!("ALTER DATABASE {database} SET {setting} = {value}")).await.unwrap();
        let Err(StoreError::Refused(text)) = open::open(&url, 4, true).await.map(|_| ()) else { panic!("{setting}") };
        assert!(text.contains(named), "{text}");
        // Who is running already hears of it by new connections.
        let status = running.status().await.unwrap();
        assert!(matches!(status.faults.as_slice(), [fault] if fault.contains(named)), "{:?}", status.faults);
        session.batch_execute(&format!("ALTER DATABASE {database} RESET {setting}")).await.unwrap();
    }
    for isolation in ["repeatable read", "serializable"] {
        let sql = format!("ALTER DATABASE {database} SET default_transaction_isolation = '{isolation}'");
        session.batch_execute(&sql).await.unwrap();
        open::open(&url, 4, true).await.unwrap();
    }
    // Nobody gets as far as a session on a server that takes no writes.
    session.batch_execute("SET default_transaction_read_only = on").await.unwrap();
    let faults = settings(&session).await.unwrap().faults;
    assert!(faults.len() == 1 && faults[0].contains("takes no writes"), "{faults:?}");
}
