//! What goes wrong, and how often: the mixes that histories are made with.

use std::time::Duration;

/// Something that goes wrong once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A server dies at one of its next steps: before or after a commit, between two effects, while it takes over.
    Crash,
    /// A server stands still at one of its next steps, as by SIGSTOP and, up to a minute later, SIGCONT.
    Stall,
    /// The same, and its monotonic clock stands still too, as that of a machine that is moved to another host.
    Suspend,
    /// Something happens to the next server that reaches a certain point of a takeover.
    Ambush,
    /// A server is asked to shut down: it hands over what it has, leaves, and comes back as another process.
    Restart,
    /// A partition moves to another server, as when they are balanced.
    HandOver,
    /// The store refuses for some seconds.
    StoreAway,
    /// The next thing that the store does for a server is done, but its answer is lost. A server that has the store to
    /// itself drops everything and starts again.
    AnswerLost,
    /// The next commit is done, but the store says that it is away, so that it is tried again. (Of several servers, the
    /// same as [`Fault::AnswerLost`].)
    AnswerUncertain,
    /// A server reaches the store slowly for a while.
    Slow,
    /// A server does not reach the store, or workers and users do not reach it, or the other servers do not.
    CutFromStore,
    CutFromWorkers,
    CutFromPeers,
    KillWorker,
    /// As by SIGSTOP and, later, SIGCONT.
    PauseWorker,
    /// The worker's operator asks it to shut down.
    RetireWorker,
    /// A connection breaks; both sides notice.
    BreakConnection,
    /// A connection swallows everything; both sides must find out by themselves.
    HalfOpen,
    /// A server's wall clock jumps.
    ClockForward,
    ClockBack,
    /// The store's clock jumps, by which leases run.
    StoreClock,
    /// The server is away for minutes, or for days.
    Outage,
}

/// What happens to a server at a certain step or point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Misfortune {
    Crash,
    /// It stands still for so long.
    Stall(Duration),
    /// The same, with its monotonic clock.
    Suspend(Duration),
    /// It does not hear what the store answers next.
    Deaf,
}

/// A write to the store on the way of a partition from one server to another; and, as that is a step too, the read
/// between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    Join,
    Renew,
    Claim,
    Load,
    /// The first commit under an epoch.
    FirstCommit,
    Commit,
    Release,
    Leave,
}

impl Point {
    /// All of them.
    pub const ALL: [Point; 8] = {
        use Point::*;
        [Join, Renew, Claim, Load, FirstCommit, Commit, Release, Leave]
    };
}

/// What happens to the server for which the store has just done the `nth` (from 1) of something: before it hears of it, or
/// before the step that comes so many steps later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FailPoint {
    pub point: Point,
    pub nth: u32,
    pub what: Misfortune,
    pub steps: Option<u32>,
}

/// Why a partition moves to another server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Move {
    /// Its server dies, or stands still for this long.
    Crash,
    Stall(Duration),
    /// Its server is asked to shut down.
    Restart,
    /// It is handed over.
    HandOver,
}

