//! Laws that can be broken on purpose, to see that somebody notices.

/// One way in which the shell, the store or a worker does not keep its promises. The engine stays as it is; how its own
/// laws were broken by hand is told in the crate's README.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Breakage {
    /// Work leaves for workers before its commit.
    DispatchBeforeCommit,
    /// Callers are answered before the commit.
    ReplyBeforeCommit,
    /// Workers are told that the end of an attempt is on disk before it is.
    AckBeforeCommit,
    /// An owner that was fenced goes on as if its commit had been accepted.
    FencedIgnored,
    /// The store does not compare epochs.
    EpochUnchecked,
    /// The insert of an instance and the advance of its trigger are two transactions, and fires are not unique.
    FireInTwoSteps,
    /// The store does not keep idempotency keys.
    KeysForgotten,
    /// The store says that it wrote what it did not write.
    WritesLost,
    /// The store takes any write to any row.
    EndedRowsWritten,
    /// Workers start whatever they are sent, however often.
    WorkerAdmitsAll,
    /// Workers do not tell what they run when they connect again.
    WorkerForgetsRunning,
    /// Some of the schedules that the engine asks for are not read.
    SchedulesUnread,
    /// Silence of a worker is not noticed.
    SilenceUnnoticed,
    /// The engine is not told that the clock jumped ahead.
    ClockJumpsUntold,
    /// What needs no commit is performed before the effects of the commit that has just returned.
    EffectsOutOfOrder,
}
