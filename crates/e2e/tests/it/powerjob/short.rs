//! One old and one new version, quickly.

use pendula_e2e::ShellWorker;
use pendula_e2e::powerjob::{APP, Programs, Yard, job, job_of, result, shown};
use pendula_model::instance::InstanceState;
use pendula_model::job::JobSpec;
use pendula_model::powerjob::PowerJobExecuteType::*;
use pendula_model::processor::{Processor, Script};

use super::clients;
use super::features::{self, Tried};

const OLD: &str = "4.3.6";
const NEW: &str = "5.1.1";

/// Scenarios S1-2 and S5-2 for this gateway.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s1_2_workers_of_an_old_and_a_new_version_run_everything_and_outlive_a_killed_server() {
    let (old, new) =
        tokio::task::spawn_blocking(|| (Programs::worker(OLD), Programs::worker(NEW))).await.expect("no panic");
    let mut yard = Yard::start().await;
    for programs in [&old, &new] {
        yard.add(programs, &programs.version);
    }
    yard.connected().await;
    let tries = async |worker: &str| -> Tried {
        let tasks = pendula_e2e::powerjob::PATIENCE;
        let (one, two, three, four, five, six) = tokio::join!(
            features::standalone_and_log(&yard, worker),
            features::map_reduce(&yard, worker, 150, tasks),
            features::retried(&yard, worker),
            features::stopped(&yard, worker),
            features::tracked_map(&yard, worker, 500),
            features::repeated_in_worker(&yard, worker),
        );
        one.and(two).and(three).and(four).and(five).and(six)
    };
    // Both are of one app, so a broadcast reaches both, whichever tracks it.
    let everywhere = async || -> Tried {
        let view = yard.ended(yard.run(&job("everywhere", "Everywhere", Broadcast, "0", None)).await).await?;
        let is_right = view.state == InstanceState::Succeeded && yard.notes(view.id) == [OLD, NEW];
        if is_right { Ok(()) } else { Err(format!("{} {:?}", shown(&view), yard.notes(view.id))) }
    };
    let tracked = async || -> Tried {
        let view = yard.ended(yard.run(&features::tracked_broadcast("tracked", 0)).await).await?;
        let is_right = view.state == InstanceState::Succeeded && yard.notes(view.id) == [OLD, NEW];
        if is_right { Ok(()) } else { Err(format!("{} {:?}", shown(&view), yard.notes(view.id))) }
    };
    let tried = tokio::join!(tries(OLD), tries(NEW), everywhere(), tracked());
    assert_eq!(tried, (Ok(()), Ok(()), Ok(()), Ok(())));

    features::outlive_a_killed_server(&mut yard, &[OLD, NEW]).await;
}

/// One app with workers of two versions of PowerJob, of which one lacks a class, and a native one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s5_2_in_one_app_jobs_reach_only_workers_that_offer_their_processor() {
    let (old, new) =
        tokio::task::spawn_blocking(|| (Programs::worker(OLD), Programs::worker(NEW))).await.expect("no panic");
    let mut yard = Yard::start().await;
    // The old one's programs without one class.
    let less = yard.server.directory().join("classes");
    copy_classes(&old.classes, &less, "Processors$Flaky.class");
    yard.add(&old.with_classes(less), OLD);
    yard.add(&new, NEW);
    let token = yard.server.worker_token(APP).await;
    let _native = ShellWorker::start(&yard.server.url(), APP, &token, "native", yard.server.directory());
    yard.connected().await;
    pendula_e2e::process::eventually("the native one is there", pendula_e2e::powerjob::PATIENCE, || async {
        let there = yard.client.worker_list(APP).await.ok()?;
        there.iter().any(|worker| worker.name == "native" && worker.state == "connected").then_some(())
    })
    .await;

    for number in 0..3 {
        let script = JobSpec::new(format!("script-{number}"), Processor::Shell(Script::new("echo here")));
        let view = yard.ended(yard.run(&script).await).await.expect("it ends");
        assert_eq!((view.state, view.worker.as_deref()), (InstanceState::Succeeded, Some("native")));
        let echo = job(&format!("echo-{number}"), "Echo", Standalone, "x", None);
        let view = yard.ended(yard.run(&echo).await).await.expect("it ends");
        assert_ne!(view.worker.as_deref(), Some("native"));
        // The class that only the new one has: whoever was asked first, there it runs.
        let flaky = job(&format!("flaky-{number}"), "Flaky", Standalone, "1", None);
        let view = yard.ended(yard.run(&flaky).await).await.expect("it ends");
        assert_eq!((view.state, &*result(&view)), (InstanceState::Succeeded, "run 1"), "{}", shown(&view));
        assert_eq!(yard.notes(view.id), [NEW]);
        assert_eq!(view.failures, 0, "{}", shown(&view));
    }
    // Not by a script's name either.
    let named = job_of("named", "shell", Standalone, "echo x", None);
    let id = yard.run(&named).await;
    let patience = pendula_e2e::powerjob::PATIENCE;
    let view = yard.until(id, patience, |view| features::is_given_back(view, 2)).await.expect("both lack it");
    assert_ne!(view.worker.as_deref(), Some("native"), "{}", shown(&view));
}

/// Everything that people do with the official client, and each call is sent once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s1_2_clients_of_an_old_and_a_new_version_are_served_and_say_everything_once() {
    let fetch = || (Programs::worker(NEW), Programs::client(OLD), Programs::client(NEW));
    let (worker, old, new) = tokio::task::spawn_blocking(fetch).await.expect("no panic");
    let mut yard = Yard::start().await;
    yard.add(&worker, NEW);
    yard.connected().await;
    let tried = tokio::join!(clients::client(&yard, &old, NEW), clients::client(&yard, &new, NEW));
    assert_eq!(tried, (Ok(()), Ok(())));
}

fn copy_classes(from: &std::path::Path, to: &std::path::Path, without: &str) {
    let package = "org/pendula/compat";
    std::fs::create_dir_all(to.join(package)).expect("the directory is new");
    for entry in std::fs::read_dir(from.join(package)).expect("they were compiled") {
        let name = entry.expect("it can be listed").file_name();
        if name != without {
            std::fs::copy(from.join(package).join(&name), to.join(package).join(&name)).expect("it can be copied");
        }
    }
    assert!(from.join(package).join(without).exists());
}
