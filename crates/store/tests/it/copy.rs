//! An installation moves from one machine into a database that servers share, as it is.

use std::path::Path;
use std::sync::Arc;

use pendula_model::change::Change;
use pendula_model::instance::{Instance, InstanceState, Payload};
use pendula_model::task::{Fanout, Phase, Task, TaskCounts, TaskRole};
use pendula_model::token::{Scope, Token};
use pendula_model::{AppId, Epoch, InstanceId, TaskId, TokenId};
use pendula_store::logs::{LogAppend, LogKey, LogOptions, LogStore, PostgresLogStore, SqliteLogStore};
use pendula_store::postgres::{CopyProgress, CopyReport, copy};
use pendula_store::{Batch, PostgresStore, Store, StoreError, postgres};
use pendula_testdb::Postgres;

use crate::differential::{dump, fill};
use crate::rows::{HOME, Owner, START, behind, inserted, open, succeeded};

async fn copied(directory: &Path, url: &str) -> Result<CopyReport, StoreError> {
    copy(directory, url, |_| ()).await
}

async fn opened(url: &str) -> PostgresStore {
    PostgresStore::open(url, postgres::Options::default()).await.unwrap()
}

fn refusal<T>(result: Result<T, StoreError>) -> String {
    match result {
        Err(StoreError::Refused(text)) => text,
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("it was not refused"),
    }
}

fn key(instance: i64, attempt: u32) -> LogKey {
    LogKey { app: AppId(1), instance: InstanceId(instance), attempt, task: 0 }
}

/// Logs with holes, of many rows, ended and not.
async fn print(logs: &dyn LogStore) {
    for instance in 0..40 {
        for (attempt, offset, size) in [(1, 0, 100), (1, 100, 70_000), (2, 5000, 10), (2, 9000, 1)] {
            let data = vec![instance as u8; size];
            let piece = LogAppend { key: key(instance, attempt), offset, data, end: instance % 2 == 0 };
            logs.append(vec![piece]).await.unwrap();
        }
    }
}

async fn printed(logs: &dyn LogStore) -> String {
    let mut text = String::new();
    for instance in 0..41 {
        for attempt in 0..3 {
            text += &format!("{:?}\n", logs.read(key(instance, attempt), 0, 1 << 20).await.unwrap());
        }
    }
    text
}

#[tokio::test]
async fn everything_arrives_as_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    fill(&store, 3000).await;
    // What is under way.
    let mut owner = Owner::new(&store).await;
    let job = owner.job(&store, "job").await;
    let instance = owner.running(&job);
    owner.with_tasks(&store, &instance).await;
    for (number, scope) in [(1, Scope::Admin), (2, Scope::App { app: store.apps().await.unwrap()[0].id })] {
        let token = Token {
            id: TokenId(number),
            name: format!("token {number}"),
            scope,
            hash: [number as u8; 32],
            created_at: START,
            expires_at: None,
        };
        store.token_insert(token).await.unwrap();
    }
    // An id that was given out and must not come back.
    assert!(store.token_delete(TokenId(1)).await.unwrap());
    let logs = SqliteLogStore::open(directory.path()).unwrap();
    print(&logs).await;
    let before = format!("{}{:?}", dump(&store).await, store.tokens().await.unwrap());
    let before_logs = printed(&logs).await;
    let read = |sql: &str| behind(directory.path()).query_row(sql, [], |row| row.get::<_, String>(0)).unwrap();
    let installation = read("SELECT value FROM meta WHERE key = 'installation'");
    let files = || {
        let file = |name: &str| std::fs::read(directory.path().join(name)).unwrap();
        (file("state.db"), file("logs.db"))
    };
    drop((store, logs));
    let original = files();

    let url = Postgres::shared().database();
    let mut heard: Vec<CopyProgress> = Vec::new();
    let report = copy(directory.path(), &url, |progress| heard.push(progress)).await.unwrap();
    assert_eq!((report.installation.as_str(), report.partitions), (installation.as_str(), 8));
    for table in ["app", "job", "job_revision", "gap", "instance", "ended_instance", "past_attempt", "fanout", "task"] {
        let count = report.tables.iter().find(|(name, _)| *name == table).unwrap().1;
        assert!(count > 0, "no row of {table} was copied: nothing was tested");
    }
    let last = heard.last().unwrap();
    assert_eq!((last.rows, last.rows_in_all), (last.rows_of_table, last.rows_of_all));
    assert_eq!(last.rows_of_all, report.tables.iter().map(|table| table.1).sum::<u64>());
    assert!(heard.is_sorted_by_key(|progress| progress.rows_in_all));
    assert!(files() == original, "the directory was changed");

    let store = opened(&url).await;
    assert_eq!(store.partitions(), 8);
    assert_eq!(format!("{}{:?}", dump(&store).await, store.tokens().await.unwrap()), before);
    let logs = PostgresLogStore::open(&url, LogOptions::default()).await.unwrap();
    assert_eq!(printed(&logs).await, before_logs);
    assert_eq!(store.status().await.unwrap().faults, Vec::<String>::new());
    let fact = |key: &str| {
        let sql = format!("SELECT value FROM meta WHERE key = '{key}'");
        Postgres::shared().query(url.rsplit_once('/').unwrap().1, &sql)
    };
    assert_eq!((fact("installation"), fact("unfinished_copy")), (installation, String::new()));
    // Life goes on: epochs and versions, gaps and logs.
    assert_eq!(store.partition_claim(HOME, "test", START).await.unwrap(), Epoch(3));
    let batch = Batch { partition: HOME, epoch: Epoch(2), number: 0, changes: Vec::new() };
    assert!(matches!(store.commit(batch).await, Err(StoreError::Fenced { .. })));
    let answer = logs.append(vec![LogAppend { end: true, data: vec![7], offset: 9001, key: key(1, 2) }]).await.unwrap();
    assert_eq!((answer[0].gap, answer[0].next_offset), (None, 9002));
}

