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
