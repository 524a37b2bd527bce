//! How much anybody may make us keep, and how long they may take.

use std::time::Duration;

/// Limits of one node. The defaults serve two thousand workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Longest frame that is read or sent, in bytes. Default 4 MiB; workers themselves write no more than 256 KiB.
    pub frame: usize,
    /// Connections at once; a worker has two. Default 4,096.
    pub connections: usize,
    /// The same from one IP address. Default 1,024: many workers may be behind one.
    pub connections_per_peer: usize,
    /// Bytes that were received and not worked off yet, those of unfinished frames included. Default 64 MiB.
    pub held: usize,
    /// The same from one IP address. Default 16 MiB.
    pub held_per_peer: usize,
    /// Messages that wait to be taken from the node; then connections are not read. Default 256.
    pub inbox: usize,
    /// Workers that we talk to. Default 4,096.
    pub associations: usize,
    /// Messages that wait to be sent to one worker. Default 256.
    pub queue: usize,
    /// The same in bytes. Default 8 MiB.
    pub queue_bytes: usize,
    /// Questions that wait for an answer. Default 4,096.
    pub asks: usize,
    /// From a connection's first moment to its first frame. Default 20 s, as long as a worker tries.
    pub first_frame: Duration,
    /// From a frame's first byte to its last. Default 30 s.
    pub whole_frame: Duration,
    /// For a connection to a worker. Default 3 s.
    pub connect: Duration,
    /// For a worker to answer who it is, where something is for one process of it. Default 5 s.
    pub introduce: Duration,
    /// For a worker to take what we write. Default 10 s.
    pub write: Duration,
    /// Before a worker that could not be reached is dialled again; doubles up to [`Limits::backoff_max`]. Default 1 s.
    pub backoff: Duration,
    /// See [`Limits::backoff`]. Default 5 s.
    pub backoff_max: Duration,
    /// Who says nothing and is told nothing for so long is forgotten. Default 10 min; workers send heartbeats every 15 s.
    pub idle: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            frame: 4 << 20,
            connections: 4096,
            connections_per_peer: 1024,
            held: 64 << 20,
            held_per_peer: 16 << 20,
            inbox: 256,
            associations: 4096,
            queue: 256,
            queue_bytes: 8 << 20,
            asks: 4096,
            first_frame: Duration::from_secs(20),
            whole_frame: Duration::from_secs(30),
            connect: Duration::from_secs(3),
            introduce: Duration::from_secs(5),
            write: Duration::from_secs(10),
            backoff: Duration::from_secs(1),
            backoff_max: Duration::from_secs(5),
            idle: Duration::from_secs(600),
        }
    }
}

/// A limit under which nothing would work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LimitsError {
    /// Zero.
    #[error("no limit can be 0")]
    Zero,
    /// A worker's longest frame has to pass.
    #[error("frame is at least 262144, queue_bytes and held_per_peer at least frame, and held at least held_per_peer")]
    Frame,
}

/// What a Java worker may send in one frame.
const WORKERS_FRAME: usize = 256 << 10;

impl Limits {
    /// Whether they can be met.
    ///
    /// # Errors
    /// They cannot.
    pub fn check(&self) -> Result<(), LimitsError> {
        let counts =
            [self.connections, self.connections_per_peer, self.inbox, self.associations, self.queue, self.asks];
        let times =
            [self.first_frame, self.whole_frame, self.connect, self.introduce, self.write, self.backoff, self.idle];
        if counts.contains(&0) || times.contains(&Duration::ZERO) {
            return Err(LimitsError::Zero);
        }
        let order = [WORKERS_FRAME, self.frame, self.held_per_peer, self.held];
        if order.is_sorted() && self.queue_bytes >= self.frame { Ok(()) } else { Err(LimitsError::Frame) }
    }
}
