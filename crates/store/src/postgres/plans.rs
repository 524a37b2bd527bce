//! Tests of what PostgreSQL makes of our SQL, with the settings that our sessions have.

use std::sync::Arc;

use deadpool_postgres::ClientWrapper;
use pendula_model::change::{Change, Gap};
use pendula_model::instance::{Instance, InstanceState, Origin, PastAttempt, Reason, TaskState};
use pendula_model::job::{Job, JobSpec, ScheduleState};
use pendula_model::processor::{Processor, Script};
use pendula_model::task::{Fanout, Phase, Task, TaskRole};
use pendula_model::worker::{BootId, WorkerRef};
use pendula_model::{AppId, Epoch, InstanceId, JobId, PartitionId, Revision, TaskId, Timestamp};
use pendula_testdb::Postgres;
use serde_json::Value as Json;

use super::connect::{Database, Limits};
use super::{PostgresStore, access, commit, instances, jobs, load, prune, tasks};
use crate::port::{Batch, Store};

const START: Timestamp = Timestamp::from_micros(0);

fn instance(id: i64) -> Instance {
    Instance {
        id: InstanceId(id),
        app: AppId(0),
        job: JobId(0),
        revision: Revision(1),
        origin: Origin::Api,
        fire_time: None,
        missed_before: 0,
        rerun_of: None,
        idempotency_key: None,
        params: None,
        priority: 0,
        created_at: START,
        due_at: START,
        expires_at: None,
        state: InstanceState::Running,
        version: 1,
        attempt: 1,
        failures: 0,
        losses: 0,
        worker: Some(WorkerRef { name: "w".into(), boot: BootId(1) }),
        placement: None,
        dispatched_at: None,
        started_at: None,
        ended_at: None,
        stop_cause: None,
        stop_deadline: None,
        reason: None,
        message: None,
        result: None,
    }
}

/// Every kind of change.
fn all_changes() -> Vec<Change> {
    let over = |id| Box::new(Instance { state: InstanceState::Failed, ended_at: Some(START), ..instance(id) });
    let app = pendula_model::app::App {
        id: AppId(0),
        name: "a".to_owned(),
        namespace: "n".to_owned(),
        partition: PartitionId(0),
        allow_scripts: false,
        created_at: START,
        version: 2,
    };
    let job = Job {
        id: JobId(0),
        app: app.id,
        spec: Arc::new(JobSpec::new("j", Processor::Shell(Script::new("true")))),
        revision: Revision(1),
        version: 2,
        schedule: ScheduleState::default(),
        created_at: START,
        updated_at: START,
        deleted_at: None,
    };
    let gap = Gap { from: START, to: START, count: 1, noticed_at: START };
    let fanout = Fanout::new(InstanceId(0), Phase::Main);
    let task = Task::new(InstanceId(0), TaskId(0), TaskRole::Sub, "t".into(), START);
    let past = PastAttempt {
        instance: InstanceId(0),
        task: TaskId(0),
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
    vec![
        Change::AppInserted(app.clone()),
        Change::AppUpdated(app.clone()),
        Change::AppDeleted(app.id),
        Change::JobInserted(job.clone()),
        Change::JobUpdated(job.clone()),
        Change::JobDeleted { id: job.id, version: 1, at: START },
        Change::ScheduleAdvanced { job: job.id, expected_next: None, schedule: ScheduleState::default() },
        Change::GapRecorded { job: job.id, gap },
        Change::InstanceInserted { instance: Box::new(instance(1)), prune_at: None },
        Change::InstanceInserted { instance: over(2), prune_at: Some(START) },
        Change::InstanceUpdated(Box::new(instance(3))),
        Change::InstanceEnded { instance: over(4), prune_at: START },
        Change::InstanceQuarantined { id: InstanceId(5), at: START, why: String::new(), prune_at: START },
        Change::AttemptEnded(past),
        Change::FanoutInserted(fanout.clone()),
        Change::FanoutUpdated(fanout),
        Change::TasksInserted(vec![task.clone()]),
        Change::TasksCopied { from: InstanceId(1), to: InstanceId(2), at: START, count: 1 },
        Change::TaskUpdated(Box::new(task)),
    ]
}

/// The generic plan of a statement. Types of parameters are guessed where they are not given.
async fn plan(session: &ClientWrapper, sql: &str, types: &str) -> Json {
    session.batch_execute(&["PREPARE q ", types, " AS ", sql].concat()).await.unwrap_or_else(|error| {
        panic!("{sql}: {error:?}");
    });
    let count = "SELECT cardinality(parameter_types) FROM pg_prepared_statements WHERE name = 'q'";
    let count: i32 = session.query_one(count, &[]).await.unwrap().get(0);
    let nulls = vec!["NULL"; count as usize].join(", ");
    let values = if count == 0 { String::new() } else { ["(", &nulls, ")"].concat() };
    let explain = ["EXPLAIN (FORMAT JSON) EXECUTE q", &values].concat();
    let shown = session.simple_query(&explain).await.unwrap();
    let text: String = shown
        .iter()
        .filter_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0),
            _ => None,
        })
        .collect();
    session.batch_execute("DEALLOCATE q").await.unwrap();
    serde_json::from_str(&text).unwrap()
}

