//! What happened, in numbers.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Why something from outside was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Refused {
    /// A connection: the gate said no, or there are too many.
    Connection,
    /// A connection that did not speak Artery or was too slow.
    Broken,
    /// A frame that was too long or for which there was no room.
    TooLarge,
    /// A handshake: the gate said no, it was for somebody else, or there are too many workers.
    Handshake,
    /// A message from somebody who had not said who it is.
    Stranger,
    /// A message for an actor that is not here, or of a kind that PowerJob does not send.
    Unknown,
    /// An answer that nobody waits for any more.
    LateAnswer,
}

impl Refused {
    /// All of them, for who shows them.
    pub const ALL: [Refused; 7] = [
        Refused::Connection,
        Refused::Broken,
        Refused::TooLarge,
        Refused::Handshake,
        Refused::Stranger,
        Refused::Unknown,
        Refused::LateAnswer,
    ];

    /// The same in one word or two, for metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Refused::Connection => "connection",
            Refused::Broken => "broken",
            Refused::TooLarge => "too_large",
            Refused::Handshake => "handshake",
            Refused::Stranger => "stranger",
            Refused::Unknown => "unknown",
            Refused::LateAnswer => "late_answer",
        }
    }
}

/// Counters since the start; they only grow.
#[derive(Debug, Default)]
pub struct Counters {
    refused: [AtomicU64; Refused::ALL.len()],
    received: AtomicU64,
    sent: AtomicU64,
    dialled: AtomicU64,
}

impl Counters {
    /// How often something was refused.
    pub fn refused(&self, why: Refused) -> u64 {
        self.refused[why as usize].load(Relaxed)
    }

    /// Frames that were read.
    pub fn received(&self) -> u64 {
        self.received.load(Relaxed)
    }

    /// Messages that were written, handshakes not counted.
    pub fn sent(&self) -> u64 {
        self.sent.load(Relaxed)
    }

    /// Connections that were made to workers.
    pub fn dialled(&self) -> u64 {
        self.dialled.load(Relaxed)
    }

    pub(super) fn add_refused(&self, why: Refused) {
        self.refused[why as usize].fetch_add(1, Relaxed);
    }

    pub(super) fn add_received(&self) {
        self.received.fetch_add(1, Relaxed);
    }

    pub(super) fn add_sent(&self, count: usize) {
        self.sent.fetch_add(count as u64, Relaxed);
    }

    pub(super) fn add_dialled(&self) {
        self.dialled.fetch_add(1, Relaxed);
    }
}
