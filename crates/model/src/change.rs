//! Decisions as data: what a partition wants written.
//!
//! The engine emits changes, the store writes all of a batch or none. Each change names what it expects to find, so a
//! stale or repeated one is refused by the database and never half applied.

use crate::app::App;
use crate::id::{AppId, InstanceId, JobId};
use crate::instance::{Instance, PastAttempt};
use crate::job::{Job, ScheduleState};
use crate::task::{Fanout, Task};
use crate::time::Timestamp;

/// One row's worth of intent.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// A new app; its name must be free.
    AppInserted(App),
    /// An edited app; expects `version - 1`.
    AppUpdated(App),
    /// Gone with its tokens; expects that it has no jobs left.
    AppDeleted(AppId),

    /// A new job (its first revision is kept too); its name must be free within the app.
    JobInserted(Job),
    /// A new definition and schedule; expects `version - 1`. Keeps the revision when it is new.
    JobUpdated(Job),
    /// The name becomes free; the row stays, marked deleted, while history refers to it. Expects `version`.
    JobDeleted { id: JobId, version: u64, at: Timestamp },
    /// The trigger moved on; expects `expected_next` as the next fire time, and does not touch the definition.
    ScheduleAdvanced { job: JobId, expected_next: Option<Timestamp>, schedule: ScheduleState },
    /// Fire times that made no instance.
    GapRecorded { job: JobId, gap: Gap },

    /// A new instance; `(job, fire_time)` and `(app, idempotency_key)` must be new. It may be ended already
    /// (`prune_at` is set then).
    InstanceInserted { instance: Box<Instance>, prune_at: Option<Timestamp> },
    /// An instance that is still under way; expects `version - 1` and that it has not ended.
    InstanceUpdated(Box<Instance>),
    /// An instance that ended, to be forgotten at `prune_at`; expects `version - 1` and that it had not ended.
    InstanceEnded { instance: Box<Instance>, prune_at: Timestamp },
    /// An active instance whose row or definition cannot be read: it ends as `failed` with reason `quarantined` and `why`
    /// as its message, whatever its version; what else cannot be read of it is cleared. Expects only that it has not
    /// ended.
    InstanceQuarantined { id: InstanceId, at: Timestamp, why: String, prune_at: Timestamp },
    /// A try that is followed by another; new.
    AttemptEnded(PastAttempt),

    /// An instance became tasks; new, and the instance has not ended.
    FanoutInserted(Fanout),
    /// Counts and phase moved; expects `version - 1`.
    FanoutUpdated(Fanout),
    /// New tasks of one instance, in order of id, none of them ended. Their ids are new.
    TasksInserted(Vec<Task>),
    /// The tasks of `from` that did not succeed, again for `to`: with their ids, names, inputs and targets, waiting, due
    /// `at`, as if never tried, but for how many sub-tasks they emitted: those are there already. `count` of them, or the
    /// change is refused.
    TasksCopied { from: InstanceId, to: InstanceId, at: Timestamp, count: u64 },
    /// A task moved; expects `version - 1`. Does not touch what was given with it (role, parent, name, input), nor
    /// `target` unless it was bound to another process of the same worker. It may have ended before only if it has
    /// not ended now, which is a user's retry.
    TaskUpdated(Box<Task>),
}

/// A stretch of fire times that were not served.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Gap {
    /// The first and the last of them.
    pub from: Timestamp,
    pub to: Timestamp,
    pub count: u64,
    pub noticed_at: Timestamp,
}
