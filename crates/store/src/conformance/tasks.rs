use std::sync::Arc;
use std::time::Duration;

use pendula_model::change::Change;
use pendula_model::instance::{Instance, InstanceState, PastAttempt, Payload, Reason, TaskState};
use pendula_model::job::Job;
use pendula_model::task::{Fanout, Phase, Task, TaskCounts, TaskRole};
use pendula_model::worker::{BootId, WorkerRef};
use pendula_model::{InstanceId, PartitionId, TaskId, Timestamp};

use super::world::{HOME, START, World, ended, inserted, moved, updated, worker};
use crate::port::{Store, TaskFilter};

fn at(second: u64) -> Timestamp {
    START.plus(Duration::from_secs(second))
}

/// One that waits for any worker.
fn fresh(instance: &Instance, id: u64) -> Task {
    Task::new(instance.id, TaskId(id), TaskRole::Sub, format!("part {id}").into(), at(id))
}

/// The next version of `task`, in another state.
fn stepped(task: &Task, state: TaskState) -> Task {
    let mut next = Task { state, version: task.version + 1, ..task.clone() };
    if state == TaskState::Dispatched {
        (next.attempt, next.worker, next.dispatched_at) = (next.attempt + 1, Some(worker()), Some(at(1)));
    }
    if state.is_placed() && next.worker.is_none() {
        (next.attempt, next.worker) = (1, Some(worker()));
    }
    next.ended_at = state.is_ended().then(|| at(2));
    next.reason = (state.is_ended() && state != TaskState::Succeeded).then_some(Reason::FAILED);
    next.result = (state == TaskState::Succeeded).then(|| Arc::new(Payload::json(format!("{}", task.id))));
    next
}

/// New, and in some other state from the beginning.
fn placed(task: &Task, state: TaskState) -> Task {
    Task { version: 1, ..stepped(task, state) }
}

fn changed(task: &Task) -> Change {
    Change::TaskUpdated(Box::new(task.clone()))
}

/// What the counts must say of these tasks.
fn counted(instance: &Instance, tasks: &[Task]) -> Fanout {
    let mut fanout = Fanout::new(instance.id, Phase::Main);
    for task in tasks.iter().filter(|task| task.role.is_counted()) {
        fanout.counts.total += 1;
        *fanout.counts.of(task.state) += 1;
    }
    fanout.next_task = tasks.iter().map(|task| task.id.next()).max().unwrap_or_default();
    let is_fresh = |task: &&Task| !task.is_under_way() && !task.state.is_ended();
    fanout.next_waiting = tasks.iter().filter(is_fresh).map(|task| task.id).min().unwrap_or(fanout.next_task);
    fanout
}

/// What an instance that ended then shows of a task.
fn settled(task: &Task, ended_at: Option<Timestamp>) -> Task {
    match task.state.is_ended() {
        true => task.clone(),
        false => Task {
            state: TaskState::Stopped,
            ended_at,
            reason: Some(Reason::INSTANCE_ENDED),
            message: None,
            ..task.clone()
        },
    }
}

/// A running instance without tasks, and without a worker.
async fn begun(world: &mut World, job: &Job) -> Instance {
    let instance = Instance { worker: None, ..moved(&world.instance(job), InstanceState::Running) };
    let fanout = Fanout { next_task: TaskId(1_000_000), ..Fanout::new(instance.id, Phase::Main) };
    world.commit(vec![inserted(&instance), Change::FanoutInserted(fanout)]).await;
    instance
}

/// A running instance with these tasks, counted right. Tasks may be in any state.
async fn with_tasks(world: &mut World, job: &Job, make: impl Fn(&Instance) -> Vec<Task>) -> (Instance, Vec<Task>) {
    let instance = Instance { worker: None, ..moved(&world.instance(job), InstanceState::Running) };
    let tasks = make(&instance);
    let mut changes = vec![inserted(&instance), Change::FanoutInserted(counted(&instance, &tasks))];
    // What ended was something else before.
    let before = |task: &Task| Task { state: TaskState::Waiting, ended_at: None, version: 1, ..task.clone() };
    let new = tasks.iter().map(|task| if task.state.is_ended() { before(task) } else { task.clone() }).collect();
    changes.push(Change::TasksInserted(new));
    let over = tasks.iter().filter(|task| task.state.is_ended());
    changes.extend(over.map(|task| changed(&Task { version: 2, ..task.clone() })));
    world.commit(changes).await;
    let stored = |task: Task| if task.state.is_ended() { Task { version: 2, ..task } } else { task };
    (instance, tasks.into_iter().map(stored).collect())
}

