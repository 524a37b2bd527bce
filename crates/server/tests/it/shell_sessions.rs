//! Workers' sessions: who is let in, who is let go, and what passes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use pendula_engine::{Command, Reply};
use pendula_model::instance::{InstanceState, Reason};
use pendula_model::token::Scope;
use pendula_model::{InstanceId, PartitionId};
use pendula_server::logs::{Followed, News};
use pendula_wire::v1;
use pendula_wire::v1::to_server::Message as Say;
use pendula_wire::v1::to_worker::Message as Hear;
use pendula_wire::v1::worker_service_client::WorkerServiceClient;
use pendula_worker::{Output, Task};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Status, Streaming};

use crate::world::{PATIENCE, World, soon, start};

/// A worker made by hand, which says just what a test wants.
pub struct Raw {
    say: mpsc::Sender<v1::ToServer>,
    hear: Streaming<v1::ToWorker>,
}

impl Raw {
    pub async fn open(url: &str, token: Option<&str>, meant: Option<&str>, hello: v1::Hello) -> Result<Raw, Status> {
        let mut client = WorkerServiceClient::connect(url.to_owned()).await.expect("the port is open");
        let (say, said) = mpsc::channel(16);
        say.send(v1::ToServer { message: Some(Say::Hello(hello)) }).await.expect("the stream is there");
        let mut request = Request::new(ReceiverStream::new(said));
        if let Some(token) = token {
            request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().expect("plain text"));
        }
        if let Some(meant) = meant {
            request.metadata_mut().insert(pendula_wire::APP_METADATA, meant.parse().expect("plain text"));
        }
        let hear = client.session(request).await?.into_inner();
        Ok(Raw { say, hear })
    }

    pub async fn say(&self, message: Say) {
        self.say.send(v1::ToServer { message: Some(message) }).await.expect("the stream is there");
    }

    /// The next message, or how the session ended.
    pub async fn next(&mut self) -> Result<Hear, Status> {
        match soon("the server says something", self.hear.message()).await? {
            Some(v1::ToWorker { message: Some(message) }) => Ok(message),
            Some(_) => panic!("an empty message"),
            None => Err(Status::ok("")),
        }
    }

    /// How the session ends, whatever is said before.
    async fn end(mut self) -> Status {
        loop {
            if let Err(status) = self.next().await {
                return status;
            }
        }
    }
}

