//! Instances with many tasks, as the commands show them.

use crate::command::{Done, Pendula};
use crate::live::{Live, blocking};

const JOBS: &str = "\
app: demo
jobs:
  - name: shards
    mode: { sharded: 4 }
    processor: { shell: 'echo shard $PENDULA_SHARD_INDEX; test $PENDULA_SHARD_INDEX != 2' }
  - name: map
    mode: { map_reduce: { tolerate: 1%, per_worker: 8 } }
    params: { tasks: 30 }
    processor: { handler: noop }
    weight: 5
  - name: everywhere
    mode: { broadcast: { success: { at_least: 50% } } }
    processor: { handler: noop }
  - name: nowhere
    mode: map
    processor: { handler: noop }
    workers:
      labels: { zone: { in: [a, b] }, tier: { not_in: [spot] } }
      min: { memory: 1MiB }
      strategy: { sticky_hash: day }
";

async fn with_jobs(work: impl FnOnce(Pendula) + Send + 'static) {
    let (live, pendula) = Live::start().await;
    blocking(move || {
        let file = pendula.file("jobs.yaml", JOBS).display().to_string();
        pendula.ok(&["apply", "-f", &file]);
        work(pendula);
    })
    .await;
    live.stop().await;
}

/// The latest instance of a job.
fn latest(pendula: &Pendula, job: &str) -> String {
    let listed = pendula.json(&["instance", "list", "--job", job, "--limit", "1"]);
    listed["items"][0]["id"].as_str().expect("an instance").to_owned()
}

