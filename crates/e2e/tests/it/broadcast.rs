//! Broadcasts whose workers, or whose server, go away and come back. Who ran what is counted by the scripts themselves.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use pendula_client::InstanceFilter;
use pendula_e2e::fleet::{AFTER_A_LOSS, Fleet, SOON, broadcast, with_mark};
use pendula_e2e::process::{eventually, marked};
use pendula_model::api::{InstanceView, TaskView};
use pendula_model::instance::{InstanceState, TaskState};
use pendula_model::job::JobSpec;
use pendula_model::mode::{Broadcast, BroadcastSuccess, Share};
use pendula_model::policy::{Backoff, Retry};

fn once_each(workers: &[&str]) -> BTreeMap<String, usize> {
    workers.iter().map(|worker| ((*worker).to_owned(), 1)).collect()
}

/// How each task ended, by the worker that it was bound to.
fn outcomes(tasks: &[TaskView]) -> BTreeMap<&str, TaskState> {
    let targets = tasks.iter().filter_map(|task| Some((task.target.as_deref()?, task.state)));
    targets.collect()
}

fn verdict(view: &InstanceView) -> (InstanceState, Option<&str>) {
    (view.state, view.reason.as_deref())
}

/// Three workers, one of them killed in the middle: the others run once, its task ends `lost` and goes nowhere, the
/// declared policy decides, and `post` sees what happened.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s2_1_a_killed_target_is_lost_and_the_policy_decides() {
    let mut fleet = Fleet::start(&["w1", "w2", "w3"]).await;
    let count = |outcome: &str| format!("$(grep -c '\"outcome\": *\"{outcome}\"' \"$PENDULA_RESULTS\")");
    let script = format!(
        "if [ $PENDULA_TASK_ROLE = post ]; then\n\
         echo \"::output ok={}\"; echo \"::output lost={}\"\n\
         else\n{}{}{}fi\n",
        count("succeeded"),
        count("lost"),
        fleet.effects.begin(),
        fleet.effects.gate("go"),
        fleet.effects.end()
    );
    let with = |success| Broadcast { success, ..Broadcast::default() };
    let policies = [
        ("all", with(BroadcastSuccess::All), false),
        ("any", with(BroadcastSuccess::Any), true),
        ("two", with(BroadcastSuccess::AtLeast(Share::Count(2))), true),
        // Two of three are not 70 %.
        ("share", with(BroadcastSuccess::AtLeast(Share::BasisPoints(7_000))), false),
        ("post", Broadcast { post: true, ..with(BroadcastSuccess::Post) }, true),
    ];
    let mut ids = Vec::new();
    for (name, settings, succeeds) in policies {
        ids.push((name, fleet.run(&broadcast(name, &script, settings)).await, succeeds));
    }
    for (_, id, _) in &ids {
        fleet.begun(*id, &["w1", "w2", "w3"]).await;
    }
    fleet.worker("w3").kill_with_scripts().await;
    fleet.effects.open("go");

    for (name, id, succeeds) in ids {
        let view = fleet.ended(id, AFTER_A_LOSS).await;
        let expected = match succeeds {
            true => (InstanceState::Succeeded, None),
            false => (InstanceState::Failed, Some("tasks_failed")),
        };
        assert_eq!(verdict(&view), expected, "{name}: {view:?}");
        let tasks = fleet.tasks(id).await;
        let expected = [("w1", TaskState::Succeeded), ("w2", TaskState::Succeeded), ("w3", TaskState::Lost)];
        assert_eq!(outcomes(&tasks), expected.into(), "{name}: {tasks:?}");
        let lost = fleet.task_on(id, "w3").await;
        assert_eq!((lost.reason.as_deref(), lost.attempt), (Some("worker_lost"), 1), "{lost:?}");
        assert_eq!(lost.worker.as_deref(), Some("w3"), "it was not moved");
        assert_eq!(fleet.effects.per_worker(id), once_each(&["w1", "w2", "w3"]), "{name}: executions");
        let ended: Vec<_> = fleet.effects.ended(id).into_iter().map(|execution| execution.worker).collect();
        assert_eq!(ended, ["w1", "w2"], "the third was killed before its end");
        if name == "post" {
            let result = view.result.and_then(|result| result.json).expect("post left a result");
            assert_eq!((&result["ok"], &result["lost"]), (&"2".into(), &"1".into()), "{result}");
        }
    }
}

