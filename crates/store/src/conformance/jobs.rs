use std::sync::Arc;
use std::time::Duration;

use pendula_model::change::{Change, Gap};
use pendula_model::job::{Job, JobSpec, ScheduleState};
use pendula_model::{JobId, Revision};

use super::world::{START, World, inserted};
use crate::laws::GAPS_KEPT;
use crate::port::Store;

/// The next version of a job under an edited definition.
fn edited(job: &Job, edit: impl FnOnce(&mut JobSpec)) -> Job {
    let mut spec = JobSpec::clone(&job.spec);
    edit(&mut spec);
    let revision = Revision(job.revision.0 + u32::from(!spec.runs_like(&job.spec)));
    let updated_at = job.updated_at.plus(Duration::from_secs(1));
    Job { spec: Arc::new(spec), revision, version: job.version + 1, updated_at, ..job.clone() }
}

pub async fn jobs_are_read_as_written(store: Arc<dyn Store>) {
    let mut world = World::new(store.clone()).await;
    let app = world.app("demo");
    let mut job = world.job(&app, "每日 'report' \"; DROP TABLE job; --");
    let json = serde_json::json!({
        "name": job.spec.name, "description": "d", "processor": { "http": { "url": "https://example.com/" } },
        "trigger": { "cron": "0 30 2 * * ?", "timezone": "Asia/Shanghai" }, "params": { "a": [1, null, "é\u{0}"] },
        "timeout": "30m", "priority": -5, "workers": { "labels": { "zone": "a" } },
    });
    job.spec = Arc::new(serde_json::from_value(json).expect("a definition"));
    job.schedule = ScheduleState {
        anchor: START,
        next_fire: Some(START.plus(Duration::from_secs(5))),
        last_fire: Some(START),
        missed: 1 << 40,
    };
    world.commit(vec![Change::AppInserted(app.clone()), Change::JobInserted(job.clone())]).await;
    assert_eq!(store.job_by_id(job.id).await.unwrap(), Some(job.clone()));
    assert_eq!(store.job_by_name(app.id, &job.spec.name).await.unwrap(), Some(job.clone()));
    assert_eq!(store.job_by_name(app.id, "other").await.unwrap(), None);
    assert_eq!(store.job_by_id(JobId(1)).await.unwrap(), None);
    let revisions = store.job_revisions(job.id, 10).await.unwrap();
    assert_eq!(revisions, [(Revision(1), job.updated_at, job.spec)]);
}

pub async fn job_edits_expect_a_version(store: Arc<dyn Store>) {
    let mut world = World::new(store.clone()).await;
    let (app, job) = world.with_job().await;
    let other = world.job(&app, "other");
    world.commit(vec![Change::JobInserted(other.clone())]).await;
    let twin = world.job(&app, "job");
    world.refuses(vec![Change::JobInserted(twin)]).await;
    world.refuses(vec![Change::JobInserted(job.clone())]).await;
    let nobody = world.app("nobody");
    let stray = world.job(&nobody, "stray");
    world.refuses(vec![Change::JobInserted(stray)]).await;

    let second = edited(&job, |spec| spec.description = "second".to_owned());
    world.refuses(vec![Change::JobUpdated(Job { version: 1, ..second.clone() })]).await;
    world.refuses(vec![Change::JobUpdated(Job { version: 3, ..second.clone() })]).await;
    world.refuses(vec![Change::JobUpdated(Job { app: nobody.id, ..second.clone() })]).await;
    // A revision is one definition for ever.
    world.refuses(vec![Change::JobUpdated(Job { revision: Revision(1), ..second.clone() })]).await;
    world.commit(vec![Change::JobUpdated(second.clone())]).await;
    world.refuses(vec![Change::JobUpdated(second.clone())]).await;
    let back = Job { version: 3, ..job.clone() };
    world.refuses(vec![Change::JobUpdated(back)]).await;

    // Whether it is enabled makes no revision.
    let disabled = edited(&second, |spec| spec.enabled = false);
    world.commit(vec![Change::JobUpdated(disabled.clone())]).await;
    assert_eq!(store.job_by_id(job.id).await.unwrap(), Some(disabled.clone()));
    let revisions = store.job_revisions(job.id, 10).await.unwrap();
    assert_eq!(revisions.iter().map(|kept| kept.0.0).collect::<Vec<_>>(), [2, 1]);
    assert_eq!(store.job_revisions(job.id, 1).await.unwrap(), [(Revision(2), second.updated_at, second.spec)]);

    // A new name must be free, and the old one becomes so.
    world.refuses(vec![Change::JobUpdated(edited(&disabled, |spec| spec.name = "other".to_owned()))]).await;
    let renamed = edited(&disabled, |spec| spec.name = "renamed".to_owned());
    world.commit(vec![Change::JobUpdated(renamed.clone())]).await;
    assert_eq!(store.job_by_name(app.id, "job").await.unwrap(), None);
    assert_eq!(store.job_by_name(app.id, "renamed").await.unwrap(), Some(renamed));
    let heir = world.job(&app, "job");
    world.commit(vec![Change::JobInserted(heir)]).await;
}