/// Pages of many rows, and of large ones; and a text that the database cannot hold.
#[tokio::test]
async fn many_and_large_rows_travel_in_pages() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let mut owner = Owner::new(&store).await;
    let job = owner.job(&store, "job").await;
    let instance = Instance { attempt: 0, worker: None, state: InstanceState::Waiting, ..owner.running(&job) };
    let odd = Instance { message: Some("a\0b".into()), id: InstanceId(owner.ids.next(START)), ..owner.running(&job) };
    let new = |part: u64, size: usize| Task {
        input: (size > 0).then(|| Arc::new(Payload::json(format!("\"{}\"", "x".repeat(size))))),
        ..Task::new(instance.id, TaskId(part), TaskRole::Sub, format!("part {part}").into(), START)
    };
    let tasks: Vec<_> = (0..5000).map(|part| new(part, if part % 500 == 0 { 3 << 20 } else { 0 })).collect();
    let total = tasks.len() as u64;
    let counts = TaskCounts { total, waiting: total, ..TaskCounts::default() };
    let fanout = Fanout { counts, next_task: TaskId(total), ..Fanout::new(instance.id, Phase::Main) };
    let changes =
        vec![inserted(&instance), inserted(&odd), Change::FanoutInserted(fanout), Change::TasksInserted(tasks)];
    owner.commit(&store, changes).await.unwrap();
    owner.commit(&store, vec![succeeded(&odd)]).await.unwrap();
    let one = store.task(instance.id, TaskId(4500)).await.unwrap();
    drop(store);

    let url = Postgres::shared().database();
    let mut pages = 0;
    let report = copy(directory.path(), &url, |progress| pages += u64::from(progress.table == "task")).await.unwrap();
    assert!(report.tables.contains(&("task", total)));
    // One says that it begins.
    assert!((5..20).contains(&(pages - 1)), "{pages} pages");
    let store = opened(&url).await;
    assert_eq!(store.task(instance.id, TaskId(4500)).await.unwrap(), one);
    assert_eq!(store.fanout(instance.id).await.unwrap().unwrap().counts, counts);
    let message = store.instance(odd.id).await.unwrap().unwrap().message.unwrap();
    assert_eq!(&*message, "a\u{FFFD}b");
}

#[tokio::test]
async fn only_an_empty_database_is_taken() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    Owner::new(&store).await;
    drop(store);
    // Another program's.
    let url = Postgres::shared().database();
    Postgres::shared().query(url.rsplit_once('/').unwrap().1, "CREATE TABLE orders (a int)");
    assert!(refusal(copied(directory.path(), &url).await).contains("another program"));
    // One that was made and never used is as good as empty, whatever its partitions.
    let url = Postgres::shared().database();
    opened(&url).await;
    copied(directory.path(), &url).await.unwrap();
    let store = opened(&url).await;
    assert_eq!((store.partitions(), store.apps().await.unwrap().len()), (8, 1));
    // And one that holds an installation is not.
    assert!(refusal(copied(directory.path(), &url).await).contains("there are rows in app"));
    let url = Postgres::shared().database();
    opened(&url).await.partition_claim(HOME, "test", START).await.unwrap();
    assert!(refusal(copied(directory.path(), &url).await).contains("partitions were claimed"));
}

