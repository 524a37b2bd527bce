//! Stops and timeouts leave no process behind, whatever the script did to hide.

use std::time::Duration;

use pendula_client::{Client, RunKey};
use pendula_e2e::process::{eventually, marked};
use pendula_e2e::{Server, ShellWorker};
use pendula_model::InstanceId;
use pendula_model::api::{InstanceView, RunJob};
use pendula_model::instance::InstanceState;
use pendula_model::job::JobSpec;
use pendula_model::processor::{Processor, Script};

const PATIENCE: Duration = Duration::from_secs(40);

/// A script whose grandchild left the session and ignores TERM, as a daemon would; `mark` finds its processes.
fn stubborn(mark: &str) -> String {
    format!(
        "export MARK={mark}\n\
         setsid sh -c 'trap \"\" TERM HUP INT; while :; do sleep 1; done' &\n\
         nohup sh -c 'trap \"\" TERM; (trap \"\" TERM; while :; do sleep 1; done) & wait' >/dev/null 2>&1 &\n\
         trap '' TERM\n\
         echo begun\n\
         while :; do sleep 1; done\n"
    )
}

async fn run(client: &Client, job: &JobSpec) -> InstanceId {
    client.job_create("stop", job).await.expect("the job is valid");
    let run = client.job_run("stop", &job.name, &RunJob::default(), RunKey::Random).await.expect("it can be run");
    run.instance.expect("an accepted run names its instance")
}

async fn ended(client: &Client, id: InstanceId) -> InstanceView {
    eventually("the instance ends", PATIENCE, || async {
        let view = client.instance_fetch(id).await.expect("it exists");
        view.state.is_ended().then_some(view)
    })
    .await
}

async fn begun(mark: &str) {
    // The script, the one that left the session, and the two below nohup.
    eventually("all processes of the script run", PATIENCE, || async { (marked(mark).len() >= 4).then_some(()) }).await;
}

fn job(name: &str, mark: &str) -> JobSpec {
    let stop_grace = Some(Duration::from_millis(500));
    JobSpec { stop_grace, ..JobSpec::new(name, Processor::Shell(Script::new(stubborn(mark)))) }
}

/// Scenario O-7.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn o_7_stop_ends_setsid_grandchildren_that_ignore_term() {
    let server = Server::start().await;
    let token = server.app("stop").await;
    let _worker = ShellWorker::start(&server.url(), "stop", &token, "w", server.directory());
    let client = server.client();
    let mark = format!("pendula-e2e-stop-{}", server.port());
    let id = run(&client, &job("stubborn", &mark)).await;
    begun(&mark).await;
    client.instance_stop(id).await.expect("a running instance can be stopped");
    let view = ended(&client, id).await;
    assert_eq!((view.state, view.reason.as_deref()), (InstanceState::Stopped, Some("by_user")), "{view:?}");
    assert_eq!(marked(&mark), Vec::<i32>::new(), "the stop was confirmed, so nothing may be left");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_timeout_ends_them_too() {
    let server = Server::start().await;
    let token = server.app("stop").await;
    let _worker = ShellWorker::start(&server.url(), "stop", &token, "w", server.directory());
    let client = server.client();
    let mark = format!("pendula-e2e-timeout-{}", server.port());
    let timeout = Some(Duration::from_secs(3));
    let id = run(&client, &JobSpec { timeout, ..job("slow", &mark) }).await;
    begun(&mark).await;
    let view = ended(&client, id).await;
    assert_eq!((view.state, view.reason.as_deref()), (InstanceState::Failed, Some("timeout")), "{view:?}");
    assert_eq!(marked(&mark), Vec::<i32>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_of_the_worker_ends_them_too() {
    let server = Server::start().await;
    let token = server.app("stop").await;
    let mut worker = ShellWorker::start(&server.url(), "stop", &token, "w", server.directory());
    let client = server.client();
    let mark = format!("pendula-e2e-death-{}", server.port());
    run(&client, &job("orphan", &mark)).await;
    begun(&mark).await;
    worker.kill();
    eventually("nothing is left", PATIENCE, || async { marked(&mark).is_empty().then_some(()) }).await;
}
