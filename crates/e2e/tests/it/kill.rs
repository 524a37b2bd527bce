//! `kill -9` at random moments under load. `KILLS` says how often (default: a few; `make soak`: 100).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use pendula_client::{Client, InstanceFilter, RunKey};
use pendula_e2e::process::eventually;
use pendula_e2e::{Server, ShellWorker, Witness, all_instances};
use pendula_model::api::{InstanceView, RunJob};
use pendula_model::instance::InstanceState;
use pendula_model::job::JobSpec;
use pendula_model::policy::Delivery;
use pendula_model::processor::{Handler, Processor, Script};
use pendula_model::trigger::{Misfire, Trigger};
use pendula_model::{InstanceId, Timestamp};
use rand::RngExt;

const RATE: Duration = Duration::from_millis(250);
const RATE_JOBS: usize = 8;
const SUBMITTERS: usize = 4;

fn kills(default: usize) -> usize {
    std::env::var("KILLS").ok().map_or(default, |text| text.parse().expect("KILLS is a number"))
}

fn handler(job: &str, name: &str) -> JobSpec {
    JobSpec::new(job, Processor::Handler(Handler { name: name.to_owned(), config: None }))
}

/// A job that fires four times a second and makes up for every fire that it missed.
fn rate_job(number: usize) -> JobSpec {
    let trigger =
        Trigger { fixed_rate: Some(RATE), misfire: Misfire::FireAll, misfire_limit: 10_000, ..Trigger::default() };
    JobSpec { trigger: Some(trigger), ..handler(&format!("rate-{number}"), "count") }
}