#[tokio::test]
async fn a_directory_that_is_used_or_of_another_version_stays_where_it_is() {
    let parent = tempfile::tempdir().unwrap();
    let url = Postgres::shared().database();
    let nothing = parent.path().join("nothing");
    assert!(refusal(copied(&nothing, &url).await).contains("state.db is missing"));
    assert!(!nothing.exists());
    let store = open(parent.path());
    assert!(refusal(copied(parent.path(), &url).await).contains("in use by another process"));
    drop(store);
    for (version, said) in [(1, "start a server of this version"), (99, "use that version of Pendula")] {
        behind(parent.path()).pragma_update(None, "user_version", version).unwrap();
        let text = refusal(copied(parent.path(), &url).await);
        assert!(text.contains(&format!("has schema {version}")) && text.contains(said), "{text}");
    }
    behind(parent.path()).pragma_update(None, "user_version", 2).unwrap();
    behind(parent.path()).execute_batch("DROP INDEX app_name").unwrap();
    let Err(StoreError::Corrupt { why }) = copied(parent.path(), &url).await else { panic!("it was copied") };
    assert!(why.contains("app_name"), "{why}");
}

/// Who stopped in the middle begins anew, and no server takes the half for the whole.
#[tokio::test]
async fn what_is_not_complete_is_used_by_nobody() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    fill(&store, 500).await;
    let before = dump(&store).await;
    drop(store);
    // A row that the database refuses, in the last but one of the tables.
    let broken =
        "INSERT INTO task VALUES (7, 7, 3, 1, 1, 0, 0, 0, 0, 0, NULL, NULL, NULL, NULL, NULL, 5, NULL, NULL, NULL, 'x',
                                           NULL, NULL, NULL, NULL, NULL, NULL)";
    behind(directory.path()).execute_batch(broken).unwrap();
    let url = Postgres::shared().database();
    let text = refusal(copied(directory.path(), &url).await);
    assert!(
        text.contains("the row of task with instance_id 7 cannot be copied") && text.contains("task_end"),
        "{text}"
    );
    let text = refusal(PostgresStore::open(&url, postgres::Options::default()).await);
    assert!(text.contains("not complete") && text.contains("pendula copy"), "{text}");
    behind(directory.path()).execute_batch("DELETE FROM task WHERE instance_id = 7").unwrap();
    copied(directory.path(), &url).await.unwrap();
    assert_eq!(dump(&opened(&url).await).await, before);
}

#[tokio::test]
async fn two_copies_do_not_mix() {
    let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for directory in [&first, &second] {
        fill(&open(directory.path()), 50).await;
    }
    let url = Postgres::shared().database();
    let mut text = None;
    let on_progress = |progress: CopyProgress| {
        // In the middle of the first one.
        if progress.table == "instance" && text.is_none() {
            let (second, url) = (second.path().to_owned(), url.clone());
            let other = std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                refusal(runtime.block_on(copied(&second, &url)))
            });
            text = Some(other.join().unwrap());
        }
    };
    copy(first.path(), &url, on_progress).await.unwrap();
    assert!(text.unwrap().contains("another copy"));
    assert!(opened(&url).await.apps().await.unwrap().len() > 1);
}

/// A server that came before the copy began: nothing is completed over its head.
#[tokio::test]
async fn a_server_that_uses_the_database_meanwhile_stops_the_copy() {
    let directory = tempfile::tempdir().unwrap();
    fill(&open(directory.path()), 50).await;
    let url = Postgres::shared().database();
    let claim = |_| {
        Postgres::shared().query(url.rsplit_once('/').unwrap().1, "UPDATE partition SET epoch = 1 WHERE id = 3");
    };
    let text = refusal(copy(directory.path(), &url, claim).await);
    assert!(text.contains("was used during the copy"), "{text}");
    refusal(PostgresStore::open(&url, postgres::Options::default()).await);
}
