//! Several servers on one store, in one process: who owns what, and that any of them answers anything.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use pendula_client::{Client, FollowOptions, RunKey};
use pendula_model::api::{AppCreate, LogEvent, RunJob, TokenCreate, TokenKind};
use pendula_model::instance::InstanceState;
use pendula_model::job::JobSpec;
use pendula_model::processor::{Handler, Processor};
use pendula_model::worker::BootId;
use pendula_model::{InstanceId, PartitionId};
use pendula_server::gateway::Owner;
use pendula_server::{Clock, Server, SystemClock};
use pendula_store::logs::SqliteLogStore;
use pendula_store::{MemoryStore, Seat};
use pendula_wire::v1;
use pendula_wire::v1::to_worker::Message as Hear;
use pendula_worker::worker::Timing;
use pendula_worker::{Output, Task, Worker, WorkerBuilder};
use tempfile::TempDir;
use tokio::sync::Notify;

use crate::shell_sessions::{Raw, hello};
use crate::world::{config, soon, start, until};

const PARTITIONS: u16 = 8;

/// Servers on one store.
struct Ring {
    directory: TempDir,
    store: Arc<MemoryStore>,
    logs: Arc<SqliteLogStore>,
    servers: Vec<Option<Server>>,
    admin: String,
}

impl Ring {
    async fn of(count: usize) -> Ring {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let store = Arc::new(MemoryStore::shared(PARTITIONS, [7; 32]));
        let logs = Arc::new(SqliteLogStore::open(directory.path()).expect("an empty log store"));
        let mut ring = Ring { directory, store, logs, servers: Vec::new(), admin: String::new() };
        for _ in 0..count {
            ring.join().await;
        }
        ring.is_settled().await;
        ring
    }

    /// One more server; returns its place.
    async fn join(&mut self) -> usize {
        let config = config("127.0.0.1:0", self.directory.path(), &[]);
        let server = Server::start_with(config, Arc::new(SystemClock), self.store.clone(), self.logs.clone()).await;
        let server = server.expect("it starts");
        if let Some(first) = server.first_admin() {
            self.admin = first.reveal().to_owned();
        }
        self.servers.push(Some(server));
        self.servers.len() - 1
    }

    fn server(&self, place: usize) -> &Server {
        self.servers[place].as_ref().expect("this one runs")
    }

    fn url(&self, place: usize) -> String {
        format!("http://{}", self.server(place).local_addr())
    }

    fn client(&self, place: usize) -> Client {
        Client::new(&self.url(place), &self.admin).expect("a good address")
    }

    fn running(&self) -> impl Iterator<Item = usize> {
        (0..self.servers.len()).filter(|place| self.servers[*place].is_some())
    }

    fn owned(&self) -> BTreeMap<usize, u32> {
        self.running().map(|place| (place, self.server(place).state().partitions.status().owned)).collect()
    }

    /// Waits until every partition has an owner and nobody has more than others need.
    async fn is_settled(&self) {
        until("the partitions are shared", async || {
            let owned = self.owned();
            let (least, most) = (owned.values().min(), owned.values().max());
            owned.values().sum::<u32>() == u32::from(PARTITIONS) && most.zip(least).is_some_and(|(a, b)| a - b <= 1)
        })
        .await;
    }

    /// Who owns the app's partition.
    fn owner_of(&self, app: &str) -> Option<usize> {
        let partition = PartitionId::of_app(app, PARTITIONS);
        self.running().find(|place| self.server(*place).state().partitions.is_here(partition))
    }

    /// A server that does not own the app's partition.
    fn stranger_to(&self, app: &str) -> usize {
        let owner = self.owner_of(app);
        self.running().find(|place| Some(*place) != owner).expect("there is another server")
    }

    /// An app with a job for the handler `job`, and a token for its workers.
    async fn app(&self, through: usize, app: &str, job: &str) -> String {
        let client = self.client(through);
        let create = AppCreate { name: app.to_owned(), namespace: None, allow_scripts: false };
        client.app_create(&create).await.expect("a new app");
        let handler = Processor::Handler(Handler { name: job.to_owned(), config: None });
        client.job_create(app, &JobSpec::new(job, handler)).await.expect("a new job");
        let token =
            TokenCreate { name: "w".to_owned(), kind: TokenKind::Worker, app: Some(app.to_owned()), expires_in: None };
        client.token_create(&token).await.expect("a new token").secret.expect("it is shown once")
    }

