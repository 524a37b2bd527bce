//! Every version against one server: `make compat`. Prints version by feature.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures::future::join_all;
use pendula_client::TaskFilter;
use pendula_e2e::powerjob::{Programs, Protocol, Yard, job, official, shown};
use pendula_model::instance::{InstanceState, TaskState};
use pendula_model::powerjob::PowerJobExecuteType::Broadcast;
use pendula_model::worker::LabelRule;

use super::clients;
use super::features::{self, Tried};

/// What is tried over one protocol. Of the supported versions, those that were published: of 5.0.x, no worker was.
struct Plan {
    protocol: Protocol,
    versions: Vec<String>,
    clients: Vec<String>,
    /// These get the big instance.
    big: Vec<String>,
}

/// Before that, workers over Akka write what later ones cannot read.
fn is_plain(version: &str) -> bool {
    version.starts_with("4.0.")
}

fn listed(variable: &str, otherwise: &str) -> Vec<String> {
    let text = std::env::var(variable).unwrap_or_else(|_| otherwise.to_owned());
    text.split(',').map(|version| version.trim().to_owned()).filter(|version| !version.is_empty()).collect()
}

/// Cells by feature and version.
#[derive(Default)]
struct Matrix {
    features: Vec<&'static str>,
    cells: BTreeMap<(&'static str, String), String>,
    wrong: Vec<String>,
}

impl Matrix {
    fn note(&mut self, feature: &'static str, version: &str, tried: Tried) {
        if !self.features.contains(&feature) {
            self.features.push(feature);
        }
        let cell = match tried {
            Ok(()) => "ok".to_owned(),
            Err(why) => {
                eprintln!("{version}: {feature}: {why}");
                self.wrong.push(format!("{version}: {feature}: {why}"));
                "WRONG".to_owned()
            }
        };
        self.say(feature, version, cell);
    }

    fn say(&mut self, feature: &'static str, version: &str, cell: String) {
        if !self.features.contains(&feature) {
            self.features.push(feature);
        }
        self.cells.insert((feature, version.to_owned()), cell);
    }