/// Runs `job` again and again with idempotency keys, repeating each request until it is answered.
async fn submit(
    client: Client,
    job: &'static str,
    pace: Duration,
    prefix: String,
    stop: Arc<AtomicBool>,
) -> Vec<(String, InstanceId)> {
    let mut acknowledged = Vec::new();
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let key = format!("{prefix}-{number}");
        let instance = loop {
            match client.job_run("load", job, &RunJob::default(), RunKey::Given(&key)).await {
                Ok(result) => break result.instance.expect("an accepted run names its instance"),
                Err(error) if error.is_retryable() => tokio::time::sleep(Duration::from_millis(20)).await,
                Err(error) => panic!("a well-formed run was refused: {error}"),
            }
        };
        acknowledged.push((key, instance));
        tokio::time::sleep(pace).await;
    }
    acknowledged
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_of_the_server_loses_and_doubles_nothing() {
    let rounds = kills(6);
    let mut server = Server::start().await;
    let token = server.app("load").await;
    let client = server.client();
    client.job_create("load", &handler("quick", "count")).await.expect("the job is valid");
    client.job_create("load", &handler("long", "linger")).await.expect("the job is valid");
    for number in 0..RATE_JOBS {
        client.job_create("load", &rate_job(number)).await.expect("the job is valid");
    }
    let witness = Witness::start(&server.url(), "load", &token);

    let stop = Arc::new(AtomicBool::new(false));
    let submitters: Vec<_> = (0..SUBMITTERS)
        .map(|number| {
            let pace = Duration::from_millis(2);
            tokio::spawn(submit(server.client(), "quick", pace, format!("quick-{number}"), stop.clone()))
        })
        .chain([tokio::spawn(submit(server.client(), "long", Duration::from_millis(100), "long".into(), stop.clone()))])
        .collect();

    for round in 1..=rounds {
        let pause = rand::rng().random_range(50..1500);
        tokio::time::sleep(Duration::from_millis(pause)).await;
        server.restart().await;
        if round % 10 == 0 {
            println!("{round} kills");
        }
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    stop.store(true, Ordering::Relaxed);
    let mut acknowledged = Vec::new();
    for submitter in submitters {
        acknowledged.extend(submitter.await.expect("no submitter panicked"));
    }
    for number in 0..RATE_JOBS {
        let job = format!("rate-{number}");
        client.job_disable("load", &job).await.expect("disabling works");
    }
    settled(&client).await;

    let mut instances: BTreeMap<InstanceId, InstanceView> = BTreeMap::new();
    for job in ["quick", "long"] {
        instances.extend(all_instances(&client, "load", job).await.into_iter().map(|view| (view.id, view)));
    }
    println!("{} acknowledged, {} instances, {rounds} kills", acknowledged.len(), instances.len());
    assert_eq!(instances.len(), acknowledged.len(), "one instance per key");
    for (key, id) in &acknowledged {
        let view = instances.get(id).unwrap_or_else(|| panic!("acknowledged instance {id} ({key}) is gone"));
        assert_eq!(view.state, InstanceState::Succeeded, "{id} ({key}): {view:?}");
        assert_eq!(view.idempotency_key.as_ref(), Some(key));
    }

    let mut fired = 0;
    for number in 0..RATE_JOBS {
        let job = format!("rate-{number}");
        let views = all_instances(&client, "load", &job).await;
        let mut times: Vec<Timestamp> = views.iter().map(|view| view.fire_time.expect("a trigger made it")).collect();
        times.sort();
        for pair in times.windows(2) {
            assert_eq!(pair[1].since(pair[0]), RATE, "{job}: a fire is missing or doubled after {}", pair[0]);
        }
        assert!(client.job_gaps("load", &job).await.expect("gaps are readable").gaps.is_empty());
        fired += views.len();
        instances.extend(views.into_iter().map(|view| (view.id, view)));
    }
    println!("{fired} fires without a gap");

    // The worker lived through it all, so each instance ran exactly once: what ran while the server was away was
    // credited, not repeated.
    let executions: HashMap<_, _> = witness.executions();
    for (id, view) in &instances {
        assert_eq!(view.state, InstanceState::Succeeded, "{view:?}");
        assert_eq!(executions.get(id), Some(&1), "executions of {id}: {view:?}");
    }
    assert_eq!(executions.len(), instances.len(), "nothing ran that is not in the store");
    witness.stop().await;
}

async fn settled(client: &Client) {
    let active = InstanceFilter {
        app: Some("load".to_owned()),
        states: vec![
            InstanceState::Waiting,
            InstanceState::Dispatched,
            InstanceState::Running,
            InstanceState::Stopping,
        ],
        limit: Some(1),
        ..InstanceFilter::default()
    };
    eventually("everything has ended", Duration::from_secs(120), || async {
        let page = client.instance_list(&active).await.ok()?;
        page.items.is_empty().then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_of_workers_reruns_what_may_run_twice_and_nothing_else() {
    let rounds = kills(4);
    let server = Server::start().await;
    let token = server.app("load").await;
    let client = server.client();
    let effects = server.directory().join("effects");
    std::fs::create_dir(&effects).expect("the directory is new");
    let script = format!("echo $PENDULA_ATTEMPT >> {}/$PENDULA_INSTANCE; sleep 0.3", effects.display());
    let shell = |name: &str| JobSpec::new(name, Processor::Shell(Script::new(script.clone())));
    client.job_create("load", &shell("twice")).await.expect("the job is valid");
    let once = JobSpec { delivery: Delivery::AtMostOnce, ..shell("once") };
    client.job_create("load", &once).await.expect("the job is valid");

    let stop = Arc::new(AtomicBool::new(false));
    let pace = Duration::from_millis(40);
    let twice = tokio::spawn(submit(server.client(), "twice", pace, "twice".into(), stop.clone()));
    let once = tokio::spawn(submit(server.client(), "once", pace, "once".into(), stop.clone()));
    let killed = AtomicUsize::new(0);
    let mut workers = [1, 2].map(|number| {
        ShellWorker::start(&server.url(), "load", &token, &format!("worker-{number}"), server.directory())
    });
    for round in 0..rounds {
        let pause = rand::rng().random_range(500..1500);
        tokio::time::sleep(Duration::from_millis(pause)).await;
        let victim = &mut workers[round % 2];
        victim.kill();
        killed.fetch_add(1, Ordering::Relaxed);
        let name = victim.name().to_owned();
        *victim = ShellWorker::start(&server.url(), "load", &token, &name, server.directory());
    }
    stop.store(true, Ordering::Relaxed);
    let (twice, once) = (twice.await.expect("no panic"), once.await.expect("no panic"));
    settled(&client).await;

    let attempts = |id: &InstanceId| -> BTreeSet<String> {
        let text = std::fs::read_to_string(effects.join(id.to_string())).unwrap_or_default();
        let lines: Vec<_> = text.lines().map(str::to_owned).collect();
        let distinct: BTreeSet<_> = lines.iter().cloned().collect();
        assert_eq!(lines.len(), distinct.len(), "an attempt of {id} ran twice: {lines:?}");
        distinct
    };
    let mut rerun = 0;
    for (_, id) in &twice {
        let view = client.instance_fetch(*id).await.expect("acknowledged");
        assert_eq!(view.state, InstanceState::Succeeded, "{view:?}");
        rerun += usize::from(attempts(id).len() > 1);
    }
    let mut lost = 0;
    for (_, id) in &once {
        let view = client.instance_fetch(*id).await.expect("acknowledged");
        assert!(attempts(id).len() <= 1, "an at-most-once job ran twice: {view:?}");
        match view.state {
            InstanceState::Succeeded => {}
            InstanceState::Failed => {
                lost += 1;
                assert_eq!(view.reason.as_deref(), Some("worker_lost"), "{view:?}");
                assert_eq!(view.attempts.last().map(|attempt| attempt.state.as_str()), Some("lost"), "{view:?}");
            }
            _ => panic!("{view:?}"),
        }
    }
    println!(
        "{} kills: {} at-least-once instances ({rerun} reran), {} at-most-once ({lost} lost)",
        killed.into_inner(),
        twice.len(),
        once.len()
    );
    assert!(lost > 0 && rerun > 0, "the kills hit nothing: the test shows nothing");
}
