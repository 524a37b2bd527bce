//! What a store refuses to open, and how it says so.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use pendula_model::{PartitionId, Timestamp};
use pendula_store::sqlite::Options;
use pendula_store::{SqliteStore, Store, StoreError};

use crate::rows::{Owner, behind, open, try_open};

fn refusal(directory: &Path) -> String {
    match try_open(directory) {
        Ok(_) => panic!("it was opened"),
        Err(StoreError::Refused(text)) => text,
        Err(other) => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_new_directory_is_private_and_keeps_its_partitions() {
    let parent = tempfile::tempdir().unwrap();
    let directory = parent.path().join("a/b");
    let store = open(&directory);
    assert_eq!(store.partitions(), 8);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&directory), 0o700);
    Owner::new(&store).await;
    for file in ["lock", "state.db", "state.db-wal", "state.db-shm"] {
        assert_eq!(mode(&directory.join(file)), 0o600, "{file}");
    }
    let status = store.status().await.unwrap();
    assert_eq!((status.schema, status.faults), (2, Vec::<String>::new()));
    assert!(status.bytes > 0);
    drop(store);

    let store = SqliteStore::open(&directory, Options { partitions: 64, ..Options::default() }).unwrap();
    assert_eq!(store.partitions(), 8);
    assert_eq!(store.apps().await.unwrap().len(), 1);
    // Epochs go on.
    let epoch = store.partition_claim(PartitionId(3), "again", Timestamp::MIN).await.unwrap();
    assert_eq!(epoch.0, 2);
    assert_eq!(store.check_integrity().await.unwrap(), Vec::<String>::new());
}

#[test]
fn a_second_process_is_told_who_was_first() {
    let directory = tempfile::tempdir().unwrap();
    let first = open(directory.path());
    let text = refusal(directory.path());
    assert!(text.contains(&directory.path().display().to_string()), "{text}");
    assert!(text.contains(&format!("pid {}", std::process::id())), "{text}");
    drop(first);
    open(directory.path());
}

#[test]
fn what_is_no_directory_of_ours_is_named() {
    let parent = tempfile::tempdir().unwrap();
    let file = parent.path().join("file");
    fs::write(&file, "x").unwrap();
    assert!(refusal(&file).contains(&file.display().to_string()));
    assert!(refusal(&file.join("below")).contains("below"));
    // Not even root may make something here, unlike in a directory without the permission.
    let text = refusal(Path::new("/proc/pendula-test"));
    assert!(text.contains("cannot make or enter the data directory /proc/pendula-test"), "{text}");
}

#[test]
fn a_read_only_directory_is_refused() {
    let parent = tempfile::tempdir().unwrap();
    let directory = parent.path().join("read-only");
    drop(open(&directory));
    fs::remove_file(directory.join("lock")).unwrap();
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o500)).unwrap();
    let probe = fs::write(directory.join("probe"), "");
    if probe.is_ok() {
        // Permissions do not bind this user (root); the case above covers the same path.
        return;
    }
    let text = refusal(&directory);
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o700)).unwrap();
    assert!(text.contains("read-only") && text.contains("needs a directory that it may write to"), "{text}");
}

#[test]
fn a_newer_schema_names_both_versions_and_the_way_out() {
    let directory = tempfile::tempdir().unwrap();
    drop(open(directory.path()));
    behind(directory.path()).pragma_update(None, "user_version", 7).unwrap();
    let text = refusal(directory.path());
    assert!(text.contains("schema 7") && text.contains("up to 2") && text.contains("backup"), "{text}");
}

#[test]
fn a_migration_that_was_another_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    drop(open(directory.path()));
    behind(directory.path()).execute("UPDATE migration SET checksum = 'x'", []).unwrap();
    assert!(refusal(directory.path()).contains("migration 1 (initial)"));
}

#[test]
fn other_files_are_left_untouched() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("state.db");
    fs::write(&file, "this is a text and no database, long enough for a header".repeat(100)).unwrap();
    let text = refusal(directory.path());
    assert!(text.contains("state.db") && text.contains("not a database"), "{text}");

    fs::remove_file(&file).unwrap();
    let foreign = rusqlite::Connection::open(&file).unwrap();
    foreign.execute_batch("CREATE TABLE theirs (a)").unwrap();
    drop(foreign);
    assert!(refusal(directory.path()).contains("another program"));
    let foreign = rusqlite::Connection::open(&file).unwrap();
    let tables: i64 = foreign.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).unwrap();
    assert_eq!(tables, 1);
}

/// O-3: a lock, guard or seed row that is not there must stop us, at start and while we run.
#[tokio::test]
async fn o_3_every_missing_table_index_trigger_or_seed_row_is_named() {
    let pattern = tempfile::tempdir().unwrap();
    drop(open(pattern.path()));
    let mut removals: Vec<(String, String)> = Vec::new();
    {
        let db = behind(pattern.path());
        let mut objects = db.prepare("SELECT type, name FROM sqlite_schema WHERE sql IS NOT NULL").unwrap();
        let rows = objects.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?))).unwrap();
        for (kind, name) in rows.map(Result::unwrap) {
            removals.push((format!("DROP {kind} {name}"), name));
        }
        for key in ["partitions", "installation", "created_at", "last_deleted_id"] {
            removals.push((format!("DELETE FROM meta WHERE key = '{key}'"), key.to_owned()));
        }
        removals.push(("DELETE FROM partition WHERE id = 5".to_owned(), "partition 5".to_owned()));
        removals.push(("DELETE FROM migration".to_owned(), "migration 1".to_owned()));
        removals.push(("UPDATE meta SET value = 'x' WHERE key = 'partitions'".to_owned(), "partitions".to_owned()));
        let alter = "ALTER TABLE token ADD COLUMN more TEXT";
        removals.push((alter.to_owned(), "token".to_owned()));
        let looser = "DROP INDEX instance_fire; CREATE INDEX instance_fire ON instance (job_id, fire_time)";
        removals.push((looser.to_owned(), "`instance_fire` was altered".to_owned()));
        let ghost = "CREATE TRIGGER ghost AFTER INSERT ON instance BEGIN DELETE FROM job; END";
        removals.push((ghost.to_owned(), "ghost".to_owned()));
    }
    assert!(removals.len() > 40, "{}", removals.len());
    for (removal, name) in removals {
        let directory = tempfile::tempdir().unwrap();
        fs::copy(pattern.path().join("state.db"), directory.path().join("state.db")).unwrap();
        let store = open(directory.path());
        behind(directory.path()).execute_batch(&removal).unwrap();
        let faults = store.status().await.unwrap().faults;
        assert!(faults.iter().any(|fault| fault.contains(&name)), "{removal}: {faults:?}");
        drop(store);
        match try_open(directory.path()) {
            Ok(_) => panic!("opened after {removal}"),
            Err(error) => assert!(error.to_string().contains(&name), "{removal}: {error}"),
        }
    }
}

#[tokio::test]
async fn a_partition_without_its_row_writes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let mut owner = Owner::new(&store).await;
    behind(directory.path()).execute("DELETE FROM partition WHERE id = 3", []).unwrap();
    let app = pendula_model::AppId(owner.ids.next(Timestamp::MIN));
    let refused = owner.commit(&store, vec![pendula_model::change::Change::AppDeleted(app)]).await;
    assert!(matches!(&refused, Err(StoreError::Corrupt { why }) if why.contains("partition 3")), "{refused:?}");
    let refused = store.partition_claim(PartitionId(3), "x", Timestamp::MIN).await;
    assert!(matches!(refused, Err(StoreError::Corrupt { .. })));
}
