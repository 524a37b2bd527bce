//! How much processor time the SDK spends on a task that does nothing.
//!
//! `cargo bench -p pendula-worker` runs a worker on one thread against a server without mind in a second process, which
//! keeps all slots busy over loopback, and prints tasks per second and processor time per task. The time includes
//! gRPC and the worker's side of the sockets.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use futures::StreamExt;
use pendula_wire::v1::worker_service_server::{WorkerService, WorkerServiceServer};
use pendula_wire::v1::{self, to_server, to_worker};
use pendula_worker::{Output, Shutdown, Task, Worker};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

const SLOTS: u32 = 2000;
const PERIOD: Duration = Duration::from_secs(5);

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    if std::env::args().any(|argument| argument == "serve") {
        runtime.block_on(serve());
    } else {
        runtime.block_on(work());
    }
}

async fn work() {
    let program = std::env::current_exe().expect("the path of this program");
    let mut server = tokio::process::Command::from({
        let mut command = Command::new(program);
        command.arg("serve").stdout(Stdio::piped());
        command
    })
    .kill_on_drop(true)
    .spawn()
    .expect("a second process");
    let mut lines = BufReader::new(server.stdout.take().expect("piped")).lines();
    let url = lines.next_line().await.expect("readable").expect("the server says where it listens");

    let shutdown = Shutdown::new();
    let (ended, mut tally) = mpsc::unbounded_channel::<()>();
    let worker = Worker::builder(url).slots(SLOTS).handler("noop", move |_: Task| {
        // The sender counts what was run; a channel is what a real handler would use too.
        let _ = ended.send(());
        async { Ok(Output::default()) }
    });
    let worker = tokio::spawn(worker.build().expect("good settings").run(shutdown.clone()));
    tally.recv().await.expect("the first task");
    let (start, cpu) = (Instant::now(), cpu_seconds());
    let mut tasks = 0_u64;
    let mut batch = Vec::new();
    while start.elapsed() < PERIOD {
        tasks += tally.recv_many(&mut batch, 100_000).await as u64;
        batch.clear();
    }
    let (elapsed, cpu) = (start.elapsed().as_secs_f64(), cpu_seconds() - cpu);
    println!("tasks/s: {:.0}", tasks as f64 / elapsed);
    println!("processor time per task: {:.2} µs", cpu * 1e6 / tasks as f64);
    println!("tasks per second of processor time: {:.0}", tasks as f64 / cpu);
    shutdown.now();
    let _ = worker.await;
}

/// User and system time of this process, in steps of 10 ms.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("Linux");
    let after_name = stat.rsplit(')').next().expect("the name is in parentheses");
    let ticks: f64 =
        after_name.split_ascii_whitespace().skip(11).take(2).map(|field| field.parse().unwrap_or(0.0)).sum();
    ticks / 100.0
}

struct Mindless;

#[tonic::async_trait]
impl WorkerService for Mindless {
    type SessionStream = futures::stream::BoxStream<'static, Result<v1::ToWorker, Status>>;

    async fn session(
        &self,
        request: Request<Streaming<v1::ToServer>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let (outgoing, frames) = mpsc::channel(16);
        tokio::spawn(keep_busy(request.into_inner(), outgoing));
        Ok(Response::new(ReceiverStream::new(frames).boxed()))
    }
}

async fn serve() {
    let incoming =
        TcpIncoming::bind("127.0.0.1:0".parse().expect("an address")).expect("a free port").with_nodelay(Some(true));
    println!("http://{}", incoming.local_addr().expect("bound"));
    let server = Server::builder().add_service(WorkerServiceServer::new(Mindless));
    server.serve_with_incoming(incoming).await.expect("serves until it is killed");
}

/// For each end an acknowledgement and another task.
async fn keep_busy(mut incoming: Streaming<v1::ToServer>, outgoing: mpsc::Sender<Result<v1::ToWorker, Status>>) {
    let welcome = v1::Welcome {
        protocol: 1,
        session: 1,
        heartbeat_millis: 2000,
        silence_millis: 10_000,
        ..v1::Welcome::default()
    };
    let mut instance = 0;
    let mut dispatches = |count: usize| {
        let one = |_| {
            instance += 1;
            v1::Dispatch {
                task: Some(v1::Held { instance, attempt: 1, task: 0 }),
                sequence: instance as u64,
                processor: "noop".to_owned(),
                app: "bench".to_owned(),
                job: "noop".to_owned(),
                params: "{}".into(),
                fire_time_micros: 1_795_000_000_000_000,
                created_micros: 1_795_000_000_000_000,
                timezone: "UTC".to_owned(),
                stop_grace_millis: 10_000,
                revision: 1,
                ..v1::Dispatch::default()
            }
        };
        to_worker::Message::Dispatches(v1::Dispatches { dispatches: (0..count).map(one).collect() })
    };
    let mut say = vec![to_worker::Message::Welcome(welcome), dispatches(SLOTS as usize)];
    loop {
        for message in say.drain(..) {
            if outgoing.send(Ok(v1::ToWorker { message: Some(message) })).await.is_err() {
                return;
            }
        }
        let Ok(Some(frame)) = incoming.message().await else { return };
        if let Some(to_server::Message::Reports(reports)) = frame.message {
            let tasks: Vec<v1::Held> = reports.reports.iter().filter_map(|report| report.task).collect();
            say.push(dispatches(tasks.len()));
            say.push(to_worker::Message::Acks(v1::Acks { tasks }));
        }
    }
}
