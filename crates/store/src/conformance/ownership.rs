use std::collections::BTreeSet;
use std::sync::Arc;

use pendula_model::app::App;
use pendula_model::change::{Change, Gap};
use pendula_model::instance::{Instance, InstanceState, PastAttempt, Reason, TaskState};
use pendula_model::job::{Job, JobSpec, ScheduleState};
use pendula_model::task::{Fanout, Phase, Task, TaskRole};
use pendula_model::{Epoch, PartitionId, Revision, TaskId};

use super::world::{HOME, START, World, ended, inserted, moved, updated};
use crate::port::{Batch, Store, StoreError};

pub async fn only_the_latest_epoch_writes(store: Arc<dyn Store>) {
    let mut world = World::new(store.clone()).await;
    let app = world.app("demo");
    world.commit(vec![Change::AppInserted(app.clone())]).await;
    let newer = store.partition_claim(HOME, "another", START).await.unwrap();
    assert!(newer > world.epoch);
    for epoch in [Epoch(0), world.epoch, Epoch(newer.0 + 1)] {
        let stale = world.app("late");
        let batch = Batch { partition: HOME, epoch, number: 0, changes: vec![Change::AppInserted(stale)] };
        let refused = store.commit(batch).await;
        assert!(matches!(refused, Err(StoreError::Fenced { partition: HOME, ours }) if ours == epoch));
        // An empty batch asks whether the partition is still ours.
        let refused = store.commit(Batch { partition: HOME, epoch, number: 0, changes: Vec::new() }).await;
        assert!(matches!(refused, Err(StoreError::Fenced { .. })));
    }
    assert_eq!(store.apps().await.unwrap(), [app]);
    world.epoch = newer;
    world.commit(Vec::new()).await;

    // Partitions do not share epochs, nor rows.
    let other = World::in_partition(store.clone(), PartitionId(4)).await;
    world.commit(Vec::new()).await;
    let stray = world.app("stray");
    other.refuses(vec![Change::AppInserted(stray.clone())]).await;
    other.refuses(vec![Change::AppDeleted(stray.id)]).await;

    let nowhere = PartitionId(store.partitions());
    assert!(matches!(store.partition_claim(nowhere, "x", START).await, Err(StoreError::Corrupt { .. })));
    let batch = Batch { partition: nowhere, epoch: Epoch(0), number: 0, changes: Vec::new() };
    assert!(matches!(store.commit(batch).await, Err(StoreError::Corrupt { .. })));
}

/// S4-4: nothing comes to run, or on its way there, but by the owner of the moment: every kind of change is refused from
/// another epoch, whatever it would have led to. A kind that is new must be added here before this compiles.
pub async fn s4_4_no_kind_of_change_is_accepted_from_a_stale_owner(store: Arc<dyn Store>) {
    let mut world = World::new(store.clone()).await;
    let (app, job) = world.with_job().await;
    let waiting = world.instance(&job);
    let spread = moved(&world.instance(&job), InstanceState::Running);
    let failed = moved(&world.instance(&job), InstanceState::Failed);
    let fanout = Fanout::new(spread.id, Phase::Main);
    let task = Task::new(spread.id, TaskId(3), TaskRole::Shard, "3/4".into(), START);
    world.commit(vec![inserted(&waiting), inserted(&spread)]).await;
    let again = Instance { rerun_of: Some(failed.id), ..world.instance(&job) };
    let (schedule, anchor) = (ScheduleState::default(), START);
    let gap = Gap { from: START, to: START, count: 1, noticed_at: START };
    let attempt = PastAttempt {
        instance: waiting.id,
        task: TaskId::ROOT,
        attempt: 1,
        state: TaskState::Failed,
        worker: None,
        placement: None,
        dispatched_at: None,
        started_at: None,
        ended_at: START,
        reason: Reason::WORKER_LOST,
        message: None,
    };
    let changes = vec![
        Change::AppInserted(world.app("late")),
        Change::AppUpdated(App { version: app.version + 1, ..app.clone() }),
        Change::AppDeleted(app.id),
        Change::JobInserted(world.job(&app, "late")),
        Change::JobUpdated(Job { version: job.version + 1, ..job.clone() }),
        Change::JobDeleted { id: job.id, version: job.version, at: START },
        Change::ScheduleAdvanced { job: job.id, expected_next: None, schedule: ScheduleState { anchor, ..schedule } },
        Change::GapRecorded { job: job.id, gap },
        inserted(&again),
        updated(&moved(&waiting, InstanceState::Dispatched)),
        updated(&moved(&waiting, InstanceState::Running)),
        ended(&moved(&waiting, InstanceState::Succeeded)),
        Change::InstanceQuarantined { id: waiting.id, at: START, why: "unreadable".to_owned(), prune_at: START },
        Change::AttemptEnded(attempt),
        Change::FanoutInserted(fanout.clone()),
        Change::FanoutUpdated(Fanout { version: fanout.version + 1, ..fanout }),
        Change::TasksInserted(vec![task.clone()]),
        Change::TasksCopied { from: failed.id, to: again.id, at: START, count: 1 },
        Change::TaskUpdated(Box::new(Task { state: TaskState::Running, version: task.version + 1, ..task })),
    ];
    let kinds: BTreeSet<u8> = changes.iter().map(kind).collect();
    assert_eq!(kinds, (0..=17).collect());
    store.partition_claim(HOME, "another", START).await.unwrap();
    let before = world.dump().await;
    for change in changes {
        let told = format!("{change:?}");
        let refused = world.try_commit(vec![change]).await;
        assert!(matches!(refused, Err(StoreError::Fenced { .. })), "{refused:?}: {told}");
    }
    assert_eq!(world.dump().await, before);
}

