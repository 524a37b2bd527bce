//! What only a database that others share can go through.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use pendula_model::change::Change;
use pendula_model::instance::{Instance, InstanceState, Reason};
use pendula_model::worker::BootId;
use pendula_model::{Epoch, PartitionId, Timestamp};
use pendula_store::{Batch, Cluster, InstanceFilter, PostgresStore, Renewal, Seat, Store, StoreError, postgres};
use pendula_testdb::Postgres;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_postgres::{Client, NoTls};

use crate::rows::{HOME, Owner, START, inserted, succeeded};

async fn open(url: &str) -> Arc<PostgresStore> {
    let options = postgres::Options { partitions: 8, ..postgres::Options::default() };
    Arc::new(PostgresStore::open(url, options).await.unwrap())
}

/// A connection behind the store's back.
async fn behind(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// Looks again until it is so.
async fn until(client: &Client, sql: &str) {
    let began = Instant::now();
    while !client.query_one(sql, &[]).await.unwrap().get::<_, bool>(0) {
        assert!(began.elapsed() < Duration::from_secs(60), "never: {sql}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn next(instance: &Instance, state: InstanceState) -> Instance {
    Instance { state, version: instance.version + 1, message: Some("on its way".into()), ..instance.clone() }
}

#[tokio::test]
async fn steps_of_instances_touch_no_index() {
    let url = Postgres::shared().database();
    let store = open(&url).await;
    let mut owner = Owner::new(&*store).await;
    let job = owner.job(&*store, "job").await;
    let mut running: Vec<_> = (0..500).map(|_| owner.running(&job)).collect();
    owner.commit(&*store, running.iter().map(inserted).collect()).await.unwrap();
    for state in [InstanceState::Dispatched, InstanceState::Running] {
        running = running.iter().map(|instance| next(instance, state)).collect();
        // A hundred at a time: what one commit leaves behind, the next one can use.
        for some in running.chunks(100) {
            let changes = some.iter().map(|one| Change::InstanceUpdated(Box::new(one.clone()))).collect();
            owner.commit(&*store, changes).await.unwrap();
        }
    }
    // Sessions tell what they did at the latest when they end.
    drop(store);
    let client = behind(&url).await;
    let counts = "FROM pg_stat_user_tables WHERE relname = 'instance'";
    until(&client, &["SELECT n_tup_upd >= 1000 ", counts].concat()).await;
    let row = client.query_one(&["SELECT n_tup_upd, n_tup_hot_upd ", counts].concat(), &[]).await.unwrap();
    let (all, hot): (i64, i64) = (row.get(0), row.get(1));
    // Where a page is full, the first new versions move to another one.
    assert!(all == 1000 && hot >= 600, "{hot} of {all} stayed on their page");
}

fn seat(boot: u64) -> Seat {
    Seat { boot: BootId(boot), name: "s".to_owned(), address: "http://h:1".to_owned(), version: "1".to_owned() }
}

const TTL: Duration = Duration::from_secs(600);

#[tokio::test]
async fn a_claim_waits_for_a_commit_under_way_and_holds_up_nobody() {
    let url = Postgres::shared().database();
    let store = open(&url).await;
    store.join(&seat(1), TTL).await.unwrap();
    // As a commit does whose end is still on its way.
    let other = behind(&url).await;
    other.batch_execute("BEGIN; UPDATE partition SET batch = 7 WHERE id = 3").await.unwrap();
    let claims: Vec<_> = (0..3)
        .map(|_| {
            let store = store.clone();
            tokio::spawn(async move { store.claim(HOME, BootId(1), Epoch(0)).await })
        })
        .collect();
    let client = behind(&url).await;
    let waits =
        "SELECT count(*) = 3 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()";
    until(&client, waits).await;
    let renewal = Renewal { boot: BootId(1), ttl: TTL, is_leaving: false, skew_micros: 0 };
    assert!(store.renew(renewal).await.unwrap());
    let epoch = store.partition_claim(PartitionId(4), "x", START).await.unwrap();
    store.commit(Batch { partition: PartitionId(4), epoch, number: 1, changes: Vec::new() }).await.unwrap();
    assert!(claims.iter().all(|claim| !claim.is_finished()));
    other.batch_execute("COMMIT").await.unwrap();
    let mut won = 0;
    for claim in claims {
        won += usize::from(claim.await.unwrap().unwrap() == Some(Epoch(1)));
    }
    assert_eq!(won, 1);
    // The new epoch counts its batches from the beginning.
    store.commit(Batch { partition: HOME, epoch: Epoch(1), number: 1, changes: Vec::new() }).await.unwrap();
}

/// What a proxy does with what the database answers.
const PASS: u8 = 0;
/// The connection ends when a transaction was committed, before anybody hears of it.
const LOSE_COMMIT: u8 = 1;
/// The connection ends before the next statement arrives.
const LOSE_ALL: u8 = 2;

/// A proxy before the database of `url`; returns the URL with it.
async fn proxied(url: &str, mode: &'static AtomicU8) -> String {
    let (before, name) = url.rsplit_once('/').unwrap();
    let (user, address) = before.split_once('@').unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxied = format!("{user}@{}/{name}", listener.local_addr().unwrap());
    let address = address.to_owned();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let server = TcpStream::connect(&address).await.unwrap();
            tokio::spawn(forward(client, server, mode));
        }
    });
    proxied
}