    fn print(&self, versions: &[String]) {
        print!("\n{:34}", "");
        versions.iter().for_each(|version| print!(" {version:>11}"));
        println!();
        for feature in &self.features {
            print!("{feature:34}");
            for version in versions {
                let cell = self.cells.get(&(*feature, version.clone())).map_or("-", String::as_str);
                print!(" {cell:>11}");
            }
            println!();
        }
        println!();
    }
}

/// A broadcast that the server tracks, while one of its workers is killed and takes its place again: everybody runs it
/// once, the piece of the killed one is lost and goes nowhere. Scenario S2-1.
async fn tracked_broadcast(yard: &mut Yard, versions: &[String]) -> BTreeMap<String, Tried> {
    let id = yard.run(&features::tracked_broadcast("tracked", 8000)).await;
    yard.begun(id, versions.len()).await;
    let killed = &versions[0];
    yard.replace(killed);
    let view = yard.ended(id).await;
    let filter = TaskFilter { limit: Some(100), ..TaskFilter::default() };
    let tasks = yard.client.instance_tasks(id, &filter).await.map(|page| page.items).unwrap_or_default();
    let noted = yard.notes(id);
    let check = |version: &String| {
        let address = yard.address_of(version);
        let task = tasks.iter().find(|task| task.target.as_deref() == Some(&*address));
        let wanted = if version == killed { TaskState::Lost } else { TaskState::Succeeded };
        let count = noted.iter().filter(|name| *name == version).count();
        let is_right = count == 1 && task.is_some_and(|task| task.state == wanted && task.attempt == 1);
        let why = || format!("ran {count} times, {task:?}; {}", view.as_ref().map_or_else(String::clone, shown));
        (version.clone(), is_right.then_some(()).ok_or_else(why))
    };
    versions.iter().map(check).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes half an hour: make compat"]
async fn compat_over_http() {
    let plan = Plan {
        protocol: Protocol::Http,
        versions: listed("COMPAT_HTTP", "4.3.0,4.3.2,4.3.3,4.3.6,4.3.7,4.3.8,4.3.9,5.1.0,5.1.1,5.1.2"),
        clients: listed("COMPAT_CLIENTS", "4.3.3,4.3.6,5.1.0,5.1.1"),
        big: listed("COMPAT_BIG", "4.3.6,5.1.1"),
    };
    carry_out(plan).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes half an hour: make compat"]
async fn compat_over_akka() {
    let plan = Plan {
        protocol: Protocol::Akka,
        versions: listed("COMPAT_AKKA", "4.0.0,4.0.1,4.1.1,4.2.0,4.3.3,4.3.6,4.3.9,5.1.1"),
        clients: Vec::new(),
        big: listed("COMPAT_BIG", "4.0.1,5.1.1"),
    };
    carry_out(plan).await;
}

async fn carry_out(Plan { protocol, versions, clients, big }: Plan) {
    let (workers, of_clients) = (versions.clone(), clients.clone());
    let fetch_all = move || -> (BTreeMap<_, _>, BTreeMap<_, _>) {
        let workers = workers.into_iter().map(|version| (version.clone(), Programs::worker(&version)));
        let clients = of_clients.into_iter().map(|version| (version.clone(), Programs::client(&version)));
        (workers.collect(), clients.collect())
    };
    let (workers, of_clients) = tokio::task::spawn_blocking(fetch_all).await.expect("they can be fetched");
    let mut yard = Yard::start().await;
    (yard.heap, yard.protocol) = ("-Xmx1g", protocol);
    for version in &versions {
        yard.add(&workers[version], version);
    }
    let mut matrix = Matrix::default();
    let there = yard.connected().await;
    for version in &versions {
        let address = yard.address_of(version);
        let seen = there.iter().find(|view| view.address == address).map(|view| view.version.clone());
        let is_right = seen.as_deref() == Some(&format!("powerjob {version}"));
        let seen = seen.unwrap_or_default();
        matrix.note("register", version, if is_right { Ok(()) } else { Err(format!("it says {seen}")) });
    }

    let turns = tokio::sync::Semaphore::new(2);
    let tries = versions.iter().map(async |version| {
        let soon = Duration::from_secs(180);
        let heard = {
            let address = yard.address_of(version);
            let beats = async || {
                let there = yard.client.worker_list(pendula_e2e::powerjob::APP).await.unwrap_or_default();
                there.into_iter().find(|view| view.address == address).map(|view| view.last_heard)
            };
            let (first, end) = (beats().await, Instant::now() + Duration::from_secs(40));
            loop {
                tokio::time::sleep(Duration::from_millis(500)).await;
                if beats().await > first && first.is_some() {
                    break Ok(());
                }
                if Instant::now() > end {
                    break Err("no second heartbeat".to_owned());
                }
            }
        };
        let light = async {
            vec![
                ("heartbeat", heard),
                ("STANDALONE and its log", features::standalone_and_log(&yard, version).await),
                ("retry", features::retried(&yard, version).await),
                ("timeout", features::timed_out(&yard, version).await),
                ("stop", features::stopped(&yard, version).await),
                ("a class that it lacks", features::missing(&yard, version).await),
                ("FIXED_RATE 1 s", features::fixed_rate(&yard, version).await),
            ]
        };
        let heavy = async {
            // Each of these keeps a JVM busy, and one that is starved loses news of its own sub-tasks.
            let _turn = turns.acquire().await.expect("nobody closes it");
            vec![
                ("BROADCAST", features::broadcast(&yard, version).await),
                ("MAP, 200", features::map(&yard, version).await),
                ("MAP_REDUCE, 500", features::map_reduce(&yard, version, 500, soon).await),
                ("FIXED_RATE in the worker", features::repeated_in_worker(&yard, version).await),
                ("MAP tracked by the server, 1000", features::tracked_map(&yard, version, 1000).await),
                ("stop of a MAP", features::stopped_in_pieces(&yard, version).await),
            ]
        };
        let (mut light, heavy) = tokio::join!(light, heavy);
        light.extend(heavy);
        (version, light, features::official_processors(&yard, version).await)
    });
    for (version, tried, by_official) in join_all(tries).await {
        for (feature, tried) in tried {
            matrix.note(feature, version, tried);
        }
        matrix.note("official processors", version, by_official);
        if official(version) != version {
            let cell = matrix.cells[&("official processors", version.clone())].clone();
            matrix.say("official processors", version, format!("{cell} ({})", official(version)));
        }
    }

    // One broadcast, tracked by whichever the server chose, reaches all of them once that can talk to each other.
    let is_apart = |version: &&String| protocol == Protocol::Akka && is_plain(version);
    let (plain, others): (Vec<&String>, Vec<&String>) = versions.iter().partition(is_apart);
    for together in [plain, others].iter().filter(|group| !group.is_empty()) {
        let mut everywhere = job(&format!("everywhere-{}", together.len()), "Everywhere", Broadcast, "0", None);
        let tags = together.iter().map(|version| (*version).clone()).collect();
        everywhere.workers.labels.insert("tag".to_owned(), LabelRule::In(tags));
        let everywhere = yard.run(&everywhere).await;
        let view = yard.ended(everywhere).await;
        let noted = yard.notes(everywhere);
        for version in together {
            let count = noted.iter().filter(|name| name == version).count();
            let is_right = count == 1 && view.as_ref().is_ok_and(|view| view.state == InstanceState::Succeeded);
            let why = || format!("it ran {count} times: {}", view.as_ref().map_or_else(String::clone, shown));
            matrix.note("BROADCAST to all versions", version, is_right.then_some(()).ok_or_else(why));
        }
    }

    let mut frozen = Vec::new();
    for version in &versions {
        let id = features::begin_before_the_worker_is_frozen(&yard, version).await;
        frozen.push((version, id));
    }
    features::freeze_all(&mut yard).await;
    for (version, id) in frozen {
        matrix.note("worker frozen for 15 s", version, features::thawed(&yard, version, id).await);
    }

    let mut running = Vec::new();
    for version in &versions {
        running.push((version, features::begin_before_the_server_is_killed(&yard, version, 25_000, 100).await));
    }
    yard.server.restart().await;
    let adopted =
        running.into_iter().map(async |(version, running)| (version, features::adopted(&yard, version, running).await));
    for (version, tried) in join_all(adopted).await {
        matrix.note("kill -9 of the server", version, tried);
    }

    let mut running = Vec::new();
    for version in &versions {
        let id = features::begin_before_the_worker_is_killed(&yard, version).await;
        yard.replace(version);
        running.push((version, id));
    }
    let rerun = running.into_iter().map(async |(version, id)| (version, features::rerun(&yard, version, id).await));
    for (version, tried) in join_all(rerun).await {
        matrix.note("kill -9 of the worker", version, tried);
    }

    for (version, tried) in tracked_broadcast(&mut yard, &versions).await {
        matrix.note("tracked BROADCAST, one killed", &version, tried);
    }

    for version in &clients {
        let worker = if versions.contains(version) { version } else { &versions[0] };
        matrix.note("client", version, clients::client(&yard, &of_clients[version], worker).await);
    }

    let tasks = std::env::var("COMPAT_TASKS").ok().and_then(|text| text.parse().ok()).unwrap_or(100_000);
    for version in big.iter().filter(|version| versions.contains(version)) {
        let since = Instant::now();
        let tried = features::map_reduce(&yard, version, tasks, Duration::from_secs(1200)).await;
        let is_right = tried.is_ok();
        matrix.note("MAP_REDUCE, 100000", version, tried);
        if is_right {
            let cell = format!("{tasks}: {} s", since.elapsed().as_secs());
            matrix.say("MAP_REDUCE, 100000", version, cell);
        }
    }
    matrix.print(&versions);
    matrix.wrong.extend(yard.complaints());
    assert!(matrix.wrong.is_empty(), "{}", matrix.wrong.join("\n"));
}
