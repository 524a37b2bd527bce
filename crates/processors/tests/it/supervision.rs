//! Nothing that a script started is left behind, however the attempt ends.

use std::process::Stdio;

use pendula_processors::script::{Language, ScriptConfig, ScriptHandler};
use serde_json::json;

use crate::attempt::{self, Started, supervised};
use crate::processes::{Mailbox, Watch};

/// A script with a child, a grandchild in another session that ignores TERM, and an orphan whose parents are gone.
/// It writes the number of its supervisor, its own, and theirs.
fn family(mailbox: &str) -> String {
    format!(
        r#"
        stubborn='trap "" TERM; echo $$ > "$0"; while :; do sleep 1; done'
        pids=$(mktemp -d)
        setsid sh -c "$stubborn" "$pids/session" &
        ( (nohup sh -c "$stubborn" "$pids/orphan" >/dev/null 2>&1 &) )
        sleep 1000 &
        child=$!
        trap 'echo told to stop > {mailbox}' TERM
        until [ -s "$pids/session" ] && [ -s "$pids/orphan" ]; do sleep 0.01; done
        echo "$PPID $$ $child $(cat "$pids/session") $(cat "$pids/orphan")" > {mailbox}
        rm -r "$pids"
        # A signal interrupts `wait` at once, while it may get lost between the two halves of starting a program.
        while :; do wait; done
        "#
    )
}

async fn start_family(config: ScriptConfig) -> (Started, Mailbox, Vec<Watch>) {
    let mut mailbox = Mailbox::new();
    let started = attempt::start(Language::Shell, config, &json!(family(mailbox.path())), &json!({}));
    let words = mailbox.words().await;
    assert_eq!(words.len(), 5, "{words:?}");
    let family = words.iter().map(|word| Watch::new(word)).collect();
    (started, mailbox, family)
}

#[tokio::test]
async fn o_7_stop_leaves_no_process_also_no_setsid_grandchild_that_ignores_term() {
    let (started, mut mailbox, family) = start_family(supervised()).await;
    started.probe.cancel();
    assert_eq!(mailbox.words().await.join(" "), "told to stop");
    family[2].ended().await;
    assert!(!family[3].is_gone() && !family[4].is_gone(), "they ignore TERM, and the grace is not over");
    started.probe.kill();
    let ended = started.end().await;
    // Not a moment later: all is gone when the handler returns.
    assert!(family[1..].iter().all(Watch::is_gone));
    assert!(ended.log.contains("[pendula] stop requested"), "{}", ended.log);
    assert!(ended.outcome.is_err());
}

#[tokio::test]
async fn o_7_a_handler_that_is_dropped_takes_its_processes_along() {
    let (started, _mailbox, family) = start_family(supervised()).await;
    started.drop_handler();
    for process in &family {
        process.ended().await;
    }
}

#[tokio::test]
async fn o_7_what_the_script_leaves_behind_ends_with_it_and_the_log_says_so() {
    let mut mailbox = Mailbox::new();
    let path = mailbox.path().to_owned();
    let script = format!("setsid sleep 1000 & echo $! > {path}; echo done");
    let started = attempt::start(Language::Shell, supervised(), &json!(script), &json!({}));
    let sleeper = Watch::new(&mailbox.words().await[0]);
    let ended = started.end().await;
    assert!(ended.outcome.is_ok() && sleeper.is_gone());
    assert!(ended.log.contains("left 1 process(es) behind") && ended.log.contains("sleep"), "{}", ended.log);
}

#[tokio::test]
async fn o_7_a_script_that_kills_its_supervisor_gains_nothing() {
    let mut mailbox = Mailbox::new();
    let path = mailbox.path().to_owned();
    let script = format!("setsid sleep 1000 & echo $! > {path}; kill -9 $PPID; sleep 1000");
    let started = attempt::start(Language::Shell, supervised(), &json!(script), &json!({}));
    let sleeper = Watch::new(&mailbox.words().await[0]);
    let ended = started.end().await;
    assert!(ended.message().contains("supervisor"), "{:?}", ended.outcome);
    sleeper.ended().await;
}

#[tokio::test]
async fn o_7_without_a_supervisor_stop_still_finds_the_family_by_its_environment() {
    let (started, _mailbox, family) = start_family(ScriptConfig::default()).await;
    started.probe.cancel();
    started.probe.kill();
    started.end().await;
    for process in &family[1..] {
        process.ended().await;
    }
}

/// Set for the process that plays the worker: where its script writes.
const MAILBOX: &str = "PROCESSORS_TEST_MAILBOX";
const SCRATCH: &str = "PROCESSORS_TEST_SCRATCH";

#[tokio::test]
async fn o_7_kill_9_of_the_worker_leaves_no_process_and_no_file() {
    let (mut mailbox, scratch) = (Mailbox::new(), tempfile::tempdir().unwrap());
    let mut worker = tokio::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "supervision::plays_the_worker", "--nocapture"])
        .env(MAILBOX, mailbox.path())
        .env(SCRATCH, scratch.path())
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let family: Vec<Watch> = mailbox.words().await.iter().map(|word| Watch::new(word)).collect();
    assert_eq!(family.len(), 5);
    let places = || std::fs::read_dir(&scratch).unwrap().map(|entry| entry.unwrap().path()).collect::<Vec<_>>();
    let [place] = &places()[..] else { panic!("one worker, one place") };
    assert_eq!(std::fs::read_dir(place).unwrap().count(), 1);
    worker.kill().await.unwrap();
    for process in &family {
        process.ended().await;
    }
    // The supervisor, the first of them, ends last, after it removed the attempt's directory.
    assert!(family[1..].iter().all(Watch::is_gone));
    assert_eq!(std::fs::read_dir(place).unwrap().count(), 0);
    let config = ScriptConfig { scratch: scratch.path().to_owned(), ..supervised() };
    let _next_worker = ScriptHandler::new(Language::Shell, config.into());
    assert_eq!(places().len(), 0);
}

/// No test by itself: run as another process by the one above, it is the worker that gets killed.
#[tokio::test]
async fn plays_the_worker() {
    let (Ok(mailbox), Ok(scratch)) = (std::env::var(MAILBOX), std::env::var(SCRATCH)) else { return };
    let config = ScriptConfig { scratch: scratch.into(), ..supervised() };
    attempt::start(Language::Shell, config, &json!(family(&mailbox)), &json!({})).end().await;
}

#[tokio::test]
async fn o_7_processes_that_keep_fleeing_are_caught() {
    let mut mailbox = Mailbox::new();
    let path = mailbox.path().to_owned();
    // Each starts the next and ends, so that a list of processes is old when it is read.
    let script = format!(
        r#"
        cat > flee <<'END'
        [ -e stop ] && exit
        setsid sh ./flee &
        END
        for i in 1 2 3; do setsid sh ./flee & done
        echo $PPID > {path}
        sleep 1000
        "#
    );
    let script = script.replace("        END", "END");
    let started = attempt::start(Language::Shell, supervised(), &json!(script), &json!({}));
    mailbox.words().await;
    started.probe.cancel();
    started.probe.kill();
    let ended = tokio::time::timeout(std::time::Duration::from_secs(20), started.end()).await;
    assert!(ended.is_ok(), "they still flee");
}