pub fn hello() -> v1::Hello {
    v1::Hello {
        protocol_min: 1,
        protocol_max: 1,
        name: "raw".to_owned(),
        boot_id: 7,
        processors: vec!["noop".to_owned()],
        slots: 4,
        ..v1::Hello::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sec_4_only_the_apps_own_worker_token_opens_a_session() {
    let world = World::new().await;
    let auth = world.server().state().auth.clone();
    let secret = async |scope| auth.create("t", scope, None).await.expect("a token").1.reveal().to_owned();
    let (admin, app) = (secret(Scope::Admin).await, secret(Scope::App { app: world.app }).await);
    let own = world.worker_token.clone();
    for (token, meant, expected) in [
        (None, None, Code::Unauthenticated),
        (Some(""), None, Code::Unauthenticated),
        (Some("null"), None, Code::Unauthenticated),
        (Some(admin.as_str()), None, Code::PermissionDenied),
        (Some(app.as_str()), None, Code::PermissionDenied),
        (Some(own.as_str()), Some("other"), Code::PermissionDenied),
    ] {
        let refused = Raw::open(&world.url(), token, meant, hello()).await.err().expect("it is refused");
        assert_eq!(refused.code(), expected, "{token:?} {meant:?}: {refused:?}");
    }
    let mut welcome = Raw::open(&world.url(), Some(&own), Some("demo"), hello()).await.expect("it is let in");
    let Ok(Hear::Welcome(welcome)) = welcome.next().await else { panic!("no welcome") };
    assert_eq!((welcome.protocol, welcome.servers), (1, Vec::new()), "a server that is alone knows of no other");
}

#[tokio::test(flavor = "multi_thread")]
async fn s1_5_a_version_from_elsewhere_is_refused_with_both_ranges() {
    let world = World::new().await;
    let token = Some(world.worker_token.as_str());
    let newer = v1::Hello { protocol_min: 7, protocol_max: 9, ..hello() };
    let refused = Raw::open(&world.url(), token, None, newer).await.err().expect("it is refused");
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("7 to 9") && refused.message().contains("1 to 1"), "{refused:?}");
    let empty = Raw::open(&world.url(), token, None, v1::Hello { name: String::new(), ..hello() }).await;
    assert_eq!(empty.err().map(|status| status.code()), Some(Code::InvalidArgument));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_token_ends_its_sessions_at_once() {
    let world = World::new().await;
    let auth = world.server().state().auth.clone();
    let (token, secret) = auth.create("w2", Scope::Worker { app: world.app }, None).await.expect("a token");
    let mut session = Raw::open(&world.url(), Some(secret.reveal()), None, hello()).await.expect("it is let in");
    assert!(matches!(session.next().await, Ok(Hear::Welcome(_))));
    assert!(auth.revoke(token.id).await.expect("the store answers"));
    let end = session.end().await;
    assert_eq!(end.code(), Code::Unauthenticated, "{end:?}");
    world.sessions_are(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn heartbeats_are_answered_and_silence_ends_the_session() {
    let world = World::new().await;
    let mut session = Raw::open(&world.url(), Some(&world.worker_token), None, hello()).await.expect("it is let in");
    let Ok(Hear::Welcome(welcome)) = session.next().await else { panic!("a welcome comes first") };
    session.say(Say::Heartbeat(v1::Heartbeat::default())).await;
    assert!(matches!(session.next().await, Ok(Hear::Acks(v1::Acks { tasks })) if tasks.is_empty()));
    let spoke = Instant::now();
    let end = session.end().await;
    assert_eq!(end.code(), Code::DeadlineExceeded, "{end:?}");
    let silence = Duration::from_millis(welcome.silence_millis.into());
    assert!(spoke.elapsed() < silence + Duration::from_secs(1), "{:?}", spoke.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_breaks_is_noticed_at_once() {
    let world = World::new().await;
    let mut session = Raw::open(&world.url(), Some(&world.worker_token), None, hello()).await.expect("it is let in");
    assert!(matches!(session.next().await, Ok(Hear::Welcome(_))));
    world.sessions_are(1).await;
    let broke = Instant::now();
    drop(session);
    let status = || world.server().state().metrics.encode();
    while !status().contains("pendula_sessions 0") {
        assert!(broke.elapsed() < Duration::from_secs(2), "{}", status());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A name whose app lies in (or outside of) the partition of `demo`.
fn app_name(world: &World, shares_partition: bool) -> String {
    let partition = world.app.partition();
    let names = (0..).map(|number| format!("app{number}"));
    let mut fitting = names.filter(|name| (PartitionId::of_app(name, 4) == partition) == shares_partition);
    fitting.next().expect("names do not run out")
}

#[tokio::test(flavor = "multi_thread")]
async fn sec_4_a_worker_cannot_report_what_is_not_its_own() {
    let world = World::new().await;
    world.job("gate", |_| {}).await;
    let (began, may_end) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (handler_began, handler_may_end) = (began.clone(), may_end.clone());
    let _worker = start(world.worker().handler("gate", move |_: Task| {
        let (began, may_end) = (handler_began.clone(), handler_may_end.clone());
        async move {
            began.notify_one();
            may_end.notified().await;
            Ok(Output::default())
        }
    }));
    let instance = world.run("gate").await;
    soon("it begins", began.notified()).await;

    for shares_partition in [true, false] {
        let name = app_name(&world, shares_partition);
        let partition = PartitionId::of_app(&name, 4);
        let create = Command::AppCreate { name, namespace: "default".to_owned(), allow_scripts: false };
        let reply = world.server().state().partitions.command(partition, create, PATIENCE).await;
        let Ok(Reply::App(app)) = reply else { panic!("{reply:?}") };
        let scope = Scope::Worker { app: app.id };
        let (_, secret) = world.server().state().auth.create("evil", scope, None).await.expect("a token");
        let held = v1::Held::root(instance, 1);
        let claims = v1::Hello { running: vec![held], ..hello() };
        let mut evil = Raw::open(&world.url(), Some(secret.reveal()), None, claims).await.expect("it is let in");
        assert!(matches!(evil.next().await, Ok(Hear::Welcome(_))));
        let ended = v1::Ended { outcome: 1, message: "forged".to_owned(), ..v1::Ended::default() };
        let event = Some(v1::report::Event::Ended(ended));
        evil.say(Say::Reports(v1::Reports { reports: vec![v1::Report { task: Some(held), event }] })).await;
        let chunk = v1::LogChunk { task: Some(held), data: "forged".into(), end: true, ..v1::LogChunk::default() };
        evil.say(Say::Logs(v1::LogChunks { chunks: vec![chunk] })).await;
        // Once this is answered, what was said before has been looked at.
        evil.say(Say::Heartbeat(v1::Heartbeat::default())).await;
        loop {
            match evil.next().await.expect("the session goes on") {
                Hear::Acks(v1::Acks { tasks }) if tasks.is_empty() => break,
                // What else there was to say may have been the answer.
                _ => evil.say(Say::Heartbeat(v1::Heartbeat::default())).await,
            }
        }
        assert!(!world.instance(instance).await.state.is_ended());
    }
    may_end.notify_one();
    let ended = world.ended(instance).await;
    assert_eq!((ended.state, ended.attempt), (InstanceState::Succeeded, 1));
    assert_ne!(ended.message.as_deref(), Some("forged"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_reaches_the_handler() {
    let world = World::new().await;
    world.job("wait", |_| {}).await;
    let began = Arc::new(Notify::new());
    let handler_began = began.clone();
    let _worker = start(world.worker().handler("wait", move |task: Task| {
        let began = handler_began.clone();
        async move {
            began.notify_one();
            task.cancelled().await;
            Ok(Output::text("went quietly"))
        }
    }));
    let instance = world.run("wait").await;
    soon("it begins", began.notified()).await;
    let reply = world.command(Command::InstanceStop { instance }).await;
    assert!(matches!(reply, Ok(Reply::Done)), "{reply:?}");
    let ended = world.ended(instance).await;
    assert_eq!(ended.state, InstanceState::Stopped, "{ended:?}");
    assert_eq!(ended.reason, Some(Reason::BY_USER));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_drained_finishes_and_leaves() {
    let world = World::new().await;
    world.job("gate", |_| {}).await;
    let (began, may_end) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (handler_began, handler_may_end) = (began.clone(), may_end.clone());
    let worker = start(world.worker().handler("gate", move |_: Task| {
        let (began, may_end) = (handler_began.clone(), handler_may_end.clone());
        async move {
            began.notify_one();
            may_end.notified().await;
            Ok(Output::default())
        }
    }));
    let instance = world.run("gate").await;
    soon("it begins", began.notified()).await;
    let reply = world.command(Command::WorkerDrain { app: world.app, worker: "w1".to_owned() }).await;
    assert!(matches!(reply, Ok(Reply::Done)), "{reply:?}");
    let waiting = world.run("gate").await;
    may_end.notify_one();
    assert_eq!(world.ended(instance).await.state, InstanceState::Succeeded);
    worker.ended().await;
    assert_eq!(world.instance(waiting).await.state, InstanceState::Waiting);
}

#[tokio::test(flavor = "multi_thread")]
async fn o_9_what_a_task_prints_can_be_followed_live_and_read_later() {
    let world = World::new().await;
    world.job("talk", |_| {}).await;
    let instance = world.run("talk").await;
    let mut news = world.server().state().log_hub.subscribe(instance);
    let _worker = start(world.worker().handler("talk", |task: Task| async move {
        task.log_line("first");
        task.log_line("second");
        Ok(Output::default())
    }));
    let mut text = Vec::new();
    soon("the log ends", async {
        loop {
            match news.next().await {
                Followed::News(News::Text { attempt: 1, offset, data, .. }) => {
                    assert_eq!(offset, text.len() as u64);
                    text.extend_from_slice(&data);
                }
                Followed::News(News::LogEnd { attempt: 1, .. }) => return,
                Followed::News(News::State { .. }) => {}
                other => panic!("{other:?}"),
            }
        }
    })
    .await;
    assert_eq!(String::from_utf8_lossy(&text), "first\nsecond\n");
    assert_eq!(world.ended(instance).await.state, InstanceState::Succeeded);
}

/// Passes bytes on to the server until it is cut; once cut, it stays so.
async fn cable(to: String, cut: CancellationToken) -> String {
    let tcp = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}", tcp.local_addr().expect("it is bound"));
    tokio::spawn(async move {
        while let Ok((mut near, _)) = tcp.accept().await {
            let (to, cut) = (to.clone(), cut.clone());
            tokio::spawn(async move {
                let mut far = TcpStream::connect(to).await.expect("the server listens");
                tokio::select! {
                    _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                    () = cut.cancelled() => {}
                }
            });
        }
    });
    url
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_connection_costs_no_task() {
    let world = World::new().await;
    world.job("gate", |_| {}).await;
    let cut = CancellationToken::new();
    let url = cable(world.server().local_addr().to_string(), cut.clone()).await;
    let (began, may_end) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (handler_began, handler_may_end) = (began.clone(), may_end.clone());
    let gate = move |_: Task| {
        let (began, may_end) = (handler_began.clone(), handler_may_end.clone());
        async move {
            began.notify_one();
            may_end.notified().await;
            Ok(Output::default())
        }
    };
    let _worker = start(world.worker_at(&url).server(world.url()).handler("gate", gate));
    let instance: InstanceId = world.run("gate").await;
    soon("it begins", began.notified()).await;
    cut.cancel();
    may_end.notify_one();
    let ended = world.ended(instance).await;
    assert_eq!((ended.state, ended.attempt), (InstanceState::Succeeded, 1), "{ended:?}");
}
