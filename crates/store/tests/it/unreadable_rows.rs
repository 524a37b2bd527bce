//! O-16: whatever is written into a row, it hurts that row alone.

use pendula_model::change::Change;
use pendula_model::instance::{InstanceState, Reason};
use pendula_model::{JobId, Timestamp};
use pendula_store::{InstanceFilter, JobFilter, Store, StoreError};

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