/// Something in every column that goes together.
fn full(instance: &Instance, id: u64) -> Task {
    Task {
        role: TaskRole::Target,
        parent: Some(TaskId(4)),
        name: "é'; DROP TABLE task; --".into(),
        input: Some(Arc::new(Payload { content_type: "text/plain".to_owned(), bytes: vec![0, 255, 10] })),
        target: Some(worker()),
        state: TaskState::Running,
        version: u32::MAX - 2,
        attempt: 3,
        failures: 1,
        losses: 2,
        emitted: 9,
        worker: Some(worker()),
        placement: Some(r#"{"chosen":"w1"}"#.into()),
        dispatched_at: Some(at(3)),
        started_at: Some(at(4)),
        reason: Some(Reason::from_wire("custom_word")),
        message: Some("line\n\"quoted\"".into()),
        result: Some(Arc::new(Payload { content_type: "application/octet-stream".to_owned(), bytes: Vec::new() })),
        ..fresh(instance, id)
    }
}

pub async fn tasks_are_read_as_written(store: Arc<dyn Store>) {
    let mut world = World::new(store.clone()).await;
    let (_, job) = world.with_job().await;
    let instance = Instance { worker: None, ..moved(&world.instance(&job), InstanceState::Running) };
    let (small, full) = (fresh(&instance, 0), full(&instance, 7));
    let counts = TaskCounts { total: 21, waiting: 1, running: 2, succeeded: 3, failed: 4, lost: 5, stopped: 6 };
    let fanout = Fanout {
        version: 8,
        phase: Phase::After,
        counts,
        next_task: TaskId(11),
        next_waiting: TaskId(10),
        base: Some(InstanceId(77)),
        targets: Some(r#"{"workers":["é"]}"#.into()),
        rate_milli: 12_345,
        ..Fanout::new(instance.id, Phase::Main)
    };
    let new = Change::TasksInserted(vec![small.clone(), full.clone()]);
    world.commit(vec![inserted(&instance), Change::FanoutInserted(fanout.clone()), new]).await;
    assert_eq!(store.fanout(instance.id).await.unwrap(), Some(fanout.clone()));
    assert_eq!(store.task(instance.id, small.id).await.unwrap(), Some(small.clone()));
    assert_eq!(store.task(instance.id, full.id).await.unwrap(), Some(full.clone()));
    assert_eq!(world.tasks(instance.id).await, [small.clone(), full.clone()]);
    for nobody in [TaskId(1), TaskId(u64::MAX)] {
        assert_eq!(store.task(instance.id, nobody).await.unwrap(), None);
    }
    assert_eq!(store.task(InstanceId(1), small.id).await.unwrap(), None);

    let done = Task { result: Some(Arc::new(Payload::json("[1]"))), ..stepped(&full, TaskState::Succeeded) };
    let moved_on = Fanout {
        version: 9,
        phase: Phase::Main,
        counts: TaskCounts { total: 1, waiting: 1, ..TaskCounts::default() },
        next_task: TaskId(100),
        next_waiting: TaskId(99),
        targets: None,
        rate_milli: 0,
        ..fanout
    };
    world.commit(vec![changed(&done), Change::FanoutUpdated(moved_on.clone())]).await;
    assert_eq!(store.task(instance.id, full.id).await.unwrap(), Some(done));
    assert_eq!(store.fanout(instance.id).await.unwrap(), Some(moved_on.clone()));

    // Of many, those that have tasks.
    let standalone = world.instance(&job);
    world.commit(vec![inserted(&standalone)]).await;
    let other = begun(&mut world, &job).await;
    let ids = vec![other.id, standalone.id, InstanceId(1), instance.id];
    let mut found = store.fanouts(ids).await.unwrap();
    found.sort_by_key(|fanout| fanout.instance);
    assert_eq!(found, [moved_on, store.fanout(other.id).await.unwrap().unwrap()]);
    assert_eq!(store.fanout(standalone.id).await.unwrap(), None);
    assert_eq!(store.fanouts(Vec::new()).await.unwrap(), []);
}

pub async fn tasks_move_by_version(store: Arc<dyn Store>) {
    use TaskState::*;
    let mut world = World::new(store.clone()).await;
    let (_, job) = world.with_job().await;
    let instance = begun(&mut world, &job).await;
    let waiting = Task { input: Some(Arc::new(Payload::json("{}"))), ..fresh(&instance, 5) };
    let dispatched = stepped(&waiting, Dispatched);
    world.refuses(vec![changed(&dispatched)]).await;
    world.commit(vec![Change::TasksInserted(vec![waiting.clone()])]).await;
    world.refuses(vec![Change::TasksInserted(vec![fresh(&instance, 4), waiting.clone()])]).await;
    for version in [0, 1, 3] {
        world.refuses(vec![changed(&Task { version, ..dispatched.clone() })]).await;
    }
    world.commit(vec![changed(&dispatched)]).await;
    world.refuses(vec![changed(&dispatched)]).await;
    // Several steps of one row may lie in one batch.
    let running = stepped(&dispatched, Running);
    let lost = stepped(&running, Lost);
    world.commit(vec![changed(&running), changed(&lost)]).await;
    assert_eq!(store.task(instance.id, waiting.id).await.unwrap(), Some(lost.clone()));
    // An end is left by a retry alone.
    for end in TaskState::ALL.iter().filter(|state| state.is_ended()) {
        world.refuses(vec![changed(&stepped(&lost, *end))]).await;
    }
    let again = stepped(&lost, Waiting);
    world.commit(vec![changed(&again)]).await;
    assert_eq!(store.task(instance.id, waiting.id).await.unwrap(), Some(again));

    // Bound to a worker: another process of it may take over, another worker may not.
    let bound = Task { target: Some(worker()), ..fresh(&instance, 6) };
    world.commit(vec![Change::TasksInserted(vec![bound.clone()])]).await;
    let to = |name: &str, boot| Some(WorkerRef { name: name.into(), boot: BootId(boot) });
    for target in [None, to("w2", 1)] {
        world.refuses(vec![changed(&Task { target, ..stepped(&bound, Waiting) })]).await;
    }
    let successor = Task { target: to("w1", 5), ..stepped(&bound, Waiting) };
    world.commit(vec![changed(&successor)]).await;
    assert_eq!(store.task(instance.id, bound.id).await.unwrap(), Some(successor));
    world.refuses(vec![changed(&Task { target: to("w1", 1), ..stepped(&waiting, Waiting) })]).await;
}

pub async fn counts_move_by_version(store: Arc<dyn Store>) {
    let mut world = World::new(store.clone()).await;
    let (_, job) = world.with_job().await;
    let instance = world.instance(&job);
    let first = Fanout::new(instance.id, Phase::Before);
    let second = Fanout { version: 2, phase: Phase::Main, ..first.clone() };
    let insert = Change::FanoutInserted(first.clone());
    world.refuses(vec![insert.clone()]).await;
    world.commit(vec![inserted(&instance)]).await;
    world.refuses(vec![Change::FanoutUpdated(second.clone())]).await;
    world.commit(vec![insert.clone()]).await;
    world.refuses(vec![insert]).await;
    for version in [0, 1, 3] {
        world.refuses(vec![Change::FanoutUpdated(Fanout { version, ..second.clone() })]).await;
    }
    world.commit(vec![Change::FanoutUpdated(second.clone())]).await;
    world.refuses(vec![Change::FanoutUpdated(second)]).await;

    // Who has ended becomes nothing any more.
    let over = world.instance(&job);
    world.commit(vec![inserted(&over), ended(&moved(&over, InstanceState::Canceled))]).await;
    world.refuses(vec![Change::FanoutInserted(Fanout::new(over.id, Phase::Main))]).await;
    world.refuses(vec![Change::FanoutInserted(Fanout::new(InstanceId(HOME_ID), Phase::Main))]).await;
}

/// Ids of no row.
const HOME_ID: i64 = (1 << 40) | (3 << 12);
const PARTITION_OF_OTHERS: i64 = (1 << 40) | (5 << 12);

pub async fn lawless_tasks_are_refused(store: Arc<dyn Store>) {
    use TaskState::*;
    let mut world = World::new(store.clone()).await;
    let (_, job) = world.with_job().await;
    let (instance, other) = (begun(&mut world, &job).await, begun(&mut world, &job).await);
    let one = fresh(&instance, 1);
    let lawless = [
        Task { ended_at: Some(START), ..one.clone() },
        Task { worker: None, ..placed(&one, Running) },
        Task { attempt: 0, ..placed(&one, Dispatched) },
        Task { id: TaskId(u64::MAX), ..one.clone() },
        Task { parent: Some(TaskId(1 << 63)), ..one.clone() },
        Task { emitted: 1 << 63, ..one.clone() },
        Task { instance: InstanceId(PARTITION_OF_OTHERS), ..one.clone() },
    ];
    for task in &lawless {
        world.refuses(vec![Change::TasksInserted(vec![task.clone()])]).await;
    }
    world.refuses(vec![Change::TasksInserted(Vec::new())]).await;
    world.refuses(vec![Change::TasksInserted(vec![placed(&one, Failed)])]).await;
    world.refuses(vec![Change::TasksInserted(vec![fresh(&instance, 2), one.clone()])]).await;
    world.refuses(vec![Change::TasksInserted(vec![one.clone(), one.clone()])]).await;
    world.refuses(vec![Change::TasksInserted(vec![one.clone(), fresh(&other, 2)])]).await;

    world.commit(vec![Change::TasksInserted(vec![one.clone()])]).await;
    for task in lawless {
        world.refuses(vec![changed(&Task { version: 2, ..task })]).await;
    }
    world.refuses(vec![changed(&Task { ended_at: None, ..stepped(&one, Failed) })]).await;
    assert_eq!(store.task(instance.id, one.id).await.unwrap(), Some(one.clone()));

    // An instance that never became tasks, is not there, or has ended takes none.
    let standalone = world.instance(&job);
    world.commit(vec![inserted(&standalone)]).await;
    world.refuses(vec![Change::TasksInserted(vec![fresh(&standalone, 0)])]).await;
    world.refuses(vec![Change::TasksInserted(vec![Task { instance: InstanceId(HOME_ID), ..one.clone() }])]).await;
    world.commit(vec![ended(&moved(&other, InstanceState::Failed))]).await;
    world.refuses(vec![Change::TasksInserted(vec![fresh(&other, 0)])]).await;

    let counts = |counts| Fanout { version: 2, counts, ..Fanout::new(instance.id, Phase::Main) };
    let lawless = [
        counts(TaskCounts { total: 1, ..TaskCounts::default() }),
        counts(TaskCounts { total: 2, lost: 1, ..TaskCounts::default() }),
        counts(TaskCounts { total: 1 << 63, waiting: 1 << 63, ..TaskCounts::default() }),
        counts(TaskCounts { waiting: u64::MAX, running: 1, ..TaskCounts::default() }),
        Fanout { next_waiting: TaskId(1), ..counts(TaskCounts::default()) },
        Fanout { next_task: TaskId(1 << 63), ..counts(TaskCounts::default()) },
        Fanout { rate_milli: 1 << 63, ..counts(TaskCounts::default()) },
        Fanout { instance: InstanceId(PARTITION_OF_OTHERS), ..counts(TaskCounts::default()) },
    ];
    for fanout in lawless {
        world.refuses(vec![Change::FanoutUpdated(fanout.clone())]).await;
        world.refuses(vec![Change::FanoutInserted(fanout)]).await;
    }
    assert_eq!(InstanceId(HOME_ID).partition(), HOME);
    assert_eq!(InstanceId(PARTITION_OF_OTHERS).partition(), PartitionId(5));
}

fn ids(tasks: &[Task]) -> Vec<u64> {
    tasks.iter().map(|task| task.id.0).collect()
}

pub async fn waiting_tasks_come_in_pages(store: Arc<dyn Store>) {
    let mut world = World::new(store.clone()).await;
    let (_, job) = world.with_job().await;
    // Every second one waits; the others are all that does not.
    let make = |instance: &Instance| {
        let others = [
            placed(&fresh(instance, 0), TaskState::Running),
            Task { attempt: 1, ..fresh(instance, 0) },
            Task { target: Some(worker()), ..fresh(instance, 0) },
            placed(&fresh(instance, 0), TaskState::Succeeded),
            placed(&fresh(instance, 0), TaskState::Lost),
        ];
        let task = |id: u64| match id % 2 {
            0 => Task { id: TaskId(id), ..others[id as usize / 2 % others.len()].clone() },
            _ => Task {
                name: "".into(),
                input: Some(Arc::new(Payload { content_type: "text/plain".to_owned(), bytes: vec![0; 100] })),
                ..fresh(instance, id)
            },
        };
        (0..20).map(task).collect()
    };
    let (instance, tasks) = with_tasks(&mut world, &job, make).await;
    // A neighbour in the table.
    with_tasks(&mut world, &job, |instance| vec![fresh(instance, 3)]).await;
    let fresh: Vec<Task> = tasks.into_iter().filter(|task| task.id.0 % 2 == 1).collect();
    let read = |from, limit, bytes| store.tasks_waiting(instance.id, TaskId(from), limit, bytes);
    assert_eq!(read(0, 100, usize::MAX).await.unwrap(), fresh);
    assert_eq!(ids(&read(0, 3, usize::MAX).await.unwrap()), [1, 3, 5]);
    assert_eq!(ids(&read(5, 2, usize::MAX).await.unwrap()), [5, 7]);
    assert_eq!(ids(&read(6, 2, usize::MAX).await.unwrap()), [7, 9]);
    assert_eq!(ids(&read(19, 2, usize::MAX).await.unwrap()), [19]);
    assert_eq!(read(20, 2, usize::MAX).await.unwrap(), []);
    assert_eq!(read(u64::MAX, 2, usize::MAX).await.unwrap(), []);
    // Bytes end a page, but never before its first.
    assert_eq!(ids(&read(0, 100, 301).await.unwrap()), [1, 3, 5, 7]);
    assert_eq!(ids(&read(0, 100, 300).await.unwrap()), [1, 3, 5]);
    assert_eq!(ids(&read(0, 100, 0).await.unwrap()), [1]);
    assert_eq!(read(0, 0, usize::MAX).await.unwrap(), []);
    assert_eq!(store.tasks_waiting(InstanceId(HOME_ID), TaskId::ROOT, 9, 9).await.unwrap(), []);
}

pub async fn results_come_in_pages(store: Arc<dyn Store>) {
    let mut world = World::new(store.clone()).await;
    let (_, job) = world.with_job().await;
    let roles = [TaskRole::Root, TaskRole::Sub, TaskRole::Reduce, TaskRole::Shard, TaskRole::Pre, TaskRole::Target];
    let make = |instance: &Instance| {
        let task = |id: u64| {
            let role = roles[id as usize % roles.len()];
            let state = TaskState::ALL[id as usize % TaskState::ALL.len()];
            let input = Some(Arc::new(Payload::json("[]")));
            let mut task = placed(&Task { role, input, name: "".into(), ..fresh(instance, id) }, state);
            task.result = state.is_ended().then(|| Arc::new(Payload::json("x".repeat(10))));
            task
        };
        (0..100).map(task).collect()
    };
    let (instance, tasks) = with_tasks(&mut world, &job, make).await;
    let is_result = |task: &&Task| task.role.is_counted() && task.state.is_ended();
    let without_input = |task: &Task| Task { input: None, ..task.clone() };
    let expected: Vec<Task> = tasks.iter().filter(is_result).map(without_input).collect();
    assert!(expected.len() > 20);
    let read = |from, limit, bytes| store.task_results(instance.id, from, limit, bytes);
    assert_eq!(read(TaskId::ROOT, 1000, usize::MAX).await.unwrap(), expected);
    for (limit, bytes, page) in [(7, usize::MAX, 7), (1000, 45, 5), (1000, 40, 4), (1000, 0, 1), (1, 40, 1)] {
        let mut found: Vec<Task> = Vec::new();
        loop {
            let from = found.last().map_or(TaskId::ROOT, |last| last.id.next());
            let more = read(from, limit, bytes).await.unwrap();
            assert!(more.len() == page || found.len() + more.len() == expected.len(), "{} of {page}", more.len());
            if more.is_empty() {
                break;
            }
            found.extend(more);
        }
        assert_eq!(found, expected);
    }
    assert_eq!(read(TaskId::ROOT, 0, usize::MAX).await.unwrap(), []);
    // An end of the instance adds nothing: what was cut off left no result.
    world.commit(vec![ended(&moved(&instance, InstanceState::Failed))]).await;
    assert_eq!(read(TaskId::ROOT, 1000, usize::MAX).await.unwrap(), expected);
}

pub async fn task_listings_agree_with_a_scan(store: Arc<dyn Store>) {
    use TaskState::*;
    let mut world = World::new(store.clone()).await;
    let (_, job) = world.with_job().await;
    // As an owner leaves it: the first ones were all placed, the last ones never; and some of the last ones are bound.
    let make = |instance: &Instance| {
        let task = |id: u64| {
            let name = if id.is_multiple_of(3) { format!("Backup {id}") } else { format!("ä {id}%") };
            let task = Task { name: name.into(), ..fresh(instance, id) };
            match id {
                40.. if id.is_multiple_of(4) => Task { target: Some(worker()), ..task },
                40.. => task,
                _ if id.is_multiple_of(5) => Task { attempt: 1, reason: Some(Reason::FAILED), ..task },
                _ => placed(&task, TaskState::ALL[1 + id as usize % (TaskState::ALL.len() - 1)]),
            }
        };
        (0..60).map(task).collect()
    };
    let (instance, tasks) = with_tasks(&mut world, &job, make).await;
    let (_, neighbours) = with_tasks(&mut world, &job, make).await;
    let state_sets: [&[TaskState]; 10] = [
        &[],
        &[Waiting],
        &[Running],
        &[Dispatched, Running],
        &[Failed],
        &[Lost, Failed, Stopped, Lost],
        &[Succeeded],
        &[Waiting, Failed],
        &[Waiting, Running, Succeeded],
        &[Stopped, Running],
    ];
    let check = async |shown: &[Task]| {
        for states in state_sets {
            for part in [None, Some("BACK"), Some("%"), Some(""), Some("Ä"), Some("nowhere")] {
                let filter = TaskFilter {
                    instance: instance.id,
                    states: states.to_vec(),
                    name_contains: part.map(str::to_owned),
                    from: TaskId::ROOT,
                    limit: 7,
                };
                check_pages(&*store, shown, filter).await;
            }
        }
    };
    check(&tasks).await;
    let over = moved(&instance, InstanceState::Stopped);
    world.commit(vec![ended(&over)]).await;
    let settled: Vec<Task> = tasks.iter().map(|task| settled(task, over.ended_at)).collect();
    check(&settled).await;
    assert_eq!(world.tasks(neighbours[0].instance).await, neighbours);

    let all =
        TaskFilter { instance: InstanceId(HOME_ID), states: vec![], name_contains: None, from: TaskId(0), limit: 9 };
    let page = store.tasks(all).await.unwrap();
    assert_eq!((page.items, page.more), (Vec::new(), false));
}

async fn check_pages(store: &dyn Store, shown: &[Task], filter: TaskFilter) {
    let part = filter.name_contains.clone().unwrap_or_default().to_ascii_uppercase();
    let wanted = |task: &&Task| {
        (filter.states.is_empty() || filter.states.contains(&task.state))
            && task.name.to_ascii_uppercase().contains(&part)
    };
    let small = |task: &Task| Task { input: None, result: None, ..task.clone() };
    let expected: Vec<_> = shown.iter().filter(wanted).map(small).collect();
    let mut found: Vec<Task> = Vec::new();
    loop {
        let from = found.last().map_or(filter.from, |task| task.id.next());
        let page = store.tasks(TaskFilter { from, ..filter.clone() }).await.unwrap();
        assert!(page.items.len() <= filter.limit);
        found.extend(page.items);
        assert_eq!(page.more, found.len() < expected.len(), "{filter:?}");
        if !page.more {
            break;
        }
    }
    assert_eq!(found, expected, "{filter:?}");
}

pub async fn ended_instances_settle_their_tasks(store: Arc<dyn Store>) {
    use TaskState::*;
    let mut world = World::new(store.clone()).await;
    let (_, job) = world.with_job().await;
    let make = |instance: &Instance| {
        let mut tasks: Vec<Task> = (0..7).map(|id| placed(&fresh(instance, id), TaskState::ALL[id as usize])).collect();
        let message = Some("what the last try said".into());
        tasks.push(Task { attempt: 1, reason: Some(Reason::EXIT_CODE), message, ..fresh(instance, 7) });
        tasks
    };
    let (instance, tasks) = with_tasks(&mut world, &job, make).await;
    let before = store.fanout(instance.id).await.unwrap().unwrap();
    assert_eq!((before.counts.total, before.counts.waiting, before.counts.running), (8, 2, 2));
    let over = moved(&instance, InstanceState::Failed);
    world.commit(vec![ended(&over)]).await;
    let after = Fanout { counts: before.counts.settled(), ..before };
    assert_eq!(store.fanout(instance.id).await.unwrap(), Some(after.clone()));
    assert_eq!(store.fanouts(vec![instance.id]).await.unwrap(), std::slice::from_ref(&after));
    assert_eq!((after.counts.ended(), after.counts.stopped), (8, 5));
    let shown = world.tasks(instance.id).await;
    assert_eq!(shown, tasks.iter().map(|task| settled(task, over.ended_at)).collect::<Vec<_>>());
    let cut_off: Vec<u64> = ids(&shown.iter().filter(|task| task.state == Stopped).cloned().collect::<Vec<_>>());
    assert_eq!(cut_off, [0, 1, 2, 6, 7]);
    let own_reason = |task: &&Task| task.reason == Some(Reason::INSTANCE_ENDED);
    assert_eq!(shown.iter().filter(own_reason).count(), 4);
}

pub async fn unsuccessful_tasks_are_copied_whole(store: Arc<dyn Store>) {
    let mut world = World::new(store.clone()).await;
    let (_, job) = world.with_job().await;
    let make = |instance: &Instance| {
        let mut tasks: Vec<Task> = (0..7).map(|id| placed(&fresh(instance, id), TaskState::ALL[id as usize])).collect();
        let input = Some(Arc::new(Payload::json("[1]")));
        let framed = |id, role| placed(&Task { role, ..fresh(instance, id) }, TaskState::Failed);
        tasks.push(Task { input, ..placed(&full(instance, 7), TaskState::Lost) });
        tasks.extend([framed(8, TaskRole::Root), framed(9, TaskRole::Reduce), framed(10, TaskRole::Shard)]);
        tasks
    };
    let (base, tasks) = with_tasks(&mut world, &job, make).await;
    let again = begun(&mut world, &job).await;
    let copy = |count| Change::TasksCopied { from: base.id, to: again.id, at: at(99), count };
    // Not while it is under way.
    world.refuses(vec![copy(8)]).await;
    world.commit(vec![ended(&moved(&base, InstanceState::Failed))]).await;
    let counts = store.fanout(base.id).await.unwrap().unwrap().counts;
    assert_eq!(counts.total - counts.succeeded, 8);
    for wrong in [0, 7, 9] {
        world.refuses(vec![copy(wrong)]).await;
    }
    let elsewhere = Change::TasksCopied { from: InstanceId(PARTITION_OF_OTHERS), to: again.id, at: at(99), count: 0 };
    world.refuses(vec![elsewhere]).await;
    let standalone = world.instance(&job);
    world.commit(vec![inserted(&standalone)]).await;
    world.refuses(vec![Change::TasksCopied { from: base.id, to: standalone.id, at: at(99), count: 8 }]).await;

    world.commit(vec![copy(8)]).await;
    let repeated = |task: &Task| Task {
        parent: task.parent,
        emitted: task.emitted,
        input: task.input.clone(),
        target: task.target.clone(),
        ..Task::new(again.id, task.id, task.role, task.name.clone(), at(99))
    };
    let unsuccessful = |task: &&Task| task.role.is_counted() && task.state != TaskState::Succeeded;
    let expected: Vec<Task> = tasks.iter().filter(unsuccessful).map(repeated).collect();
    assert_eq!(world.tasks(again.id).await, expected);
    assert_eq!(ids(&expected), [0, 1, 2, 3, 5, 6, 7, 10]);
    // They are there now.
    world.refuses(vec![copy(8)]).await;

    // Of one that succeeded altogether there is nothing to repeat.
    let make = |instance: &Instance| vec![placed(&fresh(instance, 0), TaskState::Succeeded)];
    let (done, _) = with_tasks(&mut world, &job, make).await;
    world.commit(vec![ended(&moved(&done, InstanceState::Succeeded))]).await;
    world.commit(vec![Change::TasksCopied { from: done.id, to: again.id, at: at(99), count: 0 }]).await;
    assert_eq!(world.tasks(again.id).await, expected);
}

pub async fn snapshots_hold_tasks_under_way(store: Arc<dyn Store>) {
    let mut world = World::new(store.clone()).await;
    let (_, job) = world.with_job().await;
    let make = |instance: &Instance| {
        let mut tasks: Vec<Task> = (0..7).map(|id| placed(&fresh(instance, id), TaskState::ALL[id as usize])).collect();
        tasks.push(Task { attempt: 1, ..fresh(instance, 7) });
        tasks.push(full(instance, 8));
        tasks.push(Task { target: Some(worker()), ..fresh(instance, 9) });
        tasks.push(placed(&Task { role: TaskRole::Root, ..fresh(instance, 10) }, TaskState::Running));
        tasks.push(fresh(instance, 11));
        tasks
    };
    let (first, tasks) = with_tasks(&mut world, &job, make).await;
    let (second, more) = with_tasks(&mut world, &job, make).await;
    let (over, _) = with_tasks(&mut world, &job, make).await;
    let stopping = moved(&second, InstanceState::Stopping);
    // Not begun yet, which is no fault; and one that a worker has as a whole.
    let (waiting, standalone) = (world.instance(&job), moved(&world.instance(&job), InstanceState::Running));
    world.commit(vec![ended(&moved(&over, InstanceState::Failed)), updated(&stopping)]).await;
    world.commit(vec![inserted(&waiting), inserted(&standalone)]).await;

    let snapshot = store.partition_load(HOME).await.unwrap();
    let active = [&first, &stopping, &waiting, &standalone].map(|instance| instance.id);
    assert_eq!(snapshot.instances.iter().map(|instance| instance.id).collect::<Vec<_>>(), active);
    assert_eq!(snapshot.broken, []);
    assert_eq!(snapshot.fanouts, [counted(&first, &tasks), counted(&second, &more)]);
    let expected: Vec<Task> = tasks.into_iter().chain(more).filter(Task::is_under_way).collect();
    assert_eq!(ids(&expected[..6]), [1, 2, 7, 8, 9, 10]);
    assert_eq!(snapshot.tasks, expected);
    assert_eq!(store.partition_load(PartitionId(4)).await.unwrap().fanouts, []);
}

pub async fn instances_without_worker_or_tasks_are_broken(store: Arc<dyn Store>) {
    let mut world = World::new(store.clone()).await;
    let (_, job) = world.with_job().await;
    let healthy = begun(&mut world, &job).await;
    let running = Instance { worker: None, ..moved(&world.instance(&job), InstanceState::Running) };
    let stopping = Instance { worker: None, ..moved(&world.instance(&job), InstanceState::Stopping) };
    world.commit(vec![inserted(&running), inserted(&stopping)]).await;
    let snapshot = store.partition_load(HOME).await.unwrap();
    assert_eq!(snapshot.instances, [healthy]);
    let broken: Vec<InstanceId> = snapshot.broken.iter().map(|(id, _)| *id).collect();
    assert_eq!(broken, [running.id, stopping.id]);
    assert!(snapshot.broken.iter().all(|(_, why)| why.contains("neither a worker nor tasks")), "{:?}", snapshot.broken);
}

pub async fn pruning_forgets_tasks(store: Arc<dyn Store>) {
    let mut world = World::new(store.clone()).await;
    let (app, job) = world.with_job().await;
    // More than any store deletes in one go.
    let many = |instance: &Instance| (0..5_000).map(|id| fresh(instance, id)).collect();
    let few = |instance: &Instance| (0..3).map(|id| placed(&fresh(instance, id), TaskState::Failed)).collect();
    let (large, _) = with_tasks(&mut world, &job, many).await;
    let (small, _) = with_tasks(&mut world, &job, few).await;
    let (active, tasks) = with_tasks(&mut world, &job, few).await;
    let past = |task, attempt| PastAttempt {
        instance: large.id,
        task: TaskId(task),
        attempt,
        state: TaskState::Failed,
        worker: None,
        placement: None,
        dispatched_at: None,
        started_at: None,
        ended_at: START,
        reason: Reason::FAILED,
        message: None,
    };
    // One task that was tried more often than anything is deleted in one go, and others.
    world.commit((1..=2_500).map(|attempt| Change::AttemptEnded(past(0, attempt))).collect()).await;
    world.commit((1..=2_500).map(|task| Change::AttemptEnded(past(task, 1))).collect()).await;
    world
        .commit(vec![ended(&moved(&large, InstanceState::Canceled)), ended(&moved(&small, InstanceState::Failed))])
        .await;
    assert_eq!(store.prune(Timestamp::MAX, 0).await.unwrap(), []);
    assert_eq!(world.tasks(large.id).await.len(), 5_000);
    let gone = [(app.id, large.id), (app.id, small.id)];
    assert_eq!(store.prune(Timestamp::MAX, 10).await.unwrap(), gone);
    for (_, id) in gone {
        assert_eq!(store.instance(id).await.unwrap(), None);
        assert_eq!(store.fanout(id).await.unwrap(), None);
        assert_eq!(store.task(id, TaskId(1)).await.unwrap(), None);
        assert_eq!(store.task_results(id, TaskId::ROOT, 9, 9).await.unwrap(), []);
        assert_eq!(store.tasks_waiting(id, TaskId::ROOT, 9, 9).await.unwrap(), []);
        assert_eq!(store.past_attempts(id, TaskId(0)).await.unwrap(), []);
        assert_eq!(store.past_attempts(id, TaskId(2_500)).await.unwrap(), []);
    }
    assert_eq!(world.tasks(active.id).await, tasks);
    assert_eq!(store.prune(Timestamp::MAX, 10).await.unwrap(), []);
}