/// A task that fails is tried again where it failed, also while another target is dead.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s2_5_retries_stay_on_the_worker_that_failed() {
    let mut fleet = Fleet::start(&["w1", "w2", "w3"]).await;
    let script = format!("{}[ $E2E_WORKER != w1 ] || exit 1\n{}", fleet.effects.begin(), fleet.effects.gate("go"));
    let retry = Retry { attempts: 3, backoff: Backoff::Fixed(Duration::from_millis(300)), ..Retry::default() };
    let job = JobSpec { retry, ..broadcast("stubborn", &script, Broadcast::default()) };
    let id = fleet.run(&job).await;
    fleet.begun(id, &["w1", "w2", "w3"]).await;
    fleet.worker("w3").kill();
    let failed = fleet.until_task_on(id, "w1", SOON, |task| task.state.is_ended()).await;
    assert_eq!((failed.state, failed.failures), (TaskState::Failed, 3), "{failed:?}");
    assert_eq!(failed.reason.as_deref(), Some("exit_code"), "{failed:?}");
    fleet.effects.open("go");

    let view = fleet.ended(id, AFTER_A_LOSS).await;
    assert_eq!(verdict(&view), (InstanceState::Failed, Some("tasks_failed")), "{view:?}");
    let counts = view.tasks.expect("it has tasks").counts;
    assert_eq!((counts.succeeded, counts.failed, counts.lost), (1, 1, 1), "{counts:?}");
    let mut tries: Vec<_> = fleet.effects.begun(id).into_iter().map(|run| (run.worker, run.attempt)).collect();
    tries.sort();
    let expected = [("w1", 1), ("w1", 2), ("w1", 3), ("w2", 1), ("w3", 1)];
    assert_eq!(tries, expected.map(|(worker, attempt)| (worker.to_owned(), attempt)));
}

/// The server is killed in the middle of a broadcast: the next one goes on with the stored list, and nobody runs twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s2_6_a_server_killed_in_the_middle_repeats_nothing_and_asks_nobody_else() {
    let mut fleet = Fleet::start(&["w1", "w2", "w3"]).await;
    let script = format!(
        "{}if [ $PENDULA_TASK_ROLE = target ]; then\n{}{}fi\n",
        fleet.effects.begin(),
        fleet.effects.gate("$E2E_WORKER"),
        fleet.effects.end()
    );
    let settings = Broadcast { pre: true, post: true, ..Broadcast::default() };
    let id = fleet.run(&broadcast("roll", &script, settings)).await;
    let targets = |count| {
        let begun = fleet.effects.begun(id).into_iter().filter(|run| run.role == "target").count();
        std::future::ready((begun == count).then_some(()))
    };
    eventually("all targets run", SOON, || targets(3)).await;
    let frozen = fleet.client.instance_fetch(id).await.expect("it exists").tasks.and_then(|tasks| tasks.targets);

    fleet.server.kill();
    // One ends while there is no server, the others later.
    fleet.effects.open("w1");
    eventually("the first has ended", SOON, || async { (fleet.effects.ended(id).len() == 1).then_some(()) }).await;
    fleet.add("w4");
    fleet.server.restart().await;
    fleet.connected(&["w1", "w2", "w3", "w4"]).await;
    fleet.until_task_on(id, "w1", SOON, |task| task.state == TaskState::Succeeded).await;
    fleet.server.restart().await;
    fleet.effects.open("w2");
    fleet.effects.open("w3");

    let view = fleet.ended(id, AFTER_A_LOSS).await;
    assert_eq!(verdict(&view), (InstanceState::Succeeded, None), "{view:?}");
    assert_eq!(view.tasks.and_then(|tasks| tasks.targets), frozen, "the list is what it was");
    let tasks = fleet.tasks(id).await;
    let expected = ["w1", "w2", "w3"].map(|worker| (worker, TaskState::Succeeded));
    assert_eq!(outcomes(&tasks), expected.into(), "{tasks:?}");
    assert!(tasks.iter().all(|task| task.attempt == 1), "{tasks:?}");
    let runs = fleet.effects.begun(id);
    let by = |role: &str| runs.iter().filter(|run| run.role == role).map(|run| &*run.worker).collect::<Vec<_>>();
    assert_eq!(by("target"), ["w1", "w2", "w3"], "once per target");
    assert_eq!((by("pre").len(), by("post").len()), (1, 1));
}

