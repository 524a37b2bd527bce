use std::sync::Arc;
use std::time::Duration;

use pendula_model::change::Change;
use pendula_model::instance::{Instance, InstanceState};
use pendula_model::job::{Job, JobSpec, ScheduleState};
use pendula_model::{JobId, PartitionId, Timestamp};

use super::world::{START, World, ended, inserted, moved};
use crate::port::{InstanceFilter, JobFilter, Store};

pub async fn due_jobs_come_in_order(store: Arc<dyn Store>) {
    let mut world = World::new(store.clone()).await;
    let app = world.app("demo");
    world.commit(vec![Change::AppInserted(app.clone())]).await;
    let mut expected = Vec::new();
    // Two of each time, in an order that is not theirs; the last has none.
    for (number, second) in [30, 10, 20, 10, 30, 20, 0].into_iter().enumerate() {
        let mut job = world.job(&app, &format!("job {number}"));
        job.schedule.next_fire = (second > 0).then(|| START.plus(Duration::from_secs(second)));
        world.commit(vec![Change::JobInserted(job.clone())]).await;
        expected.extend(job.schedule.next_fire.map(|at| (at, job.id)));
    }
    expected.sort();
    let keys = |jobs: Vec<Job>| -> Vec<(Timestamp, JobId)> {
        jobs.into_iter().map(|job| (job.schedule.next_fire.expect("it is due"), job.id)).collect()
    };
    let due = |until, after, limit| store.jobs_due(world.partition, until, after, limit);
    assert_eq!(keys(due(Timestamp::MAX, None, 100).await.unwrap()), expected);
    for limit in 1..=expected.len() {
        let mut paged = Vec::new();
        loop {
            let page = keys(due(Timestamp::MAX, paged.last().copied(), limit).await.unwrap());
            assert!(page.len() <= limit);
            if page.is_empty() {
                break;
            }
            paged.extend(page);
        }
        assert_eq!(paged, expected);
    }
    // `until` is not included.
    assert_eq!(keys(due(expected[2].0, None, 100).await.unwrap()), expected[..2]);
    assert_eq!(store.jobs_due(PartitionId(4), Timestamp::MAX, None, 100).await.unwrap(), []);

    let (at, first) = expected[0];
    let job = store.job_by_id(first).await.unwrap().unwrap();
    let advanced = Change::ScheduleAdvanced {
        job: first,
        expected_next: Some(at),
        schedule: ScheduleState { next_fire: None, ..job.schedule.clone() },
    };
    world.commit(vec![advanced, Change::JobDeleted { id: expected[1].1, version: 1, at }]).await;
    assert_eq!(keys(due(Timestamp::MAX, None, 100).await.unwrap()), expected[2..]);
}

pub async fn job_listings_are_paged(store: Arc<dyn Store>) {
    let mut world = World::new(store.clone()).await;
    let apps = [world.app("one"), world.app("two")];
    let mut all = Vec::new();
    for (number, name) in ["b", "Backup", "a", "report-backup", "ä"].into_iter().enumerate() {
        for app in &apps {
            let mut job = world.job(app, name);
            let spec = JobSpec { enabled: number != 0, ..JobSpec::clone(&job.spec) };
            job.spec = Arc::new(spec);
            all.push(job);
        }
    }
    world.commit(apps.iter().cloned().map(Change::AppInserted).collect()).await;
    world.commit(all.iter().cloned().map(Change::JobInserted).collect()).await;
    let gone = world.job(&apps[0], "gone");
    let deleted = Change::JobDeleted { id: gone.id, version: 1, at: world.now };
    world.commit(vec![Change::JobInserted(gone), deleted]).await;
    all.sort_by(|a, b| (a.app, &a.spec.name).cmp(&(b.app, &b.spec.name)));

    for app in [None, Some(apps[0].id), Some(apps[1].id)] {
        for enabled in [None, Some(true), Some(false)] {
            for part in [None, Some("BACK"), Some("%"), Some("")] {
                let wanted = |job: &&Job| {
                    app.is_none_or(|app| job.app == app)
                        && enabled.is_none_or(|enabled| job.spec.enabled == enabled)
                        && part.is_none_or(|part| job.spec.name.to_ascii_uppercase().contains(part))
                };
                let expected: Vec<_> = all.iter().filter(wanted).cloned().collect();
                let mut found: Vec<Job> = Vec::new();
                loop {
                    let after = found.last().map(|job| (job.app, job.spec.name.clone()));
                    let name_contains = part.map(str::to_owned);
                    let page = store.jobs(JobFilter { app, name_contains, enabled, after, limit: 2 }).await.unwrap();
                    assert!(page.items.len() <= 2);
                    found.extend(page.items);
                    assert_eq!(page.more, found.len() < expected.len());
                    if !page.more {
                        break;
                    }
                }
                assert_eq!(found, expected, "{app:?} {enabled:?} {part:?}");
            }
        }
    }
    // A cursor in an app before or after the wanted one.
    let after = |app: usize| JobFilter {
        app: Some(apps[1 - app].id),
        after: Some((apps[app].id, "b".to_owned())),
        limit: 100,
        ..JobFilter::default()
    };
    assert_eq!(store.jobs(after(0)).await.unwrap().items.len(), 5);
    assert_eq!(store.jobs(after(1)).await.unwrap().items.len(), 0);
}