fn kind(change: &Change) -> u8 {
    match change {
        Change::AppInserted(_) => 0,
        Change::AppUpdated(_) => 1,
        Change::AppDeleted(_) => 2,
        Change::JobInserted(_) => 3,
        Change::JobUpdated(_) => 4,
        Change::JobDeleted { .. } => 5,
        Change::ScheduleAdvanced { .. } => 6,
        Change::GapRecorded { .. } => 7,
        Change::InstanceInserted { .. } => 8,
        Change::InstanceUpdated(_) => 9,
        Change::InstanceEnded { .. } => 10,
        Change::InstanceQuarantined { .. } => 11,
        Change::AttemptEnded(_) => 12,
        Change::FanoutInserted(_) => 13,
        Change::FanoutUpdated(_) => 14,
        Change::TasksInserted(_) => 15,
        Change::TasksCopied { .. } => 16,
        Change::TaskUpdated(_) => 17,
    }
}

pub async fn batches_are_whole(store: Arc<dyn Store>) {
    let mut world = World::new(store).await;
    let (app, job) = world.with_job().await;
    let running = moved(&world.instance(&job), InstanceState::Running);
    let ended_before = world.instance(&job);
    let (mut base, mut lost) = (
        Fanout::new(ended_before.id, Phase::Main),
        Task::new(ended_before.id, TaskId(3), TaskRole::Shard, "3/4".into(), START),
    );
    (base.counts.total, base.counts.lost, base.next_task) = (1, 1, TaskId(4));
    world
        .commit(vec![
            inserted(&running),
            inserted(&ended_before),
            Change::FanoutInserted(base),
            Change::TasksInserted(vec![lost.clone()]),
        ])
        .await;
    (lost.version, lost.state, lost.ended_at) = (2, TaskState::Lost, Some(START));
    world.commit(vec![Change::TaskUpdated(Box::new(lost)), ended(&moved(&ended_before, InstanceState::Failed))]).await;
    // Every kind of change, undone by the one that is refused at the end.
    let new_app = world.app("new");
    let new_job = world.job(&new_app, "new");
    let edited = JobSpec { description: "edited".to_owned(), ..JobSpec::clone(&job.spec) };
    let edited = Job { spec: Arc::new(edited), revision: Revision(2), version: 2, ..job.clone() };
    let fired = world.instance(&new_job);
    let gap = pendula_model::change::Gap { from: START, to: START, count: 1, noticed_at: START };
    let past = pendula_model::instance::PastAttempt {
        instance: running.id,
        task: TaskId::ROOT,
        attempt: 1,
        state: TaskState::Failed,
        worker: None,
        placement: None,
        dispatched_at: None,
        started_at: None,
        ended_at: START,
        reason: pendula_model::instance::Reason::FAILED,
        message: None,
    };
    let broken = world.instance(&job);
    let fanout = Fanout { next_task: TaskId(9), ..Fanout::new(fired.id, Phase::Main) };
    let task = |number| Task::new(fired.id, TaskId(number), TaskRole::Sub, "part".into(), START);
    let mut changes = vec![
        Change::AppInserted(new_app.clone()),
        Change::JobInserted(new_job.clone()),
        Change::JobUpdated(edited),
        Change::GapRecorded { job: job.id, gap },
        inserted(&fired),
        updated(&moved(&running, InstanceState::Running)),
        Change::AttemptEnded(past),
        ended(&moved(&moved(&running, InstanceState::Running), InstanceState::Failed)),
        Change::FanoutInserted(fanout.clone()),
        Change::FanoutUpdated(Fanout { version: 2, rate_milli: 5, ..fanout }),
        Change::TasksCopied { from: ended_before.id, to: fired.id, at: START, count: 1 },
        Change::TasksInserted(vec![task(7), task(8)]),
        Change::TaskUpdated(Box::new(Task { version: 2, emitted: 1, ..task(8) })),
        inserted(&broken),
        Change::InstanceQuarantined { id: broken.id, at: START, why: "why".to_owned(), prune_at: START },
        Change::JobDeleted { id: new_job.id, version: 1, at: START },
        Change::AppDeleted(new_app.id),
        Change::AppUpdated(pendula_model::app::App { version: 2, ..app.clone() }),
    ];
    changes.push(Change::AppUpdated(app));
    world.refuses(changes.clone()).await;
    changes.pop();
    world.commit(changes).await;
}

