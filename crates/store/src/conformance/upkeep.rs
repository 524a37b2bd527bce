use std::sync::Arc;
use std::time::Duration;

use pendula_model::change::{Change, Gap};
use pendula_model::instance::{Instance, InstanceState, PastAttempt, Reason, TaskState};
use pendula_model::job::{Job, JobSpec};
use pendula_model::{InstanceId, Revision, TaskId, Timestamp, TokenId};

use super::world::{HOME, START, World, ended, inserted, moved};
use crate::port::Store;

pub async fn pruning_forgets_what_is_over(store: Arc<dyn Store>) {
    let mut world = World::new(store.clone()).await;
    let (app, first) = world.with_job().await;
    let spec = JobSpec { description: "second".to_owned(), ..JobSpec::clone(&first.spec) };
    let second = Job { spec: Arc::new(spec), revision: Revision(2), version: 2, ..first.clone() };
    let spec = JobSpec { description: "third".to_owned(), ..JobSpec::clone(&first.spec) };
    let third = Job { spec: Arc::new(spec), revision: Revision(3), version: 3, ..first.clone() };
    let fired = |world: &mut World, job: &Job| Instance { fire_time: Some(world.now), ..world.instance(job) };
    let old = fired(&mut world, &first);
    let old = Instance { idempotency_key: Some("k".into()), ..old };
    let past = PastAttempt {
        instance: old.id,
        task: TaskId::ROOT,
        attempt: 1,
        state: TaskState::Failed,
        worker: None,
        placement: None,
        dispatched_at: None,
        started_at: None,
        ended_at: START,
        reason: Reason::FAILED,
        message: None,
    };
    world.commit(vec![inserted(&old), Change::AttemptEnded(past.clone())]).await;
    let younger = fired(&mut world, &second);
    let active = fired(&mut world, &third);
    let gap = Gap { from: START, to: START, count: 1, noticed_at: START };
    let commit = vec![
        Change::JobUpdated(second.clone()),
        inserted(&younger),
        Change::JobUpdated(third.clone()),
        inserted(&active),
        Change::GapRecorded { job: first.id, gap },
        ended(&moved(&old, InstanceState::Failed)),
        ended(&moved(&younger, InstanceState::Succeeded)),
    ];
    world.commit(commit).await;
    let kept = |store: Arc<dyn Store>| async move {
        let revisions = store.job_revisions(first.id, 10).await.unwrap();
        revisions.iter().map(|kept| kept.0.0).collect::<Vec<_>>()
    };

    // `ended` keeps for an hour after the end, which is ten seconds after creation.
    let hour = Duration::from_secs(3610);
    let due = old.created_at.plus(hour);
    assert_eq!(store.prune(due.minus(Duration::from_micros(1)), 10).await.unwrap(), []);
    assert_eq!(kept(store.clone()).await, [3, 2, 1]);
    assert_eq!(store.prune(due, 10).await.unwrap(), [(app.id, old.id)]);
    assert_eq!(store.instance(old.id).await.unwrap(), None);
    assert_eq!(store.past_attempts(old.id, TaskId::ROOT).await.unwrap(), []);
    assert_eq!(store.instance_by_idempotency_key(app.id, "k").await.unwrap(), None);
    assert_eq!(kept(store.clone()).await, [3, 2]);
    assert_eq!(store.prune(Timestamp::MAX, 0).await.unwrap(), []);
    assert_eq!(store.prune(Timestamp::MAX, 10).await.unwrap(), [(app.id, younger.id)]);
    assert_eq!(kept(store.clone()).await, [3]);

    // A deleted job goes with its last instance.
    world.commit(vec![Change::JobDeleted { id: first.id, version: 3, at: world.now }]).await;
    assert_eq!(store.prune(Timestamp::MAX, 10).await.unwrap(), []);
    assert!(store.job_by_id(first.id).await.unwrap().is_some());
    world.commit(vec![ended(&moved(&active, InstanceState::Canceled))]).await;
    assert_eq!(store.prune(Timestamp::MAX, 10).await.unwrap(), [(app.id, active.id)]);
    assert_eq!(store.job_by_id(first.id).await.unwrap(), None);
    assert_eq!(store.job_revisions(first.id, 10).await.unwrap(), []);
    assert_eq!(store.job_gaps(first.id, 10).await.unwrap(), []);

    // At most as many as asked for, the longest over first.
    let job = world.job(&app, "many");
    world.commit(vec![Change::JobInserted(job.clone())]).await;
    let many: Vec<_> = (0..5).map(|_| world.instance(&job)).collect();
    world.commit(many.iter().map(inserted).collect()).await;
    world.commit(many.iter().rev().map(|one| ended(&moved(one, InstanceState::Succeeded))).collect()).await;
    let gone: Vec<InstanceId> = store.prune(Timestamp::MAX, 2).await.unwrap().into_iter().map(|(_, id)| id).collect();
    assert_eq!(gone, [many[0].id, many[1].id]);
}

pub async fn ids_are_never_forgotten(store: Arc<dyn Store>) {
    let mut world = World::new(store.clone()).await;
    let (app, job) = world.with_job().await;
    let last_id = || async { store.partition_load(HOME).await.unwrap().last_id };
    let instance = world.instance(&job);
    world.commit(vec![inserted(&instance), ended(&moved(&instance, InstanceState::Failed))]).await;
    assert_eq!(last_id().await, instance.id.0);
    store.prune(Timestamp::MAX, 10).await.unwrap();
    assert_eq!(last_id().await, instance.id.0);

    let token = pendula_model::token::Token {
        id: TokenId(world.next_id()),
        name: "t".to_owned(),
        scope: pendula_model::token::Scope::App { app: app.id },
        hash: [1; 32],
        created_at: START,
        expires_at: None,
    };
    store.token_insert(token.clone()).await.unwrap();
    assert_eq!(last_id().await, token.id.0);
    let gone = Change::JobDeleted { id: job.id, version: 1, at: world.now };
    world.commit(vec![gone, Change::AppDeleted(app.id)]).await;
    assert_eq!(last_id().await, token.id.0);
    let other = world.app("other");
    world.commit(vec![Change::AppInserted(other.clone()), Change::AppDeleted(other.id)]).await;
    store.prune(Timestamp::MAX, 10).await.unwrap();
    assert_eq!(last_id().await, other.id.0);
}