    async fn run(&self, through: usize, app: &str, job: &str) -> InstanceId {
        let run = self.client(through).job_run(app, job, &RunJob::default(), RunKey::Random).await;
        run.expect("it is accepted").instance.expect("it has an id")
    }

    async fn ended(&self, through: usize, id: InstanceId) -> InstanceState {
        let client = self.client(through);
        soon("the instance ends", async {
            loop {
                let state = client.instance_fetch(id).await.expect("it is there").state;
                if state.is_ended() {
                    return state;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await
    }
}

fn worker(url: &str, app: &str, token: &str) -> WorkerBuilder {
    let timing = Timing {
        reconnect_first: Duration::from_millis(20),
        reconnect_max: Duration::from_millis(200),
        ..Timing::default()
    };
    Worker::builder(url).app(app).token(token).name("w1").timing(timing)
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_are_shared_within_one_of_even_and_move_when_servers_come_and_go() {
    let mut ring = Ring::of(1).await;
    assert_eq!(ring.owned(), BTreeMap::from([(0, 8)]));
    ring.join().await;
    ring.is_settled().await;
    ring.join().await;
    ring.is_settled().await;
    assert_eq!(ring.owned().values().sum::<u32>(), 8);
    let leaver = ring.servers[1].take().expect("it runs");
    soon("it leaves", leaver.stop()).await;
    // Given away before it was gone: nobody waits for a lease to run out.
    let begun = Instant::now();
    ring.is_settled().await;
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    assert_eq!(ring.owned(), BTreeMap::from([(0, 4), (2, 4)]));
}

#[tokio::test(flavor = "multi_thread")]
async fn any_server_answers_whatever_owns_what() {
    let ring = Ring::of(3).await;
    for (number, app) in ["alpha", "beta", "gamma", "delta"].into_iter().enumerate() {
        let token = ring.app(number % 3, app, "hello").await;
        let hello = |task: Task| async move {
            task.log_line("hello from afar");
            Ok(Output::text("done"))
        };
        let stranger = ring.stranger_to(app);
        let _worker = start(worker(&ring.url(stranger), app, &token).handler("hello", hello));
        for place in 0..3 {
            let client = ring.client(place);
            until("the worker is listed", async || client.worker_list(app).await.expect("any server knows").len() == 1)
                .await;
            let id = ring.run(place, app, "hello").await;
            let mut follow = client.follow(id, FollowOptions::default());
            let (mut text, mut end) = (String::new(), None);
            soon("following ends", async {
                while let Some(event) = follow.next().await {
                    match event.expect("no error") {
                        LogEvent::Log { data: more, .. } => text.push_str(&more),
                        LogEvent::End { state, .. } => end = Some(state),
                        _ => {}
                    }
                }
            })
            .await;
            assert_eq!(end, Some(InstanceState::Succeeded));
            assert!(text.contains("hello from afar"), "{text}");
            let why = client.instance_explain(id, None).await.expect("any server explains");
            assert!(!format!("{why:?}").is_empty());
            // Ended already, whoever is asked.
            let stopped = client.instance_stop(id).await.expect_err("it has ended");
            assert_eq!(stopped.code(), Some("instance_ended"));
        }
        let described = ring.client(stranger).job_fetch(app, "hello").await.expect("it is there");
        assert_eq!(described.spec.name, "hello");
        ring.client(stranger).job_disable(app, "hello").await.expect("any server disables");
        let refused = ring.client(stranger).job_fetch(app, "none").await.expect_err("there is none");
        assert_eq!(refused.code(), Some("job_not_found"));
    }
}

/// Counts what it runs and waits for leave to end.
#[derive(Default)]
struct Gate {
    began: Notify,
    may_end: Notify,
    runs: AtomicU32,
}

fn gated(
    gate: &Arc<Gate>,
) -> impl Fn(Task) -> futures::future::BoxFuture<'static, Result<Output, pendula_worker::Failure>> + use<> {
    let gate = gate.clone();
    move |_: Task| {
        let gate = gate.clone();
        Box::pin(async move {
            gate.runs.fetch_add(1, Ordering::SeqCst);
            gate.began.notify_one();
            gate.may_end.notified().await;
            Ok(Output::default())
        })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_task_is_adopted_when_its_owner_leaves_or_vanishes() {
    for graceful in [true, false] {
        let mut ring = Ring::of(2).await;
        let token = ring.app(0, "demo", "gate").await;
        let owner = ring.owner_of("demo").expect("somebody has it");
        let other = ring.stranger_to("demo");
        let gate = Arc::new(Gate::default());
        let _worker = start(worker(&ring.url(other), "demo", &token).handler("gate", gated(&gate)));
        let id = ring.run(other, "demo", "gate").await;
        soon("it begins", gate.began.notified()).await;

        let begun = Instant::now();
        let server = ring.servers[owner].take().expect("it runs");
        match graceful {
            true => soon("it leaves", server.stop()).await,
            false => drop(server),
        }
        // Asked at once, while nobody owns it: the request waits for whoever takes over.
        let listed = ring.client(other).worker_list("demo").await;
        let took = begun.elapsed();
        assert!(listed.is_ok(), "{listed:?} after {took:?}");
        assert!(took < Duration::from_secs(if graceful { 2 } else { 6 }), "{took:?}");
        gate.may_end.notify_one();
        assert_eq!(ring.ended(other, id).await, InstanceState::Succeeded);
        assert_eq!(gate.runs.load(Ordering::SeqCst), 1, "graceful: {graceful}");
    }
}

/// Whoever follows is sent on to the new owner instead of hearing nothing any more.
#[tokio::test(flavor = "multi_thread")]
async fn a_followed_log_goes_on_at_the_new_owner() {
    let ring = Ring::of(2).await;
    let token = ring.app(0, "demo", "gate").await;
    let (owner, other) = (ring.owner_of("demo").expect("somebody has it"), ring.stranger_to("demo"));
    let gate = Arc::new(Gate::default());
    let speaks = {
        let gate = gate.clone();
        move |task: Task| {
            let gate = gate.clone();
            async move {
                task.log_line("before");
                gate.may_end.notified().await;
                task.log_line("after");
                Ok(Output::default())
            }
        }
    };
    let _worker = start(worker(&ring.url(other), "demo", &token).handler("gate", speaks));
    let id = ring.run(owner, "demo", "gate").await;
    let mut follow = ring.client(owner).follow(id, FollowOptions::default());
    let mut text = String::new();
    while text != "before\n" {
        if let Some(Ok(LogEvent::Log { data, .. })) = soon("a line", follow.next()).await {
            text.push_str(&data);
        }
    }
    let raw = reqwest::Client::new().get(format!("{}/api/v1/instances/{id}/logs?follow=true", ring.url(owner)));
    let raw = raw.bearer_auth(&ring.admin).send().await.expect("an answer");
    let name = ring.server(owner).local_addr().to_string();
    ring.client(owner).server_drain(&name).await.expect("it is told");
    let all = soon("the stream ends, though the task goes on", raw.text()).await.expect("in order");
    assert!(all.contains("before") && !all.contains("event: end"), "{all}");
    until("the app moved", async || ring.owner_of("demo") == Some(other)).await;
    until("the worker is back", async || {
        let workers = ring.client(other).worker_list("demo").await.expect("an answer");
        workers.iter().any(|worker| worker.state == "connected")
    })
    .await;
    gate.may_end.notify_one();
    let end = loop {
        match soon("more news", follow.next()).await {
            Some(Ok(LogEvent::Log { data, .. })) => text.push_str(&data),
            Some(Ok(LogEvent::End { state, .. })) => break state,
            Some(Ok(_)) => {}
            ended => panic!("{ended:?}"),
        }
    };
    assert_eq!((end, text.as_str()), (InstanceState::Succeeded, "before\nafter\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_learns_where_the_servers_are_and_goes_there_when_its_own_is_gone() {
    let mut ring = Ring::of(3).await;
    let token = ring.app(0, "demo", "gate").await;
    let (owner, other) = (ring.owner_of("demo").expect("somebody has it"), ring.stranger_to("demo"));
    let mut session = Raw::open(&ring.url(other), Some(&token), None, hello()).await.expect("any server lets it in");
    let Ok(Hear::Welcome(v1::Welcome { servers, .. })) = session.next().await else { panic!("no welcome") };
    assert_eq!(servers.first(), Some(&ring.url(owner)), "{servers:?}");
    let all: BTreeSet<String> = ring.running().map(|place| ring.url(place)).collect();
    assert_eq!(servers.into_iter().collect::<BTreeSet<_>>(), all);
    drop(session);

    // Of those, it was told one, which goes and does not come back.
    let gate = Arc::new(Gate::default());
    let _worker = start(worker(&ring.url(other), "demo", &token).handler("gate", gated(&gate)));
    let id = ring.run(owner, "demo", "gate").await;
    soon("it begins", gate.began.notified()).await;
    drop(ring.servers[other].take());
    gate.may_end.notify_one();
    assert_eq!(ring.ended(owner, id).await, InstanceState::Succeeded);
    assert_eq!(gate.runs.load(Ordering::SeqCst), 1);
}

/// One knock is enough: a thousand workers of a server that crashed do not have to try again and again.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_waits_until_somebody_took_the_app_over() {
    let mut ring = Ring::of(2).await;
    let token = ring.app(0, "demo", "hello").await;
    let (owner, other) = (ring.owner_of("demo").expect("somebody has it"), ring.stranger_to("demo"));
    drop(ring.servers[owner].take());
    let begun = Instant::now();
    let mut session = Raw::open(&ring.url(other), Some(&token), None, hello()).await.expect("it is let in");
    let Ok(Hear::Welcome(v1::Welcome { servers, .. })) = session.next().await else { panic!("no welcome") };
    assert!(begun.elapsed() < Duration::from_secs(7), "{:?}", begun.elapsed());
    assert_eq!(servers, [ring.url(other)], "who is gone is not told of");
}

/// It will not learn who takes over, so it does not keep anybody waiting for that; nor does that keep it from ending.
#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_an_owner_is_told_to_ask_elsewhere_when_the_server_stops() {
    let mut ring = Ring::of(2).await;
    ring.app(0, "demo", "hello").await;
    let (owner, other) = (ring.owner_of("demo").expect("somebody has it"), ring.stranger_to("demo"));
    drop(ring.servers[owner].take());
    let client = ring.client(other);
    let waiting = tokio::spawn(async move { client.worker_list("demo").await });
    let state = ring.server(other).state().clone();
    until("it waits", async || state.metrics.open_connections() > 0).await;
    drop(state);
    let begun = Instant::now();
    let stopping = ring.servers[other].take().expect("it runs");
    soon("it stops", stopping.stop()).await;
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    let error = waiting.await.expect("no panic").expect_err("nobody had it");
    assert!(error.is_retryable(), "{error}");
}

/// Its machine stood still, its clocks with it, while another took over: when it goes on it believes in a lease that has
/// run out. A welcome from it would make workers give up what the new owner gave them.
#[tokio::test(flavor = "multi_thread")]
async fn an_owner_that_was_superseded_unawares_welcomes_nobody() {
    let ring = Ring::of(1).await;
    let token = ring.app(0, "demo", "hello").await;
    let partition = PartitionId::of_app("demo", PARTITIONS);
    let (boot, hour) = (BootId(99), Duration::from_secs(3600));
    let later = SystemClock.now().plus(hour);
    let text = str::to_owned;
    let other = Seat { boot, name: text("other"), address: text("http://127.0.0.1:1"), version: text("1") };
    ring.store.join_sync(&other, hour, later);
    let seen = ring.store.view_sync(later).holdings[usize::from(partition.0)].epoch;
    let claimed = ring.store.claim_from_sync(partition, boot, seen, later).expect("the partition is there");
    assert!(claimed.is_some(), "by then the owner's lease has run out");
    if let Ok(mut session) = Raw::open(&ring.url(0), Some(&token), None, hello()).await {
        let said = session.next().await;
        assert!(said.is_err(), "{said:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_no_peer_is_not_believed() {
    let ring = Ring::of(1).await;
    let http = reqwest::Client::new();
    let url = format!("{}/api/v1/apps", ring.url(0));
    let get = |peer: Option<&str>| {
        let request = http.get(&url).bearer_auth(&ring.admin).header("pendula-client", "192.0.2.1:1");
        match peer {
            Some(peer) => request.header("pendula-peer", peer),
            None => request,
        }
    };
    assert_eq!(get(None).send().await.expect("an answer").status(), 200);
    for wrong in ["", "0", &"0".repeat(64)] {
        assert_eq!(get(Some(wrong)).send().await.expect("an answer").status(), 421);
    }
    let look = http.post(format!("{}/peer/look", ring.url(0))).send().await.expect("an answer");
    assert_eq!(look.status(), 404, "without proof it is a route like any other: none");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_server_revokes_ends_sessions_of_all() {
    let ring = Ring::of(2).await;
    let token = ring.app(0, "demo", "hello").await;
    let other = ring.stranger_to("demo");
    let _worker =
        start(worker(&ring.url(other), "demo", &token).handler("hello", |_: Task| async { Ok(Output::default()) }));
    let client = ring.client(other);
    until("the worker is there", async || client.worker_list("demo").await.expect("an answer").len() == 1).await;
    let tokens = client.token_list().await.expect("an answer");
    let id = tokens.iter().find(|token| token.name == "w").expect("it is there").id;
    client.token_revoke(id).await.expect("it was there");
    until("the session is over", async || client.worker_list("demo").await.expect("an answer").is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drained_server_gives_everything_away_and_goes_on_answering() {
    let ring = Ring::of(2).await;
    ring.app(0, "demo", "hello").await;
    let name = ring.server(0).local_addr().to_string();
    // Asked through the other one.
    ring.client(1).server_drain(&name).await.expect("it is told");
    until("it owns nothing", async || ring.owned() == BTreeMap::from([(0, 0), (1, 8)])).await;
    for place in 0..2 {
        let overview = ring.client(place).cluster(None).await.expect("any server tells");
        assert!(overview.shared && overview.seen_seconds_ago < 5.0, "{overview:?}");
        let drained = overview.servers.iter().find(|server| server.name == name).expect("it is alive");
        assert!(drained.draining && drained.partitions == 0 && drained.reach.reached, "{drained:?}");
        assert!(overview.partitions.iter().all(|partition| partition.owner.as_deref() != Some(&name)), "{overview:?}");
        assert_eq!(ring.client(place).job_list("demo").await.expect("it answers").len(), 1);
        ring.run(place, "demo", "hello").await;
    }
    assert!(ring.client(0).readyz().await.is_err(), "a load balancer should look elsewhere");
    let seen = ring.client(1).cluster(Some(&name)).await.expect("the drained one looks too");
    assert_eq!(seen.seen_from, name);
    ring.client(0).server_undrain(&name).await.expect("it is told");
    ring.is_settled().await;
    let unknown = ring.client(0).server_drain("nobody").await.expect_err("there is none");
    assert_eq!(unknown.code(), Some("server_not_found"));
}

/// Nobody tells it who takes over, so it does not wait for that.
#[tokio::test]
async fn a_gateway_of_a_server_that_left_waits_for_no_owner() {
    let mut ring = Ring::of(1).await;
    let server = ring.servers[0].take().expect("it runs");
    let gateway = server.gateway("test");
    soon("the server stops", server.stop()).await;
    let (parts, ()) = http::Request::new(()).into_parts();
    let in_an_hour = tokio::time::Instant::now() + Duration::from_secs(3600);
    let asked = gateway.find_owner(PartitionId(0), parts, Default::default(), true, in_an_hour);
    let Owner::Answered(answer) = soon("an answer", asked).await else { panic!("it owns nothing any more") };
    assert_eq!(answer.status(), 503);
}
