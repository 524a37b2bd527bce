//! A full disk and a damaged file.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;

use pendula_store::{InstanceFilter, Store, StoreError};

use crate::rows::{HOME, Owner, behind, inserted, open, succeeded, try_open};

#[tokio::test]
async fn a_full_disk_refuses_and_a_later_try_succeeds() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let mut owner = Owner::new(&store).await;
    let job = owner.job(&store, "job").await;
    // SQLite then fails as on a full disk: SQLITE_FULL when a page is to be added.
    store.limit_size(Some(60 * 4096)).await.unwrap();
    let mut acknowledged = Vec::new();
    let (refused, error) = loop {
        let some: Vec<_> = (0..20).map(|_| owner.running(&job)).collect();
        match owner.commit(&store, some.iter().map(inserted).collect()).await {
            Ok(()) => acknowledged.extend(some),
            Err(error) => break (some, error),
        }
    };
    let StoreError::Unavailable { why } = &error else { panic!("{error:?}") };
    assert!(why.contains("disk is full"), "{why}");
    assert!(!acknowledged.is_empty());
    assert_eq!(store.partition_load(HOME).await.unwrap().instances, acknowledged);
    // Not a one-off, nor for the worse: reads go on, and so do writes that need no page.
    let again = owner.commit(&store, refused.iter().map(inserted).collect()).await;
    assert!(matches!(again, Err(StoreError::Unavailable { .. })));
    store.limit_size(None).await.unwrap();
    owner.commit(&store, refused.iter().map(inserted).collect()).await.unwrap();
    acknowledged.extend(refused);
    owner.commit(&store, vec![succeeded(&acknowledged[0])]).await.unwrap();
    assert_eq!(store.partition_load(HOME).await.unwrap().instances, acknowledged[1..]);
    assert_eq!(store.check_integrity().await.unwrap(), Vec::<String>::new());
}

#[tokio::test]
async fn one_full_disk_fails_all_of_a_group_and_nothing_is_half_written() {
    let directory = tempfile::tempdir().unwrap();
    let store = std::sync::Arc::new(open(directory.path()));
    let mut owner = Owner::new(&*store).await;
    let job = owner.job(&*store, "job").await;
    store.limit_size(Some(60 * 4096)).await.unwrap();
    let first = owner.running(&job);
    owner.commit(&*store, vec![inserted(&first)]).await.unwrap();
    let mut batches = Vec::new();
    for _ in 0..200 {
        let some: Vec<_> = (0..5).map(|_| owner.running(&job)).collect();
        let changes = some.iter().map(inserted).collect();
        let batch = pendula_store::Batch { partition: HOME, epoch: owner.epoch, number: 0, changes };
        let store = store.clone();
        batches.push((some, tokio::spawn(async move { store.commit(batch).await })));
    }
    let mut acknowledged = vec![first];
    let mut refused = 0;
    for (some, batch) in batches {
        match batch.await.unwrap() {
            Ok(()) => acknowledged.extend(some),
            Err(StoreError::Unavailable { .. }) => refused += 1,
            Err(other) => panic!("{other:?}"),
        }
    }
    assert!(refused > 0);
    assert_eq!(store.partition_load(HOME).await.unwrap().instances, acknowledged);
}

#[tokio::test]
async fn a_damaged_page_is_said_to_be_one() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let mut owner = Owner::new(&store).await;
    let job = owner.job(&store, "job").await;
    let many: Vec<_> = (0..2000).map(|_| owner.running(&job)).collect();
    owner.commit(&store, many.iter().map(inserted).collect()).await.unwrap();
    drop(store);
    let leaves: Vec<u32> = {
        let db = behind(directory.path());
        let mut leaves = db.prepare("SELECT pageno FROM dbstat WHERE name = 'instance' AND pagetype = 'leaf'").unwrap();
        leaves.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    };
    let file = OpenOptions::new().write(true).open(directory.path().join("state.db")).unwrap();
    let page = u64::from(leaves[leaves.len() / 2] - 1);
    file.write_all_at(&[0xA5; 4096], page * 4096).unwrap();
    drop(file);
    let store = open(directory.path());
    let all = InstanceFilter { limit: usize::MAX, ..InstanceFilter::default() };
    for error in [store.instances(all).await.map(drop), store.partition_load(HOME).await.map(drop)] {
        let Err(StoreError::Corrupt { why }) = &error else { panic!("{error:?}") };
        assert!(why.contains("damaged") && why.contains("backup"), "{why}");
    }
    assert!(!store.check_integrity().await.unwrap().is_empty());
    // Other rows are still served.
    assert_eq!(store.job_by_id(job.id).await.unwrap(), Some(job));
}

#[tokio::test]
async fn a_damaged_schema_is_refused_at_open() {
    let directory = tempfile::tempdir().unwrap();
    drop(open(directory.path()));
    let file = OpenOptions::new().write(true).open(directory.path().join("state.db")).unwrap();
    file.write_all_at(&[0xA5; 3000], 1096).unwrap();
    drop(file);
    match try_open(directory.path()) {
        Ok(_) => panic!("it was opened"),
        Err(error) => assert!(error.to_string().contains("damaged"), "{error}"),
    }
}

#[tokio::test]
async fn a_lost_state_beside_the_logs_of_an_installation_is_no_new_installation() {
    let directory = tempfile::tempdir().unwrap();
    drop(open(directory.path()));
    drop(pendula_store::logs::SqliteLogStore::open(directory.path()).unwrap());
    drop(open(directory.path()));
    for name in ["state.db", "state.db-wal", "state.db-shm"] {
        let _ = std::fs::remove_file(directory.path().join(name));
    }
    let Err(StoreError::Refused(why)) = try_open(directory.path()) else { panic!("it began anew") };
    assert!(why.contains("state.db") && why.contains("logs.db"), "{why}");
    // Again, now that the first refusal left an empty file.
    assert!(try_open(directory.path()).is_err());
    std::fs::remove_file(directory.path().join("logs.db")).unwrap();
    drop(open(directory.path()));
}
