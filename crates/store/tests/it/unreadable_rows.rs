//! O-16: whatever is written into a row, it hurts that row alone.

use pendula_model::change::Change;
use pendula_model::instance::{InstanceState, Reason};
use pendula_model::task::Task;
use pendula_model::{JobId, TaskId, Timestamp};
use pendula_store::{InstanceFilter, JobFilter, Store, StoreError, TaskFilter};

use crate::rows::{HOME, Owner, START, behind, inserted, open};

/// Damages of an instance's row, and a word that the explanation has.
const DAMAGES: &[(&str, &str)] = &[
    ("state = 77", "state"),
    ("state = 0", "state"),
    ("state = -1", "state"),
    ("state = 5", "ended"),
    ("state = 6", "cause to stop"),
    ("origin = 9", "origin"),
    ("stop_cause = 42", "stop_cause"),
    ("stop_cause = 1", "cause to stop"),
    ("attempt = -1", "attempt"),
    ("attempt = 0", "attempt"),
    ("version = 1 << 40", "version"),
    ("revision = -5", "revision"),
    ("revision = 4", "revision 4"),
    ("priority = 1000", "priority"),
    ("failures = -1", "failures"),
    ("losses = 1 << 33", "losses"),
    ("missed_before = -1", "missed_before"),
    ("params = '{'", "params"),
    ("placement = 'not json'", "placement"),
    ("worker_name = NULL", "worker"),
    ("worker_boot = NULL", "worker"),
    ("worker_name = NULL, worker_boot = NULL", "worker"),
    ("result = x'00'", "result"),
    ("result_type = 'text/plain'", "result"),
    ("message = CAST(x'ff' AS TEXT)", "message"),
    ("reason = CAST(x'ff' AS TEXT)", "reason"),
];

#[tokio::test]
async fn a_broken_instance_is_set_aside_alone() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let mut owner = Owner::new(&store).await;
    let job = owner.job(&store, "job").await;
    let healthy = owner.running(&job);
    owner.commit(&store, vec![inserted(&healthy)]).await.unwrap();
    for (damage, word) in DAMAGES {
        let victim = owner.running(&job);
        owner.commit(&store, vec![inserted(&victim)]).await.unwrap();
        let sql = format!("UPDATE instance SET {damage} WHERE id = {}", victim.id);
        assert_eq!(behind(directory.path()).execute(&sql, []).unwrap(), 1);

        let snapshot = store.partition_load(HOME).await.unwrap();
        assert_eq!(snapshot.instances, std::slice::from_ref(&healthy), "{damage}");
        let [(id, why)] = &snapshot.broken[..] else { panic!("{damage}: {:?}", snapshot.broken) };
        assert_eq!(*id, victim.id);
        assert!(why.contains(word), "{damage}: {why}");

        let all = InstanceFilter { limit: 1000, ..InstanceFilter::default() };
        let listed = store.instances(all.clone()).await.unwrap();
        assert!(listed.items.contains(&healthy), "{damage}");
        if let Err(error) = store.instance(victim.id).await {
            assert!(matches!(error, StoreError::Corrupt { .. }), "{damage}: {error:?}");
            let status = store.status().await.unwrap();
            assert_eq!((status.faults.len(), status.unreadable.len()), (0, 1), "{damage}");
        }

        let quarantine =
            Change::InstanceQuarantined { id: victim.id, at: START, why: why.clone(), prune_at: Timestamp::MAX };
        owner.commit(&store, vec![quarantine]).await.unwrap();
        let ended = store.instance(victim.id).await.unwrap().unwrap();
        assert_eq!((ended.state, &ended.reason), (InstanceState::Failed, &Some(Reason::QUARANTINED)), "{damage}");
        assert_eq!(ended.message.as_deref(), Some(why.as_str()));
        let snapshot = store.partition_load(HOME).await.unwrap();
        assert_eq!((snapshot.instances.len(), snapshot.broken.len()), (1, 0), "{damage}");
        assert!(store.instances(all).await.unwrap().items.contains(&ended), "{damage}");
        assert_eq!(store.status().await.unwrap().unreadable, Vec::<String>::new(), "{damage}");
    }
    let pages = InstanceFilter { limit: 2, ..InstanceFilter::default() };
    assert!(store.instances(pages).await.unwrap().more);
}