/// A mix.
#[derive(Clone, Debug)]
pub struct Profile {
    pub name: &'static str,
    /// How long things happen before all is repaired.
    pub length: Duration,
    /// One alone has the store to itself and needs no lease.
    pub servers: usize,
    /// Each has one app.
    pub partitions: u16,
    /// By how much the wall clocks of servers are wrong, at most.
    pub skew: Duration,
    /// Of each app.
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
    servers: 1,
    partitions: 1,
    skew: Duration::ZERO,
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

/// Several servers between which the partition moves in good order.
const CLUSTER: Profile = Profile {
    name: "rolling",
    servers: 3,
    fault_every: Duration::from_secs(7),
    faults: &[(Fault::Restart, 3), (Fault::HandOver, 4)],
    replies_lost: 50,
    store_takes: Duration::from_millis(40),
    ..CALM
};

/// Every mix; seeds take them in turn. Half of them have several servers.
pub const PROFILES: [Profile; 22] = [
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
            (Fault::Stall, 2),
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
    CLUSTER,
    Profile {
        name: "takeovers",
        fault_every: Duration::from_secs(6),
        faults: &[(Fault::Crash, 6), (Fault::Ambush, 4), (Fault::Restart, 1), (Fault::AnswerLost, 2)],
        ..CLUSTER
    },
    Profile {
        name: "stalls",
        length: Duration::from_secs(90),
        faults: &[(Fault::Stall, 6), (Fault::Ambush, 2), (Fault::HandOver, 1)],
        store_takes: Duration::from_millis(200),
        ..CLUSTER
    },
    Profile {
        name: "suspended",
        servers: 2,
        length: Duration::from_secs(90),
        faults: &[(Fault::Suspend, 5), (Fault::Crash, 1), (Fault::BreakConnection, 3), (Fault::KillWorker, 1)],
        store_takes: Duration::from_millis(100),
        ..CLUSTER
    },
    Profile {
        name: "cuts",
        fault_every: Duration::from_secs(5),
        faults: &[
            (Fault::CutFromStore, 4),
            (Fault::CutFromWorkers, 3),
            (Fault::CutFromPeers, 2),
            (Fault::StoreAway, 1),
            (Fault::BreakConnection, 1),
        ],
        ..CLUSTER
    },
    Profile {
        name: "slow",
        fault_every: Duration::from_secs(4),
        faults: &[(Fault::Slow, 5), (Fault::AnswerLost, 4), (Fault::StoreAway, 1), (Fault::Ambush, 2)],
        store_takes: Duration::from_millis(800),
        ..CLUSTER
    },
    Profile {
        name: "skewed",
        skew: Duration::from_secs(300),
        fault_every: Duration::from_secs(6),
        faults: &[
            (Fault::Crash, 3),
            (Fault::HandOver, 2),
            (Fault::Stall, 2),
            (Fault::ClockForward, 1),
            (Fault::ClockBack, 1),
            (Fault::StoreClock, 1),
        ],
        triggered: 800,
        ..CLUSTER
    },
    Profile {
        name: "spread",
        partitions: 3,
        workers: 1,
        request_every: Duration::from_millis(500),
        faults: &[(Fault::Crash, 3), (Fault::Restart, 2), (Fault::HandOver, 2), (Fault::Stall, 1)],
        ..CLUSTER
    },
    Profile {
        name: "laboured",
        workers: 3,
        slots: (1, 6),
        workers_return: Duration::from_secs(8),
        fault_every: Duration::from_secs(3),
        faults: &[
            (Fault::Crash, 3),
            (Fault::Stall, 2),
            (Fault::HandOver, 1),
            (Fault::KillWorker, 3),
            (Fault::PauseWorker, 2),
            (Fault::BreakConnection, 2),
            (Fault::HalfOpen, 1),
        ],
        triggered: 200,
        tasks: 900,
        ..CLUSTER
    },
    Profile {
        name: "noise",
        fault_every: Duration::from_secs(6),
        faults: &[(Fault::Crash, 3), (Fault::HandOver, 2), (Fault::BreakConnection, 2), (Fault::HalfOpen, 1)],
        lost: 40,
        repeated: 40,
        late: 60,
        replies_lost: 150,
        ..CLUSTER
    },
    Profile {
        name: "storm",
        partitions: 2,
        length: Duration::from_secs(90),
        skew: Duration::from_secs(120),
        fault_every: Duration::from_secs(3),
        faults: &[
            (Fault::Crash, 4),
            (Fault::Stall, 3),
            (Fault::Suspend, 1),
            (Fault::Ambush, 3),
            (Fault::Restart, 2),
            (Fault::HandOver, 2),
            (Fault::StoreAway, 1),
            (Fault::AnswerLost, 2),
            (Fault::Slow, 1),
            (Fault::CutFromStore, 1),
            (Fault::CutFromWorkers, 1),
            (Fault::CutFromPeers, 1),
            (Fault::KillWorker, 2),
            (Fault::PauseWorker, 1),
            (Fault::RetireWorker, 1),
            (Fault::BreakConnection, 2),
            (Fault::HalfOpen, 1),
            (Fault::ClockForward, 1),
            (Fault::ClockBack, 1),
            (Fault::StoreClock, 1),
        ],
        lost: 20,
        repeated: 20,
        late: 40,
        replies_lost: 100,
        store_takes: Duration::from_millis(100),
        ..CLUSTER
    },
];

impl Profile {
    /// Whether its servers share the store, and so need leases.
    pub(crate) fn is_cluster(&self) -> bool {
        self.servers > 1
    }

    pub(crate) fn may(&self, fault: Fault) -> bool {
        self.faults.iter().any(|(other, _)| *other == fault)
    }
}
