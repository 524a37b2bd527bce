//! Tests with what an older version left behind.

use std::path::Path;

use pendula_model::change::Change;
use pendula_model::instance::{InstanceState, Reason, TaskState};
use pendula_model::{AppId, InstanceId, JobId, PartitionId, TaskId, Timestamp};
use rusqlite::{Connection, params};

use super::Options;
use super::open::{self, STATE};
use super::schema::Schema;
use crate::port::{Batch, InstanceFilter, Store};
use crate::sqlite::SqliteStore;

const HOME: PartitionId = PartitionId(3);

fn id(kind: i64, number: i64) -> i64 {
    (1 << 40) | (kind << 23) | (i64::from(HOME.0) << 12) | number
}

/// A database as the first schema had it, with rows in every state that it knew.
fn first_schema(directory: &Path) -> Connection {
    let mut db = Connection::open(directory.join(STATE.file)).unwrap();
    db.pragma_update(None, "foreign_keys", true).unwrap();
    let first = Schema { migrations: &STATE.migrations[..1], ..STATE };
    first.migrate(&mut db, Timestamp::MIN, |db| open::seed(db, 8, Timestamp::MIN)).unwrap();
    let sql = "INSERT INTO app VALUES (?1, 'demo', 'default', 3, 0, 1, 1)";
    db.execute(sql, [id(1, 0)]).unwrap();
    let sql = "INSERT INTO job (id, partition, app_id, name, enabled, revision, version, anchor, missed, created_at,
               updated_at) VALUES (?1, 3, ?2, 'job', 1, 1, 1, 0, 0, 1, 1)";
    db.execute(sql, [id(2, 0), id(1, 0)]).unwrap();
    let spec = r#"{"name":"job","processor":{"shell":{"script":"true"}}}"#;
    let sql = "INSERT INTO job_revision (job_id, revision, saved_at, spec) VALUES (?1, 1, 1, ?2)";
    db.execute(sql, params![id(2, 0), spec]).unwrap();
    db
}

fn insert_instance(db: &Connection, number: i64, state: InstanceState) {
    let ended_at = state.is_ended().then_some(5);
    let worker = (!state.is_ended() && state.is_placed()).then_some("w");
    let sql = "INSERT INTO instance (
                   id, partition, app_id, job_id, revision, origin, fire_time, missed_before, priority, created_at, due_at,
                   state, version, attempt, failures, losses, worker_name, worker_boot, ended_at, prune_at, stop_cause,
                   idempotency_key, params, result_type, result)
               VALUES (?1, 3, ?2, ?3, 1, 1, ?4, 0, -7, 1, 2, ?5, 9, 2, 1, 0, ?6, ?7, ?8, ?8, ?9, ?10, '{}', 't', x'00ff')";
    let values = params![
        id(3, number),
        id(1, 0),
        id(2, 0),
        number,
        state.code(),
        worker,
        worker.map(|_| -1),
        ended_at,
        (state == InstanceState::Stopping).then_some(2),
        format!("key {number}"),
    ];
    db.execute(sql, values).unwrap();
}

fn insert_attempt(db: &Connection, number: i64, attempt: i64) {
    let sql = "INSERT INTO past_attempt VALUES (?1, ?2, 7, 'w', 3, '{}', 1, 2, 4, 'worker_lost', 'gone')";
    db.execute(sql, [id(3, number), attempt]).unwrap();
}

fn options() -> Options {
    Options { partitions: 8, ..Options::default() }
}