#[tokio::test]
async fn a_broken_definition_blocks_no_other_job() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let mut owner = Owner::new(&store).await;
    let damages = [
        "UPDATE job_revision SET spec = '{\"name\":'",
        "UPDATE job_revision SET spec = '[]'",
        "UPDATE job_revision SET spec = '{\"name\":\"x\",\"processor\":{\"unknown\":1}}'",
        "UPDATE job_revision SET spec = json_set(spec, '$.name', 'renamed')",
        "DELETE FROM job_revision",
    ];
    let mut victims = Vec::new();
    for number in 0..damages.len() {
        victims.push(owner.job(&store, &format!("victim {number}")).await);
    }
    let healthy = owner.job(&store, "healthy").await;
    let (on_victim, on_healthy) = (owner.running(&victims[0]), owner.running(&healthy));
    owner.commit(&store, vec![inserted(&on_victim), inserted(&on_healthy)]).await.unwrap();
    for (damage, victim) in damages.iter().zip(&victims) {
        let sql = format!("{damage} WHERE job_id = {}", victim.id);
        assert_eq!(behind(directory.path()).execute(&sql, []).unwrap(), 1);
    }

    // Limits and pages count what can be read.
    let due = store.jobs_due(HOME, Timestamp::MAX, None, 1).await.unwrap();
    assert_eq!(due, std::slice::from_ref(&healthy));
    let page = store.jobs(JobFilter { limit: 1, ..JobFilter::default() }).await.unwrap();
    assert_eq!((page.items, page.more), (vec![healthy.clone()], false));
    let snapshot = store.partition_load(HOME).await.unwrap();
    assert_eq!((snapshot.jobs, snapshot.instances), (vec![healthy.clone()], vec![on_healthy]));
    let [(id, why)] = &snapshot.broken[..] else { panic!("{:?}", snapshot.broken) };
    assert_eq!(*id, on_victim.id);
    assert!(why.contains(&format!("job {}", victims[0].id)), "{why}");
    for victim in &victims {
        assert!(matches!(store.job_by_id(victim.id).await, Err(StoreError::Corrupt { .. })));
    }
    assert_eq!(store.job_revisions(victims[0].id, 10).await.unwrap(), []);
    let unreadable = store.status().await.unwrap().unreadable;
    let of_jobs = unreadable.iter().filter(|line| line.starts_with("job ")).count();
    assert_eq!(of_jobs, victims.len(), "{unreadable:?}");

    // Saving it again repairs it.
    let repaired = pendula_model::job::Job { version: 2, ..victims[0].clone() };
    owner.commit(&store, vec![Change::JobUpdated(repaired.clone())]).await.unwrap();
    assert_eq!(store.job_by_id(repaired.id).await.unwrap(), Some(repaired.clone()));
    let unreadable = store.status().await.unwrap().unreadable;
    assert!(!unreadable.iter().any(|line| line.starts_with(&format!("job {}", repaired.id))), "{unreadable:?}");
    assert_eq!(store.partition_load(HOME).await.unwrap().broken, []);
    assert_eq!(store.job_by_id(JobId(1)).await.unwrap(), None);
}

/// Damages of a running task or of the counts, and a word that the explanation has.
const DAMAGES_OF_TASKS: &[(&str, &str, &str)] = &[
    ("task", "role = 0", "role"),
    ("task", "state = 77", "state"),
    ("task", "version = -1", "version"),
    ("task", "attempt = 0", "attempt"),
    ("task", "failures = 1 << 40", "failures"),
    ("task", "losses = -1", "losses"),
    ("task", "emitted = -1", "emitted"),
    ("task", "parent = -1", "parent"),
    ("task", "ended_at = 1", "end"),
    ("task", "worker_name = NULL, worker_boot = NULL", "worker"),
    ("task", "worker_boot = NULL", "worker"),
    ("task", "target_name = 'w'", "target"),
    ("task", "placement = 'not json'", "placement"),
    ("task", "name = CAST(x'ff' AS TEXT)", "name"),
    ("task", "message = CAST(x'ff' AS TEXT)", "message"),
    ("task", "reason = CAST(x'ff' AS TEXT)", "reason"),
    ("task", "input = NULL", "input"),
    ("task", "result = x'00'", "result"),
    ("fanout", "phase = 4", "phase"),
    ("fanout", "version = 1 << 32", "version"),
    ("fanout", "waiting = -1", "waiting"),
    ("fanout", "total = 7", "add up"),
    ("fanout", "next_task = 1, next_waiting = 2", "exist"),
    ("fanout", "targets = '{'", "targets"),
    ("fanout", "rate_milli = -1", "rate_milli"),
];