/// A worker that connects while a broadcast runs takes part only where the job asks for it, and then once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s2_7_a_joiner_takes_part_only_when_asked_for() {
    let mut fleet = Fleet::start(&["w1", "w2"]).await;
    let script = format!("{}{}", fleet.effects.begin(), fleet.effects.gate("go"));
    let closed = fleet.run(&broadcast("closed", &script, Broadcast::default())).await;
    let open = Broadcast { include_late_joiners: true, ..Broadcast::default() };
    let open = fleet.run(&broadcast("open", &script, open)).await;
    for id in [closed, open] {
        fleet.begun(id, &["w1", "w2"]).await;
    }
    fleet.add("w3");
    fleet.begun(open, &["w3"]).await;
    // It joins once, however often it connects.
    fleet.server.restart().await;
    fleet.connected(&["w1", "w2", "w3"]).await;
    fleet.effects.open("go");

    for (id, workers) in [(closed, &["w1", "w2"][..]), (open, &["w1", "w2", "w3"])] {
        let view = fleet.ended(id, SOON).await;
        assert_eq!(verdict(&view), (InstanceState::Succeeded, None), "{view:?}");
        let tasks = view.tasks.expect("it has tasks");
        assert_eq!(tasks.counts.total, workers.len() as u64, "{tasks:?}");
        let targets = tasks.targets.expect("the list is stored").to_string();
        assert_eq!(targets.contains("w3"), workers.contains(&"w3"), "{targets}");
        assert_eq!(fleet.effects.per_worker(id), once_each(workers));
    }
}

/// Without a worker, and when all are lost, a broadcast ends with a reason that says so, and only once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s2_12_no_worker_and_all_targets_lost_have_names() {
    let mut fleet = Fleet::start(&[]).await;
    let script = format!("{}{}", fleet.effects.begin(), fleet.effects.gate("never"));
    let nobody = fleet.run(&broadcast("alone", &script, Broadcast::default())).await;
    let view = fleet.ended(nobody, SOON).await;
    assert_eq!(verdict(&view), (InstanceState::Failed, Some("no_worker")), "{view:?}");

    fleet.add("w1");
    fleet.add("w2");
    fleet.connected(&["w1", "w2"]).await;
    let any = Broadcast { success: BroadcastSuccess::Any, ..Broadcast::default() };
    let id = fleet.run(&broadcast("doomed", &script, any)).await;
    fleet.begun(id, &["w1", "w2"]).await;
    fleet.worker("w1").kill();
    fleet.worker("w2").kill();
    let view = fleet.ended(id, AFTER_A_LOSS).await;
    assert_eq!(verdict(&view), (InstanceState::Failed, Some("all_targets_lost")), "{view:?}");
    assert_eq!(fleet.effects.per_worker(id), once_each(&["w1", "w2"]));
    assert_eq!(fleet.effects.begun(nobody), [], "what had no worker never ran");
    for job in ["alone", "doomed"] {
        let filter =
            InstanceFilter { job: Some(job.to_owned()), app: Some(fleet.app().to_owned()), ..Default::default() };
        let page = fleet.client.instance_list(&filter).await.expect("listing works");
        assert_eq!(page.items.len(), 1, "nothing was made in its place");
    }
}