fn has(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn modes_selectors_and_weights_survive_a_file_and_an_export() {
    with_jobs(|pendula| {
        let exported = pendula.ok(&["export", "--app", "demo"]);
        has(
            &exported,
            &["map_reduce:", "tolerate: 1%", "weight: 5", "at_least: 50%", "sticky_hash: day", "mode: map\n"],
        );
        let diff = pendula.run_with_input(&["diff", "-f", "-"], &exported);
        has(&diff.out, &["plan: 4 unchanged"]);
        let changed = JOBS.replace("tolerate: 1%", "tolerate: 2").replace("in: [a, b]", "in: [a]");
        let changed = pendula.file("changed.yaml", &changed).display().to_string();
        let diff = pendula.ok(&["diff", "-f", &changed]);
        has(&diff, &["~ map", "~ nowhere", "mode.map_reduce.tolerate", "workers.labels.zone.in"]);
        let wrong = pendula.file("wrong.yaml", &JOBS.replace("sharded: 4", "sharded: 0")).display().to_string();
        let Done { code, err, out } = pendula.run(&["apply", "-f", &wrong]);
        assert_eq!(code, 2, "{out}{err}");
        has(&err, &["wrong.yaml:4:22: job `shards`: mode.sharded.total: 0 is not allowed"]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_waited_run_of_many_tasks_shows_how_far_it_is_and_sums_up_what_failed() {
    with_jobs(|pendula| {
        let Done { code, out, err } = pendula.run(&["job", "run", "shards", "--wait"]);
        assert_eq!((code, out.as_str()), (1, ""), "{err}");
        let id = latest(&pendula, "shards");
        has(&err, &["4 of 4 ended, 1 failed", "1 of 4 tasks did not succeed", "2/4", "exit_code"]);
        has(&err, &[&format!("pendula instance tasks {id} --state failed,lost"), "tasks_failed"]);

        let Done { code, out, err } = pendula.run(&["job", "run", "map", "--wait"]);
        assert_eq!((code, out.as_str()), (0, ""), "{err}");
        has(&err, &["30 of 30 ended", "succeeded"]);
        assert!(!err.contains("did not succeed"), "{err}");
        let waited = pendula.json(&["job", "run", "map", "--wait"]);
        assert_eq!((&waited["state"], &waited["tasks"]["succeeded"]), (&"succeeded".into(), &30.into()));

        let again = pendula.run(&["instance", "retry", &id, "--only-unsuccessful", "--wait"]);
        assert_eq!(again.code, 1, "{}", again.err);
        has(&again.err, &["1 of 1 ended, 1 failed"]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_are_listed_shown_and_their_logs_and_results_printed() {
    with_jobs(|pendula| {
        assert_eq!(pendula.run(&["job", "run", "shards", "--wait"]).code, 1);
        let id = latest(&pendula, "shards");
        let listed = pendula.ok(&["instance", "tasks", &id]);
        let rows: Vec<_> = listed.lines().collect();
        assert_eq!(rows.len(), 5, "{listed}");
        has(rows[0], &["TASK", "NAME", "KIND", "STATE", "ATTEMPT", "TOOK", "WORKER", "REASON"]);
        has(rows[3], &["2", "2/4", "shard", "failed", "w1", "exit_code"]);
        let page = pendula.ok(&["instance", "tasks", &id, "-n", "2"]);
        let cursor = page.rsplit("--cursor ").next().expect("a cursor").trim();
        let rest = pendula.json(&["instance", "tasks", &id, "--cursor", cursor]);
        assert_eq!(rest["items"][0]["task"], 2);
        let failed = pendula.json(&["instance", "tasks", &id, "--state", "failed,lost"]);
        assert_eq!(failed["items"].as_array().map(Vec::len), Some(1));
        assert_eq!(pendula.ok(&["instance", "tasks", &id, "--name", "none"]), "no tasks\n");
        assert_eq!(pendula.run(&["instance", "tasks", &id, "--state", "done"]).code, 2);

        has(
            &pendula.ok(&["instance", "task", &id, "2"]),
            &["2 of instance", "2/4", "failed", "exit_code", "ATTEMPT", "--task 2"],
        );
        let missing = pendula.run(&["instance", "task", &id, "9"]);
        assert_eq!(missing.code, 3);
        has(&missing.err, &["task_not_found", "pendula instance tasks ID"]);
        assert_eq!(pendula.ok(&["instance", "logs", &id, "--task", "2"]), "shard 2\n");
        let Done { code, out, err } = pendula.run(&["instance", "logs", "-f", &id, "--task", "2"]);
        assert_eq!((code, out.as_str()), (1, "shard 2\n"), "{err}");
        has(&err, &[&format!("task 2 of instance {id} failed"), &format!("pendula instance task {id} 2")]);

        pendula.ok(&["job", "run", "map", "--wait"]);
        let id = latest(&pendula, "map");
        // The root is the first, the reduce the last one.
        assert_eq!(pendula.ok(&["instance", "task", &id, "31", "--result"]), r#"{"succeeded":30,"unsuccessful":0}"#);
        has(&pendula.ok(&["instance", "task", &id, "0"]), &["root", "30 sub-tasks"]);
        assert_eq!(pendula.run(&["instance", "task", &id, "1", "--result"]).code, 3);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_with_many_tasks_is_shown_followed_and_explained() {
    with_jobs(|pendula| {
        let run = pendula.json(&["job", "run", "map"]);
        let id = run["instance"].as_str().expect("an instance");
        let followed = pendula.ok(&["instance", "show", "-f", id]);
        has(&followed, &["30 of 30 ended", "mode", "map_reduce", "succeeded", "pendula instance tasks"]);
        let listed = pendula.ok(&["instance", "list", "--job", "map"]);
        has(&listed, &["30 of 30 tasks"]);
        has(&pendula.ok(&["instance", "why", id, "--task", "3"]), &["it ended succeeded on worker w1"]);

        pendula.ok(&["job", "run", "everywhere", "--wait"]);
        let shown = pendula.ok(&["instance", "show", &latest(&pendula, "everywhere")]);
        let targets: Vec<_> = shown.lines().skip_while(|line| !line.starts_with("TARGET")).take(2).collect();
        assert!(targets.len() == 2 && targets[1].starts_with("w1") && targets[1].contains("yes"), "{shown}");

        let run = pendula.json(&["job", "run", "nowhere"]);
        let id = run["instance"].as_str().expect("an instance");
        let why = pendula.ok(&["instance", "why", id]);
        has(&why, &["none of the 1 connected workers may run it", "  → start a worker", "AGAINST IT", "no label zone"]);
        let shown = pendula.ok(&["instance", "show", id]);
        has(&shown, &["phase", "main", "0 of 0 ended"]);
        let retried = pendula.ok(&["instance", "retry-tasks", id]);
        has(&retried, &["0 tasks of instance"]);
        pendula.ok(&["instance", "stop", id]);
        let ended = pendula.run(&["instance", "retry-tasks", id]);
        assert_eq!(ended.code, 3);
        has(&ended.err, &["instance_ended", "pendula instance retry ID"]);
        let refused = pendula.run(&["instance", "retry", id, "--only-unsuccessful"]);
        assert_eq!(refused.code, 3);
        has(&refused.err, &["nothing_to_retry", "run all of it again"]);
    })
    .await;
}