pub async fn concurrent_batches_fail_alone(store: Arc<dyn Store>) {
    let mut worlds = Vec::new();
    for partition in 0..8 {
        let mut world = World::in_partition(store.clone(), PartitionId(partition)).await;
        let app = world.app(&format!("app {partition}"));
        let job = world.job(&app, "job");
        world.commit(vec![Change::AppInserted(app), Change::JobInserted(job.clone())]).await;
        worlds.push((world, job));
    }
    let mut batches = Vec::new();
    let mut good = Vec::new();
    for round in 0..20 {
        for (number, (world, job)) in worlds.iter_mut().enumerate() {
            let first = world.instance(job);
            let mut changes = vec![inserted(&first)];
            let is_bad = (round + number) % 5 == 0;
            if is_bad {
                // Twice: the first of them must be taken back.
                changes.push(inserted(&first));
            } else {
                good.push(first.id);
            }
            let batch = Batch { partition: world.partition, epoch: world.epoch, number: 0, changes };
            batches.push((is_bad, tokio::spawn(insist(store.clone(), batch))));
        }
    }
    for (is_bad, batch) in batches {
        let outcome = batch.await.expect("no panic");
        assert_eq!(matches!(outcome, Err(StoreError::Conflict { .. })), is_bad, "{outcome:?}");
        assert_eq!(outcome.is_ok(), !is_bad);
    }
    let mut stored = Vec::new();
    for (world, _) in &worlds {
        let snapshot = store.partition_load(world.partition).await.unwrap();
        stored.extend(snapshot.instances.iter().map(|instance| instance.id));
    }
    good.sort();
    stored.sort();
    assert_eq!(stored, good);
}

/// As owners do: a database that checks whether transactions can be put in a row gives some up that ran beside others.
async fn insist(store: Arc<dyn Store>, batch: Batch) -> Result<(), StoreError> {
    loop {
        match store.commit(batch.clone()).await {
            Err(StoreError::Unavailable { .. }) => tokio::task::yield_now().await,
            outcome => return outcome,
        }
    }
}

pub async fn snapshots_hold_what_is_under_way(store: Arc<dyn Store>) {
    let mut world = World::new(store.clone()).await;
    let empty = store.partition_load(HOME).await.unwrap();
    assert_eq!((empty.last_id, empty.apps.len(), empty.instances.len()), (0, 0, 0));

    let (app, job) = world.with_job().await;
    let [idle, deleted] = ["idle", "deleted"].map(|name| world.job(&app, name));
    world.commit(vec![Change::JobInserted(idle), Change::JobInserted(deleted.clone())]).await;
    let old = moved(&world.instance(&job), InstanceState::Running);
    let over = world.instance(&job);
    let orphan = world.instance(&deleted);
    world.commit(vec![inserted(&orphan), inserted(&old), inserted(&over)]).await;
    let edited = JobSpec { description: "edited".to_owned(), ..JobSpec::clone(&job.spec) };
    let edited = Job { spec: Arc::new(edited), revision: Revision(2), version: 2, ..job.clone() };
    let new = moved(&world.instance(&edited), InstanceState::Dispatched);
    let mut new_again = moved(&new, InstanceState::Waiting);
    new_again.due_at = new_again.due_at.plus(std::time::Duration::from_secs(1));
    world
        .commit(vec![
            Change::JobUpdated(edited.clone()),
            Change::JobDeleted { id: deleted.id, version: 1, at: world.now },
            inserted(&new),
            updated(&new_again),
            ended(&moved(&over, InstanceState::Succeeded)),
        ])
        .await;
    // Of another partition: its id counts, its rows do not show.
    let mut elsewhere = World::in_partition(store.clone(), PartitionId(5)).await;
    elsewhere.now = world.now;
    let (_, other) = {
        let app = elsewhere.app("elsewhere");
        let job = elsewhere.job(&app, "job");
        elsewhere.commit(vec![Change::AppInserted(app.clone()), Change::JobInserted(job.clone())]).await;
        (app, job)
    };
    let last = elsewhere.instance(&other);
    elsewhere.commit(vec![inserted(&last)]).await;

    let snapshot = store.partition_load(HOME).await.unwrap();
    assert_eq!(snapshot.partition, HOME);
    assert_eq!(snapshot.last_id, last.id.0);
    assert_eq!(snapshot.apps, [app]);
    let mut active = vec![orphan, old, new_again];
    active.sort_by_key(|instance| instance.id);
    assert_eq!(snapshot.instances, active);
    assert_eq!(snapshot.jobs.len(), 2);
    assert!(snapshot.jobs.contains(&edited));
    assert!(snapshot.jobs.iter().any(|job| job.id == deleted.id && job.deleted_at.is_some()));
    assert_eq!(snapshot.revisions, [(job.id, Revision(1), job.spec)]);
    assert_eq!(snapshot.broken, []);
}
