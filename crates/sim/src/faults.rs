//! What goes wrong, and how often: the mixes that histories are made with.

use std::time::Duration;

/// Something that goes wrong once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The owner dies at one of its next steps: before or after a commit, between two effects, while it restores.
    Crash,
    /// A new owner takes over while the old one still acts.
    Takeover,
    /// The owner stands still for some seconds.
    Stall,
    /// The store refuses for some seconds.
    StoreAway,
    /// The next commit is done, but its answer is lost: the owner drops everything and starts again.
    AnswerLost,
    /// The next commit is done, but the store says that it is away, so that it is tried again.
    AnswerUncertain,
    KillWorker,
    /// As by SIGSTOP and, later, SIGCONT.
    PauseWorker,
    /// The worker's operator asks it to shut down.
    RetireWorker,
    /// A connection breaks; both sides notice.
    BreakConnection,
    /// A connection swallows everything; both sides must find out by themselves.
    HalfOpen,
    ClockForward,
    ClockBack,
    /// The server is away for minutes, or for days.
    Outage,
}

/// A mix.
#[derive(Clone, Debug)]
pub struct Profile {
    pub name: &'static str,
    /// How long things happen before all is repaired.
    pub length: Duration,
    pub workers: usize,
    /// Fewest and most slots of a worker.
    pub slots: (u64, u64),
    /// Longest time until a worker that is gone is started again.
    pub workers_return: Duration,
    /// Mean time between two requests of users.
    pub request_every: Duration,
    /// Mean time between two faults.
    pub fault_every: Duration,
    pub faults: &'static [(Fault, u32)],
    /// Messages of a thousand that are lost, come twice, or come late, within a session.
    pub lost: u64,
    pub repeated: u64,
    pub late: u64,
    /// Whether what is late lets others pass. Connections do not do that; where it is set, the weaker form of
    /// `at_most_one_running` holds.
    pub reorders: bool,
    /// Replies to users of a thousand that are lost.
    pub replies_lost: u64,
    /// Longest time that the store takes for a commit or a read.
    pub store_takes: Duration,
    /// Of a thousand jobs, those with a trigger.
    pub triggered: u64,
    /// Of a thousand jobs, those whose instances have many tasks.
    pub tasks: u64,
}

const CALM: Profile = Profile {
    name: "calm",
    length: Duration::from_secs(60),
    workers: 2,
    slots: (1, 4),
    workers_return: Duration::from_secs(15),
    request_every: Duration::from_millis(700),
    fault_every: Duration::from_secs(3600),
    faults: &[],
    lost: 0,
    repeated: 0,
    late: 0,
    reorders: false,
    replies_lost: 0,
    store_takes: Duration::from_millis(4),
    triggered: 500,
    tasks: 250,
};

/// Every mix; seeds take them in turn.
pub const PROFILES: [Profile; 12] = [
    CALM,
    Profile {
        name: "crashes",
        fault_every: Duration::from_secs(6),
        faults: &[(Fault::Crash, 8), (Fault::AnswerLost, 2), (Fault::AnswerUncertain, 2)],
        replies_lost: 150,
        store_takes: Duration::from_millis(40),
        ..CALM
    },
    Profile {
        name: "workers",
        workers: 3,
        fault_every: Duration::from_secs(4),
        faults: &[
            (Fault::KillWorker, 4),
            (Fault::PauseWorker, 3),
            (Fault::RetireWorker, 2),
            (Fault::BreakConnection, 3),
            (Fault::HalfOpen, 2),
        ],
        ..CALM
    },
    Profile {
        name: "tasks",
        workers: 3,
        slots: (1, 6),
        workers_return: Duration::from_secs(8),
        fault_every: Duration::from_secs(3),
        faults: &[
            (Fault::KillWorker, 4),
            (Fault::PauseWorker, 3),
            (Fault::RetireWorker, 1),
            (Fault::BreakConnection, 4),
            (Fault::HalfOpen, 2),
            (Fault::Crash, 2),
        ],
        lost: 10,
        repeated: 20,
        late: 20,
        triggered: 200,
        tasks: 900,
        ..CALM
    },
    Profile {
        name: "network",
        fault_every: Duration::from_secs(5),
        faults: &[(Fault::BreakConnection, 3), (Fault::HalfOpen, 2), (Fault::Crash, 1)],
        lost: 60,
        repeated: 60,
        late: 60,
        replies_lost: 200,
        ..CALM
    },
    Profile {
        name: "disorder",
        fault_every: Duration::from_secs(6),
        faults: &[(Fault::BreakConnection, 3), (Fault::Crash, 2), (Fault::PauseWorker, 1)],
        lost: 30,
        repeated: 80,
        late: 150,
        reorders: true,
        replies_lost: 100,
        ..CALM
    },
    Profile {
        name: "takeovers",
        fault_every: Duration::from_secs(5),
        faults: &[(Fault::Takeover, 6), (Fault::Stall, 2), (Fault::Crash, 2), (Fault::BreakConnection, 1)],
        replies_lost: 100,
        store_takes: Duration::from_millis(200),
        ..CALM
    },
    Profile {
        name: "store",
        fault_every: Duration::from_secs(5),
        faults: &[
            (Fault::StoreAway, 5),
            (Fault::AnswerLost, 2),
            (Fault::AnswerUncertain, 3),
            (Fault::Crash, 2),
            (Fault::BreakConnection, 1),
        ],
        replies_lost: 100,
        store_takes: Duration::from_millis(500),
        ..CALM
    },
    Profile {
        name: "clocks",
        fault_every: Duration::from_secs(5),
        faults: &[(Fault::ClockForward, 3), (Fault::ClockBack, 4), (Fault::Crash, 4), (Fault::Stall, 1)],
        triggered: 800,
        ..CALM
    },
    Profile {
        name: "outages",
        fault_every: Duration::from_secs(10),
        faults: &[(Fault::Outage, 4), (Fault::Crash, 2), (Fault::KillWorker, 2), (Fault::Stall, 2)],
        triggered: 900,
        request_every: Duration::from_millis(1500),
        ..CALM
    },
    Profile {
        name: "lonely",
        length: Duration::from_secs(120),
        workers: 1,
        workers_return: Duration::from_secs(90),
        fault_every: Duration::from_secs(15),
        faults: &[(Fault::KillWorker, 4), (Fault::RetireWorker, 2), (Fault::Crash, 1)],
        ..CALM
    },
    Profile {
        name: "everything",
        workers: 3,
        length: Duration::from_secs(120),
        fault_every: Duration::from_secs(3),
        faults: &[
            (Fault::Crash, 4),
            (Fault::Takeover, 2),
            (Fault::Stall, 1),
            (Fault::StoreAway, 1),
            (Fault::AnswerLost, 1),
            (Fault::AnswerUncertain, 1),
            (Fault::KillWorker, 2),
            (Fault::PauseWorker, 2),
            (Fault::RetireWorker, 1),
            (Fault::BreakConnection, 2),
            (Fault::HalfOpen, 1),
            (Fault::ClockForward, 1),
            (Fault::ClockBack, 1),
        ],
        lost: 20,
        repeated: 20,
        late: 40,
        replies_lost: 100,
        store_takes: Duration::from_millis(100),
        ..CALM
    },
];