#[tokio::test]
async fn what_the_first_schema_held_is_there_after_the_second() {
    let directory = tempfile::tempdir().unwrap();
    let db = first_schema(directory.path());
    for (number, state) in (0..).zip(InstanceState::ALL) {
        insert_instance(&db, number, *state);
        for attempt in 1..=number {
            insert_attempt(&db, number, attempt);
        }
    }
    drop(db);
    let store = SqliteStore::open(directory.path(), options()).unwrap();
    let status = store.status().await.unwrap();
    assert_eq!((status.schema, status.faults), (STATE.version(), Vec::new()));
    assert_eq!(store.check_integrity().await.unwrap(), Vec::<String>::new());

    let everything = InstanceFilter { limit: 100, ..InstanceFilter::default() };
    assert_eq!(store.instances(everything).await.unwrap().items.len(), InstanceState::ALL.len());
    for (number, state) in (0..).zip(InstanceState::ALL) {
        let found = store.instance(InstanceId(id(3, number))).await.unwrap().unwrap();
        assert_eq!((found.state, found.version, found.priority), (*state, 9, -7));
        assert_eq!(found.fire_time, Some(Timestamp::from_micros(number)));
        assert_eq!(found.result.as_ref().map(|result| result.bytes.as_slice()), Some([0, 255].as_slice()));
        assert_eq!(found.worker.is_some(), state.is_placed());
        let key = format!("key {number}");
        assert_eq!(store.instance_by_idempotency_key(AppId(id(1, 0)), &key).await.unwrap(), Some(found.id));
        let past = store.past_attempts(found.id, TaskId::ROOT).await.unwrap();
        assert_eq!(past.len() as i64, number);
        assert!((1..).zip(&past).all(|(attempt, past)| past.attempt == attempt && past.task == TaskId::ROOT));
        assert!(past.iter().all(|past| past.state == TaskState::Lost && past.reason == Reason::WORKER_LOST));
        assert_eq!(store.fanout(found.id).await.unwrap(), None);
    }
    let snapshot = store.partition_load(HOME).await.unwrap();
    let active = InstanceState::ALL.iter().filter(|state| !state.is_ended()).count();
    assert_eq!((snapshot.instances.len(), snapshot.broken.len()), (active, 0));
    assert_eq!(snapshot.jobs.len(), 1);
    // Work goes on: past attempts still go with their instance, and what ended is pruned.
    let gone = store.prune(Timestamp::MAX, 100).await.unwrap();
    assert_eq!(gone.len(), InstanceState::ALL.len() - active);
    for (_, id) in gone {
        assert_eq!(store.past_attempts(id, TaskId::ROOT).await.unwrap(), []);
    }
    assert!(store.job_by_id(JobId(id(2, 0))).await.unwrap().is_some());
    drop(store);
    // And again, now that there is nothing to do.
    SqliteStore::open(directory.path(), options()).unwrap();
}

/// O-16 at an upgrade: a row that makes no sense holds up nobody, neither the start nor its neighbours.
#[tokio::test]
async fn what_made_no_sense_before_is_set_aside_after() {
    let directory = tempfile::tempdir().unwrap();
    let db = first_schema(directory.path());
    db.pragma_update(None, "ignore_check_constraints", true).unwrap();
    for number in 0..4 {
        insert_instance(&db, number, InstanceState::Running);
    }
    insert_attempt(&db, 1, 1);
    let damages = [
        "UPDATE instance SET state = 77 WHERE id = ?1",
        "UPDATE instance SET params = '{' WHERE id = ?1",
        "UPDATE instance SET version = -1, worker_boot = NULL WHERE id = ?1",
    ];
    for (damage, number) in damages.into_iter().zip(1..) {
        db.execute(damage, [id(3, number)]).unwrap();
    }
    db.execute("UPDATE past_attempt SET state = 99", []).unwrap();
    drop(db);
    let store = SqliteStore::open(directory.path(), options()).unwrap();
    let snapshot = store.partition_load(HOME).await.unwrap();
    assert_eq!(snapshot.instances.iter().map(|instance| instance.id.0).collect::<Vec<_>>(), [id(3, 0)]);
    let broken: Vec<i64> = snapshot.broken.iter().map(|(id, _)| id.0).collect();
    assert_eq!(broken.len(), 3);
    let epoch = store.partition_claim(HOME, "test", Timestamp::MIN).await.unwrap();
    let at = Timestamp::from_micros(7);
    let quarantine =
        |(id, why): (InstanceId, String)| Change::InstanceQuarantined { id, at, why, prune_at: Timestamp::MAX };
    let changes = snapshot.broken.into_iter().map(quarantine).collect();
    store.commit(Batch { partition: HOME, epoch, number: 0, changes }).await.unwrap();
    for id in broken {
        let set_aside = store.instance(InstanceId(id)).await.unwrap().unwrap();
        assert_eq!((set_aside.state, set_aside.reason), (InstanceState::Failed, Some(Reason::QUARANTINED)));
    }
    // The checks are there again for what comes.
    assert_eq!(store.past_attempts(InstanceId(id(3, 1)), TaskId::ROOT).await.unwrap(), []);
    let is_checked = store.writer.run(1, |db| Ok(db.execute("UPDATE instance SET origin = 9", []).is_err())).await;
    assert!(is_checked.unwrap());
}