async fn forward(mut client: TcpStream, mut server: TcpStream, mode: &'static AtomicU8) {
    let (mut up, mut down) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    loop {
        tokio::select! {
            read = client.read(&mut up) => {
                let Ok(count @ 1..) = read else { return };
                if mode.load(Ordering::SeqCst) == LOSE_ALL {
                    return;
                }
                server.write_all(&up[..count]).await.unwrap();
            }
            read = server.read(&mut down) => {
                let Ok(count @ 1..) = read else { return };
                let is_end = down[..count].windows(7).any(|bytes| bytes == b"COMMIT\0");
                if is_end && mode.load(Ordering::SeqCst) == LOSE_COMMIT {
                    return;
                }
                client.write_all(&down[..count]).await.unwrap();
            }
        }
    }
}

#[tokio::test]
async fn a_batch_whose_answer_was_lost_is_written_once() {
    static MODE: AtomicU8 = AtomicU8::new(PASS);
    let url = Postgres::shared().database();
    let store = open(&proxied(&url, &MODE).await).await;
    let mut owner = Owner::new(&*store).await;
    let job = owner.job(&*store, "job").await;
    for (number, mode) in (1..).zip([LOSE_COMMIT, LOSE_ALL, LOSE_COMMIT, LOSE_COMMIT]) {
        let instance = owner.running(&job);
        let changes = vec![inserted(&instance), succeeded(&instance)];
        let batch = Batch { partition: HOME, epoch: owner.epoch, number, changes };
        MODE.store(mode, Ordering::SeqCst);
        let lost = store.commit(batch.clone()).await;
        assert!(matches!(lost, Err(StoreError::Unavailable { .. })), "{lost:?}");
        MODE.store(PASS, Ordering::SeqCst);
        let is_written =
            behind(&url).await.query("SELECT 1 FROM ended_instance WHERE id = $1", &[&instance.id.0]).await;
        assert_eq!(is_written.unwrap().len(), usize::from(mode == LOSE_COMMIT));
        store.commit(batch.clone()).await.unwrap();
        store.commit(batch).await.unwrap();
    }
    let all = InstanceFilter { limit: 100, ..InstanceFilter::default() };
    let states: Vec<_> = store.instances(all).await.unwrap().items.iter().map(|instance| instance.state).collect();
    assert_eq!(states, [InstanceState::Succeeded; 4]);
}

#[tokio::test]
async fn a_database_that_went_away_is_found_again() {
    let server = Postgres::start();
    let store = open(&server.database()).await;
    let mut owner = Owner::new(&*store).await;
    let job = owner.job(&*store, "job").await;
    let mut batch = |number| {
        let changes = vec![inserted(&owner.running(&job))];
        Batch { partition: HOME, epoch: owner.epoch, number, changes }
    };
    let (first, second) = (batch(1), batch(2));
    store.commit(first).await.unwrap();
    server.stop();
    for _ in 0..3 {
        assert!(matches!(store.commit(second.clone()).await, Err(StoreError::Unavailable { .. })));
        assert!(matches!(store.partition_load(HOME).await, Err(StoreError::Unavailable { .. })));
        assert!(matches!(store.view().await, Err(StoreError::Unavailable { .. })));
    }
    server.start_again();
    store.commit(second).await.unwrap();
    assert_eq!(store.partition_load(HOME).await.unwrap().instances.len(), 2);
    // The sessions that there were are gone; one of them may be noticed only when it is used.
    server.restart_immediately();
    let third = batch(3);
    while let Err(error) = store.commit(third.clone()).await {
        assert!(matches!(error, StoreError::Unavailable { .. }), "{error:?}");
    }
    assert_eq!(store.partition_load(HOME).await.unwrap().instances.len(), 3);
}

