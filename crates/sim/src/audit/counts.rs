//! How much happened.

use pendula_model::mode::ExecutionMode;

macro_rules! counts {
    ($($(#[$doc:meta])* $field:ident,)+) => {
        /// How much happened, to see that histories are worth having.
        #[derive(Clone, Copy, Debug, Default)]
        pub struct Counts {
            $($(#[$doc])* pub $field: u64,)+
        }

        impl Counts {
            /// Adds those of another history.
            pub fn add(&mut self, other: &Counts) {
                $(self.$field += other.$field;)+
            }
        }
    };
}

counts! {
    commits,
    instances,
    fires,
    missed,
    starts,
    written_off,
    restores,
    /// Owners that died before a step of theirs.
    crashes,
    fenced,
    /// Times that a server stood still, that one let go of everything because its lease was over, that one was hit at a
    /// fail-point, that a partition was handed over.
    stalls,
    lapses,
    ambushes,
    hand_overs,
    /// Stops by users that were not carried out yet when a new owner began, and results that waited for it.
    stops_taken_over,
    retold,
    /// Answers to users that they should try again.
    put_off,
    /// Batches that came to the store once more.
    repeated,
    /// Effects that were performed when the store had a newer epoch already: decided and committed before, and late.
    late_effects,
    /// Instances with many tasks that began.
    broadcasts,
    sharded,
    /// With a reduce or without.
    maps,
    /// Of those, repetitions of what did not succeed before.
    reruns,
    sub_tasks,
    /// Times that users had a task tried again.
    tasks_retried,
    /// Targets that ended as lost.
    lost_targets,
    /// Targets that went over to the next process of their worker.
    rebound,
    /// Handlers that began to read all results.
    results_read,
    /// Pages of waiting tasks that were read.
    pages,
}

impl Counts {
    /// An instance with many tasks began.
    pub(super) fn begun(&mut self, mode: &ExecutionMode) {
        match mode {
            ExecutionMode::Standalone => {}
            ExecutionMode::Broadcast(_) => self.broadcasts += 1,
            ExecutionMode::Sharded(_) => self.sharded += 1,
            ExecutionMode::Map(_) | ExecutionMode::MapReduce(_) => self.maps += 1,
        }
    }
}