#[tokio::test]
async fn a_broken_task_takes_its_instance_along_and_nobody_else() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let mut owner = Owner::new(&store).await;
    let job = owner.job(&store, "job").await;
    let healthy = owner.running(&job);
    let healthy_tasks = owner.with_tasks(&store, &healthy).await;
    for (table, damage, word) in DAMAGES_OF_TASKS {
        let victim = owner.running(&job);
        let tasks = owner.with_tasks(&store, &victim).await;
        let row = if *table == "task" { "AND id = 1" } else { "" };
        let sql = format!("UPDATE {table} SET {damage} WHERE instance_id = {} {row}", victim.id);
        assert_eq!(behind(directory.path()).execute(&sql, []).unwrap(), 1);

        // A state that means nothing is not found by the index of what is under way; who reads the task is told.
        let is_found = *damage != "state = 77";
        let snapshot = store.partition_load(HOME).await.unwrap();
        if is_found {
            assert_eq!(snapshot.instances, std::slice::from_ref(&healthy), "{damage}");
            assert_eq!(snapshot.fanouts.len(), 1, "{damage}");
            assert_eq!(snapshot.tasks, healthy_tasks[1..2], "{damage}");
            let [(id, why)] = &snapshot.broken[..] else { panic!("{damage}: {:?}", snapshot.broken) };
            assert_eq!(*id, victim.id);
            assert!(why.contains(word), "{damage}: {why}");
        }
        let listed =
            TaskFilter { instance: victim.id, states: Vec::new(), name_contains: None, from: TaskId::ROOT, limit: 2 };
        let page = store.tasks(listed.clone()).await.unwrap();
        // Left out, or with what can be read of it; its neighbours are there.
        assert_eq!((page.items.len(), page.items[0].id), (2, tasks[0].id), "{damage}");

        let read = match *table {
            "task" => store.task(victim.id, TaskId(1)).await.map(drop),
            _ => store.fanout(victim.id).await.map(drop),
        };
        if let Err(error) = read {
            assert!(matches!(error, StoreError::Corrupt { .. }), "{damage}: {error:?}");
            let unreadable = store.status().await.unwrap().unreadable;
            let name = if *table == "task" { format!("task {}/1: ", victim.id) } else { victim.id.to_string() };
            assert!(unreadable.iter().any(|line| line.contains(&name) && line.contains(word)), "{unreadable:?}");
        }

        // Set aside, it shows again what can be read of it, and no counts that cannot.
        let why = format!("{damage} was found");
        let quarantine = Change::InstanceQuarantined { id: victim.id, at: START, why, prune_at: START };
        owner.commit(&store, vec![quarantine]).await.unwrap();
        let snapshot = store.partition_load(HOME).await.unwrap();
        assert_eq!((snapshot.instances.len(), snapshot.broken.len()), (1, 0), "{damage}");
        store.fanout(victim.id).await.unwrap();
        let page = store.tasks(listed).await.unwrap();
        let stopped = |task: &Task| task.state.is_ended() && task.reason == Some(Reason::INSTANCE_ENDED);
        assert!(stopped(&page.items[0]), "{damage}");
        // Until it is forgotten, with all that was in it.
        assert_eq!(store.prune(START, 1).await.unwrap().len(), 1, "{damage}");
        let unreadable = store.status().await.unwrap().unreadable;
        assert_eq!(unreadable, Vec::<String>::new(), "{damage}");
    }
    assert_eq!(store.tasks_waiting(healthy.id, TaskId::ROOT, 1, 9).await.unwrap(), healthy_tasks[..1]);
}

/// What waits for its turn is skipped when it cannot be read, and told.
#[tokio::test]
async fn a_broken_task_that_waits_holds_up_no_other() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let mut owner = Owner::new(&store).await;
    let job = owner.job(&store, "job").await;
    let instance = owner.running(&job);
    let tasks = owner.with_tasks(&store, &instance).await;
    let sql = format!("UPDATE task SET name = CAST(x'ff' AS TEXT) WHERE instance_id = {} AND id = 0", instance.id);
    assert_eq!(behind(directory.path()).execute(&sql, []).unwrap(), 1);
    let waiting = store.tasks_waiting(instance.id, TaskId::ROOT, 1, usize::MAX).await.unwrap();
    assert_eq!(waiting, [tasks[2].clone()]);
    let unreadable = store.status().await.unwrap().unreadable;
    assert!(unreadable[0].starts_with(&format!("task {}/0: ", instance.id)), "{unreadable:?}");
    // Once repaired, it is there again and told no more.
    let sql = format!("UPDATE task SET name = 'part' WHERE instance_id = {} AND id = 0", instance.id);
    assert_eq!(behind(directory.path()).execute(&sql, []).unwrap(), 1);
    assert_eq!(store.status().await.unwrap().unreadable, Vec::<String>::new());
    assert_eq!(store.tasks_waiting(instance.id, TaskId::ROOT, 1, usize::MAX).await.unwrap(), [tasks[0].clone()]);
}