/// As one becomes whose place another has taken: sessions stay, and writes are refused.
#[tokio::test]
async fn a_database_that_takes_no_writes_is_one_that_is_away() {
    let server = Postgres::start();
    let store = open(&server.database()).await;
    let mut owner = Owner::new(&*store).await;
    let job = owner.job(&*store, "job").await;
    let batch = Batch { partition: HOME, epoch: owner.epoch, number: 1, changes: vec![inserted(&owner.running(&job))] };
    store.join(&seat(1), TTL).await.unwrap();
    server.query("postgres", "ALTER SYSTEM SET default_transaction_read_only = on");
    server.query("postgres", "SELECT pg_reload_conf()");
    let renewal = Renewal { boot: BootId(1), ttl: TTL, is_leaving: false, skew_micros: 0 };
    for _ in 0..3 {
        let refused = store.commit(batch.clone()).await;
        assert!(matches!(refused, Err(StoreError::Unavailable { .. })), "{refused:?}");
        let refused = store.renew(renewal).await;
        assert!(matches!(refused, Err(StoreError::Unavailable { .. })), "{refused:?}");
    }
    server.query("postgres", "ALTER SYSTEM RESET default_transaction_read_only");
    server.query("postgres", "SELECT pg_reload_conf()");
    store.commit(batch).await.unwrap();
    assert!(store.renew(renewal).await.unwrap());
    assert_eq!(store.partition_load(HOME).await.unwrap().instances.len(), 1);
}

#[tokio::test]
async fn zero_bytes_spoil_no_batch() {
    let store = open(&Postgres::shared().database()).await;
    let mut owner = Owner::new(&*store).await;
    let job = owner.job(&*store, "job").await;
    let instance = Instance {
        idempotency_key: Some("a\0b".into()),
        message: Some("binary \0 output".into()),
        ..owner.running(&job)
    };
    owner.commit(&*store, vec![inserted(&instance)]).await.unwrap();
    let stored = store.instance(instance.id).await.unwrap().unwrap();
    assert_eq!(stored.message.as_deref(), Some("binary \u{FFFD} output"));
    let found = store.instance_by_idempotency_key(instance.app, "a\0b").await.unwrap();
    assert_eq!(found, Some(instance.id));
}

/// Damages of an instance's row, and a word that the explanation has.
const DAMAGES: &[(&str, &str)] = &[
    ("state = 77", "state"),
    ("state = -1", "state"),
    ("state = 5", "end"),
    ("state = 6", "cause to stop"),
    ("origin = 9", "origin"),
    ("stop_cause = 42", "stop_cause"),
    ("attempt = -1", "attempt"),
    ("attempt = 0", "attempt"),
    ("version = 1::bigint << 40", "version"),
    ("revision = -5", "revision"),
    ("revision = 4", "revision 4"),
    ("priority = 1000", "priority"),
    ("failures = -1", "failures"),
    ("losses = 1::bigint << 33", "losses"),
    ("missed_before = -1", "missed_before"),
    ("params = '{'", "params"),
    ("placement = 'not json'", "placement"),
    ("worker_name = NULL", "worker"),
    ("worker_boot = NULL", "worker"),
    ("worker_name = NULL, worker_boot = NULL", "worker"),
    ("result = '\\x00'", "result"),
    ("result_type = 'text/plain'", "result"),
];