/// Shows every node of a plan to `look`.
fn walk(node: &Json, look: &mut impl FnMut(&Json)) {
    look(node);
    for child in node["Plans"].as_array().into_iter().flatten() {
        walk(child, look);
    }
}

/// Refuses a plan that reads a table from end to end; `is_walked` names an index that may be. Returns the indexes that it
/// uses.
fn indexes_of(plan: &Json, sql: &str, is_walked: &[&str]) -> Vec<String> {
    let mut indexes = Vec::new();
    walk(&plan[0]["Plan"], &mut |node| {
        let (kind, index) = (node["Node Type"].as_str().unwrap_or(""), node["Index Name"].as_str().unwrap_or(""));
        assert!(kind != "Seq Scan", "{} is read from end to end: {plan:#}\n{sql}", node["Relation Name"]);
        // A statement that writes to a table names it, too.
        if kind.contains("Index") && !index.is_empty() {
            let is_sought = node.get("Index Cond").is_some() || is_walked.contains(&index);
            assert!(is_sought, "{index} is walked from end to end: {plan:#}\n{sql}");
            indexes.push(index.to_owned());
        }
    });
    indexes
}

/// Between indexes of empty tables there is nothing to choose: which one it is counts when there `is_history`.
async fn check(session: &ClientWrapper, is_history: bool) {
    let changes = all_changes();
    let batch = Batch { partition: PartitionId(0), epoch: Epoch(1), number: 1, changes };
    let mut checked = 0;
    for step in commit::all_steps(&batch) {
        let types: Vec<_> = step.values.iter().map(|value| value.kind().name().to_owned()).collect();
        let plan = plan(session, step.sql, &["(", &types.join(", "), ")"].concat()).await;
        indexes_of(&plan, step.sql, &["job_revision_superseded", "meta_pkey"]);
        checked += 1;
    }
    assert!(checked > 20, "{checked} statements");

    let expected: [(&str, &[&str]); 33] = [
        (load::APPS_OF_PARTITION, &["app_by_partition"]),
        (load::ACTIVE_OF_PARTITION, &["instance_by_job"]),
        (load::FANOUTS_OF_PARTITION, &["instance_by_job", "fanout_pkey"]),
        (load::TASKS_UNDER_WAY, &["task_under_way"]),
        (load::JOBS, &["job_pkey", "job_revision_pkey"]),
        (load::REVISIONS, &["job_revision_pkey"]),
        (jobs::DUE, &["job_due", "job_revision_pkey"]),
        (jobs::BY_ID, &["job_pkey", "job_revision_pkey"]),
        (jobs::BY_NAME, &["job_name", "job_revision_pkey"]),
        (jobs::OF_APP, &["job_name", "job_revision_pkey"]),
        (jobs::OF_ALL_APPS, &["job_name", "job_revision_pkey"]),
        (jobs::REVISIONS, &["job_revision_pkey"]),
        (jobs::GAPS, &["gap_pkey"]),
        (instances::BY_ID, &["instance_pkey", "ended_instance_pkey"]),
        (instances::BY_IDEMPOTENCY_KEY, &["instance_idempotency", "ended_instance_idempotency"]),
        (instances::PAST_ATTEMPTS, &["past_attempt_pkey"]),
        (instances::ACTIVE, &["instance_pkey"]),
        (instances::ENDED, &["ended_instance_pkey"]),
        (instances::ENDED_OF_APP, &["ended_instance_by_app"]),
        (instances::ENDED_OF_JOB, &["ended_instance_by_job"]),
        (instances::UNSUCCESSFUL, &["ended_instance_unsuccessful"]),
        (instances::UNSUCCESSFUL_OF_APP, &["ended_instance_unsuccessful_by_app"]),
        (instances::UNSUCCESSFUL_OF_JOB, &["ended_instance_unsuccessful_by_job"]),
        (instances::ACTIVE_OF_APP, &[]),
        (instances::ACTIVE_OF_JOB, &["instance_by_job"]),
        (tasks::FANOUT, &["fanout_pkey", "ended_instance_pkey"]),
        (tasks::BY_ID, &["task_pkey"]),
        (tasks::ALL, &["task_pkey"]),
        (tasks::LISTED_UNDER_WAY, &["task_under_way"]),
        (tasks::UNSUCCESSFUL, &["task_unsuccessful"]),
        (access::APP_BY_NAME, &["app_name"]),
        (access::TOKEN_BY_HASH, &["token_hash"]),
        (prune::PRUNABLE, &["ended_instance_prune"]),
    ];
    for (sql, wanted) in expected {
        let found = indexes_of(&plan(session, sql, "").await, sql, &[]);
        for index in wanted.iter().filter(|_| is_history) {
            assert!(found.iter().any(|found| found == index), "{index} is not used but {found:?}\n{sql}");
        }
    }
    for sql in [tasks::WAITING, tasks::RESULTS, tasks::FRESH, tasks::EXTENT, tasks::FANOUTS] {
        indexes_of(&plan(session, sql, "").await, sql, &[]);
    }
    for sql in [prune::DELETE_FANOUTS, prune::DELETE_TASKS, prune::DELETE_ATTEMPTS, prune::DELETE_INSTANCES] {
        indexes_of(&plan(session, sql, "").await, sql, &[]);
    }
    // Partial indexes that hold nothing but what is wanted, and the ends of primary keys.
    let small = ["job_revision_superseded", "job_deleted"];
    for sql in [prune::UNUSED_REVISIONS, prune::FINISHED_JOBS] {
        indexes_of(&plan(session, sql, "").await, sql, &small);
    }
    // Newest first without sorting, where history may be long.
    if !is_history {
        return;
    }
    let history = [instances::ENDED, instances::ENDED_OF_APP, instances::ENDED_OF_JOB, instances::UNSUCCESSFUL];
    let others = [jobs::DUE, jobs::OF_APP, jobs::OF_ALL_APPS, prune::PRUNABLE];
    let of_tasks = [tasks::WAITING, tasks::RESULTS, tasks::ALL, tasks::FRESH, tasks::UNSUCCESSFUL];
    for sql in history.into_iter().chain(others).chain(of_tasks) {
        let plan = plan(session, sql, "").await;
        walk(&plan[0]["Plan"], &mut |node| {
            let kind = node["Node Type"].as_str().unwrap_or("");
            assert!(!kind.contains("Sort"), "{plan:#}\n{sql}");
        });
    }
}

