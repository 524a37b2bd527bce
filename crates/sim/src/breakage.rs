//! Laws that can be broken on purpose, to see that somebody notices.

use pendula_model::change::Change;
use pendula_model::instance::{InstanceState, Reason, TaskState};
use pendula_model::task::Task;

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
    /// A task that is bound to a worker is sent to another one when it is tried again.
    TargetsMove,
    /// Sub-tasks that were emitted before are taken for new ones.
    MapsTakenAgain,
    /// One task is counted as something else than what it is.
    CountsOff,
    /// The store forgets that tasks ended.
    TaskEndsLost,
    /// Of each page of waiting tasks the last is not read.
    TasksUnread,
    /// The first page of waiting tasks is said to be all of them.
    PagesEndEarly,
    /// Sub-tasks leave for workers without their input.
    InputsForgotten,
    /// Shards are told another's index.
    ShardsMixedUp,
    /// Workers claim one slot more than they have.
    SlotsOverstated,
    /// Instances of which too many tasks failed end as succeeded.
    PolicyIgnored,
    /// The list of a broadcast's targets is written anew.
    TargetsRedrawn,
    /// A task that ended is written once more, as waiting.
    EndedTasksWritten,
    /// The store writes the epoch of a claim whatever it was meanwhile, so that two servers get the same.
    ClaimBlind,
    /// The store does not look whether the owner has a lease before it gives its partition to another.
    ClaimFromTheLiving,
    /// The store does not compare the epoch that a claim has seen. (Who else could own it does decide.)
    SeenUnchecked,
    /// A server counts its lease from the store's answer, and all of it.
    LeaseCountedLate,
    /// A server does not look at its lease at all, nor at who owns what: only a refused commit stops it. No law but that
    /// of leases themselves may depend on this.
    LeaseUnchecked,
    /// What was decided without a change leaves without asking the store whether the partition is still ours: the lease
    /// must do.
    MemoryUnproved,
    /// And the lease is not looked at either.
    MemoryUnprovedNorLease,
    /// A batch whose answer was lost is sent again without its number.
    CommitUnnumbered,
    /// A server reads a partition before it claims it.
    LoadBeforeClaim,
    /// An instance that is being stopped is written as running when its owner changes.
    StopsForgotten,
}

impl Breakage {
    /// Whether servers go on when their lease is over, until a commit is refused.
    pub(crate) fn ignores_leases(self) -> bool {
        matches!(self, Breakage::LeaseUnchecked | Breakage::MemoryUnprovedNorLease)
    }

    /// Whether what was decided without a change leaves unproved.
    pub(crate) fn proves_nothing(self) -> bool {
        matches!(self, Breakage::MemoryUnproved | Breakage::MemoryUnprovedNorLease)
    }

    /// What some of them do to decisions on their way to the store.
    pub(crate) fn spoil(self, changes: &mut Vec<Change>) {
        let spoiled = |change: &mut Change| match (self, change) {
            (Breakage::CountsOff, Change::FanoutUpdated(fanout)) if fanout.counts.waiting > 0 => {
                fanout.counts.waiting -= 1;
                fanout.counts.running += 1;
            }
            (Breakage::TargetsRedrawn, Change::FanoutUpdated(fanout)) if fanout.targets.is_some() => {
                fanout.targets = Some("{}".into());
            }
            (Breakage::PolicyIgnored, Change::InstanceEnded { instance, .. })
                if instance.reason == Some(Reason::TASKS_FAILED) =>
            {
                (instance.state, instance.reason) = (InstanceState::Succeeded, None);
            }
            _ => {}
        };
        changes.iter_mut().for_each(spoiled);
        if self == Breakage::EndedTasksWritten {
            let again = changes.iter().filter_map(|change| match change {
                Change::TaskUpdated(row) if row.state.is_ended() => Some(Change::TaskUpdated(Box::new(Task {
                    state: TaskState::Waiting,
                    version: row.version + 1,
                    ended_at: None,
                    worker: None,
                    result: None,
                    ..(**row).clone()
                }))),
                _ => None,
            });
            let again: Vec<_> = again.collect();
            changes.extend(again);
        }
    }
}
