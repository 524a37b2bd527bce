//! An owner that was superseded and does not know it yet: what it reads is what its successor wrote. Its commits will be
//! refused; until then it must not fall over what it does not know.

use pendula_engine::{Command, Reply};
use pendula_model::mode::{ExecutionMode, Map};
use pendula_model::task::{Task, TaskRole};
use pendula_model::{InstanceId, TaskId, TaskKey};

use crate::script::{SECOND, Script, job};

/// A map of which a new owner has read nothing yet: the root runs, two sub-tasks wait.
fn restored() -> (Script, InstanceId) {
    let mut script = Script::new();
    script.worker("w", 1);
    script.apply(pendula_model::job::JobSpec { mode: ExecutionMode::Map(Map::default()), ..job("m") });
    let id = script.run("m");
    let (to, root) = script.tasks_dispatched()[0];
    script.map(to, root, 0, 2).expect("it is the root's to emit");
    script.hold_tasks = true;
    script.restart(SECOND);
    (script, id)
}

#[test]
fn tasks_that_the_successor_made_are_not_taken_for_known_ones() {
    let (mut script, id) = restored();
    for number in [3, 4] {
        let key = TaskKey { instance: id, task: TaskId(number) };
        let made = Task::new(id, key.task, TaskRole::Sub, format!("0.{number}").into(), script.now);
        script.tasks.insert(key, made);
    }
    let v = script.worker("v", 10);
    let (instance, from, limit) = script.held_tasks.pop().expect("a new owner reads what waits");
    script.answer_tasks(instance, from, limit);
    assert_eq!(script.numbers_dispatched(v), [1, 2]);
}

#[test]
fn tasks_that_failed_under_the_successor_are_not_tried_again() {
    let (mut script, id) = restored();
    script.tasks.get_mut(&TaskKey { instance: id, task: TaskId(1) }).expect("it was emitted").state =
        pendula_model::instance::TaskState::Failed;
    let reply = script.command(Command::TasksRetry { instance: id, tasks: Vec::new() });
    assert!(matches!(reply, Reply::Retried(0)), "{reply:?}");
}