pub async fn instance_listings_agree_with_a_scan(store: Arc<dyn Store>) {
    let mut all: Vec<Instance> = Vec::new();
    let mut jobs = Vec::new();
    for (partition, name) in [(3, "one"), (3, "two"), (5, "three")] {
        let mut world = World::in_partition(store.clone(), PartitionId(partition)).await;
        world.now = START.plus(Duration::from_secs(1000 * jobs.len() as u64));
        let app = world.app(name);
        world.commit(vec![Change::AppInserted(app.clone())]).await;
        for name in ["a", "b"] {
            let job = world.job(&app, name);
            world.commit(vec![Change::JobInserted(job.clone())]).await;
            for state in InstanceState::ALL.iter().chain(InstanceState::ALL) {
                let mut instance = world.instance(&job);
                let mut changes = vec![inserted(&instance)];
                if *state != InstanceState::Waiting {
                    instance = moved(&instance, *state);
                    let change = if state.is_ended() { ended(&instance) } else { super::world::updated(&instance) };
                    changes.push(change);
                }
                world.commit(changes).await;
                all.push(instance);
            }
            jobs.push(job);
        }
    }
    all.sort_by_key(|instance| std::cmp::Reverse(instance.id));
    let middle = all[all.len() / 2].created_at;

    use InstanceState::*;
    let state_sets: [&[InstanceState]; 8] = [
        &[],
        &[Succeeded],
        &[Failed],
        &[Waiting],
        &[Failed, Canceled, Stopped, Failed],
        &[Waiting, Dispatched, Running, Stopping],
        &[Running, Failed],
        &[Running, Succeeded, Stopped],
    ];
    let job_filters = std::iter::once(None).chain(jobs.iter().map(|job| Some(job.id)));
    for job in job_filters {
        for app in [None, Some(jobs[0].app), Some(jobs[4].app)] {
            for states in state_sets {
                for (created_from, created_before) in [(None, None), (Some(middle), None), (None, Some(middle))] {
                    let filter = InstanceFilter {
                        app,
                        job,
                        states: states.to_vec(),
                        created_from,
                        created_before,
                        before: None,
                        limit: 7,
                    };
                    check_pages(&*store, &all, filter).await;
                }
            }
        }
    }
}

async fn check_pages(store: &dyn Store, all: &[Instance], filter: InstanceFilter) {
    let wanted = |instance: &&Instance| {
        filter.app.is_none_or(|app| instance.app == app)
            && filter.job.is_none_or(|job| instance.job == job)
            && (filter.states.is_empty() || filter.states.contains(&instance.state))
            && filter.created_from.is_none_or(|from| instance.created_at >= from)
            && filter.created_before.is_none_or(|before| instance.created_at < before)
    };
    let expected: Vec<_> = all.iter().filter(wanted).cloned().collect();
    let mut found: Vec<Instance> = Vec::new();
    loop {
        let before = found.last().map(|instance| instance.id);
        let page = store.instances(InstanceFilter { before, ..filter.clone() }).await.unwrap();
        assert!(page.items.len() <= filter.limit);
        found.extend(page.items);
        assert_eq!(page.more, found.len() < expected.len(), "{filter:?}");
        if !page.more {
            break;
        }
    }
    assert_eq!(found, expected, "{filter:?}");
}
