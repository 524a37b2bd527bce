use deadpool_postgres::ClientWrapper;
use pendula_testdb::Postgres;

use super::super::connect::{Database, Limits};
use super::super::open;
use super::*;

const FIRST: Migration = Migration {
    number: 1,
    name: "first",
    kind: Kind::Expand,
    sql: "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
          CREATE TABLE partition (id INTEGER PRIMARY KEY);
          CREATE TABLE server (name TEXT NOT NULL, version TEXT NOT NULL, expires_at BIGINT NOT NULL);
          CREATE TABLE old (a INTEGER)",
};
const ADDS: Migration =
    Migration { number: 2, name: "adds", kind: Kind::Expand, sql: "ALTER TABLE old ADD COLUMN b INTEGER" };
const TAKES: Migration = Migration {
    number: 3,
    name: "takes",
    kind: Kind::Contract { program: "0.3.0", schema: 2 },
    sql: "ALTER TABLE old DROP COLUMN a",
};
const ALL: &[Migration] = &[FIRST, ADDS, TAKES];

async fn session(url: &str) -> ClientWrapper {
    Database::new(url).unwrap().session(Limits::UPKEEP).await.unwrap()
}

async fn numbers(client: &Client) -> Vec<u32> {
    look(client).await.unwrap().applied().iter().map(|row| row.number).collect()
}