/// Rows of history, and some under way, for whoever looks at statistics.
const FILL: &str = "
    INSERT INTO ended_instance (id, app_id, job_id, revision, origin, priority, state, fire_time, missed_before, created_at,
        due_at, version, attempt, failures, losses, ended_at, prune_at)
    SELECT n, n % 5, n % 50, 1, 1, 0, CASE WHEN n % 20 = 0 THEN 4 ELSE 5 END, n, 0, n, n, 1, 1, 0, 0, n, n
    FROM generate_series(1, 20000) AS n;
    INSERT INTO instance (id, app_id, job_id, revision, partition, origin, priority, state, fire_time, missed_before,
        created_at, due_at, version, attempt, failures, losses)
    SELECT n, n % 5, n % 50, 1, n % 4, 1, 0, 1, n, 0, n, n, 1, 1, 0, 0 FROM generate_series(20001, 22000) AS n;
    INSERT INTO task (instance_id, id, role, state, version, attempt, failures, losses, emitted, due_at, name, ended_at)
    SELECT 20001, n, 2, CASE WHEN n < 19000 THEN 5 ELSE 1 END, 1, 1, 0, 0, 0, 0, 'n', CASE WHEN n < 19000 THEN 1 END
    FROM generate_series(1, 20000) AS n;
    INSERT INTO job (id, app_id, partition, enabled, name, revision, version, anchor, next_fire, missed, created_at, updated_at)
    SELECT n, n % 5, n % 4, TRUE, 'job ' || n, 1, 1, 0, n, 0, 0, 0 FROM generate_series(1, 5000) AS n;
    INSERT INTO job_revision (job_id, revision, saved_at, spec) SELECT n, 1, 0, '{}' FROM generate_series(1, 5000) AS n;
    INSERT INTO gap SELECT 1 + n % 50, n, 0, 0, 1, 0 FROM generate_series(1, 5000) AS n;
    INSERT INTO past_attempt (instance_id, task_id, attempt, state, ended_at, reason)
    SELECT n, 0, 1, 4, 0, 'r' FROM generate_series(1, 5000) AS n;
    INSERT INTO fanout SELECT n, 1, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, NULL, 0, NULL FROM generate_series(20001, 22000) AS n;
    INSERT INTO app SELECT n, n % 4, 'app ' || n, 'n', FALSE, 0, 1 FROM generate_series(1, 500) AS n;
    INSERT INTO token SELECT n, 'n', 'admin', NULL, decode(repeat(lpad(to_hex(n % 256), 2, '0'), 31) || lpad(to_hex(n / 256),
        2, '0'), 'hex'), 0, NULL FROM generate_series(1, 500) AS n;";

#[tokio::test]
async fn every_statement_uses_its_index() {
    let url = Postgres::shared().database();
    let store = PostgresStore::open(&url, super::Options { partitions: 8, ..Default::default() }).await.unwrap();
    assert_eq!(store.partitions(), 8);
    let session = Database::new(&url).unwrap().session(Limits::default()).await.unwrap();
    // Empty, as when most plans are made; with history; and when the planner knows of it.
    check(&session, false).await;
    session.batch_execute(FILL).await.unwrap();
    check(&session, false).await;
    session.batch_execute("ANALYZE").await.unwrap();
    check(&session, true).await;
}
