use std::sync::Arc;
use std::time::Duration;

use pendula_model::change::Change;
use pendula_model::instance::{Instance, InstanceState, Origin, PastAttempt, Payload, Reason, StopCause, TaskState};
use pendula_model::job::Job;
use pendula_model::{InstanceId, JobId, PartitionId, Revision, TaskId, Timestamp, limits};

use super::world::{START, World, ended, inserted, moved, updated, worker};
use crate::port::Store;

/// A row with something in every column that goes together.
fn full(world: &mut World, job: &Job) -> Instance {
    let at = |seconds| Some(START.plus(Duration::from_secs(seconds)));
    Instance {
        origin: Origin::Rerun,
        fire_time: at(1),
        missed_before: u32::MAX,
        rerun_of: Some(InstanceId(77)),
        idempotency_key: Some("k'; DROP TABLE instance; --".into()),
        params: Some(r#"{"a":"é"}"#.into()),
        priority: -100,
        expires_at: at(2),
        state: InstanceState::Stopping,
        version: u32::MAX - 2,
        attempt: 3,
        failures: 1,
        losses: 1,
        worker: Some(worker()),
        placement: Some(r#"{"chosen":"w1"}"#.into()),
        dispatched_at: at(3),
        started_at: at(4),
        stop_cause: Some(StopCause::Timeout),
        stop_deadline: at(5),
        reason: Some(Reason::from_wire("custom_word")),
        message: Some("line\n\"quoted\"".into()),
        result: Some(Payload { content_type: "application/octet-stream".to_owned(), bytes: vec![0, 255, 10] }),
        ..world.instance(job)
    }
}

pub async fn instances_are_read_as_written(store: Arc<dyn Store>) {
    let mut world = World::new(store.clone()).await;
    let (_, job) = world.with_job().await;
    let (small, full) = (world.instance(&job), full(&mut world, &job));
    world.commit(vec![inserted(&small), inserted(&full)]).await;
    assert_eq!(store.instance(small.id).await.unwrap(), Some(small));
    assert_eq!(store.instance(full.id).await.unwrap(), Some(full.clone()));
    assert_eq!(store.instance(InstanceId(1)).await.unwrap(), None);
    let key = full.idempotency_key.as_deref().unwrap();
    assert_eq!(store.instance_by_idempotency_key(full.app, key).await.unwrap(), Some(full.id));

    let done = Instance { result: Some(Payload::json("")), ..moved(&full, InstanceState::Stopped) };
    world.commit(vec![ended(&done)]).await;
    assert_eq!(store.instance(full.id).await.unwrap(), Some(done));

    // One that ends as it is made.
    let skipped = Instance { ended_at: Some(START), state: InstanceState::Canceled, ..world.instance(&job) };
    let change = Change::InstanceInserted { instance: Box::new(skipped.clone()), prune_at: Some(START) };
    world.commit(vec![change]).await;
    assert_eq!(store.instance(skipped.id).await.unwrap(), Some(skipped.clone()));
    world.refuses(vec![updated(&Instance { version: 2, ..moved(&skipped, InstanceState::Waiting) })]).await;
}

pub async fn fires_and_keys_are_unique(store: Arc<dyn Store>) {
    let mut world = World::new(store.clone()).await;
    let (app, job) = world.with_job().await;
    let other = world.job(&app, "other");
    world.commit(vec![Change::JobInserted(other.clone())]).await;
    let fire = |world: &mut World, job: &Job| Instance { fire_time: Some(START), ..world.instance(job) };
    let keyed = |world: &mut World, job: &Job| Instance { idempotency_key: Some("k".into()), ..world.instance(job) };

    let first = fire(&mut world, &job);
    let twin = fire(&mut world, &job);
    world.refuses(vec![inserted(&first), inserted(&twin)]).await;
    world.commit(vec![inserted(&first)]).await;
    world.refuses(vec![inserted(&twin)]).await;
    world.refuses(vec![inserted(&first)]).await;
    world.commit(vec![ended(&moved(&first, InstanceState::Failed))]).await;
    world.refuses(vec![inserted(&twin)]).await;
    let elsewhere = fire(&mut world, &other);
    let (by_hand, by_hand_again) = (world.instance(&job), world.instance(&job));
    world.commit(vec![inserted(&elsewhere), inserted(&by_hand), inserted(&by_hand_again)]).await;

    let first = keyed(&mut world, &job);
    let twin = keyed(&mut world, &other);
    world.commit(vec![inserted(&first)]).await;
    world.refuses(vec![inserted(&twin)]).await;
    world.commit(vec![ended(&moved(&first, InstanceState::Succeeded))]).await;
    world.refuses(vec![inserted(&twin)]).await;
    assert_eq!(store.instance_by_idempotency_key(app.id, "k").await.unwrap(), Some(first.id));
    assert_eq!(store.instance_by_idempotency_key(app.id, "K").await.unwrap(), None);
    let neighbour = world.app("neighbour");
    assert_eq!(store.instance_by_idempotency_key(neighbour.id, "k").await.unwrap(), None);

    // The definition that it runs must be kept.
    let stray = Instance { revision: Revision(9), ..world.instance(&job) };
    world.refuses(vec![inserted(&stray)]).await;
    let stray = Instance { job: JobId(world.next_id()), ..world.instance(&job) };
    world.refuses(vec![inserted(&stray)]).await;
}

pub async fn instances_move_by_version(store: Arc<dyn Store>) {
    let mut world = World::new(store.clone()).await;
    let (_, job) = world.with_job().await;
    let waiting = world.instance(&job);
    let dispatched = moved(&waiting, InstanceState::Dispatched);
    world.refuses(vec![updated(&dispatched)]).await;
    world.refuses(vec![ended(&moved(&waiting, InstanceState::Canceled))]).await;
    world.commit(vec![inserted(&waiting)]).await;
    for version in [0, 1, 3] {
        world.refuses(vec![updated(&Instance { version, ..dispatched.clone() })]).await;
        let canceled = moved(&waiting, InstanceState::Canceled);
        world.refuses(vec![ended(&Instance { version, ..canceled })]).await;
    }
    world.commit(vec![updated(&dispatched)]).await;
    world.refuses(vec![updated(&dispatched)]).await;
    let running = moved(&dispatched, InstanceState::Running);
    let stopping = moved(&running, InstanceState::Stopping);
    let stopped = moved(&stopping, InstanceState::Stopped);
    // Several steps of one row may lie in one batch.
    world.commit(vec![updated(&running), updated(&stopping), ended(&stopped)]).await;
    assert_eq!(store.instance(waiting.id).await.unwrap(), Some(stopped));
}

pub async fn ended_instances_never_change(store: Arc<dyn Store>) {
    let mut world = World::new(store.clone()).await;
    let (_, job) = world.with_job().await;
    for end in InstanceState::ALL.iter().filter(|state| state.is_ended()) {
        let running = moved(&world.instance(&job), InstanceState::Running);
        let over = moved(&running, *end);
        world.commit(vec![inserted(&running), ended(&over)]).await;
        for next in InstanceState::ALL {
            for version in [over.version, over.version + 1] {
                let next = Instance { version, ..moved(&over, *next) };
                let change = if next.state.is_ended() { ended(&next) } else { updated(&next) };
                world.refuses(vec![change]).await;
            }
        }
        let why = "late".to_owned();
        world.refuses(vec![Change::InstanceQuarantined { id: over.id, at: START, why, prune_at: START }]).await;
        assert_eq!(store.instance(over.id).await.unwrap(), Some(over));
    }
}

pub async fn lawless_instances_are_refused(store: Arc<dyn Store>) {
    use InstanceState::*;
    let mut world = World::new(store.clone()).await;
    let (_, job) = world.with_job().await;
    let waiting = world.instance(&job);
    let running = moved(&waiting, Running);
    let mut lawless = vec![
        Instance { ended_at: Some(START), ..waiting.clone() },
        Instance { stop_cause: Some(StopCause::User), ..waiting.clone() },
        Instance { id: InstanceId(PARTITION_OF_OTHERS), ..waiting.clone() },
        Instance { worker: None, ..moved(&waiting, Dispatched) },
        Instance { attempt: 0, ..running.clone() },
        Instance { attempt: 0, worker: None, ..moved(&running, Stopping) },
        Instance { stop_cause: None, ..moved(&running, Stopping) },
        // Ended, as something that is under way.
        moved(&running, Succeeded),
    ];
    for instance in &lawless {
        world.refuses(vec![inserted(instance)]).await;
    }
    world.commit(vec![inserted(&waiting)]).await;
    for instance in &mut lawless {
        instance.version = 2;
        world.refuses(vec![updated(instance)]).await;
    }
    let no_end = [
        Instance { ended_at: None, ..moved(&waiting, Failed) },
        Instance { stop_cause: Some(StopCause::User), ..moved(&waiting, Stopped) },
        Instance { version: 2, ..running.clone() },
    ];
    for instance in &no_end {
        world.refuses(vec![ended(instance)]).await;
    }
    assert_eq!(store.instance(waiting.id).await.unwrap(), Some(waiting));
}

/// An id of partition 5.
const PARTITION_OF_OTHERS: i64 = (1 << 40) | (5 << 12);

pub async fn attempts_are_kept_once(store: Arc<dyn Store>) {
    let mut world = World::new(store.clone()).await;
    let (_, job) = world.with_job().await;
    let instance = world.instance(&job);
    let of_task = |task, attempt| PastAttempt {
        instance: instance.id,
        task,
        attempt,
        state: TaskState::Lost,
        worker: (attempt == 1).then(worker),
        placement: (attempt == 1).then(|| "{}".into()),
        dispatched_at: (attempt == 1).then_some(START),
        started_at: None,
        ended_at: START,
        reason: Reason::WORKER_LOST,
        message: (attempt == 1).then(|| "gone".into()),
    };
    let past = |attempt| of_task(TaskId::ROOT, attempt);
    world.refuses(vec![Change::AttemptEnded(past(1))]).await;
    world.commit(vec![inserted(&instance), Change::AttemptEnded(past(2)), Change::AttemptEnded(past(1))]).await;
    world.refuses(vec![Change::AttemptEnded(past(1))]).await;
    // Each task counts its own.
    let other = of_task(TaskId(7), 1);
    world.commit(vec![Change::AttemptEnded(other.clone())]).await;
    world.refuses(vec![Change::AttemptEnded(of_task(TaskId(u64::MAX), 1))]).await;
    assert_eq!(store.past_attempts(instance.id, TaskId::ROOT).await.unwrap(), [past(1), past(2)]);
    assert_eq!(store.past_attempts(instance.id, TaskId(7)).await.unwrap(), [other]);
    assert_eq!(store.past_attempts(instance.id, TaskId(8)).await.unwrap(), []);
    assert_eq!(store.past_attempts(InstanceId(1), TaskId::ROOT).await.unwrap(), []);
}

pub async fn unreadable_instances_can_be_set_aside(store: Arc<dyn Store>) {
    let mut world = World::new(store.clone()).await;
    let (_, job) = world.with_job().await;
    let stopping = moved(&moved(&world.instance(&job), InstanceState::Running), InstanceState::Stopping);
    let at = world.now;
    let quarantine = |why: String| Change::InstanceQuarantined { id: stopping.id, at, why, prune_at: at };
    world.refuses(vec![quarantine("not there yet".to_owned())]).await;
    world.commit(vec![inserted(&stopping)]).await;
    world.commit(vec![quarantine("x".repeat(2 * limits::MESSAGE_BYTES))]).await;
    let stored = store.instance(stopping.id).await.unwrap().unwrap();
    assert_eq!(stored.state, InstanceState::Failed);
    assert_eq!((stored.reason, stored.ended_at), (Some(Reason::QUARANTINED), Some(at)));
    assert_eq!((stored.version, stored.stop_cause), (stopping.version + 1, None));
    assert!(stored.message.is_some_and(|message| message.len() <= limits::MESSAGE_BYTES));
    world.refuses(vec![quarantine("again".to_owned())]).await;
    let snapshot = store.partition_load(world.partition).await.unwrap();
    assert_eq!((snapshot.instances.len(), snapshot.broken.len()), (0, 0));
    assert_eq!(store.prune(Timestamp::MAX, 10).await.unwrap(), [(stopping.app, stopping.id)]);
    assert_eq!(InstanceId(PARTITION_OF_OTHERS).partition(), PartitionId(5));
}