/// A worker that is back under its old name within two seconds is another process: it inherits only what the job lets
/// it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_restarted_at_once_inherits_only_when_asked_for() {
    let mut fleet = Fleet::start(&["w1", "w2"]).await;
    let script = format!("{}{}{}", fleet.effects.begin(), fleet.effects.gate("go"), fleet.effects.end());
    let strict = fleet.run(&broadcast("strict", &script, Broadcast::default())).await;
    let heir = Broadcast { rerun_on_same_worker: true, ..Broadcast::default() };
    let heir = fleet.run(&broadcast("heir", &script, heir)).await;
    for id in [strict, heir] {
        fleet.begun(id, &["w1", "w2"]).await;
    }
    let killed = Instant::now();
    fleet.worker("w1").kill();
    fleet.add("w1");
    assert!(killed.elapsed() < Duration::from_secs(2), "it was started at once");
    fleet.connected(&["w1", "w2"]).await;

    let again = fleet.until_task_on(heir, "w1", AFTER_A_LOSS, |task| task.attempt == 2).await;
    assert_eq!(again.losses, 1, "{again:?}");
    let lost = fleet.until_task_on(strict, "w1", AFTER_A_LOSS, |task| task.state.is_ended()).await;
    assert_eq!((lost.state, lost.attempt), (TaskState::Lost, 1), "{lost:?}");
    fleet.effects.open("go");
    let view = fleet.ended(strict, SOON).await;
    assert_eq!(verdict(&view), (InstanceState::Failed, Some("tasks_failed")), "{view:?}");
    let view = fleet.ended(heir, SOON).await;
    assert_eq!(verdict(&view), (InstanceState::Succeeded, None), "{view:?}");
    assert_eq!(fleet.effects.per_worker(strict), once_each(&["w1", "w2"]), "the new process got nothing of it");
    let expected = BTreeMap::from([("w1".to_owned(), 2), ("w2".to_owned(), 1)]);
    assert_eq!(fleet.effects.per_worker(heir), expected, "once more on the same worker, nowhere else");
    let boots = fleet.boots(heir, again.task).await;
    assert!(boots.len() == 2 && boots[0].is_some() && boots[1].is_some() && boots[0] != boots[1], "{boots:?}");
}

/// Scenario O-7 for many tasks: a stop and a task's timeout end every process on every worker, whatever the script did
/// to hide.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn o_7_a_stopped_broadcast_leaves_no_process_on_any_worker() {
    let fleet = Fleet::start(&["w1", "w2", "w3"]).await;
    let port = fleet.server.port();
    let job = |name: &str, settings: Broadcast| {
        let mark = format!("pendula-e2e-{name}-{port}");
        let script = format!(
            "setsid sh -c 'trap \"\" TERM HUP INT; while :; do sleep 1; done' &\n\
             trap '' TERM\n{}{}",
            fleet.effects.begin(),
            fleet.effects.gate("never")
        );
        let stop_grace = Some(Duration::from_millis(500));
        let job = JobSpec { stop_grace, ..with_mark(broadcast(name, &script, settings), &mark) };
        (mark, job)
    };
    let (stopped_mark, stopped) = job("stopped", Broadcast::default());
    let task_timeout = Some(Duration::from_secs(2));
    let (late_mark, late) = job("late", Broadcast { task_timeout, ..Broadcast::default() });
    let (stopped, late) = (fleet.run(&stopped).await, fleet.run(&late).await);
    for id in [stopped, late] {
        fleet.begun(id, &["w1", "w2", "w3"]).await;
    }
    fleet.client.instance_stop(stopped).await.expect("a running instance can be stopped");

    let view = fleet.ended(stopped, SOON).await;
    assert_eq!(verdict(&view), (InstanceState::Stopped, Some("by_user")), "{view:?}");
    assert_eq!(marked(&stopped_mark), Vec::<i32>::new(), "the stop was confirmed, so nothing may be left");
    let view = fleet.ended(late, SOON).await;
    assert_eq!(verdict(&view), (InstanceState::Failed, Some("tasks_failed")), "{view:?}");
    assert_eq!(marked(&late_mark), Vec::<i32>::new());
    for (id, state, reason) in [(stopped, TaskState::Stopped, "instance_ended"), (late, TaskState::Failed, "timeout")] {
        for task in fleet.tasks(id).await {
            assert_eq!((task.state, task.reason.as_deref()), (state, Some(reason)), "{task:?}");
        }
        assert_eq!(fleet.effects.per_worker(id), once_each(&["w1", "w2", "w3"]));
    }
}
