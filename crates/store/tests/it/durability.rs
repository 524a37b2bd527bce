//! Killed at any moment: what was acknowledged is there, and nothing is there by half.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;

use pendula_store::{Store, StoreError};

use crate::rows::{HOME, Owner, inserted, open, try_open};

/// Set for the process that is to be killed.
const VICTIM: &str = "PENDULA_TEST_KILLED_IN";
/// Instances of one batch.
const BATCH: usize = 7;
/// Callers at once, so that commits are shared.
const CALLERS: usize = 8;

/// Not a test of its own: the other side of the one below.
#[test]
fn victim_writes_until_killed() {
    let Some(directory) = std::env::var_os(VICTIM) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    runtime.block_on(async {
        let store = Arc::new(open(&PathBuf::from(directory)));
        let mut owner = Owner::new(&*store).await;
        let job = owner.job(&*store, "job").await;
        let owner = Arc::new(tokio::sync::Mutex::new(owner));
        let write = |caller: usize| {
            let (store, owner, job) = (store.clone(), owner.clone(), job.clone());
            async move {
                for number in 0.. {
                    let mut writer = owner.lock().await;
                    let batch: Vec<_> = (0..BATCH).map(|_| writer.running(&job)).collect();
                    let epoch = writer.epoch;
                    drop(writer);
                    // Some are refused after half of their work.
                    let mut changes: Vec<_> = batch.iter().map(inserted).collect();
                    let is_bad = number % 10 == caller;
                    changes.extend(is_bad.then(|| inserted(&batch[0])));
                    let name = batch[0].id;
                    match store.commit(pendula_store::Batch { partition: HOME, epoch, number: 0, changes }).await {
                        Ok(()) => writeln!(std::io::stdout(), "kept {name}").unwrap(),
                        Err(StoreError::Conflict { .. }) if is_bad => {
                            writeln!(std::io::stdout(), "refused {name}").unwrap();
                        }
                        Err(other) => panic!("{other:?}"),
                    }
                }
            }
        };
        let writers: Vec<_> = (0..CALLERS).map(|caller| tokio::spawn(write(caller))).collect();
        for writer in writers {
            writer.await.unwrap();
        }
    });
}

#[tokio::test]
async fn acknowledged_batches_survive_kill_9() {
    let directory = tempfile::tempdir().unwrap();
    let (mut kept, mut refused) = (BTreeSet::new(), BTreeSet::new());
    for round in 1..=5 {
        let mut victim = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "durability::victim_writes_until_killed", "--nocapture"])
            .env(VICTIM, directory.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(victim.stdout.take().unwrap()).lines();
        let mut take = |line: String| {
            // The first one may share a line with what the test harness prints.
            if let Some((_, name)) = line.split_once("kept ") {
                kept.insert(name.parse::<i64>().unwrap());
            } else if let Some((_, name)) = line.split_once("refused ") {
                refused.insert(name.parse::<i64>().unwrap());
            }
        };
        for line in lines.by_ref().take(100 * round + 37) {
            take(line.unwrap());
        }
        assert!(matches!(try_open(directory.path()), Err(StoreError::Refused(_))), "the victim holds the lock");
        victim.kill().unwrap();
        // What it acknowledged before it died.
        for line in lines.map_while(Result::ok) {
            take(line);
        }
        victim.wait().unwrap();

        let store = open(directory.path());
        let mut batches: BTreeMap<usize, Vec<i64>> = BTreeMap::new();
        let instances = store.partition_load(HOME).await.unwrap().instances;
        // The ids of a batch were taken together, so they lie side by side.
        for (position, instance) in instances.iter().enumerate() {
            batches.entry(position / BATCH).or_default().push(instance.id.0);
        }
        let stored: BTreeSet<i64> = batches.values().map(|batch| batch[0]).collect();
        assert!(batches.values().all(|batch| batch.len() == BATCH), "a batch is there by half");
        let lost: Vec<_> = kept.difference(&stored).collect();
        assert!(lost.is_empty(), "{lost:?} were acknowledged");
        assert_eq!(refused.intersection(&stored).count(), 0);
        assert!(kept.len() > 50 && !refused.is_empty(), "{} kept", kept.len());
        assert_eq!(store.check_integrity().await.unwrap(), Vec::<String>::new());
    }
}