fn refusal(result: Result<(), StoreError>) -> String {
    match result {
        Err(StoreError::Refused(text)) => text,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn an_empty_database_becomes_an_installation() {
    let session = session(&Postgres::shared().database()).await;
    assert_eq!(look(&session).await.unwrap(), Contents::Nothing);
    let mut heard = Vec::new();
    // Nobody is there whom a step could harm.
    apply(&session, ALL, 3, Extent::Expand, |step| heard.push(step.number)).await.unwrap();
    assert_eq!((heard, numbers(&session).await), (vec![1, 2, 3], vec![1, 2, 3]));
    assert_eq!(seed::faults(&session).await.unwrap(), Vec::<String>::new());
    assert_eq!(seed::stored_partitions(&session).await.unwrap(), Some(3));
    let rows = session.query("SELECT value FROM meta WHERE key IN ('installation', 'secret') ORDER BY key", &[]).await;
    let lengths: Vec<_> = rows.unwrap().iter().map(|row| row.get::<_, String>(0).len()).collect();
    assert_eq!(lengths, [32, 64]);
}

#[tokio::test]
async fn servers_that_begin_at_once_make_one_installation() {
    for _ in 0..5 {
        let url = Postgres::shared().database();
        let tasks: Vec<_> = (0..8)
            .map(|_| {
                let url = url.clone();
                tokio::spawn(async move { open::open(&url, 8, true).await.map(|opened| opened.partitions) })
            })
            .collect();
        for task in tasks {
            assert_eq!(task.await.unwrap().unwrap(), 8);
        }
        let session = session(&url).await;
        let seeds: i64 = session.query_one("SELECT count(*) FROM partition", &[]).await.unwrap().get(0);
        assert_eq!((numbers(&session).await.len(), seeds), (MIGRATIONS.len(), 8));
    }
}

#[tokio::test]
async fn the_second_waits_for_the_first_and_then_sees_that_it_is_done() {
    let url = Postgres::shared().database();
    let first = session(&url).await;
    apply(&first, &[FIRST], 1, Extent::Expand, |_| ()).await.unwrap();
    first.batch_execute("BEGIN").await.unwrap();
    let sql =
        "INSERT INTO migration (number, name, checksum, compatible_from, applied_at) VALUES (2, 'adds', $1, 1, 0)";
    first.execute(sql, &[&ADDS.checksum()]).await.unwrap();
    first.batch_execute(ADDS.sql).await.unwrap();
    let second = session(&url).await;
    let pid: i32 = second.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    let waiting = tokio::spawn(async move { apply(&second, &[FIRST, ADDS], 1, Extent::Expand, |_| ()).await });
    // The signal: the database says that it waits.
    let watcher = session(&url).await;
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE pid = $1 AND wait_event_type = 'Lock'";
    while watcher.query_one(sql, &[&pid]).await.unwrap().get::<_, i64>(0) == 0 {
        tokio::task::yield_now().await;
    }
    first.batch_execute("COMMIT").await.unwrap();
    waiting.await.unwrap().unwrap();
    assert_eq!(numbers(&watcher).await, [1, 2]);
}

#[tokio::test]
async fn what_takes_away_waits_until_nobody_needs_it() {
    let session = session(&Postgres::shared().database()).await;
    apply(&session, &[FIRST], 1, Extent::Expand, |_| ()).await.unwrap();
    let far = i64::MAX;
    for (name, version, expires_at) in [("old", "0.2.9", far), ("new", "0.3.0", far), ("dead", "0.1.0", 1)] {
        let sql = "INSERT INTO server VALUES ($1, $2, $3)";
        session.execute(sql, &[&name, &version, &expires_at]).await.unwrap();
    }
    // Who opens the store leaves it alone.
    apply(&session, ALL, 1, Extent::Expand, |_| ()).await.unwrap();
    assert_eq!(numbers(&session).await, [1, 2]);
    let text = refusal(apply(&session, ALL, 1, Extent::Everything, |_| ()).await);
    assert!(text.contains("old (0.2.9)") && !text.contains("new (") && !text.contains("dead"), "{text}");
    assert_eq!(numbers(&session).await, [1, 2]);
    session.execute("DELETE FROM server WHERE name = 'old'", &[]).await.unwrap();
    apply(&session, ALL, 1, Extent::Everything, |_| ()).await.unwrap();
    assert_eq!(numbers(&session).await, [1, 2, 3]);
}

#[tokio::test]
async fn a_newer_schema_is_for_those_that_it_was_only_added_to() {
    let session = session(&Postgres::shared().database()).await;
    apply(&session, &[FIRST, ADDS], 1, Extent::Everything, |_| ()).await.unwrap();
    let contents = look(&session).await.unwrap();
    // A program that knows the first schema only goes on.
    assert!(pending(&[FIRST], contents.applied()).unwrap().is_empty());
    apply(&session, &[FIRST], 1, Extent::Everything, |_| ()).await.unwrap();
    apply(&session, ALL, 1, Extent::Everything, |_| ()).await.unwrap();
    let contents = look(&session).await.unwrap();
    assert!(pending(&[FIRST, ADDS], contents.applied()).unwrap().is_empty());
    let text = refusal(apply(&session, &[FIRST], 1, Extent::Everything, |_| ()).await);
    assert!(text.contains("only programs that know schema 2") && text.contains("Start the newer version"), "{text}");
}

#[tokio::test]
async fn a_step_happens_entirely_or_not() {
    let session = session(&Postgres::shared().database()).await;
    let broken = Migration { sql: "ALTER TABLE old ADD COLUMN b INTEGER; SELECT 1 / 0", ..ADDS };
    apply(&session, &[FIRST], 1, Extent::Expand, |_| ()).await.unwrap();
    let text = refusal(apply(&session, &[FIRST, broken], 1, Extent::Expand, |_| ()).await);
    assert!(text.contains("migration 2 (adds) failed and nothing was changed: division by zero"), "{text}");
    assert_eq!(numbers(&session).await, [1]);
    // The session can be used, and the right step applied.
    apply(&session, &[FIRST, ADDS], 1, Extent::Expand, |_| ()).await.unwrap();
}

#[tokio::test]
async fn a_step_does_not_queue_for_a_lock_for_long() {
    let url = Postgres::shared().database();
    let migrating = session(&url).await;
    apply(&migrating, &[FIRST], 1, Extent::Expand, |_| ()).await.unwrap();
    let reader = session(&url).await;
    reader.batch_execute("BEGIN; LOCK TABLE old IN ACCESS SHARE MODE").await.unwrap();
    let error = apply(&migrating, &[FIRST, ADDS], 1, Extent::Expand, |_| ()).await.unwrap_err();
    assert!(matches!(&error, StoreError::Unavailable { why } if why.contains("holds a lock")), "{error:?}");
    reader.batch_execute("ROLLBACK").await.unwrap();
    apply(&migrating, &[FIRST, ADDS], 1, Extent::Expand, |_| ()).await.unwrap();
}

#[tokio::test]
async fn other_steps_than_ours_and_other_programs_are_refused() {
    let url = Postgres::shared().database();
    let client = session(&url).await;
    apply(&client, &[FIRST, ADDS], 1, Extent::Everything, |_| ()).await.unwrap();
    let edited = Migration { sql: "SELECT 1", ..ADDS };
    let text = refusal(apply(&client, &[FIRST, edited], 1, Extent::Everything, |_| ()).await);
    assert!(text.contains("migration 2 (adds) was not applied"), "{text}");
    client.batch_execute("DELETE FROM migration WHERE number = 1").await.unwrap();
    let text = refusal(apply(&client, &[FIRST, ADDS], 1, Extent::Everything, |_| ()).await);
    assert!(text.contains("was not applied"), "{text}");
    for tables in [
        "CREATE TABLE orders (a int)",
        "CREATE TABLE migration (id int)",
        "CREATE TABLE users (a int); CREATE TABLE migration (number int, name text, checksum text, compatible_from int, applied_at bigint)",
    ] {
        let client = session(&Postgres::shared().database()).await;
        client.batch_execute(tables).await.unwrap();
        let text = refusal(apply(&client, &[FIRST], 1, Extent::Everything, |_| ()).await);
        assert!(text.contains("tables of another program") && text.contains("untouched"), "{text}");
    }
    // A program that was killed right at the beginning left a journal and nothing else.
    let client = session(&Postgres::shared().database()).await;
    client.batch_execute(JOURNAL).await.unwrap();
    apply(&client, &[FIRST], 1, Extent::Everything, |_| ()).await.unwrap();
}

#[tokio::test]
async fn who_must_not_migrate_says_what_is_missing() {
    let url = Postgres::shared().database();
    // Of an empty one there is nothing to leave as it is.
    open::open(&url, 2, false).await.unwrap();
    let client = session(&url).await;
    client.batch_execute("DELETE FROM migration WHERE number > 1").await.unwrap();
    if MIGRATIONS.len() > 1 {
        let text = refusal(open::open(&url, 2, false).await.map(|_| ()));
        assert!(text.contains("run `pendula migrate apply`"), "{text}");
    }
}

#[test]
fn versions_are_compared_as_people_mean_them() {
    for (program, minimum, is) in [
        ("0.3.0", "0.3.0", true),
        ("0.10.0", "0.9.9", true),
        ("1.0.0+build", "1.0.0", true),
        ("1.0.0-rc.1", "1.0.0", false),
        ("1.0.1-rc.1", "1.0.0", true),
        ("0.2.9", "0.3.0", false),
        ("dev", "0.3.0", false),
        ("1.0", "0.3.0", false),
    ] {
        assert_eq!(is_at_least(program, minimum), is, "{program} {minimum}");
    }
}