pub async fn deleted_jobs_free_their_name(store: Arc<dyn Store>) {
    let mut world = World::new(store.clone()).await;
    let (app, job) = world.with_job().await;
    let instance = world.instance(&job);
    let mut planned = Job { version: 2, ..job.clone() };
    planned.schedule.next_fire = Some(START);
    world.commit(vec![inserted(&instance), Change::JobUpdated(planned)]).await;

    let at = world.now.plus(Duration::from_secs(1));
    for version in [1, 3] {
        world.refuses(vec![Change::JobDeleted { id: job.id, version, at }]).await;
    }
    world.commit(vec![Change::JobDeleted { id: job.id, version: 2, at }]).await;
    world.refuses(vec![Change::JobDeleted { id: job.id, version: 2, at }]).await;
    world.refuses(vec![Change::JobUpdated(Job { version: 3, ..job.clone() })]).await;
    let schedule = job.schedule.clone();
    world.refuses(vec![Change::ScheduleAdvanced { job: job.id, expected_next: None, schedule }]).await;

    assert_eq!(store.job_by_name(app.id, "job").await.unwrap(), None);
    let kept = store.job_by_id(job.id).await.unwrap().expect("history refers to it");
    assert_eq!((kept.deleted_at, kept.schedule.next_fire), (Some(at), None));
    let heir = world.job(&app, "job");
    world.commit(vec![Change::JobInserted(heir.clone())]).await;
    assert_eq!(store.job_by_name(app.id, "job").await.unwrap(), Some(heir));
}

pub async fn schedules_advance_from_what_was_expected(store: Arc<dyn Store>) {
    let mut world = World::new(store.clone()).await;
    let (_, job) = world.with_job().await;
    let [first, second] = [10, 20].map(|seconds| Some(START.plus(Duration::from_secs(seconds))));
    let advance = |expected_next, next_fire| Change::ScheduleAdvanced {
        job: job.id,
        expected_next,
        schedule: ScheduleState { next_fire, last_fire: expected_next, missed: 7, ..job.schedule.clone() },
    };
    world.refuses(vec![advance(first, second)]).await;
    world.commit(vec![advance(None, first)]).await;
    world.refuses(vec![advance(None, first)]).await;
    world.refuses(vec![advance(second, first)]).await;
    world.commit(vec![advance(first, second)]).await;
    let stored = store.job_by_id(job.id).await.unwrap().unwrap();
    let schedule = ScheduleState { next_fire: second, last_fire: first, missed: 7, ..job.schedule.clone() };
    assert_eq!(stored, Job { schedule: schedule.clone(), ..job.clone() });

    // Disabling wins over a fire that was decided before.
    let disabled = edited(&Job { schedule, ..job.clone() }, |spec| spec.enabled = false);
    world.refuses(vec![Change::JobUpdated(disabled.clone())]).await;
    let disabled = Job { schedule: ScheduleState { next_fire: None, ..disabled.schedule.clone() }, ..disabled };
    world.commit(vec![Change::JobUpdated(disabled.clone())]).await;
    world.refuses(vec![advance(second, first)]).await;
    world.refuses(vec![advance(None, first)]).await;
    world.commit(vec![advance(None, None)]).await;
    assert!(!store.job_by_id(job.id).await.unwrap().unwrap().spec.enabled);
}

pub async fn gaps_are_kept_up_to_a_bound(store: Arc<dyn Store>) {
    let mut world = World::new(store.clone()).await;
    let (app, job) = world.with_job().await;
    let gap = |count: u64| Gap { from: START, to: START.plus(Duration::from_secs(count)), count, noticed_at: START };
    let stray = world.job(&app, "stray");
    world.refuses(vec![Change::GapRecorded { job: stray.id, gap: gap(1) }]).await;
    let recorded = (1..=GAPS_KEPT as u64 + 5).map(|count| Change::GapRecorded { job: job.id, gap: gap(count) });
    world.commit(recorded.collect()).await;
    let kept = store.job_gaps(job.id, usize::MAX).await.unwrap();
    assert_eq!(kept.len(), GAPS_KEPT);
    assert_eq!(kept[0], gap(GAPS_KEPT as u64 + 5));
    assert_eq!(kept.last(), Some(&gap(6)));
    assert_eq!(store.job_gaps(job.id, 2).await.unwrap(), kept[..2]);
}
