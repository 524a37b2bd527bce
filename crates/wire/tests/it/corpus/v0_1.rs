//! What release 0.1 says: standalone instances.

use pendula_wire::v1::*;

use super::{Example, three};

pub fn held() -> Held {
    Held { instance: 7_001_234_567_890_123, attempt: 3, task: 42 }
}

pub fn held_max() -> Held {
    Held { instance: i64::MIN, attempt: u32::MAX, task: u64::MAX }
}

fn metrics() -> HostMetrics {
    HostMetrics {
        cpu_cores: 2.5,
        cpu_used: 0.25,
        memory_bytes: 1 << 33,
        memory_used_bytes: 1 << 30,
        disk_bytes: 1 << 40,
        disk_used_bytes: 1 << 39,
    }
}

fn metrics_max() -> HostMetrics {
    let most = u64::MAX;
    HostMetrics {
        cpu_cores: f64::MAX,
        cpu_used: f64::INFINITY,
        memory_bytes: most,
        memory_used_bytes: most,
        disk_bytes: most,
        disk_used_bytes: most,
    }
}

pub fn text() -> String {
    "每日 report 🕰".to_owned()
}

fn hello() -> Hello {
    Hello {
        protocol_min: 1,
        protocol_max: 2,
        capabilities: vec!["one".to_owned(), "two".to_owned()],
        name: text(),
        boot_id: 0x0123_4567_89ab_cdef,
        version: "0.1.0".to_owned(),
        processors: vec!["shell".to_owned(), "http".to_owned()],
        labels: [("zone".to_owned(), "a".to_owned()), ("gpu".to_owned(), String::new())].into(),
        slots: 16,
        metrics: Some(metrics()),
        running: vec![held()],
        finished: vec![held(), Held { attempt: 4, ..held() }],
    }
}

fn hello_max() -> Hello {
    Hello {
        protocol_min: u32::MAX,
        protocol_max: u32::MAX,
        boot_id: u64::MAX,
        slots: u32::MAX,
        name: "x".repeat(1000),
        metrics: Some(metrics_max()),
        running: vec![held_max(); 100],
        finished: vec![held_max(); 100],
        ..hello()
    }
}

pub fn welcome() -> Welcome {
    Welcome {
        protocol: 1,
        capabilities: vec!["one".to_owned()],
        server_version: "0.1.0".to_owned(),
        session: 77,
        heartbeat_millis: 2000,
        silence_millis: 10_000,
        abort: vec![held()],
        ..Welcome::default()
    }
}

pub fn welcome_max() -> Welcome {
    Welcome {
        protocol: u32::MAX,
        session: u64::MAX,
        heartbeat_millis: u32::MAX,
        silence_millis: u32::MAX,
        abort: vec![held_max(); 100],
        ..welcome()
    }
}

pub fn dispatch() -> Dispatch {
    Dispatch {
        task: Some(held()),
        sequence: 9,
        processor: "shell".to_owned(),
        config: br#"{"script":"ls"}"#.as_slice().into(),
        params: br#"{"day":"2026-11-21"}"#.as_slice().into(),
        params_content_type: "application/json".to_owned(),
        fire_time_micros: 1_795_000_000_000_000,
        app: "demo".to_owned(),
        job: text(),
        revision: 12,
        timeout_millis: 1_800_000,
        stop_grace_millis: 10_000,
        timezone: "Europe/Berlin".to_owned(),
        failures: 2,
        created_micros: 1_795_000_000_000_001,
        ..Dispatch::default()
    }
}

pub fn dispatch_max() -> Dispatch {
    Dispatch {
        task: Some(held_max()),
        sequence: u64::MAX,
        config: vec![0xff; 1000].into(),
        params: vec![0; 1000].into(),
        fire_time_micros: i64::MAX,
        revision: u32::MAX,
        timeout_millis: u64::MAX,
        stop_grace_millis: u64::MAX,
        failures: u32::MAX,
        created_micros: i64::MIN,
        ..dispatch()
    }
}

fn ended() -> Ended {
    Ended {
        outcome: Outcome::Failed.into(),
        reason: "exit_code".to_owned(),
        message: text(),
        result: br#"{"code":3}"#.as_slice().into(),
        result_content_type: "application/json".to_owned(),
        running_micros: 1_500_000,
        ended_micros_ago: 20,
        r#final: true,
    }
}