/// O-16: whatever is written into a row, it hurts that row alone.
#[tokio::test]
async fn a_broken_instance_is_set_aside_alone() {
    let url = Postgres::shared().database();
    let store = open(&url).await;
    let client = behind(&url).await;
    for guard in ["words", "counts", "placed", "worker", "stop", "result"] {
        client.batch_execute(&["ALTER TABLE instance DROP CONSTRAINT instance_", guard].concat()).await.unwrap();
    }
    let mut owner = Owner::new(&*store).await;
    let job = owner.job(&*store, "job").await;
    let healthy = owner.running(&job);
    owner.commit(&*store, vec![inserted(&healthy)]).await.unwrap();
    for (damage, word) in DAMAGES {
        let victim = owner.running(&job);
        owner.commit(&*store, vec![inserted(&victim)]).await.unwrap();
        let sql = format!("UPDATE instance SET {damage} WHERE id = $1");
        assert_eq!(client.execute(&sql[..], &[&victim.id.0]).await.unwrap(), 1);

        let snapshot = store.partition_load(HOME).await.unwrap();
        assert_eq!(snapshot.instances, std::slice::from_ref(&healthy), "{damage}");
        let [(id, why)] = &snapshot.broken[..] else { panic!("{damage}: {:?}", snapshot.broken) };
        assert_eq!(*id, victim.id);
        assert!(why.contains(word), "{damage}: {why}");
        let all = InstanceFilter { limit: 1000, ..InstanceFilter::default() };
        assert!(store.instances(all.clone()).await.unwrap().items.contains(&healthy), "{damage}");
        if let Err(error) = store.instance(victim.id).await {
            assert!(matches!(error, StoreError::Corrupt { .. }), "{damage}: {error:?}");
        }

        let why = why.clone();
        let quarantine = Change::InstanceQuarantined { id: victim.id, at: START, why, prune_at: Timestamp::MAX };
        owner.commit(&*store, vec![quarantine]).await.unwrap();
        let ended = store.instance(victim.id).await.unwrap().unwrap();
        assert_eq!((ended.state, &ended.reason), (InstanceState::Failed, &Some(Reason::QUARANTINED)), "{damage}");
        let snapshot = store.partition_load(HOME).await.unwrap();
        assert_eq!((snapshot.instances.len(), snapshot.broken.len()), (1, 0), "{damage}");
        assert!(store.instances(all).await.unwrap().items.contains(&ended), "{damage}");
    }
    let pages = InstanceFilter { limit: 2, ..InstanceFilter::default() };
    assert!(store.instances(pages).await.unwrap().more);
}

#[tokio::test]
async fn a_broken_definition_blocks_no_other_job() {
    let url = Postgres::shared().database();
    let store = open(&url).await;
    let client = behind(&url).await;
    let mut owner = Owner::new(&*store).await;
    let damages = [
        "UPDATE job_revision SET spec = '{\"name\":'",
        "UPDATE job_revision SET spec = '[]'",
        "UPDATE job_revision SET spec = replace(spec, 'victim', 'renamed')",
        "DELETE FROM job_revision",
    ];
    let mut victims = Vec::new();
    for number in 0..damages.len() {
        victims.push(owner.job(&*store, &format!("victim {number}")).await);
    }
    let healthy = owner.job(&*store, "healthy").await;
    let (on_victim, on_healthy) = (owner.running(&victims[0]), owner.running(&healthy));
    owner.commit(&*store, vec![inserted(&on_victim), inserted(&on_healthy)]).await.unwrap();
    for (damage, victim) in damages.iter().zip(&victims) {
        let sql = format!("{damage} WHERE job_id = $1");
        assert_eq!(client.execute(&sql[..], &[&victim.id.0]).await.unwrap(), 1);
    }
    // Limits and pages count what can be read.
    assert_eq!(store.jobs_due(HOME, Timestamp::MAX, None, 1).await.unwrap(), std::slice::from_ref(&healthy));
    let snapshot = store.partition_load(HOME).await.unwrap();
    assert_eq!((snapshot.jobs, snapshot.instances), (vec![healthy.clone()], vec![on_healthy]));
    assert_eq!(snapshot.broken.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [on_victim.id]);
    for victim in &victims {
        assert!(matches!(store.job_by_id(victim.id).await, Err(StoreError::Corrupt { .. })));
    }
    let status = store.status().await.unwrap();
    let of_jobs = status.unreadable.iter().filter(|line| line.starts_with("job ")).count();
    assert_eq!((of_jobs, status.faults.len()), (victims.len(), 0), "{status:?}");

    // Saving it again repairs it.
    for victim in [&victims[0], &victims[3]] {
        let repaired = pendula_model::job::Job { version: 2, ..victim.clone() };
        owner.commit(&*store, vec![Change::JobUpdated(repaired.clone())]).await.unwrap();
        assert_eq!(store.job_by_id(repaired.id).await.unwrap(), Some(repaired));
    }
    assert_eq!(store.partition_load(HOME).await.unwrap().broken, []);
    assert_eq!(store.status().await.unwrap().unreadable.len(), of_jobs - 2);
}
