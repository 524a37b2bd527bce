//! Workers whose clocks are wrong. A small library, loaded before the system's, lies to the worker and to its scripts
//! about the time of day.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use pendula_e2e::ShellWorker;
use pendula_e2e::fleet::{Fleet, SOON, broadcast};
use pendula_model::Timestamp;
use pendula_model::instance::{InstanceState, TaskState};
use pendula_model::mode::Broadcast;

/// Compiles the library that lies.
fn wrong_clock(directory: &Path) -> PathBuf {
    let source = directory.join("wrong_clock.c");
    std::fs::write(&source, include_str!("wrong_clock.c")).expect("the directory is writable");
    let library = directory.join("wrong_clock.so");
    let output = Command::new("cc").args(["-O1", "-shared", "-fPIC", "-o"]).arg(&library).arg(&source).output();
    let output = output.expect("there is a C compiler, which the build needs too");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    library
}

fn now() -> Timestamp {
    Timestamp::from_micros(jiff::Timestamp::now().as_microsecond())
}

/// Clocks that are five minutes ahead, five minutes behind, and jump between both have no effect: the workers stay
/// connected for longer than any silence is tolerated, run what they get once, and their times are told in the
/// server's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s2_9_wrong_and_jumping_clocks_of_workers_have_no_effect() {
    let mut fleet = Fleet::start(&[]).await;
    let library = wrong_clock(fleet.server.directory());
    let workers = [("ahead", "300", false), ("behind", "-300", false), ("jumping", "300", true), ("right", "0", false)];
    for (name, error, jumps) in workers {
        let lie = |command: &mut Command| {
            command.env("LD_PRELOAD", &library).env("WRONG_CLOCK", error);
            for passed in ["LD_PRELOAD", "WRONG_CLOCK", "WRONG_CLOCK_JUMPS"] {
                command.args(["--pass-env", passed]);
            }
            if jumps {
                command.env("WRONG_CLOCK_JUMPS", "1");
            }
        };
        let (url, directory) = (fleet.server.url(), fleet.server.directory().to_owned());
        let worker = ShellWorker::start_with(&url, fleet.app(), &fleet.token, name, &directory, lie);
        fleet.enlist(worker);
    }
    let names = workers.map(|(name, ..)| name);
    fleet.connected(&names).await;
    // 13 s of the monotonic clock: longer than the 10 s of silence after which either side gives the other up.
    let script = format!(
        "{}date +%s > {}/clock-$E2E_WORKER\nsleep 13\n{}",
        fleet.effects.begin(),
        fleet.effects.path("").display(),
        fleet.effects.end()
    );
    let task_timeout = Some(Duration::from_secs(60));
    let before = now();
    let id = fleet.run(&broadcast("long", &script, Broadcast { task_timeout, ..Broadcast::default() })).await;
    let connected_at = |workers: &[pendula_model::api::WorkerView]| {
        workers.iter().map(|worker| (worker.name.clone(), worker.connected_at)).collect::<Vec<_>>()
    };
    let at_first = connected_at(&fleet.client.worker_list(fleet.app()).await.expect("listing works"));
    let view = fleet.ended(id, SOON + Duration::from_secs(13)).await;
    let after = now();
    assert_eq!(view.state, InstanceState::Succeeded, "{view:?}");
    let at_last = connected_at(&fleet.client.worker_list(fleet.app()).await.expect("listing works"));
    assert_eq!(at_last, at_first, "nobody had to connect again");

    for (name, error, jumps) in workers {
        let task = fleet.task_on(id, name).await;
        assert_eq!((task.state, task.attempt), (TaskState::Succeeded, 1), "{task:?}");
        let (started, ended) = (task.started_at.expect("it started"), task.ended_at.expect("it ended"));
        assert!(before <= started && started < ended && ended <= after, "{before} {task:?} {after}");
        assert!(ended.since(started) >= Duration::from_secs(12), "{task:?}");
        // The lie worked, or this test shows nothing.
        let clock = std::fs::read_to_string(fleet.effects.path(&format!("clock-{name}"))).expect("the script wrote it");
        let clock: i64 = clock.trim().parse().expect("it is a number");
        let wrong_by = clock - started.as_micros() / 1_000_000;
        let error: i64 = error.parse().expect("a number");
        let is_so_wrong = |error: i64| (error - 5..=error + 20).contains(&wrong_by);
        assert!(is_so_wrong(error) || (jumps && is_so_wrong(-error)), "{name}'s clock is wrong by {wrong_by} s");
    }
    let runs: Vec<_> = fleet.effects.begun(id).into_iter().map(|run| (run.worker, run.attempt)).collect();
    assert_eq!(runs, names.map(|name| (name.to_owned(), 1)), "once each");
    let printed = fleet.printed_by("ahead");
    let first = printed.split_whitespace().next().expect("it logs").trim_end_matches('Z').to_owned() + "Z";
    if let Ok(at) = first.parse::<jiff::Timestamp>() {
        let wrong_by = at.as_second() - before.as_micros() / 1_000_000;
        assert!(wrong_by > 200, "the worker itself was lied to: {first}");
    } else {
        panic!("the worker's log begins with no time: {first}");
    }
}
