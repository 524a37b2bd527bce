use std::sync::Arc;

use pendula_model::instance::{InstanceState, Origin};
use pendula_model::task::{Phase, TaskRole};
use pendula_model::{AppId, InstanceId, Revision, TaskId};

use super::*;

fn at(micros: i64) -> Timestamp {
    Timestamp::from_micros(micros)
}

fn instance(id: i64, version: u32) -> Instance {
    Instance {
        id: InstanceId(id),
        app: AppId(1),
        job: JobId(id % 7),
        revision: Revision(1),
        origin: Origin::Trigger,
        fire_time: None,
        missed_before: 0,
        rerun_of: None,
        idempotency_key: None,
        params: None,
        priority: 0,
        created_at: at(0),
        due_at: at(0),
        expires_at: None,
        state: InstanceState::Waiting,
        version,
        attempt: 0,
        failures: 0,
        losses: 0,
        worker: None,
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

fn inserted(id: i64) -> Change {
    Change::InstanceInserted { instance: Box::new(instance(id, 1)), prune_at: None }
}

fn updated(id: i64, version: u32) -> Change {
    Change::InstanceUpdated(Box::new(instance(id, version)))
}

fn ended(id: i64, version: u32) -> Change {
    Change::InstanceEnded { instance: Box::new(instance(id, version)), prune_at: at(0) }
}

fn advanced(job: i64, from: i64) -> Change {
    let schedule = ScheduleState { next_fire: Some(at(from + 1)), ..ScheduleState::default() };
    Change::ScheduleAdvanced { job: JobId(job), expected_next: Some(at(from)), schedule }
}

fn fanout(id: i64, version: u32) -> Fanout {
    Fanout { version, ..Fanout::new(InstanceId(id), Phase::Main) }
}

fn task(id: i64, number: u64, version: u32) -> Task {
    Task { version, ..Task::new(InstanceId(id), TaskId(number), TaskRole::Sub, "t".into(), at(0)) }
}

/// Kind and number of rows of each group.
fn shape(changes: &[Change], merged: bool) -> Vec<(&'static str, usize)> {
    let name = |row: &Row<'_>| match row {
        Row::Schedule(_) => "schedules",
        Row::Gap(..) => "gaps",
        Row::NewJob(_) => "new jobs",
        Row::NewInstance(_) => "new instances",
        Row::NewEnded(..) => "new ended",
        Row::Instance(_) => "instances",
        Row::Ended(..) => "ended",
        Row::Attempt(_) => "attempts",
        Row::NewFanout(_) => "new fanouts",
        Row::Fanout(_) => "fanouts",
        Row::NewTask(_) => "new tasks",
        Row::Task(_) => "tasks",
        Row::Alone(_) => "alone",
    };
    arrange(changes, merged).iter().map(|rows| (name(&rows[0]), rows.len())).collect()
}

/// What a busy partition commits costs a statement for each kind, however many rows there are.
#[test]
fn busy_batches_are_few_statements() {
    let fires: Vec<_> = (0..1000).flat_map(|id| [advanced(id, 5), inserted(id)]).collect();
    assert_eq!(shape(&fires, true), [("schedules", 1000), ("new instances", 1000)]);
    let flow: Vec<_> = (0..1000).flat_map(|id| [ended(id, 3), inserted(1000 + id), updated(2000 + id, 2)]).collect();
    assert_eq!(shape(&flow, true), [("ended", 1000), ("new instances", 1000), ("instances", 1000)]);
    // Each report of a task moves the counts of its instance.
    let reports: Vec<_> = (0..1000)
        .flat_map(|number| {
            let counts = Change::FanoutUpdated(fanout(1, number + 2));
            [Change::TaskUpdated(Box::new(task(1, number.into(), 3))), counts]
        })
        .collect();
    assert_eq!(shape(&reports, true), [("tasks", 1000), ("fanouts", 1)]);
    let emitted: Vec<_> = (0..10)
        .flat_map(|round| {
            let tasks = (0..100).map(|number| task(1, round * 100 + number, 1)).collect();
            [Change::TasksInserted(tasks), Change::FanoutUpdated(fanout(1, round as u32 + 2))]
        })
        .collect();
    assert_eq!(shape(&emitted, true), [("new tasks", 1000), ("fanouts", 1)]);
    // A job that fires several times in a batch moves on once.
    let quick: Vec<_> = (0..10).flat_map(|round| [advanced(3, round), inserted(round)]).collect();
    assert_eq!(shape(&quick, true), [("schedules", 1), ("new instances", 10)]);
}

#[test]
fn steps_of_one_row_keep_their_order() {
    let steps = [inserted(1), updated(1, 2), updated(1, 3), ended(1, 4), inserted(2), ended(2, 2)];
    // Both ends go together, behind the update that one of them follows.
    assert_eq!(shape(&steps, true), [("new instances", 2), ("instances", 1), ("ended", 2)]);
    let groups = arrange(&steps, true);
    let [Row::Instance(row)] = groups[1][..] else { panic!("{groups:?}") };
    assert_eq!((row.from, row.to.version), (1, 3));
    // Steps that do not follow each other stay two, so that the second is refused.
    assert_eq!(shape(&[updated(1, 2), updated(1, 4)], true), [("instances", 1), ("instances", 1)]);
    assert_eq!(shape(&[updated(1, 2), updated(1, 2)], true), [("instances", 1), ("instances", 1)]);
    // What comes after an end is not put before it.
    assert_eq!(shape(&[updated(1, 2), ended(1, 3), updated(1, 3)], true).len(), 3);
}

#[test]
fn what_stands_alone_comes_after_all_before_and_before_all_after() {
    let gone = Change::AppDeleted(AppId(1));
    let steps = [inserted(1), gone, inserted(2), inserted(3)];
    assert_eq!(shape(&steps, true), [("new instances", 1), ("alone", 1), ("new instances", 2)]);
}

#[test]
fn a_batch_that_is_not_merged_is_one_group_for_each_change() {
    let tasks = (0..5).map(|number| task(1, number, 1)).collect();
    let steps = [inserted(1), inserted(2), Change::TasksInserted(tasks), updated(1, 2), updated(1, 3)];
    let expected = [("new instances", 1), ("new instances", 1), ("new tasks", 5), ("instances", 1), ("instances", 1)];
    assert_eq!(shape(&steps, false), expected);
}

#[test]
fn statements_are_bounded() {
    let many: Vec<_> = (0..ROWS as i64 + 1).map(inserted).collect();
    assert_eq!(shape(&many, true), [("new instances", ROWS), ("new instances", 1)]);
    let large = |number| {
        let input = Payload { content_type: "b".to_owned(), bytes: vec![0; BYTES / 4 + 1] };
        Change::TasksInserted(vec![Task { input: Some(Arc::new(input)), ..task(1, number, 1) }])
    };
    let large: Vec<_> = (0..7).map(large).collect();
    assert_eq!(shape(&large, true), [("new tasks", 3), ("new tasks", 3), ("new tasks", 1)]);
}