fn ended_max() -> Ended {
    // An outcome of a version to come.
    let outcome = i32::MAX;
    Ended { outcome, running_micros: u64::MAX, ended_micros_ago: u64::MAX, result: vec![0xff; 1000].into(), ..ended() }
}

fn report() -> Report {
    Report { task: Some(held()), event: Some(report::Event::Ended(ended())) }
}

fn report_max() -> Report {
    Report { task: Some(held_max()), event: Some(report::Event::Ended(ended_max())) }
}

fn progress() -> Progress {
    Progress { per_mille: 500, message: text() }
}

fn stop() -> Stop {
    Stop { task: Some(held()), grace_millis: 10_000, abandon: true }
}

fn stop_max() -> Stop {
    Stop { task: Some(held_max()), grace_millis: u64::MAX, abandon: true }
}

fn chunk() -> LogChunk {
    LogChunk { task: Some(held()), offset: 4096, data: text().into(), lost_before: 17, end: true }
}

fn chunk_max() -> LogChunk {
    let data = vec![b'x'; 10_000].into();
    LogChunk { task: Some(held_max()), offset: u64::MAX, data, lost_before: u64::MAX, end: true }
}

fn log_ack() -> LogAck {
    LogAck { task: Some(held()), offset: 8192 }
}

fn log_ack_max() -> LogAck {
    LogAck { task: Some(held_max()), offset: u64::MAX }
}

fn heartbeat() -> Heartbeat {
    Heartbeat { metrics: Some(metrics()), dispatches_seen: 9, held: vec![held()] }
}

fn heartbeat_max() -> Heartbeat {
    Heartbeat { metrics: Some(metrics_max()), dispatches_seen: u64::MAX, held: vec![held_max(); 100] }
}

pub fn examples() -> Vec<Example> {
    let to_server = |message| ToServer { message: Some(message) };
    let to_worker = |message| ToWorker { message: Some(message) };
    let both = |all: Vec<_>, max: Vec<_>| (Reports { reports: all }, Reports { reports: max });
    let started = Report { event: Some(report::Event::Started(Started { running_micros: 100_000 })), ..report() };
    let advanced = Report { event: Some(report::Event::Progress(progress())), ..report() };
    let (reports, reports_max) = both(vec![started, advanced, report()], vec![report_max(); 100]);
    let drain_max = DrainRequest { budget_millis: u64::MAX };
    [
        three(
            to_server(to_server::Message::Hello(hello())),
            to_server(to_server::Message::Reports(reports_max.clone())),
        ),
        three(to_worker(to_worker::Message::Welcome(welcome())), to_worker(to_worker::Message::Drain(drain_max))),
        three(hello(), hello_max()),
        three(metrics(), metrics_max()),
        three(held(), held_max()),
        three(welcome(), welcome_max()),
        three(heartbeat(), heartbeat_max()),
        three(Dispatches { dispatches: vec![dispatch()] }, Dispatches { dispatches: vec![dispatch_max(); 100] }),
        three(dispatch(), dispatch_max()),
        three(Stops { stops: vec![stop()] }, Stops { stops: vec![stop_max(); 100] }),
        three(stop(), stop_max()),
        three(reports, reports_max),
        three(report(), report_max()),
        three(Started { running_micros: 100_000 }, Started { running_micros: u64::MAX }),
        three(progress(), Progress { per_mille: u32::MAX, message: "x".repeat(10_000) }),
        three(ended(), ended_max()),
        three(Acks { tasks: vec![held()] }, Acks { tasks: vec![held_max(); 100] }),
        three(LogChunks { chunks: vec![chunk()] }, LogChunks { chunks: vec![chunk_max(); 10] }),
        three(chunk(), chunk_max()),
        three(LogAcks { acks: vec![log_ack()] }, LogAcks { acks: vec![log_ack_max(); 100] }),
        three(log_ack(), log_ack_max()),
        three(Draining {}, Draining {}),
        three(DrainRequest { budget_millis: 30_000 }, drain_max),
    ]
    .into_iter()
    .flatten()
    .collect()
}
