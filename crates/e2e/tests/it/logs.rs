//! Logs of workers that die.

use std::time::Duration;

use futures::StreamExt;
use pendula_client::{FollowOptions, LogRange, RunKey};
use pendula_e2e::process::eventually;
use pendula_e2e::{Server, ShellWorker};
use pendula_model::api::{LogEvent, RunJob};
use pendula_model::job::JobSpec;
use pendula_model::processor::{Processor, Script};

/// Scenario O-9: when a worker is killed, at most a second of the tail is lost, that is marked, and the next attempt's
/// log is another one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn o_9_a_killed_worker_leaves_a_log_that_says_where_it_was_cut_off() {
    let server = Server::start().await;
    let token = server.app("logs").await;
    let client = server.client();
    let script = "n=0; while [ $n -lt 40 ]; do n=$((n+1)); date +%s%3N; sleep 0.05; done";
    let job = JobSpec::new("ticks", Processor::Shell(Script::new(script)));
    client.job_create("logs", &job).await.expect("the job is valid");
    let mut first = ShellWorker::start(&server.url(), "logs", &token, "first", server.directory());
    let run = client.job_run("logs", "ticks", &RunJob::default(), RunKey::Random).await.expect("it can be run");
    let id = run.instance.expect("an accepted run names its instance");
    eventually("some lines are there", Duration::from_secs(20), || async {
        let log = client.log_fetch(id, LogRange::default()).await.ok()?;
        (log.data.lines().count() >= 10).then_some(())
    })
    .await;
    let killed_at = jiff::Timestamp::now().as_millisecond();
    first.kill();
    let _second = ShellWorker::start(&server.url(), "logs", &token, "second", server.directory());

    let mut texts = [String::new(), String::new()];
    let mut cut_off = Vec::new();
    let mut events = Box::pin(client.follow(id, FollowOptions::default()).into_stream());
    let end = loop {
        match events.next().await.expect("the stream ends with an event").expect("the server answers") {
            LogEvent::Log { attempt, data, .. } => texts[attempt as usize - 1].push_str(&data),
            LogEvent::CutOff { attempt, .. } => cut_off.push(attempt),
            LogEvent::End { state, .. } => break state,
            LogEvent::State { .. } | LogEvent::Gap { .. } | LogEvent::Tasks { .. } => {}
        }
    };
    assert_eq!(end.as_str(), "succeeded", "the second worker ran it again");
    assert_eq!(cut_off, vec![1], "the first attempt's log is marked");
    let lines = |text: &str| text.lines().map(|line| line.parse::<i64>().expect("a time")).collect::<Vec<_>>();
    let (first, second) = (lines(&texts[0]), lines(&texts[1]));
    let missing = killed_at - first.last().expect("ten lines were seen");
    assert!((..1000).contains(&missing), "{missing} ms of the tail are lost");
    assert_eq!(second.len(), 40, "the second attempt's log is complete");
    assert!(second.iter().all(|at| *at > killed_at), "and has nothing of the first");
    let old = client.log_fetch(id, LogRange { attempt: Some(1), ..LogRange::default() }).await.expect("it is kept");
    assert!(old.cut_off && !old.end && lines(&old.data) == first, "{old:?}");
}
