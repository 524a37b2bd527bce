//! Shards whose worker dies: others run them, with the same index and total.

use std::collections::BTreeMap;

use pendula_e2e::fleet::{AFTER_A_LOSS, Fleet, SOON};
use pendula_e2e::process::eventually;
use pendula_model::instance::{InstanceState, TaskState};
use pendula_model::job::JobSpec;
use pendula_model::mode::{ExecutionMode, Sharded, TaskLimits};
use pendula_model::processor::{Processor, Script};

const SHARDS: u32 = 8;
const KEYS: u32 = 200;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s2_11_shards_of_a_killed_worker_move_and_cover_every_key_once() {
    let mut fleet = Fleet::start(&["w1", "w2", "w3"]).await;
    let home = fleet.effects.path("parts");
    std::fs::create_dir(&home).expect("the directory is new");
    // Takes the keys of its shard, the first half before the gate, and publishes what it did when all is done.
    let script = format!(
        "set -eu\n\
         cd {}\n\
         {}\
         part=$PENDULA_SHARD_INDEX.$PENDULA_ATTEMPT\n\
         key=$PENDULA_SHARD_INDEX\n\
         while [ $key -lt {KEYS} ]; do\n\
         echo \"$key $PENDULA_SHARD_INDEX/$PENDULA_SHARD_TOTAL\" >> $part\n\
         key=$((key + PENDULA_SHARD_TOTAL))\n\
         if [ $key -gt {} ]; then {} fi\n\
         done\n\
         mv $part done.$part\n",
        home.display(),
        fleet.effects.begin(),
        KEYS / 2,
        fleet.effects.gate("go").trim_end().to_owned() + ";",
    );
    let TaskLimits { tolerate, fail_fast, task_timeout, .. } = TaskLimits::default();
    let per_worker = Some(3);
    let sharded = Sharded { total: SHARDS, per_worker, max_workers: None, tolerate, fail_fast, task_timeout };
    let mode = ExecutionMode::Sharded(sharded);
    let job = JobSpec { mode, ..JobSpec::new("keys", Processor::Shell(Script::new(script))) };
    let id = fleet.run(&job).await;
    eventually("all shards are half done", SOON, || async {
        (fleet.effects.begun(id).len() == SHARDS as usize).then_some(())
    })
    .await;
    let of_the_third: Vec<u64> =
        fleet.effects.begun(id).into_iter().filter(|run| run.worker == "w3").map(|run| run.task).collect();
    assert!(of_the_third.len() >= 2, "three workers share eight shards: {of_the_third:?}");
    fleet.worker("w3").kill_with_scripts().await;
    fleet.effects.open("go");

    let view = fleet.ended(id, AFTER_A_LOSS).await;
    assert_eq!(view.state, InstanceState::Succeeded, "{view:?}");
    let tasks = fleet.tasks(id).await;
    assert_eq!(tasks.len(), SHARDS as usize);
    for task in tasks {
        let moved = of_the_third.contains(&task.task.0);
        let expected = if moved { (TaskState::Succeeded, 2, 1) } else { (TaskState::Succeeded, 1, 0) };
        assert_eq!((task.state, task.attempt, task.losses), expected, "{task:?}");
        assert_eq!(task.name, format!("{}/{SHARDS}", task.task), "index and total stay");
        assert_ne!(task.worker.as_deref(), Some("w3"), "{task:?}");
    }

    // The attempts that succeeded took every key once; the shard of each is the one that it belongs to.
    let mut taken = BTreeMap::new();
    let mut published = 0;
    for entry in std::fs::read_dir(&home).expect("the directory is there") {
        let path = entry.expect("readable").path();
        if !path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("done.")) {
            continue;
        }
        published += 1;
        for line in std::fs::read_to_string(&path).expect("readable").lines() {
            let (key, shard) = line.split_once(' ').expect("a key and its shard");
            let key: u32 = key.parse().expect("a number");
            assert_eq!(shard, format!("{}/{SHARDS}", key % SHARDS));
            *taken.entry(key).or_insert(0) += 1;
        }
    }
    assert_eq!(published, SHARDS, "one attempt of each shard succeeded");
    assert_eq!(taken, (0..KEYS).map(|key| (key, 1)).collect(), "no gap and no overlap");
}
