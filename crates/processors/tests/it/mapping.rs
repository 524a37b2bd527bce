//! Scripts as parts of an instance with many tasks: what they get, what they emit, what they read.

use std::time::{Duration, Instant};

use pendula_processors::script::{Language, ScriptConfig};
use pendula_worker::testing::TestTask;
use pendula_worker::{Payload, Reason, TaskId, TaskOutcome, TaskResult, TaskRole};
use serde_json::{Value, json};

use crate::attempt::{Ended, Started, start_task, supervised, task};
use crate::processes::Mailbox;

fn script(text: &str, role: TaskRole) -> TestTask {
    task(&json!(text), &json!({})).role(role)
}

fn root(text: &str) -> Started {
    start_task(Language::Shell, supervised(), script(text, TaskRole::Root))
}

async fn shell(task: TestTask) -> Ended {
    start_task(Language::Shell, supervised(), task).end().await
}

fn inputs(ended: &Ended) -> Vec<&str> {
    ended.mapped.iter().map(|task| std::str::from_utf8(task.input()).unwrap()).collect()
}

fn input(content_type: &str, bytes: impl Into<Vec<u8>>) -> Payload {
    Payload { content_type: content_type.to_owned(), bytes: bytes.into() }
}

/// Waits until the script printed something.
async fn printed(started: &Started) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while started.probe.log_text().is_empty() {
        assert!(Instant::now() < deadline, "the script prints nothing");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Waits until as many sub-tasks came.
async fn mapped(started: &Started, count: usize) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while started.probe.mapped().len() < count {
        assert!(Instant::now() < deadline, "only {} sub-tasks came", started.probe.mapped().len());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn each_line_becomes_a_sub_task_in_order() {
    let ended = root("seq 100000 > \"$PENDULA_TASKS\"").end().await;
    assert!(ended.outcome.is_ok(), "{:?}", ended.outcome);
    assert_eq!(ended.mapped.len(), 100_000);
    for (n, task) in ended.mapped.iter().enumerate() {
        let line = (n + 1).to_string();
        assert_eq!((task.name(), task.input()), (line.as_str(), line.as_bytes()));
    }
}

#[tokio::test]
async fn the_fifo_may_be_opened_often_and_by_whatever_the_script_started() {
    let text = r#"
        echo one > "$PENDULA_TASKS"
        printf 'two\n\n{"name": "third", "input": {"n": 3}}\n' > "$PENDULA_TASKS"
        exec 3> "$PENDULA_TASKS"
        echo four >&3
        (sleep 0.05; printf 'late' >&3) &
    "#;
    let ended = root(text).end().await;
    assert!(ended.outcome.is_ok(), "{:?}", ended.outcome);
    assert_eq!(inputs(&ended), ["one", "two", r#"{"n":3}"#, "four", "late"]);
    assert_eq!((ended.mapped[2].name(), ended.mapped[2].content_type()), ("third", "application/json"));
    // Nobody must write there.
    assert_eq!(root("echo nothing to do").end().await.mapped, []);
}

#[tokio::test]
async fn s2_sub_tasks_are_on_their_way_while_the_script_writes_more() {
    let mailbox = Mailbox::new();
    let text = format!("exec > \"$PENDULA_TASKS\"; echo first; read answer < {}; echo $answer", mailbox.path());
    let started = root(&text);
    mapped(&started, 1).await;
    std::fs::write(mailbox.path(), "second\n").unwrap();
    assert_eq!(inputs(&started.end().await), ["first", "second"]);
}

#[tokio::test]
async fn an_attempt_ends_when_its_sub_tasks_are_stored_and_a_stop_does_not_wait_for_that() {
    let started = root("echo one > \"$PENDULA_TASKS\"; echo written");
    started.probe.hold_answers();
    printed(&started).await;
    assert_eq!(started.probe.mapped(), []);
    started.probe.answer();
    assert_eq!(inputs(&started.end().await), ["one"]);

    // More than fits anywhere: the script waits in its `write`.
    let started = root("echo begin; seq 100000000 > \"$PENDULA_TASKS\"");
    started.probe.hold_answers();
    printed(&started).await;
    started.probe.cancel();
    let ended = started.end().await;
    assert!(ended.outcome.is_err() && ended.log.contains("stop requested"), "{}", ended.log);
}

#[tokio::test]
async fn a_bad_line_ends_the_script_and_is_named() {
    for (text, message) in [
        ("printf 'a\\n\\n{broken\\n'", "line 3 of $PENDULA_TASKS: it begins with `{`"),
        ("printf 'a\\nb\\377\\n'", "line 2 of $PENDULA_TASKS: it is not UTF-8"),
        ("head -c 600000 /dev/zero | tr '\\0' x", "line 1 of $PENDULA_TASKS: it has more than 524288 bytes"),
        ("head -c 300000 /dev/zero | tr '\\0' x; echo", "line 1 of $PENDULA_TASKS: the input has 300000 bytes"),
        ("echo '{\"nam\": 1, \"input\": 2}'", "`nam` is neither"),
    ] {
        let begin = Instant::now();
        let ended = root(&format!("({text}) > \"$PENDULA_TASKS\"; sleep 600")).end().await;
        assert!(begin.elapsed() < Duration::from_secs(60));
        let failure = ended.outcome.as_ref().unwrap_err();
        assert_eq!((failure.reason.as_str(), failure.retry), ("bad_sub_task", false));
        assert!(failure.message.contains(message), "{}", failure.message);
        assert!(ended.log.contains("[pendula] the script is ended: line"), "{}", ended.log);
    }
    // The last word of a script that ended well.
    let ended = root("printf '{' > \"$PENDULA_TASKS\"").end().await;
    assert_eq!(ended.reason(), "bad_sub_task");
}

#[tokio::test]
async fn a_script_that_ignores_that_its_sub_tasks_are_refused_is_killed() {
    let text = "trap '' TERM; while :; do echo x > \"$PENDULA_TASKS\"; done";
    let started = root(text);
    mapped(&started, 1).await;
    started.probe.refuse_maps("the instance has too many tasks");
    let ended = started.end().await;
    assert_eq!(ended.reason(), "map_refused");
    assert!(ended.message().contains("too many tasks"), "{}", ended.message());
}

#[tokio::test]
async fn python_emits_and_another_try_adds_only_what_is_new() {
    let text = r#"
import json, os
with open(os.environ["PENDULA_TASKS"], "w") as tasks:
    for n in range(5):
        print(json.dumps({"name": f"rows {n}", "input": {"from": n * 100}}), file=tasks)
print(os.environ["PENDULA_TASK_ROLE"], os.environ["PENDULA_TASK_ID"], "PENDULA_TASK_INPUT" in os.environ)
"#;
    let task = script(text, TaskRole::Root).emitted(3);
    let ended = start_task(Language::Python, supervised(), task).end().await;
    assert_eq!(ended.log, "root 0 False\n", "{:?}", ended.outcome);
    assert_eq!(inputs(&ended), [r#"{"from":300}"#, r#"{"from":400}"#]);
}

#[tokio::test]
async fn a_sub_task_gets_its_input_in_every_way_and_may_emit_more() {
    let text = r#"
        echo "$PENDULA_TASK_ROLE $PENDULA_TASK_ID $PENDULA_TASK_NAME"
        echo "$PENDULA_TASK_INPUT"; cat "$PENDULA_TASK_INPUT_FILE"; echo
        echo ${task.name} ${task.input}
        echo deeper > "$PENDULA_TASKS"
    "#;
    let nasty = "$(touch /tmp/never) '\"; `exit 1` *";
    let task = script(text, TaskRole::Sub).task(TaskId(7), "a * b").input(input("text/plain", nasty));
    let ended = shell(task).await;
    assert_eq!(ended.log, format!("sub 7 a * b\n{nasty}\n{nasty}\na * b {nasty}\n"), "{:?}", ended.outcome);
    assert_eq!(inputs(&ended), ["deeper"]);

    // What cannot be a variable is still a file.
    let text = "echo ${PENDULA_TASK_INPUT-none}; wc -c < \"$PENDULA_TASK_INPUT_FILE\"";
    for bytes in [vec![b'x'; 256 * 1024], vec![0xff; 3], b"a\0b".to_vec()] {
        let length = bytes.len();
        let ended = shell(script(text, TaskRole::Sub).input(input("a/b", bytes))).await;
        assert_eq!(ended.log, format!("none\n{length}\n"));
    }
}

#[tokio::test]
async fn what_a_task_may_not_do_it_gets_no_means_for() {
    let text =
        "env | grep -o '^PENDULA_\\(T\\|S\\|RESULTS\\)[A-Z_]*=' | grep -v 'SCRATCH\\|TIMEZONE' | sort | tr -d '\\n'";
    let about = "PENDULA_TASK_ID=PENDULA_TASK_NAME=PENDULA_TASK_ROLE=";
    assert_eq!(shell(task(&json!(text), &json!({}))).await.log, "");
    assert_eq!(shell(script(text, TaskRole::Target)).await.log, about);
    assert_eq!(shell(script(text, TaskRole::Pre)).await.log, about);
    assert_eq!(shell(script(text, TaskRole::Root)).await.log, format!("PENDULA_TASKS={about}"));
    assert_eq!(shell(script(text, TaskRole::Post)).await.log, format!("PENDULA_RESULTS={about}"));
    let shard = script(text, TaskRole::Shard).shard(2, 8);
    assert_eq!(shell(shard).await.log, format!("PENDULA_SHARD_INDEX=PENDULA_SHARD_TOTAL={about}"));
    let shard = script("echo $PENDULA_SHARD_INDEX of ${shard.total}", TaskRole::Shard).shard(2, 8);
    assert_eq!(shell(shard).await.log, "2 of 8\n");
}

fn result(id: u64) -> TaskResult {
    let failed = id.is_multiple_of(100);
    TaskResult {
        task: TaskId(id),
        name: format!("part {id}"),
        outcome: if failed { TaskOutcome::Failed } else { TaskOutcome::Succeeded },
        result: (!failed).then(|| Payload::json(format!(r#"{{"words": {id}}}"#))),
        reason: failed.then_some(Reason::EXIT_CODE),
        message: failed.then(|| "exit code 3".to_owned()),
        worker: Some("w1".to_owned()),
    }
}

#[tokio::test]
async fn a_reduce_finds_all_results_in_a_file() {
    let text = r#"
import json, os
results = [json.loads(line) for line in open(os.environ["PENDULA_RESULTS"])]
print(len(results), sum(r["result"]["words"] for r in results if r["outcome"] == "succeeded"))
print(json.dumps(results[99]))
"#;
    let task = script(text, TaskRole::Reduce).results((1..=250).map(result));
    let ended = start_task(Language::Python, supervised(), task).end().await;
    let (counts, failed) = ended.log.split_once('\n').unwrap_or_else(|| panic!("{:?}", ended.outcome));
    assert_eq!(counts, format!("250 {}", 250 * 251 / 2 - 300));
    let failed: Value = serde_json::from_str(failed).unwrap();
    let expected = json!({
        "task": 100, "name": "part 100", "outcome": "failed", "reason": "exit_code", "message": "exit code 3",
        "worker": "w1"
    });
    assert_eq!(failed, expected);
    assert_eq!(shell(script("wc -l < \"$PENDULA_RESULTS\"", TaskRole::Post)).await.log, "0\n");
}

#[tokio::test]
async fn without_a_supervisor_it_works_too() {
    let task = script("echo one > \"$PENDULA_TASKS\"", TaskRole::Root);
    assert_eq!(inputs(&start_task(Language::Shell, ScriptConfig::default(), task).end().await), ["one"]);
    let task = script("echo '{' > \"$PENDULA_TASKS\"; sleep 600", TaskRole::Root);
    assert_eq!(start_task(Language::Shell, ScriptConfig::default(), task).end().await.reason(), "bad_sub_task");
}

#[tokio::test]
async fn sec_17_another_user_can_write_and_read_them() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("this needs root and is skipped");
        return;
    }
    let as_nobody = |text: &str, role| {
        let config = ScriptConfig { run_as: vec!["nobody".to_owned()], ..supervised() };
        let task = task(&json!({ "script": text, "run_as": "nobody" }), &json!({}))
            .role(role)
            .input(input("text/plain", "given"))
            .results([result(1)]);
        start_task(Language::Shell, config, task).end()
    };
    let text = "id -un; cat \"$PENDULA_TASK_INPUT_FILE\"; cat \"$PENDULA_TASK_INPUT_FILE\" > \"$PENDULA_TASKS\"";
    let ended = as_nobody(text, TaskRole::Sub).await;
    assert_eq!(ended.log, "nobody\ngiven", "{:?}", ended.outcome);
    assert_eq!(inputs(&ended), ["given"]);
    let ended = as_nobody("wc -l < \"$PENDULA_RESULTS\"", TaskRole::Reduce).await;
    assert_eq!(ended.log, "1\n", "{:?}", ended.outcome);
}
